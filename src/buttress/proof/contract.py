"""What a proof is made of. A proof is a value: subjects x scenarios x faults -> history -> checkers -> claims.

No base classes, no registry: each part is a small frozen dataclass or a plain function, and each can be swapped.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from buttress.proof.host import Env

if TYPE_CHECKING:
    from buttress.proof.history import History
    from buttress.proof.trial import Trial

__all__ = ["Case", "Checker", "Claim", "Control", "Env", "Estimate", "Fault", "Figure", "Proof", "Race", "Scenario",
           "Subject", "Unmeasured"]

Role = Literal["baseline", "buttress", "peer", "yours"]
Action = Literal["kill", "stop", "error"]


@dataclass(frozen=True)
class Subject:
    """One implementation under proof. ``factory(env)`` gives its port.

    ``factory`` is ``module:attr``, ``file.py:attr``, ``cmd:ARGV``, a URL, or a callable (in-process only).
    ``needs`` are capabilities (``redis``, ``chromium``, ``extra:columns``); a missing one makes its claims unknown.
    ``parts`` are a peer's own parts (``pip:authlib==1.3.0``); they never enter our environment.
    ``scale`` full: takes part in ``full`` only. ``start`` is the argv of a service that is reached at the URL.
    """

    name: str
    factory: str | Callable[[Env], Any]
    role: Role
    needs: tuple[str, ...] = ()
    parts: tuple[str, ...] = ()
    about: str = ""
    scale: Literal["quick", "full"] = "quick"
    start: tuple[str, ...] = ()
    ready: str = "/"


@dataclass(frozen=True)
class Case:
    """One fault case, a trial of its own.

    ``failpoints`` maps a name to (hit, action). Names with ``@`` are points that the harness sees from outside:
    ``@reply`` (the subject's n-th answer), ``@write`` and ``@sync`` (its n-th system call of that kind, by strace).
    ``during`` is entered after the world is up and before the subject starts; it may change ``trial.world``.
    ``power`` makes of a kill at a system call a power cut: what is found of the subject's folder afterwards (``faults.disk``).
    """

    label: str
    failpoints: Mapping[str, tuple[int, Action]] = field(default_factory=dict)
    during: Callable[[Trial], AbstractContextManager[Any]] | None = None
    power: str = ""


class Fault(Protocol):
    """``name`` is its key in the result; ``needs`` names capabilities; ``cases`` enumerates from a clean trial's hits."""

    @property
    def name(self) -> str: ...
    @property
    def needs(self) -> tuple[str, ...]: ...
    def cases(self, clean_hits: Mapping[str, int]) -> Iterable[Case]: ...


@dataclass(frozen=True)
class Scenario:
    """One way of loading a subject. Each fault case is a trial of its own, after one clean enumerating trial of the same size.

    ``virtual`` False: on the machine's clock. ``processes``: needs a process (crash, pause, memory); else in-process.
    ``roles`` and ``hosting`` (in-process, line, service, url): who takes part (empty: all).
    """

    name: str
    drive: Callable[[Trial], None]
    faults: tuple[Fault, ...] = ()
    virtual: bool = True
    processes: bool = False
    roles: tuple[Role, ...] = ()
    hosting: tuple[str, ...] = ()


@dataclass(frozen=True)
class Estimate:
    """A measured value. Without limits it is counted (of ``n``, where that is known); with limits it was sampled."""

    value: float
    low: float | None = None
    high: float | None = None
    n: int | None = None


@dataclass(frozen=True)
class Unmeasured:
    """No answer, and why."""

    why: str


Measured = float | int | Estimate | Unmeasured
Checker = Callable[["History"], Mapping[str, Measured]]


@dataclass(frozen=True)
class Control:
    """A check of the harness itself. Negative: the baseline must show the failure. Positive: the genuine must succeed.

    ``subject`` names a subject, or ``judged`` for the one that the claims are about. ``guards`` names the claims that
    rest on it; empty: all.
    """

    name: str
    subject: str
    measure: str
    bar: str
    kind: Literal["negative", "positive"] = "negative"
    guards: tuple[str, ...] = ()
    scale: Literal["quick", "full"] = "quick"


@dataclass(frozen=True)
class Claim:
    """A measure and its bar: ``== 0``, ``>= 10``, ``< 20``, ``5.8..7.8``. ``over``: the ratio to that subject's measure.

    ``needs`` are capabilities of machine and subject without which it is unknown (``crash``, ``virtual``, ``redis``).
    ``about`` a subject other than the judged one, e.g. ours on another store (left out when yours is judged).
    ``scale`` full: deferred at quick. ``speed``: counts only where the correctness claims of its subject pass.
    ``perfect`` gives what a perfect subject would measure at a size; a house test judges it, so that no claim is hopeless.
    """

    name: str
    measure: str
    bar: str
    unit: str
    over: str | None = None
    needs: tuple[str, ...] = ()
    scale: Literal["quick", "full"] = "quick"
    speed: bool = False
    about: str = ""
    perfect: Callable[[Any], Measured] | None = None


@dataclass(frozen=True)
class Race:
    """One lap of one subject, without per-op history. The harness interleaves A B C, C B A and takes medians.

    A lap returns its measures; the harness adds ``<name>.wall_s`` and ``<name>.cpu_s`` of the whole lap. ``subjects``: who
    takes part (empty: all). ``port`` and ``factories`` (by subject) where a race speaks to another port than the scenarios,
    e.g. one that serves HTTP. ``better`` says for each measure which way is good, for the table of ratios.
    """

    name: str
    lap: Callable[[Trial, Any], Mapping[str, float]]
    warm: int = 1
    subjects: tuple[str, ...] = ()
    scale: Literal["quick", "full"] = "quick"
    port: type | None = None
    factories: Mapping[str, str] = field(default_factory=dict)
    better: Mapping[str, Literal["less", "more"]] = field(default_factory=dict)


@dataclass(frozen=True)
class Figure:
    """A picture's data, drawn by report and console from the result alone. ``kind`` is one of the report's idioms.

    ``points`` takes the histories by subject and returns JSON. ``findings`` gives its heading for each verdict.
    """

    name: str
    kind: Literal["strip", "matrix", "bars"]
    title: str
    caption: str
    points: Callable[[Mapping[str, History]], Mapping[str, Any]]
    findings: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Proof:
    """All of one system's proof. ``sizes`` maps ``quick`` and ``full`` to the system's own frozen dataclass."""

    system: str
    port: type
    subjects: tuple[Subject, ...]
    scenarios: tuple[Scenario, ...] | Callable[[Any], tuple[Scenario, ...]]
    checkers: tuple[Checker, ...]
    claims: tuple[Claim, ...]
    controls: tuple[Control, ...]
    sizes: Mapping[str, Any]
    inputs: Callable[[Any, int, Path], Mapping[str, str]] | None = None
    world: Callable[[Trial], AbstractContextManager[Mapping[str, str]]] | None = None
    races: tuple[Race, ...] = ()
    from_url: Callable[[str, Env], Any] | None = None
    findings: Mapping[str, str] = field(default_factory=dict)
    figures: tuple[Figure, ...] = ()
    labels: tuple[str, ...] = ()
    hurts: str = ""
    headline: str = ""

    def scenarios_at(self, size: Any) -> tuple[Scenario, ...]:
        return self.scenarios(size) if callable(self.scenarios) else self.scenarios


def calls_of(port: type) -> list[str]:
    """The methods of a port, in the order in which they are written."""
    return [name for name, value in vars(port).items() if callable(value) and not name.startswith("_")]


def parameters_of(port: type) -> dict[str, list[str]]:
    """The names of each method's parameters: calls pass them by name."""
    return {name: [p for p in inspect.signature(getattr(port, name)).parameters if p != "self"] for name in calls_of(port)}
