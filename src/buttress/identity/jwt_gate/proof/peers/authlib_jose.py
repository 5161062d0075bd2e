"""Authlib, as its documentation says: ``JsonWebToken([...]).decode(token, key)``."""

import json
import warnings

warnings.simplefilter("ignore")
from authlib.jose import JsonWebKey, JsonWebToken  # noqa: E402
from gateway import LibraryGateway, Timed, spki  # noqa: E402


def decode(token, key, algs):
    return JsonWebToken(algs).decode(token, key)


def factory(env):
    """RS256 and HS256 side by side, by PEM."""
    return LibraryGateway(env, decode, ["RS256", "HS256"], spki)


class Verifying(Timed):
    def prepare(self, alg, jwk, issuer, audience):
        key, library = JsonWebKey.import_key(json.loads(jwk)), JsonWebToken([alg])
        options = {"iss": {"essential": True, "value": issuer}, "aud": {"essential": True, "value": audience}, "exp": {"essential": True}, "sub": {"essential": True}}

        def one(token):
            library.decode(token, key, claims_options=options).validate(leeway=30)

        self.one = one
        return True


def verifying(env):
    return Verifying()
