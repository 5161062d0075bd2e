"""What is known of an effect: a sender that outlived its lease changes nothing of it, and a person's word closes it whatever it waits for."""

from __future__ import annotations

import pytest

from buttress.backend.webhooks import Rejected, at_least_once, at_most_once, keyed
from buttress.kernel.errors import ButtressError
from buttress.kernel.outbox import Dead, Retry

DAY = 86_400.0
KEY = "default/evt_1:email"


@pytest.fixture
def two(stores, make_inbox, sender):
    """``two(callee)``: two processes on one store, and one event whose effect waits."""

    def make(callee):
        inboxes = [make_inbox(stores.open()) for _ in range(2)]
        for inbox in inboxes:
            inbox.callee("email", callee)
            inbox.on("invoice.paid")(lambda event, ctx: ctx.effect("email", payload={}) and None)
        sender.send(inboxes[0], "evt_1")
        inboxes[0].work_events()
        return inboxes

    return make


def taken(inbox):
    """The first half of a sender's work: it holds what is due, and is stopped before it sends."""
    effects = inbox._effects
    messages = effects._outbox.take(64, 60, effects._streams)
    assert len(messages) == 1
    return effects, effects._announce(messages), messages[0]


def trying(inbox):
    with inbox.store.transaction() as tx:
        return [since for (since,) in tx.all("SELECT since FROM buttress_webhooks_trying")]


def test_a_sender_that_woke_too_late_does_not_forget_what_another_tried(two, counter, clock):
    """It had not sent anything, and said so: but since its announcement another one had, and got no answer."""
    email = counter()
    first, second = two(keyed(email.send, timeout_s=10))
    announced = clock.now()
    effects, batch, message = taken(first)
    clock.advance(61)

    def lose(moment):
        if moment == "after":
            raise ConnectionResetError

    email.fail = lose
    second.work_effects()
    assert email.keys == [KEY]
    batch.settled.append((message, Retry(clock.now(), "the batch took too long"), False))
    effects._settle_batch(batch)
    assert trying(second) == [announced], "in doubt since then"

    email.keyed = False  # the callee has forgotten the key by now

    def refuse(moment):
        raise ConnectionRefusedError

    email.fail = refuse
    clock.advance(25 * 3600)
    second.work_effects()
    email.fail = lambda moment: None
    clock.advance(3600)
    second.work_effects()
    assert email.keys == [KEY], "a key that the callee no longer knows is no protection"
    assert [doubt.key for doubt in second.doubts()] == [KEY]


def test_a_sender_that_woke_too_late_puts_nothing_in_doubt(two, counter, clock):
    """It was refused long ago; by now another one holds the message and has sent it."""
    email = counter()
    first, second = two(keyed(email.send))
    effects, batch, message = taken(first)
    clock.advance(61)
    others, their_batch, theirs = taken(second)
    batch.settled.append((message, Dead("rejected: 422"), None))
    effects._settle_batch(batch)
    others._send_keyed(their_batch, theirs, "email", others._callees["email"])
    others._settle_batch(their_batch)
    report = first.gap_report()
    assert (email.keys, report.doubts, report.dead_effects, trying(first)) == ([KEY], (), (), [])


def test_what_happened_after_all_is_not_sent_again_though_it_waits(two, counter, clock):
    email = counter(keyed=False)

    def lose(moment):
        if moment == "after":
            raise ConnectionResetError

    email.fail = lose
    inbox, _ = two(at_least_once(email.send))
    inbox.work_effects()
    assert [doubt.outcome for doubt in inbox.doubts()] == ["sent_again"]
    assert inbox.resolve("email", KEY, happened=True) == 1
    email.fail = lambda moment: None
    assert inbox.work() is None
    clock.advance(DAY)
    inbox.work()
    assert (email.keys, inbox.gap_report().clean) == ([KEY], True)


def test_what_did_not_happen_is_sent_again_as_it_would_have_been(two, counter, clock):
    email = counter(keyed=False)

    def lose(moment):
        raise ConnectionResetError

    email.fail = lose
    inbox, _ = two(at_least_once(email.send))
    inbox.work_effects()
    assert inbox.resolve("email", KEY, happened=False) == 1
    email.fail = lambda moment: None
    clock.advance(DAY)
    assert inbox.work() is None
    assert (email.keys, inbox.gap_report().clean) == ([KEY], True)


@pytest.mark.parametrize("happened", [True, False])
def test_an_effect_that_a_sender_holds_is_not_resolved(two, counter, clock, happened):
    email = counter(keyed=False)

    def lose(moment):
        raise ConnectionResetError

    email.fail = lose
    inbox, other = two(at_least_once(email.send))
    inbox.work_effects()
    clock.advance(3600)
    taken(other)
    with pytest.raises(ButtressError, match="a sender holds this effect"):
        inbox.resolve("email", KEY, happened=happened)
    assert len(inbox.doubts()) == 1, "nothing was changed"
    clock.advance(61)
    assert inbox.resolve("email", KEY, happened=happened) == 1


def test_an_effect_that_was_overtaken_stays_dead_and_says_so(stores, make_inbox, sender, counter, clock, caplog):
    inbox, stock = make_inbox(stores.open()), counter(keyed=False)

    def lose(moment):
        raise ConnectionResetError

    stock.fail = lose
    inbox.callee("stock", at_most_once(stock.send))
    inbox.on("invoice.paid")(lambda event, ctx: ctx.effect("stock", in_order="sku 1") and None)
    for ident in ("evt_1", "evt_2"):
        sender.send(inbox, ident)
        inbox.work()
        stock.fail = lambda moment: None
    key = "default/evt_1:stock"
    assert (stock.keys, inbox.overtaken("stock", key), inbox.overtaken("stock", "default/evt_2:stock")) == (["default/evt_2:stock"], True, False)
    assert inbox.resolve("stock", key, happened=False) == 1
    assert any("stays dead" in record.getMessage() for record in caplog.records)
    clock.advance(DAY)
    assert inbox.work() is None
    assert stock.keys == ["default/evt_2:stock"]
    report = inbox.gap_report()
    assert (report.doubts, [one.key for one in report.dead_effects]) == ((), [key])


def test_a_redirect_leaves_a_doubt_and_is_not_replayed(two, clock):
    """A callee that acts and then answers 303 has acted."""
    import threading
    from http.server import BaseHTTPRequestHandler, HTTPServer

    from buttress.backend.webhooks import HttpCallee

    acted = []

    class Shop(BaseHTTPRequestHandler):
        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            acted.append(self.path)
            self.send_response(303)
            self.send_header("Location", "/done")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *args):
            pass

    server = HTTPServer(("127.0.0.1", 0), Shop)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    inbox, _ = two(at_most_once(HttpCallee(f"http://127.0.0.1:{server.server_port}/")))
    inbox.work()
    assert [doubt.key for doubt in inbox.doubts()] == [KEY]
    inbox.replay_effect("email")
    clock.advance(DAY)
    inbox.work()
    assert acted == ["/"]
    server.shutdown()
    server.server_close()
    thread.join(20)


def test_a_refusal_is_no_doubt(two):
    def refuse(effect):
        raise Rejected("no such customer")

    inbox, _ = two(at_most_once(refuse))
    inbox.work()
    report = inbox.gap_report()
    assert (report.doubts, len(report.dead_effects)) == ((), 1)
