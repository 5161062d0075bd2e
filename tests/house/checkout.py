"""This checkout as data: its files, its systems, its declared parts; and what is read out of source without running it."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
import textwrap
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

from buttress.index import WINGS, System, systems

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "src" / "buttress"
SYSTEMS = systems()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
LEFT_BEHIND = shutil.ignore_patterns(".git", ".venv", ".hypothesis", ".pytest_cache", ".ruff_cache", "__pycache__", "*.egg-info", "build", "dist")


def tracked() -> list[Path]:
    """The files that belong to the repository, with those that are new and not ignored."""
    done = subprocess.run(["git", "-C", str(ROOT), "ls-files", "-co", "--exclude-standard", "-z"], capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return [ROOT / name for name in done.stdout.split("\0") if name and (ROOT / name).is_file()]
    ignored = {".git", ".venv", "__pycache__", "build", "dist"}  # an archive, without its history
    return [path for path in ROOT.rglob("*") if path.is_file()
            and not any(part in ignored or part.endswith(("_cache", ".egg-info")) for part in path.relative_to(ROOT).parts)]


# -- source, read and not run


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def is_proof(path: Path, system: System) -> bool:
    """Proof and world: what attacks, and never rides along with the component."""
    parts = path.relative_to(system.folder).parts
    return parts[0] == "proof" or path.name in ("proof.py", "world.py")


def engine_of(system: System) -> list[Path]:
    """The modules of the component."""
    return [path for path in sorted(system.folder.rglob("*.py")) if not is_proof(path, system)]


def proof_of(system: System) -> list[Path]:
    """The modules of the proof, without those that run in a peer's own environment."""
    return [path for path in sorted(system.folder.rglob("*.py")) if is_proof(path, system) and "peers" not in path.parts]


def imports(path: Path, *, top: bool = False) -> Iterator[str]:
    """The modules that a file imports when it runs; ``top``: when it is imported. Type-only imports are left out."""
    def walk(nodes: list[ast.stmt]) -> Iterator[str]:
        for node in nodes:
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                yield node.module
                yield from (f"{node.module}.{alias.name}" for alias in node.names)
            elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
                yield from walk(node.orelse)
            elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and top:
                continue
            else:
                for field in ("body", "orelse", "handlers", "finalbody"):
                    yield from walk(getattr(node, field, []))

    yield from walk(parse(path).body)


DISTRIBUTIONS = packages_distributions()


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def third_party(modules: Iterator[str]) -> dict[str, str]:
    """``{distribution: top-level module}`` of all that is neither Python's nor ours."""
    found = {}
    for module in modules:
        first = module.split(".")[0]
        if first not in sys.stdlib_module_names and first not in ("buttress", "__future__"):
            found[canonical(DISTRIBUTIONS.get(first, [first])[0])] = first
    return found


# -- declared parts


def extra(name: str) -> set[str]:
    """The distributions that an extra pulls, through the extras that it names in turn."""
    declared = PROJECT["project"]["optional-dependencies"].get(name, ())
    found: set[str] = set()
    for requirement in declared:
        own = re.match(r"buttress\[([^\]]+)\]", requirement)
        if own:
            for inner in own[1].split(","):
                found |= extra(inner.strip())
        else:
            found.add(requirement_name(requirement))
    return found


def requirement_name(requirement: str) -> str:
    match = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert match is not None, requirement
    return canonical(match[0])


CORE = {requirement_name(requirement) for requirement in PROJECT["project"]["dependencies"]}
EXTRAS = set(PROJECT["project"]["optional-dependencies"])
WINGS_HERE = [wing for wing in WINGS if (SOURCE / wing / "__init__.py").is_file()]


# -- examples


def example(docstring: str) -> str:
    """The one indented block of a docstring, as a program. A doctest is taken as it stands."""
    lines = docstring.splitlines()
    indented = [number for number, line in enumerate(lines) if line.startswith("    ")]
    assert indented, "the docstring holds no example"
    return textwrap.dedent("\n".join(lines[indented[0]:indented[-1] + 1]))


def run_example(docstring: str, name: str) -> None:
    """Raises where the example of a docstring does not do what it says."""
    import doctest

    code = example(docstring)
    if ">>>" in code:
        runner = doctest.DocTestRunner(verbose=False)
        said: list[str] = []
        runner.run(doctest.DocTestParser().get_doctest(code, {}, name, None, 0), out=said.append)
        assert not runner.failures, "".join(said)
    else:
        exec(compile(code, f"<example of {name}>", "exec"), {"__name__": f"example_of_{name}"})  # noqa: S102
