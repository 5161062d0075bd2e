"""The proxy: what each of its faults does to a client, that the request was delivered all the same, and that a miss is told."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import Protocol
from urllib.parse import urlsplit

import pytest

from buttress.proof.contract import Case, Claim, Proof, Scenario, Subject
from buttress.proof.faults import Proxy
from buttress.proof.faults.proxy import MODES, Relay
from buttress.proof.verdict import count

ANSWER = b"an answer of thirty bytes ....\n"


class Till:
    """Answers each line with the same line of its own, and counts them."""

    def __init__(self):
        self.taken = 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                client, _ = self.listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client):
        with contextlib.suppress(OSError), client, client.makefile("rb") as lines:
            for _ in lines:
                self.taken += 1
                client.sendall(ANSWER)


@pytest.fixture
def till():
    till = Till()
    yield till
    till.listener.close()


def asked(port: int, timeout_s: float = 1.0) -> bytes:
    """All that comes back for one line, until a whole answer or the end; how it ended is raised as OSError."""
    with socket.create_connection(("127.0.0.1", port), timeout=timeout_s) as client:
        client.sendall(b"one\n")
        got = b""
        while len(got) < len(ANSWER):
            chunk = client.recv(4096)
            if not chunk:
                break
            got += chunk
        return got


@pytest.mark.parametrize(("mode", "got"), [
    ("drop_after_commit", b""), ("truncate", ANSWER[:15]), ("delay", ANSWER), ("drip", ANSWER), ("half_close", ANSWER), ("duplicate", ANSWER + ANSWER)])
def test_the_request_is_delivered_and_the_answer_meets_the_fault(till, mode, got):
    relay = Relay("127.0.0.1", till.port, mode, frozenset({2}))
    with relay.serving() as port:
        assert asked(port) == ANSWER
        assert asked(port)[: len(got)] == got
        assert asked(port) == ANSWER
    assert (till.taken, relay.struck, relay.answers) == (3, 1, 3)


def test_a_reset_in_the_body_is_an_error_of_the_connection(till):
    relay = Relay("127.0.0.1", till.port, "reset_mid_body", frozenset({1}))
    with relay.serving() as port:
        with pytest.raises(ConnectionResetError):
            asked(port)
        assert asked(port) == ANSWER
    assert (till.taken, relay.struck) == (2, 1)


def test_an_outage_refuses_before_anything_is_delivered(till):
    relay = Relay("127.0.0.1", till.port, "outage", frozenset({1, 2}))
    with relay.serving() as port:
        for _ in range(2):
            with contextlib.suppress(ConnectionError):
                assert asked(port) == b""
        assert till.taken == 0
        assert asked(port) == ANSWER
    assert (till.taken, relay.struck) == (1, 2)


def test_a_stall_holds_the_answer_until_the_client_gives_up(till):
    with Relay("127.0.0.1", till.port, "stall", frozenset({1})).serving() as port, pytest.raises(TimeoutError):
        asked(port, timeout_s=0.3)
    assert till.taken == 1


def test_the_proxy_is_gone_afterwards(till):
    with Relay("127.0.0.1", till.port, "delay", frozenset()).serving() as port:
        held = socket.create_connection(("127.0.0.1", port), timeout=5)
        held.sendall(b"one\n")
        assert held.recv(4096) == ANSWER
    assert held.recv(4096) == b""
    held.close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=5)


class Client(Protocol):
    def pay(self) -> str: ...


class Retrying:
    def __init__(self, env):
        self.port = urlsplit(env.world["till"]).port

    def pay(self):
        for _ in range(4):
            with contextlib.suppress(OSError):
                if asked(self.port) == ANSWER:
                    return "paid"
        return "unpaid"


def proof(till, fault, times=4):
    @contextlib.contextmanager
    def world(trial):
        yield {"till": f"http://127.0.0.1:{till.port}/pay"}

    def drive(trial):
        client = trial.open()
        trial.record("fact", unpaid=[client.pay() for _ in range(times)].count("unpaid"))

    def unpaid(history):
        facts = list(history.where(kind="fact"))
        return {"unpaid": count(sum(f["unpaid"] for f in facts), times * len(facts))}

    return Proof("proxied", Client, (Subject("ours", Retrying, "buttress"),), (Scenario("steady", drive, (fault,)),), (unpaid,),
                 (Claim("paid", "unpaid", "== 0", "payments"),), (), {"quick": None}, world=world)


@pytest.mark.parametrize("mode", [mode for mode in MODES if mode != "stall"])
def test_a_proof_lists_what_the_proxy_struck(prove, till, mode):
    outcome = prove(proof(till, Proxy(("till",), mode, every=2)))
    assert outcome.errors == []
    assert {name: (f["armed"], f["hit"]) for name, f in outcome.faults.items()} == {mode.replace("_", " "): (1, 1)}
    assert outcome.verdict == "pass"


def test_a_proxy_that_strikes_nothing_makes_the_claim_unknown(prove, till):
    outcome = prove(proof(till, Proxy(("till",), every=9)))
    assert outcome.claims[0].why == "1 armed cases did not hit: steady: drop after commit · till"
    assert outcome.faults["drop after commit"]["hit"] == 0


def test_each_named_simulator_is_a_case(till):
    cases = list(Proxy(("till", "bank"), "outage").cases({}))
    assert [type(c) is Case and c.label for c in cases] == ["outage · till", "outage · bank"]
    assert all(c.during is not None and not c.failpoints for c in cases)
