"""The look: colour tokens of both themes, type, and the stylesheet made from them."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

from PySide6.QtCore import QObject, Qt, Signal
from PySide6.QtGui import QColor, QFont, QFontDatabase, QPalette
from PySide6.QtWidgets import QApplication

RESOURCES = Path(__file__).parent / "resources"
Mode = Literal["system", "dark", "light"]


@dataclass(frozen=True)
class Tokens:
    """Colours by what they mean. ``good``, ``watch``, ``wrong`` may carry text; ``series_*`` are for lines."""

    name: str
    window: str
    panel: str
    raised: str
    line: str
    text: str
    muted: str
    faint: str
    accent: str
    on_accent: str
    accent_hover: str
    good: str
    watch: str
    wrong: str
    selection: str
    series_1: str
    series_2: str
    series_3: str
    series_4: str
    area_alpha: float

    def color(self, key: str) -> QColor:
        return QColor(getattr(self, key))

    def area(self) -> QColor:
        """The fill under a line."""
        color = QColor(self.accent)
        color.setAlphaF(self.area_alpha)
        return color


# `good`, `watch` and `wrong` of the light theme are a shade darker than their series colours: they are read as
# words, and must keep 4.5:1 on every surface, the selected row included.
DARK = Tokens(
    name="dark", window="#0f1318", panel="#151b22", raised="#1b232c", line="#26303a",
    text="#e4eaf0", muted="#8c99a6", faint="#55616d",
    accent="#4f9de8", on_accent="#0b1622", accent_hover="#6caeed",
    good="#3fb68b", watch="#d9a441", wrong="#ec736d", selection="#1f2c3a",
    series_1="#4f9de8", series_2="#e0a24a", series_3="#3fb68b", series_4="#c678dd", area_alpha=0.13,
)  # fmt: skip
LIGHT = Tokens(
    name="light", window="#f6f7f9", panel="#ffffff", raised="#f1f3f6", line="#dfe4ea",
    text="#17202a", muted="#5c6976", faint="#98a3ae",
    accent="#1f6fc4", on_accent="#ffffff", accent_hover="#1a5fa9",
    good="#1a7a57", watch="#8f5f08", wrong="#b8322c", selection="#e3eefb",
    series_1="#1f6fc4", series_2="#b5720f", series_3="#1f8a63", series_4="#8a3fb0", area_alpha=0.12,
)  # fmt: skip

_current = DARK


def tokens() -> Tokens:
    """The tokens of the theme in force; read them when painting, never keep them."""
    return _current


def font(size_px: int = 13, weight: int = 400, *, mono: bool = False) -> QFont:
    face = QFont("JetBrains Mono" if mono else "Inter")
    face.setPixelSize(size_px)
    face.setWeight(QFont.Weight(weight))
    return face


def load_fonts() -> list[str]:
    """Registers the bundled fonts and returns their family names."""
    families: set[str] = set()
    for path in sorted((RESOURCES / "fonts").glob("*.ttf")):
        families.update(QFontDatabase.applicationFontFamilies(QFontDatabase.addApplicationFont(str(path))))
    return sorted(families)


class Theme(QObject):
    """Applies one of the themes to the application, following the system unless told otherwise."""

    changed = Signal()

    def __init__(self, app: QApplication, mode: Mode = "system") -> None:
        super().__init__(app)
        self._app = app
        self.mode: Mode = mode
        app.setStyle("Fusion")
        load_fonts()
        app.setFont(font())
        app.styleHints().colorSchemeChanged.connect(self._system_changed)
        self.set_mode(mode)

    def set_mode(self, mode: Mode) -> None:
        self.mode = mode
        dark = mode == "dark" or (mode == "system" and self._app.styleHints().colorScheme() != Qt.ColorScheme.Light)
        self._apply(DARK if dark else LIGHT)

    def _system_changed(self) -> None:
        if self.mode == "system":
            self.set_mode("system")

    def _apply(self, wanted: Tokens) -> None:
        global _current  # noqa: PLW0603  one application, one theme
        _current = wanted
        self._app.setPalette(palette(wanted))
        self._app.setStyleSheet(stylesheet(wanted))
        self.changed.emit()


def palette(t: Tokens) -> QPalette:
    colors = QPalette()
    role = QPalette.ColorRole
    for where, key in (
        (role.Window, "window"), (role.Base, "panel"), (role.AlternateBase, "raised"), (role.Button, "raised"),
        (role.WindowText, "text"), (role.Text, "text"), (role.ButtonText, "text"), (role.ToolTipText, "text"),
        (role.ToolTipBase, "raised"), (role.Highlight, "accent"), (role.HighlightedText, "on_accent"),
        (role.PlaceholderText, "muted"), (role.Link, "accent"), (role.Mid, "line"),
    ):  # fmt: skip
        colors.setColor(where, t.color(key))
    for where in (role.Text, role.ButtonText, role.WindowText):
        colors.setColor(QPalette.ColorGroup.Disabled, where, t.color("faint"))
    return colors


def stylesheet(t: Tokens) -> str:
    """`resources/style.qss` with each ``@token`` replaced."""
    text = (RESOURCES / "style.qss").read_text(encoding="utf-8")
    names = sorted((f.name for f in fields(t) if isinstance(getattr(t, f.name), str)), key=len, reverse=True)
    for name in names:
        text = text.replace(f"@{name}", getattr(t, name))
    return text
