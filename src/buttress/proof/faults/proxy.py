"""A TCP proxy on 127.0.0.1 between a subject and a simulator, with faults that have names.

``drop_after_commit``: the request is delivered, its answer swallowed and the connection closed. The others are what their
names say; ``drip`` sends a byte at a time, ``outage`` refuses connections. It works on whole answers as they arrive, so it
suits request-response protocols with small answers.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit, urlunsplit

from buttress.proof.contract import Case

if TYPE_CHECKING:
    from buttress.proof.trial import Trial

Mode = Literal["drop_after_commit", "half_close", "reset_mid_body", "duplicate", "delay", "truncate", "drip", "stall", "outage"]
MODES: tuple[Mode, ...] = ("drop_after_commit", "half_close", "reset_mid_body", "duplicate", "delay", "truncate", "drip", "stall", "outage")
CHUNK = 1 << 16


@dataclass
class Relay:
    """Forwards connections to ``host:port``; the answers whose number (from 1) is in ``strikes`` meet the fault."""

    host: str
    port: int
    mode: Mode
    strikes: frozenset[int]
    delay_s: float = 0.05
    struck: int = 0
    answers: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _open: set[socket.socket] = field(default_factory=set)
    _stop: threading.Event = field(default_factory=threading.Event)

    @contextlib.contextmanager
    def serving(self) -> Iterator[int]:
        """Yields the port that it listens on. All connections are closed at the end."""
        listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        thread = threading.Thread(target=self._accept, args=(listener,), daemon=True)
        thread.start()
        try:
            yield int(listener.getsockname()[1])
        finally:
            self._stop.set()
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
            with self._lock:
                for connection in list(self._open):
                    with contextlib.suppress(OSError):
                        connection.shutdown(socket.SHUT_RDWR)
            thread.join(timeout=5)

    def _accept(self, listener: socket.socket) -> None:
        while not self._stop.is_set():
            try:
                client, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=self._relay, args=(client,), daemon=True).start()

    def _due(self) -> bool:
        with self._lock:
            self.answers += 1
            hit = self.answers in self.strikes
            self.struck += hit
            return hit

    def _relay(self, client: socket.socket) -> None:
        with contextlib.ExitStack() as stack:
            stack.callback(client.close)
            if self.mode == "outage" and self._due():
                _reset(client)
                return
            try:
                upstream = socket.create_connection((self.host, self.port), timeout=10)
            except OSError:
                return
            stack.callback(upstream.close)
            upstream.settimeout(None)
            for connection in (client, upstream):
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                self._open |= {client, upstream}
            there = threading.Thread(target=self._requests, args=(client, upstream), daemon=True)
            there.start()
            with contextlib.suppress(OSError):
                self._answers(client, upstream)
            for connection in (client, upstream):
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
            there.join(timeout=5)
            with self._lock:
                self._open -= {client, upstream}

    def _requests(self, client: socket.socket, upstream: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while chunk := client.recv(CHUNK):
                upstream.sendall(chunk)
            upstream.shutdown(socket.SHUT_WR)

    def _answers(self, client: socket.socket, upstream: socket.socket) -> None:
        while chunk := upstream.recv(CHUNK):
            if self.mode != "outage" and self._due():
                if not self._strike(client, chunk):
                    return
            else:
                client.sendall(chunk)

    def _strike(self, client: socket.socket, chunk: bytes) -> bool:
        """Does the fault to one answer. False: the connection is over."""
        half = chunk[: max(1, len(chunk) // 2)]
        if self.mode == "delay":
            self._stop.wait(self.delay_s)
            client.sendall(chunk)
        elif self.mode == "duplicate":
            client.sendall(chunk + chunk)
        elif self.mode == "drip":
            for index in range(len(chunk)):
                client.sendall(chunk[index : index + 1])
        elif self.mode == "half_close":
            client.sendall(chunk)
            client.shutdown(socket.SHUT_WR)
            return False
        elif self.mode == "truncate":
            client.sendall(half)
            return False
        elif self.mode == "reset_mid_body":
            client.sendall(half)
            _reset(client)
            return False
        elif self.mode == "stall":
            self._stop.wait(60)
            return False
        else:  # drop_after_commit
            return False
        return True


def _reset(connection: socket.socket) -> None:
    """Closes with RST instead of FIN."""
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.shutdown(socket.SHUT_RD)  # wakes the thread that reads it, which would keep it open
    connection.close()


@dataclass(frozen=True)
class Proxy:
    """Puts a proxy before each named simulator of the world, a case for each. Every ``every``-th answer meets the fault.

    For ``outage`` the first ``every`` connections are refused.
    """

    names: tuple[str, ...]
    mode: Mode = "drop_after_commit"
    every: int = 3
    at_most: int = 10_000
    name: str = ""
    needs: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.name:
            object.__setattr__(self, "name", self.mode.replace("_", " "))

    def cases(self, clean_hits: Mapping[str, int]) -> Iterable[Case]:
        for name in self.names:
            yield Case(f"{self.name} · {name}", during=self._around(name))

    def _around(self, name: str) -> Any:
        @contextlib.contextmanager
        def during(trial: Trial) -> Iterator[None]:
            parts = urlsplit(trial.world[name])
            strikes = frozenset(range(1, self.every + 1) if self.mode == "outage" else range(self.every, self.at_most, self.every))
            relay = Relay(parts.hostname or "127.0.0.1", parts.port or 80, self.mode, strikes)
            trial.hit = False
            with relay.serving() as port:
                trial.world[name] = urlunsplit(parts._replace(netloc=f"127.0.0.1:{port}"))
                yield
                deadline = time.monotonic() + 1
                while not relay.struck and time.monotonic() < deadline:
                    time.sleep(0.005)
            trial.hit = relay.struck > 0
            trial.record("fault", name=self.name, armed=1, hit=int(trial.hit), struck=relay.struck)

        return during
