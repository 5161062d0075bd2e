"""A gateway around a library: the library verifies, as its documentation says; keys, times and forwarding are the same for all.

Standard library only: it runs in the library's own environment. As a command it is a small HTTP gateway for the probe:

    python gateway.py LIBRARY KEYFILE RS256,HS256      prints its URL; 200 for what LIBRARY takes by that key, else 401
"""

import base64
import http.client
import importlib
import json
import os
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

LEEWAY_S, FRESH_S, HARD_S, INTERVAL_S = 30, 300, 3600, 10


class LibraryGateway:
    """``decode(token, key, algs) -> claims`` raises for what it refuses. ``text_of(jwk)`` makes the text that it is given as its key."""

    def __init__(self, env, decode, algs, text_of):
        self.env, self.decode, self.algs, self.text_of = env, decode, algs, text_of
        self.keys, self.fetched, self.tried = {}, None, None
        self.app = urlsplit(env.world["application"])
        self.connection = http.client.HTTPConnection(self.app.hostname, self.app.port, timeout=20)

    def takes(self):
        return [alg for alg in self.algs if not alg.startswith("HS")]

    def request(self, id, authorization):
        try:
            token = authorization.removeprefix("Bearer ")
            head = token.split(".")[0]
            header = json.loads(base64.urlsafe_b64decode(head + "=" * (-len(head) % 4)))
            claims = self.decode(token, self.key(header.get("kid")), self.algs)
            self.check(claims)
        except Exception:  # whatever a library raises is its refusal
            return 401
        return self.forward(id)

    def check(self, claims):
        now, world = self.env.clock.now(), self.env.world
        aud = claims["aud"]
        if not now < claims["exp"] + LEEWAY_S or now < claims.get("nbf", now) - LEEWAY_S or now < claims.get("iat", now) - LEEWAY_S:
            raise ValueError("time")
        if claims["iss"] != world["issuer"] or world["audience"] not in (aud if isinstance(aud, list) else [aud]):
            raise ValueError("for somebody else")

    def key(self, kid):
        now = self.env.clock.now()
        stale = self.fetched is None or now > self.fetched + FRESH_S
        if (stale or kid not in self.keys) and (self.tried is None or now >= self.tried + INTERVAL_S):
            self.tried = now
            self.fetch(now)
        if self.fetched is None or now > self.fetched + HARD_S:
            raise ValueError("the keys are too old")
        return self.keys[kid]

    def fetch(self, now):
        parts = urlsplit(self.env.world["jwks"])
        connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=10)
        try:
            connection.request("GET", parts.path)
            answer = connection.getresponse()
            if answer.status == 200:
                found = json.loads(answer.read())["keys"]
                self.keys = {jwk["kid"]: self.text_of(jwk) for jwk in found if jwk.get("alg") in self.algs}
                self.fetched = now
        except OSError:
            return
        finally:
            connection.close()

    def forward(self, id):
        self.connection.request("GET", f"{self.app.path}/{id}")
        answer = self.connection.getresponse()
        answer.read()
        return answer.status

    def close(self):
        self.connection.close()


def spki(jwk):
    """The public key of a JWK as PEM text: what most gateways are configured with."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return key_of(jwk).public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def ssh(jwk):
    """As a line of OpenSSH."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return key_of(jwk).public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


def key_of(jwk):
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    def number(name):
        return int.from_bytes(raw(jwk[name]), "big")

    if jwk["kty"] == "RSA":
        return rsa.RSAPublicNumbers(number("e"), number("n")).public_key()
    if jwk["kty"] == "EC":
        return ec.EllipticCurvePublicNumbers(number("x"), number("y"), ec.SECP256R1()).public_key()
    return ed25519.Ed25519PublicKey.from_public_bytes(raw(jwk["x"]))


def raw(text):
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


class Timed:
    """For the race. ``one`` verifies a token, signature and claims, by a key that was read once."""

    one = None

    def verify(self, tokens, rounds):
        one, taken = self.one, 0
        began = time.process_time()
        for _ in range(rounds):
            for token in tokens:
                one(token)
                taken += 1
        return [taken, time.process_time() - began]


def main(library, key_file, algs):
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    decode = importlib.import_module(library).decode
    with open(key_file, encoding="utf-8", newline="") as file:
        key = file.read()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            try:
                claims = decode(self.headers.get("Authorization", "").removeprefix("Bearer "), key, algs.split(","))
                status, body = (200, b"welcome") if claims["exp"] > time.time() else (401, b"expired")
            except Exception as error:
                status, body = 401, type(error).__name__.encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args):
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    print(f"http://127.0.0.1:{server.server_address[1]}/", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main(*sys.argv[1:4])
