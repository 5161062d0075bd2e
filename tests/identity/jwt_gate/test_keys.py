"""Keys: each rule by its code; nothing that is public is ever a secret."""

from __future__ import annotations

import base64
import json
import os

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed448, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from buttress.identity.jwt_gate import KeyBinding, KeyRefused, StaticKeys, world
from buttress.identity.jwt_gate.hmac_guard import public_key_form
from buttress.identity.jwt_gate.keys import read_jwk, read_key_file
from buttress.identity.jwt_gate.probe.forms import PublicForms, b64, jwk_of
from buttress.identity.jwt_gate.world import certificate_of


def code(*args, **kwargs):
    with pytest.raises(KeyRefused) as refused:
        KeyBinding(*args, **kwargs)
    assert refused.value.section
    return refused.value.code


def test_each_algorithm_has_its_own_keys(issuer):
    rs, es, ed = (issuer.key(alg).public_key() for alg in world.ALGS)
    p384 = ec.generate_private_key(ec.SECP384R1()).public_key()
    for alg, key in (("RS256", rs), ("PS512", rs), ("ES256", es), ("ES384", p384), ("Ed25519", ed), ("EdDSA", ed), ("HS256", os.urandom(32)),
                     ("Ed448", ed448.Ed448PrivateKey.generate().public_key())):
        assert KeyBinding("k", alg, key).alg == alg
    for alg, key, wanted in (("RS256", es, "key_alg"), ("ES256", rs, "ec_curve"), ("ES256", p384, "ec_curve"), ("ES512", es, "ec_curve"), ("Ed25519", es, "key_alg"),
                             ("Ed448", ed, "key_alg"), ("HS256", rs, "key_alg"), ("none", rs, "key_alg"), ("RS1", rs, "key_alg"), ("", rs, "key_alg")):
        assert code("k", alg, key) == wanted, (alg, type(key))


@pytest.mark.parametrize(("made", "wanted"), [
    (lambda: rsa.generate_private_key(65_537, 1024).public_key(), "rsa_size"),
    (lambda: rsa.RSAPublicNumbers(3, rsa.generate_private_key(65_537, 2048).public_key().public_numbers().n).public_key(), "rsa_exponent"),
])
def test_weak_rsa_keys_are_refused(made, wanted):
    assert code("k", "RS256", made()) == wanted


@pytest.mark.parametrize(("alg", "size"), [("HS256", 32), ("HS384", 48), ("HS512", 64)])
def test_a_secret_is_as_long_as_its_hash(alg, size):
    assert KeyBinding("k", alg, os.urandom(size))
    assert code("k", alg, os.urandom(size - 1)) == "hmac_short"
    assert code("k", alg, b"") == "hmac_short"


def test_names_uses_windows_and_private_keys(issuer):
    key = issuer.key("ES256").public_key()
    for kid in ("", "k" * 257, None, 7):
        assert code(kid, "ES256", key) == "key_kid"
    assert code("k", "ES256", key, use="enc") == "key_use"
    assert code("k", "ES256", key, not_before=2, not_after=2) == "key_window"
    assert code("k", "ES256", issuer.key("ES256")) == "key_private"
    assert code("k", "ES256", b"no key") == "key_form"
    assert code("k", "ES256", {"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"}) == "key_form"
    assert code("k", "ES256", {**jwk_of(key), "d": "AA"}) == "key_private"
    with pytest.raises(KeyRefused):
        StaticKeys("i", [KeyBinding("k", "ES256", key), KeyBinding("k", "ES256", key)])
    with pytest.raises(KeyRefused):
        StaticKeys("i", [KeyBinding("k", "ES256", key), KeyBinding("h", "HS256", os.urandom(32))])


def test_no_key_shows_itself():
    assert "key=" not in repr(KeyBinding("k", "HS256", b"s" * 32))
    assert "sss" not in repr(KeyBinding("k", "HS256", b"s" * 32))


def test_key_files(issuer):
    forms = PublicForms.of_jwk(issuer.jwk("ES256", 0))
    assert read_key_file(forms["spki.lf"], "k", "ES256").kid == "k"
    assert read_key_file(forms["jwk.blanks"], "k", "").kid == "es256-1"
    for raw in (b"{", b'{"kty":"EC","kty":"EC"}', b"", b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"):
        with pytest.raises(KeyRefused):
            read_key_file(raw, "k", "ES256")


@pytest.mark.parametrize("change", [{"alg": "ES384"}, {"alg": None}, {"use": "enc"}, {"key_ops": ["sign"]}, {"key_ops": "verify"}, {"crv": "P-384"}, {"kid": None},
                                    {"x": 5}, {"y": "?"}, {"kty": "XX"}])
def test_a_jwk_that_contradicts_itself_is_refused(issuer, change):
    with pytest.raises(KeyRefused):
        read_jwk({**issuer.jwk("ES256", 0), **change}, "ES256" if "alg" not in change else "")


# -- the guard


@pytest.mark.parametrize("alg", world.ALGS)
def test_the_guard_knows_a_public_key_in_every_dress(issuer, alg):
    key = issuer.key(alg)
    forms = PublicForms.of_jwk(issuer.jwk(alg, 0))
    pem, der, jwk = forms["spki.lf"], forms["spki.der"], forms["jwk.compact"]
    ssh = forms["ssh.none"]
    dressed = {
        "pem": pem, "blanks": b"\n\n \t" + pem, "comment": b"# key\n" + pem, "bom": b"\xef\xbb\xbf" + pem, "crlf": pem.replace(b"\n", b"\r\n"), "utf16": pem.decode().encode("utf-16"),
        "der": der, "der, newline": der + b"\n", "body": base64.b64encode(der), "body in lines": base64.encodebytes(der), "body, base64url": base64.urlsafe_b64encode(der).rstrip(b"="),
        "pem in base64": base64.b64encode(pem), "ssh": ssh, "ssh, options": b'command="x" ' + ssh, "ssh, comment line": b"# host\n" + ssh + b" user@host\n",
        "ssh blob": base64.b64decode(ssh.split()[1]), "jwk": jwk, "jwk, blanks": b"\n  " + jwk, "jwk after a comment": b"// the key\n" + jwk,
        "jwks": forms["jwks"], "nested": json.dumps({"a": [{"jwks": json.loads(forms["jwks"])}]}).encode(), "escaped": jwk.replace(b'"kty"', b'"\\u006bty"'),
        "within text": json.dumps({"keys": jwk.decode()}).encode(), "within text, PEM": json.dumps({"k": pem.decode()}).encode(),
        "private PEM": key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), "private DER": key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()),
        "jwk in base64": base64.b64encode(jwk),
    }
    if alg != "Ed25519":
        cert = certificate_of(key)
        dressed |= {"certificate": cert, "x5c": base64.b64encode(cert), "certificate PEM": b"-----BEGIN CERTIFICATE-----\n" + base64.encodebytes(cert) + b"-----END CERTIFICATE-----\n"}
    if alg == "RS256":
        dressed |= {"pkcs1": forms["pkcs1.lf"], "pkcs1 der": forms["pkcs1.der"]}
    if alg == "ES256":
        dressed["point"] = key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    assert [name for name, secret in dressed.items() if not public_key_form(secret)] == []


@pytest.mark.parametrize("last", [0x0A, 0x0D, 0x20, 0x09, 0x0B])
def test_a_der_key_that_ends_in_the_byte_of_a_blank_is_known_too(last):
    der = bytes.fromhex("302a300506032b6570032100") + b"k" * 31 + bytes([last])
    for secret in (der, der + b"\n", b"\n" + der, der + b" \r\n", base64.b64encode(der)):
        assert public_key_form(secret)


@given(st.binary(min_size=32, max_size=64))
@settings(max_examples=500, deadline=None)
def test_a_random_secret_is_a_secret(secret):
    assert public_key_form(secret) == ""


@pytest.mark.parametrize("secret", [os.urandom(64), b"0" * 32 + os.urandom(40), json.dumps({"kty": "oct", "k": b64(os.urandom(32))}).encode(), os.urandom(32).hex().encode(),
                                    base64.b64encode(os.urandom(64)), b"correct horse battery staple and some more"],
                         ids=["random", "zeros first", "a JWK of a secret", "hex", "base64", "a passphrase"])
def test_what_people_use_as_secrets_is_let_be(secret):
    assert public_key_form(secret) == ""


@given(st.binary(max_size=300) | st.text(max_size=200).map(str.encode) | st.binary(max_size=80).map(lambda b: b"0\x82" + len(b).to_bytes(2, "big") + b))
@settings(max_examples=500, deadline=None)
def test_the_guard_raises_for_nothing(secret):
    assert isinstance(public_key_form(secret), str)
