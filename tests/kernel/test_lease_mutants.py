"""Leases that are wrong on purpose: each breaks a promise, and the check of that promise must find it."""

from __future__ import annotations

import itertools
import threading
from dataclasses import replace

import pytest

from buttress.kernel.errors import InvalidInput, Stale
from buttress.kernel.lease import Lease, SqlLeases, Taken
from buttress.testing import check_leases
from buttress.testing import lease as conformance
from buttress.testing.promise import sentence, verify


def change(leases, sql, params=()):
    """Works on the table behind the back of the primitive."""
    with leases._store.transaction() as tx:
        return tx.execute(sql, params)


class GivesNothing(SqlLeases):
    """Tells everybody that it is taken."""

    def acquire(self, name, holder, lease_s):
        super().acquire(name, holder, lease_s)
        return Taken("nobody", 0.0)


class GivesToAll(SqlLeases):
    """Whoever asks has it."""

    def acquire(self, name, holder, lease_s):
        answer = super().acquire(name, holder, lease_s)
        return super().acquire(name, answer.holder, lease_s) if isinstance(answer, Taken) else answer


class NeverEnds(SqlLeases):
    """A lease ends when it is let go, and not before."""

    def acquire(self, name, holder, lease_s):
        return replace(answer, until=self._clock.now() + lease_s) if isinstance(answer := super().acquire(name, holder, 9e8), Lease) else answer


class EndsTooLate(SqlLeases):
    """At the very end of its time a lease still stands."""

    def hold(self, lease):
        with self._store.transaction() as tx:
            if self._row(tx, lease.name)[1:] == (lease.fence, self._clock.now()):
                return
        super().hold(lease)


class ForgetsFences(SqlLeases):
    """Deletes what was let go, and begins to count again."""

    def release(self, lease):
        change(self, "DELETE FROM buttress_lease WHERE name = ? AND fence = ?", (lease.name, lease.fence))


class SameHolderSameFence(SqlLeases):
    """Takes two processes of one name for one."""

    def acquire(self, name, holder, lease_s):
        with self._store.transaction() as tx:
            before, fence, until = self._row(tx, name)
            if before == holder and until > self._clock.now():
                return Lease(name, holder, fence, until)
        return super().acquire(name, holder, lease_s)


class RefusesItsHolder(SqlLeases):
    """A standing lease is not given again, not even to its holder, who may have died."""

    def acquire(self, name, holder, lease_s):
        return taken if (taken := self.standing(name)) else super().acquire(name, holder, lease_s)


class LetsGoOfAll(SqlLeases):
    """Does not look at the name."""

    def release(self, lease):
        change(self, "UPDATE buttress_lease SET until = 0 WHERE fence = ?", (lease.fence,))


class IgnoresCase(SqlLeases):
    """Compares names as people do."""

    def acquire(self, name, holder, lease_s):
        return super().acquire(name.lower() if isinstance(name, str) else name, holder, lease_s)


class LooksThenTakes(SqlLeases):
    """Two steps: of those who look at the same time all take it."""

    def __init__(self, store, **named):
        super().__init__(store, **named)
        self._looking = threading.Barrier(4)

    def acquire(self, name, holder, lease_s):
        there = self.standing(name)
        if threading.current_thread() is not threading.main_thread():
            self._looking.wait(10)
        answer = super().acquire(name, holder, lease_s)
        return answer if there or isinstance(answer, Lease) else Lease(name, holder, 1, answer.until)


class BelievesTheHolder(SqlLeases):
    """hold goes by the fence alone."""

    def hold(self, lease):
        with self._store.transaction() as tx:
            if self._row(tx, lease.name)[1] != lease.fence:
                raise Stale("another holder has it")


class GoesByTheHoldersTime(SqlLeases):
    """hold goes by the end that the lease itself names: who slept and who came after it may both."""

    def hold(self, lease):
        if lease.until <= self._clock.now():
            raise Stale("over")


class LetsGoOfAnothers(SqlLeases):
    """Does not look at the fence: who slept lets go of its successor's lease."""

    def release(self, lease):
        change(self, "UPDATE buttress_lease SET until = 0 WHERE name = ?", (lease.name,))


class RenewsForAnybody(SqlLeases):
    """Does not look at the fence: who slept takes it back."""

    def renew(self, lease, lease_s):
        with self._store.transaction() as tx:
            _, fence, until = self._row(tx, lease.name)
            if until <= self._clock.now():
                raise Stale("over")
        return super().renew(replace(lease, fence=fence), lease_s)


class RenewsFromTheEnd(SqlLeases):
    """Adds to what is left, and so adds up."""

    def renew(self, lease, lease_s):
        return super().renew(lease, lease.until - self._clock.now() + lease_s if lease_s == lease_s else lease_s)


class RenewsWithANewFence(SqlLeases):
    """The fence that the holder wrote with its effects is no longer its own."""

    def renew(self, lease, lease_s):
        super().renew(lease, lease_s)
        return self.acquire(lease.name, lease.holder, lease_s)


class RenewsTheDead(SqlLeases):
    """Renews by fence alone, also what was let go or is over."""

    def renew(self, lease, lease_s):
        until = self._clock.now() + lease_s
        if change(self, "UPDATE buttress_lease SET until = ? WHERE name = ? AND fence = ?", (until, lease.name, lease.fence)) != 1:
            raise Stale("another holder has it")
        return replace(lease, until=until)


class LetsGoLater(SqlLeases):
    """Leaves it to the end of its time."""

    def release(self, lease):
        pass


class TellsOfTheDead(SqlLeases):
    """standing names the last holder, whether it stands or not."""

    def standing(self, name):
        super().standing(name)
        with self._store.transaction() as tx:
            row = tx.one("SELECT holder, until FROM buttress_lease WHERE name = ?", (name,))
        return Taken(*row) if row else None


class HoldsWhatWasNeverGiven(SqlLeases):
    """Finds nothing against a name that it does not know."""

    def hold(self, lease):
        with self._store.transaction() as tx:
            if tx.one("SELECT 1 FROM buttress_lease WHERE name = ?", (lease.name,)):
                super().hold(lease)


class CutsNames(SqlLeases):
    """Cuts what is too long instead of refusing it: one lease for two names."""

    def acquire(self, name, holder, lease_s):
        return super().acquire(name.encode()[:512].decode(errors="ignore") if isinstance(name, str) and name.isprintable() else name, holder, lease_s)


class TakesAnyTime(SqlLeases):
    """A lease of no time, or for ever."""

    def acquire(self, name, holder, lease_s):
        try:
            return super().acquire(name, holder, lease_s)
        except InvalidInput as error:
            if error.field != "lease_s":
                raise
            return super().acquire(name, holder, 9e8)


class ChokesOnBigNumbers(SqlLeases):
    """Raises what the arithmetic raises."""

    def renew(self, lease, lease_s):
        return super().renew(lease, float(lease_s) if isinstance(lease_s, int) else lease_s)


class OffByOne(SqlLeases):
    """The longest name is too long."""

    def acquire(self, name, holder, lease_s):
        return super().acquire(name + " " if isinstance(name, str) else name, holder, lease_s)


class HoldsWithoutALock(SqlLeases):
    """Looks, and lets others go on before the effect is committed."""

    def hold(self, lease):
        super().hold(lease)
        tx = getattr(self._store._local, "tx", None)
        if tx is not None:
            tx.connection.execute("COMMIT")
            tx.connection.execute("BEGIN")
            self._store._write_lock = _Passing()


class _Passing:
    """A lock that keeps nobody out."""

    def acquire(self, timeout=None):
        return True

    def release(self):
        pass


class CommitsInHold(SqlLeases):
    """hold commits what was done before it, refused or not."""

    def hold(self, lease):
        tx = getattr(self._store._local, "tx", None)
        if tx is not None:
            tx.connection.execute("COMMIT")
            tx.connection.execute("BEGIN IMMEDIATE")
        super().hold(lease)


class GivesTheSameFenceAgain(SqlLeases):
    """hold looks at the number alone, and numbers that were rolled back are given again."""

    def hold(self, lease):
        with self._store.transaction() as tx:
            _, fence, until = self._row(tx, lease.name)
            if fence != lease.fence or until <= self._clock.now():
                raise Stale("another holder has it")

    def acquire(self, name, holder, lease_s):
        with self._store.transaction() as tx:
            before, fence, until = self._row(tx, name)
            if until > self._clock.now() and before != holder:
                return Taken(before, until)
            lease = Lease(name, holder, fence + 1, self._clock.now() + lease_s)
            tx.execute("INSERT INTO buttress_lease (name, holder, fence, until) VALUES (?, ?, ?, ?) ON CONFLICT (name) DO UPDATE SET "
                       "holder = excluded.holder, fence = excluded.fence, until = excluded.until", (name, holder, lease.fence, lease.until))
        return lease


class FreesOnRestart(SqlLeases):
    """Frees what was held when it is opened."""

    def __init__(self, store, **named):
        super().__init__(store, **named)
        change(self, "UPDATE buttress_lease SET until = 0")


class CountsInMemory(SqlLeases):
    """Fences begin again with each process."""

    def __init__(self, store, **named):
        super().__init__(store, **named)
        self._fences = itertools.count(1)

    def acquire(self, name, holder, lease_s):
        answer = super().acquire(name, holder, lease_s)
        if isinstance(answer, Lease):
            answer = replace(answer, fence=next(self._fences))
            change(self, "UPDATE buttress_lease SET fence = ? WHERE name = ?", (answer.fence, name))
        return answer


MUTANTS = [
    (GivesNothing, conformance.a_free_name_is_given),
    (GivesToAll, conformance.a_held_name_is_taken),
    (NeverEnds, conformance.a_lease_ends_by_itself),
    (EndsTooLate, conformance.hold_goes_by_time),
    (BelievesTheHolder, conformance.hold_goes_by_time),
    (ForgetsFences, conformance.fences_rise),
    (SameHolderSameFence, conformance.the_same_holder_gets_a_new_fence),
    (RefusesItsHolder, conformance.the_same_holder_gets_a_new_fence),
    (LetsGoOfAll, conformance.names_are_apart),
    (IgnoresCase, conformance.names_are_compared_byte_by_byte),
    (LooksThenTakes, conformance.of_many_one_gets_it),
    (GoesByTheHoldersTime, conformance.the_same_holder_gets_a_new_fence),
    (LetsGoOfAnothers, conformance.a_holder_that_slept_is_refused),
    (RenewsForAnybody, conformance.a_holder_that_slept_is_refused),
    (RenewsFromTheEnd, conformance.renew_counts_from_now),
    (RenewsWithANewFence, conformance.renew_counts_from_now),
    (RenewsTheDead, conformance.a_lease_that_is_over_is_not_renewed),
    (RenewsTheDead, conformance.release_frees_at_once),
    (LetsGoLater, conformance.release_frees_at_once),
    (TellsOfTheDead, conformance.standing_tells_who_has_it),
    (HoldsWhatWasNeverGiven, conformance.what_was_never_given_is_not_held),
    (CutsNames, conformance.limits_are_refused),
    (TakesAnyTime, conformance.limits_are_refused),
    (ChokesOnBigNumbers, conformance.any_number_is_a_time_or_refused),
    (OffByOne, conformance.limits_are_inclusive),
    (HoldsWithoutALock, conformance.hold_keeps_others_out),
    (CommitsInHold, conformance.hold_joins_the_transaction),
    (GivesTheSameFenceAgain, conformance.a_lease_that_was_rolled_back_is_none),
    (FreesOnRestart, conformance.everything_outlives_the_process),
    (CountsInMemory, conformance.everything_outlives_the_process),
]


@pytest.fixture
def case(request, sqlite_stores):
    mutant = request.param
    return conformance.Case(
        maker=lambda clock: mutant(sqlite_stores.fresh(clock, busy_timeout_s=0.2)),
        transaction=lambda mine: mine._store.transaction(),
        reopen=lambda mine, clock: mutant(sqlite_stores.reopen(mine._store, clock)),
    )


@pytest.mark.parametrize(("case", "promise"), MUTANTS, indirect=["case"])
def test_a_mutant_is_found(case, promise):
    with pytest.raises(AssertionError, match=": 1 broken\n"):
        verify("Mutant", [promise], case)


@pytest.mark.parametrize(("case", "promise"), [(BelievesTheHolder, conformance.hold_goes_by_time),
                                               (CommitsInHold, conformance.hold_joins_the_transaction),
                                               (FreesOnRestart, conformance.everything_outlives_the_process)], indirect=["case"])
def test_the_whole_check_names_the_promise(case, promise):
    with pytest.raises(AssertionError) as failure:
        check_leases(case.maker, transaction=case.transaction, reopen=case.reopen)
    assert f"- {sentence(promise)} But: " in str(failure.value)


def test_every_promise_was_seen_broken():
    every = conformance.promises(conformance.Case(None, transaction=True, reopen=True))
    assert {promise for _, promise in MUTANTS} == set(every)
