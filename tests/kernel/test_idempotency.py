"""What every idempotency promises, on memory, SQLite and Postgres; and a machine that walks at random beside a plain model."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass

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

from buttress.kernel.clock import ManualClock
from buttress.kernel.errors import ButtressError, Stale
from buttress.kernel.idempotency import Done, InFlight, MemoryIdempotency, Mismatch, New, SqlIdempotency, Unknown, stale
from buttress.kernel.store.sqlite import SqliteStore
from buttress.testing import idempotency as conformance

ENGINES = {
    "memory": conformance.promises(conformance.Case(MemoryIdempotency)),
    "sqlite": conformance.promises(conformance.Case(MemoryIdempotency, reopen=True, transaction=True, neighbour=True)),
}
ENGINES["postgres"] = ENGINES["sqlite"]
PROMISES = [
    pytest.param(engine, promise, id=f"{engine}-{promise.__name__}")
    for engine, promises in ENGINES.items()
    for promise in promises
]


@pytest.fixture
def case(request):
    """What the engine that the parameter names hands to the conformance check."""
    if request.param == "memory":
        return conformance.Case(MemoryIdempotency)
    stores = request.getfixturevalue(f"{request.param}_stores")
    return conformance.Case(
        maker=lambda clock: SqlIdempotency(stores.fresh(clock)),
        reopen=lambda mine, clock: SqlIdempotency(stores.reopen(mine._store, clock)),
        transaction=lambda mine: mine._store.transaction(),
        neighbour=lambda mine, clock: SqlIdempotency(mine._store, "another"),
    )


@pytest.mark.parametrize(("case", "promise"), PROMISES, indirect=["case"])
def test_promise(case, promise):
    promise(case)


@pytest.mark.parametrize("stores", ["sqlite", "postgres"], indirect=True)
def test_a_callers_own_transaction_is_joined(stores):
    """claim, the caller's effect and settle on a connection of the caller's: all or nothing."""
    clock = ManualClock()
    store = stores.fresh(clock)
    mine = SqlIdempotency(store)
    for outcome, expected in (("error", New), ("commit", Done)):
        try:
            with stores.foreign(store) as connection, store.join(connection):
                claim = mine.claim("order-1", b"print", 30)
                assert claim == New(1)
                mine.settle("order-1", claim.fence, b"201")
                if outcome == "error":
                    raise LookupError("the effect failed")
        except LookupError:
            pass
        if expected is Done:
            assert mine.claim("order-1", b"print", 30) == Done(b"201")


def test_the_store_gives_the_time_unless_told_otherwise(sqlite_stores):
    store = sqlite_stores.fresh(ManualClock(1_000.0))
    assert SqlIdempotency(store).claim("a", b"", 30) == New(1)
    assert SqlIdempotency(store).claim("a", b"", 30) == InFlight(1_030.0)
    assert SqlIdempotency(store, clock=ManualClock(5_000.0)).claim("a", b"", 30) == New(2)


def test_a_stale_holder_is_told_without_the_key():
    error = stale("somebody@example.org", 3)
    assert "somebody" not in str(error)
    assert str(error) == "fence 3 no longer holds this key (20 characters) (drop the work: another holder has it)"


# -- the machine


@dataclass
class Entry:
    """What the plain model knows of a key."""

    fingerprint: bytes
    fence: int
    until: float
    intent: bytes | None = None
    done: bool = False
    outcome: bytes | None = None
    settled: float = 0.0


class Model:
    """One effect per key, as plainly as it can be said. Every method gives the answer, or Stale."""

    def __init__(self):
        self.entries: dict[str, Entry] = {}

    def copy(self):
        twin = Model()
        twin.entries = {key: Entry(**vars(entry)) for key, entry in self.entries.items()}
        return twin

    def claim(self, now, key, fingerprint, lease_s):
        entry = self.entries.get(key)
        if entry is None:
            self.entries[key] = Entry(fingerprint, 1, now + lease_s)
            return New(1)
        if entry.fingerprint != fingerprint:
            return Mismatch(entry.fingerprint)
        if entry.done:
            return Done(entry.outcome)
        if now < entry.until:
            return InFlight(entry.until)
        entry.fence += 1
        entry.until = now + lease_s
        return New(entry.fence) if entry.intent is None else Unknown(entry.fence, entry.intent)

    def held(self, key, fence):
        entry = self.entries.get(key)
        return entry if entry is not None and entry.fence == fence and not entry.done else None

    def intend(self, now, key, fence, intent):
        entry = self.held(key, fence)
        if entry is None:
            return Stale
        entry.intent = intent
        return None

    def renew(self, now, key, fence, lease_s):
        entry = self.held(key, fence)
        if entry is None:
            return Stale
        entry.until = now + lease_s
        return None

    def settle(self, now, key, fence, outcome):
        entry = self.held(key, fence)
        if entry is None:
            return Stale
        entry.intent = None
        if outcome is None:
            entry.until = 0.0
        else:
            entry.done, entry.outcome, entry.settled = True, outcome, now
        return None

    def retire(self, now, before):
        old = [entry for entry in self.entries.values() if entry.done and entry.settled < before and entry.outcome is not None]
        for entry in old:
            entry.outcome = None
        return len(old)


KEYS = st.sampled_from(["a", "b", "c"])
PRINTS = st.sampled_from([b"print", b"print", b"print", b"another"])
FENCES = st.integers(1, 5)
LEASES = st.sampled_from([10.0, 30.0])
BYTES = st.sampled_from([b"", b"x", b"\x00y"])


class Machine(RuleBasedStateMachine):
    """Does the same to an implementation and to the model, and compares each answer."""

    maker = None

    def __init__(self):
        super().__init__()
        self.clock = ManualClock()
        self.model = Model()
        self.real = None

    @initialize()
    def open(self):
        self.real = type(self).maker(self.clock)

    def both(self, name, *args):
        expected = getattr(self.model, name)(self.clock.now(), *args)
        try:
            seen = getattr(self.real, name)(*args)
        except Stale:
            seen = Stale
        assert seen == expected, f"{name}{args}: {seen}, the model says {expected}"

    @rule(key=KEYS, fingerprint=PRINTS, lease_s=LEASES)
    def claim(self, key, fingerprint, lease_s):
        self.both("claim", key, fingerprint, lease_s)

    @rule(key=KEYS, fence=FENCES, intent=BYTES)
    def intend(self, key, fence, intent):
        self.both("intend", key, fence, intent)

    @rule(key=KEYS, fence=FENCES, lease_s=LEASES)
    def renew(self, key, fence, lease_s):
        self.both("renew", key, fence, lease_s)

    @rule(key=KEYS, fence=FENCES, outcome=st.none() | BYTES)
    def settle(self, key, fence, outcome):
        self.both("settle", key, fence, outcome)

    @rule(key=KEYS, outcome=st.none() | BYTES)
    def settle_as_holder(self, key, outcome):
        if key in self.model.entries:
            self.both("settle", key, self.model.entries[key].fence, outcome)

    @rule(key=KEYS, intent=BYTES)
    def intend_as_holder(self, key, intent):
        if key in self.model.entries:
            self.both("intend", key, self.model.entries[key].fence, intent)

    @rule(ago_s=st.sampled_from([0.0, 5.0, 60.0, -1.0]))
    def retire(self, ago_s):
        self.both("retire", self.clock.now() - ago_s)

    @rule(seconds=st.sampled_from([1.0, 5.0, 10.0, 31.0]))
    def advance(self, seconds):
        self.clock.advance(seconds)

    @invariant()
    def what_is_done_is_done(self):
        """A look that changes nothing: a claim with another payload answers Mismatch for every known key."""
        if self.real is not None:
            for key, entry in self.model.entries.items():
                assert self.real.claim(key, b"a look", 1.0) == Mismatch(entry.fingerprint)


class DurableMachine(Machine):
    """On SQLite, with crashes (everything in memory is gone) and transactions that fail."""

    @rule()
    def crash(self):
        """The process dies with a transaction open: what it never committed is gone, all else is read from the file."""
        path = self.real._store.path
        dying = sqlite3.connect(path, isolation_level=None)
        dying.execute("BEGIN IMMEDIATE")
        dying.execute("DELETE FROM buttress_idempotency")
        dying.close()
        self.real._store.close()
        self.real = SqlIdempotency(SqliteStore(path, clock=self.clock))

    @rule(key=KEYS, fingerprint=PRINTS, outcome=st.none() | BYTES, commits=st.booleans())
    def one_transaction(self, key, fingerprint, outcome, commits):
        """claim and settle in one transaction, which commits or fails as a whole."""
        before = self.model.copy()
        try:
            with self.real._store.transaction():
                self.both("claim", key, fingerprint, 30.0)
                self.both("settle", key, self.model.entries[key].fence, outcome)
                if not commits:
                    raise LookupError
        except LookupError:
            self.model = before

    @precondition(lambda self: self.model.entries)
    @rule(key=KEYS, fence=FENCES)
    def intend_in_a_transaction(self, key, fence):
        with self.real._store.transaction():
            try:
                self.real.intend(key, fence, b"never")
            except ButtressError:
                return
        raise AssertionError("intend inside a transaction was not refused")

    def teardown(self):
        if self.real is not None:
            self.real._store.close()


def walk(machine, examples, **options):
    run_state_machine_as_test(machine, settings=settings(
        max_examples=examples, stateful_step_count=40, deadline=None, database=None, print_blob=True,
        suppress_health_check=list(HealthCheck), **options))


def test_memory_does_what_the_model_says():
    class OnMemory(Machine):
        maker = MemoryIdempotency

    walk(OnMemory, 100)


def test_sqlite_does_what_the_model_says_through_crashes(sqlite_stores):
    class OnSqlite(DurableMachine):
        @staticmethod
        def maker(clock):
            return SqlIdempotency(sqlite_stores.fresh(clock))

    walk(OnSqlite, 40)


def test_the_machine_finds_a_forgotten_fence():
    """The control: an implementation that is wrong in one place does not get through."""

    class Forgetful(MemoryIdempotency):
        def settle(self, key, fence, outcome):
            entry = self._entries.get(key)
            super().settle(key, entry.fence if entry else fence, outcome)

    class OnForgetful(Machine):
        maker = Forgetful

    with pytest.raises(AssertionError, match="the model says"):
        walk(OnForgetful, 200, phases=(Phase.generate,), derandomize=True)
