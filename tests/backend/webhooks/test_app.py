"""The receiver over HTTP: acknowledged after the commit, refused early, never a 2xx for what was not stored."""

from __future__ import annotations

import asyncio
import http.client
import json
import logging
import socket
import threading
import time

import pytest
import uvicorn

from buttress.backend.webhooks import InboxConfig, Verifier, create_app, keyed
from buttress.backend.webhooks.app import AppConfig, JsonLines
from buttress.kernel import failpoint
from buttress.kernel.clock import SystemClock
from buttress.kernel.errors import InvalidInput, Unavailable
from buttress.kernel.store.sqlite import SqliteStore

WAIT_S = 20.0


@pytest.fixture
def inbox(sqlite_stores, make_inbox):
    return make_inbox(sqlite_stores.open(), config=InboxConfig(body_max_bytes=4096))


@pytest.fixture
def make_app():
    apps = []

    def make(inboxes, **config):
        app = create_app(inboxes, AppConfig(**{"work": False, **config}))
        apps.append(app)
        return app

    yield make
    for app in apps:
        app.stop()


async def ask(app, path, headers=(), chunks=(b"",), method="POST", forever=False):
    """One request to the ASGI app. ``forever``: after the chunks the rest never comes."""
    pieces, answers, never = list(chunks), [], asyncio.Event()

    async def receive():
        if not pieces:
            if forever:
                await never.wait()
            return {"type": "http.disconnect"}
        body = pieces.pop(0)
        return {"type": "http.request", "body": body, "more_body": bool(pieces) or forever}

    async def send(message):
        answers.append(message)

    raw = [(name.lower().encode(), str(value).encode("latin-1")) for name, value in (headers.items() if isinstance(headers, dict) else headers)]
    await asyncio.wait_for(app({"type": "http", "method": method, "path": path, "headers": raw}, receive, send), WAIT_S)
    if not answers:
        return None, None, {}
    return answers[0]["status"], answers[1]["body"], {name.decode(): value.decode() for name, value in answers[0]["headers"]}


def request(app, *args, **options):
    return asyncio.run(ask(app, *args, **options))


def code(body) -> str:
    return json.loads(body)["code"]


def stored(inbox) -> set[str]:
    with inbox.store.transaction() as tx:
        return {ident for (ident,) in tx.all("SELECT id FROM buttress_webhooks_event")}


def test_stored_before_it_is_acknowledged(inbox, make_app, sender):
    headers, body = sender.delivery("evt_1")
    app = make_app({"hooks/stripe": inbox})
    for wanted in ("stored", "duplicate"):
        status, answer, _ = request(app, "/hooks/stripe", headers, [body[:10], body[10:]])
        assert (status, code(answer)) == (200, wanted)
    assert stored(inbox) == {"evt_1"}


def test_every_refusal(inbox, make_app, sender, sign, clock):
    headers, body = sender.delivery("evt_1")
    app = make_app(inbox)
    cases = [(headers, body + b" ", 401, "bad_signature"), ({}, body, 401, "unsigned"), (sign.standard(body, at=clock.now() - 1000), body, 400, "stale"),
             ([*headers.items(), ("webhook-id", "msg_1")], body, 400, "malformed"), ({**headers, "content-length": 4097}, body, 413, "too_large"),
             ({**headers, "webhook-id": "\xe9"}, body, 400, "malformed"), (headers, b"x" * 4097, 413, "too_large")]
    for given, raw, status, wanted in cases:
        got, answer, more = request(app, "/default", given, [raw])
        assert (got, code(answer)) == (status, wanted)
        assert ("www-authenticate" in more) == (status == 401)
    assert stored(inbox) == set()


@pytest.mark.parametrize("length", ["-1", "+5", "", "5 ", "0x10", "1e3", "5,5", "five", "\xb2", "9" * 17 + "x"])
def test_a_content_length_that_is_no_number_is_400(inbox, make_app, sender, length):
    headers, body = sender.delivery("evt_1")
    status, answer, _ = request(make_app(inbox), "/default", {**headers, "content-length": length}, [body])
    assert (status, code(answer)) == (400, "malformed")
    assert stored(inbox) == set()


def test_a_large_body_is_refused_while_it_comes(inbox, make_app, sender):
    """Never more is read than the limit and the piece that passed it."""
    app = make_app(inbox)
    status, answer, more = request(app, "/default", sender.delivery("evt_1")[0], [b"x" * 1000] * 5, forever=True)
    assert (status, code(answer), more["connection"]) == (413, "too_large", "close")


def test_a_body_that_never_ends_is_408(inbox, make_app, sender):
    app = make_app(inbox, body_timeout_s=0.05)
    assert request(app, "/default", sender.delivery("evt_1")[0], [b"x"], forever=True)[0] == 408


def test_a_body_that_never_begins_is_408(inbox, make_app, sender):
    """Headers, and then not one byte: it holds its place no longer than one that comes slowly."""
    app = make_app(inbox, body_timeout_s=0.05)
    assert request(app, "/default", sender.delivery("evt_1")[0], [], forever=True)[0] == 408


def test_a_sender_that_goes_is_not_answered(inbox, make_app, sender):
    app = make_app(inbox)
    assert request(app, "/default", sender.delivery("evt_1")[0], [])[0] is None


def test_paths_and_methods(inbox, make_app):
    app = make_app({"a": inbox})
    assert request(app, "/b")[0] == 404
    assert request(app, "/a/")[0] == 404
    assert request(app, "/a", method="GET")[0] == 405
    assert request(app, "/healthz", method="GET")[0] == 200
    assert request(app, "/healthz", method="POST")[0] == 404


def test_concurrent_deliveries_share_a_commit(inbox, make_app, sender):
    app = make_app(inbox)
    failpoint.arm({})

    async def burst():
        return await asyncio.gather(*(ask(app, "/default", headers, [body]) for headers, body in [sender.delivery(f"evt_{n % 40}") for n in range(80)]))

    answers = asyncio.run(burst())
    commits = failpoint.hits["store.commit"]
    assert [code(body) for _, body, _ in answers] == ["stored"] * 40 + ["duplicate"] * 40
    assert {status for status, _, _ in answers} == {200}
    assert len(stored(inbox)) == 40
    assert commits <= 3, "80 deliveries at once, few commits"


def test_a_store_that_is_down(inbox, make_app, sender):
    app = make_app(inbox)
    headers, body = sender.delivery("evt_1")
    inbox.store.close()
    status, answer, more = request(app, "/default", headers, [body])
    assert (status, code(answer)) == (503, "unavailable")
    assert "retry-after" in more
    assert request(app, "/healthz", method="GET")[0] == 503
    assert request(app, "/metrics", method="GET")[0] == 503


def test_a_commit_that_fails_is_not_acknowledged(inbox, make_app, sender, monkeypatch):
    app = make_app(inbox)

    def submit(work):
        raise Unavailable("disk full")

    monkeypatch.setattr(inbox.store, "submit", submit)
    headers, body = sender.delivery("evt_1")
    assert request(app, "/default", headers, [body])[0] == 503
    monkeypatch.undo()
    assert stored(inbox) == set()


def test_one_bad_apple_does_not_take_its_batch_with_it(inbox, make_app, sender, monkeypatch):
    app, insert = make_app(inbox), inbox.insert

    def insert_or_fail(tx, received):
        if received.event.id == "evt_3":
            raise RuntimeError("the driver does not like this one")
        return insert(tx, received)

    monkeypatch.setattr(inbox, "insert", insert_or_fail)

    async def burst():
        return await asyncio.gather(*(ask(app, "/default", headers, [body]) for headers, body in [sender.delivery(f"evt_{n}") for n in range(6)]))

    statuses = [status for status, _, _ in asyncio.run(burst())]
    assert statuses == [200, 200, 200, 503, 200, 200]
    assert stored(inbox) == {f"evt_{n}" for n in (0, 1, 2, 4, 5)}


def test_many_who_ask_for_health_share_one_look(inbox, make_app):
    app = make_app(inbox)
    failpoint.arm({})

    async def burst():
        return await asyncio.gather(*(ask(app, "/healthz", method="GET") for _ in range(50)))

    assert {status for status, _, _ in asyncio.run(burst())} == {200}
    assert failpoint.hits["store.commit"] <= 2


def test_what_waits_is_bounded(inbox, make_app, sender, monkeypatch):
    app, submit, gate = make_app(inbox, waiting_max=2, batch_max=1), inbox.store.submit, threading.Event()

    def slow(work):
        assert gate.wait(WAIT_S)
        return submit(work)

    monkeypatch.setattr(inbox.store, "submit", slow)

    async def burst():
        tasks = [asyncio.create_task(ask(app, "/default", headers, [body])) for headers, body in [sender.delivery(f"evt_{n}") for n in range(6)]]
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        gate.set()
        return [task.result()[0] for task in done], [status for status, _, _ in await asyncio.gather(*tasks)]

    early, all_ = asyncio.run(burst())
    assert set(early) == {503}
    assert all_.count(200) == len(stored(inbox)) >= 2
    assert all_.count(503) >= 3


def test_metrics_and_their_credential(inbox, make_app, sender):
    app = make_app(inbox, metrics_token="token")
    headers, body = sender.delivery("evt_1")
    for _ in range(2):
        request(app, "/default", headers, [body])
    request(app, "/default", {}, [body])
    for credential in ({}, {"authorization": "Bearer other"}, {"authorization": "token"}):
        status, _, more = request(app, "/metrics", credential, method="GET")
        assert (status, more.get("www-authenticate")) == (401, "Bearer")
    status, page, more = request(app, "/metrics", {"authorization": "Bearer token"}, method="GET")
    lines = page.decode().splitlines()
    assert status == 200
    assert more["content-type"].startswith("text/plain")
    for line in ('buttress_webhooks_answers_total{code="stored",endpoint="default"} 1.0',
                 'buttress_webhooks_answers_total{code="duplicate",endpoint="default"} 1.0',
                 'buttress_webhooks_answers_total{code="unsigned",endpoint="default"} 1.0', 'buttress_webhooks_waiting_events{endpoint="default"} 1.0',
                 'buttress_webhooks_ack_seconds_count{endpoint="default"} 3.0', 'buttress_webhooks_dead_events{endpoint="default"} 0.0'):
        assert line in lines


def test_json_lines(caplog, inbox, make_app, sender):
    headers, _ = sender.delivery("evt_1")
    request(make_app(inbox), "/default", headers, [b"mallory@example.com"])
    line = json.loads(JsonLines().format(caplog.records[-1]))
    assert (line["level"], line["endpoint"], line["code"], line["status"]) == ("warning", "default", "bad_signature", 401)
    assert "mallory" not in json.dumps(line)
    record = logging.makeLogRecord({"msg": "x", "args": (), "extra_bytes": b"y"})
    assert json.loads(JsonLines().format(record))["message"] == "x"


@pytest.mark.parametrize("make", [lambda i: create_app({}), lambda i: create_app({"": i}), lambda i: create_app({"/a": i}),
                                  lambda i: create_app({"metrics": i}), lambda i: AppConfig(metrics_token=" "), lambda i: AppConfig(batch_max=0)])
def test_arguments_are_checked_at_once(inbox, make):
    with pytest.raises(InvalidInput):
        make(inbox)


class Running:
    """A real server on a free port, in a thread."""

    def __init__(self, app) -> None:
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False))
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.socket]})

    def __enter__(self) -> int:
        self.thread.start()
        until(lambda: self.server.started)
        return self.socket.getsockname()[1]

    def __exit__(self, *exc) -> None:
        self.server.should_exit = True
        self.thread.join(WAIT_S)
        self.socket.close()
        assert not self.thread.is_alive()


def until(condition) -> None:
    """Waits on a condition that other threads bring about."""
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, "it never came about"
        time.sleep(0.005)


def test_end_to_end_over_a_real_server(tmp_path, make_inbox, sign, counter):
    """Two tenants on one store; the workers behind the receiver handle and send; a large body is cut off by a real server, too."""
    store, done = SqliteStore(tmp_path / "inbox.db", clock=SystemClock()), {}
    inboxes = {}
    for name in ("one", "two"):
        inboxes[name] = make_inbox(store, endpoint=name, verifier=Verifier.standard(sign.secret), config=InboxConfig(body_max_bytes=20_000))
        done[name] = counter()
        inboxes[name].callee("email", keyed(done[name].send))
        inboxes[name].on("invoice.paid")(lambda event, ctx: ctx.effect("email", payload={"n": event.id}))
    body = json.dumps({"type": "invoice.paid", "pad": "x" * 9000}).encode()
    with Running(create_app(inboxes, AppConfig(poll_s=0.05))) as port:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=WAIT_S)
        for number in range(20):
            for name in inboxes:
                connection.request("POST", f"/{name}", body, sign.standard(body, ident=f"evt_{number}", at=time.time()))
                answer = connection.getresponse()
                assert (answer.status, json.loads(answer.read())["code"]) == (200, "stored")
        until(lambda: all(len(each.done) == 20 for each in done.values()))
        connection.request("POST", "/one", b"x" * 30_000, sign.standard(body, at=time.time()))
        answer = connection.getresponse()
        assert (answer.status, answer.read()) == (413, b'{"code":"too_large"}')
        connection.close()
        connection.request("GET", "/metrics")
        assert b'buttress_webhooks_answers_total{code="stored",endpoint="two"} 20.0' in connection.getresponse().read()
        connection.close()
    assert sorted(done["one"].keys) == sorted(f"one/evt_{number}:email" for number in range(20))
    store.close()


def test_work_goes_on_when_it_is_interrupted(sqlite_stores, make_inbox, sender, counter):
    """A worker thread outlives what ails the store for a moment."""
    inbox, email = make_inbox(sqlite_stores.open()), counter()
    inbox.callee("email", keyed(email.send))
    inbox.on("invoice.paid")(lambda event, ctx: ctx.effect("email"))
    work, failures = inbox.work_events, [Unavailable("busy")] * 3

    def sometimes(limit):
        if failures:
            raise failures.pop()
        return work(limit)

    inbox.work_events = sometimes
    sender.send(inbox, "evt_1")
    app = create_app(inbox, AppConfig(poll_s=0.01))
    app.start()
    until(lambda: len(email.done) == 1)
    app.stop()
    assert not failures
