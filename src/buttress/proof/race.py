"""Races: laps of one subject after another, interleaved A B C, C B A; medians with an order-statistic interval.

Ratios are taken lap by lap between the neighbours of one round, so that what the machine does to both cancels.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from buttress.proof.contract import Case, Measured, Proof, Race, Scenario, Subject
from buttress.proof.verdict import Evidence, median

if TYPE_CHECKING:
    from buttress.proof.run import _Runner

Laps = dict[str, dict[str, list[dict[str, float]]]]  # race -> subject -> one mapping a round


def run_races(proof: Proof, taking_part: Sequence[Race], subjects: Sequence[Subject], runner: _Runner, laps: int) -> Laps:
    """All races, each subject opened once. A subject that breaks leaves the race, and says why."""
    result: Laps = {}
    for race in taking_part:
        chosen = [s for s in subjects if _enters(race, s) and not runner.evidence[s.name].absent]
        result[race.name] = _one(proof, race, chosen, runner, laps)
    return result


def _enters(race: Race, subject: Subject) -> bool:
    if subject.role == "yours":
        return not race.factories or bool(subject.start) or str(subject.factory).startswith("http")
    if race.factories and subject.name not in race.factories:
        return False
    return not race.subjects or subject.name in race.subjects


def _one(proof: Proof, race: Race, subjects: Sequence[Subject], runner: _Runner, laps: int) -> dict[str, list[dict[str, float]]]:
    foreign = any(str(s.factory).startswith("cmd:") or (s.role == "yours" and not callable(s.factory)) for s in subjects)
    processes = foreign or bool(race.factories)
    scenario = Scenario(f"race {race.name}", lambda _: None, virtual=False, processes=processes)
    of_race = replace(proof, port=race.port) if race.port is not None else proof
    runner_of_race = replace(runner, proof=of_race) if of_race is not proof else runner
    rounds: dict[str, list[dict[str, float]]] = {s.name: [] for s in subjects}
    with contextlib.ExitStack() as stack:
        running = []
        for subject in subjects:
            hosted = replace(subject, factory=race.factories[subject.name]) if subject.name in race.factories else subject
            try:
                trial = runner_of_race.make(scenario, hosted, Case("race"))
                runner.trials = max(runner.trials, trial.number)
                stack.enter_context(runner_of_race.opened(trial, Case("race")))
                trial.open()
                for _ in range(race.warm):
                    race.lap(trial, trial.raw_port())
                running.append((subject, trial))
                known = runner.evidence[subject.name]
                if known.hosted != "url":
                    known.hosted = "http" if race.factories else "line" if processes and known.hosted == "in-process" else known.hosted
            except (Exception, SystemExit) as error:
                _out(runner, race, subject, error)
        for number in range(laps):
            for subject, trial in list(running) if number % 2 == 0 else list(reversed(running)):
                runner.options.progress(f"race {race.name} · lap {number + 1} of {laps} · {subject.name}")
                try:
                    with trial.meter() as read:
                        measures = dict(race.lap(trial, trial.raw_port()))
                except (Exception, SystemExit) as error:
                    _out(runner, race, subject, error)
                    running.remove((subject, trial))
                    rounds[subject.name] = []
                    continue
                measures.setdefault(f"{race.name}.wall_s", read().wall_s)
                measures.setdefault(f"{race.name}.cpu_s", read().cpu_s)
                trial.record("lap", race=race.name, round=number, measures=measures)
                rounds[subject.name].append(measures)
    return {name: values for name, values in rounds.items() if values}


def _out(runner: _Runner, race: Race, subject: Subject, error: BaseException) -> None:
    runner.errors.append(f"race {race.name} · {subject.name}: {type(error).__name__}: {error}")


def measure(laps: Laps, evidence: Mapping[str, Evidence], judged: str) -> None:
    """Medians of each subject, and the judged subject's ratios to every other, into the evidence."""
    for rounds in laps.values():
        for name, values in rounds.items():
            known = evidence[name]
            found: dict[str, Measured] = {
                key: median([lap[key] for lap in values if key in lap]) for key in dict.fromkeys(key for lap in values for key in lap)}
            for other, theirs in rounds.items():
                if other != name:
                    found.update(ratios(values, theirs, other))
            known.measures = {**known.measures, **found}
            known.race_measures = known.race_measures | set(found)


def ratios(ours: Sequence[Mapping[str, float]], theirs: Sequence[Mapping[str, float]], other: str) -> dict[str, Measured]:
    """``<measure> over <other>`` for each measure that both have, lap by lap."""
    return {
        f"{key} over {other}": median([a[key] / b[key] for a, b in zip(ours, theirs, strict=False) if key in a and b.get(key)])
        for key in dict.fromkeys(key for lap in ours for key in lap)
        if any(key in lap for lap in theirs)
    }
