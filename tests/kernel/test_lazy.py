from __future__ import annotations

import importlib
import sys

import pytest

from buttress.kernel.errors import MissingExtra

INIT = """
from buttress.kernel.lazy import attach
__getattr__, __dir__, __all__ = attach(__name__, {exports!r}, extra="columns")
"""


@pytest.fixture
def package(tmp_path, monkeypatch):
    """``package(exports, module=source)``: a package with a lazy ``__init__``, imported."""
    name = "lazy_example"

    def lay_out(exports, **modules):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "__init__.py").write_text(INIT.format(exports=exports))
        for module, source in modules.items():
            (folder / f"{module}.py").write_text(source)
        monkeypatch.syspath_prepend(str(tmp_path))
        return importlib.import_module(name)

    yield lay_out
    for module in [module for module in sys.modules if module.split(".")[0] == name]:
        del sys.modules[module]


def test_a_name_is_imported_when_it_is_first_used(package):
    lazy = package({"Monitor": "monitor", "Alarm": "alarm"}, monitor="class Monitor: pass", alarm="class Alarm: pass")
    assert "lazy_example.monitor" not in sys.modules
    assert lazy.Monitor.__name__ == "Monitor"
    assert lazy.Monitor is lazy.Monitor
    assert "lazy_example.alarm" not in sys.modules
    from lazy_example import Alarm

    assert Alarm.__module__ == "lazy_example.alarm"


def test_the_exports_are_listed_in_order(package):
    lazy = package({"b": "one", "a": "one"}, one="a = 1; b = 2; secret = 3")
    assert lazy.__all__ == dir(lazy) == ["a", "b"]


def test_what_is_not_exported_is_not_there(package):
    lazy = package({"a": "one"}, one="a = 1; secret = 3")
    with pytest.raises(AttributeError, match="module 'lazy_example' has no attribute 'secret'"):
        _ = lazy.secret
    assert not hasattr(lazy, "secret")
    with pytest.raises(ImportError, match="cannot import name 'secret'"):
        from lazy_example import secret  # noqa: F401


def test_a_missing_module_names_the_command_that_installs_it(package):
    lazy = package({"Monitor": "monitor"}, monitor="import a_module_that_nobody_has")
    with pytest.raises(MissingExtra) as missing:
        _ = lazy.Monitor
    assert missing.value.extra == "columns"
    assert str(missing.value) == "the module a_module_that_nobody_has is not installed (pip install 'buttress[columns]')"
    assert isinstance(missing.value.__cause__, ModuleNotFoundError)


@pytest.mark.parametrize("source", ["import buttress.no_such_part", "raise ValueError('broken at import')"])
def test_a_broken_module_is_not_called_a_missing_extra_of_ours(package, source):
    lazy = package({"Monitor": "monitor"}, monitor=source)
    with pytest.raises((ModuleNotFoundError, ValueError)) as seen:
        _ = lazy.Monitor
    assert not isinstance(seen.value, MissingExtra)
