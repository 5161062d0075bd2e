"""The TCP proxy beside Toxiproxy, which nobody here wrote: where both name the same fault, a client must see the same."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
import urllib.request
from pathlib import Path

import pytest

from buttress.proof.faults.proxy import Relay

from .test_proxy import ANSWER, Till, asked

PROVIDE = "go install github.com/Shopify/toxiproxy/v2/cmd/server@v2.5.0 (scripts/outsiders does so where go is there)"


def binary() -> str | None:
    state = os.environ.get("BUTTRESS_STATE") or Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state", "buttress")
    found = Path(state, "go", "bin", "server")
    return shutil.which("toxiproxy-server") or (str(found) if found.is_file() else None)


class Toxiproxy:
    def __init__(self, port: int) -> None:
        self.api = f"http://127.0.0.1:{port}"

    def post(self, path: str, body: dict) -> dict:
        request = urllib.request.Request(self.api + path, json.dumps(body).encode(), {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=5) as answer:
            return json.load(answer)

    def proxy(self, name: str, upstream: int, toxic: dict | None = None) -> int:
        made = self.post("/proxies", {"name": name, "listen": "127.0.0.1:0", "upstream": f"127.0.0.1:{upstream}", "enabled": True})
        if toxic is not None:
            self.post(f"/proxies/{name}/toxics", {"stream": "downstream", "toxicity": 1.0, **toxic})
        return int(made["listen"].rpartition(":")[2])


@pytest.fixture(scope="module")
def toxiproxy():
    server = binary()
    if server is None:
        pytest.skip(f"needs Toxiproxy: {PROVIDE}")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = subprocess.Popen([server, "-host", "127.0.0.1", "-port", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 10
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                assert process.poll() is None, "it ended"
                assert time.monotonic() < deadline, "it does not listen"
        yield Toxiproxy(port)
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def till():
    till = Till()
    yield till
    till.listener.close()


def seen(port: int) -> tuple[str, object]:
    """What a client makes of one question: a whole answer, a part of it, nothing, or how the connection failed."""
    try:
        return "answer", asked(port)
    except TimeoutError:
        return "silence", None
    except ConnectionError:
        return "reset", None


@pytest.mark.parametrize(("mode", "toxic"), [
    ("truncate", {"type": "limit_data", "attributes": {"bytes": len(ANSWER) // 2}}),
    ("stall", {"type": "timeout", "attributes": {"timeout": 0}}),
    ("drop_after_commit", {"type": "limit_data", "attributes": {"bytes": 0}}),
    ("drip", {"type": "slicer", "attributes": {"average_size": 1, "size_variation": 0, "delay": 0}}),
    ("delay", {"type": "latency", "attributes": {"latency": 50, "jitter": 0}}),
])
def test_a_client_sees_the_same(toxiproxy, till, mode, toxic):
    theirs = seen(toxiproxy.proxy(mode, till.port, toxic))
    taken = till.taken
    relay = Relay("127.0.0.1", till.port, mode, frozenset({1}))
    with relay.serving() as port:
        ours = seen(port)
    assert ours == theirs
    assert relay.struck == 1
    assert (taken, till.taken) == (1, 2), "the question was delivered, by theirs and by ours"


def test_a_delay_is_as_long_as_theirs_is_at_least(toxiproxy, till):
    """Both wait at least as long as they were asked to; how much longer depends on the machine."""
    port = toxiproxy.proxy("late", till.port, {"type": "latency", "attributes": {"latency": 80, "jitter": 0}})
    with Relay("127.0.0.1", till.port, "delay", frozenset({1}), delay_s=0.08).serving() as ours:
        for through in (port, ours):
            began = time.monotonic()
            assert asked(through) == ANSWER
            assert time.monotonic() - began >= 0.08


def test_an_outage_delivers_nothing(toxiproxy, till):
    port = toxiproxy.proxy("down", till.port)
    toxiproxy.post("/proxies/down", {"enabled": False})
    with Relay("127.0.0.1", till.port, "outage", frozenset({1})).serving() as ours:
        for through in (port, ours):
            assert seen(through) in (("reset", None), ("answer", b""))
    assert till.taken == 0


def test_a_reset_is_a_reset(toxiproxy, till):
    """Toxiproxy resets before any answer, ours in the middle of one: the client sees the same error."""
    port = toxiproxy.proxy("reset", till.port, {"type": "reset_peer", "attributes": {"timeout": 0}})
    with Relay("127.0.0.1", till.port, "reset_mid_body", frozenset({1})).serving() as ours:
        assert seen(port) == seen(ours) == ("reset", None)
