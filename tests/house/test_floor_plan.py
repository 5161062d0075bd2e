"""One floor plan, forty times: the same few files, one public door, a README that says the same things in the same order."""

from __future__ import annotations

import ast
from importlib import import_module

from buttress.index import CONSTRAINTS, MATURITY

from .checkout import PROJECT, ROOT, parse, run_example

SECTIONS = ("What hurts", "What carries it now", "How it works", "Numbers", "Adopt", "Limits")


def test_the_files_that_every_system_has(system):
    there = {path.name for path in system.folder.iterdir()}
    assert {"__init__.py", "system.toml", "README.md", "cli.py"} <= there
    assert ("proof.py" in there) != ((system.folder / "proof" / "__init__.py").is_file()), "proof.py, or a folder of that name"
    assert (ROOT / "tests" / system.wing / system.name).is_dir(), "its tests mirror the source"


def test_the_public_door_is_sorted_and_every_name_is_there(system):
    door = import_module(system.package)
    assert door.__all__ == sorted(set(door.__all__))
    assert all(getattr(door, name) is not None for name in door.__all__)


def test_there_is_no_more_behind_the_public_door(system):
    door = import_module(system.package)
    assert dir(door) == door.__all__
    assert not any(name.startswith("_") for name in door.__all__)
    tree = parse(system.folder / "__init__.py")
    defined = [node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    assert defined == [], "__init__.py is the API and nothing else: code lies in modules named after the field's nouns"


def test_type_checkers_see_the_same_door(system):
    door = import_module(system.package)
    twin = [node for node in parse(system.folder / "__init__.py").body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    names = [alias.asname for block in twin for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names]
    assert sorted(map(str, names)) == door.__all__, "each name once, as `from ... import Name as Name`"


def test_the_example_of_the_docstring_runs(system, empty):
    run_example(import_module(system.package).__doc__ or "", system.name)


def test_the_readme_has_the_six_sections(system):
    lines = (system.folder / "README.md").read_text(encoding="utf-8").splitlines()
    assert lines[0] == f"# {system.name}"
    assert [line[3:] for line in lines if line.startswith("## ")] == list(SECTIONS)


def test_the_readme_begins_with_its_promise(system):
    lines = (system.folder / "README.md").read_text(encoding="utf-8").splitlines()
    first = next(line for line in lines[1:] if line.strip())
    assert system.maturity in first.lower(), f"the first line says that it is {system.maturity}"


def test_the_readme_holds_the_line_that_installs_it(system):
    assert f"pip install 'buttress[{system.name}]'" in (system.folder / "README.md").read_text(encoding="utf-8")


def test_system_toml_keeps_to_its_words(system):
    assert system.constraint in CONSTRAINTS
    assert system.maturity in MATURITY
    assert system.direction in ("less", "more")
    assert system.headline
    assert 0 < system.quick_s < 20, "quick aims at 5 s and stays under 20 s"
    assert len(set(system.finds)) == 3
    assert system.summary == system.summary.strip()
    assert not system.summary.endswith("."), "the summary is a phrase in lists: no full stop"
    assert "\n" not in system.summary
    assert system.since.count(".") == 2


def test_the_release_that_a_system_came_with_is_not_ahead_of_us(system):
    def numbers(version):
        return [int(part) for part in version.split(".")]

    assert numbers(system.since) <= numbers(PROJECT["project"]["version"])
