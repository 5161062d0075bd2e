"""Idempotencies that are wrong on purpose: each breaks a promise, and the check of that promise must find it.

A check that lets a mutant through proves nothing about the implementations that it praises.
"""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest

from buttress.kernel.errors import ButtressError, Stale
from buttress.kernel.idempotency import InFlight, MemoryIdempotency, New, SqlIdempotency, Unknown
from buttress.testing import check_idempotency
from buttress.testing import idempotency as conformance
from buttress.testing.promise import sentence, verify

# -- in memory


class ForgetsTheFence(MemoryIdempotency):
    """Whoever settles last wins."""

    def _update(self, key, fence, change):
        entry = self._entries.get(key)
        super()._update(key, entry.fence if entry else fence, change)


class SwallowsStale(MemoryIdempotency):
    """Refuses a stale holder without telling it."""

    def _update(self, key, fence, change):
        try:
            super()._update(key, fence, change)
        except Stale:
            pass


class RefusesLateHolders(MemoryIdempotency):
    """Goes by time instead of fences."""

    def _update(self, key, fence, change):
        entry = self._entries.get(key)
        if entry is not None and entry.until <= self._clock.now():
            raise Stale("late")
        super()._update(key, fence, change)


class ReopensDone(MemoryIdempotency):
    """A done key can be settled again by its holder."""

    def _update(self, key, fence, change):
        entry = self._entries.get(key)
        if entry is not None and entry.settled is not None:
            self._entries[key] = replace(entry, settled=None)
        super()._update(key, fence, change)


class DropsFactsOnRetire(MemoryIdempotency):
    """Retention that forgets: the duplicate after it is New."""

    def retire(self, before):
        old = [key for key, entry in self._entries.items() if entry.settled is not None and entry.settled < before]
        for key in old:
            del self._entries[key]
        return len(old)


class ForgetsAfterTwoDays(MemoryIdempotency):
    """A marker with a time to live."""

    def claim(self, key, fingerprint, lease_s):
        entry = self._entries.get(key)
        if entry is not None and entry.settled is not None and entry.settled < self._clock.now() - 48 * 3600:
            del self._entries[key]
        return super().claim(key, fingerprint, lease_s)


class RetiresEverything(MemoryIdempotency):
    """Does not look at the time."""

    def retire(self, before):
        return super().retire(float("inf"))


class RetiresHolders(MemoryIdempotency):
    """Housekeeping that cleans away what is not settled."""

    def retire(self, before):
        count = super().retire(before)
        for key in [key for key, entry in self._entries.items() if entry.settled is None and entry.until < before]:
            del self._entries[key]
        return count


class NewWhileInFlight(MemoryIdempotency):
    """Lets a second holder in."""

    def claim(self, key, fingerprint, lease_s):
        answer = super().claim(key, fingerprint, lease_s)
        return New(self._entries[key].fence) if isinstance(answer, InFlight) else answer


class NeverLetsGo(MemoryIdempotency):
    """A crash leaves the key in flight for ever."""

    def claim(self, key, fingerprint, lease_s):
        return super().claim(key, fingerprint, 1e8 + lease_s)


class ForgetsTheIntent(MemoryIdempotency):
    """Runs an effect again that may have happened."""

    def intend(self, key, fence, intent):
        self.renew(key, fence, 30.0)


class Guesses(MemoryIdempotency):
    """Answers a doubt with New."""

    def claim(self, key, fingerprint, lease_s):
        answer = super().claim(key, fingerprint, lease_s)
        return New(answer.fence) if isinstance(answer, Unknown) else answer


class DoubtsOnce(MemoryIdempotency):
    """Forgets the intent when the first resolver takes it."""

    def claim(self, key, fingerprint, lease_s):
        answer = super().claim(key, fingerprint, lease_s)
        if isinstance(answer, Unknown):
            self._entries[key] = replace(self._entries[key], intent=None)
        return answer


class KeepsTheIntent(MemoryIdempotency):
    """settle(None) leaves the old intent behind."""

    def settle(self, key, fence, outcome):
        intent = self._entries[key].intent if key in self._entries else None
        super().settle(key, fence, outcome)
        self._entries[key] = replace(self._entries[key], intent=intent)


class ManyResolvers(MemoryIdempotency):
    """Tells everyone who asks to resolve."""

    def claim(self, key, fingerprint, lease_s):
        answer = super().claim(key, fingerprint, lease_s)
        entry = self._entries[key]
        return Unknown(entry.fence, entry.intent) if isinstance(answer, InFlight) and entry.intent is not None else answer


class KeepsTheKey(MemoryIdempotency):
    """settle(None) waits for the lease."""

    def settle(self, key, fence, outcome):
        if outcome is None:
            self.renew(key, fence, 30.0)
        else:
            super().settle(key, fence, outcome)


class FencesStartAgain(MemoryIdempotency):
    """A freed key is forgotten, its fence with it."""

    def settle(self, key, fence, outcome):
        super().settle(key, fence, outcome)
        if outcome is None:
            del self._entries[key]


class RenewsFromTheEnd(MemoryIdempotency):
    """Adds to the lease instead of counting from now."""

    def renew(self, key, fence, lease_s):
        entry = self._entries.get(key)
        super().renew(key, fence, lease_s + (max(0.0, entry.until - self._clock.now()) if entry else 0.0))


class IgnoresThePayload(MemoryIdempotency):
    """Another payload under the same key is dropped as a duplicate."""

    def claim(self, key, fingerprint, lease_s):
        known = self._entries.get(key)
        return super().claim(key, known.fingerprint if known else fingerprint, lease_s)


class EmptyIsNone(MemoryIdempotency):
    """Takes an empty outcome for none."""

    def settle(self, key, fence, outcome):
        super().settle(key, fence, outcome or None)


class EmptyIntentIsNone(MemoryIdempotency):
    """Takes an empty intent for none."""

    def intend(self, key, fence, intent):
        super().intend(key, fence, intent or None)


class IgnoresCase(MemoryIdempotency):
    """As a database with a case-blind collation does."""

    def claim(self, key, fingerprint, lease_s):
        return super().claim(key.lower() if isinstance(key, str) else key, fingerprint, lease_s)


class CutsKeys(MemoryIdempotency):
    """Cuts what is too long instead of refusing it."""

    def claim(self, key, fingerprint, lease_s):
        return super().claim(key[:256] if isinstance(key, str) else key, fingerprint, lease_s)


class WritesBeforeItChecks(MemoryIdempotency):
    """Refuses the lease after the key was taken."""

    def claim(self, key, fingerprint, lease_s):
        if not 0 < lease_s < 1e9:
            super().claim(key, fingerprint, 30.0)
        return super().claim(key, fingerprint, lease_s)


class MakesWhatItSettles(MemoryIdempotency):
    """settle of an unknown key makes it."""

    def settle(self, key, fence, outcome):
        if key not in self._entries:
            self.claim(key, b"\x00print", 30.0)
        super().settle(key, fence, outcome)


class LooksThenTakes(MemoryIdempotency):
    """GET, then SET: two that look at the same time both take."""

    def __init__(self, clock):
        super().__init__(clock)
        self._meeting = threading.Barrier(4)

    def claim(self, key, fingerprint, lease_s):
        fresh = key not in self._entries
        try:
            self._meeting.wait(0.02)
        except threading.BrokenBarrierError:
            pass
        answer = super().claim(key, fingerprint, lease_s)
        return New(1) if fresh else answer


class TakesAndTellsNobody(MemoryIdempotency):
    """The first claim is answered like the second."""

    def claim(self, key, fingerprint, lease_s):
        answer = super().claim(key, fingerprint, lease_s)
        return InFlight(self._entries[key].until) if answer == New(1) else answer


class TakesNoIntentForOne(MemoryIdempotency):
    """intend(None) takes the intent back."""

    def intend(self, key, fence, intent):
        if intent is None:
            self._update(key, fence, lambda entry: replace(entry, intent=None))
        else:
            super().intend(key, fence, intent)


class PassesEverythingOn(MemoryIdempotency):
    """Leaves it to its driver to complain."""

    def renew(self, key, fence, lease_s):
        fence.to_bytes(8, "big", signed=True)
        super().renew(key, fence, lease_s)


class EscapesSurrogates(MemoryIdempotency):
    """Makes another key of what is no Unicode: two keys may become one."""

    def claim(self, key, fingerprint, lease_s):
        return super().claim(key.encode("utf-8", "replace").decode() if isinstance(key, str) else key, fingerprint, lease_s)


class StumblesOverTypes(MemoryIdempotency):
    """Computes before it checks."""

    def claim(self, key, fingerprint, lease_s):
        return super().claim(key, fingerprint, lease_s + 0.0)


class OffByOne(MemoryIdempotency):
    """The longest key is too long."""

    def claim(self, key, fingerprint, lease_s):
        return super().claim(key + " " if isinstance(key, str) and len(key) > 1 else key, fingerprint, lease_s)


# -- on a store


def commit_early(store):
    """Commits what the caller has open, and goes on in a transaction of its own."""
    tx = getattr(store._local, "tx", None)
    if tx is not None:
        tx.connection.execute("COMMIT")
        tx.connection.execute("BEGIN IMMEDIATE")


class ClaimsOnItsOwn(SqlIdempotency):
    """Commits the claim at once, whatever becomes of the caller's transaction."""

    def claim(self, key, fingerprint, lease_s):
        answer = super().claim(key, fingerprint, lease_s)
        commit_early(self._store)
        return answer


class SettlesOnItsOwn(SqlIdempotency):
    """Commits Done at once: the effect may still be rolled back."""

    def settle(self, key, fence, outcome):
        super().settle(key, fence, outcome)
        commit_early(self._store)


class IntendsInside(SqlIdempotency):
    """Writes the intent into the open transaction: not durable before the effect."""

    def intend(self, key, fence, intent):
        with self._store.transaction() as tx:
            self._update(tx, "intent = ?", (intent,), key, fence)


class RefusesAfterItWrote(SqlIdempotency):
    """Says no, and the intent is in the transaction that the caller commits."""

    def intend(self, key, fence, intent):
        with self._store.transaction() as tx:
            self._update(tx, "intent = ?", (intent,), key, fence)
        raise ButtressError("never inside a transaction")


class OneNamespace(SqlIdempotency):
    """All tenants share their keys."""

    def __init__(self, store, namespace="", **named):
        super().__init__(store, "", **named)


class RetiresNeighbours(SqlIdempotency):
    """retire of one namespace clears them all."""

    def retire(self, before):
        with self._store.transaction() as tx:
            return tx.execute("UPDATE buttress_idempotency SET outcome = NULL WHERE settled < ? AND outcome IS NOT NULL", (before,))


class LosesIntentsOnRestart(SqlIdempotency):
    """Cleans up when it is opened."""

    def __init__(self, store, namespace="", **named):
        super().__init__(store, namespace, **named)
        with store.transaction() as tx:
            tx.execute("UPDATE buttress_idempotency SET intent = NULL")


class FencesStartAgainOnRestart(SqlIdempotency):
    """Keeps its fences in memory."""

    def __init__(self, store, namespace="", **named):
        super().__init__(store, namespace, **named)
        with store.transaction() as tx:
            tx.execute("UPDATE buttress_idempotency SET fence = 0 WHERE settled IS NULL")


MUTANTS = [
    (ForgetsTheFence, conformance.a_stale_holder_is_refused),
    (ForgetsTheFence, conformance.there_is_one_resolver),
    (SwallowsStale, conformance.a_stale_holder_is_refused),
    (RefusesLateHolders, conformance.a_late_holder_may_settle),
    (ReopensDone, conformance.done_stays_done),
    (DropsFactsOnRetire, conformance.retire_keeps_the_fact),
    (ForgetsAfterTwoDays, conformance.a_settled_key_is_done),
    (RetiresEverything, conformance.retire_keeps_the_fact),
    (RetiresHolders, conformance.retire_leaves_the_unsettled),
    (NewWhileInFlight, conformance.a_held_key_is_in_flight),
    (NewWhileInFlight, conformance.of_many_claims_one_is_new),
    (NeverLetsGo, conformance.a_lost_holder_without_intent_is_new),
    (ForgetsTheIntent, conformance.a_lost_holder_with_intent_is_unknown),
    (Guesses, conformance.a_lost_holder_with_intent_is_unknown),
    (DoubtsOnce, conformance.there_is_one_resolver),
    (KeepsTheIntent, conformance.what_did_not_happen_is_forgotten),
    (ManyResolvers, conformance.there_is_one_resolver),
    (KeepsTheKey, conformance.settle_none_frees_the_key),
    (FencesStartAgain, conformance.fences_rise),
    (RenewsFromTheEnd, conformance.renew_counts_from_now),
    (IgnoresThePayload, conformance.another_payload_is_a_mismatch),
    (EmptyIsNone, conformance.a_settled_key_is_done),
    (EmptyIntentIsNone, conformance.a_lost_holder_with_intent_is_unknown),
    (IgnoresCase, conformance.keys_are_compared_byte_by_byte),
    (CutsKeys, conformance.limits_are_refused),
    (WritesBeforeItChecks, conformance.limits_are_refused),
    (MakesWhatItSettles, conformance.nobody_holds_what_was_not_claimed),
    (LooksThenTakes, conformance.of_many_claims_one_is_new),
    (TakesAndTellsNobody, conformance.a_fresh_key_is_new),
    (TakesNoIntentForOne, conformance.an_intent_is_bytes),
    (PassesEverythingOn, conformance.what_cannot_be_held_is_refused),
    (EscapesSurrogates, conformance.text_that_is_not_unicode_is_refused),
    (StumblesOverTypes, conformance.a_lease_is_a_number),
    (OffByOne, conformance.limits_are_inclusive),
    (ClaimsOnItsOwn, conformance.claim_joins_the_transaction),
    (SettlesOnItsOwn, conformance.settle_joins_the_transaction),
    (SettlesOnItsOwn, conformance.claim_and_settle_in_one_transaction),
    (IntendsInside, conformance.intend_refuses_a_transaction),
    (RefusesAfterItWrote, conformance.intend_refuses_a_transaction),
    (OneNamespace, conformance.namespaces_are_apart),
    (RetiresNeighbours, conformance.namespaces_are_apart),
    (LosesIntentsOnRestart, conformance.everything_outlives_the_process),
    (FencesStartAgainOnRestart, conformance.a_stale_holder_is_refused_after_a_restart),
]


@pytest.fixture
def case(request, sqlite_stores):
    mutant = request.param
    if issubclass(mutant, MemoryIdempotency):
        return conformance.Case(mutant)
    return conformance.Case(
        maker=lambda clock: mutant(sqlite_stores.fresh(clock)),
        reopen=lambda mine, clock: mutant(sqlite_stores.reopen(mine._store, clock)),
        transaction=lambda mine: mine._store.transaction(),
        neighbour=lambda mine, clock: mutant(mine._store, "another"),
    )


@pytest.mark.parametrize(("case", "promise"), MUTANTS, indirect=["case"])
def test_a_mutant_is_found(case, promise):
    with pytest.raises(AssertionError, match=": 1 broken\n"):
        verify("Mutant", [promise], case)


@pytest.mark.parametrize(("case", "promise"), [MUTANTS[0], MUTANTS[-9], MUTANTS[-4], MUTANTS[-1]], indirect=["case"])
def test_the_whole_check_names_the_promise(case, promise):
    with pytest.raises(AssertionError) as failure:
        check_idempotency(case.maker, reopen=case.reopen, transaction=case.transaction, neighbour=case.neighbour)
    assert f"- {sentence(promise)} But: " in str(failure.value)


def test_what_does_not_outlive_its_process_is_found():
    with pytest.raises(AssertionError):
        conformance.everything_outlives_the_process(conformance.Case(MemoryIdempotency, reopen=lambda mine, clock: MemoryIdempotency(clock)))


def test_every_promise_was_seen_broken():
    every = conformance.promises(conformance.Case(MemoryIdempotency, reopen=True, transaction=True, neighbour=True))
    assert {promise for _, promise in MUTANTS} == set(every)
