"""Shape 1, a service: it takes orders, and is killed at every step. What was taken is neither lost nor served twice."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from operator import methodcaller
from typing import Protocol

from buttress.kernel.failpoint import failpoint
from buttress.proof import Claim, Control, Env, History, Proof, Scenario, Subject, Trial, Unmeasured
from buttress.proof.contract import Measured
from buttress.proof.faults import Crash
from buttress.proof.verdict import count


class Desk(Protocol):
    def take(self, order: str) -> str: ...
    def served(self) -> list[str]: ...


class Naive:
    """Serves whatever it is told; a caller that asks again gets it again."""

    def __init__(self, env: Env) -> None:
        self._book = os.open(os.path.join(env.dir, "book"), os.O_RDWR | os.O_CREAT | os.O_APPEND)

    def take(self, order: str) -> str:
        failpoint("before")
        os.write(self._book, order.encode() + b"\n")
        failpoint("after")
        return "taken"

    def served(self) -> list[str]:
        return os.pread(self._book, 1 << 20, 0).decode().split()


class Good(Naive):
    """Looks first whether it has served the order already."""

    def take(self, order: str) -> str:
        return "taken before" if order in self.served() else super().take(order)


@dataclass(frozen=True)
class Size:
    orders: int


def drive(trial: Trial) -> None:
    trial.open()
    due = [f"order-{number}" for number in range(trial.size.orders)]
    for order in due:
        trial.surely(methodcaller("take", order=order))
    trial.record("fact", due=due, served=trial.surely(methodcaller("served")))


def kept(history: History) -> Mapping[str, Measured]:
    books = [(set(f["due"]), f["served"]) for f in history.where(kind="fact")]
    due = sum(len(d) for d, _ in books)
    if not due:
        return {"lost": Unmeasured("no trial ended"), "doubled": Unmeasured("no trial ended")}
    return {"lost": count(sum(len(d - set(s)) for d, s in books), due), "doubled": count(sum(len(s) - len(set(s)) for _, s in books), due)}


PROOF = Proof(
    system="service", port=Desk,
    subjects=(Subject("naive", f"{__file__}:naive", "baseline"), Subject("good", f"{__file__}:good", "buttress")),
    scenarios=(Scenario("crash", drive, (Crash(each=1, replies=3),), processes=True),),
    checkers=(kept,),
    claims=(Claim("nothing lost", "lost", "== 0", "orders", needs=("crash",), perfect=lambda size: count(0, size.orders)),
            Claim("nothing doubled", "doubled", "== 0", "orders", needs=("crash",), perfect=lambda size: count(0, size.orders))),
    controls=(Control("asking again doubles", "naive", "doubled", "> 0"),),
    sizes={"quick": Size(4)},
    findings={"pass": "Of the orders taken {lost} were lost.", "fail": "{lost} orders were lost, {doubled} served twice."},
)


def naive(env: Env) -> Naive:
    return Naive(env)


def good(env: Env) -> Good:
    return Good(env)
