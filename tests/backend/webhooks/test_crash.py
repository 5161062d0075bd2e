"""kill -9 at every durable step, pauses beyond a lease, and two processes on one file. Effects are counted in this process, over HTTP."""

from __future__ import annotations

import json
import os
import random
import signal
import tempfile
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

import pytest

from buttress.backend.webhooks import (
    HttpCallee,
    Inbox,
    InboxConfig,
    Verifier,
    at_least_once,
    at_most_once,
    keyed,
    lookup,
)
from buttress.kernel import failpoint
from buttress.kernel.clock import SharedClock
from buttress.kernel.store.sqlite import SqliteStore

LEASE_S = 60.0
OWN = ("inbox.received", "inbox.stored", "inbox.claimed", "inbox.handled", "inbox.done", "effect.taken", "effect.intended", "effect.called", "effect.settled")


class World(ThreadingHTTPServer):
    """``orders`` honours keys, ``credits`` answers look-ups, ``coupons`` and ``points`` do neither. Counts what happened."""

    daemon_threads = True

    def __init__(self) -> None:
        self.happened: Counter[tuple[str, str]] = Counter()
        self.calls: Counter[str] = Counter()
        self.guard = threading.Lock()
        super().__init__(("127.0.0.1", 0), Answers)

    def url(self, callee: str) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/{callee}"


class Answers(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args) -> None:
        pass

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        callee = self.path[1:]
        world: World = self.server
        with world.guard:
            world.calls[callee] += 1
            key = (callee, body["fact"])
            if callee != "orders" or not world.happened[key]:
                world.happened[key] += 1
        self.reply(200)

    def do_GET(self) -> None:
        _, callee, fact = self.path.split("/")
        self.reply(200 if self.server.happened[callee, unquote(fact).split("/")[-1].split(":")[0]] else 404)

    def reply(self, status) -> None:
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()


@pytest.fixture
def world():
    running = World()
    thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield running
    running.shutdown()
    thread.join(10)
    running.server_close()


@pytest.fixture
def memory_folder(tmp_path):
    """A folder without a disk under it, where there is one: a kill loses nothing that the kernel has, so no sync is judged here."""
    if not os.access("/dev/shm", os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        yield Path(folder)


@pytest.fixture
def shared_clock(tmp_path, sign):
    path = str(tmp_path / "clock")
    clock = SharedClock(path, writable=True, start=sign.start)
    yield clock
    clock.close()


def open_inbox(place, clock, world, secret) -> Inbox:
    """As an adopter writes it: a local effect, and one at each kind of callee."""
    inbox = Inbox(SqliteStore(place, clock=clock), Verifier.standard(secret), config=InboxConfig(lease_s=LEASE_S, retry_base_s=1), rng=random.Random(3))
    credits = HttpCallee(world.url("credits"), key_header=None, reference_field="reference", find_url=world.url("credits") + "/{reference}")
    inbox.callee("orders", keyed(HttpCallee(world.url("orders"))))
    inbox.callee("credits", lookup(credits, credits.find))
    inbox.callee("coupons", at_most_once(HttpCallee(world.url("coupons"), key_header=None)))
    inbox.callee("points", at_least_once(HttpCallee(world.url("points"), key_header=None)))

    @inbox.on("invoice.paid")
    def paid(event, ctx):
        fact = event.data["data"]["fact"]
        ctx.tx.execute("INSERT INTO handled (fact) VALUES (?)", (fact,))
        for callee in ("orders", "credits", "coupons", "points"):
            ctx.effect(callee, key=fact, payload={"fact": fact})

    with inbox.store.transaction() as tx:
        tx.execute("CREATE TABLE IF NOT EXISTS handled (fact TEXT NOT NULL)")
    return inbox


def deliveries(sign, count, at):
    bodies = [json.dumps({"type": "invoice.paid", "data": {"fact": f"fact{n}"}}).encode() for n in range(count)]
    return [(f"evt_{n}", sign.standard(body, ident=f"evt_{n}", at=at), body) for n, body in enumerate(bodies)]


def run(inbox, sent, tell) -> None:
    """Receives everything, tells what it acknowledged, and works until nothing is due now."""
    for ident, headers, body in sent:
        if inbox.receive(headers, body).status == 200:
            tell({"acked": ident})
    while (due := inbox.work(limit=2)) is not None and due <= inbox.store.clock.now():
        pass


def finish(place, clock, world, sign, sent) -> Inbox:
    """Another worker, while the leases of the dead one still run; then, after them, all deliveries once more and all that is due."""
    inbox = open_inbox(place, clock, world, sign.secret)
    inbox.work()
    clock.advance(LEASE_S + 1)
    for ident, _, body in sent:
        assert inbox.receive(sign.standard(body, ident=ident, at=clock.now()), body).status == 200
    while (due := inbox.work()) is not None:
        clock.set(max(clock.now(), due))
    return inbox


def judge(inbox, world, count) -> None:
    """0 doubled and 0 lost where the callee allows it; else the chosen side, and each doubt listed."""
    facts = [f"fact{n}" for n in range(count)]
    with inbox.store.transaction() as tx:
        assert sorted(fact for (fact,) in tx.all("SELECT fact FROM handled")) == facts
    for callee in ("orders", "credits"):
        assert {fact: world.happened[callee, fact] for fact in facts} == dict.fromkeys(facts, 1), callee
    doubts = {(doubt.effect, doubt.key.split("/")[-1].split(":")[0]) for doubt in inbox.doubts()}
    for fact in facts:
        coupons, points = world.happened["coupons", fact], world.happened["points", fact]
        assert coupons == 1 or (coupons == 0 and ("coupons", fact) in doubts), f"at most once: {coupons}"
        assert points == 1 or (points == 2 and ("points", fact) in doubts), f"at least once: {points}"
    assert len(doubts) <= 1, "only what was under way when it died"


def clean_hits(fork, folder, clock, world, sign, sent):
    """How often each durable step is reached when nobody dies."""
    def work(tell, _):
        inbox = open_inbox(str(folder / "clean.db"), clock, world, sign.secret)
        failpoint.arm({})
        run(inbox, sent, lambda said: None)
        tell(dict(failpoint.hits))

    return fork(work).says()


def test_kill_at_every_step(fork, memory_folder, tmp_path, shared_clock, world, sign):
    count = 2
    sent = deliveries(sign, count, shared_clock.now())
    found = clean_hits(fork, memory_folder, shared_clock, world, sign, sent)
    assert set(OWN) <= set(found)
    cases = [(name, number) for name in sorted(found) for number in range(1, found[name] + 1)]
    doubted = 0
    for case, (name, number) in enumerate(cases):
        place = str(memory_folder / f"{case}.db")
        world.happened.clear()
        shared_clock.set(sign.start)

        def work(tell, _, place=place, name=name, number=number):
            inbox = open_inbox(place, SharedClock(str(tmp_path / "clock")), world, sign.secret)
            failpoint.arm({name: (number, "kill")})
            run(inbox, sent, tell)

        child = fork(work)
        acked = set()
        while (said := child.says()) is not None:
            acked.add(said["acked"])
        assert child.ends() == -signal.SIGKILL, (name, number)
        inbox = finish(place, shared_clock, world, sign, sent)
        try:
            judge(inbox, world, count)
        except AssertionError as wrong:
            raise AssertionError(f"killed at {name} ({number}), {len(acked)} acknowledged: {wrong}") from None
        doubted += len(inbox.doubts())
        inbox.store.close()
    assert doubted > 0, "no case put anything in doubt: the steps between call and settle were not reached"


def test_what_was_acknowledged_survives(fork, memory_folder, tmp_path, shared_clock, world, sign):
    """The sender never comes back: whatever got a 2xx must be done all the same."""
    sent = deliveries(sign, 4, shared_clock.now())
    for number in range(1, 5):
        place = str(memory_folder / f"{number}.db")
        world.happened.clear()
        shared_clock.set(sign.start)

        def work(tell, _, place=place, number=number):
            inbox = open_inbox(place, SharedClock(str(tmp_path / "clock")), world, sign.secret)
            failpoint.arm({"inbox.stored": (number, "kill")})
            run(inbox, sent, tell)

        child = fork(work)
        acked = set()
        while (said := child.says()) is not None:
            acked.add(said["acked"])
        child.ends()
        assert len(acked) == number - 1
        inbox = open_inbox(place, shared_clock, world, sign.secret)
        while (due := inbox.work()) is not None:
            shared_clock.set(max(shared_clock.now(), due))
        with inbox.store.transaction() as tx:
            done = {ident for (ident,) in tx.all("SELECT id FROM buttress_webhooks_event WHERE state = 'done'")}
        assert acked <= done
        assert done - acked == {f"evt_{number - 1}"}, "stored, its acknowledgement lost: done once when it comes again"
        inbox.store.close()


@pytest.mark.parametrize(("step", "number"), [("inbox.claimed", 1), ("effect.taken", 1), ("effect.taken", 2), ("effect.intended", 1), ("effect.intended", 2),
                                              ("effect.intended", 3), ("effect.called", 1), ("effect.called", 2), ("effect.called", 3), ("effect.called", 4)])
def test_a_paused_process_is_refused_when_it_wakes(fork, tmp_path, shared_clock, world, sign, step, number):
    """SIGSTOP beyond the lease, while another worker takes everything over. Awake again, the first one must do no harm."""
    place, sent = str(tmp_path / "inbox.db"), deliveries(sign, 3, shared_clock.now())

    def work(tell, _):
        inbox = open_inbox(place, SharedClock(str(tmp_path / "clock")), world, sign.secret)
        failpoint.arm({step: (number, "stop")})
        run(inbox, sent, lambda said: None)
        tell("finished")

    child = fork(work)
    child.stops()
    inbox = finish(place, shared_clock, world, sign, sent)
    judge(inbox, world, 3)
    child.resume()
    assert child.says() == "finished"
    assert child.ends() == 0
    while (due := inbox.work()) is not None:
        shared_clock.set(max(shared_clock.now(), due))
    judge(inbox, world, 3)
    inbox.store.close()


def test_two_processes_share_the_work(fork, tmp_path, shared_clock, world, sign):
    count = 500
    place = str(tmp_path / "inbox.db")

    def open_plain():
        inbox = Inbox(SqliteStore(place, clock=SharedClock(str(tmp_path / "clock")), busy_timeout_s=20), Verifier.standard(sign.secret))
        inbox.callee("coupons", keyed(HttpCallee(world.url("coupons"))))

        @inbox.on("invoice.paid")
        def paid(event, ctx):
            ctx.tx.execute("INSERT INTO handled (fact, worker) VALUES (?, ?)", (event.id, os.getpid()))
            ctx.effect("coupons", payload={"fact": event.id})

        return inbox

    inbox = open_plain()
    with inbox.store.transaction() as tx:
        tx.execute("CREATE TABLE handled (fact TEXT NOT NULL, worker INTEGER NOT NULL)")
    for _ident, headers, body in deliveries(sign, count, shared_clock.now()):
        assert inbox.receive(headers, body).code == "stored"
    inbox.store.close()

    def work(tell, _):
        mine = open_plain()
        while mine.work(limit=8) is not None:
            pass
        tell("finished")

    children = [fork(work), fork(work)]
    for child in children:
        assert child.says(60) == "finished"
        assert child.ends() == 0
    inbox = open_plain()
    with inbox.store.transaction() as tx:
        rows = tx.all("SELECT fact, worker FROM handled")
    assert len(rows) == len({fact for fact, _ in rows}) == count
    assert len({worker for _, worker in rows}) == 2, "one of them did everything: nothing was contended"
    assert world.calls["coupons"] == count
    inbox.store.close()
