"""What is SQLite's own: the journal, the locks, a full disk, forks, and the group commit."""

from __future__ import annotations

import itertools
import os
import resource
import signal
import sqlite3
import threading
import time
from concurrent.futures import ThreadPoolExecutor, wait

import pytest

from buttress.kernel import failpoint
from buttress.kernel.errors import ButtressError, InvalidInput, RolledBack, Unavailable
from buttress.kernel.failpoint import FailpointError
from buttress.kernel.store import Schema
from buttress.kernel.store.sqlite import SqliteStore

WAIT_S = 20.0
NOTES = Schema("test.notes", 1, ("CREATE TABLE notes (id {int} PRIMARY KEY, body {bytes})",))
LINKS = Schema("test.links", 1, ("CREATE TABLE links (note {int} REFERENCES notes (id) DEFERRABLE INITIALLY DEFERRED)",))


@pytest.fixture
def store(sqlite_stores):
    store = sqlite_stores.fresh()
    store.setup(NOTES, LINKS)
    return store


def insert(number, body=b""):
    return lambda tx: tx.execute("INSERT INTO notes (id, body) VALUES (?, ?)", (number, body))


def ids(path):
    """What is committed, read by a connection that has nothing to do with the store."""
    connection = sqlite3.connect(path)
    try:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        return [row[0] for row in connection.execute("SELECT id FROM notes ORDER BY id")]
    finally:
        connection.close()


def foreign_lock(path):
    """A connection of another program that holds the write lock."""
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    connection.execute("BEGIN IMMEDIATE")
    return connection


# -- durability as it was set


def test_wal_and_full_are_set_on_every_connection(store):
    def pragmas(tx):
        return [tx.one(f"PRAGMA {name}")[0] for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")]

    expected = ["wal", 2, 1, 5_000]
    assert store.submit(pragmas) == expected  # the writer's thread
    with store.transaction() as tx:
        assert pragmas(tx) == expected
    with ThreadPoolExecutor(1) as pool:

        def elsewhere():
            with store.transaction() as tx:
                return pragmas(tx)

        assert pool.submit(elsewhere).result(WAIT_S) == expected


def test_a_path_like_is_a_path(tmp_path):
    store = SqliteStore(tmp_path / "a.db")
    store.setup(NOTES)
    store.close()
    assert ids(tmp_path / "a.db") == []


@pytest.mark.parametrize("arguments", [{"path": ":memory:"}, {"path": "a.db", "busy_timeout_s": 0}, {"path": "a.db", "busy_timeout_s": -1.0}])
def test_what_keeps_no_promise_is_refused(arguments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidInput):
        SqliteStore(**arguments)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there_is_unavailable(tmp_path):
    with pytest.raises(Unavailable, match="SQLITE_CANTOPEN"):
        SqliteStore(tmp_path / "no" / "a.db").setup(NOTES)


def test_a_file_that_is_no_database_is_unavailable(tmp_path):
    (tmp_path / "a.db").write_bytes(b"not a database " * 100)
    with pytest.raises(Unavailable, match="SQLITE_NOTADB"):
        SqliteStore(tmp_path / "a.db").setup(NOTES)


# -- busy


def test_busy_is_unavailable_within_the_timeout_and_nothing_is_written(sqlite_stores):
    store = sqlite_stores.fresh(busy_timeout_s=0.2)
    store.setup(NOTES)
    other = foreign_lock(store.path)
    try:
        for attempt in (lambda: store.submit(insert(1)), lambda: _in_transaction(store, insert(1))):
            began = time.monotonic()
            with pytest.raises(Unavailable, match="SQLITE_BUSY"):
                attempt()
            assert 0.1 < time.monotonic() - began < 5
    finally:
        other.rollback()
        other.close()
    assert ids(store.path) == []
    store.submit(insert(2))
    assert ids(store.path) == [2]


def _in_transaction(store, work):
    with store.transaction() as tx:
        work(tx)


def test_a_busy_thread_is_waited_for_and_then_unavailable(sqlite_stores):
    store = sqlite_stores.fresh(busy_timeout_s=0.2)
    store.setup(NOTES)
    held, release = threading.Event(), threading.Event()

    def holder():
        with store.transaction() as tx:
            insert(1)(tx)
            held.set()
            assert release.wait(WAIT_S)

    with ThreadPoolExecutor(1) as pool:
        holding = pool.submit(holder)
        assert held.wait(WAIT_S)
        try:
            with pytest.raises(Unavailable, match="another thread holds the write lock"):
                _in_transaction(store, insert(2))
        finally:
            release.set()
        holding.result(WAIT_S)
    _in_transaction(store, insert(3))
    assert ids(store.path) == [1, 3]


def test_a_reader_of_another_program_stands_in_nobodys_way(sqlite_stores):
    store = sqlite_stores.fresh(busy_timeout_s=0.2)
    store.setup(NOTES)
    reader = sqlite3.connect(store.path, isolation_level=None)
    try:
        reader.execute("BEGIN")
        assert reader.execute("SELECT count(*) FROM notes").fetchone() == (0,)
        store.submit(insert(1))
        assert reader.execute("SELECT count(*) FROM notes").fetchone() == (0,)
    finally:
        reader.close()


def test_a_first_opener_waits_for_another(tmp_path):
    """Another program made the file, is not yet in WAL, and holds the write lock."""
    path = str(tmp_path / "a.db")
    other = foreign_lock(path)
    store = SqliteStore(path)
    with ThreadPoolExecutor(1) as pool:
        opening = pool.submit(store.setup, NOTES)
        early, _ = wait([opening], 0.2)
        other.commit()
        other.close()
        opening.result(WAIT_S)
    assert not early
    store.close()
    assert ids(path) == []


def test_several_first_openers_at_once(tmp_path, fork):
    for turn in range(20):
        path = str(tmp_path / f"{turn}.db")
        gate, opener = os.pipe()

        def work(tell, _, path=path, gate=gate):
            os.read(gate, 1)
            store = SqliteStore(path)
            store.setup(NOTES)
            store.submit(insert(os.getpid()))
            store.close()

        children = [fork(work) for _ in range(3)]
        os.write(opener, b"go!")
        os.close(gate)
        os.close(opener)
        for child in children:
            assert child.says() is None, "a child has nothing to say unless it failed"
        assert ids(path) == sorted(child.pid for child in children)


# -- full


def fill(store, acknowledged):
    for number in itertools.count():
        store.submit(insert(number, b"x" * 3_000))
        acknowledged.append(number)


def test_a_full_disk_is_unavailable_and_keeps_what_was_acknowledged(tmp_path, fork):
    """The kernel refuses to let the file grow, as a full disk does."""
    path = str(tmp_path / "a.db")

    def work(tell, _):
        store = SqliteStore(path)
        store.setup(NOTES)
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
        acknowledged = []
        try:
            fill(store, acknowledged)
        except Unavailable as error:
            tell([acknowledged, error.message])
        try:
            store.submit(insert(-1, b"x" * 3_000))
        except Unavailable:
            tell("still full")

    child = fork(work)
    acknowledged, message = child.says()
    assert message.startswith("SQLite: SQLITE_")
    assert len(acknowledged) > 10
    assert child.says() == "still full"
    assert child.ends() == 0
    assert ids(path) == acknowledged


def _full(store):
    """From here on the file may not grow, on any connection of this thread and the writer's."""

    def stop_growing(tx):
        (pages,) = tx.one("PRAGMA page_count")
        tx.one(f"PRAGMA max_page_count = {pages + 10}")

    store.submit(stop_growing)
    _in_transaction(store, stop_growing)


def test_a_full_file_keeps_what_was_acknowledged(store):
    _full(store)
    acknowledged = []
    with pytest.raises((Unavailable, sqlite3.OperationalError)):
        fill(store, acknowledged)
    assert acknowledged
    assert ids(store.path) == acknowledged
    store.submit(lambda tx: tx.execute("DELETE FROM notes WHERE id = 0"))
    store.submit(insert(1_000_000, b"fits again"))
    assert ids(store.path) == [*acknowledged[1:], 1_000_000]


@pytest.mark.parametrize("way", ["transaction", "submit"])
def test_a_full_file_is_unavailable(store, way):
    _full(store)
    write = store.submit if way == "submit" else lambda work: _in_transaction(store, work)
    with pytest.raises(Unavailable, match="SQLITE_FULL"):
        write(insert(1, b"x" * 1_000_000))


# -- errors at the commit


def test_a_commit_that_fails_is_rolled_back(store):
    with pytest.raises(Exception, match=r"FOREIGN|CONSTRAINT"):
        _in_transaction(store, lambda tx: (insert(1)(tx), tx.execute("INSERT INTO links (note) VALUES (99)")))
    assert ids(store.path) == []
    _in_transaction(store, insert(2))
    assert ids(store.path) == [2]


def test_a_broken_constraint_is_not_called_unavailable(store):
    with pytest.raises(sqlite3.IntegrityError):
        _in_transaction(store, lambda tx: tx.execute("INSERT INTO links (note) VALUES (99)"))


@pytest.mark.parametrize("way", ["transaction", "submit"])
def test_an_error_before_the_commit_is_rolled_back(store, way):
    write = store.submit if way == "submit" else lambda work: _in_transaction(store, work)
    failpoint.arm({"store.commit": (1, "error")})
    with pytest.raises(FailpointError):
        write(insert(1))
    failpoint.arm(None)
    assert ids(store.path) == []
    write(insert(2))
    assert ids(store.path) == [2]


def test_an_error_after_the_commit_leaves_it_committed(store):
    """The answer was lost, not the write: this is what a caller must reckon with."""
    failpoint.arm({"store.committed": (1, "error")})
    with pytest.raises(FailpointError):
        store.submit(insert(1))
    failpoint.arm(None)
    assert ids(store.path) == [1]
    store.submit(insert(2))
    assert ids(store.path) == [1, 2]


# -- group commit


def submit_many(store, works):
    """All at once, a thread each, while the writer is held up: so that they wait together. Gives answers and errors."""
    held, release = threading.Event(), threading.Event()

    def hold(tx):
        held.set()
        assert release.wait(WAIT_S)

    threads = len(works)
    ready = threading.Barrier(threads + 1)

    def submit(work):
        ready.wait(WAIT_S)
        try:
            return store.submit(work)
        except Exception as error:
            return error

    with ThreadPoolExecutor(threads + 1) as pool:
        holding = pool.submit(store.submit, hold)
        assert held.wait(WAIT_S)
        futures = [pool.submit(submit, work) for work in works]
        ready.wait(WAIT_S)
        deadline = time.monotonic() + WAIT_S
        while store._writer._queue.qsize() < threads and time.monotonic() < deadline:
            time.sleep(0.001)
        release.set()
        answers = [future.result(WAIT_S) for future in futures]
        holding.result(WAIT_S)
    return answers


def test_many_writers_share_a_commit(store):
    failpoint.arm({})
    answers = submit_many(store, [insert(number) for number in range(32)])
    commits = failpoint.hits["store.commit"]
    failpoint.arm(None)
    assert answers == [1] * 32
    assert ids(store.path) == list(range(32))
    assert commits < 32, f"{commits} commits for 32 writes: nothing was grouped"


def test_one_failing_item_does_not_undo_the_others(store):
    def failing(number):
        def work(tx):
            insert(number)(tx)
            raise LookupError(number)

        return work

    answers = submit_many(store, [failing(n) if n % 5 == 0 else insert(n) for n in range(30)])
    for number, answer in enumerate(answers):
        if number % 5:
            assert answer == 1
        else:
            assert isinstance(answer, LookupError)
            assert answer.args == (number,)
    assert ids(store.path) == [number for number in range(30) if number % 5]


def test_a_failing_statement_does_not_undo_the_others(store):
    answers = submit_many(store, [insert(n // 2) for n in range(20)])  # each id twice: one of each pair fails
    assert [sum(answers[n + i] == 1 for i in (0, 1)) for n in range(0, 20, 2)] == [1] * 10
    assert sum(isinstance(answer, sqlite3.IntegrityError) for answer in answers) == 10
    assert ids(store.path) == list(range(10))


def test_a_failing_commit_answers_all_with_an_error(store):
    """One item leaves a deferred foreign key dangling: only the COMMIT notices. Whoever got no error has its row."""

    def dangling(tx):
        tx.execute("INSERT INTO links (note) VALUES (99)")

    answers = submit_many(store, [dangling if n == 0 else insert(n) for n in range(20)])
    failed = [number for number, answer in enumerate(answers) if isinstance(answer, Exception)]
    assert 0 in failed
    assert len(failed) > 1, "the commit was shared with nobody: nothing was tried"
    assert ids(store.path) == [number for number in range(20) if number not in failed]
    store.submit(insert(100))
    assert ids(store.path)[-1] == 100


def test_a_connection_that_its_user_closed_is_opened_anew(store):
    """Nothing of that transaction was written; the same thread goes on with another connection."""

    def closing():
        with store.transaction() as tx:
            tx.execute("CREATE TABLE t (id INTEGER)")
            tx.connection.close()

    with pytest.raises(sqlite3.ProgrammingError):
        closing()
    with store.transaction() as tx:
        assert tx.all("SELECT name FROM sqlite_master WHERE name = 't'") == []


def test_a_write_that_rolls_back_the_shared_commit_leaves_nothing_half_done(store):
    """ON CONFLICT ROLLBACK ends the whole transaction, not the statement: who shared it is told, and nothing of theirs is there."""
    store.submit(lambda tx: tx.execute("CREATE TABLE t (id INTEGER PRIMARY KEY)"))
    store.submit(lambda tx: tx.execute("INSERT INTO t VALUES (0)"))
    running, gate, answers = threading.Event(), threading.Event(), {}

    def submit(name, work):
        try:
            answers[name] = store.submit(work)
        except Exception as error:
            answers[name] = error

    holder = threading.Thread(target=submit, args=("holder", lambda tx: running.set() or gate.wait(10)))
    holder.start()
    assert running.wait(10)  # what comes from here on waits for the next commit, and shares it
    works = {"before": "INSERT INTO t VALUES (1)", "culprit": "INSERT OR ROLLBACK INTO t VALUES (0)", "after": "INSERT INTO t VALUES (2)"}
    threads = []
    for waiting, (name, sql) in enumerate(works.items(), 1):
        threads.append(threading.Thread(target=submit, args=(name, lambda tx, sql=sql: tx.execute(sql))))
        threads[-1].start()
        while store._writer._queue.qsize() < waiting:
            pass
    gate.set()
    for thread in (holder, *threads):
        thread.join(10)
    assert isinstance(answers["culprit"], sqlite3.IntegrityError)
    assert isinstance(answers["before"], RolledBack)
    assert isinstance(answers["after"], RolledBack)
    with store.transaction() as tx:
        assert tx.all("SELECT id FROM t") == [(0,)]
    assert store.submit(lambda tx: tx.execute("INSERT INTO t VALUES (3)")) == 1


def test_submit_from_inside_its_own_work_is_refused(store):
    def work(tx):
        return store.submit(insert(1))

    with pytest.raises(ButtressError, match="submit inside a transaction"):
        store.submit(work)
    store.submit(insert(2))
    assert ids(store.path) == [2]


def test_work_joins_the_writers_transaction(store):
    def work(tx):
        with store.transaction() as inner:
            assert inner is tx
            return insert(1)(inner)

    assert store.submit(work) == 1
    assert ids(store.path) == [1]


def test_more_writers_than_a_batch_holds(store):
    with ThreadPoolExecutor(16) as pool:
        assert sum(pool.map(lambda n: store.submit(insert(n)), range(600), timeout=WAIT_S)) == 600
    assert ids(store.path) == list(range(600))


# -- closing


def test_close_answers_everyone_who_waits(sqlite_stores):
    store = sqlite_stores.fresh()
    store.setup(NOTES)
    acknowledged, refused = [], []
    started = threading.Barrier(9)

    def write(worker):
        started.wait(WAIT_S)
        for number in itertools.count(worker, 8):
            try:
                store.submit(insert(number))
            except Unavailable:
                refused.append(worker)
                return
            acknowledged.append(number)

    threads = [threading.Thread(target=write, args=(worker,), daemon=True) for worker in range(8)]
    for thread in threads:
        thread.start()
    started.wait(WAIT_S)
    store.submit(lambda tx: None)
    store.close()
    for thread in threads:
        thread.join(WAIT_S)
    assert not any(thread.is_alive() for thread in threads)
    assert sorted(refused) == list(range(8))
    assert set(acknowledged) <= set(ids(store.path))


def test_a_writer_that_comes_while_the_store_closes_is_answered(store, monkeypatch):
    """The close happens between the look at the writer and the entry into its queue."""
    store.submit(insert(1))
    queue = store._writer._queue
    put = queue.put

    def late_put(item, *args, **kwargs):
        if item is not None:
            store.close()
        put(item, *args, **kwargs)

    monkeypatch.setattr(queue, "put", late_put)
    answers = []

    def late():
        try:
            answers.append(store.submit(insert(2)))
        except Unavailable as error:
            answers.append(error)

    thread = threading.Thread(target=late, daemon=True)
    thread.start()
    thread.join(1.0)
    assert len(answers) == 1, "no answer"
    assert (ids(store.path) == [1, 2]) == (answers == [1])


def test_a_thread_that_ends_gives_its_connection_back(store):
    def descriptors():
        return len(os.listdir("/proc/self/fd"))

    def write(number):
        _in_transaction(store, insert(number))

    before = descriptors()
    for number in range(40):
        thread = threading.Thread(target=write, args=(number,))
        thread.start()
        thread.join(WAIT_S)
    assert ids(store.path) == list(range(40))
    assert descriptors() - before < 20


# -- forks


def test_a_store_from_before_a_fork_is_refused(sqlite_stores, fork):
    store = sqlite_stores.fresh()
    store.setup(NOTES)

    def work(tell, _):
        for attempt in (lambda: _in_transaction(store, insert(1)), lambda: store.setup(NOTES), lambda: store.submit(insert(1))):
            try:
                attempt()
                tell("done")
            except ButtressError as error:
                tell(error.message)
        store.close()  # closes nothing that is the parent's
        mine = SqliteStore(store.path)
        mine.submit(insert(2))
        mine.close()
        tell("its own")

    child = fork(work)
    assert [child.says() for _ in range(4)] == ["this store was opened before a fork"] * 3 + ["its own"]
    assert child.ends() == 0
    _in_transaction(store, insert(3))
    assert ids(store.path) == [2, 3]


def test_a_writer_from_before_a_fork_is_refused(store, fork):
    store.submit(insert(1))  # the writer runs in the parent

    def work(tell, _):
        signal.setitimer(signal.ITIMER_REAL, 0.5)  # ends the child if it waits for ever
        try:
            store.submit(insert(2))
        except ButtressError as error:
            tell(error.message)

    child = fork(work)
    assert child.says() == "this store was opened before a fork"


def test_a_fork_leaves_the_connections_of_other_threads_alone(store, fork):
    connected, forked = threading.Event(), threading.Event()

    def descriptors():
        links = [f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd")]
        return sum(os.readlink(link).startswith(store.path) for link in links if os.path.islink(link))

    def work():
        _in_transaction(store, insert(1))
        connected.set()
        assert forked.wait(WAIT_S)
        _in_transaction(store, insert(2))

    with ThreadPoolExecutor(1) as pool:
        working = pool.submit(work)
        assert connected.wait(WAIT_S)
        child = fork(lambda tell, _: tell(descriptors()))
        seen = child.says()
        assert child.ends() == 0
        open_here = descriptors()
        forked.set()
        working.result(WAIT_S)
    assert ids(store.path) == [1, 2]
    assert seen == open_here >= 4


# -- a caller's own connection


def test_join_wants_a_transaction_that_was_begun(store):
    connection = sqlite3.connect(store.path, isolation_level=None)
    try:
        with pytest.raises(InvalidInput, match="must have begun a transaction"):
            with store.join(connection):
                pass
    finally:
        connection.close()


def test_join_gives_tuples_whatever_the_owner_set(sqlite_stores):
    store = sqlite_stores.fresh()
    store.setup(NOTES)
    store.submit(insert(1))
    connection = sqlite3.connect(store.path, isolation_level=None)
    connection.row_factory = lambda cursor, row: {column[0]: value for column, value in zip(cursor.description, row, strict=True)}
    try:
        connection.execute("BEGIN IMMEDIATE")
        with store.join(connection) as tx:
            assert tx.one("SELECT id, body FROM notes") == (1, b"")
            assert tx.all("SELECT id, body FROM notes") == [(1, b"")]
    finally:
        connection.close()
