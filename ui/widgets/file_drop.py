"""A place for a file: dropped, pasted or opened. By what it holds it shows a picture, a sound, or its name."""

import io
import wave
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PySide6.QtCore import QBuffer, QIODevice, QMimeData, QPointF, QRectF, QSize, Qt
from PySide6.QtGui import (
    QDragEnterEvent,
    QDropEvent,
    QFontMetricsF,
    QGuiApplication,
    QImage,
    QKeyEvent,
    QKeySequence,
    QMouseEvent,
    QPainter,
    QPaintEvent,
    QPen,
    QPixmap,
)  # fmt: skip
from PySide6.QtWidgets import QFileDialog, QSizePolicy

from ui import format
from ui.items import Box
from ui.theme import font, tokens
from ui.widgets.icon import pixmap
from ui.widgets.item_input import ItemInput
from ui.widgets.picture import FILTER

#: The daemon takes no larger body unless it is told to.
MOST_BYTES = 60_000_000
ANY = "All files (*)"
SOUNDS = f"Sounds (*.wav);;{ANY}"


def peaks(data: bytes, count: int = 160) -> tuple[float, list[float]]:
    """Seconds of a WAV file of 8 or 16 bits, and the loudest of ``count`` equal parts, 0 to 1. Raises `ValueError`."""
    try:
        with wave.open(io.BytesIO(data)) as sound:
            frames, rate, width, channels = (
                sound.getnframes(), sound.getframerate(), sound.getsampwidth(), sound.getnchannels()
            )  # fmt: skip
            raw = sound.readframes(frames)
    except (wave.Error, EOFError) as error:
        raise ValueError(str(error)) from None
    if width not in {1, 2} or not rate or not frames:
        return frames / (rate or 1), []
    samples: Sequence[int] = array("h", raw) if width == 2 else [value - 128 for value in raw]
    full = 32768 if width == 2 else 128
    step = max(1, len(samples) // count)
    # A few samples of each part show its loudness as well as all of them.
    skip = max(channels, step // 64)
    parts = [samples[at : at + step : skip] for at in range(0, len(samples), step)]
    return frames / rate, [max(abs(value) for value in part) / full for part in parts if len(part)]


class FileDrop(ItemInput):
    """Any file. The keyboard opens one with Enter and pastes with Ctrl+V."""

    hint = "drop, paste or open one"
    kind = "file"
    icon = "file-up"
    words = "Drop a file here"
    filter = ANY
    tall_px = 220

    def __init__(self) -> None:
        super().__init__()
        self.data = b""
        self.name = ""
        self.note = ""
        self._over = False
        self.setAcceptDrops(True)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setCursor(Qt.CursorShape.PointingHandCursor)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self._tell()

    def sizeHint(self) -> QSize:
        return QSize(320, self.tall_px)

    def minimumSizeHint(self) -> QSize:
        return QSize(160, self.tall_px)

    # --- the file --------------------------------------------------------------------------------------

    def open_file(self, path: str) -> None:
        """Takes a file; one that cannot be read is told in ``note``."""
        try:
            if (size := Path(path).stat().st_size) > MOST_BYTES:
                raise ValueError(f"{format.size(size)} are more than a request may have")
            self.set_data(Path(path).read_bytes(), Path(path).name)
        except (OSError, ValueError) as error:
            self.refuse(f"{Path(path).name} was not opened: {getattr(error, 'strerror', None) or error}")

    def set_data(self, data: bytes, name: str) -> None:
        """Raises `ValueError` for what is not of the kind."""
        shown = self.look(data)
        self.data, self.name, self.note = data, name, format.joined(shown, format.size(len(data)))
        self._tell()
        self.changed.emit()
        self.entered.emit()

    def look(self, data: bytes) -> str:
        """Keeps what is to be shown of it, and says it in words."""
        return ""

    def refuse(self, why: str) -> None:
        self.clear()
        self.note = why
        self._tell()

    def clear(self) -> None:
        self.data, self.name, self.note = b"", "", ""
        self._tell()
        self.changed.emit()

    def item(self) -> bytes:
        if not self.data:
            raise ValueError(f"{self.words} first, or open one.")
        return self.data

    def sample(self) -> Any:
        return {self.kind: self.name}

    def is_empty(self) -> bool:
        return not self.data

    def choose(self) -> None:
        dialog = QFileDialog(self, "Open a file", "", self.filter)
        dialog.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        dialog.fileSelected.connect(self.open_file)
        dialog.open()

    def take(self, mime: QMimeData) -> None:
        """What is dropped or pasted."""
        if mime.hasUrls() and mime.urls()[0].isLocalFile():
            self.open_file(mime.urls()[0].toLocalFile())

    def _tell(self) -> None:
        self.setAccessibleName(f"{self.words}, paste one, or press Enter to open one")
        self.setAccessibleDescription(format.joined(self.name, self.note))
        self.update()

    # --- Qt --------------------------------------------------------------------------------------------

    def keyPressEvent(self, event: QKeyEvent) -> None:
        if event.matches(QKeySequence.StandardKey.Paste):
            self.take(QGuiApplication.clipboard().mimeData())
        elif event.key() in {Qt.Key.Key_Return, Qt.Key.Key_Enter, Qt.Key.Key_Space}:
            self.choose()
        elif event.key() in {Qt.Key.Key_Delete, Qt.Key.Key_Backspace}:
            self.clear()
        else:
            super().keyPressEvent(event)

    def mouseReleaseEvent(self, event: QMouseEvent) -> None:
        if event.button() == Qt.MouseButton.LeftButton and self.rect().contains(event.position().toPoint()):
            self.choose()

    def dragEnterEvent(self, event: QDragEnterEvent) -> None:
        if event.mimeData().hasUrls() or event.mimeData().hasImage():
            event.acceptProposedAction()
            self._set_over(True)

    def dragLeaveEvent(self, event: Any) -> None:
        self._set_over(False)

    def dropEvent(self, event: QDropEvent) -> None:
        self._set_over(False)
        self.take(event.mimeData())
        event.acceptProposedAction()

    def _set_over(self, over: bool) -> None:
        self._over = over
        self.update()

    def focusInEvent(self, event: Any) -> None:
        super().focusInEvent(event)
        self.update()

    def focusOutEvent(self, event: Any) -> None:
        super().focusOutEvent(event)
        self.update()

    def paintEvent(self, event: QPaintEvent) -> None:
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        t = tokens()
        edge = "accent" if self._over or self.hasFocus() else "line"
        pen = QPen(t.color(edge), 1.2, Qt.PenStyle.SolidLine if self.data else Qt.PenStyle.DashLine)
        painter.setPen(pen)
        painter.setBrush(t.color("selection" if self._over else "raised"))
        painter.drawRoundedRect(QRectF(self.rect()).adjusted(1, 1, -1, -1), 6, 6)
        inner = QRectF(self.rect()).adjusted(14, 14, -14, -14)
        if self.data:
            self.paint_item(painter, inner)
        else:
            self._paint_empty(painter, inner)

    def _paint_empty(self, painter: QPainter, box: QRectF) -> None:
        t = tokens()
        picture = pixmap(self.icon, t.muted, 24, self.devicePixelRatioF())
        middle = box.center()
        painter.drawPixmap(QPointF(middle.x() - 12, middle.y() - 44), picture)
        lines = ((self.words, "text", 13), ("paste one, or press Enter to open one", "muted", 11))
        for at, (text, color, size) in enumerate(lines):
            painter.setFont(font(size, 500 if not at else 400))
            painter.setPen(t.color(color))
            where = QRectF(box.left(), middle.y() - 10 + 22 * at, box.width(), 20)
            painter.drawText(where, Qt.AlignmentFlag.AlignCenter, text)
        if self.note:
            painter.setPen(t.color("wrong"))
            where = QRectF(box.left(), box.bottom() - 32, box.width(), 32)
            painter.drawText(where, Qt.AlignmentFlag.AlignCenter | Qt.TextFlag.TextWordWrap, self.note)

    def paint_item(self, painter: QPainter, box: QRectF) -> None:
        middle = box.center()
        picture = pixmap(self.icon, tokens().accent, 24, self.devicePixelRatioF())
        painter.drawPixmap(QPointF(middle.x() - 12, middle.y() - 40), picture)
        self.paint_name(painter, QRectF(box.left(), middle.y() - 8, box.width(), 44))

    def paint_name(self, painter: QPainter, box: QRectF) -> None:
        t = tokens()
        painter.setFont(font(13, 500))
        painter.setPen(t.color("text"))
        name = QFontMetricsF(painter.font()).elidedText(self.name, Qt.TextElideMode.ElideMiddle, box.width())
        painter.drawText(QRectF(box.left(), box.top(), box.width(), 20), Qt.AlignmentFlag.AlignCenter, name)
        painter.setFont(font(11))
        painter.setPen(t.color("muted"))
        where = QRectF(box.left(), box.top() + 22, box.width(), 18)
        painter.drawText(where, Qt.AlignmentFlag.AlignCenter, self.note)


class PictureDrop(FileDrop):
    """``boxes`` are drawn over it."""

    kind, icon, words, filter = "image", "image", "Drop a picture here", FILTER
    tall_px = 380

    def __init__(self) -> None:
        self.image = QImage()
        self.boxes: list[Box] = []
        super().__init__()

    def look(self, data: bytes) -> str:
        image = QImage.fromData(data)
        self.image, self.boxes = image, []
        # What Qt cannot show the model may still read: formats differ.
        return "" if image.isNull() else f"{image.width()}×{image.height()}"

    def take(self, mime: QMimeData) -> None:
        if mime.hasUrls() and mime.urls()[0].isLocalFile():
            self.open_file(mime.urls()[0].toLocalFile())
        elif mime.hasImage():
            buffer = QBuffer()
            buffer.open(QIODevice.OpenModeFlag.WriteOnly)
            QImage(mime.imageData()).save(buffer, "PNG")  # type: ignore[call-overload]
            self.set_data(bytes(buffer.data().data()), "picture.png")

    def set_boxes(self, boxes: list[Box]) -> None:
        self.boxes = boxes
        self.update()

    def clear(self) -> None:
        self.image, self.boxes = QImage(), []
        super().clear()

    def paint_item(self, painter: QPainter, box: QRectF) -> None:
        if self.image.isNull():
            super().paint_item(painter, box)
            return
        room = box.adjusted(0, 0, 0, -46)
        scale = min(room.width() / self.image.width(), room.height() / self.image.height())
        # A picture of a few pixels is shown larger, but not as a blur of the whole field.
        scale = min(scale, 8.0 if max(self.image.width(), self.image.height()) < 64 else 2.0)
        size = QSize(max(1, round(self.image.width() * scale)), max(1, round(self.image.height() * scale)))
        left, top = room.center().x() - size.width() / 2, room.center().y() - size.height() / 2
        ratio = self.devicePixelRatioF()
        smooth = Qt.TransformationMode.SmoothTransformation if scale < 3 else Qt.TransformationMode.FastTransformation
        scaled = self.image.scaled(size * ratio, Qt.AspectRatioMode.KeepAspectRatio, smooth)
        scaled.setDevicePixelRatio(ratio)
        painter.drawPixmap(QPointF(left, top), QPixmap.fromImage(scaled))
        painter.setPen(QPen(tokens().color("line"), 1))
        painter.setBrush(Qt.BrushStyle.NoBrush)
        painter.drawRect(QRectF(left, top, size.width(), size.height()))
        self._paint_boxes(painter, left, top, scale)
        self.paint_name(painter, QRectF(box.left(), box.bottom() - 40, box.width(), 40))

    def _paint_boxes(self, painter: QPainter, left: float, top: float, scale: float) -> None:
        t = tokens()
        painter.setFont(font(11, 500))
        metrics = QFontMetricsF(painter.font())
        for found in self.boxes:
            where = QRectF(
                left + found.left * scale, top + found.top * scale,
                (found.right - found.left) * scale, (found.bottom - found.top) * scale,
            )  # fmt: skip
            painter.setPen(QPen(t.color("accent"), 2))
            painter.setBrush(Qt.BrushStyle.NoBrush)
            painter.drawRoundedRect(where, 2, 2)
            text = f"{found.label} {found.score:.2f}".strip()
            tab = QRectF(where.left(), max(top, where.top() - 18), metrics.horizontalAdvance(text) + 10, 18)
            painter.fillRect(tab, t.color("accent"))
            painter.setPen(t.color("on_accent"))
            painter.drawText(tab, Qt.AlignmentFlag.AlignCenter, text)


class SoundDrop(FileDrop):
    kind, icon, words, filter = "audio", "activity", "Drop a sound here", SOUNDS

    def __init__(self) -> None:
        self.peaks: list[float] = []
        super().__init__()

    def look(self, data: bytes) -> str:
        try:
            seconds, self.peaks = peaks(data)
        except ValueError:  # raw samples, which the card says how to read
            self.peaks = []
            return ""
        return f"{seconds:.1f} s"

    def clear(self) -> None:
        self.peaks = []
        super().clear()

    def paint_item(self, painter: QPainter, box: QRectF) -> None:
        if not self.peaks:
            super().paint_item(painter, box)
            return
        room = box.adjusted(0, 4, 0, -50)
        step = room.width() / len(self.peaks)
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(tokens().color("accent"))
        for at, peak in enumerate(self.peaks):
            half = max(1.0, peak * room.height() / 2)
            bar = QRectF(room.left() + at * step, room.center().y() - half, max(1.0, step - 1), 2 * half)
            painter.drawRoundedRect(bar, 1, 1)
        self.paint_name(painter, QRectF(box.left(), box.bottom() - 42, box.width(), 40))
