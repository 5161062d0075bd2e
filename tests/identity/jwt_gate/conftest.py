"""What the tests of jwt_gate share: an issuer whose keys are made once, gateways over HTTP, and public test data."""

from __future__ import annotations

import contextlib
import json
import random
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from buttress import servers
from buttress.identity.jwt_gate import JwksProvider, KeyBinding, Policy, StaticKeys, Verifier, world
from buttress.kernel.clock import ManualClock

NOW = 1_800_000_000.0


@pytest.fixture(scope="session")
def issuer(tmp_path_factory):
    """The simulated issuer. Its keys are made once a run."""
    folder = tmp_path_factory.mktemp("issuer")
    world.make_keys(folder)
    return world.Issuer(str(folder))


@pytest.fixture
def clock():
    return ManualClock(NOW)


@pytest.fixture
def policy():
    return Policy(issuer=world.ISSUER, audience=world.AUDIENCE)


@pytest.fixture
def bindings(issuer):
    return [KeyBinding(world.kid_of(alg, 0), alg, issuer.key(alg).public_key()) for alg in world.ALGS]


@pytest.fixture
def keys(bindings):
    return StaticKeys(world.ISSUER, bindings)


@pytest.fixture
def verifier(policy, keys, clock):
    return Verifier(policy, keys, clock=clock)


@pytest.fixture
def token(issuer, clock):
    """``token("ES256", exp=...)``: a genuine token of now; keywords are claims."""
    rng = random.Random(1)
    return lambda alg="ES256", **changes: issuer.token(alg, clock.now(), rng, **changes)


@pytest.fixture
def provider(clock):
    """``provider(fetch, ...)``: a JwksProvider on the test's clock whose refreshes run at once."""
    def make(fetch, **options):
        options = {"ttl_s": 300, "stale_while_revalidate_s": 3300, "min_refresh_s": 10, "spawn": lambda job: job(), **options}
        return JwksProvider(world.ISSUER, url="https://issuer.example/jwks.json", allowed_hosts=("issuer.example",), clock=clock, fetch=fetch, **options)

    return make


@pytest.fixture(scope="session")
def data():
    """Public test data; skips where it is absent."""
    found = servers.data("jwt_gate")
    if found is None:
        pytest.skip("needs public test data: set BUTTRESS_DATA to the folder that holds jwt_gate")
    return found


@contextlib.contextmanager
def http_server(answer):
    """``answer(path, headers) -> (status, headers, body)`` on a free port; yields its base URL."""
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            status, headers, body = answer(self.path, self.headers)
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args):
            return

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        block_on_close = False

    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(timeout=5)


@pytest.fixture
def serve():
    """``serve(answer)`` starts a server that ends with the test; its base URL."""
    with contextlib.ExitStack() as stack:
        yield lambda answer: stack.enter_context(http_server(answer))


@pytest.fixture
def serve_gateway(serve):
    """``serve_gateway(accepts)``: a gateway that answers 200 where ``accepts(token)``, else 401."""
    def start(accepts):
        def answer(path, headers):
            value = headers.get("Authorization", "")
            return (200, {}, b"welcome") if value.startswith("Bearer ") and accepts(value[7:]) else (401, {}, b"no")

        return serve(answer)

    return start


def jwks_answer(document):
    return lambda path, headers: (200, {"Content-Type": "application/json"}, document if isinstance(document, bytes) else json.dumps(document).encode())
