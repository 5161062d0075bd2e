"""A key set of nobody's on a loopback port: what a gateway that follows jku, x5u or a kid would fetch. Only a gateway on this machine reaches it."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from buttress.identity.jwt_gate.probe.forge import nobodys_certificate, nobodys_rsa
from buttress.identity.jwt_gate.probe.forms import jwk_of


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/nobody.pem":
            kind, body = "application/x-pem-file", x509.load_der_x509_certificate(nobodys_certificate()).public_bytes(Encoding.PEM)
        else:
            kind, body = "application/json", json.dumps({"keys": [jwk_of(nobodys_rsa().public_key(), kid="nobody", alg="RS256")]}).encode()
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        return


@contextlib.contextmanager
def serving() -> Iterator[str]:
    """Yields the base URL."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(timeout=5)
