"""The strip in the bar: what the GPUs are doing, or the processor and memory where there is no GPU."""

from PySide6.QtCore import QRectF, QSize, Qt
from PySide6.QtGui import QFontMetricsF, QPainter, QPaintEvent
from PySide6.QtWidgets import QSizePolicy, QWidget

from app.schema.manage import Hardware
from ui import format
from ui.theme import font, tokens
from ui.widgets.meter import draw_meter

BAR = 84
Item = tuple[str, float | None, str]
"""A name, a share for the bar or `None` for no bar, and a value."""


def items_of(hardware: Hardware | None) -> list[Item]:
    """What the strip shows, most important first."""
    if hardware is None:
        return []
    if not hardware.gpus:
        memory = hardware.memory_used_bytes / hardware.memory_total_bytes if hardware.memory_total_bytes else 0.0
        return [
            ("CPU", hardware.cpu_percent / 100, f"{hardware.cpu_percent:.0f} %"),
            (
                "Memory",
                memory,
                format.size_of(hardware.memory_used_bytes, hardware.memory_total_bytes).replace(" of ", " / "),
            ),
        ]
    items: list[Item] = []
    for gpu in hardware.gpus[:2]:
        if gpu.utilization_percent is not None:
            items.append((f"GPU {gpu.index}", gpu.utilization_percent / 100, f"{gpu.utilization_percent:.0f} %"))
        if gpu.memory_used_bytes is not None and gpu.memory_total_bytes:
            used = format.size_of(gpu.memory_used_bytes, gpu.memory_total_bytes).replace(" of ", " / ")
            items.append(("VRAM", gpu.memory_used_bytes / gpu.memory_total_bytes, used))
        if gpu.temperature_c is not None:
            items.append(("", None, f"{gpu.temperature_c:.0f} °C"))
        if gpu.power_w is not None:
            items.append(("", None, f"{gpu.power_w:.0f} W"))
    return items


class GpuStrip(QWidget):
    """Right-aligned; what does not fit is left out from the end."""

    def __init__(self) -> None:
        super().__init__()
        self._items: list[Item] = []
        self.setAccessibleName("Load of the machine")
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)

    def sizeHint(self) -> QSize:
        return QSize(420, 32)

    def minimumSizeHint(self) -> QSize:
        return QSize(0, 32)

    def set_hardware(self, hardware: Hardware | None) -> None:
        items = items_of(hardware)
        if items != self._items:
            self._items = items
            self.setAccessibleDescription(", ".join(f"{name} {value}".strip() for name, _, value in items))
            self.update()

    def paintEvent(self, event: QPaintEvent) -> None:
        painter = QPainter(self)
        painter.setFont(font(12))
        metrics = QFontMetricsF(painter.font())
        t = tokens()

        def width(item: Item) -> float:
            name, share, value = item
            bar = BAR + 8 if share is not None else 0.0
            return metrics.horizontalAdvance(name) + (8 if name else 0) + bar + metrics.horizontalAdvance(value)

        shown = list(self._items)
        while shown and sum(width(item) + 18 for item in shown) - 18 > self.width():
            shown.pop()
        x = self.width() - sum(width(item) + 18 for item in shown) + 18
        middle = self.height() / 2
        align = Qt.AlignmentFlag.AlignVCenter
        for name, share, value in shown:
            painter.setPen(t.color("muted"))
            if name:
                advance = metrics.horizontalAdvance(name)
                painter.drawText(QRectF(x, 0, advance + 2, self.height()), align, name)
                x += advance + 8
            if share is not None:
                draw_meter(painter, QRectF(x, middle - 3, BAR, 6), share, "watch" if share > 0.92 else "accent")
                x += BAR + 8
            advance = metrics.horizontalAdvance(value)
            painter.drawText(QRectF(x, 0, advance + 2, self.height()), align, value)
            x += advance + 18
