"""Outboxes that are wrong on purpose: each breaks a promise, and the check of that promise must find it."""

from __future__ import annotations

import itertools
import threading
from dataclasses import replace

import pytest

from buttress.kernel.errors import InvalidInput, Stale
from buttress.kernel.outbox import SEQ_SPAN, Dead, Message, Retry, Sent, SqlOutbox
from buttress.testing import check_outbox
from buttress.testing import outbox as conformance
from buttress.testing.promise import sentence, verify


def commit_early(store):
    """Commits what the caller has open, and goes on in a transaction of its own."""
    tx = getattr(store._local, "tx", None)
    if tx is not None:
        tx.connection.execute("COMMIT")
        tx.connection.execute("BEGIN IMMEDIATE")


class SendsWithoutACommit(SqlOutbox):
    """Commits each message at once."""

    def put(self, stream, key, payload, **options):
        place = super().put(stream, key, payload, **options)
        commit_early(self._store)
        return place


class CountsAllStreamsTogether(SqlOutbox):
    """One sequence for all."""

    def __init__(self, store, **named):
        super().__init__(store, **named)
        self._numbers = itertools.count()

    def put(self, stream, key, payload, **options):
        super().put(stream, key, payload, **options)
        return (0, next(self._numbers))


class UsesUpNumbers(SqlOutbox):
    """Takes a number for every put, also for one that comes again."""

    def put(self, stream, key, payload, **options):
        with self._store.transaction() as tx:
            known = tx.one("SELECT 1 FROM buttress_outbox WHERE stream = ? AND key = ?", (stream, key))
            if known:
                tx.execute("UPDATE buttress_outbox_stream SET next_seq = next_seq + 1 WHERE stream = ?", (stream,))
        return super().put(stream, key, payload, **options)


class TwiceIsTwo(SqlOutbox):
    """The same key again is another message."""

    number = itertools.count()

    def put(self, stream, key, payload, **options):
        with self._store.transaction() as tx:
            known = tx.one("SELECT 1 FROM buttress_outbox WHERE stream = ? AND key = ?", (stream, key))
        return super().put(stream, f"{key}-{next(self.number)}" if known else key, payload, **options)


class DropsTheSecondPayload(SqlOutbox):
    """Another payload under the same key goes missing."""

    def put(self, stream, key, payload, **options):
        try:
            return super().put(stream, key, payload, **options)
        except InvalidInput as error:
            if error.field != "payload" or "differs" not in error.rule:
                raise
            return (0, 0)


class TakesWhatIsHeld(SqlOutbox):
    """Does not write the lease down."""

    def take(self, limit, lease_s, streams=None):
        return super().take(limit, 1e-9, streams)


class ForgetsTheDoubt(SqlOutbox):
    """A message that may have been sent comes as if it had not."""

    def take(self, limit, lease_s, streams=None):
        return [replace(message, doubted=False) for message in super().take(limit, lease_s, streams)]


class ForgetsTheFenceOfTheMessage(SqlOutbox):
    """A stale sender may settle."""

    def settle(self, message, verdict):
        with self._store.transaction() as tx:
            row = tx.one("SELECT fence FROM buttress_outbox WHERE stream = ? AND seq = ?", (message.stream, message.seq))
        super().settle(replace(message, fence=row[0]), verdict)


class SendsAgain(SqlOutbox):
    """Sent is as good as Retry."""

    def settle(self, message, verdict):
        super().settle(message, Retry(self._clock.now() + 86_400, "again") if isinstance(verdict, Sent) else verdict)


class NeverWaits(SqlOutbox):
    """Gives what is not due yet."""

    def put(self, stream, key, payload, **options):
        return super().put(stream, key, payload, **{**options, "due": None})


class RetriesAtOnce(SqlOutbox):
    """Does not wait for the due of a retry."""

    def settle(self, message, verdict):
        super().settle(message, replace(verdict, due=self._clock.now()) if isinstance(verdict, Retry) else verdict)


class DeadIsGone(SqlOutbox):
    """What is given up is deleted."""

    def settle(self, message, verdict):
        super().settle(message, verdict)
        if isinstance(verdict, Dead):
            with self._store.transaction() as tx:
                tx.execute("DELETE FROM buttress_outbox WHERE state = 'dead'")


class ReplaysEverything(SqlOutbox):
    """Does not look at the keys."""

    def replay(self, stream, keys=None):
        return super().replay(stream)


class ReplaysTheOvertaken(SqlOutbox):
    """Does not look at what its lane sent since."""

    def replay(self, stream, keys=None):
        with self._store.transaction() as tx:
            only, more = ("", ()) if keys is None else (f"AND key IN ({', '.join('?' * len(keys)) or 'NULL'})", tuple(keys))
            return tx.execute(f"UPDATE buttress_outbox SET state = 'pending', due = ?, attempt = 0 WHERE stream = ? AND state = 'dead' {only}",
                              (self._clock.now(), stream, *more))


class CountsOnAfterReplay(SqlOutbox):
    """A replayed message begins with the attempts that it died of."""

    def replay(self, stream, keys=None):
        with self._store.transaction() as tx:
            before = tx.all("SELECT attempt, stream, epoch, seq FROM buttress_outbox WHERE state = 'dead'")
            count = super().replay(stream, keys)
            for row in before:
                tx.execute("UPDATE buttress_outbox SET attempt = ? WHERE stream = ? AND epoch = ? AND seq = ?", row)
        return count


class IgnoresTheLimit(SqlOutbox):
    """Gives one more than was asked for."""

    def take(self, limit, lease_s, streams=None):
        return super().take(limit + 1 if limit > 0 else limit, lease_s, streams)


class SharesMessages(SqlOutbox):
    """Two senders that look at the same time both hold it."""

    def __init__(self, store, **named):
        super().__init__(store, **named)
        self._last = []

    def take(self, limit, lease_s, streams=None):
        taken = super().take(limit, lease_s, streams)
        if threading.current_thread() is not threading.main_thread() and taken:
            self._last.append(taken[0])
            taken = [*taken, self._last[0]]
        return taken


class SettlesTheMessageOnItsOwn(SqlOutbox):
    """Commits Sent at once."""

    def settle(self, message, verdict):
        super().settle(message, verdict)
        commit_early(self._store)


class OverlooksTheDead(SqlOutbox):
    """A backlog without its dead letters."""

    def backlog(self, stream=None):
        return replace(super().backlog(stream), dead=0)


class ForgetsLeasesOnRestart(SqlOutbox):
    """Frees what was held when it is opened, without a doubt."""

    def __init__(self, store, **named):
        super().__init__(store, **named)
        with store.transaction() as tx:
            tx.execute("UPDATE buttress_outbox SET until = 0 WHERE state = 'pending'")


class KeepsNoOrder(SqlOutbox):
    """Takes the lane and does not keep to it."""

    def put(self, stream, key, payload, **options):
        return super().put(stream, key, payload, **{**options, "lane": None})


class LetsTheDueOvertake(SqlOutbox):
    """What is due later holds nobody back."""

    def put(self, stream, key, payload, **options):
        late = options.get("due") is not None
        return super().put(stream, key, payload, **{**options, "lane": None if late else options.get("lane")})


class SkipsTheLost(SqlOutbox):
    """A message whose sender was lost no longer holds its lane back."""

    def take(self, limit, lease_s, streams=None):
        with self._store.transaction() as tx:
            tx.execute("UPDATE buttress_outbox SET lane = NULL WHERE until > 0 AND until < ?", (self._clock.now(),))
        return super().take(limit, lease_s, streams)


class LooksAtNoStream(SqlOutbox):
    """Gives whatever is due."""

    def take(self, limit, lease_s, streams=None):
        return super().take(limit, lease_s)


class OneLaneAStream(SqlOutbox):
    """All lanes of a stream wait for each other."""

    def put(self, stream, key, payload, **options):
        return super().put(stream, key, payload, **{**options, "lane": options.get("lane") and "one"})


class StopsAtADeadLetter(SqlOutbox):
    """A dead message holds its lane back for ever."""

    def take(self, limit, lease_s, streams=None):
        with self._store.transaction() as tx:
            if tx.one("SELECT 1 FROM buttress_outbox WHERE state = 'dead' AND lane IS NOT NULL"):
                return []
        return super().take(limit, lease_s, streams)


class WrapsIntoTheSameEpoch(SqlOutbox):
    """After 2**32 - 1 it gives numbers that it gave before."""

    def put(self, stream, key, payload, **options):
        place = super().put(stream, key, payload, **options)
        with self._store.transaction() as tx:
            tx.execute("UPDATE buttress_outbox_stream SET epoch = 0 WHERE stream = ?", (stream,))
        return place


class NeverWraps(SqlOutbox):
    """Goes beyond 32 bits."""

    def put(self, stream, key, payload, **options):
        epoch, seq = super().put(stream, key, payload, **options)
        return (0, seq + epoch * SEQ_SPAN)


class OrdersByNumberAlone(SqlOutbox):
    """Takes 0 of the next epoch for older than 2**32 - 1."""

    def take(self, limit, lease_s, streams=None):
        with self._store.transaction() as tx:
            tx.execute("UPDATE buttress_outbox SET epoch = -1 WHERE epoch = 1")
        return super().take(limit, lease_s, streams)


class KeepsTheLastOfATransaction(SqlOutbox):
    """One message a commit."""

    def put(self, stream, key, payload, **options):
        with self._store.transaction() as tx:
            tx.execute("DELETE FROM buttress_outbox WHERE attempt = 0")
            return super().put(stream, key, payload, **options)


class CutsPayloads(SqlOutbox):
    """What is too long for its wire."""

    def take(self, limit, lease_s, streams=None):
        return [replace(message, payload=message.payload[:65_536]) for message in super().take(limit, lease_s, streams)]


class HoldsNothingInATransaction(SqlOutbox):
    """Inside a transaction it gives what it finds, and writes nothing down."""

    def take(self, limit, lease_s, streams=None):
        tx = getattr(self._store._local, "tx", None)
        if tx is None:
            return super().take(limit, lease_s, streams)
        rows = tx.all("SELECT stream, epoch, seq, key, payload FROM buttress_outbox WHERE state = 'pending'")
        return [Message(*row, attempt=1, doubted=False, fence=1, until=0.0) for row in rows]


class RefusesLateSenders(SqlOutbox):
    """Goes by time instead of fences."""

    def settle(self, message, verdict):
        if message.until <= self._clock.now():
            raise Stale("late")
        super().settle(message, verdict)


class CutsKeys(SqlOutbox):
    """Cuts what is too long instead of refusing it."""

    def put(self, stream, key, payload, **options):
        return super().put(stream, key[:256] if isinstance(key, str) else key, payload, **options)


class OffByOne(SqlOutbox):
    """The longest key is too long."""

    def put(self, stream, key, payload, **options):
        return super().put(stream, key + " ", payload, **options)


class CutsLanes(SqlOutbox):
    """Makes one lane of two."""

    def put(self, stream, key, payload, **options):
        lane = options.get("lane")
        return super().put(stream, key, payload, **{**options, "lane": lane and str(lane).encode("utf-8", "replace").decode().replace("\0", "")[:256]})


class CutsNotes(SqlOutbox):
    """Keeps the first 64 KiB of a note and does not tell."""

    def settle(self, message, verdict):
        super().settle(message, replace(verdict, note=verdict.note[:65_536]) if isinstance(verdict, Sent) else verdict)


class TakesNoNumberForNever(SqlOutbox):
    """A due of NaN is never."""

    def put(self, stream, key, payload, **options):
        return super().put(stream, key, payload, **{**options, "due": 1e12 if options.get("due") != options.get("due") else options.get("due")})


class ReadsLetters(SqlOutbox):
    """Takes a text for the list of its letters."""

    def take(self, limit, lease_s, streams=None):
        return super().take(limit, lease_s, None if streams is None else list(streams))


class EscapesSurrogates(SqlOutbox):
    """Makes another key of what is no Unicode: two messages may become one."""

    def put(self, stream, key, payload, **options):
        return super().put(stream, key.encode("utf-8", "replace").decode(), payload, **options)


class ChokesOnErrors(SqlOutbox):
    """Cannot write down what the callee said."""

    def settle(self, message, verdict):
        if isinstance(verdict, Retry | Dead) and not verdict.error.isprintable():
            raise ValueError("not printable")
        super().settle(message, verdict)


class DueBehindTheOldest(SqlOutbox):
    """next_due does not know of the order."""

    def backlog(self, stream=None):
        with self._store.transaction() as tx:
            (due,) = tx.one("SELECT min(CASE WHEN until > due THEN until ELSE due END) FROM buttress_outbox WHERE state = 'pending'")
        return replace(super().backlog(stream), next_due=due)


MUTANTS = [
    (SendsWithoutACommit, conformance.no_commit_no_message),
    (CountsAllStreamsTogether, conformance.numbers_follow_each_other),
    (UsesUpNumbers, conformance.the_same_key_is_the_same_message),
    (TwiceIsTwo, conformance.the_same_key_is_the_same_message),
    (DropsTheSecondPayload, conformance.a_key_names_one_payload),
    (TakesWhatIsHeld, conformance.a_held_message_is_not_given_again),
    (ForgetsTheDoubt, conformance.a_lost_sender_leaves_a_doubt),
    (ForgetsTheDoubt, conformance.a_doubt_is_carried_over),
    (ForgetsTheFenceOfTheMessage, conformance.a_stale_sender_is_refused),
    (SendsAgain, conformance.sent_is_sent),
    (NeverWaits, conformance.nothing_before_it_is_due),
    (RetriesAtOnce, conformance.retry_waits_until_due),
    (DeadIsGone, conformance.dead_waits_for_replay),
    (ReplaysEverything, conformance.dead_waits_for_replay),
    (ReplaysTheOvertaken, conformance.replay_leaves_what_was_overtaken),
    (CountsOnAfterReplay, conformance.a_dead_letter_lets_its_lane_go_on),
    (IgnoresTheLimit, conformance.take_keeps_to_its_limit),
    (SharesMessages, conformance.senders_share_no_message),
    (SettlesTheMessageOnItsOwn, conformance.settle_joins_the_transaction),
    (OverlooksTheDead, conformance.backlog_tells_what_waits),
    (ForgetsLeasesOnRestart, conformance.everything_outlives_the_process),
    (KeepsNoOrder, conformance.a_lane_goes_out_one_by_one),
    (OneLaneAStream, conformance.a_lane_goes_out_one_by_one),
    (LetsTheDueOvertake, conformance.a_lane_waits_for_what_is_not_due),
    (SkipsTheLost, conformance.a_lost_sender_holds_its_lane),
    (StopsAtADeadLetter, conformance.a_dead_letter_lets_its_lane_go_on),
    (LooksAtNoStream, conformance.take_keeps_to_its_streams),
    (WrapsIntoTheSameEpoch, conformance.numbers_wrap),
    (NeverWraps, conformance.numbers_wrap),
    (OrdersByNumberAlone, conformance.order_is_kept_across_the_wrap),
    (KeepsTheLastOfATransaction, conformance.a_commit_is_a_message),
    (CutsPayloads, conformance.a_message_comes_whole),
    (HoldsNothingInATransaction, conformance.a_take_that_was_rolled_back_leaves_no_certainty),
    (RefusesLateSenders, conformance.a_late_sender_may_settle),
    (CutsKeys, conformance.limits_are_refused),
    (OffByOne, conformance.limits_are_inclusive),
    (CutsLanes, conformance.a_lane_is_text_like_a_key),
    (CutsNotes, conformance.a_note_is_limited),
    (TakesNoNumberForNever, conformance.times_are_numbers),
    (ReadsLetters, conformance.a_text_is_no_list),
    (EscapesSurrogates, conformance.text_that_is_not_unicode_is_refused),
    (ChokesOnErrors, conformance.any_error_can_be_told),
    (DueBehindTheOldest, conformance.a_held_back_message_is_not_due),
]


@pytest.fixture
def case(request, sqlite_stores):
    mutant = request.param

    def renumber(mine, stream, seq):
        with mine._store.transaction() as tx:
            tx.execute("INSERT INTO buttress_outbox_stream (stream, epoch, next_seq) VALUES (?, 0, ?)", (stream, seq))

    return conformance.Case(
        maker=lambda clock: mutant(sqlite_stores.fresh(clock)),
        transaction=lambda mine: mine._store.transaction(),
        reopen=lambda mine, clock: mutant(sqlite_stores.reopen(mine._store, clock)),
        renumber=renumber,
    )


@pytest.mark.parametrize(("case", "promise"), MUTANTS, indirect=["case"])
def test_a_mutant_is_found(case, promise):
    with pytest.raises(AssertionError, match=": 1 broken\n"):
        verify("Mutant", [promise], case)


@pytest.mark.parametrize(("case", "promise"), [MUTANTS[0], (ForgetsLeasesOnRestart, conformance.everything_outlives_the_process),
                                               (KeepsNoOrder, conformance.a_lane_goes_out_one_by_one),
                                               (NeverWraps, conformance.numbers_wrap)], indirect=["case"])
def test_the_whole_check_names_the_promise(case, promise):
    with pytest.raises(AssertionError) as failure:
        check_outbox(case.maker, transaction=case.transaction, reopen=case.reopen, renumber=case.renumber)
    assert f"- {sentence(promise)} But: " in str(failure.value)


def test_every_promise_was_seen_broken():
    every = conformance.promises(conformance.Case(None, None, reopen=True, renumber=True))
    assert {promise for _, promise in MUTANTS} == set(every)
