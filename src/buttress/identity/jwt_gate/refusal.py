"""Why a token or a key was refused: a stable code, the rule, and the section of the standard that it comes from.

A refusal shows neither the token nor a key: it may be logged as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from buttress.kernel.errors import ButtressError

# code: (section, rule). One line a rule; `Refused(code)` finds its words here, so an unknown code cannot be raised.
RULES: Mapping[str, tuple[str, str]] = {
    # the compact form
    "not_text": ("RFC 7515 7.1", "a token is text of the letters of base64url and full stops"),
    "too_long": ("RFC 8725 3.11", "the token is longer than the policy allows"),
    "segments": ("RFC 7515 7.1", "a signed token has exactly three segments; JSON serialisations are not taken"),
    "encrypted": ("RFC 7516 3.1", "an encrypted token (five segments) is not taken"),
    "base64": ("RFC 7515 2", "base64url without padding, blanks or foreign letters, and with zero trailing bits"),
    "json": ("RFC 8259 2", "header and claims are JSON in UTF-8"),
    "duplicate_name": ("RFC 7515 4", "no name stands twice in one object"),
    "not_object": ("RFC 7519 7.2", "header and claims are JSON objects"),
    "too_deep": ("RFC 8725 3.11", "the JSON is nested deeper than allowed"),
    "header_too_long": ("RFC 8725 3.11", "the header is longer than 2 kB"),
    "number": ("RFC 8259 6", "numbers are finite"),
    # the header
    "alg_missing": ("RFC 7515 4.1.1", "the header names its algorithm as text"),
    "alg_none": ("RFC 8725 3.2", "unsecured tokens are not taken, however none is spelled"),
    "alg_mismatch": ("RFC 8725 3.1", "the header must name the one algorithm that the key is bound to"),
    "header_key": ("RFC 8725 3.10", "keys or places of keys in the header (jwk, jku, x5u, x5c) are never followed"),
    "crit": ("RFC 7515 4.1.11", "no extension is understood here, so none may be critical"),
    "b64": ("RFC 7797 7", "a JWT has its payload encoded: b64 has no place here"),
    "zip": ("RFC 7516 4.1.3", "a signed token is not compressed"),
    "typ": ("RFC 8725 3.11", "the type must be one that the policy names"),
    "nested": ("RFC 8725 3.12", "a token within a token (cty) is not taken"),
    "kid_missing": ("RFC 7515 4.1.4", "the header names its key as text of 1 to 256 characters"),
    "kid_unknown": ("RFC 8725 3.8", "the issuer has no key of this name"),
    "key_not_yet": ("RFC 8725 3.8", "the key is not valid yet"),
    "key_no_more": ("RFC 8725 3.8", "the key is not valid any more"),
    "issuer_unknown": ("RFC 8725 3.8", "no issuer of this name is trusted"),
    # the signature
    "signature": ("RFC 7515 5.2", "the signature is not of this key"),
    "signature_length": ("RFC 7518 3.4", "an ECDSA signature has exactly the length of its curve"),
    "signature_range": ("FIPS 186-5 6.4.2", "r and s lie between 1 and n - 1"),
    # the claims
    "claim_missing": ("RFC 7519 4.1", "a claim that the policy requires is missing"),
    "claim_type": ("RFC 7519 4.1", "a claim has another type than the standard gives it"),
    "expired": ("RFC 7519 4.1.4", "the token has expired"),
    "not_yet": ("RFC 7519 4.1.5", "the token is not valid yet"),
    "issued_in_future": ("RFC 7519 4.1.6", "the token was issued in the future"),
    "too_old": ("RFC 9068 5", "the token is older than the policy allows"),
    "issuer": ("RFC 8725 3.8", "the issuer is not, letter by letter, the one of the policy"),
    "audience": ("RFC 8725 3.9", "the token is not for this audience"),
    "other_kind": ("RFC 8725 3.12", "a claim says that this is another kind of token (ID token, logout token, security event)"),
    "revoked": ("RFC 7009 2.2", "the token was revoked"),
    # the request
    "no_token": ("RFC 6750 3.1", "the request carries no bearer token"),
    "two_tokens": ("RFC 6750 2", "the request carries more than one token"),
    "scheme": ("RFC 6750 2.1", "the scheme must be Bearer"),
}

KEY_RULES: Mapping[str, tuple[str, str]] = {
    "key_alg": ("RFC 8725 3.1", "the algorithm must be one that is implemented, and fit the key"),
    "key_kid": ("RFC 7517 4.5", "a key has a name: text of 1 to 256 characters"),
    "key_use": ("RFC 7517 4.2", "the key is not for verifying signatures (use, key_ops)"),
    "key_window": ("RFC 8725 3.8", "not_before must lie before not_after"),
    "key_form": ("RFC 7517 4", "the key cannot be read"),
    "key_private": ("RFC 7517 9.2", "a verifier is given public keys: this one has private members"),
    "hmac_short": ("RFC 7518 3.2", "an HMAC key is at least as long as its hash"),
    "hmac_public": ("RFC 8725 3.1", "an HMAC key must not be a public key in any form: everybody has it"),
    "rsa_size": ("RFC 7518 3.3", "an RSA key has at least 2048 bits and at most 16384"),
    "rsa_exponent": ("FIPS 186-5 5.1", "the public exponent is odd and at least 65537"),
    "rsa_roca": ("CVE-2017-15361", "the modulus has the fingerprint of a broken generator (ROCA)"),
    "ec_curve": ("RFC 7518 3.4", "each ECDSA algorithm has exactly one curve"),
    "document": ("RFC 7517 5", "the document is no JSON Web Key Set"),
    "document_size": ("RFC 8725 3.11", "the document is larger than 64 kB, or holds too many keys"),
    "document_twice": ("RFC 7517 4.5", "two keys of the document have one name"),
    "document_secret": ("RFC 8725 3.5", "the document mixes or publishes secrets"),
}


class Refused(ButtressError):
    """A token was refused. ``code`` is stable, ``section`` cites the standard, ``status`` is the HTTP answer.

    ``claim`` names the claim or header member that it is about, never its value.
    """

    code = "jwt_refused"
    status = 401

    def __init__(self, code: str, claim: str = "") -> None:
        self.section, self.rule = RULES[code]
        super().__init__(f"{self.rule} ({claim})" if claim else self.rule)
        self.code = code
        self.claim = claim

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.code, self.claim)


class KeyRefused(ButtressError):
    """A key, or a set of keys, breaks a rule. Nothing of the key is shown."""

    code = "key_refused"

    def __init__(self, code: str, about: str = "") -> None:
        self.section, self.rule = KEY_RULES[code]
        super().__init__(f"{self.rule} ({about})" if about else self.rule)
        self.code = code
        self.about = about

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.code, self.about)


class KeysUnavailable(ButtressError):
    """The issuer's keys cannot be had, and the last good ones are too old: nobody is let in. HTTP 503."""

    code = "keys_unavailable"
    status = 503
