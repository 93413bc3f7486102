"""The documentation is whole: every command, option, setting and route is in it, and nothing that is not there."""

import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from app.cli import main
from app.settings import KEYS, Settings, environment_name

DOCS = Path(__file__).resolve().parents[2] / "docs"


def page(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


def rows(text: str, columns: int) -> list[list[str]]:
    """The cells of the rows of every table that has so many columns, without the backticks of the first two."""
    cells = [
        [cell.strip() for cell in line.strip().strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"
    ]
    return [[cell.strip("`") for cell in row] for row in cells if len(row) == columns]


# --- commands --------------------------------------------------------------------------------------------


def commands(group: click.Group, prefix: str = "pilothouse") -> Iterator[tuple[str, click.Command]]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, f"{prefix} {name}")
        elif not command.hidden:
            yield f"{prefix} {name}", command


COMMANDS = dict(commands(main))


def sections() -> dict[str, str]:
    """Heading → text up to the next heading of `cli.md`; a heading begins with the command in backticks."""
    parts = re.split(r"^## `(pilothouse[a-z ]*?)(?: [A-Z\[].*)?`.*$", page("cli.md"), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_and_option_is_documented(name: str):
    text = sections().get(name)
    assert text, f"docs/cli.md has no section for `{name}`"
    for parameter in COMMANDS[name].params:
        if isinstance(parameter, click.Option) and parameter.name not in ("as_json", "data_dir"):
            assert f"`{max(parameter.opts, key=len)}" in text, f"{name}: {parameter.opts}"
    assert "```console" in text, f"{name} has no example"


def test_no_command_is_documented_that_is_not_there():
    assert set(sections()) - {"pilothouse"} == set(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_takes_json_and_a_data_directory(name: str):
    options = {option for parameter in COMMANDS[name].params for option in parameter.opts}
    assert {"--json", "--data-dir"} <= options
    assert "`--json`" in page("cli.md") and "`--data-dir DIR`" in page("cli.md")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_and_option_says_what_it_does(name: str):
    assert COMMANDS[name].help
    assert all(parameter.help for parameter in COMMANDS[name].params if isinstance(parameter, click.Option))


# --- settings --------------------------------------------------------------------------------------------


def test_every_setting_is_documented_with_its_default():
    text = page("settings.md").split("## Of a deployment")[0]
    documented = {row[0]: row for row in rows(text, 5) if row[0] in KEYS}
    assert set(documented) == set(KEYS)
    flags = {option for parameter in COMMANDS["pilothouse serve"].params for option in parameter.opts}
    for key, (_, default, environment, flag, meaning) in documented.items():
        assert default == str(getattr(Settings(), key)), key
        assert environment == environment_name(key)
        assert flag == (f"--{key.replace('_', '-')}" if f"--{key.replace('_', '-')}" in flags else ""), key
        assert meaning


def test_every_deployment_setting_is_documented_with_what_it_may_be():
    from app.deployments.options import OPTIONS, Choice, Number

    text = page("settings.md").split("## Of a deployment")[1]
    numbers = {row[0]: row[1:] for row in rows(text, 6)[2:]}
    words = {row[0]: row[1:] for row in rows(text, 5)[2:]}
    assert set(numbers) == {key for key, option in OPTIONS.items() if isinstance(option, Number)}
    assert set(words) == set(OPTIONS) - set(numbers)
    for key, (default, *bounds, engines, _) in (numbers | words).items():
        option = OPTIONS[key]
        said = str(option.default).lower()
        assert default == said or (option.default is None and not default.isdecimal()), key
        if isinstance(option, Number):
            assert [float(bound) for bound in bounds] == [option.least, option.most], key
        if isinstance(option, Choice):
            assert bounds == [", ".join(option.choices)], key
        assert engines == (", ".join(sorted(set(option.engines) - {"echo"})) or "all"), key


# --- routes ----------------------------------------------------------------------------------------------


def test_every_route_is_documented_and_no_other(tmp_path: Path):
    from app.daemon import House
    from app.db import Store
    from app.paths import DataDir

    data = DataDir(tmp_path).create()
    store = Store(data.database)
    try:
        routes = {(route.method, route.path) for route in House(Settings(), {}, data, store).routes}
    finally:
        store.close()
    documented = {(row[0], row[1]) for row in rows(page("http.md"), 3) if row[1].startswith("/") and row[0].isupper()}
    assert routes - documented == set(), "not in docs/http.md"
    assert documented - routes == set(), "in docs/http.md, and not served"


# --- metrics ---------------------------------------------------------------------------------------------


def test_every_metric_is_documented_and_no_other():
    from app.monitoring import exposition
    from app.monitoring.metrics import Metrics
    from engines.hardware import Gpu

    metrics = Metrics()
    tensor = metrics.route("a", model="a", version=1, kind="tensor", engine="e")
    tensor.confidence(1.0, 1)
    tensor.caches = True
    metrics.route("b", model="b", version=1, kind="language", engine="e")
    gpu = Gpu(
        0, "G", "G", memory_total_bytes=1, memory_used_bytes=1, utilization_percent=1.0, power_w=1.0, power_limit_w=1.0
    )
    station = exposition.Station("0", 0.0, deployments={"ready": 1}, gpus=[gpu])
    names = set(re.findall(r"^# TYPE (\S+)", exposition.text(metrics, station).decode(), flags=re.MULTILINE))
    text = page("http.md").split("## Metrics")[1]
    documented = set(re.findall(r"`((?:vllm:|nv_|pilothouse_)\w+)`", text))
    assert names - documented == set(), "not in docs/http.md"
    assert documented - names == set(), "in docs/http.md, and not exposed"


# --- pages -----------------------------------------------------------------------------------------------


def test_links_lead_somewhere():
    for file in DOCS.rglob("*.md"):
        for target in re.findall(r"\]\(([^)#\s]+)", file.read_text(encoding="utf-8")):
            if "://" not in target:
                assert (file.parent / target).exists(), f"{file.name} links to {target}"


def test_every_page_is_in_the_index():
    index = page("README.md")
    assert [file.name for file in DOCS.glob("*.md") if file.name != "README.md" and f"({file.name})" not in index] == []
