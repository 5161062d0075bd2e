"""The inbox on SQLite and Postgres: what is answered, what is stored, and that each effect happens once."""

from __future__ import annotations

import base64
import itertools
import json
import random
import threading
from datetime import UTC, datetime, timedelta

import pytest

from buttress.backend.webhooks import (
    Event,
    Inbox,
    InboxConfig,
    NotSent,
    Rejected,
    Verifier,
    at_least_once,
    at_most_once,
    keyed,
    lookup,
)
from buttress.kernel import failpoint
from buttress.kernel.errors import InvalidInput

DAY = 86_400.0


@pytest.fixture
def store(stores):
    return stores.open()


@pytest.fixture
def inbox(store, make_inbox):
    return make_inbox(store)


def states(inbox, *idents):
    """The state of each event, by id."""
    with inbox.store.transaction() as tx:
        found = dict(tx.all("SELECT id, state FROM buttress_webhooks_event WHERE endpoint = ?", (inbox.endpoint,)))
    return [found.get(ident) for ident in idents] if idents else found


def drain(inbox, clock, *, days=10.0):
    """Works until nothing waits, turning the clock to whatever is due next. The bound is generous, and not reached."""
    end = clock.now() + days * DAY
    while (due := inbox.work()) is not None:
        assert due < end, "something waits for ever"
        clock.set(max(clock.now(), due))


# -- arrival


def test_stored_then_acknowledged_then_handled(inbox, sender, clock):
    seen = []
    inbox.on("invoice.paid")(lambda event, ctx: seen.append((event.id, event.data["data"], ctx.attempt, ctx.tied)))
    answer = sender.send(inbox, "evt_1", amount=5)
    assert (answer.status, answer.code) == (200, "stored")
    assert states(inbox) == {"evt_1": "received"}
    assert not seen
    assert inbox.work() is None
    assert seen == [("evt_1", {"amount": 5}, 1, False)]
    assert states(inbox) == {"evt_1": "done"}


def test_a_duplicate_is_one_for_ever(inbox, sender, clock):
    seen = []
    inbox.on("invoice.paid")(lambda event, ctx: seen.append(event.id))
    assert sender.send(inbox, "evt_1").code == "stored"
    assert sender.send(inbox, "evt_1").code == "duplicate", "stored, not handled yet"
    inbox.work()
    for day in (0, 2.5, 3, 10, 91, 1000):
        clock.set(1_800_000_000.0 + day * DAY)
        inbox.retire()
        answer = sender.send(inbox, "evt_1")
        assert (answer.status, answer.code) == (200, "duplicate"), day
        assert inbox.work() is None
    assert seen == ["evt_1"]


def test_retire_drops_bodies_and_keeps_what_is_open(stores, make_inbox, sender, clock):
    inbox = make_inbox(stores.open(), retention=timedelta(days=30), config=InboxConfig(retry_base_s=40 * DAY, retry_max_s=40 * DAY))

    def sometimes(event, ctx):
        if event.id == "evt_given_up":
            raise Rejected("no such customer")
        if event.id == "evt_retry":
            raise ValueError

    inbox.on("invoice.paid")(sometimes)
    for ident in ("evt_done", "evt_retry", "evt_given_up"):
        sender.send(inbox, ident)
    sender.send(inbox, "evt_dead", body=b"not json")
    sender.send(inbox, "evt_ignored", "unknown.type")
    sender.send(inbox, "evt_done", body=b'{"type": "invoice.paid", "other": 1}')
    inbox.work()
    clock.advance(29 * DAY)
    assert inbox.retire() == 0
    clock.advance(2 * DAY)
    assert inbox.retire() == 3, "done, ignored and the two payloads of the alarm"
    assert inbox.retire() == 0
    with inbox.store.transaction() as tx:
        kept = {ident for (ident,) in tx.all("SELECT id FROM buttress_webhooks_body")}
        stored = [ident for (ident,) in tx.all("SELECT id FROM buttress_webhooks_event")]
    assert {ident: ident in kept for ident in stored} == {"evt_done": False, "evt_retry": True, "evt_dead": True, "evt_given_up": True, "evt_ignored": False}
    assert sender.send(inbox, "evt_done", body=b'{"type": "invoice.paid", "third": 1}').code == "mismatch", "the fingerprint is kept"


def test_retire_goes_on_until_nothing_is_left(inbox, sender, clock, monkeypatch):
    monkeypatch.setattr("buttress.backend.webhooks.ledger.RETIRE_BATCH", 2)
    monkeypatch.setattr("buttress.backend.webhooks.inbox.RETIRE_BATCH", 2)
    inbox.on("invoice.paid")(lambda event, ctx: None)
    for number in range(5):
        sender.send(inbox, f"evt_{number}")
    inbox.work()
    clock.advance(91 * DAY)
    assert inbox.retire() == 5


def test_same_id_other_payload_is_an_alarm(inbox, sender, clock):
    seen = []
    inbox.on("invoice.paid")(lambda event, ctx: seen.append(event.data["data"]))
    sender.send(inbox, "evt_1", amount=5)
    for _ in range(2):
        answer = sender.send(inbox, "evt_1", amount=500)
        assert (answer.status, answer.code) == (409, "mismatch")
    inbox.work()
    (alarm,) = inbox.gap_report().alarms
    assert (alarm.kind, alarm.key, json.loads(alarm.first)["data"], json.loads(alarm.other)["data"]) == ("event", "evt_1", {"amount": 5}, {"amount": 500})
    assert seen == [{"amount": 5}]
    assert not inbox.gap_report().clean


def test_a_retry_that_stripe_counts_down_is_no_alarm(store, make_inbox, sign, clock):
    inbox = make_inbox(store, verifier=Verifier.stripe("whsec_stripe"))
    for pending, code in ((2, "stored"), (1, "duplicate")):
        body = json.dumps({"id": "evt_1", "type": "a", "pending_webhooks": pending}).encode()
        assert inbox.receive(sign.stripe(body), body).code == code
    body = json.dumps({"id": "evt_1", "type": "b", "pending_webhooks": 1}).encode()
    assert inbox.receive(sign.stripe(body), body).code == "mismatch"


@pytest.mark.parametrize(("first", "second"), [(b"1", b"true"), (b"0", b"false"), (b"1", b"1.0"), (b"1", b'"1"'), (b"null", b'"null"'), (b"[1]", b"[true]")])
def test_same_id_with_a_value_of_another_type_is_an_alarm(inbox, sender, first, second):
    """Python holds 1 == 1.0 == True; a payload that changed from one to the other has changed."""
    def body(value):
        return b'{"type": "invoice.paid", "data": {"amount": %s}}' % value

    inbox.on("invoice.paid")(lambda event, ctx: None)
    assert sender.send(inbox, "evt_1", body=body(first)).code == "stored"
    assert sender.send(inbox, "evt_1", body=body(second)).code == "mismatch"
    assert sender.send(inbox, "evt_1", body=body(first).replace(b" ", b"")).code == "duplicate", "written differently, and the same"
    assert len(inbox.gap_report().alarms) == 1


def test_after_retire_a_copy_that_is_written_differently_is_a_duplicate(inbox, sender, clock):
    seen = []
    inbox.on("invoice.paid")(lambda event, ctx: seen.append(event.id))
    first, again = b'{"type": "invoice.paid", "data": {"b": 1, "a": 2}}', b'{"data":{"a":2,"b":1},"type":"invoice.paid"}'
    assert sender.send(inbox, "evt_1", body=first).code == "stored"
    inbox.work()
    clock.advance(91 * DAY)
    assert inbox.retire() == 1
    for body, code in ((first, "duplicate"), (again, "duplicate"), (again.replace(b"1}", b"true}"), "mismatch"), (again + b" ", "duplicate")):
        assert sender.send(inbox, "evt_1", body=body).code == code, body
    inbox.work()
    assert seen == ["evt_1"]


def test_after_retire_stripe_may_still_count_down(store, make_inbox, sign, clock):
    inbox = make_inbox(store, verifier=Verifier.stripe("whsec_stripe"))
    inbox.on("a")(lambda event, ctx: None)

    def send(**fields):
        body = json.dumps({"id": "evt_1", "type": "a", **fields}).encode()
        return inbox.receive(sign.stripe(body, at=clock.now()), body).code

    assert send(pending_webhooks=2) == "stored"
    inbox.work()
    clock.advance(91 * DAY)
    assert inbox.retire() == 1
    assert [send(pending_webhooks=1), send(pending_webhooks=1, amount=5), send(pending_webhooks=0)] == ["duplicate", "mismatch", "duplicate"]


def test_after_retire_a_delivery_is_compared_with_what_was_delivered_not_with_the_listing(store, make_inbox, sign, clock):
    inbox = make_inbox(store, verifier=Verifier.stripe("whsec_stripe"))
    inbox.on("a")(lambda event, ctx: None)
    inbox.backfill([{"id": "evt_1", "type": "a", "created": 1, "rendering": "of the list"}, {"id": "evt_2", "type": "a", "created": 1}], since=0.0)
    inbox.work()

    def send(ident, **fields):
        body = json.dumps({"id": ident, "type": "a", "created": 1, **fields}).encode()
        return inbox.receive(sign.stripe(body, at=clock.now()), body).code

    assert send("evt_1") == "duplicate", "delivered after all"
    clock.advance(91 * DAY)
    assert inbox.retire() == 2
    assert send("evt_1") == "duplicate", "the same bytes as the delivery before"
    assert [send("evt_2", b=1, a=2), send("evt_2", a=2, b=1), send("evt_2", a=3)] == ["duplicate", "duplicate", "mismatch"], "delivered only now"


@pytest.mark.parametrize("value", [b"v1,x", ["v1,x"], ("v1,x",), 1, 1.5, True, {"v1": "x"}, object(), None], ids=lambda value: type(value).__name__)
@pytest.mark.parametrize("header", ["webhook-id", "webhook-timestamp", "webhook-signature"])
def test_a_header_that_is_no_text_is_refused_and_raises_nothing(inbox, sender, header, value):
    headers, body = sender.delivery("evt_1")
    answer = inbox.receive({**headers, header: value}, body)
    assert answer.status in (400, 401)
    assert answer.code == "malformed" if value is not None or header != "webhook-signature" else "unsigned"
    assert inbox.receive({b"webhook-id": "evt_1"}, body).code == "malformed"
    assert inbox.receive({**headers, "x-other": value}, body).code == "stored", "what is not asked for is not looked at"


def test_accounts_and_modes_are_kept_apart(store, make_inbox, sign, clock):
    inbox, seen = make_inbox(store, verifier=Verifier.stripe("whsec_stripe")), []
    inbox.on("a")(lambda event, ctx: seen.append((event.account, event.livemode, ctx.effect("email", payload={"to": event.account}))))
    inbox.callee("email", keyed(lambda effect: None))
    for account in (None, "acct_1", "acct_2"):
        for live in (True, False):
            body = json.dumps({"id": "evt_1", "type": "a", "account": account, "livemode": live}).encode()
            assert inbox.receive(sign.stripe(body), body).code == "stored"
            assert inbox.receive(sign.stripe(body), body).code == "duplicate"
    inbox.work()
    assert len(seen) == len({key for *_, key in seen}) == 6
    assert ("acct_1", False, "default/account=acct_1/test/evt_1:email") in seen
    assert inbox.replay("evt_1") == 6


def test_endpoints_share_a_store_and_nothing_else(store, make_inbox, sender, counter, clock):
    other_secret = "whsec_" + base64.b64encode(b"of the tenant next door, thirty+").decode()
    mine, theirs = make_inbox(store, endpoint="mine"), make_inbox(store, endpoint="theirs", verifier=Verifier.standard([other_secret, "whsec_" + "QUFB" * 8]))
    callees = {}
    for inbox in (mine, theirs):
        callees[inbox.endpoint] = counter()
        inbox.callee("email", keyed(callees[inbox.endpoint].send))
        inbox.on("invoice.paid")(lambda event, ctx: ctx.effect("email", payload={}))
    headers, body = sender.delivery("evt_1")
    assert mine.receive(headers, body).code == "stored"
    assert theirs.receive(headers, body).code == "bad_signature"
    assert states(theirs) == {}
    theirs.verifier = mine.verifier
    assert theirs.receive(headers, body).code == "stored"
    mine.work_events()
    theirs.work_events()
    theirs.work_effects()
    assert (callees["mine"].keys, callees["theirs"].keys) == ([], ["theirs/evt_1:email"])
    mine.work_effects()
    assert callees["mine"].keys == ["mine/evt_1:email"]


# -- bad input


def test_bad_input_gets_its_answer_and_is_not_stored(stores, make_inbox, sender, sign, clock):
    inbox = make_inbox(stores.open(), config=InboxConfig(body_max_bytes=100))
    headers, body = sender.delivery("evt_1")
    cases = {
        (401, "unsigned"): ({}, body), (401, "bad_signature"): (headers, body + b" "), (400, "malformed"): ({**headers, "webhook-timestamp": "now"}, body),
        (413, "too_large"): (headers, b"x" * 101), (400, "stale"): (sign.standard(body, at=clock.now() - 301), body)}
    for (status, code), delivery in cases.items():
        answer = inbox.receive(*delivery)
        assert (answer.status, answer.code) == (status, code)
    future = inbox.receive(sign.standard(body, at=clock.now() + 301), body)
    assert future.code == "stale"
    assert states(inbox) == {}
    assert inbox.receive(headers, body).code == "stored"


def test_signed_but_not_json_is_a_dead_letter_and_acknowledged(inbox, sender):
    answer = sender.send(inbox, "evt_1", body=b"<xml/>")
    assert (answer.status, answer.code) == (200, "dead_letter")
    assert sender.send(inbox, "evt_1", body=b"<xml/>").code == "duplicate"
    (letter,) = inbox.dead_letters()
    assert (letter.id, letter.error, letter.body) == ("evt_1", "not_json", b"<xml/>")
    assert inbox.work() is None


def test_json_that_only_the_whole_parser_refuses(inbox, sender):
    inbox.on("invoice.paid")(lambda event, ctx: pytest.fail("must not be called"))
    assert sender.send(inbox, "evt_1", body=b'{"type": "invoice.paid", "n": 1e999}').status == 200
    inbox.work()
    assert [(letter.id, letter.error) for letter in inbox.dead_letters()] == [("evt_1", "not_json")]


def test_an_unknown_type_is_kept_until_it_has_a_handler(inbox, sender):
    assert sender.send(inbox, "evt_1", "later.type").status == 200
    assert inbox.work() is None
    assert inbox.gap_report().ignored == {"later.type": 1}
    assert inbox.gap_report().clean
    seen = []
    inbox.on("later.type")(lambda event, ctx: seen.append(event.id))
    assert inbox.revive("ignored", "other.type") == 0
    assert inbox.revive("ignored", "later.type") == 1
    inbox.work()
    assert seen == ["evt_1"]


def test_a_store_that_is_down_is_503(stores, inbox, sender):
    inbox.store.close()
    answer = sender.send(inbox, "evt_1")
    assert (answer.status, answer.code) == (503, "unavailable")


def test_an_insert_that_fails_is_503(inbox, sender):
    failpoint.arm({"inbox.received": (1, "error")})
    assert sender.send(inbox, "evt_1").status == 503
    failpoint.arm(None)
    assert states(inbox) == {}
    assert sender.send(inbox, "evt_1").code == "stored"


def test_a_busy_store_is_503(sqlite_stores, make_inbox, sender):
    inbox = make_inbox(sqlite_stores.open(busy_timeout_s=0.05))
    with sqlite_stores.open().transaction() as tx:
        tx.execute("CREATE TABLE held_by_another_process (id TEXT)")
        assert sender.send(inbox, "evt_1").status == 503
    assert sender.send(inbox, "evt_1").code == "stored"


def test_concurrent_duplicates(inbox, sender):
    delivery, answers = sender.delivery("evt_1"), []
    threads = [threading.Thread(target=lambda: answers.append(inbox.receive(*delivery))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert sorted(answer.code for answer in answers) == ["duplicate"] * 7 + ["stored"]


# -- handlers


def test_one_failing_handler_does_not_undo_the_others(inbox, sender, clock, counter):
    email = counter()
    inbox.callee("email", keyed(email.send))
    failing = {"evt_2"}

    def paid(event, ctx):
        ctx.effect("email", payload={"event": event.id})
        if event.id in failing:
            raise KeyError("mallory@example.com")

    inbox.on("invoice.paid")(paid)
    for number in range(4):
        sender.send(inbox, f"evt_{number}")
    due = inbox.work()
    assert states(inbox, "evt_0", "evt_1", "evt_2", "evt_3") == ["done", "done", "retry", "done"]
    assert clock.now() < due <= clock.now() + 1
    assert len(email.done) == 3
    with inbox.store.transaction() as tx:
        (error,) = tx.one("SELECT error FROM buttress_webhooks_event WHERE id = 'evt_2'")
    assert error.startswith("KeyError at paid:")
    assert "mallory" not in error
    failing.clear()
    drain(inbox, clock)
    assert sorted(email.keys) == [f"default/evt_{n}:email" for n in range(4)]


@pytest.mark.parametrize("end", ["COMMIT", "ROLLBACK", "COMMIT; BEGIN", "RAISE(ROLLBACK)"])
def test_a_handler_that_ends_the_transaction_harms_nobody_but_itself(stores, make_inbox, sender, counter, clock, end):
    """By the driver's own connection or a trigger: the others of its batch are done once and have their effects; it is a failed attempt."""
    if stores.engine != "sqlite" and end == "RAISE(ROLLBACK)":
        pytest.skip("a trigger of SQLite")
    inbox, email = make_inbox(stores.open(), config=InboxConfig(lease_s=60, max_attempts=2, retry_base_s=1, retry_max_s=60)), counter()
    inbox.callee("email", keyed(email.send))
    with inbox.store.transaction() as tx:
        tx.execute("CREATE TABLE done (id TEXT PRIMARY KEY)")
        if stores.engine == "sqlite":
            tx.execute("CREATE TRIGGER no BEFORE INSERT ON done WHEN new.id = 'trigger' BEGIN SELECT RAISE(ROLLBACK, 'no'); END")

    @inbox.on("invoice.paid", "bad")
    def handle(event, ctx):
        ctx.tx.execute("INSERT INTO done VALUES (?)", (event.id,))
        ctx.effect("email", payload={"id": event.id})
        if event.type == "bad" and end == "RAISE(ROLLBACK)":
            ctx.tx.execute("INSERT INTO done VALUES ('trigger')")
        elif event.type == "bad":
            for statement in end.split("; "):
                ctx.tx.connection.execute(statement)

    for number in range(5):
        sender.send(inbox, f"msg_{number}", "bad" if number == 2 else "invoice.paid")
    drain(inbox, clock)
    with inbox.store.transaction() as tx:
        done = {row[0] for row in tx.all("SELECT id FROM done")}
        states = dict(tx.all("SELECT id, state FROM buttress_webhooks_event"))
    good = {f"msg_{number}" for number in (0, 1, 3, 4)}
    assert states == {**dict.fromkeys(good, "done"), "msg_2": "dead"}
    assert done == (good | {"msg_2"} if end.startswith("COMMIT") else good)  # what it committed by itself nobody can take back
    sent = [payload["id"] for _, payload in email.done]
    assert sorted(set(sent)) == sorted(sent)
    assert good <= set(sent) <= good | {"msg_2"}
    (dead,) = inbox.gap_report().dead
    assert "transaction_ended" in dead.error


@pytest.mark.parametrize("sql", ["COMMIT", "ROLLBACK", "BEGIN"])
def test_a_handler_may_not_end_the_transaction_by_its_own_words(inbox, sender, sql):
    @inbox.on("invoice.paid")
    def handle(event, ctx):
        ctx.tx.execute(sql)

    sender.send(inbox, "msg_1")
    inbox.work_events()
    with inbox.store.transaction() as tx:
        ((state, error),) = tx.all("SELECT state, error FROM buttress_webhooks_event")
    assert (state, error) == ("retry", "invalid_input: sql: must not begin or end the transaction")


def test_local_effects_and_done_are_one_commit(inbox, sender, clock):
    with inbox.store.transaction() as tx:
        tx.execute("CREATE TABLE orders (id TEXT PRIMARY KEY)")
    inbox.on("invoice.paid")(lambda event, ctx: ctx.tx.execute("INSERT INTO orders (id) VALUES (?)", (event.id,)))
    sender.send(inbox, "evt_1")
    failpoint.arm({"inbox.handled": (1, "error")})
    with pytest.raises(failpoint.FailpointError):
        inbox.work()
    failpoint.arm(None)
    with inbox.store.transaction() as tx:
        assert tx.all("SELECT id FROM orders") == []
    assert states(inbox) == {"evt_1": "claimed"}
    assert inbox.work() == clock.now() + 60, "its lease still runs"
    drain(inbox, clock)
    with inbox.store.transaction() as tx:
        assert tx.all("SELECT id FROM orders") == [("evt_1",)]


def test_retries_grow_and_end_in_a_dead_letter(stores, make_inbox, sender, clock):
    inbox = make_inbox(stores.open(), config=InboxConfig(max_attempts=6, retry_base_s=1, retry_max_s=8))
    calls = []

    def broken(event, ctx):
        calls.append(clock.now())
        raise RuntimeError

    inbox.on("invoice.paid")(broken)
    sender.send(inbox, "evt_1")
    drain(inbox, clock)
    waits = [b - a for a, b in itertools.pairwise(calls)]
    assert len(calls) == 6
    assert all(cap / 2 <= wait <= cap for wait, cap in zip(waits, (1, 2, 4, 8, 8), strict=True))
    assert [(letter.id, letter.attempt) for letter in inbox.dead_letters()] == [("evt_1", 6)]
    assert inbox.replay("evt_1") == 1
    drain(inbox, clock)
    assert len(calls) == 12


def test_rejected_is_a_dead_letter_at_once(inbox, sender):
    def refuse(event, ctx):
        raise Rejected("no such customer")

    inbox.on("invoice.paid")(refuse)
    sender.send(inbox, "evt_1")
    assert inbox.work() is None
    assert [letter.error for letter in inbox.dead_letters()] == ["rejected: no such customer"]
    assert inbox.revive("dead") == 1


def test_an_event_that_kills_its_worker_is_given_up(stores, make_inbox, sender, clock):
    inbox = make_inbox(stores.open(), config=InboxConfig(max_attempts=3))
    inbox.on("invoice.paid")(lambda event, ctx: pytest.fail("the worker dies before"))
    sender.send(inbox, "evt_1")
    for _attempt in range(3):
        failpoint.arm({"inbox.claimed": (1, "error")})
        with pytest.raises(failpoint.FailpointError):
            inbox.work()
        failpoint.arm(None)
        clock.advance(61)
    inbox.work()
    assert [letter.error for letter in inbox.dead_letters()] == ["lost 3 times by its holder"]


def test_a_worker_that_outlived_its_lease_is_refused(stores, make_inbox, sender, clock):
    slow, quick = make_inbox(stores.open()), make_inbox(stores.open())
    seen = []
    slow.on("invoice.paid", refetch=lambda event: (clock.advance(61), quick.work(), event.data)[2])(lambda event, ctx: seen.append("slow"))
    quick.on("invoice.paid")(lambda event, ctx: seen.append("quick"))
    sender.send(slow, "evt_1")
    slow.work()
    assert seen == ["quick"]
    assert states(slow) == {"evt_1": "done"}


def test_a_worker_is_refused_while_another_one_holds_the_event(stores, make_inbox, sender, clock):
    """The second one has only claimed it so far: the first one's fence is too low all the same."""
    slow, quick = make_inbox(stores.open()), make_inbox(stores.open())
    seen = []

    def overtaken(event):
        clock.advance(61)
        failpoint.arm({"inbox.claimed": (1, "error")})
        with pytest.raises(failpoint.FailpointError):
            quick.work()
        failpoint.arm(None)
        return event.data

    slow.on("invoice.paid", refetch=overtaken)(lambda event, ctx: seen.append("slow"))
    quick.on("invoice.paid")(lambda event, ctx: seen.append("quick"))
    sender.send(slow, "evt_1")
    slow.work()
    assert seen == []
    clock.advance(61)
    quick.work()
    assert seen == ["quick"]


def test_several_workers_on_one_database(postgres_stores, make_inbox, sender, counter):
    """Three of them, events of few objects, effects at two callees in either order: locks meet, and each event is handled once."""
    done, handled, lock = {"a": counter(keyed=False), "b": counter(keyed=False)}, [], threading.Lock()

    def open_inbox():
        inbox = make_inbox(postgres_stores.open())
        for name, callee in done.items():
            inbox.callee(name, keyed(callee.send))

        @inbox.on("invoice.paid", order_by=lambda event: (f"o{int(event.id[4:]) % 5}", int(event.id[4:])))
        def paid(event, ctx):
            for name in ("a", "b") if int(event.id[4:]) % 2 else ("b", "a"):
                ctx.effect(name)
            with lock:
                handled.append(event.id)

        return inbox

    first = open_inbox()
    for number in range(150):
        sender.send(first, f"evt_{number}")

    def work():
        inbox = open_inbox()
        while inbox.work(limit=4) is not None:
            pass

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    found = states(first)
    acted = {ident for ident, state in found.items() if state == "done"}
    assert set(found.values()) <= {"done", "superseded"}
    assert {f"evt_{number}" for number in range(145, 150)} <= acted, "the newest of each object"
    for name, callee in done.items():
        assert sorted(callee.keys) == sorted(f"default/{ident}:{name}" for ident in acted)
    assert first.dead_letters() == []


def test_replay_doubles_nothing(inbox, sender, counter, clock):
    email, calls = counter(keyed=False), []
    inbox.callee("email", lookup(email.send, email.find))
    inbox.on("invoice.paid")(lambda event, ctx: (calls.append(event.id), ctx.effect("email", payload={"n": 1})))
    sender.send(inbox, "evt_1")
    drain(inbox, clock)
    assert inbox.replay("evt_1") == 1
    drain(inbox, clock)
    assert calls == ["evt_1", "evt_1"]
    assert email.keys == ["default/evt_1:email"]
    clock.advance(91 * DAY)
    inbox.retire()
    for ident in ("evt_1", "evt_2"):
        with pytest.raises(InvalidInput, match="is not stored, waits already, or its body was retired"):
            inbox.replay(ident)


def test_two_event_ids_for_one_fact(inbox, sender, counter, clock):
    email = counter(keyed=False)
    inbox.callee("email", lookup(email.send, email.find))
    inbox.on("checkout.completed", "payment.succeeded")(
        lambda event, ctx: ctx.effect("email", key=event.data["data"]["payment"], payload={"receipt": event.data["data"]["payment"]}))
    sender.send(inbox, "evt_1", "checkout.completed", payment="pi_1")
    sender.send(inbox, "evt_2", "payment.succeeded", payment="pi_1")
    drain(inbox, clock)
    clock.advance(200 * DAY)
    sender.send(inbox, "evt_3", "payment.succeeded", payment="pi_1")
    drain(inbox, clock)
    assert email.keys == ["default/pi_1:email"]
    assert set(states(inbox).values()) == {"done"}
    assert inbox.gap_report().clean


def test_one_key_with_two_payloads_is_an_alarm_and_sent_once(inbox, sender, counter, clock):
    credit = counter()
    inbox.callee("credit", keyed(credit.send))
    inbox.on("invoice.paid")(lambda event, ctx: ctx.effect("credit", key="pi_1", payload={"cents": event.data["data"]["cents"]}))
    sender.send(inbox, "evt_1", cents=100)
    sender.send(inbox, "evt_2", cents=900)
    drain(inbox, clock)
    assert credit.done == [("default/pi_1:credit", {"cents": 100})]
    (alarm,) = inbox.gap_report().alarms
    assert (alarm.kind, alarm.key, alarm.first, alarm.other) == ("effect", "default/pi_1:credit", b'{"cents":100}', b'{"cents":900}')
    assert states(inbox, "evt_2") == ["done"]


@pytest.mark.parametrize("use", [lambda ctx: ctx.effect("nobody"), lambda ctx: ctx.effect("email", key=""), lambda ctx: ctx.effect("email", payload={"x": "y" * (1 << 20)})])
def test_an_effect_that_cannot_be_is_a_failed_handler(stores, make_inbox, sender, use):
    inbox = make_inbox(stores.open(), config=InboxConfig(max_attempts=1))
    inbox.callee("email", keyed(lambda effect: None))
    inbox.on("invoice.paid")(lambda event, ctx: use(ctx))
    sender.send(inbox, "evt_1")
    inbox.work()
    assert inbox.dead_letters()[0].error.startswith("invalid_input")


# -- effects


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("kind", ["keyed", "lookup", "at_most_once", "at_least_once"])
def test_a_send_without_an_answer(inbox, sender, counter, clock, kind, moment):
    """The answer is lost once, before or after the effect happened: what follows is the kind's promise."""
    email, lost = counter(keyed=kind == "keyed"), []

    def lose(when):
        if when == moment and not lost:
            lost.append(when)
            raise TimeoutError

    email.fail = lose
    makers = {"keyed": keyed, "at_most_once": at_most_once, "at_least_once": at_least_once}
    inbox.callee("email", lookup(email.send, email.find) if kind == "lookup" else makers[kind](email.send))
    inbox.on("invoice.paid")(lambda event, ctx: ctx.effect("email", payload={}))
    sender.send(inbox, "evt_1")
    drain(inbox, clock)
    happened, doubts = len(email.done), inbox.doubts()
    if kind in ("keyed", "lookup"):
        assert (happened, doubts) == (1, [])
    elif kind == "at_most_once":
        assert happened == (1 if moment == "after" else 0)
        assert [(d.effect, d.key, d.outcome) for d in doubts] == [("email", "default/evt_1:email", "not_sent_again")]
        assert [d.key for d in inbox.gap_report().dead_effects] == ["default/evt_1:email"]
    else:
        assert happened == (2 if moment == "after" else 1)
        assert [(d.effect, d.key, d.outcome) for d in doubts] == [("email", "default/evt_1:email", "sent_again")]


@pytest.mark.parametrize("happened", [True, False])
def test_a_key_is_only_trusted_for_as_long_as_the_callee_remembers_it(inbox, sender, counter, clock, happened):
    """The answer is lost, then the callee is away for two days; when it is back it no longer knows the key."""
    email = counter()

    def away(moment):
        if moment == "after":
            raise TimeoutError
        if email.done:
            raise NotSent("connection refused")

    email.fail = away
    inbox.callee("email", keyed(email.send))
    inbox.on("invoice.paid")(lambda event, ctx: ctx.effect("email", payload={}))
    sender.send(inbox, "evt_1")
    end = clock.now() + 2 * DAY
    while (due := inbox.work()) is not None and due < end:
        clock.set(max(clock.now(), due))
    assert [(doubt.key, doubt.outcome) for doubt in inbox.doubts()] == [("default/evt_1:email", "given_up")], "84 attempts, a minute apart"
    clock.set(end)
    email.keyed, email.fail = False, lambda moment: None
    assert inbox.replay_effect("email") == 1
    drain(inbox, clock)
    assert len(email.done) == 1, "not sent to a callee that has forgotten"
    assert [(doubt.key, doubt.reason) for doubt in inbox.doubts()][1:] == [("default/evt_1:email", "in doubt for longer than the callee remembers keys")]
    assert inbox.resolve("email", "default/evt_1:email", happened=happened) == 2
    drain(inbox, clock)
    assert len(email.done) == (1 if happened else 2)
    assert inbox.gap_report().clean


def test_a_key_is_not_trusted_after_a_long_outage_of_our_own(inbox, sender, counter, clock, stores, make_inbox):
    """The process dies after the effect, and nobody starts it again for two days."""
    email = counter()
    inbox.callee("email", keyed(email.send))
    inbox.on("invoice.paid")(lambda event, ctx: ctx.effect("email", payload={}))
    sender.send(inbox, "evt_1")
    failpoint.arm({"effect.called": (1, "error")})
    with pytest.raises(failpoint.FailpointError):
        inbox.work()
    failpoint.arm(None)
    clock.advance(2 * DAY)
    email.keyed = False
    drain(inbox, clock)
    assert len(email.done) == 1
    assert [(doubt.outcome, doubt.reason) for doubt in inbox.doubts()] == [("given_up", "in doubt for longer than the callee remembers keys")]


def test_a_callee_that_cannot_be_reached_is_no_doubt_however_long(stores, make_inbox, sender, counter, clock):
    inbox, email, end = make_inbox(stores.open(), config=InboxConfig()), counter(), clock.now() + 2 * DAY

    def away(moment):
        if clock.now() < end:
            raise NotSent("connection refused")

    email.fail = away
    inbox.callee("email", keyed(email.send))
    inbox.on("invoice.paid")(lambda event, ctx: ctx.effect("email"))
    sender.send(inbox, "evt_1")
    drain(inbox, clock)
    assert (len(email.done), inbox.gap_report().clean) == (1, True)
    with inbox.store.transaction() as tx:
        assert tx.all("SELECT key FROM buttress_webhooks_trying") == []


def test_a_lookup_waits_until_the_callee_must_be_through(inbox, sender, counter, clock):
    """Its work on the request whose answer was lost may still be under way: a look-up at once would find nothing, and be wrong."""
    credit, late = counter(keyed=False), []

    def slow(effect):
        late.append((clock.now() + 9, effect))
        raise TimeoutError

    def find(key):
        for at, effect in late:
            if at <= clock.now():
                credit.done.append((effect.key, {}))
        return credit.find(key)

    inbox.callee("credit", lookup(slow, find, timeout_s=10))
    inbox.on("invoice.paid")(lambda event, ctx: ctx.effect("credit", payload={}))
    sender.send(inbox, "evt_1")
    assert inbox.work() >= clock.now() + 10
    drain(inbox, clock)
    assert (len(late), len(credit.done)) == (1, 1)


def test_a_short_doubt_is_sent_again_under_its_key(inbox, sender, counter, clock):
    email, lost = counter(), []

    def lose(moment):
        if moment == "after" and len(lost) < 3:
            lost.append(clock.now())
            raise TimeoutError

    email.fail = lose
    inbox.callee("email", keyed(email.send))
    inbox.on("invoice.paid")(lambda event, ctx: ctx.effect("email", payload={}))
    sender.send(inbox, "evt_1")
    drain(inbox, clock)
    assert (len(email.done), email.calls, inbox.doubts()) == (1, 4, [])


@pytest.mark.parametrize("happened", [True, False])
def test_a_doubt_is_resolved_by_evidence(inbox, sender, counter, clock, happened):
    email = counter(keyed=False)

    def lose(moment):
        raise ConnectionResetError

    email.fail = lose
    inbox.callee("email", at_most_once(email.send))
    inbox.on("invoice.paid")(lambda event, ctx: ctx.effect("email", payload={}))
    sender.send(inbox, "evt_1")
    drain(inbox, clock)
    email.fail = lambda moment: None
    for _ in range(2):
        assert inbox.replay_effect("email", "default/evt_1:email") == 1
        drain(inbox, clock)
        assert email.done == [], "a replay alone sends nothing that is in doubt"
    assert inbox.resolve("email", "default/evt_1:email", happened=happened) >= 1
    drain(inbox, clock)
    assert len(email.done) == (0 if happened else 1)
    report = inbox.gap_report()
    assert (report.doubts, report.dead_effects) == ((), ())
    assert inbox.resolve("email", "default/evt_1:email", happened=happened) == 0


def test_not_sent_is_no_doubt(inbox, sender, counter, clock):
    email = counter(keyed=False)
    refusals = iter([NotSent("busy", after_s=30.0), NotSent("busy")])

    def busy(moment):
        if moment == "before" and (refusal := next(refusals, None)):
            raise refusal

    email.fail = busy
    inbox.callee("email", at_most_once(email.send))
    inbox.on("invoice.paid")(lambda event, ctx: ctx.effect("email", payload={}))
    sender.send(inbox, "evt_1")
    assert inbox.work() == clock.now() + 30, "the callee said when"
    drain(inbox, clock)
    assert (len(email.done), inbox.doubts()) == (1, [])


@pytest.mark.parametrize("kind", ["keyed", "lookup"])
def test_rejected_effects_are_dead_letters_and_can_be_replayed(inbox, sender, counter, clock, kind):
    email = counter()

    def refuse(moment):
        raise Rejected("HTTP 422")

    email.fail = refuse
    inbox.callee("email", keyed(email.send) if kind == "keyed" else lookup(email.send, email.find))
    inbox.on("invoice.paid")(lambda event, ctx: ctx.effect("email", payload={}))
    sender.send(inbox, "evt_1")
    assert inbox.work() is None
    assert [(d.effect, d.key, d.error) for d in inbox.gap_report().dead_effects] == [("email", "default/evt_1:email", "rejected: HTTP 422")]
    email.fail = lambda moment: None
    assert inbox.replay_effect("email") == 1
    drain(inbox, clock)
    assert len(email.done) == 1


def test_a_callee_that_is_down_does_not_hold_up_the_others(inbox, sender, counter, clock):
    down, up = counter(), counter()

    def refuse(moment):
        raise NotSent("connection refused")

    down.fail = refuse
    inbox.callee("down", keyed(down.send))
    inbox.callee("up", keyed(up.send))
    inbox.on("invoice.paid")(lambda event, ctx: (ctx.effect("down"), ctx.effect("up")))
    for number in range(20):
        sender.send(inbox, f"evt_{number}")
    inbox.work()
    assert (len(up.done), down.calls) == (20, 3), "the rest of the batch was not tried one by one"
    down.fail = lambda moment: None
    drain(inbox, clock)
    assert len(down.done) == 20


@pytest.mark.parametrize("kind", ["keyed", "lookup", "at_most_once", "at_least_once"])
def test_a_lease_that_ran_out_before_a_send(stores, make_inbox, sender, counter, clock, kind):
    """Two senders: the first is held up (by another, slow, effect) beyond its lease; a second one takes over meanwhile."""
    first, second = make_inbox(stores.open()), make_inbox(stores.open())
    email = counter(keyed=False)
    makers = {"keyed": keyed, "at_most_once": at_most_once, "at_least_once": at_least_once}

    def slow(effect):
        if not email.done:
            clock.advance(61)
            second.work_effects()
        return email.send(effect)

    for inbox, send in ((first, slow), (second, email.send)):
        inbox.callee("email", lookup(send, email.find) if kind == "lookup" else makers[kind](send))
        inbox.on("invoice.paid")(lambda event, ctx: ctx.effect("email", payload={}))
    for number in range(3):
        sender.send(first, f"evt_{number}")
    first.work_events()
    first.work_effects()
    drain(first, clock)
    others = [key for key in email.keys if key != "default/evt_0:email"]
    assert sorted(others) == ["default/evt_1:email", "default/evt_2:email"], "only the send under way when the lease ran out can be doubled"
    if kind in ("at_most_once", "at_least_once", "lookup"):
        assert [doubt.key for doubt in first.doubts()].count("default/evt_0:email") >= 1, "and that is listed"


@pytest.mark.parametrize("kind", ["lookup", "at_most_once", "at_least_once"])
def test_a_send_under_way_is_not_taken_over(stores, make_inbox, sender, counter, clock, kind):
    """The batch's lease ends while a later one of its sends, which has a lease of its own, is still under way."""
    first, second = make_inbox(stores.open()), make_inbox(stores.open())
    email = counter(keyed=False)
    makers = {"at_most_once": at_most_once, "at_least_once": at_least_once}

    def slow(effect):
        clock.advance(35)
        if email.done:
            second.work_effects()
        return email.send(effect)

    for inbox, send in ((first, slow), (second, email.send)):
        inbox.callee("email", lookup(send, email.find) if kind == "lookup" else makers[kind](send))
        inbox.on("invoice.paid")(lambda event, ctx: ctx.effect("email", payload={}))
    for number in range(2):
        sender.send(first, f"evt_{number}")
    first.work_events()
    first.work_effects()
    drain(second, clock)
    assert sorted(email.keys) == ["default/evt_0:email", "default/evt_1:email"]
    assert first.doubts() == []


def test_a_timeout_must_fit_in_the_lease(inbox):
    with pytest.raises(InvalidInput, match="half of the lease"):
        inbox.callee("slow", keyed(lambda effect: None, timeout_s=31))


# -- operation


def test_gap_report_names_what_is_stuck(inbox, sender, clock):
    sender.send(inbox, "evt_1")
    assert inbox.gap_report().stuck == ()
    clock.advance(901)
    assert [entry.id for entry in inbox.gap_report().stuck] == ["evt_1"]
    assert not inbox.gap_report().clean


def test_backfill_finds_what_was_never_delivered(store, make_inbox, sign, clock, counter):
    inbox, seen = make_inbox(store, verifier=Verifier.stripe("whsec_stripe")), []
    inbox.on("a")(lambda event, ctx: seen.append(event.id))
    listed = [{"id": f"evt_{n}", "type": "a", "created": 1_799_000_000 + n, "pending_webhooks": 0} for n in range(250)]
    delivered = json.dumps({**listed[3], "pending_webhooks": 1}).encode()
    assert inbox.receive(sign.stripe(delivered), delivered).code == "stored"
    found = inbox.backfill(iter(listed), since=datetime.fromtimestamp(1_799_000_002, UTC))
    assert (found.older, found.known, found.missed) == (2, 1, 247)
    assert inbox.backfill(listed, since=0.0).missed == 2
    assert {entry.id for entry in inbox.gap_report(limit=300).missed} == {f"evt_{n}" for n in range(250)} - {"evt_3"}
    drain(inbox, clock)
    assert len(seen) == len(set(seen)) == 250
    late = json.dumps({**listed[7], "pending_webhooks": 1, "api_version": "another rendering"}).encode()
    assert inbox.receive(sign.stripe(late), late).code == "duplicate", "delivered after all"
    assert "evt_7" not in {entry.id for entry in inbox.gap_report(limit=300).missed}
    drain(inbox, clock)
    assert len(seen) == 250
    for wrong in (b"not json", Event("a b", "a", b"{}"), Event("", "a", b"{}"), Event("a", "x\0", b"{}"), Event("a", "x", b"{}", account="\0")):
        with pytest.raises(InvalidInput):
            inbox.backfill([wrong], since=0.0)


def test_backfill_of_schemes_without_an_id_in_the_body(inbox):
    event = Event("evt_9", "invoice.paid", b"{}")
    assert inbox.backfill([event, event], since=0.0).missed == 1
    with pytest.raises(InvalidInput, match="does not carry its id"):
        inbox.backfill([{"id": "evt_1"}], since=0.0)
    with pytest.raises(InvalidInput, match="offset"):
        inbox.backfill([], since=datetime(2026, 1, 1))


@pytest.mark.parametrize("make", [
    lambda store: Inbox(store, Verifier.standard(b"k" * 32), endpoint="a/b"), lambda store: Inbox(store, Verifier.standard(b"k" * 32), retention=timedelta(days=-1)),
    lambda store: InboxConfig(lease_s=0), lambda store: InboxConfig(max_attempts=0), lambda store: Inbox(store, Verifier.standard(b"k" * 32)).on(),
    lambda store: Inbox(store, Verifier.standard(b"k" * 32)).on(len), lambda store: Inbox(store, Verifier.standard(b"k" * 32)).callee("a b", keyed(print)),
    lambda store: lookup(print, None), lambda store: keyed(print, timeout_s=0)])
def test_arguments_are_checked_at_once(sqlite_stores, make):
    with pytest.raises(InvalidInput):
        make(sqlite_stores.open())


async def asynchronous(*args):
    """Awaited by nobody here."""


def test_nothing_asynchronous_is_taken_for_done(stores, make_inbox, sender):
    inbox = make_inbox(stores.open(), config=InboxConfig(max_attempts=1))
    with pytest.raises(InvalidInput, match="plain function"):
        inbox.on("a")(asynchronous)
    for make in (lambda: keyed(asynchronous), lambda: lookup(print, asynchronous)):
        with pytest.raises(InvalidInput, match="plain functions"):
            make()
    pending = []
    inbox.on("invoice.paid")(lambda event, ctx: pending.append(asynchronous()) or pending[0])
    sender.send(inbox, "evt_1")
    inbox.work()
    pending[0].close()
    assert [letter.error for letter in inbox.dead_letters()] == ["invalid_input: handler: must be a plain function: nobody awaits it here"]


class Response:
    """What HTTP libraries return, also for a 500."""

    status_code = 500


@pytest.mark.parametrize("kind", ["keyed", "lookup"])
def test_a_response_object_is_no_success(stores, make_inbox, sender, counter, clock, kind):
    inbox, answers, email = make_inbox(stores.open()), iter([Response(), b"ok"]), counter()

    def send(effect):
        answer = next(answers)
        if answer == b"ok":
            email.send(effect)
        return answer

    inbox.callee("email", keyed(send) if kind == "keyed" else lookup(send, email.find))
    inbox.on("invoice.paid")(lambda event, ctx: ctx.effect("email"))
    sender.send(inbox, "evt_1")
    drain(inbox, clock)
    assert len(email.done) == 1


def test_false_is_no_evidence(inbox, sender, counter, clock):
    credit, lost = counter(keyed=False), []

    def lose(moment):
        if moment == "before" and not lost:
            lost.append(moment)
            raise TimeoutError

    credit.fail = lose
    found = iter([False, None])
    inbox.callee("credit", lookup(credit.send, lambda key: next(found)))
    inbox.on("invoice.paid")(lambda event, ctx: ctx.effect("credit"))
    sender.send(inbox, "evt_1")
    drain(inbox, clock)
    assert len(credit.done) == 1


def test_a_conflict_of_transactions_is_no_failed_attempt(inbox, sender):
    class Deadlock(Exception):
        sqlstate = "40P01"

    conflicts, attempts = [Deadlock()], []

    def handle(event, ctx):
        attempts.append(ctx.attempt)
        if conflicts:
            raise conflicts.pop()

    inbox.on("invoice.paid")(handle)
    sender.send(inbox, "evt_1")
    now = inbox.store.clock.now()
    due = inbox.work()
    assert now < due <= now + 0.05, "due again in a moment"
    assert inbox.work() == due
    inbox.store.clock.set(due)
    assert inbox.work() is None
    assert attempts == [1, 1]


def test_a_conflict_that_stays_is_asked_for_ever_more_seldom(inbox, sender, clock, caplog):
    """No hot loop; never counted as an attempt, said at info, and after a few tries every few seconds."""
    class Locked(Exception):
        sqlstate = "55P03"

    attempts = []

    def handle(event, ctx):
        attempts.append((clock.now(), ctx.attempt))
        raise Locked

    inbox.on("invoice.paid")(handle)
    sender.send(inbox, "evt_1")
    caplog.set_level("INFO", "buttress.webhooks")
    for _ in range(30):
        clock.set(inbox.work())
    waits = [later - earlier for (earlier, _), (later, _) in itertools.pairwise(attempts)]
    assert {attempt for _, attempt in attempts} == {1} and len(attempts) == 30
    assert all(0.025 <= wait <= 0.05 for wait in waits[:1]) and all(2 <= wait <= 4 for wait in waits[7:])
    assert {(record.levelname, record.reason) for record in caplog.records} == {("INFO", "conflict 55P03")}
    (entry,) = inbox.find("evt_1")
    assert (entry.state, entry.attempt, entry.error) == ("received", 0, None)


def test_a_slow_refetch_gives_the_rest_of_its_batch_back(inbox, sender, clock):
    seen = []
    inbox.on("invoice.paid", refetch=lambda event: (clock.advance(20), event.data)[1])(lambda event, ctx: seen.append((event.id, ctx.attempt)))
    for number in range(5):
        sender.send(inbox, f"evt_{number}")
    assert inbox.work() <= clock.now()
    assert [ident for ident, _ in seen] == ["evt_0", "evt_1"], "a lease of 60 s, half of it used"
    while inbox.work() is not None:
        pass
    assert seen == [(f"evt_{number}", 1) for number in range(5)]


@pytest.mark.parametrize("kind", ["at_most_once", "at_least_once"])
def test_a_callee_that_hangs_puts_few_in_doubt(inbox, sender, counter, clock, kind):
    coupon = counter(keyed=False)

    def hang(moment):
        raise TimeoutError

    coupon.fail = hang
    inbox.callee("coupon", at_most_once(coupon.send) if kind == "at_most_once" else at_least_once(coupon.send))
    inbox.on("invoice.paid")(lambda event, ctx: ctx.effect("coupon"))
    for number in range(20):
        sender.send(inbox, f"evt_{number}")
    inbox.work()
    assert (coupon.calls, len(inbox.doubts())) == (3, 3)
    coupon.fail = lambda moment: None
    drain(inbox, clock)
    assert len(coupon.done) == (17 if kind == "at_most_once" else 20)


def test_alarms_of_one_id_are_bounded(inbox, sender):
    sender.send(inbox, "evt_1")
    for number in range(15):
        assert sender.send(inbox, "evt_1", amount=number).code == "mismatch"
    assert len(inbox.gap_report().alarms) == 10


@pytest.mark.parametrize("work", [lambda inbox: inbox.work(0), lambda inbox: inbox.work_events(-1), lambda inbox: inbox.work_effects(0)])
def test_a_limit_is_at_least_one(inbox, work):
    inbox.callee("email", keyed(print))
    with pytest.raises(InvalidInput, match="limit"):
        work(inbox)


def test_registering_twice_is_refused(inbox):
    inbox.on("a")(print)
    with pytest.raises(InvalidInput, match="handler already"):
        inbox.on("a")(print)
    inbox.callee("email", keyed(print))
    with pytest.raises(InvalidInput, match="registered already"):
        inbox.callee("email", keyed(print))


def test_errors_hold_no_payload(inbox, sender, caplog):
    """Logs and stored errors say what and where, never what was in it."""
    def broken(event, ctx):
        raise ValueError(event.data["data"]["email"])

    def invalid(event, ctx):
        raise InvalidInput("email", event.data["data"]["email"], "must be another one")

    inbox.on("invoice.paid")(broken)
    inbox.on("invoice.sent")(invalid)
    sender.send(inbox, "evt_1", email="mallory@example.com")
    sender.send(inbox, "evt_2", "invoice.sent", email="mallory@example.com")
    sender.send(inbox, "evt_1", email="eve@example.com")
    inbox.work()
    text = "".join(str(record.__dict__) for record in caplog.records)
    assert "evt_1" in text
    assert "example.com" not in text
    with inbox.store.transaction() as tx:
        assert "example.com" not in str(tx.all("SELECT error FROM buttress_webhooks_event"))


def test_jitter_comes_from_the_generator_that_was_passed_in(stores, sender, clock):
    dues = []
    for seed in (1, 1, 2):
        inbox = Inbox(stores.open(), Verifier.standard(sender.delivery.__globals__["SECRET"]), endpoint=f"e{len(dues)}", rng=random.Random(seed))
        inbox.on("invoice.paid")(lambda event, ctx: 1 / 0)
        sender.send(inbox, "evt_1")
        dues.append(inbox.work())
    assert dues[0] == dues[1] != dues[2]
