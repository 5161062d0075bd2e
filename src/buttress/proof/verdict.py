"""The verdict rules. Each has a name, and a test under ``tests/proof/shapes`` that turns red without it.

A value is judged against its bar by its interval: wholly on the good side ``pass``, wholly on the bad side ``fail``,
else ``unknown``. What could not be measured is unknown, never pass.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from buttress.kernel.errors import InvalidInput
from buttress.kernel.stats import clopper_pearson, quantile
from buttress.proof.contract import Claim, Control, Estimate, Measured, Unmeasured

Verdict = Literal["pass", "fail", "unknown", "deferred", "not run"]
_WORST: Mapping[str, int] = {"fail": 0, "unknown": 1, "pass": 2}
_BAR = re.compile(r"(==|>=|<=|<|>)\s*(-?\d+(?:\.\d+)?(?:e-?\d+)?)")
_RANGE = re.compile(r"(-?\d+(?:\.\d+)?)\.\.(-?\d+(?:\.\d+)?)")


@dataclass(frozen=True)
class Bar:
    """``op`` is one of == >= <= < > or ``..`` (a closed range from ``at`` to ``to``)."""

    op: str
    at: float
    to: float = math.nan

    @staticmethod
    def parse(text: str) -> Bar:
        text = text.strip()
        if match := _BAR.fullmatch(text):
            return Bar(match[1], float(match[2]))
        if match := _RANGE.fullmatch(text):
            low, high = float(match[1]), float(match[2])
            if low <= high:
                return Bar("..", low, high)
        raise InvalidInput("bar", text, "must be like '== 0', '>= 10', '< 2.5' or '5.8..7.8'")

    def holds(self, value: float) -> bool:
        ops = {"==": value == self.at, ">=": value >= self.at, "<=": value <= self.at, "<": value < self.at,
               ">": value > self.at, "..": self.at <= value <= self.to}
        return ops[self.op]

    def judge(self, low: float, high: float) -> Verdict:
        """The interval rule."""
        if self.holds(low) and self.holds(high):
            return "pass"
        if self.op == "==":
            outside = high < self.at or low > self.at
        elif self.op == "..":
            outside = high < self.at or low > self.to
        else:
            outside = not self.holds(low) and not self.holds(high)
        return "fail" if outside else "unknown"


def judge(measured: Measured | None, bar: str) -> tuple[Verdict, str]:
    """A value against its bar: verdict and, where it is not a pass, why."""
    parsed = Bar.parse(bar)
    if measured is None:
        return "unknown", "it was not measured"
    if isinstance(measured, Unmeasured):
        return "unknown", measured.why
    estimate = as_estimate(measured)
    if estimate.n == 0:
        return "unknown", "nothing was tried"
    low = estimate.value if estimate.low is None else estimate.low
    high = estimate.value if estimate.high is None else estimate.high
    if not all(math.isfinite(number) for number in (low, estimate.value, high)):
        return "unknown", "the value is not a finite number"
    verdict = parsed.judge(low, high)
    if verdict == "unknown":
        return verdict, f"the interval, {show(low)} to {show(high)}, holds the bar: more samples"
    return verdict, "" if verdict == "pass" else f"{show(estimate.value)} against {bar}"


def as_estimate(measured: float | int | Estimate) -> Estimate:
    return measured if isinstance(measured, Estimate) else Estimate(float(measured))


def share(hits: int, n: int) -> Estimate | Unmeasured:
    """A share with its exact interval (Clopper-Pearson)."""
    if n == 0:
        return Unmeasured("nothing was tried")
    interval = clopper_pearson(hits, n)
    return Estimate(interval.value, interval.low, interval.high, n)


def count(hits: int, of: int) -> Estimate | Unmeasured:
    """A count of what was tried. Zero of nothing is no answer."""
    return Estimate(float(hits), n=of) if of else Unmeasured("nothing was tried")


def median(samples: Sequence[float], q: float = 0.5) -> Estimate | Unmeasured:
    """A quantile with its order-statistic interval; a median needs 6 samples."""
    interval = quantile(samples, q)
    if interval is None:
        return Unmeasured(f"{len(samples)} samples give no interval")
    return Estimate(interval.value, interval.low, interval.high, interval.n)


def ratio(ours: Measured | None, theirs: Measured | None) -> Measured:
    """A ratio of two measures, with the widest interval that their intervals allow."""
    for side in (ours, theirs):
        if side is None:
            return Unmeasured("one side of the ratio was not measured")
        if isinstance(side, Unmeasured):
            return side
    a, b = as_estimate(ours), as_estimate(theirs)  # type: ignore[arg-type]
    b_low, b_high = b.low if b.low is not None else b.value, b.high if b.high is not None else b.value
    if b_low <= 0:
        return Unmeasured("the other side of the ratio is zero or below")
    a_low, a_high = a.low if a.low is not None else a.value, a.high if a.high is not None else a.value
    counts = [n for n in (a.n, b.n) if n is not None]
    corners = [x / y for x in (a_low, a_high) for y in (b_low, b_high)]
    return Estimate(a.value / b.value, min(corners), max(corners), min(counts) if counts else None)


@dataclass(frozen=True)
class Judged:
    """One claim about one subject, as the result shows it."""

    claim: Claim
    subject: str
    verdict: Verdict
    why: str = ""
    measured: Measured | None = None


@dataclass
class Evidence:
    """What a run knows of one subject. Written by ``run``, read by the rules; also what a test makes by hand."""

    measures: Mapping[str, Measured] = field(default_factory=dict)
    race_measures: frozenset[str] = frozenset()
    missing: Mapping[str, str] = field(default_factory=dict)  # capability -> why it is not there
    voids: Sequence[str] = ()  # one line a void trial
    unhit: Sequence[str] = ()  # armed cases that did not hit
    absent: str = ""  # why the subject did not run at all
    hosted: str = "in-process"
    armed: Mapping[str, int] = field(default_factory=dict)  # by need: how many cases the faults that show it had


@dataclass(frozen=True)
class ControlState:
    control: Control
    awake: bool
    why: str
    measured: Measured | None = None


def judge_controls(controls: Iterable[Control], evidence: Mapping[str, Evidence], judged: str, scale: str) -> list[ControlState]:
    """Whether each control is awake: its value must be wholly on the good side of its bar."""
    states = []
    for control in controls:
        if control.scale == "full" and scale != "full":
            continue
        name = judged if control.subject == "judged" else control.subject
        known = evidence.get(name)
        measured = known.measures.get(control.measure) if known else None
        if known is None or known.absent:
            why = f"{name} did not run: {known.absent if known else 'it is not among the subjects'}"
            states.append(ControlState(control, False, why))
            continue
        verdict, why = judge(measured, control.bar)
        states.append(ControlState(control, verdict == "pass", why, measured))
    return states


def judge_claims(
    claims: Sequence[Claim], controls: Sequence[ControlState], evidence: Mapping[str, Evidence], judged: str, scale: str,
) -> list[Judged]:
    """All rules, in their order, about one subject."""
    first = [_judge_alone(claim, evidence, claim.about or judged, scale) for claim in claims]
    second = [_apply_controls(result, controls, judged) for result in first]
    correct = [r for r in second if not _is_speed(r.claim) and r.verdict != "deferred"]
    standing = worst([r.verdict for r in correct])
    return [_apply_speed(result, standing, evidence) for result in second]


def _judge_alone(claim: Claim, evidence: Mapping[str, Evidence], judged: str, scale: str) -> Judged:
    if claim.scale == "full" and scale != "full":  # rule: deferred
        return Judged(claim, judged, "deferred", "what quick cannot decide")
    known = evidence.get(judged)
    if known is None or known.absent:  # rule: absent
        return Judged(claim, judged, "unknown", known.absent if known else f"no subject is called {judged}")
    for need in claim.needs:  # rule: needs
        if need in known.missing:
            return Judged(claim, judged, "unknown", f"needs {need}: {known.missing[need]}")
        if known.armed.get(need) == 0:  # rule: armed
            return Judged(claim, judged, "unknown", f"needs {need}: no case of it could be armed")
    measured = known.measures.get(claim.measure)
    if claim.over is not None:
        other = evidence.get(claim.over)
        if other is None or other.absent:
            why = other.absent if other else f"no subject is called {claim.over}"
            return Judged(claim, judged, "unknown", f"{claim.over} did not run: {why}")
        if claim.measure not in known.race_measures:
            measured = ratio(measured, other.measures.get(claim.measure))
        else:
            measured = known.measures.get(f"{claim.measure} over {claim.over}")
    verdict, why = judge(measured, claim.bar)  # rule: interval
    result = Judged(claim, judged, verdict, why, measured)
    if verdict == "pass" and claim.measure not in known.race_measures:
        if known.voids:  # rule: void
            return replace(result, verdict="unknown", why=f"{len(known.voids)} trials were void: {known.voids[0]}")
        if known.unhit:  # rule: hit
            return replace(result, verdict="unknown", why=f"{len(known.unhit)} armed cases did not hit: {known.unhit[0]}")
    if verdict == "unknown" and known.voids:
        return replace(result, why=f"{why}; {len(known.voids)} trials were void: {known.voids[0]}")
    return result


def _apply_controls(result: Judged, controls: Sequence[ControlState], judged: str) -> Judged:
    for state in controls:
        control = state.control
        if state.awake or (control.guards and result.claim.name not in control.guards):
            continue
        about_judged = control.subject in ("judged", judged)
        if control.kind == "negative" and result.verdict == "pass":  # rule: negative control
            return replace(result, verdict="unknown", why=f"the control {control.name!r} is asleep: {state.why}")
        if control.kind == "positive" and about_judged and result.verdict == "pass":  # rule: positive control, judged
            return replace(result, verdict="unknown", why=f"the control {control.name!r} is asleep: {state.why}")
        if control.kind == "positive" and not about_judged and result.verdict == "fail":  # rule: positive control, reference
            return replace(result, verdict="unknown", why=f"the control {control.name!r} is asleep: {state.why}")
    return result


def _is_speed(claim: Claim) -> bool:
    return claim.speed or claim.over is not None


def _apply_speed(result: Judged, standing: Verdict, evidence: Mapping[str, Evidence]) -> Judged:
    judged = result.subject
    if not _is_speed(result.claim) or result.verdict not in ("pass", "fail"):
        return result
    if result.claim.over is not None and evidence[judged].hosted != evidence[result.claim.over].hosted:  # rule: hosted alike
        why = f"{judged} is hosted {evidence[judged].hosted}, {result.claim.over} {evidence[result.claim.over].hosted}"
        return replace(result, verdict="unknown", why=f"speed is compared between subjects hosted alike: {why}")
    if result.verdict == "pass" and standing != "pass":  # rule: correct first
        return replace(result, verdict="unknown", why="speed counts only where the correctness claims pass")
    return result


def worst(verdicts: Iterable[Verdict]) -> Verdict:
    """fail, unknown, pass: the worst one names the run. Deferred and not run do not count; nothing at all is unknown."""
    counted = [v for v in verdicts if v in _WORST]
    return min(counted, key=lambda v: _WORST[v]) if counted else "unknown"


def show(value: float) -> str:
    """A number for people: at most four significant figures, thousands apart."""
    if not math.isfinite(value):
        return str(value)
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}"
    return f"{value:,.4g}" if abs(value) >= 1e-3 else f"{value:.2e}"
