"""A key that carries its algorithm. Which code verifies is decided here, when the key is bound, and never by a token."""

from __future__ import annotations

import hmac
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from buttress.identity.jwt_gate.hmac_guard import public_key_form
from buttress.identity.jwt_gate.refusal import KeyRefused, Refused
from buttress.identity.jwt_gate.strict import loads, unbase64url

Check = Callable[[bytes, bytes], None]  # (signing input, signature): returns, or raises Refused
RSA_BITS_MIN, RSA_BITS_MAX, RSA_EXPONENT_MIN = 2048, 16_384, 65_537
KID_MAX = 256
_NEVER = float("inf")
_HASHES: Mapping[str, type[hashes.HashAlgorithm]] = {"256": hashes.SHA256, "384": hashes.SHA384, "512": hashes.SHA512}
_CURVES: Mapping[str, tuple[type[ec.EllipticCurve], int]] = {
    "ES256": (ec.SECP256R1, 32), "ES384": (ec.SECP384R1, 48), "ES512": (ec.SECP521R1, 66), "ES256K": (ec.SECP256K1, 32)}
ORDERS: Mapping[str, int] = {
    "ES256": 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551,
    "ES384": 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFC7634D81F4372DDF581A0DB248B0A77AECEC196ACCC52973,
    "ES512": 0x01FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFA51868783BF2F966B7FCC0148F709A5D03BB5C9B8899C47AEBB6FB71E91386409,
    "ES256K": 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141}
ALGORITHMS = ("HS256", "HS384", "HS512", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "ES256K",
              "Ed25519", "Ed448", "EdDSA")
_ROCA = tuple((p, frozenset(pow(65_537, k, p) for k in range(p - 1))) for p in (
    11, 13, 17, 19, 37, 53, 61, 71, 73, 79, 97, 103, 107, 109, 127, 151, 157))
_JWK_CURVES: Mapping[str, type[ec.EllipticCurve]] = {"P-256": ec.SECP256R1, "P-384": ec.SECP384R1, "P-521": ec.SECP521R1, "secp256k1": ec.SECP256K1}
_PRIVATE = frozenset(("d", "p", "q", "dp", "dq", "qi", "oth"))


@dataclass(frozen=True)
class KeyBinding:
    """One key of one issuer, bound to exactly one algorithm.

    ``key``: a public key of ``cryptography``; bytes (PEM, or the secret of an HMAC algorithm); or a JWK as a mapping.
    ``not_before`` and ``not_after`` are seconds since the epoch. Raises KeyRefused for whatever breaks a rule.
    """

    kid: str
    alg: str
    key: Any = field(repr=False)
    use: str = "sig"
    not_before: float | None = None
    not_after: float | None = None
    check: Check = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not isinstance(self.kid, str) or not 1 <= len(self.kid) <= KID_MAX:
            raise KeyRefused("key_kid")
        if self.use != "sig":
            raise KeyRefused("key_use", self.kid)
        if self.not_before is not None and self.not_after is not None and self.not_before >= self.not_after:
            raise KeyRefused("key_window", self.kid)
        if self.alg not in ALGORITHMS:
            raise KeyRefused("key_alg", self.kid)
        object.__setattr__(self, "check", _check(self.alg, _material(self.key, self.alg, self.kid), self.kid))

    def in_time(self, now: float) -> None:
        """Raises Refused outside of the key's own window."""
        if self.not_before is not None and now < self.not_before:
            raise Refused("key_not_yet", "kid")
        if self.not_after is not None and now >= self.not_after:
            raise Refused("key_no_more", "kid")


class Keys(Protocol):
    """Where a verifier's keys come from. ``epoch`` changes when a verdict that was given before may not stand any more."""

    issuer: str

    @property
    def epoch(self) -> int: ...

    def find(self, kid: str, now: float, wait: bool = True) -> tuple[KeyBinding, float]:
        """The key, and until when a verdict by it may be kept. Raises Refused ``kid_unknown``, KeysUnavailable, or Pending."""
        ...


class Pending(Exception):
    """Keys must be fetched, and the caller cannot wait: it asks again from a thread. Never leaves this package."""


class StaticKeys:
    """Keys of one issuer that are given once. ``replace`` puts others in their place, and ends every verdict given before."""

    def __init__(self, issuer: str, bindings: Sequence[KeyBinding]) -> None:
        self.issuer = issuer
        self.epoch = 0
        self._bindings = by_kid(bindings)

    def replace(self, bindings: Sequence[KeyBinding]) -> None:
        """Other keys from now on."""
        self._bindings = by_kid(bindings)
        self.epoch += 1

    def find(self, kid: str, now: float, wait: bool = True) -> tuple[KeyBinding, float]:
        """See Keys."""
        binding = self._bindings.get(kid)
        if binding is None:
            raise Refused("kid_unknown", "kid")
        return binding, _NEVER if binding.not_after is None else binding.not_after


def by_kid(bindings: Sequence[KeyBinding]) -> dict[str, KeyBinding]:
    """By name. Two keys of one name are refused: one (issuer, kid) is exactly one key and one algorithm."""
    found: dict[str, KeyBinding] = {}
    for binding in bindings:
        if binding.kid in found:
            raise KeyRefused("document_twice", binding.kid[:40])
        found[binding.kid] = binding
    if len({binding.alg.startswith("HS") for binding in bindings}) > 1:
        raise KeyRefused("document_secret", "HMAC beside public keys")
    return found


# -- from whatever form to a key


def _material(key: Any, alg: str, kid: str) -> Any:
    """Public key object, or secret bytes. Text that could be both never is: the algorithm decides, and the guard looks."""
    if isinstance(key, Mapping):
        return jwk_material(key)
    if isinstance(key, str):
        key = key.encode()
    if isinstance(key, (bytes, bytearray)):
        if alg.startswith("HS"):
            return bytes(key)
        try:
            return serialization.load_pem_public_key(bytes(key))
        except Exception:  # each form of a wrong key has its own error there
            raise KeyRefused("key_form", kid) from None
    if hasattr(key, "private_numbers") or hasattr(key, "private_bytes"):
        raise KeyRefused("key_private", kid)
    return key


def jwk_material(jwk: Mapping[str, Any]) -> Any:
    """The key of a JWK. Raises KeyRefused ``key_form`` or ``key_private``."""
    kty = jwk.get("kty")
    if kty != "oct" and _PRIVATE & set(jwk):
        raise KeyRefused("key_private", "private members of a JWK")
    try:
        if kty == "oct":
            return _bytes(jwk, "k")
        if kty == "RSA":
            return rsa.RSAPublicNumbers(_number(jwk, "e"), _number(jwk, "n")).public_key()
        if kty == "EC":
            curve = _JWK_CURVES[jwk["crv"]]()
            size = (curve.key_size + 7) // 8
            x, y = _bytes(jwk, "x"), _bytes(jwk, "y")
            if len(x) != size or len(y) != size:  # RFC 7518 6.2.1.2: full length
                raise KeyRefused("key_form", "the length of x or y")
            return ec.EllipticCurvePublicNumbers(int.from_bytes(x, "big"), int.from_bytes(y, "big"), curve).public_key()
        if kty == "OKP" and jwk.get("crv") == "Ed25519":
            return ed25519.Ed25519PublicKey.from_public_bytes(_bytes(jwk, "x"))
        if kty == "OKP" and jwk.get("crv") == "Ed448":
            return ed448.Ed448PublicKey.from_public_bytes(_bytes(jwk, "x"))
    except (Refused, KeyError, ValueError, TypeError, OverflowError):
        raise KeyRefused("key_form", "a member of a JWK") from None
    raise KeyRefused("key_form", "kty or crv of a JWK")


def read_jwk(jwk: Mapping[str, Any], alg: str = "") -> KeyBinding:
    """A JWK as a binding. ``alg`` is what it is bound to where it names none; where both are there they must agree."""
    named = jwk.get("alg", alg)
    if not isinstance(named, str) or not named or (alg and named != alg):
        raise KeyRefused("key_alg", "alg of a JWK")
    if jwk.get("use", "sig") != "sig":
        raise KeyRefused("key_use", "use of a JWK")
    operations = jwk.get("key_ops", ["verify"])
    if not isinstance(operations, list) or "verify" not in operations:
        raise KeyRefused("key_use", "key_ops of a JWK")
    return KeyBinding(jwk.get("kid", ""), named, dict(jwk))


def read_key_file(raw: bytes, kid: str, alg: str) -> KeyBinding:
    """A PEM public key, or one JWK as JSON, from a file."""
    if raw.lstrip()[:1] == b"{":
        try:
            jwk = loads(raw, 8)
        except Refused:
            raise KeyRefused("key_form", "the JSON") from None
        return read_jwk({"kid": kid, **jwk}, alg if "alg" not in jwk else "")
    return KeyBinding(kid, alg, raw)


def _bytes(jwk: Mapping[str, Any], name: str) -> bytes:
    value = jwk[name]
    if not isinstance(value, str):
        raise KeyRefused("key_form", f"{name} of a JWK")
    return unbase64url(value.encode())


def _number(jwk: Mapping[str, Any], name: str) -> int:
    raw = _bytes(jwk, name)
    if not 1 <= len(raw) <= RSA_BITS_MAX // 8 + 1:
        raise KeyRefused("rsa_size", f"{name} of a JWK")
    return int.from_bytes(raw, "big")


# -- from a key to the one function that verifies with it


def _check(alg: str, key: Any, kid: str) -> Check:
    family = alg[:2]
    if family == "HS":
        return _hmac(alg, key, kid)
    if family in ("RS", "PS"):
        return _rsa(alg, key, kid)
    if family == "ES":
        return _ecdsa(alg, key, kid)
    return _eddsa(alg, key, kid)


def _hmac(alg: str, secret: Any, kid: str) -> Check:
    if not isinstance(secret, bytes):
        raise KeyRefused("key_alg", kid)
    if form := public_key_form(secret):
        raise KeyRefused("hmac_public", form)
    size = int(alg[2:]) // 8
    if len(secret) < size:
        raise KeyRefused("hmac_short", f"{len(secret)} of {size} bytes")
    digest, equal, name = hmac.digest, hmac.compare_digest, f"sha{alg[2:]}"

    def check(signed: bytes, signature: bytes) -> None:
        if not equal(digest(secret, signed, name), signature):
            raise Refused("signature")

    return check


def _rsa(alg: str, key: Any, kid: str) -> Check:
    if not isinstance(key, rsa.RSAPublicKey):
        raise KeyRefused("key_alg", kid)
    numbers = key.public_numbers()
    if not RSA_BITS_MIN <= key.key_size <= RSA_BITS_MAX:
        raise KeyRefused("rsa_size", f"{key.key_size} bits")
    if numbers.e < RSA_EXPONENT_MIN or numbers.e % 2 == 0:
        raise KeyRefused("rsa_exponent", kid)
    if all(numbers.n % p in group for p, group in _ROCA):
        raise KeyRefused("rsa_roca", kid)
    algorithm = _HASHES[alg[2:]]()
    pad: Any = padding.PKCS1v15() if alg[0] == "R" else padding.PSS(padding.MGF1(algorithm), algorithm.digest_size)  # RFC 7518 3.5
    verify = key.verify

    def check(signed: bytes, signature: bytes) -> None:
        try:
            verify(signature, signed, pad, algorithm)  # refuses another length than the modulus has (RFC 8017 8.2.2)
        except InvalidSignature:
            raise Refused("signature") from None

    return check


def _ecdsa(alg: str, key: Any, kid: str) -> Check:
    curve, size = _CURVES[alg]
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, curve):
        raise KeyRefused("ec_curve", kid)
    algorithm, order = ec.ECDSA(_HASHES["256" if alg == "ES256K" else alg[2:]]()), ORDERS[alg]
    verify, number = key.verify, int.from_bytes

    def check(signed: bytes, signature: bytes) -> None:
        if len(signature) != 2 * size:
            raise Refused("signature_length")
        r, s = number(signature[:size], "big"), number(signature[size:], "big")
        if not (0 < r < order and 0 < s < order):  # CVE-2022-21449: 0 would pass for any text in a careless library
            raise Refused("signature_range")
        try:
            verify(encode_dss_signature(r, s), signed, algorithm)
        except InvalidSignature:
            raise Refused("signature") from None

    return check


def _eddsa(alg: str, key: Any, kid: str) -> Check:
    # RFC 9864: the polymorphic "EdDSA" may be bound, to one curve; the header must then say "EdDSA".
    fits = isinstance(key, ed25519.Ed25519PublicKey) and alg in ("Ed25519", "EdDSA")
    if not fits and not (isinstance(key, ed448.Ed448PublicKey) and alg in ("Ed448", "EdDSA")):
        raise KeyRefused("key_alg", kid)
    verify = key.verify

    def check(signed: bytes, signature: bytes) -> None:
        try:
            verify(signature, signed)
        except InvalidSignature:
            raise Refused("signature") from None

    return check


def thumbprint_json(jwk: Mapping[str, Any]) -> str:
    """The canonical JSON of RFC 7638: required members only, in their order, without blanks."""
    names = {"RSA": ("e", "kty", "n"), "EC": ("crv", "kty", "x", "y"), "OKP": ("crv", "kty", "x")}[jwk["kty"]]
    return json.dumps({name: jwk[name] for name in names}, separators=(",", ":"))
