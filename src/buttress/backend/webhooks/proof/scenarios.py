"""How receivers are loaded: 72 hours and day 10 in virtual time; crash points and pauses; callees that honour nothing, or fail."""

from __future__ import annotations

import contextlib
import json
import random
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal

from buttress.backend.webhooks import world
from buttress.backend.webhooks.proof.checkers import NOT_ACT, REFUSE
from buttress.backend.webhooks.proof.port import Receiver
from buttress.backend.webhooks.proof.subjects import LEASE_S
from buttress.proof import Case, Trial
from buttress.proof.process import SubjectError
from buttress.proof.trial import EPOCH
from buttress.proof.world import Callee, Callees, Sender
from buttress.proof.world.sender import HOUR, Delivery

DAY_10 = 10 * 24 * HOUR
QUIET_S = 0.4
QUIET_MAX_S = 30.0


@dataclass(frozen=True)
class Size:
    """``events`` over 72 hours; ``crash_events`` in each crash trial; ``each`` hits of a failpoint, ``replies`` and ``calls``, evenly spread (0: all).

    ``kills``: replies after which a service is killed, evenly spread: it may take seconds to start.
    """

    events: int
    crash_events: int
    forged: int
    each: int
    replies: int
    calls: int
    kills: int
    laps: int = 31
    lap_events: int = 1500


@contextlib.contextmanager
def outside(trial: Trial) -> Iterator[Mapping[str, str]]:
    """Fresh callees for each trial. Orders and e-mails honour a key for 24 hours, credits none but answer a look-up."""
    policies = trial.scenario.name == "callees that honour nothing"
    callees = [Callee("orders", "keyed"), Callee("emails", "keyed"), Callee("credits", "lookup")]
    if policies:
        callees += [Callee("coupons", "plain"), Callee("points", "plain")]
    stub = Callees(callees, trial)
    trial.outside = stub.callees
    with contextlib.ExitStack() as stack:
        addresses = dict(stack.enter_context(stub.serving()))
        if "redis" in trial.subject.needs:
            from buttress import servers

            redis = stack.enter_context(servers.redis(durable=False))
            addresses["redis"] = redis.url
            if redis.server is not None:
                trial.charge(redis.server.pid)
        if "postgres" in trial.subject.needs:
            from buttress import servers

            addresses["postgres"] = stack.enter_context(servers.shared_postgres().database())
        yield {**addresses, "secret": world.SECRET}


@dataclass(frozen=True)
class KilledMidway:
    """kill -9 of the subject while a callee has acted and not yet answered: at the ``at``-th effect of each named callee.

    Needs nothing in the subject, so that a stranger dies in the middle of its handler too: its failpoints are not ours.
    """

    names: tuple[str, ...]
    at: int = 2
    name: str = "kill -9 before a callee's answer"
    needs: tuple[str, ...] = ("crash",)

    def cases(self, clean_hits: Mapping[str, int]) -> Iterable[Case]:
        for name in self.names:
            yield Case(f"{self.name} · {name}", during=partial(self._during, name))

    @contextlib.contextmanager
    def _during(self, name: str, trial: Trial) -> Iterator[None]:
        def fails(method: str, number: int) -> Literal["", "refuse", "after"]:
            if method != "POST" or number != self.at:
                return ""
            trial.kill()
            trial.hit = True
            return "after"

        trial.outside[name].fails = fails
        trial.hit = False
        yield
        trial.record("fault", name=self.name, armed=1, hit=int(trial.hit))


@dataclass(frozen=True)
class Failing:
    """Each named callee answers errors, a case for each: ``refuse`` (503, nothing done) or ``after`` (done, then 500), every ``every``-th time.

    ``lookups``: so many of the first look-ups are answered 500 as well, which is no evidence of anything.
    """

    names: tuple[str, ...]
    how: Literal["refuse", "after"]
    name: str
    every: int = 3
    lookups: int = 0
    needs: tuple[str, ...] = ()

    def cases(self, clean_hits: Mapping[str, int]) -> Iterable[Case]:
        for name in self.names:
            yield Case(f"{self.name} · {name}", during=partial(self._during, name))

    @contextlib.contextmanager
    def _during(self, name: str, trial: Trial) -> Iterator[None]:
        struck = {"GET": 0, "POST": 0}

        def fails(method: str, number: int) -> Literal["", "refuse", "after"]:
            due = number <= self.lookups if method == "GET" else number % self.every == 0
            struck[method] += due
            return self.how if due else ""

        trial.outside[name].fails = fails
        trial.hit = False
        yield
        trial.hit = sum(struck.values()) > 0
        trial.record("fault", name=self.name, armed=1, hit=int(trial.hit), struck=sum(struck.values()))


def three_days(trial: Trial) -> None:
    """Events over 12 hours, 30 % of them delivered again until hour 72, some copies at once, some by hand on day 10; forgeries in between."""
    rng = trial.rng
    sent = list(world.events(trial.size.events, rng))
    sender = Sender(trial, lease_s=LEASE_S, rng=rng)
    starts = _starts(sent, rng, 12 * HOUR)
    for one, start in zip(sent, starts, strict=True):
        sender.plan(start, one.delivery)
        if rng.random() < 0.30:
            if rng.random() < 0.25:
                sender.plan(start + rng.uniform(0.1, 5), one.delivery, again="two copies at once", copies=2)
            else:
                sender.plan(start + rng.uniform(1, 71 * HOUR), one.delivery, again="delivered again")
    for one in rng.sample(sent, max(5, len(sent) // 50)):
        sender.plan(EPOCH + DAY_10 + rng.uniform(0, 2 * HOUR), one.delivery, again="resent on day 10")
    sender.at(EPOCH + HOUR, lambda port: mangle(trial, rng))
    for _ in range(trial.size.forged):
        sender.at(EPOCH + rng.uniform(HOUR, 70 * HOUR), lambda port: forge(trial, rng))
        sender.at(EPOCH + rng.uniform(14 * HOUR, 40 * HOUR), lambda port: alter(trial, sent, rng))
    _announce(trial, sent)
    sender.run()
    _conclude(trial, sent)


def crash_points(trial: Trial, *, forge_once: bool = False, workers: int = 1) -> None:
    """A short run of the same kind, for one kill, pause or swallowed answer in each trial."""
    rng = trial.rng
    policies = "coupons" in trial.world
    sent = list(world.events(trial.size.crash_events, rng, policies=policies))
    sender = Sender(trial, lease_s=LEASE_S, rng=rng, workers=workers)
    for one, start in zip(sent, _starts(sent, rng, HOUR), strict=True):
        sender.plan(start, one.delivery)
        if rng.random() < 0.30:
            copies = 2 if rng.random() < 0.3 else 1
            sender.plan(start + rng.uniform(0.1, HOUR), one.delivery, again="two copies at once" if copies == 2 else "delivered again", copies=copies)
    if forge_once:
        sender.at(EPOCH, lambda port: mangle(trial, rng))
        sender.at(EPOCH, lambda port: forge(trial, rng))
        sender.at(EPOCH + 2 * HOUR, lambda port: alter(trial, sent, rng))
    _announce(trial, sent)
    sender.run()
    if not trial.scenario.virtual:
        if trial.down():
            trial.restart()
        _await_effects(trial, sent)
    _conclude(trial, sent)


def two_workers(trial: Trial) -> None:
    """The same with two processes on one store, both receiving and working at once."""
    crash_points(trial, workers=2)


def real_time(trial: Trial) -> None:
    """The same short run on the machine's clock, for a service: retries follow at once, and what is due is waited for."""
    crash_points(trial, forge_once=True)


def _await_effects(trial: Trial, sent: list[world.Sent]) -> None:
    """Until all that is due has happened and the callees have been quiet for a moment; at the latest after ``QUIET_MAX_S``."""
    wanted = {(due.callee, due.reference) for one in sent for due in one.due}
    deadline = time.monotonic() + QUIET_MAX_S
    seen, since = -1, time.monotonic()
    while time.monotonic() < deadline:
        count = sum(callee.requests for callee in trial.outside.values())
        if count != seen:
            seen, since = count, time.monotonic()
        happened = {(name, reference) for name, callee in trial.outside.items() for reference in callee.references}
        if time.monotonic() - since > (QUIET_S if wanted <= happened else 20 * QUIET_S):
            return
        time.sleep(0.02)


def _starts(sent: list[world.Sent], rng: random.Random, span: float) -> list[float]:
    """First deliveries, out of order: changes of one order arrive within minutes of each other, in any order; a deletion first of all."""
    starts: list[float] = []
    base: dict[str, float] = {}
    for one in sent:
        at = EPOCH + rng.uniform(1, span)
        if one.object:
            at = base.setdefault(one.object, at)
        starts.append(at + (0 if one.ahead else rng.uniform(1, 300)))
    return starts


def _announce(trial: Trial, sent: list[world.Sent]) -> None:
    """What must happen once, because of which event, and all events that tell of it: each of their deliveries is a chance to do it."""
    told: dict[str, list[str]] = {}
    for one in sent:
        told.setdefault(json.loads(one.delivery.body)["data"].get("payment", ""), []).append(one.delivery.id)
    for one in sent:
        for due in one.due:
            payment = due.reference.partition(":")[2]
            trial.record("fact", what="due", callee=due.callee, reference=due.reference, id=due.event, twin=due.twin, told=told[payment])


def _present(trial: Trial, delivery: Delivery) -> object:
    """Delivers it now, again where a kill came in between: what it answered, a number or not. An error is what a provider takes for 500."""
    now = trial.clock.now()

    def deliver(port: Receiver) -> object:
        return port.deliver(headers=dict(delivery.headers(now)), body=delivery.body)

    try:
        return trial.surely(deliver)
    except SubjectError:
        return 500


def forge(trial: Trial, rng: random.Random) -> None:
    """One of each kind that must be refused."""
    now = trial.clock.now()
    for how, delivery in world.counterfeits(now, rng, oversized=bool(trial.url)):
        trial.fault("forged or stale delivery", how=how)
        trial.record("fact", what="forged", how=how, must=REFUSE, status=_present(trial, delivery))


def mangle(trial: Trial, rng: random.Random) -> None:
    """One that is signed and cannot be read. It comes early: where it is kept, it must not stand in the way of what follows."""
    trial.fault("signed, but no JSON")
    delivery = world.unreadable(trial.clock.now(), rng)
    trial.record("fact", what="forged", how="signed, but no JSON", must=NOT_ACT, status=_present(trial, delivery))


def alter(trial: Trial, sent: list[world.Sent], rng: random.Random) -> None:
    """A genuine event once more, and where that is acknowledged its id with another payload: from then on it is a known id."""
    first = rng.choice([one for one in sent if one.due]).delivery
    trial.record("fact", what="again", how="delivered again", id=first.id, at=trial.clock.now())
    answer = _present(trial, first)
    if isinstance(answer, int) and 200 <= answer < 300:
        trial.fault("a known id with another payload")
        trial.record("fact", what="forged", how="known id, other payload", must=NOT_ACT, status=_present(trial, world.altered(first, trial.clock.now(), rng)))


def _conclude(trial: Trial, sent: list[world.Sent]) -> None:
    """Final states where they are kept, at the callee, beside the truth."""
    for one in sent:
        if one.status:
            state = trial.outside["orders"].state.get(one.object)
            trial.record("fact", what="state", object=one.object, status=state, truth=one.status)
