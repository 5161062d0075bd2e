"""Who signed this delivery? Four schemes, one question; everything else is refused.

Signatures are checked over the raw bytes, before anything is parsed, in constant time, against every active secret and
every signature in the header. Unknown schemes in a header are ignored, never trusted. Where two official SDKs of a
provider read an odd header differently, it is refused.

Sources: Standard Webhooks 1.0.0 (``webhook-*`` headers, ``v1`` HMAC-SHA256, ``v1a`` ed25519); Stripe, "Verify webhook
signatures" (``t=,v1=``); GitHub, "Validating webhook deliveries" (``X-Hub-Signature-256``); Shopify, "Verify webhooks"
(``X-Shopify-Hmac-Sha256``). HMAC is RFC 2104, ed25519 is RFC 8032.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, Protocol

import msgspec

from buttress.backend.webhooks.event import UNREADABLE, Event, canonical_json, is_name, to_epoch
from buttress.kernel.errors import ButtressError, InvalidInput, MissingExtra

TIMESTAMP = re.compile(r"[1-9][0-9]{0,11}")
SCHEME_NAME = re.compile(r"[a-z][a-z0-9_]{0,15}")
HEADER_MAX_CHARS = 8192
SIGNATURES_MAX = 32
SECRET_MIN_BYTES = 24

Secrets = str | bytes | Sequence[str | bytes]


class Refused(ButtressError):
    """A delivery that is not let in. ``status`` is the HTTP answer; nothing of it was stored.

    Codes: ``unsigned`` 401, ``bad_signature`` 401, ``stale`` 400 (authentic, but its time is out of tolerance: a replay or
    a wrong clock), ``malformed`` 400, ``too_large`` 413.
    """

    def __init__(self, status: int, code: str, reason: str, *, fix: str = "") -> None:
        super().__init__(reason, fix=fix)
        self.status = status
        self.code = code
        self.reason = reason


class _Scheme(Protocol):
    name: ClassVar[str]
    headers: ClassVar[frozenset[str]]
    volatile: ClassVar[frozenset[str]]

    def authenticate(self, headers: Mapping[str, str], body: bytes) -> float | None:
        """The signed time of the attempt, or None where the scheme signs none. Raises Refused."""
        ...

    def read(self, headers: Mapping[str, str], body: bytes, sent: float | None) -> Event:
        """The event of an authentic delivery. Raises Refused for headers that name no event."""
        ...


class Verifier:
    """Checks a delivery and reads its event. Made by ``standard``, ``stripe``, ``github`` or ``shopify``.

    ``secrets`` is one secret or several active ones (rotation). Secrets never appear in an error, a log or ``repr``.
    """

    def __init__(self, scheme: _Scheme, tolerance_s: float = 300) -> None:
        if not 0 < tolerance_s <= 86_400:
            raise InvalidInput("tolerance_s", tolerance_s, "must be above 0 and at most 86400 seconds")
        self._scheme = scheme
        self._tolerance_s = tolerance_s

    @classmethod
    def standard(cls, secrets: Secrets, *, tolerance_s: float = 300) -> Verifier:
        """Standard Webhooks 1.0: ``whsec_`` secrets (base64, or raw bytes) for ``v1``, ``whpk_`` public keys for ``v1a``.

        ``svix-`` headers are read where no ``webhook-`` header is there.
        """
        return cls(_Standard(_each(secrets)), tolerance_s)

    @classmethod
    def stripe(cls, secrets: Secrets, *, tolerance_s: float = 300) -> Verifier:
        """``Stripe-Signature``. Unlike both Stripe SDKs it refuses times in the future as well."""
        return cls(_Stripe(_texts(secrets)), tolerance_s)

    @classmethod
    def github(cls, secrets: Secrets) -> Verifier:
        """``X-Hub-Signature-256`` over the body alone: neither a time nor the id is signed (see Limits in the README)."""
        return cls(_GitHub(_texts(secrets)))

    @classmethod
    def shopify(cls, secrets: Secrets) -> Verifier:
        """``X-Shopify-Hmac-Sha256`` over the body alone: neither a time nor the id is signed (see Limits in the README)."""
        return cls(_Shopify(_texts(secrets)))

    @property
    def scheme(self) -> str:
        """``standard``, ``stripe``, ``github`` or ``shopify``."""
        return self._scheme.name

    @property
    def headers(self) -> frozenset[str]:
        """The header names that count, in lower case. One of them sent twice makes a delivery malformed."""
        return self._scheme.headers

    def __repr__(self) -> str:
        return f"Verifier.{self.scheme}(...)"

    def verify(self, headers: Mapping[str, str], body: bytes, now: float) -> Event:
        """The event, if an active secret signed these raw bytes within the tolerance of ``now``. Raises Refused."""
        if not isinstance(body, bytes):
            raise InvalidInput("body", type(body).__name__, "must be the raw bytes of the request, before any parsing")
        if not math.isfinite(now):  # no distance from it is out of tolerance
            raise InvalidInput("now", now, "must be a finite number of seconds since the epoch")
        lowered = self._lower(headers)
        sent = self._scheme.authenticate(lowered, body)
        if sent is not None and abs(now - sent) > self._tolerance_s:
            age = "old" if sent < now else "far in the future"
            raise Refused(400, "stale", f"the signed time is too {age}: more than {self._tolerance_s:g} s from the clock here",
                          fix="compare the clocks; a replayed delivery looks like this, too")
        return self._scheme.read(lowered, body, sent)

    def _lower(self, headers: Mapping[str, str]) -> dict[str, str]:
        known = self._scheme.headers
        lowered: dict[str, str] = {}
        for name, value in headers.items():
            if not isinstance(name, str):
                raise Refused(400, "malformed", f"a header's name is {type(name).__name__}, not text", fix="decode headers as latin-1")
            low = name.lower()
            if low in known and value is not None:
                if not isinstance(value, str):
                    raise Refused(400, "malformed", f"the header {low} is {type(value).__name__}, not text", fix="decode headers as latin-1; join no list")
                if low in lowered:
                    raise Refused(400, "malformed", f"the header {low} came twice")
                if len(value) > HEADER_MAX_CHARS:
                    raise Refused(400, "malformed", f"the header {low} is longer than {HEADER_MAX_CHARS} characters")
                lowered[low] = value
        return lowered

    def listed(self, item: Mapping[str, Any] | bytes) -> Event:
        """An event from the provider's own list (its API vouches for it). Only where the body carries its id: Stripe."""
        if not isinstance(self._scheme, _Stripe):
            raise InvalidInput("item", type(item).__name__, f"a {self.scheme} body does not carry its id",
                               fix="hand over Event(id=..., type=..., body=...)")
        return self._scheme.read({}, item if isinstance(item, bytes) else msgspec.json.encode(item), None)

    def same(self, first: bytes, second: bytes) -> bool:
        """Whether two bodies with one id tell the same: equal JSON, apart from what the provider counts in it between attempts."""
        return first == second or self.canonical(first) == self.canonical(second)

    def canonical(self, body: bytes) -> bytes:
        """32 bytes: equal for bodies that tell the same (``same``), and what is kept of a body when it is dropped."""
        return hashlib.sha256(canonical_json(body, self._scheme.volatile)).digest()


# -- the schemes


class _Peek(msgspec.Struct):
    """The few fields that are read before the rest: the other ones are skipped, not built."""

    id: Any = None
    type: Any = None
    created: Any = None
    timestamp: Any = None
    livemode: Any = None
    account: Any = None
    context: Any = None


_decode: Callable[[bytes], _Peek] = msgspec.json.Decoder(_Peek).decode


def _peek(body: bytes) -> _Peek | None:
    """None: not a JSON object."""
    try:
        body.decode()
        return _decode(body)
    except UNREADABLE:
        return None


class _Standard:
    name: ClassVar[str] = "standard"
    headers: ClassVar[frozenset[str]] = frozenset(f"{p}-{n}" for p in ("webhook", "svix") for n in ("id", "timestamp", "signature"))
    volatile: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, secrets: Iterable[str | bytes]) -> None:
        self._secrets: list[bytes] = []
        self._public: list[Callable[[bytes, bytes], bool]] = []
        for secret in secrets:
            if isinstance(secret, str) and secret.startswith("whsk_"):
                raise InvalidInput("secrets", "whsk_…", "is a secret signing key: a receiver needs the public one, whpk_")
            if isinstance(secret, str) and secret.startswith("whpk_"):
                self._public.append(_ed25519(_unbase64(secret.removeprefix("whpk_"), "a whpk_ key")))
                continue
            key = secret if isinstance(secret, bytes) else _unbase64(secret.removeprefix("whsec_"), "a whsec_ secret")
            if len(key) < SECRET_MIN_BYTES:
                raise InvalidInput("secrets", f"{len(key)} bytes", f"must hold at least {SECRET_MIN_BYTES} bytes (Standard Webhooks, signature scheme)")
            self._secrets.append(key)

    def authenticate(self, headers: Mapping[str, str], body: bytes) -> float:
        ident, stamp, header = self._three(headers)
        if not header:
            raise Refused(401, "unsigned", "no webhook-signature header")
        if not ident or not is_name(ident):
            raise Refused(400, "malformed", "webhook-id must be 1 to 255 printable characters")
        if not stamp or TIMESTAMP.fullmatch(stamp) is None:
            raise Refused(400, "malformed", "webhook-timestamp must be whole seconds since the epoch")
        entries = header.split(" ")
        if len(entries) > SIGNATURES_MAX:
            raise Refused(400, "malformed", f"more than {SIGNATURES_MAX} signatures")
        pairs = [entry.partition(",") for entry in entries]
        if not all(name and comma and value and "," not in value for name, comma, value in pairs):
            raise Refused(400, "malformed", "webhook-signature must be a list of version,signature with one space between")
        if not all(_is_base64(value) for name, _, value in pairs if name == "v1"):
            raise Refused(400, "malformed", "a v1 signature in webhook-signature is no base64")
        signed = f"{ident}.{stamp}.".encode() + body
        if not (self._v1(signed, [value for name, _, value in pairs if name == "v1"])
                or self._v1a(signed, [value for name, _, value in pairs if name == "v1a"])):
            raise Refused(401, "bad_signature", "no signature matches an active secret")
        return float(stamp)

    @staticmethod
    def _three(headers: Mapping[str, str]) -> tuple[str | None, str | None, str | None]:
        """One family of headers, never a mixture of the two."""
        family = "webhook" if any(name.startswith("webhook-") for name in headers) else "svix"
        return headers.get(f"{family}-id"), headers.get(f"{family}-timestamp"), headers.get(f"{family}-signature")

    def _v1(self, signed: bytes, given: list[str]) -> bool:
        if not given:
            return False
        return any(_any_equal(base64.b64encode(hmac.digest(secret, signed, "sha256")), given) for secret in self._secrets)

    def _v1a(self, signed: bytes, given: list[str]) -> bool:
        if not self._public:
            return False
        signatures = [raw for raw in map(_signature_bytes, given) if raw is not None]
        return any(check(raw, signed) for raw in signatures for check in self._public)

    def read(self, headers: Mapping[str, str], body: bytes, sent: float | None) -> Event:
        ident = self._three(headers)[0] or ""
        peek = _peek(body)
        if peek is None:
            return Event(ident, "", body, sent=sent, problem="not_json")
        kind = peek.type if is_name(peek.type) else ""
        return Event(ident, kind, body, occurred=to_epoch(peek.timestamp), sent=sent)


class _Stripe:
    name: ClassVar[str] = "stripe"
    headers: ClassVar[frozenset[str]] = frozenset({"stripe-signature"})
    volatile: ClassVar[frozenset[str]] = frozenset({"pending_webhooks"})  # counts the endpoints not yet served: falls between attempts

    def __init__(self, secrets: Sequence[bytes]) -> None:
        self._secrets = secrets

    def authenticate(self, headers: Mapping[str, str], body: bytes) -> float:
        header = headers.get("stripe-signature")
        if not header:
            raise Refused(401, "unsigned", "no Stripe-Signature header")
        stamps, given = [], []
        for item in header.split(","):
            name, equals, value = item.partition("=")
            if not (equals and value and SCHEME_NAME.fullmatch(name)):
                raise Refused(400, "malformed", "Stripe-Signature must be a list of name=value without spaces")
            if name == "t":
                stamps.append(value)
            elif name == "v1":
                given.append(value)
        if len(stamps) != 1 or TIMESTAMP.fullmatch(stamps[0]) is None:
            raise Refused(400, "malformed", "Stripe-Signature must hold one t= of whole seconds since the epoch")
        if not given:
            raise Refused(401, "unsigned", "Stripe-Signature holds no v1 signature")
        if not all(value.isascii() and "=" not in value for value in given):
            raise Refused(400, "malformed", "a v1 signature in Stripe-Signature is not ASCII, or holds an equals sign")
        if len(given) > SIGNATURES_MAX:
            raise Refused(400, "malformed", f"more than {SIGNATURES_MAX} signatures")
        signed = stamps[0].encode() + b"." + body
        if not any(_any_equal(hmac.digest(secret, signed, "sha256").hex().encode(), given) for secret in self._secrets):
            raise Refused(401, "bad_signature", "no v1 signature matches an active secret")
        return float(stamps[0])

    def read(self, headers: Mapping[str, str], body: bytes, sent: float | None) -> Event:
        peek = _peek(body)
        if peek is None or not is_name(peek.id) or not is_name(peek.type):
            ident = f"sha256:{hashlib.sha256(body).hexdigest()}"
            return Event(ident, "", body, sent=sent, problem="not_json" if peek is None else "no_id")
        account = peek.account if is_name(peek.account) else peek.context  # v2 events name it context
        return Event(peek.id, peek.type, body, occurred=to_epoch(peek.created), sent=sent,
                     account=account if is_name(account) else None,
                     livemode=peek.livemode if isinstance(peek.livemode, bool) else None)


class _GitHub:
    name: ClassVar[str] = "github"
    headers: ClassVar[frozenset[str]] = frozenset({"x-hub-signature-256", "x-github-delivery", "x-github-event"})
    volatile: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, secrets: Sequence[bytes]) -> None:
        self._secrets = secrets

    def authenticate(self, headers: Mapping[str, str], body: bytes) -> None:
        header = headers.get("x-hub-signature-256")
        if not header:
            raise Refused(401, "unsigned", "no X-Hub-Signature-256 header", fix="set a secret on the webhook; the SHA-1 header is not accepted")
        name, _, value = header.partition("=")
        if name != "sha256" or not value:
            raise Refused(400, "malformed", "X-Hub-Signature-256 must be sha256=<hex>")
        if not any(_any_equal(hmac.digest(secret, body, "sha256").hex().encode(), [value]) for secret in self._secrets):
            raise Refused(401, "bad_signature", "the signature matches no active secret")

    def read(self, headers: Mapping[str, str], body: bytes, sent: float | None) -> Event:
        ident, kind = headers.get("x-github-delivery"), headers.get("x-github-event")
        if ident is None or kind is None or not (is_name(ident) and is_name(kind)):
            raise Refused(400, "malformed", "X-GitHub-Delivery and X-GitHub-Event must be 1 to 255 printable characters")
        return Event(ident, kind, body, problem="" if _peek(body) else "not_json")


class _Shopify:
    name: ClassVar[str] = "shopify"
    headers: ClassVar[frozenset[str]] = frozenset(
        f"x-shopify-{n}" for n in ("hmac-sha256", "event-id", "webhook-id", "topic", "triggered-at", "shop-domain", "test"))
    volatile: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, secrets: Sequence[bytes]) -> None:
        self._secrets = secrets

    def authenticate(self, headers: Mapping[str, str], body: bytes) -> None:
        header = headers.get("x-shopify-hmac-sha256")
        if not header:
            raise Refused(401, "unsigned", "no X-Shopify-Hmac-Sha256 header")
        if not any(_any_equal(base64.b64encode(hmac.digest(secret, body, "sha256")), [header]) for secret in self._secrets):
            raise Refused(401, "bad_signature", "the signature matches no active secret")

    def read(self, headers: Mapping[str, str], body: bytes, sent: float | None) -> Event:
        ident, kind = headers.get("x-shopify-event-id") or headers.get("x-shopify-webhook-id"), headers.get("x-shopify-topic")
        shop = headers.get("x-shopify-shop-domain")
        if ident is None or kind is None or not (is_name(kind) and is_name(f"{ident}:{kind}")):
            raise Refused(400, "malformed", "X-Shopify-Event-Id and X-Shopify-Topic must be printable, 254 characters together")
        if shop is not None and not is_name(shop):
            raise Refused(400, "malformed", "X-Shopify-Shop-Domain must be 1 to 255 printable characters")
        test = headers.get("x-shopify-test")
        # One action of a merchant can raise several topics under one event id: the topic is part of what makes it one.
        return Event(f"{ident}:{kind}", kind, body, occurred=to_epoch(headers.get("x-shopify-triggered-at")),
                     account=shop, livemode=None if test is None else test.lower() != "true", problem="" if _peek(body) else "not_json")


# -- secrets and comparison


def _any_equal(expected: bytes, given: Iterable[str]) -> bool:
    """Constant time in the contents. Compares the text of the header, so that no second spelling of a signature passes."""
    return any(hmac.compare_digest(expected, value.encode("utf-8", "surrogatepass")) for value in given)


def _each(secrets: Secrets) -> list[str | bytes]:
    several = [secrets] if isinstance(secrets, str | bytes) else list(secrets)
    if not several:
        raise InvalidInput("secrets", "none", "must hold at least one secret")
    for secret in several:
        if not isinstance(secret, str | bytes):
            raise InvalidInput("secrets", type(secret).__name__, "must be text or bytes")
        if not secret.strip():
            raise InvalidInput("secrets", "blank", "must not be blank: anyone could sign with it")
        if isinstance(secret, str) and secret.strip() != secret:
            raise InvalidInput("secrets", "…", "must not begin or end with white space", fix="a copied newline? strip it")
    return several


def _texts(secrets: Secrets) -> list[bytes]:
    return [secret.encode() if isinstance(secret, str) else secret for secret in _each(secrets)]


def _unbase64(text: str, what: str) -> bytes:
    try:
        return base64.b64decode(text.rstrip("=") + "=" * (-len(text.rstrip("=")) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise InvalidInput("secrets", "…", f"{what} must be base64") from None


def _is_base64(text: str) -> bool:
    """As the SDKs for Python decode it: they fail at one that is not, even where the next signature would match."""
    try:
        base64.b64decode(text)
    except (binascii.Error, ValueError):
        return False
    return True


def _signature_bytes(text: str) -> bytes | None:
    """The 64 bytes of an ed25519 signature in its one canonical base64 spelling, else None."""
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
    return raw if len(raw) == 64 and base64.b64encode(raw) == text.encode() else None


def _ed25519(public: bytes) -> Callable[[bytes, bytes], bool]:
    try:
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    except ModuleNotFoundError as missing:
        raise MissingExtra("cryptography", "crypto") from missing
    if len(public) != 32:
        raise InvalidInput("secrets", f"{len(public)} bytes", "a whpk_ key must hold 32 bytes (RFC 8032, section 5.1.5)")
    key = Ed25519PublicKey.from_public_bytes(public)

    def check(signature: bytes, signed: bytes) -> bool:
        try:
            key.verify(signature, signed)
        except InvalidSignature:
            return False
        return True

    return check
