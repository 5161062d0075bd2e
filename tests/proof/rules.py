"""Copies of a harness module with one rule taken out, made from its source: what a deleted rule would let through.

A rule is the statement on the line that carries ``# rule: NAME``: an ``if`` whose condition becomes False, a ``for``
over nothing, an ``except`` that catches nothing, and a judgement that always says pass. A guard is any ``if`` at all.
"""

from __future__ import annotations

import ast
import functools
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from buttress.proof import run, verdict

_COMMENT = re.compile(r"#\s*rule:\s*(.+?)\s*$")


def rules(module: ModuleType = verdict) -> dict[str, int]:
    """The rules that a module's comments name, each with its line."""
    found = {}
    for number, line in enumerate(_source(module).splitlines(), start=1):
        if match := _COMMENT.search(line):
            assert match[1] not in found, f"two rules are called {match[1]!r}"
            found[match[1]] = number
    return found


def guards(module: ModuleType = verdict) -> list[str]:
    """Every ``if`` of a module, as ``function:line``."""
    found = []
    for function in ast.walk(ast.parse(_source(module))):
        if isinstance(function, ast.FunctionDef):
            found += [f"{function.name}:{node.lineno}" for node in ast.walk(function) if isinstance(node, ast.If)]
    return sorted(set(found))


@functools.cache
def without_rule(rule: str, module: ModuleType = verdict) -> ModuleType:
    line = rules(module)[rule]

    def on_its_line(node: ast.AST) -> bool:
        return isinstance(node, (ast.stmt, ast.ExceptHandler)) and node.lineno <= line <= _header_end(node)

    tree = ast.parse(_source(module))
    innermost = max((n for n in ast.walk(tree) if on_its_line(n)), key=lambda n: (n.lineno, n.col_offset))
    return _built(tree, innermost, f"rule {rule}", module)


@functools.cache
def without_guard(guard: str, module: ModuleType = verdict) -> ModuleType:
    line = int(guard.rpartition(":")[2])
    tree = ast.parse(_source(module))
    node = next(n for n in ast.walk(tree) if isinstance(n, ast.If) and n.lineno == line)
    return _built(tree, node, f"guard {guard}", module)


@functools.cache
def copy(module: ModuleType = verdict) -> ModuleType:
    """The whole of it, as the others are made but for what is taken out."""
    return _executed(ast.parse(_source(module)), "nothing", module)


def rejudge(module: Any, outcome: run.Outcome, scale: str = "quick") -> dict[str, Any]:
    """The claims of a finished run, judged again by another verdict module."""
    controls = module.judge_controls([state.control for state in outcome.controls], outcome.evidence, outcome.judged, scale)
    claims = module.judge_claims([judged.claim for judged in outcome.claims], controls, outcome.evidence, outcome.judged, scale)
    return {judged.claim.name: judged for judged in claims}


def _source(module: ModuleType) -> str:
    assert module.__file__
    return Path(module.__file__).read_text(encoding="utf-8")


def _header_end(node: Any) -> int:
    """The last line before a compound statement's body; for a simple one its own last line."""
    body = getattr(node, "body", None)
    return max(node.lineno, body[0].lineno - 1) if isinstance(body, list) and body else node.end_lineno


def _built(tree: ast.Module, node: Any, name: str, module: ModuleType) -> ModuleType:
    neutral: dict[type, Callable[[Any], None]] = {
        ast.If: lambda n: setattr(n, "test", ast.Constant(False)),
        ast.For: lambda n: setattr(n, "iter", ast.Tuple([], ast.Load())),
        ast.ExceptHandler: lambda n: setattr(n, "type", ast.Tuple([], ast.Load())),
        ast.Assign: lambda n: setattr(n, "value", ast.Tuple([ast.Constant("pass"), ast.Constant("")], ast.Load())),
    }
    assert type(node) in neutral, f"{name} stands on a {type(node).__name__}: nothing here knows how to take that out"
    neutral[type(node)](node)
    return _executed(tree, name, module)


def _executed(tree: ast.Module, name: str, module: ModuleType) -> ModuleType:
    mutant = ModuleType(f"{module.__name__} without {name}")
    mutant.__file__ = module.__file__
    sys.modules[mutant.__name__] = mutant  # dataclasses look their module up
    exec(compile(ast.fix_missing_locations(tree), mutant.__name__, "exec"), mutant.__dict__)  # noqa: S102
    return mutant
