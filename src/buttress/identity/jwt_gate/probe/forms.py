"""A public key in every form in which somebody may have handed it to a library as "the secret", byte for byte."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from buttress.identity.jwt_gate.keys import jwk_material, thumbprint_json
from buttress.kernel.errors import InvalidInput


def b64(data: bytes) -> str:
    """base64url without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def jwk_of(key: Any, **more: str) -> dict[str, Any]:
    """A public key as a JWK."""
    if isinstance(key, rsa.RSAPublicKey):
        numbers = key.public_numbers()
        return {"kty": "RSA", **more, "n": b64(numbers.n.to_bytes((key.key_size + 7) // 8, "big")), "e": b64(numbers.e.to_bytes(3, "big"))}
    if isinstance(key, ec.EllipticCurvePublicKey):
        size, point = (key.key_size + 7) // 8, key.public_numbers()
        crv = {256: "P-256", 384: "P-384", 521: "P-521"}[key.key_size]
        return {"kty": "EC", **more, "crv": crv, "x": b64(point.x.to_bytes(size, "big")), "y": b64(point.y.to_bytes(size, "big"))}
    if isinstance(key, ed25519.Ed25519PublicKey):
        return {"kty": "OKP", **more, "crv": "Ed25519", "x": b64(key.public_bytes(Encoding.Raw, PublicFormat.Raw))}
    raise InvalidInput("key", type(key).__name__, "must be RSA, EC or Ed25519")


class PublicForms:
    """``forms[name]`` for each form of the catalogue; KeyError where the key has none of that name."""

    def __init__(self, key: Any, jwk: Mapping[str, Any] | None = None, certificate: bytes | None = None) -> None:
        self.key, self.jwk = key, dict(jwk) if jwk is not None else jwk_of(key)
        self.certificate = certificate
        if certificate is None and isinstance(self.jwk.get("x5c"), list) and self.jwk["x5c"]:
            self.certificate = base64.b64decode(self.jwk["x5c"][0])

    @classmethod
    def of_jwk(cls, jwk: Mapping[str, Any]) -> PublicForms:
        return cls(jwk_material({name: value for name, value in jwk.items() if name not in ("d", "p", "q", "dp", "dq", "qi", "oth")}), jwk)

    def __getitem__(self, name: str) -> bytes:
        stem, _, ending = name.partition(".")
        if stem in ("spki", "pkcs1", "certificate"):
            if ending == "der":
                return self._der(stem)
            if ending == "base64":
                return base64.b64encode(self._der(stem))
            if ending == "x5c":
                return base64.b64encode(self._der(stem))
            return _ended(self._pem(stem), ending)
        if stem == "ssh":
            line = self.key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
            return bytes(line + {"none": b"", "lf": b"\n", "comment": b" user@host"}[ending])
        if stem == "jwks":
            return json.dumps({"keys": [self.jwk]}, separators=(",", ":")).encode()
        if stem == "jwk":
            if ending == "thumbprint":
                return thumbprint_json(self.jwk).encode()
            return json.dumps(self.jwk, separators=(",", ":") if ending == "compact" else None).encode()
        if stem == "n" and isinstance(self.key, rsa.RSAPublicKey):
            n = self.key.public_numbers().n.to_bytes((self.key.key_size + 7) // 8, "big")
            return n if ending == "bytes" else b64(n).encode()
        raise KeyError(name)

    def _der(self, stem: str) -> bytes:
        if stem == "certificate":
            if self.certificate is None:
                raise KeyError(stem)
            return self.certificate
        if stem == "pkcs1" and not isinstance(self.key, rsa.RSAPublicKey):
            raise KeyError(stem)
        return bytes(self.key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo if stem == "spki" else PublicFormat.PKCS1))

    def _pem(self, stem: str) -> bytes:
        if stem == "certificate":
            return x509.load_der_x509_certificate(self._der(stem)).public_bytes(Encoding.PEM)
        if stem == "pkcs1" and not isinstance(self.key, rsa.RSAPublicKey):
            raise KeyError(stem)
        return bytes(self.key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo if stem == "spki" else PublicFormat.PKCS1))


def _ended(pem: bytes, ending: str) -> bytes:
    """A PEM text as a file may hold it."""
    return {"lf": pem, "none": pem.rstrip(b"\n"), "crlf": pem.replace(b"\n", b"\r\n"), "newline_first": b"\n" + pem, "blank_first": b" " + pem,
            "comment_first": b"# the key of the issuer\n" + pem}[ending]
