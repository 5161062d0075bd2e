"""What is Postgres's own: nothing created unasked, lost connections, locks, and a caller's own connection."""

from __future__ import annotations

import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from buttress.kernel import failpoint
from buttress.kernel.errors import ButtressError, InvalidInput, RolledBack, SchemaMismatch, Unavailable, Uncertain
from buttress.kernel.failpoint import FailpointError
from buttress.kernel.store import Schema
from buttress.kernel.store.postgres import PostgresStore, to_psycopg

WAIT_S = 20.0
NOTES = Schema("test.notes", 1, ("CREATE TABLE notes (id {int} PRIMARY KEY, body {bytes})",))
LINKS = Schema("test.links", 1, ("CREATE TABLE links (note {int} REFERENCES notes (id) DEFERRABLE INITIALLY DEFERRED)",))


@pytest.fixture
def psycopg():
    return pytest.importorskip("psycopg")


@pytest.fixture
def dsn(postgres_stores):
    return postgres_stores.dsn()


@pytest.fixture
def store(postgres_stores, dsn):
    store = postgres_stores.open(dsn, timeout_s=0.3)
    store.setup(NOTES, LINKS)
    return store


@pytest.fixture
def other(psycopg, dsn):
    """A connection that has nothing to do with the store."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        yield connection


def write(store, number):
    with store.transaction() as tx:
        tx.execute("INSERT INTO notes (id) VALUES (?)", (number,))


def in_transaction(store, *statements):
    with store.transaction() as tx:
        for statement in statements:
            tx.execute(statement)


def swallow(store, good, bad, error):
    with store.transaction() as tx:
        tx.execute(good)
        with pytest.raises(error):
            tx.execute(bad)


def lose_the_connection(store, other, *, then=None):
    """Writes 2, loses its server process in the middle of the transaction, and goes on to ``then`` or to COMMIT."""
    with store.transaction() as tx:
        tx.execute("INSERT INTO notes (id) VALUES (2)")
        (pid,) = tx.one("SELECT pg_backend_pid()")
        other.execute("SELECT pg_terminate_backend(%s, 5000)", (pid,))
        if then:
            tx.execute(then)


def ids(other):
    return [row[0] for row in other.execute("SELECT id FROM notes ORDER BY id")]


def test_nothing_is_created_unasked(postgres_stores, psycopg):
    dsn = postgres_stores.dsn()
    store = postgres_stores.open(dsn, create=False)
    with pytest.raises(SchemaMismatch, match="no buttress tables in this database \\(run the SQL that `buttress <system> schema` prints"):
        store.setup(NOTES)
    with psycopg.connect(dsn, autocommit=True) as other:
        assert other.execute("SELECT count(*) FROM pg_tables WHERE schemaname = current_schema()").fetchone() == (0,)
        other.execute(NOTES.sql("postgres"))
        with pytest.raises(SchemaMismatch, match=r"the tables of test\.links version 1 are not in this database"):
            store.setup(NOTES, LINKS)
        assert other.execute("SELECT to_regclass('links')").fetchone() == (None,)
    store.setup(NOTES)
    write(store, 1)


def test_a_server_that_is_not_there_is_unavailable(psycopg):
    store = PostgresStore("postgresql://nobody@127.0.0.1:1/nothing", timeout_s=2)
    with pytest.raises(Unavailable, match="is the server up"):
        store.setup(NOTES)
    store.close()


def test_a_timeout_is_above_zero():
    with pytest.raises(InvalidInput):
        PostgresStore("", timeout_s=0)


def test_a_per_cent_sign_is_refused():
    assert to_psycopg("SELECT a FROM b WHERE c = ? AND d = ?") == "SELECT a FROM b WHERE c = %s AND d = %s"
    with pytest.raises(InvalidInput, match="per cent"):
        to_psycopg("SELECT 'a%'")


def test_a_lock_of_another_is_waited_for_and_then_unavailable(store, other, dsn, psycopg):
    write(store, 1)
    with psycopg.connect(dsn) as holder:
        holder.execute("SELECT * FROM notes WHERE id = 1 FOR UPDATE")
        began = time.monotonic()
        with pytest.raises(Unavailable, match="55P03"):
            in_transaction(store, "INSERT INTO notes (id) VALUES (2)", "UPDATE notes SET body = NULL WHERE id = 1")
        assert 0.2 < time.monotonic() - began < 5
    assert ids(other) == [1]
    write(store, 3)
    assert ids(other) == [1, 3]


def test_a_lost_connection_is_unavailable_and_then_replaced(store, other):
    write(store, 1)
    with pytest.raises(Unavailable):
        lose_the_connection(store, other, then="INSERT INTO notes (id) VALUES (3)")
    assert ids(other) == [1]
    write(store, 4)
    assert ids(other) == [1, 4]


def test_an_answer_to_commit_that_was_lost_is_uncertain(store, other):
    with pytest.raises(Uncertain, match="whether it was written is not known"):
        lose_the_connection(store, other)
    write(store, 4)
    assert ids(other) == [4]


def test_a_failed_transaction_that_ends_as_if_it_had_not_is_told(store, other, psycopg):
    with pytest.raises(RolledBack):
        swallow(store, "INSERT INTO notes (id) VALUES (1)", "INSERT INTO notes (id) VALUES (1)", psycopg.IntegrityError)
    assert ids(other) == []
    write(store, 2)
    assert ids(other) == [2]


def test_an_error_before_the_commit_is_rolled_back(store, other):
    failpoint.arm({"store.commit": (1, "error")})
    with pytest.raises(FailpointError):
        write(store, 1)
    failpoint.arm(None)
    write(store, 2)
    assert ids(other) == [2]


def test_a_commit_that_fails_writes_nothing(store, other):
    with pytest.raises(Exception, match=r"foreign|Unavailable|23503"):
        in_transaction(store, "INSERT INTO notes (id) VALUES (1)", "INSERT INTO links (note) VALUES (99)")
    assert ids(other) == []
    write(store, 2)
    assert ids(other) == [2]


def test_a_broken_constraint_is_not_called_unavailable(store, psycopg):
    with pytest.raises(psycopg.IntegrityError):
        in_transaction(store, "INSERT INTO links (note) VALUES (99)")


def test_several_first_openers_at_once(postgres_stores, dsn):
    start = threading.Barrier(4)

    def open_and_write(number):
        store = postgres_stores.open(dsn)
        start.wait(WAIT_S)
        store.setup(NOTES)
        write(store, number)

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(open_and_write, range(4), timeout=WAIT_S)) == [None] * 4


def test_a_thread_that_ends_gives_its_connection_back(store, other):
    (before,) = other.execute("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()").fetchone()
    for number in range(12):
        thread = threading.Thread(target=write, args=(store, number))
        thread.start()
        thread.join(WAIT_S)
    assert ids(other) == list(range(12))
    (after,) = other.execute("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()").fetchone()
    assert after - before < 6


def test_a_store_from_before_a_fork_is_refused(store, other, fork):
    write(store, 1)

    def work(tell, _):
        for attempt in (lambda: write(store, 2), lambda: store.submit(lambda tx: None)):
            try:
                attempt()
            except ButtressError as error:
                tell(error.message)

    child = fork(work)
    assert [child.says(), child.says()] == ["this store was opened before a fork"] * 2
    assert child.ends() == 0
    write(store, 3)
    assert ids(other) == [1, 3]


FORKED = "postgres.py _Handle: a fork ends the other threads' locals in the child, so that the finalizer closes the parent's sessions there (the " \
         "server gets a Terminate). It must do nothing, and keep the reference, where os.getpid() is not the one that connected"


def test_a_fork_leaves_the_sessions_of_other_threads_alone(store, fork):
    connected, forked = threading.Event(), threading.Event()

    def session():
        with store.transaction() as tx:
            return tx.one("SELECT pg_backend_pid()")

    def work():
        before = session()
        connected.set()
        assert forked.wait(WAIT_S)
        return before, session()

    with ThreadPoolExecutor(1) as pool:
        working = pool.submit(work)
        assert connected.wait(WAIT_S)
        assert fork(lambda tell, _: None).ends() == 0
        forked.set()
        before, after = working.result(WAIT_S)
    assert before == after


# -- a caller's own connection


def test_join_begins_where_psycopg_would(store, dsn, psycopg, other):
    with psycopg.connect(dsn) as connection:
        with store.join(connection):
            write(store, 1)
        assert ids(other) == []
    assert ids(other) == [1]


def test_join_refuses_autocommit(store, dsn, psycopg):
    with psycopg.connect(dsn, autocommit=True) as connection:
        with pytest.raises(InvalidInput, match="must have begun a transaction"):
            with store.join(connection):
                pass
        with connection.transaction(), store.join(connection):
            write(store, 1)


def test_join_gives_tuples_whatever_the_owner_set(store, dsn, psycopg):
    write(store, 1)
    with psycopg.connect(dsn, row_factory=psycopg.rows.dict_row) as connection, store.join(connection) as tx:
        assert tx.one("SELECT id, body FROM notes") == (1, None)
        assert tx.all("SELECT id, body FROM notes") == [(1, None)]


def test_a_server_that_says_nothing_is_unavailable(postgres_stores, dsn, postgres_server):
    """Its process is stopped: nothing is answered, nothing is closed. The wait has an end, and the next transaction gets a new connection."""
    if postgres_server.server is None:
        pytest.skip("needs a server of our own: nobody else's process is stopped")
    store = postgres_stores.open(dsn, statement_s=0.5)
    with store.transaction() as tx:
        (pid,) = tx.one("SELECT pg_backend_pid()")
    os.kill(pid, signal.SIGSTOP)
    try:
        with pytest.raises(Unavailable), store.transaction() as tx:
            tx.one("SELECT 1")
        with store.transaction() as tx:
            assert tx.one("SELECT 1") == (1,)
            assert tx.one("SELECT pg_backend_pid()") != (pid,)
    finally:
        os.kill(pid, signal.SIGCONT)


def test_a_statement_has_its_time(postgres_stores, dsn, psycopg):
    store = postgres_stores.open(dsn, statement_s=0.2)
    with pytest.raises((Unavailable, psycopg.errors.QueryCanceled)), store.transaction() as tx:
        tx.one("SELECT pg_sleep(30)")
    with store.transaction() as tx:
        assert tx.one("SELECT 1") == (1,)
