"""A UDP proxy on 127.0.0.1 between a subject and a simulator: loss, delay, reordering, duplicates, blackouts, a new source port.

What happens to which packet is decided by ``Impairment``, one for each direction, from the trial's seed. Packets wait in a
queue by the time when they are due, never in the forwarder. Each sender has a socket of its own towards the other side; at a
rebind it gets a new one, and what is still sent to the old port is lost, as behind a NAT that forgot its binding.
"""

from __future__ import annotations

import contextlib
import heapq
import select
import socket
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

from buttress.proof.contract import Case
from buttress.proof.faults.impairment import Impair, Impairment

if TYPE_CHECKING:
    from buttress.proof.trial import Trial

DATAGRAM_MAX_BYTES = 65_535
SENDERS_MAX = 1024
QUEUE_MAX = 100_000
BURST = 64  # datagrams that are taken from a socket before those that are due are looked at
BUFFER_BYTES = 1 << 22  # as much of it as the kernel allows: what its buffer drops is a loss that nobody asked for
Address = tuple[str, int]


@dataclass
class DatagramRelay:
    """Forwards datagrams to ``host:port``: ``up`` towards it, ``down`` back. ``lateness_ms`` is what each left later than asked."""

    host: str
    port: int
    up: Impair = field(default_factory=Impair)
    down: Impair = field(default_factory=Impair)
    seed: int | str = 0
    rebound: int = 0
    lateness_ms: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.upward, self.downward = Impairment(self.up, f"{self.seed}/up"), Impairment(self.down, f"{self.seed}/down")
        self._senders: dict[Address, socket.socket] = {}
        self._bound: dict[Address, int] = {}
        self._queue: list[tuple[int, int, bytes, Address, bool]] = []
        self._number = 0
        self._stop = threading.Event()
        self._front: socket.socket

    @property
    def affected(self) -> int:
        """Packets that did not simply pass, and address changes."""
        return self.upward.passed.affected + self.downward.passed.affected + self.rebound

    @contextlib.contextmanager
    def serving(self) -> Iterator[int]:
        """Yields the port that it listens on."""
        with _socket() as front:
            front.bind(("127.0.0.1", 0))
            thread = threading.Thread(target=self._run, args=(front,), daemon=True)
            thread.start()
            try:
                yield int(front.getsockname()[1])
            finally:
                self._stop.set()
                thread.join(timeout=5)
                for back in self._senders.values():
                    back.close()

    def _run(self, front: socket.socket) -> None:
        self._front, began_ns = front, time.monotonic_ns()
        while not self._stop.is_set():
            now_ns = time.monotonic_ns() - began_ns
            wait_s = min(0.02, max(0.0, (self._queue[0][0] - now_ns) / 1e9)) if self._queue else 0.02
            backs = {back: sender for sender, back in self._senders.items()}
            ready, _, _ = select.select([front, *backs], [], [], wait_s)
            for source in ready:
                for _ in range(BURST):
                    try:
                        packet, address = source.recvfrom(DATAGRAM_MAX_BYTES)
                    except OSError:  # nothing more, or ICMP: the other side is not there
                        break
                    sender = address if source is front else backs[source]
                    self._offer(packet, sender, source is front, time.monotonic_ns() - began_ns)
            self._forward(time.monotonic_ns() - began_ns)

    def _offer(self, packet: bytes, sender: Address, upwards: bool, now_ns: int) -> None:
        for due_ns, each in (self.upward if upwards else self.downward).offer(packet, now_ns):
            self._number += 1
            if len(self._queue) < QUEUE_MAX:
                heapq.heappush(self._queue, (due_ns, self._number, each, sender, upwards))

    def _forward(self, now_ns: int) -> None:
        while self._queue and self._queue[0][0] <= now_ns:
            due_ns, _, packet, sender, upwards = heapq.heappop(self._queue)
            self.lateness_ms.append((now_ns - due_ns) / 1e6)
            with contextlib.suppress(OSError):
                if upwards:
                    self._back(sender, now_ns).sendto(packet, (self.host, self.port))
                else:
                    self._front.sendto(packet, sender)

    def _back(self, sender: Address, now_ns: int) -> socket.socket:
        """The sender's own socket; a new one after each rebind."""
        times = self.upward.address(now_ns)
        if sender in self._senders and self._bound[sender] == times:
            return self._senders[sender]
        if sender in self._senders:
            self._senders.pop(sender).close()
            self.rebound += 1
        elif len(self._senders) >= SENDERS_MAX:
            self._senders.pop(next(iter(self._senders))).close()
        self._bound[sender] = times
        self._senders[sender] = back = _socket()
        return back


def _socket() -> socket.socket:
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
    made.setblocking(False)
    return made


@dataclass(frozen=True)
class Datagrams:
    """Puts the proxy before each named simulator (``udp://host:port`` in the world), a case for each."""

    names: tuple[str, ...]
    up: Impair = field(default_factory=Impair)
    down: Impair = field(default_factory=Impair)
    name: str = "datagrams impaired"
    needs: tuple[str, ...] = ()

    def cases(self, clean_hits: Mapping[str, int]) -> Iterable[Case]:
        for name in self.names:
            yield Case(f"{self.name} · {name}", during=self._around(name))

    def _around(self, name: str) -> Any:
        @contextlib.contextmanager
        def during(trial: Trial) -> Iterator[None]:
            parts = urlsplit(trial.world[name])
            relay = DatagramRelay(parts.hostname or "127.0.0.1", parts.port or 0, self.up, self.down, trial.seed)
            trial.hit = False
            with relay.serving() as port:
                trial.world[name] = urlunsplit(parts._replace(netloc=f"127.0.0.1:{port}"))
                yield
            trial.hit = relay.affected > 0
            dropped = relay.upward.passed.dropped + relay.downward.passed.dropped
            trial.record("fault", name=self.name, armed=1, hit=int(trial.hit), link="proxy", dropped=dict(dropped),
                         lateness_p99_ms=_p99(relay.lateness_ms))

        return during


def _p99(values: list[float]) -> float:
    return sorted(values)[int(0.99 * (len(values) - 1))] if values else 0.0
