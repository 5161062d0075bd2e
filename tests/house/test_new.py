"""``buttress new`` lays out a system that passes everything a system must pass, from the first commit."""

from __future__ import annotations

import json

import pytest

pytestmark = pytest.mark.xdist_group("checkout")
WING, NAME = "data", "fresh_idea"


@pytest.fixture(scope="module")
def laid_out(checkout):
    """The copy, with a new system in a wing that may not be there yet."""
    said = checkout.done("buttress", "new", WING, NAME, "--constraint", "latency")
    assert f"src/buttress/{WING}/{NAME}/__init__.py" in said
    return checkout


def test_style(laid_out):
    laid_out.done("ruff", "check", "--no-cache", f"src/buttress/{WING}", f"tests/{WING}")


def test_types(laid_out):
    laid_out.done("mypy", "--strict", "-p", f"buttress.{WING}.{NAME}", "--follow-imports=silent")


def test_import_rules(laid_out):
    laid_out.done("lint-imports", "--no-cache")


def test_its_own_tests(laid_out):
    laid_out.done("python", "-m", "pytest", "-q", "-p", "no:cacheprovider", f"tests/{WING}/{NAME}")


def test_its_proof_passes(laid_out):
    result = json.loads(laid_out.done("buttress", "prove", NAME, "--json"))
    assert result["verdict"] == "pass"
    assert all(control["awake"] for control in result["controls"])


def test_it_is_found(laid_out):
    assert NAME in laid_out.done("buttress", "list", "--constraint", "latency")
    assert laid_out.done("buttress", NAME, "--help")


def test_a_second_one_of_the_same_name_is_refused_and_nothing_is_written(laid_out):
    before = sorted(laid_out.folder.rglob("*.py"))
    done = laid_out("buttress", "new", WING, NAME)
    assert done.returncode == 64
    assert "has a system of this name" in done.stderr
    assert sorted(laid_out.folder.rglob("*.py")) == before


def test_the_documents_take_it_in(laid_out):
    laid_out.done("python", "scripts/docs.py")
    laid_out.done("python", "scripts/docs.py", "--check")
    assert f"[{NAME}]" in (laid_out.folder / "docs" / "reference" / "systems.md").read_text()


def test_the_house_accepts_it(laid_out):
    """The floor plan, the imports, the claims, the help: this folder's own tests, in the copy, about the new system."""
    laid_out.done("python", "scripts/docs.py")
    files = [f"tests/house/test_{name}.py" for name in ("floor_plan", "imports", "claims", "command_line")]
    laid_out.done("python", "-m", "pytest", "-q", "-p", "no:cacheprovider", *files, "-k", NAME)
