"""Handles what was received: claims a batch under leases, runs each handler in a savepoint, commits effects and states at once.

The row of an event is taken (``finish``, which checks the fence) before its handler runs and in the same transaction, so a
worker whose lease has passed to another is refused before it can do anything.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from inspect import isawaitable
from typing import Any

from buttress.backend.webhooks.callee import Rejected
from buttress.backend.webhooks.effects import Effects, Wanted, backoff_s, check_limit, reason_of
from buttress.backend.webhooks.event import Event
from buttress.backend.webhooks.ledger import Held, Ledger
from buttress.backend.webhooks.ordering import Guard, Place, to_place
from buttress.kernel.clock import Clock
from buttress.kernel.errors import ButtressError, InvalidInput
from buttress.kernel.failpoint import failpoint
from buttress.kernel.store import Store, Tx

CONFLICTS = ("40001", "40P01", "55P03")  # SQLSTATE: serialization failure, deadlock, lock not available. Not the handler's fault
CONFLICT_BASE_S = 0.05  # what a conflict waits at first: whoever has the lock is mostly through by then
CONFLICT_MAX_S = 4.0
log = logging.getLogger("buttress.webhooks")


class EndedByHandler(ButtressError):
    """A handler ended the transaction that it shares with the other events of its batch: by a ROLLBACK of the driver, of a trigger, or a COMMIT."""

    code = "transaction_ended"

    def __init__(self, plan: _Plan) -> None:
        super().__init__("the handler ended the transaction that it was given", fix="raise an error instead")
        self.plan = plan


class _Busy(Exception):
    """The places of this endpoint's effects were not to be had in time: nothing of the batch has run."""


class Context:
    """What a handler may use. Local effects go through ``tx``, external ones through ``effect``: both commit with ``done``.

    ``tied``: another event of the same version was seen before, and which of them is newer cannot be told from the two.
    """

    __slots__ = ("_effects", "_event", "_put", "attempt", "tied", "tx")

    def __init__(self, tx: Tx, event: Event, effects: Effects, put: Callable[[Wanted], None], *, attempt: int = 1, tied: bool = False) -> None:
        self.tx = tx
        self.attempt = attempt
        self.tied = tied
        self._event = event
        self._effects = effects
        self._put = put

    def effect(self, name: str, *, key: str | None = None, payload: Mapping[str, Any] | None = None, in_order: str | None = None) -> str:
        """Asks for an effect at the callee ``name``: it goes into the outbox at once, and commits with the event. Returns the key that the callee will see.

        ``key`` defaults to the event's id. A business key (the payment, the invoice) makes two events that tell one fact one
        effect. The same key with another payload is recorded as an alarm and not sent. ``in_order`` names an object whose
        effects reach this callee one after the other, in the order of the commits that asked for them.
        """
        wanted = self._effects.wanted(self._event, name, self._event.id if key is None else key, dict(payload or {}), in_order)
        self._put(wanted)
        return wanted.key


Handle = Callable[[Event, Context], object]
OrderBy = Callable[[Event], object]
Refetch = Callable[[Event], Any]


@dataclass(frozen=True)
class Handler:
    """A handler and how its events are ordered. ``guard`` names the order: handlers that share it share what was seen."""

    guard: str
    handle: Handle
    order_by: OrderBy | None
    refetch: Refetch | None


@dataclass
class _Plan:
    """One held event, and what is worked out before the transaction: its place, and the state that was read again."""

    held: Held
    handler: Handler | None
    place: Place | None = None
    fresh: Event | None = None
    problem: BaseException | None = None

    @property
    def order(self) -> tuple[str, str]:
        return (self.handler.guard, self.place.object) if self.handler and self.place else ("", "")


def in_transaction(tx: Tx) -> bool:
    """Whether the connection still is in the transaction that it was given in."""
    connection = tx.connection
    return bool(connection.info.transaction_status.name in ("INTRANS", "INERROR") if tx.dialect == "postgres" else connection.in_transaction)


class Worker:
    """Handles the events of one endpoint. Any number of them, in any number of processes, may work on one store."""

    def __init__(self, store: Store, ledger: Ledger, effects: Effects, handlers: Mapping[str, Handler], *, clock: Clock, rng: random.Random,
                 lease_s: float, max_attempts: int, retry_base_s: float, retry_max_s: float) -> None:
        self._store = store
        self._ledger = ledger
        self._effects = effects
        self._handlers = handlers
        self._guard = Guard(ledger.endpoint)
        self._clock = clock
        self._rng = rng
        self._lease_s = lease_s
        self._max_attempts = max_attempts
        self._retry_base_s = retry_base_s
        self._retry_max_s = retry_max_s

    def work(self, limit: int) -> int:
        """Handles up to ``limit`` events that are due, in one commit. Returns how many were claimed."""
        check_limit(limit)
        with self._store.transaction() as tx:
            began = self._clock.now()
            held = self._ledger.claim(tx, began, self._lease_s, limit)
        if not held:
            return 0
        failpoint("inbox.claimed")
        plans: list[_Plan] = []
        for one in held:
            plans.append(self._plan(one))
            if plans[-1].fresh is not None and self._clock.now() > began + self._lease_s / 2:
                break  # reading states again took long: what is left is given back before its lease runs out
        # Locks are taken in one order by all workers: the outbox by name, then guards by object.
        try:
            with self._store.transaction() as tx:
                self._hold(plans)
                for plan in sorted(plans, key=lambda plan: plan.order):
                    self._take(tx, plan)
                for one in held[len(plans):]:
                    self._ledger.release(tx, one, self._clock.now())
                failpoint("inbox.handled")
        except EndedByHandler as ended:
            self._mend(held, ended)
        except _Busy:
            with self._store.transaction() as tx:
                for one in held:
                    self._defer(tx, one, "the outbox is busy")
        failpoint("inbox.done")
        return len(held)

    def _hold(self, plans: list[_Plan]) -> None:
        """Before the first handler, for any of them may ask for any effect: two batches cannot wait for each other later."""
        if not any(plan.handler for plan in plans):
            return
        try:
            self._effects.hold()
        except Exception as error:
            if getattr(error, "sqlstate", None) in CONFLICTS:
                raise _Busy from error
            raise

    def _mend(self, held: list[Held], ended: EndedByHandler) -> None:
        """After a handler ended the transaction: what it rolled back is given back, what it committed has its effects, and it is dead.

        Never tried again: what it wrote by itself, before a COMMIT or after a ROLLBACK, is there, and would be written once more.
        """
        culprit = ended.plan.held
        log.error("a handler ended its transaction", extra={"endpoint": self._ledger.endpoint, "event": culprit.event.id})
        with self._store.transaction() as tx:
            for one in held:
                if one is not culprit:  # those that were committed are not claimed any more, and stay as they are
                    self._ledger.release(tx, one, self._clock.now())
            if not self._ledger.finish(tx, culprit, "dead", self._clock.now(), error=reason_of(ended)):
                self._ledger.amend(tx, culprit, "dead", reason_of(ended))  # its own mark was committed: nobody may take it for done

    def _plan(self, held: Held) -> _Plan:
        """Outside of any transaction: a refetch asks the network."""
        plan = _Plan(held, self._handlers.get(held.event.type))
        handler = plan.handler
        if handler is None or held.attempt > self._max_attempts or held.event.data is None:
            return plan
        try:
            plan.place = to_place(handler.order_by(held.event)) if handler.order_by else None
            if handler.refetch and self._wants_refetch(held.event, handler, plan.place):
                plan.fresh = held.event.with_data(handler.refetch(held.event))
        except (Exception, SystemExit) as problem:  # the caller's code: whatever it raises is a failed attempt, and recorded as one
            plan.problem = problem
        return plan

    def _wants_refetch(self, event: Event, handler: Handler, place: Place | None) -> bool:
        if place is None:
            return True
        with self._store.transaction() as tx:
            return self._guard.look(tx, event, handler.guard, place) == "tied"

    def _take(self, tx: Tx, plan: _Plan) -> None:
        tx.execute("SAVEPOINT event")
        try:
            self._act(tx, plan)
        except (Exception, SystemExit) as error:
            self._savepoint(tx, "ROLLBACK TO", plan)
            if (state := getattr(error, "sqlstate", None)) in CONFLICTS:
                self._defer(tx, plan.held, f"conflict {state}")
            else:
                self._fail(tx, plan.held, error)
        self._savepoint(tx, "RELEASE", plan)

    def _savepoint(self, tx: Tx, verb: str, plan: _Plan) -> None:
        try:
            tx.execute(f"{verb} SAVEPOINT event")
        except Exception as error:
            if getattr(tx.connection, "broken", False):  # psycopg: it was lost. A connection that somebody closed is closed and not broken
                raise
            raise EndedByHandler(plan) from error  # the savepoint is gone, or the connection was closed by the handler

    def _put(self, tx: Tx, plan: _Plan, wanted: Wanted) -> None:
        """In the event's own savepoint: whatever commits the event from here on, commits its effects."""
        if not in_transaction(tx):  # each statement would commit by itself, and half of a message must never be there
            raise EndedByHandler(plan)
        self._effects.put(tx, wanted)

    def _defer(self, tx: Tx, held: Held, reason: str) -> None:
        """Gives an event back for a moment. No failed attempt: what was in the way is not its handler's fault."""
        uncounted = max(1, held.fence - held.attempt + 1)  # claims since its first that were not counted as attempts, this one included
        due = self._clock.now() + backoff_s(uncounted, CONFLICT_BASE_S, CONFLICT_MAX_S, self._rng)
        if self._ledger.release(tx, held, due):
            log.info("an event waits for a lock", extra={"endpoint": self._ledger.endpoint, "event": held.event.id, "reason": reason})

    def _act(self, tx: Tx, plan: _Plan) -> None:
        held, handler, now = plan.held, plan.handler, self._clock.now()
        if held.attempt > self._max_attempts:
            self._finish(tx, held, "dead", now, f"lost {held.attempt - 1} times by its holder" if held.lost else "too many attempts")
        elif handler is None:
            self._finish(tx, held, "ignored", now, "no handler for this type")
        elif held.event.data is None:
            self._finish(tx, held, "dead", now, "not_json")
        elif self._finish(tx, held, "done", now, None):
            if plan.problem is not None:
                raise plan.problem
            self._handle(tx, plan, handler)

    def _handle(self, tx: Tx, plan: _Plan, handler: Handler) -> None:
        event = plan.held.event
        standing = "newer" if plan.place is None else self._guard.advance(tx, event, handler.guard, plan.place)
        if standing == "superseded":
            self._ledger.amend(tx, plan.held, "superseded", "its object is newer already")
            return
        if standing == "tied" and handler.refetch and plan.fresh is None:  # the tie came about in this very batch: once more, with a look
            tx.execute("ROLLBACK TO SAVEPOINT event")
            self._ledger.release(tx, plan.held, self._clock.now())
            return
        context = Context(tx, event, self._effects, partial(self._put, tx, plan), attempt=plan.held.attempt, tied=standing == "tied")
        answer = handler.handle(plan.fresh or event, context)
        if isawaitable(answer):
            raise InvalidInput("handler", type(answer).__name__, "must be a plain function: nobody awaits it here")

    def _finish(self, tx: Tx, held: Held, state: Any, now: float, error: str | None) -> bool:
        taken = self._ledger.finish(tx, held, state, now, error=error)
        if not taken:
            log.warning("a worker outlived its lease", extra={"endpoint": self._ledger.endpoint})
        elif state == "dead":
            log.error("an event was given up", extra={"endpoint": self._ledger.endpoint, "event": held.event.id, "reason": error})
        return taken

    def _fail(self, tx: Tx, held: Held, error: BaseException) -> bool:
        """False: somebody else has the event by now, or it is settled."""
        now, reason = self._clock.now(), reason_of(error)
        if isinstance(error, Rejected) or held.attempt >= self._max_attempts:
            return self._finish(tx, held, "dead", now, reason)
        due = now + backoff_s(held.attempt, self._retry_base_s, self._retry_max_s, self._rng)
        taken = self._ledger.finish(tx, held, "retry", now, due=due, error=reason)
        if taken:
            log.warning("a handler failed", extra={"endpoint": self._ledger.endpoint, "event": held.event.id, "type": held.event.type,
                                                   "attempt": held.attempt, "reason": reason})
        return taken
