"""Who imports what: looking is cheap, parts are declared, wings do not know each other."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest

from .checkout import (
    CORE,
    DISTRIBUTIONS,
    EXTRAS,
    PROJECT,
    ROOT,
    SOURCE,
    SYSTEMS,
    WINGS_HERE,
    engine_of,
    extra,
    imports,
    proof_of,
    third_party,
)


def modules(*argv):
    """The names of all modules that a fresh interpreter imported, read from ``-X importtime``: not their times, those are goals."""
    done = subprocess.run([sys.executable, "-X", "importtime", *argv], capture_output=True, text=True, timeout=60, cwd=ROOT, check=False)
    assert done.returncode in (0, 64), done.stderr
    return re.findall(r"^import time:\s+\d+ \|\s+\d+ \|\s*(\S+)$", done.stderr, re.M)


@pytest.fixture(scope="module")
def always():
    """What this interpreter imports before it runs anything."""
    return set(modules("-c", "pass"))


def foreign(names, always, allowed=()):
    """The packages of others among them. (A name that nobody installed was asked for and not found.)"""
    tops = {name.split(".")[0] for name in names if name not in always} & set(DISTRIBUTIONS)
    return sorted(tops - {"buttress", *allowed})


def test_importing_the_package_imports_nothing_of_others(always):
    names = modules("-c", "import buttress")
    assert foreign(names, always) == []
    assert [name for name in names if name.startswith("buttress")] == ["buttress"]


@pytest.mark.parametrize("words", [("--help",), ("prove", "--help"), ("list",), ("no_such_word",)])
def test_looking_imports_click_and_nothing_else(always, words):
    assert foreign(modules("-m", "buttress", *words), always, allowed=["click"]) == []


def test_doors_and_verbs_of_systems_import_click_and_nothing_else():
    """One interpreter for all of them: after each import, what is new among the packages of others."""
    code = """
import importlib, json, sys
found, known = {}, set(json.loads(sys.argv[1]))
for name in json.loads(sys.argv[2]):
    before = set(sys.modules)
    importlib.import_module(name)
    new = sorted({module.split(".")[0] for module in set(sys.modules) - before} & known)
    if new:
        found[name] = new
print(json.dumps(found))
"""
    others = sorted(set(DISTRIBUTIONS) - {"buttress", "click"})
    names = [name for system in SYSTEMS for name in (system.package, f"{system.package}.cli")]
    done = subprocess.run([sys.executable, "-c", code, json.dumps(others), json.dumps(names)], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {}


# -- declared parts


def test_a_system_has_an_extra_of_its_own_name(system):
    assert system.name in EXTRAS
    assert set(system.extras) <= EXTRAS, "system.toml names extras that pyproject.toml does not"


def test_all_that_a_component_imports_is_in_its_extra(system):
    """A backend's driver is in an extra of its own, which ``system.toml`` names or the driver's own name gives."""
    pulled = CORE | extra(system.name)
    backends = pulled.union(*(extra(name) for name in system.extras))
    missing = {}
    for path in engine_of(system):
        is_backend = "backends" in path.relative_to(system.folder).parts
        for distribution, module in third_party(imports(path)).items():
            if distribution not in (backends if is_backend else pulled):
                missing[f"{path.relative_to(ROOT)}: {module}"] = f"{distribution} is in no extra that buttress[{system.name}] pulls"
    assert missing == {}


def test_all_that_a_quick_proof_imports_is_in_prove(system):
    allowed = CORE | extra("prove")
    missing = {f"{path.relative_to(ROOT)}: {module}": f"{distribution} is not in buttress[prove]"
               for path in proof_of(system) for distribution, module in third_party(imports(path, top=True)).items() if distribution not in allowed}
    assert missing == {}


def test_all_else_that_a_proof_imports_is_what_its_full_claims_need(system):
    from buttress.cli import load_proof

    proof = load_proof(system)
    needs = {need.removeprefix("extra:") for part in (*proof.claims, *proof.subjects) if part.scale == "full" for need in part.needs}
    allowed = CORE | extra("prove") | extra(system.name).union(*(extra(need) for need in needs))
    missing = {f"{path.relative_to(ROOT)}: {module}": f"{distribution} is neither in buttress[prove] nor needed by a claim of scale full"
               for path in proof_of(system) for distribution, module in third_party(imports(path)).items() if distribution not in allowed}
    assert missing == {}


@pytest.mark.parametrize("folder", ["kernel", "proof", "testing", "servers"])
def test_the_rest_of_the_house_imports_what_an_extra_declares(folder):
    everything = CORE.union(*(extra(name) for name in EXTRAS - {"dev"}))
    missing = {f"{path.relative_to(ROOT)}: {module}": distribution for path in sorted((SOURCE / folder).rglob("*.py"))
               for distribution, module in third_party(imports(path)).items() if distribution not in everything}
    assert missing == {}


@pytest.mark.parametrize("folder", ["kernel", "proof", "testing"])
def test_the_core_alone_is_enough_to_import_the_rest_of_the_house(folder):
    missing = {f"{path.relative_to(ROOT)}: {module}": distribution for path in sorted((SOURCE / folder).rglob("*.py"))
               for distribution, module in third_party(imports(path, top=True)).items() if distribution not in CORE}
    assert missing == {}


def test_prove_stays_small():
    assert extra("prove").isdisjoint({"scipy", "scikit-learn", "ortools", "duckdb", "pyarrow"})


def test_all_pulls_every_extra_but_those_for_work_on_the_house():
    wanted = set().union(*(extra(name) for name in EXTRAS - {"dev", "all"}))
    assert wanted <= extra("all")


# -- wings


@pytest.mark.parametrize("wing", WINGS_HERE)
def test_no_wing_imports_another(wing):
    others = tuple(f"buttress.{other}" for other in WINGS_HERE if other != wing)
    found = [f"{path.relative_to(ROOT)}: {name}" for path in sorted((SOURCE / wing).rglob("*.py")) for name in imports(path)
             if any(name == other or name.startswith(f"{other}.") for other in others)]
    assert found == []


@pytest.mark.parametrize("wing", WINGS_HERE)
def test_the_import_rules_know_every_wing(wing):
    """import-linter takes names, not patterns: a new wing must be named, or no rule holds there."""
    contracts = PROJECT["tool"]["importlinter"]["contracts"]
    silent = [contract["name"] for contract in contracts
              if f"buttress.{wing}" not in [*contract.get("modules", ()), *contract.get("source_modules", ()), *contract.get("forbidden_modules", ())]]
    assert silent == []


def test_a_component_does_not_import_its_proof(system):
    proof = (f"{system.package}.proof", f"{system.package}.world", "buttress.proof", "buttress.servers", "buttress.console")
    found = [f"{path.relative_to(ROOT)}: {name}" for path in engine_of(system) if path.name != "cli.py" for name in imports(path)
             if any(name == one or name.startswith(f"{one}.") for one in proof)]
    assert found == []
