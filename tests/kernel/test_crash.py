"""kill -9 at every failpoint, two processes on one file, and a holder that sleeps beyond its lease.

Each sweep has a control: a subject that is wrong in the well-known way, at which the same sweep must find something.
"""

from __future__ import annotations

import os
import signal
from collections import Counter
from itertools import pairwise

import pytest

from buttress.kernel import failpoint
from buttress.kernel.clock import ManualClock, SharedClock
from buttress.kernel.errors import Stale
from buttress.kernel.failpoint import arm
from buttress.kernel.idempotency import Done, InFlight, New, SqlIdempotency, Unknown
from buttress.kernel.outbox import Sent, SqlOutbox
from buttress.kernel.store import Schema
from buttress.kernel.store.sqlite import SqliteStore

LEASE_S = 30.0
PRINT = b"print"
SHOP = Schema("test.shop", 1, ("CREATE TABLE effects (key TEXT NOT NULL)", "CREATE TABLE orders (id TEXT PRIMARY KEY)"))


class World:
    """What lies outside: a callee that does what it is told each time, and answers a look-up. Survives every crash."""

    def __init__(self, path):
        self.path = path

    def call(self, key):
        fd = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        try:
            os.write(fd, key.encode() + b"\n")
        finally:
            os.close(fd)

    def calls(self):
        try:
            with open(self.path) as file:
                return Counter(file.read().split())
        except FileNotFoundError:
            return Counter()


class Shop:
    """A small subject: local effects in the transaction of their settle, external ones behind an intent."""

    def __init__(self, folder, clock):
        self.world = World(f"{folder}/world")
        self.store = SqliteStore(f"{folder}/shop.db", clock=clock)
        self.store.setup(SHOP)
        self.mine = SqlIdempotency(self.store)

    def local(self, key):
        claim = self.mine.claim(key, PRINT, LEASE_S)
        if isinstance(claim, New):
            with self.store.transaction() as tx:
                tx.execute("INSERT INTO effects (key) VALUES (?)", (key,))
                failpoint.failpoint("test.effect")
                self.mine.settle(key, claim.fence, b"201")

    def external(self, key):
        claim = self.mine.claim(key, PRINT, LEASE_S)
        if isinstance(claim, Unknown):
            happened = self.world.calls()[key] > 0
            self.mine.settle(key, claim.fence, b"202" if happened else None)
            claim = self.mine.claim(key, PRINT, LEASE_S)
        if isinstance(claim, New):
            self.mine.renew(key, claim.fence, LEASE_S)
            self.mine.intend(key, claim.fence, b"call " + key.encode())
            self.world.call(key)
            failpoint.failpoint("test.called")
            self.mine.settle(key, claim.fence, b"202")

    def work(self):
        for key in ("local-1", "local-2"):
            self.local(key)
        for key in ("external-1", "external-2"):
            self.external(key)

    def effects(self):
        """What happened, here and outside: how often each."""
        with self.store.transaction() as tx:
            return Counter(key for (key,) in tx.all("SELECT key FROM effects")) + self.world.calls()

    def close(self):
        self.store.close()


class MarkFirst(Shop):
    """Control: marks the key as done, then acts. Loses the effect in between."""

    def local(self, key):
        claim = self.mine.claim(key, PRINT, LEASE_S)
        if isinstance(claim, New):
            self.mine.settle(key, claim.fence, b"201")
            with self.store.transaction() as tx:
                tx.execute("INSERT INTO effects (key) VALUES (?)", (key,))


class NoIntent(Shop):
    """Control: acts outside without an intent. Acts twice when it dies before the mark."""

    def external(self, key):
        claim = self.mine.claim(key, PRINT, LEASE_S)
        if isinstance(claim, New):
            self.world.call(key)
            failpoint.failpoint("test.called")
            self.mine.settle(key, claim.fence, b"202")


def sweep(fork, tmp_path, run, check):
    """Runs once to count, then once for each hit of each failpoint with a kill there; ``check(folder)`` after each."""

    def counting(tell, _):
        arm({})
        run(str(folder))
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
            run(str(folder))

        child = fork(dying)
        assert child.says() == {"hit": name, "n": hit, "action": "kill"}
        assert child.ends() == -signal.SIGKILL
        problem = check(str(folder))
        if problem:
            found.append(f"killed at {name} {hit}: {problem}")
    return points, found


KEYS = ("local-1", "local-2", "external-1", "external-2")


def sweep_shop(fork, tmp_path, subject):
    def run(folder):
        subject(folder, ManualClock()).work()

    def check(folder):
        clock = ManualClock()
        clock.advance(LEASE_S + 1)
        shop = subject(folder, clock)
        shop.work()
        effects = shop.effects()
        answers = [shop.mine.claim(key, PRINT, LEASE_S) for key in KEYS]
        shop.close()
        wrong = {key: effects[key] for key in KEYS if effects[key] != 1}
        undone = [key for key, answer in zip(KEYS, answers, strict=True) if not isinstance(answer, Done)]
        return f"effects {wrong}, not done {undone}" if wrong or undone else None

    return sweep(fork, tmp_path, run, check)


def test_one_effect_per_key_through_a_kill_at_every_failpoint(fork, tmp_path):
    points, found = sweep_shop(fork, tmp_path, Shop)
    assert found == []
    assert len(points) > 25
    assert {name for name, _ in points} == {
        "idempotency.intend", "idempotency.intended", "store.commit", "store.committed", "test.effect", "test.called"}


@pytest.mark.parametrize(("subject", "sign"), [(MarkFirst, "'local-1': 0"), (NoIntent, "'external-1': 2")])
def test_the_sweep_finds_the_well_known_mistakes(fork, tmp_path, subject, sign):
    _, found = sweep_shop(fork, tmp_path, subject)
    assert any(sign in problem for problem in found), found


class Mailer:
    """Orders and the mail for each, by the outbox."""

    def __init__(self, folder, clock):
        self.world = World(f"{folder}/world")
        self.store = SqliteStore(f"{folder}/shop.db", clock=clock)
        self.store.setup(SHOP)
        self.outbox = SqlOutbox(self.store)

    def order(self, number):
        with self.store.transaction() as tx:
            tx.execute("INSERT INTO orders (id) VALUES (?) ON CONFLICT DO NOTHING", (number,))
            self.outbox.put("mail", number, b"thanks")

    def send(self):
        while messages := self.outbox.take(2, LEASE_S):
            for message in messages:
                if not (message.doubted and self.world.calls()[message.key]):
                    self.world.call(message.key)
                    failpoint.failpoint("test.called")
                self.outbox.settle(message, Sent())

    def work(self):
        for number in ("1", "2", "3"):
            self.order(number)
        self.send()


class SendsFirst(Mailer):
    """Control: mails, then commits the order. Mails for an order that is not there, and again."""

    def order(self, number):
        with self.store.transaction() as tx:
            tx.execute("INSERT INTO orders (id) VALUES (?)", (number,))
            self.world.call(number)

    def send(self):
        pass


def sweep_mailer(fork, tmp_path, subject):
    def run(folder):
        subject(folder, ManualClock()).work()

    def check(folder):
        clock = ManualClock()
        clock.advance(LEASE_S + 1)
        mailer = subject(folder, clock)
        mailer.send()  # only what was committed before the crash
        with mailer.store.transaction() as tx:
            orders = Counter(number for (number,) in tx.all("SELECT id FROM orders"))
        backlog = mailer.outbox.backlog()
        mails = mailer.world.calls()
        mailer.store.close()
        return f"orders {dict(orders)}, mails {dict(mails)}, {backlog}" if orders != mails or backlog.pending else None

    return sweep(fork, tmp_path, run, check)


def test_a_mail_for_each_order_through_a_kill_at_every_failpoint(fork, tmp_path):
    points, found = sweep_mailer(fork, tmp_path, Mailer)
    assert found == []
    assert len(points) > 25
    assert {name for name, _ in points} == {"outbox.settle", "store.commit", "store.committed", "test.called"}


def test_the_sweep_finds_a_mail_without_its_order(fork, tmp_path):
    _, found = sweep_mailer(fork, tmp_path, SendsFirst)
    assert any("orders {}, mails {'1': 1}" in problem for problem in found), found


# -- two processes


def contend(mine, store, keys, *, after_first_claims=lambda: None, batch=40):
    """Goes over all keys until each is done: claims a batch in one transaction, acts and settles in another."""
    answers = Counter()
    left = list(keys)
    while left:
        again = []
        for first, last in pairwise([*range(0, len(left), batch), len(left)]):
            with store.transaction():
                claims = [(key, mine.claim(key, PRINT, LEASE_S)) for key in sorted(left[first:last])]  # sorted: no deadlock
            if not answers:
                after_first_claims()
            answers.update(type(claim).__name__ for _, claim in claims)
            with store.transaction() as tx:
                for key, claim in claims:
                    if isinstance(claim, New):
                        tx.execute("INSERT INTO effects (key) VALUES (?)", (key,))
                        mine.settle(key, claim.fence, b"201")
            again += [key for key, claim in claims if isinstance(claim, InFlight)]
        left = again
    return answers


@pytest.mark.parametrize("stores", ["sqlite", "postgres"], indirect=True)
def test_two_processes_2000_keys_one_effect_each(stores, fork):
    """From both ends at once, so that each holds keys while the other works, and they meet in the middle."""
    first = stores.fresh(ManualClock())
    first.setup(SHOP)
    SqlIdempotency(first)
    address = stores.address(first)
    first.close()
    keys = [f"key-{number}" for number in range(2_000)]
    gate, opener = os.pipe()

    def worker(keys):
        def work(tell, _):
            def wait_for_the_other():
                tell("holds keys")
                os.read(gate, 1)

            store = stores.open(address, ManualClock())
            tell(contend(SqlIdempotency(store), store, keys, after_first_claims=wait_for_the_other))
            store.close()

        return work

    children = [fork(worker(keys)), fork(worker(keys[::-1]))]
    assert [child.says() for child in children] == ["holds keys"] * 2
    os.write(opener, b"go")
    answers = [child.says() for child in children]
    os.close(gate)
    os.close(opener)
    assert [child.ends() for child in children] == [0, 0]
    assert sum(answer["New"] for answer in answers) == 2_000
    assert all(answer["New"] >= 40 and answer["Done"] >= 40 for answer in answers), answers
    store = stores.open(address, ManualClock())
    with store.transaction() as tx:
        assert tx.one("SELECT count(*), count(DISTINCT key) FROM effects") == (2_000, 2_000)
    assert contend(SqlIdempotency(store), store, keys) == {"Done": 2_000}


# -- a holder that sleeps


class NoFence(SqlIdempotency):
    """Control: settles whatever the fence."""

    def _update(self, tx, assign, values, key, fence):
        tx.execute(f"UPDATE buttress_idempotency SET {assign} WHERE namespace = '' AND key = ?", (*values, key))


@pytest.mark.parametrize(("kind", "effects"), [(SqlIdempotency, ["successor"]), (NoFence, ["successor", "sleeper"])])
def test_a_holder_that_slept_beyond_its_lease(kind, effects, fork, tmp_path):
    """SIGSTOP while it holds the key; the clock goes on; its successor acts; woken, it is refused and its effect undone."""
    path = str(tmp_path / "shop.db")
    clock = SharedClock(str(tmp_path / "clock"), writable=True, start=1_800_000_000.0)

    def open_store(clock):
        store = SqliteStore(path, clock=clock)
        store.setup(SHOP)
        return store, kind(store)

    def act(store, mine, fence, who):
        with store.transaction() as tx:
            tx.execute("INSERT INTO effects (key) VALUES (?)", (who,))
            mine.settle("key", fence, who.encode())

    def sleeper(tell, fd):
        its_clock = SharedClock(clock.path)
        store, mine = open_store(its_clock)
        claim = mine.claim("key", PRINT, LEASE_S)
        tell(claim.fence)
        arm({"test.holding": (1, "stop")}, mark_fd=fd)
        failpoint.failpoint("test.holding")
        tell(its_clock.now())
        try:
            act(store, mine, claim.fence, "sleeper")
            tell("settled")
        except Stale:
            tell("stale")
        store.close()

    child = fork(sleeper)
    first = child.says()
    assert child.says() == {"hit": "test.holding", "n": 1, "action": "stop"}
    child.stops()
    store, mine = open_store(clock)
    assert mine.claim("key", PRINT, LEASE_S) == InFlight(1_800_000_000.0 + LEASE_S)
    clock.advance(LEASE_S + 1)
    claim = mine.claim("key", PRINT, LEASE_S)
    assert isinstance(claim, New)
    assert claim.fence > first
    act(store, mine, claim.fence, "successor")
    child.resume()
    assert child.says() == 1_800_000_000.0 + LEASE_S + 1, "it wakes to the present"
    assert child.says() == ("stale" if kind is SqlIdempotency else "settled")
    assert child.ends() == 0
    with store.transaction() as tx:
        assert [key for (key,) in tx.all("SELECT key FROM effects ORDER BY key DESC")] == effects
    expected = b"successor" if kind is SqlIdempotency else b"sleeper"
    assert mine.claim("key", PRINT, LEASE_S) == Done(expected)
    store.close()
    clock.close()
