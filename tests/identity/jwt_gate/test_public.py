"""The public door, the page and the index agree; the page's programs run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from importlib import import_module, resources

from buttress.identity import jwt_gate
from buttress.identity.jwt_gate.cli import cli
from buttress.identity.jwt_gate.proof import peers

MODULES = ("app", "claims", "cli", "gate", "hmac_guard", "jwks", "keys", "refusal", "source", "strict", "verifier", "world",
           "probe.callback", "probe.catalogue", "probe.forge", "probe.forms", "probe.judge", "probe.report", "probe.target")


def test_every_exported_name_is_there_and_there_are_at_most_twelve():
    assert sorted(jwt_gate.__all__) == list(jwt_gate.__all__) == dir(jwt_gate)
    assert len(jwt_gate.__all__) <= 12
    for name in jwt_gate.__all__:
        assert getattr(jwt_gate, name).__name__ == name


def test_importing_it_imports_no_engine():
    code = "import sys, buttress.identity.jwt_gate, buttress.identity.jwt_gate.cli; print(*sys.modules)"
    loaded = set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True).stdout.split())
    assert not loaded & {"msgspec", "cryptography", "prometheus_client", "uvicorn", "buttress.identity.jwt_gate.verifier"}


def test_the_verifier_needs_neither_probe_nor_proof_nor_a_framework():
    code = "import sys; from buttress.identity.jwt_gate import Verifier, JwksProvider, JwtGate; print(*sys.modules)"
    loaded = set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True).stdout.split())
    assert not [name for name in loaded if name.startswith(("buttress.proof", "buttress.servers", "buttress.identity.jwt_gate.p", "uvicorn", "starlette", "httpx"))]


def test_the_index_the_verbs_and_the_page_agree():
    table = tomllib.loads(resources.files(jwt_gate).joinpath("system.toml").read_text())
    assert sorted(table["verbs"]) == sorted(cli.commands)
    readme = resources.files(jwt_gate).joinpath("README.md").read_text()
    for verb in table["verbs"]:
        assert f"buttress jwt_gate {verb}" in readme, verb
    assert {name: tuple(peer["parts"]) for name, peer in table["peers"].items()} == {s.name: s.parts for s in peers.SUBJECTS if s.parts}


def test_the_readmes_python_runs(tmp_path):
    """Each block on its own, in the order of the page, in one folder."""
    readme = resources.files(jwt_gate).joinpath("README.md").read_text()
    blocks = re.findall(r"```python[^\n]*\n(.*?)```", readme, re.S)
    assert len(blocks) >= 3
    for number, block in enumerate(blocks):
        done = subprocess.run([sys.executable, "-c", block], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False, env={**os.environ})
        assert done.returncode == 0, (number, done.stderr)


def test_every_public_class_and_function_has_a_docstring():
    missing = []
    for name in MODULES:
        module = import_module(f"buttress.identity.jwt_gate.{name}")
        assert module.__doc__, name
        for attribute, value in vars(module).items():
            ours = callable(value) and getattr(value, "__module__", "") == module.__name__ and not hasattr(value, "__origin__")
            if ours and not attribute.startswith("_") and not value.__doc__:
                missing.append(f"{name}.{attribute}")
    assert missing == []
