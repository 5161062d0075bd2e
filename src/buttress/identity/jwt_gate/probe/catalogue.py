"""The mutations, as data. Each names the rule that it breaks, what it takes to make it, and the recipe with its arguments.

``kind``: a ``forgery`` is a token that the issuer never signed; ``misuse`` is one that it signed for something else, or
that a careful gateway refuses whoever signed it; ``spelling`` is a genuine token, written in a way that it should not be taken in (one
token, many names in deny lists and caches). A gateway that takes a spelling is told so; only the others make it VULNERABLE.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Kind = Literal["forgery", "misuse", "spelling"]
# What making a mutation may take, beyond a genuine token.
PUBLIC, RSA_PUBLIC, CERTIFICATE, ISSUER, CALLBACK = "public key", "public RSA key", "certificate", "issuer key", "callback"
ISSUER_RSA, ISSUER_ED = "issuer key, RSA", "issuer key, Ed25519"
NEEDS: Mapping[str, str] = {
    PUBLIC: "--jwks or --pubkey", RSA_PUBLIC: "--jwks or --pubkey, of an RSA key", CERTIFICATE: "a certificate (x5c) in --jwks, or --cert",
    ISSUER: "--sign KEY", ISSUER_RSA: "--sign KEY, an RSA key", ISSUER_ED: "--sign KEY, an Ed25519 key",
    CALLBACK: "--callback (loopback targets only)"}


@dataclass(frozen=True)
class Mutation:
    """One way to make a token that must not be let in."""

    id: str
    title: str
    section: str
    kind: Kind
    needs: tuple[str, ...]
    recipe: str
    args: Mapping[str, Any] = field(default_factory=dict)


def _hmac() -> list[Mutation]:
    rows = (
        ("spki.lf", "SPKI PEM", PUBLIC), ("spki.none", "SPKI PEM without its last newline", PUBLIC), ("spki.crlf", "SPKI PEM with CRLF", PUBLIC),
        ("spki.newline_first", "SPKI PEM after a newline", PUBLIC), ("spki.blank_first", "SPKI PEM after a blank", PUBLIC),
        ("spki.comment_first", "SPKI PEM after a comment", PUBLIC),
        ("pkcs1.lf", "PKCS #1 PEM", RSA_PUBLIC), ("pkcs1.none", "PKCS #1 PEM without its last newline", RSA_PUBLIC), ("pkcs1.crlf", "PKCS #1 PEM with CRLF", RSA_PUBLIC),
        ("pkcs1.newline_first", "PKCS #1 PEM after a newline", RSA_PUBLIC),
        ("ssh.none", "OpenSSH line", PUBLIC), ("ssh.lf", "OpenSSH line with newline", PUBLIC), ("ssh.comment", "OpenSSH line with a comment", PUBLIC),
        ("certificate.lf", "X.509 PEM", CERTIFICATE), ("certificate.none", "X.509 PEM without its last newline", CERTIFICATE), ("certificate.der", "X.509 DER", CERTIFICATE),
        ("certificate.x5c", "x5c text", CERTIFICATE),
        ("spki.der", "SPKI DER", PUBLIC), ("pkcs1.der", "PKCS #1 DER", RSA_PUBLIC), ("spki.base64", "base64 body of the SPKI PEM", PUBLIC),
        ("jwk.compact", "JWK as JSON", PUBLIC), ("jwk.blanks", "JWK as JSON with blanks", PUBLIC), ("jwk.thumbprint", "JWK in the order of RFC 7638", PUBLIC),
        ("jwks", "JWK set as JSON", PUBLIC), ("n.bytes", "modulus as bytes", RSA_PUBLIC), ("n.text", "modulus as base64url text", RSA_PUBLIC),
    )
    found = [Mutation(f"hmac.{form}", f"HS256 with the public key as secret: {title}", "RFC 8725 3.1, CVE-2015-9235", "forgery", (needs,), "hmac_public", {"form": form})
             for form, title, needs in rows]
    found += [Mutation(f"hmac.spki.lf.{alg.lower()}", f"{alg} with the SPKI PEM as secret", "RFC 8725 3.1", "forgery", (PUBLIC,), "hmac_public", {"form": "spki.lf", "alg": alg})
              for alg in ("HS384", "HS512")]
    secrets = ("secret", "password", "changeme", "your-256-bit-secret", "jwt_secret")
    found += [Mutation(f"weak.{number}", f"HS256 with a secret of the dictionary, number {number}", "RFC 8725 3.5", "forgery", (), "hmac_secret", {"secret": s})
              for number, s in enumerate(secrets, 1)]
    found += [
        Mutation("hmac.empty", "HS256 with an empty secret", "RFC 7518 3.2", "forgery", (), "hmac_secret", {"secret": ""}),
        Mutation("hmac.nul", "HS256 with 32 zero bytes as secret", "RFC 7518 3.2", "forgery", (), "hmac_secret", {"secret": "\0" * 32}),
        Mutation("hmac.null", "HS256 with the word null as secret", "RFC 7518 3.2", "forgery", (), "hmac_secret", {"secret": "null"}),
    ]
    return found


def _none() -> list[Mutation]:
    spelled = {"none": "none", "None": "title", "NONE": "capitals", "nOnE": "mixed", "none ": "blank", "": "empty"}
    found = [Mutation(f"none.{name}", f"alg {alg!r} without signature", "RFC 8725 3.2, CVE-2015-9235", "forgery", (), "unsigned", {"alg": alg})
             for alg, name in spelled.items()]
    return [
        *found,
        Mutation("none.null", "alg null without signature", "RFC 7515 4.1.1", "forgery", (), "unsigned", {"alg": None}),
        Mutation("none.list", "alg is a list that holds none", "RFC 7515 4.1.1", "forgery", (), "unsigned", {"alg": ["none"]}),
        Mutation("none.absent", "no alg, no signature", "RFC 7515 4.1.1", "forgery", (), "unsigned", {"drop": True}),
        Mutation("none.signed", "alg none with the genuine signature, other claims", "RFC 8725 3.2", "forgery", (), "unsigned", {"alg": "none", "keep": True}),
        Mutation("none.two_segments", "alg none, no last full stop", "RFC 7515 7.1", "forgery", (), "unsigned", {"alg": "none", "dots": 1}),
    ]


def _signature() -> list[Mutation]:
    rows = (
        ("empty", "no signature, other claims", "RFC 7515 5.2"), ("two_segments", "signature and its full stop left out", "RFC 7515 7.1"),
        ("zeros", "a signature of zeros", "RFC 7515 5.2"), ("bit", "one bit of the signature turned", "RFC 7515 5.2"),
        ("short", "half of the signature", "RFC 7518 3.4"), ("claims", "other claims under the genuine signature", "RFC 7515 5.2"),
        ("header", "another header under the genuine signature", "RFC 7515 5.2"), ("foreign", "signed by a key of nobody's, the genuine kid", "RFC 8725 3.8"),
    )
    found = [Mutation(f"signature.{how}", title, section, "forgery", (), "signature", {"how": how}) for how, title, section in rows]
    zero = "FIPS 186-5 6.4.2, CVE-2022-21449"
    return [
        *found,
        Mutation("psychic.es256", "ES256, r = s = 0", zero, "forgery", (), "psychic", {"alg": "ES256", "bytes": 64}),
        Mutation("psychic.es384", "ES384, r = s = 0", zero, "forgery", (), "psychic", {"alg": "ES384", "bytes": 96}),
        Mutation("psychic.es512", "ES512, r = s = 0", zero, "forgery", (), "psychic", {"alg": "ES512", "bytes": 132}),
        Mutation("psychic.der", "ES256, r = s = 0 in DER", zero, "forgery", (), "psychic", {"alg": "ES256", "der": True}),
        Mutation("psychic.order", "ES256, r = s = the order of the curve", zero, "forgery", (), "psychic", {"alg": "ES256", "order": True}),
        Mutation("psychic.ed25519", "Ed25519, a signature of zeros", "RFC 8032 5.1.7", "forgery", (), "psychic", {"alg": "Ed25519", "bytes": 64}),
        Mutation("psychic.rsa", "RS256, the number 1 as signature", "RFC 8017 8.2.2", "forgery", (), "psychic", {"alg": "RS256", "one": True}),
    ]


def _keys() -> list[Mutation]:
    follow = "RFC 8725 3.10"
    dev, up = "/dev/null", "../../../../../../../dev/null"
    return [
        Mutation("jwk.rsa", "an RSA key of nobody's in the header (jwk)", f"{follow}, CVE-2018-0114", "forgery", (), "embedded", {"kty": "RSA"}),
        Mutation("jwk.ec", "an EC key of nobody's in the header (jwk)", f"{follow}, CVE-2018-0114", "forgery", (), "embedded", {"kty": "EC"}),
        Mutation("jwk.ed25519", "an Ed25519 key of nobody's in the header (jwk)", f"{follow}, CVE-2018-0114", "forgery", (), "embedded", {"kty": "OKP"}),
        Mutation("jwk.oct", "a secret of nobody's in the header (jwk)", f"{follow}, CVE-2018-0114", "forgery", (), "embedded", {"kty": "oct"}),
        Mutation("x5c", "a certificate of nobody's in the header", follow, "forgery", (), "embedded", {"kty": "x5c"}),
        Mutation("jku", "a key set of nobody's by its address (jku)", follow, "forgery", (CALLBACK,), "embedded", {"kty": "jku"}),
        Mutation("x5u", "a certificate of nobody's by its address (x5u)", follow, "forgery", (CALLBACK,), "embedded", {"kty": "x5u"}),
        Mutation("kid.url", "a kid that is the address of a key set", follow, "forgery", (CALLBACK,), "embedded", {"kty": "kid"}),
        Mutation("kid.dev_null", "kid is /dev/null, signed with an empty secret", follow, "forgery", (), "kid", {"kid": dev, "secret": ""}),
        Mutation("kid.traversal", "kid leads up to /dev/null, signed with an empty secret", follow, "forgery", (), "kid", {"kid": up, "secret": ""}),
        Mutation("kid.sql", "kid is SQL that answers a secret", follow, "forgery", (), "kid", {"kid": "x' UNION SELECT 'known' -- ", "secret": "known"}),
        Mutation("kid.unknown", "a kid that nobody has, signed by a key of nobody's", "RFC 8725 3.8", "forgery", (), "kid", {"kid": "nobody-has-it"}),
        Mutation("kid.absent", "no kid, signed by a key of nobody's", "RFC 8725 3.8", "forgery", (), "kid", {"drop": True}),
        Mutation("kid.list", "kid is a list, signed by a key of nobody's", "RFC 7515 4.1.4", "forgery", (), "kid", {"kid": ["a", "b"]}),
        Mutation("kid.object", "kid is an object, signed by a key of nobody's", "RFC 7515 4.1.4", "forgery", (), "kid", {"kid": {"a": 1}}),
        Mutation("kid.number", "kid is a number, signed by a key of nobody's", "RFC 7515 4.1.4", "forgery", (), "kid", {"kid": 0}),
        Mutation("kid.long", "a kid of 1,500 letters, signed by a key of nobody's", "RFC 8725 3.11", "forgery", (), "kid", {"kid": "k" * 1500}),
    ]


def _forms() -> list[Mutation]:
    spelling = (("bits", "trailing bits that are not zero"), ("padding", "padding"), ("blank", "a blank inside"), ("junk", "a foreign letter inside"),
                ("alphabet", "the alphabet of plain base64"))
    found = [Mutation(f"base64.{how}", f"the signature with {title}", "RFC 7515 2", "spelling", (), "spelled", {"how": how}) for how, title in spelling]
    return [
        *found,
        Mutation("json.flattened", "flattened JSON serialisation", "RFC 7515 7.2", "spelling", (), "spelled", {"how": "flattened"}),
        Mutation("json.general", "general JSON serialisation", "RFC 7515 7.2", "spelling", (), "spelled", {"how": "general"}),
        Mutation("segments.four", "a fourth segment", "RFC 7515 7.1", "spelling", (), "spelled", {"how": "four"}),
        Mutation("json.dual", "JSON that is genuine, and a compact token that is not, in one text", "CVE-2022-39227", "forgery", (), "dual"),
        Mutation("jwe.claims", "claims encrypted to the public key: encrypted is not signed", "RFC 8725 2.3", "forgery", (RSA_PUBLIC,), "jwe", {"inner": "claims"}),
        Mutation("jwe.none", "an unsecured token encrypted to the public key", "RFC 8725 2.3", "forgery", (RSA_PUBLIC,), "jwe", {"inner": "none"}),
        Mutation("jwe.zip", "1 MB of blanks and claims, compressed, encrypted to the public key", "RFC 8725 3.6, CVE-2024-33664", "forgery", (RSA_PUBLIC,), "jwe",
                 {"inner": "claims", "zip": True}),
        Mutation("jwe.pbes2", "claims encrypted with the public key's PEM as password", "RFC 8725 3.1", "forgery", (PUBLIC,), "pbes2", {"password": "spki.lf"}),
        Mutation("jwe.pbes2.count", "claims encrypted with a password of the dictionary, 20,000 rounds", "RFC 8725 3.11", "forgery", (), "pbes2",
                 {"password": "", "rounds": 20_000}),
    ]


def _misuse() -> list[Mutation]:
    def claim(id: str, title: str, section: str, **args: Any) -> Mutation:
        return Mutation(id, title, section, "misuse", (ISSUER,), "signed", args)

    def text(id: str, title: str, section: str, payload: str = "", header: str = "") -> Mutation:
        return Mutation(id, title, section, "misuse", (ISSUER,), "signed_text", {"payload": payload, "header": header})

    exp, aud, iss, typ, crit = "RFC 7519 4.1.4", "RFC 8725 3.9", "RFC 8725 3.8", "RFC 8725 3.11", "RFC 7515 4.1.11"
    return [
        claim("exp.past", "expired an hour ago", exp, at={"exp": -3600, "iat": -7200, "nbf": -7200}), claim("exp.absent", "no exp", exp, drop=["exp"]),
        claim("exp.text", "exp as text", exp, at_text={"exp": 3600}), claim("exp.true", "exp is true", exp, set={"exp": True}),
        claim("exp.null", "exp is null", exp, set={"exp": None}), text("exp.infinite", "exp is 1e400", "RFC 8259 6", payload='"exp":1e400'),
        text("exp.nan", "exp is NaN", "RFC 8259 6", payload='"exp":NaN'),
        claim("nbf.future", "valid from in an hour on", "RFC 7519 4.1.5", at={"nbf": 3600}), claim("nbf.text", "nbf as text, an hour ahead", "RFC 7519 4.1.5", at_text={"nbf": 3600}),
        claim("iat.future", "issued in an hour", "RFC 7519 4.1.6", at={"iat": 3600}), claim("iat.text", "iat as text", "RFC 7519 4.1.6", at_text={"iat": 0}),
        claim("aud.foreign", "for another audience", aud, set={"aud": "https://another.example"}), claim("aud.absent", "for no audience", aud, drop=["aud"]),
        claim("aud.prefix", "aud is a part of the audience", aud, cut={"aud": -1}), claim("aud.longer", "aud begins with the audience", aud, add={"aud": ".evil.example"}),
        claim("aud.object", "aud is an object with the audience as a name", aud, as_name=["aud"]), claim("aud.empty", "aud is an empty list", aud, set={"aud": []}),
        claim("iss.foreign", "of another issuer", iss, set={"iss": "https://another.example"}), claim("iss.absent", "of no issuer", iss, drop=["iss"]),
        claim("iss.part", "iss is a part of the issuer", f"{iss}, CVE-2024-53861", cut={"iss": -1}), claim("iss.longer", "iss begins with the issuer", iss, add={"iss": ".evil.example"}),
        claim("iss.list", "iss is a list with the issuer", f"{iss}, CVE-2024-53861", as_list=["iss"]), claim("sub.absent", "no sub", "RFC 9068 2.2", drop=["sub"]),
        claim("sub.number", "sub is a number", "RFC 7519 4.1.2", set={"sub": 1}),
        claim("typ.absent", "no typ", typ, header_drop=["typ"]), claim("typ.id_token", "an ID token: typ JWT, with nonce and at_hash", "RFC 8725 3.12",
              header={"typ": "JWT"}, set={"nonce": "n", "at_hash": "h"}),
        claim("typ.logout", "a logout token", "RFC 8725 3.12", header={"typ": "logout+jwt"}, set={"events": {"http://schemas.openid.net/event/backchannel-logout": {}}}),
        claim("typ.dpop", "a DPoP proof", typ, header={"typ": "dpop+jwt"}), claim("cty.jwt", "a nested token, by cty", "RFC 8725 3.12", header={"cty": "JWT"}),
        claim("crit.unknown", "a critical extension that nobody knows", f"{crit}, CVE-2025-59420", header={"crit": ["x-nobody"], "x-nobody": 1}),
        claim("crit.empty", "an empty crit", crit, header={"crit": []}), claim("crit.absent", "crit names what is not there", crit, header={"crit": ["x-nobody"]}),
        claim("crit.registered", "crit names a registered member", crit, header={"crit": ["alg"]}), claim("crit.text", "crit is text", crit, header={"crit": "exp"}),
        claim("b64.critical", "payload not encoded (b64, critical)", "RFC 7797 7", header={"b64": False, "crit": ["b64"]}, raw=True),
        claim("b64.plain", "b64 false, not critical", "RFC 7797 6", header={"b64": False}),
        claim("zip", "a compressed payload", "RFC 7516 4.1.3", header={"zip": "DEF"}, deflate=True),
        text("twice.alg", "alg twice: none, then the genuine", "RFC 7515 4", header='"alg":"none"'),
        text("twice.kid", "kid twice", "RFC 7515 4", header='"kid":"another"'), text("twice.claim", "exp twice: past, then the genuine", "RFC 7519 4", payload='"exp":1'),
        claim("header.deep", "a header nested 200 deep", "RFC 8725 3.11", deep=200), claim("header.large", "a header of 3 kB", "RFC 8725 3.11", header={"x-pad": "x" * 3000}),
        claim("claims.array", "claims in an array", "RFC 7519 7.2", array=True), claim("claims.utf8", "claims that are no UTF-8", "RFC 7519 7.2", latin=True),
        Mutation("alg.hash", "another hash under the same key", "RFC 8725 3.1", "misuse", (ISSUER,), "other_alg", {"how": "hash"}),
        Mutation("alg.padding", "PSS with a key of RS256, or the reverse", "RFC 8725 3.1", "misuse", (ISSUER_RSA,), "other_alg", {"how": "padding"}),
        Mutation("alg.polymorphic", "EdDSA for a key bound to Ed25519, or the reverse", "RFC 9864 2.2", "misuse", (ISSUER_ED,), "other_alg", {"how": "name"}),
        Mutation("kid.another", "signed by the issuer, under a name of none of its keys", "RFC 8725 3.8", "misuse", (ISSUER,), "signed", {"header": {"kid": "another"}}),
    ]


CATALOGUE: tuple[Mutation, ...] = (*_hmac(), *_none(), *_signature(), *_keys(), *_forms(), *_misuse())
BY_ID: Mapping[str, Mutation] = {mutation.id: mutation for mutation in CATALOGUE}
