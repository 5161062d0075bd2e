"""Lays out a new system, so that the forty look alike from the first commit. What it writes passes ``make check``."""

from __future__ import annotations

import keyword
from pathlib import Path

from buttress.index import WINGS
from buttress.kernel.errors import InvalidInput

TOML = '''name = "{name}"
wing = "{wing}"
constraint = "{constraint}"
headline = {{ text = "wrong answers", unit = "", direction = "less" }}
summary = "Say in one sentence what this carries"
finds = ["what an engineer types when it hurts", "the error message they see", "the word for the remedy"]
maturity = "experimental"
since = "{version}"
verbs = ["status"]
extras = []
quick_s = 2
[peers]
'''
INIT = '''"""{title}: say in one sentence what this carries.

    >>> from buttress.{wing}.{name} import {cls}
    >>> {cls}().answer("question")
    'answer to question'
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from buttress.kernel.lazy import attach

if TYPE_CHECKING:
    from buttress.{wing}.{name}.engine import {cls} as {cls}

__getattr__, __dir__, __all__ = attach(__name__, {{"{cls}": "engine"}}, extra="{name}")
'''
ENGINE = '''"""The engine. Rename this module after the field's noun."""

from __future__ import annotations

from buttress.kernel.errors import InvalidInput


class {cls}:
    """Say what it promises, with units and errors."""

    def answer(self, question: str) -> str:
        """Raises InvalidInput for an empty question."""
        if not question:
            raise InvalidInput("question", question, "must not be empty")
        return f"answer to {{question}}"
'''
CLI = '''"""The verbs of {name}."""

from __future__ import annotations

import click


@click.group(context_settings={{"help_option_names": ["-h", "--help"]}})
def cli() -> None:
    """Say in one sentence what this carries."""


@cli.command()
@click.argument("question")
def status(question: str) -> None:
    """Answers one question."""
    from buttress.{wing}.{name}.engine import {cls}

    click.echo({cls}().answer(question))
'''
PROOF = '''"""The proof of {name}: the way that broke, and ours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

{imports}


class Answerer(Protocol):
    """The port: what any implementation must be able to do."""

    def answer(self, question: str) -> str:
        """The answer to one question."""
        ...


class WayThatBroke:
    """The baseline: the case's own way."""

    def answer(self, question: str) -> str:
        return "42"


def baseline(env: Env) -> Answerer:
    return WayThatBroke()


def buttress(env: Env) -> Answerer:
    return {cls}()


@dataclass(frozen=True)
class Size:
    questions: int


def ask(trial: Trial) -> None:
    port = trial.open()
    for number in range(trial.size.questions):
        answer = port.answer(question=f"question {{number}}")
        trial.record("fact", right=answer == f"answer to question {{number}}")


def wrong_answers(history: History) -> Mapping[str, Measured]:
    facts = list(history.where(kind="fact"))
    return {{"wrong": count(sum(1 for fact in facts if not fact["right"]), len(facts))}}


def perfect(size: Size) -> Measured:
    return count(0, size.questions)


PROOF = Proof(
    system="{name}",
    port=Answerer,
    subjects=(
        Subject("the way that broke", "buttress.{wing}.{name}.proof:baseline", "baseline"),
        Subject("buttress", "buttress.{wing}.{name}.proof:buttress", "buttress"),
    ),
    scenarios=(Scenario("questions", ask),),
    checkers=(wrong_answers,),
    claims=(Claim("wrong answers", "wrong", "== 0", "answers", perfect=perfect),),
    controls=(Control("the way that broke must be wrong", "the way that broke", "wrong", "> 0"),),
    sizes={{"quick": Size(questions=50), "full": Size(questions=5_000)}},
    findings={{"pass": "No answer was wrong.", "fail": "{{wrong}} answers were wrong.", "unknown": "Whether an answer is wrong is not known."}},
    headline="wrong answers",
)
'''
README = '''# {name}

*{maturity}: may change in any release.*

## What hurts
## What carries it now
## How it works
## Numbers
<!-- numbers:begin -->
<!-- numbers:end -->

## Adopt
```sh
pip install 'buttress[{name}]'
buttress prove {name}
```

## Limits
'''
TEST = '''import pytest

{test_imports}


def test_it_answers() -> None:
    assert {cls}().answer("why") == "answer to why"


def test_an_empty_question_is_refused() -> None:
    with pytest.raises(InvalidInput, match="question"):
        {cls}().answer("")
'''


def lay_out(root: Path, wing: str, name: str, constraint: str) -> list[str]:
    """Writes the files and the alias extra. Raises InvalidInput before anything is written."""
    from buttress import __version__

    if wing not in WINGS:
        raise InvalidInput("wing", wing, f"must be one of {', '.join(WINGS)}")
    if not name.isidentifier() or name != name.lower() or keyword.iskeyword(name):
        raise InvalidInput("name", name, "must be a lower-case Python identifier")
    project = root / "pyproject.toml"
    if not project.exists() or 'name = "buttress"' not in project.read_text():
        raise InvalidInput("root", str(root), "must be a checkout of buttress")
    package = root / "src" / "buttress" / wing
    if (package / name).exists():
        raise InvalidInput("name", name, f"{wing} has a system of this name")
    cls = "".join(part.capitalize() for part in name.split("_"))
    words = {"name": name, "wing": wing, "constraint": constraint, "version": __version__, "cls": cls, "title": name, "maturity": "experimental"}
    words["imports"] = "\n".join(sorted((
        "from buttress.proof import Claim, Control, Env, History, Proof, Scenario, Subject, Trial", "from buttress.proof.contract import Measured",
        "from buttress.proof.verdict import count", f"from buttress.{wing}.{name}.engine import {cls}")))
    words["test_imports"] = "\n".join(sorted(("from buttress.kernel.errors import InvalidInput", f"from buttress.{wing}.{name} import {cls}")))
    files = {
        package / name / "__init__.py": INIT, package / name / "system.toml": TOML, package / name / "engine.py": ENGINE,
        package / name / "cli.py": CLI, package / name / "proof.py": PROOF, package / name / "README.md": README,
        root / "tests" / wing / name / "test_engine.py": TEST,
    }
    if not (package / "__init__.py").exists():
        files[package / "__init__.py"] = f'"""The wing of {WINGS[wing]}."""\n'
    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.format(**words), encoding="utf-8")
    _add_alias(project, name)
    _add_wing(project, wing)
    return [str(path.relative_to(root)) for path in files] + ["pyproject.toml"]


def _add_wing(project: Path, wing: str) -> None:
    """A new wing enters the import rules."""
    text = project.read_text(encoding="utf-8")
    before, mark, rules = text.partition("[tool.importlinter]")
    if f'"buttress.{wing}"' not in rules:
        project.write_text(before + mark + rules.replace('"buttress.backend"', f'"buttress.backend", "buttress.{wing}"'), encoding="utf-8")


def _add_alias(project: Path, name: str) -> None:
    """Each system has an extra of its own name."""
    text = project.read_text(encoding="utf-8")
    if f"\n{name} = [" not in text:
        mark = "# What the quick proofs need"
        project.write_text(text.replace(mark, f"{name} = []\n{mark}", 1), encoding="utf-8")
