"""The one place that opens SQLite and Postgres. A store gives transactions; primitives and systems write SQL in them.

SQL is written once for both engines: ``?`` marks a parameter, ``{bytes}``, ``{real}`` and ``{int}`` in a schema become the
engine's own types. An open transaction is joined, never nested: ``with store.transaction() as tx`` inside another one on
the same thread gives the same transaction, and only the outermost commits.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal, Protocol, TypeVar

from buttress.kernel.clock import Clock
from buttress.kernel.errors import InvalidInput, SchemaMismatch

T = TypeVar("T")
Dialect = Literal["sqlite", "postgres"]
Row = tuple[Any, ...]


@dataclass(frozen=True)
class Schema:
    """The tables of one primitive or system. ``version`` grows by one; ``migrations[n]`` leads from n to n + 1."""

    name: str
    version: int
    ddl: tuple[str, ...]
    migrations: Mapping[int, tuple[str, ...]] = field(default_factory=dict)

    def sql(self, dialect: Dialect) -> str:
        """The statements that create the tables, as ``buttress <system> schema`` prints them for Postgres."""
        types = TYPES[dialect]
        stamp = f"INSERT INTO buttress_schema (name, version) VALUES ('{self.name}', {self.version}) ON CONFLICT DO NOTHING"
        return ";\n".join([SCHEMA_TABLE, *(s.format(**types) for s in self.ddl), stamp]) + ";\n"

    def pending(self, found: int | None) -> tuple[str, ...]:
        """Statements that bring ``found`` (None: nothing there) to this version; refuses a newer store."""
        if found is None:
            return self.ddl
        if found > self.version or any(n not in self.migrations for n in range(found, self.version)):
            raise SchemaMismatch(
                f"store schema {self.name}: version {found} found, this release reads {self.version}",
                fix="use the release that wrote the store, or a newer one",
            )
        return tuple(s for n in range(found, self.version) for s in self.migrations[n])


SCHEMA_TABLE = "CREATE TABLE IF NOT EXISTS buttress_schema (name TEXT PRIMARY KEY, version INTEGER NOT NULL)"
TYPES: Mapping[Dialect, Mapping[str, str]] = {
    "sqlite": {"bytes": "BLOB", "real": "REAL", "int": "INTEGER"},
    "postgres": {"bytes": "BYTEA", "real": "DOUBLE PRECISION", "int": "BIGINT"},
}


_ENDS = re.compile(r"\s*(BEGIN|COMMIT|END|ABORT|START|ROLLBACK(?!\s+(TRANSACTION\s+|WORK\s+)?TO\b)|PREPARE\s+TRANSACTION)\b", re.IGNORECASE)


@lru_cache(maxsize=1024)
def check_statement(sql: str) -> None:
    """Refuses what would begin or end a transaction: who shares it with others cannot know what else would be committed."""
    if found := _ENDS.match(sql):
        raise InvalidInput("sql", found[1], "must not begin or end the transaction", fix="raise an error: whoever began it rolls it back")


class Tx(Protocol):
    """An open transaction. ``connection`` is the driver's own, for code that brings its own SQL layer.

    All three raise InvalidInput for a statement that begins or ends a transaction; savepoints are free.
    """

    dialect: Dialect
    connection: Any

    def execute(self, sql: str, params: Sequence[Any] = ()) -> int:
        """Runs one statement; returns the number of rows it changed."""
        ...

    def one(self, sql: str, params: Sequence[Any] = ()) -> Row | None:
        """The first row, or None."""
        ...

    def all(self, sql: str, params: Sequence[Any] = ()) -> list[Row]:
        """All rows."""
        ...


class Store(Protocol):
    """Where durable state lives. Raises Unavailable when the engine is busy beyond its timeout, full or gone."""

    dialect: Dialect
    clock: Clock

    def setup(self, *schemas: Schema) -> None:
        """Creates or migrates tables (SQLite), or checks that they are there (Postgres: nothing is created unasked)."""
        ...

    def transaction(self) -> AbstractContextManager[Tx]:
        """Begins, or joins the transaction that this thread has open. Committed and synced when the outermost ends."""
        ...

    def join(self, connection: Any) -> AbstractContextManager[Tx]:
        """Works inside a transaction that somebody else began on ``connection`` and will commit."""
        ...

    def submit(self, work: Callable[[Tx], T]) -> T:
        """Runs ``work`` together with that of other threads in one commit; returns after the sync. Never inside a transaction."""
        ...

    def close(self) -> None:
        """Ends the writer and closes the connections. A store closed twice is closed."""
        ...
