"""A change of a deployment that is under way, or that failed: what comes, what goes on, and the way back."""

from PySide6.QtCore import Qt, Signal
from PySide6.QtWidgets import QFrame, QHBoxLayout, QVBoxLayout

from app.schema.manage import Deployment, Pending
from ui.widgets.basics import button, label, row, set_text
from ui.widgets.mark import MarkDot
from ui.words import REPLICA


def is_description(deployment: Deployment, pending: Pending) -> bool:
    """Whether only the model's card is another one: then no declaration leads back, but another description."""
    return pending.before is not None and pending.before == deployment.spec


def sentence(deployment: Deployment, pending: Pending) -> str:
    """``v2 starts beside v1``"""
    other = pending.model != deployment.model
    if other or pending.version != deployment.version:
        coming = f"{pending.model} v{pending.version}" if other else f"v{pending.version}"
        serving = f"{deployment.model} v{deployment.version}" if other else f"v{deployment.version}"
    elif is_description(deployment, pending):
        coming, serving = "The new description", "what serves"
    elif deployment.spec.pipeline is not None:
        coming, serving = "The new pipeline", "the one that serves"
    else:
        coming, serving = "The change of settings", "what serves"
    return f"{coming} starts beside {serving}" if pending.state == "starting" else f"{coming} did not start"


def explanation(deployment: Deployment, pending: Pending) -> str:
    """What that means, and what was wrong."""
    if pending.state == "starting":
        several = pending.replicas if len(pending.replicas) > 1 else []
        states = ", ".join(f"{replica.id} {REPLICA[replica.state][1].lower()}" for replica in several)
        said = "It takes over when it is ready. Until then nothing changes for callers."
        return f"{said}\n{states}".strip()
    error = pending.error
    why = [error.message, error.hint] if error is not None else []
    way = "; describe the model again to mend it." if is_description(deployment, pending) else "."
    return "\n".join(filter(None, [*why, f"{deployment.route} goes on as before{way}"]))


class ChangeNote(QFrame):
    """``dropped`` when the user wants what serves to stay."""

    dropped = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.setObjectName("notice")
        self._dot = MarkDot("watch")
        self.text = label("", "strong", wrap=True)
        self.more = label("", "muted", wrap=True, selectable=True)
        self.drop = button("Drop the change", self.dropped.emit)
        texts = QVBoxLayout()
        texts.setSpacing(4)
        texts.addWidget(self.text)
        texts.addWidget(self.more)
        texts.addSpacing(4)
        texts.addLayout(row(self.drop, None))
        layout = QHBoxLayout(self)
        layout.setContentsMargins(14, 12, 14, 12)
        layout.setSpacing(10)
        layout.addWidget(self._dot, 0, Qt.AlignmentFlag.AlignTop)
        layout.addLayout(texts, 1)
        self.hide()

    def show_change(self, deployment: Deployment) -> None:
        pending = deployment.pending
        self.setVisible(pending is not None)
        if pending is None:
            return
        self._dot.set_mark("watch" if pending.state == "starting" else "wrong")
        self.text.setText(sentence(deployment, pending))
        set_text(self.more, explanation(deployment, pending))
        self.drop.setVisible(pending.before is not None and not is_description(deployment, pending))
        self.setAccessibleName(self.text.text())
