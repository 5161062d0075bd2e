"""Deltas that are wrong on purpose: each breaks a promise, and the check of that promise must find it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from buttress.kernel.delta import Change, Evidence, Guard, Item, Marks, SqlDelta
from buttress.kernel.errors import InvalidInput, Stale
from buttress.testing import check_delta
from buttress.testing import delta as conformance
from buttress.testing.promise import sentence, verify

TABLE = "buttress_delta"
COLUMNS = "source, key, number, content, raw, version, live"


def look(delta, sql, params=()):
    """Reads the table behind the back of the primitive."""
    with delta._store.transaction() as tx:
        return tx.all(sql, params)


def change(delta, sql, params=()):
    with delta._store.transaction() as tx:
        tx.execute(sql, params)


def commit_early(store):
    """Commits what the caller has open, and goes on in a transaction of its own."""
    tx = getattr(store._local, "tx", None)
    if tx is not None:
        tx.connection.execute("COMMIT")
        tx.connection.execute("BEGIN IMMEDIATE")


class LosesRaw(SqlDelta):
    """Gives the sink the content alone."""

    def compare(self, run, items):
        return [answer and replace(answer, raw=b"") for answer in super().compare(run, items)]


class OffersAll(SqlDelta):
    """Everything is news, each time."""

    def compare(self, run, items):
        return [answer or Change("upsert", item.key, run.number, item.content, item.raw)
                for item, answer in zip(items, super().compare(run, items), strict=True)]


class SettlesBeforeTheSink(SqlDelta):
    """Remembers what it gives, at once."""

    def compare(self, run, items):
        changes = super().compare(run, items)
        self.settle(run, [answer for answer in changes if answer])
        return changes


class LooksAtTheKeyAlone(SqlDelta):
    """A record that is known is the same."""

    def same(self, run, raws):
        known = dict(look(self, f"SELECT key, raw FROM {TABLE} WHERE source = ? AND live = 1", (run.source,)))
        return super().same(run, [(key, known.get(key) or raw) for key, raw in raws])


class SameWithoutBytes(SqlDelta):
    """No bytes and no bytes are the same."""

    def same(self, run, raws):
        empty = {key for key, raw in look(self, f"SELECT key, raw FROM {TABLE} WHERE live = 1 AND source = ?", (run.source,)) if raw == b""}
        return [same or (raw == b"" and key in empty) for (key, raw), same in zip(raws, super().same(run, raws), strict=True)]


class RemembersTheBytesAtOnce(SqlDelta):
    """Writes the raw bytes down when it reads them, not when the sink has them."""

    def compare(self, run, items):
        changes = super().compare(run, items)
        for item in items:
            change(self, f"UPDATE {TABLE} SET raw = ? WHERE source = ? AND key = ?", (item.raw, run.source, item.key))
        return changes


class KeepsOldBytes(SqlDelta):
    """Other bytes that say the same are parsed again each time."""

    def compare(self, run, items):
        before = look(self, f"SELECT raw, source, key, content FROM {TABLE}")
        changes = super().compare(run, items)
        for row in before:
            change(self, f"UPDATE {TABLE} SET raw = ? WHERE source = ? AND key = ? AND content = ?", row)
        return changes


class TheLastCounts(SqlDelta):
    """Of a key that comes twice in a batch the last one goes to the sink."""

    def compare(self, run, items):
        last = {item.key: item for item in items}
        return super().compare(run, [last[item.key] for item in items])


class CountsRepeatedKeys(SqlDelta):
    """Takes a record that comes twice for two."""

    def compare(self, run, items):
        changes = super().compare(run, items)
        run.unchanged += run.repeated
        return changes


class OneVersionForAll(SqlDelta):
    """The sink cannot tell the late from the new."""

    def compare(self, run, items):
        return [answer and replace(answer, version=1) for answer in super().compare(run, items)]

    def settle(self, run, changes):
        super().settle(run, [replace(change, version=run.number) for change in changes])


class CountsNothingKnown(SqlDelta):
    """The guard has nothing to go by."""

    def begin(self, source):
        return replace(super().begin(source), known=0)


class MixesSources(SqlDelta):
    """One table of keys for all sources."""

    def begin(self, source):
        return super().begin("all" if isinstance(source, str) and source and source.isprintable() and len(source) < 100 else source)


class IgnoresCase(SqlDelta):
    """Compares keys as people do."""

    def compare(self, run, items):
        return super().compare(run, [replace(item, key=item.key.lower()) for item in items])


class LosesMarks(SqlDelta):
    """Keeps the marks of the last few records."""

    def same(self, run, raws):
        run.marks = Marks()
        return super().same(run, raws)

    def compare(self, run, items):
        run.marks = Marks()
        return super().compare(run, items)


class FirstPageOnly(SqlDelta):
    """Deletes what fits into one page."""

    def deletes(self, finished, limit=500):
        for batch in super().deletes(finished, 50):
            yield batch
            return


class DeletesOfAnyRun(SqlDelta):
    """What an incomplete or held run did not see is gone."""

    def deletes(self, finished, limit=500):
        yield from super().deletes(finished, limit)
        if finished.state != "complete":
            yield [Change("delete", row[-1] if isinstance(row, tuple) else row, finished.run.number) for row in self._missing(finished.run)]


class BelievesAnyReader(SqlDelta):
    """A source that ended is a source that was read."""

    def _judge(self, run, evidence, missing, allow):
        return super()._judge(run, Evidence(True, count=evidence.count), missing, allow)


class NoReason(SqlDelta):
    """Says that it did not work, not why."""

    def finish(self, run, evidence, *, allow=""):
        return replace(super().finish(run, evidence, allow=allow), reason="")


class IgnoresTheCount(SqlDelta):
    """What the source says of itself is not looked at."""

    def finish(self, run, evidence, *, allow=""):
        return super().finish(run, replace(evidence, count=None), allow=allow)


class GuardsByNumber(SqlDelta):
    """Holds what would delete more than a number, however large the source."""

    def __init__(self, store, **named):
        super().__init__(store, **{**named, "guard": Guard(0, 0, 25)})


class NeverHolds(SqlDelta):
    """No guard."""

    def __init__(self, store, **named):
        super().__init__(store, **{**named, "guard": Guard(0, 1)})


class HoldsTheSmall(SqlDelta):
    """A small source may not shrink."""

    def __init__(self, store, **named):
        super().__init__(store, **{**named, "guard": Guard(free=0)})


class ComparesCounts(SqlDelta):
    """As many records as before are the records of before."""

    def _judge(self, run, evidence, missing, allow):
        return super()._judge(run, evidence, max(0, run.known - run.seen), allow)


class AllowsAnything(SqlDelta):
    """A name stands for evidence."""

    def finish(self, run, evidence, *, allow=""):
        return super().finish(run, Evidence(True) if allow else evidence, allow=allow)


class AsksNobody(SqlDelta):
    """Nobody can let a mass delete through."""

    def _judge(self, run, evidence, missing, allow):
        return super()._judge(run, evidence, missing, "")


class ForgetsWhatItHeld(SqlDelta):
    """What was held back is no longer known: it is never deleted, and news when it is back."""

    def finish(self, run, evidence, *, allow=""):
        finished = super().finish(run, evidence, allow=allow)
        if finished.state == "held":
            for row in list(self._missing(run)):
                change(self, f"DELETE FROM {TABLE} WHERE source = ? AND key = ?", (run.source, row[-1] if isinstance(row, tuple) else row))
        return finished


class DeletesBeforeTheSink(SqlDelta):
    """Forgets a record when it gives its delete."""

    def deletes(self, finished, limit=500):
        for batch in super().deletes(finished, limit):
            change(self, f"UPDATE {TABLE} SET live = 0 WHERE source = ? AND key IN ({', '.join('?' * len(batch))})",
                   (finished.run.source, *[delete.key for delete in batch]))
            yield batch


class RemembersTheDead(SqlDelta):
    """A record that was deleted is still the same when it is back."""

    def settle(self, run, changes):
        before = look(self, f"SELECT content, raw, source, key FROM {TABLE} WHERE content <> ?", (b"",))
        last = {item.key: item for item in self.seen}
        super().settle(run, changes)
        for delete in changes:
            if delete.kind == "delete":
                kept = last.get(delete.key)
                row = (kept.content, kept.raw, run.source, delete.key) if kept else next((row for row in before if row[3] == delete.key), None)
                if row:
                    change(self, f"UPDATE {TABLE} SET content = ?, raw = ?, live = 1 WHERE source = ? AND key = ?", row)

    seen: tuple[Item, ...] = ()

    def compare(self, run, items):
        self.seen = (*self.seen, *items)
        return super().compare(run, items)


class ForgetsTheDoubt(SqlDelta):
    """Writes nothing down of what it gives."""

    def compare(self, run, items):
        before = look(self, f"SELECT {COLUMNS} FROM {TABLE} WHERE source = ?", (run.source,))
        changes = super().compare(run, items)
        with self._store.transaction() as tx:
            for given in changes:
                if given:
                    self._restore(tx, run, given.key, before)
        return changes

    def deletes(self, finished, limit=500):
        before = look(self, f"SELECT {COLUMNS} FROM {TABLE} WHERE source = ?", (finished.run.source,))
        for batch in super().deletes(finished, limit):
            with self._store.transaction() as tx:
                for given in batch:
                    self._restore(tx, finished.run, given.key, before)
            yield batch

    @staticmethod
    def _restore(tx, run, key, before):
        tx.execute(f"DELETE FROM {TABLE} WHERE source = ? AND key = ?", (run.source, key))
        for row in before:
            if row[1] == key:
                tx.execute(f"INSERT INTO {TABLE} ({COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?)", row)


class LetsTheStaleDelete(SqlDelta):
    """Deletes what a run missed, whatever was read since."""

    def deletes(self, finished, limit=500):
        yield [Change("delete", key, finished.run.number)
               for key, number in look(self, f"SELECT key, number FROM {TABLE} WHERE source = ? AND live = 1", (finished.run.source,))
               if number not in finished.run.marks]


class ForgetsTheFence(SqlDelta):
    """A run that was overtaken goes on."""

    @staticmethod
    def _check_open(tx, run, *, finished=False):
        return tx.one("SELECT state FROM buttress_delta_source WHERE source = ?", (run.source,))[0]


class ReadsOn(SqlDelta):
    """A finished run is as good as an open one."""

    @staticmethod
    def _check_open(tx, run, *, finished=False):
        number, state = tx.one("SELECT run, state FROM buttress_delta_source WHERE source = ?", (run.source,))
        if number != run.number:
            raise Stale("a later run has begun")
        return state


class SettlesAnyVersion(SqlDelta):
    """Takes changes of whichever run."""

    def settle(self, run, changes):
        super().settle(run, [replace(change, version=run.number) for change in changes])


class SettlesHalf(SqlDelta):
    """Sees what is wrong when it comes to it."""

    def settle(self, run, changes):
        for one in changes:
            super().settle(run, [one])


class SettlesOnce(SqlDelta):
    """Chokes on a change that it has."""

    def settle(self, run, changes):
        there = {key for (key,) in look(self, f"SELECT key FROM {TABLE} WHERE source = ? AND version = ? AND content <> ?", (run.source, run.number, b""))}
        if any(change.key in there for change in changes):
            raise InvalidInput("changes", len(changes), "were settled before")
        super().settle(run, changes)


class SettlesAnyDelete(SqlDelta):
    """Whoever makes a delete has it settled."""

    def settle(self, run, changes):
        for delete in changes:
            if delete.kind == "delete":
                change(self, f"UPDATE {TABLE} SET live = 0 WHERE source = ? AND key = ?", (run.source, delete.key))
        super().settle(run, [change for change in changes if change.kind != "delete"])


class CutsKeys(SqlDelta):
    """Cuts what is too long instead of refusing it: one record of two."""

    def compare(self, run, items):
        return super().compare(run, [replace(item, key=item.key[:256]) if isinstance(item.key, str) and item.key else item for item in items])


class OffByOne(SqlDelta):
    """The longest key is too long."""

    def compare(self, run, items):
        super().compare(run, [replace(item, key=item.key + " ") for item in items])
        return super().compare(run, items)


class ChokesOnReasons(SqlDelta):
    """Cannot write down what the reader said."""

    def finish(self, run, evidence, *, allow=""):
        if not evidence.reason.isprintable():
            raise ValueError("not printable")
        return super().finish(run, evidence, allow=allow)


class SettlesOnItsOwn(SqlDelta):
    """Commits at once."""

    def settle(self, run, changes):
        super().settle(run, changes)
        commit_early(self._store)


class CountsBySettle(SqlDelta):
    """What was settled is what was seen, however often."""

    def settle(self, run, changes):
        super().settle(run, changes)
        run.upserts += sum(change.kind == "upsert" for change in changes)

    def compare(self, run, items):
        changes = super().compare(run, items)
        run.upserts -= sum(change is not None for change in changes)
        return changes


class SettlesWhatIsThere(SqlDelta):
    """Remembers nothing of a record that it has no row of."""

    def settle(self, run, changes):
        there = {key for (key,) in look(self, f"SELECT key FROM {TABLE} WHERE source = ?", (run.source,))}
        super().settle(run, [change for change in changes if change.key in there])


class ForgetsOnRestart(SqlDelta):
    """Begins to count again when it is opened."""

    def __init__(self, store, **named):
        super().__init__(store, **named)
        change(self, "UPDATE buttress_delta_source SET run = 0")


class KeepsTheLastRun(SqlDelta):
    """Takes what earlier runs settled for leftovers when it is opened."""

    def __init__(self, store, **named):
        super().__init__(store, **named)
        change(self, f"DELETE FROM {TABLE} WHERE live = 1 AND version < (SELECT max(version) FROM {TABLE})")


MUTANTS = [
    (LosesRaw, conformance.a_new_record_is_an_upsert),
    (OffersAll, conformance.what_was_settled_is_no_news),
    (SettlesBeforeTheSink, conformance.what_was_not_settled_comes_again),
    (LooksAtTheKeyAlone, conformance.the_same_bytes_need_no_parsing),
    (SameWithoutBytes, conformance.no_bytes_are_never_the_same),
    (RemembersTheBytesAtOnce, conformance.same_knows_only_what_was_settled),
    (SettlesBeforeTheSink, conformance.same_knows_only_what_was_settled),
    (KeepsOldBytes, conformance.other_bytes_that_say_the_same_are_remembered),
    (TheLastCounts, conformance.the_first_of_a_repeated_key_counts),
    (CountsRepeatedKeys, conformance.the_first_of_a_repeated_key_counts),
    (OneVersionForAll, conformance.versions_grow),
    (OneVersionForAll, conformance.what_was_not_settled_comes_again),
    (CountsNothingKnown, conformance.the_run_counts),
    (MixesSources, conformance.sources_are_apart),
    (IgnoresCase, conformance.keys_are_compared_byte_by_byte),
    (LosesMarks, conformance.what_a_whole_run_missed_is_deleted),
    (FirstPageOnly, conformance.what_a_whole_run_missed_is_deleted),
    (DeletesOfAnyRun, conformance.nothing_goes_without_evidence),
    (BelievesAnyReader, conformance.nothing_goes_without_evidence),
    (NoReason, conformance.nothing_goes_without_evidence),
    (IgnoresTheCount, conformance.a_count_that_differs_is_no_evidence),
    (GuardsByNumber, conformance.a_mass_delete_is_held),
    (GuardsByNumber, conformance.a_source_may_shrink),
    (NeverHolds, conformance.a_mass_delete_is_held),
    (DeletesOfAnyRun, conformance.a_mass_delete_is_held),
    (HoldsTheSmall, conformance.a_source_may_shrink),
    (ComparesCounts, conformance.the_guard_looks_at_what_is_known),
    (AllowsAnything, conformance.somebody_may_allow_it),
    (AsksNobody, conformance.somebody_may_allow_it),
    (ForgetsWhatItHeld, conformance.what_was_held_goes_later),
    (DeletesBeforeTheSink, conformance.a_delete_that_was_not_settled_comes_again),
    (RemembersTheDead, conformance.what_was_deleted_may_come_back),
    (ForgetsTheDoubt, conformance.a_change_in_doubt_is_given_again),
    (ForgetsTheDoubt, conformance.a_delete_in_doubt_is_made_good),
    (ForgetsTheDoubt, conformance.a_new_record_in_doubt_is_deleted),
    (LetsTheStaleDelete, conformance.an_overtaken_run_gives_no_deletes),
    (ForgetsTheFence, conformance.a_later_run_ends_the_one_before),
    (ReadsOn, conformance.a_finished_run_reads_no_more),
    (SettlesAnyVersion, conformance.settle_takes_its_own_changes),
    (SettlesHalf, conformance.settle_takes_its_own_changes),
    (SettlesOnce, conformance.settle_twice_is_settle_once),
    (SettlesAnyDelete, conformance.no_delete_is_settled_without_evidence),
    (CutsKeys, conformance.limits_are_refused),
    (OffByOne, conformance.limits_are_inclusive),
    (ChokesOnReasons, conformance.any_reason_can_be_told),
    (SettlesOnItsOwn, conformance.settle_joins_the_transaction),
    (CountsBySettle, conformance.marks_outlive_a_rollback),
    (CountsBySettle, conformance.a_repeated_key_counts_once_through_a_rollback),
    (SettlesWhatIsThere, conformance.what_a_rolled_back_compare_gave_is_settled),
    (ForgetsOnRestart, conformance.everything_outlives_the_process),
    (KeepsTheLastRun, conformance.everything_outlives_the_process),
]


def make_case(mutant, stores):
    return conformance.Case(
        maker=lambda clock: mutant(stores.fresh(clock)),
        deletes=lambda mine, finished: mine.deletes(finished),
        transaction=lambda mine: mine._store.transaction(),
        reopen=lambda mine, clock: mutant(stores.reopen(mine._store, clock)),
    )


@pytest.fixture
def case(request, sqlite_stores):
    return make_case(request.param, sqlite_stores)


@pytest.mark.parametrize(("case", "promise"), MUTANTS, indirect=["case"])
def test_a_mutant_is_found(case, promise):
    with pytest.raises(AssertionError, match=": 1 broken\n"):
        verify("Mutant", [promise], case)


@pytest.mark.parametrize(("case", "promise"), [(LosesMarks, conformance.what_a_whole_run_missed_is_deleted),
                                               (SettlesOnItsOwn, conformance.settle_joins_the_transaction),
                                               (ForgetsOnRestart, conformance.everything_outlives_the_process)], indirect=["case"])
def test_the_whole_check_names_the_promise(case, promise):
    with pytest.raises(AssertionError) as failure:
        check_delta(case.maker, deletes=case.deletes, transaction=case.transaction, reopen=case.reopen)
    assert f"- {sentence(promise)} But: " in str(failure.value)


def test_every_promise_was_seen_broken():
    every = conformance.promises(conformance.Case(None, None, transaction=True, reopen=True))
    assert {promise for _, promise in MUTANTS} == set(every)
