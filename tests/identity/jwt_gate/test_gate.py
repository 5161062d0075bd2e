"""The ASGI layer and the sidecar: who is let through, what a refusal says, and nginx in front."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request

import pytest
import uvicorn

from buttress.identity.jwt_gate import JwtGate, Refused, Verifier, create_app, world
from buttress.identity.jwt_gate.app import SidecarConfig
from buttress.identity.jwt_gate.gate import bearer
from buttress.kernel.clock import SystemClock
from buttress.kernel.errors import InvalidInput
from buttress.servers.process import Server, folder, free_port, other_user


def call(app, path="/", headers=(), kind="http", **scope):
    """(messages that the app sent) of one request."""
    sent = []

    async def run():
        async def receive():
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message):
            sent.append(message)

        await app({"type": kind, "path": path, "method": "GET", "headers": list(headers), **scope}, receive, send)

    asyncio.run(run())
    return sent


def auth(token, name=b"authorization"):
    return [(name, b"Bearer " + token.encode())]


async def inner(scope, receive, send):
    claims = scope["state"].get("claims")
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": (claims.subject if claims else "nobody").encode()})


@pytest.fixture
def gate(verifier):
    return JwtGate(inner, verifier, open_paths=["/healthz"])


def test_a_genuine_token_reaches_the_app_with_its_claims(gate, token):
    assert call(gate, headers=auth(token(sub="alice")))[1]["body"] == b"alice"
    assert call(gate, headers=auth(token(sub="alice"), b"Authorization"), state={"other": 1})[1]["body"] == b"alice"


@pytest.mark.parametrize(("headers", "status", "said"), [
    ([], 401, "no_token"), ([(b"authorization", b"Bearer ")], 401, "no_token"), ([(b"authorization", b"Basic abc")], 400, "invalid_request"),
    ([(b"authorization", b"Bearer a"), (b"authorization", b"Bearer a")], 400, "invalid_request"), ([(b"authorization", b"Bearer a.b.c, Bearer d.e.f")], 400, "invalid_request"),
    ([(b"authorization", b"Bearer a.b.c")], 401, "invalid_token"), ([(b"authorization", b"Bearer \xff\xfe")], 401, "invalid_token"),
])
def test_a_refusal_says_why_and_shows_no_token(gate, headers, status, said):
    start, body = call(gate, headers=headers)
    assert start["status"] == status
    assert json.loads(body["body"])["error"] == said
    shown = dict(start["headers"])
    assert shown[b"cache-control"] == b"no-store"
    assert (b"error=" in shown[b"www-authenticate"]) == bool(headers and said != "no_token")
    assert b"a.b.c" not in body["body"] + b"".join(shown.values())


def test_open_paths_are_letter_by_letter(gate):
    assert call(gate, "/healthz")[0]["status"] == 200
    for path in ("/healthz/", "/healthz/x", "/HEALTHZ", "//healthz", "/healthz%2f"):
        assert call(gate, path)[0]["status"] == 401


def test_claims_that_somebody_else_put_into_the_scope_are_dropped(gate):
    assert call(gate, "/healthz", state={"claims": "forged"})[1]["body"] == b"nobody"


def test_websockets_are_refused_before_they_are_accepted(gate, token):
    assert call(gate, kind="websocket") == [{"type": "websocket.close", "code": 1008}]
    assert call(gate, kind="websocket", headers=auth(token()))[0]["status"] == 200


def test_lifespan_is_the_apps_own():
    seen = []

    async def app(scope, receive, send):
        seen.append(scope["type"])

    call(JwtGate(app, None), kind="lifespan")
    assert seen == ["lifespan"]


def test_keys_are_fetched_in_a_thread_and_an_outage_is_503(provider, policy, clock, token, issuer):
    from buttress.identity.jwt_gate import KeysUnavailable

    fetched_by = []

    def fetch():
        fetched_by.append(threading.current_thread())
        return issuer.document((0,))

    gate = JwtGate(inner, Verifier(policy, provider(fetch), clock=clock))
    assert call(gate, headers=auth(token()))[0]["status"] == 200
    assert fetched_by[0] is not threading.main_thread()

    def down():
        raise KeysUnavailable("down")

    closed = JwtGate(inner, Verifier(policy, provider(down), clock=clock))
    start = call(closed, headers=auth(token()))[0]
    assert start["status"] == 503 and (b"retry-after", b"5") in start["headers"]


def test_on_error_is_yours(verifier):
    gate = JwtGate(inner, verifier, on_error=lambda error: (418, {"x-code": error.code}, b"tea"))
    start, body = call(gate)
    assert (start["status"], body["body"]) == (418, b"tea") and (b"x-code", b"no_token") in start["headers"]


def test_nothing_of_a_token_is_logged(gate, token, caplog):
    caplog.set_level("DEBUG")
    bad = token()[:-4] + "AAAA"
    call(gate, headers=auth(bad))
    assert caplog.records and all(part not in str(vars(r)) for r in caplog.records for part in bad.split("."))


def test_bearer_is_any_case_of_the_scheme():
    assert bearer([(b"Authorization", b"bEARER  x ")]) == b"x"
    with pytest.raises(Refused):
        bearer([(b"authorization", b"DPoP x")])


# -- the sidecar


@pytest.fixture
def sidecar(verifier):
    return create_app(verifier, SidecarConfig(metrics_token="m" * 20, scopes=frozenset({"read"}), forward={"sub": "x-auth-subject", "client_id": "x-auth-client"}))


def test_verify_lets_in_with_headers_and_refuses_in_words_that_nginx_knows(sidecar, token):
    start, _ = call(sidecar, "/verify", auth(token(sub="al\r\nice é")))
    assert start["status"] == 200
    assert dict(start["headers"])[b"x-auth-subject"] == b"al%0D%0Aice %C3%A9"
    for headers in ([], auth("a.b.c"), [(b"authorization", b"Basic x")]):
        assert call(sidecar, "/verify", headers)[0]["status"] == 401
    assert call(sidecar, "/verify", auth(token(scope="write")))[0]["status"] == 403
    assert b"x-auth-subject" not in dict(call(sidecar, "/verify", auth(token(sub="x" * 600)))[0]["headers"])


def test_metrics_are_for_those_who_have_the_credential(sidecar, token):
    call(sidecar, "/verify", auth(token()))
    for path in ("/metrics", "/state"):
        assert call(sidecar, path)[0]["status"] == 401
        assert call(sidecar, path, auth("wrong"))[0]["status"] == 401
        assert call(sidecar, path, auth("m" * 20))[0]["status"] == 200
    assert b'buttress_jwt_gate_verdicts_total{code="in"} 1.0' in call(sidecar, "/metrics", auth("m" * 20))[1]["body"]
    assert call(sidecar, "/other")[0]["status"] == 404
    assert call(sidecar, "/healthz")[0]["status"] == 200


@pytest.mark.parametrize("name", ["authorization", "X-Auth", "x-a b", "x-a:b"])
def test_forwarded_headers_are_named_by_rule(name):
    with pytest.raises(InvalidInput):
        SidecarConfig(forward={"sub": name})


# -- nginx in front


NGINX = """daemon off; worker_processes 1; pid {place}/nginx.pid; error_log {place}/error.log;
events {{ worker_connections 64; }}
http {{
  access_log off;
  client_body_temp_path {place}/a; proxy_temp_path {place}/b; fastcgi_temp_path {place}/c; uwsgi_temp_path {place}/d; scgi_temp_path {place}/e;
  server {{
    listen 127.0.0.1:{port};
    location / {{
      auth_request /_verify;
      auth_request_set $subject $upstream_http_x_auth_subject;
      proxy_set_header X-Auth-Subject $subject;
      proxy_set_header Authorization "";
      proxy_pass http://127.0.0.1:{app};
    }}
    location = /_verify {{
      internal;
      proxy_pass http://127.0.0.1:{sidecar}/verify;
      proxy_pass_request_body off;
      proxy_set_header Content-Length "";
    }}
  }}
}}
"""


@contextlib.contextmanager
def running(app):
    """A real uvicorn on a free port."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=64)
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", access_log=False, lifespan="on"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    deadline = time.monotonic() + 20
    while not server.started and time.monotonic() < deadline:
        time.sleep(0.02)
    try:
        yield listener.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(10)
        listener.close()


def get(url, token=None, **headers):
    request = urllib.request.Request(url, headers={**({"Authorization": f"Bearer {token}"} if token else {}), **headers})
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, ""


@pytest.fixture
def nginx(serve, policy, keys):
    """nginx with auth_request, our sidecar, and an application that says who it was told is there. Yields its URL and the arrivals."""
    binary = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if binary is None:
        pytest.skip("needs nginx: apt-get install nginx-light")
    arrived = []

    def answer(path, headers):
        arrived.append((path, headers.get("X-Auth-Subject"), headers.get("Authorization")))
        return 200, {}, (headers.get("X-Auth-Subject") or "nobody").encode()

    app = serve(answer)
    with running(create_app(Verifier(policy, keys, clock=SystemClock()))) as sidecar:
        user, port = other_user(), free_port()
        place = folder("nginx", user)
        (place / "nginx.conf").write_text(NGINX.format(place=place, port=port, app=app.rsplit(":", 1)[1], sidecar=sidecar))
        (place / "nginx.conf").chmod(0o644)

        def healthy():
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                return True
            return False

        server = Server([binary, "-p", str(place), "-c", str(place / "nginx.conf"), "-e", str(place / "error.log")], place, user, healthy)
        server.start()
        try:
            yield f"http://127.0.0.1:{port}/x", arrived
        finally:
            server.remove()


def test_nginx_lets_in_what_the_sidecar_lets_in_and_nothing_else(nginx, issuer):
    import random

    url, arrived = nginx
    rng, now = random.Random(1), time.time()
    genuine = issuer.token("ES256", now, rng, sub="alice")
    assert get(url, genuine) == (200, "alice")
    assert get(url, genuine, **{"X-Auth-Subject": "root"}) == (200, "alice"), "what a client says of itself does not arrive"
    count = len(arrived)
    for token in (None, genuine[:-6] + "AAAAAA", issuer.token("ES256", now - 3600, rng), "a.b.c"):
        assert get(url, token)[0] == 401
    assert get(url, None, Authorization="Basic eDp5")[0] == 401
    assert len(arrived) == count and {seen[2] for seen in arrived} == {None}


def test_nginx_is_probed_from_outside(nginx, issuer):
    """The probe over the real thing, with the issuer's key: all that can be sent is judged, and refused."""
    import random

    from buttress.identity.jwt_gate.probe.forge import Workshop
    from buttress.identity.jwt_gate.probe.forms import PublicForms
    from buttress.identity.jwt_gate.probe.judge import Probe
    from buttress.identity.jwt_gate.probe.target import Signs, Target

    url, _ = nginx
    rng, public = random.Random(1), PublicForms.of_jwk(issuer.jwk("RS256", 0))
    target = Target(url)
    report = Probe(target.send, lambda: Workshop(issuer.token("RS256", time.time(), rng), time.time(), public, issuer.key("RS256"), ""), Signs(), url=url, bracket=10).run()
    assert report.verdict == "SAFE", report
    assert report.judged >= 130


def test_serve_starts_the_sidecar_as_a_command(tmp_path, issuer):
    import random
    import sys

    (tmp_path / "jwks.json").write_bytes(issuer.document((0,)))
    port = free_port()
    process = subprocess.Popen([sys.executable, "-m", "buttress", "jwt_gate", "serve", "--issuer", world.ISSUER, "--audience", world.AUDIENCE,
                                "--jwks", str(tmp_path / "jwks.json"), "--port", str(port)], stderr=subprocess.PIPE)
    try:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                if get(f"http://127.0.0.1:{port}/healthz")[0] == 200:
                    break
            time.sleep(0.05)
        genuine = issuer.token("Ed25519", time.time(), random.Random(3))
        assert get(f"http://127.0.0.1:{port}/verify", genuine)[0] == 200
        assert get(f"http://127.0.0.1:{port}/verify", genuine[:-3] + "AAA")[0] == 401
    finally:
        process.terminate()
        _, err = process.communicate(timeout=20)
    assert b"Traceback" not in err
