"""Exposure in stages, each passed by evidence.

A rollout has strata (a hardware revision, a region, a store) and each of them climbs the stages on its own: the canary of one
says nothing of another. In a stage a gate judges what was seen of the stratum: ``Successful`` goes on, ``Failed`` rolls back by
itself, ``Inconclusive`` and ``Error`` wait, and pause once they have waited too long. **Silence is never success**: a unit
that was exposed and has not reported within ``silence_s`` counts as failed, and a stage ends only when enough have reported,
its soak is over and nobody is still within their time to report. Every decision is a row that is never changed.

Verdicts are those of Argo Rollouts' analysis phases. The gate that comes with it compares an interval of the failure rate with
its bar (Clopper-Pearson, ``kernel/stats``). It may find ``Failed`` at any look, which costs a canary too many now and then and never
a fleet; it is asked for ``Successful`` only once a stage's evidence is in, and again only when more of it came.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, Protocol

from buttress.kernel.clock import Clock
from buttress.kernel.errors import ButtressError, InvalidInput, check_text
from buttress.kernel.failpoint import failpoint
from buttress.kernel.stats import clopper_pearson
from buttress.kernel.store import Schema, Store, Tx

NAME_MAX_BYTES = 256
REASON_MAX_CHARS = 500
Phase = Literal["Successful", "Failed", "Inconclusive", "Error"]
State = Literal["running", "paused", "rolled_back", "complete"]
Outcome = Literal["ok", "bad"]
Order = Literal["pause", "resume", "promote", "roll_back"]


@dataclass(frozen=True)
class Stage:
    """``share`` of a stratum's units may be exposed (at least ``at_least`` units, as far as there are any).

    It ends when ``sample_min`` units have reported (or all, of a smaller stratum), ``soak_s`` seconds after it began at the
    earliest. After ``patience_s`` without a verdict it pauses.
    """

    name: str
    share: float
    at_least: int = 1
    sample_min: int = 1
    soak_s: float = 0.0
    patience_s: float = math.inf

    def quota(self, population: int) -> int:
        return min(population, max(self.at_least, math.ceil(self.share * population - 1e-9)))


@dataclass(frozen=True)
class Plan:
    """Stages with growing shares. ``silence_s``: how long an exposed unit may take to report before it counts as failed."""

    stages: tuple[Stage, ...]
    silence_s: float

    def __post_init__(self) -> None:
        if not self.stages:
            raise InvalidInput("stages", 0, "must be at least one")
        shares = [stage.share for stage in self.stages]
        if any(not 0 < share <= 1 for share in shares) or shares != sorted(shares):
            raise InvalidInput("share", shares, "must be above 0 and at most 1, and not shrink from stage to stage")
        if len({stage.name for stage in self.stages}) != len(self.stages):
            raise InvalidInput("name", [stage.name for stage in self.stages], "must differ from stage to stage")
        for stage in self.stages:
            if stage.sample_min < 1 or stage.at_least < 1:
                raise InvalidInput("sample_min, at_least", (stage.sample_min, stage.at_least), "must be at least 1: no evidence is no success")
            if not 0 <= stage.soak_s < math.inf or not stage.patience_s > 0:
                raise InvalidInput("soak_s, patience_s", (stage.soak_s, stage.patience_s), "must be 0 or more and finite, and above 0")
        if not 0 < self.silence_s < math.inf:
            raise InvalidInput("silence_s", self.silence_s, "must be above 0 and finite: whoever never reports must count some day")


@dataclass(frozen=True)
class Seen:
    """What is known of a stratum's units since the rollout began, when a gate is asked. ``silent`` are in ``bad`` as well."""

    stratum: str
    stage: str
    population: int
    exposed: int
    ok: int
    bad: int
    silent: int
    waiting: int
    since_s: float

    @property
    def told(self) -> int:
        return self.ok + self.bad


@dataclass(frozen=True)
class Judgement:
    """A gate's answer, and why. ``measure`` is what it looked at, for whoever reads the decision later."""

    phase: Phase
    reason: str
    measure: float | None = None


Gate = Callable[[Seen], Judgement]


@dataclass(frozen=True)
class FailureRate:
    """A gate: the share of failed units must lie below ``bad_max``. One-sided intervals at ``confidence``.

    All told ones ok is enough only where the sample is large enough to show it; ``trust_clean`` lets a smaller sample without
    any failure pass (a canary of three devices cannot show a rate of 1 %).
    """

    bad_max: float
    confidence: float = 0.95
    trust_clean: bool = True

    def __post_init__(self) -> None:
        if not 0 < self.bad_max < 1:
            raise InvalidInput("bad_max", self.bad_max, "must be above 0 and below 1")

    def __call__(self, seen: Seen) -> Judgement:
        if seen.told == 0:
            return Judgement("Inconclusive", "nobody has reported")
        rate = seen.bad / seen.told
        interval = clopper_pearson(seen.bad, seen.told, 2 * self.confidence - 1)
        words = f"{seen.bad} of {seen.told} failed ({seen.silent} silent), the rate is {interval.low:.2%} to {interval.high:.2%}, the bar {self.bad_max:.2%}"
        if interval.low > self.bad_max:
            return Judgement("Failed", words, rate)
        if interval.high < self.bad_max or (self.trust_clean and seen.bad == 0):
            return Judgement("Successful", words, rate)
        return Judgement("Inconclusive", words, rate)


@dataclass(frozen=True)
class Decision:
    """One row of what was decided, by the gate or by a person. ``at`` in seconds since the epoch."""

    number: int
    stratum: str
    stage: str
    phase: Phase | Literal["ordered"]
    action: Literal["promote", "complete", "roll_back", "pause", "resume", "wait"]
    reason: str
    by: str
    at: float
    seen: Mapping[str, Any]


@dataclass(frozen=True)
class Standing:
    """Where a stratum stands."""

    stratum: str
    stage: str
    state: State
    quota: int
    seen: Seen


class Rollout(Protocol):
    """One rollout over its units. Raises InvalidInput for names that it does not know."""

    def admit(self, stratum: str, unit: str) -> bool:
        """Whether this unit may be exposed now; True takes a place of the stage's quota, durably, before it is exposed."""
        ...

    def report(self, unit: str, outcome: Outcome, reason: str = "") -> bool:
        """What became of an exposed unit. Told again is told once; bad after ok counts as bad, ok after bad does not heal."""
        ...

    def decide(self) -> list[Decision]:
        """Asks the gate where a stage's evidence is in, acts on its verdict, and returns what was decided. Call it often."""
        ...

    def order(self, action: Order, by: str, *, stratum: str | None = None, reason: str = "") -> list[Decision]:
        """A person's decision, of one stratum or of all: recorded like the others."""
        ...

    def standing(self) -> list[Standing]:
        """Where each stratum stands."""
        ...


SCHEMA = Schema(
    "kernel.rollout",
    1,
    (
        "CREATE TABLE buttress_rollout (name TEXT PRIMARY KEY, plan TEXT NOT NULL, opened {real} NOT NULL)",
        """CREATE TABLE buttress_rollout_stratum (
             rollout TEXT NOT NULL, stratum TEXT NOT NULL, population {int} NOT NULL, stage {int} NOT NULL, entered {real} NOT NULL,
             state TEXT NOT NULL, exposed {int} NOT NULL, errors {int} NOT NULL, PRIMARY KEY (rollout, stratum))""",
        """CREATE TABLE buttress_rollout_unit (
             rollout TEXT NOT NULL, unit TEXT NOT NULL, stratum TEXT NOT NULL, exposed {real} NOT NULL, outcome TEXT, told {real},
             reason TEXT NOT NULL, PRIMARY KEY (rollout, unit))""",
        "CREATE INDEX buttress_rollout_unit_stratum ON buttress_rollout_unit (rollout, stratum, outcome, exposed)",
        """CREATE TABLE buttress_rollout_decision (
             rollout TEXT NOT NULL, number {int} NOT NULL, stratum TEXT NOT NULL, stage TEXT NOT NULL, phase TEXT NOT NULL, action TEXT NOT NULL,
             reason TEXT NOT NULL, who TEXT NOT NULL, at {real} NOT NULL, seen TEXT NOT NULL, PRIMARY KEY (rollout, number))""",
    ),
)
GATE = "gate"
_ROW = "stratum, population, stage, entered, state, exposed, errors"


@dataclass(frozen=True)
class _Stratum:
    name: str
    population: int
    stage: int
    entered: float
    state: State
    exposed: int
    errors: int


class SqlRollout:
    """On a Store (SQLite or Postgres), by ``name``: any number of processes may work on one. ``gate`` judges each stage.

    ``strata`` gives each stratum's number of units. Opened again, plan and strata must be those of the first time. A gate that
    raises is an ``Error``: more than ``errors_max`` in a row pause the stratum.
    """

    def __init__(self, store: Store, name: str, plan: Plan, strata: Mapping[str, int], gate: Gate, *, clock: Clock | None = None,
                 errors_max: int = 4) -> None:
        check_text("name", name, NAME_MAX_BYTES)
        if not strata:
            raise InvalidInput("strata", 0, "must be at least one")
        for stratum, population in strata.items():
            check_text("stratum", stratum, NAME_MAX_BYTES)
            if not isinstance(population, int) or population < 1:
                raise InvalidInput("population", population, "must be a whole number, at least 1")
        self.name = name
        self.plan = plan
        self._store = store
        self._gate = gate
        self._clock = clock or store.clock
        self._errors_max = errors_max
        store.setup(SCHEMA)
        self._open(dict(strata))

    def _open(self, strata: dict[str, int]) -> None:
        text, now = json.dumps(asdict(self.plan), sort_keys=True), self._clock.now()
        with self._store.transaction() as tx:
            fresh = tx.execute("INSERT INTO buttress_rollout (name, plan, opened) VALUES (?, ?, ?) ON CONFLICT (name) DO NOTHING", (self.name, text, now))
            if fresh:
                for stratum, population in sorted(strata.items()):
                    tx.execute("INSERT INTO buttress_rollout_stratum (rollout, stratum, population, stage, entered, state, exposed, errors) "
                               "VALUES (?, ?, ?, 0, ?, 'running', 0, 0)", (self.name, stratum, population, now))
                return
            row = tx.one("SELECT plan FROM buttress_rollout WHERE name = ?", (self.name,))
            there = {one.name: one.population for one in self._strata(tx)}
        if row is None or row[0] != text or there != strata:
            raise InvalidInput("plan, strata", self.name, "differ from those that this rollout was opened with", fix="give the new plan another name")

    # -- units

    def admit(self, stratum: str, unit: str) -> bool:
        check_text("unit", unit, NAME_MAX_BYTES)
        with self._store.transaction() as tx:
            one = self._stratum(tx, stratum)
            row = tx.one("SELECT stratum FROM buttress_rollout_unit WHERE rollout = ? AND unit = ?", (self.name, unit))
            if row is not None:
                if row[0] != stratum:
                    raise InvalidInput("stratum", stratum, f"differs from {row[0]}, in which this unit was admitted")
                return one.state in ("running", "complete")  # exposed before: it may go on, unless the stratum was stopped
            if one.state not in ("running", "complete") or one.exposed >= self.plan.stages[one.stage].quota(one.population):
                return False
            tx.execute("INSERT INTO buttress_rollout_unit (rollout, unit, stratum, exposed, reason) VALUES (?, ?, ?, ?, '')",
                       (self.name, unit, stratum, self._clock.now()))
            tx.execute("UPDATE buttress_rollout_stratum SET exposed = exposed + 1 WHERE rollout = ? AND stratum = ?", (self.name, stratum))
        failpoint("rollout.admitted")
        return True

    def report(self, unit: str, outcome: Outcome, reason: str = "") -> bool:
        if outcome not in ("ok", "bad"):
            raise InvalidInput("outcome", outcome, "must be ok or bad")
        with self._store.transaction() as tx:
            changed = tx.execute("UPDATE buttress_rollout_unit SET outcome = ?, told = ?, reason = ? WHERE rollout = ? AND unit = ? "
                                 "AND (outcome IS NULL OR (outcome = 'ok' AND ? = 'bad'))",
                                 (outcome, self._clock.now(), _told(reason), self.name, unit, outcome))
            if not changed and tx.one("SELECT 1 FROM buttress_rollout_unit WHERE rollout = ? AND unit = ?", (self.name, unit)) is None:
                raise InvalidInput("unit", unit, "was never admitted to this rollout")
        return changed == 1

    # -- decisions

    def decide(self) -> list[Decision]:
        made = []
        for name in self._names():
            with self._store.transaction() as tx:
                one = self._stratum(tx, name)
                decision = self._judge(tx, one) if one.state == "running" else self._look_back(tx, one) if one.state == "complete" else None
            if decision is not None:
                made.append(decision)
                failpoint("rollout.decided")
        return made

    def _judge(self, tx: Tx, one: _Stratum) -> Decision | None:
        stage, seen = self.plan.stages[one.stage], self._seen(tx, one)
        judgement = self._early(seen) or (self._ask(seen) if self._ripe(stage, seen) else None)
        if judgement is None:
            late = seen.since_s > stage.patience_s
            return self._record(tx, one, seen, "Inconclusive", "pause", f"{seen.told} of {stage.sample_min} reported in {stage.patience_s:g} s") if late else None
        if judgement.phase == "Successful":
            last = one.stage == len(self.plan.stages) - 1
            return self._record(tx, one, seen, "Successful", "complete" if last else "promote", judgement.reason)
        if judgement.phase == "Failed":
            return self._record(tx, one, seen, "Failed", "roll_back", judgement.reason)
        if judgement.phase == "Error":
            errors = one.errors + 1
            tx.execute("UPDATE buttress_rollout_stratum SET errors = ? WHERE rollout = ? AND stratum = ?", (errors, self.name, one.name))
            return self._record(tx, one, seen, "Error", "pause" if errors > self._errors_max else "wait", judgement.reason)
        if one.errors:
            tx.execute("UPDATE buttress_rollout_stratum SET errors = 0 WHERE rollout = ? AND stratum = ?", (self.name, one.name))
        all_told = seen.waiting == 0 and seen.exposed >= stage.quota(one.population)
        if seen.since_s > stage.patience_s or all_told:  # more of the same evidence will not come
            return self._record(tx, one, seen, "Inconclusive", "pause", judgement.reason)
        return None

    def _look_back(self, tx: Tx, one: _Stratum) -> Decision | None:
        """After its last stage a stratum is still watched: what fails later is rolled back as well."""
        seen = self._seen(tx, one)
        judgement = self._early(seen)
        return self._record(tx, one, seen, "Failed", "roll_back", judgement.reason) if judgement else None

    def _early(self, seen: Seen) -> Judgement | None:
        """A failure needs no full sample: the gate's Failed counts at any time, its Successful only when the stage's evidence is in."""
        if seen.bad == 0:
            return None
        judgement = self._ask(seen)
        return judgement if judgement.phase == "Failed" else None

    @staticmethod
    def _ripe(stage: Stage, seen: Seen) -> bool:
        wanted = min(stage.sample_min, seen.population)
        return seen.told >= wanted and seen.since_s >= stage.soak_s and seen.waiting == 0

    def _ask(self, seen: Seen) -> Judgement:
        try:
            judgement = self._gate(seen)
        except Exception as error:
            return Judgement("Error", f"the gate raised {type(error).__name__}")
        if judgement.phase not in ("Successful", "Failed", "Inconclusive", "Error") or (judgement.measure is not None and math.isnan(judgement.measure)):
            return Judgement("Error", f"the gate answered {judgement.phase!r} for {judgement.measure!r}")
        return judgement

    def order(self, action: Order, by: str, *, stratum: str | None = None, reason: str = "") -> list[Decision]:
        check_text("by", by, NAME_MAX_BYTES)
        if action not in ("pause", "resume", "promote", "roll_back"):
            raise InvalidInput("action", action, "must be pause, resume, promote or roll_back")
        made = []
        with self._store.transaction() as tx:
            for one in [self._stratum(tx, stratum)] if stratum is not None else self._strata(tx):
                allowed = {"pause": ("running",), "resume": ("paused",), "promote": ("running", "paused"), "roll_back": ("running", "paused", "complete")}
                if one.state not in allowed[action]:
                    if stratum is not None:
                        raise ButtressError(f"{stratum} is {one.state}: it cannot be ordered to {action}")
                    continue
                last = action == "promote" and one.stage == len(self.plan.stages) - 1
                made.append(self._record(tx, one, self._seen(tx, one), "ordered", "complete" if last else action, reason, by))
        return made

    def decisions(self, after: int = 0, limit: int = 1000) -> list[Decision]:
        """What was decided, oldest first, after that number."""
        with self._store.transaction() as tx:
            rows = tx.all("SELECT number, stratum, stage, phase, action, reason, who, at, seen FROM buttress_rollout_decision WHERE rollout = ? AND number > ? "
                          "ORDER BY number LIMIT ?", (self.name, after, limit))
        return [Decision(number, stratum, stage, phase, action, reason, who, at, json.loads(seen))
                for number, stratum, stage, phase, action, reason, who, at, seen in rows]

    def standing(self) -> list[Standing]:
        with self._store.transaction() as tx:
            return [Standing(one.name, self.plan.stages[one.stage].name, one.state, self.plan.stages[one.stage].quota(one.population), self._seen(tx, one))
                    for one in self._strata(tx)]

    # -- rows

    def _names(self) -> list[str]:
        with self._store.transaction() as tx:
            return [one.name for one in self._strata(tx)]

    def _strata(self, tx: Tx) -> list[_Stratum]:
        return [_Stratum(*row) for row in tx.all(f"SELECT {_ROW} FROM buttress_rollout_stratum WHERE rollout = ? ORDER BY stratum", (self.name,))]

    def _stratum(self, tx: Tx, stratum: str) -> _Stratum:
        """Locked: who admits and who decides take turns, so that no unit slips in above a quota."""
        lock = " FOR UPDATE" if tx.dialect == "postgres" else ""
        row = tx.one(f"SELECT {_ROW} FROM buttress_rollout_stratum WHERE rollout = ? AND stratum = ?{lock}", (self.name, stratum))
        if row is None:
            raise InvalidInput("stratum", stratum, "is none of this rollout's")
        return _Stratum(*row)

    def _seen(self, tx: Tx, one: _Stratum) -> Seen:
        now = self._clock.now()
        told: dict[str, int] = dict(tx.all("SELECT outcome, count(*) FROM buttress_rollout_unit WHERE rollout = ? AND stratum = ? AND outcome IS NOT NULL GROUP BY outcome",
                           (self.name, one.name)))
        row = tx.one("SELECT count(*) FROM buttress_rollout_unit WHERE rollout = ? AND stratum = ? AND outcome IS NULL AND exposed <= ?",
                     (self.name, one.name, now - self.plan.silence_s))
        silent = int(row[0]) if row else 0
        ok, bad = told.get("ok", 0), told.get("bad", 0) + silent
        return Seen(one.name, self.plan.stages[one.stage].name, one.population, one.exposed, ok, bad, silent, one.exposed - ok - bad, now - one.entered)

    def _record(self, tx: Tx, one: _Stratum, seen: Seen, phase: Phase | Literal["ordered"], action: Any, reason: str, by: str = GATE) -> Decision:
        now = self._clock.now()
        if action in ("promote", "resume"):
            tx.execute("UPDATE buttress_rollout_stratum SET stage = ?, entered = ?, state = 'running', errors = 0 WHERE rollout = ? AND stratum = ?",
                       (one.stage + (action == "promote"), now, self.name, one.name))
        elif action != "wait":
            state = {"pause": "paused", "roll_back": "rolled_back", "complete": "complete"}[action]
            tx.execute("UPDATE buttress_rollout_stratum SET state = ? WHERE rollout = ? AND stratum = ?", (state, self.name, one.name))
        # The rollout's own row, locked, numbers the decisions of all its strata.
        lock = " FOR UPDATE" if tx.dialect == "postgres" else ""
        tx.one(f"SELECT name FROM buttress_rollout WHERE name = ?{lock}", (self.name,))
        row = tx.one("SELECT coalesce(max(number), 0) FROM buttress_rollout_decision WHERE rollout = ?", (self.name,))
        assert row is not None
        made = Decision(row[0] + 1, one.name, seen.stage, phase, action, _told(reason), by, now, asdict(seen))
        tx.execute("INSERT INTO buttress_rollout_decision (rollout, number, stratum, stage, phase, action, reason, who, at, seen) "
                   "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                   (self.name, made.number, made.stratum, made.stage, made.phase, made.action, made.reason, made.by, made.at, json.dumps(made.seen)))
        return made


def _told(reason: str) -> str:
    return reason[:REASON_MAX_CHARS].replace("\0", "\ufffd").encode("utf-8", "replace").decode()


def units(population: Iterable[tuple[str, str]]) -> dict[str, int]:
    """How many units each stratum has, from (unit, stratum) pairs."""
    counted: dict[str, int] = {}
    for _, stratum in population:
        counted[stratum] = counted.get(stratum, 0) + 1
    return counted
