"""Shape 5, a detector over many seeds: it finds a shift, and cries wolf rarely. Shares have intervals; delays a median."""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from buttress.proof import Claim, Control, Env, Estimate, History, Proof, Scenario, Subject, Trial
from buttress.proof.contract import Measured
from buttress.proof.verdict import count, median, share

SHIFT = 0.8


class Detector(Protocol):
    def alarm(self, reference: list[float], window: list[float]) -> bool: ...


class Naive:
    """A distance above a fixed bar, whatever the number of samples."""

    def __init__(self, env: Env) -> None:
        pass

    def alarm(self, reference: list[float], window: list[float]) -> bool:
        return abs(statistics.fmean(reference) - statistics.fmean(window)) > 0.25


class Good(Naive):
    """The same distance, in standard errors."""

    def alarm(self, reference: list[float], window: list[float]) -> bool:
        error = math.sqrt(spread(reference) / len(reference) + spread(window) / len(window))
        return abs(statistics.fmean(reference) - statistics.fmean(window)) > 3.3 * error


@dataclass(frozen=True)
class Size:
    seeds: int
    days: int = 12
    a_day: int = 10
    reference: int = 150


def spread(values: list[float]) -> float:
    mean = statistics.fmean(values)
    return sum((value - mean) ** 2 for value in values) / (len(values) - 1)


def stream(rng: random.Random, n: int, shift: float = 0.0) -> list[float]:
    return [rng.gauss(shift, 1.0) for _ in range(n)]


def weeks(trial: Trial, a_day: int) -> None:
    """Each seed has a quiet window and a shifted one that grows by the day, in an order that nobody can guess."""
    detector = trial.open()
    for _ in range(trial.size.seeds):
        reference = stream(trial.rng, trial.size.reference)
        for shift in trial.rng.sample([0.0, SHIFT], 2):
            values = stream(trial.rng, a_day * trial.size.days, shift)
            if not shift:
                trial.record("fact", shifted=False, alarm=detector.alarm(reference=reference, window=values) is True)
                continue
            day = next((d for d in range(1, trial.size.days + 1) if detector.alarm(reference=reference, window=values[: d * a_day]) is True), None)
            trial.record("fact", shifted=True, alarm=day is not None, day=day)


def steady(trial: Trial) -> None:
    weeks(trial, trial.size.a_day)


def thin(trial: Trial) -> None:
    """So few values that a fixed bar cries wolf: at the steady size it would not, and the control would sleep."""
    weeks(trial, 2)


def alarms(history: History) -> Mapping[str, Measured]:
    found: dict[str, Measured] = {}
    for scenario, prefix in (("steady", ""), ("thin", "thin ")):
        facts = history.where(kind="fact", scenario=scenario)
        quiet, shifted = list(facts.where(shifted=False)), list(facts.where(shifted=True))
        found[prefix + "false alarms"] = share(sum(f["alarm"] for f in quiet), len(quiet))
        found[prefix + "found"] = share(sum(f["alarm"] for f in shifted), len(shifted))
        found[prefix + "days"] = median([f["day"] for f in shifted if f["day"] is not None])
        found[prefix + "tried"] = count(len(quiet), len(quiet))
    return found


PROOF = Proof(
    system="detector", port=Detector,
    subjects=(Subject("naive", f"{__file__}:naive", "baseline"), Subject("good", f"{__file__}:good", "buttress")),
    scenarios=(Scenario("steady", steady), Scenario("thin", thin)),
    checkers=(alarms,),
    claims=(Claim("false alarms", "false alarms", "<= 0.08", "share", perfect=lambda size: share(0, size.seeds)),
            Claim("false alarms of few values", "thin false alarms", "<= 0.08", "share", perfect=lambda size: share(0, size.seeds)),
            Claim("shifts found", "found", ">= 0.9", "share", perfect=lambda size: share(size.seeds, size.seeds)),
            Claim("days until found", "days", "<= 6", "days", perfect=lambda size: Estimate(1, 1, 1, size.seeds)),
            Claim("false alarms in the long run", "false alarms", "<= 0.006", "share", scale="full", perfect=lambda size: share(0, size.seeds))),
    controls=(Control("a fixed bar cries wolf where values are few", "naive", "thin false alarms", "> 0.08"),),
    sizes={"quick": Size(80), "full": Size(800)},
)


def naive(env: Env) -> Naive:
    return Naive(env)


def good(env: Env) -> Good:
    return Good(env)
