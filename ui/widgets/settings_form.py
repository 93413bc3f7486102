"""A few settings to change in place: a field each, what happens where it stays empty, and errors where they belong."""

from PySide6.QtCore import Qt, Signal
from PySide6.QtWidgets import QFormLayout, QLabel, QLineEdit, QVBoxLayout, QWidget

from app.schema.manage import Deployment, DeploymentSpec, Problem, RouteSample
from ui import deployment_settings as ds
from ui.widgets.basics import button, label, row, set_text
from ui.widgets.segmented import Segmented


class SettingsForm(QWidget):
    """``declared`` with the new declaration. `show_deployment` leaves what is being typed alone."""

    declared = Signal(object)
    cancelled = Signal()

    def __init__(self) -> None:
        super().__init__()
        self._spec = DeploymentSpec()
        self._fields: list[ds.Setting] = []
        self.lines: dict[str, QLineEdit] = {}
        self._errors: dict[str, QLabel] = {}
        self.cache = Segmented("Response cache", [("off", "Off"), ("on", "On")])
        self.cache.chosen.connect(lambda _: self._enable())
        self.error = label("", "wrong", wrap=True)
        self.error.hide()
        self.apply = button("Apply", self._apply, "primary")
        self.cancel = button("Cancel", self.cancelled.emit)
        self._form = QFormLayout()
        self._form.setHorizontalSpacing(16)
        self._form.setVerticalSpacing(8)
        self._form.setLabelAlignment(Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter)
        self._form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.ExpandingFieldsGrow)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(10)
        layout.addLayout(self._form)
        layout.addLayout(row(label("Response cache", "muted"), None, self.cache))
        layout.addWidget(self.error)
        layout.addWidget(label("Callers notice nothing: it takes over when it is ready.", "caption", wrap=True))
        layout.addLayout(row(None, self.cancel, self.apply))

    def edit(self, deployment: Deployment, sample: RouteSample | None) -> None:
        """Begins anew with what is declared."""
        self._spec, self._fields = deployment.spec, ds.editable(deployment, sample)
        while self._form.rowCount():
            self._form.removeRow(0)
        self.lines, self._errors = {}, {}
        told = ds.texts(deployment.spec)
        for field in self._fields:
            line, wrong = QLineEdit(told.get(field.key, "")), label("", "wrong", wrap=True)
            line.setPlaceholderText(field.otherwise)
            line.setAccessibleName(field.name)
            line.textChanged.connect(lambda _: self._enable())
            line.returnPressed.connect(self._apply)
            wrong.hide()
            self.lines[field.key], self._errors[field.key] = line, wrong
            self._form.addRow(label(field.name, "muted"), line)
            self._form.addRow(wrong)
        self.cache.set_current("on" if deployment.spec.settings.get(ds.CACHE) else "off")
        self._enable()

    def spec(self) -> DeploymentSpec:
        """Raises `deployment_settings.Refused`."""
        given = {key: line.text() for key, line in self.lines.items()}
        return ds.changed(self._spec, self._fields, given, self.cache.current() == "on")

    def refuse(self, problem: Problem) -> None:
        """Shows what the daemon says at the field that it names."""
        key = str(problem.details.get("field", "")).rpartition(".")[2]
        self._say("replicas" if key == "instances" else key, f"{problem.message}\n{problem.hint}".strip())

    def _say(self, key: str, text: str) -> None:
        for name, wrong in self._errors.items():
            set_text(wrong, text if name == key else "")
        set_text(self.error, "" if key in self._errors else text)
        if key in self.lines:
            self.lines[key].setFocus()

    def _enable(self) -> None:
        self._say("", "")
        try:
            same = self.spec() == self._spec
        except ds.Refused:
            same = False
        self.apply.setEnabled(not same)

    def _apply(self) -> None:
        try:
            spec = self.spec()
        except ds.Refused as error:
            self._say(error.key, str(error))
            return
        if self.apply.isEnabled():
            self.declared.emit(spec)
