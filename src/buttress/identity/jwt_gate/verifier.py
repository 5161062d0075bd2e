"""The verifier: parse strictly, find the key by (issuer, kid), verify with the key's own algorithm, then judge the claims.

The header is compared, never obeyed. Everything that is wrong with a token is a Refused; nothing else is raised for a token.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from typing import Any

from buttress.identity.jwt_gate.claims import Claims, Policy, check
from buttress.identity.jwt_gate.keys import KID_MAX, Keys
from buttress.identity.jwt_gate.refusal import Refused
from buttress.identity.jwt_gate.strict import loads_object, unbase64url
from buttress.kernel.clock import Clock, SystemClock
from buttress.kernel.errors import InvalidInput

HEADER_BYTES_MAX = 2048
HEADER_DEPTH_MAX = 3
CLAIMS_DEPTH_MAX = 16
HEADERS_KEPT = 256
_FOLLOWED = ("jwk", "jku", "x5u", "x5c")
_REFUSED_HEADERS = frozenset((*_FOLLOWED, "crit", "b64", "zip", "cty"))


def _header(segment: bytes, policy: Policy) -> tuple[str, str]:
    """(kid, alg) of a header segment that keeps every rule. Raises Refused."""
    if len(segment) > HEADER_BYTES_MAX * 4 // 3 + 4:
        raise Refused("header_too_long")
    header = loads_object(unbase64url(segment), HEADER_DEPTH_MAX)
    alg = header.get("alg")
    if type(alg) is not str or not alg:
        raise Refused("alg_missing", "alg")
    if alg.strip().lower() == "none":
        raise Refused("alg_none", "alg")
    for name in _REFUSED_HEADERS & header.keys():
        raise Refused("header_key" if name in _FOLLOWED else "nested" if name == "cty" else name, name)
    typ = header.get("typ", "")
    if type(typ) is not str or typ.lower().removeprefix("application/") not in policy.typ:
        raise Refused("typ", "typ")
    kid = header.get("kid")
    if type(kid) is not str or not 1 <= len(kid) <= KID_MAX:
        raise Refused("kid_missing", "kid")
    return kid, alg


class Verifier:
    """Judges the tokens of one issuer: ``Verifier(policy, keys).verify(token)``. May be used from many threads.

    ``keep``: verdicts are kept for so many tokens (0: for none) and at most ``keep_s`` seconds, never beyond the token's
    ``exp``, the key's window or the freshness of its key set; all are dropped when the keys change and by ``flush()``.
    ``revoked(claims)`` is asked for each token that was not kept: call ``flush()`` after each change of what it knows.
    """

    def __init__(self, policy: Policy, keys: Keys, *, clock: Clock | None = None, keep: int = 4096, keep_s: float = 60.0,
                 revoked: Callable[[Claims], bool] | None = None) -> None:
        if keys.issuer != policy.issuer:
            raise InvalidInput("keys", keys.issuer, f"must be those of the policy's issuer, {policy.issuer}")
        if not 0 <= keep <= 1 << 20:
            raise InvalidInput("keep", keep, "must be 0 to 1048576")
        if not 0 < keep_s <= 3600:
            raise InvalidInput("keep_s", keep_s, "must be above 0 and at most 3600")
        self.policy, self.keys = policy, keys
        self._clock, self._bytes_max = clock or SystemClock(), policy.max_token_bytes
        self._keep, self._keep_s, self._revoked = keep, keep_s, revoked
        self._headers: dict[bytes, tuple[str, str]] = {}  # of tokens that were genuine, so that nobody else can fill it
        self._kept: dict[bytes, tuple[float, float, Claims]] = {}  # by SHA-256: since, until, what it says
        self._epoch = keys.epoch
        self._flushes = 0
        self._lock = threading.Lock()
        self.hits = 0

    def verify(self, token: str | bytes, *, wait: bool = True) -> Claims:
        """What the token says. Raises Refused, and KeysUnavailable where the keys cannot be had.

        ``wait`` False: raises Pending where keys would have to be fetched first.
        """
        now = self._clock.now()
        if type(token) is not str and type(token) is not bytes:
            raise Refused("not_text")
        if len(token) > self._bytes_max:
            raise Refused("too_long")
        try:
            raw: bytes = token.encode("ascii") if isinstance(token, str) else token
        except UnicodeEncodeError:
            raise Refused("not_text") from None
        if not self._keep:
            return self._judge(raw, now, wait)[0]
        key = sha256(raw).digest()
        found = self._kept.get(key)
        if found is not None:
            if found[0] <= now < found[1] and self._epoch == self.keys.epoch:
                self.hits += 1
                return found[2]
            self._kept.pop(key, None)
        epoch, flushes = self.keys.epoch, self._flushes
        claims, until = self._judge(raw, now, wait)
        self._remember(key, (now, min(until, claims.expires, now + self._keep_s), claims), epoch, flushes)
        return claims

    def flush(self) -> None:
        """Drops every verdict that was kept: after a revocation."""
        with self._lock:
            self._flushes += 1
            self._kept.clear()
            self._headers.clear()

    def _judge(self, raw: bytes, now: float, wait: bool) -> tuple[Claims, float]:
        """The verdict itself, and until when the key set lets it stand."""
        parts = raw.split(b".", 5)
        if len(parts) != 3:
            raise Refused("encrypted" if len(parts) == 5 else "segments")
        head, body, tail = parts
        known = self._headers.get(head)
        kid, alg = known if known is not None else _header(head, self.policy)
        binding, until = self.keys.find(kid, now, wait)
        if alg != binding.alg:
            raise Refused("alg_mismatch", "alg")
        if binding.not_before is not None or binding.not_after is not None:
            binding.in_time(now)
        binding.check(raw[: -1 - len(tail)], unbase64url(tail))
        if known is None:
            if len(self._headers) >= HEADERS_KEPT:
                self._headers.clear()
            self._headers[head] = (kid, alg)
        claims = check(loads_object(unbase64url(body), CLAIMS_DEPTH_MAX), self.policy, now, kid)
        if self._revoked is not None and self._revoked(claims):
            raise Refused("revoked")
        return claims, until

    def _remember(self, key: bytes, verdict: tuple[float, float, Claims], epoch: int, flushes: int) -> None:
        with self._lock:
            if self._epoch != self.keys.epoch:
                self._kept.clear()
                self._epoch = self.keys.epoch
            if epoch != self._epoch or flushes != self._flushes:  # judged by keys, or before a revocation, that are no more
                return
            if len(self._kept) >= self._keep:
                self._kept.pop(next(iter(self._kept)), None)
            self._kept[key] = verdict


class Issuers:
    """Several issuers side by side: the token's own, unverified ``iss`` chooses whose verifier judges it, and that one requires it.

    No key of one issuer is ever tried on the token of another.
    """

    def __init__(self, verifiers: Sequence[Verifier]) -> None:
        self._by_issuer: Mapping[str, Verifier] = {v.policy.issuer: v for v in verifiers}
        if len(self._by_issuer) != len(verifiers) or not verifiers:
            raise InvalidInput("verifiers", len(verifiers), "must be one for each issuer")
        self._max = max(v.policy.max_token_bytes for v in verifiers)

    def verify(self, token: str | bytes, *, wait: bool = True) -> Claims:
        """As Verifier.verify."""
        if type(token) not in (str, bytes):
            raise Refused("not_text")
        if len(token) > self._max:
            raise Refused("too_long")
        try:
            raw = token.encode("ascii") if isinstance(token, str) else token
        except UnicodeEncodeError:
            raise Refused("not_text") from None
        parts = raw.split(b".")
        if len(parts) != 3:
            raise Refused("encrypted" if len(parts) == 5 else "segments")
        issuer: Any = loads_object(unbase64url(parts[1]), CLAIMS_DEPTH_MAX).get("iss")
        verifier = self._by_issuer.get(issuer) if isinstance(issuer, str) else None
        if verifier is None:
            raise Refused("issuer_unknown", "iss")
        return verifier.verify(raw, wait=wait)

    def flush(self) -> None:
        """Drops every kept verdict of all."""
        for verifier in self._by_issuer.values():
            verifier.flush()
