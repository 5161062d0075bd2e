"""kill -9 of the subject itself: at each failpoint, after each reply, at each write and sync. And the power cut.

A kill leaves the page cache: it shows what a process death does, never what a power cut does.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from buttress.proof.contract import Case
from buttress.proof.faults.disk import TEARS, Tear


@dataclass(frozen=True)
class Crash:
    """At every failpoint (``each`` of its hits, evenly spread; 0: all) and after replies: ``replies`` of each call (0: all) in ``of`` (empty: any).

    Replies are counted by call: a subject that acknowledges before it stores is found only by a kill right after an
    acknowledgement, and calls that acknowledge nothing must not take its place.
    """

    each: int = 1
    replies: int = 0
    of: tuple[str, ...] = ()
    name: str = "kill -9"
    needs: tuple[str, ...] = ("crash",)

    def cases(self, clean_hits: Mapping[str, int]) -> Iterable[Case]:
        for point, hits in sorted(clean_hits.items()):
            if not point.startswith("@"):
                for hit in spread(hits, self.each):
                    yield Case(f"kill -9 at {point} #{hit}", {point: (hit, "kill")})
        calls = {point: hits for point, hits in sorted(clean_hits.items()) if point.startswith("@reply:") and (not self.of or point.removeprefix("@reply:") in self.of)}
        for point, hits in calls.items():
            for hit in spread(hits, self.replies):
                yield Case(f"kill -9 after reply {hit} to {point.removeprefix('@reply:')}", {point: (hit, "kill")})


@dataclass(frozen=True)
class CrashAtCall:
    """At the n-th ``write`` or ``sync`` system call, by strace: needs no failpoint in the subject, whatever its language."""

    call: str = "sync"
    at_most: int = 12
    name: str = "kill -9 at a system call"
    needs: tuple[str, ...] = ("crash", "strace")
    traced: bool = True

    def cases(self, clean_hits: Mapping[str, int]) -> Iterable[Case]:
        for hit in spread(clean_hits.get(f"@{self.call}", 0), self.at_most):
            yield Case(f"kill -9 at {self.call} {hit}", {f"@{self.call}": (hit, "kill")})


@dataclass(frozen=True)
class PowerCut:
    """The power goes at the n-th write or sync of the subject, once for each tear: it finds its folder as a disk may hold it.

    By strace, so that it needs nothing in the subject. ``at_most`` points of each kind of call, evenly spread (0: all).
    """

    at_most: int = 12
    tears: tuple[Tear, ...] = TEARS
    name: str = "power cut"
    needs: tuple[str, ...] = ("crash", "strace")
    traced: bool = True

    def cases(self, clean_hits: Mapping[str, int]) -> Iterable[Case]:
        for call in ("sync", "write"):
            for hit in spread(clean_hits.get(f"@{call}", 0), self.at_most):
                for tear in self.tears:
                    yield Case(f"{self.name} at {call} {hit}, {tear}", {f"@{call}": (hit, "kill")}, power=tear)


@dataclass(frozen=True)
class Pause:
    """SIGSTOP at a failpoint. The driver lets its lease pass, goes on with another worker, and wakes it afterwards.

    ``inside`` names points within a write transaction: there a pause stalls every other writer of an embedded store, which is
    another fault (a busy timeout) than a holder that was passed over.
    """

    inside: tuple[str, ...] = ("store.commit",)
    each: int = 1
    name: str = "paused beyond its lease"
    needs: tuple[str, ...] = ("pause",)

    def cases(self, clean_hits: Mapping[str, int]) -> Iterable[Case]:
        for point, hits in sorted(clean_hits.items()):
            if not point.startswith("@") and point not in self.inside:
                for hit in spread(hits, self.each):
                    yield Case(f"stopped at {point} #{hit}", {point: (hit, "stop")})


def spread(total: int, at_most: int) -> Iterator[int]:
    """``at_most`` of 1..total, evenly; all of them for 0."""
    if at_most <= 0 or at_most >= total:
        yield from range(1, total + 1)
        return
    for index in range(at_most):
        yield 1 + (2 * index + 1) * total // (2 * at_most)
