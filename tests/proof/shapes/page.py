"""Shape 7, a timed page: a site over HTTP that shows each edit at once, survives a kill, and costs less CPU than rendering."""

from __future__ import annotations

import hashlib
import os
import threading
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from operator import methodcaller
from pathlib import Path
from typing import Any, Protocol

from buttress.proof import Claim, Control, Env, Estimate, History, Proof, Race, Scenario, Subject, Trial
from buttress.proof.contract import Measured
from buttress.proof.faults import Crash
from buttress.proof.verdict import count

TIMEOUT_S = 10


class Site(Protocol):
    def serve(self) -> str: ...
    def edit(self, text: str) -> None: ...


class Server:
    """What all sites of this shape share: the document on disk, and a server in a thread."""

    def __init__(self, env: Env) -> None:
        self._document = Path(env.dir, "document")
        self._server: ThreadingHTTPServer | None = None

    def page(self) -> str:
        raise NotImplementedError

    def serve(self) -> str:
        if self._server is None:
            site = self

            class Handler(BaseHTTPRequestHandler):
                def do_GET(self) -> None:
                    body = site.page().encode()
                    self.send_response(200)
                    self.send_header("Content-Length", str(len(body)))
                    self.end_headers()
                    self.wfile.write(body)

                def log_message(self, *_: Any) -> None:
                    pass

            self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
            threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return f"http://127.0.0.1:{self._server.server_port}/"

    def edit(self, text: str) -> None:
        new = self._document.with_suffix(".new")
        new.write_text(text)
        os.replace(new, self._document)

    def text(self) -> str:
        return self._document.read_text() if self._document.exists() else ""

    def close(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()


class Naive(Server):
    """Renders at every request, and keeps what was edited in its memory."""

    memory = ""

    def edit(self, text: str) -> None:
        self.memory = text

    def page(self) -> str:
        return rendered(self.memory)


class Good(Server):
    """Renders once an edit, and keeps the document on disk."""

    _kept: tuple[str, str] | None = None

    def page(self) -> str:
        text = self.text()
        if self._kept is None or self._kept[0] != text:
            self._kept = (text, rendered(text))
        return self._kept[1]


@dataclass(frozen=True)
class Size:
    edits: int
    laps: int = 7


def rendered(text: str) -> str:
    """Expensive on purpose, some milliseconds."""
    return f"<h1>{text}</h1><!-- {hashlib.pbkdf2_hmac('sha256', text.encode(), b'', 10_000).hex()} -->"


def fetched(url: str) -> str:
    with urllib.request.urlopen(url, timeout=TIMEOUT_S) as answer:
        return str(answer.read().decode())


def drive(trial: Trial) -> None:
    trial.open()
    for number in range(trial.size.edits):
        text = f"edition {number} of {trial.rng.randrange(10**6)}"
        trial.surely(methodcaller("edit", text=text))
        trial.record("fact", edit=number, right=trial.surely(looked_at) == rendered(text))


def looked_at(site: Site) -> str:
    try:
        return fetched(site.serve())
    except OSError:  # killed after its answer, so that the address is dead: asked again, it says so
        return fetched(site.serve())


def shown(history: History) -> Mapping[str, Measured]:
    facts = list(history.where(kind="fact"))
    clean = [f for f in facts if f["case"] == "clean"]
    return {"stale": count(sum(not f["right"] for f in clean), len(clean)), "lost": count(sum(not f["right"] for f in facts), len(facts))}


def lap(trial: Trial, site: Site) -> Mapping[str, float]:
    """What a lap counts it must look at: nobody else does."""
    url = trial.url or site.serve()
    for _ in range(6):
        if not fetched(url).startswith("<h1>"):
            raise ValueError("that is no page")
    return {}


class Remote:
    """A site that is reached at its address: an edit is a PUT."""

    def __init__(self, url: str, env: Env) -> None:
        self.url = url

    def serve(self) -> str:
        return self.url

    def edit(self, text: str) -> None:
        urllib.request.urlopen(urllib.request.Request(self.url, text.encode(), method="PUT"), timeout=TIMEOUT_S).close()


PROOF = Proof(
    system="page", port=Site,
    subjects=(Subject("naive", f"{__file__}:naive", "baseline"), Subject("good", f"{__file__}:good", "buttress")),
    scenarios=(Scenario("edits", drive, (Crash(each=1, replies=2),), virtual=False, processes=True),),
    checkers=(shown,),
    races=(Race("fetch", lap),),
    from_url=Remote,
    claims=(Claim("stale pages", "stale", "== 0", "pages", perfect=lambda size: count(0, size.edits)),
            Claim("edits lost in a crash", "lost", "== 0", "pages", needs=("crash",), perfect=lambda size: count(0, size.edits)),
            Claim("CPU over rendering", "fetch.cpu_s", "<= 0.7", "×", over="naive", speed=True, perfect=lambda size: Estimate(0.1, 0.1, 0.1, size.laps))),
    controls=(Control("the naive site forgets in a crash", "naive", "lost", "> 0", guards=("edits lost in a crash",)),),
    sizes={"quick": Size(3)},
)


def naive(env: Env) -> Naive:
    return Naive(env)


def good(env: Env) -> Good:
    return Good(env)
