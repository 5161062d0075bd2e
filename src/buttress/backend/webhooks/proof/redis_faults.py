"""Redis loses keys that it acknowledged: flushed, evicted, failed over. A scenario of its own, for those that stand on Redis.

Events are told once; then the server forgets; then the provider delivers some of them again, after the callees' own 24 hours
and before the marker's 48. In the clean trial nothing is doubled by anybody, so what is doubled here was forgotten.
Subjects that need no Redis take no part: their clean trial makes no call, and no case is armed.

A cut link, not a stopped replica: what the primary wrote to a replica that merely sleeps waits in the kernel, and arrives.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from buttress import servers
from buttress.backend.webhooks import world
from buttress.backend.webhooks.proof.checkers import HONOUR, accounts
from buttress.backend.webhooks.proof.scenarios import Size
from buttress.backend.webhooks.proof.subjects import LEASE_S, PAYMENTS
from buttress.kernel.errors import ButtressError
from buttress.proof import History, Scenario, Subject, Trial
from buttress.proof.contract import Case, Measured
from buttress.proof.faults.proxy import Relay
from buttress.proof.trial import EPOCH
from buttress.proof.verdict import count
from buttress.proof.world import Sender
from buttress.proof.world.sender import HOUR

if TYPE_CHECKING:
    import redis

FORGETS = "Redis forgets"
FLUSHED, EVICTED, FAILED_OVER = "Redis flushed", "Redis evicts", "Redis failed over"
EVENTS_PER_CRASH_EVENT = 10  # one trial a case, so that it may hold more events than the many trials of the crashes
TWINS = PAYMENTS[1:]  # the types that tell each other's facts
TOLD_S, CUT_AT_S, STRUCK_AT_S = HOUR, 0.5 * HOUR, 2 * HOUR
AGAIN_S = (26 * HOUR, 47 * HOUR)  # a callee honours a key for 24 hours, the case's marker lives for 48
STRANGER_BYTES, ROOM_BYTES, FILL_BYTES = 1024, 1 << 20, 8 << 20
WAIT_S = 20.0
URL = "BUTTRESS_REDIS_URL"


def scenarios(size: Size) -> tuple[Scenario, ...]:
    """At ``full`` only: a server is needed. For all that stands on Redis: it is a baseline or a peer, so that no claim rests on it."""
    return (Scenario(FORGETS, told_twice, (Flush(), Evict(), Failover()), processes=True, roles=("baseline", "peer")),) if size.calls else ()


# Ours, and no baseline in the sense of a way that broke: documented weaker. In this role it is measured with the others and never judged.
FENCED = Subject("fenced claims on Redis", "buttress.backend.webhooks.proof.subjects:fenced_redis", "baseline", needs=("redis",), scale="full",
                 about="the kernel's idempotency on Redis: documented weaker")


def told_twice(trial: Trial) -> None:
    """Each event once within an hour, then the blow, then 30 % of them again between hour 26 and hour 47."""
    if "redis" not in trial.subject.needs:
        return
    rng = trial.rng
    blow = trial.case.during if isinstance(trial.case.during, Blow) else None
    made = world.events(EVENTS_PER_CRASH_EVENT * trial.size.crash_events, rng)
    sent = [one for one in made if json.loads(one.delivery.body)["type"] not in TWINS]  # one fact under two ids is another hole, with or without keys
    sender = Sender(trial, lease_s=LEASE_S, rng=rng)
    for one in sent:
        sender.plan(EPOCH + rng.uniform(1, TOLD_S), one.delivery)
        if rng.random() < 0.30:
            sender.plan(EPOCH + rng.uniform(*AGAIN_S), one.delivery, again="delivered again")
        for due in one.due:
            trial.record("fact", what="due", callee=due.callee, reference=due.reference, id=due.event, twin=due.twin, told=[due.event])
    if blow is not None:
        sender.at(EPOCH + CUT_AT_S, lambda port: blow.prepare())
        sender.at(EPOCH + STRUCK_AT_S, lambda port: blow.strike())
    sender.run()
    for one in sent:
        if one.status:
            trial.record("fact", what="state", object=one.object, status=trial.outside["orders"].state.get(one.object), truth=one.status)


# -- the blows


@dataclass
class Blow:
    """One case's fault: entered around its trial, struck by the driver in the middle of it. ``forgot``: keys that are gone."""

    name: str
    forgot: int = 0
    trial: Trial | None = None
    client: Any = None

    @contextlib.contextmanager
    def __call__(self, trial: Trial) -> Iterator[None]:
        """Only at a server that we started: nobody else's is flushed, filled or shut down."""
        trial.hit = False
        if os.environ.get(URL):
            raise servers.NotThere(f"{self.name}: only a server of our own may lose its keys, {URL} names another's", fix=f"unset {URL}")
        self.trial = trial
        with self.around(trial, trial.world["redis"]):
            yield
        trial.record("fault", name=self.name, armed=1, hit=int(trial.hit), forgot=self.forgot)

    @contextlib.contextmanager
    def around(self, trial: Trial, url: str) -> Iterator[None]:
        with contextlib.closing(_client(url)) as self.client:
            yield

    def prepare(self) -> None:
        """Half of the events have been told."""

    def strike(self) -> None:
        """All have been told; none again yet."""
        assert self.trial is not None
        self.forgot = self.lose()
        self.trial.hit = self.forgot > 0

    def lose(self) -> int:
        """Does it; how many of the subject's keys are gone."""
        raise NotImplementedError


class Flushed(Blow):
    """FLUSHALL: an operator's mistake, or a restart without a snapshot."""

    def lose(self) -> int:
        before = int(self.client.dbsize())
        self.client.flushall()
        return before - int(self.client.dbsize())


class Evicted(Blow):
    """``allkeys-lru`` and little memory: others cache on the same server, and the oldest keys go."""

    def lose(self) -> int:
        before = set(self.client.scan_iter(count=1000))
        used = int(self.client.info("memory")["used_memory"])
        self.client.config_set("maxmemory-policy", "allkeys-lru")
        self.client.config_set("maxmemory", used + ROOM_BYTES)
        for first in range(0, FILL_BYTES // STRANGER_BYTES, 500):
            with self.client.pipeline(transaction=False) as pipe:
                for number in range(first, first + 500):
                    pipe.set(f"cache:{number}", b"x" * STRANGER_BYTES)
                pipe.execute()
        return len(before - set(self.client.scan_iter(count=1000)))


@dataclass
class FailedOver(Blow):
    """The link to the replica is cut, the primary goes on acknowledging and dies, the replica is promoted.

    The subject knows one address, as behind a virtual IP; it leads to the replica afterwards.
    """

    link: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    moved: Callable[[], None] = lambda: None
    replica: Any = None

    @contextlib.contextmanager
    def around(self, trial: Trial, url: str) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            stack.enter_context(self.link)
            self.client = stack.enter_context(contextlib.closing(_client(url)))
            self.client.config_set("repl-diskless-sync-delay", 0)  # the replica is not kept waiting for company
            through = self.link.enter_context(_relay(url).serving())
            second = stack.enter_context(servers.redis(durable=False, replica_of=servers.Redis(f"redis://127.0.0.1:{through}", "", None)))
            if second.server is not None:
                trial.charge(second.server.pid)
            self.replica = stack.enter_context(contextlib.closing(_client(second.url)))
            _until(lambda: self.replica.info("replication")["master_link_status"] == "up", "the replica did not connect")
            address = stack.enter_context(contextlib.ExitStack())
            front = _relay(url)
            trial.world["redis"] = f"redis://127.0.0.1:{address.enter_context(front.serving())}"
            self.moved = lambda: _lead(front, second.url)
            yield

    def prepare(self) -> None:
        """The replica has all so far; from here on it gets nothing more."""
        offset = int(self.client.info("replication")["master_repl_offset"])
        _until(lambda: int(self.replica.info("replication")["slave_repl_offset"]) >= offset, "the replica did not catch up")
        self.link.close()

    def lose(self) -> int:
        before = set(self.client.scan_iter(count=1000))
        self.replica.replicaof("NO", "ONE")
        self.client.shutdown(nosave=True)
        self.moved()
        return len(before - set(self.replica.scan_iter(count=1000)))


# -- the faults


@dataclass(frozen=True)
class _Loss:
    """A fault with one case, where the clean trial called the subject at all."""

    name: str
    needs: tuple[str, ...] = ("redis",)

    def cases(self, clean_hits: Mapping[str, int]) -> Iterable[Case]:
        if clean_hits.get("@reply"):
            yield Case(self.name, during=self.blow())

    def blow(self) -> Blow:
        raise NotImplementedError


@dataclass(frozen=True)
class Flush(_Loss):
    """All keys at once."""

    name: str = FLUSHED

    def blow(self) -> Blow:
        return Flushed(self.name)


@dataclass(frozen=True)
class Evict(_Loss):
    """What was not used for longest, as memory runs out."""

    name: str = EVICTED

    def blow(self) -> Blow:
        return Evicted(self.name)


@dataclass(frozen=True)
class Failover(_Loss):
    """What the replica had not seen."""

    name: str = FAILED_OVER

    def blow(self) -> Blow:
        return FailedOver(self.name)


# -- the checker


def forgotten(history: History) -> Mapping[str, Measured]:
    """Effects doubled and lost when Redis forgets, by how; and without: there it must be none, else the numbers mean nothing."""
    doubled: Counter[str] = Counter()
    lost: Counter[str] = Counter()
    of: Counter[str] = Counter()
    for a in accounts(history.where(scenario=FORGETS)):
        doubled[a.case] += sum(1 for _ in a.doubled(*HONOUR))
        lost[a.case] += sum(1 for _ in a.lost(*HONOUR))
        of[a.case] += a.of(*HONOUR)
    measures: dict[str, Measured] = {}
    for name, case in (("remembered", "clean"), ("flushed", FLUSHED), ("evicted", EVICTED), ("failed_over", FAILED_OVER)):
        measures[f"doubled_{name}"] = count(doubled[case], of[case])
        measures[f"lost_{name}"] = count(lost[case], of[case])
    return measures


# -- servers


def _client(url: str) -> redis.Redis:
    import redis

    return redis.Redis.from_url(url, socket_timeout=WAIT_S, socket_connect_timeout=WAIT_S)


def _relay(url: str) -> Relay:
    """A proxy without a fault: what makes an address movable, and a link one that can be cut."""
    parts = urlsplit(url)
    return Relay(parts.hostname or "127.0.0.1", parts.port or 6379, "delay", frozenset())


def _lead(front: Relay, url: str) -> None:
    """New connections go there. The old ones ended with the server that they led to."""
    parts = urlsplit(url)
    front.host, front.port = parts.hostname or "127.0.0.1", parts.port or 6379


def _until(condition: Callable[[], bool], otherwise: str) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        if time.monotonic() > deadline:
            raise ButtressError(f"{otherwise} within {WAIT_S:g} s")
        time.sleep(0.005)


__all__ = ["FENCED", "FORGETS", "Evict", "Failover", "Flush", "forgotten", "scenarios", "told_twice"]
