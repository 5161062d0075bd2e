"""Shape 4, an exhaustive simulation: an updater of a device, cut off at every write. It boots something whole afterwards."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from buttress.proof import Claim, Control, Env, Estimate, History, Proof, Scenario, Subject, Trial
from buttress.proof.contract import Measured

WIDTH = 4  # cells of a slot: three of an image and their sum
ERASED = 255
FLAG = 2 * WIDTH  # two slots, then the cell that says which of them is to run


class Updater(Protocol):
    def plan(self, cells: list[int], image: list[int]) -> list[list[int]]: ...
    def boot(self, cells: list[int]) -> int: ...


class Naive:
    """Writes over what runs."""

    def __init__(self, env: Env) -> None:
        pass

    def plan(self, cells: list[int], image: list[int]) -> list[list[int]]:
        at = self.boot(cells) * WIDTH
        return [[at + offset, value] for offset, value in enumerate([*image, sum(image)])]

    def boot(self, cells: list[int]) -> int:
        return 0


class Good(Naive):
    """Fills the other slot, then turns the flag. Boots what the flag says if that is whole, else the other."""

    def plan(self, cells: list[int], image: list[int]) -> list[list[int]]:
        other = 1 - self.boot(cells)
        writes = [[other * WIDTH + offset, value] for offset, value in enumerate([*image, sum(image)])]
        return [*writes, [FLAG, other]]

    def boot(self, cells: list[int]) -> int:
        chosen = cells[FLAG] if cells[FLAG] in (0, 1) else 0
        return chosen if whole(cells, chosen) else 1 - chosen


@dataclass(frozen=True)
class Size:
    """Images count up to this in each of their three cells."""

    values: int


def image_at(cells: list[int], slot: int) -> tuple[int, ...]:
    return tuple(cells[slot * WIDTH : slot * WIDTH + WIDTH - 1])


def whole(cells: list[int], slot: int) -> bool:
    return ERASED not in image_at(cells, slot) and sum(image_at(cells, slot)) == cells[slot * WIDTH + WIDTH - 1]


def drive(trial: Trial) -> None:
    """Every image, cut before every write and inside it (the cell is left erased), then updated again to its end."""
    trial.open()
    updater = trial.raw_port()
    values = range(trial.size.values)
    runs = bricked = stuck = 0
    first: list[dict[str, object]] = []
    for image in ([a, b, c] for a in values for b in values for c in values):
        old = [9, 9, 9]
        factory = [*old, sum(old), *[ERASED] * WIDTH, 0]
        writes = checked(updater.plan(cells=list(factory), image=list(image)))
        for cut in range(len(writes) + 1):
            for torn in (False, True) if cut < len(writes) else (False,):
                cells = list(factory)
                for at, value in writes[:cut]:
                    cells[at] = value
                if torn:
                    cells[writes[cut][0]] = ERASED
                runs += 1
                slot = updater.boot(cells=list(cells))
                good = slot in (0, 1) and whole(cells, slot) and image_at(cells, slot) in (tuple(old), tuple(image))
                if not good:
                    bricked += 1
                    first += [{"image": image, "cut": cut, "torn": torn}] if len(first) < 3 else []
                    continue
                for at, value in checked(updater.plan(cells=list(cells), image=list(image))):
                    cells[at] = value
                stuck += image_at(cells, updater.boot(cells=list(cells))) != tuple(image)
    trial.record("tally", runs=runs, bricked=bricked, stuck=stuck, first=first)


def checked(writes: list[list[int]]) -> list[list[int]]:
    for at, value in writes:
        if not (0 <= at <= FLAG and 0 <= value < ERASED):
            raise ValueError(f"a write of {value} at {at} is outside of the flash")
    return writes


def cuts(history: History) -> Mapping[str, Measured]:
    tallies = list(history.where(kind="tally"))
    runs = sum(t["runs"] for t in tallies)
    return {name: Estimate(sum(t[name] for t in tallies), n=runs) for name in ("bricked", "stuck")}


def runs_of(size: Size) -> int:
    return int(size.values) ** 3 * (2 * (WIDTH + 1) + 1)


PROOF = Proof(
    system="simulation", port=Updater,
    subjects=(Subject("naive", f"{__file__}:naive", "baseline"), Subject("good", f"{__file__}:good", "buttress")),
    scenarios=(Scenario("every cut", drive),),
    checkers=(cuts,),
    claims=(Claim("bricked", "bricked", "== 0", "runs", perfect=lambda size: Estimate(0, n=runs_of(size))),),
    controls=(Control("the naive updater bricks", "naive", "bricked", "> 0"),
              Control("updates arrive", "judged", "stuck", "== 0", "positive", guards=("bricked",))),
    sizes={"quick": Size(3), "full": Size(9)},
)


def naive(env: Env) -> Naive:
    return Naive(env)


def good(env: Env) -> Good:
    return Good(env)
