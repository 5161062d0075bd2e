"""What the history says: effects doubled and lost, states that differ, forgeries that were acted on; and the pictures' points."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from buttress.backend.webhooks.world import FORGED
from buttress.proof import History
from buttress.proof.contract import Measured
from buttress.proof.trial import EPOCH
from buttress.proof.verdict import count

HOUR = 3600.0
LATE_S = 24 * HOUR  # an effect that comes so long after the last delivery that could ask for it helps nobody
DAY_10_H = 240.0
SITUATIONS = ("delivered again", "two copies at once", "told by two events", "retried after hour 48", "resent on day 10", "killed", "paused beyond its lease",
              "its answer swallowed", "its answer an error", "callee down", "forgotten by Redis")
REFUSE, NOT_ACT = "refuse", "not act"  # what is asked of a delivery that is not as it should be


@dataclass
class Account:
    """One trial: what was due, what happened and when, and what the workload did to each event."""

    scenario: str
    case: str
    due: dict[tuple[str, str], str] = field(default_factory=dict)  # (callee, reference) -> event
    twins: set[str] = field(default_factory=set)  # events that tell a fact which another event tells, too
    late: set[tuple[str, str]] = field(default_factory=set)  # first happened too late, or after "nothing waits" was said
    happened: dict[tuple[str, str], list[float]] = field(default_factory=lambda: defaultdict(list))
    objects: dict[tuple[str, str], str] = field(default_factory=dict)  # whose state an effect set
    again: dict[str, list[tuple[float, str]]] = field(default_factory=lambda: defaultdict(list))
    states: list[tuple[str, Any, str]] = field(default_factory=list)
    forged: list[tuple[str, int]] = field(default_factory=list)  # what was asked, and the answer
    taken: dict[str, bool] = field(default_factory=dict)

    def doubled(self, *callees: str) -> Iterator[tuple[str, float]]:
        """(event, when) of each effect beyond the first."""
        for key, event in self.due.items():
            if not callees or key[0] in callees:
                yield from ((event, at) for at in sorted(self.happened.get(key, []))[1:])
        orders = {name for name, _, _ in self.states}
        for key, times in self.happened.items():  # what nobody asked for, under whatever name
            # A state that is set is judged by what it is in the end, whatever the reference; a forgery is counted as one.
            asked = key in self.due or self.objects.get(key) in orders or FORGED in key[1]
            if not asked and (not callees or key[0] in callees):
                yield from (("", at) for at in times)

    def lost(self, *callees: str) -> Iterator[str]:
        """Events whose effect never happened, or too late to count."""
        for key, event in self.due.items():
            if (not callees or key[0] in callees) and (not self.happened.get(key) or key in self.late):
                yield event

    def of(self, *callees: str) -> int:
        return sum(1 for callee, _ in self.due if not callees or callee in callees)

    def situation(self, event: str, at: float) -> str:
        """What was going on when an effect was doubled: the fault of the trial, else the last delivery of that event."""
        for word, situation in (("kill", "killed"), ("stopped", "paused beyond its lease"), ("answer dropped", "its answer swallowed"),
                                ("callee acts", "its answer an error"), ("callee ", "callee down"), ("Redis ", "forgotten by Redis")):
            if self.case.startswith(word):
                return situation
        if event in self.twins:
            return "told by two events"
        hows = [how for when, how in self.again.get(event, []) if when <= at]
        how = hows[-1] if hows else "delivered again"
        return "retried after hour 48" if how == "delivered again" and at - EPOCH > 48 * HOUR else how


@dataclass
class _Promises:
    """What a trial says about time: when each event was delivered last, and which effects came although ``work`` had said that nothing waits.

    The latter only where nothing broke and one process works: after a fault a lease may run out behind the subject's back, and
    of two workers each speaks for itself.
    """

    applies: bool
    told: dict[tuple[str, str], list[str]] = field(default_factory=dict)  # the events that ask for it
    delivered: dict[str, float] = field(default_factory=dict)
    quiet: bool = False  # "nothing waits", and nothing was delivered since
    fresh: list[tuple[str, str]] = field(default_factory=list)  # happened since the last call ended, for the first time
    unannounced: set[tuple[str, str]] = field(default_factory=set)

    def op(self, r: Mapping[str, Any]) -> None:
        if r["call"] == "work" and self.quiet and self.applies:
            self.unannounced.update(self.fresh)
        elif r["call"] == "deliver":
            id = r["args"]["headers"].get("webhook-id", "")
            self.delivered[id] = max(r["at"], self.delivered.get(id, r["at"]))
        self.quiet = r["call"] == "work" and r["status"] == "ok" and r.get("value") is None
        self.fresh.clear()

    def late(self, happened: Mapping[tuple[str, str], list[float]]) -> Iterator[tuple[str, str]]:
        yield from self.unannounced
        for key, ids in self.told.items():
            chances = [self.delivered[id] for id in ids if id in self.delivered]
            if chances and happened.get(key) and min(happened[key]) > max(chances) + LATE_S:
                yield key


def accounts(history: History) -> Iterator[Account]:
    for records in history.trials():
        account = Account(records[0]["scenario"], records[0]["case"])
        promises = _Promises(account.scenario in (STEADY, CRASH) and account.case == "clean")
        for r in records:
            what = r.get("what") if r["kind"] == "fact" else None
            if r["kind"] == "op":
                promises.op(r)
            if what == "due":
                account.due[r["callee"], r["reference"]] = r["id"]
                promises.told[r["callee"], r["reference"]] = r["told"]
                if r["twin"]:
                    account.twins.add(r["id"])
            elif what == "effect":
                if not account.happened[r["callee"], r["reference"]]:
                    promises.fresh.append((r["callee"], r["reference"]))
                account.happened[r["callee"], r["reference"]].append(r["at"])
                if "object" in r:
                    account.objects[r["callee"], r["reference"]] = r["object"]
            elif what == "again":
                account.again[r["id"]].append((r["at"], r["how"]))
            elif what == "state":
                account.states.append((r["object"], r["status"], r["truth"]))
            elif what == "forged":
                number = isinstance(r["status"], int) and not isinstance(r["status"], bool)
                account.forged.append((r["must"], r["status"] if number else 0))
            elif r["kind"] == "op" and r["call"] == "deliver":
                id = r["args"]["headers"].get("webhook-id", "evt_forged_")
                if not id.startswith("evt_forged_"):
                    status = r.get("value")
                    account.taken[id] = account.taken.get(id, False) or (isinstance(status, int) and 200 <= status < 300)
        account.late.update(promises.late(account.happened))
        yield account


STEADY, CRASH, NOTHING, SERVICE = "72 hours and day 10", "one fault each", "callees that honour nothing", "one fault each, in real time"
TWO = "two workers, one fault each"
HONOUR = ("orders", "emails", "credits")


def effects(history: History) -> Mapping[str, Measured]:
    """Doubled and lost, over 72 hours and under faults; a twin event's effect is due once."""
    doubled: Counter[str] = Counter()
    lost: Counter[str] = Counter()
    of: Counter[str] = Counter()
    after_48 = at_once = once = clean = 0
    plain: Counter[str] = Counter()
    for a in accounts(history):
        if a.scenario in (SERVICE, TWO):
            a.scenario = CRASH
        twice, never = list(a.doubled(*HONOUR)), list(a.lost(*HONOUR))
        if a.scenario in (CRASH, STEADY) and a.case == "clean":
            clean += len(twice) + len(never)
            of["clean"] += a.of(*HONOUR)
        doubled[a.scenario] += len(twice)
        lost[a.scenario] += len(never)
        of[a.scenario] += a.of(*HONOUR)
        if a.scenario in (STEADY, CRASH) and a.case == "clean":
            once += sum(a.taken.values())
            of["events"] += len(a.taken)
        if a.scenario == STEADY:
            after_48 += sum(1 for _, at in twice if 48 * HOUR < at - EPOCH < 100 * HOUR)
            at_once += sum(1 for event, at in twice if at - EPOCH <= 48 * HOUR and event not in a.twins)
        if a.scenario == NOTHING:
            plain["coupons doubled"] += sum(1 for _ in a.doubled("coupons"))
            plain["points lost"] += sum(1 for _ in a.lost("points"))
            of["coupons"] += a.of("coupons")
            of["points"] += a.of("points")
    return {
        "wrong": count(doubled[STEADY] + lost[STEADY], of[STEADY]), "doubled": count(doubled[STEADY], of[STEADY]), "lost": count(lost[STEADY], of[STEADY]),
        "doubled_after_48": count(after_48, of[STEADY]), "doubled_at_once": count(at_once, of[STEADY]),
        "wrong_clean": count(clean, of["clean"]),
        "wrong_under_faults": count(doubled[CRASH] + lost[CRASH], of[CRASH]), "lost_under_faults": count(lost[CRASH], of[CRASH]),
        "genuine": count(once, of["events"]), "genuine_refused": count(of["events"] - once, of["events"]),
        "coupons_doubled": count(plain["coupons doubled"], of["coupons"]), "points_lost": count(plain["points lost"], of["points"]),
    }


def states(history: History) -> Mapping[str, Measured]:
    """Orders whose final state differs from the newest version that was sent."""
    found = [(status, truth) for a in accounts(history) for _, status, truth in a.states]
    return {"diverged": count(sum(1 for status, truth in found if status != truth), len(found))}


def forgeries(history: History) -> Mapping[str, Measured]:
    """Deliveries that are not as they should be: answered 2xx where they must be refused (no number is no refusal), or acted on.

    What is signed and cannot be read, and what comes under a known id with another payload, may be kept or refused: the answer is
    in the history, and only an effect counts.
    """
    answered = [one for a in accounts(history) for one in a.forged]
    acted = sum(1 for a in accounts(history) for _, reference in a.happened if FORGED in reference)
    return {"forged": count(sum(1 for must, status in answered if must == REFUSE and status < 300) + acted, len(answered))}


# -- pictures


AXIS = {
    "name": "virtual time", "rules": [48.0],
    "segments": [{"from": 0.0, "to": 76.0, "x0": 1.0, "x1": 82.0}, {"from": 238.0, "to": 244.0, "x0": 89.5, "x1": 96.5}],
    "ticks": [[0.0, "0 h", True], [12.0, "12", False], [24.0, "24", True], [36.0, "36", False], [48.0, "48", True], [60.0, "60", False],
              [72.0, "72 h", True], [DAY_10_H, "day 10", True]],
}


def strip(histories: Mapping[str, History]) -> Mapping[str, Any]:
    """Wrong effects over 72 hours and day 10, in bins of two hours, and the deliveries that nobody asked for above."""
    lanes = []
    ticks: dict[str, list[float]] = {}
    for name, history in histories.items():
        up: Counter[float] = Counter()
        down: Counter[float] = Counter()
        ran = False
        by_twin: Counter[float] = Counter()
        for a in accounts(history.where(scenario=STEADY)):
            ran = True
            for event, at in a.doubled(*HONOUR):
                up[_bin(at)] += 1
                by_twin[_bin(at)] += event in a.twins
            for _ in a.lost(*HONOUR):
                down[0.0] += 1
            for how in ("delivered again", "two copies at once", "resent on day 10"):
                ticks[how] = sorted((when - EPOCH) / HOUR for times in a.again.values() for when, kind in times if kind == how)
        if ran:
            lanes.append({"subject": name, "up": [[at, 1.6, n] for at, n in sorted(up.items())], "down": [[at, 1.6, n] for at, n in sorted(down.items())],
                          "doubled": sum(up.values()), "lost": sum(down.values()), "notes": _notes(up, by_twin)})
    faults = [{"name": how, "about": "", "at": _thin(times), "armed": len(times), "hit": len(times)} for how, times in ticks.items()]
    return {"axis": AXIS, "faults": faults, "lanes": lanes}


def _bin(at: float) -> float:
    hours = (at - EPOCH) / HOUR
    return DAY_10_H if hours > 200 else 2.0 * (hours // 2)


def _thin(times: list[float]) -> list[float]:
    step = max(1, len(times) // 120)
    return [round(t, 2) for t in times[::step]]


def _notes(up: Counter[float], by_twin: Counter[float]) -> list[dict[str, Any]]:
    """Words in the picture hang on recorded facts: what was doubled before hour 48, and what after."""
    before = {at: n - by_twin[at] for at, n in up.items() if at < 46 and n > by_twin[at]}
    after = any(n for at, n in up.items() if 46 <= at < 200)
    if before:
        return [{"at": 48.0, "words": "each delivery acts", "anchor": "end", "dx": -6, "y": 12}] if after else []
    notes: list[dict[str, Any]] = []
    if after:
        notes.append({"at": 48.0, "words": "the marker expires", "anchor": "end", "dx": -6, "y": 20})
    if sum(by_twin[at] for at in up if at < 46):
        notes.append({"at": 14.0, "words": "one fact, two ids", "y": 20, "dx": 0})
    return notes


def where(histories: Mapping[str, History]) -> Mapping[str, Any]:
    """Wrong effects by situation and subject."""
    table: dict[str, dict[str, int]] = {s: {} for s in SITUATIONS}
    total: dict[str, int] = {}
    for name, history in histories.items():
        counted: Counter[str] = Counter()
        cases: set[str] = set()
        for a in accounts(history):
            if a.scenario == NOTHING:
                continue
            cases.add(a.situation("", 0.0) if a.scenario != STEADY and a.case != "clean" else "steady")
            for event, at in a.doubled(*HONOUR):
                counted[a.situation(event, at)] += 1
            for event in a.lost(*HONOUR):
                counted[a.situation(event, EPOCH)] += 1
        if not cases:
            continue
        for situation in SITUATIONS:
            if situation in cases or (situation in SITUATIONS[:5] and "steady" in cases):
                table[situation][name] = counted[situation]
        total[name] = sum(counted.values())
    rows: list[dict[str, Any]] = [{"name": s, "cells": cells} for s, cells in table.items() if cells]
    return {"label": "wrong effects when an event was", "rows": [*rows, {"name": "wrong effects in all", "cells": total, "total": True}]}
