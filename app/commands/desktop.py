"""Opening the window: a process of its own that is told where the daemon is."""

import importlib.util
import os
import subprocess
import sys
from collections.abc import Mapping

from app.paths import PACKAGE


def obstacle(environment: Mapping[str, str] | None = None) -> tuple[str, str] | None:
    """Why no window can be opened here, and what to do; `None` if nothing is in the way."""
    environment = os.environ if environment is None else environment
    if importlib.util.find_spec("PySide6") is None:
        return "PySide6 is not installed", "`pip install 'pilothouse[desktop]'` installs it"
    shown = ("DISPLAY", "WAYLAND_DISPLAY", "QT_QPA_PLATFORM")
    if sys.platform not in ("win32", "darwin") and not any(environment.get(name) for name in shown):
        return "there is no display", "start it in a graphical session; the daemon and its API need none"
    return None


def open_window(url: str, key: str) -> subprocess.Popen[bytes]:
    """Start the desktop on the daemon at ``url``; the caller waits for it."""
    environment = os.environ | {"PILOTHOUSE_URL": url, "PILOTHOUSE_KEY": key}
    # The user's working directory must not shadow our packages: see `app.background`.
    checkout = PACKAGE.parent if (PACKAGE.parent / "pyproject.toml").exists() else None
    safe_path = [] if checkout else ["-P"]
    return subprocess.Popen([sys.executable, *safe_path, "-m", "ui"], env=environment, cwd=checkout)
