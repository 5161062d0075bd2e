"""A peer's own parts: brought into the state folder on request, never into our environment, never during a proof.

``pip:authlib==1.3.0`` goes into a virtual environment of the peer's, ``npm:jsonwebtoken@8.5.1`` into a folder of its own.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from buttress.kernel.errors import ButtressError, InvalidInput
from buttress.proof.state import state_folder

TIMEOUT_S = 900


class FetchFailed(ButtressError):
    """A package manager said no. The message ends with its last lines."""

    code = "fetch_failed"


def parts_folder(peer: str) -> Path:
    """Where a peer's parts lie, or would lie."""
    return state_folder() / "parts" / re.sub(r"[^A-Za-z0-9_.-]", "_", peer)


def python_of(peer: str) -> Path | None:
    """The interpreter of a peer's environment, if it was fetched."""
    path = parts_folder(peer) / "venv" / "bin" / "python"
    return path if path.exists() and (parts_folder(peer) / "fetched").exists() else None


def fetched(peer: str, parts: Sequence[str]) -> bool:
    mark = parts_folder(peer) / "fetched"
    return mark.exists() and mark.read_text().split("\n") == list(parts)


def fetch(peer: str, parts: Sequence[str], say: Callable[[str], None] = lambda _: None) -> Path:
    """Installs them; returns the folder. Raises InvalidInput for a kind that it does not know, FetchFailed when one fails."""
    place = parts_folder(peer)
    kinds = {kind: [p.partition(":")[2] for p in parts if p.startswith(f"{kind}:")] for kind in ("pip", "npm", "deb", "go")}
    unknown = [p for p in parts if p.partition(":")[0] not in kinds]
    if unknown:
        raise InvalidInput("parts", unknown, "must be pip:, npm:, deb: or go:")
    place.mkdir(parents=True, exist_ok=True)
    (place / "fetched").unlink(missing_ok=True)
    if kinds["pip"]:
        say(f"{peer}: a virtual environment with {', '.join(kinds['pip'])}")
        _run([sys.executable, "-m", "venv", str(place / "venv")])
        _run([str(place / "venv" / "bin" / "pip"), "install", "-q", "--disable-pip-version-check", *kinds["pip"]])
    if kinds["npm"]:
        say(f"{peer}: {', '.join(kinds['npm'])}")
        _run(["npm", "install", "--no-package-lock", "--no-audit", "--no-fund", "--prefix", str(place), *kinds["npm"]])
    for package in kinds["deb"]:
        if shutil.which("dpkg") is None or subprocess.run(["dpkg", "-s", package], capture_output=True, check=False).returncode != 0:
            raise FetchFailed(f"{peer} needs the Debian package {package}", fix=f"apt-get install {package}")
    for module in kinds["go"]:
        say(f"{peer}: {module}")
        _run(["go", "install", module], {"GOBIN": str(place / "bin")})
    (place / "fetched").write_text("\n".join(parts))
    return place


def _run(argv: Sequence[str], env: dict[str, str] | None = None) -> None:
    try:
        done = subprocess.run(list(argv), capture_output=True, text=True, timeout=TIMEOUT_S, check=False, env={**os.environ, **(env or {})})
    except FileNotFoundError as missing:
        raise FetchFailed(f"{argv[0]} is not installed") from missing
    if done.returncode != 0:
        raise FetchFailed(f"{Path(argv[0]).name} failed: {(done.stderr or done.stdout).strip()[-400:]}")
