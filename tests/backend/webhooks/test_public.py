"""The public door: its names, its example, its files."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
import tomllib
from importlib import import_module, resources

from buttress.backend import webhooks
from buttress.backend.webhooks.cli import cli


def test_every_exported_name_is_there():
    assert sorted(webhooks.__all__) == list(webhooks.__all__) == dir(webhooks)
    for name in webhooks.__all__:
        assert getattr(webhooks, name).__name__ == name


def test_the_example_runs(tmp_path):
    example = textwrap.dedent("\n".join(webhooks.__doc__.splitlines()[2:]))
    assert "import" in example
    done = subprocess.run([sys.executable, "-c", f"{example}\nassert (answer.status, answer.code) == (401, 'bad_signature'), answer"],
                          cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "inbox.db").exists()


def test_importing_it_imports_no_engine():
    code = "import sys, buttress.backend.webhooks, buttress.backend.webhooks.cli; print(*sys.modules)"
    loaded = set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True, env={**os.environ}).stdout.split())
    assert not loaded & {"msgspec", "sqlite3", "psycopg", "cryptography", "prometheus_client", "uvicorn", "starlette", "buttress.backend.webhooks.inbox"}


def test_the_index_and_the_verbs_agree():
    table = tomllib.loads(resources.files(webhooks).joinpath("system.toml").read_text())
    assert sorted(table["verbs"]) == sorted(cli.commands)
    assert len(table["finds"]) == 3
    readme = resources.files(webhooks).joinpath("README.md").read_text()
    for verb in table["verbs"]:
        assert f"buttress webhooks {verb}" in readme, verb
    for block in ("<!-- picture -->", "<!-- numbers:begin -->", "<!-- numbers:end -->"):
        assert block in readme
    assert table["maturity"] in readme.splitlines()[2]


def test_the_readmes_python_runs(tmp_path):
    """Each block on its own, in the order of the page, in one folder."""
    readme = resources.files(webhooks).joinpath("README.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", readme, re.S)
    assert len(blocks) >= 3
    for number, block in enumerate(blocks):
        done = subprocess.run([sys.executable, "-c", block], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
                              env={**os.environ, "STRIPE_SECRET": "whsec_of_this_test"})
        assert done.returncode == 0, (number, done.stderr)


def test_every_public_class_and_function_has_a_docstring():
    for name in ("app", "callee", "cli", "effects", "event", "gaps", "inbox", "ledger", "listing", "ordering", "signature", "worker"):
        module = import_module(f"buttress.backend.webhooks.{name}")
        assert module.__doc__
        for attribute, value in vars(module).items():
            if not attribute.startswith("_") and getattr(value, "__module__", "") == module.__name__ and callable(value) and not hasattr(value, "__origin__"):
                assert value.__doc__, f"{name}.{attribute}"
