"""Bodies and signers that others made: GitHub's examples and its own SDK, Stripe's objects and its own SDK, a Stripe that sends."""

from __future__ import annotations

import base64
import http.client
import json
import os
import shutil
import socket
import subprocess
import threading
import time
from pathlib import Path
from urllib.parse import urlencode

import pytest
import uvicorn

from buttress import servers
from buttress.backend.webhooks import InboxConfig, Refused, Verifier, create_app
from buttress.backend.webhooks.app import AppConfig
from buttress.kernel.clock import SystemClock
from buttress.kernel.store.sqlite import SqliteStore

WAIT_S = 15.0
NOW = 1_800_000_000.0
GITHUB_SECRET, STRIPE_SECRET = "It's a Secret to Everybody", "whsec_stripe"


def refused(verifier, headers, body, now=NOW):
    with pytest.raises(Refused) as error:
        verifier.verify(headers, body, now)
    return error.value.code


def tampered(body: bytes) -> bytes:
    """One bit of one byte in the middle."""
    middle = len(body) // 2
    return body[:middle] + bytes([body[middle] ^ 1]) + body[middle + 1:]


# -- GitHub: @octokit/webhooks-examples 7.6.1, and @octokit/webhooks-methods 5.1.1 as the second signer and verifier


@pytest.fixture(scope="module")
def examples(node):
    """(type, raw body) of each example. As UTF-8, as GitHub sends it."""
    place = node.folder / "node_modules/@octokit/webhooks-examples/api.github.com/index.json"
    if not place.exists():
        pytest.skip(f"needs GitHub's example payloads: npm install --no-package-lock --prefix {node.folder} @octokit/webhooks-examples@7.6.1")
    groups = json.loads(place.read_bytes())
    found = [(group["name"], json.dumps(example, ensure_ascii=False).encode()) for group in groups for example in group["examples"]]
    assert (len(groups), len(found)) == (58, 329), "of the version that package.json pins"
    return found


@pytest.fixture(scope="module")
def octokit(node):
    """``ask(call, [(body, signature)])``: one process, one answer a question."""
    if not (node.folder / "node_modules/@octokit/webhooks-methods").is_dir():
        pytest.skip(f"needs GitHub's own SDK: npm install --no-package-lock --prefix {node.folder} @octokit/webhooks-methods@5.1.1")

    def ask(call, questions):
        lines = "".join(json.dumps({"call": call, "secret": GITHUB_SECRET, "body": base64.b64encode(body).decode(), "signature": signature}) + "\n"
                        for body, signature in questions)
        done = subprocess.run(["node", str(Path(__file__).parent / "node" / "octokit.mjs"), str(node.folder)], input=lines, capture_output=True, text=True,
                              timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    return ask


def test_what_githubs_own_sdk_signs_is_let_in(examples, octokit, sign):
    verifier = Verifier.github(GITHUB_SECRET)
    signatures = octokit("sign", [(body, "") for _, body in examples])
    assert len(signatures) == len(examples)
    for (kind, body), signature in zip(examples, signatures, strict=True):
        assert signature == sign.github(body, secret=GITHUB_SECRET)["X-Hub-Signature-256"], "our own signer agrees"
        headers = {"X-GitHub-Delivery": "guid", "X-GitHub-Event": kind, "X-Hub-Signature-256": signature}
        event = verifier.verify(headers, body, NOW)
        assert (event.type, event.data, event.problem) == (kind, json.loads(body), "")
        assert refused(verifier, headers, tampered(body)) == "bad_signature"
        assert refused(Verifier.github("another secret"), headers, body) == "bad_signature"


def test_githubs_own_sdk_agrees_with_ours_about_what_is_genuine(examples, octokit, sign):
    """Both verifiers are asked the same: genuine, tampered, and signed with another secret."""
    verifier, asked, ours = Verifier.github(GITHUB_SECRET), [], []
    for kind, body in examples[::4]:
        genuine = sign.github(body, kind=kind, secret=GITHUB_SECRET)
        for headers, sent in ((genuine, body), (genuine, tampered(body)), (sign.github(body, kind=kind, secret="another secret"), body)):
            asked.append((sent, headers["X-Hub-Signature-256"]))
            try:
                verifier.verify(headers, sent, NOW)
                ours.append(True)
            except Refused:
                ours.append(False)
    assert ours == [True, False, False] * len(examples[::4])
    # Node reads the body as text: a tampered byte that is no UTF-8 is another text, and refused all the same.
    assert octokit("verify", asked) == ours


def test_all_of_githubs_examples_are_stored_once_each(examples, sqlite_stores, make_inbox, sign):
    """Delivered twice, the second time in another order; types that nobody handles are stored and acknowledged, too."""
    inbox = make_inbox(sqlite_stores.open(), verifier=Verifier.github(GITHUB_SECRET))
    seen = []
    inbox.on("push", "issues")(lambda event, ctx: seen.append(event.id))
    deliveries = [(sign.github(body, ident=f"guid-{n}", kind=kind, secret=GITHUB_SECRET), body) for n, (kind, body) in enumerate(examples)]
    first = [inbox.receive(headers, body) for headers, body in deliveries]
    again = [inbox.receive(headers, body) for headers, body in reversed(deliveries)]
    assert {(answer.status, answer.code) for answer in first} == {(200, "stored")}
    assert {(answer.status, answer.code) for answer in again} == {(200, "duplicate")}
    while inbox.work() is not None:
        pass
    handled = [f"guid-{n}" for n, (kind, _) in enumerate(examples) if kind in ("push", "issues")]
    assert sorted(seen) == sorted(handled)
    assert len(handled) > 30


# -- Stripe: the objects of its OpenAPI fixtures, its own SDK as the second verifier


@pytest.fixture(scope="module")
def objects():
    folder = servers.data("payments")
    place = folder / "stripe-openapi" / "fixtures3.json" if folder else None
    if place is None or not place.exists():
        pytest.skip("needs the fixtures of Stripe's OpenAPI file: openapi/fixtures3.json of github.com/stripe/openapi as $BUTTRESS_DATA/payments/stripe-openapi/fixtures3.json")
    found = json.loads(place.read_bytes())["resources"]
    assert len(found) > 150
    return found


def test_an_event_about_each_of_stripes_objects(objects, sign):
    """As Stripe writes bodies: indented by two, its keys sorted. The SDK and ours agree about the same bytes."""
    stripe = pytest.importorskip("stripe")
    at, verifier = int(time.time()), Verifier.stripe(STRIPE_SECRET)
    for number, (name, value) in enumerate(sorted(objects.items())):
        told = {"id": f"evt_{number}", "object": "event", "type": f"{name}.updated", "created": at - number, "livemode": number % 2 == 0,
                "account": f"acct_{number}", "data": {"object": value}, "pending_webhooks": 1, "api_version": None}
        body = json.dumps(told, indent=2, sort_keys=True).encode()
        headers = {"Stripe-Signature": stripe.WebhookSignature.generate_signature_header(body.decode(), STRIPE_SECRET, at)}
        assert headers == sign.stripe(body, at=at, secret=STRIPE_SECRET)
        event = verifier.verify(headers, body, at)
        assert (event.id, event.type, event.occurred, event.livemode, event.account) == (told["id"], told["type"], at - number, number % 2 == 0, told["account"])
        assert event.data == told
        # Not construct_event: it builds objects as well, and stumbles over a null in some of these.
        assert stripe.WebhookSignature.verify_header(body, headers["Stripe-Signature"], STRIPE_SECRET, 300)
        assert refused(verifier, headers, tampered(body), at) == "bad_signature"
        with pytest.raises(stripe.SignatureVerificationError):
            stripe.WebhookSignature.verify_header(tampered(body), headers["Stripe-Signature"], STRIPE_SECRET, 300)


def test_stripes_own_example_of_an_event(objects, sign):
    body = json.dumps(objects["event"]).encode()
    event = Verifier.stripe(STRIPE_SECRET).verify(sign.stripe(body, secret=STRIPE_SECRET), body, NOW)
    assert (event.id, event.type, event.occurred) == (objects["event"]["id"], "plan.created", 1234567890)
    assert event.account is None
    assert event.livemode is False


def test_an_object_that_is_no_event_is_kept_for_a_person(objects, sign):
    """Signed, but without a type: no id to go by, so that nothing is dropped as a duplicate of it."""
    for value in objects.values():
        if "type" not in value:
            body = json.dumps(value).encode()
            event = Verifier.stripe(STRIPE_SECRET).verify(sign.stripe(body, secret=STRIPE_SECRET), body, NOW)
            assert event.problem == "no_id"
            assert event.id.startswith("sha256:")


# -- localstripe 1.15.10: a Stripe on this machine that sends. GPL-3: run as a process, never imported


class Recorded:
    """Our receiver, and what came to it: path, headers, body, status of the answer."""

    def __init__(self, app) -> None:
        self.app = app
        self.deliveries: list[tuple[str, dict[str, str], bytes, int]] = []

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        body, status = b"", 0

        async def heard():
            nonlocal body
            message = await receive()
            body += message.get("body", b"")
            return message

        async def answered(message):
            nonlocal status
            status = message.get("status", status)
            await send(message)

        await self.app(scope, heard, answered)
        self.deliveries.append((scope["path"], {name.decode(): value.decode() for name, value in scope["headers"]}, body, status))


@pytest.fixture
def recorded(tmp_path, make_inbox):
    """Two endpoints of one receiver: one knows the sender's secret, one does not. ``.port``, ``.deliveries``, ``.inboxes``."""
    store = SqliteStore(tmp_path / "inbox.db", clock=SystemClock())
    inboxes = {name: make_inbox(store, endpoint=name, verifier=Verifier.stripe(secret), config=InboxConfig())
               for name, secret in (("known", STRIPE_SECRET), ("other", "whsec_of_another"))}
    wrapped = Recorded(create_app(inboxes, AppConfig(work=False)))
    wrapped.inboxes = inboxes
    listener = socket.create_server(("127.0.0.1", 0))
    wrapped.port = listener.getsockname()[1]
    server = uvicorn.Server(uvicorn.Config(wrapped, log_config=None, access_log=False))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    yield wrapped
    server.should_exit = True
    thread.join(WAIT_S)
    listener.close()
    store.close()
    assert not thread.is_alive()


@pytest.fixture
def localstripe(tmp_path):
    """``call(path, fields)`` of a localstripe on a free port, started for one test. It listens on all addresses: it has no other option."""
    state = os.environ.get("BUTTRESS_STATE") or os.path.join(os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state"), "buttress")
    venv = Path(state, "localstripe")
    binary = shutil.which("localstripe") or (str(venv / "bin" / "localstripe") if (venv / "bin" / "localstripe").exists() else None)
    if binary is None:
        pytest.skip(f"needs localstripe: python3 -m venv {venv} && {venv}/bin/pip install localstripe==1.15.10")
    left = Path("/tmp/localstripe.pickle")  # where it writes its state, wherever it is started
    before = left.exists()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with open(tmp_path / "localstripe.log", "wb") as log:
        process = subprocess.Popen([binary, "--port", str(port), "--from-scratch"], cwd=tmp_path, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def call(path, fields, method="POST"):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=WAIT_S)
        try:
            token = base64.b64encode(b"sk_test_12345:").decode()
            connection.request(method, path, urlencode(fields), {"Content-Type": "application/x-www-form-urlencoded", "Authorization": f"Basic {token}"})
            answer = connection.getresponse()
            text = answer.read().decode()
            assert answer.status == 200, text
            return json.loads(text) if text.strip() else None
        finally:
            connection.close()

    def up():
        assert process.poll() is None, (tmp_path / "localstripe.log").read_text()[-500:]
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            return False
        return True

    try:
        until(up)
        yield call
    finally:
        process.terminate()
        try:
            process.wait(WAIT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if not before:
            left.unlink(missing_ok=True)


def until(condition) -> None:
    """Waits on a condition that another process brings about."""
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, "it never came about"
        time.sleep(0.02)


def test_a_stripe_that_sends(localstripe, recorded):
    """Each event of it is let in and handled once; the very same with a bit changed, or under another secret, is refused."""
    for name in ("known", "other"):
        localstripe(f"/_config/webhooks/{name}", {"url": f"http://127.0.0.1:{recorded.port}/{name}", "secret": STRIPE_SECRET})
    seen = []
    inbox = recorded.inboxes["known"]
    inbox.on("customer.created", "customer.updated", "customer.deleted", "product.created")(lambda event, ctx: seen.append((event.type, event.data["data"]["object"]["id"])))
    customer = localstripe("/v1/customers", {"email": "zoë@example.invalid", "description": "first"})["id"]
    localstripe(f"/v1/customers/{customer}", {"description": "second"})
    product = localstripe("/v1/products", {"name": "thing", "type": "service"})["id"]
    localstripe(f"/v1/customers/{customer}", {}, method="DELETE")
    until(lambda: len(recorded.deliveries) >= 8)
    known = [(headers, body) for path, headers, body, status in recorded.deliveries if path == "/known" and status == 200]
    assert len(known) == 4
    assert [status for path, _, _, status in recorded.deliveries if path == "/other"] == [401] * 4, "another secret"
    for headers, body in known:
        assert inbox.receive(headers, body).code == "duplicate"
        assert inbox.receive(headers, tampered(body)).code == "bad_signature"
        late = {**headers, "stripe-signature": headers["stripe-signature"].replace("t=1", "t=2", 1)}
        assert inbox.receive(late, body).code == "bad_signature", "the time is signed"
    while inbox.work() is not None:
        pass
    assert sorted(seen) == sorted([("customer.created", customer), ("customer.updated", customer), ("customer.deleted", customer), ("product.created", product)])
