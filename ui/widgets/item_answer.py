"""What a model with declared steps answered: classes as bars, an embedding as a strip, values, boxes."""

from PySide6.QtWidgets import QVBoxLayout, QWidget

from ui import format
from ui.items import ItemAnswer, cosine, norm
from ui.widgets.bars import Bar, Bars
from ui.widgets.basics import label, set_text
from ui.widgets.facts import Facts
from ui.widgets.strip_chart import StripChart

MOST_SERIES = 4


class ItemAnswerView(QWidget):
    """``unit`` is that of a single value, ``units`` those that the card gives to outputs."""

    def __init__(self, unit: str = "", units: dict[str, str] | None = None) -> None:
        super().__init__()
        self._unit, self._units = unit, units or {}
        self._before: list[float] = []
        self.bars = Bars("Most likely classes", row_height=30, bar_height=8, values_right=True)
        self.number = label("", "number", selectable=True)
        self._number_name = label("", "caption")
        self.strip = StripChart("Dimensions of the embedding")
        self.series = [StripChart("Values", 56) for _ in range(MOST_SERIES)]
        self.names = [label("", "caption") for _ in range(MOST_SERIES)]
        self.facts = Facts()
        self.text = label("", "code", wrap=True, selectable=True)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(8)
        for widget in (self.bars, self.number, self._number_name, self.strip):
            layout.addWidget(widget)
        for name, chart in zip(self.names, self.series, strict=True):
            layout.addWidget(name)
            layout.addWidget(chart)
        layout.addWidget(self.facts)
        layout.addWidget(self.text)
        self.hide()

    def show_answer(self, answer: ItemAnswer) -> None:
        self._show_bars(answer)
        self._show_number(answer)
        self.strip.set_values(answer.embedding)
        for at, (name, chart) in enumerate(zip(self.names, self.series, strict=True)):
            title, values = answer.series[at] if at < len(answer.series) else ("", [])
            chart.set_values(values)
            chart.setAccessibleName(title or "Values")
            set_text(name, self._about(title, values))
        facts = self._facts(answer)
        self.facts.set_facts(facts)
        self.facts.setVisible(any(value for _, value in facts))
        set_text(self.text, answer.summary.strip())
        self._before = answer.embedding or self._before
        self.show()

    def _show_bars(self, answer: ItemAnswer) -> None:
        bars = [
            Bar(
                name,
                max(0.0, score or 0.0),
                "" if score is None else f"{score:.3f}",
                "faint" if at else "series_3",
                not at,
            )
            for at, (name, score) in enumerate(answer.classes)
        ]
        bars += [Bar(box.label or "box", box.score, f"{box.score:.2f}", "accent") for box in answer.boxes[:8]]
        self.bars.set_bars(bars)
        self.bars.setVisible(bool(bars))

    def _show_number(self, answer: ItemAnswer) -> None:
        alone = len(answer.values) == 1
        name, value = answer.values[0] if alone else ("", 0.0)
        set_text(self.number, f"{format.number(value, 3)} {self._unit}".strip() if alone else "")
        set_text(self._number_name, name if alone else "")

    def _about(self, title: str, values: list[float]) -> str:
        """``speech, 59 values from 0.01 to 0.93: probability of speech``"""
        if not values:
            return ""
        span = f"from {format.number(min(values))} to {format.number(max(values))}"
        told = f"{title}, {len(values):,} values {span}"
        return f"{told}: {self._units[title]}" if title in self._units else told

    def _facts(self, answer: ItemAnswer) -> list[tuple[str, str]]:
        several = answer.values if len(answer.values) > 1 else []
        facts = [(name, format.number(value)) for name, value in several]
        if answer.has_boxes:
            facts.append(("Found", format.plural(len(answer.boxes), "box", "boxes")))
        more = answer.class_count - len(answer.classes)
        if more > 0:
            facts.append(("Not shown", f"{format.plural(more, 'class', 'classes')} less likely than these"))
        if answer.embedding:
            close = cosine(answer.embedding, self._before) if self._before else None
            facts += [
                ("Dimensions", f"{len(answer.embedding):,}"), ("Length", f"{norm(answer.embedding):.4f}"),
                ("Cosine with the last", "" if close is None else f"{close:.3f}".replace("-", "−")),
            ]  # fmt: skip
        facts.append(("Tokens", f"{answer.tokens:,}" if answer.tokens is not None else ""))
        return facts

    def clear(self) -> None:
        self.hide()
