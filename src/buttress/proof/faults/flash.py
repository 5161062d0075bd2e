"""NOR flash as firmware meets it, and the power that goes in the middle of an operation.

Erase sets a sector to 0xFF; a write can only clear bits, in aligned words; a cut tears the operation that it hits: an arbitrary
part of its bits has changed. Wear is counted, an erase may fail, a word that was torn may read differently each time until it
is written anew (read disturb). A program that runs on it is cut at its n-th operation, by an exception that nothing catches.

Tears are named: ``nothing`` of the operation happened, ``first half`` of its words, ``all but the last word``, ``random bits``.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal

from buttress.kernel.errors import InvalidInput

Tear = Literal["nothing", "first half", "all but the last word", "random bits"]
TEARS: tuple[Tear, ...] = ("nothing", "first half", "all but the last word", "random bits")


class PowerLost(BaseException):
    """The power went. No program catches it: only the bench does, which then boots anew."""


class FlashError(Exception):
    """An operation that the part refuses, or an erase that failed: an error that a driver must handle."""


@dataclass(frozen=True)
class Geometry:
    """``size`` bytes in sectors that are erased whole, written in aligned words of ``write_bytes`` (1, 2, 4, 8, ...)."""

    size: int
    sector_bytes: int = 4096
    write_bytes: int = 8

    def __post_init__(self) -> None:
        if self.write_bytes < 1 or self.write_bytes & (self.write_bytes - 1):
            raise InvalidInput("write_bytes", self.write_bytes, "must be a power of two")
        if self.sector_bytes < self.write_bytes or self.sector_bytes % self.write_bytes:
            raise InvalidInput("sector_bytes", self.sector_bytes, "must be a multiple of the write size")
        if self.size < self.sector_bytes or self.size % self.sector_bytes:
            raise InvalidInput("size", self.size, "must be a multiple of the sector size")


@dataclass
class Flash:
    """``cut_at`` names the operation (from 1) in which the power goes, ``tear`` what is left of it.

    ``strict``: writing a word that was written since its erase is refused, as parts with ECC do; else it clears bits.
    ``bad_sectors`` fail each erase.
    """

    geometry: Geometry
    cut_at: int = 0
    tear: Tear = "nothing"
    rng: random.Random = field(default_factory=lambda: random.Random(0))
    strict: bool = True
    bad_sectors: frozenset[int] = frozenset()
    operations: int = 0
    wear: dict[int, int] = field(default_factory=dict)  # erases, by sector
    data: bytearray = field(default_factory=bytearray)
    _written: set[int] = field(default_factory=set)  # words since their erase
    _weak: dict[int, bytes] = field(default_factory=dict)  # torn words, and what they may read as

    def __post_init__(self) -> None:
        if not self.data:
            self.data = bytearray(b"\xff" * self.geometry.size)
        if len(self.data) != self.geometry.size:
            raise InvalidInput("data", len(self.data), f"must be {self.geometry.size} bytes")

    # -- what a driver does

    def read(self, offset: int, size: int) -> bytes:
        """Words that were torn read as either of their values, each time anew."""
        self._inside(offset, size)
        found = bytearray(self.data[offset : offset + size])
        for word, other in self._weak.items():
            at = word * self.geometry.write_bytes
            for index in range(self.geometry.write_bytes):
                if offset <= at + index < offset + size and self.rng.random() < 0.5:
                    found[at + index - offset] = other[index]
        return bytes(found)

    def write(self, offset: int, data: bytes) -> None:
        """Clears bits; a bit that is to be set stays as it is. Raises FlashError for what is not aligned, or written twice."""
        unit = self.geometry.write_bytes
        self._inside(offset, len(data))
        if offset % unit or len(data) % unit or not data:
            raise FlashError(f"a write of {len(data)} bytes at {offset} is not in aligned words of {unit}")
        words = range(offset // unit, (offset + len(data)) // unit)
        if self.strict and any(word in self._written for word in words):
            raise FlashError(f"a word at {offset} was written since its erase")
        after = bytearray(old & new for old, new in zip(self.data[offset : offset + len(data)], data, strict=True))
        self._operate(offset, after, weak=True)
        self._written.update(words)
        for word in words:
            self._weak.pop(word, None)

    def erase(self, offset: int) -> None:
        """One sector to 0xFF. Raises FlashError where it fails; what it held is then undefined."""
        sector_bytes = self.geometry.sector_bytes
        self._inside(offset, sector_bytes)
        if offset % sector_bytes:
            raise FlashError(f"an erase at {offset} is not at a sector")
        sector = offset // sector_bytes
        self.wear[sector] = self.wear.get(sector, 0) + 1
        after = bytearray(b"\xff" * sector_bytes)
        if sector in self.bad_sectors:
            self._count_only()
            self.data[offset : offset + sector_bytes] = _torn(self.data[offset : offset + sector_bytes], after, "random bits", self.geometry.write_bytes, self.rng)
            raise FlashError(f"sector {sector} does not erase")
        self._operate(offset, after, weak=False)
        words = range(offset // self.geometry.write_bytes, (offset + sector_bytes) // self.geometry.write_bytes)
        self._written.difference_update(words)
        for word in words:
            self._weak.pop(word, None)

    # -- the cut

    def _operate(self, offset: int, after: bytearray, *, weak: bool) -> None:
        self.operations += 1
        before = self.data[offset : offset + len(after)]
        if self.operations != self.cut_at:
            self.data[offset : offset + len(after)] = after
            return
        unit = self.geometry.write_bytes
        left = _torn(before, after, self.tear, unit, self.rng)
        self.data[offset : offset + len(after)] = left
        for index in range(0, len(after), unit):
            word = (offset + index) // unit
            piece, old, new = left[index : index + unit], before[index : index + unit], after[index : index + unit]
            if piece != old and piece != new:
                self._weak[word] = bytes(new)
            if weak and piece != old:
                self._written.add(word)
            elif not weak and piece != new:
                self._written.add(word)  # half erased: it must be erased again before it is written
        raise PowerLost

    def _count_only(self) -> None:
        self.operations += 1
        if self.operations == self.cut_at:
            raise PowerLost

    def _inside(self, offset: int, size: int) -> None:
        if offset < 0 or size < 0 or offset + size > self.geometry.size:
            raise FlashError(f"{size} bytes at {offset} are not inside of {self.geometry.size}")

    def powered(self, cut_at: int = 0, tear: Tear = "nothing") -> Flash:
        """The same part after the power came back: its bytes, its wear and its weak words; operations are counted anew."""
        return Flash(self.geometry, cut_at, tear, self.rng, self.strict, self.bad_sectors, 0, dict(self.wear), bytearray(self.data),
                     set(self._written), dict(self._weak))

    def copy(self) -> Flash:
        """As it is, operations included."""
        other = self.powered(self.cut_at, self.tear)
        other.operations = self.operations
        return other


def _torn(before: bytearray, after: bytearray, tear: Tear, unit: int, rng: random.Random) -> bytearray:
    words = len(after) // unit
    if tear == "nothing":
        return bytearray(before)
    if tear in ("first half", "all but the last word"):
        done = (words // 2 if tear == "first half" else words - 1) * unit
        return bytearray(after[:done] + before[done:])
    mask = rng.randbytes(len(after))
    return bytearray((old & ~bit & 0xFF) | (new & bit) for old, new, bit in zip(before, after, mask, strict=True))


@dataclass(frozen=True)
class Cut:
    """One run of the bench: the power went at ``first`` (and, in the recovery, at ``second``); what the last boot said."""

    first: int
    tear: Tear
    second: int
    second_tear: Tear
    outcome: object


def every_cut(start: Flash, program: Callable[[Flash], object], recover: Callable[[Flash], object], *, tears: tuple[Tear, ...] = TEARS,
              levels: int = 2, keep: Callable[[int], bool] = lambda number: True) -> Iterator[Cut]:
    """Cuts ``program`` at each of its operations with each tear, and ``recover`` at each of its own; then lets it recover in peace.

    ``levels`` 1: no second cut. ``keep(number)`` samples the second level: it is asked with the number of the run. The flash
    that the last recovery left is judged by what ``recover`` returns; it is called with the power on for good.
    """
    number = 0
    for first, tear in _cuts(start, program, tears):
        broken = _run(start.powered(first, tear), program)
        yield Cut(first, tear, 0, "nothing", recover(broken.powered()))
        if levels < 2:
            continue
        for second, second_tear in _cuts(broken, recover, tears):
            number += 1
            if keep(number):
                twice = _run(broken.powered(second, second_tear), recover)
                yield Cut(first, tear, second, second_tear, recover(twice.powered()))


def _cuts(flash: Flash, program: Callable[[Flash], object], tears: tuple[Tear, ...]) -> Iterator[tuple[int, Tear]]:
    clean = flash.powered()
    program(clean)
    for operation in range(1, clean.operations + 1):
        for tear in tears:
            yield operation, tear


def _run(flash: Flash, program: Callable[[Flash], object]) -> Flash:
    try:
        program(flash)
    except PowerLost:
        pass
    return flash


__all__ = ["TEARS", "Cut", "Flash", "FlashError", "Geometry", "PowerLost", "Tear", "every_cut"]
