"""What every store promises, on each engine; and the schema as text."""

from __future__ import annotations

import sqlite3

import pytest

from buttress.kernel.errors import SchemaMismatch
from buttress.kernel.store import Schema
from buttress.testing import store as conformance

CASE = conformance.Case(maker=None, reopen=True, foreign=True)  # all promises apply to both engines
PROMISES = [
    pytest.param(engine, promise, id=f"{engine}-{promise.__name__}")
    for engine in ("sqlite", "postgres")
    for promise in conformance.promises(CASE)
]


@pytest.mark.parametrize(("stores", "promise"), PROMISES, indirect=["stores"])
def test_promise(stores, promise):
    promise(conformance.Case(stores.fresh, stores.reopen, stores.foreign))


SCHEMA = Schema("shop.orders", 2, ("CREATE TABLE orders (id {int} PRIMARY KEY, body {bytes}, price {real})", "CREATE INDEX orders_price ON orders (price)"),
                {1: ("ALTER TABLE orders ADD COLUMN price {real}",)})


def test_a_schema_prints_itself_in_each_dialect():
    assert SCHEMA.sql("sqlite").splitlines()[1] == "CREATE TABLE orders (id INTEGER PRIMARY KEY, body BLOB, price REAL);"
    assert SCHEMA.sql("postgres").splitlines()[1] == "CREATE TABLE orders (id BIGINT PRIMARY KEY, body BYTEA, price DOUBLE PRECISION);"


def test_the_printed_sql_makes_what_setup_expects(tmp_path, sqlite_stores):
    path = str(tmp_path / "by-hand.db")
    by_hand = sqlite3.connect(path)
    by_hand.executescript(SCHEMA.sql("sqlite"))
    by_hand.close()
    store = sqlite_stores.open(path)
    store.setup(SCHEMA)  # would fail on the existing table if the version were not stamped
    with store.transaction() as tx:
        assert tx.one("SELECT version FROM buttress_schema WHERE name = 'shop.orders'") == (2,)


def test_a_mismatch_names_both_versions():
    with pytest.raises(SchemaMismatch, match=r"shop\.orders: version 3 found, this release reads 2 \(use the release that wrote the store"):
        SCHEMA.pending(3)
    assert SCHEMA.pending(None) == SCHEMA.ddl
    assert SCHEMA.pending(1) == SCHEMA.migrations[1]
    assert SCHEMA.pending(2) == ()
    with pytest.raises(SchemaMismatch):
        SCHEMA.pending(0)
