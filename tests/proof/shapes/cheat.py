"""How a shape names those who must not pass, and the rule that catches each."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from buttress.proof import Proof, Subject
from buttress.proof.faults import Capability, capability

OUTSIDERS = Path(__file__).parent / "outsiders"


@dataclass(frozen=True)
class Cheat:
    """``claim`` is what catches it, with ``verdict`` and ``why`` (a pattern), by the ``rule`` of verdict.py.

    ``factory`` empty: the judged subject is ours, and what is wrong is the proof itself (``proof``: that of a variant).
    ``served``: it is started by nobody but the test, and reached at its URL. ``tool`` must be on the PATH. ``slow``: it hangs, so timeouts are made small.
    """

    name: str
    factory: str
    claim: str
    verdict: str
    rule: str
    why: str
    proof: Proof | None = None
    tool: str = ""
    slow: bool = False
    probe: Callable[[str], Capability] = capability


@dataclass(frozen=True)
class Stranger:
    """A good subject from outside: it must pass."""

    name: str
    factory: str | Subject
    tool: str = ""


@dataclass(frozen=True)
class Shape:
    """A proof, its bad subject with the claim that it fails, its cheats and its good strangers."""

    proof: Proof
    bad: str
    fails: str
    cheats: tuple[Cheat, ...]
    lacks: str  # a factory without one method of the port
    without: str  # that method
    strangers: tuple[Stranger, ...] = ()


def python(file: str, attribute: str) -> str:
    """A factory in the form that ``--subject`` takes: file.py:factory."""
    return f"{OUTSIDERS / file}:{attribute}"


def command(*words: str) -> str:
    """A foreign process in the form that ``--subject`` takes. Files are those of the outsiders."""
    argv = [str(OUTSIDERS / word) if (OUTSIDERS / word).is_file() else word for word in words]
    return "cmd:" + " ".join(sys.executable if word == "python" else word for word in argv)


def lacking(name: str) -> Callable[[str], Capability]:
    """A machine that has everything but this."""
    def probe(asked: str) -> Any:
        return Capability(asked, False, f"there is no {asked} here") if asked == name else capability(asked)

    return probe
