"""SQLite: WAL, synchronous=FULL, one writer at a time, group commit.

A commit returns after the WAL was synced (https://sqlite.org/pragma.html#pragma_synchronous): what it acknowledges
survives a power cut. Writers of one process take turns on a lock, writers of several on SQLite's own with a busy timeout.
"""

from __future__ import annotations

import os
import queue
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any, TypeVar

from buttress.kernel.clock import Clock, SystemClock
from buttress.kernel.errors import ButtressError, InvalidInput, Unavailable
from buttress.kernel.failpoint import failpoint
from buttress.kernel.store import SCHEMA_TABLE, TYPES, Dialect, Row, Schema, Tx

T = TypeVar("T")
BATCH_MAX = 256
SQLITE_VERSION = sqlite3.sqlite_version


class SqliteTx:
    """A transaction on one SQLite connection."""

    dialect: Dialect = "sqlite"

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection

    def execute(self, sql: str, params: Sequence[Any] = ()) -> int:
        return self.connection.execute(sql, params).rowcount

    def one(self, sql: str, params: Sequence[Any] = ()) -> Row | None:
        row: Row | None = self.connection.execute(sql, params).fetchone()
        return row

    def all(self, sql: str, params: Sequence[Any] = ()) -> list[Row]:
        return self.connection.execute(sql, params).fetchall()


class SqliteStore:
    """A file, opened by any number of threads and processes of one machine (not over a network file system).

    ``busy_timeout_s`` bounds every wait for the write lock; then Unavailable, and nothing was written.
    """

    dialect: Dialect = "sqlite"

    def __init__(self, path: str | os.PathLike[str], *, clock: Clock | None = None, busy_timeout_s: float = 5.0) -> None:
        if busy_timeout_s <= 0:
            raise InvalidInput("busy_timeout_s", busy_timeout_s, "must be above 0")
        self.path = os.fspath(path)
        if self.path == ":memory:":
            raise InvalidInput("path", self.path, "must be a file: a store in memory keeps no promise")
        self.clock = clock or SystemClock()
        self.busy_timeout_s = busy_timeout_s
        self._lock = threading.Lock()
        self._local = threading.local()
        self._connections: list[sqlite3.Connection] = []
        self._writer: _Writer | None = None
        self._pid = os.getpid()
        self._closed = False

    # -- connections

    def _connection(self) -> sqlite3.Connection:
        if os.getpid() != self._pid:
            raise ButtressError("this store was opened before a fork", fix="open the store in the process that uses it")
        if self._closed:
            raise Unavailable(f"the store {os.path.basename(self.path)} is closed")
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            try:
                connection = sqlite3.connect(self.path, timeout=self.busy_timeout_s, isolation_level=None,
                                             check_same_thread=False, cached_statements=256)
                connection.execute(f"PRAGMA busy_timeout={int(self.busy_timeout_s * 1000)}")
                self._to_wal(connection)
                connection.execute("PRAGMA synchronous=FULL")
                connection.execute("PRAGMA foreign_keys=ON")
            except sqlite3.Error as error:
                raise _unavailable(error) from error
            self._local.connection = connection
            with self._lock_list():
                self._connections.append(connection)
        return connection

    @staticmethod
    def _to_wal(connection: sqlite3.Connection) -> None:
        """Asks before it switches: the switch wants an exclusive lock, and two first openers would collide."""
        if connection.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
            connection.execute("PRAGMA journal_mode=WAL")

    _list_lock = threading.Lock()

    def _lock_list(self) -> threading.Lock:
        return self._list_lock

    # -- the protocol

    def setup(self, *schemas: Schema) -> None:
        with self.transaction() as tx:
            tx.execute(SCHEMA_TABLE)
            for schema in schemas:
                row = tx.one("SELECT version FROM buttress_schema WHERE name = ?", (schema.name,))
                for statement in schema.pending(row[0] if row else None):
                    tx.execute(statement.format(**TYPES["sqlite"]))
                tx.execute("INSERT INTO buttress_schema (name, version) VALUES (?, ?) "
                           "ON CONFLICT (name) DO UPDATE SET version = excluded.version", (schema.name, schema.version))

    @contextmanager
    def transaction(self) -> Iterator[Tx]:
        current: SqliteTx | None = getattr(self._local, "tx", None)
        if current is not None:
            yield current
            return
        connection = self._connection()
        if not self._lock.acquire(timeout=self.busy_timeout_s):
            raise Unavailable("the store is busy: another thread holds the write lock", fix="try again")
        try:
            _begin(connection)
            tx = SqliteTx(connection)
            self._local.tx = tx
            try:
                yield tx
            except BaseException:
                _rollback(connection)
                raise
            else:
                _commit(connection)
            finally:
                self._local.tx = None
        finally:
            self._lock.release()

    @contextmanager
    def join(self, connection: Any) -> Iterator[Tx]:
        if not isinstance(connection, sqlite3.Connection):
            raise InvalidInput("connection", type(connection).__name__, "must be a sqlite3.Connection")
        if not connection.in_transaction:
            raise InvalidInput("connection", "no transaction", "must have begun a transaction that its owner commits")
        if getattr(self._local, "tx", None) is not None:
            raise ButtressError("this thread has a transaction of the store open already", fix="join outside of it")
        tx = SqliteTx(connection)
        self._local.tx = tx
        try:
            yield tx
        finally:
            self._local.tx = None

    def submit(self, work: Callable[[Tx], T]) -> T:
        if getattr(self._local, "tx", None) is not None:
            raise ButtressError("submit inside a transaction would wait for itself", fix="use the open transaction")
        with self._lock_list():
            if self._closed:
                raise Unavailable("the store is closed")
            if self._writer is None:
                self._writer = _Writer(self)
        return self._writer.submit(work)

    def close(self) -> None:
        with self._lock_list():
            writer, self._writer = self._writer, None
            connections, self._connections = self._connections, []
            was_closed, self._closed = self._closed, True
        if was_closed or os.getpid() != self._pid:
            return
        if writer is not None:
            writer.stop()
        for connection in connections:
            connection.close()


class _Writer:
    """One thread that gathers what waits, runs each in a savepoint, commits once and answers all."""

    def __init__(self, store: SqliteStore) -> None:
        self._store = store
        self._queue: queue.Queue[tuple[Callable[[Tx], Any], Future[Any]] | None] = queue.Queue(maxsize=4 * BATCH_MAX)
        self._thread = threading.Thread(target=self._run, name="buttress-writer", daemon=True)
        self._thread.start()

    def submit(self, work: Callable[[Tx], T]) -> T:
        future: Future[T] = Future()
        try:
            self._queue.put((work, future), timeout=self._store.busy_timeout_s)
        except queue.Full:
            raise Unavailable("the store is busy: its queue of writes is full", fix="try again") from None
        return future.result(timeout=None)

    def stop(self) -> None:
        self._queue.put(None)
        self._thread.join(timeout=10)

    def _run(self) -> None:
        running = True
        while running:
            batch: list[tuple[Callable[[Tx], Any], Future[Any]]] = []
            item = self._queue.get()
            while item is not None:
                batch.append(item)
                if len(batch) >= BATCH_MAX:
                    break
                try:
                    item = self._queue.get_nowait()
                except queue.Empty:
                    break
            running = item is not None
            if batch:
                self._commit(batch)
        self._refuse_rest()

    def _commit(self, batch: list[tuple[Callable[[Tx], Any], Future[Any]]]) -> None:
        answers: list[tuple[Future[Any], Any, BaseException | None]] = []
        try:
            with self._store.transaction() as tx:
                for work, future in batch:
                    tx.execute("SAVEPOINT item")
                    try:
                        answers.append((future, work(tx), None))
                    except Exception as error:
                        tx.execute("ROLLBACK TO item")
                        answers.append((future, None, error))
                    tx.execute("RELEASE item")
        except BaseException as error:
            for _, future in batch:
                future.set_exception(error)
            return
        for future, value, problem in answers:
            if problem is None:
                future.set_result(value)
            else:
                future.set_exception(problem)

    def _refuse_rest(self) -> None:
        while True:
            try:
                item = self._queue.get_nowait()
            except queue.Empty:
                return
            if item is not None:
                item[1].set_exception(Unavailable("the store was closed"))


def _begin(connection: sqlite3.Connection) -> None:
    try:
        connection.execute("BEGIN IMMEDIATE")
    except sqlite3.Error as error:
        raise _unavailable(error) from error


def _commit(connection: sqlite3.Connection) -> None:
    failpoint("store.commit")
    try:
        connection.execute("COMMIT")
    except sqlite3.Error as error:
        _rollback(connection)
        raise _unavailable(error) from error
    failpoint("store.committed")


def _rollback(connection: sqlite3.Connection) -> None:
    if connection.in_transaction:
        connection.execute("ROLLBACK")


def _unavailable(error: sqlite3.Error) -> Unavailable:
    name = getattr(error, "sqlite_errorname", None) or type(error).__name__
    return Unavailable(f"SQLite: {name}", fix="nothing was written; try again")
