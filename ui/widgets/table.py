"""The table view: cells painted by kind, columns fitted to the width, as high as its rows."""

from typing import Any

from PySide6.QtCore import (
    QItemSelection,
    QModelIndex,
    QPersistentModelIndex,
    QPointF,
    QRectF,
    QSize,
    Qt,
    QTimer,
    Signal,
)
from PySide6.QtGui import QFontMetricsF, QKeyEvent, QMouseEvent, QPainter, QPaintEvent, QPen, QResizeEvent
from PySide6.QtWidgets import (
    QAbstractItemView,
    QHeaderView,
    QSizePolicy,
    QStyle,
    QStyledItemDelegate,
    QStyleOptionViewItem,
    QTableView,
)  # fmt: skip

from ui.tables.base import CELL_ROLE, Cell, RowsModel, fit
from ui.theme import font, tokens
from ui.widgets.mark import draw_mark
from ui.widgets.meter import draw_meter
from ui.widgets.sparkline import draw_sparkline, thin

PADDING = 10
HEADER = 34
BUTTON_HEIGHT = 24


def button_box(cell: QRectF, text: str, *, right: bool) -> QRectF:
    """Where the button of a cell is."""
    width = QFontMetricsF(font(12, 500)).horizontalAdvance(text) + 22
    left = cell.right() - PADDING - width if right else cell.left() + PADDING
    return QRectF(left, cell.center().y() - BUTTON_HEIGHT / 2, width, BUTTON_HEIGHT)


class CellDelegate(QStyledItemDelegate):
    """Paints `Cell`s in the colours of the theme."""

    def paint(
        self, painter: QPainter, option: QStyleOptionViewItem, index: QModelIndex | QPersistentModelIndex
    ) -> None:
        cell: Cell = index.data(CELL_ROLE)
        model: Any = index.model()
        right = model.columns[index.column()].right
        state: Any = option.state
        box = QRectF(option.rect)
        t = tokens()
        painter.save()
        if state & QStyle.StateFlag.State_Selected:
            painter.fillRect(box, t.color("selection"))
        if index.row() < model.rowCount() - 1:
            painter.setPen(QPen(t.color("line"), 1))
            painter.drawLine(QPointF(box.left(), box.bottom() - 0.5), QPointF(box.right() + 1, box.bottom() - 0.5))
        inner = box.adjusted(PADDING, 0, -PADDING, 0)
        if cell.kind == "progress":
            width = min(72.0, inner.width())
            left = inner.right() - width if right else inner.left()
            draw_meter(painter, QRectF(left, inner.center().y() - 3, width, 6), cell.progress)
        elif cell.kind == "spark":
            draw_sparkline(painter, inner.adjusted(0, 8, 0, -8), thin(cell.values, 60))
        elif cell.kind == "button":
            self._paint_button(painter, button_box(box, cell.text, right=right), cell.text)
        elif cell.kind == "chip":
            self._paint_chip(painter, inner, cell.text, right=right)
        else:
            self._paint_text(painter, inner, cell, right=right)
        painter.restore()

    def _paint_text(self, painter: QPainter, box: QRectF, cell: Cell, *, right: bool) -> None:
        if cell.mark is not None:
            draw_mark(painter, cell.mark, QPointF(box.left() + 5, box.center().y()))
            box = box.adjusted(17, 0, 0, 0)
        painter.setFont(font(13, 500 if cell.strong else 400))
        painter.setPen(tokens().color(cell.color))
        metrics = QFontMetricsF(painter.font())
        text = metrics.elidedText(cell.text, Qt.TextElideMode.ElideRight, box.width())
        align = Qt.AlignmentFlag.AlignVCenter
        painter.drawText(box, align | (Qt.AlignmentFlag.AlignRight if right else Qt.AlignmentFlag.AlignLeft), text)
        if cell.note and text == cell.text:
            rest = box.adjusted(metrics.horizontalAdvance(text) + 6, 0, 0, 0)
            painter.setFont(font(13))
            painter.setPen(tokens().color("muted"))
            painter.drawText(rest, align, metrics.elidedText(cell.note, Qt.TextElideMode.ElideRight, rest.width()))

    def _paint_button(self, painter: QPainter, box: QRectF, text: str) -> None:
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.setPen(QPen(tokens().color("line"), 1))
        painter.setBrush(tokens().color("panel"))
        painter.drawRoundedRect(box.adjusted(0.5, 0.5, -0.5, -0.5), 5, 5)
        painter.setPen(tokens().color("text"))
        painter.setFont(font(12, 500))
        painter.drawText(box, Qt.AlignmentFlag.AlignCenter, text)

    def _paint_chip(self, painter: QPainter, box: QRectF, text: str, *, right: bool) -> None:
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.setFont(font(11))
        width = min(box.width(), QFontMetricsF(painter.font()).horizontalAdvance(text) + 16)
        left = box.right() - width if right else box.left()
        chip = QRectF(left, box.center().y() - 9, width, 18)
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(tokens().color("raised"))
        painter.drawRoundedRect(chip, 9, 9)
        painter.setPen(tokens().color("muted"))
        painter.drawText(chip, Qt.AlignmentFlag.AlignCenter, text)


class Table(QTableView):
    """``picked(key)`` when another row is selected, ``acted(key, action)`` when a row's button is pressed."""

    picked = Signal(str)
    acted = Signal(str, str)

    def __init__(
        self, name: str, model: RowsModel[Any], *, row_height: int = 40, max_rows: int = 14, selectable: bool = True
    ) -> None:
        super().__init__()
        self._rows = model
        self._row_height, self._max_rows = row_height, max_rows
        self._current = ""
        self.setModel(model)
        self.setItemDelegate(CellDelegate(self))
        self.setAccessibleName(name)
        self.setShowGrid(False)
        self.setMouseTracking(True)
        self.setWordWrap(False)
        self.setTabKeyNavigation(False)
        self.verticalHeader().hide()
        self.verticalHeader().setDefaultSectionSize(row_height)
        self.verticalHeader().setSectionResizeMode(QHeaderView.ResizeMode.Fixed)
        header = self.horizontalHeader()
        header.setFixedHeight(HEADER)
        header.setSectionResizeMode(QHeaderView.ResizeMode.Fixed)
        header.setMinimumSectionSize(10)
        header.setHighlightSections(False)
        header.setSectionsClickable(False)
        self.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        mode = QAbstractItemView.SelectionMode
        self.setSelectionMode(mode.SingleSelection if selectable else mode.NoSelection)
        if not selectable:
            self.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        self.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        model.modelReset.connect(self._reset)
        self._patience = QTimer(self, singleShot=True, interval=150)
        self._patience.timeout.connect(self.viewport().update)
        self._patience.start()

    def selected(self) -> str:
        """The key of the selected row, or an empty string."""
        return self._current

    def select(self, key: str) -> None:
        row = self._rows.row_of(key)
        if row >= 0:
            self.selectRow(row)

    def sizeHint(self) -> QSize:
        rows = 4 if self._rows.loading else min(self._max_rows, self._rows.rowCount())
        return QSize(300, HEADER + rows * self._row_height + 2)

    def minimumSizeHint(self) -> QSize:
        return QSize(160, self.sizeHint().height())

    def _reset(self) -> None:
        self._fit_columns()
        self.updateGeometry()
        if self._rows.row_of(self._current) >= 0:
            self.select(self._current)

    def resizeEvent(self, event: QResizeEvent) -> None:
        super().resizeEvent(event)
        self._fit_columns()

    def _fit_columns(self) -> None:
        for index, width in enumerate(fit(self._rows.columns, self.viewport().width())):
            self.setColumnHidden(index, width == 0)
            if width:
                self.setColumnWidth(index, width)

    def selectionChanged(self, selected: QItemSelection, deselected: QItemSelection) -> None:
        super().selectionChanged(selected, deselected)
        rows = self.selectionModel().selectedRows()
        if rows and self._rows.key(rows[0].row()) != self._current:
            self._current = self._rows.key(rows[0].row())
            self.picked.emit(self._current)

    def _button_at(self, point: QPointF) -> tuple[str, str] | None:
        index = self.indexAt(point.toPoint())
        if not index.isValid():
            return None
        cell: Cell = index.data(CELL_ROLE)
        if cell.kind != "button":
            return None
        box = button_box(QRectF(self.visualRect(index)), cell.text, right=self._rows.columns[index.column()].right)
        return (self._rows.key(index.row()), cell.action) if box.contains(point) else None

    def mouseReleaseEvent(self, event: QMouseEvent) -> None:
        super().mouseReleaseEvent(event)
        if hit := self._button_at(event.position()):
            self.acted.emit(*hit)

    def mouseMoveEvent(self, event: QMouseEvent) -> None:
        super().mouseMoveEvent(event)
        over = self._button_at(event.position()) is not None
        self.viewport().setCursor(Qt.CursorShape.PointingHandCursor if over else Qt.CursorShape.ArrowCursor)

    def keyPressEvent(self, event: QKeyEvent) -> None:
        rows = self.selectionModel().selectedRows()
        if event.key() in {Qt.Key.Key_Return, Qt.Key.Key_Enter} and rows:
            row = rows[0].row()
            for column in range(len(self._rows.columns)):
                cell = self._rows.cell(row, column)
                if cell.kind == "button":
                    self.acted.emit(self._rows.key(row), cell.action)
                    return
        super().keyPressEvent(event)

    def paintEvent(self, event: QPaintEvent) -> None:
        super().paintEvent(event)
        if self._rows.loading and not self._patience.isActive():
            self._paint_skeleton()

    def _paint_skeleton(self) -> None:
        painter = QPainter(self.viewport())
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(tokens().color("raised"))
        width = self.viewport().width()
        for row in range(4):
            middle = (row + 0.5) * self._row_height
            for left, share in ((0.02, 0.16), (0.24, 0.12), (0.42, 0.3), (0.86, 0.1)):
                painter.drawRoundedRect(QRectF(left * width, middle - 5, share * width, 10), 5, 5)
