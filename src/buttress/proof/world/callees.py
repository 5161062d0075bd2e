"""Callees over HTTP that record each effect as a fact, in a process that faults do not kill. Simulated, and labelled so.

What a callee honours decides what a lost answer means to its caller: ``keyed`` honours an Idempotency-Key, ``lookup`` none
but answers a GET by our reference, ``plain`` neither.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import socketserver
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import parse_qs, unquote, urlsplit

if TYPE_CHECKING:
    from buttress.proof.trial import Trial

BODY_MAX_BYTES = 1 << 20
TIMEOUT_S = 30.0


@dataclass
class Callee:
    """One callee. ``fails(method, number)`` says what becomes of a request, by its number of that method from 1.

    ``""``: it works. ``refuse``: 503, and nothing is done. ``after``: it is done, and the answer is 500; a GET is answered 500.
    """

    name: str
    honours: Literal["keyed", "lookup", "plain"]
    fails: Callable[[str, int], Literal["", "refuse", "after"]] = lambda method, number: ""
    key_ttl_s: float = 24 * 3600.0  # how long it honours a key: Stripe promises 24 hours and no more
    answers: dict[str, tuple[float, bytes]] = field(default_factory=dict)  # by key: when, what
    found: dict[str, bytes] = field(default_factory=dict)  # by reference
    state: dict[str, Any] = field(default_factory=dict)  # by object: the last one that was written
    requests: int = 0
    lookups: int = 0
    references: set[str] = field(default_factory=set)  # what happened at all


class Callees:
    """All callees of one trial on one port: ``POST /<name>`` with JSON ``{"reference", ...}`` is an effect.

    With ``"object"`` and ``"status"`` the effect also sets that object's state: the last writer wins, as in most real systems.
    """

    def __init__(self, callees: Sequence[Callee], trial: Trial) -> None:
        self.callees = {callee.name: callee for callee in callees}
        self._trial = trial
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def serving(self) -> Iterator[Mapping[str, str]]:
        """Yields ``{name: URL}``."""
        server = _Server(("127.0.0.1", int(os.environ.get("BUTTRESS_WORLD_PORT", "0"))), _Connection)
        server.callees = self
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            port = server.server_address[1]
            yield {name: f"http://127.0.0.1:{port}/{name}" for name in self.callees}
        finally:
            server.shutdown()
            server.drop()
            server.server_close()
            thread.join(timeout=5)

    def answer(self, method: str, target: str, headers: Mapping[str, str], body: bytes) -> tuple[int, bytes]:
        """One request: status and body."""
        parts = urlsplit(target)
        name, _, rest = parts.path.strip("/").partition("/")
        callee = self.callees.get(name)
        if callee is None:
            return 404, b"{}"
        with self._lock:
            if method == "GET":
                callee.lookups += 1
                if failure := callee.fails("GET", callee.lookups):
                    return (503 if failure == "refuse" else 500), b"{}"
                reference = unquote(rest) or parse_qs(parts.query).get("reference", [""])[0]
                there = callee.found.get(reference) if callee.honours == "lookup" else None
                return (200, there) if there is not None else (404, b"{}")
            return self._effect(callee, headers, body)

    def _effect(self, callee: Callee, headers: Mapping[str, str], body: bytes) -> tuple[int, bytes]:
        callee.requests += 1
        failure = callee.fails("POST", callee.requests)
        if failure == "refuse":
            return 503, b"{}"
        key = headers.get("idempotency-key", "")
        now = self._trial.clock.now()
        if callee.honours == "keyed" and key in callee.answers and now < callee.answers[key][0] + callee.key_ttl_s:
            return 200, callee.answers[key][1]
        try:
            effect = json.loads(body)
            reference = str(effect["reference"])
        except (ValueError, KeyError, TypeError):
            return 400, b'{"error": "no reference"}'
        if "object" in effect:
            callee.state[str(effect["object"])] = effect.get("status")
        answer = json.dumps({"id": f"{callee.name}-{callee.requests}"}).encode()
        callee.references.add(reference)
        callee.found[str(effect.get("key") or reference)] = answer
        if callee.honours == "keyed" and key:
            callee.answers[key] = (now, answer)
        fields = {"object": str(effect["object"])} if "object" in effect else {}
        self._trial.record("fact", what="effect", callee=callee.name, reference=reference, at=now, **fields)
        return (200, answer) if not failure else (500, b"{}")


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64
    callees: Callees

    def __init__(self, *args: Any) -> None:
        self._open: set[socket.socket] = set()
        super().__init__(*args)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def drop(self) -> None:
        """Ends the connections that are kept alive: their threads end with them."""
        for connection in list(self._open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


class _Connection(socketserver.StreamRequestHandler):
    """HTTP/1.1 with keep-alive, as little of it as callees need."""

    timeout = TIMEOUT_S
    disable_nagle_algorithm = True
    server: _Server

    def handle(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            while self._one():
                pass

    def _one(self) -> bool:
        first = self.rfile.readline(8192).decode("latin-1").split()
        if len(first) != 3:
            return False
        headers: dict[str, str] = {}
        while (line := self.rfile.readline(8192)) not in (b"\r\n", b"\n", b""):
            name, _, value = line.decode("latin-1").partition(":")
            headers[name.strip().lower()] = value.strip()
        length = int(headers.get("content-length", "0"))
        if not 0 <= length <= BODY_MAX_BYTES:
            return False
        status, body = self.server.callees.answer(first[0], first[1], headers, self.rfile.read(length))
        keep = headers.get("connection", "").lower() != "close"
        self.wfile.write(b"HTTP/1.1 %d X\r\nContent-Type: application/json\r\nContent-Length: %d\r\n%s\r\n" %
                         (status, len(body), b"" if keep else b"Connection: close\r\n") + body)
        return keep
