"""README.md, the examples and the tests name the same things."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import EXAMPLES, README, ROOT, commands

RUN_BY_TESTS = {"webhooks/receiver.py", "webhooks/receiver.js", "webhooks/shop_fastapi", "webhooks/shop_django", "webhooks/go"}


def test_every_command_is_run_by_a_test_and_every_example_has_one():
    assert set(commands()) == RUN_BY_TESTS
    known = {name.partition("/")[2] for name in RUN_BY_TESTS} | {"fresh_schema.py"}
    assert {path.name for path in EXAMPLES.iterdir() if path.name != "__pycache__"} == known
    assert all(name in README.read_text(encoding="utf-8") for name in known)


def test_the_migration_of_the_django_shop_holds_what_the_command_prints():
    kept = EXAMPLES / "shop_django" / "shop" / "migrations" / "0002_webhooks.sql"
    done = subprocess.run([sys.executable, "-m", "buttress", "webhooks", "schema"], capture_output=True, text=True, timeout=60, check=True)
    assert kept.read_text(encoding="utf-8") == done.stdout, f"buttress webhooks schema > {kept.relative_to(ROOT)}"


def test_the_migrations_of_the_django_shop_match_its_models():
    pytest.importorskip("django", reason="needs django: pip install django")
    pytest.importorskip("psycopg", reason="needs psycopg: pip install 'buttress[postgres]'")
    names = {"DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none", "SECRET_KEY": "of-a-test", "WEBHOOK_SECRET": "none",
             "ORDERS_URL": "none", "EMAILS_URL": "none", "CREDITS_URL": "none"}
    done = subprocess.run([sys.executable, "manage.py", "makemigrations", "--check", "--dry-run"], cwd=EXAMPLES / "shop_django", timeout=60,
                          env={**os.environ, **names}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", sorted(p for p in EXAMPLES.rglob("*") if p.suffix in (".py", ".js", ".go", ".sh")), ids=lambda p: p.name)
def test_what_ships_knows_nothing_of_proofs_and_tests(path: Path):
    """A shop uses the component; only receivers that are spoken to by line, and the one wrapper, know a proof's variables."""
    text = path.read_text(encoding="utf-8")
    assert not any(word in text for word in ("buttress.proof", "buttress.servers", "buttress.testing", "pytest"))
    if path.name not in ("receiver.js", "fresh_schema.py"):
        assert "BUTTRESS_" not in text
