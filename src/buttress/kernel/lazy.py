"""Lazy exports for a system's ``__init__`` (PEP 562): a name is imported when it is first used.

``__getattr__, __dir__, __all__ = attach(__name__, {"Inbox": "inbox"}, extra="webhooks")``
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any

from buttress.kernel.errors import MissingExtra


def attach(package: str, exports: Mapping[str, str], *, extra: str) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """Maps public names to the modules that define them. A module that is not installed becomes MissingExtra."""
    names = sorted(exports)

    def __getattr__(name: str) -> Any:
        if name not in exports:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        try:
            module = importlib.import_module(f"{package}.{exports[name]}")
        except ModuleNotFoundError as missing:
            if missing.name and not missing.name.startswith("buttress"):
                raise MissingExtra(missing.name, extra) from missing
            raise
        return getattr(module, name)

    def __dir__() -> list[str]:
        return names

    return __getattr__, __dir__, names
