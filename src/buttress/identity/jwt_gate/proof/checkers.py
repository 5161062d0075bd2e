"""What arrived at the application, against what should have; and how often the key server was asked. Answers of the gateway count for nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from buttress.proof import History, Unmeasured
from buttress.proof.contract import Measured
from buttress.proof.verdict import count

CATALOGUE, ROTATION, OUTAGE, CLOCK, KIDS, SERVICE = (
    "the whole catalogue", "valid tokens, keys rotated", "key server down", "clock off by 120 s", "random kids", "the whole catalogue, as a service")
INTERVAL_S = 10.0


def verdicts(history: History) -> Mapping[str, Measured]:
    """Forged tokens that arrived, valid ones that did not."""
    wrong: Counter[str] = Counter()
    of: Counter[str] = Counter()
    for records in history.where(kind="fact").trials():
        arrived = {r["id"] for r in records if r["what"] == "arrived"}
        for r in records:
            if r["what"] != "sent":
                continue
            group = "control" if r.get("control") else "valid" if r.get("valid") else r["group"]
            of[group] += 1
            wrong[group] += (r["id"] in arrived) == (r["must"] == "out")
            if r["must"] == "out" and r["group"] in ("forgery", "misuse", "spelling", "garbage"):
                of["catalogue"] += 1
                wrong["catalogue"] += r["id"] in arrived
    late = ("expired", "not yet")
    return {
        "forged": count(wrong["catalogue"], of["catalogue"]), "forgeries": count(wrong["forgery"], of["forgery"]), "misused": count(wrong["misuse"], of["misuse"]),
        "genuine_refused": count(wrong["control"], of["control"]), "false_rejects": count(wrong["valid"], of["valid"]),
        "too_old": count(wrong["keys too old"], of["keys too old"]), "untimely": count(sum(wrong[g] for g in late), sum(of[g] for g in late)),
        "random_in": count(wrong["random kid"], of["random kid"]),
    }


def fetches(history: History) -> Mapping[str, Measured]:
    """The most requests that the key server saw within any ten seconds of virtual time."""
    most, seen = 0, 0
    for records in history.where(kind="fact").trials():
        if records[0]["scenario"] == SERVICE:
            continue
        times = sorted(r["at"] for r in records if r["what"] == "fetched")
        seen += len(times)
        start = 0
        for end, at in enumerate(times):
            while at - times[start] >= INTERVAL_S:
                start += 1
            most = max(most, end - start + 1)
    return {"fetches_an_interval": count(most, seen) if seen else Unmeasured("the key server was never asked")}


# -- pictures


def where(histories: Mapping[str, History]) -> Mapping[str, Any]:
    """What was let in, by group and subject."""
    rows: dict[str, dict[str, int]] = {}
    total: dict[str, int] = {}
    for name, history in histories.items():
        ran = False
        counted: Counter[str] = Counter()
        for records in history.where(kind="fact").trials():
            arrived = {r["id"] for r in records if r["what"] == "arrived"}
            for r in records:
                if r["what"] == "sent" and r["must"] == "out":
                    ran = True
                    family = str(r.get("mutation", r["group"])).split(".")[0] if r["group"] in ("forgery", "misuse", "spelling") else str(r["group"])
                    rows.setdefault(family, {})
                    counted[family] += r["id"] in arrived
        if ran:
            for family in rows:
                rows[family][name] = counted[family]
            total[name] = sum(counted.values())
    listed: list[dict[str, Any]] = [{"name": family, "cells": cells} for family, cells in rows.items()]
    return {"label": "let in, of the family", "rows": [*listed, {"name": "let in, in all", "cells": total, "total": True}]}


