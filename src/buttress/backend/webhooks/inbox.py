"""Webhooks in, each effect once.

A delivery is verified, stored, and only then acknowledged; it is handled afterwards, in one transaction with its effects
(``work``), or inside the request in the caller's own transaction (``inline``). A duplicate is known by its id for ever:
retention drops bodies, never ids.
"""

from __future__ import annotations

import logging
import random
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from inspect import iscoroutinefunction
from itertools import islice
from typing import Any, Literal, TypeVar

from buttress.backend.webhooks.callee import Callee
from buttress.backend.webhooks.driver import drive
from buttress.backend.webhooks.effects import Effects, check_limit
from buttress.backend.webhooks.event import Event, is_name
from buttress.backend.webhooks.gaps import Doubt, GapReport, Gaps
from buttress.backend.webhooks.ledger import RETIRE_BATCH, SCHEMA, Entry, Ledger
from buttress.backend.webhooks.signature import Refused, Verifier
from buttress.backend.webhooks.worker import Context, Handle, Handler, OrderBy, Refetch, Worker
from buttress.kernel.clock import SystemClock
from buttress.kernel.errors import ButtressError, InvalidInput, Unavailable
from buttress.kernel.failpoint import failpoint
from buttress.kernel.idempotency import SCHEMA as IDEMPOTENCY
from buttress.kernel.outbox import SCHEMA as OUTBOX
from buttress.kernel.store import Store, Tx
from buttress.kernel.store.postgres import DatabaseClock

ENDPOINT = re.compile(r"[A-Za-z0-9_.-]{1,64}")
BACKFILL_BATCH = 100
SCHEMAS = (SCHEMA, OUTBOX, IDEMPOTENCY)
H = TypeVar("H", bound=Handle)
log = logging.getLogger("buttress.webhooks")


@dataclass(frozen=True)
class InboxConfig:
    """The limits of an inbox. Seconds and bytes.

    ``lease_s``: how long a worker or sender holds what it took. ``max_attempts`` of a handler (20: about 11 hours) and
    ``effect_max_attempts`` of an effect (84: about three days), then a dead letter. ``stuck_s``: when ``gap_report`` begins
    to name what waits.
    """

    lease_s: float = 60.0
    max_attempts: int = 20
    effect_max_attempts: int = 84
    retry_base_s: float = 5.0
    retry_max_s: float = 3600.0
    body_max_bytes: int = 1 << 20
    stuck_s: float = 900.0

    def __post_init__(self) -> None:
        for name in ("lease_s", "retry_base_s", "retry_max_s", "stuck_s"):
            if not 0 < getattr(self, name) < 1e9:
                raise InvalidInput(name, getattr(self, name), "must be above 0 and below 1e9 seconds")
        for name in ("max_attempts", "effect_max_attempts", "body_max_bytes"):
            if not 1 <= getattr(self, name) <= 1 << 31:
                raise InvalidInput(name, getattr(self, name), "must be at least 1 and at most 2**31")


@dataclass(frozen=True)
class Answer:
    """What to answer the provider. ``code`` is stable; only a 2xx says that we have it."""

    status: int
    code: str
    detail: str = ""


STORED = Answer(200, "stored")
DUPLICATE = Answer(200, "duplicate")
DEAD_LETTER = Answer(200, "dead_letter", "signed, but not readable as an event: kept for a person to look at")
MISMATCH = Answer(409, "mismatch", "this id came before with another payload")
IN_FLIGHT = Answer(409, "in_flight", "this event is being handled: send it again later")
TOO_LARGE = "too_large"
UNAVAILABLE = Answer(503, "unavailable", "nothing was stored: send it again later")


@dataclass(frozen=True)
class Received:
    """A verified delivery, not stored yet."""

    event: Event
    at: float


@dataclass(frozen=True)
class Backfilled:
    """What a provider's list held: events that we had, that we had never been sent (now stored), and older than asked for."""

    known: int
    missed: int
    older: int


@dataclass(frozen=True)
class Backlog:
    """How much waits: events received and not settled, and since when the oldest of them; events given up; effects not sent yet."""

    events: int
    oldest: float | None
    dead: int
    ignored: int
    effects: int


class Delivery:
    """A delivery that is handled inside the caller's transaction. ``event`` is None when there is nothing to do.

    Send ``answer`` after your commit, never before it.
    """

    def __init__(self, answer: Answer, event: Event | None = None, context: Context | None = None) -> None:
        self.answer = answer
        self.event = event
        self._context = context

    def effect(self, name: str, *, key: str | None = None, payload: Mapping[str, Any] | None = None, in_order: str | None = None) -> str:
        """As ``Context.effect``, in the caller's transaction."""
        if self._context is None:
            raise InvalidInput("effect", name, "this delivery has no event to act on")
        return self._context.effect(name, key=key, payload=payload, in_order=in_order)


class Inbox:
    """One endpoint: its own secrets, its own ids. Several may share a store.

    ``retention`` is how long bodies are kept after an event was settled (``retire``). ``rng`` jitters retries.
    """

    def __init__(self, store: Store, verifier: Verifier, *, endpoint: str = "default", retention: timedelta = timedelta(days=90),
                 config: InboxConfig | None = None, rng: random.Random | None = None) -> None:
        if ENDPOINT.fullmatch(endpoint) is None:
            raise InvalidInput("endpoint", endpoint, "must be 1 to 64 letters, digits, dots, dashes and underscores")
        if retention < timedelta(0):
            raise InvalidInput("retention", str(retention), "must not be negative")
        self.store = store
        self.verifier = verifier
        self.endpoint = endpoint
        self.retention = retention
        self.config = limits = config or InboxConfig()
        # Leases go by the store's clock. Signatures go by this machine's where the store would have to ask a server for the time.
        self._wall = SystemClock() if isinstance(store.clock, DatabaseClock) else store.clock
        store.setup(*SCHEMAS)
        rng = rng or random.Random()
        self._ledger = Ledger(endpoint)
        self._gaps = Gaps(endpoint)
        self._handlers: dict[str, Handler] = {}
        self._effects = Effects(store, endpoint, self._gaps, clock=store.clock, rng=rng, lease_s=limits.lease_s,
                                max_attempts=limits.effect_max_attempts, retry_base_s=limits.retry_base_s, retry_max_s=limits.retry_max_s)
        self._worker = Worker(store, self._ledger, self._effects, self._handlers, clock=store.clock, rng=rng, lease_s=limits.lease_s,
                              max_attempts=limits.max_attempts, retry_base_s=limits.retry_base_s, retry_max_s=limits.retry_max_s)

    # -- what to do

    def on(self, *types: str, order_by: OrderBy | None = None, refetch: Refetch | None = None, guard: str | None = None) -> Callable[[H], H]:
        """Registers a handler for event types.

        ``order_by(event)`` returns (object, version) or (object, version, deleted): what is older than what this handler
        saw of the object is superseded. Register ``created``, ``updated`` and ``deleted`` of one object with one handler, or
        give several handlers one ``guard``. ``refetch(event)`` reads the current state (outside any transaction) in the
        shape of ``event.data``: at a tie of versions, or always where there is no ``order_by``.
        """
        if not types:
            raise InvalidInput("types", "none", "must name at least one event type")
        for kind in types:
            if not isinstance(kind, str) or not kind:
                raise InvalidInput("types", type(kind).__name__, "must be text and not empty", fix='write @inbox.on("invoice.paid")')
            if kind in self._handlers:
                raise InvalidInput("types", kind, "has a handler already")

        def register(handle: H) -> H:
            if iscoroutinefunction(handle):
                raise InvalidInput("handler", handle.__name__, "must be a plain function: it runs inside a transaction, in a thread of its own")
            name = guard if guard is not None else getattr(handle, "__name__", "handler")
            if order_by and guard is None and any(h.order_by and h.guard == name for h in self._handlers.values()):
                raise InvalidInput("guard", name, "is the name of another handler's order", fix="pass guard=: one of its own, or the one to share")
            for kind in types:
                self._handlers[kind] = Handler(name, handle, order_by, refetch)
            return handle

        return register

    def callee(self, name: str, callee: Callee) -> None:
        """Registers whom ``ctx.effect(name, ...)`` is sent to: ``keyed``, ``lookup``, ``at_most_once`` or ``at_least_once``."""
        if ENDPOINT.fullmatch(name) is None:
            raise InvalidInput("name", name, "must be 1 to 64 letters, digits, dots, dashes and underscores")
        self._effects.register(name, callee)

    # -- arrival

    def receive(self, headers: Mapping[str, str], body: bytes) -> Answer:
        """Verifies, stores, and says what to answer. Returns after the commit; never raises for what a sender or a store may do."""
        received = self.prepare(headers, body)
        return received if isinstance(received, Answer) else self.keep(received)

    def keep(self, received: Received) -> Answer:
        """The half after the signature: stores it, together with what other threads store meanwhile. Returns after the commit."""
        try:
            answer = self.store.submit(lambda tx: self.insert(tx, received))
        except Exception as error:  # whatever ails the store, the sender must keep its event
            return self.unavailable(error)
        failpoint("inbox.stored")
        return answer

    def prepare(self, headers: Mapping[str, str], body: bytes) -> Received | Answer:
        """The half before the store: size, signature, time. An Answer is a refusal, and nothing was or will be stored."""
        if len(body) > self.config.body_max_bytes:
            return Answer(413, TOO_LARGE, f"the body is larger than {self.config.body_max_bytes} bytes")
        now = self._wall.now()
        try:
            return Received(self.verifier.verify(headers, body, now), now)
        except Refused as refused:
            return Answer(refused.status, refused.code, refused.reason)

    def insert(self, tx: Tx, received: Received) -> Answer:
        """The half inside a transaction. The answer holds once that transaction is committed, and not before."""
        failpoint("inbox.received")
        event = received.event
        if self._ledger.insert(tx, event, received.at, delivered=True, state="dead" if event.problem else "received"):
            return DEAD_LETTER if event.problem else STORED
        entry = self._ledger.find(tx, event)
        assert entry is not None, "events are never deleted"
        return self._duplicate(tx, entry, event, received.at)

    def _duplicate(self, tx: Tx, entry: Entry, event: Event, now: float) -> Answer:
        canonical = None if entry.kept else self.verifier.canonical(event.body)  # what stays of a body that was dropped
        if entry.delivered is None:  # a listing found it first; its rendering of the body may differ
            self._ledger.arrived(tx, event, canonical or event.fingerprint, now)
            return DUPLICATE
        if entry.fingerprint in (event.fingerprint, canonical):
            return DUPLICATE
        first = self._ledger.body(tx, event)
        if first is not None and self.verifier.same(first, event.body):
            return DUPLICATE
        if self._gaps.alarm(tx, "event", event, event.id, event.fingerprint, now, first, event.body):
            log.error("an event id came with another payload", extra={"endpoint": self.endpoint, "event": event.id})
        return MISMATCH

    def unavailable(self, error: Exception) -> Answer:
        """The answer when the store could not take it: 503, and a line in the log."""
        log.error("a delivery could not be stored", extra={"endpoint": self.endpoint, "reason": type(error).__name__})
        return UNAVAILABLE

    @contextmanager
    def inline(self, connection: Any, headers: Mapping[str, str], body: bytes) -> Iterator[Delivery]:
        """Handles a delivery inside the transaction that the caller has open on ``connection``, and will commit.

        The fact that it was handled commits with the caller's own rows, or not at all. A concurrent duplicate waits for the
        first (Postgres) and then finds it done, or finds the store busy and is told 503. Nothing else of this store may be
        used on this thread inside the block.
        """
        received = self.prepare(headers, body)
        if isinstance(received, Answer):
            yield Delivery(received)
            return
        with self.store.join(connection) as tx:
            try:
                delivery = self._join(tx, received)
            except Exception as error:
                if isinstance(error, ButtressError) and not isinstance(error, Unavailable):
                    raise
                delivery = Delivery(self.unavailable(error))  # the store or its driver: busy, a lock timeout, a connection that is gone
            yield delivery

    def _join(self, tx: Tx, received: Received) -> Delivery:
        failpoint("inbox.received")
        event = received.event
        context = Context(tx, event, self._effects, partial(self._effects.put, tx))
        if self._ledger.insert(tx, event, received.at, delivered=True, state="dead" if event.problem else "done"):
            return Delivery(DEAD_LETTER) if event.problem else Delivery(STORED, event, context)
        entry = self._ledger.find(tx, event, lock=True)
        assert entry is not None, "events are never deleted"
        answer = self._duplicate(tx, entry, event, received.at)
        if answer is not DUPLICATE or event.problem or entry.state in ("done", "superseded", "dead"):
            return Delivery(answer)
        if self._ledger.take_over(tx, entry, received.at):  # a listing found it, or it waits: this request handles it
            return Delivery(STORED, event, context)
        return Delivery(IN_FLIGHT)

    # -- work

    def work(self, limit: int = 64) -> float | None:
        """Handles up to ``limit`` events, then sends up to ``limit`` effects. Returns when it next wants to be called.

        In seconds since the epoch; a time not in the future means that more is due; None that nothing waits.
        """
        self.work_events(limit)
        self.work_effects(limit)
        return self.next_due()

    def work_events(self, limit: int = 64) -> int:
        """The first half of ``work``: local, quick, holds the store's writer while handlers run. Returns how many it took."""
        return self._worker.work(limit)

    def work_effects(self, limit: int = 64) -> int:
        """The second half: asks the network, outside of any transaction. Returns how many it took."""
        return self._effects.work(limit)

    def next_due(self) -> float | None:
        """When something is due next, seconds since the epoch; None: nothing waits."""
        with self.store.transaction() as tx:
            dues = [due for due in (self._ledger.next_due(tx), self._effects.next_due()) if due is not None]
        return min(dues, default=None)

    def run(self, stop: threading.Event, wake: threading.Event | None = None, *, poll_s: float = 1.0, limit: int = 64) -> None:
        """Works in this thread until ``stop`` is set: events, effects, and once an hour ``retire``. Any number of threads and processes may.

        Set ``wake`` (one for each thread) after a delivery was stored, so that it is handled at once and not within ``poll_s``;
        set it after ``stop``, too. What goes wrong is logged and tried again: it never raises but for its arguments (InvalidInput).
        """
        self._run([self.work_events, self.work_effects], stop, wake, poll_s, limit)

    def run_effects(self, stop: threading.Event, wake: threading.Event | None = None, *, poll_s: float = 1.0, limit: int = 64) -> None:
        """``run`` without the events: for those who handle them inside their requests (``inline``), and only have effects to send."""
        self._run([self.work_effects], stop, wake, poll_s, limit)

    def _run(self, works: list[Callable[[int], int]], stop: threading.Event, wake: threading.Event | None, poll_s: float, limit: int) -> None:
        check_limit(limit)
        drive([(self.endpoint, partial(work, limit)) for work in works], stop, wake or threading.Event(), poll_s=poll_s, retire=self.retire)

    # -- operation

    def replay(self, event_id: str) -> int:
        """Makes an event due again, in every account and mode that has it. Its effects keep their keys: none is doubled.

        Returns how many. Raises InvalidInput when there is none, it waits already, or its body was retired.
        """
        with self.store.transaction() as tx:
            now = self.store.clock.now()
            count = sum(self._ledger.replay(tx, entry, now) for entry in self._ledger.named(tx, event_id))
        if not count:
            raise InvalidInput("event_id", event_id, "is not stored, waits already, or its body was retired")
        return count

    def revive(self, state: Literal["dead", "ignored"], event_type: str | None = None) -> int:
        """Makes all dead or all ignored events due again (of one type): after a fix, or once their type has a handler."""
        if state not in ("dead", "ignored"):
            raise InvalidInput("state", state, "must be dead or ignored")
        with self.store.transaction() as tx:
            return self._ledger.revive(tx, state, self.store.clock.now(), event_type)

    def replay_effect(self, effect: str, key: str | None = None) -> int:
        """Makes one dead effect due again, or all of that name. Returns how many."""
        return self._effects.replay(effect, key)

    def resolve(self, effect: str, key: str, *, happened: bool) -> int:
        """Closes a doubt by evidence: the effect counts as sent, or is sent again. Returns how many doubts it closed.

        Raises ButtressError, and changes nothing, while a sender holds the effect: try again after ``lease_s``. One that did not
        happen and that a later effect of its lane has overtaken (``overtaken``) stays dead: it would undo what came after it.
        """
        return self._effects.resolve(effect, key, happened=happened)

    def overtaken(self, effect: str, key: str) -> bool:
        """Whether a dead effect cannot be sent any more, because a later one of its lane (``in_order``) was or may have been sent."""
        return self._effects.overtaken(effect, key)

    def find(self, event_id: str) -> list[Entry]:
        """Where an event stands, in every account and mode that has it."""
        with self.store.transaction() as tx:
            return self._ledger.named(tx, event_id)

    def dead_letters(self, limit: int = 100) -> list[Entry]:
        """Events that were given up or could not be read, oldest first."""
        with self.store.transaction() as tx:
            return self._ledger.dead(tx, limit, bodies=True)

    def doubts(self, limit: int = 100) -> list[Doubt]:
        """Effects of which nobody knows whether they happened, oldest first."""
        with self.store.transaction() as tx:
            return self._gaps.doubts(tx, limit)

    def gap_report(self, limit: int = 100) -> GapReport:
        """What an operator should look at; lists hold at most ``limit`` each, without the bodies of events.

        What was missed longer ago than ``retention`` is left out.
        """
        with self.store.transaction() as tx:
            now, ledger = self.store.clock.now(), self._ledger
            return GapReport(
                missed=tuple(ledger.missed(tx, now - self.retention.total_seconds(), limit)), stuck=tuple(ledger.stuck(tx, now - self.config.stuck_s, limit)),
                dead=tuple(ledger.dead(tx, limit)), dead_effects=tuple(self._effects.dead(limit)), ignored=ledger.idle(tx, "ignored"),
                alarms=tuple(self._gaps.alarms(tx, limit)), doubts=tuple(self._gaps.doubts(tx, limit)))

    def backlog(self) -> Backlog:
        """Counts for a gauge or a glance; cheap also when there are many events."""
        with self.store.transaction() as tx:
            count, oldest = self._ledger.waiting(tx)
            dead, ignored = sum(self._ledger.idle(tx, "dead").values()), sum(self._ledger.idle(tx, "ignored").values())
            return Backlog(count, oldest, dead, ignored, self._effects.pending())

    def backfill(self, events: Iterable[Event | Mapping[str, Any] | bytes], since: float | datetime) -> Backfilled:
        """Stores what the provider's own list holds and we were never sent. The list vouches for it: no signature is checked.

        ``events``: Event values, or for Stripe the items of its API as they come. ``since``: seconds since the epoch, or a
        datetime with an offset; what occurred before is passed over.
        """
        if isinstance(since, datetime):
            if since.tzinfo is None:
                raise InvalidInput("since", since.isoformat(), "must have an offset")
            since = since.timestamp()
        known = missed = older = 0
        rest = iter(events)
        while batch := [item if isinstance(item, Event) else self.verifier.listed(item) for item in islice(rest, BACKFILL_BATCH)]:
            for event in batch:
                if event.problem or not is_name(event.id) or not all(is_name(text) for text in (event.type, event.account) if text):
                    raise InvalidInput("events", event.problem or "id, type or account", "the list holds something that is no event")
            recent = [event for event in batch if event.occurred is None or event.occurred >= since]
            fresh = self.store.submit(partial(self._insert_listed, events=recent))
            older, missed, known = older + len(batch) - len(recent), missed + fresh, known + len(recent) - fresh
        return Backfilled(known, missed, older)

    def _insert_listed(self, tx: Tx, events: list[Event]) -> int:
        now = self.store.clock.now()
        return sum(self._ledger.insert(tx, event, now, delivered=False) for event in sorted(events, key=Ledger.order))

    def retire(self) -> int:
        """Housekeeping: drops bodies settled longer ago than ``retention``. Ids stay for ever. Returns how many it dropped."""
        before = self.store.clock.now() - self.retention.total_seconds()
        dropped = 0
        while True:
            with self.store.transaction() as tx:  # a batch a commit: receiving goes on meanwhile
                count = self._ledger.retire(tx, before, self.verifier.canonical)
                if count < RETIRE_BATCH:
                    dropped += count + self._gaps.retire(tx, before)
                    self._effects.retire(before)
                    return dropped
            dropped += count
