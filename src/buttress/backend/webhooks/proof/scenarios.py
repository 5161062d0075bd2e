"""How receivers are loaded: 72 hours and day 10 in virtual time; crash points and pauses; callees that honour nothing."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial

from buttress.backend.webhooks import world
from buttress.backend.webhooks.proof.port import Receiver
from buttress.backend.webhooks.proof.subjects import LEASE_S
from buttress.proof import Trial
from buttress.proof.trial import EPOCH
from buttress.proof.world import Callee, Callees, Sender
from buttress.proof.world.sender import HOUR, Delivery

DAY_10 = 10 * 24 * HOUR
QUIET_S = 0.4
QUIET_MAX_S = 30.0


@dataclass(frozen=True)
class Size:
    """``events`` over 72 hours; ``crash_events`` in each crash trial; ``each`` hits of a failpoint, ``replies`` and ``calls``, evenly spread (0: all)."""

    events: int
    crash_events: int
    forged: int
    each: int
    replies: int
    calls: int
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

            redis = stack.enter_context(servers.redis(settings={"appendfsync": "no", "appendonly": "no"}))
            addresses["redis"] = redis.url
            if redis.server is not None:
                trial.charge(redis.server.pid)
        if "postgres" in trial.subject.needs:
            from buttress import servers

            addresses["postgres"] = stack.enter_context(servers.shared_postgres().database())
        yield {**addresses, "secret": world.SECRET}


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
    for _ in range(trial.size.forged):
        sender.at(EPOCH + rng.uniform(HOUR, 70 * HOUR), lambda port: forge(trial, port, rng))
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
        sender.at(EPOCH, lambda port: forge(trial, port, rng))
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
    """First deliveries, out of order: changes of one order arrive within minutes of each other, in any order."""
    starts: list[float] = []
    base: dict[str, float] = {}
    for one in sent:
        name = one.object or (str(one.delivery.body).split('"order":"')[1].split('"')[0] if '"order":"' in one.delivery.body else "")
        at = base.setdefault(name, EPOCH + rng.uniform(1, span)) if name else EPOCH + rng.uniform(1, span)
        starts.append(at + rng.uniform(0, 300))
    return starts


def _announce(trial: Trial, sent: list[world.Sent]) -> None:
    for one in sent:
        for due in one.due:
            trial.record("fact", what="due", callee=due.callee, reference=due.reference, id=due.event, twin=due.twin)


def _present(delivery: Delivery, now: float, port: Receiver) -> int:
    return port.deliver(headers=dict(delivery.headers(now)), body=delivery.body)


def forge(trial: Trial, port: Receiver, rng: random.Random) -> None:
    """One of each kind that must be refused; again, where a kill came in between."""
    now = trial.clock.now()
    for how, delivery in world.counterfeits(now, rng):
        trial.fault("forged or stale delivery", how=how)
        status = trial.surely(partial(_present, delivery, now))
        trial.record("fact", what="forged", how=how, status=status)


def _conclude(trial: Trial, sent: list[world.Sent]) -> None:
    """Final states where they are kept, at the callee, beside the truth."""
    for one in sent:
        if one.status:
            state = trial.outside["orders"].state.get(one.object)
            trial.record("fact", what="state", object=one.object, status=state, truth=one.status)
