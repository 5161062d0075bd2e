"""The policy, and the rules about claims: exact, typed, bounded on both sides."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

from buttress.identity.jwt_gate.refusal import Refused
from buttress.kernel.errors import InvalidInput

LEEWAY_MAX_S = 300.0
TOKEN_BYTES_MAX = 65_536
AUDIENCES_MAX = 32


@dataclass(frozen=True)
class Policy:
    """What a token must be to be let in.

    ``typ``: accepted types, without ``application/``, in small letters; ``""`` accepts a header without one. ``audience``: one
    of these must be in ``aud``. ``leeway_s`` applies to exp, nbf and iat alike. ``max_age_s``: the oldest ``iat``; None: any.
    ``required`` claims must be there. ``other_kinds``: claims that only other kinds of tokens have.
    """

    issuer: str
    audience: str | frozenset[str]
    typ: frozenset[str] | set[str] = frozenset({"at+jwt"})
    leeway_s: float = 30.0
    max_age_s: float | None = None
    required: tuple[str, ...] = ("exp", "iss", "aud", "sub")
    max_token_bytes: int = 8192
    other_kinds: tuple[str, ...] = ("nonce", "at_hash", "c_hash", "events")

    def __post_init__(self) -> None:
        audiences = {self.audience} if isinstance(self.audience, str) else set(self.audience)
        if not self.issuer:
            raise InvalidInput("issuer", self.issuer, "must be named")
        if not audiences or not all(isinstance(a, str) and a for a in audiences):
            raise InvalidInput("audience", self.audience, "must name at least one audience")
        if not self.typ or any(t != t.lower() or t.startswith("application/") for t in self.typ):
            raise InvalidInput("typ", sorted(self.typ), "must name types in small letters, without application/; '' for none")
        if not 0 <= self.leeway_s <= LEEWAY_MAX_S:
            raise InvalidInput("leeway_s", self.leeway_s, f"must be 0 to {LEEWAY_MAX_S:g}")
        if self.max_age_s is not None and not 0 < self.max_age_s < math.inf:
            raise InvalidInput("max_age_s", self.max_age_s, "must be above 0, or None")
        if not 256 <= self.max_token_bytes <= TOKEN_BYTES_MAX:
            raise InvalidInput("max_token_bytes", self.max_token_bytes, f"must be 256 to {TOKEN_BYTES_MAX}")
        if "exp" not in self.required:
            raise InvalidInput("required", self.required, "must hold exp: a token that never ends cannot be taken back")
        object.__setattr__(self, "audience", frozenset(audiences))
        object.__setattr__(self, "typ", frozenset(self.typ))


class Claims(NamedTuple):
    """What a genuine token says. ``all`` holds every claim; the named ones have been checked. Immutable: verdicts are shared."""

    issuer: str
    subject: str
    audience: tuple[str, ...]
    expires: float
    kid: str
    all: Mapping[str, Any]

    def get(self, name: str, default: Any = None) -> Any:
        """A claim, or ``default``."""
        return self.all.get(name, default)

    @property
    def scopes(self) -> frozenset[str]:
        """RFC 8693 4.2: the scopes, apart."""
        scope = self.all.get("scope", "")
        return frozenset(scope.split(" ")) - {""} if isinstance(scope, str) else frozenset()


_new = tuple.__new__  # Claims(...) by the short way
_NUMBERS = (int, float)  # by exact type: bool is an int in Python


def check(claims: dict[str, Any], policy: Policy, now: float, kid: str) -> Claims:
    """All rules about claims. Raises Refused."""
    for name in policy.required:
        if name not in claims:
            raise Refused("claim_missing", name)
    early, late = now - policy.leeway_s, now + policy.leeway_s
    expires = claims["exp"]  # Policy requires it
    if type(expires) not in _NUMBERS:
        raise Refused("claim_type", "exp")
    if not early < expires:
        raise Refused("expired", "exp")
    if "nbf" in claims:
        if type(claims["nbf"]) not in _NUMBERS:
            raise Refused("claim_type", "nbf")
        if not claims["nbf"] <= late:
            raise Refused("not_yet", "nbf")
    if "iat" in claims:
        if type(claims["iat"]) not in _NUMBERS:
            raise Refused("claim_type", "iat")
        if not claims["iat"] <= late:
            raise Refused("issued_in_future", "iat")
    if policy.max_age_s is not None:
        if "iat" not in claims:
            raise Refused("claim_missing", "iat")
        if not early - claims["iat"] <= policy.max_age_s:
            raise Refused("too_old", "iat")
    if claims.get("iss") != policy.issuer:
        raise Refused("issuer" if type(claims.get("iss", "")) is str else "claim_type", "iss")
    subject = claims.get("sub", "")
    if type(subject) is not str or (not subject and "sub" in policy.required):
        raise Refused("claim_type", "sub")
    audience = _audience(claims)
    if policy.audience.isdisjoint(audience):  # type: ignore[union-attr]  # made a set in __post_init__
        raise Refused("audience", "aud")
    if "jti" in claims and type(claims["jti"]) is not str:
        raise Refused("claim_type", "jti")
    for name in policy.other_kinds:
        if name in claims:
            raise Refused("other_kind", name)
    return _new(Claims, (policy.issuer, subject, audience, expires, kid, MappingProxyType(claims)))


def _audience(claims: dict[str, Any]) -> tuple[str, ...]:
    """RFC 7519 4.1.3: text, or an array of texts. Absent: nobody's."""
    audience = claims.get("aud", ())
    if type(audience) is str:
        return (audience,)
    if type(audience) is list and len(audience) <= AUDIENCES_MAX and all(type(one) is str for one in audience):
        return tuple(audience)
    if "aud" in claims:
        raise Refused("claim_type", "aud")
    return ()
