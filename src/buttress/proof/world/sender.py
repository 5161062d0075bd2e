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
IDLE_STEPS = 16  # so often it is called exactly when it asked to be; one that polls and finds nothing is then called less and less often
IDLE_MAX_S = 6 * HOUR


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

    def __init__(self, trial: Trial, *, lease_s: float, rng: random.Random, workers: int = 1) -> None:
        self._trial = trial
        self._rng = rng
        self._lease_s = lease_s
        self._queue: list[Attempt] = []
        self._order = 0
        self._crew = list(range(workers))  # who takes deliveries and works, on one store; the first one leads
        self._ports: dict[int, Any] = {}
        self._hired = workers
        self._paused: list[int] = []
        self._next_due: float | None = None
        self._idle = 0  # calls of work in a row after which nobody outside had heard anything
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
        self._ports = {worker: self._trial.open(worker) for worker in self._crew}
        while self._queue:
            attempt = heapq.heappop(self._queue)
            self._work_until(attempt.due)
            self._clock_to(attempt.due)
            if attempt.delivery is not None:
                self._send(attempt, attempt.delivery)
            elif attempt.action is not None:
                attempt.action(self._ports[self._crew[0]])
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
            workers = [self._crew[n % len(self._crew)] for n in range(attempt.copies)]
            answers = self._trial.together(*[(self._ports[worker].deliver, args) for worker in workers])
            self._recover(dict(zip(workers, answers, strict=True)))
        else:
            answers = []
            for _ in range(attempt.copies):
                answers.append(self._deliver(args))
                self._recover({self._crew[0]: answers[-1]})
        self._idle = 0
        taken = any(isinstance(answer, int) and 200 <= answer < 300 for answer in answers)
        if not taken and attempt.attempt < len(STRIPE_SCHEDULE_S):
            wait_s = STRIPE_SCHEDULE_S[attempt.attempt] * self._rng.uniform(0.9, 1.1)
            self.plan(now + wait_s, delivery, attempt=attempt.attempt + 1)
        self._next_due = now

    def _recover(self, answers: Mapping[int, Any]) -> None:
        for worker, answer in answers.items():
            if isinstance(answer, SubjectDied):
                self._restart(worker)
            elif isinstance(answer, SubjectPaused):
                self._succeed(worker)

    def _deliver(self, args: Mapping[str, Any]) -> Any:
        try:
            return self._ports[self._crew[0]].deliver(**args)
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

    def _traffic(self) -> int:
        return sum(callee.requests + callee.lookups for callee in (self._trial.outside or {}).values())

    def _work(self) -> None:
        now, heard = self._trial.clock.now(), self._traffic()
        if len(self._crew) > 1:
            answers = dict(zip(self._crew, self._trial.together(*[(self._ports[w].work, {}) for w in self._crew]), strict=True))
        else:
            try:
                answers = {self._crew[0]: self._ports[self._crew[0]].work()}
            except (SubjectDied, SubjectPaused, SubjectError) as error:
                answers = {self._crew[0]: error}
        dues = [max(float(due), now) for due in answers.values() if isinstance(due, float | int)]
        dues += [now + ERROR_WAIT_S for answer in answers.values() if isinstance(answer, SubjectError)]
        self._next_due = min(dues, default=None)
        traffic = self._traffic()
        self._idle = self._idle + 1 if traffic == heard else 0
        if self._next_due is not None and self._idle > IDLE_STEPS:  # as a machine does that sleeps: late, and never for ever
            self._next_due = max(self._next_due, now + min(IDLE_MAX_S, ERROR_WAIT_S * 2.0 ** (self._idle - IDLE_STEPS - 1)))
        self._recover(answers)

    def _settle(self) -> None:
        """Turns the clock from due to due until nothing waits; then once past the lease, for what a lost worker held."""
        for _ in range(2 if self._trial.scenario.virtual else 1):
            self._next_due = self._trial.clock.now()
            self._work_until(self._trial.clock.now() + (30 * 24 * HOUR if self._trial.scenario.virtual else 0))
            self._advance(2 * self._lease_s)

    def _restart(self, worker: int) -> None:
        self._idle = 0
        self._ports[worker] = self._trial.restart(worker)
        self._next_due = self._trial.clock.now()

    def _succeed(self, worker: int) -> None:
        """A paused worker: its lease passes, another takes over, and it wakes at the end to find itself refused."""
        self._paused.append(worker)
        self._crew[self._crew.index(worker)] = successor = self._hired
        self._hired += 1
        self._advance(2 * self._lease_s)
        self._ports[successor] = self._trial.open(successor)
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
