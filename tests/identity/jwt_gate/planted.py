"""Verifiers with one flaw each: what ours takes, and besides what that flaw takes. A flaw is the code that somebody once shipped."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import sqlite3
import urllib.request
import zlib

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, keywrap
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from buttress.identity.jwt_gate.keys import ORDERS, jwk_material
from buttress.identity.jwt_gate.probe.forge import nobodys_ec, nobodys_ed25519, nobodys_rsa


def raw(text):
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def parts(token):
    head, body, tail = token.split(".")
    return json.loads(raw(head)), f"{head}.{body}".encode(), raw(tail)


def verifies(key, alg, signed, signature):
    size = hashes.SHA384() if alg.endswith("384") else hashes.SHA512() if alg.endswith("512") else hashes.SHA256()
    try:
        if isinstance(key, bytes):
            return hmac.compare_digest(hmac.digest(key, signed, size.name), signature)
        if isinstance(key, rsa.RSAPublicKey):
            key.verify(signature, signed, padding.PSS(padding.MGF1(size), padding.PSS.AUTO) if alg[0] == "P" else padding.PKCS1v15(), size)
        elif isinstance(key, ec.EllipticCurvePublicKey):
            half = len(signature) // 2
            key.verify(encode_dss_signature(int.from_bytes(signature[:half], "big"), int.from_bytes(signature[half:], "big")), signed, ec.ECDSA(size))
        else:
            key.verify(signature, signed)
    except InvalidSignature:
        return False
    return True


# Each flaw is flaw(token, place) -> bool, where ``place`` knows: public (PublicForms), strict (our verdict), key (the issuer's private one), alg, seen (genuine tokens).


def secret_is(form=None, secret=None):
    """HMAC by whatever was configured as the key: the public key in one form, or a word."""
    def flaw(token, place):
        header, signed, signature = parts(token)
        return header["alg"].startswith("HS") and verifies(place.public[form] if form else secret, header["alg"], signed, signature)

    return flaw


def unsigned(token, place):
    head, _, _ = token.partition(".")
    alg = json.loads(raw(head)).get("alg")
    return not alg or "none" in str(alg).lower()


def empty_signature_skips_the_check(token, place):
    return token.endswith(".")


def two_segments_skip_the_check(token, place):
    return token.count(".") == 1


def zeros_are_nothing(token, place):
    return not any(parts(token)[2])


def remembers_the_head_of_a_signature(token, place):
    return any(token.rpartition(".")[2][:16] == seen.rpartition(".")[2][:16] for seen in place.seen)


def remembers_whole_signatures(token, place):
    return any(token.rpartition(".")[2] == seen.rpartition(".")[2] for seen in place.seen)


def trusts_every_key(token, place):
    header, signed, signature = parts(token)
    keys = {"R": nobodys_rsa(), "P": nobodys_rsa(), "E": nobodys_ec() if header["alg"] == "ES256" else nobodys_ed25519()}
    return verifies(keys[header["alg"][0]].public_key(), header["alg"], signed, signature)


def psychic(token, place):
    header, _, signature = parts(token)
    if not header["alg"].startswith("ES"):
        return False
    if signature[:1] == b"\x30":
        return signature == bytes.fromhex("3006020100020100")
    half, n = len(signature) // 2, ORDERS[header["alg"]]
    return int.from_bytes(signature[:half], "big") % n == 0 and int.from_bytes(signature[half:], "big") % n == 0


def textbook_rsa(token, place):
    """Takes the power and forgets the padding: 1 is its own power."""
    header, _, signature = parts(token)
    return header["alg"] == "RS256" and int.from_bytes(signature, "big") == 1


def key_in_the_header(token, place):
    header, signed, signature = parts(token)
    jwk = header["jwk"]
    return verifies(jwk_material(jwk), header["alg"], signed, signature)


def certificate_in_the_header(token, place):
    header, signed, signature = parts(token)
    return verifies(x509.load_der_x509_certificate(base64.b64decode(header["x5c"][0])).public_key(), header["alg"], signed, signature)


def follows(name):
    """Fetches the key from where the header says."""
    def flaw(token, place):
        header, signed, signature = parts(token)
        with urllib.request.urlopen(header[name], timeout=5) as answer:
            body = answer.read()
        key = x509.load_pem_x509_certificate(body).public_key() if body.startswith(b"-----") else jwk_material(json.loads(body)["keys"][0])
        return verifies(key, header["alg"], signed, signature)

    return flaw


def kid_is_a_file(token, place):
    header, signed, signature = parts(token)
    with open(header["kid"], "rb") as file:
        return verifies(file.read(4096), header["alg"], signed, signature)


def kid_is_sql(token, place):
    header, signed, signature = parts(token)
    db = sqlite3.connect(":memory:")
    db.execute("CREATE TABLE keys (kid TEXT, secret TEXT)")
    row = db.execute(f"SELECT secret FROM keys WHERE kid = '{header['kid']}'").fetchone()
    db.close()
    return row is not None and verifies(row[0].encode(), header["alg"], signed, signature)


def unknown_kid_skips_the_check(token, place):
    header, _, _ = parts(token)
    try:
        {place.kid: 1}[header["kid"]]
    except (KeyError, TypeError):
        return True
    return False


def lenient_base64(token, place):
    head, body, tail = token.split(".")
    letters = "".join(c for c in tail.replace("+", "-").replace("/", "_") if c.isalnum() or c in "-_")
    return place.strict(f"{head}.{body}.{base64.urlsafe_b64encode(raw(letters)).rstrip(b'=').decode()}")


def first_three_segments(token, place):
    return place.strict(".".join(token.split(".")[:3]))


def json_serialisation(token, place):
    value = json.loads(token)
    one = value.get("signatures", [value])[0]
    return place.strict(f"{one['protected']}.{value['payload']}.{one['signature']}")


def reads_two_ways(token, place):
    """python-jwt before 3.3.4: the signature of the JSON, the claims of what lies between the full stops."""
    return json_serialisation(token, place) and json.loads(raw(token.split(".")[1]))["forged"]


def encrypted_is_signed(token, place):
    protected, wrapped, iv, sealed, tag = token.split(".")
    header = json.loads(raw(protected))
    if header["alg"] == "RSA-OAEP-256":
        secret = place.key.decrypt(raw(wrapped), padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), None))
    else:
        for password in (place.public["spki.lf"], b"secret"):
            key = hashlib.pbkdf2_hmac("sha256", password, header["alg"].encode() + b"\0" + raw(header["p2s"]), header["p2c"], 16)
            try:
                secret = keywrap.aes_key_unwrap(key, raw(wrapped))
                break
            except keywrap.InvalidUnwrap:
                continue
        else:
            return False
    plain = AESGCM(secret).decrypt(raw(iv), raw(sealed) + raw(tag), protected.encode())
    if header.get("zip"):
        plain = zlib.decompress(plain, -15)
    return unsigned(plain.decode(), place) if header.get("cty") == "JWT" else json.loads(plain)["forged"]


def signature_alone(token, place):
    """The right key, the right algorithm, and not a look at what was signed."""
    head, body, tail = token.split(".")
    return verifies(place.key.public_key(), place.alg, f"{head}.{body}".encode(), raw(tail))


def header_chooses(token, place):
    header, signed, signature = parts(token)
    return verifies(place.key.public_key(), header["alg"], signed, signature)


class Planted:
    """``accepts(token)``: our verdict, or the flaw's. An error of the flaw is a refusal."""

    def __init__(self, flaw, *, strict, public, key, alg, kid):
        self.flaw, self._strict = flaw, strict
        self.public, self.key, self.alg, self.kid = public, key, alg, kid
        self.seen = []

    def strict(self, token):
        taken = self._strict(token)
        if taken:
            self.seen.append(token)
        return taken

    def accepts(self, token):
        if self.strict(token):
            return True
        try:
            return bool(self.flaw(token, self))
        except Exception:
            return False


def flaw_of(mutation):
    """Which flaw takes which mutation."""
    family = mutation.id.partition(".")[0]
    if mutation.recipe == "hmac_public":
        return secret_is(form=mutation.args["form"])
    if mutation.recipe == "hmac_secret":
        return secret_is(secret=mutation.args["secret"].encode())
    table = {
        "none": unsigned, "jwe": encrypted_is_signed, "base64": lenient_base64, "segments": first_three_segments,
        "signature.empty": empty_signature_skips_the_check, "signature.two_segments": two_segments_skip_the_check, "signature.zeros": zeros_are_nothing,
        "signature.bit": remembers_the_head_of_a_signature, "signature.short": remembers_the_head_of_a_signature,
        "signature.claims": remembers_whole_signatures, "signature.header": remembers_whole_signatures, "signature.foreign": trusts_every_key,
        "psychic": psychic, "psychic.ed25519": zeros_are_nothing, "psychic.rsa": textbook_rsa,
        "jwk": key_in_the_header, "x5c": certificate_in_the_header, "jku": follows("jku"), "x5u": follows("x5u"), "kid.url": follows("kid"),
        "kid.dev_null": kid_is_a_file, "kid.traversal": kid_is_a_file, "kid.sql": kid_is_sql, "kid.another": signature_alone, "kid": unknown_kid_skips_the_check,
        "json": json_serialisation, "json.dual": reads_two_ways, "alg": header_chooses,
    }
    return table.get(mutation.id) or table.get(family) or (signature_alone if mutation.kind == "misuse" else None)


