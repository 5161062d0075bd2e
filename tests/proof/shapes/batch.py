"""Shape 3, a batch that runs every night. Each run leaves the target equal to the feed; an unchanged feed writes nothing."""

from __future__ import annotations

import contextlib
import json
import os
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from buttress.proof import Claim, Control, Env, History, Proof, Scenario, Subject, Trial
from buttress.proof.contract import Measured
from buttress.proof.verdict import count


class Loader(Protocol):
    def load(self, feed: str) -> None: ...


class Naive:
    """Writes the whole feed every night."""

    def __init__(self, env: Env) -> None:
        self._target, self._last = env.world["target"], Path(env.dir, "last.json")

    def load(self, feed: str) -> None:
        self._write(json.loads(Path(feed).read_text()))

    def _write(self, changes: Mapping[str, Any]) -> None:
        with open(self._target, "a") as target:
            target.writelines(json.dumps([key, value]) + "\n" for key, value in changes.items())


class Good(Naive):
    """Writes what differs from the last complete run, deletions included, and then remembers this one."""

    def load(self, feed: str) -> None:
        now = json.loads(Path(feed).read_text())
        last = json.loads(self._last.read_text()) if self._last.exists() else {}
        gone = {key: None for key in last if key not in now}
        self._write(gone | {key: value for key, value in now.items() if last.get(key) != value})
        written = self._last.with_suffix(".new")
        written.write_text(json.dumps(now))
        os.replace(written, self._last)


@dataclass(frozen=True)
class Size:
    rows: int


def inputs(size: Size, seed: int, folder: Path) -> Mapping[str, str]:
    """Two nights of a feed: of the second a tenth changed, a tenth is gone, a tenth is new."""
    rng = random.Random(seed)
    first = {f"sku-{number}": rng.randrange(10**6) for number in range(size.rows)}
    tenth = size.rows // 10
    second = {key: value + (1 if at < tenth else 0) for at, (key, value) in enumerate(first.items()) if at < size.rows - tenth}
    second |= {f"sku-new-{number}": rng.randrange(10**6) for number in range(tenth)}
    paths = {}
    for name, rows in (("first", first), ("second", second)):
        paths[name] = str(folder / f"{name}.json")
        Path(paths[name]).write_text(json.dumps(rows))
    return paths


@contextlib.contextmanager
def world(trial: Trial) -> Iterator[Mapping[str, str]]:
    """The target: what a loader writes is seen here, not told by the loader."""
    target = Path(trial.dir, "target.jsonl")
    target.touch()
    yield {"target": str(target)}


def drive(trial: Trial) -> None:
    """The first night, the same feed again, the second night."""
    loader = trial.open()
    seen = 0
    for night, feed in (("first", "first"), ("again", "first"), ("second", "second")):
        loader.load(feed=trial.inputs[feed])
        writes = [json.loads(line) for line in Path(trial.world["target"]).read_text().splitlines()]
        held: dict[str, Any] = {}
        for key, value in writes:
            held[key] = value
        held = {key: value for key, value in held.items() if value is not None}
        due = json.loads(Path(trial.inputs[feed]).read_text())
        wrong = [key for key in due.keys() | held.keys() if due.get(key) != held.get(key)]
        trial.record("tally", night=night, rows=len(due), writes=len(writes) - seen, wrong=len(wrong), first=sorted(wrong)[:3])
        seen = len(writes)


def nights(history: History) -> Mapping[str, Measured]:
    tallies = list(history.where(kind="tally"))
    again = [t for t in tallies if t["night"] == "again"]
    return {"wrong": count(sum(t["wrong"] for t in tallies), sum(t["rows"] for t in tallies)),
            "idle writes": count(sum(t["writes"] for t in again), sum(t["rows"] for t in again))}


PROOF = Proof(
    system="batch", port=Loader,
    subjects=(Subject("naive", f"{__file__}:naive", "baseline"), Subject("good", f"{__file__}:good", "buttress")),
    scenarios=(Scenario("monday", drive), Scenario("tuesday", drive)),
    checkers=(nights,),
    inputs=inputs,
    world=world,
    claims=(Claim("wrong rows", "wrong", "== 0", "rows", perfect=lambda size: count(0, size.rows)),
            Claim("writes of an unchanged feed", "idle writes", "== 0", "writes", perfect=lambda size: count(0, size.rows))),
    controls=(Control("the naive loader writes everything again", "naive", "idle writes", "> 0", guards=("writes of an unchanged feed",)),),
    sizes={"quick": Size(200), "full": Size(20_000)},
)


def naive(env: Env) -> Naive:
    return Naive(env)


def good(env: Env) -> Good:
    return Good(env)
