"""Postgres through psycopg 3. Commits are durable by the server's own ``synchronous_commit`` (on by default).

Nothing is created unasked: ``setup`` checks that the tables are there and names the command that prints the SQL, unless
the store was opened with ``create=True`` (tests, proofs, a first look).
"""

from __future__ import annotations

import os
import re
import socket
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeVar

from buttress.kernel.clock import Clock
from buttress.kernel.errors import (
    ButtressError,
    InvalidInput,
    MissingExtra,
    RolledBack,
    SchemaMismatch,
    Unavailable,
    Uncertain,
)
from buttress.kernel.failpoint import failpoint
from buttress.kernel.store import SCHEMA_TABLE, TYPES, Dialect, Row, Schema, Tx, check_statement

if TYPE_CHECKING:
    import psycopg

T = TypeVar("T")


@lru_cache(maxsize=512)
def to_psycopg(sql: str) -> str:
    """``?`` to ``%s``. Our SQL holds no literal question mark and no per cent sign: checked here."""
    if "%" in sql:
        raise InvalidInput("sql", sql, "must not hold a per cent sign: pass it as a parameter")
    check_statement(sql)
    return re.sub(r"\?", "%s", sql)


def _driver() -> Any:
    try:
        import psycopg
    except ModuleNotFoundError as missing:
        raise MissingExtra("psycopg", "postgres") from missing
    return psycopg


class PostgresTx:
    """A transaction on one psycopg connection. Rows are tuples, whatever the connection's owner set."""

    dialect: Dialect = "postgres"

    def __init__(self, connection: psycopg.Connection[Any], watched: _Handle | None = None) -> None:
        from psycopg.rows import tuple_row

        self.connection = connection
        self._cursor = connection.cursor(row_factory=tuple_row)
        self._watched = watched

    def _run(self, sql: str, params: Sequence[Any]) -> Any:
        if self._watched is None:
            return self._cursor.execute(to_psycopg(sql), params)
        with self._watched.bounded():
            return self._cursor.execute(to_psycopg(sql), params)

    def execute(self, sql: str, params: Sequence[Any] = ()) -> int:
        count: int = self._run(sql, params).rowcount
        return count

    def one(self, sql: str, params: Sequence[Any] = ()) -> Row | None:
        row: Row | None = self._run(sql, params).fetchone()
        return row

    def all(self, sql: str, params: Sequence[Any] = ()) -> list[Row]:
        rows: list[Row] = self._run(sql, params).fetchall()
        return rows


class _Handle:
    """One thread's connection. When the thread ends, so does this, and the connection is closed.

    A server that is stopped, or a network that swallows, answers nothing: libpq would wait for ever. ``overdue`` is asked by
    the store's watch, which then cuts the connection.
    """

    def __init__(self, connection: psycopg.Connection[Any], limit_s: float) -> None:
        self.connection = connection
        self._limit_s = limit_s
        self._due: float | None = None
        self.close = weakref.finalize(self, _close, connection, os.getpid())


    @contextmanager
    def bounded(self) -> Iterator[None]:
        self._due = time.monotonic() + self._limit_s
        try:
            yield
        finally:
            self._due = None

    def cut_if_overdue(self) -> None:
        due = self._due
        if due is not None and time.monotonic() > due and not self.connection.closed:
            with suppress(OSError, ValueError), socket.socket(fileno=os.dup(self.connection.fileno())) as wire:
                wire.shutdown(socket.SHUT_RDWR)


_INHERITED: list[psycopg.Connection[Any]] = []  # a forked child must neither close its parent's connections nor let them be collected


def _close(connection: psycopg.Connection[Any], pid: int) -> None:
    if os.getpid() == pid:
        connection.close()
    else:
        _INHERITED.append(connection)


class DatabaseClock:
    """The server's time: several machines agree on it."""

    def __init__(self, store: PostgresStore) -> None:
        self._store = store

    def now(self) -> float:
        with self._store.transaction() as tx:
            row = tx.one("SELECT extract(epoch FROM clock_timestamp())::float8")
        assert row is not None
        return float(row[0])


class PostgresStore:
    """``dsn`` as psycopg takes it (a ``postgresql://`` URL or key=value). One connection a thread.

    ``clock`` None means the server's own time. ``timeout_s`` bounds waits for a connection and for locks, ``statement_s`` each
    statement, also where the server says nothing any more: then Unavailable, and the connection is given up.
    """

    dialect: Dialect = "postgres"

    def __init__(self, dsn: str, *, clock: Clock | None = None, create: bool = False, timeout_s: float = 5.0, statement_s: float = 30.0) -> None:
        if timeout_s <= 0 or statement_s <= 0:
            raise InvalidInput("timeout_s, statement_s", (timeout_s, statement_s), "must be above 0")
        self._dsn = dsn
        self._create = create
        self._timeout_s = timeout_s
        self._statement_s = statement_s
        self._watch: threading.Thread | None = None
        self.clock: Clock = clock or DatabaseClock(self)
        self._local = threading.local()
        self._handles: weakref.WeakSet[_Handle] = weakref.WeakSet()
        self._lock = threading.Lock()
        self._pid = os.getpid()
        self._closed = False

    def _connection(self) -> psycopg.Connection[Any]:
        psycopg = _driver()
        if os.getpid() != self._pid:
            raise ButtressError("this store was opened before a fork", fix="open the store in the process that uses it")
        if self._closed:
            raise Unavailable("the store is closed")
        handle: _Handle | None = getattr(self._local, "handle", None)
        if handle is None or handle.connection.closed:
            try:
                connection = psycopg.connect(self._dsn, autocommit=True, connect_timeout=max(2, int(self._timeout_s)))
                connection.execute(f"SET lock_timeout = {int(self._timeout_s * 1000)}")
                connection.execute(f"SET statement_timeout = {int(self._statement_s * 1000)}")
            except psycopg.Error as error:
                raise Unavailable(f"Postgres: {type(error).__name__}", fix="is the server up, and the DSN right?") from error
            self._local.handle = handle = _Handle(connection, self._statement_s + 1)  # the server's own limit comes first
            with self._lock:
                self._handles.add(handle)
                if self._watch is None:
                    self._watch = threading.Thread(target=_watch, args=(weakref.ref(self), min(1.0, self._statement_s / 4)), name="buttress-postgres", daemon=True)
                    self._watch.start()
        return handle.connection

    def setup(self, *schemas: Schema) -> None:
        with self.transaction() as tx:
            tx.execute("SELECT pg_advisory_xact_lock(?)", (0x6275747472657373,))
            there = tx.one("SELECT to_regclass('buttress_schema') IS NOT NULL")
            if self._create:
                tx.execute(SCHEMA_TABLE)
            elif not (there and there[0]):
                raise SchemaMismatch("no buttress tables in this database", fix="run the SQL that `buttress <system> schema` prints")
            for schema in schemas:
                row = tx.one("SELECT version FROM buttress_schema WHERE name = ?", (schema.name,))
                pending = schema.pending(row[0] if row else None)
                if pending and not self._create:
                    raise SchemaMismatch(f"the tables of {schema.name} version {schema.version} are not in this database",
                                         fix="run the SQL that `buttress <system> schema` prints")
                for statement in pending:
                    tx.execute(statement.format(**TYPES["postgres"]))
                if self._create:
                    tx.execute("INSERT INTO buttress_schema (name, version) VALUES (?, ?) "
                               "ON CONFLICT (name) DO UPDATE SET version = excluded.version", (schema.name, schema.version))

    @contextmanager
    def transaction(self) -> Iterator[Tx]:
        current: PostgresTx | None = getattr(self._local, "tx", None)
        if current is not None:
            yield current
            return
        psycopg = _driver()
        connection = self._connection()
        handle: _Handle = self._local.handle
        try:
            with handle.bounded():
                connection.execute("BEGIN")
        except psycopg.Error as error:
            raise _unavailable(error) from error
        self._local.tx = PostgresTx(connection, handle)
        committing = False
        try:
            yield self._local.tx
            failpoint("store.commit")
            committing = True
            with handle.bounded():
                done = connection.execute("COMMIT")
            if done.statusmessage != "COMMIT":  # the server says ROLLBACK, and no error, where a statement before had failed
                raise RolledBack("a statement of this transaction had failed, so all of it was rolled back", fix="let that error pass")
        except BaseException as error:
            lost = connection.closed or connection.broken
            if not lost:
                with handle.bounded():
                    self._rollback(connection)
            if committing and lost:
                raise Uncertain(f"Postgres: {type(error).__name__} during COMMIT: whether it was written is not known",
                                fix="ask by key before you act again") from error
            if isinstance(error, psycopg.OperationalError):
                raise _unavailable(error) from error
            raise
        finally:
            self._local.tx = None
        failpoint("store.committed")

    @staticmethod
    def _rollback(connection: psycopg.Connection[Any]) -> None:
        import psycopg

        try:
            connection.execute("ROLLBACK")
        except psycopg.Error:
            connection.close()

    @contextmanager
    def join(self, connection: Any) -> Iterator[Tx]:
        psycopg = _driver()
        if not isinstance(connection, psycopg.Connection):
            raise InvalidInput("connection", type(connection).__name__, "must be a psycopg 3 Connection")
        idle = connection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
        if idle and connection.autocommit:
            raise InvalidInput("connection", "autocommit", "must have begun a transaction that its owner commits")
        if getattr(self._local, "tx", None) is not None:
            raise ButtressError("this thread has a transaction of the store open already", fix="join outside of it")
        self._local.tx = PostgresTx(connection)
        try:
            yield self._local.tx
        finally:
            self._local.tx = None

    def submit(self, work: Callable[[Tx], T]) -> T:
        """The server groups commits itself (``commit_delay`` and its shared WAL flush)."""
        if getattr(self._local, "tx", None) is not None:
            raise ButtressError("submit inside a transaction would wait for itself", fix="use the open transaction")
        with self.transaction() as tx:
            return work(tx)

    def cut_overdue(self) -> bool:
        """Gives up the connections whose statement is over its time. False: the store is closed, or was opened by a parent process."""
        if self._closed or os.getpid() != self._pid:
            return False
        with self._lock:
            handles = list(self._handles)
        for handle in handles:
            handle.cut_if_overdue()
        return True

    def close(self) -> None:
        with self._lock:
            handles, self._closed = list(self._handles), True
        for handle in handles:
            handle.close()


def _watch(store: weakref.ref[PostgresStore], every_s: float) -> None:
    """Until the store is closed or forgotten."""
    while True:
        time.sleep(every_s)
        mine = store()
        if mine is None or not mine.cut_overdue():
            return
        del mine


def _unavailable(error: Exception) -> Unavailable:
    state = getattr(error, "sqlstate", None) or type(error).__name__
    return Unavailable(f"Postgres: {state}", fix="nothing was written; try again")
