"""Public vectors: Wycheproof's JSON web signatures and keys, the examples of RFC 7515 and RFC 7520. The deviations are listed, and no others are allowed."""

from __future__ import annotations

import base64
import json

import pytest

from buttress.identity.jwt_gate import KeyBinding, KeyRefused, Refused
from buttress.identity.jwt_gate.jwks import read_document
from buttress.identity.jwt_gate.keys import read_jwk
from buttress.identity.jwt_gate.strict import loads_object, unbase64url

# SOURCE.md of the data: byte for byte the valid vector 357, so that nobody can refuse them.
LOST_PADDING = {367, 370}
# Marked valid, and refused here: the header says another algorithm than the key (346, 347, 350, 351), or the base64url holds "?" (372, 373).
REFUSED_THOUGH_VALID = {346, 347, 350, 351, 372, 373}


def verify_jws(jws, jwk):
    """JWS level, with the verifier's own parts: what ours does before it looks at claims."""
    if not isinstance(jws, str):
        raise Refused("segments")
    raw = jws.encode("ascii", "replace")
    parts = raw.split(b".")
    if len(parts) != 3:
        raise Refused("segments")
    header = loads_object(unbase64url(parts[0]), 3)
    if {"jwk", "jku", "x5u", "x5c"} & set(header):
        raise Refused("header_key")
    if {"crit", "b64"} & set(header):
        raise Refused("crit")
    binding = read_jwk({"kid": "k", **jwk})
    if header.get("alg") != binding.alg:
        raise Refused("alg_mismatch")
    binding.check(parts[0] + b"." + parts[1], unbase64url(parts[2]))
    return unbase64url(parts[1])


def test_wycheproof_signatures(data):
    document = json.loads((data / "wycheproof" / "json_web_signature_test.json").read_text())
    taken, refused = set(), set()
    for group in document["testGroups"]:
        jwk = group.get("public") or group["private"]
        for test in group["tests"]:
            try:
                verify_jws(test["jws"], jwk)
            except (Refused, KeyRefused):
                refused.add(test["tcId"])
            else:
                taken.add(test["tcId"])
    valid = {t["tcId"] for g in document["testGroups"] for t in g["tests"] if t["result"] == "valid"}
    assert (len(valid), len(taken | refused)) == (46, 401)
    assert taken - valid == LOST_PADDING
    assert valid - taken == REFUSED_THOUGH_VALID


def test_wycheproof_keys(data):
    """Whole sets: the key is found by its kid, as a provider does."""
    document = json.loads((data / "wycheproof" / "json_web_key_test.json").read_text())
    wrong = {}
    for group in document["testGroups"]:
        keys = group.get("public") or group["private"]
        for test in group["tests"]:
            try:
                found = read_document(json.dumps(keys).encode(), 32, {}, secrets=True)
                parts = test["jws"].encode().split(b".")
                header = loads_object(unbase64url(parts[0]), 3)
                binding = found.get(header.get("kid", next(iter(found), "")))
                if binding is None:
                    raise Refused("kid_unknown")
                if header["alg"] != binding.alg:
                    raise Refused("alg_mismatch")
                binding.check(parts[0] + b"." + parts[1], unbase64url(parts[2]))
                result = "valid"
            except (Refused, KeyRefused):
                result = "invalid"
            if result != test["result"]:
                wrong[test["tcId"]] = (test["comment"], test["result"])
    assert wrong == {}


# RFC 7515, Appendix A.1 to A.3: HS256, RS256, ES256 over the same claims.
A_CLAIMS = "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ"
A1 = ("eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9", "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk",
      {"kty": "oct", "k": "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow", "alg": "HS256"})
A3 = ("eyJhbGciOiJFUzI1NiJ9", "DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q",
      {"kty": "EC", "crv": "P-256", "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU", "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0", "alg": "ES256"})


@pytest.mark.parametrize("example", [A1, A3], ids=["A.1 HS256", "A.3 ES256"])
def test_rfc_7515_examples(example):
    head, tail, jwk = example
    body = verify_jws(f"{head}.{A_CLAIMS}.{tail}", jwk)
    assert json.loads(body)["iss"] == "joe"
    with pytest.raises(Refused):
        verify_jws(f"{head}.{A_CLAIMS}.{tail[:-2]}AA", jwk)


def test_rfc_7515_a5_is_unsecured_and_refused():
    with pytest.raises(Refused):
        verify_jws(f"eyJhbGciOiJub25lIn0.{A_CLAIMS}.", A1[2])


@pytest.mark.parametrize("name", ["4_1.rsa_v15_signature", "4_2.rsa-pss_signature", "4_3.ecdsa_signature", "4_4.hmac-sha2_integrity_protection"])
def test_rfc_7520_compact_examples(data, name):
    example = json.loads((data / "jose-cookbook" / "jws" / f"{name}.json").read_text())
    key = {n: v for n, v in example["input"]["key"].items() if n in ("kty", "n", "e", "crv", "x", "y", "k")}
    got = verify_jws(example["output"]["compact"], {**key, "alg": example["input"]["alg"]})
    assert got.decode() == example["input"]["payload"]
    for form in ("json", "json_flat"):
        if form in example["output"]:
            with pytest.raises(Refused):
                verify_jws(json.dumps(example["output"][form]), {**key, "alg": example["input"]["alg"]})


def test_rfc_8037_example(data):
    example = json.loads((data / "jose-cookbook" / "curve25519" / "jws.json").read_text())
    key = {n: v for n, v in example["input"]["key"].items() if n in ("kty", "crv", "x")}
    assert verify_jws(example["output"]["compact"], {**key, "alg": "EdDSA"})


def test_rfc_7797_and_encryption_are_refused(data):
    for path in [*(data / "jose-cookbook" / "rfc7797").glob("*.json"), *(data / "jose-cookbook" / "jwe").glob("*.json")]:
        output = json.loads(path.read_text()).get("output", {})
        if "compact" in output:
            with pytest.raises((Refused, KeyRefused)):
                verify_jws(output["compact"], A1[2])


def test_an_ecdsa_signature_of_another_length_is_refused(issuer):
    binding = KeyBinding("k", "ES256", issuer.key("ES256").public_key())
    for size in (0, 63, 65, 70, 72, 96, 128):
        with pytest.raises(Refused) as refused:
            binding.check(b"x", bytes(size))
        assert refused.value.code == "signature_length"
    with pytest.raises(Refused) as refused:
        binding.check(b"x", base64.b64decode("/" * 86 + "=="))
    assert refused.value.code == "signature_range"
