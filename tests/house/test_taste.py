"""What a machine can check of taste."""

from __future__ import annotations

import ast
import re

from .checkout import ROOT, SOURCE, parse, tracked

NAMELESS = {"utils", "util", "helpers", "helper", "manager", "managers", "common", "misc", "base"}
BINARY = {".png", ".jpg", ".gif", ".gz", ".db", ".wasm", ".woff2", ".ico", ".bin", ".pdf"}
# Put together here, so that this file does not hold what it looks for.
REGISTRIES = tuple(".".join(parts) for parts in (
    ("pypi", "org"), ("pythonhosted", "org"), ("npmjs", "org"), ("npmjs", "com"), ("crates", "io"), ("proxy.golang", "org"), ("rubygems", "org"), ("maven", "org")))
HOMES = re.compile(r"/(?:home|Users)/[a-z][\w.-]*/|(?<![\w.$}{])/(?:root|work)/\w")


def texts():
    for path in tracked():
        if path.suffix not in BINARY:
            try:
                yield path.relative_to(ROOT), path.read_text(encoding="utf-8")
            except UnicodeDecodeError:
                continue


def test_modules_are_named_after_the_nouns_of_their_field():
    assert [str(path.relative_to(ROOT)) for path in tracked() if path.stem.lower() in NAMELESS] == []


def test_no_file_holds_the_path_of_somebodys_home():
    found = [f"{path}:{number}: {line.strip()[:100]}" for path, text in texts() for number, line in enumerate(text.splitlines(), 1) if HOMES.search(line)]
    assert found == []


def test_no_file_names_the_host_of_a_package_registry():
    """Installers know where they install from; a project that names a host ties its users to it."""
    found = [f"{path}: {host}" for path, text in texts() for host in REGISTRIES if host in text.lower()]
    assert found == []


def raised():
    """(place, text) of each message and each remedy that is written out where an error of ours is raised."""
    for path in sorted(SOURCE.rglob("*.py")):
        for node in ast.walk(parse(path)):
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
                words = [*node.exc.args, *(keyword.value for keyword in node.exc.keywords if keyword.arg in ("fix", "rule"))]
                for word in words:
                    last = word.values[-1] if isinstance(word, ast.JoinedStr) and word.values else word
                    if isinstance(last, ast.Constant) and isinstance(last.value, str) and last.value.strip():
                        yield f"{path.relative_to(ROOT)}:{node.lineno}", last.value


def test_errors_are_phrases_without_a_full_stop_or_a_shout():
    """They are joined: ``message (remedy)``."""
    assert [f"{place}: {text}" for place, text in raised() if text.rstrip().endswith((".", "!")) and not text.rstrip().endswith("...")] == []


def test_no_test_sleeps_to_wait_for_something():
    """It waits on the condition, in short steps under a deadline, or turns a virtual clock."""
    found = []
    for path in sorted((ROOT / "tests").rglob("*.py")):
        for node in ast.walk(parse(path)):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("time.sleep", "sleep"):
                found += [f"{path.relative_to(ROOT)}:{node.lineno}: sleeps {word.value} s" for word in node.args
                          if isinstance(word, ast.Constant) and isinstance(word.value, int | float) and word.value > 0.25]
    assert found == []


def test_links_between_pages_lead_somewhere():
    found = []
    for page, text in texts():
        if page.suffix != ".md":
            continue
        for target in re.findall(r"\]\((?!https?:|mailto:|#)([^)\s#]+)(?:#[^)\s]*)?\)", without_code(text)):
            if not ((ROOT / page).parent / target).exists():
                found.append(f"{page}: {target}")
    assert found == []


def without_code(text):
    return re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.S)


def test_the_voice_is_plain():
    """LOOK, Voice: name the thing, not the feeling."""
    words = re.compile(r"\b(blazing(?:ly)?|robust|seamless(?:ly)?|powerful|effortless(?:ly)?|cutting-edge|world-class|excited|awesome|production-ready)\b", re.I)
    found = [f"{page}:{number}: {match[0]}" for page, text in texts() if page.suffix == ".md" for number, line in enumerate(text.splitlines(), 1)
             for match in words.finditer(line) if "no system is called" not in line.lower()]
    assert found == []
