"""A pad to draw on: cells of the size of a model's image input, or a picture dropped on it."""

from array import array

from PySide6.QtCore import QPointF, QRectF, QSize, Qt, Signal
from PySide6.QtGui import (
    QColor,
    QDragEnterEvent,
    QDropEvent,
    QImage,
    QMouseEvent,
    QPainter,
    QPaintEvent,
    QPen,
)  # fmt: skip
from PySide6.QtWidgets import QSizePolicy, QWidget

from ui.theme import tokens

#: Strokes are drawn this much finer than the cells and averaged, as scanned digits are made.
FINE = 4
#: Up to this many cells a side are shown as cells; more are shown as a picture.
CELLS = 40


class DrawingPad(QWidget):
    """Holds ``rows × columns × channels`` values from 0 to 1 (1 is ink, or white), row by row, channels last."""

    changed = Signal()
    """A stroke ended, a picture was dropped, or the pad was cleared."""

    def __init__(self, rows: int, columns: int, channels: int) -> None:
        super().__init__()
        self.rows, self.columns, self.channels = rows, columns, channels
        self._values = array("f", bytes(4 * rows * columns * channels))
        self._ink = self._new_ink()
        self._last: QPointF | None = None
        self.setAcceptDrops(True)
        self.setCursor(Qt.CursorShape.CrossCursor)
        self.setAccessibleName(f"Drawing pad, {rows} by {columns}")
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.setFixedHeight(self._side())

    def _side(self) -> int:
        return 8 * 52 if self.rows <= 8 else 416

    def _new_ink(self) -> QImage:
        fine = FINE if self.rows <= CELLS else 1
        image = QImage(self.columns * fine, self.rows * fine, QImage.Format.Format_Grayscale8)
        image.fill(0)
        return image

    def sizeHint(self) -> QSize:
        return QSize(self._side(), self._side())

    def minimumSizeHint(self) -> QSize:
        return QSize(160, 160)

    # --- values ----------------------------------------------------------------------------------------

    def values(self) -> "array[float]":
        return self._values

    def is_blank(self) -> bool:
        return not any(self._values)

    def set_values(self, values: "list[float] | array[float]") -> None:
        """Shows values from 0 to 1 in the pad's own order; does not emit."""
        if len(values) != len(self._values):
            raise ValueError(f"{len(values)} values for a pad of {len(self._values)}")
        self._values = array("f", values)
        self._ink = self._new_ink()
        self.update()

    def clear(self) -> None:
        self._values = array("f", bytes(4 * len(self._values)))
        self._ink = self._new_ink()
        self.update()
        self.changed.emit()

    def set_image(self, image: QImage) -> None:
        """Scales a picture to the pad, keeping its proportions, on black."""
        picture = QImage(self.columns, self.rows, QImage.Format.Format_RGB888)
        picture.fill(Qt.GlobalColor.black)
        scaled = image.scaled(
            self.columns, self.rows, Qt.AspectRatioMode.KeepAspectRatio, Qt.TransformationMode.SmoothTransformation
        )
        painter = QPainter(picture)
        painter.drawImage((self.columns - scaled.width()) // 2, (self.rows - scaled.height()) // 2, scaled)
        painter.end()
        gray = self.channels == 1
        if gray:
            picture = picture.convertToFormat(QImage.Format.Format_Grayscale8)
        data, stride = picture.constBits(), picture.bytesPerLine()
        width = self.columns * self.channels
        self._values = array("f", (data[y * stride + x] / 255 for y in range(self.rows) for x in range(width)))
        self._ink = self._new_ink()
        self.update()
        self.changed.emit()

    # --- drawing ---------------------------------------------------------------------------------------

    def box(self) -> QRectF:
        """Where the cells are, inside the widget: centred, square cells."""
        cell = min(self.width() / self.columns, self.height() / self.rows)
        width, height = cell * self.columns, cell * self.rows
        return QRectF((self.width() - width) / 2, (self.height() - height) / 2, width, height)

    def stroke(self, start: QPointF, end: QPointF) -> None:
        """Draws a line between two points of the widget."""
        box = self.box()
        fine = self._ink.width() / box.width()
        painter = QPainter(self._ink)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        thickness = self._ink.width() * (0.11 if self.rows <= CELLS else 0.05)
        painter.setPen(
            QPen(
                Qt.GlobalColor.white,
                thickness,
                Qt.PenStyle.SolidLine,
                Qt.PenCapStyle.RoundCap,
                Qt.PenJoinStyle.RoundJoin,
            )
        )
        begin, finish = (QPointF((p.x() - box.left()) * fine, (p.y() - box.top()) * fine) for p in (start, end))
        painter.drawLine(begin, finish + QPointF(0.01, 0))
        painter.end()
        self._average_ink()
        self.update()

    def _average_ink(self) -> None:
        fine = self._ink.width() // self.columns
        data, stride = self._ink.constBits(), self._ink.bytesPerLine()
        full = 255.0 * fine * fine
        for y in range(self.rows):
            lines = [y * fine * stride + line * stride for line in range(fine)]
            for x in range(self.columns):
                at = x * fine
                ink = sum(sum(data[line + at : line + at + fine]) for line in lines) / full
                if ink:
                    index = (y * self.columns + x) * self.channels
                    for channel in range(self.channels):
                        self._values[index + channel] = max(self._values[index + channel], ink)

    def mousePressEvent(self, event: QMouseEvent) -> None:
        if event.button() == Qt.MouseButton.LeftButton:
            self._last = event.position()
            self.stroke(self._last, self._last)

    def mouseMoveEvent(self, event: QMouseEvent) -> None:
        if self._last is not None:
            self.stroke(self._last, event.position())
            self._last = event.position()

    def mouseReleaseEvent(self, event: QMouseEvent) -> None:
        if self._last is not None:
            self._last = None
            self.changed.emit()

    def dragEnterEvent(self, event: QDragEnterEvent) -> None:
        if event.mimeData().hasImage() or event.mimeData().hasUrls():
            event.acceptProposedAction()

    def dropEvent(self, event: QDropEvent) -> None:
        data = event.mimeData()
        image = QImage(data.imageData()) if data.hasImage() else QImage(data.urls()[0].toLocalFile())
        if not image.isNull():
            self.set_image(image)
            event.acceptProposedAction()

    # --- painting --------------------------------------------------------------------------------------

    def paintEvent(self, event: QPaintEvent) -> None:
        painter = QPainter(self)
        box = self.box()
        if self.rows > CELLS or self.columns > CELLS or self.channels == 3:
            painter.setRenderHint(QPainter.RenderHint.SmoothPixmapTransform)
            painter.drawImage(box, self._picture())
            return
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.setPen(Qt.PenStyle.NoPen)
        cell = box.width() / self.columns
        inset = 1.0 if cell > 16 else 0.5
        radius = min(4.0, cell / 10)
        empty, ink = QColor(tokens().raised), QColor(tokens().text)
        for y in range(self.rows):
            for x in range(self.columns):
                share = min(1.0, max(0.0, self._values[y * self.columns + x]))
                painter.setBrush(_mix(empty, ink, share))
                where = QRectF(box.left() + x * cell, box.top() + y * cell, cell, cell)
                painter.drawRoundedRect(where.adjusted(inset, inset, -inset, -inset), radius, radius)

    def _picture(self) -> QImage:
        data = bytes(round(255 * min(1.0, max(0.0, value))) for value in self._values)
        layout = QImage.Format.Format_RGB888 if self.channels == 3 else QImage.Format.Format_Grayscale8
        return QImage(data, self.columns, self.rows, self.columns * self.channels, layout).copy()


def _mix(first: QColor, second: QColor, share: float) -> QColor:
    return QColor.fromRgbF(
        first.redF() + (second.redF() - first.redF()) * share,
        first.greenF() + (second.greenF() - first.greenF()) * share,
        first.blueF() + (second.blueF() - first.blueF()) * share,
    )
