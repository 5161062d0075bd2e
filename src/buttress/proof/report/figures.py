"""The idioms: each draws one kind of picture from the points that a result carries, on a page or as a file of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from buttress.proof.report.svg import X, interval, line, mark, pixels, rect, svg, text
from buttress.proof.verdict import Bar, show

LANE, FAULT, BASE = 66, 24, 44


def bar_graphic(claim: Mapping[str, Any], subjects: Mapping[str, Any], judged_role: str) -> str:
    """A claim's value against its bar, with the marks of the others in the same row. The wrong side is shaded grey."""
    bar = Bar.parse(claim["bar"])
    others = [] if claim["over"] else [
        (s["role"], s["measures"][claim["measure"]]["value"], name) for name, s in subjects.items()
        if name != claim["subject"] and s["measures"].get(claim["measure"], {}).get("value") is not None]
    values = [bar.at, *(v for _, v, _ in others), *(claim["interval"] or []), *([claim["value"]] if claim["value"] is not None else [])]
    if bar.op == "..":
        values.append(bar.to)
    high, low = max(values), min(values)
    wide = low >= 0 and high > 30 * max(low, 1) and not claim["over"]
    if claim["over"]:
        x = X(min(low, 1) / 1.6, max(high, 1) * 1.6, kind="log") if low > 0 else X(0, high * 1.1 or 1)
    elif wide:
        x = X(0, high * 1.15, kind="sym")
    else:
        x = X(min(0.0, low), high * 1.15 if high > 0 else 1)
    b = x(bar.at)
    parts = []
    if bar.op == "..":
        parts += [rect(0, b, 5, 24, "bad"), rect(x(bar.to), 100, 5, 24, "bad")]
    else:
        left, right = (b, 100.0) if bar.op in ("<", "<=", "==") else (0.0, b)
        parts.append(rect(left, right, 5, 24, "bad"))
    parts.append(line(0, 17, 100, 17, "hair"))
    for role, value, _ in others:
        parts.append(mark(x(value), 17, role))
    parts.append(line(b, 2, b, 32, "bar"))
    if bar.op == "..":
        parts.append(line(x(bar.to), 2, x(bar.to), 32, "bar"))
    said = [f"bar {claim['bar']}"]
    if claim["value"] is None:
        parts.append(line(4, 17, b if b > 5 else 96, 17, "dash"))
        said.insert(0, "not measured")
    else:
        if claim["interval"]:
            parts.append(interval(x(claim["interval"][0]), x(claim["interval"][1]), 17, judged_role))
        parts.append(mark(x(claim["value"]), 17, judged_role))
        said.insert(0, f"{claim['subject']} {show(claim['value'])}")
    said += [f"{name} {show(value)}" for _, value, name in others]
    return svg(34, *parts, label="; ".join(said))


def dots(claim: Mapping[str, Any], subjects: Mapping[str, Any]) -> str:
    """One measure across all subjects, the headline's picture: a log scale with a place for 0."""
    values = [(name, s["role"], s["measures"].get(claim["measure"], {}).get("value")) for name, s in subjects.items()]
    known = [(n, r, v) for n, r, v in values if v is not None]
    if len(known) < 2:
        return ""
    high = max(v for _, _, v in known)
    x = X(0, max(high, 1), 3, 94, "sym" if high > 30 else "lin")
    parts = [line(0, 30, 100, 30, "ax")]
    rows: dict[int, float] = {}
    for name, role, value in sorted(known, key=lambda k: k[2]):
        at = x(value)
        words = f"{name} {show(value)}"
        row = next(r for r in range(len(known)) if rows.get(r, -1e9) < at - len(words) * 0.9)
        rows[row] = at + len(words) * 0.9
        y = 50 + 14 * row
        parts.append(mark(at, 30, role))
        anchor = "end" if at > 70 else "start" if at < 20 else "middle"
        parts.append(text(at, y, words, f"t-{role}", anchor))
    height = 58 + 14 * max(rows)
    return svg(height, *parts, label="; ".join(f"{n} {show(v)}" for n, _, v in known))


# -- the strip chart: faults above, each subject's wrong effects below


def scale(axis: Mapping[str, Any], value: float) -> float:
    """Piecewise linear: an axis may leave out a stretch (hour 76 to day 10), and shows that it does."""
    for s in axis["segments"]:
        if s["from"] <= value <= s["to"]:
            return float(s["x0"] + (value - s["from"]) / (s["to"] - s["from"]) * (s["x1"] - s["x0"]))
    return 100.0 if value > axis["segments"][-1]["to"] else 0.0


def _grid(axis: Mapping[str, Any], height: float) -> list[str]:
    lines = [line(scale(axis, v), 0, scale(axis, v), height, "hair") for v, *_ in axis["ticks"]]
    return lines + [line(scale(axis, v), 0, scale(axis, v), height, "ttl") for v in axis.get("rules", [])]


def strip_axis(axis: Mapping[str, Any]) -> str:
    words = [text(scale(axis, v), 12, label, "" if main else "wide", "start" if i == 0 else "middle")
             for i, (v, label, main) in enumerate(axis["ticks"])]
    return svg(20, *words)


def strip_fault(axis: Mapping[str, Any], fault: Mapping[str, Any]) -> str:
    ticks = [line(scale(axis, at), 6, scale(axis, at), 18, "l-ink") for at in fault["at"]]
    if not fault["armed"]:
        ticks = [line(1, 12, 80, 12, "dash")]
    said = f"{fault['name']}: armed {fault['armed']}, hit {fault['hit']}" if fault["armed"] else f"{fault['name']}: not armed"
    return svg(FAULT, *_grid(axis, FAULT), *ticks, label=said)


def strip_lane(axis: Mapping[str, Any], lane: Mapping[str, Any], role: str, tallest: float) -> str:
    parts = _grid(axis, LANE)
    parts += [line(s["x0"], BASE, s["x1"], BASE, f"l-{role} w2") for s in axis["segments"]]
    unit = X(0, max(tallest, 1), 0, 1, "sym" if tallest > 30 else "lin")
    for at, width, n in lane["up"]:
        height = 4 + 38 * unit(n)
        parts.append(rect(scale(axis, at), scale(axis, at + width), BASE - 1 - height, height, "f-fail", f"{n} doubled"))
    for at, width, n in lane["down"]:
        height = 3 + 16 * unit(n)
        parts.append(rect(scale(axis, at), scale(axis, at + width), BASE + 2, height, "o-fail", f"{n} lost"))
    if not lane["up"] and not lane["down"]:
        parts.append(text(2.1, 34, "nothing above, nothing below", f"t-{role} halo"))
    for note in lane.get("notes", []):
        parts.append(text(scale(axis, note["at"]), note.get("y", 13), note["words"], "t-fail halo wide", note.get("anchor", "start"), note.get("dx", 4)))
    return svg(LANE, *parts, label=f"{lane['subject']}: {lane['doubled']:,} doubled, {lane['lost']:,} lost")


def strip(figure: Mapping[str, Any], subjects: Mapping[str, Any]) -> str:
    points = figure["points"]
    axis = points["axis"]
    tallest = _tallest(points["lanes"])
    cells = [f'<span class="who one quiet axisname">{escape(axis["name"])}</span><div class="strip">{strip_axis(axis)}</div>'
             '<span class="sum quiet"><small>armed / hit</small></span>']
    for fault in points["faults"]:
        state = f"{fault['armed']} / {fault['hit']}" if fault["armed"] else "not armed"
        cells.append(f'<span class="who one">{escape(fault["name"])} <small>{escape(fault.get("about", ""))}</small></span>'
                     f'<div class="strip">{strip_fault(axis, fault)}</div><span class="sum">{state}</span>')
    for lane in points["lanes"]:
        role = subjects[lane["subject"]]["role"]
        bad = "bad0" if lane["doubled"] else ""
        cells.append(f'<span class="who {role}"><b>{escape(lane["subject"])}</b> <small>{escape(lane.get("about", ""))}</small></span>'
                     f'<div class="strip">{strip_lane(axis, lane, role, tallest)}</div>'
                     f'<span class="sum"><b class="{bad}">{lane["doubled"]:,}</b> doubled <small>{lane["lost"]:,} lost</small></span>')
    rows = [[lane["subject"], f"{lane['doubled']:,}", f"{lane['lost']:,}"] for lane in points["lanes"]]
    return f'<div class="lanes">{"".join(cells)}</div>' + caption(figure) + twin(figure["title"], ["subject", "doubled", "lost"], rows)


def _tallest(lanes: Sequence[Mapping[str, Any]]) -> float:
    return max((n for lane in lanes for _, _, n in (*lane["up"], *lane["down"])), default=1)


def matrix(figure: Mapping[str, Any], subjects: Mapping[str, Any]) -> str:
    """Who failed, and where: situations down, subjects across."""
    points = figure["points"]
    names = [name for name in subjects if any(name in row["cells"] for row in points["rows"])]
    head = "".join(f'<th role="columnheader" scope="col" class="r who {subjects[n]["role"]}"><b>{escape(n)}</b></th>' for n in names)
    body = []
    for row in points["rows"]:
        cells = []
        for name in names:
            value = row["cells"].get(name)
            if value is None:
                cells.append('<td role="cell" class="r z">–<span class="vh">not measured</span></td>')
            else:
                cells.append(f'<td role="cell" class="r {"bad1" if value else "z"}">{value:,}</td>')
        cls = ' class="tot"' if row.get("total") else ""
        body.append(f'<tr role="row"{cls}><th role="rowheader" scope="row">{escape(row["name"])}</th>{"".join(cells)}</tr>')
    return (f'<table class="stack" role="table" style="--cols:{len(names)}"><caption class="vh">{escape(figure["title"])}</caption>'
            f'<thead role="rowgroup"><tr role="row"><th role="columnheader" scope="col">{escape(points["label"])}</th>{head}</tr></thead>'
            f'<tbody role="rowgroup">{"".join(body)}</tbody></table>')


def bars(figure: Mapping[str, Any], subjects: Mapping[str, Any]) -> str:
    """Plain bars from 0, one a subject, with its value at the end."""
    points = figure["points"]["bars"]
    high = max((row["value"] for row in points), default=1) or 1
    x = X(0, high, 0, 82)
    cells = []
    for row in points:
        role = subjects.get(row["subject"], {}).get("role", "buttress")
        picture = svg(22, rect(0, x(row["value"]), 5, 12, f"f-{role}"), text(x(row["value"]), 15, show(row["value"]), f"t-{role}", dx=6),
                      label=f"{row['subject']}: {show(row['value'])}")
        cells.append(f'<span class="who one {role}"><b>{escape(row["subject"])}</b></span><div class="strip">{picture}</div><span class="sum"></span>')
    return f'<div class="lanes">{"".join(cells)}</div>' + caption(figure)


def caption(figure: Mapping[str, Any]) -> str:
    return f"<figcaption>{escape(figure['caption'])}</figcaption>" if figure["caption"] else ""


def twin(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]], summary: str = "The same as a table") -> str:
    """The same data as a table, for those who would rather read."""
    head = "".join(f'<th scope="col">{escape(h)}</th>' for h in heads)
    body = "".join(f'<tr><th scope="row">{escape(r[0])}</th>{"".join(f"<td>{escape(c)}</td>" for c in r[1:])}</tr>' for r in rows)
    return (f'<details class="twin"><summary>{escape(summary)}</summary><div class="scroll" role="group" aria-label="{escape(title)}" tabindex="0">'
            f"<table><caption>{escape(title)}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div></details>")


DRAW = {"strip": strip, "matrix": matrix, "bars": bars}


def standalone(figure: Mapping[str, Any], subjects: Mapping[str, Any], title: str) -> str:
    """A strip chart as a file for a README: the same primitives inside a viewBox, with its own style, light and dark."""
    points = figure["points"]
    axis, tallest = points["axis"], _tallest(points["lanes"])
    left, right, width = 178, 118, 960
    inner = width - left - right
    y, parts = 44.0, [f'<text x="16" y="26" class="title">{escape(title)}</text>']

    def place(picture: str, height: float) -> None:
        parts.append(picture.replace('<svg class="c" width="100%"', f'<svg class="c" x="{left}" y="{pixels(y)}" width="{inner}"', 1))

    place(strip_axis(axis), 20)
    parts.append(f'<text x="{left - 12}" y="{pixels(y + 12)}" text-anchor="end" class="q">{escape(axis["name"])}</text>')
    y += 22
    for fault in points["faults"]:
        place(strip_fault(axis, fault), FAULT)
        state = f"{fault['armed']} / {fault['hit']}" if fault["armed"] else "not armed"
        parts.append(f'<text x="{left - 12}" y="{pixels(y + 16)}" text-anchor="end" class="t-ink">{escape(fault["name"])}</text>')
        parts.append(f'<text x="{width - 16}" y="{pixels(y + 16)}" text-anchor="end" class="q">{state}</text>')
        y += FAULT
    for lane in points["lanes"]:
        role = subjects[lane["subject"]]["role"]
        place(strip_lane(axis, lane, role, tallest), LANE)
        parts.append(f'<text x="{left - 12}" y="{pixels(y + BASE - 8)}" text-anchor="end" class="t-{role}">{escape(lane["subject"])}</text>')
        parts.append(f'<text x="{left - 12}" y="{pixels(y + BASE + 8)}" text-anchor="end" class="q">{escape(lane.get("about", ""))}</text>')
        parts.append(f'<text x="{width - 16}" y="{pixels(y + BASE - 8)}" text-anchor="end" class="{"t-fail" if lane["doubled"] else "t-ink"}">{lane["doubled"]:,} doubled</text>')
        parts.append(f'<text x="{width - 16}" y="{pixels(y + BASE + 8)}" text-anchor="end" class="{"t-fail" if lane["lost"] else "q"}">{lane["lost"]:,} lost</text>')
        y += LANE
    height = y + 12
    said = "; ".join(f"{lane['subject']}: {lane['doubled']:,} doubled, {lane['lost']:,} lost" for lane in points["lanes"])
    css = Path(__file__).with_name("standalone.css").read_text(encoding="utf-8")
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {pixels(height)}" width="{width}" height="{pixels(height)}" role="img" '
            f'aria-label="{escape(said)}"><style>{css}</style><rect width="{width}" height="{pixels(height)}" class="paper"/>{"".join(parts)}</svg>\n')
