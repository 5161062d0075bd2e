"""What every Outbox promises: messages committed with the state that caused them, each sent or doubted, none forgotten."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from buttress.kernel.clock import Clock, ManualClock
from buttress.kernel.errors import ButtressError, InvalidInput, Stale
from buttress.kernel.outbox import (
    KEY_MAX_BYTES,
    NOTE_MAX_BYTES,
    PAYLOAD_MAX_BYTES,
    SEQ_SPAN,
    Dead,
    Message,
    Outbox,
    Retry,
    Sent,
)
from buttress.testing.promise import expect, refused, rolled_back, together, verify

LEASE_S = 30.0
STREAM = "orders"


@dataclass(frozen=True)
class Case:
    """What the caller handed in."""

    maker: Callable[[Clock], Outbox]
    transaction: Callable[[Outbox], AbstractContextManager[object]]
    reopen: Callable[[Outbox, Clock], Outbox] | None = None
    renumber: Callable[[Outbox, str, int], object] | None = None

    def fresh(self) -> tuple[Outbox, ManualClock]:
        """An empty one, and the clock that it goes by."""
        clock = ManualClock()
        return self.maker(clock), clock

    def again(self, mine: Outbox, clock: Clock) -> Outbox:
        assert self.reopen is not None
        return self.reopen(mine, clock)

    def next_number(self, mine: Outbox, seq: int) -> None:
        assert self.renumber is not None
        self.renumber(mine, STREAM, seq)


def check_outbox(
    maker: Callable[[Clock], Outbox],
    *,
    transaction: Callable[[Outbox], AbstractContextManager[object]],
    reopen: Callable[[Outbox, Clock], Outbox] | None = None,
    renumber: Callable[[Outbox, str, int], object] | None = None,
) -> None:
    """Checks an Outbox. ``maker(clock)`` gives an empty one that goes by this clock and by no other time.

    ``transaction(mine)``: begins a transaction that ``put`` and ``settle`` on this thread join, commits at the end of the
    block, rolls back on an error. ``reopen(mine, clock)``: closes it and opens the same state anew.
    ``renumber(mine, stream, seq)``: makes ``seq`` the next number of a new stream, so that the wrap at 2**32 can be reached.
    """
    case = Case(maker, transaction, reopen, renumber)
    verify("Outbox", promises(case), case)


def promises(case: Case) -> tuple[Callable[[Case], None], ...]:
    """Those that apply to what was handed in."""
    return ALWAYS + (DURABLE if case.reopen else ()) + (WRAPPING if case.renumber else ())


# -- steps that the promises share


def one(mine: Outbox, *, why: str) -> Message:
    """Takes, expects exactly one message."""
    taken = mine.take(10, LEASE_S)
    expect(len(taken) == 1, f"{why}: take gave {len(taken)} messages instead of 1")
    return taken[0]


def nothing(mine: Outbox, *, why: str) -> None:
    """Takes, expects nothing."""
    taken = mine.take(10, LEASE_S)
    expect(not taken, f"{why}: take gave {[message.key for message in taken]}")


def keys(messages: list[Message]) -> list[str]:
    return sorted(message.key for message in messages)


def close_to(due: float | None, expected: float) -> bool:
    return due is not None and abs(due - expected) < 0.001


# -- what is put is numbered, once


def numbers_follow_each_other(case: Case) -> None:
    """Each stream counts its own messages: (epoch, seq), one after the other, without a hole."""
    mine, _ = case.fresh()
    epoch, seq = mine.put(STREAM, "m0", b"")
    other = mine.put("refunds", "m0", b"")
    expect(other == (epoch, seq), f"the first of a second stream is {other}, that of the first was {(epoch, seq)}")
    for step in range(1, 5):
        place = mine.put(STREAM, f"m{step}", b"")
        expect(place == (epoch, seq + step), f"message {step} after {(epoch, seq)} got {place}")


def the_same_key_is_the_same_message(case: Case) -> None:
    """The same key again in a stream is the same message: same place, sent once, also after it was sent."""
    mine, _ = case.fresh()
    place = mine.put(STREAM, "m", b"payload")
    expect(mine.put(STREAM, "m", b"payload") == place, "the second put got another place")
    message = one(mine, why="one key, put twice")
    mine.settle(message, Sent())
    expect(mine.put(STREAM, "m", b"payload") == place, "put after it was sent got another place")
    nothing(mine, why="put again after it was sent")
    following = mine.put(STREAM, "n", b"")
    expect(following == (place[0], place[1] + 1), f"the next key got {following} after {place}: a repeated put used up a number")
    other = one(mine, why="another key")
    mine.put("refunds", "m", b"another")
    expect(other.key == "n" and one(mine, why="the same key in another stream").stream == "refunds", "streams share their keys")


def a_key_names_one_payload(case: Case) -> None:
    """A key that comes again with another payload is InvalidInput: neither payload is dropped without a word."""
    mine, _ = case.fresh()
    mine.put(STREAM, "m", b"first")
    refused(InvalidInput, "another payload under the same key", mine.put, STREAM, "m", b"second")
    expect(one(mine, why="after that").payload == b"first", "the message has the second payload")


def no_commit_no_message(case: Case) -> None:
    """put joins the open transaction: rolled back, there is no message, and its number is given again."""
    mine, _ = case.fresh()
    with rolled_back(case.transaction(mine)):
        place = mine.put(STREAM, "undone", b"")
    nothing(mine, why="after the transaction was rolled back")
    expect(mine.backlog().pending == 0, f"after the transaction was rolled back the backlog is {mine.backlog()}")
    following = mine.put(STREAM, "m", b"")
    expect(following == place, f"the number {place} was rolled back, the next message got {following}: a hole")


def a_commit_is_a_message(case: Case) -> None:
    """What was put in a transaction that committed is there to be taken: all of it."""
    mine, _ = case.fresh()
    with case.transaction(mine):
        places = [mine.put(STREAM, f"m{n}", b"payload") for n in range(3)]
    taken = mine.take(10, LEASE_S)
    found = sorted((message.epoch, message.seq) for message in taken)
    expect(found == places, f"put at {places}, taken {found}")


# -- taking


def a_message_comes_whole(case: Case) -> None:
    """take gives the message as it was put: stream, place, key, payload, its first attempt, not doubted, leased from now."""
    mine, clock = case.fresh()
    for payload in (b"", b"\x00\xff payload", b"x" * PAYLOAD_MAX_BYTES):
        epoch, seq = mine.put(STREAM, f"kéy {len(payload)}", payload)
        message = one(mine, why="after put")
        seen = (message.stream, message.epoch, message.seq, message.key, message.attempt, message.doubted)
        expected = (STREAM, epoch, seq, f"kéy {len(payload)}", 1, False)
        expect(seen == expected, f"put {expected}, taken {seen}")
        expect(type(message.payload) is bytes and message.payload == payload, f"a payload of {len(payload)} bytes came back changed")
        expect(close_to(message.until, clock.now() + LEASE_S), f"held until {message.until!r} at {clock.now()!r} for {LEASE_S} s")


def a_held_message_is_not_given_again(case: Case) -> None:
    """A message is held by one sender until its lease ends."""
    mine, clock = case.fresh()
    mine.put(STREAM, "m", b"")
    one(mine, why="after put")
    nothing(mine, why="while it is held")
    clock.advance(LEASE_S - 1)
    nothing(mine, why="one second before the lease ends")


def take_keeps_to_its_limit(case: Case) -> None:
    """take gives at most limit messages, and the rest to the next one who takes."""
    mine, _ = case.fresh()
    for n in range(5):
        mine.put(STREAM, f"m{n}", b"")
    first, second, third = (mine.take(limit, LEASE_S) for limit in (2, 1, 10))
    expect((len(first), len(second), len(third)) == (2, 1, 2), f"of 5, take(2), take(1), take(10) gave {len(first)}, {len(second)}, {len(third)}")
    expect(keys(first + second + third) == [f"m{n}" for n in range(5)], f"five were put, {keys(first + second + third)} were taken")


def nothing_before_it_is_due(case: Case) -> None:
    """A message is not given before it is due, and is once it is."""
    mine, clock = case.fresh()
    due = clock.now() + 3600
    mine.put(STREAM, "later", b"", due=due)
    nothing(mine, why="an hour before it is due")
    expect(close_to(mine.backlog().next_due, due), f"due at {due!r}, next_due is {mine.backlog().next_due!r}")
    clock.advance(3599)
    nothing(mine, why="a second before it is due")
    clock.advance(1)
    one(mine, why="when it is due")


def a_lost_sender_leaves_a_doubt(case: Case) -> None:
    """A message whose sender was lost comes again, doubted, as the next attempt, with a higher fence."""
    mine, clock = case.fresh()
    mine.put(STREAM, "m", b"payload")
    last = one(mine, why="after put")
    for attempt in (2, 3):
        clock.advance(LEASE_S + 1)
        message = one(mine, why="after the lease")
        expect(message.doubted, f"attempt {message.attempt} is not doubted, though the sender before never said what became of it")
        expect(message.attempt == attempt, f"attempt {message.attempt} instead of {attempt}")
        expect(message.fence > last.fence, f"fence {message.fence} after {last.fence}")
        expect(message.payload == b"payload", "the payload changed")
        last = message


def a_take_that_was_rolled_back_leaves_no_certainty(case: Case) -> None:
    """take inside a transaction is refused, or leaves a doubt when that rolls back: the message may have been sent."""
    mine, clock = case.fresh()
    mine.put(STREAM, "m", b"")
    taken: list[Message] = []
    try:
        with rolled_back(case.transaction(mine)):
            taken = mine.take(10, LEASE_S)
    except ButtressError:
        return
    clock.advance(LEASE_S + 1)
    again = one(mine, why="after the transaction was rolled back")
    expect(again.doubted or not taken, "a sender had it, was lost with its transaction, and the message is not doubted")


def senders_share_no_message(case: Case) -> None:
    """Senders that take at the same time never hold the same message, and leave none out."""
    mine, _ = case.fresh()
    with case.transaction(mine):
        for n in range(24):
            mine.put(STREAM, f"m{n:02}", b"")

    def sender() -> list[Message]:
        held: list[Message] = []
        for _ in range(24):  # more is never there, if no message is given twice
            held += mine.take(2, LEASE_S)
        return held

    taken: list[Message] = []
    for answer in together(*[sender] * 3):
        expect(isinstance(answer, list), f"a sender failed: {answer!r}")
        taken += answer if isinstance(answer, list) else []
    expect(keys(taken) == [f"m{n:02}" for n in range(24)], f"24 were put, 3 senders held {keys(taken)}")


# -- settling


def sent_is_sent(case: Case) -> None:
    """A message settled as Sent is never given again and counts nowhere; a second settle is Stale."""
    mine, clock = case.fresh()
    mine.put(STREAM, "m", b"")
    message = one(mine, why="after put")
    mine.settle(message, Sent(b"n" * NOTE_MAX_BYTES))
    refused(Stale, "settle after Sent", mine.settle, message, Retry(clock.now(), "late"))
    clock.advance(400 * 86_400.0)
    nothing(mine, why="400 days after it was sent")
    backlog = mine.backlog()
    expect((backlog.pending, backlog.dead, backlog.first_unsent, backlog.next_due) == (0, 0, None, None), f"the backlog is {backlog}")
    expect(mine.replay(STREAM) == 0, "replay brought back what was sent")


def retry_waits_until_due(case: Case) -> None:
    """Retry gives the message again at due, not before; not doubted unless the sender says so."""
    mine, clock = case.fresh()
    mine.put(STREAM, "m", b"")
    for attempt, doubted in ((1, False), (2, True), (3, True)):
        message = one(mine, why=f"attempt {attempt}")
        was_doubted = attempt == 3
        expect((message.attempt, message.doubted) == (attempt, was_doubted), f"attempt {attempt}: {message}")
        mine.settle(message, Retry(clock.now() + 600, "no answer", doubted=doubted))
        expect(close_to(mine.backlog().next_due, clock.now() + 600), f"next_due is {mine.backlog().next_due!r} at {clock.now()!r}")
        clock.advance(599)
        nothing(mine, why="a second before it is due again")
        clock.advance(1)
    last = one(mine, why="the last attempt")
    expect(last.doubted, "the doubt that the sender spoke of was lost")


def a_doubt_is_carried_over(case: Case) -> None:
    """Of a doubted message, Retry(doubted=True) keeps the doubt, and so does a replay after Dead."""
    mine, clock = case.fresh()
    mine.put(STREAM, "m", b"")
    one(mine, why="after put")
    clock.advance(LEASE_S + 1)
    message = one(mine, why="after the lease")
    mine.settle(message, Retry(clock.now(), "still not known", doubted=True))
    message = one(mine, why="at once")
    expect(message.doubted, "Retry(doubted=True) lost the doubt")
    mine.settle(message, Dead("given up"))
    mine.replay(STREAM)
    message = one(mine, why="after replay")
    expect(message.doubted, "Dead and replay lost the doubt")
    mine.settle(message, Retry(clock.now(), "no answer"))
    expect(one(mine, why="at once").doubted, "a plain Retry, which leaves the doubt as it was, lost it")
    mine.put(STREAM, "other", b"")
    message = one(mine, why="the other one")
    mine.settle(message, Retry(clock.now(), "it may have been sent", doubted=True))
    mine.settle(message, Retry(clock.now(), "said once more"))
    expect(one(mine, why="the other one again").doubted, "the same sender's plain Retry, after one that doubted, lost the doubt")


def dead_waits_for_replay(case: Case) -> None:
    """A message settled as Dead is not given again until replay makes it due at once; replay says how many it was."""
    mine, clock = case.fresh()
    for stream in (STREAM, "refunds"):
        for n in range(3):
            mine.put(stream, f"m{n}", b"payload")
    for message in mine.take(10, LEASE_S):
        mine.settle(message, Dead("refused for good"))
    clock.advance(86_400.0)
    nothing(mine, why="a day after they died")
    backlog = mine.backlog(STREAM)
    expect((backlog.pending, backlog.dead) == (0, 3), f"three died, the backlog is {backlog}")
    count = mine.replay(STREAM, ["m1", "no such key"])
    expect(count == 1, f"replay of one dead key and one unknown answered {count!r}")
    message = one(mine, why="after the replay of one key")
    expect((message.stream, message.key, message.payload) == (STREAM, "m1", b"payload"), f"replay of m1 brought {message}")
    expect(mine.replay(STREAM, ["m1"]) == 0, "replay counted a message that was not dead")
    count = mine.replay(STREAM)
    expect(count == 2, f"replay of the two that were left answered {count!r}")
    expect(keys(mine.take(10, LEASE_S)) == ["m0", "m2"], "replay did not bring back the two that were left, and only these")
    expect(mine.backlog("refunds").dead == 3, "replay of one stream woke another")
    expect(mine.replay("refunds", []) == 0, "replay of no keys woke something")


def a_stale_sender_is_refused(case: Case) -> None:
    """settle by a sender whose lease passed to another raises Stale and changes nothing."""
    mine, clock = case.fresh()
    mine.put(STREAM, "m", b"")
    first = one(mine, why="after put")
    clock.advance(LEASE_S + 1)
    second = one(mine, why="after the lease")
    refused(Stale, "Sent by the first sender", mine.settle, first, Sent())
    refused(Stale, "Dead by the first sender", mine.settle, first, Dead("late"))
    refused(Stale, "Retry by the first sender", mine.settle, first, Retry(clock.now(), "late"))
    nothing(mine, why="while the second sender holds it")
    mine.settle(second, Retry(clock.now() + 60, "not now"))
    clock.advance(60)
    third = one(mine, why="when the second sender asked for it")
    refused(Stale, "Sent by the second sender", mine.settle, second, Sent())
    mine.settle(third, Sent())


def a_late_sender_may_settle(case: Case) -> None:
    """A sender whose lease ended is refused only once another holds the message: fences decide, not time."""
    mine, clock = case.fresh()
    mine.put(STREAM, "m", b"")
    message = one(mine, why="after put")
    clock.advance(LEASE_S + 1)
    mine.settle(message, Sent())
    nothing(mine, why="after a late Sent")


def settle_joins_the_transaction(case: Case) -> None:
    """settle joins the open transaction: rolled back, the message is held as before; committed, it is settled."""
    mine, clock = case.fresh()
    mine.put(STREAM, "m", b"")
    message = one(mine, why="after put")
    with rolled_back(case.transaction(mine)):
        mine.settle(message, Sent())
    expect(mine.backlog().pending == 1, f"after Sent was rolled back the backlog is {mine.backlog()}")
    with case.transaction(mine):
        mine.settle(message, Sent())
    clock.advance(LEASE_S + 1)
    nothing(mine, why="after Sent was committed")


def backlog_tells_what_waits(case: Case) -> None:
    """backlog counts what is pending (held or not) and dead, in one stream or in all, with the first unsent number."""
    mine, clock = case.fresh()
    empty = mine.backlog()
    expect((empty.pending, empty.dead, empty.first_unsent, empty.next_due) == (0, 0, None, None), f"an empty outbox has {empty}")
    places = [mine.put(STREAM, f"m{n}", b"") for n in range(4)]
    later = clock.now() + 5
    mine.put("refunds", "m", b"", due=later)
    by_key = {message.key: message for message in mine.take(10, LEASE_S)}
    mine.settle(by_key["m0"], Sent())
    mine.settle(by_key["m1"], Dead("refused for good"))
    mine.settle(by_key["m2"], Retry(clock.now() + 10, "not now"))
    backlog, everything = mine.backlog(STREAM), mine.backlog()
    expect((backlog.pending, backlog.dead) == (2, 1), f"one sent, one dead, one to retry, one held: {backlog}")
    expect(backlog.first_unsent == places[1], f"the first unsent is {places[1]}, the backlog says {backlog.first_unsent}")
    expect(close_to(backlog.next_due, clock.now() + 10), f"the retry is due in 10 s, the lease ends in {LEASE_S} s: {backlog.next_due!r}")
    expect((everything.pending, everything.dead) == (3, 1), f"in all streams: {everything}")
    expect(close_to(everything.next_due, later), f"in all streams the next is due in 5 s: {everything.next_due!r}")
    unknown = mine.backlog("no such stream")
    expect((unknown.pending, unknown.dead, unknown.first_unsent, unknown.next_due) == (0, 0, None, None), f"an unknown stream has {unknown}")


# -- lanes and streams


def take_keeps_to_its_streams(case: Case) -> None:
    """take gives messages of the streams that it was asked for and of no other; of none, nothing; unasked, of all."""
    mine, _ = case.fresh()
    for stream in ("a", "b", "c"):
        for n in range(2):
            mine.put(stream, f"{stream}{n}", b"")
    expect(not mine.take(10, LEASE_S, []), "take of no streams gave something")
    expect(not mine.take(10, LEASE_S, ["no such stream"]), "take of an unknown stream gave something")
    taken = keys(mine.take(10, LEASE_S, ["a", "c", "no such stream"]))
    expect(taken == ["a0", "a1", "c0", "c1"], f"take of the streams a and c gave {taken}")
    taken = keys(mine.take(10, LEASE_S))
    expect(taken == ["b0", "b1"], f"then take of all streams gave {taken}")


def a_lane_goes_out_one_by_one(case: Case) -> None:
    """Messages of a lane go out one after another, each when the one before is sent; nothing else waits for them."""
    mine, clock = case.fresh()
    for n in range(3):
        mine.put(STREAM, f"m{n}", b"", lane="lane")
    mine.put(STREAM, "other lane", b"", lane="other")
    mine.put(STREAM, "no lane", b"")
    mine.put("refunds", "other stream", b"", lane="lane")
    by_key = {message.key: message for message in mine.take(10, LEASE_S)}
    expect(sorted(by_key) == ["m0", "no lane", "other lane", "other stream"], f"take gave {sorted(by_key)}")
    for key in ("no lane", "other lane", "other stream"):
        mine.settle(by_key[key], Sent())
    nothing(mine, why="while the oldest of the lane is held")
    mine.settle(by_key["m0"], Retry(clock.now() + 100, "not now"))
    clock.advance(99)
    nothing(mine, why="while the oldest of the lane waits for its retry")
    clock.advance(1)
    for key in ("m0", "m1", "m2"):
        message = one(mine, why=f"when {key} is the oldest of the lane")
        expect(message.key == key, f"{message.key} came instead of {key}")
        mine.settle(message, Sent())
    nothing(mine, why="after all were sent")


def a_lane_waits_for_what_is_not_due(case: Case) -> None:
    """A message of a lane waits for the one before it also where that one is due later."""
    mine, clock = case.fresh()
    mine.put(STREAM, "m0", b"", due=clock.now() + 100, lane="lane")
    mine.put(STREAM, "m1", b"", lane="lane")
    nothing(mine, why="before the oldest of the lane is due")
    clock.advance(100)
    expect(one(mine, why="when the oldest is due").key == "m0", "m1 overtook m0")


def a_lost_sender_holds_its_lane(case: Case) -> None:
    """Where the sender of a lane's oldest was lost, that one comes again, doubted, before the next."""
    mine, clock = case.fresh()
    for n in range(2):
        mine.put(STREAM, f"m{n}", b"", lane="lane")
    one(mine, why="the oldest of the lane")
    clock.advance(LEASE_S + 1)
    message = one(mine, why="after the lease")
    expect(message.key == "m0" and message.doubted, f"after the lease came {message}")


def a_dead_letter_lets_its_lane_go_on(case: Case) -> None:
    """A dead message no longer holds its lane back; replayed before the next one was sent, it is the oldest again."""
    mine, clock = case.fresh()
    for n in range(3):
        mine.put(STREAM, f"m{n}", b"", lane="lane")
    mine.settle(one(mine, why="the oldest"), Dead("refused for good"))
    message = one(mine, why="after the oldest died")
    expect(message.key == "m1", f"{message.key} came after m0 died")
    mine.settle(message, Retry(clock.now(), "not now"))
    expect(mine.replay(STREAM) == 1, "replay of a dead message that nothing has overtaken did not count it")
    again = one(mine, why="after replay")
    expect(again.key == "m0", "the replayed message is not the oldest")
    expect(again.attempt == 1, f"the attempts of a replayed message begin anew, this is attempt {again.attempt}")


def replay_leaves_what_was_overtaken(case: Case) -> None:
    """A dead message whose lane went on and sent a later one stays dead: it would undo what came after it."""
    mine, _ = case.fresh()
    for n in range(3):
        mine.put(STREAM, f"m{n}", b"", lane="lane")
    mine.put(STREAM, "alone", b"", lane="another")
    for message in mine.take(10, LEASE_S):
        mine.settle(message, Dead("refused for good"))
    later = one(mine, why="after the oldest died")
    expect(mine.replay(STREAM, ["m0"]) == 0, "replay brought back a message while a later one of its lane is under way")
    mine.settle(later, Sent())
    expect(mine.replay(STREAM, ["m0"]) == 0, "replay of a message that was overtaken in its lane counted it")
    expect(mine.replay(STREAM) == 1, "replay of all did not bring back just the one whose lane stood still")
    found = sorted(keys(mine.take(10, LEASE_S)))
    expect(found == ["alone", "m2"], f"after replay the next of the lane and the replayed one are due, take gave {found}")


def a_held_back_message_is_not_due(case: Case) -> None:
    """next_due is when take would give something: a message behind another of its lane does not count."""
    mine, clock = case.fresh()
    mine.put(STREAM, "m0", b"", lane="lane")
    mine.put(STREAM, "m1", b"", lane="lane")
    mine.settle(one(mine, why="the oldest"), Retry(clock.now() + 100, "not now"))
    nothing(mine, why="while the oldest waits for its retry")
    due = mine.backlog().next_due
    expect(close_to(due, clock.now() + 100), f"nothing can be taken for 100 s, next_due is {due!r} at {clock.now()!r}: a sender would spin")


# -- limits

BAD_TEXTS: tuple[tuple[str, Any], ...] = (
    ("of no characters", ""),
    (f"of {KEY_MAX_BYTES + 1} bytes", "k" * (KEY_MAX_BYTES + 1)),
    (f"of {KEY_MAX_BYTES} characters and more bytes", "é" * KEY_MAX_BYTES),
    ("with NUL", "a\0b"),
    ("of bytes", b"key"),
    ("of None", None),
)


def limits_are_refused(case: Case) -> None:
    """A stream, key, payload, limit or lease outside the limits is InvalidInput before anything is written."""
    mine, _ = case.fresh()
    epoch, seq = mine.put(STREAM, "m", b"")
    for what, text in BAD_TEXTS:
        refused(InvalidInput, f"a key {what}", mine.put, STREAM, text, b"")
        refused(InvalidInput, f"a stream {what}", mine.put, text, "m2", b"")
    payloads: tuple[Any, ...] = (b"x" * (PAYLOAD_MAX_BYTES + 1), "text", None)
    for payload in payloads:
        refused(InvalidInput, f"a payload of {type(payload).__name__}", mine.put, STREAM, "m2", payload)
    for limit, lease_s in ((0, LEASE_S), (-1, LEASE_S), (1, 0.0), (1, -1.0)):
        refused(InvalidInput, f"take({limit}, {lease_s})", mine.take, limit, lease_s)
    following = mine.put(STREAM, "m2", b"")
    expect(following == (epoch, seq + 1), f"after refused messages the next got {following}")
    taken = mine.take(10, LEASE_S)
    expect(keys(taken) == ["m", "m2"] and all(message.attempt == 1 for message in taken), f"after refusals take gave {taken}")


def limits_are_inclusive(case: Case) -> None:
    """The longest key and stream are taken."""
    mine, _ = case.fresh()
    longest = "é" * (KEY_MAX_BYTES // 2)
    mine.put(longest, longest, b"")
    message = one(mine, why="the longest key in the longest stream")
    expect((message.stream, message.key) == (longest, longest), "the longest key or stream came back changed")


def a_lane_is_text_like_a_key(case: Case) -> None:
    """A lane outside the limits of a key is InvalidInput before anything is written."""
    mine, _ = case.fresh()
    for what, lane in (*BAD_TEXTS[1:-1], ("with a lone surrogate", "a\ud800b")):
        refused(InvalidInput, f"a lane {what}", mine.put, STREAM, "m", b"", lane=lane)
    nothing(mine, why="after refused lanes")


def a_note_is_limited(case: Case) -> None:
    """A note of more than 64 KiB is InvalidInput, and the message is still held."""
    mine, _ = case.fresh()
    mine.put(STREAM, "m", b"")
    message = one(mine, why="after put")
    refused(InvalidInput, "a note of 64 KiB and one byte", mine.settle, message, Sent(b"n" * (NOTE_MAX_BYTES + 1)))
    mine.settle(message, Sent())


def times_are_numbers(case: Case) -> None:
    """A due or a lease that is not a number (NaN) is InvalidInput: such a message would never be due again."""
    mine, _ = case.fresh()
    nan = float("nan")
    refused(InvalidInput, "due = NaN", mine.put, STREAM, "m", b"", due=nan)
    mine.put(STREAM, "n", b"")
    refused(InvalidInput, "a lease of NaN", mine.take, 1, nan)
    message = one(mine, why="after a lease of NaN was refused")
    refused(InvalidInput, "a retry at NaN", mine.settle, message, Retry(nan, "not now"))
    mine.settle(message, Sent())


def a_text_is_no_list(case: Case) -> None:
    """A text in place of a list of streams or keys is InvalidInput: its letters would match nothing, for ever."""
    mine, _ = case.fresh()
    mine.put(STREAM, "m", b"")
    refused(InvalidInput, "take of a text for streams", mine.take, 1, LEASE_S, STREAM)
    mine.settle(one(mine, why="after a refused take"), Dead("refused for good"))
    refused(InvalidInput, "replay of a text for keys", mine.replay, STREAM, "m")


def text_that_is_not_unicode_is_refused(case: Case) -> None:
    """A key or stream with a lone surrogate (``"\\ud800"`` in JSON) is InvalidInput: no store can hold it."""
    mine, _ = case.fresh()
    refused(InvalidInput, "a key with a lone surrogate", mine.put, STREAM, "a\ud800b", b"")
    refused(InvalidInput, "a stream with a lone surrogate", mine.put, "a\ud800b", "m", b"")


def any_error_can_be_told(case: Case) -> None:
    """Retry and Dead take whatever text the callee answered with: with NUL, a lone surrogate, or very long."""
    mine, clock = case.fresh()
    mine.put(STREAM, "m", b"")
    for error in ("NUL \0 inside", "a lone \ud800 surrogate", "long " * 100_000):
        mine.settle(one(mine, why=f"before {error[:10]!r}"), Retry(clock.now(), error))
    mine.settle(one(mine, why="before it died"), Dead("NUL \0 inside"))


# -- with reopen


def everything_outlives_the_process(case: Case) -> None:
    """Messages, numbers, leases, doubts and dead letters are there when the state is opened anew."""
    mine, clock = case.fresh()
    last = (0, 0)
    for key in ("sent", "dead", "held", "waits"):
        last = mine.put(STREAM, key, b"payload", due=clock.now() + (60 if key == "waits" else 0))
    by_key = {message.key: message for message in mine.take(10, LEASE_S)}
    mine.settle(by_key["sent"], Sent())
    mine.settle(by_key["dead"], Dead("refused for good"))

    mine = case.again(mine, clock)
    nothing(mine, why="after the reopening, within the lease")
    following = mine.put(STREAM, "new", b"")
    expect(following == (last[0], last[1] + 1), f"after {last} and a reopening came {following}")
    expect(one(mine, why="put after the reopening").key == "new", "something else was due")
    clock.advance(LEASE_S + 1)
    taken = mine.take(10, LEASE_S)
    expect(keys(taken) == ["held", "new"] and all(message.doubted for message in taken), f"lost senders' messages: {taken}")
    refused(Stale, "Sent by the sender of before", mine.settle, by_key["held"], Sent())
    expect(mine.replay(STREAM) == 1, "the dead letter was not there")
    clock.advance(LEASE_S + 1)
    expect(keys(mine.take(10, LEASE_S)) == ["dead", "held", "new", "waits"], "a message did not outlive the process")


# -- with renumber


def numbers_wrap(case: Case) -> None:
    """After 2**32 - 1 comes 0 of the next epoch (RFC 1982): no number is given twice in an epoch."""
    mine, _ = case.fresh()
    case.next_number(mine, SEQ_SPAN - 2)
    places = [mine.put(STREAM, f"m{n}", b"") for n in range(4)]
    expected = [(0, SEQ_SPAN - 2), (0, SEQ_SPAN - 1), (1, 0), (1, 1)]
    expect(places == expected, f"around the wrap: {places} instead of {expected}")
    first = mine.backlog(STREAM).first_unsent
    expect(first == (0, SEQ_SPAN - 2), f"the first unsent number is {first}")
    expect(len(mine.take(10, LEASE_S)) == 4, "not all four were due")


def order_is_kept_across_the_wrap(case: Case) -> None:
    """A lane goes on in order where the numbers of its stream wrap."""
    mine, _ = case.fresh()
    case.next_number(mine, SEQ_SPAN - 2)
    for n in range(4):
        mine.put(STREAM, f"m{n}", b"", lane="lane")
    for n in range(4):
        message = one(mine, why=f"when m{n} is the oldest")
        expect(message.key == f"m{n}", f"{message.key} came instead of m{n}")
        mine.settle(message, Sent())


ALWAYS: tuple[Callable[[Case], None], ...] = (
    numbers_follow_each_other,
    the_same_key_is_the_same_message,
    a_key_names_one_payload,
    no_commit_no_message,
    a_commit_is_a_message,
    a_message_comes_whole,
    a_held_message_is_not_given_again,
    take_keeps_to_its_limit,
    nothing_before_it_is_due,
    a_lost_sender_leaves_a_doubt,
    a_take_that_was_rolled_back_leaves_no_certainty,
    senders_share_no_message,
    sent_is_sent,
    retry_waits_until_due,
    a_doubt_is_carried_over,
    dead_waits_for_replay,
    a_stale_sender_is_refused,
    a_late_sender_may_settle,
    settle_joins_the_transaction,
    backlog_tells_what_waits,
    take_keeps_to_its_streams,
    a_lane_goes_out_one_by_one,
    a_lane_waits_for_what_is_not_due,
    a_lost_sender_holds_its_lane,
    a_dead_letter_lets_its_lane_go_on,
    replay_leaves_what_was_overtaken,
    a_held_back_message_is_not_due,
    limits_are_refused,
    limits_are_inclusive,
    a_lane_is_text_like_a_key,
    a_note_is_limited,
    times_are_numbers,
    a_text_is_no_list,
    text_that_is_not_unicode_is_refused,
    any_error_can_be_told,
)
DURABLE: tuple[Callable[[Case], None], ...] = (everything_outlives_the_process,)
WRAPPING: tuple[Callable[[Case], None], ...] = (numbers_wrap, order_is_kept_across_the_wrap)
