"""Where log lines go: standard error and a rotated file. Standard output belongs to what a command answers."""

import logging
import sys
import time
from logging.handlers import RotatingFileHandler
from pathlib import Path

from app.errors import BadSetting

LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
FILE = "pilothouse.log"
#: Rotated files kept beside the current one.
BACKUPS = 3
#: Libraries whose every request is news only when something is looked for.
CHATTY = ("asyncio", "httpcore", "httpcore2", "httpx", "httpx2", "huggingface_hub", "urllib3")


class _Line(logging.Formatter):
    converter = staticmethod(time.gmtime)
    default_time_format = "%Y-%m-%dT%H:%M:%S"
    default_msec_format = "%s.%03dZ"


def setup(folder: Path | None, level: str = "info", log_mb: int = 16, *, to_stderr: bool = True) -> None:
    """Send every logger to standard error and to ``folder``/pilothouse.log (`None`: to standard error only).

    A second call replaces the first. Raises `BadSetting` for an unknown level or a folder that cannot be written.
    """
    if level not in LEVELS:
        raise BadSetting(f"log_level must be one of {', '.join(LEVELS)}, not {level!r}", field="log_level")
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stderr)] if to_stderr else []
    if folder is not None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            handlers.append(
                RotatingFileHandler(folder / FILE, maxBytes=log_mb << 20, backupCount=BACKUPS, encoding="utf-8")
            )
        except OSError as error:
            raise BadSetting(
                f"the log file cannot be written: {error}", hint="choose another data directory"
            ) from None
    root = logging.getLogger()
    for old in [handler for handler in root.handlers if isinstance(handler.formatter, _Line)]:
        root.removeHandler(old)
        old.close()
    for handler in handlers:
        handler.setFormatter(_Line("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        root.addHandler(handler)
    root.setLevel(LEVELS[level])
    for name in CHATTY:
        logging.getLogger(name).setLevel(max(LEVELS[level], logging.WARNING) if level != "debug" else logging.INFO)
