"""When a window can open."""

import importlib.util
import sys

import pytest

from app.commands import desktop


@pytest.mark.parametrize("name", ["DISPLAY", "WAYLAND_DISPLAY", "QT_QPA_PLATFORM"])
def test_a_display_of_any_kind_will_do(name: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: object())
    assert desktop.obstacle({name: "x"}) is None
    assert desktop.obstacle({name: ""}) == desktop.obstacle({}) != None  # noqa: E711


def test_windows_and_mac_need_no_variable(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: object())
    for platform in ("win32", "darwin"):
        monkeypatch.setattr(sys, "platform", platform)
        assert desktop.obstacle({}) is None


def test_a_missing_pyside_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    reason, remedy = desktop.obstacle({"DISPLAY": ":0"}) or ("", "")
    assert "PySide6" in reason and "pip install" in remedy
