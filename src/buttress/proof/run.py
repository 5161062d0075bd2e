"""Runs a proof: clean trials, fault cases, checkers, races, controls, claims; writes result and history."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from buttress.kernel.errors import ButtressError
from buttress.proof import race as races
from buttress.proof import verdict
from buttress.proof.contract import Case, Claim, Measured, Proof, Scenario, Subject, Unmeasured
from buttress.proof.faults.capabilities import Capability, capability
from buttress.proof.history import History, HistoryWriter
from buttress.proof.parts import fetched
from buttress.proof.process import FactoryFailed, UsageError
from buttress.proof.trial import Trial, Warm

Progress = Callable[[str], None]
Probe = Callable[[str], Capability]


@dataclass(frozen=True)
class Options:
    """How to run. ``subject`` is what is judged instead of ours; ``claims`` judges only those named (empty: all)."""

    scale: str = "quick"
    seed: int = 7
    subject: Subject | None = None
    claims: tuple[str, ...] = ()
    races: bool = True
    only_races: bool = False
    laps: int | None = None
    peers: tuple[str, ...] | None = None
    progress: Progress = lambda _: None
    probe: Probe = capability


@dataclass
class Outcome:
    """Everything a run found, before it becomes the result."""

    judged: str
    subjects: dict[str, Subject]
    evidence: dict[str, verdict.Evidence]
    claims: list[verdict.Judged]
    others: dict[str, list[verdict.Judged]]
    controls: list[verdict.ControlState]
    faults: dict[str, dict[str, Any]]
    errors: list[str]
    figures: list[dict[str, Any]]
    trials: int
    records: int
    wall_s: float
    laps: dict[str, Any] = field(default_factory=dict)

    @property
    def verdict(self) -> verdict.Verdict:
        return verdict.worst([claim.verdict for claim in self.claims])


def run(proof: Proof, folder: Path, options: Options) -> Outcome:
    """One run into ``folder`` (created). Raises UsageError when the subject given cannot be judged at all."""
    began = time.monotonic()
    _check_names(proof, options)
    folder.mkdir(parents=True, exist_ok=True)
    size = proof.sizes[options.scale]
    subjects = _subjects(proof, options)
    judged = options.subject.name if options.subject else _ours(proof)
    writer = HistoryWriter(folder / "history.jsonl.gz")
    warm = Warm(folder / "fork-server.log")
    runner = _Runner(proof, options, size, subjects, folder, writer, warm, memory=_memory_folder())
    try:
        with machine(exclusive=False):
            if proof.inputs is not None:
                options.progress("inputs")
                inputs = folder / "inputs"
                inputs.mkdir(exist_ok=True)
                runner.inputs = proof.inputs(size, options.seed, inputs)
            for subject in subjects:
                runner.evidence[subject.name] = runner.begin(subject)
            if options.subject is not None and not options.subject.start:
                runner.hello(options.subject)
            if not options.only_races:
                for scenario in proof.scenarios_at(size):
                    for subject in subjects:
                        runner.scenario(scenario, subject)
        laps: dict[str, Any] = {}
        if options.races or options.only_races:
            taking_part = [r for r in proof.races if r.scale == "quick" or options.scale == "full"]
            if taking_part:
                with machine(exclusive=True, waiting=lambda: options.progress("waiting for the machine")):
                    laps = races.run_races(proof, taking_part, subjects, runner, options.laps or _laps(size))
    finally:
        warm.close()
        writer.close()
        if runner.memory is not None:
            shutil.rmtree(runner.memory, ignore_errors=True)
    histories = runner.check(writer.path)
    races.measure(laps, runner.evidence, judged)
    claims = _judged_claims(proof, options)

    def about(name: str, chosen: Sequence[Claim]) -> list[verdict.Judged]:
        states = verdict.judge_controls(proof.controls, runner.evidence, name, options.scale)
        return [j for j in verdict.judge_claims(chosen, states, runner.evidence, name, options.scale)
                if not options.claims or j.claim.name in options.claims]

    figures = [] if options.only_races else _figures(proof, histories, runner.errors)
    return Outcome(
        judged=judged, subjects={s.name: s for s in subjects}, evidence=runner.evidence,
        claims=about(judged, claims),
        others={s.name: about(s.name, [c for c in claims if c.over is None and not c.about]) for s in subjects if s.name != judged},
        controls=verdict.judge_controls(proof.controls, runner.evidence, judged, options.scale), faults=runner.faults, errors=runner.errors, figures=figures, trials=runner.trials,
        records=writer.records, wall_s=time.monotonic() - began, laps=laps,
    )


@dataclass
class _Runner:
    proof: Proof
    options: Options
    size: Any
    subjects: list[Subject]
    folder: Path
    writer: HistoryWriter
    warm: Warm
    inputs: Mapping[str, str] = field(default_factory=dict)
    evidence: dict[str, verdict.Evidence] = field(default_factory=dict)
    faults: dict[str, dict[str, Any]] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    voids: set[int] = field(default_factory=set)
    trials: int = 0
    memory: Path | None = None  # where trials in virtual time live: a kill -9 leaves the page cache, so a disk adds nothing but waiting
    _probed: dict[str, Capability] = field(default_factory=dict)

    def there(self, name: str) -> Capability:
        if name not in self._probed:
            self._probed[name] = self.options.probe(name)
        return self._probed[name]

    def begin(self, subject: Subject) -> verdict.Evidence:
        """What is known of a subject before it ran: what it lacks, how it is hosted, whether it is there at all."""
        alone = subject.role == "yours" and hosted(subject) == "in-process" and not callable(subject.factory)  # a stranger is never let into this process
        evidence = verdict.Evidence(measures={}, hosted="line" if alone else hosted(subject))
        absent = [self.there(need) for need in subject.needs if not self.there(need).there]
        if absent:
            evidence.absent = f"needs {absent[0].name}: {absent[0].reason}" + (f"; {absent[0].provide}" if absent[0].provide else "")
        elif subject.parts and not fetched(subject.name, subject.parts):
            evidence.absent = f"needs its own parts: buttress doctor --fetch '{subject.name}'"
        missing: dict[str, str] = {}
        for name, why in _lacks(subject).items():
            missing[name] = why
        for need in {n for claim in self.proof.claims for n in claim.needs} - set(missing) - set(HOSTING):
            found = self.there(need)
            if not found.there:
                missing[need] = found.reason + (f"; {found.provide}" if found.provide else "")
        evidence.missing = missing
        evidence.voids, evidence.unhit, evidence.armed = [], [], {}
        return evidence

    def hello(self, subject: Subject) -> None:
        """Starts a stranger once, before anybody's trials: what it lacks is said at once."""
        if self.evidence[subject.name].absent or callable(subject.factory):
            return
        trial = self.make(Scenario("hello", lambda _: None, processes=True), subject, Case("hello"))
        self.voids.add(trial.number)
        with contextlib.suppress(FactoryFailed), self.opened(trial, Case("hello")):
            trial.open()
        trial.discard()

    def scenario(self, scenario: Scenario, subject: Subject) -> None:
        evidence = self.evidence[subject.name]
        if (scenario.roles and subject.role not in scenario.roles) or (scenario.hosting and hosted(subject) not in scenario.hosting):
            return
        if evidence.absent or (scenario.virtual and "virtual" in evidence.missing):
            return
        hits = self.trial(scenario, subject, Case("clean"))
        if hits is None:
            return
        if any(getattr(f, "traced", False) and self.can(f, evidence) for f in scenario.faults):
            traced = self.trial(scenario, subject, Case("clean, traced"), trace="count")
            hits = {**hits, **{k: v for k, v in (traced or {}).items() if k in ("@sync", "@write")}}
        for fault in scenario.faults:
            tally = self.faults.setdefault(fault.name, {"armed": 0, "hit": 0})
            for need in fault.needs:
                evidence.armed.setdefault(need, 0)  # type: ignore[attr-defined]
            if not self.can(fault, evidence):
                tally.setdefault("not armed", {})[subject.name] = self.why_not(fault, evidence)
                continue
            cases = list(fault.cases(hits))
            for need in fault.needs:
                evidence.armed[need] = evidence.armed.get(need, 0) + len(cases)  # type: ignore[index]
            for case in cases:
                self.fault_case(scenario, subject, case, tally, evidence)

    def fault_case(self, scenario: Scenario, subject: Subject, case: Case, tally: dict[str, Any], evidence: verdict.Evidence) -> None:
        tally["armed"] += 1
        traced = any(name in ("@sync", "@write") for name in case.failpoints)
        before = self.trials
        if self.trial(scenario, subject, case, trace="inject" if traced else "") is None and self.trials == before:
            return
        if self.last_hit:
            tally["hit"] += 1
        else:
            evidence.unhit.append(f"{scenario.name}: {case.label}")  # type: ignore[attr-defined]
        tally.setdefault("by", {}).setdefault(subject.name, [0, 0])
        tally["by"][subject.name][0] += 1
        tally["by"][subject.name][1] += int(self.last_hit)
        tally.setdefault("cases", {})[case.label] = tally.get("cases", {}).get(case.label, 0) + int(self.last_hit)

    last_hit: bool = False
    announced: bool = False
    started: set[str] = field(default_factory=set)

    def can(self, fault: Any, evidence: verdict.Evidence) -> bool:
        return all(need not in evidence.missing and (need in HOSTING or self.there(need).there) for need in fault.needs)

    def why_not(self, fault: Any, evidence: verdict.Evidence) -> str:
        for need in fault.needs:
            if need in evidence.missing:
                return f"{need}: {evidence.missing[need]}"
            if need not in HOSTING and not self.there(need).there:
                return f"{need}: {self.there(need).reason}"
        return ""

    def trial(self, scenario: Scenario, subject: Subject, case: Case, trace: str = "") -> dict[str, int] | None:
        """One trial; its hits, or None when it was void. A trial that raised is void: out of the checkers' sight."""
        evidence = self.evidence[subject.name]
        if evidence.absent:
            return None
        self.options.progress(f"{scenario.name} · {subject.name} · {case.label}")
        trial = self.make(scenario, subject, case, trace)
        self.last_hit = False
        try:
            with self.opened(trial, case):
                scenario.drive(trial)
        except UsageError:
            raise
        except (Exception, SystemExit) as error:
            if isinstance(error, FactoryFailed) and subject.name not in self.started:  # it never ran: that is no void trial
                evidence.absent = error.message
                self.voids.add(trial.number)
                self.errors.append(f"{subject.name}: {error.message}")
                return None
            line = f"{scenario.name} · {case.label}: {type(error).__name__}: {error}"
            evidence.voids.append(line)  # type: ignore[attr-defined]
            self.voids.add(trial.number)
            self.errors.append(f"{subject.name} · {line}")
            self.writer.write({"trial": trial.number, "kind": "end", "void": line})
            trial.keep(self.folder / f"trial-{trial.number}")
            self.last_hit = trial.hit
            return None
        self.last_hit = trial.hit
        self.started.add(subject.name)
        for name, number in trial.made.items():
            tally = self.faults.setdefault(name, {"armed": 0, "hit": 0})
            tally["armed"] += number
            tally["hit"] += number
            by = tally.setdefault("by", {}).setdefault(subject.name, [0, 0])
            by[0], by[1] = by[0] + number, by[1] + number
        trial.discard()
        return trial.hits

    def make(self, scenario: Scenario, subject: Subject, case: Case, trace: str = "", in_process: bool | None = None) -> Trial:
        self.trials += 1
        if in_process is None:
            foreign = subject.role == "yours" or str(subject.factory).startswith("cmd:")
            in_process = not scenario.processes and (not foreign or callable(subject.factory))
        if not in_process and callable(subject.factory):
            raise UsageError(f"{subject.name}: a callable cannot be hosted in a process of its own", fix="name it as module:attribute")
        base = self.memory if self.memory is not None and scenario.virtual else self.folder
        return Trial(self.proof, subject, scenario, case, number=self.trials, size=self.size, seed=self.options.seed,
                     folder=base / f"trial-{self.trials}", writer=self.writer, warm=self.warm, inputs=self.inputs,
                     in_process=in_process, trace=trace)

    @contextlib.contextmanager
    def opened(self, trial: Trial, case: Case) -> Iterator[None]:
        """The world up, the fault around it, and everything closed in the right order."""
        with contextlib.ExitStack() as stack:
            if self.proof.world is not None:
                trial.world = dict(stack.enter_context(self.proof.world(trial)))
                self.announce(trial.world)
            if case.during is not None:
                stack.enter_context(case.during(trial))
            stack.callback(trial.finish)
            yield

    def announce(self, world: Mapping[str, str]) -> None:
        """With fixed ports a service that runs already must be told where the simulators are; once, on stderr."""
        if os.environ.get("BUTTRESS_WORLD_PORT") and not self.announced:
            self.announced = True
            for name, value in world.items():
                sys.stderr.write(f"world: {name} = {value}\n")
            sys.stderr.flush()

    def check(self, path: Path) -> dict[str, History]:
        """Runs every checker over each subject's history, void trials left out."""
        histories: dict[str, History] = {}
        everything = History(path).without(frozenset(self.voids))
        for subject in self.subjects:
            evidence = self.evidence[subject.name]
            histories[subject.name] = history = everything.where(subject=subject.name)
            if evidence.absent or self.options.only_races:
                continue
            measures: dict[str, Measured] = {}
            for checker in self.proof.checkers:
                self.options.progress(f"checking · {subject.name}")
                try:
                    measures.update(checker(history))
                except (Exception, SystemExit) as error:  # rule: a checker that throws is unknown
                    line = f"the checker {checker.__name__} threw {type(error).__name__}: {error}"
                    self.errors.append(f"{subject.name}: {line}")
                    for name in [c.measure for c in self.proof.claims] + [c.measure for c in self.proof.controls]:
                        measures.setdefault(name, Unmeasured(line))
            evidence.measures = measures
        return histories


def _memory_folder() -> Path | None:
    """A folder in memory, where the machine has one with room to spare."""
    shm = Path("/dev/shm")
    for left in shm.glob("buttress-*-*"):  # of a run that was killed
        owner = left.name.split("-")[1]
        if owner.isdigit() and not Path(f"/proc/{owner}").exists():
            shutil.rmtree(left, ignore_errors=True)
    try:
        room = os.statvfs(shm)
        if room.f_bavail * room.f_frsize < 512 << 20:
            return None
        return Path(tempfile.mkdtemp(prefix=f"buttress-{os.getpid()}-", dir=shm))
    except OSError:
        return None


def _laps(size: Any) -> int:
    """A size may say how many laps its races take; 15 give a median an interval that is worth having."""
    laps: int = getattr(size, "laps", 15)
    return laps


HOSTING = ("virtual", "failpoints")  # what a way of hosting can show or not; nothing to probe on the machine


def hosted(subject: Subject) -> str:
    if subject.start:
        return "service"
    if isinstance(subject.factory, str) and subject.factory.startswith(("http://", "https://")):
        return "url"
    if isinstance(subject.factory, str) and subject.factory.startswith("cmd:"):
        return "line"
    return "in-process"


def _lacks(subject: Subject) -> dict[str, str]:
    """What a way of hosting cannot show."""
    how = hosted(subject)
    if how == "url":
        why = "a service that runs already cannot be killed, paused or given another time"
        return {"virtual": why, "crash": why, "pause": why, "strace": why, "failpoints": why}
    if how == "service":
        return {"virtual": "a service keeps the machine's time", "pause": "a service has no failpoints",
                "strace": "a service is not traced", "failpoints": "a service has no failpoints of ours"}
    if how == "line":
        return {"failpoints": "a foreign process has no failpoints of ours", "pause": "a foreign process has no failpoints of ours"}
    return {}


def _subjects(proof: Proof, options: Options) -> list[Subject]:
    subjects = [s for s in proof.subjects if s.scale == "quick" or options.scale == "full"]
    if options.peers is not None:
        subjects = [s for s in subjects if s.role != "peer" or s.name in options.peers]
    if options.subject is not None:
        subjects.append(options.subject)
    order = {"baseline": 0, "peer": 1, "buttress": 2, "yours": 3}
    return sorted(subjects, key=lambda s: order[s.role])


def _ours(proof: Proof) -> str:
    for subject in proof.subjects:
        if subject.role == "buttress":
            return subject.name
    raise ButtressError(f"the proof of {proof.system} has no subject of role buttress")


def _judged_claims(proof: Proof, options: Options) -> Sequence[Claim]:
    claims: Iterable[Claim] = [c for c in proof.claims if not (c.about and options.subject is not None)]
    return list(claims)


def _check_names(proof: Proof, options: Options) -> None:
    known = [claim.name for claim in proof.claims]
    for name in options.claims:
        if name not in known:
            raise UsageError(f"no claim is called {name!r}", fix=f"claims: {', '.join(known)}")
    peers = [s.name for s in proof.subjects if s.role == "peer"]
    for name in options.peers or ():
        if name not in peers:
            raise UsageError(f"no peer is called {name!r}", fix=f"peers: {', '.join(peers) or 'none'}")
    if options.scale not in proof.sizes:
        raise UsageError(f"no scale is called {options.scale!r}", fix=f"scales: {', '.join(proof.sizes)}")


def _figures(proof: Proof, histories: Mapping[str, History], errors: list[str]) -> list[dict[str, Any]]:
    figures = []
    for figure in proof.figures:
        try:
            points = dict(figure.points(histories))
        except Exception as error:
            errors.append(f"figure {figure.name}: {type(error).__name__}: {error}")
            continue
        figures.append({"name": figure.name, "kind": figure.kind, "title": figure.title, "caption": figure.caption, "points": points,
                        "findings": dict(figure.findings)})
    return figures


# -- one machine for all runs


@contextlib.contextmanager
def machine(*, exclusive: bool, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Races hold the machine alone, all else shares it. A turnstile in front, so that sharers cannot starve the exclusive one."""
    turnstile, lock = (_lock_file(name) for name in ("turnstile", "machine"))
    try:
        if exclusive:
            _flock(turnstile, fcntl.LOCK_EX, waiting)
            _flock(lock, fcntl.LOCK_EX, waiting)
        else:
            _flock(turnstile, fcntl.LOCK_SH, waiting)
            _flock(lock, fcntl.LOCK_SH, waiting)
            fcntl.flock(turnstile, fcntl.LOCK_UN)
        yield
    finally:
        os.close(lock)
        os.close(turnstile)


def _lock_file(name: str) -> int:
    path = os.path.join(tempfile.gettempdir(), f"buttress-{name}.lock")
    try:
        return os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return os.open(path, os.O_RDONLY | os.O_CREAT, 0o644)


def _flock(fd: int, kind: int, waiting: Callable[[], None]) -> None:
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        waiting()
        fcntl.flock(fd, kind)
