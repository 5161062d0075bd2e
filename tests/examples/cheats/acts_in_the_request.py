"""A service that verifies nothing, acts inside the request and remembers nothing: what is delivered again is done again."""

import json
import sys
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PORT, CALLEES = int(sys.argv[1]), dict(zip(("orders", "emails", "credits"), sys.argv[2:], strict=True))


class Webhooks(BaseHTTPRequestHandler):
    def do_POST(self):
        event = json.loads(self.rfile.read(int(self.headers["content-length"])))
        payment = event["data"].get("payment")
        for name, url in CALLEES.items() if payment else ():
            body = json.dumps({"reference": f"{name}:{payment}"}).encode()
            urllib.request.urlopen(urllib.request.Request(url, body, {"Content-Type": "application/json"}), timeout=10).close()
        self.send_response(200)
        self.end_headers()

    def do_GET(self):
        self.send_response(200)
        self.end_headers()


ThreadingHTTPServer(("127.0.0.1", PORT), Webhooks).serve_forever()
