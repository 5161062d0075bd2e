"""The built wheel, as an adopter installs it; and what attacks, which never rides along."""

from __future__ import annotations

import json
import re
import zipfile
from importlib import import_module

import pytest

from .checkout import ROOT, SOURCE, SYSTEMS, example

RUN_EXAMPLE = """
import doctest, importlib, sys
if len(sys.argv) > 1:
    door = importlib.import_module(sys.argv[1])
    assert all(getattr(door, name) is not None for name in door.__all__)
code = open("example.txt").read()
if ">>>" in code:
    runner = doctest.DocTestRunner(verbose=False)
    runner.run(doctest.DocTestParser().get_doctest(code, {}, "example", None, 0))
    sys.exit(1 if runner.failures else 0)
exec(compile(code, "example", "exec"), {"__name__": "example"})
"""
HELP = """
import importlib, sys
import click
from click.testing import CliRunner
def walk(command, words):
    done = CliRunner().invoke(group, [*words, "--help"])
    assert done.exit_code == 0, (words, done.output, done.exception)
    for name, verb in getattr(command, "commands", {}).items():
        walk(verb, [*words, name])
for module in sys.argv[1:]:
    group = importlib.import_module(module).cli
    walk(group, [])
"""


@pytest.fixture
def run_example(tmp_path):
    """``run_example(environment, code, system)`` touches every public name and runs an example, in a folder of its own."""
    def go(environment, code, system=None):
        (tmp_path / "example.txt").write_text(code)
        done = environment("python", "-c", RUN_EXAMPLE, *([system.package] if system else []), cwd=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr

    return go


def docstring(system):
    return import_module(system.package).__doc__ or ""


# -- what is in it


def test_it_carries_its_data(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    data = [path for pattern in ("system.toml", "README.md", "*.css", "*.lua", "*.sql", "*.svg", "py.typed") for path in SOURCE.rglob(pattern)]
    missing = [str(path.relative_to(SOURCE.parent)) for path in data if path.relative_to(SOURCE.parent).as_posix() not in names]
    assert missing == []


def test_it_carries_the_committed_results(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {f"buttress/_proofs/{path.name}" for path in (ROOT / "proofs").glob("*.json")} == {n for n in names if n.startswith("buttress/_proofs/")}


def test_it_carries_every_module_and_nothing_else(wheel):
    names = {name for name in zipfile.ZipFile(wheel).namelist() if name.endswith(".py")}
    assert names == {path.relative_to(SOURCE.parent).as_posix() for path in SOURCE.rglob("*.py")}


# -- the core alone


def test_the_core_alone_lists_and_helps(bare, tmp_path):
    for words in (("list",), ("--help",), ("--version",), ("list", "--json")):
        done = bare("buttress", *words, cwd=tmp_path)
        assert done.returncode == 0, done.stderr


def test_the_core_alone_shows_every_system(bare, tmp_path):
    assert {row["name"] for row in json.loads(bare("buttress", "list", "--json", cwd=tmp_path).stdout)} == {system.name for system in SYSTEMS}
    for system in SYSTEMS[:1]:
        assert bare("buttress", "show", system.name, cwd=tmp_path).returncode == 0


def test_the_core_alone_proves_what_it_can_within_a_budget(bare, tmp_path):
    """A budget of next to nothing: everything is *not run*, with its command, and that is no failure."""
    done = bare("buttress", "prove", "--all", "--budget", "0.01", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_name_whose_parts_are_not_installed_says_which_command_installs_them(bare, tmp_path):
    """Each public name either works with the core alone, or raises MissingExtra with the pip command; nothing else."""
    code = """
import importlib, json, sys
from buttress.kernel.errors import MissingExtra
said = {}
for package in sys.argv[1:]:
    door = importlib.import_module(package)
    for name in door.__all__:
        try:
            getattr(door, name)
        except MissingExtra as missing:
            said[f"{package}.{name}"] = missing.fix
print(json.dumps(said))
"""
    done = bare("python", "-c", code, *(system.package for system in SYSTEMS), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    installs = {system.package: f"pip install 'buttress[{system.name}]'" for system in SYSTEMS}
    assert [name for name, fix in json.loads(done.stdout).items() if fix != installs[name.rpartition(".")[0]]] == []


def test_an_extra_that_is_missing_is_named(bare, tmp_path):
    """Postgres is a driver that the core does not have."""
    code = "from buttress.kernel.store.postgres import PostgresStore; PostgresStore('postgresql://127.0.0.1:9/x').setup()"
    done = bare("python", "-c", code, cwd=tmp_path)
    assert "MissingExtra" in done.stderr
    assert "pip install 'buttress[postgres]'" in done.stderr


# -- adopted


def front_page(pattern):
    if not SYSTEMS:
        pytest.skip("needs a system: the front page speaks of one")
    return re.findall(pattern, (ROOT / "README.md").read_text(encoding="utf-8"), re.M | re.S)


def test_the_install_lines_of_the_front_page_are_the_ones_that_are_run_here():
    lines = front_page(r"^pip install 'buttress\[([\w,]+)\]'$")
    assert lines, "the front page holds the line that this file runs from the wheel"
    assert {name for line in lines for name in line.split(",")} <= {system.name for system in SYSTEMS}


def test_the_example_of_the_front_page_runs_where_it_was_adopted(adopted, run_example):
    run_example(adopted, front_page(r"^```python\n(.*?)^```$")[0])


def test_every_name_is_there_and_the_example_runs_where_it_was_adopted(adopted, system, run_example):
    run_example(adopted, example(docstring(system)), system)


def test_the_verbs_help_where_they_were_adopted(adopted, tmp_path):
    done = adopted("python", "-c", HELP, *(f"{s.package}.cli" for s in SYSTEMS), cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_accepted_result_is_shown_where_it_was_adopted(adopted, system, tmp_path):
    if not (ROOT / "proofs" / f"{system.name}.json").exists():
        pytest.skip(f"nothing is committed: buttress prove {system.name} --scale full --accept")
    assert "accepted" in adopted("buttress", "show", system.name, cwd=tmp_path).stdout


# -- what attacks never rides along


def test_the_component_works_without_what_attacks(stripped, system, run_example):
    assert not (stripped.package / "proof").exists()
    run_example(stripped, example(docstring(system)), system)


def test_the_verbs_help_without_what_attacks(stripped, tmp_path):
    done = stripped("python", "-c", HELP, *(f"{s.package}.cli" for s in SYSTEMS), cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_proof_that_was_deleted_has_no_verdict(stripped, tmp_path):
    done = stripped("python", "-m", "buttress", "prove", SYSTEMS[0].name if SYSTEMS else "none", cwd=tmp_path)
    assert done.returncode in (64, 70)
    assert done.stdout == ""
