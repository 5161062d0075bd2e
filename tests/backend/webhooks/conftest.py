"""What the tests of webhooks share: senders that sign, callees that count, stores, and processes that can be killed."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import shutil
import subprocess
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace

import pytest

from buttress.backend.webhooks import Inbox, InboxConfig, Verifier
from buttress.kernel import failpoint
from buttress.kernel.clock import ManualClock
from buttress.kernel.store.sqlite import SqliteStore

START = 1_800_000_000.0
SECRET = "whsec_" + base64.b64encode(b"a secret of thirty-two bytes ...").decode()
WAIT_S = 20.0


@pytest.fixture(autouse=True)
def _disarmed() -> Iterator[None]:
    """No test leaves a failpoint armed behind."""
    yield
    failpoint.arm(None)


# -- senders: their own code, so that signer and verifier cannot share a mistake


def _mac(secret: str | bytes, signed: bytes) -> bytes:
    return hmac.new(secret if isinstance(secret, bytes) else secret.encode(), signed, hashlib.sha256).digest()


def sign_standard(body: bytes, *, ident="msg_1", at=START, secret=SECRET, prefix="webhook") -> dict[str, str]:
    key = base64.b64decode(secret.removeprefix("whsec_"))
    signature = base64.b64encode(_mac(key, b"%s.%d." % (ident.encode(), at) + body)).decode()
    return {f"{prefix}-id": ident, f"{prefix}-timestamp": str(int(at)), f"{prefix}-signature": f"v1,{signature}"}


def sign_stripe(body: bytes, *, at=START, secret="whsec_stripe") -> dict[str, str]:
    return {"Stripe-Signature": f"t={int(at)},v1={_mac(secret, b'%d.' % at + body).hex()}"}


def sign_github(body: bytes, *, ident="guid-1", kind="push", secret="It's a Secret to Everybody") -> dict[str, str]:
    return {"X-GitHub-Delivery": ident, "X-GitHub-Event": kind, "X-Hub-Signature-256": f"sha256={_mac(secret, body).hex()}"}


def sign_shopify(body: bytes, *, ident="event-1", kind="orders/create", shop="a.myshopify.com", secret="shopify", **more) -> dict[str, str]:
    return {"X-Shopify-Event-Id": ident, "X-Shopify-Topic": kind, "X-Shopify-Shop-Domain": shop,
            "X-Shopify-Hmac-Sha256": base64.b64encode(_mac(secret, body)).decode(), **more}


@pytest.fixture(scope="session")
def sign() -> SimpleNamespace:
    return SimpleNamespace(standard=sign_standard, stripe=sign_stripe, github=sign_github, shopify=sign_shopify, secret=SECRET, start=START)


def event_body(kind="invoice.paid", **data) -> bytes:
    return json.dumps({"type": kind, "data": data}).encode()


class Sender:
    """A provider with one secret: ``send`` delivers an event to an inbox at the time of its clock."""

    def __init__(self, clock) -> None:
        self.clock = clock

    def delivery(self, ident, kind="invoice.paid", *, body=None, **data):
        body = event_body(kind, **data) if body is None else body
        return sign_standard(body, ident=ident, at=self.clock.now()), body

    def send(self, inbox, ident, kind="invoice.paid", *, body=None, **data):
        return inbox.receive(*self.delivery(ident, kind, body=body, **data))


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(START)


@pytest.fixture
def sender(clock) -> Sender:
    return Sender(clock)


# -- stores


class Stores:
    """Opens the same empty place as often as it is asked, on one engine; closes all at the end."""

    def __init__(self, engine, place, clock) -> None:
        self.engine = engine
        self.place = place
        self.clock = clock
        self._closing = ExitStack()

    def open(self, **options):
        if self.engine == "sqlite":
            store = SqliteStore(self.place, clock=self.clock, **options)
        else:
            from buttress.kernel.store.postgres import PostgresStore

            store = PostgresStore(self.place, clock=self.clock, create=True, **options)
        self._closing.callback(store.close)
        return store

    def close(self) -> None:
        self._closing.close()


@pytest.fixture
def sqlite_stores(tmp_path, clock) -> Iterator[Stores]:
    stores = Stores("sqlite", str(tmp_path / "inbox.db"), clock)
    yield stores
    stores.close()


@pytest.fixture
def postgres_stores(postgres_url, clock) -> Iterator[Stores]:
    import psycopg

    schema = f"s{uuid.uuid4().hex[:12]}"
    with psycopg.connect(postgres_url, autocommit=True) as server:
        server.execute(f"CREATE SCHEMA {schema}")
    stores = Stores("postgres", psycopg.conninfo.make_conninfo(postgres_url, options=f"-c search_path={schema}"), clock)
    yield stores
    stores.close()


@pytest.fixture(params=["sqlite", "postgres"])
def stores(request) -> Stores:
    """Each test that asks for this is written once for both engines."""
    return request.getfixturevalue(f"{request.param}_stores")


@pytest.fixture
def make_inbox() -> Callable[..., Inbox]:
    """An inbox for ``SECRET``; retries come soon."""

    def make(store, *, verifier=None, config=None, **options) -> Inbox:
        import random

        config = config or InboxConfig(lease_s=60, retry_base_s=1, retry_max_s=60)
        return Inbox(store, verifier or Verifier.standard(SECRET), config=config, rng=random.Random(7), **options)

    return make


# -- callees


class Counter:
    """A callee in this process. ``keyed``: it honours keys. ``fail`` is asked before and after each effect and may raise."""

    def __init__(self, *, keyed=True) -> None:
        self.keyed = keyed
        self.done: list[tuple[str, dict]] = []
        self.calls = 0
        self.fail: Callable[[str], None] = lambda moment: None

    def send(self, effect) -> bytes:
        self.calls += 1
        self.fail("before")
        if not (self.keyed and any(key == effect.key for key, _ in self.done)):
            self.done.append((effect.key, dict(effect.payload)))
        self.fail("after")
        return b"ok"

    def find(self, reference: str) -> bytes | None:
        self.fail("find")
        return b"there" if any(key == reference for key, _ in self.done) else None

    @property
    def keys(self) -> list[str]:
        return [key for key, _ in self.done]


@pytest.fixture
def counter() -> type[Counter]:
    return Counter


# -- other SDKs


def node_folder() -> Path:
    state = os.environ.get("BUTTRESS_STATE")
    if state is None:
        state = os.path.join(os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state"), "buttress")
    return Path(state, "node")


class Node:
    """The npm SDKs, one process for the session, a JSON line a call."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        script = Path(__file__).parent / "node" / "answer.js"
        self._process = subprocess.Popen(["node", str(script), str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __call__(self, call, *, body=b"", **arguments):
        """The value, or None when the SDK raised."""
        line = json.dumps({"call": call, "body": base64.b64encode(body).decode(), **arguments})
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline()).get("ok")

    def close(self) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(timeout=10)
        self._process.stdout.close()


@pytest.fixture(scope="session")
def node() -> Iterator[Node]:
    folder = node_folder()
    if shutil.which("node") is None:
        pytest.skip("needs node")
    if not (folder / "node_modules" / "stripe").is_dir():
        wanted = Path(__file__).parent / "node" / "package.json"
        pytest.skip(f"needs the npm SDKs: mkdir -p {folder} && cp {wanted} {folder} && npm install --no-package-lock --prefix {folder}")
    process = Node(folder)
    yield process
    process.close()
