"""``report.html``: one page, self-contained, pictures as SVG, readable without JavaScript. Drawn from the result alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from html import escape
from pathlib import Path
from typing import Any

from buttress.proof.report.figures import DRAW, bar_graphic, dots, twin
from buttress.proof.report.svg import MARKS, mark, svg
from buttress.proof.verdict import show

SHAPES = {
    "pass": '<circle cx="6" cy="6" r="5"/>', "fail": '<path d="M1.5 1.5l9 9m0-9l-9 9"/>',
    "unknown": '<circle cx="6" cy="6" r="4.7" stroke-dasharray="3 1.9"/>', "deferred": '<circle cx="6" cy="6" r="4.7"/><path d="M6 3v3h2.6"/>',
    "not run": '<path d="M1 6h10"/>',
}
ARCH = ('<svg class="mark" viewBox="0 0 32 32" aria-hidden="true"><path class="glass" d="M3 29V5h6v24z"/>'
        '<path d="M3 29V4m6 0v25M25 29V11m5 18V11l-2.5-6L25 11h5M1 29.5h30"/><path class="fly" d="M9 6.5 25 13M9 10.5C16 10.5 23 15 25 22.5"/></svg>')
NUMBER = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
BAR_SIGNS = {"==": "=", ">=": "≥", "<=": "≤"}


def verdict_mark(word: str, *, big: bool = False, says: str = "") -> str:
    """Shape, colour and always the word."""
    cls = "v " + word.split()[0] + (" big" if big else "")
    return f'<span class="{cls}"><svg viewBox="0 0 12 12" aria-hidden="true">{SHAPES[word]}</svg>{escape(says or word)}</span>'


@lru_cache(maxsize=1)
def style() -> str:
    return Path(__file__).with_name("page.css").read_text(encoding="utf-8")


def report_page(result: Mapping[str, Any]) -> str:
    """One proof's report."""
    title = f"{result['system']}: {result['verdict']}"
    head = (f'<span>Proof report</span><span class="quiet">{escape(result["system"])} <span class="nw">· {escape(result.get("maturity", "experimental"))}</span></span>'
            f'<span class="quiet nw">{escape(result["environment"]["date"])}</span>')
    return _page(title, head, f'<main id="main" class="g rep">{_body(result)}</main>{_foot(result)}')


def joined_page(results: Sequence[Mapping[str, Any]], missing: Sequence[str]) -> str:
    """Several proofs on one page; what has no stored result is named with its command."""
    counts = {v: sum(1 for r in results if r["verdict"] == v) for v in ("pass", "fail", "unknown")}
    said = ", ".join(f"{n} {v}" for v, n in counts.items() if n) or "No proof has been run here"
    rows = "".join(
        f'<tr><th scope="row"><a href="#{escape(r["system"])}">{escape(r["system"])}</a></th><td>{verdict_mark(r["verdict"])}</td>'
        f'<td>{escape(r["finding"])}</td><td class="nw quiet">{escape(r["scale"])}, {escape(r["environment"]["date"])}</td></tr>' for r in results)
    rows += "".join(f'<tr><th scope="row">{escape(name)}</th><td>{verdict_mark("not run")}</td><td><code>buttress prove {escape(name)}</code></td><td></td></tr>'
                    for name in missing)
    body = "".join(f'<article id="{escape(r["system"])}"><main class="g rep">{_body(r)}</main>{_foot(r)}</article>'.replace("<main ", "<div ").replace("</main>", "</div>")
                   for r in results)
    first = f'<main id="main"><section class="sec"><h1>{escape(said)}</h1><div class="scroll"><table><tbody>{rows}</tbody></table></div></section></main>'
    return _page("Buttress: proofs", "<span>Proof reports</span>", first + body)


def _page(title: str, head: str, body: str) -> str:
    return ('<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
            f"<title>{escape(title)} · Buttress</title><style>{style()}</style></head><body>"
            f'<div class="page"><a class="skip" href="#main">Skip to content</a><header class="mast"><span class="brand">{ARCH}Buttress</span>{head}</header>'
            f"{body}</div></body></html>\n")


def _body(result: Mapping[str, Any]) -> str:
    subjects = dict(sorted(result["subjects"].items(), key=lambda item: ("baseline", "peer", "buttress", "yours").index(item[1]["role"])))
    figures = {figure["kind"]: figure for figure in reversed(result["figures"])}
    parts = [_lead(result, subjects)]
    if "strip" in figures:
        parts.append(_figure(figures["strip"], subjects, result, "tl", "Faults against effects"))
    left = [_claims(result, subjects), _unknown(result)]
    right = []
    if "matrix" in figures:
        right.append(_figure(figures["matrix"], subjects, result, "mx", "Who failed, and where"))
    right += [_figure(f, subjects, result, "fg", f["title"]) for f in result["figures"] if f["kind"] == "bars"]
    right += [_races(result, subjects), _controls(result), _deferred(result)]
    parts.append(f'<div class="col cleft">{"".join(left)}</div><div class="col cright">{"".join(right)}</div>')
    return "".join(parts)


def _lead(result: Mapping[str, Any], subjects: Mapping[str, Any]) -> str:
    counts = {v: sum(1 for c in result["claims"] if c["verdict"] == v) for v in ("pass", "fail", "unknown", "deferred")}
    decided = counts["pass"] + counts["fail"] + counts["unknown"]
    tally = f"{counts['pass']} of {decided} claims pass, {counts['unknown']} unknown, {counts['fail']} fail. The worst one names the run."
    armed = sum(f["armed"] for f in result["faults"].values())
    hit = sum(f["hit"] for f in result["faults"].values())
    tried = [s for s in subjects.values() if not s["absent"]]
    drawn = (f"{NUMBER[len(tried)].capitalize() if len(tried) < 13 else len(tried)} subject{'s' if len(tried) != 1 else ''} took the same workload in "
             f"{result['trials']:,} trials; of {armed:,} faults armed, {hit:,} hit.")
    labels = f'<p class="data quiet">{escape(". ".join(result["labels"]))}.</p>' if result["labels"] else ""
    head = next((c for c in result["claims"] if c["value"] is not None and not c["over"]), None)
    picture = dots(head, subjects) if head else ""
    headfig = (f'<figure class="headfig"><span class="lab">{escape(head["name"])}{" · " + escape(head["unit"]) if head["unit"] else ""}</span>{picture}</figure>'
               if head and picture else "")
    label = f" Judged: {escape(result['as'])}." if result.get("as") else ""
    return (f'<section class="lead"><h1>{escape(result["finding"])}</h1><p class="verdictline">{verdict_mark(result["verdict"], big=True)}'
            f'<span class="data quiet">{tally}{label}</span></p><div class="prose"><p>{escape(result["hurts"])}</p><p>{drawn}</p>{labels}</div>{headfig}</section>')


def _figure(figure: Mapping[str, Any], subjects: Mapping[str, Any], result: Mapping[str, Any], cls: str, label: str) -> str:
    heading = figure.get("findings", {}).get(result["verdict"]) or figure["title"]
    thinned = '<p class="data quiet">The points were thinned to fit the stored result.</p>' if result["figures_thinned"] else ""
    return (f'<section class="{cls} sec"><h2><span class="lab">{escape(label)}</span>{escape(heading)}</h2>'
            f'<figure>{DRAW[figure["kind"]](figure, subjects)}{thinned}</figure></section>')


def _claims(result: Mapping[str, Any], subjects: Mapping[str, Any]) -> str:
    rows = []
    judged = result["judged"]
    role = subjects[judged]["role"]
    for claim in result["claims"]:
        if claim["verdict"] == "deferred":
            continue
        unit = f" {claim['unit']}" if claim["unit"] in ("ms", "s", "%", "×", "/s", "µs", "MiB") else ""
        value = "–" if claim["value"] is None else show(claim["value"]) + unit
        small = "counted" if claim["value"] is not None and not claim["interval"] else \
            f"{show(claim['interval'][0])} – {show(claim['interval'][1])}" if claim["interval"] else ""
        of = f"of {claim['n']:,}" if claim["n"] and not claim["interval"] else f"{claim['n']:,} samples" if claim["n"] else ""
        bar = claim["bar"]
        for plain, sign in BAR_SIGNS.items():
            bar = bar.replace(plain, sign)
        rows.append(
            f'<tr role="row"><th scope="row" role="rowheader">{escape(claim["name"])}<small>{escape(of)}</small></th>'
            f'<td role="cell" class="gfx">{bar_graphic(claim, subjects, role)}</td><td role="cell" class="r nw barcol">{escape(bar)}{escape(unit)}</td>'
            f'<td role="cell" class="r nw val"><b>{escape(value)}</b><small>{escape(small)}</small></td><td role="cell" class="ver">{verdict_mark(claim["verdict"])}</td></tr>')
    words = {v: sum(1 for c in result["claims"] if c["verdict"] == v) for v in ("pass", "fail", "unknown")}
    said = [f"{NUMBER[n] if n < 13 else n} {what}" for n, what in ((words["pass"], "hold" if words["pass"] != 1 else "holds"), (words["fail"], "failed"),
                                                                  (words["unknown"], "could not be told")) if n]
    heading = (", ".join(said) or "none could be judged").capitalize()
    roles = [r for r in MARKS if r in {s["role"] for s in subjects.values()}]
    key = "".join(f'<span>{svg(12, mark(50, 6, r), width="14", style="display:inline-block;vertical-align:-1px")} {r}</span>' for r in roles)
    return (f'<section class="cl sec"><h2><span class="lab">Claims, about {escape(judged)}</span>{heading}</h2><table class="claims" role="table">'
            '<thead role="rowgroup"><tr role="row"><th role="columnheader" scope="col">claim</th><th role="columnheader" scope="col">against its bar</th>'
            '<th role="columnheader" scope="col" class="r">bar</th><th role="columnheader" scope="col" class="r">measured</th>'
            f'<th role="columnheader" scope="col">verdict</th></tr></thead><tbody role="rowgroup">{"".join(rows)}</tbody></table>'
            f'<p class="data quiet after"><span class="key">{key}</span> Shaded: the wrong side of the bar. What is counted has no interval; all else carries 95 %.</p></section>')


def _unknown(result: Mapping[str, Any]) -> str:
    items = [(c["name"], c["why"], f"buttress prove {result['system']}" if c["verdict"] == "unknown" else "")
             for c in result["claims"] if c["verdict"] in ("unknown", "fail")]
    items += [(f"{name} did not run", s["absent"], "buttress doctor") for name, s in result["subjects"].items() if s["absent"]]
    voids = [(f"{s['voids']} void trials of {name}", "; ".join(e for e in result["errors"] if e.startswith(name))[:300], "") for name, s in result["subjects"].items() if s["voids"]]
    if not items and not voids:
        return ""
    rows = "".join(f'<div><dt>{escape(name)}</dt><dd>{escape(why)}{f" <span class=q>Would settle it: <code>{escape(command)}</code></span>" if command else ""}</dd></div>'
                   for name, why, command in items + voids)
    failed = any(c["verdict"] == "fail" for c in result["claims"])
    heading = "What did not hold, and what could not be told" if failed else "What this run cannot vouch for"
    return f'<section class="un sec"><h2><span class="lab">Failed or unknown, and why</span>{heading}</h2><dl class="why">{rows}</dl></section>'


def _controls(result: Mapping[str, Any]) -> str:
    controls = result["controls"]
    if not controls:
        return ""
    awake = sum(1 for c in controls if c["awake"])
    rows = "".join(
        f'<tr><th scope="row">{escape(c["name"])}</th><td class="r nw">{escape(c["bar"].replace("==", "="))}</td>'
        f'<td class="r nw">{"–" if c["value"] is None else show(c["value"])}</td>'
        f'<td class="nw">{verdict_mark("pass" if c["awake"] else "unknown", says="awake" if c["awake"] else "asleep")}</td></tr>' for c in controls)
    heading = "All are awake" if awake == len(controls) else f"{awake} of {len(controls)} are awake"
    return (f'<section class="ct sec"><h2><span class="lab">Controls</span>{heading}</h2><table><thead><tr><th scope="col">control</th><th scope="col" class="r">must be</th>'
            f'<th scope="col" class="r">was</th><th scope="col">state</th></tr></thead><tbody>{rows}</tbody></table></section>')


def _races(result: Mapping[str, Any], subjects: Mapping[str, Any]) -> str:
    out = []
    for race in result["races"]:
        rows = []
        keys = list(race["better"]) or [k for k in next(iter(race["subjects"].values())) if "." in k]
        for name, measures in race["subjects"].items():
            failed = "fail" in subjects[name]["verdicts"].values()
            cells = ""
            for key in keys:
                m = measures.get(key, {})
                if failed and name != result["judged"]:
                    cells += '<td class="r quiet">does not count</td>'
                    continue
                low_high = f"<small>{show(m['interval'][0])} – {show(m['interval'][1])}</small>" if m.get("interval") else ""
                cells += f'<td class="r nw">{"–" if m.get("value") is None else show(m["value"])} {low_high}</td>'
            rows.append(f'<tr><th scope="row" class="who {subjects[name]["role"]}"><b>{f"<s>{escape(name)}</s>" if failed else escape(name)}</b></th>{cells}</tr>')
        head = "".join(f'<th scope="col" class="r">{escape(key)}</th>' for key in keys)
        out.append(f'<section class="sec"><h2><span class="lab">Race {escape(race["name"])}</span>{race["laps"]} laps, interleaved</h2><div class="scroll"><table><thead><tr>'
                   f'<th scope="col">subject</th>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div></section>')
    return "".join(out)


def _deferred(result: Mapping[str, Any]) -> str:
    if not result["deferred"]:
        return ""
    names = "; ".join(escape(d["name"]) for d in result["deferred"])
    return (f'<section class="df sec"><h2><span class="lab">Deferred to full</span>What quick cannot decide</h2><dl class="why"><div><dt>{verdict_mark("deferred")}</dt>'
            f'<dd>{names}. <span class="q"><code>{escape(result["deferred"][0]["command"])}</code></span></dd></div></dl></section>')


def _foot(result: Mapping[str, Any]) -> str:
    e = result["environment"]
    clean = "" if e["clean"] is None else ", clean" if e["clean"] else ", with changes"
    rows = [("command", f"<code>{escape(e['command'])}</code>"), ("scale, wall", f"{result['scale']}, seed {result['seed']}, {result['wall_s']:.1f} s"),
            ("commit", f"<code>{escape(e['commit'] or 'none')}</code>{clean}"), ("machine", f"{e['cores']} cores, {e['memory_gib']:g} GiB, load {e['load']}"),
            ("system", f"{escape(e['system'])}, Python {escape(e['python'])}, SQLite {escape(e['sqlite'])}"), ("native", escape(e["native"])),
            ("evidence", f"result.json, history.jsonl.gz ({result['records']:,} records)")]
    faults = [[name, str(f["armed"]), str(f["hit"]), "; ".join(f"{s}: {why}" for s, why in f.get("not armed", {}).items())] for name, f in result["faults"].items()]
    listed = [[case, str(hits)] for f in result["faults"].values() for case, hits in f.get("cases", {}).items()]
    tables = (twin("Faults, armed and hit", ["fault", "armed", "hit", "not armed for"], faults, "Faults, armed and hit") if faults else "") + \
             (twin("Each fault case, and how many subjects it hit", ["case", "hits"], listed, f"Each of {len(listed)} fault cases") if listed else "")
    pairs = "".join(f"<div><dt>{key}</dt><dd>{value}</dd></div>" for key, value in rows)
    return f'<footer class="foot"><dl class="kv">{pairs}</dl>{tables}</footer>'
