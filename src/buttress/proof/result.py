"""The result of a run as JSON, where results live, and what makes one stale.

One object a system, the same on disk (``result.json``), on stdout (``--json``) and committed (``proofs/NAME.json``).
"""

from __future__ import annotations

import ast
import hashlib
import os
import platform
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from buttress import __version__
from buttress.kernel.errors import ButtressError
from buttress.kernel.store.sqlite import SQLITE_VERSION
from buttress.proof.contract import Measured, Proof, Unmeasured
from buttress.proof.run import Options, Outcome
from buttress.proof.state import state_folder
from buttress.proof.verdict import Judged, as_estimate, show

SCHEMA = 1
FIGURES_MAX_BYTES = 64 * 1024
EXIT: Mapping[str, int] = {"pass": 0, "fail": 1, "unknown": 2}


class Unreadable(ButtressError):
    """A stored result that is truncated or does not match the schema."""

    code = "unreadable_result"


def run_folder(system: str) -> Path:
    """A fresh folder for one run."""
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S%f")
    folder = state_folder() / "runs" / system / f"{stamp}-{os.getpid()}"
    folder.mkdir(parents=True)
    return folder


def build(proof: Proof, outcome: Outcome, options: Options, *, command: str, label: str = "",
          began: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The JSON object of DESIGN: what a committed result, the report and the console are drawn from.

    ``began`` is the ``environment`` as it was when the run began: the code may change while it runs.
    """
    figures, thinned = _thin(outcome.figures)
    quick = [c for c in outcome.claims if c.verdict == "deferred"]
    return {
        "schema": SCHEMA, "system": proof.system, "scale": options.scale, "seed": options.seed, "verdict": outcome.verdict,
        "judged": outcome.judged, "as": label, "headline": proof.headline, "hurts": proof.hurts, "labels": list(proof.labels),
        "claims": [_claim(c) for c in outcome.claims],
        "finding": finding(proof, outcome),
        "figures": figures, "figures_thinned": thinned,
        "subjects": {name: _subject(outcome, name) for name in outcome.subjects},
        "controls": [_control(state) for state in outcome.controls],
        "faults": {name: {key: value for key, value in tally.items() if key != "by"} | {"by": tally.get("by", {})}
                   for name, tally in outcome.faults.items()},
        "deferred": [{"name": c.claim.name, "command": f"buttress prove {proof.system} --scale full"} for c in quick],
        "errors": outcome.errors[:100],
        "races": _races(proof, outcome),
        "trials": outcome.trials, "records": outcome.records, "wall_s": round(outcome.wall_s, 3),
        "environment": dict(began or environment(None)) | {"command": command},
    }


def finding(proof: Proof, outcome: Outcome) -> str:
    """Chosen by the verdict, filled with measured values; without such a sentence, said plainly."""
    sentence = proof.findings.get(outcome.verdict, "")
    known = outcome.evidence.get(outcome.judged)
    words: dict[str, str] = {}
    if known is not None:
        for name, measured in known.measures.items():
            words[name] = "an unknown number" if isinstance(measured, Unmeasured) else show(as_estimate(measured).value)
    try:
        return sentence.format(**words) if sentence else _plain(outcome)
    except (KeyError, IndexError):
        return _plain(outcome)


def _plain(outcome: Outcome) -> str:
    counts = {v: sum(1 for c in outcome.claims if c.verdict == v) for v in ("pass", "fail", "unknown")}
    total = sum(counts.values())
    return f"{counts['pass']} of {total} claims pass, {counts['fail']} fail, {counts['unknown']} unknown."


def _claim(judged: Judged) -> dict[str, Any]:
    claim, estimate = judged.claim, numbers(judged.measured)
    return {"name": claim.name, "measure": claim.measure, "value": estimate["value"], "unit": claim.unit, "bar": claim.bar,
            "over": claim.over, "verdict": judged.verdict, "subject": judged.subject, "interval": estimate["interval"],
            "n": estimate["n"], "why": judged.why}


def numbers(measured: Measured | None) -> dict[str, Any]:
    """value, interval and n of a measure; null where there is none."""
    if measured is None or isinstance(measured, Unmeasured):
        return {"value": None, "interval": None, "n": None}
    estimate = as_estimate(measured)
    interval = None if estimate.low is None or estimate.high is None else [_finite(estimate.low), _finite(estimate.high)]
    return {"value": _finite(estimate.value), "interval": interval, "n": estimate.n}


def _finite(value: float) -> float | None:
    return value if value == value and abs(value) != float("inf") else None


def _subject(outcome: Outcome, name: str) -> dict[str, Any]:
    subject, evidence = outcome.subjects[name], outcome.evidence[name]
    units = {c.claim.measure: c.claim.unit for c in outcome.claims}
    judged = outcome.claims if name == outcome.judged else outcome.others.get(name, [])
    return {
        "role": subject.role, "about": subject.about, "absent": evidence.absent, "hosted": evidence.hosted, "parts": list(subject.parts),
        "voids": len(evidence.voids), "unhit": list(evidence.unhit)[:20],
        "verdicts": {c.claim.name: c.verdict for c in judged if c.verdict != "deferred"},
        "measures": {key: {**numbers(value), "unit": units.get(key, "")} for key, value in sorted(evidence.measures.items())},
    }


def _control(state: Any) -> dict[str, Any]:
    control = state.control
    return {"name": control.name, "subject": control.subject, "kind": control.kind, "bar": control.bar, "awake": state.awake,
            "guards": list(control.guards), "why": state.why, **numbers(state.measured)}


def _races(proof: Proof, outcome: Outcome) -> list[dict[str, Any]]:
    rows = []
    for race in proof.races:
        rounds = outcome.laps.get(race.name)
        if not rounds:
            continue
        known = outcome.evidence[outcome.judged].measures
        keys = sorted({key for values in rounds.values() for lap in values for key in lap})
        rows.append({
            "name": race.name, "laps": max(len(values) for values in rounds.values()), "better": dict(race.better),
            "subjects": {name: {key: numbers(outcome.evidence[name].measures.get(key)) for key in keys} for name in rounds},
            "ratios": {other: {key: numbers(known.get(f"{key} over {other}")) for key in keys if f"{key} over {other}" in known}
                       for other in rounds if other != outcome.judged},
        })
    return rows


def unusable(system: str, scale: str, seed: int, error: ButtressError) -> dict[str, Any]:
    """What is said of a subject that could not be judged at all: one line like any other, without claims."""
    return {"schema": SCHEMA, "system": system, "scale": scale, "seed": seed, "verdict": "unknown", "claims": [], "subjects": {}, "controls": [],
            "faults": {}, "figures": [], "deferred": [], "finding": "The subject could not be judged.",
            "error": {"code": error.code, "message": error.message, "fix": error.fix}}


def environment(source: Path | None) -> dict[str, Any]:
    """The machine and the code, without names of people or places."""
    commit, clean = _commit(source)
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 0
    return {
        "version": __version__, "commit": commit, "clean": clean, "digest": digest(source) if source else "",
        "date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"), "python": platform.python_version(), "sqlite": SQLITE_VERSION,
        "system": _system(), "cores": os.cpu_count(), "memory_gib": round(memory / 2**30, 1),
        "load": None if load is None else round(load, 2), "native": "none",
    }


def _system() -> str:
    try:
        release = platform.freedesktop_os_release()
        return f"{release.get('NAME', 'Linux').replace(' GNU/Linux', '')} {release.get('VERSION_ID', '')}, {platform.machine()}".strip()
    except OSError:
        return f"{platform.system()}, {platform.machine()}"


def _commit(source: Path | None) -> tuple[str, bool | None]:
    if source is None:
        return "", None
    try:
        def git(*words: str) -> str:
            done = subprocess.run(["git", "-C", str(source), *words], capture_output=True, text=True, timeout=10, check=True)
            return done.stdout.strip()

        return git("rev-parse", "--short=12", "HEAD"), git("status", "--porcelain") == ""
    except (OSError, subprocess.SubprocessError):
        return "", None


def digest(folder: Path) -> str:
    """Of a system's sources and of the kernel modules that it imports: what makes a committed result stale when it changes."""
    files = {path for path in folder.rglob("*") if path.suffix in (".py", ".lua", ".sql", ".c") and "__pycache__" not in path.parts}
    kernel = Path(__file__).resolve().parent.parent / "kernel"
    queue, seen = sorted(files), set(files)
    while queue:
        for module in _kernel_imports(queue.pop()):
            for path in (kernel / f"{module}.py", kernel / module / "__init__.py"):
                if path.exists() and path not in seen:
                    seen.add(path)
                    queue.append(path)
    total = hashlib.sha256()
    root = kernel.parent
    for path in sorted(seen):
        relative = path.resolve().relative_to(root) if path.resolve().is_relative_to(root) else Path(path.name)
        total.update(f"{relative.as_posix()}\0".encode())
        total.update(path.read_bytes())
    return "sha256:" + total.hexdigest()


def _kernel_imports(path: Path) -> set[str]:
    if path.suffix != ".py":
        return set()
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        for name in names:
            if name.startswith("buttress.kernel."):
                found.add(name.removeprefix("buttress.kernel.").replace(".", "/"))
    return found


def _thin(figures: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], bool]:
    """Figures travel with the result: at most 64 KiB, longest lists of points thinned, and said so."""
    thinned = False
    step = 2
    original = figures
    while len(msgspec.json.encode(figures)) > FIGURES_MAX_BYTES and step < 4096:
        thinned = True
        figures = [{**f, "points": _every(f["points"], step)} for f in original]
        step *= 2
    if len(msgspec.json.encode(figures)) > FIGURES_MAX_BYTES:
        figures = []  # nothing that thinning could help: the history has it
    return figures, thinned


def _every(value: Any, step: int) -> Any:
    if isinstance(value, list):
        return value[::step] if len(value) > 64 else [_every(item, step) for item in value]
    if isinstance(value, dict):
        return {key: _every(item, step) for key, item in value.items()}
    return value


def write(result: Mapping[str, Any], path: Path) -> None:
    """Whole or not at all."""
    text = msgspec.json.format(msgspec.json.encode(result), indent=1) + b"\n"
    temporary = path.with_suffix(".tmp")
    temporary.write_bytes(text)
    temporary.replace(path)


def read(path: Path) -> dict[str, Any]:
    """Raises Unreadable with one of two sentences: truncated, or not of this schema."""
    try:
        value = msgspec.json.decode(path.read_bytes())
    except msgspec.DecodeError as error:
        raise Unreadable(f"{path.name} is truncated or no JSON", fix="run the proof again") from error
    if not isinstance(value, dict) or value.get("schema") != SCHEMA or not isinstance(value.get("claims"), list):
        raise Unreadable(f"{path.name} does not match schema {SCHEMA}", fix="run the proof again with this release")
    return value


def accepted(system: str, kind: str = "") -> dict[str, Any] | None:
    """The committed result of a system (``kind`` ".race" for its race), from the checkout or from the wheel; None: there is none."""
    here = Path(__file__).resolve()
    for folder in (here.parents[1] / "_proofs", here.parents[3] / "proofs"):
        path = folder / f"{system}{kind}.json"
        if path.is_file():
            return read(path)
    return None


def latest_folder(system: str) -> Path | None:
    """The folder of a system's newest readable result, or None."""
    for folder in sorted((state_folder() / "runs" / system).glob("*"), reverse=True):
        if (folder / "result.json").exists():
            try:
                read(folder / "result.json")
            except Unreadable:
                continue
            return folder
    return None


def latest(system: str) -> dict[str, Any] | None:
    """The newest result of a system in the state folder, or None."""
    folder = latest_folder(system)
    return None if folder is None else read(folder / "result.json")

