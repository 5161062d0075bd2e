"""What the kernel's tests share: fresh stores of every kind, and child processes that can be killed."""

from __future__ import annotations

import json
import os
import select
import signal
import sqlite3
import threading
import time
import traceback
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import pytest

from buttress.kernel import failpoint
from buttress.kernel.store.sqlite import SqliteStore

WAIT_S = 20.0


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


class Child:
    """A process forked off a test. It tells what it has to say as JSON lines; every wait has a timeout."""

    def __init__(self, pid, said):
        self.pid = pid
        self._said = said
        self._buffer = b""
        self.status = None

    def says(self, timeout_s=WAIT_S):
        """The next line, decoded; None when the child ended without another one."""
        deadline = time.monotonic() + timeout_s
        while b"\n" not in self._buffer:
            ready, _, _ = select.select([self._said], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                self.kill()
                raise AssertionError(f"the child said nothing for {timeout_s} s")
            chunk = os.read(self._said, 65_536)
            if not chunk:
                return None
            self._buffer += chunk
        line, self._buffer = self._buffer.split(b"\n", 1)
        said = json.loads(line)
        if isinstance(said, dict) and "traceback" in said:
            raise AssertionError(f"the child failed:\n{said['traceback']}")
        return said

    def ends(self, timeout_s=WAIT_S):
        """Its exit status: 0 and above as it left, below 0 the signal that ended it."""
        if self.status is None:
            self.status = os.waitstatus_to_exitcode(self._wait(0, timeout_s))
        return self.status

    def stops(self, timeout_s=WAIT_S):
        """Waits until a SIGSTOP took hold."""
        status = self._wait(os.WUNTRACED, timeout_s)
        assert os.WIFSTOPPED(status), f"the child ended ({os.waitstatus_to_exitcode(status)}) instead of stopping"

    def alive(self):
        """True until it ended. Does not wait."""
        if self.status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.status = os.waitstatus_to_exitcode(status)
        return self.status is None

    def resume(self):
        os.kill(self.pid, signal.SIGCONT)

    def kill(self):
        if self.status is None:
            os.kill(self.pid, signal.SIGKILL)
            self.ends()

    def _wait(self, options, timeout_s):
        late = threading.Timer(timeout_s, os.kill, (self.pid, signal.SIGKILL))
        late.start()
        try:
            return os.waitpid(self.pid, options)[1]
        finally:
            late.cancel()
            late.join()

    def close(self):
        self.kill()
        os.close(self._said)


@pytest.fixture
def fork() -> Iterator[Callable[..., Child]]:
    """``fork(work)`` runs ``work(tell, fd)`` in a child: ``tell(value)`` sends a line, ``fd`` takes a failpoint's mark."""
    children = []

    def run(work) -> Child:
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                os.close(reader)
                signal.signal(signal.SIGALRM, signal.SIG_DFL)  # the test runner's own handler has no business here

                def tell(value):
                    os.write(writer, json.dumps(value).encode() + b"\n")

                try:
                    work(tell, writer)
                    code = 0
                except BaseException:
                    tell({"traceback": traceback.format_exc()[-3000:]})
            finally:
                os._exit(code)
        os.close(writer)
        child = Child(pid, reader)
        children.append(child)
        return child

    yield run
    for child in children:
        child.close()
