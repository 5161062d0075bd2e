"""The terminal's view: a live line while it runs, then a table of subjects and measures with verdicts."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from buttress.proof.verdict import show

if TYPE_CHECKING:
    from rich.console import Console

STYLE: Mapping[str, str] = {"pass": "green", "fail": "bold red", "unknown": "yellow", "deferred": "dim", "not run": "dim"}
SIGN: Mapping[str, str] = {"pass": "●", "fail": "✕", "unknown": "◌", "deferred": "◷", "not run": "–"}


class Live:
    """One line that is overwritten, on stderr, and only where somebody looks."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.began = time.monotonic()
        self.on = sys.stderr.isatty()
        self._last = 0.0

    def __call__(self, text: str) -> None:
        now = time.monotonic()
        if self.on and now - self._last > 0.08:
            self._last = now
            line = f"{self.name} {now - self.began:5.1f} s  {text}"[:110]
            sys.stderr.write(f"\r\x1b[K{line}")
            sys.stderr.flush()

    def clear(self) -> None:
        if self.on:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()


def value_text(value: float | None, interval: list[float] | None, unit: str, n: int | None = None) -> str:
    if value is None:
        return "–"
    text = f"{show(value)}{' ' + unit if unit in ('×', '%', 'ms', 's', '/s', 'µs') else ''}"
    if interval:
        return f"{text} ({show(interval[0])} – {show(interval[1])})"
    return f"{text} of {n:,}" if n else text


def print_result(result: Mapping[str, Any], console: Console) -> None:
    from rich.table import Table
    from rich.text import Text

    verdict = result["verdict"]
    console.print(Text.assemble((f"{SIGN[verdict]} {verdict}", STYLE[verdict]), "  ", (result["system"], "bold"), "  ", result["finding"]))
    names = _order(result["subjects"])
    table = Table(box=None, pad_edge=False, show_edge=False, header_style="dim")
    table.add_column(f"about {result['judged']}" + (f" ({result['as']})" if result.get("as") else ""), max_width=46)
    table.add_column("bar", justify="right", no_wrap=True)
    for name in names:
        table.add_column(name, justify="right", overflow="fold")
    table.add_column("verdict", no_wrap=True)
    for claim in result["claims"]:
        if claim["verdict"] == "deferred":
            continue
        cells = []
        for name in names:
            if name != claim["subject"] and claim["subject"] != result["judged"]:
                cells.append(Text(""))
                continue
            if name == claim["subject"]:
                cells.append(Text(value_text(claim["value"], claim["interval"], claim["unit"], claim["n"]), style="bold"))
                continue
            measured = result["subjects"][name]["measures"].get(claim["measure"]) if not claim["over"] else None
            cells.append(_cell(measured, result["subjects"][name]["verdicts"].get(claim["name"], "")))
        mark = Text(f"{SIGN[claim['verdict']]} {claim['verdict']}", style=STYLE[claim["verdict"]])
        table.add_row(claim["name"], claim["bar"], *cells, mark)
    console.print(table)
    for claim in result["claims"]:
        if claim["why"] and claim["verdict"] in ("fail", "unknown"):
            console.print(Text(f"  {SIGN[claim['verdict']]} {claim['name']}: {claim['why']}", style=STYLE[claim["verdict"]]))
    if result["deferred"]:
        later = Text(f"  {SIGN['deferred']} deferred to full: {len(result['deferred'])} claims  {result['deferred'][0]['command']}", style="dim")
        console.print(later)
    armed = sum(f["armed"] for f in result["faults"].values())
    hit = sum(f["hit"] for f in result["faults"].values())
    awake = sum(1 for c in result["controls"] if c["awake"])
    parts = [f"{result['scale']}, seed {result['seed']}", f"{result['trials']} trials", f"faults armed {armed}, hit {hit}",
             f"controls awake {awake} of {len(result['controls'])}", f"{result['wall_s']:.1f} s"]
    console.print(Text("  " + " · ".join(parts), style="dim"))
    for name in names:
        if result["subjects"][name]["absent"]:
            console.print(Text(f"  {name} did not run: {result['subjects'][name]['absent']}", style="dim"))


def _cell(measured: Mapping[str, Any] | None, verdict: str) -> Any:
    from rich.text import Text

    if measured is None or measured["value"] is None:
        return Text("–", style="dim")
    return Text(show(measured["value"]), style="red" if verdict == "fail" else "")


def _order(subjects: Mapping[str, Any]) -> list[str]:
    order = {"baseline": 0, "peer": 1, "buttress": 2, "yours": 3}
    return sorted(subjects, key=lambda name: order[subjects[name]["role"]])
