"""SQLite: WAL, synchronous=FULL, one writer at a time, group commit.

A commit returns after the WAL was synced (https://sqlite.org/pragma.html#pragma_synchronous): what it acknowledges
survives a power cut. Writers of one process take turns on a lock, writers of several on SQLite's own with a busy timeout.
"""

from __future__ import annotations

import os
import queue
import sqlite3
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, wait
from contextlib import contextmanager
from typing import Any, TypeVar

from buttress.kernel.clock import Clock, SystemClock
from buttress.kernel.errors import ButtressError, InvalidInput, RolledBack, Unavailable
from buttress.kernel.failpoint import failpoint
from buttress.kernel.store import SCHEMA_TABLE, TYPES, Dialect, Row, Schema, Tx, check_statement

T = TypeVar("T")
BATCH_MAX = 256
SQLITE_VERSION = sqlite3.sqlite_version


class SqliteTx:
    """A transaction on one SQLite connection. Rows are tuples, whatever the connection's owner set."""

    dialect: Dialect = "sqlite"

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection

    def _run(self, sql: str, params: Sequence[Any]) -> sqlite3.Cursor:
        check_statement(sql)
        cursor = self.connection.cursor()
        cursor.row_factory = None
        return cursor.execute(sql, params)

    def execute(self, sql: str, params: Sequence[Any] = ()) -> int:
        return self._run(sql, params).rowcount

    def one(self, sql: str, params: Sequence[Any] = ()) -> Row | None:
        row: Row | None = self._run(sql, params).fetchone()
        return row

    def all(self, sql: str, params: Sequence[Any] = ()) -> list[Row]:
        return self._run(sql, params).fetchall()


class _Handle:
    """One thread's connection. When the thread ends, so does this, and the connection is closed."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection
        self.close = weakref.finalize(self, _close, connection, os.getpid())


_INHERITED: list[sqlite3.Connection] = []  # a forked child must neither close its parent's connections nor let them be collected


def _close(connection: sqlite3.Connection, pid: int) -> None:
    if os.getpid() == pid:
        connection.close()
    else:
        _INHERITED.append(connection)


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
        self._write_lock = threading.Lock()
        self._state_lock = threading.Lock()
        self._local = threading.local()
        self._handles: weakref.WeakSet[_Handle] = weakref.WeakSet()
        self._writer: _Writer | None = None
        self._pid = os.getpid()
        self._closed = False

    # -- connections

    def _check_usable(self) -> None:
        if os.getpid() != self._pid:
            raise ButtressError("this store was opened before a fork", fix="open the store in the process that uses it")
        if self._closed:
            raise Unavailable(f"the store {os.path.basename(self.path)} is closed")

    def _connection(self) -> sqlite3.Connection:
        self._check_usable()
        handle: _Handle | None = getattr(self._local, "handle", None)
        if handle is None:
            try:
                connection = sqlite3.connect(self.path, timeout=self.busy_timeout_s, isolation_level=None,
                                             check_same_thread=False, cached_statements=256)
                connection.execute(f"PRAGMA busy_timeout={int(self.busy_timeout_s * 1000)}")
                self._to_wal(connection)
                connection.execute("PRAGMA synchronous=FULL")
                connection.execute("PRAGMA foreign_keys=ON")
            except sqlite3.Error as error:
                raise _unavailable(error) from error
            self._local.handle = handle = _Handle(connection)
            with self._state_lock:
                self._handles.add(handle)
        return handle.connection

    def _to_wal(self, connection: sqlite3.Connection) -> None:
        """The switch does not call SQLite's busy handler: where another opener is at work it is tried again until the timeout."""
        deadline = time.monotonic() + self.busy_timeout_s
        while True:
            try:
                if connection.execute("PRAGMA journal_mode").fetchone()[0] == "wal":
                    return
                connection.execute("PRAGMA journal_mode=WAL")
                return
            except sqlite3.OperationalError as error:
                if not _is(error, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED) or time.monotonic() > deadline:
                    raise
                time.sleep(0.002)

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
        if not self._write_lock.acquire(timeout=self.busy_timeout_s):
            raise Unavailable("the store is busy: another thread holds the write lock", fix="try again")
        try:
            _begin(connection)
            tx = SqliteTx(connection)
            self._local.tx = tx
            try:
                yield tx
                failpoint("store.commit")
                connection.execute("COMMIT")
            except BaseException as error:
                if not _rollback(connection):  # whoever worked in it closed it: the next transaction opens another one
                    self._local.handle = None
                if isinstance(error, sqlite3.OperationalError) and _is(error, *PASSING):
                    raise _unavailable(error) from error
                raise
            finally:
                self._local.tx = None
        finally:
            self._write_lock.release()
        failpoint("store.committed")

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
        with self._state_lock:
            self._check_usable()
            if self._writer is None:
                self._writer = _Writer(self)
            writer = self._writer
        return writer.submit(work)

    def close(self) -> None:
        with self._state_lock:
            was_closed, self._closed = self._closed, True
            writer = self._writer
        if was_closed or os.getpid() != self._pid:
            return
        if writer is not None:
            writer.stop()
        with self._state_lock:
            handles = list(self._handles)
        for handle in handles:
            handle.close()


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
        while not future.done():
            wait([future], timeout=0.2)
            if not future.done() and not self._thread.is_alive():  # it came while the store closed
                self._refuse_rest()
                if not future.done():
                    raise Unavailable("the store was closed")
        return future.result()

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
                        if isinstance(error, sqlite3.OperationalError) and _is(error, *PASSING):
                            raise  # SQLite may have rolled back all of it already: nobody's write is there
                        if not tx.connection.in_transaction:  # its statement said ON CONFLICT ROLLBACK, or a trigger did
                            future.set_exception(error)
                            raise RolledBack("a statement of another write rolled back this commit", fix="nothing was written; try again") from error
                        tx.execute("ROLLBACK TO item")
                        answers.append((future, None, error))
                    tx.execute("RELEASE item")
        except BaseException as error:
            for _, future in batch:
                if not future.done():
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


def _rollback(connection: sqlite3.Connection) -> bool:
    """False: the connection is closed, and its transaction is gone with it."""
    try:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
    except sqlite3.ProgrammingError:
        return False
    return True


# What may pass by itself or by an operator's hand; a broken constraint or a wrong statement never does.
PASSING = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN,
           sqlite3.SQLITE_READONLY, sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_PROTOCOL, sqlite3.SQLITE_INTERRUPT)


def _is(error: sqlite3.Error, *codes: int) -> bool:
    """By the primary result code: the low byte of the extended one."""
    return (getattr(error, "sqlite_errorcode", 0) or 0) & 0xFF in codes


def _unavailable(error: sqlite3.Error) -> Unavailable:
    name = getattr(error, "sqlite_errorname", None) or type(error).__name__
    return Unavailable(f"SQLite: {name}", fix="nothing was written; try again")
