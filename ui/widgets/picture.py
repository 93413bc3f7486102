"""A picture for a model to look at: read, made small enough to send, shown before it goes."""

from pathlib import Path

from PySide6.QtCore import QBuffer, QIODevice, QMimeData, QSize, Qt, Signal
from PySide6.QtGui import QImage, QImageReader, QPixmap
from PySide6.QtWidgets import QHBoxLayout, QLabel, QWidget

from ui.widgets.basics import button, label

#: Models look at fewer pixels than that, and a request stays far under the daemon's limit.
LONGEST_PX = 2048
FILTER = "Images (*.png *.jpg *.jpeg *.bmp *.webp *.gif)"


def read_picture(path: str) -> QImage:
    """Upright as the camera was held; null when the file is not a picture."""
    reader = QImageReader(path)
    reader.setAutoTransform(True)
    reader.setDecideFormatFromContent(True)
    return reader.read()


def picture_in(data: QMimeData) -> QImage:
    """What is pasted or dropped; null when it is no picture."""
    if data.hasImage():
        return QImage(data.imageData())
    return read_picture(data.urls()[0].toLocalFile()) if data.hasUrls() else QImage()


def data_url(image: QImage) -> str:
    """``data:image/jpeg;base64,…``, or PNG where the picture is transparent in places."""
    if max(image.width(), image.height()) > LONGEST_PX:
        image = _fitted(image, QSize(LONGEST_PX, LONGEST_PX))
    kind = "png" if image.hasAlphaChannel() else "jpeg"
    buffer = QBuffer()
    buffer.open(QIODevice.OpenModeFlag.WriteOnly)
    image.save(buffer, kind.upper(), -1 if kind == "png" else 92)  # type: ignore[call-overload]
    return f"data:image/{kind};base64,{buffer.data().toBase64().toStdString()}"


def _fitted(image: QImage, size: QSize) -> QImage:
    return image.scaled(size, Qt.AspectRatioMode.KeepAspectRatio, Qt.TransformationMode.SmoothTransformation)


def thumbnail(image: QImage, size: QSize) -> QLabel:
    """No larger than ``size``, nor than the picture."""
    shown = label()
    fits = image.width() <= size.width() and image.height() <= size.height()
    shown.setPixmap(QPixmap.fromImage(image if fits else _fitted(image, size)))
    shown.setAccessibleName("Picture")
    return shown


class Attachment(QWidget):
    """The picture that goes with the next message, and a link to leave it out; hidden while there is none."""

    changed = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.image = QImage()
        self._thumbnail: QLabel | None = None
        self._name = label("", "caption")
        self.remove = button("Remove", self.clear, "link", name="Remove the picture")
        self._line = QHBoxLayout(self)
        self._line.setContentsMargins(0, 0, 0, 0)
        for widget in (self._name, self.remove):
            self._line.addWidget(widget)
        self._line.addStretch(1)
        self.hide()

    def set_image(self, image: QImage, path: str = "") -> None:
        if self._thumbnail is not None:
            self._line.removeWidget(self._thumbnail)
            self._thumbnail.deleteLater()
            self._thumbnail = None
        self.image = image
        if not image.isNull():
            self._thumbnail = thumbnail(image, QSize(64, 40))
            self._line.insertWidget(0, self._thumbnail)
            name = Path(path).name or "Picture"
            name = name if len(name) <= 28 else f"{name[:20]}…{name[-7:]}"
            self._name.setText(f"{name} · {image.width()}×{image.height()}")
        self.setVisible(not image.isNull())
        self.changed.emit()

    def clear(self) -> None:
        self.set_image(QImage())
