"""What every Store promises: transactions that are whole, joined rather than nested, and grouped when many write at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

from buttress.kernel.errors import ButtressError, InvalidInput, SchemaMismatch, Unavailable
from buttress.kernel.store import Schema, Store, Tx
from buttress.testing.clock import check_clock
from buttress.testing.promise import elsewhere, expect, refused, rolled_back, together, verify

FIRST = Schema("check.notes", 1, ("CREATE TABLE check_notes (id {int} PRIMARY KEY, body {bytes}, weight {real}, label TEXT)",))
THIRD = Schema(
    "check.notes",
    3,
    ("CREATE TABLE check_notes (id {int} PRIMARY KEY, body {bytes}, weight {real}, label TEXT, size {int}, seen {int})",),
    {
        1: ("ALTER TABLE check_notes ADD COLUMN size {int}", "UPDATE check_notes SET size = 1"),
        2: ("ALTER TABLE check_notes ADD COLUMN seen {int}", "UPDATE check_notes SET seen = size + 1"),
    },
)
NO_WAY_THERE = Schema("check.notes", 3, THIRD.ddl, {2: THIRD.migrations[2]})
BESIDE = Schema("check.tags", 1, ("CREATE TABLE check_tags (name TEXT PRIMARY KEY)",))
INSERT = "INSERT INTO check_notes (id) VALUES (?)"


@dataclass(frozen=True)
class Case:
    """What the caller handed in."""

    maker: Callable[[], Store]
    reopen: Callable[[Store], Store] | None = None
    foreign: Callable[[Store], AbstractContextManager[Any]] | None = None

    @contextmanager
    def fresh(self) -> Iterator[Store]:
        """An empty one with a table, closed afterwards."""
        store = self.maker()
        try:
            store.setup(FIRST)
            yield store
        finally:
            store.close()

    def begun(self, store: Store) -> AbstractContextManager[Any]:
        assert self.foreign is not None
        return self.foreign(store)

    def again(self, store: Store) -> Store:
        assert self.reopen is not None
        return self.reopen(store)


def check_store(
    maker: Callable[[], Store],
    *,
    reopen: Callable[[Store], Store] | None = None,
    foreign: Callable[[Store], AbstractContextManager[Any]] | None = None,
) -> None:
    """Checks a Store. ``maker()`` gives an empty one that may create its tables; the check closes it.

    ``reopen(store)``: closes it and opens the same state anew. ``foreign(store)``: a connection of the driver's own to the
    same state, with a transaction begun, which commits at the end of the block and rolls back on an error.
    """
    case = Case(maker, reopen, foreign)
    verify("Store", promises(case), case)


def promises(case: Case) -> tuple[Callable[[Case], None], ...]:
    """Those that apply to what was handed in."""
    return ALWAYS + (DURABLE if case.reopen else ()) + (JOINING if case.foreign else ())


# -- steps that the promises share


def ids(store: Store) -> list[int]:
    """What is committed, as another thread sees it."""

    def read() -> list[int]:
        with store.transaction() as tx:
            return [row[0] for row in tx.all("SELECT id FROM check_notes ORDER BY id")]

    answer = elsewhere(read)
    assert isinstance(answer, list)
    return answer


def write(store: Store, number: int) -> None:
    with store.transaction() as tx:
        tx.execute(INSERT, (number,))


# -- schema


def it_knows_its_time_and_dialect(case: Case) -> None:
    """A store has a clock and one of the two dialects, and its transactions have the same dialect."""
    with case.fresh() as store:
        expect(store.dialect in ("sqlite", "postgres"), f"the dialect is {store.dialect!r}")
        check_clock(lambda: store.clock)
        with store.transaction() as tx:
            expect(tx.dialect == store.dialect, f"the store speaks {store.dialect}, its transaction {tx.dialect}")
            expect(tx.connection is not None, "the transaction has no connection")


def setup_twice_is_setup_once(case: Case) -> None:
    """setup creates the tables once; again, it keeps what is in them."""
    with case.fresh() as store:
        write(store, 1)
        store.setup(FIRST)
        store.setup(FIRST, BESIDE)
        expect(ids(store) == [1], f"after setup again the table holds {ids(store)}")


def a_migration_is_applied_once(case: Case) -> None:
    """An older store is led to the new version step by step, with its rows, and only once."""
    with case.fresh() as store:
        write(store, 1)
        for turn in (1, 2):
            store.setup(THIRD)
            with store.transaction() as tx:
                row = tx.one("SELECT id, size, seen FROM check_notes WHERE id = 1")
            expect(row == (1, 1, 2), f"version 1 set up as version 3, {turn} times: the row is {row}")


def a_newer_store_is_refused(case: Case) -> None:
    """A store written by a newer release raises SchemaMismatch and is left as it was."""
    with case.fresh() as store:
        store.setup(THIRD)
        refused(SchemaMismatch, "a store of version 3 under a release of version 1", store.setup, FIRST)
        store.setup(THIRD)
        write(store, 1)
        with store.transaction() as tx:
            row = tx.one("SELECT id, size FROM check_notes")
        expect(row == (1, None), f"after the refusal the row is {row}")


def a_gap_in_the_migrations_is_refused(case: Case) -> None:
    """A store so old that no migration leads on raises SchemaMismatch."""
    with case.fresh() as store:
        refused(SchemaMismatch, "version 1 under a release that migrates from 2", store.setup, NO_WAY_THERE)
        write(store, 1)
        expect(ids(store) == [1], "the old tables do not work any more")


def setup_is_whole(case: Case) -> None:
    """setup creates all schemas or none: nothing is left of one when another is refused."""
    with case.fresh() as store:
        store.setup(THIRD)
        refused(SchemaMismatch, "one new schema and one refused", store.setup, BESIDE, FIRST)
        store.setup(BESIDE)
        with store.transaction() as tx:
            tx.execute("INSERT INTO check_tags (name) VALUES (?)", ("one",))


# -- transactions


def values_come_back_as_they_were(case: Case) -> None:
    """Text, bytes, integers of 63 bits, floats and NULL come back as they were written."""
    with case.fresh() as store:
        rows = [
            (2**62, b"\x00\xff\x00", 1_800_000_000.123456, "é ? % '"),
            (-1, b"", 0.0, ""),
            (0, None, None, None),
        ]
        with store.transaction() as tx:
            for row in rows:
                tx.execute("INSERT INTO check_notes (id, body, weight, label) VALUES (?, ?, ?, ?)", row)
        with store.transaction() as tx:
            found = tx.all("SELECT id, body, weight, label FROM check_notes ORDER BY id DESC")
        found = [(number, None if body is None else bytes(body), weight, label) for number, body, weight, label in found]
        expect(found == [rows[0], rows[2], rows[1]], f"written {rows}, read {found}")


def statements_answer(case: Case) -> None:
    """execute gives the number of rows changed, one the first row or None, all a list of rows."""
    with case.fresh() as store, store.transaction() as tx:
        expect(tx.one("SELECT id FROM check_notes") is None, "one() of no rows is not None")
        expect(tx.all("SELECT id FROM check_notes") == [], "all() of no rows is not an empty list")
        counts = [tx.execute(INSERT, (number,)) for number in (1, 2, 3)]
        counts += [tx.execute("UPDATE check_notes SET weight = 1.5 WHERE id > ?", (least,)) for least in (1, 9)]
        counts += [tx.execute(INSERT + " ON CONFLICT (id) DO NOTHING", (number,)) for number in (3, 4)]
        expect(counts == [1, 1, 1, 2, 0, 0, 1], f"execute counted {counts}")
        row = tx.one("SELECT id, weight FROM check_notes ORDER BY id DESC")
        expect(row is not None and tuple(row) == (4, None), f"one() gave {row}")
        expect([row[0] for row in tx.all("SELECT id FROM check_notes ORDER BY id")] == [1, 2, 3, 4], "all() left rows out")


def a_block_that_ends_is_committed(case: Case) -> None:
    """What a transaction wrote is there for others once its block has ended."""
    with case.fresh() as store:
        write(store, 1)
        expect(ids(store) == [1], f"another thread sees {ids(store)}")


def an_error_undoes_everything(case: Case) -> None:
    """An error that leaves the block undoes all of it and comes out as itself; the store works on."""
    with case.fresh() as store:
        write(store, 1)
        for error in (LookupError("ours"), KeyboardInterrupt("ours")):
            came_out: BaseException | None = None
            try:
                with store.transaction() as tx:
                    tx.execute(INSERT, (2,))
                    raise error
            except BaseException as seen:
                came_out = seen
            expect(came_out is error, f"{error!r} came out as {came_out!r}")
            expect(ids(store) == [1], f"after {type(error).__name__} the table holds {ids(store)}")
        write(store, 3)


def an_open_transaction_is_joined(case: Case) -> None:
    """A transaction inside another on the same thread is the same one: only the outermost commits."""
    with case.fresh() as store:
        with rolled_back(store.transaction()):
            with store.transaction() as inner:
                inner.execute(INSERT, (1,))
            with store.transaction() as inner:
                expect(inner.one("SELECT id FROM check_notes") == (1,), "the second inner block does not see the first")
        expect(ids(store) == [], f"the outer block failed, {ids(store)} of its inner ones was kept")
        with store.transaction() as outer:
            with store.transaction() as inner:
                expect(inner.connection is outer.connection, "the inner block has a connection of its own")
                inner.execute(INSERT, (1,))
            outer.execute(INSERT, (2,))
        expect(ids(store) == [1, 2], f"both blocks ended well, the table holds {ids(store)}")


def nobody_inside_ends_the_transaction(case: Case) -> None:
    """A statement that begins or ends a transaction is refused, in a block and in submit; what else was written stays with its owner."""
    with case.fresh() as store:
        for number, sql in enumerate(("COMMIT", " rollback", "End", "BEGIN", "ROLLBACK TRANSACTION", "COMMIT WORK")):
            for run in ("execute", "one", "all"):
                with rolled_back(store.transaction()) as tx:
                    tx.execute(INSERT, (number,))
                    refused(InvalidInput, f"{sql!r} by {run}", getattr(tx, run), sql)
            refused(InvalidInput, f"{sql!r} in submit", store.submit, lambda tx, sql=sql: tx.execute(sql))
        expect(ids(store) == [], f"all was rolled back by its owner, the table holds {ids(store)}")
        with store.transaction() as tx:
            tx.execute("SAVEPOINT mine")
            tx.execute(INSERT, (1,))
            tx.execute("ROLLBACK TO SAVEPOINT mine")
            tx.execute(INSERT, (2,))
            tx.execute("RELEASE SAVEPOINT mine")
        expect(ids(store) == [2], f"savepoints are free, the table holds {ids(store)}")


def what_ends_well_is_there(case: Case) -> None:
    """A block that swallowed a failed statement commits what it wrote, or raises at its end: never neither."""
    with case.fresh() as store:
        try:
            with store.transaction() as tx:
                tx.execute(INSERT, (1,))
                try:
                    tx.execute(INSERT, (1,))
                except Exception:
                    pass
        except Exception:
            expect(ids(store) == [], f"the block raised, and {ids(store)} was kept")
        else:
            expect(ids(store) == [1], f"the block ended without an error, and the table holds {ids(store)}")
        write(store, 2)


# -- submit


def submit_answers(case: Case) -> None:
    """submit gives what the work returned, and what it wrote is there."""
    with case.fresh() as store:

        def work(tx: Tx) -> str:
            tx.execute(INSERT, (1,))
            return "answer"

        answer = store.submit(work)
        expect(answer == "answer", f"submit answered {answer!r}")
        expect(ids(store) == [1], f"after submit the table holds {ids(store)}")


def submit_gives_each_its_own(case: Case) -> None:
    """Of many that submit at once each gets its own answer or its own error, and a failed one undoes itself alone."""
    with case.fresh() as store:

        def submitter(number: int) -> Callable[[], object]:
            def work(tx: Tx) -> int:
                tx.execute(INSERT, (number,))
                if number % 4 == 3:
                    raise LookupError(number)
                return number

            return lambda: store.submit(work)

        answers = together(*[submitter(number) for number in range(16)])
        for number, answer in enumerate(answers):
            kept = isinstance(answer, LookupError) and answer.args == (number,) if number % 4 == 3 else answer == number
            expect(kept, f"work {number} was answered {answer!r}")
        expected = [number for number in range(16) if number % 4 != 3]
        expect(ids(store) == expected, f"the table holds {ids(store)} instead of {expected}")


def submit_refuses_a_transaction(case: Case) -> None:
    """submit inside a transaction is refused: it would wait for itself."""
    with case.fresh() as store:
        with store.transaction() as tx:
            refused(ButtressError, "submit inside a transaction", store.submit, lambda tx: tx.execute(INSERT, (1,)))
            tx.execute(INSERT, (2,))
        expect(ids(store) == [2], f"the table holds {ids(store)}")


# -- close


def a_closed_store_is_closed(case: Case) -> None:
    """A store closed twice is closed; from then on setup, transaction and submit raise Unavailable."""
    with case.fresh() as store:
        write(store, 1)
        store.submit(lambda tx: tx.execute(INSERT, (2,)))
        store.close()
        store.close()
        refused(Unavailable, "a transaction of a closed store", write, store, 3)
        refused(Unavailable, "submit to a closed store", store.submit, lambda tx: tx.execute(INSERT, (3,)))
        refused(Unavailable, "setup of a closed store", store.setup, BESIDE)


# -- with reopen


def what_was_committed_outlives_the_process(case: Case) -> None:
    """What was committed is there when the state is opened anew, and nothing else."""
    with case.fresh() as store:
        write(store, 1)
        store.submit(lambda tx: tx.execute(INSERT, (2,)))
        with rolled_back(store.transaction()):
            write(store, 3)
        opened = case.again(store)
        try:
            opened.setup(FIRST)
            expect(ids(opened) == [1, 2], f"1 and 2 were committed, 3 was not: {ids(opened)}")
            write(opened, 4)
        finally:
            opened.close()


# -- with a foreign connection


def join_leaves_the_commit_to_its_owner(case: Case) -> None:
    """What is done in a joined transaction is committed, or rolled back, by whoever began it."""
    with case.fresh() as store:
        with case.begun(store) as connection:
            with store.join(connection) as tx:
                expect(tx.connection is connection, "join works on another connection")
                tx.execute(INSERT, (1,))
                write(store, 2)
        expect(ids(store) == [1, 2], f"the owner committed, the table holds {ids(store)}")
        with rolled_back(case.begun(store)) as connection, store.join(connection):
            write(store, 3)
        expect(ids(store) == [1, 2], f"the owner rolled back, the table holds {ids(store)}")
        write(store, 4)
        expect(ids(store) == [1, 2, 4], "the store does not go back to its own connection")


def join_refuses_what_it_cannot_keep(case: Case) -> None:
    """join refuses what is no connection, and a thread that has a transaction open; submit refuses inside join."""
    with case.fresh() as store:

        def join(connection: object) -> None:
            with store.join(connection):
                pass

        refused(InvalidInput, "join of what is no connection", join, "connection")
        refused(InvalidInput, "join of None", join, None)
        with case.begun(store) as connection, store.join(connection):
            refused(ButtressError, "submit inside join", store.submit, lambda tx: tx.execute(INSERT, (1,)))
            refused(ButtressError, "join inside join", join, connection)
        expect(ids(store) == [], f"the table holds {ids(store)}")


ALWAYS: tuple[Callable[[Case], None], ...] = (
    it_knows_its_time_and_dialect,
    setup_twice_is_setup_once,
    a_migration_is_applied_once,
    a_newer_store_is_refused,
    a_gap_in_the_migrations_is_refused,
    setup_is_whole,
    values_come_back_as_they_were,
    statements_answer,
    a_block_that_ends_is_committed,
    an_error_undoes_everything,
    an_open_transaction_is_joined,
    nobody_inside_ends_the_transaction,
    what_ends_well_is_there,
    submit_answers,
    submit_gives_each_its_own,
    submit_refuses_a_transaction,
    a_closed_store_is_closed,
)
DURABLE: tuple[Callable[[Case], None], ...] = (what_was_committed_outlives_the_process,)
JOINING: tuple[Callable[[Case], None], ...] = (join_leaves_the_commit_to_its_owner, join_refuses_what_it_cannot_keep)
