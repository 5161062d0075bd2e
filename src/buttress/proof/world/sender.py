"""A provider that sends webhooks at least once: on a schedule to 72 hours, again by hand on day 10, out of order, doubled.

It turns the trial's clock, delivers through the port, and takes a 2xx for received. It outlives the subject: a delivery
that a crash interrupted counts as refused and comes again. Simulated; it signs with code of its own, not the receiver's.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from buttress.proof.process import SubjectDied, SubjectError, SubjectPaused

if TYPE_CHECKING:
    from buttress.proof.trial import Trial

HOUR = 3600.0
# Stripe retries for up to three days with growing pauses; these are the waits before each attempt, jittered.
STRIPE_SCHEDULE_S = (5 * 60, 0.5 * HOUR, 2 * HOUR, 5 * HOUR, 10 * HOUR, 12 * HOUR, 12 * HOUR, 12 * HOUR, 12 * HOUR, 6 * HOUR)
WORK_STEPS_MAX = 100_000
ERROR_WAIT_S = 300.0


@dataclass(frozen=True)
class Delivery:
    """One event as it is sent. ``headers`` are made for each attempt: the signature carries the attempt's time."""

    id: str
    body: str
    headers: Callable[[float], Mapping[str, str]]


@dataclass(order=True, frozen=True)
class Attempt:
    """``again`` counts deliveries that nobody asked for: duplicates and resends. ``copies`` go out at once."""

    due: float
    order: int
    delivery: Delivery | None
    attempt: int = 0
    again: str = ""
    copies: int = 1
    action: Callable[[Any], None] | None = None


class Sender:
    """Drives one trial. ``plan`` adds attempts; ``run`` delivers all of them, lets the subject work in between, and settles it."""

    def __init__(self, trial: Trial, *, lease_s: float, rng: random.Random) -> None:
        self._trial = trial
        self._rng = rng
        self._lease_s = lease_s
        self._queue: list[Attempt] = []
        self._order = 0
        self._port: Any = None
        self._worker = 0
        self._paused: list[int] = []
        self._next_due: float | None = None
        # A stop hits the whole process: with two calls in flight the other one may be inside a write transaction, and then every
        # other writer of an embedded store stands still, which is another fault than a holder that was passed over.
        self._pauses = any(action == "stop" for _, action in trial.case.failpoints.values())

    def plan(self, due: float, delivery: Delivery, *, again: str = "", copies: int = 1, attempt: int = 0) -> None:
        self._order += 1
        heapq.heappush(self._queue, Attempt(due, self._order, delivery, attempt, again, copies))

    def at(self, due: float, action: Callable[[Any], None]) -> None:
        """Calls ``action(port)`` at that time, for what the driver does beside the deliveries."""
        self._order += 1
        heapq.heappush(self._queue, Attempt(due, self._order, None, action=action))

    def run(self) -> None:
        self._port = self._trial.open()
        while self._queue:
            attempt = heapq.heappop(self._queue)
            self._work_until(attempt.due)
            self._clock_to(attempt.due)
            if attempt.delivery is not None:
                self._send(attempt, attempt.delivery)
            elif attempt.action is not None:
                attempt.action(self._port)
        self._settle()
        for worker in self._paused:
            self._wake(worker)
        self._settle()

    # -- one attempt

    def _send(self, attempt: Attempt, delivery: Delivery) -> None:
        now = self._trial.clock.now()
        args = {"headers": dict(delivery.headers(now)), "body": delivery.body}
        if attempt.again:
            self._trial.record("fact", what="again", how=attempt.again, id=delivery.id, at=now)
        if attempt.copies > 1 and not self._pauses:
            answers = self._trial.together(*[(self._port.deliver, args)] * attempt.copies)
            self._recover(answers)
        else:
            answers = []
            for _ in range(attempt.copies):
                answers.append(self._deliver(args))
                self._recover(answers[-1:])
        taken = any(isinstance(answer, int) and 200 <= answer < 300 for answer in answers)
        if not taken and attempt.attempt < len(STRIPE_SCHEDULE_S):
            wait_s = STRIPE_SCHEDULE_S[attempt.attempt] * self._rng.uniform(0.9, 1.1)
            self.plan(now + wait_s, delivery, attempt=attempt.attempt + 1)
        self._next_due = now

    def _recover(self, answers: list[Any]) -> None:
        if any(isinstance(answer, SubjectDied) for answer in answers):
            self._restart()
        elif any(isinstance(answer, SubjectPaused) for answer in answers):
            self._succeed()

    def _deliver(self, args: Mapping[str, Any]) -> Any:
        try:
            return self._port.deliver(**args)
        except (SubjectDied, SubjectPaused, SubjectError) as error:
            return error

    # -- the subject's own work

    def _work_until(self, until: float) -> None:
        for _ in range(WORK_STEPS_MAX):
            if self._next_due is None or self._next_due > until:
                return
            self._clock_to(self._next_due)
            self._work()
        raise RuntimeError("the subject works without end")

    def _work(self) -> None:
        now = self._trial.clock.now()
        try:
            due = self._port.work()
        except SubjectDied:
            self._restart()
        except SubjectPaused:
            self._succeed()
        except SubjectError:
            self._next_due = now + ERROR_WAIT_S
        else:
            self._next_due = None if due is None else max(float(due), now)

    def _settle(self) -> None:
        """Turns the clock from due to due until nothing waits; then once past the lease, for what a lost worker held."""
        for _ in range(2 if self._trial.scenario.virtual else 1):
            self._next_due = self._trial.clock.now()
            self._work_until(self._trial.clock.now() + (30 * 24 * HOUR if self._trial.scenario.virtual else 0))
            self._advance(2 * self._lease_s)

    def _restart(self) -> None:
        self._port = self._trial.restart(self._worker)
        self._next_due = self._trial.clock.now()

    def _succeed(self) -> None:
        """A paused worker: its lease passes, another takes over, and it wakes at the end to find itself refused."""
        self._paused.append(self._worker)
        self._worker += 1
        self._advance(2 * self._lease_s)
        self._port = self._trial.open(self._worker)
        self._next_due = self._trial.clock.now()

    def _wake(self, worker: int) -> None:
        try:
            self._trial.resume(worker)
        except (SubjectError, SubjectDied):
            return

    def _clock_to(self, when: float) -> None:
        clock = self._trial.clock
        if hasattr(clock, "to"):
            clock.to(when)

    def _advance(self, seconds: float) -> None:
        clock = self._trial.clock
        if hasattr(clock, "to"):
            clock.to(clock.now() + seconds)
