"""The index of systems: reads the ``system.toml`` files and nothing else, so that looking is cheap.

Systems of other distributions name theirs in the entry-point group ``buttress.systems``; they are read for unknown names and
``list --all`` only.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from buttress.kernel.errors import ButtressError, InvalidInput

WINGS: Mapping[str, str] = {
    "backend": "services that must not lose or double what they were told",
    "data": "feeds, records and tables that must stay true while they change",
    "web": "pages that are fast and right at once",
    "ops": "deployments, objectives and programmes",
    "identity": "who may come in, and who no longer",
    "ai": "models that are watched",
    "devices": "things in the field that nobody can reach",
    "trust": "proof for those who do not trust us",
}
CONSTRAINTS = ("scale", "latency", "compliance", "cost")
MATURITY = ("experimental", "beta", "stable")
GROUP = "buttress.systems"
ROOT = Path(__file__).resolve().parent


class UnknownSystem(ButtressError):
    """No system of that name."""

    code = "unknown_system"


@dataclass(frozen=True)
class System:
    """One ``system.toml``. ``package`` is where its code is imported from."""

    name: str
    wing: str
    constraint: str
    headline: str
    unit: str
    direction: str
    summary: str
    finds: tuple[str, ...]
    maturity: str
    since: str
    verbs: tuple[str, ...]
    extras: tuple[str, ...]
    peers: tuple[str, ...]
    quick_s: float
    package: str
    folder: Path = field(repr=False)


def systems(*, everything: bool = False) -> list[System]:
    """All systems, wing by wing. ``everything`` also asks the entry points of other distributions."""
    found = [_read(path) for wing in WINGS for path in sorted((ROOT / wing).glob("*/system.toml"))]
    return found + (_foreign() if everything else [])


def system(name: str) -> System:
    """One system by name. Raises UnknownSystem, with the names that are close."""
    for wing in WINGS:
        path = ROOT / wing / name / "system.toml"
        if path.is_file():
            return _read(path)
    for found in _foreign():
        if found.name == name:
            return found
    import difflib

    names = [s.name for s in systems()]
    close = difflib.get_close_matches(name, names, n=3) or names[:8]
    raise UnknownSystem(f"no system is called {name!r}", fix=f"there is {', '.join(close)}" if close else "there is none yet")


def _foreign() -> list[System]:
    from importlib.metadata import entry_points
    from importlib.util import find_spec

    found = []
    for entry in entry_points(group=GROUP):
        spec = find_spec(entry.value)
        for place in (spec.submodule_search_locations or []) if spec else []:
            if (Path(place) / "system.toml").is_file():
                found.append(_read(Path(place) / "system.toml", package=entry.value))
    return found


def _read(path: Path, package: str | None = None) -> System:
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise InvalidInput(f"{path.parent.name}/system.toml", str(error), "must be TOML") from error
    wing, name = str(table.get("wing", "")), str(table.get("name", ""))
    rules: list[tuple[str, Any, bool, str]] = [
        ("name", name, name == path.parent.name, "must be the name of its folder"),
        ("wing", wing, wing in WINGS and (package is not None or wing == path.parent.parent.name), "must be the wing that it lies in"),
        ("constraint", table.get("constraint"), table.get("constraint") in CONSTRAINTS, f"must be one of {', '.join(CONSTRAINTS)}"),
        ("maturity", table.get("maturity"), table.get("maturity") in MATURITY, f"must be one of {', '.join(MATURITY)}"),
        ("finds", table.get("finds"), isinstance(table.get("finds"), list) and len(table["finds"]) == 3, "must be three phrases"),
        ("summary", table.get("summary"), bool(table.get("summary")), "must be one sentence"),
        ("headline", table.get("headline"), isinstance(table.get("headline"), dict), "must be a table of text, unit and direction"),
    ]
    for key, value, good, rule in rules:
        if not good:
            raise InvalidInput(f"{path.parent.name}/system.toml: {key}", value, rule)
    head = table["headline"]
    return System(
        name=name, wing=wing, constraint=table["constraint"], headline=str(head.get("text", "")), unit=str(head.get("unit", "")),
        direction=str(head.get("direction", "")), summary=table["summary"], finds=tuple(table["finds"]), maturity=table["maturity"],
        since=str(table.get("since", "")), verbs=tuple(table.get("verbs", ())), extras=tuple(table.get("extras", ())),
        peers=tuple(table.get("peers", {})), quick_s=float(table.get("quick_s", 10)),
        package=package or f"buttress.{wing}.{name}", folder=path.parent,
    )
