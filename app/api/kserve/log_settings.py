"""Triton's logging extension over this daemon's own log: which levels are written."""

import logging
from typing import Any

import msgspec

from app.errors import InvalidInput
from app.schema.kserve import LogSettings

_SWITCHES = {"log_info": logging.INFO, "log_warning": logging.WARNING, "log_error": logging.ERROR}
_FIXED = {"log_file": "where the log lies", "log_format": "the form of its lines"}
MOST_VERBOSE = 1 << 16


class _Chosen(logging.Filter):
    """On a handler: lets through the levels that are switched on."""

    def __init__(self) -> None:
        super().__init__()
        self.off: frozenset[int] = frozenset()

    def filter(self, record: logging.LogRecord) -> bool:
        return min(record.levelno, logging.ERROR) not in self.off


class Log:
    """Reads and changes the root logger. What is changed lasts until the daemon ends."""

    def __init__(self, root: logging.Logger | None = None):
        self._root = root or logging.getLogger()
        self._filter = _Chosen()

    def settings(self) -> LogSettings:
        def on(level: int) -> bool:
            return self._root.level <= level and level not in self._filter.off

        return LogSettings(
            log_file="",
            log_info=on(logging.INFO),
            log_warning=on(logging.WARNING),
            log_error=on(logging.ERROR),
            log_verbose_level=1 if self._root.level <= logging.DEBUG else 0,
            log_format="ISO8601",
        )

    def update(self, changes: dict[str, Any]) -> LogSettings:
        """All or nothing. Raises `InvalidInput` naming the setting."""
        wanted = self.settings()
        for key, value in changes.items():
            if key in _FIXED:
                if value != getattr(wanted, key):
                    raise InvalidInput(f"{key} cannot be changed: {_FIXED[key]} is decided at the start", field=key)
            elif key in _SWITCHES:
                if not isinstance(value, bool):
                    raise InvalidInput(f"{key} must be true or false, not {value!r}", field=key)
                wanted = msgspec.structs.replace(wanted, **{key: value})
            elif key == "log_verbose_level":
                if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MOST_VERBOSE:
                    raise InvalidInput(f"{key} must be a whole number from 0, not {value!r}", field=key)
                wanted.log_verbose_level = value
            else:
                known = ", ".join(LogSettings.__struct_fields__)
                raise InvalidInput(f"there is no log setting {key!r}", hint=f"there are: {known}", field=key)
        self._apply(wanted)
        return self.settings()

    def _apply(self, wanted: LogSettings) -> None:
        on = [level for key, level in _SWITCHES.items() if getattr(wanted, key)]
        if wanted.log_verbose_level:
            on.append(logging.DEBUG)
        self._filter.off = frozenset(_SWITCHES.values()) - set(on)
        for handler in self._root.handlers:
            handler.addFilter(self._filter)  # a filter that is there already is not added again
        self._root.setLevel(min(on, default=logging.CRITICAL))
