"""HttpCallee against a real server, and what each answer means."""

from __future__ import annotations

import json
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from buttress.backend.webhooks import HttpCallee, NotSent, Rejected, keyed, lookup
from buttress.backend.webhooks.callee import Effect, Unanswered
from buttress.kernel.errors import InvalidInput

EFFECT = Effect("email", "default/evt_1:email", {"to": "x"}, 1)


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        self.status, self.headers, self.body, self.close_after, self.have = 200, {}, b'{"id": 7}', False, set()
        self.requests, self.peers = [], set()
        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args) -> None:
        pass

    def answer(self) -> None:
        server: Server = self.server
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        server.requests.append((self.command, self.path, dict(self.headers), body))
        server.peers.add(self.client_address)
        if server.close_after:
            self.close_connection = True
            if server.status == 0:
                return
        self.send_response(server.status if self.command == "POST" or self.path.rsplit("/", 1)[1] in server.have else 404)
        for name, value in server.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(server.body)))
        self.end_headers()
        self.wfile.write(server.body)

    do_POST = do_GET = answer


@pytest.fixture
def server():
    running = Server()
    thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield running
    running.shutdown()
    thread.join(10)
    running.server_close()


def test_key_payload_and_a_kept_connection(server):
    callee = HttpCallee(f"{server.url}/emails?x=1", headers={"Authorization": "Bearer t"})
    assert callee(EFFECT) == b'{"id": 7}'
    assert callee(EFFECT) == b'{"id": 7}'
    method, path, headers, body = server.requests[0]
    assert (method, path, json.loads(body)) == ("POST", "/emails?x=1", {"to": "x"})
    assert headers["Idempotency-Key"] == "default/evt_1:email"
    assert headers["Authorization"] == "Bearer t"
    assert len(server.peers) == 1


@pytest.mark.parametrize(("status", "error"), [
    (204, None), (302, Unanswered), (303, Unanswered), (304, Unanswered), (400, Rejected), (404, Rejected), (422, Rejected), (408, Unanswered), (409, Unanswered), (425, NotSent), (429, NotSent),
    (503, NotSent), (500, Unanswered), (502, Unanswered), (504, Unanswered)])
def test_what_a_status_means(server, status, error):
    server.status, server.body = status, b""
    callee = HttpCallee(server.url)
    if error is None:
        assert callee(EFFECT) == b""
        return
    with pytest.raises(error, match=str(status)):
        callee(EFFECT)


def test_retry_after(server):
    server.status, server.headers = 429, {"Retry-After": "17"}
    with pytest.raises(NotSent) as refused:
        HttpCallee(server.url)(EFFECT)
    assert refused.value.after_s == 17.0
    server.headers = {"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"}
    with pytest.raises(NotSent) as refused:
        HttpCallee(server.url)(EFFECT)
    assert refused.value.after_s is None


def test_nobody_listens_is_not_a_doubt():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(NotSent, match="ConnectionRefused"):
        HttpCallee(f"http://127.0.0.1:{port}")(EFFECT)


def test_a_lost_answer_is_a_doubt(server):
    server.status, server.close_after = 0, True
    with pytest.raises(Unanswered):
        HttpCallee(server.url)(EFFECT)
    assert len(server.requests) == 1


def test_no_answer_in_time_is_a_doubt():
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        with pytest.raises(Unanswered, match="TimeoutError"):
            HttpCallee(f"http://127.0.0.1:{deaf.getsockname()[1]}", timeout_s=0.1)(EFFECT)


def test_a_connection_that_the_callee_closed_is_opened_anew(server):
    """Sending into it would be a doubt that nobody needs."""
    callee = HttpCallee(server.url)
    server.close_after = True
    callee(EFFECT)
    done = threading.Event()
    for _ in range(200):
        if _closed(callee):
            break
        done.wait(0.01)
    callee(EFFECT)
    assert len(server.peers) == 2


def _closed(callee) -> bool:
    from buttress.backend.webhooks.callee import _readable

    sock = callee._local.connection.sock
    return sock is None or _readable(sock)


def test_a_large_answer_is_cut(server):
    server.body = b"x" * 1000
    callee = HttpCallee(server.url, response_max_bytes=10)
    assert callee(EFFECT) == callee(EFFECT) == b"x" * 10


def test_look_up_by_reference(server):
    callee = HttpCallee(f"{server.url}/credits", key_header=None, reference_field="reference", find_url=f"{server.url}/credits/{{reference}}")
    assert callee.find(EFFECT.key) is None
    callee(EFFECT)
    assert json.loads(server.requests[-1][3]) == {"to": "x", "reference": EFFECT.key}
    assert "Idempotency-Key" not in server.requests[-1][2]
    server.have.add("default%2Fevt_1%3Aemail")
    assert callee.find(EFFECT.key) == b'{"id": 7}'
    server.status = 500
    with pytest.raises(Unanswered):
        callee.find(EFFECT.key)
    with pytest.raises(InvalidInput):
        HttpCallee(server.url).find("x")


@pytest.mark.parametrize(("url", "find_url"), [("ftp://x", None), ("http://", None), ("http://user@x/", None), ("http://x/#f", None), ("x", None),
                                               ("http://x/", "http://x/find"), ("http://x/", "http://y/{reference}")])
def test_urls_are_checked_at_once(url, find_url):
    with pytest.raises(InvalidInput):
        HttpCallee(url, find_url=find_url)


def test_an_inbox_and_a_server(server, sqlite_stores, make_inbox, sender, clock):
    inbox = make_inbox(sqlite_stores.open())
    credits = HttpCallee(f"{server.url}/credits", key_header=None, reference_field="reference", find_url=f"{server.url}/credits/{{reference}}")
    inbox.callee("email", keyed(HttpCallee(f"{server.url}/emails")))
    inbox.callee("credit", lookup(credits, credits.find))
    inbox.on("invoice.paid")(lambda event, ctx: (ctx.effect("email", payload={"a": 1}), ctx.effect("credit", payload={"b": 2})))
    sender.send(inbox, "evt_1")
    assert inbox.work() is None
    assert sorted(path for method, path, _, _ in server.requests) == ["/credits", "/emails"]
