"""Acting inside the request: the fact that an event was handled commits with the caller's own rows, or not at all."""

from __future__ import annotations

import sqlite3
import threading
from contextlib import contextmanager

import pytest

from buttress.backend.webhooks import keyed
from buttress.kernel.errors import InvalidInput


class Shop:
    """A caller with tables and a connection of its own, in the database of the inbox."""

    def __init__(self, stores) -> None:
        self.stores = stores
        with self.connected() as connection:
            connection.execute("CREATE TABLE orders (id TEXT PRIMARY KEY)")

    @contextmanager
    def connected(self, timeout=5.0):
        """A transaction that commits at the end, or is rolled back."""
        if self.stores.engine == "sqlite":
            connection = sqlite3.connect(self.stores.place, timeout=timeout, isolation_level=None)
            connection.execute("BEGIN IMMEDIATE" if timeout > 1 else "BEGIN")
        else:
            import psycopg

            connection = psycopg.connect(self.stores.place)
        try:
            yield connection
        except BaseException:
            connection.rollback()
            raise
        else:
            connection.commit()
        finally:
            connection.close()

    def take(self, inbox, headers, body, *, fail=False):
        """The request handler of an adopter: one transaction, one answer after it."""
        with self.connected() as connection:
            with inbox.inline(connection, headers, body) as delivery:
                if delivery.event is not None:
                    mark = "?" if self.stores.engine == "sqlite" else "%s"
                    connection.execute(f"INSERT INTO orders (id) VALUES ({mark})", (delivery.event.id,))
                if fail:
                    raise RuntimeError("the handler failed")
        return delivery.answer

    def orders(self):
        with self.connected() as connection:
            return sorted(row[0] for row in connection.execute("SELECT id FROM orders").fetchall())


@pytest.fixture
def inbox(stores, make_inbox):
    return make_inbox(stores.open())


@pytest.fixture
def shop(stores, inbox):
    return Shop(stores)


def test_once_and_then_duplicates(inbox, shop, sender, clock):
    delivery = sender.delivery("evt_1")
    assert shop.take(inbox, *delivery).code == "stored"
    clock.advance(86_400 * 200)
    inbox.retire()
    assert shop.take(inbox, *sender.delivery("evt_1")).code == "duplicate"
    assert shop.orders() == ["evt_1"]
    assert inbox.work() is None


def test_a_failed_handler_leaves_nothing(inbox, shop, sender):
    delivery = sender.delivery("evt_1")
    with pytest.raises(RuntimeError):
        shop.take(inbox, *delivery, fail=True)
    assert (shop.orders(), inbox.find("evt_1")) == ([], [])
    assert shop.take(inbox, *delivery).code == "stored"
    assert shop.orders() == ["evt_1"]


def test_refusals_never_touch_the_connection(inbox, shop, sender):
    headers, body = sender.delivery("evt_1")
    with inbox.inline("no connection at all", headers, body + b" ") as delivery:
        assert delivery.event is None
        assert delivery.answer.status == 401
        with pytest.raises(InvalidInput):
            delivery.effect("email")
    with pytest.raises(InvalidInput, match="connection"), inbox.inline("no connection at all", headers, body):
        pass


def test_mismatch_and_dead_letters(inbox, shop, sender):
    assert shop.take(inbox, *sender.delivery("evt_1", amount=1)).code == "stored"
    answer = shop.take(inbox, *sender.delivery("evt_1", amount=2))
    assert (answer.status, answer.code) == (409, "mismatch")
    assert [alarm.key for alarm in inbox.gap_report().alarms] == ["evt_1"]
    assert shop.take(inbox, *sender.delivery("evt_2", body=b"not json")).code == "dead_letter"
    assert shop.orders() == ["evt_1"]


def test_effects_commit_with_the_caller(inbox, stores, shop, sender, counter):
    email = counter()
    inbox.callee("email", keyed(email.send))
    headers, body = sender.delivery("evt_1")
    for fail in (True, False):
        try:
            with shop.connected() as connection, inbox.inline(connection, headers, body) as delivery:
                assert delivery.effect("email", payload={"a": 1}, in_order="o") == "default/evt_1:email"
                if fail:
                    raise RuntimeError
        except RuntimeError:
            assert inbox.work() is None
            assert email.done == []
    inbox.work()
    assert email.keys == ["default/evt_1:email"]


def test_what_waits_or_was_listed_is_taken_over(inbox, shop, sender):
    """Stored by the receiver, by a listing, or ignored: an inline delivery of it acts, and nobody else then does."""
    inbox.on("invoice.paid")(lambda event, ctx: pytest.fail("was handled inline"))
    assert sender.send(inbox, "evt_1").code == "stored"
    assert shop.take(inbox, *sender.delivery("evt_1")).code == "stored"
    assert sender.send(inbox, "evt_2", "unknown").code == "stored"
    inbox.work()
    assert shop.take(inbox, *sender.delivery("evt_2", "unknown")).code == "stored"
    assert inbox.work() is None
    assert shop.orders() == ["evt_1", "evt_2"]
    sender.send(inbox, "evt_3")
    assert shop.take(inbox, *sender.delivery("evt_3", amount=7)).code == "mismatch"
    assert shop.orders() == ["evt_1", "evt_2"]


def test_what_a_worker_holds_is_in_flight(inbox, stores, shop, sender):
    answers = []
    inbox.on("invoice.paid", refetch=lambda event: (answers.append(shop.take(inbox, *sender.delivery("evt_1"))), event.data)[1])(lambda event, ctx: None)
    sender.send(inbox, "evt_1")
    inbox.work()
    assert [(answer.status, answer.code) for answer in answers] == [(409, "in_flight")]
    assert shop.orders() == []


def test_a_busy_store_is_503_and_nothing_happens(sqlite_stores, make_inbox, sender):
    inbox = make_inbox(sqlite_stores.open())
    shop = Shop(sqlite_stores)
    headers, body = sender.delivery("evt_1")
    with sqlite_stores.open().transaction() as tx:
        tx.execute("CREATE TABLE held_by_another_process (id TEXT)")
        with shop.connected(timeout=0.05) as connection, inbox.inline(connection, headers, body) as delivery:
            assert (delivery.event, delivery.answer.status) == (None, 503)
    assert shop.take(inbox, headers, body).code == "stored"


def test_a_concurrent_duplicate_waits_for_the_first(postgres_stores, make_inbox, sender):
    """It blocks on the row, and answers by what became of the first: done, or rolled back."""
    inbox = make_inbox(postgres_stores.open())
    shop = Shop(postgres_stores)
    for ident, fail in (("evt_1", False), ("evt_2", True)):
        headers, body = sender.delivery(ident)
        inside, answers = threading.Event(), []

        def second(headers=headers, body=body, inside=inside, answers=answers):
            assert inside.wait(20)
            answers.append(shop.take(inbox, headers, body).code)

        thread = threading.Thread(target=second)
        thread.start()
        try:
            with shop.connected() as connection, inbox.inline(connection, headers, body) as delivery:
                connection.execute("INSERT INTO orders (id) VALUES (%s)", (ident,))
                inside.set()
                waits_for_a_lock(postgres_stores)
                assert not answers
                if fail:
                    raise RuntimeError
            assert delivery.answer.code == "stored"
        except RuntimeError:
            pass
        thread.join(20)
        assert answers == ["stored" if fail else "duplicate"]
    assert shop.orders() == ["evt_1", "evt_2"]


def waits_for_a_lock(stores) -> None:
    import time

    import psycopg

    deadline = time.monotonic() + 20
    with psycopg.connect(stores.place, autocommit=True) as look:
        while not look.execute("SELECT count(*) FROM pg_locks WHERE NOT granted").fetchone()[0]:
            assert time.monotonic() < deadline, "the second one never waited"
            time.sleep(0.005)


def test_inside_a_sqlalchemy_session(postgres_stores, make_inbox, sender):
    sqlalchemy = pytest.importorskip("sqlalchemy")
    orm = pytest.importorskip("sqlalchemy.orm")
    inbox = make_inbox(postgres_stores.open())
    Shop(postgres_stores)
    import psycopg

    engine = sqlalchemy.create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(postgres_stores.place))
    for wanted in ("stored", "duplicate"):
        with orm.Session(engine) as session, session.begin():
            connection = session.connection().connection.driver_connection
            with inbox.inline(connection, *sender.delivery("evt_1")) as delivery:
                if delivery.event:
                    session.execute(sqlalchemy.text("INSERT INTO orders (id) VALUES (:id)"), {"id": delivery.event.id})
        assert delivery.answer.code == wanted
    engine.dispose()
