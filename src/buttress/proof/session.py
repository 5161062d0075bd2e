"""What the commands ``prove``, ``race`` and ``report`` do: run, show, write, and answer with an exit code."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from buttress.proof import result as results
from buttress.proof import table
from buttress.proof.contract import Proof, Subject
from buttress.proof.junit import write_junit
from buttress.proof.process import UsageError
from buttress.proof.run import Options, Probe, run
from buttress.proof.state import state_folder

if TYPE_CHECKING:
    from rich.console import Console


CHILD_TIMEOUT_S = 7200.0


@dataclass(frozen=True)
class Job:
    """One system to prove: its Proof, its folder (for the digest) and its maturity."""

    proof: Proof
    folder: Path
    maturity: str


@contextlib.contextmanager
def own_stdout() -> Iterator[IO[str]]:
    """Stdout for us alone: whatever a subject prints in this process goes to stderr."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    before = sys.stdout
    sys.stdout = sys.stderr
    try:
        with os.fdopen(kept, "w", encoding="utf-8", closefd=False) as ours:
            yield ours
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        sys.stdout = before


def console(file: IO[str]) -> Console:
    from rich.console import Console

    width = None if file.isatty() else 150
    return Console(file=file, highlight=False, width=width, soft_wrap=False)


def prove_some(
    jobs: Sequence[Job], *, scale: str, seed: int, subject: Subject | None, claims: tuple[str, ...], peers: tuple[str, ...] | None,
    races: bool, label: str, accept: bool, world_port: int | None, as_json: bool, junit: Path | None, command: str, probe: Probe,
) -> int:
    """Proves the named systems one after another. The worst verdict is the exit code."""
    if accept:
        check_acceptable(scale, jobs[0].folder, subject)
    found = []
    with own_stdout() as out, fixed_ports(world_port):
        for job in jobs:
            live = table.Live(job.proof.system)
            folder = results.run_folder(job.proof.system)
            options = Options(scale=scale, seed=seed, subject=subject, claims=claims, peers=peers, races=races, progress=live, probe=probe)
            began = results.environment(job.folder)
            try:
                outcome = run(job.proof, folder, options)
            except UsageError as error:
                if as_json:
                    out.write(json.dumps(results.unusable(job.proof.system, scale, seed, error), separators=(",", ":"), ensure_ascii=False) + "\n")
                raise
            finally:
                live.clear()
            result = results.build(job.proof, outcome, options, command=command, label=label, began=began)
            result["maturity"] = job.maturity
            found.append(store(result, folder))
            show(result, folder, out, as_json)
            if accept:
                out.write("" if as_json else f"accepted: {accept_result(result, job.folder)}\n")
    if junit is not None:
        write_junit(found, junit)
    summarise(found)
    return max_exit([r["verdict"] for r in found])


@contextlib.contextmanager
def fixed_ports(first: int | None) -> Iterator[None]:
    """For a service that runs already: the simulators' ports, known beforehand."""
    if first is not None:
        os.environ["BUTTRESS_WORLD_PORT"] = str(first)
    try:
        yield
    finally:
        os.environ.pop("BUTTRESS_WORLD_PORT", None)


def store(result: dict[str, Any], folder: Path) -> dict[str, Any]:
    from buttress.proof.report.page import report_page

    results.write(result, folder / "result.json")
    (folder / "report.html").write_text(report_page(result), encoding="utf-8")
    return result


def show(result: Mapping[str, Any], folder: Path | None, out: IO[str], as_json: bool) -> None:
    if as_json:
        out.write(json.dumps(result, separators=(",", ":"), ensure_ascii=False) + "\n")
        out.flush()
        return
    screen = console(out)
    table.print_result(result, screen)
    if folder is not None:
        screen.print(f"  report {folder / 'report.html'}", style="dim", soft_wrap=True)
    out.flush()


def max_exit(verdicts: Sequence[str]) -> int:
    """1 if anything failed, else 2 if anything is unknown, else 0."""
    codes = [results.EXIT[v] for v in verdicts]
    return 1 if 1 in codes else 2 if 2 in codes else 0


def check_acceptable(scale: str, folder: Path, subject: Subject | None) -> None:
    if scale != "full":
        raise UsageError("--accept goes with --scale full")
    if subject is not None:
        raise UsageError("--accept is for the house's own subjects: nothing of yours is committed")
    _checkout(folder)


def _checkout(folder: Path) -> Path:
    root = folder.parents[3]
    if not (root / "pyproject.toml").exists():
        raise UsageError("--accept needs a checkout of buttress")
    dirty = subprocess.run(["git", "-C", str(root), "status", "--porcelain"], capture_output=True, text=True, check=False)
    if dirty.returncode != 0 or dirty.stdout.strip():
        raise UsageError("--accept needs a clean tree", fix="commit first: a result names the code that it came from")
    return root


def accept_result(result: Mapping[str, Any], folder: Path, suffix: str = "") -> str:
    path = folder.parents[3] / "proofs" / f"{result['system']}{suffix}.json"
    path.parent.mkdir(exist_ok=True)
    results.write(result, path)
    return f"proofs/{path.name}"


def summarise(found: Sequence[Mapping[str, Any]]) -> None:
    """In GitHub Actions the table also goes to the step summary."""
    target = os.environ.get("GITHUB_STEP_SUMMARY")
    if not target:
        return
    lines = []
    for r in found:
        lines += [f"### {r['system']}: {r['verdict']}", "", r["finding"], "", "| claim | bar | measured | verdict |", "|---|---|---|---|"]
        lines += [f"| {c['name']} | {c['bar']} {c['unit']} | {table.value_text(c['value'], c['interval'], c['unit'], c['n'])} | {c['verdict']} |"
                  for c in r["claims"]]
        lines.append("")
    with contextlib.suppress(OSError), open(target, "a", encoding="utf-8") as summary:
        summary.write("\n".join(lines) + "\n")


# -- races


def race(job: Job, *, peers: tuple[str, ...] | None, laps: int, scale: str, seed: int, accept: bool, as_json: bool, command: str,
         probe: Probe) -> int:
    """Races only. Exit 0 when every race ran for every subject that is there, 2 when something could not be measured."""
    if not job.proof.races:
        raise UsageError(f"{job.proof.system} has no race")
    if accept:
        _checkout(job.folder)
    with own_stdout() as out:
        live = table.Live(job.proof.system)
        folder = results.run_folder(job.proof.system + ".race")
        options = Options(scale=scale, seed=seed, peers=peers, only_races=True, laps=laps, progress=live, probe=probe)
        began = results.environment(job.folder)
        try:
            outcome = run(job.proof, folder, options)
        finally:
            live.clear()
        result = results.build(job.proof, outcome, options, command=command, began=began)
        last = results.latest(job.proof.system)
        result["correctness"] = {} if last is None else {
            name: _standing(subject["verdicts"]) for name, subject in last["subjects"].items()}
        results.write(result, folder / "result.json")
        if as_json:
            out.write(json.dumps(result, separators=(",", ":"), ensure_ascii=False) + "\n")
        else:
            _print_race(result, console(out))
        if accept:
            out.write("" if as_json else f"accepted: {accept_result(result, job.folder, '.race')}\n")
    broken = any(error.startswith("race ") for error in outcome.errors) or not outcome.laps
    return 2 if broken else 0


def _standing(verdicts: Mapping[str, str]) -> str:
    values = list(verdicts.values())
    return "fail" if "fail" in values else "unknown" if "unknown" in values or not values else "pass"


def _print_race(result: Mapping[str, Any], screen: Console) -> None:
    from rich.table import Table
    from rich.text import Text

    for race in result["races"]:
        rows = Table(box=None, pad_edge=False, title=f"race {race['name']}, {race['laps']} laps", title_justify="left", header_style="dim")
        rows.add_column("subject")
        rows.add_column("correctness")
        keys = list(next(iter(race["subjects"].values())))
        for key in keys:
            rows.add_column(key, justify="right")
        for name, measures in race["subjects"].items():
            standing = result["correctness"].get(name, "not proven here")
            ratios = race["ratios"].get(name, {})
            cells = []
            for key in keys:
                text = table.value_text(measures[key]["value"], measures[key]["interval"], "")
                if key in ratios and ratios[key]["value"] is not None:
                    text += f"\n{result['judged']} is {table.value_text(ratios[key]['value'], ratios[key]['interval'], '×')}"
                cells.append(text)
            rows.add_row(name, Text(standing, style=table.STYLE.get(standing, "dim")), *cells)
        screen.print(rows)
    for name, subject in result["subjects"].items():
        if subject["absent"]:
            screen.print(f"  {name} did not run: {subject['absent']}", style="dim")
    for error in result["errors"]:
        screen.print(f"  {error}", style="yellow")


def report(names: Sequence[str], out: Path | None) -> Path:
    """Joins the newest stored results of the named systems into one page."""
    from buttress.proof.report.page import joined_page

    found = [r for r in (results.latest(name) for name in names) if r is not None]
    path = out or state_folder() / "report.html"
    path.write_text(joined_page(found, [n for n in names if n not in {r["system"] for r in found}]), encoding="utf-8")
    return path


# -- all systems inside a budget


def prove_all(plan: Sequence[tuple[str, float, str]], *, scale: str, seed: int, budget_s: float | None, as_json: bool, junit: Path | None) -> int:
    """Cheapest first, two at a time, each in a process of its own. What does not fit the budget is *not run*, with its command.

    Exit 1 if anything failed; 2 if a claim is unknown for any reason but a capability that this machine lacks; else 0.
    """
    began = time.monotonic()
    queue = sorted(plan, key=lambda item: item[1])
    found: list[dict[str, Any]] = []
    not_run: list[str] = []
    broken: list[str] = []
    lock = threading.Lock()
    with own_stdout() as out:
        live = table.Live("prove")
        running: set[str] = set()

        def one(item: tuple[str, float, str]) -> None:
            name, quick_s, _ = item
            left = None if budget_s is None else budget_s - (time.monotonic() - began)
            if left is not None and left < quick_s:
                with lock:
                    not_run.append(name)
                return
            with lock:
                running.add(name)
                live(" ".join(sorted(running)))
            result = _child(name, scale, seed)
            with lock:
                running.discard(name)
                live.clear()
                if result is None:
                    broken.append(name)
                    out.write(f"! {name}: the harness broke; buttress prove {name}\n")
                else:
                    found.append(result)
                    show(result, results.latest_folder(name), out, as_json)
                out.flush()

        with ThreadPoolExecutor(max_workers=2) as pool:
            list(pool.map(one, queue))
        if not as_json:
            for name in sorted(not_run):
                out.write(f"– not run  {name}  buttress prove {name} --scale {scale}\n")
            out.write(_closing(found, not_run, time.monotonic() - began))
    if junit is not None:
        write_junit(found, junit)
    summarise(found)
    if broken:
        return 70
    if any(r["verdict"] == "fail" for r in found):
        return 1
    return 2 if any(_unexcused(r) for r in found) else 0


def _unexcused(result: Mapping[str, Any]) -> bool:
    """A claim that is unknown for another reason than a capability which this machine lacks."""
    def excused(why: str) -> bool:
        return (why.startswith("needs ") or "did not run: needs " in why) and "could be armed" not in why

    return any(c["verdict"] == "unknown" and not excused(c["why"]) for c in result["claims"])


def _closing(found: Sequence[Mapping[str, Any]], not_run: Sequence[str], wall_s: float) -> str:
    counts = {v: sum(1 for r in found if r["verdict"] == v) for v in ("pass", "fail", "unknown")}
    text = ", ".join(f"{n} {v}" for v, n in counts.items() if n) or "no system was run"
    return f"{text}{f', {len(not_run)} not run' if not_run else ''} in {wall_s:.1f} s\n"


def _child(name: str, scale: str, seed: int) -> dict[str, Any] | None:
    try:
        done = subprocess.run([sys.executable, "-m", "buttress", "prove", name, "--scale", scale, "--seed", str(seed), "--json"],
                              capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL, timeout=CHILD_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        return None
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if not lines:
        sys.stderr.write(done.stderr[-2000:])
        return None
    result: dict[str, Any] = json.loads(lines[-1])
    return result


__all__ = ["Job", "prove_all", "prove_some", "race", "report"]
