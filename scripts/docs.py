"""Writes what the documents hold of other sources: numbers, pictures, the finder, the reference pages.

    python scripts/docs.py            regenerates them
    python scripts/docs.py --check    exit 1 and the names of the files that differ

Numbers and pictures come from ``proofs/*.json``, the finder and the list of systems from the index, the command line from
click, the rest from docstrings. The same sources give the same bytes, on any machine.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT / "src") not in sys.path:
    sys.path.insert(0, str(ROOT / "src"))  # the checkout beside this script, whatever else is installed

import click  # noqa: E402

from buttress import cli as command_line  # noqa: E402
from buttress.index import WINGS, System, systems  # noqa: E402
from buttress.proof import result as results  # noqa: E402
from buttress.proof.report.figures import standalone  # noqa: E402
from buttress.proof.table import SIGN  # noqa: E402
from buttress.proof.verdict import Bar, show  # noqa: E402

MADE = "<!-- made by scripts/docs.py: change its sources, then `make docs` -->"
ROLES = ("baseline", "peer", "buttress", "yours")


def main(argv: Sequence[str]) -> int:
    """Exit 0: all is as it should be, or was written. 1: something differs (``--check``), or has no place."""
    if set(argv) - {"--check"}:
        print(__doc__, file=sys.stderr)
        return 64
    wrong = check() if "--check" in argv else write()
    for line in wrong:
        print(line)
    return 1 if wrong else 0


def check(root: Path = ROOT) -> list[str]:
    """The files that differ from what their sources say, each with what to do."""
    wanted, homeless = outputs(root)
    wrong = [f"{path.relative_to(root)} differs from its sources: make docs" for path, text in wanted.items() if _read(path) != text]
    return homeless + wrong + [f"{path.relative_to(root)} has no source any more: make docs" for path in _left_over(root, wanted)]


def write(root: Path = ROOT) -> list[str]:
    """Writes what differs, removes pictures that have no source any more, and returns what has no place."""
    wanted, homeless = outputs(root)
    for path, text in wanted.items():
        if _read(path) != text:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            print(f"wrote {path.relative_to(root)}")
    for path in _left_over(root, wanted):
        path.unlink()
        print(f"removed {path.relative_to(root)}")
    return homeless


def _read(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.is_file() else None


def outputs(root: Path = ROOT) -> tuple[dict[Path, str], list[str]]:
    """Every file that is made, or holds a block that is, with all of its text; and the blocks that have no place."""
    found = systems()
    made: dict[Path, str] = {}
    homeless: list[str] = []

    def place(page: Path, name: str, text: str) -> None:
        begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
        before, there, rest = (_read(page) or "").partition(begin)
        _, closed, after = rest.partition(end)
        if there and closed:
            made[page] = f"{before}{begin}\n{text}{end}{after}"
        else:
            homeless.append(f"{page.relative_to(root)} has no place for its {name}: put {begin} and {end} where they belong")

    for system in found:
        place(system.folder / "README.md", "numbers", numbers(system, root))
        picture = strip(system, root)
        if picture:
            made[root / "docs" / "pictures" / f"{system.name}.svg"] = picture
    for page in (root / "README.md", root / "docs" / "index.md"):
        place(page, "finder", finder(found, page, root))
    reference = root / "docs" / "reference"
    made[reference / "cli.md"] = cli_page(found)
    made[reference / "systems.md"] = systems_page(found, root)
    made[reference / "kernel.md"] = kernel_page(root)
    made[reference / "proof.md"] = proof_page(root)
    return made, homeless


def _left_over(root: Path, wanted: Mapping[Path, str]) -> list[Path]:
    """Pictures of systems whose committed result is gone. Pictures drawn by hand are named after no system."""
    names = {system.name for system in systems()}
    return [path for path in sorted((root / "docs" / "pictures").glob("*.svg")) if path.stem in names and path not in wanted]


# -- numbers


@dataclass(frozen=True)
class Committed:
    """A committed result. ``sentence`` says what is wrong with it, if anything is; only a stale one is still shown."""

    result: dict[str, Any] | None
    sentence: str


def committed(system: System, root: Path = ROOT, suffix: str = "") -> Committed:
    """``proofs/NAME.json`` or ``proofs/NAME.race.json``: fresh, absent, truncated, of another schema, or stale."""
    place = f"proofs/{system.name}{suffix}.json"
    path = root / place
    command = f"`buttress race {system.name} --accept`" if suffix else f"`buttress prove {system.name} --scale full --accept`"
    if not path.is_file():
        return Committed(None, f"No {'race' if suffix else 'run at full size'} is committed yet; {command} would write one.")
    try:
        result = results.read(path)
        _shape(result)
    except results.Unreadable as error:
        return Committed(None, f"The committed result cannot be read: {error.message}. {command} writes it anew.")
    except (KeyError, TypeError, ValueError) as error:
        return Committed(None, f"The committed result cannot be read: {path.name} does not match schema {results.SCHEMA} "
                               f"({type(error).__name__}: {error}). {command} writes it anew.")
    if result["environment"]["digest"] != results.digest(system.folder):
        return Committed(result, f"These numbers are stale: the sources have changed since they were measured. {command} measures these sources.")
    return Committed(result, "")


def _shape(result: Mapping[str, Any]) -> None:
    """Raises KeyError or TypeError where something that a page shows is not there."""
    list(_claim_rows(result)), _others(result), _provenance(result, "")
    for race in result["races"]:
        _race(race, result, result)


def numbers(system: System, root: Path = ROOT) -> str:
    """The block of a system's README: claims, the others' values, races, and where all of it was measured."""
    proof, race = committed(system, root), committed(system, root, ".race")
    parts = [proof.sentence]
    if proof.result is not None:
        parts += [*_proof_parts(proof.result, f"buttress prove {system.name} --scale full")]
    raced = race.result or proof.result
    if race.result is not None or _has_races(system):
        parts.append(race.sentence if race.result is not None or not (proof.result and proof.result["races"]) else "")
    if raced is not None and raced["races"]:
        parts += [_race(one, raced, proof.result) for one in raced["races"]]
        if race.result is not None:
            parts.append(_provenance(race.result, f"buttress race {system.name}", race=True))
    return "\n" + "\n\n".join(part for part in parts if part) + "\n\n"


def _has_races(system: System) -> bool:
    return bool(command_line.load_proof(system).races)


def _proof_parts(result: Mapping[str, Any], command: str) -> Iterator[str]:
    tally = {word: sum(1 for c in result["claims"] if c["verdict"] == word) for word in ("pass", "fail", "unknown")}
    decided = sum(tally.values())
    yield (f"**{_verdict(result['verdict'])}.** {result['finding']} {tally['pass']} of {decided} claims pass, {tally['unknown']} unknown, "
           f"{tally['fail']} fail; the worst one names the run.")
    yield _table(("claim", "bar", "measured", "verdict"), "lrrl", _claim_rows(result))
    why = [f"{_name(c)}: {c['why']}" for c in result["claims"] if c["why"] and c["verdict"] in ("fail", "unknown")]
    why += [f"{name} did not run: {s['absent']}" for name, s in result["subjects"].items() if s["absent"]]
    why += [f"{s['voids']} trials of {name} were void" for name, s in result["subjects"].items() if s["voids"]]
    yield "\n".join(f"- {_sentence(line)}" for line in why)
    yield _others(result)
    yield _provenance(result, command)


def _claim_rows(result: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    for claim in result["claims"]:
        about = f", about {claim['subject']}" if claim["subject"] != result["judged"] else ""
        yield (_name(claim) + about, _bar(claim["bar"], claim["unit"]), _value(claim, claim["unit"]), _verdict(claim["verdict"]))


def _name(claim: Mapping[str, Any]) -> str:
    return str(claim["name"]) + (f", over {claim['over']}" if claim["over"] else "")


def _others(result: Mapping[str, Any]) -> str:
    """What the other subjects measured at the same claims; where a claim of theirs failed, the verdict stands beside."""
    names = [name for name in _ordered(result["subjects"]) if name != result["judged"]]
    rows = []
    for claim in result["claims"]:
        cells = []
        for name in names:
            subject = result["subjects"][name]
            measured = subject["measures"].get(claim["measure"], {"value": None, "interval": None, "n": None})
            verdict = subject["verdicts"].get(claim["name"], "")
            cells.append(_value(measured, claim["unit"]) + (f", {_verdict(verdict)}" if measured["value"] is not None and verdict else ""))
        if not claim["over"] and claim["subject"] == result["judged"] and set(cells) != {NOT_MEASURED}:
            rows.append((claim["name"], *cells))
    if not rows:
        return ""
    heads = ("the same, of the others", *(f"{name} ({result['subjects'][name]['role']})" for name in names))
    return _table(heads, "l" + "r" * len(names), rows)


NOT_MEASURED = "not measured"


def _value(measured: Mapping[str, Any], unit: str) -> str:
    """A value with its interval, or counted of what was tried."""
    if measured["value"] is None:
        return NOT_MEASURED
    text = show(measured["value"]) + (f" {unit}" if unit else "")
    if measured["interval"]:
        low, high = measured["interval"]
        ends = [show(end) if end is not None else "no end" for end in (low, high)]
        return f"{text} ({ends[0]} – {ends[1]})"
    return f"{show(measured['value'])}, counted of {measured['n']:,}" if measured["n"] else text


def _bar(text: str, unit: str) -> str:
    bar = Bar.parse(text)
    sign = {"==": "=", ">=": "≥", "<=": "≤"}.get(bar.op, bar.op)
    words = f"{show(bar.at)} – {show(bar.to)}" if bar.op == ".." else f"{sign} {show(bar.at)}"
    return f"{words} {unit}".strip()


def _verdict(word: str) -> str:
    return f"{SIGN[word]} {word}"


def _ordered(subjects: Mapping[str, Any]) -> list[str]:
    return sorted(subjects, key=lambda name: ROLES.index(subjects[name]["role"]))


def _provenance(result: Mapping[str, Any], command: str, *, race: bool = False) -> str:
    e = result["environment"]
    armed, hit = (sum(f[key] for f in result["faults"].values()) for key in ("armed", "hit"))
    awake = sum(1 for c in result["controls"] if c["awake"])
    run = [f"Measured on {e['date'][:10]} at commit `{e['commit'] or 'none'}`{', with changes' if e['clean'] is False else ''}",
           f"{result['scale']}, seed {result['seed']}, {result['trials']:,} trials in {show(round(result['wall_s'], 1))} s"]
    if armed:
        run.append(f"faults armed {armed:,}, hit {hit:,}")
    if result["controls"] and any(c["value"] is not None for c in result["controls"]):
        run.append(f"controls awake {awake} of {len(result['controls'])}")
    machine = f"{e['system']}, {e['cores']} cores, {e['memory_gib']:g} GiB, load {e['load']}; Python {e['python']}, SQLite {e['sqlite']}"
    labels = "" if race else "".join(f" {label}." for label in result["labels"])  # a race is in real time, whatever the proof is
    return f"{'; '.join(run)}. {machine}.{labels} Intervals are 95 %, two-sided. Again: `{command}`."


def _race(race: Mapping[str, Any], result: Mapping[str, Any], proof: Mapping[str, Any] | None) -> str:
    """Each subject's measures, and how ours stands to it; a subject whose correctness failed is crossed out and does not count."""
    subjects, judged = result["subjects"], result["judged"]
    keys = list(race["better"]) or list(next(iter(race["subjects"].values())))
    standing = _standings(result, proof)
    rows = []
    for name in sorted(race["subjects"], key=lambda n: ROLES.index(subjects[n]["role"])):
        failed = standing[name] == "fail"
        measures = [_value(race["subjects"][name].get(key, {"value": None}), "") for key in keys]
        ratios = race["ratios"].get(name, {})
        ours = ["" if name == judged else _value(ratios.get(key, {"value": None}), "×") for key in keys]
        rows.append((f"~~{name}~~" if failed else name, _verdict(standing[name]) if standing[name] in SIGN else standing[name],
                     *(["does not count"] * len(keys) if failed else measures), *ours))
    heads = ("subject", "correctness", *(f"`{key}`" for key in keys), *(f"{judged} to it: `{key}`" for key in keys))
    better = ", ".join(f"`{key}` {word}" for key, word in race["better"].items())
    said = f"Race {race['name']}: {race['laps']} laps, interleaved, no other run of buttress beside; medians." + (f" Better: {better}." if better else "")
    absent = "".join(" " + _sentence(f"{name} did not run: {s['absent']}") for name, s in subjects.items() if s["absent"])
    return said + absent + "\n\n" + _table(heads, "ll" + "r" * 2 * len(keys), rows)


def _standings(result: Mapping[str, Any], proof: Mapping[str, Any] | None) -> dict[str, str]:
    """The correctness of each subject: of the committed proof, else as the race knew it."""
    known = dict(result.get("correctness", {}))
    for name, subject in (proof or {"subjects": {}})["subjects"].items():
        words = list(subject["verdicts"].values())
        if words:
            known[name] = "fail" if "fail" in words else "unknown" if "unknown" in words else "pass"
    return {name: known.get(name, "not proven here") for name in result["subjects"]}


def _table(heads: Sequence[str], align: str, rows: Iterator[tuple[str, ...]] | Sequence[tuple[str, ...]]) -> str:
    lines = [heads, [{"l": "---", "r": "--:"}[letter] for letter in align], *rows]
    return "\n".join("| " + " | ".join(_plain(str(cell)) for cell in line) + " |" for line in lines)


def _plain(text: str) -> str:
    """Text inside a Markdown table: no line and no cell ends in it."""
    return " ".join(text.split()).replace("|", "\\|")


# -- pictures


def strip(system: System, root: Path = ROOT) -> str:
    """The strip chart of the committed result as a file of its own; empty where there is none."""
    result = committed(system, root).result
    if result is None:
        return ""
    for figure in result["figures"]:
        if figure["kind"] == "strip":
            title = figure.get("findings", {}).get(result["verdict"]) or figure["title"]
            return standalone(figure, result["subjects"], title)
    return ""


# -- the finder and the list of systems


def finder(found: Sequence[System], page: Path, root: Path = ROOT) -> str:
    """From what people search for to the system that carries it."""
    if not found:
        return "\nThere is no system yet.\n\n"
    rows = sorted(((phrase, _link(s, page, root), s.maturity) for s in found for phrase in s.finds), key=lambda row: (row[0].lower(), row[1]))
    return "\n" + _table(("what you may be searching for", "system", "maturity"), "lll", rows) + "\n\n"


def _link(system: System, page: Path, root: Path) -> str:
    up = "../" * len(page.relative_to(root).parent.parts)
    return f"[{system.name}]({up}{(system.folder / 'README.md').relative_to(root).as_posix()})"


def systems_page(found: Sequence[System], root: Path = ROOT) -> str:
    parts = ["# Systems", MADE, f"{len(found)} of forty are here. `buttress list` prints the same, `buttress show NAME` one of them."]
    page = root / "docs" / "reference" / "systems.md"
    for wing, about in WINGS.items():
        there = [s for s in found if s.wing == wing]
        if not there:
            continue
        parts.append(f"## {wing}: {about}")
        for s in there:
            facts = [("constraint", s.constraint), ("headline", f"{s.headline}{f' ({s.unit})' if s.unit else ''}; {s.direction} is better"),
                     ("maturity", f"{s.maturity}, since {s.since}"), ("verbs", ", ".join(f"`buttress {s.name} {verb}`" for verb in s.verbs) or "none"),
                     ("install", f"`pip install 'buttress[{s.name}]'`"), ("peers", ", ".join(s.peers) or "none"),
                     ("finds", "; ".join(s.finds))]
            parts.append(f"### {_link(s, page, root)}\n\n{_sentence(s.summary)}\n\n" + "\n".join(f"- {key}: {value}" for key, value in facts))
    return "\n\n".join(parts) + "\n"


# -- the command line


def cli_page(found: Sequence[System]) -> str:
    root = command_line.cli
    parts = ["# Command line", MADE,
             _table(("exit code", "says"), "rl", [
                 ("0", "pass; or done"), ("1", "a finding: a claim failed, something was refused or wants looking at"),
                 ("2", "could not tell: unknown"), ("64", "usage: the command, its input or its parts are wrong"),
                 ("70", "the harness itself broke"), ("130", "interrupted")]),
             "The codes are the same for every verb that judges. With `prove --all`: 1 if anything failed, 2 if a claim is unknown for any "
             "reason but a capability that this machine lacks, else 0."]
    context = click.Context(root, info_name="buttress")
    for name in root.list_commands(context):
        parts += _command(root.get_command(context, name), context, name, 2)
    for system in found:
        parts += _command(importlib.import_module(f"{system.package}.cli").cli, context, system.name, 2)
    return "\n\n".join(part for part in parts if part) + "\n"


def _command(command: click.Command | None, parent: click.Context, name: str, depth: int) -> Iterator[str]:
    assert command is not None
    context = click.Context(command, info_name=name, parent=parent)
    yield f"{'#' * min(depth, 4)} {context.command_path}"
    if not isinstance(command, click.Group):
        yield f"```\n{' '.join([context.command_path, *command.collect_usage_pieces(context)])}\n```"
    yield _prose(inspect.cleandoc(command.help or ""))
    records = [p.get_help_record(context) for p in command.params if isinstance(p, click.Option) and not p.hidden]
    yield "\n".join(f"- `{record[0]}`{f': {_close(record[1])}' if record[1] else ''}" for record in records if record)
    if isinstance(command, click.Group):
        for verb in command.list_commands(context):
            yield from _command(command.get_command(context, verb), context, verb, depth + 1)


def _close(text: str) -> str:
    return " ".join(text.split())


# -- reference from docstrings


FIRST = ("errors", "clock", "failpoint", "store")  # the foundation, in the order in which one wants to read it


def kernel_page(root: Path = ROOT) -> str:
    kernel, source = root / "src" / "buttress" / "kernel", root / "src"
    modules = sorted((p for p in kernel.rglob("*.py") if p.name != "__init__.py" or p.parent != kernel), key=lambda p: _order(_module(p, source)))
    parts = ["# Kernel", MADE, _docstring(kernel / "__init__.py")]
    for path in modules:
        parts += _reference(path, source, functions=True)
    parts += ["## Conformance: `buttress.testing`", _docstring(root / "src" / "buttress" / "testing" / "__init__.py")]
    checks: list[str] = []
    for path in sorted((root / "src" / "buttress" / "testing").glob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        checks += [_function(node) for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("check_")]
    parts.append("\n".join(checks))
    return "\n\n".join(part for part in parts if part) + "\n"


def _order(module: str) -> tuple[int, str]:
    first = module.split(".")[2]
    return (FIRST.index(first) if first in FIRST else len(FIRST), module)


def proof_page(root: Path = ROOT) -> str:
    proof, source = root / "src" / "buttress" / "proof", root / "src"
    parts = ["# Proof", MADE, _docstring(proof / "__init__.py")]
    parts += _reference(proof / "contract.py", source)
    for path, names in ((proof / "host.py", {"Env"}), (proof / "trial.py", {"Trial", "VirtualClock", "Meter"}), (proof / "history.py", {"History"})):
        parts += _reference(path, source, only=names)
    for path in sorted((proof / "faults").glob("*.py")):
        if path.name not in ("__init__.py", "capabilities.py"):
            parts += _reference(path, source)
    parts += _reference(proof / "verdict.py", source, functions=True, only={"count", "share", "median", "ratio", "Bar", "worst"})
    for path in sorted((proof / "world").glob("*.py")):
        if path.name != "__init__.py":
            parts += _reference(path, source)
    return "\n\n".join(part for part in parts if part) + "\n"


def _module(path: Path, source: Path) -> str:
    name = path.relative_to(source).with_suffix("").as_posix().replace("/", ".")
    return name.removesuffix(".__init__")


def _docstring(path: Path) -> str:
    return _prose(ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "")


def _reference(path: Path, source: Path, *, functions: bool = False, only: set[str] | None = None) -> Iterator[str]:
    """A module: its docstring, its types and functions, then its classes, in the order in which they are written."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    public = [n for n in tree.body if not getattr(n, "name", "").startswith("_") and (only is None or getattr(n, "name", "") in only)]
    yield f"## `{_module(path, source)}`"
    yield _docstring(path)
    unions = [n for n in public if isinstance(n, ast.Assign) and isinstance(n.value, ast.BinOp) and isinstance(n.value.op, ast.BitOr)]
    listed = [n for n in public if functions and isinstance(n, ast.FunctionDef) and ast.get_docstring(n) and not n.name.startswith("check_")]
    yield "\n".join([*(f"- `{ast.unparse(n)}`" for n in unions), *map(_function, listed)])
    for node in public:
        if isinstance(node, ast.ClassDef):
            yield from _class(node, constructors=only is None)


def _class(node: ast.ClassDef, constructors: bool) -> Iterator[str]:
    bases = [ast.unparse(base) for base in node.bases]
    decorators = [ast.unparse(d) for d in node.decorator_list]
    protocol, data = "Protocol" in bases, any(d.startswith("dataclass") for d in decorators)
    codes = [ast.literal_eval(n.value) for n in node.body if isinstance(n, ast.Assign) and ast.unparse(n.targets[0]) == "code" and isinstance(n.value, ast.Constant)]
    kind = "protocol" if protocol else "dataclass" if data else f"error, code `{codes[0]}`" if codes else "class"
    yield f"### `{node.name}` ({kind})"
    yield _prose(ast.get_docstring(node) or "")
    fields = [n for n in node.body if data and isinstance(n, ast.AnnAssign) and not ast.unparse(n.target).startswith("_")]
    methods = [n for n in node.body if isinstance(n, ast.FunctionDef)]
    shown = [n for n in methods if not n.name.startswith("_") and (protocol or ast.get_docstring(n))]
    made = [n for n in methods if constructors and n.name == "__init__" and not data and not codes]
    yield "\n".join([*(f"- `{ast.unparse(n)}`" for n in fields), *(f"- `{node.name}({_arguments(n)})`" for n in made), *map(_function, shown)])


def _function(node: ast.FunctionDef) -> str:
    returns = ast.unparse(node.returns) if node.returns else ""
    said = (ast.get_docstring(node) or "").split("\n\n")[0]
    head = f"{node.name}: {returns}" if any(ast.unparse(d) == "property" for d in node.decorator_list) else \
        f"{node.name}({_arguments(node)})" + (f" -> {returns}" if returns else "")
    return f"- `{head}`" + (f": {_flow(said)}" if said else "")


def _arguments(node: ast.FunctionDef) -> str:
    names = ast.unparse(node.args)
    return names.removeprefix("self, ").removeprefix("self").removeprefix("cls, ")


def _flow(text: str) -> str:
    return " ".join(text.split()).replace("``", "`")


def _prose(text: str) -> str:
    """A docstring as Markdown: paragraphs and items flow, indented blocks stay as they are."""
    blocks = []
    for block in text.strip().split("\n\n"):
        lines = block.splitlines()
        if lines and all(line.startswith("    ") for line in lines):
            blocks.append("```\n" + "\n".join(line[4:] for line in lines) + "\n```")
        elif block.startswith("- "):
            blocks.append("\n".join(f"- {_flow(item)}" for item in block[2:].split("\n- ")))
        else:
            blocks.append(_flow(block).removesuffix(":").removesuffix(":") + (":" if block.endswith(":") else ""))
    return "\n\n".join(blocks)


def _sentence(text: str) -> str:
    """On one line, with its full stop."""
    flowing = " ".join(text.split())
    return flowing if flowing.endswith(".") else f"{flowing}."


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
