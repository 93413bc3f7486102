from math import isnan, nan

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PySide6.QtCore import QPointF, Qt
from PySide6.QtGui import QColor, QImage
from PySide6.QtWidgets import QWidget
from pytestqt.qtbot import QtBot

from ui.stores.marks import Moment
from ui.theme import Theme, tokens
from ui.widgets import chart_math as cm
from ui.widgets.basics import column
from ui.widgets.chart import Chart, Crosshair, Line
from ui.widgets.chart_card import ChartCard
from ui.widgets.sparkline import thin


def test_a_scale_maps_values_to_pixels_and_back() -> None:
    scale = cm.Scale(left=40, top=10, width=200, height=100, start=1000, end=1100, maximum=50)
    assert (scale.x(1000), scale.x(1050), scale.x(1100)) == (40, 140, 240)
    assert (scale.y(0), scale.y(25), scale.y(50)) == (110, 60, 10)
    assert scale.time(scale.x(1033)) == pytest.approx(1033)


@given(st.floats(min_value=1e-6, max_value=1e12))
def test_ticks_start_at_zero_reach_the_maximum_and_are_five_at_most(maximum: float) -> None:
    for ticks in (cm.nice_ticks(maximum), cm.byte_ticks(maximum)):
        assert ticks[0] == 0
        assert ticks[-1] >= maximum * (1 - 1e-6)
        assert 2 <= len(ticks) <= 5
        assert ticks[-1] <= maximum * 4.1


@pytest.mark.parametrize(("maximum", "last"), [(0, 1), (14.9, 15), (0.93, 1), (498, 600), (73, 80)])
def test_ticks_are_round(maximum: float, last: float) -> None:
    assert cm.nice_ticks(maximum)[-1] == pytest.approx(last)


def test_gaps_stay_gaps() -> None:
    times = [0.0, 1.0, 2.0, 10.0, 11.0, 12.0, 13.0]
    values = [1.0, 2.0, 3.0, 4.0, nan, 6.0, 7.0]
    runs = cm.segments(times, values, 0, 20, bucket=1)
    assert runs == [[(0.0, 1.0), (1.0, 2.0), (2.0, 3.0)], [(10.0, 4.0), (12.0, 6.0), (13.0, 7.0)]]


def test_a_longer_silence_breaks_the_line_even_without_readings_between() -> None:
    assert len(cm.segments([0.0, 3.0, 7.0], [1.0, 1.0, 1.0], 0, 10, bucket=1)) == 2


def test_buckets_do_not_move_as_time_passes() -> None:
    times = [float(second) for second in range(1000, 1400)]
    values = [float(second % 7) for second in range(400)]
    early = dict(cm.segments(times[:300], values[:300], 1000, 1300, 5)[0])
    late = dict(cm.segments(times, values, 1100, 1400, 5)[0])
    shared = [moment for moment in early if moment in late and 1110 < moment < 1290]
    assert len(shared) > 30
    assert all(early[moment] == late[moment] for moment in shared)


def test_the_nearest_reading_is_what_a_crosshair_reads() -> None:
    assert cm.value_at([1.0, 2.0, 3.0], [10.0, 20.0, 30.0], 2.4) == 20.0
    assert cm.value_at([1.0, 2.0, 3.0], [10.0, nan, 30.0], 2.4, within_s=1) == 30.0
    assert cm.value_at([1.0], [10.0], 9.0) is None
    assert cm.value_at([], [], 9.0) is None


def test_thinning_keeps_gaps_and_the_end() -> None:
    thinned = thin([1.0] * 50 + [nan] * 50 + [3.0] * 50, 30)
    assert len(thinned) <= 30
    assert thinned[0] == 1.0 and thinned[-1] == 3.0
    assert any(isnan(value) for value in thinned)


def column_colors(image: QImage, x: int, color: QColor) -> list[int]:
    """Rows of a column whose pixel is near a colour."""
    return [
        y for y in range(image.height())
        if sum(abs(a - b) for a, b in zip(image.pixelColor(x, y).getRgb()[:3], color.getRgb()[:3], strict=True)) < 60
    ]  # fmt: skip


def test_a_flat_line_is_painted_where_the_scale_says(qtbot: QtBot, theme: Theme) -> None:
    chart = Chart("Load", "%", Crosshair(), fixed_max=100)
    qtbot.addWidget(chart)
    chart.resize(400, 200)
    times = [float(second) for second in range(61)]
    values = [75.0] * 30 + [nan] * 10 + [75.0] * 21
    chart.set_data([Line("load", "series_4", times, values)], 0, 60)
    scale = chart.scale(chart.ticks(chart.runs()))
    image = chart.grab().toImage()
    rows = column_colors(image, round(scale.x(15)), tokens().color("series_4"))
    assert rows and all(abs(row - scale.y(75)) <= 2 for row in rows)
    assert column_colors(image, round(scale.x(34.5)), tokens().color("series_4")) == []


def test_the_crosshair_is_shared_and_the_legend_reads_it(qtbot: QtBot, theme: Theme) -> None:
    crosshair = Crosshair()
    cards = [ChartCard("Latency", "ms", crosshair), ChartCard("Queue depth", "", crosshair)]
    times = [float(second) for second in range(61)]
    page = QWidget()
    qtbot.addWidget(page)
    page.setLayout(column(*cards))
    page.resize(400, 400)
    page.show()
    for card in cards:
        card.show_lines([Line("p50", "series_1", times, times)], 0, 60, [Moment(30, "restarted")])
    page.grab()  # lays it out
    assert cards[0].legend.text() == "p50 60 ms"
    chart = cards[0].chart
    scale = chart.scale(chart.ticks(chart.runs()))
    qtbot.mouseMove(chart, QPointF(scale.x(20), 50).toPoint())
    qtbot.waitUntil(lambda: crosshair.time is not None)
    assert crosshair.time == pytest.approx(20, abs=0.5)
    assert cards[1].legend.text() == "p50 20"
    crosshair.move(None)
    assert cards[1].legend.text() == "p50 60"
    assert chart.marks[0].words == "restarted"
    assert Qt.CursorShape.ArrowCursor == chart.cursor().shape()
