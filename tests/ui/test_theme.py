import re

import pytest
from PySide6.QtGui import QColor, QFont, QFontInfo

from ui.theme import DARK, LIGHT, RESOURCES, Theme, Tokens, font, load_fonts, stylesheet, tokens


def luminance(color: str) -> float:
    """Relative luminance, WCAG 2.2."""
    parts = [value / 255 for value in QColor(color).getRgb()[:3]]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(first: str, second: str) -> float:
    high, low = sorted((luminance(first), luminance(second)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", [DARK, LIGHT], ids=lambda theme: theme.name)
@pytest.mark.parametrize("ink", ["text", "muted", "good", "watch", "wrong"])
@pytest.mark.parametrize("paper", ["window", "panel", "raised", "selection"])
def test_text_can_be_read(theme: Tokens, ink: str, paper: str) -> None:
    assert contrast(getattr(theme, ink), getattr(theme, paper)) >= 4.5


@pytest.mark.parametrize("theme", [DARK, LIGHT], ids=lambda theme: theme.name)
def test_the_primary_button_can_be_read(theme: Tokens) -> None:
    assert contrast(theme.on_accent, theme.accent) >= 4.5
    assert contrast(theme.on_accent, theme.accent_hover) >= 4.5


@pytest.mark.parametrize("theme", [DARK, LIGHT], ids=lambda theme: theme.name)
@pytest.mark.parametrize("series", ["series_1", "series_2", "series_3", "series_4"])
def test_lines_stand_out(theme: Tokens, series: str) -> None:
    assert contrast(getattr(theme, series), theme.panel) >= 3


def test_every_token_of_the_stylesheet_is_known() -> None:
    for theme in (DARK, LIGHT):
        assert not re.findall(r"@\w+", stylesheet(theme))


@pytest.mark.parametrize("weight", [400, 500, 600])
def test_the_bundled_fonts_are_what_is_used(theme: Theme, weight: int) -> None:
    assert {"Inter", "JetBrains Mono"} <= set(load_fonts())
    info = QFontInfo(font(13, weight))
    assert (info.family(), info.weight()) == ("Inter", QFont.Weight(weight))
    assert QFontInfo(font(12, mono=True)).family() == "JetBrains Mono"


def test_the_fonts_and_icons_come_with_their_licences() -> None:
    assert "SIL Open Font License" in (RESOURCES / "fonts" / "Inter-LICENSE.txt").read_text(encoding="utf-8")
    assert "SIL Open Font License" in (RESOURCES / "fonts" / "JetBrainsMono-LICENSE.txt").read_text(encoding="utf-8")
    assert "ISC" in (RESOURCES / "icons" / "LICENSE.txt").read_text(encoding="utf-8")


def test_a_theme_can_be_chosen(theme: Theme) -> None:
    theme.set_mode("light")
    assert tokens() is LIGHT
    theme.set_mode("dark")
    assert tokens() is DARK
