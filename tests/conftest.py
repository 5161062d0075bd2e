"""What all tests share: one Postgres for a whole worker, started when the first test wants it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from buttress import servers


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[servers.Postgres]:
    """A real server; skips with the command that provides one. Not durable: no test here judges its disk."""
    try:
        with servers.postgres(durable=False) as server:
            yield server
    except servers.NotThere as missing:
        pytest.skip(f"{missing.message}; {missing.fix}")


@pytest.fixture(scope="session")
def postgres_url(postgres_server: servers.Postgres) -> Iterator[str]:
    """A database of our own on it."""
    with postgres_server.database() as url:
        yield url
