"""What every Delta promises, on SQLite and Postgres; machines beside a plain model; kills; and memory that does not grow with the records."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import textwrap
from dataclasses import dataclass, field, replace

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from buttress.kernel import failpoint
from buttress.kernel.clock import ManualClock
from buttress.kernel.delta import Change, Evidence, Guard, Item, Run, SqlDelta
from buttress.kernel.errors import InvalidInput, Stale
from buttress.kernel.failpoint import FailpointError, arm
from buttress.kernel.store import Schema
from buttress.kernel.store.sqlite import SqliteStore
from buttress.testing import delta as conformance

WHOLE, BROKEN = conformance.WHOLE, conformance.BROKEN
PROMISES = [
    pytest.param(engine, promise, id=f"{engine}-{promise.__name__}")
    for engine in ("sqlite", "postgres")
    for promise in conformance.promises(conformance.Case(None, None, transaction=True, reopen=True))
]


@pytest.mark.parametrize(("stores", "promise"), PROMISES, indirect=["stores"])
def test_promise(stores, promise):
    promise(conformance.Case(
        maker=lambda clock: SqlDelta(stores.fresh(clock)),
        deletes=lambda mine, finished: mine.deletes(finished),
        transaction=lambda mine: mine._store.transaction(),
        reopen=lambda mine, clock: SqlDelta(stores.reopen(mine._store, clock)),
    ))


def item(key, content="one", raw=""):
    return Item(key, content.encode(), raw.encode())


@pytest.mark.parametrize("stores", ["sqlite", "postgres"], indirect=True)
def test_a_callers_own_transaction_is_joined(stores):
    """The sink's rows and what is remembered live and die together, on a connection of the caller's."""
    store = stores.fresh(ManualClock())
    store.setup(Schema("test.shop", 1, ("CREATE TABLE shop (key TEXT)",)))
    mine = SqlDelta(store)
    for fails in (True, False):
        run = mine.begin("feed")
        changes = mine.compare(run, [item("a")])
        assert changes == [Change("upsert", "a", run.number, b"one")]
        try:
            with stores.foreign(store) as connection, store.join(connection) as tx:
                tx.execute("INSERT INTO shop (key) VALUES ('a')")
                mine.settle(run, changes)
                if fails:
                    raise LookupError("the sink failed")
        except LookupError:
            pass
    assert mine.compare(mine.begin("feed"), [item("a")]) == [None]
    with store.transaction() as tx:
        assert tx.all("SELECT key FROM shop") == [("a",)]


@pytest.mark.parametrize("stores", ["sqlite", "postgres"], indirect=True)
def test_deletes_come_in_batches_that_are_settled_one_by_one(stores):
    mine = SqlDelta(stores.fresh(ManualClock()), guard=Guard(0, 1))
    run = mine.begin("feed")
    mine.settle(run, mine.compare(run, [item(f"{n}") for n in range(7)]))
    finished = mine.finish(mine.begin("feed"), WHOLE)
    batches = []
    for batch in mine.deletes(finished, 3):
        mine.settle(finished.run, batch)
        batches.append([change.key for change in batch])
    assert batches == [["0", "1", "2"], ["3", "4", "5"], ["6"]]
    assert list(mine.deletes(finished)) == []
    with pytest.raises(InvalidInput, match="limit"):
        next(mine.deletes(finished, 0))


def test_the_newest_run_of_a_source_is_told(sqlite_stores):
    mine = SqlDelta(sqlite_stores.fresh(ManualClock()))
    assert mine.last("feed") is None
    run = mine.begin("feed")
    assert mine.last("feed") == (1, "open", "", 0)
    mine.compare(run, [item("a"), item("b")])
    mine.finish(run, BROKEN)
    assert mine.last("feed") == (1, "incomplete", BROKEN.reason, 2)
    mine.begin("feed")
    assert mine.last("feed") == (2, "open", "", 0)
    assert mine.last("another") is None


def test_who_allowed_it_is_kept(sqlite_stores):
    mine = SqlDelta(sqlite_stores.fresh(ManualClock(1_000.0)))
    mine.finish(mine.begin("feed"), WHOLE, allow="somebody")
    with mine._store.transaction() as tx:
        assert tx.one("SELECT allowed, began, ended FROM buttress_delta_source") == ("somebody", 1_000.0, 1_000.0)


@pytest.mark.parametrize("broken", [{"count_min": -0.1}, {"count_min": 1.1}, {"deletes_max": float("nan")}, {"deletes_max": "1"}, {"free": -1}])
def test_a_guard_outside_its_limits_is_refused(broken):
    (name,) = broken
    with pytest.raises(InvalidInput, match=name):
        Guard(**broken)


def test_a_compare_that_failed_may_be_asked_again(sqlite_stores):
    """Its commit fails (the disk is full, the server is gone): what it would have said is not lost for this run."""
    mine = SqlDelta(sqlite_stores.fresh(ManualClock()))
    run = mine.begin("feed")
    arm({"store.commit": (1, "error")})
    with pytest.raises(FailpointError):
        mine.compare(run, [item("a")])
    assert [change.key for change in mine.compare(run, [item("a")]) if change] == ["a"]
    assert (run.seen, run.repeated) == (1, 0)


# -- the machines


class Sink:
    """A receiver that refuses what is older than what it has; a delete leaves its version behind."""

    def __init__(self):
        self.records: dict[tuple[str, str], Change] = {}

    def take(self, source, changes):
        for change in changes:
            known = self.records.get((source, change.key))
            if known is None or change.version >= known.version:
                self.records[source, change.key] = change

    def live(self, source):
        return {key: change.content for (where, key), change in self.records.items() if where == source and change.kind == "upsert"}


@dataclass
class Feed:
    """What the plain model knows of a source."""

    truth: dict[str, Item] = field(default_factory=dict)  # what the source says now
    known: dict[str, Item] = field(default_factory=dict)  # what was settled, or found unchanged
    doubt: set[str] = field(default_factory=set)  # given, and neither settled nor found unchanged since
    run: Run | None = None
    number: int = 0
    reading: dict[str, Item] = field(default_factory=dict)  # what came in this run, each key as it came first
    pending: list[Change] = field(default_factory=list)  # given in this run, not delivered yet
    state: str = ""
    dropped: bool = False  # something of this run did not reach the sink for certain
    stale: list[tuple[Run, list[Change]]] = field(default_factory=list)


GUARD = Guard(count_min=0.5, deletes_max=0.4, free=1)
SOURCES = st.sampled_from(["s", "t"])
KEYS = st.sampled_from("abcd")
SAID = [("one", "one-x"), ("one", "one-y"), ("one", ""), ("two", "two-x"), ("two", "")]  # content and raw bytes: the same bytes never say two things
EDITS = st.dictionaries(KEYS, st.sampled_from([*SAID, None, None, None]), max_size=3)


class Machine(RuleBasedStateMachine):
    """Reads changing sources through a delta into a sink, and compares with a model that knows what the sink must have."""

    kind = SqlDelta
    stores = None
    deliveries = ("kept", "kept", "kept", "failed", "later")  # the sink either has a change and settles it, or does not have it

    def __init__(self):
        super().__init__()
        self.feeds = {"s": Feed(), "t": Feed()}
        self.sink = Sink()
        self.real = None

    @initialize()
    def open(self):
        self.real = self.kind(self.stores.fresh(ManualClock()), guard=GUARD)

    # -- the run

    def begin(self, source):
        feed = self.feeds[source]
        if feed.run is not None:
            feed.stale.append((feed.run, feed.pending))
        feed.run, feed.reading, feed.pending, feed.state, feed.dropped = self.real.begin(source), {}, [], "", False
        assert feed.run.number > feed.number
        feed.number = feed.run.number
        assert len(feed.known) <= feed.run.known <= len(set(feed.known) | feed.doubt)

    def reader(self, source, edits, anew=False):
        """The source changes, and a run that is open, or a new one, which abandons that one, reads on."""
        feed = self.feeds[source]
        for key, said in edits.items():
            feed.truth.pop(key, None)
            if said:
                feed.truth[key] = item(key, *said)
        if anew or feed.run is None or feed.state:
            self.begin(source)
        return feed

    @rule(source=SOURCES, edits=EDITS, keys=st.lists(KEYS, min_size=1, max_size=6), anew=st.booleans(), parses_all=st.booleans(), data=st.data())
    def read(self, source, edits, keys, anew, parses_all, data):
        feed = self.reader(source, edits, anew)
        self.read_in(feed, [feed.truth[key] for key in keys if key in feed.truth], parses_all)
        self.deliver_in(source, 9, data)

    def read_in(self, feed, items, parses_all):
        if not parses_all:
            answers = self.real.same(feed.run, [(record.key, record.raw) for record in items])
            for record, same in zip(items, answers, strict=True):
                known = feed.known.get(record.key)
                may = known is not None and record.raw != b"" and record.raw == known.raw
                assert same == may or (not same and record.key in feed.doubt), f"same of {record} is {same}, the model knows {known}"
                if same and record.key not in feed.reading:
                    feed.reading[record.key] = record
                    feed.doubt.discard(record.key)
            items = [record for record, same in zip(items, answers, strict=True) if not same]
        for record, change in zip(items, self.real.compare(feed.run, items), strict=True):
            known = feed.known.get(record.key)
            if record.key in feed.reading:
                assert change is None, f"{record} came before in this run, the model says no news: {change}"
                continue
            feed.reading[record.key] = record
            unchanged = known is not None and known.content == record.content
            assert (change is None) == unchanged or (change is not None and record.key in feed.doubt), f"{record}: {change}, the model knows {known}"
            if change is None:
                feed.known[record.key] = record
                feed.doubt.discard(record.key)
            else:
                assert change == Change("upsert", record.key, feed.number, record.content, record.raw)
                feed.pending.append(change)
                feed.doubt.add(record.key)
        assert feed.run.seen == len(feed.reading), "the model says another number of records"

    @rule(source=SOURCES, edits=EDITS, reads_rest=st.sampled_from([True, True, False]), count=st.sampled_from([None, None, None, 0, 1]),
          allow=st.sampled_from(["", "somebody"]), limit=st.integers(1, 3), parses_all=st.booleans(), data=st.data())
    def finish(self, source, edits, reads_rest, count, allow, limit, parses_all, data):
        """An honest reader: it has evidence of the end exactly if all that its source holds came."""
        feed = self.reader(source, edits)
        if reads_rest:
            self.read_in(feed, [record for key, record in feed.truth.items() if key not in feed.reading], parses_all)
        evidence = Evidence(reads_rest, "it broke off", None if count is None else len(feed.reading) + count)
        finished = self.real.finish(feed.run, evidence, allow=allow)
        missing = set(feed.known) - set(feed.reading) - feed.doubt
        perhaps = feed.doubt - set(feed.reading)
        assert len(missing) <= finished.missing <= len(missing | perhaps), f"{finished}, the model misses {missing} and perhaps {perhaps}"
        assert finished.state == self.judged(feed, finished, evidence, allow), f"the model says otherwise: {finished}"
        feed.state = finished.state
        deletes = [change for batch in self.real.deletes(finished, limit) for change in batch]
        assert all(change == Change("delete", change.key, feed.number) for change in deletes)
        if finished.state != "complete":
            assert deletes == [], "the model says no deletes without evidence"
            return
        keys = [change.key for change in deletes]
        assert len(keys) == len(set(keys)) and missing <= set(keys) <= missing | perhaps, f"deletes of {keys}, the model misses {missing}, perhaps {perhaps}"
        feed.pending += deletes
        feed.doubt |= set(keys)
        self.check_whole(source)
        self.deliver_in(source, 9, data)

    @staticmethod
    def judged(feed, finished, evidence, allow):
        if not evidence.complete or evidence.count not in (None, len(feed.reading)):
            return "incomplete"
        if allow or finished.missing <= GUARD.free:
            return "complete"
        too_few = len(feed.reading) < GUARD.count_min * feed.run.known
        return "held" if too_few or finished.missing > GUARD.deletes_max * feed.run.known else "complete"

    # -- the sink

    @precondition(lambda self: any(feed.pending for feed in self.feeds.values()))
    @rule(count=st.integers(1, 3), data=st.data())
    def deliver(self, count, data):
        source = data.draw(st.sampled_from([source for source, feed in self.feeds.items() if feed.pending]), label="source")
        self.deliver_in(source, count, data)

    def deliver_in(self, source, count, data):
        """Some of what was given, to the sink; what is left here waits, and is lost with its run."""
        feed = self.feeds[source]
        how = data.draw(st.sampled_from(self.deliveries), label="how") if feed.pending else "later"
        if how == "later":
            return
        some, rest = feed.pending[:count], feed.pending[count:]
        if how == "undone":  # one transaction with the sink, which fails
            try:
                with self.real._store.transaction():
                    self.real.settle(feed.run, some)
                    raise LookupError
            except LookupError:
                return
        feed.pending = rest
        if how != "kept":
            if how == "lost":  # the sink has it, and nobody knows
                self.sink.take(source, some)
            feed.dropped = True
            return
        self.sink.take(source, some)
        self.real.settle(feed.run, some)
        for change in some:
            feed.doubt.discard(change.key)
            if change.kind == "delete":
                feed.known.pop(change.key, None)
            else:
                feed.known[change.key] = Item(change.key, change.content, change.raw)
        self.check_whole(source)

    def check_whole(self, source):
        """A complete run whose changes all arrived: the sink has what the source said, no more and no less."""
        feed = self.feeds[source]
        if feed.state == "complete" and not feed.pending and not feed.dropped:
            expected = {key: record.content for key, record in feed.reading.items()}
            assert self.sink.live(source) == expected, f"the sink has {self.sink.live(source)}, the model says {expected}"

    @precondition(lambda self: any(feed.stale for feed in self.feeds.values()))
    @rule(data=st.data())
    def wake_a_run_of_before(self, data):
        source = data.draw(st.sampled_from([source for source, feed in self.feeds.items() if feed.stale]), label="source")
        run, changes = data.draw(st.sampled_from(self.feeds[source].stale), label="run")
        if "lost" in self.deliveries:  # it was on its way to the sink when a later run began
            self.sink.take(source, changes)
        for call in (lambda: self.real.same(run, [("a", b"one-x")]), lambda: self.real.compare(run, [item("a", "stale")]),
                     lambda: self.real.settle(run, changes), lambda: self.real.finish(run, WHOLE, allow="somebody")):
            with pytest.raises(Stale):
                call()

    @rule()
    def crash(self):
        """The process dies with a transaction open: what it never committed is gone, all else is read from the file."""
        path = self.real._store.path
        dying = sqlite3.connect(path, isolation_level=None)
        dying.execute("BEGIN IMMEDIATE")
        dying.execute("DELETE FROM buttress_delta")
        dying.close()
        self.real._store.close()
        self.real = self.kind(SqliteStore(path, clock=ManualClock()), guard=GUARD)
        for feed in self.feeds.values():
            feed.run, feed.pending, feed.state = None, [], ""

    @invariant()
    def the_sink_has_what_is_known(self):
        """The replay of all that was given to the sink: the last complete reading and the upserts since, but for what is in doubt."""
        for source, feed in self.feeds.items():
            live = self.sink.live(source)
            for key in (set(live) | set(feed.known)) - feed.doubt:
                expected = feed.known[key].content if key in feed.known else None
                assert live.get(key) == expected, f"{key} in the sink is {live.get(key)}, the model says {expected}"

    def teardown(self):
        if self.real is not None:
            self.real._store.close()


class DoubtfulMachine(Machine):
    """The sink may have taken what was never settled, also after a later run began: a crash between the two, or a slow worker."""

    deliveries = (*Machine.deliveries, "lost", "undone")


def walk(machine, examples, **options):
    run_state_machine_as_test(machine, settings=settings(
        max_examples=examples, stateful_step_count=40, deadline=None, database=None, print_blob=True,
        suppress_health_check=list(HealthCheck), **options))


def machine(base, stores, kind):
    return type("OnSqlite", (base,), {"stores": stores, "kind": kind})


def test_sqlite_does_what_the_model_says_through_crashes(sqlite_stores):
    walk(machine(Machine, sqlite_stores, SqlDelta), 25)


def test_sqlite_does_what_the_model_says_with_a_sink_that_may_have_it(sqlite_stores):
    walk(machine(DoubtfulMachine, sqlite_stores, SqlDelta), 60, derandomize=True, phases=(Phase.generate,))


class ForgetsMarks(SqlDelta):
    """Does not mark what was unchanged."""

    def compare(self, run, items):
        before = bytes(run.marks._bits)
        changes = super().compare(run, items)
        if not any(changes):
            run.marks._bits = bytearray(before)
        return changes


class DeletesWithoutEvidence(SqlDelta):
    """What did not come is gone."""

    def _judge(self, run, evidence, missing, allow):
        return super()._judge(run, Evidence(True), missing, allow)


class RemembersTheSettlesOfOthers(SqlDelta):
    """A run of before may still settle."""

    def settle(self, run, changes):
        with self._store.transaction() as tx:
            (number,) = tx.one("SELECT run FROM buttress_delta_source WHERE source = ?", (run.source,))
        super().settle(replace(run, number=number), [replace(change, version=number) for change in changes if change.kind == "upsert"])


@pytest.mark.parametrize("mutant", [ForgetsMarks, DeletesWithoutEvidence, RemembersTheSettlesOfOthers])
def test_the_machine_finds_what_is_wrong_in_one_place(sqlite_stores, mutant):
    """The control: an implementation that is wrong in one place does not get through."""
    with pytest.raises((AssertionError, pytest.fail.Exception), match=r"the model|DID NOT RAISE"):
        walk(machine(Machine, sqlite_stores, mutant), 100, phases=(Phase.generate,), derandomize=True)


# -- kill -9 at every failpoint


FIRST = {"a": "one", "b": "one", "c": "one", "d": "one", "e": "one"}
SECOND = {"a": "one", "b": "two", "c": "one", "f": "one", "g": "one"}


class Importer:
    """Reads a source into a sink, batch after batch. The sink is a file: what it was given survives every crash."""

    def __init__(self, folder):
        self.path = f"{folder}/sink"
        self.store = SqliteStore(f"{folder}/delta.db", clock=ManualClock())
        self.mine = SqlDelta(self.store)

    def give(self, changes):
        fd = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        try:
            for change in changes:
                os.write(fd, json.dumps([change.kind, change.key, change.version, change.content.decode()]).encode() + b"\n")
        finally:
            os.close(fd)

    def deliver(self, run, changes):
        if changes:
            self.give(changes)
            failpoint.failpoint("test.sink")
            self.mine.settle(run, changes)

    def read(self, records):
        run = self.mine.begin("feed")
        keys = sorted(records)
        for start in range(0, len(keys), 2):
            some = [item(key, records[key], records[key]) for key in keys[start : start + 2]]
            same = self.mine.same(run, [(record.key, record.raw) for record in some])
            changes = self.mine.compare(run, [record for record, known in zip(some, same, strict=True) if not known])
            self.deliver(run, [change for change in changes if change])
        finished = self.mine.finish(run, WHOLE)
        for batch in self.mine.deletes(finished, 1):
            self.deliver(run, batch)

    def sold(self):
        """What the sink has."""
        sink = Sink()
        try:
            with open(self.path) as file:
                sink.take("feed", [Change(kind, key, version, content.encode()) for kind, key, version, content in map(json.loads, file)])
        except FileNotFoundError:
            pass
        return {key: content.decode() for key, content in sink.live("feed").items()}


class SettlesFirst(Importer):
    """Control: remembers, then gives it to the sink. Loses what lies in between."""

    def deliver(self, run, changes):
        if changes:
            self.mine.settle(run, changes)
            failpoint.failpoint("test.sink")
            self.give(changes)


def sweep(fork, tmp_path, importer, now):
    """Reads the second state once to count, then with a kill at each hit of each failpoint; then the source is read as it is now."""
    first = tmp_path / "first"
    first.mkdir()
    importer(str(first)).read(FIRST)

    def counting(tell, _):
        arm({})
        importer(str(folder)).read(SECOND)
        tell(failpoint.hits)

    folder = shutil.copytree(first, tmp_path / "clean")
    hits = fork(counting).says()
    points = [(name, hit) for name, count in sorted(hits.items()) for hit in range(1, count + 1)]
    found = []
    for name, hit in points:
        folder = shutil.copytree(first, tmp_path / f"{name}-{hit}")

        def dying(tell, fd, folder=folder, name=name, hit=hit):
            arm({name: (hit, "kill")}, mark_fd=fd)
            importer(str(folder)).read(SECOND)

        child = fork(dying)
        assert child.says() == {"hit": name, "n": hit, "action": "kill"}
        assert child.ends() == -signal.SIGKILL
        successor = importer(str(folder))
        successor.read(now)
        sold = successor.sold()
        successor.store.close()
        if sold != now:
            found.append(f"killed at {name} {hit}: the sink has {sold}")
    return points, found


def test_the_sink_has_what_the_source_says_through_a_kill_at_every_failpoint(fork, tmp_path):
    points, found = sweep(fork, tmp_path, Importer, SECOND)
    assert found == []
    assert len(points) > 25
    assert {name for name, _ in points} == {"delta.settle", "store.commit", "store.committed", "test.sink"}


def test_the_sink_has_what_the_source_says_where_it_took_its_word_back(fork, tmp_path):
    """As before, but after the kill the source is again what it was at first."""
    _, found = sweep(fork, tmp_path, Importer, FIRST)
    assert found == []


def test_the_sweep_finds_a_settle_before_the_sink(fork, tmp_path):
    _, found = sweep(fork, tmp_path, SettlesFirst, SECOND)
    assert any("killed at test.sink 1: the sink has {'a': 'one', 'b': 'one'" in problem for problem in found), found


# -- memory

MEASURE = textwrap.dedent("""
    import os, sys
    from buttress.kernel.clock import ManualClock
    from buttress.kernel.delta import Evidence, Item, SqlDelta
    from buttress.kernel.store.sqlite import SqliteStore

    path, count, hoards = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "hoards"
    store = SqliteStore(path, clock=ManualClock())
    mine = SqlDelta(store)
    first = mine.begin("feed")
    with store.transaction() as tx:  # as a first run would have left it, without its time
        tx.execute("WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < ? - 1) "
                   "INSERT INTO buttress_delta (source, key, number, content, raw, version, live) "
                   "SELECT 'feed', 'record-number-' || i, i, x'01', x'02', 1, 1 FROM n", (count,))
        tx.execute("UPDATE buttress_delta_source SET next_number = ?", (count,))
    mine.finish(first, Evidence(False))

    def resident():
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    hoard = set()
    start = peak = resident()
    run = mine.begin("feed")
    for at in range(0, count, 500):
        keys = [f"record-number-{n}" for n in range(at, at + 500)]
        if at % 5_000 == 0:
            changes = mine.compare(run, [Item(key, b"3", b"4") for key in keys] + [Item("new-" + key, b"5", b"6") for key in keys])
            mine.settle(run, changes)
        elif at % 5_000 != 500:
            assert all(mine.same(run, [(key, b"\\x02") for key in keys]))
        if hoards:
            hoard.update(keys)
        peak = max(peak, resident())
    finished = mine.finish(run, Evidence(True))
    assert finished.state == "complete" and finished.missing == count // 10, finished
    gone = 0
    for batch in mine.deletes(finished):
        mine.settle(run, batch)
        gone += len(batch)
        peak = max(peak, resident())
    assert gone == count // 10
    print(peak - start)
""")


def grown(folder, count, hoards=False):
    """Bytes by which a run over so many records grows its process: one of its own, so that nobody's free memory hides it."""
    path = folder / f"{count}-{hoards}.db"
    done = subprocess.run([sys.executable, "-c", MEASURE, str(path), str(count), "hoards" if hoards else ""],
                          capture_output=True, text=True, timeout=120, check=False)
    path.unlink()
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="reads /proc")
def test_memory_does_not_grow_with_the_records(tmp_path):
    """Twice the records: a bit more for each, and nothing else. The control keeps the keys, and the same measure finds it."""
    half, whole = grown(tmp_path, 100_000), grown(tmp_path, 200_000)
    assert whole < 40e6
    assert whole - half < 4e6
    assert grown(tmp_path, 100_000, hoards=True) - half > 6e6
