import logging
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.errors import BadSetting
from app.monitoring import logs


@pytest.fixture(autouse=True)
def own_handlers_only() -> Iterator[None]:
    root = logging.getLogger()
    level = root.level
    yield
    for handler in [handler for handler in root.handlers if isinstance(handler.formatter, logs._Line)]:
        root.removeHandler(handler)
        handler.close()
    root.setLevel(level)


def test_lines_go_to_standard_error_and_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    logs.setup(tmp_path, "info")
    logging.getLogger("app.jobs").info("job %s ended", "j1")
    logging.getLogger("app.jobs").debug("not wanted")
    written = (tmp_path / logs.FILE).read_text(encoding="utf-8")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z INFO app\.jobs: job j1 ended\n", written)
    captured = capsys.readouterr()
    assert captured.err == written
    assert captured.out == ""


def test_a_second_call_replaces_the_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    logs.setup(tmp_path, "info")
    logs.setup(tmp_path, "debug")
    logging.getLogger("app").debug("once")
    assert capsys.readouterr().err.count("once") == 1


def test_the_file_is_rotated(tmp_path: Path) -> None:
    logs.setup(tmp_path, "info", log_mb=1)
    for _ in range(6):
        logging.getLogger("app").info("x" * 900_000)
    files = sorted(path.name for path in tmp_path.iterdir())
    assert files == [logs.FILE, *(f"{logs.FILE}.{n}" for n in range(1, logs.BACKUPS + 1))]


def test_libraries_are_quiet_unless_asked(tmp_path: Path) -> None:
    logs.setup(None, "info")
    assert logging.getLogger("httpx").getEffectiveLevel() == logging.WARNING
    logs.setup(None, "debug")
    assert logging.getLogger("httpx").getEffectiveLevel() == logging.INFO


def test_an_unknown_level_and_a_folder_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(BadSetting) as unknown:
        logs.setup(tmp_path, "loud")
    assert unknown.value.field == "log_level"
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(BadSetting):
        logs.setup(file / "below", "info")
