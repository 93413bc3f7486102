"""The pages on tensor models of every kind: asking with items, what the monitor and the deployments tell, cards."""

import struct
import wave
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PySide6.QtCore import QMimeData, QPointF, Qt, QUrl
from PySide6.QtGui import QGuiApplication, QImage
from PySide6.QtTest import QTest
from pytestqt.qtbot import QtBot

from tests.support.fake_daemon import FakeDaemon
from tests.support.tensor_scene import MINILM_CARD, stage
from ui.pages.describe import Describe
from ui.pages.playground_chat import ChatPanel
from ui.pages.playground_items import ItemPanel
from ui.pages.playground_tensor import TensorPanel
from ui.widgets.file_drop import FileDrop, PictureDrop, SoundDrop
from ui.widgets.item_input import PairInput, TextInput
from ui.widgets.row_form import RowForm
from ui.window import Window


@pytest.fixture
def daemon() -> Iterator[FakeDaemon]:
    fake = FakeDaemon()
    stage(fake)
    yield fake
    fake.stop()


def panel_of(window: Window, route: str) -> ItemPanel:
    window.try_route(route)
    panel = window.playground.panel()
    assert isinstance(panel, ItemPanel)
    return panel


def sent(daemon: FakeDaemon, route: str) -> list[bytes]:
    return [body["item"] for body in daemon.asked("POST", f"/v2/models/{route}/infer") if "item" in body]


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    picture = QImage(320, 220, QImage.Format.Format_RGB888)
    picture.fill(Qt.GlobalColor.darkGreen)
    assert picture.save(str(tmp_path / "photo.png"))
    return tmp_path / "photo.png"


# --- playground --------------------------------------------------------------------------------------------


def test_a_text_is_classified(qtbot: QtBot, window: Window, daemon: FakeDaemon) -> None:
    panel = panel_of(window, "sentiment")
    assert isinstance(panel.input, TextInput) and panel.ask_button.text() == "Classify"
    qtbot.keyClicks(panel.input.box, "What a film")
    qtbot.keyClick(panel.input.box, Qt.Key.Key_Return)
    qtbot.waitUntil(panel.answer.isVisible)
    assert sent(daemon, "sentiment") == [b"What a film"]
    assert [(bar.name, bar.value) for bar in panel.answer.bars.bars] == [("positive", "0.983"), ("negative", "0.017")]
    assert panel.answer.facts.texts()["Tokens"] == "14"
    assert [name for name, _, _ in panel.times.parts] == ["queue and batch", "preparing", "model", "there and back"]
    assert panel.times.isVisible() and panel.time.text().endswith("ms")
    assert '"input": "What a film"' in panel.code.text() and "/v1/classify" in panel.code.text()


def test_shift_enter_begins_a_line_and_nothing_is_sent_empty(qtbot: QtBot, window: Window, daemon: FakeDaemon) -> None:
    panel = panel_of(window, "sentiment")
    assert isinstance(panel.input, TextInput)
    qtbot.keyClick(panel.input.box, Qt.Key.Key_Return, Qt.KeyboardModifier.ShiftModifier)
    panel.ask_button.click()
    assert panel.problem.message() == "Write something first." and sent(daemon, "sentiment") == []


def test_an_embedding_is_told_and_compared_with_the_last(qtbot: QtBot, window: Window, daemon: FakeDaemon) -> None:
    panel = panel_of(window, "minilm")
    assert isinstance(panel.input, TextInput)
    for text in ("wheel", "wheel"):
        panel.input.box.setPlainText(text)
        panel.answer.hide()
        panel.ask()
        qtbot.waitUntil(panel.answer.isVisible)
    facts = panel.answer.facts.texts()
    assert (facts["Dimensions"], facts["Length"], facts["Cosine with the last"]) == ("384", "1.0000", "1.000")
    assert len(panel.answer.strip.values) == 384 and panel.answer.strip.isVisible()
    assert not panel.raw.text.isVisible()
    panel.raw.link.click()
    assert panel.raw.text.isVisible() and "… 360 more" in panel.raw.text.toPlainText()


def test_a_pair_of_texts_is_compared(qtbot: QtBot, window: Window, daemon: FakeDaemon) -> None:
    panel = panel_of(window, "ranker")
    assert isinstance(panel.input, PairInput)
    panel.input.query.setPlainText("who steers")
    panel.input.document.setPlainText("The helmsman.")
    panel.ask_button.click()
    qtbot.waitUntil(panel.answer.number.isVisible)
    assert sent(daemon, "ranker") == [b'["who steers", "The helmsman."]']
    assert panel.answer.number.text() == "0.871" and "/v1/rerank" in panel.code.text()


def test_a_row_is_a_form(qtbot: QtBot, window: Window, daemon: FakeDaemon) -> None:
    panel = panel_of(window, "churn")
    assert isinstance(panel.input, RowForm)
    fields = {field.name: field for field in panel.input.fields}
    assert fields["age"].line.placeholderText() == "38.6 if left empty"
    panel.ask_button.click()
    assert panel.problem.message() == "minutes is missing."
    fields["minutes"].line.setText("a lot")
    panel.ask_button.click()
    assert panel.problem.message() == "minutes takes a number, not a lot."
    fields["minutes"].line.setText("310.5")
    fields["calls"].line.setText("2")
    fields["plan"].list.setCurrentIndex(1)
    qtbot.keyClick(fields["calls"].line, Qt.Key.Key_Return)
    qtbot.waitUntil(panel.answer.isVisible)
    assert sent(daemon, "churn") == [b'{"minutes": 310.5, "calls": 2, "plan": "plus", "region": "north"}']
    assert panel.answer.bars.bars[0].name == "stays" and not panel.problem.isVisible()


def test_a_value_has_its_unit(qtbot: QtBot, window: Window) -> None:
    panel = panel_of(window, "price")
    assert isinstance(panel.input, RowForm)
    for name in (1, 2):
        panel.input.fields[name].line.setText("2")
    panel.ask_button.click()
    qtbot.waitUntil(panel.answer.number.isVisible)
    assert panel.answer.number.text() == "412.500 €"


def test_a_picture_is_sent_as_the_file_that_it_is_and_boxes_are_drawn(
    qtbot: QtBot, window: Window, daemon: FakeDaemon, photo: Path
) -> None:
    panel = panel_of(window, "detector")
    assert isinstance(panel.input, PictureDrop)
    panel.input.open_file(str(photo))
    qtbot.waitUntil(panel.answer.isVisible)
    assert sent(daemon, "detector") == [photo.read_bytes()]
    assert [(box.label, box.score) for box in panel.input.boxes] == [("person", 0.94), ("bicycle", 0.71)]
    assert panel.answer.facts.texts()["Found"] == "2 boxes" and "320×220" in panel.input.note
    assert "photo.png" in panel.code.text()
    panel.clear.click()
    assert panel.input.is_empty() and not panel.answer.isVisible() and not panel.clear.isEnabled()


def test_a_picture_is_pasted_and_dropped(qtbot: QtBot, window: Window, daemon: FakeDaemon, photo: Path) -> None:
    window.try_route("digits")
    window.playground.way.press("image")
    panel = window.playground.panel()
    assert isinstance(panel, ItemPanel) and isinstance(panel.input, PictureDrop)
    picture = QImage(28, 28, QImage.Format.Format_RGB888)
    picture.fill(Qt.GlobalColor.white)
    QGuiApplication.clipboard().setImage(picture)
    qtbot.keyClick(panel.input, Qt.Key.Key_V, Qt.KeyboardModifier.ControlModifier)
    qtbot.waitUntil(lambda: len(sent(daemon, "digits")) == 1)
    assert QImage.fromData(sent(daemon, "digits")[0]).width() == 28
    dropped = QMimeData()
    dropped.setUrls([QUrl.fromLocalFile(str(photo))])
    panel.input.take(dropped)
    qtbot.waitUntil(lambda: len(sent(daemon, "digits")) == 2)
    assert sent(daemon, "digits")[1] == photo.read_bytes()
    qtbot.keyClick(panel.input, Qt.Key.Key_Delete)
    assert panel.input.is_empty()


def test_digits_are_drawn_first_and_each_way_keeps_its_own(qtbot: QtBot, window: Window) -> None:
    window.try_route("digits")
    drawn = window.playground.panel()
    assert isinstance(drawn, TensorPanel)
    qtbot.waitUntil(lambda: bool(drawn.bars.bars) and drawn.times.isVisible())
    assert drawn.time.text().endswith("not cached")
    window.playground.way.press("image")
    assert isinstance(window.playground.panel(), ItemPanel)
    window.try_route("sentiment")
    assert window.playground.way.current() == "text"
    window.try_route("digits")
    assert window.playground.way.current() == "image"
    window.playground.way.press("tensors")
    assert window.playground.panel() is drawn
    window.try_route("assistant")
    assert not window.playground.way.isVisible()


def test_a_hit_of_the_cache_is_told(qtbot: QtBot, window: Window, daemon: FakeDaemon) -> None:
    daemon.answer_headers["sentiment"] = {"x-cache": "hit", "Server-Timing": "queue;dur=0"}
    panel = panel_of(window, "sentiment")
    assert isinstance(panel.input, TextInput)
    panel.input.box.setPlainText("again")
    panel.ask()
    qtbot.waitUntil(lambda: panel.time.text().endswith("from the cache"))
    assert not panel.times.isVisible()


def test_a_sound_shows_its_waves_and_the_answer_over_time(
    qtbot: QtBot, window: Window, daemon: FakeDaemon, tmp_path: Path
) -> None:
    with wave.open(str(tmp_path / "hello.wav"), "wb") as made:
        made.setnchannels(1)
        made.setsampwidth(2)
        made.setframerate(16000)
        made.writeframes(struct.pack("<16000h", *[8000] * 16000))
    panel = panel_of(window, "speech")
    assert isinstance(panel.input, SoundDrop)
    panel.input.open_file(str(tmp_path / "hello.wav"))
    qtbot.waitUntil(panel.answer.isVisible)
    assert panel.input.note == "1.0 s · 32 KB" and panel.input.peaks
    assert (
        panel.answer.names[0].text() == "speech, 60 values from 0.00 to 1.00: probability"
        and panel.answer.series[0].isVisible()
    )
    assert not panel.answer.series[1].isVisible()


def test_what_cannot_be_opened_is_said(window: Window, tmp_path: Path) -> None:
    panel = panel_of(window, "speech")
    assert isinstance(panel.input, FileDrop)
    panel.input.open_file(str(tmp_path / "gone.wav"))
    assert panel.input.note.startswith("gone.wav was not opened") and panel.input.is_empty()
    panel.ask_button.click()
    assert panel.problem.message() == "Drop a sound here first, or open one."


def test_a_refused_item_is_explained(qtbot: QtBot, window: Window, daemon: FakeDaemon) -> None:
    daemon.fail["POST", "/v2/models/sentiment/infer"] = (400, {"error": "item[0]: this text is too long"})
    panel = panel_of(window, "sentiment")
    assert isinstance(panel.input, TextInput)
    panel.input.box.setPlainText("long")
    panel.ask()
    qtbot.waitUntil(panel.problem.isVisible)
    assert panel.problem.message() == "No answer: item[0]: this text is too long" and not panel.answer.isVisible()


def test_reasoning_and_adapter_are_chosen(qtbot: QtBot, window: Window, daemon: FakeDaemon) -> None:
    window.try_route("assistant")
    panel = window.playground.panel()
    assert isinstance(panel, ChatPanel)
    panel.options.adapter.press("pirate")
    panel.options.thinking.press("off")
    assert '"assistant:pirate"' in panel.code.text() and '"enable_thinking": false' in panel.code.text()
    panel.prompt.setPlainText("Ahoy")
    panel.send.click()
    qtbot.waitUntil(lambda: len(daemon.asked("POST", "/v1/chat/completions")) == 1)
    body = daemon.asked("POST", "/v1/chat/completions")[0]
    assert (body["model"], body["enable_thinking"]) == ("assistant:pirate", False)
    bare = daemon.state["deployment"]["assistant"] | {"capabilities": ["completion"], "adapters": []}
    daemon.publish("deployment", "assistant", bare)
    qtbot.waitUntil(lambda: not panel.options.thinking.isVisible() and not panel.options.adapter.isVisible())
    assert "enable_thinking" not in panel.options.sampling() and panel.options.model("assistant") == "assistant"


def test_the_conversation_fills_a_tall_window(qtbot: QtBot, window: Window) -> None:
    window.try_route("assistant")
    panel = window.playground.panel()
    assert isinstance(panel, ChatPanel)
    window.resize(1600, 1100)
    qtbot.waitUntil(lambda: panel.prompt.mapTo(window, panel.prompt.rect().bottomLeft()).y() > 960)


# --- monitor -----------------------------------------------------------------------------------------------


def test_monitor_tells_what_was_learned_and_kept(window: Window) -> None:
    window.watch("digits")
    assert window.monitor.cards["batch"].note() == "Learned: leaves at 8 rows, or after 120 µs"
    assert window.monitor.cards["cache"].legend.text().endswith("0.620")
    assert window.monitor.cards["cache"].note() == "12 MB kept, at most 64 MiB"
    window.watch("sentiment")
    assert "cache" not in window.monitor.cards and "batch" in window.monitor.cards


def test_monitor_tells_the_steps_of_a_pipeline(window: Window) -> None:
    window.watch("meter")
    first = window.monitor.times.bars[0]
    assert (first.name, first.value) == ("find", "6.20 ms")
    assert len(window.monitor.times.bars) == 4 and "batch" not in window.monitor.cards
    assert window.monitor.sentence().startswith("meter, 4 steps · Pipeline")


# --- deployments -------------------------------------------------------------------------------------------


def show(window: Window, route: str) -> Any:
    window.show_page("deployments")
    window.deployments.table.select(route)
    return window.deployments.detail


def test_replicas_tell_their_devices_and_the_cache_its_figures(
    qtbot: QtBot, window: Window, daemon: FakeDaemon
) -> None:
    detail = show(window, "digits")
    assert [row[2] for row in detail.replicas.texts()] == ["GPU 0", "GPU 1"]
    assert detail.facts.texts()["Engine"] == "ONNX Runtime · GPU 0, 1 · 1.23.2 · fp32"
    assert detail.cache.text() == "Response cache: 62 % of requests now, 12 MB of at most 64 MiB"
    detail.forget.click()
    qtbot.waitUntil(lambda: len(daemon.asked("DELETE", "/manage/v1/deployments/digits/cache")) == 1)
    assert "fixed at 1" in show(window, "sentiment").notes.text() and not detail.cache.isVisible()


def test_a_pipeline_is_a_graph_that_leads_to_its_routes(qtbot: QtBot, window: Window) -> None:
    detail = show(window, "meter")
    graph = detail.graph
    assert graph.isVisible() and not detail.edit.isVisible() and not detail._replicas.isVisible()
    assert "judge asks churn" in graph.accessibleDescription() and "detector ready" in graph.accessibleDescription()
    qtbot.waitUntil(lambda: all(graph.rect().toRectF().contains(graph.box(node)) for node in graph._nodes))
    boxes = [graph.box(node) for node in graph._nodes]
    assert not any(first.intersects(second) for at, first in enumerate(boxes) for second in boxes[at + 1 :])
    for edge in graph._passing():
        middle = graph.path(edge).pointAtPercent(0.5)
        assert not any(box.contains(middle) for box in boxes), "what passes a line goes round its boxes"
    assert [(edge.start, edge.end) for edge in graph._passing()] == [("read", "→")]
    graph.setFocus()
    for key in (Qt.Key.Key_Down, Qt.Key.Key_Down, Qt.Key.Key_Up, Qt.Key.Key_Return):
        QTest.keyClick(graph, key)
    assert window.deployments.table.selected() == "digits"
    detail = show(window, "meter")
    last = next(node for node in graph._nodes if node.name == "judge")
    QTest.mouseClick(graph, Qt.MouseButton.LeftButton, pos=QPointF(graph.box(last).center()).toPoint())
    assert window.deployments.table.selected() == "churn"


def test_a_change_under_way_can_be_dropped(qtbot: QtBot, window: Window, daemon: FakeDaemon) -> None:
    detail = show(window, "churn")
    assert detail.change.text.text() == "v2 starts beside v1" and detail.change.drop.isVisible()
    churn = next(row for row in window.deployments.model.texts() if row[0] == "churn")
    assert churn[1] == "Ready → v2"
    detail.change.drop.click()
    qtbot.waitUntil(lambda: len(daemon.asked("PUT", "/manage/v1/deployments/churn")) == 1)
    put = daemon.asked("PUT", "/manage/v1/deployments/churn")[0]
    assert (put["model"], put["version"]) == ("churn", 1)


def test_a_change_that_failed_says_why_and_what_goes_on(qtbot: QtBot, window: Window, daemon: FakeDaemon) -> None:
    detail = show(window, "churn")
    churn = daemon.state["deployment"]["churn"]
    error = {"code": "bad_model", "message": "It ends after 12 KB.", "hint": "Fetch it again."}
    pending = churn["pending"] | {"state": "failed", "error": error}
    daemon.publish("deployment", "churn", churn | {"pending": pending})
    qtbot.waitUntil(lambda: detail.change.text.text() == "v2 did not start")
    assert next(row for row in window.deployments.model.texts() if row[0] == "churn")[1] == "v2 failed"
    assert detail.change.more.text() == "It ends after 12 KB.\nFetch it again.\nchurn goes on as before."
    window.show_page("overview")
    assert "want a look" in window.overview.sentence()


def test_settings_are_changed_in_place(qtbot: QtBot, window: Window, daemon: FakeDaemon) -> None:
    detail = show(window, "digits")
    detail.edit.click()
    assert detail.form.isVisible() and not detail.form.apply.isEnabled()
    assert {key: line.text() for key, line in detail.form.lines.items()} == {
        "max_batch_size": "16", "max_queue_delay_us": "", "replicas": "2"
    }  # fmt: skip
    assert detail.form.lines["max_queue_delay_us"].placeholderText() == "learned, 120 now"
    detail.form.lines["max_batch_size"].setText("many")
    detail.form.apply.click()
    assert (
        detail.form._errors["max_batch_size"].isVisible() and daemon.asked("PUT", "/manage/v1/deployments/digits") == []
    )
    detail.form.lines["max_batch_size"].setText("")
    detail.form.lines["replicas"].setText("3")
    detail.form.cache.press("off")
    qtbot.keyClick(detail.form.lines["replicas"], Qt.Key.Key_Return)
    qtbot.waitUntil(lambda: not detail.form.isVisible())
    put = daemon.asked("PUT", "/manage/v1/deployments/digits")[0]
    assert (put["replicas"], put["settings"], put["device"]) == (3, {}, "cuda:0,cuda:1")


def test_an_objection_to_settings_stands_at_its_field(qtbot: QtBot, window: Window, daemon: FakeDaemon) -> None:
    error = {
        "code": "invalid_input",
        "message": "replicas must be from 1 to 16, not 30",
        "details": {"field": "replicas"},
    }
    daemon.fail["PUT", "/manage/v1/deployments/sentiment"] = (400, {"error": error})
    detail = show(window, "sentiment")
    detail.edit.click()
    detail.form.lines["replicas"].setText("30")
    detail.form.apply.click()
    qtbot.waitUntil(detail.form._errors["replicas"].isVisible)
    assert detail.form._errors["replicas"].text() == "replicas must be from 1 to 16, not 30"
    window.deployments.table.select("digits")
    assert not detail.form.isVisible()


def test_stopping_keeps_all_of_the_declaration(qtbot: QtBot, window: Window, daemon: FakeDaemon) -> None:
    show(window, "meter").switch.click()
    qtbot.waitUntil(lambda: len(daemon.asked("PUT", "/manage/v1/deployments/meter")) == 1)
    put = daemon.asked("PUT", "/manage/v1/deployments/meter")[0]
    assert put["stopped"] is True and len(put["pipeline"]["steps"]) == 4


# --- models ------------------------------------------------------------------------------------------------


def describe(window: Window, model: str) -> Describe:
    window.show_page("models")
    window.models.view.press("here")
    window.models.table.select(model)
    window.models.detail.describe.click()
    dialog = window.models.detail.findChild(Describe)
    assert dialog is not None
    return dialog


def test_a_card_is_told_in_words(window: Window) -> None:
    window.show_page("models")
    window.models.view.press("here")
    window.models.table.select("digits")
    detail = window.models.detail
    assert detail.card.texts()["Takes"] == "a picture" and not detail._bare.isVisible()
    window.models.table.select("bare")
    assert detail._bare.isVisible() and not detail.card.isVisible()
    window.models.table.select("gemma-3-270m")
    assert not detail.describe.isVisible() and not detail._bare.isVisible()


def test_a_model_is_described(qtbot: QtBot, window: Window, daemon: FakeDaemon, tmp_path: Path) -> None:
    (tmp_path / "card.json").write_text(
        '{"item": "text", "after": [{"step": "top_k"}], "task": "mood", "accuracy": 0.9}'
    )
    (tmp_path / "labels.txt").write_text("sad\nglad\n")
    (tmp_path / "tokenizer.json").write_text("{}")
    dialog = describe(window, "bare")
    assert not dialog.serve.isVisible()
    dialog.open_card(str(tmp_path / "card.json"))
    dialog.open_names(str(tmp_path / "labels.txt"))
    dialog.add_file(str(tmp_path / "tokenizer.json"))
    dialog.save.click()
    base = "/manage/v1/models/bare/versions/1"
    qtbot.waitUntil(lambda: len(daemon.asked("PUT", f"{base}/card")) == 1)
    assert daemon.asked("PUT", f"{base}/card")[0] == {
        "item": "text", "after": [{"step": "top_k"}], "labels": ["sad", "glad"]
    }  # fmt: skip
    assert daemon.asked("PUT", f"{base}/files/tokenizer.json") == [b"{}"]
    paths = [path for method, path, _ in daemon.requests if method == "PUT"]
    assert paths.index(f"{base}/files/tokenizer.json") < paths.index(f"{base}/card"), "the card may need the file"
    qtbot.waitUntil(lambda: window.models.detail.card.texts().get("Takes") == "a text")


def test_objections_to_a_card_stand_where_they_belong(qtbot: QtBot, window: Window, daemon: FakeDaemon) -> None:
    error = {
        "code": "invalid_input",
        "message": "card.before[0].file: there is no tokenizer.json",
        "hint": "Add it.",
        "details": {"field": "card.before[0].file"},
    }
    daemon.fail["PUT", "/manage/v1/models/minilm/versions/1/card"] = (400, {"error": error})
    dialog = describe(window, "minilm")
    dialog.text.setPlainText("{")
    dialog.save.click()
    assert dialog.errors["card"].text().startswith("This is not JSON")
    dialog.text.setPlainText('{"item": "text"}')
    dialog.save.click()
    qtbot.waitUntil(dialog.errors["files"].isVisible)
    assert "no tokenizer.json" in dialog.errors["files"].text() and not dialog.errors["card"].isVisible()
    assert dialog.isVisible() and dialog.save.isEnabled()
    dialog.keep.click()


def test_a_description_is_taken_up_by_what_serves(qtbot: QtBot, window: Window, daemon: FakeDaemon) -> None:
    dialog = describe(window, "minilm")
    assert dialog.serve.isVisible() and "mean_pool" in dialog.text.toPlainText()
    dialog.serve.click()
    qtbot.waitUntil(lambda: len(daemon.asked("PUT", "/manage/v1/deployments/minilm")) == 1)
    assert daemon.asked("PUT", "/manage/v1/models/minilm/versions/1/card") == [MINILM_CARD]


# --- all of it ---------------------------------------------------------------------------------------------

ROUTES = ["digits", "sentiment", "minilm", "ranker", "churn", "price", "detector", "speech", "meter"]


@pytest.mark.parametrize("size", [(1024, 700), (1600, 1100)])
@pytest.mark.parametrize("mode", ["dark", "light"])
def test_nothing_overlaps(
    qtbot: QtBot, window: Window, untidy: Callable[[Window], list[str]], size: tuple[int, int], mode: str
) -> None:
    window.set_theme(mode)
    window.resize(*size)
    for route in ROUTES:
        window.try_route(route)
        qtbot.waitUntil(lambda: not untidy(window))
        show(window, route)
        qtbot.waitUntil(lambda: not untidy(window))
    window.deployments.table.select("digits")
    window.deployments.detail.edit.click()
    qtbot.waitUntil(lambda: not untidy(window))
    for route in ("digits", "meter"):
        window.watch(route)
        qtbot.waitUntil(lambda: not untidy(window))


@pytest.mark.parametrize("route", ROUTES)
def test_every_way_to_ask_is_reached_by_keyboard(window: Window, route: str) -> None:
    window.try_route(route)
    panel = window.playground.panel()
    assert panel is not None
    reached = []
    first = widget = panel
    while (widget := widget.nextInFocusChain()) is not first:
        if panel.isAncestorOf(widget) and widget.isVisible() and widget.focusPolicy() & Qt.FocusPolicy.TabFocus:
            reached.append(widget)
    assert all(widget.accessibleName() for widget in reached), reached
    if isinstance(panel, ItemPanel):
        assert panel.ask_button in reached
        assert any(panel.input is widget or panel.input.isAncestorOf(widget) for widget in reached)
