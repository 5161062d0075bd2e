"""The verbs, as a user types them."""

from __future__ import annotations

import importlib
import json
import threading
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import pytest
from click.testing import CliRunner

from buttress.backend.webhooks import InboxConfig, Verifier, at_most_once, keyed
from buttress.backend.webhooks.cli import cli
from buttress.kernel.clock import SystemClock
from buttress.kernel.store.sqlite import SqliteStore


@pytest.fixture
def place(tmp_path):
    return str(tmp_path / "inbox.db")


@pytest.fixture
def inbox(place, make_inbox):
    store = SqliteStore(place, clock=SystemClock())
    yield make_inbox(store, verifier=Verifier.stripe("whsec_stripe"), config=InboxConfig(max_attempts=1))
    store.close()


def run(*words, input=None, env=None):
    result = CliRunner().invoke(cli, list(map(str, words)), input=input, env=env)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


def tell(inbox, sign, ident, kind="a", **more):
    body = json.dumps({"id": ident, "type": kind, **more}).encode()
    return inbox.receive(sign.stripe(body, at=inbox.store.clock.now()), body)


def test_verify(tmp_path, sign):
    file = tmp_path / "body"
    file.write_bytes(b'{"type": "invoice.paid"}')
    headers = [word for name, value in sign.standard(file.read_bytes()).items() for word in ("-H", f"{name}: {value}")]
    env = {"NEW": "whsec_" + "QUFB" * 8, "OLD": sign.secret}
    ours = ("verify", "--secret-env", "NEW", "--secret-env", "OLD", *headers)
    assert run(*ours, "--at", sign.start, file, env=env) == (0, "genuine: invoice.paid msg_1\n")
    code, output = run(*ours, file, env=env)
    assert (code, output.split(":")[1].split()[0]) == (1, "stale")
    code, output = run(*ours, "--at", sign.start, "-", env=env, input="{}")
    assert (code, output.startswith("refused: bad_signature")) == (1, True)
    assert run(*ours, file, env={"NEW": "x"})[0] == 2, "click's usage; the root makes it 64"
    assert run("verify", "--secret-env", "OLD", "-H", "no colon", file, env=env)[0] == 2


def test_inspect(inbox, place, sign):
    inbox.on("broken")(lambda event, ctx: 1 / 0)
    tell(inbox, sign, "evt_1", "broken", email="mallory@example.com")
    tell(inbox, sign, "evt_2", "unknown")
    inbox.work()
    code, output = run("inspect", "--store", place)
    assert code == 0
    assert "dead_events 1" in " ".join(output.split())
    assert "{'unknown': 1}" in output
    code, output = run("inspect", "--store", place, "--check", "--json")
    found = json.loads(output)
    assert (code, found["dead_events"], found["lists"]["dead"][0]["id"]) == (1, 1, "evt_1")
    assert "mallory" not in output
    code, output = run("inspect", "--store", place, "evt_1")
    assert (code, "ZeroDivisionError" in output, "mallory" in output) == (0, True, False)
    code, output = run("inspect", "--store", place, "evt_1", "--body", "--json")
    assert "mallory" in json.loads(output)["body"]
    assert run("inspect", "--store", place, "evt_9")[0] == 1
    assert run("inspect", "--store", place, "--endpoint", "other", "evt_1")[0] == 1
    assert run("inspect", "--store", place + ".nowhere")[0] == 2, "a mistyped path is no empty store"
    inbox.on("mended")(lambda event, ctx: None)
    assert run("inspect", "--store", place, "--endpoint", "other", "--check")[0] == 0


def test_a_store_that_cannot_be_opened_is_2(tmp_path):
    code, output = run("inspect", "--store", tmp_path)
    assert (code, "SQLITE_CANTOPEN" in output) == (2, True)


def test_replay(inbox, place, sign):
    seen = []
    inbox.on("a")(lambda event, ctx: seen.append(event.id))
    for ident, kind in (("evt_1", "a"), ("evt_2", "a"), ("evt_3", "later")):
        tell(inbox, sign, ident, kind)
    inbox.work()
    assert run("replay", "--store", place, "evt_1", "evt_2") == (0, "2 due again\n")
    assert run("replay", "--store", place, "--ignored", "later") == (0, "1 due again\n")
    inbox.on("later")(lambda event, ctx: seen.append(event.id))
    inbox.work()
    assert sorted(seen) == ["evt_1", "evt_1", "evt_2", "evt_2", "evt_3"]
    assert run("replay", "--store", place)[0] == 2


def test_dead_letters(inbox, place, sign, counter):
    coupon, fixed = counter(), []

    def lose(moment):
        raise TimeoutError

    coupon.fail = lose
    inbox.callee("coupon", at_most_once(coupon.send))

    @inbox.on("a")
    def handle(event, ctx):
        if event.id == "evt_1" and not fixed:
            raise RuntimeError
        ctx.effect("coupon")

    for ident in ("evt_1", "evt_2"):
        tell(inbox, sign, ident)
    inbox.work()
    code, output = run("dlq", "list", "--store", place)
    assert code == 0
    lines = output.splitlines()
    assert [line.split()[0] for line in lines] == ["event", "effect", "doubt"]
    assert [json.loads(line)["what"] for line in run("dlq", "list", "--store", place, "--json")[1].splitlines()] == ["event", "effect", "doubt"]
    coupon.fail = lambda moment: None
    assert run("dlq", "resolve", "--store", place, "coupon", "default/evt_2:coupon", "--did-not-happen") == (0, "1 closed\n")
    assert run("dlq", "resolve", "--store", place, "coupon", "default/evt_2:coupon", "--happened") == (1, "0 closed\n")
    fixed.append(True)
    assert run("dlq", "replay", "--store", place, "--events", "--type", "other") == (0, "0 due again\n")
    assert run("dlq", "replay", "--store", place, "--events") == (0, "1 due again\n")
    assert run("dlq", "replay", "--store", place, "--effect", "coupon") == (0, "0 due again\n")
    inbox.work()
    assert sorted(coupon.keys) == ["default/evt_1:coupon", "default/evt_2:coupon"]
    assert run("dlq", "list", "--store", place) == (0, "none\n")
    assert run("dlq", "replay", "--store", place)[0] == 2
    assert run("dlq", "resolve", "--store", place, "coupon", "k")[0] == 2, "what was found out must be said"


def test_resolve_says_what_stays_dead(inbox, place, sign, counter):
    stock = counter()

    def lose(moment):
        raise TimeoutError

    stock.fail = lose
    inbox.callee("stock", at_most_once(stock.send))
    inbox.on("a")(lambda event, ctx: ctx.effect("stock", in_order="sku 1") and None)
    tell(inbox, sign, "evt_1")
    inbox.work()
    stock.fail = lambda moment: None
    tell(inbox, sign, "evt_2")
    inbox.work()
    assert stock.keys == ["default/evt_2:stock"]
    code, output = run("dlq", "resolve", "--store", place, "stock", "default/evt_1:stock", "--did-not-happen")
    assert (code, output.splitlines()[0]) == (0, "1 closed")
    assert "stays dead" in output and "a later effect of its lane" in output
    inbox.work()
    assert stock.keys == ["default/evt_2:stock"]


class ProviderList(BaseHTTPRequestHandler):
    """The list of a provider, in Stripe's shape: newest first, in pages of two."""

    def log_message(self, *args) -> None:
        pass

    def do_GET(self) -> None:
        query = {name: values[0] for name, values in parse_qs(urlsplit(self.path).query).items()}
        self.server.asked.append((self.headers["Authorization"], query))
        left = [event for event in self.server.events if event["created"] >= int(query["created[gte]"])]
        if "starting_after" in query:
            left = left[[event["id"] for event in left].index(query["starting_after"]) + 1:]
        body = json.dumps({"object": "list", "data": left[:2], "has_more": len(left) > 2}).encode() if self.server.status == 200 else b"{}"
        self.send_response(self.server.status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def provider():
    server = ThreadingHTTPServer(("127.0.0.1", 0), ProviderList)
    server.events, server.asked, server.status = [], [], 200
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join(10)
    server.server_close()


def test_backfill_from_the_providers_list(inbox, place, sign, provider):
    now = int(inbox.store.clock.now())
    provider.events = [{"id": f"evt_{n}", "type": "a", "created": now - n * 3600} for n in range(8)]
    assert tell(inbox, sign, "evt_2", created=now - 7200).code == "stored"
    url = f"http://127.0.0.1:{provider.server_address[1]}/v1/events"
    ask = ("backfill", "--store", place, "--since", "290m", "--url", url, "--key-env", "KEY")
    assert run(*ask, env={"KEY": "sk_test"}) == (0, "4 were never delivered and are stored now, 1 were known, 0 older\n")
    assert {key for key, _ in provider.asked} == {"Bearer sk_test"}
    assert len(provider.asked) == 3, "pages of two"
    assert run(*ask, env={"KEY": "sk_test"})[1].startswith("0 were never")
    assert run("inspect", "--store", place, "--check")[0] == 1
    seen = []
    inbox.on("a")(lambda event, ctx: seen.append(event.id))
    inbox.work()
    assert sorted(seen) == [f"evt_{n}" for n in range(5)]
    provider.status = 401
    code, output = run(*ask, env={"KEY": "sk_test"})
    assert (code, "HTTP 401" in output, "sk_test" in output) == (2, True, False)
    assert run(*ask)[0] == 2


def test_backfill_from_lines(inbox, place, tmp_path):
    since = datetime(2026, 1, 1, tzinfo=UTC)
    lines = [{"id": "evt_1", "type": "a", "created": since.timestamp() + 5}, {"id": "evt_0", "type": "a", "created": since.timestamp() - 5},
             {"id": "guid-1", "type": "push", "body": '{"x": 1}', "occurred": "2026-01-02T00:00:00Z", "account": "acct_1", "livemode": True}]
    file = tmp_path / "events.jsonl"
    file.write_text("\n".join(map(json.dumps, lines)) + "\n\n")
    ask = ("backfill", "--store", place, "--since", "2026-01-01T00:00:00Z", "--file")
    assert run(*ask, file) == (0, "2 were never delivered and are stored now, 0 were known, 1 older\n")
    (entry,) = inbox.find("guid-1")
    assert (entry.type, entry.body, entry.account, entry.livemode, entry.delivered) == ("push", b'{"x": 1}', "acct_1", True, None)
    assert run("backfill", "--store", place, "--since", "soon", "--file", file)[0] == 2
    assert run("backfill", "--store", place, "--since", "3d")[0] == 2


@pytest.mark.parametrize("line", ["x", "[1]", '{"id": 1, "type": "a", "body": "x"}'])
def test_backfill_of_bad_lines(inbox, place, line):
    result = CliRunner().invoke(cli, ["backfill", "--store", place, "--since", "3d", "--file", "-"], input=line)
    assert result.exception.code == "invalid_input"


def test_schema_is_what_postgres_needs(postgres_stores, make_inbox):
    import psycopg

    from buttress.kernel.store.postgres import PostgresStore

    with psycopg.connect(postgres_stores.place, autocommit=True) as connection:
        connection.execute(run("schema")[1].encode())
    store = PostgresStore(postgres_stores.place)
    inbox = make_inbox(store)
    inbox.callee("email", keyed(print))
    assert inbox.work() is None
    assert run("inspect", "--store", postgres_stores.place, "--check")[0] in (0, 2)
    store.close()
    assert "BLOB" in run("schema", "--dialect", "sqlite")[1]


def test_serve(monkeypatch, tmp_path, place, sign):
    """What is handed to the server: the inboxes of a target, or one that only receives."""
    uvicorn = importlib.import_module("uvicorn")
    served = []
    monkeypatch.setattr(uvicorn, "run", lambda app, **options: served.append((app, options)))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "shop_of_a_test.py").write_text(
        "from buttress.backend.webhooks import Inbox, Verifier\nfrom buttress.kernel.store.sqlite import SqliteStore\n"
        "def inboxes():\n    return {'hooks': Inbox(SqliteStore('shop.db'), Verifier.stripe('whsec_x'))}\n")
    assert run("serve", "shop_of_a_test:inboxes")[0] == 0
    words = ("--store", place, "--scheme", "stripe", "--secret-env", "S", "--endpoint", "mine", "--metrics-token-env", "T")
    assert run("serve", *words, env={"S": "whsec_x", "T": "t"})[0] == 0
    (ours, options), (bare, _) = served
    assert options["host"] == "127.0.0.1"
    assert (list(ours._endpoints), ours._config.work, ours._config.metrics_token) == (["/hooks"], True, None)
    assert (list(bare._endpoints), bare._config.work, bare._config.metrics_token) == (["/mine"], False, "t")
    for app in (ours, bare):
        app.stop()
        for endpoint in app._endpoints.values():
            endpoint.inbox.store.close()
    for wrong in ((), ("nowhere_at_all:x",), ("shop_of_a_test:nothing",), ("shop_of_a_test",), ("--store", place)):
        assert run("serve", *wrong)[0] == 2
    assert run("serve", "shop_of_a_test:inboxes", "--metrics-token-env", "NONE")[0] == 2
    assert run("serve", "shop_of_a_test:inboxes", "--host", "0.0.0.0")[0] == 2, "metrics without a credential, for all to see"
