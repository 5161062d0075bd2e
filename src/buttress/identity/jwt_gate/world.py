"""What lies outside of a gateway, simulated: an issuer that signs and rotates, its key server, and the protected application."""

from __future__ import annotations

import base64
import contextlib
import datetime
import json
import os
import random
import socket
import socketserver
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from buttress.identity.jwt_gate.probe.forge import nobodys_certificate, nobodys_rsa, token_of
from buttress.identity.jwt_gate.probe.forms import jwk_of

ISSUER, AUDIENCE = "https://issuer.example", "https://api.example"
LIFETIME_S = 300
ALGS = ("RS256", "ES256", "Ed25519")
GENERATIONS = 2


def make_keys(folder: Path) -> None:
    """Two generations of keys, a file each. Worth nothing: they live for one run."""
    for generation in range(GENERATIONS):
        for alg in ALGS:
            key = rsa.generate_private_key(65_537, 2048) if alg == "RS256" else ec.generate_private_key(ec.SECP256R1()) if alg == "ES256" else ed25519.Ed25519PrivateKey.generate()
            raw = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
            (folder / f"{alg}-{generation}.pem").write_bytes(raw)


def load_key(folder: str | Path, alg: str, generation: int) -> Any:
    """One of them, without the checks that make loading an RSA key slow: it was made by us."""
    raw = (Path(folder) / f"{alg}-{generation}.pem").read_bytes()
    return serialization.load_pem_private_key(raw, None, unsafe_skip_rsa_key_validation=True)


def kid_of(alg: str, generation: int) -> str:
    """The name of a key: ``rs256-1``, then ``rs256-2``."""
    return f"{alg.lower()}-{generation + 1}"


def certificate_of(key: Any) -> bytes:
    """Self-signed, as DER: what an issuer puts into x5c."""
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "issuer.example")])
    made = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(7)
    return builder.not_valid_before(made).not_valid_after(made.replace(year=2046)).sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


@dataclass
class Issuer:
    """Signs access tokens (RFC 9068) with the keys of one folder."""

    folder: str
    keys: dict[tuple[str, int], Any] = field(default_factory=dict)

    def key(self, alg: str, generation: int = 0) -> Any:
        if (alg, generation) not in self.keys:
            self.keys[alg, generation] = load_key(self.folder, alg, generation)
        return self.keys[alg, generation]

    def token(self, alg: str, now: float, rng: random.Random, generation: int = 0, **changes: Any) -> str:
        """One genuine token, issued at ``now``; ``changes`` are claims."""
        claims = {"iss": ISSUER, "sub": f"user-{rng.randrange(10_000)}", "aud": AUDIENCE, "exp": int(now) + LIFETIME_S, "iat": int(now),
                  "jti": f"{rng.getrandbits(64):016x}", "client_id": "shop", "scope": "read", **changes}
        return token_of({"alg": alg, "typ": "at+jwt", "kid": kid_of(alg, generation)}, claims, self.key(alg, generation))

    def jwk(self, alg: str, generation: int) -> dict[str, Any]:
        key = self.key(alg, generation)
        more = {"x5c": [base64.b64encode(certificate_of(key)).decode()]} if alg == "RS256" and generation == 0 else {}
        return {**jwk_of(key.public_key(), kid=kid_of(alg, generation), alg=alg, use="sig"), **more}

    def document(self, generations: tuple[int, ...]) -> bytes:
        return json.dumps({"keys": [self.jwk(alg, g) for g in generations for alg in ALGS]}).encode()


class Outside:
    """The key server and the application on one port of 127.0.0.1. What each saw is recorded as facts of the trial."""

    def __init__(self, trial: Any, issuer: Issuer) -> None:
        self.trial, self.issuer = trial, issuer
        self.documents: dict[tuple[int, ...], bytes] = {generations: issuer.document(generations) for generations in ((0,), (0, 1), (1,))}
        self.generations: tuple[int, ...] = (0,)
        self.down = False
        self.base = ""

    @contextlib.contextmanager
    def serving(self) -> Iterator[Mapping[str, str]]:
        server = _Server(("127.0.0.1", int(os.environ.get("BUTTRESS_WORLD_PORT", "0"))), _Connection)
        server.outside = self
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        self.base = f"http://127.0.0.1:{server.server_address[1]}"
        try:
            yield {"jwks": f"{self.base}/jwks.json", "application": f"{self.base}/app", "issuer": ISSUER, "audience": AUDIENCE}
        finally:
            server.shutdown()
            server.drop()
            server.server_close()
            thread.join(timeout=5)

    def answer(self, path: str) -> tuple[int, bytes]:
        if path.startswith("/app/"):
            self.trial.record("fact", what="arrived", id=path[5:], at=self.trial.clock.now())
            return 200, b'{"welcome":true}'
        if path == "/jwks.json":
            self.trial.record("fact", what="fetched", down=self.down, at=self.trial.clock.now())
            return (503, b"{}") if self.down else (200, self.documents[self.generations])
        if path == "/nobody.json":  # what a gateway that follows jku would take
            return 200, json.dumps({"keys": [jwk_of(nobodys_rsa().public_key(), kid="nobody", alg="RS256")]}).encode()
        if path == "/nobody.pem":
            return 200, x509.load_der_x509_certificate(nobodys_certificate()).public_bytes(serialization.Encoding.PEM)
        return 404, b"{}"


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64
    outside: Outside

    def __init__(self, *args: Any) -> None:
        self._open: set[socket.socket] = set()
        super().__init__(*args)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def drop(self) -> None:
        for connection in list(self._open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


class _Connection(socketserver.StreamRequestHandler):
    """GET with keep-alive, as little of HTTP/1.1 as gateways need."""

    timeout = 30
    disable_nagle_algorithm = True
    server: _Server

    def handle(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            while self._one():
                pass

    def _one(self) -> bool:
        first = self.rfile.readline(16_384).split()
        if len(first) != 3:
            return False
        close = False
        while (line := self.rfile.readline(65_536)) not in (b"\r\n", b"\n", b""):
            close = close or line.lower().replace(b" ", b"").startswith(b"connection:close")
        status, body = self.server.outside.answer(first[1].decode("latin-1"))
        self.wfile.write(b"HTTP/1.1 %d X\r\nContent-Type: application/json\r\nContent-Length: %d\r\n%s\r\n" % (status, len(body), b"Connection: close\r\n" if close else b"") + body)
        return not close
