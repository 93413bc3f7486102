"""Rows of the Station pages: jobs, engines, runtimes, settings."""

from app.schema.manage import Engine, Job, Runtime, Setting
from ui import format
from ui.tables.base import Cell, Column
from ui.words import COLORS, JOB, RUNTIME, engine_name, is_active


def progress_line(job: Job) -> str:
    """``3.1 of 5.0 GB · 41 MB/s · 46 s left``, or what it does now."""
    size = format.size_of(job.done_bytes, job.total_bytes) if job.total_bytes else ""
    rate = f"{format.size(job.rate_bytes_per_s)}/s" if job.rate_bytes_per_s else ""
    left = f"{format.duration(job.eta_s)} left" if job.eta_s is not None and job.state == "running" else ""
    return format.joined(size, rate, left) or job.message


def _job_state(row: Job) -> Cell:
    mark, word = JOB[row.state]
    return Cell(word, mark=mark, color=COLORS[mark])


def _job_progress(row: Job) -> Cell:
    if is_active(row):
        return Cell(kind="progress", progress=row.progress)
    moment = format.parse_time(row.updated)
    return Cell(format.clock(moment) if moment else "", color="muted")


JOBS: list[Column[Job]] = [
    Column("Job", lambda row: Cell(row.title, strong=True), width=180, stretch=4),
    Column("State", _job_state, width=104, stretch=1),
    Column(
        "", lambda row: Cell(progress_line(row) if is_active(row) else "", color="muted"), width=160, stretch=3, drop=1
    ),
    Column("", _job_progress, width=92, right=True),
]


def _runtime_action(row: Runtime) -> Cell:
    if row.state in {"available", "failed"}:
        return Cell("Install", kind="button", action="install")
    if row.state == "installed":
        return Cell("Remove", kind="button", action="remove")
    return Cell("", color="muted")


def _runtime_state(row: Runtime) -> Cell:
    mark, word = RUNTIME[row.state]
    return Cell(word, mark=mark, color=COLORS[mark])


RUNTIMES: list[Column[Runtime]] = [
    Column("Runtime", lambda row: Cell(row.name, strong=True), width=150, stretch=2),
    Column("State", _runtime_state, width=116, stretch=1),
    Column("Version", lambda row: Cell(row.version or format.NONE, color="muted"), width=120, drop=2),
    Column("Size", lambda row: Cell(format.size(row.size_bytes), color="muted"), width=80, right=True, drop=3),
    Column("", lambda row: Cell(row.note or row.description, color="muted"), width=120, stretch=4, drop=4),
    Column("", _runtime_action, width=94, right=True),
]  # fmt: skip

ENGINES: list[Column[Engine]] = [
    Column(
        "Engine", lambda row: Cell(engine_name(row.name), mark="steady" if row.usable else "off", strong=True),
        width=140, stretch=1,
    ),
    Column("Version", lambda row: Cell(row.version or format.NONE, color="muted"), width=84, drop=2),
    Column("Devices", lambda row: Cell(", ".join(row.devices) or format.NONE, color="muted"), width=90, drop=3),
    Column("", lambda row: Cell("Can be used" if row.usable else row.reason), width=140, stretch=3),
    Column("", lambda row: Cell("" if row.usable else row.remedy, color="muted"), width=140, stretch=3, drop=1),
]  # fmt: skip

SETTINGS: list[Column[Setting]] = [
    Column("Setting", lambda row: Cell(row.key, strong=True), width=170, stretch=1),
    Column("Value", lambda row: Cell(value_text(row.value)), width=120, stretch=1),
    Column(
        "From", lambda row: Cell(row.source, color="muted" if row.source == "default" else "text"), width=96, drop=2
    ),
    Column("Meaning", lambda row: Cell(row.meaning, color="muted"), width=180, stretch=5, drop=1),
]


def value_text(value: object) -> str:
    if value is True or value is False:
        return "yes" if value else "no"
    return "not set" if value == "" else str(value)
