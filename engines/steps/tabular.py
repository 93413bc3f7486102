"""Rows of tables, and files as numbers."""

import math
from typing import Any

import numpy as np

from engines.card import Column, Columns, FileBytes
from engines.steps.feeds import to_float32


class TableRow:
    """A JSON object or list -> numbers, by the declared columns."""

    def __init__(self, step: Columns):
        self._columns = step.columns
        self._places = [{value: index for index, value in enumerate(column.categories)} for column in step.columns]
        self._names = {column.name for column in step.columns}

    def matrix(self, row: Any) -> np.ndarray:
        """FP32 [columns]. Raises `ValueError`."""
        return to_float32(np.concatenate([np.atleast_1d(value) for value in self._values(row)]))

    def inputs(self, row: Any) -> dict[str, np.ndarray]:
        """By input, a value [1], or [categories] where they are one-hot. Raises `ValueError`."""
        values = zip(self._columns, self._values(row), strict=True)
        return {column.input or column.name: np.atleast_1d(value) for column, value in values}

    def _values(self, row: Any) -> list[np.ndarray]:
        if isinstance(row, list):
            if len(row) != len(self._columns):
                raise ValueError(f"the row has {len(row)} values, the model takes {len(self._columns)}")
            cells = row
        elif isinstance(row, dict):
            if unknown := row.keys() - self._names:
                raise ValueError(f"there is no column {', '.join(sorted(unknown))}")
            cells = [row.get(column.name) for column in self._columns]
        else:
            raise ValueError("a row is a JSON object or a list")
        return [
            _value(column, places, cell)
            for column, places, cell in zip(self._columns, self._places, cells, strict=True)
        ]


def _value(column: Column, places: dict[Any, int], cell: Any) -> np.ndarray:
    missing = cell is None or (isinstance(cell, float) and math.isnan(cell))
    if missing:
        cell = column.missing
        if cell is None:
            raise ValueError(f"column {column.name} is missing")
    match column.type:
        case "text":
            if not isinstance(cell, str):
                raise ValueError(f"column {column.name} takes a text, not {cell!r}")
            return np.array(cell.encode(), dtype=object)
        case "category":
            return _category(column, places, cell)
        case _:
            try:
                number = float(cell)
            except (TypeError, ValueError, OverflowError):
                number = math.nan
            if not (math.isfinite(number) or missing):
                raise ValueError(f"column {column.name} takes a number, not {cell!r}")
            return np.float64((number - column.mean) / column.scale)  # type: ignore[return-value]


def _category(column: Column, places: dict[Any, int], cell: Any) -> np.ndarray:
    index = places.get(cell) if isinstance(cell, str | int | float) else None
    if column.one_hot:
        values = np.zeros(len(column.categories))
        if index is not None:
            values[index] = 1
        return values
    if index is None:
        if column.unknown is None:
            known = ", ".join(map(str, column.categories[:20]))
            raise ValueError(f"column {column.name} does not know {cell!r}; it knows {known}")
        return np.asarray(column.unknown)
    return np.asarray(float(index))


def file_bytes(step: FileBytes, data: bytes) -> np.ndarray:
    """INT32 [begin + middle + end]."""
    head = data[: step.block or None]
    tail = data[-step.block if step.block else 0 :]
    whole = data
    if step.strip:
        head, tail, whole = head.lstrip(), tail.rstrip(), data.strip()
    numbers = np.full(step.begin + step.middle + step.end, step.pad, np.int32)
    begin = np.frombuffer(head[: step.begin], np.uint8)
    numbers[: len(begin)] = begin
    if step.middle:
        start = max(0, (len(whole) - step.middle) // 2)
        middle = np.frombuffer(whole[start : start + step.middle], np.uint8)
        left = step.begin + (step.middle - len(middle)) // 2
        numbers[left : left + len(middle)] = middle
    if step.end:
        end = np.frombuffer(tail[-step.end :], np.uint8)
        numbers[len(numbers) - len(end) :] = end
    return numbers
