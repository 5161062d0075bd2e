"""The documents do what they say: blocks marked ``run`` are run, and every command line in them is one that there is.

A block's first line says how: ``python run`` and ``sh run`` are run in order, in one folder a page (``exit=N``: with that exit code);
``file=NAME`` is written there first; ``text out`` is what the run before it printed, where ``...`` stands for anything. ``needs=NAME``
starts a story of its own, run where that is there; ``in=checkout`` runs in a copy of this checkout; ``full`` takes long, and runs
with ``-m full``.
"""

from __future__ import annotations

import os
import re
import shlex
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import click
import pytest

from buttress.cli import cli

from .checkout import ROOT, SYSTEMS
from .conftest import run

PAGES = [*sorted((ROOT / "docs").glob("*.md")), ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(s.folder / "README.md" for s in SYSTEMS)]
ADOPTED = any(system.name == "webhooks" for system in SYSTEMS)
FENCE = re.compile(r"^```(\w+)([^\n`]*)\n(.*?)^```$", re.M | re.S)


@dataclass(frozen=True)
class Block:
    """One fenced block, with the words of its first line."""

    page: Path
    line: int
    language: str
    text: str
    words: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(page: Path) -> Iterator[Block]:
    text = page.read_text(encoding="utf-8") if page.is_file() else ""
    for match in FENCE.finditer(text):
        words = {word.partition("=")[0]: word.partition("=")[2] for word in match[2].split()}
        yield Block(page, text.count("\n", 0, match.start()) + 1, match[1], match[3], words)


BLOCKS = [block for page in PAGES for block in blocks(page)]


def stories() -> Iterator[tuple[str, list[Block]]]:
    """Blocks that belong together: those of a page that need the same, in their order."""
    for page in PAGES:
        told: dict[tuple[str, ...], list[Block]] = {}
        for block in blocks(page):
            kind = tuple(f"{word}={block.words[word]}" if block.words[word] else word for word in ("needs", "in", "full") if word in block.words)
            if {"run", "file", "out"} & set(block.words):
                told.setdefault(kind, []).append(block)
        for kind, story in told.items():
            if any("run" in block.words for block in story):
                yield " ".join([str(page.relative_to(ROOT)), *kind]), story


def marks(*story: Block) -> list[pytest.MarkDecorator]:
    words, text = story[0].words, " ".join(block.text for block in story)
    return [*([pytest.mark.full] if "full" in words else []), *([pytest.mark.xdist_group("checkout")] if "in" in words else []),
            *([pytest.mark.skip("the pages speak of webhooks, which is not here")] if "webhooks" in text and not ADOPTED else [])]


@pytest.mark.parametrize("story", [pytest.param(story, id=name, marks=marks(*story)) for name, story in stories()])
def test_a_page_does_what_it_says(story, request, tmp_path):
    words, env, folder = story[0].words, {"BUTTRESS_STATE": str(tmp_path / "state")}, tmp_path / "page"
    folder.mkdir()
    if "full" in words and "full" not in (request.config.option.markexpr or ""):
        pytest.skip(f"takes long: pytest tests/house/test_docs.py -m full (from {story[0]})")
    if "in" in words:
        copy = request.getfixturevalue("checkout")
        folder, env["PYTHONPATH"] = copy.folder, str(copy.folder / "src")
    if words.get("needs") == "postgres":
        env["SHOP_DSN"] = request.getfixturevalue("shop_dsn")
    env["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    said = ""
    for block in story:
        if "file" in block.words:
            (folder / block.words["file"]).write_text(block.text)
        elif "out" in block.words:
            pattern = re.escape(block.text.strip()).replace(re.escape("..."), ".*")
            assert re.fullmatch(pattern, said.strip(), re.S), f"{block} says\n{block.text}\nand was\n{said}"
        elif "run" in block.words:
            argv = [sys.executable, "-c", block.text] if block.language == "python" else ["sh", "-eu", "-c", block.text]
            done = run(*argv, cwd=folder, **env)
            said = done.stdout
            wanted = int(block.words.get("exit") or 0)
            assert done.returncode in (wanted, wanted - 128 if wanted > 128 else wanted), f"{block} ended with {done.returncode}\n{said}\n{done.stderr}"


@pytest.fixture
def shop_dsn(postgres_server):
    """A database of our own on a real Postgres."""
    with postgres_server.database() as url:
        yield url


# -- what is not run is at least what there is


@pytest.mark.parametrize("block", [pytest.param(b, id=str(b)) for b in BLOCKS if b.language == "python"])
def test_python_is_python(block):
    """A part of a function is taken for one."""
    try:
        compile(block.text, str(block), "exec")
    except SyntaxError:
        compile("def part():\n" + textwrap.indent(block.text, "    "), str(block), "exec")


def command_lines(block: Block) -> Iterator[list[str]]:
    """The ``buttress ...`` lines of a shell block, as words."""
    for line in shlex_lines(block.text):
        try:
            words = shlex.split(line, comments=True)
        except ValueError as error:
            raise AssertionError(f"{block}: {line!r}: {error}") from error
        while words and (words[0] in ("env",) or re.fullmatch(r"[A-Z_]+=.*", words[0])):
            words.pop(0)
        if words and words[0].split("/")[-1] == "buttress":
            stop = next((n for n, word in enumerate(words) if word in ("|", ">", ">>", "&&", "||", ";", "&", "2>")), len(words))
            yield words[1:stop]


def shlex_lines(text: str) -> Iterator[str]:
    """Lines as a shell reads them: joined at a backslash and inside quotes."""
    held = ""
    for line in text.splitlines():
        held = f"{held}{line}"
        if held.endswith("\\"):
            held = held[:-1] + " "
            continue
        try:
            shlex.split(held, comments=True)
        except ValueError:
            held += "\n"
            continue
        yield held
        held = ""
    if held:
        yield held


@pytest.mark.parametrize("block", [pytest.param(b, id=str(b), marks=marks(b)) for b in BLOCKS if b.language in ("sh", "bash", "yaml")])
def test_every_command_line_is_one_that_there_is(block, monkeypatch):
    """Parsed by click, down to the last option, and not run. ``NAME`` and other words in capitals stand for what one puts there."""
    text = "\n".join(re.findall(r"^\s*(?:- )?run: (?:\| *\n)?(.*)$", block.text, re.M)) if block.language == "yaml" else block.text
    for name, value in re.findall(r"^export (\w+)=(\S+)", text, re.M):
        monkeypatch.setenv(name, value)
    for words in command_lines(Block(block.page, block.line, block.language, text)):
        parse(words, block)


def parse(words: list[str], block: Block) -> None:
    command, context = cli, click.Context(cli, info_name="buttress")
    rest = list(words)
    while isinstance(command, click.Group) and rest and not rest[0].startswith("-"):
        name = rest.pop(0)
        if name == "SYSTEM" or name == "NAME":
            return
        try:
            found = command.get_command(context, name)
        except click.ClickException as error:
            raise AssertionError(f"{block}: buttress {shlex.join(words)}: {error.message}") from error
        assert found is not None, f"{block}: buttress {shlex.join(words)}: there is no {name}"
        command, context = found, click.Context(found, info_name=name, parent=context)
    if {"--help", "-h", "--version"} & set(rest):
        return
    try:
        command.make_context(command.name, [re.sub(r"^(N|S)$", "7", word) for word in rest], parent=context, resilient_parsing=False)
    except click.BadParameter as error:
        if "does not exist" not in error.message and "No such file" not in error.message:  # files of the reader's
            raise AssertionError(f"{block}: buttress {shlex.join(words)}: {error.format_message()}") from error
    except click.ClickException as error:
        raise AssertionError(f"{block}: buttress {shlex.join(words)}: {error.format_message()}") from error


def test_every_page_is_reached_from_the_index():
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    pages = [path.relative_to(ROOT / "docs").as_posix() for path in sorted((ROOT / "docs").rglob("*.md")) if path.name != "index.md"]
    assert [page for page in pages if f"({page})" not in index] == []


def test_pages_say_one_thing_at_the_top():
    for page in PAGES:
        if page.is_file():
            titles = re.findall(r"^# .+$", re.sub(FENCE, "", page.read_text(encoding="utf-8")), re.M)
            assert len(titles) == 1, f"{page.relative_to(ROOT)} has {len(titles)} titles"


def test_the_pipeline_is_the_one_that_is_tested():
    """The recipe of ``prove-your-own`` and the one beside the examples, which their tests run, are the same lines."""
    recipe, = (block for block in BLOCKS if block.words.get("id") == "pipeline")
    assert recipe.text in (ROOT / "examples" / "README.md").read_text(encoding="utf-8")


def test_the_checklists_stand_in_both_places():
    """CONTRIBUTING ends in them, and so does the walk-through."""
    contributing = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    last = contributing.rindex("\n## ")
    assert contributing[last:].startswith("\n## Checklists")
    for thing in ("Add a backend", "Add a system", "Add a proof", "Before you hand"):
        assert thing in contributing[last:]
        assert thing in (ROOT / "docs" / "adding-a-system.md").read_text(encoding="utf-8")
