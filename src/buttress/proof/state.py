"""The state folder: where runs, fetched parts and reports live. Nothing of it is ever committed."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def state_folder() -> Path:
    """``$BUTTRESS_STATE``, else the XDG state folder, else a temporary one. Created."""
    if named := os.environ.get("BUTTRESS_STATE"):
        folder = Path(named)
    else:
        home = os.environ.get("XDG_STATE_HOME") or os.path.join(os.path.expanduser("~"), ".local", "state")
        folder = Path(home) / "buttress"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".writable-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError:
        folder = Path(tempfile.gettempdir()) / f"buttress-{os.getuid()}"
        folder.mkdir(mode=0o700, exist_ok=True)
    return folder
