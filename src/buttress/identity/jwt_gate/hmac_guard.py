"""Is this "secret" in truth a public key? Then everybody could sign with it.

The usual guard looks at the first letters. A key file may begin with a blank, a comment or a byte order mark, may be DER, a line
of OpenSSH, a JSON Web Key in a set in an object, or the bare base64 body of any of these: all are looked for here.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509 import load_der_x509_certificate

_ARMOUR = re.compile(rb"-----\s*BEGIN|---- BEGIN SSH2", re.I)
_SSH_NAME = rb"(?:ssh-(?:rsa|dss|ed25519|ed448)|ecdsa-sha2-nistp\d+|rsa-sha2-(?:256|512)|sk-(?:ssh|ecdsa)-[\w@.-]+)"
_SSH_LINE = re.compile(rb"(?:^|[\s\"',])" + _SSH_NAME + rb"(?:-cert-v01@openssh\.com)?\s+AAAA", re.M)
_SSH_BLOB = re.compile(rb"\A\0\0\0[\x07-\x40]" + _SSH_NAME)
_JWK = re.compile(rb"[\"']\s*kty\s*[\"']\s*:\s*[\"']\s*(?!oct\b)", re.I)
_POINTS: dict[int, ec.EllipticCurve] = {65: ec.SECP256R1(), 97: ec.SECP384R1(), 133: ec.SECP521R1()}
_BASE64 = re.compile(rb"\A[A-Za-z0-9+/_=\s-]{40,}\Z")
_DEPTH = 4  # bodies within bodies: base64 of a base64 text, and no further


def public_key_form(secret: bytes) -> str:
    """Which form of a public key (or certificate, or private key) the bytes are; empty: none that is known."""
    return _form(secret, _DEPTH)


def _form(secret: bytes, depth: int) -> str:
    if b"\0" in secret and (wide := secret.replace(b"\0", b"")) and _ARMOUR.search(wide):  # UTF-16
        return "PEM"
    if _ARMOUR.search(secret):
        return "PEM"
    if _SSH_LINE.search(secret) or _SSH_BLOB.match(secret):
        return "OpenSSH"
    if _JWK.search(secret) or _holds_jwk(secret):
        return "JWK"
    if _is_der(secret.lstrip()):
        return "DER"
    if len(secret) in _POINTS and secret[:1] == b"\x04" and _is_point(secret):
        return "EC point"
    if depth and _BASE64.match(secret):
        body = re.sub(rb"\s", b"", secret).translate(bytes.maketrans(b"-_", b"+/")).rstrip(b"=")
        try:
            inner = base64.b64decode(body + b"=" * (-len(body) % 4), validate=True)
        except binascii.Error:
            return ""
        if inner and (form := _form(inner, depth - 1)):
            return f"base64 of {form}"
    return ""


def _holds_jwk(secret: bytes) -> bool:
    """A JSON value anywhere in the text, after comments or blanks, in which any object is a key that is not ``oct``."""
    try:
        text = secret.decode("utf-8-sig")
    except UnicodeDecodeError:
        return False
    decoder = json.JSONDecoder()
    starts = [match.start() for match in re.finditer(r"[{\[]", text)][:16]
    for start in starts:
        try:
            value, _ = decoder.raw_decode(text, start)
        except (ValueError, RecursionError):
            continue
        if _any_key(value):
            return True
    return False


def _any_key(value: Any) -> bool:
    level = [value]
    while level:
        item = level.pop()
        if isinstance(item, dict):
            if ("kty" in item and item["kty"] != "oct") or "x5c" in item:
                return True
            level.extend(item.values())
        elif isinstance(item, list):
            level.extend(item)
        elif isinstance(item, str) and ("kty" in item or "-----BEGIN" in item) and public_key_form(item.encode("utf-8", "replace")):
            return True
    return False


def _is_der(data: bytes) -> bool:
    """A SEQUENCE, and blanks at most behind it, that reads as a key or a certificate, or has the shape of one."""
    if len(data) < 24 or data[0] != 0x30:
        return False
    size, head = data[1], 2
    if size & 0x80:
        count = size & 0x7F
        if not 1 <= count <= 3 or len(data) < 2 + count:
            return False
        size, head = int.from_bytes(data[2 : 2 + count], "big"), 2 + count
    if head + size > len(data) or data[head + size :].strip():  # by its length: a key may itself end in the byte of a blank
        return False
    data = data[: head + size]
    for load in (serialization.load_der_public_key, load_der_x509_certificate):
        try:
            load(data)
        except Exception:  # whatever a parser says of bytes that are no key: the shape decides below
            continue
        return True
    inner = data[head]
    if inner not in (0x30, 0x02) or head + 2 > len(data):  # AlgorithmIdentifier or a modulus come first
        return False
    return data[head + 1] & 0x7F <= max(4, size)


def _is_point(data: bytes) -> bool:
    try:
        ec.EllipticCurvePublicKey.from_encoded_point(_POINTS[len(data)], data)
    except ValueError:
        return False
    return True
