"""Shape 6, a document that is analysed once: every flaw that was planted is found, and nothing is made up."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from buttress.proof import Claim, Control, Env, History, Proof, Scenario, Subject, Trial
from buttress.proof.contract import Measured
from buttress.proof.verdict import count

FLAW = re.compile(r"^(\w+) = (?:open|any|0\.0\.0\.0)$")


class Auditor(Protocol):
    def findings(self, document: str) -> list[str]: ...


class Naive:
    """Stops at the first flaw of each section."""

    def __init__(self, env: Env) -> None:
        pass

    def findings(self, document: str) -> list[str]:
        sections = Path(document).read_text().split("\n\n")
        return [found[0] for found in map(flaws_in, sections) if found]


class Good(Naive):
    def findings(self, document: str) -> list[str]:
        return flaws_in(Path(document).read_text())


@dataclass(frozen=True)
class Size:
    lines: int


def flaws_in(text: str) -> list[str]:
    return [match[1] for line in text.splitlines() if (match := FLAW.match(line))]


def planted(size: Size, seed: int) -> tuple[str, list[str]]:
    """The document and its truth: the truth is made again where it is needed, and lies in no folder."""
    rng = random.Random(seed)
    lines, truth = [], []
    for number in range(size.lines):
        flawed = rng.random() < 0.3
        lines.append(f"rule_{number} = {rng.choice(('open', 'any', '0.0.0.0') if flawed else ('closed', 'opened', '10.0.0.0'))}")
        truth += [f"rule_{number}"] if flawed else []
        lines += [""] if number % 10 == 9 else []
    return "\n".join(lines), truth


def inputs(size: Size, seed: int, folder: Path) -> Mapping[str, str]:
    (folder / "document.txt").write_text(planted(size, seed)[0])
    return {"document": str(folder / "document.txt")}


def drive(trial: Trial) -> None:
    found = trial.open().findings(document=trial.inputs["document"])
    trial.record("fact", found=found, truth=planted(trial.size, trial.seed)[1])


def compared(history: History) -> Mapping[str, Measured]:
    (fact,) = history.where(kind="fact")
    found, truth = set(fact["found"]), set(fact["truth"])
    return {"missed": count(len(truth - found), len(truth)), "invented": count(len(found - truth), max(len(found), 1))}


PROOF = Proof(
    system="document", port=Auditor,
    subjects=(Subject("naive", f"{__file__}:naive", "baseline"), Subject("good", f"{__file__}:good", "buttress")),
    scenarios=(Scenario("once", drive),),
    checkers=(compared,),
    inputs=inputs,
    claims=(Claim("missed", "missed", "== 0", "flaws", perfect=lambda size: count(0, size.lines)),
            Claim("invented", "invented", "== 0", "findings", perfect=lambda size: count(0, size.lines))),
    controls=(Control("the naive auditor misses some", "naive", "missed", "> 0"),),
    sizes={"quick": Size(300)},
)


def naive(env: Env) -> Naive:
    return Naive(env)


def good(env: Env) -> Good:
    return Good(env)
