"""What the kernel's tests share: fresh stores of every kind, and child processes that can be killed."""

from __future__ import annotations

import sqlite3
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from buttress.kernel import failpoint
from buttress.kernel.store.sqlite import SqliteStore


@pytest.fixture(autouse=True)
def _disarmed() -> Iterator[None]:
    """No test leaves a failpoint armed behind."""
    yield
    failpoint.arm(None)


# -- stores


class SqliteStores:
    """Fresh SQLite stores in a folder, all closed at the end."""

    name = "sqlite"

    def __init__(self, folder):
        self.folder = folder
        self._closing = ExitStack()
        self._count = 0

    def fresh(self, clock=None, **options):
        self._count += 1
        return self.open(str(self.folder / f"{self._count}.db"), clock, **options)

    def open(self, path, clock=None, **options):
        store = SqliteStore(path, clock=clock, **options)
        self._closing.callback(store.close)
        return store

    def address(self, store):
        """What ``open`` takes to reach the same state."""
        return store.path

    def reopen(self, store, clock=None):
        store.close()
        return self.open(store.path, clock)

    @contextmanager
    def foreign(self, store):
        connection = sqlite3.connect(store.path, isolation_level=None)
        try:
            connection.execute("BEGIN IMMEDIATE")
            with connection:
                yield connection
        finally:
            connection.close()

    def close(self):
        self._closing.close()


class PostgresStores:
    """Fresh Postgres stores, each in a schema of its own, all closed at the end."""

    name = "postgres"

    def __init__(self, url):
        self.url = url
        self._closing = ExitStack()
        self._dsns = {}

    def dsn(self):
        """An empty schema."""
        import psycopg

        schema = f"s{uuid.uuid4().hex[:12]}"
        with psycopg.connect(self.url, autocommit=True) as server:
            server.execute(f"CREATE SCHEMA {schema}")
        return psycopg.conninfo.make_conninfo(self.url, options=f"-c search_path={schema}")

    def fresh(self, clock=None, **options):
        return self.open(self.dsn(), clock, **options)

    def open(self, dsn, clock=None, *, create=True, **options):
        from buttress.kernel.store.postgres import PostgresStore

        store = PostgresStore(dsn, clock=clock, create=create, **options)
        self._closing.callback(store.close)
        self._dsns[id(store)] = (dsn, store)
        return store

    def address(self, store):
        """What ``open`` takes to reach the same state."""
        return self._dsns[id(store)][0]

    def reopen(self, store, clock=None):
        store.close()
        return self.open(self.address(store), clock)

    @contextmanager
    def foreign(self, store):
        import psycopg

        with psycopg.connect(self.address(store)) as connection:
            yield connection

    def close(self):
        self._closing.close()


@pytest.fixture
def sqlite_stores(tmp_path) -> Iterator[SqliteStores]:
    stores = SqliteStores(tmp_path)
    yield stores
    stores.close()


@pytest.fixture
def postgres_stores(postgres_url) -> Iterator[PostgresStores]:
    stores = PostgresStores(postgres_url)
    yield stores
    stores.close()


@pytest.fixture
def stores(request):
    """The stores that the parameter names: each test is written once for all engines."""
    return request.getfixturevalue(f"{request.param}_stores")


# -- processes
