"""The inbox against a plain model: any order of deliveries, crashes, failures, replays and retirements; 0 doubled, 0 lost."""

from __future__ import annotations

import os
import random
import tempfile
from datetime import timedelta

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from buttress.backend.webhooks import Event, Inbox, InboxConfig, NotSent, Verifier, keyed, lookup
from buttress.kernel import failpoint
from buttress.kernel.clock import ManualClock
from buttress.kernel.errors import InvalidInput
from buttress.kernel.store.sqlite import SqliteStore

STEPS = ("inbox.received", "inbox.stored", "inbox.claimed", "inbox.handled", "inbox.done", "effect.taken", "effect.intended", "effect.called",
         "effect.settled", "outbox.settle", "idempotency.intend", "idempotency.intended")
FACTS = st.integers(0, 5)


class Callee:
    """Counts what happened. Fails as told, before or after the effect."""

    def __init__(self, honours_keys: bool) -> None:
        self.honours_keys = honours_keys
        self.happened: list[str] = []
        self.failures: list[tuple[str, Exception]] = []

    def send(self, effect) -> None:
        failure = self.failures.pop() if self.failures else None
        if failure and failure[0] == "before":
            raise failure[1]
        if not (self.honours_keys and effect.key in self.happened):
            self.happened.append(effect.key)
        if failure:
            raise failure[1]

    def find(self, reference) -> bytes | None:
        return b"there" if reference in self.happened else None


class Machine(RuleBasedStateMachine):
    """The model: which facts were acknowledged (or listed), and which ids came with another payload."""

    @initialize()
    def open(self) -> None:
        self.folder = tempfile.TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None)
        self.clock = ManualClock()
        self.orders, self.credits = Callee(True), Callee(False)
        self.owed: set[int] = set()
        self.maybe: set[int] = set()
        self.mismatched: set[int] = set()
        self.failing = False
        self.reopen()

    def reopen(self) -> None:
        inbox = Inbox(SqliteStore(os.path.join(self.folder.name, "inbox.db"), clock=self.clock), Verifier.standard(b"k" * 32),
                      retention=timedelta(minutes=30), rng=random.Random(5),
                      config=InboxConfig(max_attempts=10_000, effect_max_attempts=10_000, retry_max_s=60))
        inbox.callee("orders", keyed(self.orders.send, remembers_s=1e9))
        inbox.callee("credits", lookup(self.credits.send, self.credits.find))

        @inbox.on("paid", order_by=lambda event: None)
        def paid(event, ctx) -> None:
            fact = event.data["fact"]
            ctx.effect("orders", key=fact, payload={"fact": fact}, in_order="lane" if int(fact) % 2 else None)
            ctx.effect("credits", key=fact, payload={"fact": fact})
            if self.failing:
                raise RuntimeError

        self.inbox = inbox

    def crash(self) -> None:
        failpoint.arm(None)
        self.inbox.store.close()
        self.reopen()

    def deliver(self, ident: str, body: bytes) -> str:
        import base64
        import hashlib
        import hmac

        at = int(self.clock.now())
        mac = hmac.new(b"k" * 32, b"%s.%d." % (ident.encode(), at) + body, hashlib.sha256).digest()
        headers = {"webhook-id": ident, "webhook-timestamp": str(at), "webhook-signature": "v1," + base64.b64encode(mac).decode()}
        return self.inbox.receive(headers, body).code

    @rule(fact=FACTS, twin=st.booleans())
    def tell(self, fact, twin) -> None:
        """A fact, told by one of its two events; again and again."""
        code = self.deliver(f"evt_{fact}{'b' if twin else ''}", b'{"type": "paid", "fact": "%d"}' % fact)
        assert code in ("stored", "duplicate")
        self.owed.add(fact)

    @rule(fact=FACTS)
    def forge(self, fact) -> None:
        """The same id with another payload: once the first one is there, it must not act."""
        if f"evt_{fact}" in self.stored():
            assert self.deliver(f"evt_{fact}", b'{"type": "paid", "fact": "9%d"}' % fact) == "mismatch"
            self.mismatched.add(fact)

    @rule(fact=FACTS)
    def list(self, fact) -> None:
        body = b'{"type": "paid", "fact": "%d"}' % fact
        self.inbox.backfill([Event(f"evt_{fact}b", "paid", body)], since=0.0)
        self.owed.add(fact)

    @rule(limit=st.integers(1, 5))
    def work(self, limit) -> None:
        due = self.inbox.work(limit)
        assert due is None or due < self.clock.now() + 100

    @rule(seconds=st.sampled_from([0.5, 5.0, 59.0, 61.0, 1801.0]))
    def wait(self, seconds) -> None:
        self.clock.advance(seconds)

    @rule(step=st.sampled_from(STEPS), number=st.integers(1, 3), fact=FACTS)
    def die(self, step, number, fact) -> None:
        """An abrupt end in the middle of a delivery or of work; a new process opens the same file."""
        failpoint.arm({step: (number, "error")})
        try:
            code = self.deliver(f"evt_{fact}", b'{"type": "paid", "fact": "%d"}' % fact)
            self.owed |= {fact} if code in ("stored", "duplicate") else set()
            self.inbox.work(3)
        except failpoint.FailpointError:
            self.maybe.add(fact)  # stored or not: nobody was told
        self.maybe.add(fact)
        self.crash()

    @rule()
    def restart(self) -> None:
        self.crash()

    @rule(failing=st.booleans())
    def handler(self, failing) -> None:
        self.failing = failing

    @rule(orders=st.booleans(), moment=st.sampled_from(["before", "after"]), doubtful=st.booleans())
    def break_callee(self, orders, moment, doubtful) -> None:
        error: Exception = TimeoutError() if doubtful or moment == "after" else NotSent("busy")
        (self.orders if orders else self.credits).failures.append((moment, error))

    @precondition(lambda self: self.owed)
    @rule(data=st.data())
    def replay(self, data) -> None:
        try:
            self.inbox.replay(f"evt_{data.draw(st.sampled_from(sorted(self.owed)))}")
        except InvalidInput:
            pass  # waits already, is stored under its twin's id, or was retired

    @rule()
    def retire(self) -> None:
        self.inbox.retire()

    def stored(self) -> set[str]:
        with self.inbox.store.transaction() as tx:
            return {ident for (ident,) in tx.all("SELECT id FROM buttress_webhooks_event WHERE delivered IS NOT NULL")}

    def teardown(self) -> None:
        if not hasattr(self, "inbox"):
            return
        failpoint.arm(None)
        self.failing = False
        self.orders.failures.clear()
        self.credits.failures.clear()
        while (due := self.inbox.work()) is not None:
            self.clock.set(max(self.clock.now(), due))
        must, may = {f"default/{fact}" for fact in self.owed}, {f"default/{fact}" for fact in self.owed | self.maybe}
        for name, callee in (("orders", self.orders), ("credits", self.credits)):
            happened = [key.removesuffix(f":{name}") for key in callee.happened]
            assert len(happened) == len(set(happened)), "doubled"
            assert must <= set(happened) <= may, "lost, or made up"
        report = self.inbox.gap_report()
        assert not (report.dead or report.dead_effects or report.doubts or report.stuck)
        with self.inbox.store.transaction() as tx:
            assert {key for (key,) in tx.all("SELECT key FROM buttress_webhooks_alarm")} == {f"evt_{fact}" for fact in self.mismatched}
        self.inbox.store.close()
        self.folder.cleanup()


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=250, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
