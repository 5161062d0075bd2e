"""What every outbox promises, on SQLite and Postgres; a machine beside a plain model; RFC 1982 and the receiver's gaps."""

from __future__ import annotations

import sqlite3
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from buttress.kernel.clock import ManualClock
from buttress.kernel.errors import InvalidInput, Stale
from buttress.kernel.outbox import SEQ_SPAN, Dead, Gaps, Retry, Sent, SqlOutbox, serial_before
from buttress.kernel.store.sqlite import SqliteStore
from buttress.testing import outbox as conformance

ALL = conformance.promises(conformance.Case(None, None, reopen=True, renumber=True))
PROMISES = [
    pytest.param(engine, promise, id=f"{engine}-{promise.__name__}")
    for engine in ("sqlite", "postgres")
    for promise in ALL
]


def renumber(outbox, stream, seq):
    with outbox._store.transaction() as tx:
        tx.execute("INSERT INTO buttress_outbox_stream (stream, epoch, next_seq) VALUES (?, 0, ?)", (stream, seq))


@pytest.mark.parametrize(("stores", "promise"), PROMISES, indirect=["stores"])
def test_promise(stores, promise):
    promise(conformance.Case(
        maker=lambda clock: SqlOutbox(stores.fresh(clock)),
        transaction=lambda mine: mine._store.transaction(),
        reopen=lambda mine, clock: SqlOutbox(stores.reopen(mine._store, clock)),
        renumber=renumber,
    ))


@pytest.mark.parametrize("stores", ["sqlite", "postgres"], indirect=True)
def test_a_callers_own_transaction_is_joined(stores):
    """The message lives and dies with the order, on a connection of the caller's."""
    store = stores.fresh(ManualClock())
    mine = SqlOutbox(store)
    for fails in (True, False):
        try:
            with stores.foreign(store) as connection, store.join(connection):
                mine.put("mail", "order-1", b"thanks")
                if fails:
                    raise LookupError("the order was refused")
        except LookupError:
            assert mine.take(10, 30) == []
    assert [message.key for message in mine.take(10, 30)] == ["order-1"]


@pytest.mark.parametrize("stores", ["sqlite", "postgres"], indirect=True)
def test_ordered_makes_a_lane_of_each_stream(stores):
    mine = SqlOutbox(stores.fresh(ManualClock()), ordered=True)
    for stream in ("s", "t"):
        for n in range(2):
            mine.put(stream, f"{stream}{n}", b"")
    mine.put("s", "aside", b"", lane="another")
    first = mine.take(10, 30)
    assert sorted(message.key for message in first) == ["aside", "s0", "t0"]
    for message in first:
        mine.settle(message, Sent())
    assert sorted(message.key for message in mine.take(10, 30)) == ["s1", "t1"]


def test_what_was_sent_costs_nothing_any_more(sqlite_stores):
    """Counted in steps of SQLite's machine, not in time."""
    def steps(sent):
        store = sqlite_stores.fresh(ManualClock())
        mine = SqlOutbox(store)
        with store.transaction():
            for n in range(sent + 20):
                mine.put("s", f"{n}", b"")
        taken = mine.take(sent, 30)
        with store.transaction():
            for message in taken:
                mine.settle(message, Sent())
        count = 0

        def step():
            nonlocal count
            count += 1

        def watch(tx):
            tx.connection.set_progress_handler(step, 10)

        store.submit(watch)
        with store.transaction() as tx:
            watch(tx)
        assert len(mine.take(3, 30, ["s"])) == 3
        assert mine.backlog("s").pending == mine.backlog().pending == 20
        return count

    assert steps(1_000) < 2 * steps(100)


# -- the machine


@dataclass
class Entry:
    """What the plain model knows of a message."""

    stream: str
    seq: int
    key: str
    lane: str | None
    state: str
    due: float
    attempt: int = 0
    doubted: bool = False
    fence: int = 0
    until: float = 0.0


STREAMS = st.sampled_from(["s", "t"])
LANES = st.sampled_from([None, None, "x", "y"])


class Machine(RuleBasedStateMachine):
    """Does the same to an outbox and to a plain list of messages, and compares."""

    maker = None
    ordered = False

    def __init__(self):
        super().__init__()
        self.clock = ManualClock()
        self.entries: list[Entry] = []
        self.taken = []
        self.real = None

    @initialize()
    def open(self):
        self.real = type(self).maker(self.clock)

    def entry(self, message):
        (entry,) = [entry for entry in self.entries if (entry.stream, entry.key) == (message.stream, message.key)]
        return entry

    def held_back(self, entry):
        return entry.lane is not None and any(
            e.stream == entry.stream and e.lane == entry.lane and e.state == "pending" and e.seq < entry.seq for e in self.entries)

    @rule(stream=STREAMS, key=st.sampled_from("abcdef"), wait_s=st.sampled_from([0.0, 0.0, 20.0]), lane=LANES)
    def put(self, stream, key, wait_s, lane):
        self.put_in(stream, key, wait_s, lane)

    def put_in(self, stream, key, wait_s, lane=None):
        known = [entry for entry in self.entries if (entry.stream, entry.key) == (stream, key)]
        due = self.clock.now() + wait_s
        place = self.real.put(stream, key, key.encode(), due=due, lane=lane)
        if not known:
            number = sum(entry.stream == stream for entry in self.entries)
            known = [Entry(stream, number, key, "" if lane is None and self.ordered else lane, "pending", due)]
            self.entries += known
        assert place == (0, known[0].seq)

    @rule(stream=STREAMS, keys=st.lists(st.sampled_from("abcdef"), min_size=1, max_size=3))
    def put_and_roll_back(self, stream, keys):
        before = list(self.entries)
        try:
            with self.real._store.transaction():
                for key in keys:
                    self.put_in(stream, key, 0.0)
                raise LookupError
        except LookupError:
            self.entries = before

    @rule(limit=st.integers(1, 4), streams=st.none() | st.lists(STREAMS, unique=True))
    def take(self, limit, streams):
        now = self.clock.now()
        due = [e for e in self.entries if e.state == "pending" and e.due <= now and e.until <= now and not self.held_back(e)
               and (streams is None or e.stream in streams)]
        messages = self.real.take(limit, 30.0, streams)
        assert len(messages) == min(limit, len(due))
        for message in messages:
            entry = self.entry(message)
            assert entry in due, f"{message} was not to be given"
            entry.doubted = entry.doubted or entry.until > 0
            entry.attempt, entry.fence, entry.until = entry.attempt + 1, entry.fence + 1, now + 30.0
            expected = (entry.stream, 0, entry.seq, entry.key, entry.key.encode(), entry.attempt, entry.doubted, entry.fence, entry.until)
            assert (message.stream, message.epoch, message.seq, message.key, message.payload, message.attempt, message.doubted,
                    message.fence, message.until) == expected
        self.taken += messages

    @precondition(lambda self: self.taken)
    @rule(data=st.data(), what=st.sampled_from(["sent", "retry", "doubt", "dead"]), wait_s=st.sampled_from([0.0, 15.0]))
    def settle(self, data, what, wait_s):
        message = self.taken[-1 - data.draw(st.integers(0, min(len(self.taken) - 1, 5)), label="age")]
        now = self.clock.now()
        verdict = {"sent": Sent(b"note"), "retry": Retry(now + wait_s, "no"), "doubt": Retry(now + wait_s, "no", doubted=True), "dead": Dead("no")}[what]
        entry = self.entry(message)
        if entry.state != "pending" or entry.fence != message.fence:
            with pytest.raises(Stale):
                self.real.settle(message, verdict)
            return
        self.real.settle(message, verdict)
        entry.until = 0.0
        if what in ("sent", "dead"):
            entry.state = what
        else:
            entry.due, entry.doubted = now + wait_s, entry.doubted or what == "doubt"  # a plain Retry leaves the doubt as it was

    @rule(stream=STREAMS, keys=st.none() | st.sets(st.sampled_from("abcdef"), max_size=2))
    def replay(self, stream, keys):
        dead = [e for e in self.entries if e.stream == stream and e.state == "dead" and (keys is None or e.key in keys) and not self.overtaken(e)]
        assert self.real.replay(stream, keys) == len(dead)
        for entry in dead:
            entry.state, entry.due, entry.attempt = "pending", self.clock.now(), 0

    def overtaken(self, entry):
        return entry.lane is not None and any(
            e.stream == entry.stream and e.lane == entry.lane and e.seq > entry.seq and (e.state == "sent" or e.until > 0 or e.doubted)
            for e in self.entries)

    @rule(seconds=st.sampled_from([1.0, 15.0, 31.0]))
    def advance(self, seconds):
        self.clock.advance(seconds)

    @rule()
    def crash(self):
        """The process dies with a transaction open: what it never committed is gone, all else is read from the file."""
        path = self.real._store.path
        dying = sqlite3.connect(path, isolation_level=None)
        dying.execute("BEGIN IMMEDIATE")
        dying.execute("DELETE FROM buttress_outbox")
        dying.close()
        self.real._store.close()
        self.real = SqlOutbox(SqliteStore(path, clock=self.clock), ordered=self.ordered)

    @invariant()
    def the_backlog_is_right(self):
        if self.real is None:
            return
        for stream in ("s", None):
            mine = [entry for entry in self.entries if stream in (None, entry.stream)]
            backlog = self.real.backlog(stream)
            unsent = [entry.seq for entry in mine if entry.state != "sent"]
            assert backlog.pending == sum(entry.state == "pending" for entry in mine)
            assert backlog.dead == sum(entry.state == "dead" for entry in mine)
            assert backlog.first_unsent == ((0, min(unsent)) if unsent else None)
            if not any(self.held_back(entry) for entry in mine):
                assert backlog.next_due == min((max(e.due, e.until) for e in mine if e.state == "pending"), default=None)

    def teardown(self):
        if self.real is not None:
            self.real._store.close()


@pytest.mark.parametrize("is_ordered", [False, True], ids=["unordered", "ordered"])
def test_sqlite_does_what_the_model_says_through_crashes(sqlite_stores, is_ordered):
    class OnSqlite(Machine):
        ordered = is_ordered

        @staticmethod
        def maker(clock):
            return SqlOutbox(sqlite_stores.fresh(clock), ordered=is_ordered)

    run_state_machine_as_test(OnSqlite, settings=settings(
        max_examples=25, stateful_step_count=30, deadline=None, database=None, print_blob=True,
        suppress_health_check=list(HealthCheck)))


def test_the_machine_finds_a_forgotten_doubt(sqlite_stores):
    """The control: an implementation that is wrong in one place does not get through."""

    class Sure(SqlOutbox):
        def take(self, limit, lease_s, streams=None):
            return [replace(message, doubted=False) for message in super().take(limit, lease_s, streams)]

    class OnSure(Machine):
        @staticmethod
        def maker(clock):
            return Sure(sqlite_stores.fresh(clock))

        crash = None

    with pytest.raises(AssertionError):
        run_state_machine_as_test(OnSure, settings=settings(
            max_examples=200, stateful_step_count=30, deadline=None, database=None, phases=(Phase.generate,), derandomize=True,
            suppress_health_check=list(HealthCheck)))


# -- RFC 1982

SEQS = st.integers(0, SEQ_SPAN - 1) | st.sampled_from([0, 1, SEQ_SPAN - 1, SEQ_SPAN // 2 - 1, SEQ_SPAN // 2, SEQ_SPAN // 2 + 1])


@given(SEQS, st.integers(1, SEQ_SPAN // 2 - 1))
@example(SEQ_SPAN - 1, 1)
@example(SEQ_SPAN - 1, SEQ_SPAN // 2 - 1)
@settings(max_examples=300, database=None)
def test_what_was_added_comes_after(seq, added):
    """Section 3.1: s' = (s + n) mod 2**32 for n up to 2**31 - 1, and s' is then greater than s (section 3.2)."""
    later = (seq + added) % SEQ_SPAN
    assert serial_before(seq, later)
    assert not serial_before(later, seq)


@given(SEQS)
@settings(max_examples=100, database=None)
def test_equal_and_opposite_numbers_are_not_before_each_other(seq):
    opposite = (seq + SEQ_SPAN // 2) % SEQ_SPAN
    assert not serial_before(seq, seq)
    assert not serial_before(seq, opposite)
    assert not serial_before(opposite, seq)


# -- the receiver's gaps


class Numbers:
    """The plain model of Gaps: a set of distances from the start."""

    def __init__(self, start, window):
        self.start, self.window, self.seen = start, window, set()

    def first_gap(self):
        return next(n for n in range(len(self.seen) + 1) if n not in self.seen)

    def add(self, seq):
        distance = (seq - self.start) % SEQ_SPAN
        if distance >= SEQ_SPAN // 2 or distance in self.seen:
            return False
        if distance >= self.first_gap() + self.window:
            return InvalidInput
        self.seen.add(distance)
        return True

    def runs(self, distances):
        """Distances as inclusive ranges of numbers, in order."""
        runs = []
        for distance in sorted(distances):
            if runs and distance == runs[-1][1] + 1:
                runs[-1][1] = distance
            else:
                runs.append([distance, distance])
        return [((a + self.start) % SEQ_SPAN, (b + self.start) % SEQ_SPAN) for a, b in runs]


STARTS = st.sampled_from([0, 5, SEQ_SPAN // 2 - 3, SEQ_SPAN // 2, SEQ_SPAN - 4, SEQ_SPAN - 1])


@given(STARTS, st.integers(1, 30), st.lists(st.integers(-6, 60), max_size=60))
@settings(max_examples=300, deadline=None, database=None)
def test_gaps_are_what_a_set_says(start, window, distances):
    gaps, model = Gaps(start, window), Numbers(start, window)
    for distance in distances:
        seq = (start + distance) % SEQ_SPAN
        expected = model.add(seq)
        before = list(gaps.ranges)
        if expected is InvalidInput:
            with pytest.raises(InvalidInput, match="ahead of the"):
                gaps.add(seq)
            assert gaps.ranges == before
        else:
            assert gaps.add(seq) is expected
        assert gaps.ranges == model.runs(model.seen)
        highest = max(model.seen, default=-1)
        assert gaps.missing() == model.runs(set(range(highest)) - model.seen)
        for end in (0, 3, 20, highest, highest + 1, 70):
            if end >= 0:
                assert gaps.missing((start + end) % SEQ_SPAN) == model.runs(set(range(end + 1)) - model.seen)


@pytest.mark.parametrize("count", [10, SEQ_SPAN // 2 - 1, SEQ_SPAN // 2 + 10])
def test_an_account_that_was_kept_is_the_same(count):
    gaps = Gaps(0, ranges=[(0, count - 11)] if count > SEQ_SPAN // 4 else [])
    for seq in range(count - 10, count):
        gaps.add(seq)
    gaps.add(count + 5)
    again = Gaps(gaps.start, gaps.window, gaps.ranges)
    assert again.ranges == gaps.ranges
    assert again.missing() == gaps.missing() == [(count, count + 4)]
    assert again.add(count - 1) is gaps.add(count - 1) is False


@pytest.mark.parametrize("seq", [-1, SEQ_SPAN])
def test_what_is_no_number_of_32_bits_is_refused(seq):
    gaps = Gaps()
    with pytest.raises(InvalidInput):
        gaps.add(seq)
    assert gaps.ranges == []


def test_numbers_go_on_beyond_the_half():
    gaps = Gaps(0, ranges=[(0, SEQ_SPAN // 2 - 1)])
    assert gaps.add(SEQ_SPAN // 2) is True
    assert gaps.add(SEQ_SPAN // 2 + 1) is True
    assert gaps.add(SEQ_SPAN // 2) is False


def test_nothing_is_missing_when_nothing_was_sent():
    assert Gaps(5).missing(up_to=4) == []


def test_a_sender_that_leaves_holes_costs_no_more_than_one_that_does_not():
    """Counted in steps of the interpreter, not in time."""

    def steps(count):
        gaps, n = Gaps(), 0

        def trace(frame, event, arg):
            nonlocal n
            n += 1
            return trace

        tracer = sys.gettrace()
        sys.settrace(trace)
        try:
            for seq in range(1, 2 * count, 2):
                gaps.add(seq)
        finally:
            sys.settrace(tracer)
        return n

    assert steps(200) < 3 * steps(100)


def test_replay_waits_for_a_sender_that_takes_a_later_message_of_the_lane(postgres_stores):
    """Else each would overlook the other, and two messages of one lane be under way."""
    store = postgres_stores.fresh(ManualClock())
    mine = SqlOutbox(store)
    for number in range(2):
        mine.put("s", f"m{number}", b"", lane="lane")
    (message,) = mine.take(9, 60)
    mine.settle(message, Dead("refused"))
    with ThreadPoolExecutor(1) as pool:
        with store.transaction():
            assert mine.replay("s", ["m0"]) == 1
            assert pool.submit(mine.take, 9, 60).result(20) == [], "what comes after it is locked until the replay is committed"
        assert [one.key for one in mine.take(9, 60)] == ["m0"]
