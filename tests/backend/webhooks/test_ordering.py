"""Order: what is older is superseded, ties are read again, and a tombstone keeps late news of the dead out."""

from __future__ import annotations

import itertools
import random

import pytest

from buttress.backend.webhooks import InboxConfig, NotSent, keyed
from buttress.backend.webhooks.ordering import to_place
from buttress.kernel.errors import InvalidInput

TYPES = ("customer.created", "customer.updated", "customer.deleted")


def place(event):
    data = event.data["data"]
    return data["id"], data["at"], event.type.endswith(".deleted")


@pytest.fixture
def inbox(stores, make_inbox):
    return make_inbox(stores.open())


@pytest.fixture
def table(inbox):
    """What the handler keeps of each customer; None: deleted."""
    with inbox.store.transaction() as tx:
        tx.execute("CREATE TABLE customers (id TEXT PRIMARY KEY, name TEXT)")

    class Table:
        def __init__(self) -> None:
            self.calls: list[tuple[str, bool]] = []

        def handle(self, event, ctx):
            self.calls.append((event.id, ctx.tied))
            data = event.data["data"]
            name = None if event.type.endswith(".deleted") else data["name"]
            ctx.tx.execute("INSERT INTO customers (id, name) VALUES (?, ?) ON CONFLICT (id) DO UPDATE SET name = excluded.name", (data["id"], name))

        def name(self, ident="c1"):
            with inbox.store.transaction() as tx:
                row = tx.one("SELECT name FROM customers WHERE id = ?", (ident,))
            return "absent" if row is None else row[0]

    return Table()


def states(inbox):
    with inbox.store.transaction() as tx:
        return dict(tx.all("SELECT id, state FROM buttress_webhooks_event"))


@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize("order", list(itertools.permutations(range(4))))
def test_any_order_ends_in_the_newest_state(sqlite_stores, make_inbox, sender, order, batched):
    inbox = make_inbox(sqlite_stores.open())
    state = {}
    inbox.on(*TYPES, order_by=place)(lambda event, ctx: state.update({event.data["data"]["id"]: event.data["data"].get("name")}))
    news = [("evt_0", TYPES[0], {"at": 10, "name": "a"}), ("evt_1", TYPES[1], {"at": 20, "name": "b"}),
            ("evt_2", TYPES[1], {"at": 30, "name": "c"}), ("evt_3", TYPES[2], {"at": 40})]
    for number in order:
        ident, kind, data = news[number]
        sender.send(inbox, ident, kind, id="c1", **data)
        if not batched:
            inbox.work()
    inbox.work()
    assert state == {"c1": None}
    assert states(inbox)["evt_3"] == "done"


def test_deleted_before_created(inbox, sender, table):
    inbox.on(*TYPES, order_by=place)(table.handle)
    sender.send(inbox, "evt_del", TYPES[2], id="c1", at=20)
    inbox.work()
    sender.send(inbox, "evt_new", TYPES[0], id="c1", at=10, name="a")
    sender.send(inbox, "evt_same", TYPES[1], id="c1", at=20, name="b")
    inbox.work()
    assert table.name() is None
    assert states(inbox) == {"evt_del": "done", "evt_new": "superseded", "evt_same": "superseded"}
    sender.send(inbox, "evt_again", TYPES[0], id="c1", at=21, name="back")
    inbox.work()
    assert table.name() == "back", "created anew, later"


def test_deletion_wins_a_tie(inbox, sender, table):
    inbox.on(*TYPES, order_by=place, refetch=lambda event: pytest.fail("nothing to read: it is deleted") if event.type == TYPES[2] else event.data)(table.handle)
    sender.send(inbox, "evt_1", TYPES[1], id="c1", at=20, name="a")
    inbox.work()
    sender.send(inbox, "evt_2", TYPES[2], id="c1", at=20)
    inbox.work()
    assert table.name() is None
    assert table.calls == [("evt_1", False), ("evt_2", False)]


def test_a_tie_without_refetch_is_told(inbox, sender, table):
    inbox.on(*TYPES, order_by=place)(table.handle)
    for ident in ("evt_1", "evt_2"):
        sender.send(inbox, ident, TYPES[1], id="c1", at=20, name=ident)
    inbox.work()
    assert table.calls == [("evt_1", False), ("evt_2", True)]
    inbox.replay("evt_2")
    inbox.work()
    assert table.calls[-1] == ("evt_2", False), "a replay does not tie with itself"


@pytest.mark.parametrize("batched", [True, False])
def test_a_tie_is_read_again(inbox, sender, table, batched):
    """Two versions within one second: whichever came last, the state that is read is the current one."""
    asked = []

    def refetch(event):
        with pytest.raises(AttributeError):
            _ = inbox.store._local.tx.connection  # no transaction is open while the network is asked
        asked.append(event.id)
        return {"data": {**event.data["data"], "name": "current"}}

    inbox.on(*TYPES, order_by=place, refetch=refetch)(table.handle)
    for ident, name in (("evt_1", "current"), ("evt_2", "old")):
        sender.send(inbox, ident, TYPES[1], id="c1", at=20, name=name)
        if not batched:
            inbox.work()
    while inbox.work() is not None:
        pass
    assert asked == ["evt_2"]
    assert table.name() == "current"
    assert table.calls == [("evt_1", False), ("evt_2", True)]
    assert set(states(inbox).values()) == {"done"}
    with inbox.store.transaction() as tx:
        assert tx.one("SELECT attempt FROM buttress_webhooks_event WHERE id = 'evt_2'") == (1,), "the second look is no second attempt"


def test_thin_events_are_always_read(inbox, sender, clock):
    seen, answers = [], iter([ConnectionError(), {"name": "fetched"}])

    def refetch(event):
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    inbox.on("contact.created", refetch=refetch)(lambda event, ctx: seen.append((event.id, event.data)))
    sender.send(inbox, "evt_1", "contact.created", id="c1")
    clock.set(inbox.work())
    assert states(inbox) == {"evt_1": "retry"}
    inbox.work()
    assert seen == [("evt_1", {"name": "fetched"})]


def test_accounts_endpoints_and_guards_are_kept_apart(stores, make_inbox, sender):
    store, seen = stores.open(), []
    for endpoint in ("a", "b"):
        inbox = make_inbox(store, endpoint=endpoint)
        inbox.on("customer.updated", order_by=place)(lambda event, ctx: seen.append("sync"))
        inbox.on("customer.deleted", order_by=place, guard="another")(lambda event, ctx: seen.append("gone"))
        sender.send(inbox, "evt_1", "customer.updated", id="c1", at=20)
        sender.send(inbox, "evt_2", "customer.deleted", id="c1", at=10)
        inbox.work()
    assert seen == ["sync", "gone"] * 2


def test_two_handlers_share_a_guard_only_when_told_to(inbox, sender):
    seen = []
    inbox.on("customer.updated", order_by=place)(lambda event, ctx: seen.append("sync"))
    with pytest.raises(InvalidInput, match="another handler's order"):
        inbox.on("customer.deleted", order_by=place)(lambda event, ctx: seen.append("gone"))
    inbox.on("customer.deleted", order_by=place, guard="<lambda>")(lambda event, ctx: seen.append("gone"))
    sender.send(inbox, "evt_1", "customer.deleted", id="c1", at=20)
    inbox.work()
    sender.send(inbox, "evt_2", "customer.updated", id="c1", at=10)
    inbox.work()
    assert seen == ["gone"]


def test_a_failed_handler_moves_no_guard(inbox, sender, clock):
    seen, failing = [], [True]

    def handle(event, ctx):
        if failing:
            raise RuntimeError
        seen.append(event.id)

    inbox.on("customer.updated", order_by=place)(handle)
    sender.send(inbox, "evt_2", "customer.updated", id="c1", at=20)
    inbox.work()
    failing.clear()
    sender.send(inbox, "evt_1", "customer.updated", id="c1", at=10)
    inbox.work()
    clock.advance(60)
    inbox.work()
    assert seen == ["evt_1", "evt_2"]


@pytest.mark.parametrize("answer", [("c1",), ("c1", None), ("c1", True), (1, 2), ("", 2), ["c1", 2], ("c" * 256, 1), ("c1", float("nan")), ("c1", 1, False, 4), "c1"])
def test_what_order_by_may_return(answer):
    with pytest.raises(InvalidInput):
        to_place(answer)


def test_versions_of_any_size_and_of_one_kind(stores, make_inbox, sender):
    inbox, seen = make_inbox(stores.open(), config=InboxConfig(max_attempts=1)), []
    inbox.on("x.updated", order_by=lambda event: (event.data["data"]["id"], event.data["data"]["at"]))(lambda event, ctx: seen.append(event.id))
    inbox.on("x.unordered", order_by=lambda event: None, guard="none")(lambda event, ctx: seen.append(event.id))
    for ident, data in {"big": {"id": "a", "at": 2**63 + 1}, "bigger": {"id": "a", "at": 2**63 + 2}, "big again": {"id": "a", "at": 2**63 + 1.0},
                        "text": {"id": "b", "at": "2026-01-02"}, "older": {"id": "b", "at": "2026-01-01"}, "number": {"id": "b", "at": 5}}.items():
        sender.send(inbox, ident.replace(" ", "_"), "x.updated", **data)
        inbox.work()
    sender.send(inbox, "free", "x.unordered")
    inbox.work()
    assert seen == ["big", "bigger", "text", "free"]
    assert [letter.id for letter in inbox.dead_letters()] == ["number"]


# -- effects in order


@pytest.mark.parametrize("seed", range(6))
def test_effects_of_one_object_reach_the_callee_in_order(sqlite_stores, make_inbox, sender, counter, clock, seed):
    """A callee that is unavailable now and then: without a lane, a retried older state would overwrite a newer one."""
    inbox, rng, orders = make_inbox(sqlite_stores.open()), random.Random(seed), counter()

    def sometimes(moment):
        if rng.random() < 0.4:
            raise NotSent("busy") if moment == "before" else TimeoutError

    orders.fail = sometimes
    inbox.callee("orders", keyed(orders.send))

    @inbox.on("order.updated", order_by=lambda event: (event.data["data"]["id"], event.data["data"]["version"]))
    def changed(event, ctx):
        data = event.data["data"]
        ctx.effect("orders", key=f"{data['id']}:{data['version']}", payload=data, in_order=data["id"])

    news = [(f"o{number}", version) for number in range(4) for version in range(5)]
    rng.shuffle(news)
    for ident, version in news:
        sender.send(inbox, f"evt_{ident}_{version}", "order.updated", id=ident, version=version)
        inbox.work()
    while (due := inbox.work()) is not None:
        clock.set(max(clock.now(), due))
    for number in range(4):
        versions = [payload["version"] for _, payload in orders.done if payload["id"] == f"o{number}"]
        assert versions == sorted(versions)
        assert versions[-1] == 4


def test_a_lane_waits_without_spinning_and_a_dead_letter_does_not_block_it(stores, make_inbox, sender, counter, clock):
    inbox, orders = make_inbox(stores.open(), config=InboxConfig(effect_max_attempts=2, retry_base_s=10)), counter()
    bad = {"default/1:orders"}

    def send(effect):
        if effect.key in bad:
            raise NotSent("busy")
        return orders.send(effect)

    inbox.callee("orders", keyed(send))
    inbox.on("order.updated")(lambda event, ctx: ctx.effect("orders", key=str(event.data["data"]["version"]), in_order="o1"))
    for version in (1, 2):
        sender.send(inbox, f"evt_{version}", "order.updated", version=version)
    due = inbox.work()
    assert due > clock.now(), "the second one waits for the first, and nobody needs to call before that is due"
    assert orders.keys == []
    clock.set(due)
    while (due := inbox.work()) is not None:
        clock.set(max(clock.now(), due))
    assert orders.keys == ["default/2:orders"]
    bad.clear()
    assert [dead.key for dead in inbox.gap_report().dead_effects] == ["default/1:orders"]
    assert inbox.replay_effect("orders") == 0, "it would undo what was sent after it"
