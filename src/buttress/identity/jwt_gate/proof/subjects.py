"""Who is judged: the gateway that broke, and ours. Each factory gives a Gateway."""

from __future__ import annotations

import base64
import hashlib
import hmac
import http.client
import json
import time
from typing import Any
from urllib.parse import urlsplit

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding

from buttress.identity.jwt_gate.claims import Policy
from buttress.identity.jwt_gate.gate import bearer
from buttress.identity.jwt_gate.jwks import JwksProvider
from buttress.identity.jwt_gate.keys import KeyBinding, StaticKeys, jwk_material
from buttress.identity.jwt_gate.refusal import KeysUnavailable, Refused
from buttress.identity.jwt_gate.verifier import Verifier
from buttress.kernel.errors import ButtressError
from buttress.proof import Env


class Upstream:
    """The application behind a gateway, over one connection that is kept."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._path = parts.path
        self._connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=20)

    def get(self, id: str) -> int:
        for attempt in (1, 2):
            try:
                self._connection.request("GET", f"{self._path}/{id}")
                response = self._connection.getresponse()
                response.read()
                return response.status
            except (http.client.HTTPException, OSError):
                self._connection.close()
                if attempt == 2:
                    raise
        raise AssertionError("not reached")

    def close(self) -> None:
        self._connection.close()


# -- ours


class Ours:
    """As an adopter writes it: a policy, a provider of the issuer's keys, a verifier."""

    def __init__(self, env: Env) -> None:
        world = env.world
        keys = JwksProvider(world["issuer"], url=world["jwks"], allowed_hosts=("127.0.0.1",), loopback_http=True, clock=env.clock,
                            spawn=lambda job: job())  # a refresh runs at once, so that one seed gives one history
        self._verifier = Verifier(Policy(issuer=world["issuer"], audience=world["audience"]), keys, clock=env.clock)
        self._upstream = Upstream(world["application"])

    def takes(self) -> list[str]:
        return ["RS256", "ES256", "Ed25519"]

    def request(self, id: str, authorization: str) -> int:
        try:
            self._verifier.verify(bearer([(b"authorization", authorization.encode("latin-1", "replace"))]))
        except Refused as refused:
            return refused.status
        except KeysUnavailable as closed:
            return closed.status
        return self._upstream.get(id)

    def close(self) -> None:
        self._upstream.close()


def buttress(env: Env) -> Ours:
    return Ours(env)


# -- the way that broke


class Naive:
    """The case's gateway: RS256 and HS256 side by side, the header chooses, and one text of a key serves both.

    The key set is read again for each kid that it does not know, and kept for good otherwise. Five minutes of leeway, as several
    frameworks have it by default.
    """

    LEEWAY_S = 300

    def __init__(self, env: Env) -> None:
        self._env, self._url = env, env.world["jwks"]
        self._pems: dict[str, bytes] = {}
        self._upstream = Upstream(env.world["application"])
        parts = urlsplit(self._url)
        self._jwks = (parts.hostname or "", parts.port, parts.path)

    def takes(self) -> list[str]:
        return ["RS256"]

    def request(self, id: str, authorization: str) -> int:
        try:
            self._verified(authorization.removeprefix("Bearer "))
        except (ValueError, KeyError, TypeError, AttributeError, InvalidSignature, OSError):
            return 401
        return self._upstream.get(id)

    def _verified(self, token: str) -> None:
        head, body, tail = token.split(".")
        header, claims = json.loads(_unpadded(head)), json.loads(_unpadded(body))
        pem, signed, signature = self._key(header["kid"]), f"{head}.{body}".encode(), _unpadded(tail)
        if header["alg"] == "HS256":
            if not hmac.compare_digest(hmac.digest(pem, signed, hashlib.sha256), signature):
                raise ValueError
        elif header["alg"] == "RS256":
            key: Any = serialization.load_pem_public_key(pem)
            key.verify(signature, signed, padding.PKCS1v15(), hashes.SHA256())
        else:
            raise ValueError
        now = self._env.clock.now()
        if now > claims["exp"] + self.LEEWAY_S or now < claims.get("nbf", 0) - self.LEEWAY_S:
            raise ValueError
        if claims["iss"] != self._env.world["issuer"] or self._env.world["audience"] not in claims["aud"]:
            raise ValueError

    def _key(self, kid: str) -> bytes:
        if kid not in self._pems:
            host, port, path = self._jwks
            connection = http.client.HTTPConnection(host, port, timeout=20)
            try:
                connection.request("GET", path)
                for jwk in json.loads(connection.getresponse().read())["keys"]:
                    self._pems[jwk["kid"]] = jwk_material(jwk).public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
            finally:
                connection.close()
        return self._pems[kid]

    def close(self) -> None:
        self._upstream.close()


def _unpadded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def naive(env: Env) -> Naive:
    return Naive(env)


# -- yours, as a service


class AtUrl:
    """A gateway that is reached over HTTP: GET <url>/<id>. It takes RS256 unless the URL's query says ``takes=RS256,ES256``."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._host, self._port, self._path = parts.hostname or "", parts.port, parts.path.rstrip("/")
        named = [part[6:].split(",") for part in parts.query.split("&") if part.startswith("takes=")]
        self._takes = named[0] if named else ["RS256"]

    def takes(self) -> list[str]:
        return self._takes

    def request(self, id: str, authorization: str) -> int:
        connection = http.client.HTTPConnection(self._host, self._port, timeout=20)
        try:
            connection.request("GET", f"{self._path}/{id}", headers={"Authorization": authorization})
            return connection.getresponse().status
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise ButtressError(f"no answer: {type(error).__name__}") from error
        finally:
            connection.close()


def at_url(url: str, env: Env) -> AtUrl:
    return AtUrl(url)


# -- the race


class OursVerifying:
    """Ours without its memory of verdicts. ``keep`` above 0: with it, for the number that is shown beside."""

    def __init__(self, keep: int) -> None:
        self._keep = keep

    def prepare(self, alg: str, jwk: str, issuer: str, audience: str) -> bool:
        key = json.loads(jwk)
        self._verifier = Verifier(Policy(issuer=issuer, audience=audience), StaticKeys(issuer, [KeyBinding(key["kid"], alg, key)]), keep=self._keep)
        return True

    def verify(self, tokens: list[str], rounds: int) -> list[float]:
        verify, taken = self._verifier.verify, 0
        began = time.process_time()
        for _ in range(rounds):
            for token in tokens:
                verify(token)
                taken += 1
        return [taken, time.process_time() - began]


def verifying(env: Env) -> OursVerifying:
    return OursVerifying(0)


def verifying_kept(env: Env) -> OursVerifying:
    return OursVerifying(4096)
