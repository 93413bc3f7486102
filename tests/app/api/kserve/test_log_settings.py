"""Which levels of the log are written."""

import logging

import pytest

from app.api.kserve.log_settings import Log
from app.errors import InvalidInput


@pytest.fixture
def log():
    """A logger of its own in place of the root: settings, and what was written."""
    root = logging.getLogger("test of log settings")
    root.propagate = False
    root.setLevel(logging.INFO)
    written = []
    handler = logging.Handler()
    handler.emit = lambda record: written.append(record.levelname)
    root.addHandler(handler)

    def write():
        written.clear()
        for level in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR, logging.CRITICAL):
            root.log(level, "words")
        return list(written)

    yield Log(root), write
    root.removeHandler(handler)


def test_the_settings_are_those_of_the_log(log):
    settings, write = log
    now = settings.settings()
    assert (now.log_info, now.log_warning, now.log_error, now.log_verbose_level) == (True, True, True, 0)
    assert write() == ["INFO", "WARNING", "ERROR", "CRITICAL"]


def test_each_level_can_be_switched_by_itself(log):
    settings, write = log
    assert settings.update({"log_warning": False}).log_warning is False
    assert write() == ["INFO", "ERROR", "CRITICAL"]
    settings.update({"log_info": False, "log_warning": True})
    assert write() == ["WARNING", "ERROR", "CRITICAL"]
    settings.update({"log_info": True, "log_verbose_level": 2})
    assert write() == ["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"]
    assert settings.settings().log_verbose_level == 1
    settings.update({"log_verbose_level": 0})
    assert write() == ["INFO", "WARNING", "ERROR", "CRITICAL"]


def test_all_can_be_switched_off_and_on_again(log):
    settings, write = log
    off = settings.update({"log_info": False, "log_warning": False, "log_error": False})
    assert (off.log_info, off.log_warning, off.log_error) == (False, False, False)
    assert write() == []
    settings.update({"log_error": True})
    assert write() == ["ERROR", "CRITICAL"]


@pytest.mark.parametrize(
    "changes",
    [
        {"log_info": 1},
        {"log_verbose_level": -1},
        {"log_verbose_level": True},
        {"log_file": "/etc/passwd"},
        {"log_format": "default"},
        {"nothing": 1},
    ],
)
def test_a_refused_change_changes_nothing(log, changes):
    settings, write = log
    with pytest.raises(InvalidInput, match=next(iter(changes))):
        settings.update({"log_warning": False} | changes)
    assert settings.settings().log_warning is True
    assert "WARNING" in write()


def test_what_is_fixed_may_be_sent_back_as_it_is(log):
    settings, _ = log
    assert settings.update({"log_file": "", "log_format": "ISO8601"}) == settings.settings()
