"""Well-known tools, each in one file that its maintainer can correct. Hosted in environments of their own, never in ours."""

from __future__ import annotations

from pathlib import Path

from buttress.proof import Subject

HERE = Path(__file__).parent
SERVING = ("pip:uvicorn==0.54.0", "pip:uvloop==0.23.0", "pip:httptools==0.9.0")  # for the race
MIDDLEWARE = ("pip:asgi-idempotency-header==0.2.0", "pip:fastapi==0.165.0", "pip:redis==8.1.0", *SERVING)
KIT = ("pip:idempotency-kit[redis]==0.5.0", "pip:redis==8.1.0", *SERVING)

SUBJECTS = (
    Subject("asgi-idempotency-header", f"{HERE / 'asgi_idempotency_header.py'}:factory", "peer", needs=("redis",), parts=MIDDLEWARE, scale="full",
            about="ASGI middleware 0.2.0 on Redis"),
    Subject("idempotency-kit", f"{HERE / 'idempotencykit.py'}:factory", "peer", needs=("redis",), parts=KIT, scale="full", about="decorator 0.5.0 on Redis"),
)
RACING = {"asgi-idempotency-header": f"{HERE / 'asgi_idempotency_header.py'}:serve", "idempotency-kit": f"{HERE / 'idempotencykit.py'}:serve"}
