"""What every Leases promises, on SQLite and Postgres; a machine beside a plain model; kills, two processes, and a holder that sleeps."""

from __future__ import annotations

import os
import signal
import sqlite3
from collections import Counter
from dataclasses import dataclass, replace

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
from buttress.kernel.clock import ManualClock, SharedClock
from buttress.kernel.errors import Stale
from buttress.kernel.failpoint import arm
from buttress.kernel.lease import Lease, SqlLeases, Taken
from buttress.kernel.store import Schema
from buttress.kernel.store.sqlite import SqliteStore
from buttress.testing import lease as conformance

LEASE_S = 30.0
SHOP = Schema("test.shop", 1, ("CREATE TABLE effects (name TEXT NOT NULL, holder TEXT NOT NULL)",))
SHORT = {"sqlite": {"busy_timeout_s": 0.2}, "postgres": {"timeout_s": 0.2}}
PROMISES = [
    pytest.param(engine, promise, id=f"{engine}-{promise.__name__}")
    for engine in ("sqlite", "postgres")
    for promise in conformance.promises(conformance.Case(None, transaction=True, reopen=True))
]


@pytest.mark.parametrize(("stores", "promise"), PROMISES, indirect=["stores"])
def test_promise(stores, promise):
    short = SHORT[stores.name] if promise is conformance.hold_keeps_others_out else {}
    promise(conformance.Case(
        maker=lambda clock: SqlLeases(stores.fresh(clock, **short)),
        transaction=lambda mine: mine._store.transaction(),
        reopen=lambda mine, clock: SqlLeases(stores.reopen(mine._store, clock)),
    ))


@pytest.mark.parametrize("stores", ["sqlite", "postgres"], indirect=True)
def test_a_callers_own_transaction_is_joined(stores):
    """hold and the effect on a connection of the caller's: where hold is refused there is no effect."""
    clock = ManualClock()
    store = stores.fresh(clock, **SHORT[stores.name])
    store.setup(SHOP)
    mine = SqlLeases(store)
    lease = mine.acquire("feed", "a", LEASE_S)
    insert = "INSERT INTO effects (name, holder) VALUES ('feed', 'a')"
    with stores.foreign(store) as connection, store.join(connection) as tx:
        mine.hold(lease)
        tx.execute(insert)
    clock.advance(LEASE_S)

    def late():
        with stores.foreign(store) as connection, store.join(connection) as tx:
            tx.execute(insert)
            mine.hold(lease)

    with pytest.raises(Stale):
        late()
    assert effects(store) == {"feed": 1}


def test_the_store_gives_the_time_unless_told_otherwise(sqlite_stores):
    store = sqlite_stores.fresh(ManualClock(1_000.0))
    assert SqlLeases(store).acquire("feed", "a", 30) == Lease("feed", "a", 1, 1_030.0)
    assert SqlLeases(store).acquire("feed", "b", 30) == Taken("a", 1_030.0)
    assert SqlLeases(store, clock=ManualClock(5_000.0)).acquire("feed", "b", 30) == Lease("feed", "b", 2, 5_030.0)


def test_postgres_goes_by_the_time_of_the_server(postgres_stores):
    store = postgres_stores.fresh()
    with store.transaction() as tx:
        (before,) = tx.one("SELECT extract(epoch FROM clock_timestamp())::float8")
    lease = SqlLeases(store).acquire("feed", "a", LEASE_S)
    with store.transaction() as tx:
        (after,) = tx.one("SELECT extract(epoch FROM clock_timestamp())::float8")
    assert before + LEASE_S <= lease.until <= after + LEASE_S


def effects(store):
    with store.transaction() as tx:
        return Counter(name for (name,) in tx.all("SELECT name FROM effects"))


# -- the machine


@dataclass
class Entry:
    """What the plain model knows of a name."""

    holder: str = ""
    fence: int = 0
    until: float = 0.0


NAMES = st.sampled_from(["feed", "job"])
HOLDERS = st.sampled_from(["a", "b", "c"])
LEASES = st.sampled_from([10.0, 30.0])


class Machine(RuleBasedStateMachine):
    """Does the same to leases and to a plain dictionary, and compares; every lease ever given is tried again and again."""

    maker = None

    def __init__(self):
        super().__init__()
        self.clock = ManualClock()
        self.entries: dict[str, Entry] = {"feed": Entry(), "job": Entry()}
        self.given: list[Lease] = []
        self.real = None

    @initialize()
    def open(self):
        self.real = type(self).maker(self.clock)

    def stands(self, lease):
        entry = self.entries[lease.name]
        return entry.fence == lease.fence and self.clock.now() < entry.until

    def held(self, lease):
        try:
            self.real.hold(lease)
        except Stale:
            return False
        return True

    def ask(self, name, holder, lease_s):
        """The answer of acquire, compared with what the model says."""
        entry, now = self.entries[name], self.clock.now()
        answer = self.real.acquire(name, holder, lease_s)
        if now < entry.until and entry.holder != holder:
            assert answer == Taken(entry.holder, entry.until), f"the model says taken by {entry}"
            return None
        assert isinstance(answer, Lease) and answer.fence > entry.fence, f"{answer} after {entry}: the model says a higher fence"
        assert (answer.name, answer.holder, answer.until) == (name, holder, now + lease_s)
        self.entries[name] = Entry(holder, answer.fence, now + lease_s)
        return answer

    @rule(name=NAMES, holder=HOLDERS, lease_s=LEASES)
    def acquire(self, name, holder, lease_s):
        lease = self.ask(name, holder, lease_s)
        self.given += [lease] if lease else []

    @precondition(lambda self: self.given)
    @rule(data=st.data(), lease_s=LEASES)
    def renew(self, data, lease_s):
        place = len(self.given) - 1 - data.draw(st.integers(0, min(len(self.given) - 1, 4)), label="age")
        lease = self.given[place]
        if not self.stands(lease):
            with pytest.raises(Stale):
                self.real.renew(lease, lease_s)
            return
        self.entries[lease.name].until = self.clock.now() + lease_s
        self.given[place] = self.real.renew(lease, lease_s)
        assert self.given[place] == replace(lease, until=self.clock.now() + lease_s)

    @precondition(lambda self: self.given)
    @rule(data=st.data(), commits=st.booleans())
    def release(self, data, commits):
        lease = self.given[-1 - data.draw(st.integers(0, min(len(self.given) - 1, 4)), label="age")]
        try:
            with self.real._store.transaction():
                self.real.release(lease)
                if not commits:
                    raise LookupError
        except LookupError:
            return
        if self.entries[lease.name].fence == lease.fence:
            self.entries[lease.name].until = 0.0

    @precondition(lambda self: self.given)
    @rule(data=st.data(), wait_s=st.sampled_from([0.0, 31.0]))
    def work(self, data, wait_s):
        """hold at the beginning of an effect: once it was good, it stays so to the end of the transaction."""
        lease = self.given[-1 - data.draw(st.integers(0, min(len(self.given) - 1, 4)), label="age")]
        with self.real._store.transaction():
            assert self.held(lease) == self.stands(lease)
        self.clock.advance(wait_s)

    @rule(seconds=st.sampled_from([1.0, 10.0, 31.0]))
    def advance(self, seconds):
        self.clock.advance(seconds)

    @rule()
    def crash(self):
        """The process dies with a transaction open: what it never committed is gone, all else is read from the file."""
        path = self.real._store.path
        dying = sqlite3.connect(path, isolation_level=None)
        dying.execute("BEGIN IMMEDIATE")
        dying.execute("DELETE FROM buttress_lease")
        dying.close()
        self.real._store.close()
        self.real = type(self.real)(SqliteStore(path, clock=self.clock))

    @invariant()
    def at_most_one_may(self):
        if self.real is None:
            return
        for name, entry in self.entries.items():
            may = {lease.fence for lease in self.given if lease.name == name and self.held(lease)}
            assert may == ({entry.fence} if self.clock.now() < entry.until else set()), f"{name}: {may} may, the model says {entry}"
            standing = Taken(entry.holder, entry.until) if self.clock.now() < entry.until else None
            assert self.real.standing(name) == standing, "the model says otherwise"

    def teardown(self):
        if self.real is not None:
            self.real._store.close()


def walk(machine, examples, **options):
    run_state_machine_as_test(machine, settings=settings(
        max_examples=examples, stateful_step_count=30, deadline=None, database=None, print_blob=True,
        suppress_health_check=list(HealthCheck), **options))


def machine(stores, kind):
    class OnSqlite(Machine):
        @staticmethod
        def maker(clock):
            return kind(stores.fresh(clock))

    return OnSqlite


def test_sqlite_does_what_the_model_says_through_crashes(sqlite_stores):
    walk(machine(sqlite_stores, SqlLeases), 25)


class RenewsTheDead(SqlLeases):
    """Renews by fence alone."""

    def renew(self, lease, lease_s):
        with self._store.transaction() as tx:
            until = self._clock.now() + lease_s
            if tx.execute("UPDATE buttress_lease SET until = ? WHERE name = ? AND fence = ?", (until, lease.name, lease.fence)) != 1:
                raise Stale("another holder has it")
        return replace(lease, until=until)


class ForgetsFences(SqlLeases):
    """Deletes what was let go, and begins to count again."""

    def release(self, lease):
        with self._store.transaction() as tx:
            tx.execute("DELETE FROM buttress_lease WHERE name = ? AND fence = ?", (lease.name, lease.fence))


@pytest.mark.parametrize("mutant", [RenewsTheDead, ForgetsFences])
def test_the_machine_finds_what_is_wrong_in_one_place(sqlite_stores, mutant):
    """The control: an implementation that is wrong in one place does not get through."""
    with pytest.raises((AssertionError, pytest.fail.Exception), match=r"the model says|DID NOT RAISE"):
        walk(machine(sqlite_stores, mutant), 100, phases=(Phase.generate,), derandomize=True)


# -- kill -9 at every failpoint


class Worker:
    """Does each job once, under a lease: looks whether it is done, does it, lets go."""

    kind = SqlLeases

    def __init__(self, folder, clock, holder):
        self.holder = holder
        self.store = SqliteStore(f"{folder}/shop.db", clock=clock)
        self.store.setup(SHOP)
        self.mine = self.kind(self.store)

    def job(self, name):
        lease = self.mine.acquire(name, self.holder, LEASE_S)
        if isinstance(lease, Taken):
            return
        if not effects(self.store)[name]:
            lease = self.mine.renew(lease, LEASE_S)
            with self.store.transaction() as tx:
                self.mine.hold(lease)
                tx.execute("INSERT INTO effects (name, holder) VALUES (?, ?)", (name, self.holder))
                failpoint.failpoint("test.effect")
        self.mine.release(lease)

    def work(self):
        for name in ("one", "two", "three"):
            self.job(name)


class NeverEnds(SqlLeases):
    """Control: a lease that does not end by itself. What its dead holder had nobody does."""

    def acquire(self, name, holder, lease_s):
        return super().acquire(name, holder, 9e8)


class Undying(Worker):
    kind = NeverEnds


def sweep(fork, tmp_path, worker):
    """Runs once to count, then once for each hit of each failpoint with a kill there; a successor then does what is left."""

    def counting(tell, _):
        arm({})
        worker(str(folder), ManualClock(), "first").work()
        tell(failpoint.hits)

    folder = tmp_path / "clean"
    folder.mkdir()
    hits = fork(counting).says()
    points = [(name, hit) for name, count in sorted(hits.items()) for hit in range(1, count + 1)]
    found = []
    for name, hit in points:
        folder = tmp_path / f"{name}-{hit}"
        folder.mkdir()

        def dying(tell, fd, folder=folder, name=name, hit=hit):
            arm({name: (hit, "kill")}, mark_fd=fd)
            worker(str(folder), ManualClock(), "first").work()

        child = fork(dying)
        assert child.says() == {"hit": name, "n": hit, "action": "kill"}
        assert child.ends() == -signal.SIGKILL
        clock = ManualClock()
        clock.advance(LEASE_S + 1)
        successor = worker(str(folder), clock, "second")
        successor.work()
        seen = dict(effects(successor.store))
        held = [job for job in ("one", "two", "three") if successor.mine.standing(job)]
        successor.store.close()
        if seen != {"one": 1, "two": 1, "three": 1} or held:
            found.append(f"killed at {name} {hit}: effects {seen}, still held {held}")
    return points, found


def test_one_effect_each_through_a_kill_at_every_failpoint(fork, tmp_path):
    points, found = sweep(fork, tmp_path, Worker)
    assert found == []
    assert len(points) > 25
    assert {name for name, _ in points} == {"lease.acquired", "store.commit", "store.committed", "test.effect"}


def test_the_sweep_finds_a_lease_that_never_ends(fork, tmp_path):
    _, found = sweep(fork, tmp_path, Undying)
    assert any("killed at lease.acquired 1: effects {'two': 1, 'three': 1}, still held ['one']" in problem for problem in found), found


# -- two processes


class GrantsAll(SqlLeases):
    """Control: whoever asks has it."""

    def acquire(self, name, holder, lease_s):
        answer = super().acquire(name, holder, lease_s)
        return Lease(name, holder, 1, answer.until) if isinstance(answer, Taken) else answer

    def hold(self, lease):
        pass


def contend(mine, store, holder, names, *, after_first=lambda: None, batch=40):
    """Goes over all names until each is done: acquires a batch, looks which are not done, and does these under hold."""
    did, refusals, left = 0, 0, list(names)
    first = True
    while left:
        again = []
        for start in range(0, len(left), batch):
            some = sorted(left[start : start + batch])  # sorted: no deadlock
            answers = [mine.acquire(name, holder, LEASE_S) for name in some]
            leases = [answer for answer in answers if isinstance(answer, Lease)]
            done = effects(store)
            if first:
                after_first()
                first = False
            with store.transaction() as tx:
                for lease in leases:
                    mine.hold(lease)
                    if not done[lease.name]:
                        tx.execute("INSERT INTO effects (name, holder) VALUES (?, ?)", (lease.name, holder))
                        did += 1
            with store.transaction():
                for lease in leases:
                    mine.release(lease)
            refusals += len(some) - len(leases)
            again += [name for name, answer in zip(some, answers, strict=True) if isinstance(answer, Taken)]
        left = again
    return {"did": did, "refused": refusals}


@pytest.mark.parametrize(("stores", "kind"), [("sqlite", SqlLeases), ("postgres", SqlLeases), ("sqlite", GrantsAll)], indirect=["stores"])
def test_two_processes_200_names_one_effect_each(stores, kind, fork):
    """Their first batches overlap, and each looks before the other acts: nothing but the lease keeps one of them back."""
    first = stores.fresh(ManualClock())
    first.setup(SHOP)
    kind(first)
    address = stores.address(first)
    first.close()
    names = [f"feed-{number:03}" for number in range(200)]
    gate, opener = os.pipe()

    def worker(holder, names):
        def work(tell, _):
            def wait_for_the_other():
                tell("looked")
                os.read(gate, 1)

            store = stores.open(address, ManualClock())
            tell(contend(kind(store), store, holder, names, after_first=wait_for_the_other))
            store.close()

        return work

    children = [fork(worker("a", names)), fork(worker("b", names[20:] + names[:20]))]
    assert [child.says() for child in children] == ["looked"] * 2
    os.write(opener, b"go")
    answers = [child.says() for child in children]
    os.close(gate)
    os.close(opener)
    assert [child.ends() for child in children] == [0, 0]
    store = stores.open(address, ManualClock())
    seen = effects(store)
    assert len(seen) == 200
    if kind is GrantsAll:
        assert max(seen.values()) == 2, "the control: without a lease the same test finds two effects"
        return
    assert set(seen.values()) == {1}
    assert sum(answer["did"] for answer in answers) == 200
    assert sum(answer["refused"] for answer in answers) >= 20, answers
    assert all(answer["did"] >= 20 for answer in answers), answers
    assert not any(SqlLeases(store).standing(name) for name in names)


# -- a holder that sleeps


class NoFence(SqlLeases):
    """Control: whoever has a lease of that name may."""

    def hold(self, lease):
        pass


@pytest.mark.parametrize("successor_came", [True, False])
@pytest.mark.parametrize("kind", [SqlLeases, NoFence])
def test_a_holder_that_slept_beyond_its_lease(kind, successor_came, fork, tmp_path):
    """SIGSTOP while it has the lease; the clock goes on; woken, it is refused, whether or not another came, and its effect undone."""
    path = str(tmp_path / "shop.db")
    clock = SharedClock(str(tmp_path / "clock"), writable=True, start=1_800_000_000.0)

    def open_store(clock):
        store = SqliteStore(path, clock=clock)
        store.setup(SHOP)
        return store, kind(store)

    def act(store, mine, lease):
        with store.transaction() as tx:
            tx.execute("INSERT INTO effects (name, holder) VALUES (?, ?)", (lease.name, lease.holder))
            mine.hold(lease)

    def sleeper(tell, fd):
        its_clock = SharedClock(clock.path)
        store, mine = open_store(its_clock)
        lease = mine.acquire("feed", "sleeper", LEASE_S)
        tell(lease.fence)
        arm({"test.holding": (1, "stop")}, mark_fd=fd)
        failpoint.failpoint("test.holding")
        tell(its_clock.now())
        try:
            act(store, mine, lease)
            tell("acted")
        except Stale:
            tell("stale")
        store.close()

    child = fork(sleeper)
    fence = child.says()
    assert child.says() == {"hit": "test.holding", "n": 1, "action": "stop"}
    child.stops()
    store, mine = open_store(clock)
    assert mine.acquire("feed", "successor", LEASE_S) == Taken("sleeper", 1_800_000_000.0 + LEASE_S)
    clock.advance(LEASE_S)
    if successor_came:
        lease = mine.acquire("feed", "successor", LEASE_S)
        assert lease.fence > fence
        act(store, mine, lease)
    child.resume()
    assert child.says() == 1_800_000_000.0 + LEASE_S, "it wakes to the present"
    assert child.says() == ("stale" if kind is SqlLeases else "acted")
    assert child.ends() == 0
    with store.transaction() as tx:
        holders = sorted(holder for (holder,) in tx.all("SELECT holder FROM effects"))
    assert holders == (["sleeper"] if kind is NoFence else []) + (["successor"] if successor_came else [])
    store.close()
    clock.close()
