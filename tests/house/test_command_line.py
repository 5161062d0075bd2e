"""Every verb says what it does, in its help and in the reference; every exit code means one thing."""

from __future__ import annotations

import os
import re
from importlib import import_module
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from buttress.cli import cli as root_group

from .checkout import ROOT, SYSTEMS


def walk(command, path):
    """All commands of a tree, with the words that one types."""
    yield path, command
    if isinstance(command, click.Group):
        context = click.Context(command, info_name=path[-1])
        for name in command.list_commands(context):
            yield from walk(command.get_command(context, name), (*path, name))


COMMANDS = list(walk(root_group, ("buttress",)))
for _system in SYSTEMS:
    COMMANDS += walk(import_module(f"{_system.package}.cli").cli, ("buttress", _system.name))
every_command = pytest.mark.parametrize(("path", "command"), COMMANDS, ids=[" ".join(path) for path, _ in COMMANDS])


@every_command
def test_a_command_says_what_it_does(path, command):
    assert command.help
    assert command.help.strip().split("\n")[0].rstrip().endswith((".", "?")), "the first line is a sentence"


@every_command
def test_an_option_says_what_it_is_for(path, command):
    silent = [option.opts[-1] for option in command.params if isinstance(option, click.Option) and not option.hidden and not option.help]
    assert silent == []


@every_command
def test_the_reference_has_it(path, command):
    page = (ROOT / "docs" / "reference" / "cli.md").read_text(encoding="utf-8")
    assert re.search(rf"^#+ {re.escape(' '.join(path))}$", page, re.M) or path == ("buttress",)


def test_system_toml_names_the_verbs_that_there_are(system):
    group = import_module(f"{system.package}.cli").cli
    assert sorted(system.verbs) == sorted(group.list_commands(click.Context(group)))


# -- exit codes: what a proof may end with is tested in tests/proof/test_cli.py


@pytest.fixture
def broken(tmp_path: Path) -> str:
    """A folder for PYTHONPATH with a system of another distribution whose one verb raises."""
    site = tmp_path / "site"
    (site / "house_broken").mkdir(parents=True)
    (site / "house_broken" / "__init__.py").write_text("")
    (site / "house_broken" / "system.toml").write_text(
        'name = "house_broken"\nwing = "ops"\nconstraint = "cost"\nheadline = { text = "a", unit = "", direction = "less" }\nsummary = "a"\n'
        'finds = ["a", "b", "c"]\nmaturity = "experimental"\nsince = "0.1.0"\nverbs = ["fall", "find", "wonder"]\nextras = []\n')
    (site / "house_broken" / "cli.py").write_text(
        "import sys\nimport click\n@click.group()\ndef cli(): pass\n@cli.command()\ndef fall(): raise ZeroDivisionError('a bug')\n"
        "@cli.command()\ndef find(): sys.exit(1)\n@cli.command()\ndef wonder(): sys.exit(2)\n")
    info = site / "house_broken-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: house-broken\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[buttress.systems]\nhouse_broken = house_broken\n")
    return f"{site}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"


@pytest.mark.parametrize(("words", "code"), [
    ((), 0), (("--help",), 0), (("--version",), 0), (("list",), 0), (("list", "--all"), 0), (("doctor",), 0),
    (("house_broken", "find"), 1), (("house_broken", "wonder"), 2),
    (("show", "no_such_system"), 64), (("prove", "no_such_system"), 64), (("prove",), 64), (("no_such_system",), 64), (("list", "--no-such-option"), 64),
    (("new", "nowhere", "name"), 64), (("house_broken", "no_such_verb"), 64),
    (("house_broken", "fall"), 70),
])
def test_the_exit_code_means_one_thing(buttress, broken, words, code):
    done = buttress(*words, PYTHONPATH=broken)
    assert done.returncode == code, done.stdout + done.stderr
    if code == 64:
        assert "Traceback" not in done.stderr
        assert done.stderr.strip()
    if code == 70:
        assert "ZeroDivisionError: a bug" in done.stderr


def test_a_system_of_another_distribution_is_listed_on_request_only(buttress, broken):
    assert "house_broken" in buttress("list", "--all", PYTHONPATH=broken).stdout
    assert "house_broken" not in buttress("list", PYTHONPATH=broken).stdout


def test_every_system_is_listed_and_can_be_shown(system, tmp_path, monkeypatch):
    monkeypatch.setenv("BUTTRESS_STATE", str(tmp_path))

    def said(*words):
        done = CliRunner().invoke(root_group, words)
        assert done.exit_code == 0, done.output
        return done.output

    for words in ((), ("--constraint", system.constraint), ("--find", system.finds[0])):
        assert system.name in said("list", *words)
    shown = said("show", system.name)
    assert system.maturity in shown
    assert f"pip install 'buttress[{system.name}]'" in shown
    assert "Protocol" in said("show", system.name, "--port")
