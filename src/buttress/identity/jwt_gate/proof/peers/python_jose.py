"""python-jose, as its documentation says: ``jwt.decode(token, key, algorithms=[...])``."""

from gateway import LibraryGateway, spki
from jose import jwt

CHECKED_OUTSIDE = {f"verify_{name}": False for name in ("exp", "nbf", "iat", "aud", "iss", "sub", "jti", "at_hash")}


def decode(token, key, algs):
    return jwt.decode(token, key, algorithms=algs, options=CHECKED_OUTSIDE)


def factory(env):
    """RS256 and HS256 side by side, by PEM."""
    return LibraryGateway(env, decode, ["RS256", "HS256"], spki)
