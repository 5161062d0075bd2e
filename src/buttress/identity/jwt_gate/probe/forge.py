"""From a mutation to a token. What it takes is in the Workshop: a genuine token, perhaps a public key, perhaps the issuer's own."""

from __future__ import annotations

import base64
import datetime
import functools
import hashlib
import hmac
import json
import os
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, keywrap
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.serialization import Encoding

from buttress.identity.jwt_gate.keys import ORDERS
from buttress.identity.jwt_gate.probe import catalogue
from buttress.identity.jwt_gate.probe.catalogue import Mutation
from buttress.identity.jwt_gate.probe.forms import PublicForms, b64, jwk_of
from buttress.kernel.errors import ButtressError, InvalidInput


class NotJudged(ButtressError):
    """A mutation cannot be made of what is at hand. ``message`` says what is missing."""

    code = "not_judged"


def sign(key: Any, alg: str, signed: bytes) -> bytes:
    """A JWS signature by a private key (or a secret), in the form of RFC 7518."""
    hash_of: Mapping[str, hashes.HashAlgorithm] = {"256": hashes.SHA256(), "384": hashes.SHA384(), "512": hashes.SHA512()}
    if alg.startswith("HS"):
        return hmac.digest(key, signed, f"sha{alg[2:]}")
    if alg.startswith("RS"):
        return bytes(key.sign(signed, padding.PKCS1v15(), hash_of[alg[2:]]))
    if alg.startswith("PS"):
        algorithm = hash_of[alg[2:]]
        return bytes(key.sign(signed, padding.PSS(padding.MGF1(algorithm), algorithm.digest_size), algorithm))
    if alg.startswith("ES"):
        r, s = decode_dss_signature(key.sign(signed, ec.ECDSA(hash_of[alg[2:]])))
        size = (key.curve.key_size + 7) // 8
        return r.to_bytes(size, "big") + s.to_bytes(size, "big")
    return bytes(key.sign(signed))


def token_of(header: Mapping[str, Any], claims: Mapping[str, Any], key: Any, alg: str | None = None) -> str:
    """A signed token. ``alg``: what is done, where the header says something else."""
    signed = f"{b64(_json(header))}.{b64(_json(claims))}"
    return f"{signed}.{b64(sign(key, alg or str(header['alg']), signed.encode()))}"


def _json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _decoded(segment: str) -> Any:
    return json.loads(base64.urlsafe_b64decode(segment + "=" * (-len(segment) % 4)))


@functools.cache
def nobodys_rsa() -> rsa.RSAPrivateKey:
    """A key of nobody's, made once a process: whoever takes it takes anybody's."""
    return rsa.generate_private_key(65_537, 2048)


@functools.cache
def nobodys_ec() -> ec.EllipticCurvePrivateKey:
    """The same on P-256."""
    return ec.generate_private_key(ec.SECP256R1())


@functools.cache
def nobodys_ed25519() -> ed25519.Ed25519PrivateKey:
    """The same for Ed25519."""
    return ed25519.Ed25519PrivateKey.generate()


@functools.cache
def nobodys_certificate() -> bytes:
    """Self-signed, of ``nobodys_rsa``, as DER."""
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "nobody")])
    made = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(nobodys_rsa().public_key()).serial_number(1)
    return builder.not_valid_before(made).not_valid_after(made.replace(year=2046)).sign(nobodys_rsa(), hashes.SHA256()).public_bytes(Encoding.DER)


@dataclass
class Workshop:
    """What mutations are made of. ``now`` in seconds since the epoch; ``callback`` is the base URL of a server of the probe's own."""

    genuine: str = field(repr=False)
    now: float
    public: PublicForms | None = None
    issuer_key: Any = field(default=None, repr=False)
    callback: str = ""

    def __post_init__(self) -> None:
        parts = self.genuine.split(".")
        try:
            if len(parts) != 3:
                raise ValueError
            self.header: dict[str, Any] = _decoded(parts[0])
            self.claims: dict[str, Any] = _decoded(parts[1])
            self.alg = str(self.header["alg"])
            json.dumps([self.header, self.claims])
        except (ValueError, KeyError, TypeError):
            raise InvalidInput("the valid token", "not shown", "must be a signed JWT in compact form: three segments of base64url") from None
        self.signature = parts[2]

    def missing(self, mutation: Mutation) -> str:
        """What is missing to make it; empty: nothing."""
        key = self.public.key if self.public else None
        have = {
            catalogue.PUBLIC: key is not None, catalogue.RSA_PUBLIC: isinstance(key, rsa.RSAPublicKey),
            catalogue.CERTIFICATE: self.public is not None and self.public.certificate is not None,
            catalogue.ISSUER: self.issuer_key is not None, catalogue.ISSUER_RSA: isinstance(self.issuer_key, rsa.RSAPrivateKey),
            catalogue.ISSUER_ED: isinstance(self.issuer_key, ed25519.Ed25519PrivateKey), catalogue.CALLBACK: bool(self.callback)}
        for need in mutation.needs:
            if not have[need]:
                return f"needs {need}: {catalogue.NEEDS[need]}"
        return ""

    def make(self, mutation: Mutation) -> str:
        """The token. Raises NotJudged."""
        if why := self.missing(mutation):
            raise NotJudged(why)
        try:
            return _RECIPES[mutation.recipe](self, **mutation.args)
        except KeyError as absent:
            raise NotJudged(f"the key has no such form: {absent.args[0]}") from None

    def garbage(self) -> str:
        """The negative control: the genuine token with a signature of random bytes."""
        size = max(32, len(self.signature) * 3 // 4)
        return f"{self._signed()}.{b64(os.urandom(size))}"

    def _signed(self) -> str:
        return self.genuine.rpartition(".")[0]

    def _fresh(self) -> dict[str, Any]:
        """The genuine claims under another id."""
        return {**self.claims, **({"jti": os.urandom(8).hex()} if "jti" in self.claims else {})}

    # -- recipes: each gives a token

    def hmac_public(self, form: str, alg: str = "HS256") -> str:
        assert self.public is not None
        return token_of({**self.header, "alg": alg}, self._fresh(), self.public[form])

    def hmac_secret(self, secret: str) -> str:
        return token_of({**self.header, "alg": "HS256"}, self._fresh(), secret.encode())

    def unsigned(self, alg: Any = "none", drop: bool = False, keep: bool = False, dots: int = 2) -> str:
        header = {**self.header, "alg": alg}
        if drop:
            del header["alg"]
        signed = f"{b64(_json(header))}.{b64(_json({**self._fresh(), 'forged': True}))}"
        return signed + ("." if dots == 2 else "") + (self.signature if keep else "")

    def signature_changed(self, how: str) -> str:
        raw = base64.urlsafe_b64decode(self.signature + "=" * (-len(self.signature) % 4))
        signed = self._signed()
        other = f"{signed.partition('.')[0]}.{b64(_json({**self._fresh(), 'forged': True}))}"
        if how == "empty":
            return f"{other}."
        if how == "two_segments":
            return other
        if how == "claims":
            return f"{other}.{self.signature}"
        if how == "header":
            return f"{b64(_json({**self.header, 'forged': True}))}.{signed.partition('.')[2]}.{self.signature}"
        if how == "foreign":
            key: Any = nobodys_rsa() if self.alg[:2] in ("RS", "PS") else nobodys_ec() if self.alg == "ES256" else nobodys_ed25519()
            alg = self.alg if self.alg[:2] in ("RS", "PS") or self.alg in ("ES256", "EdDSA", "Ed25519") else "Ed25519"
            return token_of({**self.header, "alg": alg}, self._fresh(), key, alg)
        changed = {"zeros": bytes(len(raw)), "bit": raw[: len(raw) // 2] + bytes([raw[len(raw) // 2] ^ 1]) + raw[len(raw) // 2 + 1 :], "short": raw[: len(raw) // 2]}[how]
        return f"{signed}.{b64(changed)}"

    def psychic(self, alg: str, der: bool = False, order: bool = False, one: bool = False, **size: int) -> str:
        signature = bytes(size.get("bytes", 0))
        if der:
            signature = bytes.fromhex("3006020100020100")
        if order:
            signature = ORDERS["ES256"].to_bytes(32, "big") * 2
        if one:
            signature = (1).to_bytes(256, "big")
        return f"{b64(_json({**self.header, 'alg': alg}))}.{b64(_json(self._fresh()))}.{b64(signature)}"

    def embedded(self, kty: str) -> str:
        if kty in ("jku", "x5u", "kid"):
            url = self.callback.rstrip("/") + ("/nobody.pem" if kty == "x5u" else "/nobody.json")
            return token_of({**self.header, "alg": "RS256", kty: url}, self._fresh(), nobodys_rsa())
        if kty == "x5c":
            return token_of({**self.header, "alg": "RS256", "x5c": [base64.b64encode(nobodys_certificate()).decode()]}, self._fresh(), nobodys_rsa())
        if kty == "oct":
            return token_of({**self.header, "alg": "HS256", "jwk": {"kty": "oct", "k": b64(b"n" * 32)}}, self._fresh(), b"n" * 32)
        key, alg = {"RSA": (nobodys_rsa(), "RS256"), "EC": (nobodys_ec(), "ES256"), "OKP": (nobodys_ed25519(), "EdDSA")}[kty]
        return token_of({**self.header, "alg": alg, "jwk": jwk_of(key.public_key())}, self._fresh(), key)  # type: ignore[attr-defined]

    def kid(self, kid: Any = "", secret: str | None = None, drop: bool = False) -> str:
        header = {**self.header, "kid": kid}
        if drop:
            del header["kid"]
        if secret is not None:
            return token_of({**header, "alg": "HS256"}, self._fresh(), secret.encode())
        return token_of({**header, "alg": "RS256"}, self._fresh(), nobodys_rsa())

    def spelled(self, how: str) -> str:
        head, body, tail = self.genuine.split(".")
        if how == "bits":
            letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
            if len(tail) % 4 == 0:
                raise NotJudged("the genuine signature has no trailing bits")
            return f"{head}.{body}.{tail[:-1]}{letters[letters.index(tail[-1]) ^ 1]}"
        if how == "padding":
            return f"{head}.{body}.{tail}" + ("=" * (-len(tail) % 4) or "=")
        if how in ("blank", "junk"):
            middle = len(tail) // 2
            return f"{head}.{body}.{tail[:middle]}{' ' if how == 'blank' else '?'}{tail[middle:]}"
        if how == "alphabet":
            if not set(tail) & {"-", "_"}:
                raise NotJudged("the genuine signature holds no letter that differs")
            return f"{head}.{body}.{tail.replace('-', '+').replace('_', '/')}"
        if how == "four":
            return f"{self.genuine}.AA"
        one = {"protected": head, "signature": tail}
        return json.dumps({"payload": body, **one} if how == "flattened" else {"payload": body, "signatures": [one]}, separators=(",", ":"))

    def dual(self) -> str:
        """One text that a JSON reader takes for the genuine token, and a splitter at full stops for another."""
        head, body, tail = self.genuine.split(".")
        forged = b64(_json({**self._fresh(), "forged": True}))
        return f'{{"{head}.{forged}.":"","protected":"{head}","payload":"{body}","signature":"{tail}"}}'

    def jwe(self, inner: str, zip: bool = False) -> str:
        assert self.public is not None
        claims = {**self._fresh(), "forged": True}
        plain = _json(claims) if inner == "claims" else self.unsigned().encode()
        header: dict[str, Any] = {"alg": "RSA-OAEP-256", "enc": "A256GCM", **({"kid": self.header["kid"]} if "kid" in self.header else {})}
        if inner == "none":
            header["cty"] = "JWT"
        if zip:
            header["zip"] = "DEF"
            plain = _deflated(b" " * (1 << 20) + plain)
        secret = os.urandom(32)
        wrapped = self.public.key.encrypt(secret, padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), None))
        return _encrypted(header, secret, wrapped, plain)

    def pbes2(self, password: str, rounds: int = 1000) -> str:
        known = self.public[password] if password and self.public else b"secret"
        salt = os.urandom(16)
        header = {"alg": "PBES2-HS256+A128KW", "enc": "A256GCM", "p2s": b64(salt), "p2c": rounds}
        wrapping = hashlib.pbkdf2_hmac("sha256", known, b"PBES2-HS256+A128KW\0" + salt, rounds, 16)
        secret = os.urandom(32)
        return _encrypted(header, secret, keywrap.aes_key_wrap(wrapping, secret), _json({**self._fresh(), "forged": True}))

    def signed(self, at: Mapping[str, float] | None = None, at_text: Mapping[str, float] | None = None, drop: list[str] | None = None,
               set: Mapping[str, Any] | None = None, cut: Mapping[str, int] | None = None, add: Mapping[str, str] | None = None,
               as_name: list[str] | None = None, as_list: list[str] | None = None, header: Mapping[str, Any] | None = None,
               header_drop: list[str] | None = None, deep: int = 0, raw: bool = False, deflate: bool = False, array: bool = False, latin: bool = False) -> str:
        claims, head = self._fresh(), {**self.header, **(header or {})}
        for name, offset in (at or {}).items():
            claims[name] = int(self.now + offset)
        for name, offset in (at_text or {}).items():
            claims[name] = str(int(self.now + offset))
        for name in drop or ():
            claims.pop(name, None)
        claims.update(set or {})
        for name, end in (cut or {}).items():
            claims[name] = self._text(name)[:end]
        for name, more in (add or {}).items():
            claims[name] = self._text(name) + more
        for name in as_name or ():
            claims[name] = {self._text(name): True}
        for name in as_list or ():
            claims[name] = [self._text(name)]
        for name in header_drop or ():
            head.pop(name, None)
        if deep:
            nest: Any = 1
            for _ in range(deep):
                nest = [nest]
            head["x-deep"] = nest
        plain = b"\xff" + _json(claims) if latin else _json([claims] if array else claims)
        if latin:
            plain = _json(claims)[:-1] + b',"name":"\xe9"}'
        if deflate:
            plain = _deflated(plain)
        return self._by_issuer(_json(head), plain, raw)

    def signed_text(self, payload: str = "", header: str = "") -> str:
        """``payload`` and ``header`` are members as text, put first: JSON that no encoder would write."""
        claims = self._fresh()
        if payload and not payload.endswith(":1"):  # it stands for the genuine one
            claims.pop("exp", None)
        head, body = _json(self.header).decode(), _json(claims).decode()
        return self._by_issuer((f"{{{header},{head[1:]}" if header else head).encode(), (f"{{{payload},{body[1:]}" if payload else body).encode())

    def other_alg(self, how: str) -> str:
        if how == "hash":
            if self.alg in ("EdDSA", "Ed25519"):
                raise NotJudged("this algorithm has one hash")
            alg = f"{self.alg[:2]}{'384' if not self.alg.endswith('384') else '512'}"
        elif how == "padding":
            alg = f"{'PS' if self.alg[0] == 'R' else 'RS'}{self.alg[2:]}"
        else:
            alg = "EdDSA" if self.alg == "Ed25519" else "Ed25519"
        return token_of({**self.header, "alg": alg}, self._fresh(), self.issuer_key)

    def _text(self, name: str) -> str:
        value = self.claims.get(name)
        if isinstance(value, list) and value:
            value = value[0]
        if not isinstance(value, str) or not value:
            raise NotJudged(f"the genuine token has no {name}")
        return value

    def _by_issuer(self, header: bytes, payload: bytes, raw: bool = False) -> str:
        body = payload.decode() if raw else b64(payload)
        if raw and "." in body:
            body = body.replace(".", "\\u002e")  # RFC 7797 5.2: no full stop in a compact payload
        signed = f"{b64(header)}.{body}"
        return f"{signed}.{b64(sign(self.issuer_key, self.alg, signed.encode()))}"


def _deflated(plain: bytes) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return packer.compress(plain) + packer.flush()


def _encrypted(header: Mapping[str, Any], secret: bytes, wrapped: bytes, plain: bytes) -> str:
    """RFC 7516: five segments, A256GCM."""
    protected, iv = b64(_json(header)), os.urandom(12)
    sealed = AESGCM(secret).encrypt(iv, plain, protected.encode())
    return ".".join((protected, b64(wrapped), b64(iv), b64(sealed[:-16]), b64(sealed[-16:])))


_RECIPES: Mapping[str, Callable[..., str]] = {
    "hmac_public": Workshop.hmac_public, "hmac_secret": Workshop.hmac_secret, "unsigned": Workshop.unsigned, "signature": Workshop.signature_changed,
    "psychic": Workshop.psychic, "embedded": Workshop.embedded, "kid": Workshop.kid, "spelled": Workshop.spelled, "dual": Workshop.dual, "jwe": Workshop.jwe,
    "pbes2": Workshop.pbes2, "signed": Workshop.signed, "signed_text": Workshop.signed_text, "other_alg": Workshop.other_alg}
