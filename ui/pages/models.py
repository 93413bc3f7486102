"""Models: what is here, what the catalogue offers, and getting from one to the other."""

from pathlib import Path

from PySide6.QtCore import Qt, Signal
from PySide6.QtWidgets import QFileDialog

from app.schema.manage import Job, Version
from ui import cards, format
from ui.pages.describe import Describe
from ui.pages.page import Page
from ui.session import Session
from ui.tables.base import RowsModel
from ui.tables.models import MODELS, VERSIONS, ModelRow, model_rows
from ui.tables.station import progress_line
from ui.widgets.basics import button, column, label, row, rule, set_text
from ui.widgets.card import Card
from ui.widgets.confirm import Confirm
from ui.widgets.empty import Empty
from ui.widgets.facts import Facts
from ui.widgets.mark import MarkDot
from ui.widgets.meter import Meter
from ui.widgets.notice import Notice
from ui.widgets.segmented import Segmented
from ui.widgets.split import Split
from ui.widgets.table import Table

#: Letters of a licence that fit in a chip beside the name; a longer one is among the facts.
SHORT_LICENCE = 28
#: Formats of language models, which need no description.
UNDESCRIBED = {"gguf"}


class ModelsPage(Page):
    name, title = "models", "Models"
    wanted_try = Signal(str)

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self.view = Segmented("Which models", [("here", "Here"), ("catalogue", "Catalogue")])
        self.view.set_current("catalogue")
        self.view.chosen.connect(lambda _: self.refresh())
        self.open = button("Open a file…", self._choose_file)
        self.act(self.view, self.open)
        self.model = RowsModel(MODELS, lambda row: row.name)
        self.table = Table("Models", self.model)
        self.table.picked.connect(lambda _: self.refresh())
        self.table.acted.connect(lambda name, _: self.get(name))
        self.empty = Empty(
            "box", "No model here yet", "Models that you get from the catalogue or open from a file are listed here.",
            "See the catalogue", lambda: self.view.press("catalogue"),
        )  # fmt: skip
        listing = Card(margins=(6, 6, 6, 6))
        listing.add(self.table)
        listing.add(self.empty)
        self.detail = ModelDetail(self)
        self.add(Split(listing, self.detail, (8, 5)))
        self.body.addStretch(1)

    def refresh(self) -> None:
        station, catalog = self.session.station, self.session.catalog
        rows = model_rows(station, catalog, self.view.current())
        if station.loaded and (catalog.entries or self.view.current() == "here"):
            self.model.set_rows(rows)
        if rows and not any(row.name == self.table.selected() for row in rows):
            self.table.select(rows[0].name)
        self.empty.setVisible(not rows and not self.model.loading)
        self.table.setVisible(bool(rows) or self.model.loading)
        self.detail.show_row(next((row for row in rows if row.name == self.table.selected()), None))
        models = station.models.values()
        free = station.hardware.disk_free_bytes if station.hardware else None
        pulling = sum(row.downloading is not None for row in model_rows(station, catalog, "catalogue"))
        self.say(
            format.joined(
                f"{len(models)} here, {format.size(sum(model.size_bytes for model in models))}"
                if models
                else "None here yet",
                f"{format.size(free)} free" if free is not None else "",
                f"{pulling} on {'its' if pulling == 1 else 'their'} way" if pulling else "",
            )
        )

    # --- actions ---------------------------------------------------------------------------------------

    def get(self, name: str) -> None:
        self.table.select(name)
        self.session.pull(name, None, self.failed(f"{name} was not fetched"))

    def serve(self, row: ModelRow) -> None:
        """Now if it is here; else as soon as its download ends, which is started if need be. One that is being
        served is tried."""
        if row.serving:
            self.wanted_try.emit(row.serving)
            return
        if row.here:
            self.session.deploy(row.name, None, self.failed(f"{row.name} was not served"))
            return
        self.session.catalog.wish(row.name)
        if row.downloading is None:
            self.get(row.name)

    def remove(self, name: str) -> None:
        def act() -> None:
            self.session.remove_model(name, self.failed(f"{name} was not removed"))

        text = "Its files are deleted from this machine. It can be fetched again if its source is still there."
        Confirm(self, f"Remove {name}?", text, "Remove", act).open()

    def _choose_file(self) -> None:
        dialog = QFileDialog(self, "Open a model", "", "Models (*.onnx *.gguf);;All files (*)")
        dialog.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        dialog.fileSelected.connect(self.open_file)
        dialog.open()

    def open_file(self, path: str) -> None:
        self.view.set_current("here")
        self.session.pull(f"file:{Path(path)}", None, self.failed(f"{Path(path).name} was not opened"))


class ModelDetail(Card):
    """One model: what it is, what is here of it, its download."""

    def __init__(self, page: ModelsPage) -> None:
        super().__init__()
        self._page = page
        self._row: ModelRow | None = None
        self._name = label("", "heading", selectable=True)
        self._licence = label("", "chip")
        self._description = label("", "muted", wrap=True)
        self._fit_dot, self._fit = MarkDot(), label("", wrap=True)
        self.versions = RowsModel(VERSIONS, lambda version: str(version.version))
        self._versions = Table("Versions", self.versions, row_height=32, max_rows=5)
        self._versions.picked.connect(lambda _: self.show_row(self._row))
        self.facts = Facts()
        self._card_title = label("What is declared about it", "card")
        self.card = Facts()
        self._bare = label(
            "Nothing yet: it takes tensors only. Describe it, and it takes texts, pictures, sounds or rows.",
            "muted",
            wrap=True,
        )
        self.describe = button("Describe…", self._describe, name="Describe this version")
        self._download = label("Download", "card")
        self._meter, self._percent = Meter("Download"), label("")
        self.progress = label("", "caption", wrap=True)
        self.pause = button("Pause", self._pause)
        self.cancel = button("Cancel", lambda: self._job("cancel"))
        self.problem = Notice()
        self.remove = button("Remove", self._remove, "danger")
        self.serve = button("Serve", self._serve, "primary")
        fit = row(self._fit_dot, self._fit, spacing=6)
        fit.setStretch(1, 1)
        fit.setAlignment(self._fit_dot, Qt.AlignmentFlag.AlignTop)
        self.add(row(self._name, self._licence, None, spacing=10))
        self.add(self._description)
        self.add(fit)
        self.add(self._versions)
        self.add(self.facts)
        self.add(self._card_title)
        self.add(self.card)
        self.add(self._bare)
        self.add(column(self._download, spacing=6))
        self.add(row(self._meter, self._percent, spacing=12))
        self.add(self.progress)
        self.add(self.problem)
        self.add(rule())
        self.add(row(self.pause, self.cancel, self.remove, None, self.describe, self.serve))

    def show_row(self, row: ModelRow | None) -> None:
        self._row = row
        self.setVisible(row is not None)
        if row is None:
            return
        entry, model = row.entry, row.model
        licence = (model.licence if model else "") or (entry.licence if entry else "")
        description = (entry.description if entry else "") or (model.description if model else "")
        self._name.setText(row.name)
        set_text(self._licence, licence if len(licence) <= SHORT_LICENCE else "")
        set_text(self._description, description)
        set_text(self._fit, row.fit[:1].upper() + row.fit[1:])
        self._fit_dot.setVisible(bool(row.fit))
        self._fit_dot.set_mark(row.mark or "off")
        versions = list(reversed(model.versions)) if model else []
        self.versions.set_rows(versions)
        self._versions.setVisible(bool(versions))
        numbers = [str(version.version) for version in versions]
        if numbers and self._versions.selected() not in numbers:
            self._versions.select(numbers[0])
        self.facts.set_facts(self._facts(row, self.version(), licence))
        self._show_card(self.version())
        self._show_job(row, row.job)
        wished = row.name in self._page.session.catalog.wishes
        self.remove.setVisible(row.here and row.downloading is None)
        self.serve.setText(
            "Try it" if row.serving else "Serve" if row.here else "Will serve when ready" if wished else
            "Serve when ready" if row.downloading else "Get and serve"
        )  # fmt: skip
        self.serve.setAccessibleName(self.serve.text())
        self.serve.setEnabled(not wished)

    def version(self) -> Version | None:
        """The one that is chosen, or the newest."""
        versions = self.versions.rows
        chosen = self._versions.selected()
        return next((found for found in versions if str(found.version) == chosen), versions[0] if versions else None)

    def _show_card(self, version: Version | None) -> None:
        describable = version is not None and version.format not in UNDESCRIBED
        facts = [(name, value) for name, value in cards.facts(version.card) if value] if version is not None else []
        self.card.set_facts(facts)
        self._card_title.setVisible(describable)
        self.card.setVisible(describable and bool(facts))
        self._bare.setVisible(describable and not facts)
        self.describe.setVisible(describable)

    def _describe(self) -> None:
        version = self.version()
        if self._row is not None and version is not None:
            Describe(self._page.session, self._row.name, version, self).open()

    def _facts(self, row: ModelRow, version: Version | None, licence: str) -> list[tuple[str, str]]:
        facts = [("Task", row.task), ("Size", format.size(row.size_bytes) if row.size_bytes else "")]
        facts += [("Licence", licence if len(licence) > SHORT_LICENCE else "")]
        if version is not None:
            files = [f"{file.path} ({format.size(file.size_bytes)})" for file in version.files]
            facts += [("Files", ", ".join(files)), ("Source", version.source), ("Digest", _short(version.digest))]
        elif row.entry:
            facts += [("Format", row.entry.format), ("Sources", ", then ".join(row.entry.sources))]
            facts += [
                ("Digest", _short(f"sha256:{row.entry.sha256}") if row.entry.sha256 else "pinned on first download")
            ]
        return facts

    def _show_job(self, row: ModelRow, job: Job | None) -> None:
        active = row.downloading is not None
        for widget in (self._download, self._meter, self._percent, self.progress, self.pause, self.cancel):
            widget.setVisible(active)
        if job is not None and active:
            self._meter.set_value(job.progress)
            self._percent.setText(f"{job.progress:.0%}".replace("%", " %"))
            state = {"paused": "paused", "queued": "waits its turn"}.get(job.state, "resumes by itself")
            self.progress.setText(format.joined(progress_line(job), state))
            self.pause.setText("Resume" if job.state == "paused" else "Pause")
            self.pause.setAccessibleName(f"{self.pause.text()} the download")
        if job is not None and job.state == "failed" and job.error is not None and not row.here:
            self.problem.show_problem(
                job.error, f"{row.name} was not fetched", action="Try again", act=lambda: self._page.get(row.name)
            )
        else:
            self.problem.hide()

    def _remove(self) -> None:
        if self._row is not None:
            self._page.remove(self._row.name)

    def _serve(self) -> None:
        if self._row is not None:
            self._page.serve(self._row)

    def _pause(self) -> None:
        self._job("resume" if self._row and self._row.job and self._row.job.state == "paused" else "pause")

    def _job(self, verb: str) -> None:
        if self._row is not None and self._row.job is not None:
            self._page.session.job(verb, self._row.job.id, self._page.failed(f"The download did not {verb}"))


def _short(digest: str) -> str:
    kind, _, value = digest.partition(":")
    return f"{kind}:{value[:16]}…" if len(value) > 18 else digest
