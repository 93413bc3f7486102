"""Overview: is all well, in one look."""

from collections.abc import Callable

from PySide6.QtCore import Qt, Signal
from PySide6.QtWidgets import QGridLayout, QVBoxLayout, QWidget

from app.schema.manage import Job
from ui import format
from ui.pages.deployments import state_sentence
from ui.pages.page import Page
from ui.session import Session
from ui.stores.series import across
from ui.tables.base import RowsModel
from ui.tables.deployments import OVERVIEW, deployment_rows, route_key
from ui.tables.station import progress_line
from ui.widgets.basics import button, column, label, row, set_text
from ui.widgets.card import Card
from ui.widgets.empty import Empty
from ui.widgets.mark import MarkDot
from ui.widgets.meter import Meter
from ui.widgets.number_card import NumberCard
from ui.widgets.split import Split
from ui.widgets.table import Table
from ui.words import Mark, is_active, wants_a_look


class OverviewPage(Page):
    name, title = "overview", "Overview"
    wanted_models = Signal()
    wanted_route = Signal(str)

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self.act(button("Add a model", self.wanted_models.emit, "primary"))
        self.requests, self.latency = NumberCard("Requests", "/s"), NumberCard("p95 latency", "ms")
        self.tokens, self.errors = NumberCard("Output tokens", "/s"), NumberCard("Errors", "%")
        self._numbers_holder = QWidget()
        self._numbers = QGridLayout(self._numbers_holder)
        self._numbers.setContentsMargins(0, 0, 0, 0)
        self._numbers.setSpacing(16)
        self._per_row = 0
        self.add(self._numbers_holder)
        self.model = RowsModel(OVERVIEW, route_key)
        self.table = Table("Deployments", self.model)
        self.table.doubleClicked.connect(lambda index: self.wanted_route.emit(self.model.key(index.row())))
        self.empty = Empty(
            "rocket",
            "Nothing is serving",
            "Get a model from the catalogue and serve it: it answers on this machine at once.",
            "Add a model",
            self.wanted_models.emit,
        )
        listing = Card(margins=(6, 6, 6, 6))
        listing.add(self.table)
        listing.add(self.empty)
        self.add(listing)
        self.look, self.jobs = LookCard(), JobsCard()
        self.add(Split(self.look, self.jobs, (1, 1), 620, equal=True))
        self.body.addStretch(1)

    def refresh(self) -> None:
        station, series = self.session.station, self.session.series
        rows = deployment_rows(station, series)
        if station.loaded:
            self.model.set_rows(rows)
        self.table.setVisible(bool(rows) or self.model.loading)
        self.empty.setVisible(not rows and not self.model.loading)
        columns = {route: series.of(f"route:{route}") for route in station.deployments}

        def of(field: str, combine: Callable[[list[float]], float]) -> list[float]:
            return across([(entry.times, entry.column(field)) for entry in columns.values()], combine)

        samples = [row.sample for row in rows]
        rate = sum(sample.requests_per_s for sample in samples)
        failing = sum(sample.errors_per_s for sample in samples)
        requests = of("requests_per_s", sum)
        wrong = of("errors_per_s", sum)
        p95 = max((sample.p95_ms for sample in samples if sample.p95_ms is not None), default=None)
        self.requests.set_number(format.number(rate), "/s")
        self.requests.spark.set_values(requests)
        self.latency.set_number(*_split(format.milliseconds(p95)))
        self.latency.spark.set_values(of("p95_ms", max))
        self.tokens.set_number(format.number(sum(sample.output_tokens_per_s or 0 for sample in samples)), "/s")
        self.tokens.spark.set_values(of("output_tokens_per_s", sum))
        self.errors.set_number(format.number(100 * failing / rate if rate else 0.0), "%")
        self.errors.spark.set_values(
            [100 * bad / max(good, 1e-9) if good else 0.0 for good, bad in zip(requests, wrong, strict=False)]
        )
        jobs = [job for job in station.jobs.values() if is_active(job)]
        self.jobs.show_jobs(jobs)
        looks = wants_a_look(list(station.deployments.values()), list(station.jobs.values())[:20], station.hardware)
        self.look.show_looks(looks)
        deployments = [row.deployment for row in rows]
        self.say(
            format.joined(
                state_sentence(deployments),
                f"{format.plural(len(jobs), 'job')} under way" if jobs else "",
                f"{format.plural(len(looks), 'thing')} {'wants' if len(looks) == 1 else 'want'} a look"
                if looks
                else "",
            )
            if station.loaded
            else "Asking the daemon…"
        )
        self._arrange()

    def _arrange(self) -> None:
        width = self.viewport().width() - 56
        per_row = 4 if width >= 860 else 2
        if per_row == self._per_row:
            return
        self._per_row = per_row
        for index, card in enumerate((self.requests, self.latency, self.tokens, self.errors)):
            self._numbers.addWidget(card, index // per_row, index % per_row)

    def resizeEvent(self, event) -> None:
        super().resizeEvent(event)
        self._arrange()


def _split(text: str) -> tuple[str, str]:
    number, _, unit = text.partition(" ")
    return number, unit


class JobsCard(Card):
    """The jobs under way, at most four."""

    def __init__(self) -> None:
        super().__init__("Jobs")
        self._none = label("Nothing under way.", "muted")
        self.add(self._none)
        self._rows: list[tuple[QWidget, object, Meter, object]] = []
        for _ in range(4):
            title, meter, line = label(""), Meter("Progress"), label("", "caption")
            line.setMinimumWidth(60)
            holder = QWidget()
            holder.setLayout(column(title, spacing=2))
            progress = row(meter, line, spacing=12)
            progress.setStretch(0, 5)
            progress.setStretch(1, 4)
            inner = holder.layout()
            assert isinstance(inner, QVBoxLayout)
            inner.addLayout(progress)
            self._rows.append((holder, title, meter, line))
            self.add(holder)
        self.body.addStretch(1)

    def show_jobs(self, jobs: list[Job]) -> None:
        self._none.setVisible(not jobs)
        for index, (holder, title, meter, line) in enumerate(self._rows):
            holder.setVisible(index < len(jobs))
            if index < len(jobs):
                job = jobs[index]
                title.setText(job.title)  # type: ignore[attr-defined]
                meter.set_value(job.progress)
                line.setText(progress_line(job))  # type: ignore[attr-defined]


class LookCard(Card):
    """What wants a look, at most five things."""

    def __init__(self) -> None:
        super().__init__("Wants a look")
        self._none = label("Nothing: all is as it should be.", "muted")
        self.add(self._none)
        self._rows = []
        for _ in range(5):
            dot, what, more = MarkDot(), label("", wrap=True), label("", "muted", wrap=True)
            holder = QWidget()
            line = row(spacing=8)
            line.addWidget(dot, 0, Qt.AlignmentFlag.AlignTop)
            line.addLayout(column(what, more, spacing=2), 1)
            holder.setLayout(line)
            self._rows.append((holder, dot, what, more))
            self.add(holder)
        self.body.addStretch(1)

    def show_looks(self, looks: list[tuple[Mark, str, str]]) -> None:
        self._none.setVisible(not looks)
        for index, (holder, dot, what, more) in enumerate(self._rows):
            holder.setVisible(index < len(looks))
            if index < len(looks):
                dot.set_mark(looks[index][0])
                what.setText(looks[index][1])
                set_text(more, looks[index][2])
