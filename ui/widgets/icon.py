"""Lucide icons in the colours of the theme: drawn for 24 units, shown at 16 px with a stroke of about 1.5 px."""

from functools import lru_cache

from PySide6.QtCore import QByteArray, QRectF, Qt
from PySide6.QtGui import QPainter, QPixmap
from PySide6.QtSvg import QSvgRenderer

from ui.theme import RESOURCES


@lru_cache(maxsize=256)
def pixmap(name: str, color: str, size: int = 16, scale: float = 1.0) -> QPixmap:
    """``name`` of a file in `resources/icons`, ``color`` as ``#rrggbb``, ``size`` in device-independent pixels."""
    svg = (RESOURCES / "icons" / f"{name}.svg").read_text(encoding="utf-8")
    svg = svg.replace("currentColor", color).replace('stroke-width="2"', f'stroke-width="{1.5 * 24 / size:.2f}"')
    image = QPixmap(round(size * scale), round(size * scale))
    image.fill(Qt.GlobalColor.transparent)
    painter = QPainter(image)
    QSvgRenderer(QByteArray(svg.encode())).render(painter, QRectF(image.rect()))
    painter.end()
    image.setDevicePixelRatio(scale)
    return image
