"""joserfc, as its documentation says: a key is imported with its type, ``jwt.decode(token, key, algorithms=[...])``."""

import json
import warnings

warnings.simplefilter("ignore")
from gateway import LibraryGateway, Timed, spki  # noqa: E402
from joserfc import jwt  # noqa: E402
from joserfc.jwk import RSAKey, import_key  # noqa: E402


def decode(token, key, algs):
    return jwt.decode(token, RSAKey.import_key(key), algorithms=algs).claims


def factory(env):
    """RS256 and HS256 side by side, by PEM."""
    return LibraryGateway(env, decode, ["RS256", "HS256"], spki)


class Verifying(Timed):
    def prepare(self, alg, jwk, issuer, audience):
        key = import_key(json.loads(jwk))
        registry = jwt.JWTClaimsRegistry(iss={"essential": True, "value": issuer}, aud={"essential": True, "value": audience}, exp={"essential": True},
                                         sub={"essential": True}, leeway=30)

        def one(token):
            registry.validate(jwt.decode(token, key, algorithms=[alg]).claims)

        self.one = one
        return True


def verifying(env):
    return Verifying()
