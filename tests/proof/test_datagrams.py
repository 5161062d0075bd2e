"""The UDP proxy: what arrives, in which order, from which port, and that a fault that met no packet is told."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import Protocol
from urllib.parse import urlsplit

import pytest

from buttress.proof.contract import Claim, Proof, Scenario, Subject
from buttress.proof.faults import Datagrams, Impair
from buttress.proof.faults.datagrams import DatagramRelay
from buttress.proof.faults.impairment import Impairment
from buttress.proof.verdict import count

WAIT_S = 5.0


class Meter:
    """Takes datagrams and answers each with itself. It remembers what came, and from which port."""

    def __init__(self):
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        self.socket.bind(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        self.came: list[bytes] = []
        self.ports: list[int] = []
        self.more = threading.Condition()
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self):
        with contextlib.suppress(OSError):
            while True:
                packet, address = self.socket.recvfrom(65535)
                with self.more:
                    self.came.append(packet)
                    self.ports.append(address[1])
                    self.more.notify_all()
                self.socket.sendto(packet, address)

    def awaited(self, n):
        with self.more:
            assert self.more.wait_for(lambda: len(self.came) >= n, WAIT_S), f"{len(self.came)} of {n} came"
        return self.came


@pytest.fixture
def meter():
    meter = Meter()
    yield meter
    meter.socket.close()


@pytest.fixture
def client():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(WAIT_S)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        yield client


def packets(n, size=200):
    return [index.to_bytes(4, "big") + bytes(size - 4) for index in range(n)]


def exchange(relay, client, meter, sent):
    """Sends all, a few at a time, and waits until what is not lost has arrived: that is told by a second line of the same seed."""
    line, due = Impairment(relay.up, f"{relay.seed}/up"), 0
    with relay.serving() as port:
        for number, packet in enumerate(sent, 1):
            client.sendto(packet, ("127.0.0.1", port))
            due += len(line.offer(packet, 0))
            if number % 50 == 0:
                meter.awaited(due)
        meter.awaited(due)
        return list(meter.came)


def test_without_a_fault_it_only_forwards(meter, client):
    relay = DatagramRelay("127.0.0.1", meter.port)
    with relay.serving() as port:
        for packet in packets(200):
            client.sendto(packet, ("127.0.0.1", port))
            assert client.recv(4096) == packet
    assert meter.came == packets(200)
    assert relay.affected == 0


def test_the_same_packets_are_lost_as_the_seed_says(meter, client):
    spec, sent = Impair(loss=0.1), packets(2000)
    line = Impairment(spec, "7/up")
    kept = [packet for packet in sent if line.offer(packet, 0)]
    relay = DatagramRelay("127.0.0.1", meter.port, up=spec, seed=7)
    assert exchange(relay, client, meter, sent) == kept
    assert relay.upward.passed.dropped["loss"] == len(sent) - len(kept) > 100


def test_each_direction_has_its_own_losses(meter, client):
    """Otherwise an answer would be lost exactly where its question was."""
    relay, sent = DatagramRelay("127.0.0.1", meter.port, up=Impair(loss=0.2), down=Impair(loss=0.2), seed=7), packets(500)
    up = Impairment(relay.up, "7/up")
    line = Impairment(relay.down, "7/down")
    with relay.serving() as port:
        came, answered = [], []
        for packet in sent:  # one by one: the next is sent when this one has arrived, been answered, or is known to be lost
            client.sendto(packet, ("127.0.0.1", port))
            if up.offer(packet, 0):
                came = list(meter.awaited(len(came) + 1))
                if line.offer(packet, 0):
                    answered.append(client.recv(4096))
                    assert answered[-1] == packet
    assert 250 < len(answered) < len(came) < 450


def test_a_duplicate_arrives_twice(meter, client):
    with DatagramRelay("127.0.0.1", meter.port, up=Impair(duplicate=1.0)).serving() as port:
        client.sendto(b"once", ("127.0.0.1", port))
        assert meter.awaited(2) == [b"once", b"once"]
        assert [client.recv(100), client.recv(100)] == [b"once", b"once"]


def test_the_reordered_overtake_and_the_delay_does_not_serialise(meter, client):
    """100 packets that each wait 200 ms take little more than one wait, not a hundred."""
    import time

    relay = DatagramRelay("127.0.0.1", meter.port, up=Impair(delay_ms=200, reorder=0.3), seed=7)
    began = time.monotonic()
    came = exchange(relay, client, meter, packets(49))
    assert time.monotonic() - began < 10 * 0.2
    assert sorted(came) == packets(49) != came
    line = Impairment(relay.up, "7/up")
    ahead = [packet for packet in packets(49) if line.offer(packet, 0)[0][0] == 0]
    assert came[: len(ahead)] == ahead
    assert all(late >= 0 for late in relay.lateness_ms)


def test_a_corrupt_packet_arrives_damaged(meter, client):
    with DatagramRelay("127.0.0.1", meter.port, up=Impair(corrupt=1.0)).serving() as port:
        client.sendto(bytes(20), ("127.0.0.1", port))
        (came,) = meter.awaited(1)
    assert sum(byte.bit_count() for byte in came) == 1


def test_in_a_blackout_nothing_passes_and_afterwards_it_does(meter, client):
    relay = DatagramRelay("127.0.0.1", meter.port, up=Impair(blackouts=((0, 0.3),)))
    with relay.serving() as port:
        client.sendto(b"lost", ("127.0.0.1", port))
        while not meter.came:
            client.sendto(b"kept", ("127.0.0.1", port))
            with contextlib.suppress(TimeoutError):
                client.settimeout(0.05)
                client.recv(100)
    assert b"lost" not in meter.came
    assert relay.upward.passed.dropped["blackout"] >= 1


def test_after_a_rebind_the_source_port_is_new_and_answers_find_the_client(meter, client):
    relay = DatagramRelay("127.0.0.1", meter.port, up=Impair(rebinds=(0.2,)))
    with relay.serving() as port:
        while len(set(meter.ports)) < 2:
            client.sendto(b"hello", ("127.0.0.1", port))
            assert client.recv(100) == b"hello"
    assert relay.rebound == 1
    assert len(set(meter.ports)) == 2
    assert port not in meter.ports


def test_two_senders_are_kept_apart(meter, client):
    with DatagramRelay("127.0.0.1", meter.port).serving() as port, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.settimeout(WAIT_S)
        for number in range(20):
            client.sendto(b"client %d" % number, ("127.0.0.1", port))
            other.sendto(b"other %d" % number, ("127.0.0.1", port))
            assert client.recv(100) == b"client %d" % number
            assert other.recv(100) == b"other %d" % number
    assert len(set(meter.ports)) == 2


def test_nobody_there_does_not_end_it(meter, client):
    gone = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    gone.bind(("127.0.0.1", 0))
    where = gone.getsockname()[1]
    gone.close()
    relay = DatagramRelay("127.0.0.1", where)
    with relay.serving() as port:
        for _ in range(10):
            client.sendto(b"anybody?", ("127.0.0.1", port))
        client.settimeout(0.2)
        with pytest.raises(TimeoutError):
            client.recv(100)
        relay.port = meter.port
        client.settimeout(WAIT_S)
        client.sendto(b"now", ("127.0.0.1", port))
        assert client.recv(100) == b"now"


class Probe(Protocol):
    def send(self, text: str) -> bool: ...


class FireAndForget:
    """Sends once and hopes."""

    tries = 1

    def __init__(self, env):
        parts = urlsplit(env.world["meter"])
        self.address = (parts.hostname, parts.port)
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.settimeout(0.1)

    def send(self, text):
        for _ in range(self.tries):
            self.socket.sendto(text.encode(), self.address)
            with contextlib.suppress(TimeoutError):
                while (answer := self.socket.recv(1000)) != text.encode():
                    assert answer
                return True
        return False

    def close(self):
        self.socket.close()


class SendsAgain(FireAndForget):
    """Until it was answered."""

    tries = 50


def judged(prove, fault, subject=SendsAgain):
    @contextlib.contextmanager
    def world(trial):
        meter = Meter()
        try:
            yield {"meter": f"udp://127.0.0.1:{meter.port}"}
            trial.record("fact", came=sorted({packet.decode() for packet in meter.came if packet.isascii()}))
        finally:
            meter.socket.close()

    def drive(trial):
        port = trial.open()
        for number in range(20):
            port.send(f"reading {number}")

    def lost(history):
        facts = list(history.where(kind="fact"))
        return {"lost": count(sum(20 - len([c for c in fact["came"] if c.startswith("reading")]) for fact in facts), 20 * len(facts))}

    return prove(Proof(system="meters", port=Probe, subjects=(Subject("ours", subject, "buttress"),),
                       scenarios=(Scenario("readings", drive, (fault,), virtual=False),), checkers=(lost,), controls=(), world=world,
                       claims=(Claim("readings lost", "lost", "== 0", "readings"),), sizes={"quick": None, "full": None}))


LOSSY = Datagrams(("meter",), up=Impair(loss=0.3), down=Impair(loss=0.3), name="lossy line")


def test_fire_and_forget_fails_and_one_that_sends_again_passes(prove):
    """The control of this injector: the same run without its fault loses nothing."""
    forgetful, patient = judged(prove, LOSSY, FireAndForget), judged(prove, LOSSY)
    assert forgetful.errors == patient.errors == []
    assert forgetful.claims[0].verdict == "fail"
    assert patient.claims[0].verdict == "pass"
    assert patient.faults["lossy line"]["hit"] == patient.faults["lossy line"]["armed"] == 1
    harmless = Datagrams(("meter",), up=Impair(delay_ms=1), name="a little late")
    assert judged(prove, harmless, FireAndForget).claims[0].verdict == "pass"


def test_a_line_on_which_nothing_happened_did_not_hit(prove):
    outcome = judged(prove, Datagrams(("meter",), name="as it is"))
    assert (outcome.claims[0].verdict, outcome.faults["as it is"]["hit"]) == ("unknown", 0)
