"""What this machine can do for a proof: each with yes or no, the reason, and the command that would provide it."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Capability:
    name: str
    there: bool
    reason: str
    provide: str = ""


EXTRAS: Mapping[str, tuple[str, ...]] = {
    "web": ("starlette", "uvicorn", "httpx", "prometheus_client"), "crypto": ("cryptography",),
    "postgres": ("psycopg",), "redis": ("redis",),
}
NOT_BUILT: Mapping[str, str] = {
    "disk full": "comes with audit_log",
    "netem": "comes with telematics", "nft": "comes with telematics", "foreign clocks": "come with telematics",
}


def capability(name: str) -> Capability:
    """One capability by name. Unknown names are not there, and say so."""
    if name.startswith("extra:"):
        return _extra(name)
    if name in _PROBES:
        return _PROBES[name](name)
    if name in NOT_BUILT:
        return Capability(name, False, f"not built yet: {NOT_BUILT[name]}")
    return Capability(name, False, "no probe of this name")


def capabilities() -> list[Capability]:
    """All of them, for ``buttress doctor``."""
    return [capability(name) for name in (*_PROBES, *(f"extra:{extra}" for extra in EXTRAS), *NOT_BUILT)]


def _posix(name: str) -> Capability:
    there = os.name == "posix" and hasattr(os, "fork")
    return Capability(name, there, "signals and fork" if there else "needs POSIX signals and fork", "" if there else "Linux or macOS")


def _strace(name: str) -> Capability:
    binary = shutil.which("strace")
    if binary is None:
        return Capability(name, False, "strace is not installed", "apt-get install strace")
    try:
        done = subprocess.run([binary, "-f", "-qq", "-o", os.devnull, "-e", "trace=fsync", "-e", "inject=fsync:signal=SIGUSR1:when=9",
                               "--", shutil.which("true") or "true"], capture_output=True, timeout=10, check=False)
    except subprocess.TimeoutExpired:
        return Capability(name, False, "strace hangs here")
    if done.returncode != 0:
        return Capability(name, False, f"strace may not trace here (exit {done.returncode})", "allow ptrace of own children")
    return Capability(name, True, "traces its own children")


def _tool(command: str, provide: str) -> Callable[[str], Capability]:
    def probe(name: str) -> Capability:
        path = shutil.which(command)
        return Capability(name, path is not None, f"{command} found" if path else f"{command} is not on the PATH", "" if path else provide)

    return probe


def _userns(name: str) -> Capability:
    binary = shutil.which("unshare")
    if sys.platform != "linux" or binary is None:
        return Capability(name, False, "needs Linux and unshare", "apt-get install util-linux")
    try:
        done = subprocess.run([binary, "-Urn", "true"], capture_output=True, timeout=10, check=False)
    except subprocess.TimeoutExpired:
        return Capability(name, False, "unshare hangs here")
    return Capability(name, done.returncode == 0, "user and network namespaces" if done.returncode == 0 else "this kernel forbids user namespaces")


def _extra(name: str) -> Capability:
    extra = name.removeprefix("extra:")
    missing = [module for module in EXTRAS.get(extra, (extra,)) if importlib.util.find_spec(module) is None]
    if missing:
        return Capability(name, False, f"{', '.join(missing)} not installed", f"pip install 'buttress[{extra}]'")
    return Capability(name, True, "installed")


_PROBES: Mapping[str, Callable[[str], Capability]] = {
    "crash": _posix, "pause": _posix, "strace": _strace, "user namespaces": _userns,
    "node": _tool("node", "apt-get install nodejs npm"), "npm": _tool("npm", "apt-get install npm"),
    "go": _tool("go", "apt-get install golang-go"), "faketime": _tool("faketime", "apt-get install faketime"),
    "cc": _tool("cc", "apt-get install gcc"),
}
