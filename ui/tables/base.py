"""Tables of rows that are values: a column is a title and a function from a row to a cell."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

from PySide6.QtCore import QAbstractTableModel, QModelIndex, QObject, QPersistentModelIndex, Qt

from ui.words import Mark

Row = TypeVar("Row")
CELL_ROLE = Qt.ItemDataRole.UserRole + 1
Index = QModelIndex | QPersistentModelIndex


@dataclass(frozen=True)
class Cell:
    """What a table shows in one place. ``note`` follows ``text`` in a muted colour; ``action`` makes it a button
    of that name; ``progress`` (0 to 1) a bar; ``values`` a sparkline."""

    text: str = ""
    kind: Literal["text", "chip", "button", "progress", "spark"] = "text"
    color: str = "text"
    mark: Mark | None = None
    note: str = ""
    strong: bool = False
    action: str = ""
    progress: float = 0.0
    values: tuple[float, ...] = ()


@dataclass(frozen=True)
class Column(Generic[Row]):
    """``width`` is the least in pixels; what is left over goes to columns by ``stretch``. Where the table is too
    narrow the columns with the highest ``drop`` go first; 0 stays."""

    title: str
    cell: Callable[[Row], Cell]
    width: int = 80
    stretch: int = 0
    right: bool = False
    drop: int = 0


def fit(columns: Sequence[Column[Any]], available: int) -> list[int]:
    """The width of each column in pixels; 0 hides it."""
    shown = list(range(len(columns)))
    while sum(columns[index].width for index in shown) > available:
        droppable = [index for index in shown if columns[index].drop]
        if not droppable:
            break
        shown.remove(max(droppable, key=lambda index: columns[index].drop))
    widths = [columns[index].width if index in shown else 0 for index in range(len(columns))]
    spare = available - sum(widths)
    stretch = sum(columns[index].stretch for index in shown)
    if spare > 0 and stretch:
        given = 0
        for index in shown:
            extra = spare * columns[index].stretch // stretch
            widths[index] += extra
            given += extra
        last = max(index for index in shown if columns[index].stretch)
        widths[last] += spare - given
    elif spare < 0 and shown:  # narrower than the least of all: the widest gives way
        widest = max(shown, key=lambda index: widths[index])
        widths[widest] = max(40, widths[widest] + spare)
    return widths


class RowsModel(QAbstractTableModel, Generic[Row]):
    """Rows under keys. `set_rows` touches only what changed, so selection and scrolling stay."""

    def __init__(
        self, columns: Sequence[Column[Row]], key: Callable[[Row], str], parent: QObject | None = None
    ) -> None:
        super().__init__(parent)
        self.columns = list(columns)
        self._key = key
        self.rows: list[Row] = []
        self.loading = True

    def set_rows(self, rows: Sequence[Row]) -> None:
        new = list(rows)
        same = [self._key(row) for row in new] == [self._key(row) for row in self.rows]
        if same and not self.loading:
            for index, (old, row) in enumerate(zip(self.rows, new, strict=True)):
                if old != row:
                    self.rows[index] = row
                    self.dataChanged.emit(self.index(index, 0), self.index(index, len(self.columns) - 1))
            return
        self.beginResetModel()
        self.rows, self.loading = new, False
        self.endResetModel()

    def key(self, row: int) -> str:
        return self._key(self.rows[row])

    def row_of(self, key: str) -> int:
        """-1 when there is no such row."""
        return next((index for index, row in enumerate(self.rows) if self._key(row) == key), -1)

    def cell(self, row: int, column: int) -> Cell:
        return self.columns[column].cell(self.rows[row])

    def texts(self) -> list[list[str]]:
        """Everything that is shown, as text."""
        return [
            [self.data(self.index(row, column)) for column in range(len(self.columns))] for row in range(len(self.rows))
        ]

    # --- Qt's interface --------------------------------------------------------------------------------

    def rowCount(self, parent: Index = QModelIndex()) -> int:  # noqa: B008  Qt's signature
        return 0 if parent.isValid() else len(self.rows)

    def columnCount(self, parent: Index = QModelIndex()) -> int:  # noqa: B008
        return 0 if parent.isValid() else len(self.columns)

    def data(self, index: Index, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        if not index.isValid():
            return None
        cell = self.cell(index.row(), index.column())
        if role == CELL_ROLE:
            return cell
        if role in {Qt.ItemDataRole.DisplayRole, Qt.ItemDataRole.AccessibleTextRole, Qt.ItemDataRole.ToolTipRole}:
            if cell.kind == "progress":
                return f"{cell.progress:.0%}"
            return f"{cell.text} {cell.note}".strip() or cell.action
        return None

    def headerData(self, section: int, orientation: Qt.Orientation, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        if orientation == Qt.Orientation.Horizontal and role == Qt.ItemDataRole.DisplayRole:
            return self.columns[section].title
        if orientation == Qt.Orientation.Horizontal and role == Qt.ItemDataRole.TextAlignmentRole:
            side = Qt.AlignmentFlag.AlignRight if self.columns[section].right else Qt.AlignmentFlag.AlignLeft
            return side | Qt.AlignmentFlag.AlignVCenter
        return None
