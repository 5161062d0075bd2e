"""The issuer's keys over the network, fetched rarely: a state machine that is told the time, and a driver that fetches.

``KeySet`` decides and does no I/O. ``JwksProvider`` adds one fetch at a time, threads that wait for it, and the source.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

from buttress.identity.jwt_gate.keys import KeyBinding, Pending, by_kid, read_jwk
from buttress.identity.jwt_gate.refusal import KeyRefused, KeysUnavailable, Refused
from buttress.identity.jwt_gate.source import DOCUMENT_BYTES_MAX, Fetch, FileSource, HttpsSource
from buttress.identity.jwt_gate.strict import loads
from buttress.kernel.clock import Clock, SystemClock
from buttress.kernel.errors import InvalidInput

NEGATIVE_MAX = 4096
DOCUMENT_DEPTH_MAX = 6


def read_document(body: bytes, max_keys: int, alg_of: Mapping[str, str], *, secrets: bool = False) -> dict[str, KeyBinding]:
    """The verifying keys of a JWK set, by kid. The whole document is refused for what makes any of it doubtful.

    Refused: larger than 64 kB, more than ``max_keys``, one kid twice, private members, secrets (unless ``secrets``), a key that
    breaks a rule. Left out: keys of other uses, of types that are not known, without kid, or without ``alg`` that ``alg_of``
    does not bind (by kid, or by ``kty`` as ``"RSA"``).
    """
    if len(body) > DOCUMENT_BYTES_MAX:
        raise KeyRefused("document_size")
    try:
        document = loads(body, DOCUMENT_DEPTH_MAX)
    except Refused as refused:
        raise KeyRefused("document", refused.code) from None
    keys = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(keys, list) or not all(isinstance(key, dict) for key in keys):
        raise KeyRefused("document")
    if len(keys) > max_keys:
        raise KeyRefused("document_size", f"{len(keys)} keys")
    names = [key["kid"] for key in keys if isinstance(key.get("kid"), str)]
    if len(set(names)) != len(names):
        raise KeyRefused("document_twice")
    found = []
    for key in keys:
        if key.get("kty") == "oct" and not secrets:
            raise KeyRefused("document_secret")
        if key.get("kty") != "oct" and {"d", "p", "q", "dp", "dq", "qi", "oth"} & set(key):
            raise KeyRefused("key_private", "private members of a JWK")
        binding = _usable(key, alg_of)
        if binding is not None:
            found.append(binding)
    return by_kid(found)


def _usable(key: Mapping[str, Any], alg_of: Mapping[str, str]) -> KeyBinding | None:
    kid = key.get("kid")
    if not isinstance(kid, str) or key.get("kty") not in ("RSA", "EC", "OKP", "oct"):
        return None
    bound = alg_of.get(kid) or ("" if "alg" in key else alg_of.get(str(key["kty"]), ""))
    if not bound and "alg" not in key:
        return None
    try:
        return read_jwk(key, bound)
    except KeyRefused as refused:
        if refused.code == "key_use" or (refused.code == "key_alg" and not bound):  # for encryption, or of an algorithm that we lack
            return None
        raise


class KeySet:
    """What is known of one issuer's keys, and when to ask again. No I/O; each method is told the time, in seconds.

    Fresh for ``ttl_s`` after a fetch; then served while it is fetched anew, for ``stale_s`` more; then nobody is let in. A
    fetch begins at most every ``interval_s``, whatever it ended in and whoever asked. A kid that a fetch did not bring is
    not asked for again within ``negative_s``, unless the document changed.
    """

    def __init__(self, *, ttl_s: float, stale_s: float, interval_s: float, negative_s: float) -> None:
        self.ttl_s, self.stale_s, self.interval_s, self.negative_s = ttl_s, stale_s, interval_s, negative_s
        self.epoch = 0
        self.bindings: dict[str, KeyBinding] = {}
        self.fetched: float | None = None
        self.tried: float | None = None
        self.problem = "they were never fetched"
        self._body = b""
        self._missing: dict[str, float] = {}

    def settle(self, now: float) -> None:
        """A clock that was set back makes nothing younger than zero seconds: ages count on from there."""
        if self.fetched is not None and now < self.fetched:
            self.fetched = now
        if self.tried is not None and now < self.tried:
            self.tried = now

    def fresh_until(self) -> float:
        return float("-inf") if self.fetched is None else self.fetched + self.ttl_s

    def dead_at(self) -> float:
        """From here on the keys are too old to be used."""
        return self.fresh_until() + self.stale_s

    def may_fetch(self, now: float) -> bool:
        return self.tried is None or now >= self.tried + self.interval_s

    def wants(self, kid: str, now: float) -> str:
        """What an asker for ``kid`` needs first: ``nothing``, ``refresh`` (meanwhile it is served) or ``fetch`` (it must wait)."""
        self.settle(now)
        if now >= self.dead_at():
            return "fetch" if self.may_fetch(now) else "nothing"
        if kid not in self.bindings:
            known = self._missing.get(kid)
            if known is not None and known - self.negative_s <= now < known:
                return "nothing"
            return "fetch" if self.may_fetch(now) else "nothing"
        return "refresh" if now >= self.fresh_until() and self.may_fetch(now) else "nothing"

    def answer(self, kid: str, now: float) -> tuple[KeyBinding, float]:
        """The key, and until when a verdict by it stands. Raises Refused ``kid_unknown`` or KeysUnavailable."""
        if now >= self.dead_at():
            raise KeysUnavailable(f"the keys are too old to be used: {self.problem}", fix="can the issuer be reached from here?")
        binding = self.bindings.get(kid)
        if binding is None:
            raise Refused("kid_unknown", "kid")
        until = self.fresh_until() if now < self.fresh_until() else min(self.dead_at(), now + self.interval_s)
        return binding, until if binding.not_after is None else min(until, binding.not_after)

    def begin(self, now: float) -> None:
        """A fetch begins."""
        self.tried = now

    def arrived(self, body: bytes, bindings: dict[str, KeyBinding], now: float, asked_for: str = "") -> None:
        """A good document. ``asked_for``: the kid that made us ask."""
        self.fetched, self.problem = now, "the last fetch was good"
        if body != self._body:
            self._body, self.bindings = body, bindings
            self._missing.clear()
            self.epoch += 1
        if asked_for and asked_for not in self.bindings:
            if len(self._missing) >= NEGATIVE_MAX:
                self._missing.pop(next(iter(self._missing)))
            self._missing[asked_for] = now + self.negative_s

    def failed(self, why: str) -> None:
        """No good document came: what there was stays, as long as it may."""
        self.problem = why


class JwksProvider:
    """The keys of one issuer from an https URL or a file. May be asked from many threads; one fetch at a time.

    ``allowed_hosts`` pins where documents come from; no redirect is followed, and plain http is for loopback only, when
    ``loopback_http`` says so. ``alg_of`` binds keys that name no algorithm, by kid or by kty. ``stale_while_revalidate_s`` is a
    hard limit. ``spawn`` runs a refresh that nobody waits for (default: a thread).
    """

    def __init__(self, issuer: str, *, url: str = "", file: str = "", allowed_hosts: tuple[str, ...] = (), loopback_http: bool = False,
                 ttl_s: float = 300.0, stale_while_revalidate_s: float = 3300.0, min_refresh_s: float = 10.0, negative_s: float = 60.0,
                 max_keys: int = 32, timeout_s: float = 5.0, alg_of: Mapping[str, str] | None = None, clock: Clock | None = None,
                 fetch: Fetch | None = None, spawn: Callable[[Callable[[], None]], None] | None = None) -> None:
        if bool(url) == bool(file):
            raise InvalidInput("url, file", (url, file), "must be one of them")
        for name, value, low in (("ttl_s", ttl_s, 1), ("stale_while_revalidate_s", stale_while_revalidate_s, 0), ("min_refresh_s", min_refresh_s, 1),
                                 ("negative_s", negative_s, 0), ("max_keys", max_keys, 1), ("timeout_s", timeout_s, 0.1)):
            if not low <= value <= 604_800:
                raise InvalidInput(name, value, f"must be {low} to 604800")
        self.issuer, self._max_keys, self._timeout_s = issuer, max_keys, timeout_s
        self._alg_of = dict(alg_of or {})
        self._clock = clock or SystemClock()
        if fetch is None:
            fetch = FileSource(file) if file else HttpsSource(url, allowed_hosts or (urlsplit(url).hostname or "",), timeout_s=timeout_s, loopback_http=loopback_http)
        self._fetch = fetch
        self._spawn = spawn or (lambda job: threading.Thread(target=job, name="jwks", daemon=True).start())
        self._set = KeySet(ttl_s=ttl_s, stale_s=stale_while_revalidate_s, interval_s=min_refresh_s, negative_s=negative_s)
        self._changed = threading.Condition()
        self._flying = False
        self.fetches = 0

    @property
    def epoch(self) -> int:
        """See Keys."""
        return self._set.epoch

    def find(self, kid: str, now: float, wait: bool = True) -> tuple[KeyBinding, float]:
        """See Keys. ``wait`` False raises Pending where the answer needs a fetch."""
        with self._changed:
            wants = self._set.wants(kid, now)
            if wants == "nothing":
                if self._flying and self._needs(kid, now):
                    if not wait:
                        raise Pending
                    self._await()
                return self._set.answer(kid, now)
            if not self._flying:
                if wants == "fetch" and not wait:
                    raise Pending
                self._flying = True
                self._set.begin(now)
                mine = True
            else:
                mine = False
            if wants == "refresh":
                answer = self._set.answer(kid, now)
            elif not mine:
                if not wait:
                    raise Pending
                self._await()
                return self._set.answer(kid, now)
        if wants == "refresh":
            if mine:
                self._spawn(self._refresh_unasked)
            return answer
        self._refresh(kid)
        with self._changed:
            return self._set.answer(kid, max(now, self._set.fetched or now))

    def refresh(self) -> bool:
        """Fetches now, if the interval allows and none is under way; whether the last fetch was good. For a start-up check."""
        with self._changed:
            now = self._clock.now()
            self._set.settle(now)
            if self._flying or not self._set.may_fetch(now):
                return self._set.fetched is not None
            self._flying = True
            self._set.begin(now)
        return self._refresh("")

    def _refresh_unasked(self) -> None:
        self._refresh("")

    @property
    def state(self) -> Mapping[str, Any]:
        """For health pages: keys by name and algorithm, ages in seconds, the last problem. Nothing secret."""
        with self._changed:
            now = self._clock.now()
            age = None if self._set.fetched is None else round(now - self._set.fetched, 1)
            return {"issuer": self.issuer, "keys": {kid: b.alg for kid, b in self._set.bindings.items()}, "age_s": age, "usable": now < self._set.dead_at(),
                    "fetches": self.fetches, "problem": self._set.problem, "epoch": self._set.epoch}

    def _needs(self, kid: str, now: float) -> bool:
        return now >= self._set.dead_at() or kid not in self._set.bindings

    def _await(self) -> None:
        self._changed.wait_for(lambda: not self._flying, timeout=self._timeout_s + 1)

    def _refresh(self, asked_for: str) -> bool:
        good = False
        try:
            self.fetches += 1
            body = self._fetch()
            bindings = read_document(body, self._max_keys, self._alg_of)
        except (KeyRefused, KeysUnavailable) as error:
            with self._changed:
                self._set.failed(f"{error.code}: {error.message}")
        except Exception as error:  # a source of somebody else's: its errors are an outage, not a crash of every request
            with self._changed:
                self._set.failed(type(error).__name__)
        else:
            with self._changed:
                self._set.arrived(body, bindings, self._clock.now(), asked_for)
                good = True
        finally:
            with self._changed:
                self._flying = False
                self._changed.notify_all()
        return good
