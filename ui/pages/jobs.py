"""Jobs: long work under way and done, with its log."""

from functools import partial

from PySide6.QtWidgets import QPlainTextEdit

from app.schema.manage import Job
from ui import format
from ui.pages.page import Page
from ui.session import Session
from ui.tables.base import RowsModel
from ui.tables.station import JOBS, progress_line
from ui.theme import font
from ui.widgets.basics import button, label, row, set_text
from ui.widgets.card import Card
from ui.widgets.empty import Empty
from ui.widgets.facts import Facts
from ui.widgets.mark import StateMark
from ui.widgets.meter import Meter
from ui.widgets.notice import Notice
from ui.widgets.split import Split
from ui.widgets.table import Table
from ui.words import JOB, is_active


class JobsPage(Page):
    name, title = "jobs", "Jobs"

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self.model = RowsModel(JOBS, lambda job: job.id)
        self.table = Table("Jobs", self.model)
        self.table.picked.connect(lambda _: self.refresh())
        self.empty = Empty(
            "list-checks", "No jobs yet", "Downloads and installations appear here, with their progress and log."
        )
        listing = Card(margins=(6, 6, 6, 6))
        listing.add(self.table)
        listing.add(self.empty)
        self.detail = JobDetail(self)
        self.add(Split(listing, self.detail, (7, 5)))
        self.body.addStretch(1)

    def refresh(self) -> None:
        station = self.session.station
        jobs = list(station.jobs.values())
        if station.loaded:
            self.model.set_rows(jobs)
        if jobs and self.table.selected() not in station.jobs:
            self.table.select(jobs[0].id)
        self.table.setVisible(bool(jobs) or self.model.loading)
        self.empty.setVisible(not jobs and not self.model.loading)
        self.detail.show_job(station.jobs.get(self.table.selected()))
        active, failed = sum(map(is_active, jobs)), sum(job.state == "failed" for job in jobs)
        self.say(
            format.joined(
                f"{active} under way" if active else "Nothing under way", f"{failed} failed" if failed else "",
                f"{len(jobs) - active - failed} done" if len(jobs) - active - failed else "",
            )
        )  # fmt: skip


class JobDetail(Card):
    def __init__(self, page: JobsPage) -> None:
        super().__init__()
        self._page = page
        self._job: Job | None = None
        self._title = label("", "heading", wrap=True)
        self.state = StateMark()
        self._meter, self._percent = Meter("Progress"), label("")
        self._line = label("", "caption", wrap=True)
        self.problem = Notice()
        self.facts = Facts()
        self._log_title = label("Log", "card")
        self.log = QPlainTextEdit()
        self.log.setReadOnly(True)
        self.log.setProperty("role", "code")
        self.log.setFont(font(12, mono=True))
        self.log.setAccessibleName("Log of the job")
        self.log.setFixedHeight(220)
        self._asked = ""
        self.pause = button("Pause", self._pause)
        self.cancel = button("Cancel", lambda: self._verb("cancel"))
        head = row(self._title, self.state)
        head.setStretch(0, 1)
        self.add(head)
        self.add(row(self._meter, self._percent, spacing=12))
        for item in (self._line, self.problem, self.facts, self._log_title, self.log):
            self.add(item)
        self.add(row(self.pause, self.cancel, None))

    def show_job(self, job: Job | None) -> None:
        self._job = job
        self.setVisible(job is not None)
        if job is None:
            return
        active = is_active(job)
        self._title.setText(job.title)
        self.state.set_state(*JOB[job.state])
        for widget in (self._meter, self._percent, self.pause, self.cancel):
            widget.setVisible(active)
        self._meter.set_value(job.progress)
        self._percent.setText(f"{job.progress * 100:.0f} %")
        set_text(self._line, progress_line(job) if active else job.message)
        self.pause.setText("Resume" if job.state == "paused" else "Pause")
        self.pause.setVisible(active and job.kind == "download")
        if job.error is not None:
            self.problem.show_problem(job.error)
        else:
            self.problem.hide()
        started = format.parse_time(job.created)
        self.facts.set_facts(
            [
                ("What", format.joined(job.kind, str(job.spec.get("ref") or job.spec.get("runtime") or ""))),
                ("Began", format.clock(started, with_seconds=True) if started else ""),
            ]
        )
        self._ask_log(job)

    def _ask_log(self, job: Job) -> None:
        stamp = f"{job.id} {job.updated} {job.message}"
        if stamp == self._asked:
            return
        if not self._asked.startswith(job.id):
            self.log.setPlainText("")
        self._asked = stamp

        self._page.session.job_log(job.id, partial(self._show_log, job.id))

    def _show_log(self, job_id: str, text: str) -> None:
        if self._job is not None and self._job.id == job_id and text != self.log.toPlainText():
            bar = self.log.verticalScrollBar()
            follow = bar.value() >= bar.maximum() - 4
            self.log.setPlainText(text)
            if follow:
                bar.setValue(bar.maximum())

    def _pause(self) -> None:
        self._verb("resume" if self._job and self._job.state == "paused" else "pause")

    def _verb(self, verb: str) -> None:
        if self._job is not None:
            self._page.session.job(verb, self._job.id, self._page.failed(f"The job did not {verb}"))
