"""Time is passed in. Seconds since the Unix epoch as a float, in every clock.

``SystemClock`` is real. ``ManualClock`` is turned by a test. ``SharedClock`` reads eight shared bytes (a
little-endian float64) that only the proof harness writes, so that a process that was paused wakes to the present;
any language can map the file. (The bytes are the machine's own order, which is little-endian wherever we run.)
"""

from __future__ import annotations

import mmap
import os
import struct
import time
from typing import Protocol


class Clock(Protocol):
    """All that a component may know of time."""

    def now(self) -> float:
        """Seconds since the Unix epoch."""
        ...


class SystemClock:
    """The time of this machine."""

    def now(self) -> float:
        return time.time()


class ManualClock:
    """A clock in memory that moves only when told to."""

    def __init__(self, start: float = 1_800_000_000.0) -> None:
        self._now = start

    def now(self) -> float:
        return self._now

    def set(self, now: float) -> None:
        self._now = now

    def advance(self, seconds: float) -> None:
        self._now += seconds


class SharedClock:
    """Eight bytes in a file, mapped. ``writable`` is for the harness; subjects only read."""

    def __init__(self, path: str, *, writable: bool = False, start: float | None = None) -> None:
        self.path = path
        if writable and start is not None:
            with open(path, "wb") as file:
                file.write(struct.pack("<d", start))
        fd = os.open(path, os.O_RDWR if writable else os.O_RDONLY)
        try:
            self._map = mmap.mmap(fd, 8, access=mmap.ACCESS_WRITE if writable else mmap.ACCESS_READ)
        finally:
            os.close(fd)
        self._view = memoryview(self._map).cast("d")  # eight aligned bytes in one load or store: nobody sees half a time

    def now(self) -> float:
        return float(self._view[0])

    def set(self, now: float) -> None:
        self._view[0] = now

    def advance(self, seconds: float) -> None:
        self.set(self.now() + seconds)

    def close(self) -> None:
        self._view.release()
        self._map.close()
