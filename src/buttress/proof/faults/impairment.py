"""What a bad line does to packets, decided without any I/O: the words and parameters of Linux ``tc netem``, from one seed.

``offer`` takes a packet at a time and answers when which packets leave. Each packet draws the same number of random values,
whatever happens to it: a slow machine changes times, never decisions, and the same seed drops the same packets on every link.
Sources: netem(8) for the words; E. N. Gilbert (1960) and E. O. Elliott (1963) for burst loss, in netem's parameters.
"""

from __future__ import annotations

import random
from collections import Counter, deque
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import Literal

from buttress.kernel.errors import InvalidInput

NS = 1_000_000_000
_NORMAL = NormalDist()
_PARETO_SHAPE, _PARETO_MEAN, _PARETO_SD = 3.0, 1.5, 0.75**0.5  # netem's table: shape 3, brought to mean 0 and deviation 1


@dataclass(frozen=True)
class GilbertElliott:
    """Losses in bursts: a good and a bad state. All are probabilities for one packet.

    ``p`` from good to bad, ``r`` from bad to good, ``h`` of delivery in the bad state, ``k`` of delivery in the good one.
    """

    p: float
    r: float
    h: float = 0.0
    k: float = 1.0

    def __post_init__(self) -> None:
        for name in ("p", "r", "h", "k"):
            _check_share(name, getattr(self, name))
        if self.p + self.r == 0:
            raise InvalidInput("p, r", (self.p, self.r), "must not both be 0: the state would never change")

    @property
    def mean_loss(self) -> float:
        bad = self.p / (self.p + self.r)
        return bad * (1 - self.h) + (1 - bad) * (1 - self.k)

    @property
    def mean_burst(self) -> float:
        """Packets from the entry into the bad state to its end."""
        return 1 / self.r if self.r else float("inf")


@dataclass(frozen=True)
class Impair:
    """One direction of a line. Shares are 0 to 1, times in milliseconds, and seconds from the start of the line.

    ``jitter_ms`` is a standard deviation. Unless ``jitter_reorders``, packets keep their order; ``reorder`` is the share that goes
    ahead at once of those that wait, as netem has it. ``rate_bps`` counts the bits of a packet as it was offered; of more than
    ``queue_packets`` waiting ones the newest is dropped. In a ``blackouts`` window nothing passes; at each of ``rebinds`` the
    sender's address changes.
    """

    delay_ms: float = 0.0
    jitter_ms: float = 0.0
    distribution: Literal["normal", "pareto", "uniform"] = "normal"
    jitter_reorders: bool = False
    loss: float | GilbertElliott = 0.0
    duplicate: float = 0.0
    reorder: float = 0.0
    corrupt: float = 0.0
    rate_bps: float = 0.0
    queue_packets: int = 1000
    blackouts: tuple[tuple[float, float], ...] = ()
    rebinds: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        for name in ("duplicate", "reorder", "corrupt", *(() if isinstance(self.loss, GilbertElliott) else ("loss",))):
            _check_share(name, getattr(self, name))
        for name in ("delay_ms", "jitter_ms", "rate_bps"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise InvalidInput(name, getattr(self, name), "must be 0 or more")
        if self.distribution not in ("normal", "pareto", "uniform"):
            raise InvalidInput("distribution", self.distribution, "must be normal, pareto or uniform")
        if self.queue_packets < 1:
            raise InvalidInput("queue_packets", self.queue_packets, "must be at least 1")
        for start_s, end_s in self.blackouts:
            if not 0 <= start_s < end_s:
                raise InvalidInput("blackouts", (start_s, end_s), "must begin at 0 or later, and end after they begin")

    @property
    def mean_loss(self) -> float:
        """The share that is lost, blackouts and full queues aside."""
        return self.loss.mean_loss if isinstance(self.loss, GilbertElliott) else self.loss


@dataclass
class Passed:
    """What a line did so far. ``dropped`` is counted by cause: loss, blackout, queue."""

    offered: int = 0
    sent: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    duplicated: int = 0
    reordered: int = 0
    corrupted: int = 0
    delayed: int = 0

    @property
    def affected(self) -> int:
        """Packets that did not simply pass."""
        return sum(self.dropped.values()) + self.duplicated + self.reordered + self.corrupted + self.delayed


@dataclass(frozen=True)
class _Draws:
    """All that chance decides about one packet."""

    lost: float
    state: float
    copied: float
    ahead: float
    damaged: float
    where: float
    wait: float


class Impairment:
    """One direction under ``spec``. Times are nanoseconds since the line began."""

    def __init__(self, spec: Impair, seed: str | int) -> None:
        self.spec = spec
        self.passed = Passed()
        self._rng = random.Random(f"impairment/{seed}")
        self._bad = False
        self._last_due_ns = 0
        self._free_ns = 0
        self._leaving: deque[int] = deque()

    def offer(self, packet: bytes, now_ns: int) -> list[tuple[int, bytes]]:
        """When which packets leave: none (lost), one, or two (duplicated)."""
        spec, draw = self.spec, _Draws(*(self._rng.random() for _ in range(7)))
        self.passed.offered += 1
        lost = self._lost(draw)  # first, and always: a burst goes on during a blackout
        if any(start_s * NS <= now_ns < end_s * NS for start_s, end_s in spec.blackouts):
            return self._drop("blackout")
        if lost:
            return self._drop("loss")
        due_ns = now_ns if spec.rate_bps == 0 else self._serialised(len(packet), now_ns)
        if due_ns is None:
            return self._drop("queue")
        if draw.damaged < spec.corrupt and packet:
            packet = _flip(packet, draw.where)
            self.passed.corrupted += 1
        wait_ns = self._wait_ns(draw.wait)
        if draw.ahead < spec.reorder and wait_ns:
            self.passed.reordered += 1
        else:
            due_ns += wait_ns
            if not spec.jitter_reorders:
                due_ns = max(due_ns, self._last_due_ns)
            self._last_due_ns = max(due_ns, self._last_due_ns)
        self.passed.delayed += due_ns > now_ns
        copies = 2 if draw.copied < spec.duplicate else 1
        self.passed.duplicated += copies - 1
        self.passed.sent += copies
        return [(due_ns, packet)] * copies

    def address(self, now_ns: int) -> int:
        """How often the sender's address has changed by then."""
        return sum(1 for at_s in self.spec.rebinds if at_s * NS <= now_ns)

    def _lost(self, draw: _Draws) -> bool:
        loss = self.spec.loss
        if not isinstance(loss, GilbertElliott):
            return draw.lost < loss
        lost = draw.lost >= (loss.h if self._bad else loss.k)
        self._bad = draw.state >= loss.r if self._bad else draw.state < loss.p
        return lost

    def _drop(self, cause: str) -> list[tuple[int, bytes]]:
        self.passed.dropped[cause] += 1
        return []

    def _serialised(self, size_bytes: int, now_ns: int) -> int | None:
        """When its last bit has left at the line's rate; None: the queue is full."""
        while self._leaving and self._leaving[0] <= now_ns:
            self._leaving.popleft()
        if len(self._leaving) >= self.spec.queue_packets:
            return None
        self._free_ns = max(now_ns, self._free_ns) + int(size_bytes * 8 * NS / self.spec.rate_bps)
        self._leaving.append(self._free_ns)
        return self._free_ns

    def _wait_ns(self, draw: float) -> int:
        """Delay with jitter from one uniform draw, by the inverse of the distribution; never below 0."""
        spec = self.spec
        if not spec.jitter_ms:
            return int(spec.delay_ms * 1e6)
        draw = min(max(draw, 1e-12), 1 - 1e-12)
        if spec.distribution == "normal":
            deviation = _NORMAL.inv_cdf(draw)
        elif spec.distribution == "pareto":
            deviation = ((1 - draw) ** (-1 / _PARETO_SHAPE) - _PARETO_MEAN) / _PARETO_SD
        else:
            deviation = (2 * draw - 1) * 3**0.5
        return max(0, int((spec.delay_ms + deviation * spec.jitter_ms) * 1e6))


def _flip(packet: bytes, where: float) -> bytes:
    """One bit, anywhere."""
    bit = min(int(where * len(packet) * 8), len(packet) * 8 - 1)
    damaged = bytearray(packet)
    damaged[bit // 8] ^= 1 << (bit % 8)
    return bytes(damaged)


def _check_share(name: str, share: float) -> None:
    if not isinstance(share, int | float) or not 0 <= share <= 1:
        raise InvalidInput(name, share, "must be between 0 and 1")
