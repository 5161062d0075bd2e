"""PyJWT, as its documentation says: ``jwt.decode(token, key, algorithms=[...])``."""

import json

import jwt
from gateway import LibraryGateway, Timed, spki, ssh

CHECKED_OUTSIDE = {"verify_exp": False, "verify_nbf": False, "verify_iat": False, "verify_aud": False, "verify_iss": False}


def decode(token, key, algs):
    return jwt.decode(token, key, algorithms=algs, options=CHECKED_OUTSIDE)


def factory(env):
    """RS256 and HS256 side by side, by PEM."""
    return LibraryGateway(env, decode, ["RS256", "HS256"], spki)


def over_ssh(env):
    """ES256 and HS256 side by side, by the text of an OpenSSH key: what CVE-2022-29217 is about."""
    return LibraryGateway(env, decode, ["ES256", "HS256"], ssh)


class Verifying(Timed):
    def prepare(self, alg, jwk, issuer, audience):
        key, options = jwt.PyJWK(json.loads(jwk)).key, {"require": ["exp", "iss", "aud", "sub"]}
        self.one = lambda token: jwt.decode(token, key, algorithms=[alg], audience=audience, issuer=issuer, leeway=30, options=options)
        return True


def verifying(env):
    return Verifying()
