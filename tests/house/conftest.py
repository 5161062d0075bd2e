"""What the house's tests share: every system in turn, a copy of the checkout, environments that hold the built wheel."""

from __future__ import annotations

import fcntl
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType

import pytest

from .checkout import LEFT_BEHIND, PROJECT, ROOT, SYSTEMS

Run = Callable[..., "subprocess.CompletedProcess[str]"]
NO_NETWORK = re.compile(r"connect|network|resolve|temporary failure|timed out|unreachable|name or service|dns|certificate|offline", re.I)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that asks for ``system`` runs for each system; with none it is skipped."""
    if "system" in metafunc.fixturenames:
        metafunc.parametrize("system", SYSTEMS, ids=[system.name for system in SYSTEMS])


def run(*argv: str | Path, cwd: Path | None = None, timeout: float = 120, **env: str) -> subprocess.CompletedProcess[str]:
    """A command, with what it wrote as text. ``env`` is put on top of this process's own."""
    return subprocess.run([str(word) for word in argv], cwd=cwd, capture_output=True, text=True, timeout=timeout, check=False,
                          stdin=subprocess.DEVNULL, env={**os.environ, **env})


@pytest.fixture
def buttress(tmp_path: Path) -> Run:
    """``buttress("list")`` runs the command line of this checkout in a folder of its own, with a state folder of its own."""
    def go(*words: str, **env: str) -> subprocess.CompletedProcess[str]:
        return run(sys.executable, "-m", "buttress", *words, cwd=tmp_path, BUTTRESS_STATE=str(tmp_path / "state"), **env)

    return go


@pytest.fixture(scope="session")
def docs() -> ModuleType:
    """``scripts/docs.py`` as a module."""
    spec = importlib.util.spec_from_file_location("buttress_docs", ROOT / "scripts" / "docs.py")
    assert spec is not None and spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# -- a copy of the checkout


class Checkout:
    """A copy of this checkout, without its history, in which a test may write."""

    def __init__(self, folder: Path, state: Path) -> None:
        self.folder = folder
        self.state = state

    def __call__(self, *argv: str | Path, timeout: float = 120, **env: str) -> subprocess.CompletedProcess[str]:
        """Runs a command in it. ``buttress`` and ``python`` are those of this environment, on the copy's source."""
        place = str(Path(sys.executable).parent)
        return run(*argv, cwd=self.folder, timeout=timeout, PYTHONPATH=str(self.folder / "src"), BUTTRESS_STATE=str(self.state),
                   PATH=f"{place}{os.pathsep}{os.environ['PATH']}", **env)

    def done(self, *argv: str | Path, **env: str) -> str:
        """Its output; the test fails where the exit code is not 0."""
        done = self(*argv, **env)
        assert done.returncode == 0, f"{' '.join(map(str, argv))}\n{done.stdout}{done.stderr}"
        return done.stdout


@pytest.fixture(scope="session")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    return Checkout(copied(tmp_path_factory.mktemp("copy") / "buttress"), tmp_path_factory.mktemp("state"))


def copied(folder: Path) -> Path:
    shutil.copytree(ROOT, folder, ignore=LEFT_BEHIND, symlinks=True)
    return folder


# -- the wheel, and environments that hold it


class Environment:
    """A virtual environment apart from this one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.bin = folder / "bin"

    def __call__(self, *argv: str | Path, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
        """Runs a program of it, apart from everything that this environment knows."""
        clean = dict.fromkeys(("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV"), "")
        return run(self.bin / argv[0], *argv[1:], cwd=cwd, **{**clean, "BUTTRESS_STATE": str(cwd / "state"), **env})

    @property
    def package(self) -> Path:
        """Where the wheel was unpacked to."""
        return next(self.folder.glob("lib/python*/site-packages/buttress"))


def uv() -> str | None:
    """uv, where this environment or the machine has it: ten times as fast as pip."""
    beside = Path(sys.executable).parent / "uv"
    return str(beside) if beside.exists() else shutil.which("uv")


def needs_network(done: subprocess.CompletedProcess[str]) -> None:
    """Skips where a package manager could not reach what it needed; fails where it failed for another reason."""
    if done.returncode == 0:
        return
    if NO_NETWORK.search(done.stderr):
        pytest.skip(f"needs the network, to install what the wheel asks for: {done.stderr.strip().splitlines()[-1][:200]}")
    pytest.fail(f"{done.stdout[-1000:]}\n{done.stderr[-2000:]}")


def is_new_enough(name: str, least: int) -> bool:
    try:
        return int(version(name).split(".")[0]) >= least
    except (PackageNotFoundError, ValueError):
        return False


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Callable[[Path], None]], Path]:
    """``once(name, make)`` gives a folder that ``make`` filled, for all workers of this run together."""
    base = tmp_path_factory.getbasetemp()
    base = base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base

    def go(name: str, make: Callable[[Path], None]) -> Path:
        folder, made = base / name, base / f"{name}.made"
        with open(base / f"{name}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not made.exists():
                shutil.rmtree(folder, ignore_errors=True)
                make(folder)
                made.touch()
        return folder

    return go


def build(out: Path) -> None:
    """The wheel, from a copy: with what is installed here where that will do, else in an isolated environment."""
    source = copied(out / "source")
    least = int(re.sub(r"\D", "", PROJECT["build-system"]["requires"][0]))
    if is_new_enough("setuptools", least) and is_new_enough("build", 1):
        done = run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", out, source)
    elif uv() is not None:
        done = run(uv() or "", "build", "-q", "--wheel", "--out-dir", out, "--python", sys.executable, source)
    else:
        done = run(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--wheel-dir", out, source)
    needs_network(done)


@pytest.fixture(scope="session")
def wheel(once: Callable[[str, Callable[[Path], None]], Path]) -> Path:
    """The wheel, built once."""
    built, = once("wheel", build).glob("*.whl")
    return built


@pytest.fixture(scope="session")
def install(wheel: Path, once: Callable[[str, Callable[[Path], None]], Path]) -> Callable[[str, str], Environment]:
    """``install("adopted", "[webhooks]")`` gives a fresh environment into which exactly that was installed, from the wheel."""
    def go(name: str, extras: str) -> Environment:
        def make(folder: Path) -> None:
            wanted = f"buttress{extras} @ {wheel.as_uri()}"
            if uv() is not None:
                made = run(uv() or "", "venv", "-q", "--python", sys.executable, folder)
                assert made.returncode == 0, made.stderr
                needs_network(run(uv() or "", "pip", "install", "-q", "--python", folder / "bin" / "python", wanted))
            else:
                made = run(sys.executable, "-m", "venv", folder)
                assert made.returncode == 0, made.stderr
                needs_network(run(folder / "bin" / "python", "-m", "pip", "install", "-q", wanted, timeout=300))

        return Environment(once(name, make))

    return go


@pytest.fixture(scope="session")
def bare(install: Callable[[str, str], Environment]) -> Environment:
    """The core alone: ``pip install buttress``."""
    return install("bare", "")


@pytest.fixture(scope="session")
def adopted(install: Callable[[str, str], Environment]) -> Environment:
    """The components of all systems, by the aliases that their install lines name."""
    return install("adopted", f"[{','.join(system.name for system in SYSTEMS)}]" if SYSTEMS else "")


@pytest.fixture(scope="session")
def stripped(adopted: Environment, once: Callable[[str, Callable[[Path], None]], Path]) -> Environment:
    """The same, with all that attacks or simulates deleted: proof, servers, console, every proof and every world."""
    def make(folder: Path) -> None:
        shutil.copytree(adopted.folder, folder, symlinks=True)
        package = Environment(folder).package
        for name in ("proof", "servers", "console"):
            shutil.rmtree(package / name, ignore_errors=True)
        for system in SYSTEMS:
            place = package / system.wing / system.name
            shutil.rmtree(place / "proof", ignore_errors=True)
            for name in ("proof.py", "world.py"):
                (place / name).unlink(missing_ok=True)

    return Environment(once("stripped", make))


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path
