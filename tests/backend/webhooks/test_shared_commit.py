"""One commit for a batch: whatever commits an event, commits its effects; a handler that ends the transaction harms nobody else."""

from __future__ import annotations

import threading

import pytest

from buttress.backend.webhooks import InboxConfig, keyed
from buttress.kernel.outbox import SqlOutbox
from buttress.kernel.store.postgres import PostgresStore

GOOD = {"msg_0", "msg_1", "msg_3", "msg_4"}


class Death(BaseException):
    """The process dies here: nothing after it runs."""


@pytest.fixture
def told(stores, make_inbox, sender, counter):
    """``told(end)``: five events in one batch; the handler of the third asks for its effect and then calls ``end(connection)``."""
    email = counter()

    def open_inbox(end):
        inbox = make_inbox(stores.open(), config=InboxConfig(lease_s=60, max_attempts=5, retry_base_s=1, retry_max_s=60))
        inbox.callee("email", keyed(email.send))

        @inbox.on("invoice.paid", "bad")
        def handle(event, ctx):
            ctx.effect("email", payload={"id": event.id})
            if event.type == "bad":
                end(ctx.tx)

        return inbox

    def make(end):
        inbox = open_inbox(end)
        for number in range(5):
            sender.send(inbox, f"msg_{number}", "bad" if number == 2 else "invoice.paid")
        return inbox, email, lambda: open_inbox(end)

    return make


def stand(inbox):
    with inbox.store.transaction() as tx:
        states = dict(tx.all("SELECT id, state FROM buttress_webhooks_event"))
        keys = {key for (key,) in tx.all("SELECT key FROM buttress_outbox")}
    return states, {key.removeprefix("default/").removesuffix(":email") for key in keys}


def drain(inbox, clock):
    end = clock.now() + 86_400
    while (due := inbox.work()) is not None:
        assert due < end, "something waits for ever"
        clock.set(max(clock.now(), due))


def commit(tx):
    tx.connection.commit()


def test_a_process_that_dies_after_a_handlers_commit_leaves_no_event_without_its_effect(told, clock, monkeypatch):
    inbox, email, again = told(commit)

    def die(*args):
        raise Death

    monkeypatch.setattr(inbox._worker, "_mend", die)
    with pytest.raises(Death):
        inbox.work_events()
    states, asked = stand(inbox)
    assert {ident for ident, state in states.items() if state == "done"} == asked == {"msg_0", "msg_1", "msg_2"}
    clock.advance(61)
    drain(again(), clock)
    assert sorted(payload["id"] for _, payload in email.done) == sorted({*GOOD, "msg_2"})


def with_connection(tx):
    with tx.connection as connection:
        connection.execute("SELECT 1")


def test_a_handler_that_closes_the_connection_by_a_with_block(told, clock, stores):
    """``with connection:`` of psycopg commits and closes. That is no outage: the event is dead, the others are done once."""
    if stores.engine != "postgres":
        pytest.skip("sqlite3 leaves the connection open")
    inbox, email, _ = told(with_connection)
    inbox.work_events()
    states, asked = stand(inbox)
    assert states["msg_2"] == "dead" and {"msg_0", "msg_1"} <= asked
    drain(inbox, clock)
    assert stand(inbox)[0] == {**dict.fromkeys(GOOD, "done"), "msg_2": "dead"}
    assert {payload["id"] for _, payload in email.done} >= GOOD
    assert len(email.done) == len(set(email.keys))


def test_a_connection_that_is_lost_is_an_outage_and_not_the_handlers_fault(told, clock, stores, postgres_url):
    import psycopg

    if stores.engine != "postgres":
        pytest.skip("SQLite has no connection to lose")

    def cut(tx):
        (pid,) = tx.one("SELECT pg_backend_pid()")
        with psycopg.connect(postgres_url, autocommit=True) as other:
            other.execute("SELECT pg_terminate_backend(%s)", (pid,))

    inbox, _, _ = told(cut)
    with pytest.raises(Exception, match="Postgres"):
        inbox.work_events()
    states, asked = stand(inbox)
    assert (set(states.values()), asked) == ({"claimed"}, set())


def test_what_a_handler_writes_after_its_own_rollback_is_written_once(stores, make_inbox, sender, clock):
    """Outside of a transaction each statement commits by itself. So it is given up at once: a second attempt would write it again."""
    inbox = make_inbox(stores.open(), config=InboxConfig(lease_s=60, max_attempts=5, retry_base_s=1, retry_max_s=60))
    with inbox.store.transaction() as tx:
        tx.execute("CREATE TABLE credited (id TEXT)")

    @inbox.on("invoice.paid", "bad")
    def credit(event, ctx):
        if event.type == "bad":
            ctx.tx.connection.rollback()
        ctx.tx.execute("INSERT INTO credited VALUES (?)", (event.id,))

    for number in range(5):
        sender.send(inbox, f"msg_{number}", "bad" if number == 2 else "invoice.paid")
    drain(inbox, clock)
    with inbox.store.transaction() as tx:
        credited = sorted(ident for (ident,) in tx.all("SELECT id FROM credited"))
    assert credited == sorted({*GOOD, "msg_2"})
    (dead,) = inbox.dead_letters()
    assert (dead.id, dead.attempt) == ("msg_2", 1) and "transaction_ended" in dead.error


def test_an_effect_that_is_asked_for_after_the_end_is_refused(stores, make_inbox, sender, counter, clock):
    """Half of a message, committed by itself, would stand in the way of all that follow in its stream."""
    inbox, email = make_inbox(stores.open()), counter()
    inbox.callee("email", keyed(email.send))

    @inbox.on("invoice.paid", "bad")
    def handle(event, ctx):
        if event.type == "bad":
            ctx.tx.connection.commit()
        ctx.effect("email")

    sender.send(inbox, "msg_1", "bad")
    sender.send(inbox, "msg_2")
    drain(inbox, clock)
    assert email.keys == ["default/msg_2:email"]
    assert [dead.id for dead in inbox.dead_letters()] == ["msg_1"]


def test_a_handler_that_fails_leaves_no_effect_and_no_alarm(stores, make_inbox, sender, counter, clock):
    inbox, email, failing = make_inbox(stores.open()), counter(), [True]
    inbox.callee("email", keyed(email.send))

    @inbox.on("invoice.paid")
    def handle(event, ctx):
        ctx.effect("email", key="one", payload={"attempt": ctx.attempt})
        if failing:
            failing.pop()
            raise RuntimeError

    sender.send(inbox, "msg_1")
    drain(inbox, clock)
    assert [payload for _, payload in email.done] == [{"attempt": 2}]
    assert inbox.gap_report().clean


# -- the order of locks


def test_places_are_held_in_the_order_of_their_names(stores):
    """Also those that nobody put to before; and what is held is put to at once, in any order."""
    outbox = SqlOutbox(store := stores.open())
    with store.transaction():
        outbox.hold(["b", "a", "c", "a"])
        assert [outbox.put(name, "k", b"") for name in ("c", "a", "b")] == [(0, 0)] * 3
    assert [message.stream for message in outbox.take(9, 60)] == ["a", "b", "c"] or stores.engine == "sqlite"
    outbox.hold([])


def test_two_batches_that_ask_in_opposite_orders_do_not_lock_each_other_out(postgres_stores, make_inbox, sender, counter):
    """The second waits before its first handler runs: until then the first one asks for whatever it likes."""
    first, second = make_inbox(postgres_stores.open()), make_inbox(postgres_stores.open())
    ran, entered, waiting = [], threading.Event(), threading.Event()
    for inbox in (first, second):
        for name in ("a", "b"):
            inbox.callee(name, keyed(counter().send))

    def in_order(event, ctx):
        ctx.effect("a")
        entered.set()
        assert waiting.wait(20)
        ctx.effect("b")
        ran.append("first")

    def in_reverse(event, ctx):
        ctx.effect("b")
        ctx.effect("a")
        ran.append("second")

    first.on("invoice.paid")(in_order)
    second.on("invoice.paid")(in_reverse)
    sender.send(first, "evt_1")
    sender.send(first, "evt_2")
    one = threading.Thread(target=first.work_events, args=(1,))
    one.start()
    assert entered.wait(20)
    two = threading.Thread(target=second.work_events, args=(1,))
    two.start()
    observer = postgres_stores.open()

    def blocked() -> bool:
        with observer.transaction() as tx:
            (count,) = tx.one("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'")
        return count > 0

    while not blocked():
        assert two.is_alive(), "it went on although the places are held"
    waiting.set()
    for thread in (one, two):
        thread.join(20)
        assert not thread.is_alive()
    assert ran == ["first", "second"]
    with observer.transaction() as tx:
        assert {state for (state,) in tx.all("SELECT state FROM buttress_webhooks_event")} == {"done"}


def test_a_batch_that_cannot_have_the_outbox_comes_again_uncounted(postgres_stores, make_inbox, sender, counter, clock):
    """Held for longer than a lock is waited for: nothing ran, nothing is counted, and it is due again in a moment."""
    other = postgres_stores.open()
    patient = PostgresStore(postgres_stores.place, clock=clock, create=True, timeout_s=0.2)
    inbox, email = make_inbox(patient), counter()
    inbox.callee("email", keyed(email.send))
    attempts = []
    inbox.on("invoice.paid")(lambda event, ctx: (attempts.append(ctx.attempt), ctx.effect("email"))[0])
    sender.send(inbox, "evt_0")
    drain(inbox, clock)
    sender.send(inbox, "evt_1")
    with other.transaction():
        SqlOutbox(other).hold(["webhooks/default/email"])
        assert inbox.work_events() == 1
    (entry,) = inbox.find("evt_1")
    assert (entry.state, entry.attempt, attempts) == ("received", 0, [1])
    assert clock.now() < entry.due <= clock.now() + 0.05
    drain(inbox, clock)
    assert attempts == [1, 1] and len(email.done) == 2
    patient.close()
