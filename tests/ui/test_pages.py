import base64
from collections.abc import Callable
from pathlib import Path

import pytest
from PySide6.QtCore import QMimeData, QPoint, QPointF, Qt
from PySide6.QtGui import QImage
from PySide6.QtWidgets import QAbstractButton
from pytestqt.qtbot import QtBot

from tests.support.fake_daemon import THREE, FakeDaemon
from ui.commands import Command, matching
from ui.pages.playground_chat import ChatPanel
from ui.pages.playground_tensor import TensorPanel
from ui.widgets.confirm import Confirm
from ui.window import Window


def tensor_panel(window: Window) -> TensorPanel:
    window.try_route("digits")
    panel = window.playground.panel()
    assert isinstance(panel, TensorPanel)
    return panel


def chat_panel(window: Window) -> ChatPanel:
    window.try_route("assistant")
    panel = window.playground.panel()
    assert isinstance(panel, ChatPanel)
    return panel


# --- overview ----------------------------------------------------------------------------------------------


def test_overview_says_how_things_are(window: Window) -> None:
    assert window.overview.sentence() == "2 routes serving · 1 failed · 2 jobs under way · 2 things want a look"
    assert [row[0] for row in window.overview.model.texts()] == ["assistant", "digits", "embed"]
    assert float(window.overview.requests._number.text()) > 100


# --- models ------------------------------------------------------------------------------------------------


def test_models_shows_catalogue_and_registry(window: Window) -> None:
    window.show_page("models")
    page = window.models
    names = [row[0] for row in page.model.texts()]
    assert names == ["digits", "gemma-3-270m", "qwen3-8b", "llama-3.3-70b", "all-minilm-l6-v2", "magika"]
    actions = {row[0]: row[4] for row in page.model.texts()}
    assert actions["magika"] == "Get" and actions["digits"] == "here" and actions["qwen3-8b"] == "62%"
    page.view.press("here")
    assert [row[0] for row in page.model.texts()] == ["all-minilm-l6-v2", "digits", "gemma-3-270m"]
    assert page.sentence() == "3 here, 344 MB · 118 GB free · 1 on its way"


def test_the_button_in_a_row_gets_the_model(qtbot: QtBot, window: Window, daemon: FakeDaemon) -> None:
    window.show_page("models")
    table = window.models.table
    row = window.models.model.row_of("magika")
    cell = table.visualRect(window.models.model.index(row, 4))
    qtbot.mouseClick(table.viewport(), Qt.MouseButton.LeftButton, pos=QPoint(cell.right() - 24, cell.center().y()))
    qtbot.waitUntil(lambda: daemon.asked("POST", "/manage/v1/jobs") == [{"kind": "download", "ref": "magika"}])
    qtbot.waitUntil(lambda: window.models.model.rows[row].downloading is not None)


def test_a_download_can_be_paused_resumed_and_cancelled(qtbot: QtBot, window: Window, daemon: FakeDaemon) -> None:
    window.show_page("models")
    page = window.models
    page.table.select("qwen3-8b")
    assert page.detail.progress.text() == "3.1 of 5.0 GB · 41 MB/s · 46 s left · resumes by itself"
    page.detail.pause.click()
    qtbot.waitUntil(lambda: page.detail.pause.text() == "Resume")
    page.detail.pause.click()
    qtbot.waitUntil(lambda: page.detail.pause.text() == "Pause")
    page.detail.cancel.click()
    qtbot.waitUntil(lambda: not page.detail.cancel.isVisible())
    verbs = [path.rsplit("/", 1)[1] for method, path, _ in daemon.requests if "/jobs/j1/" in path and method == "POST"]
    assert verbs == ["pause", "resume", "cancel"]


def test_serve_when_ready_deploys_once_the_download_has_succeeded(
    qtbot: QtBot, window: Window, daemon: FakeDaemon
) -> None:
    window.show_page("models")
    window.models.table.select("qwen3-8b")
    window.models.detail.serve.click()
    qtbot.waitUntil(lambda: window.models.detail.serve.text() == "Will serve when ready")
    job = daemon.state["job"]["j1"] | {
        "state": "succeeded",
        "progress": 1.0,
        "result": {"model": "qwen3-8b", "version": 1},
    }
    assert daemon.asked("PUT", "/manage/v1/deployments/qwen3-8b") == []
    daemon.publish("job", "j1", job)
    qtbot.waitUntil(lambda: len(daemon.asked("PUT", "/manage/v1/deployments/qwen3-8b")) == 1)
    assert daemon.asked("PUT", "/manage/v1/deployments/qwen3-8b")[0]["model"] == "qwen3-8b"


def test_removing_a_model_asks_first(qtbot: QtBot, window: Window, daemon: FakeDaemon) -> None:
    window.show_page("models")
    window.models.table.select("gemma-3-270m")
    window.models.detail.remove.click()
    dialog = window.models.findChild(Confirm)
    assert dialog is not None and daemon.asked("DELETE", "/manage/v1/models/gemma-3-270m") == []
    dialog.agree.click()
    qtbot.waitUntil(lambda: len(daemon.asked("DELETE", "/manage/v1/models/gemma-3-270m")) == 1)
    qtbot.waitUntil(lambda: "gemma-3-270m" not in window.session.station.models)


def test_a_file_is_opened_as_a_download(qtbot: QtBot, window: Window, daemon: FakeDaemon) -> None:
    window.show_page("models")
    window.models.open_file("/tmp/mine.onnx")
    qtbot.waitUntil(lambda: len(daemon.asked("POST", "/manage/v1/jobs")) == 1)
    assert daemon.asked("POST", "/manage/v1/jobs")[0]["ref"] == f"file:{Path('/tmp/mine.onnx')}"


def test_a_served_model_can_be_tried_at_once(window: Window) -> None:
    window.show_page("models")
    window.models.table.select("gemma-3-270m")
    window.models.refresh()
    assert window.models.detail.serve.text() == "Try it"
    window.models.detail.serve.click()
    assert window.page() is window.playground and window.playground.route.current() == "assistant"


def test_a_refused_request_is_explained(qtbot: QtBot, window: Window, daemon: FakeDaemon) -> None:
    error = {"error": {"code": "insufficient_disk", "message": "5 GB needed, 1 GB free.", "hint": "Free some space."}}
    daemon.fail["POST", "/manage/v1/jobs"] = (507, error)
    window.show_page("models")
    window.models.get("magika")
    qtbot.waitUntil(window.models.notice.isVisible)
    assert window.models.notice.message() == "magika was not fetched: 5 GB needed, 1 GB free."


# --- deployments -------------------------------------------------------------------------------------------


def test_deployments_tell_state_engine_and_why(window: Window) -> None:
    window.show_page("deployments")
    page = window.deployments
    assert page.sentence() == "2 routes serving · 1 failed"
    digits = next(row for row in page.model.texts() if row[0] == "digits")
    assert digits[1:4] == ["Ready", "v1", "ONNX Runtime · CPU"]
    page.table.select("digits")
    assert "only engine here for ONNX" in page.detail.reason.text()
    assert page.detail.candidates.texts() == [["ONNX Runtime CPU", "runs here"], ["TensorRT GPU 0", "there is no GPU"]]
    assert page.detail.facts.texts()["Inputs"] == "image  FP32 [batch, 1, 8, 8]"


def test_a_language_deployment_tells_what_it_can_do(window: Window) -> None:
    window.show_page("deployments")
    detail = window.deployments.detail
    window.deployments.table.select("assistant")
    facts = detail.facts.texts()
    assert facts["Can do"] == "writes, calls tools, reasons, sees pictures"
    assert facts["Context"] == "32,768 tokens, of 131,072 it was trained for"
    assert facts["At once"] == "8 sequences"
    assert facts["Chat template"] == "ChatML, for want of its own"
    assert facts["Adapters"] == "assistant:pirate, assistant:legal"
    assert "no chat template" in detail.notes.text()
    window.deployments.table.select("digits")
    assert not {"Can do", "Adapters", "Chat template"} & set(detail.facts.texts())


def test_stop_and_start_keep_the_spec(qtbot: QtBot, window: Window, daemon: FakeDaemon) -> None:
    window.show_page("deployments")
    page = window.deployments
    page.table.select("digits")
    page.detail.switch.click()
    qtbot.waitUntil(lambda: page.detail.switch.text() == "Start")
    page.detail.switch.click()
    qtbot.waitUntil(lambda: page.detail.switch.text() == "Stop")
    stop, start = daemon.asked("PUT", "/manage/v1/deployments/digits")
    assert (stop["stopped"], start["stopped"]) == (True, False)
    assert stop["model"] == start["model"] == "digits" and stop["version"] == 1


def test_a_missing_runtime_is_one_button_away(qtbot: QtBot, window: Window, daemon: FakeDaemon) -> None:
    window.show_page("deployments")
    detail = window.deployments.detail
    window.deployments.table.select("embed")
    assert detail.problem.message() == "No engine on this machine can serve all-minilm-l6-v2 now."
    assert detail.install.isVisible() and detail.install.text() == "Install tensorrt-rtx"
    detail.install.click()
    qtbot.waitUntil(lambda: daemon.asked("POST", "/manage/v1/jobs") == [{"kind": "runtime", "runtime": "tensorrt-rtx"}])
    window.deployments.table.select("digits")
    assert not detail.install.isVisible()


def test_removing_a_deployment(qtbot: QtBot, window: Window, daemon: FakeDaemon) -> None:
    window.show_page("deployments")
    window.deployments.table.select("embed")
    window.deployments.detail.remove.click()
    dialog = window.deployments.findChild(Confirm)
    assert dialog is not None
    dialog.agree.click()
    qtbot.waitUntil(lambda: "embed" not in window.session.station.deployments)
    qtbot.waitUntil(lambda: len(window.deployments.model.rows) == 2)


# --- monitor -----------------------------------------------------------------------------------------------


def test_monitor_shows_the_charts_that_fit_the_route(window: Window) -> None:
    window.watch("digits")
    assert set(window.monitor.cards) == {"throughput", "batch", "queue", "confidence", "cpu", "memory"}
    assert "p99" in window.monitor.latency.legend.text()
    window.watch("assistant")
    assert set(window.monitor.cards) == {
        "tokens", "ttft", "itl", "throughput", "queue", "prefix", "prefix_cache", "cpu", "memory"
    }  # fmt: skip
    assert window.monitor.cards["prefix"].legend.text().startswith("prefix hits 0.")
    assert "MB" in window.monitor.cards["prefix_cache"].legend.text()
    assert "libnvidia-ml" in window.monitor.quiet.text()


def test_monitor_shows_guessed_tokens_only_where_there_are_some(
    qtbot: QtBot, window: Window, daemon: FakeDaemon
) -> None:
    window.watch("assistant")
    assert "draft" not in window.monitor.cards
    sample = daemon.state["metrics"]["assistant"]
    daemon.publish("metrics", "assistant", sample | {"time": "2036-01-01T00:00:00Z", "draft_acceptance": 0.0})
    qtbot.waitUntil(lambda: "draft" in window.monitor.cards)
    assert window.monitor.cards["draft"].isVisible()


def test_monitor_shows_every_reading_of_a_gpu(qtbot: QtBot, open_window) -> None:  # type: ignore[no-untyped-def]
    fake = FakeDaemon(gpu=True)
    try:
        window = open_window(fake.url)
        qtbot.waitUntil(lambda: window.session.station.loaded)
        window.watch("digits")
        expected = {"gpu0.load", "gpu0.memory", "gpu0.temperature", "gpu0.power"}
        assert expected <= set(window.monitor.cards)
        assert not window.monitor.quiet.isVisible()
        assert window.monitor.cards["gpu0.memory"].legend.text().endswith("of 24.0 GB")
    finally:
        window.session.close()
        fake.stop()


def test_a_live_reading_moves_the_chart(qtbot: QtBot, window: Window, daemon: FakeDaemon) -> None:
    window.watch("digits")
    before = len(window.session.series.of("route:digits"))
    sample = daemon.state["metrics"]["digits"]
    daemon.publish("metrics", "digits", sample | {"time": "2036-01-01T00:00:00Z", "p50_ms": 77.0})
    qtbot.waitUntil(lambda: len(window.session.series.of("route:digits")) == before + 1)
    qtbot.waitUntil(lambda: "p50 77 ms" in window.monitor.latency.legend.text())


# --- playground --------------------------------------------------------------------------------------------


def test_a_held_out_digit_is_shown_sent_and_answered(qtbot: QtBot, window: Window, daemon: FakeDaemon) -> None:
    panel = tensor_panel(window)
    qtbot.waitUntil(lambda: bool(panel.bars.bars))
    panel.next.click()
    qtbot.waitUntil(lambda: len(daemon.asked("POST", "/v2/models/digits/infer")) == 2)
    sent = daemon.asked("POST", "/v2/models/digits/infer")[0]["inputs"][0]
    assert sent == {
        "name": "image",
        "shape": [1, 1, 8, 8],
        "datatype": "FP32",
        "data": [float(value) for value in THREE],
    }
    assert [(bar.name, bar.value) for bar in panel.bars.bars][:2] == [("3", "0.962"), ("8", "0.017")]
    assert panel.truth.text() == "The held-out label is 3: right."
    panel.code.choose("Python")
    assert 'infer("digits", inputs)' in panel.code.text()


def test_drawing_asks_at_the_end_of_the_stroke(qtbot: QtBot, window: Window, daemon: FakeDaemon) -> None:
    panel = tensor_panel(window)
    qtbot.waitUntil(lambda: bool(panel.bars.bars))
    pad = panel.fields[0].pad
    assert pad is not None
    panel.clear.click()
    box = pad.box()
    top, bottom = (QPointF(box.center().x(), box.top() + share * box.height()).toPoint() for share in (0.2, 0.8))
    qtbot.mousePress(pad, Qt.MouseButton.LeftButton, pos=top)
    qtbot.mouseMove(pad, bottom)
    qtbot.mouseRelease(pad, Qt.MouseButton.LeftButton, pos=bottom)
    qtbot.waitUntil(lambda: len(daemon.asked("POST", "/v2/models/digits/infer")) == 2)
    data = daemon.asked("POST", "/v2/models/digits/infer")[1]["inputs"][0]["data"]
    assert max(data) <= 16 and min(data) == 0
    middle = [data[row * 8 + column] for row in range(2, 6) for column in (3, 4)]
    assert min(middle) > 0 and sum(data[row * 8] for row in range(8)) == 0
    panel.clear.click()
    assert pad.is_blank() and not panel.bars.isVisible()


def test_a_picture_is_scaled_to_the_input(window: Window) -> None:
    pad = tensor_panel(window).fields[0].pad
    assert pad is not None
    picture = QImage(80, 40, QImage.Format.Format_RGB888)
    picture.fill(Qt.GlobalColor.white)
    pad.set_image(picture)
    values = pad.values()
    assert list(values[:8]) == [0.0] * 8, "the letterbox stays empty"
    assert min(values[3 * 8 : 5 * 8]) == pytest.approx(1.0)


def test_a_chat_streams_and_tells_its_speed(qtbot: QtBot, window: Window, daemon: FakeDaemon) -> None:
    panel = chat_panel(window)
    assert "ChatML" in panel.note.text()
    panel.prompt.setPlainText("What turns the rudder?")
    panel.send.click()
    qtbot.waitUntil(lambda: "5 tokens" in panel.stats.text() and not panel.stop.isVisible())
    assert [message.text() for message in panel.messages] == ["What turns the rudder?", "The wheel turns the rudder."]
    assert "first token" in panel.stats.text()
    body = daemon.asked("POST", "/v1/chat/completions")[0]
    assert body["stream"] is True and body["model"] == "assistant"
    assert body["messages"] == [{"role": "user", "content": "What turns the rudder?"}]


def test_stop_hangs_up(qtbot: QtBot, window: Window, daemon: FakeDaemon) -> None:
    daemon.chat_gate.clear()
    panel = chat_panel(window)
    panel.prompt.setPlainText("Go on")
    panel.send.click()
    qtbot.waitUntil(lambda: len(panel.messages) == 2 and panel.messages[1].text() == "The ")
    assert panel.stop.isVisible()
    panel.stop.click()
    qtbot.waitUntil(daemon.chat_hung_up.is_set)
    qtbot.waitUntil(lambda: not panel.stop.isVisible())
    assert panel.messages[1].text() == "The " and not panel.problem.isVisible()
    assert panel.last.texts()["Ended"] == "stopped by you"
    daemon.chat_gate.set()


def test_reasoning_is_shown_and_folds_when_the_answer_begins(qtbot: QtBot, window: Window, daemon: FakeDaemon) -> None:
    daemon.chat_reasoning = ["A wheel ", "or a tiller."]
    daemon.chat_gate.clear()
    panel = chat_panel(window)
    panel.prompt.setPlainText("What turns the rudder?")
    panel.send.click()
    qtbot.waitUntil(lambda: len(panel.messages) == 2 and panel.messages[1].reasoning.text() == "A wheel")
    answer = panel.messages[1]
    assert answer.reasoning.is_open() and answer.text() == ""
    daemon.chat_gate.set()
    qtbot.waitUntil(lambda: not panel.stop.isVisible() and not answer.reasoning.is_open())
    assert answer.reasoning.text() == "A wheel or a tiller." and answer.text() == "The wheel turns the rudder."
    answer.reasoning.link.click()
    assert answer.reasoning.is_open() and answer.reasoning.link.text() == "Hide reasoning"


def test_the_last_answer_is_accounted_for(qtbot: QtBot, window: Window, daemon: FakeDaemon) -> None:
    daemon.chat_reasoning = ["Hm."]
    panel = chat_panel(window)
    assert not panel.last.isVisible()
    panel.prompt.setPlainText("Go")
    panel.send.click()
    qtbot.waitUntil(panel.last.isVisible)
    facts = panel.last.texts()
    assert facts["Ended"] == "by itself"
    assert facts["Prompt"] == "12 tokens, 8 of them from the cache"
    assert facts["Answer"] == "6 tokens, 1 of them reasoning"
    assert "First token" in facts
    panel.fresh.click()
    assert not panel.last.isVisible() and panel.messages == []


def test_tool_calls_are_shown_and_stay_in_the_conversation(qtbot: QtBot, window: Window, daemon: FakeDaemon) -> None:
    daemon.chat_pieces = []
    daemon.chat_calls = [
        {"index": 0, "id": "call_1", "type": "function", "function": {"name": "steer", "arguments": ""}},
        {"index": 0, "function": {"arguments": '{"degrees": '}},
        {"index": 0, "function": {"arguments": "12}"}},
    ]
    panel = chat_panel(window)
    panel.prompt.setPlainText("Steer right")
    panel.send.click()
    qtbot.waitUntil(lambda: len(panel.messages) == 2 and panel.messages[1].calls() == ['steer {"degrees": 12}'])
    qtbot.waitUntil(panel.last.isVisible)
    assert panel.last.texts()["Ended"] == "to call its tools"
    panel.prompt.setPlainText("And now?")
    panel.send.click()
    qtbot.waitUntil(lambda: len(daemon.asked("POST", "/v1/chat/completions")) == 2)
    said = daemon.asked("POST", "/v1/chat/completions")[1]["messages"][1]
    assert said["tool_calls"][0]["function"] == {"name": "steer", "arguments": '{"degrees": 12}'}


def test_a_picture_and_a_system_prompt_are_sent(
    qtbot: QtBot, window: Window, daemon: FakeDaemon, tmp_path: Path
) -> None:
    picture = QImage(3000, 600, QImage.Format.Format_RGB888)
    picture.fill(Qt.GlobalColor.red)
    assert picture.save(str(tmp_path / "buoy.png"))
    panel = chat_panel(window)
    panel.options.system.setPlainText("You are the helmsman.")
    panel.attach_picture(str(tmp_path / "buoy.png"))
    assert panel.picture.isVisible() and "data:image/jpeg;base64,…" in panel.code.text()
    panel.prompt.setPlainText("Which side?")
    panel.send.click()
    qtbot.waitUntil(lambda: len(daemon.asked("POST", "/v1/chat/completions")) == 1)
    system, user = daemon.asked("POST", "/v1/chat/completions")[0]["messages"]
    assert system == {"role": "system", "content": "You are the helmsman."}
    assert user["content"][1] == {"type": "text", "text": "Which side?"}
    head, _, data = user["content"][0]["image_url"]["url"].partition(",")
    sent = QImage.fromData(base64.b64decode(data))
    assert head == "data:image/jpeg;base64" and (sent.width(), sent.height()) == (2048, 409)
    assert sent.pixelColor(5, 5).red() > 240 and sent.pixelColor(5, 5).blue() < 20
    assert not panel.picture.isVisible()


def test_pictures_are_pasted_only_where_the_model_sees(qtbot: QtBot, window: Window, daemon: FakeDaemon) -> None:
    panel = chat_panel(window)
    pasted = QMimeData()
    picture = QImage(40, 30, QImage.Format.Format_RGB888)
    picture.fill(Qt.GlobalColor.blue)
    pasted.setImageData(picture)
    panel.prompt.insertFromMimeData(pasted)
    assert panel.attach.isVisible() and panel.picture.image.width() == 40
    daemon.publish(
        "deployment", "assistant", daemon.state["deployment"]["assistant"] | {"capabilities": ["completion"]}
    )
    qtbot.waitUntil(lambda: not panel.attach.isVisible())
    panel.prompt.insertFromMimeData(pasted)
    assert panel.picture.image.isNull() and not panel.picture.isVisible()


def test_what_is_no_picture_is_refused_in_words(window: Window, tmp_path: Path) -> None:
    (tmp_path / "notes.png").write_text("no picture")
    panel = chat_panel(window)
    panel.attach_picture(str(tmp_path / "notes.png"))
    assert panel.problem.message() == "notes.png is not a picture that can be read here."
    assert not panel.picture.isVisible()


# --- station -----------------------------------------------------------------------------------------------


def test_jobs_show_their_log(qtbot: QtBot, window: Window) -> None:
    window.show_page("jobs")
    window.jobs.table.select("j2")
    qtbot.waitUntil(lambda: "ggml-cpu" in window.jobs.detail.log.toPlainText())
    assert window.jobs.sentence() == "2 under way · 1 done"


def test_hardware_installs_and_removes_runtimes(qtbot: QtBot, window: Window, daemon: FakeDaemon) -> None:
    window.show_page("hardware")
    assert window.hardware.facts.texts()["GPU"].startswith("No GPU")
    assert window.hardware.sentence() == "workshop · no GPU · 2 of 3 engines can be used"
    window.hardware.runtimes_table.acted.emit("tensorrt-rtx", "install")
    qtbot.waitUntil(lambda: len(daemon.asked("POST", "/manage/v1/jobs")) == 1)
    window.hardware.runtimes_table.acted.emit("llamacpp-cpu", "remove")
    dialog = window.hardware.findChild(Confirm)
    assert dialog is not None
    dialog.agree.click()
    qtbot.waitUntil(lambda: len(daemon.asked("DELETE", "/manage/v1/runtimes/llamacpp-cpu")) == 1)


def test_settings_show_value_and_source(qtbot: QtBot, window: Window) -> None:
    window.show_page("settings")
    qtbot.waitUntil(lambda: len(window.settings.model.rows) == 4)
    assert window.settings.model.texts()[1][:3] == ["port", "8599", "flag"]
    window.settings.theme.press("light")
    assert window.theme.mode == "light"


# --- the window --------------------------------------------------------------------------------------------


def test_commands_are_found_by_any_word() -> None:
    commands = [
        Command("Stop digits", print),
        Command("Digits theme", print),
        Command("Get magika", print, "pull file"),
    ]
    assert [command.text for command in matching(commands, "dig")] == ["Digits theme", "Stop digits"]
    assert [command.text for command in matching(commands, "pull")] == ["Get magika"]
    assert matching(commands, "nothing") == []


def test_the_palette_runs_what_is_chosen(qtbot: QtBot, window: Window) -> None:
    palette = window.open_palette()
    qtbot.keyClicks(palette.line, "watch dig")
    assert palette.texts() == ["Watch digits"]
    qtbot.keyClick(palette.line, Qt.Key.Key_Return)
    assert window.page() is window.monitor and window.monitor.route.current() == "digits"


def test_the_rail_counts_what_asks_for_action(window: Window) -> None:
    assert (window.rail.items["deployments"].badge, window.rail.items["deployments"].urgent) == (1, True)
    assert window.rail.items["jobs"].badge == 2
    assert window.rail.width() == 200
    window.resize(1000, 800)
    assert window.rail.width() == 56


PAGES = ["overview", "models", "deployments", "monitor", "playground", "jobs", "hardware", "settings"]


@pytest.mark.parametrize("size", [(800, 600), (1100, 700), (1440, 900)])
@pytest.mark.parametrize("name", PAGES)
def test_nothing_overlaps(
    qtbot: QtBot, window: Window, untidy: Callable[[Window], list[str]], name: str, size: tuple[int, int]
) -> None:
    window.resize(*size)
    for route in ("digits", "assistant"):
        window.show_page(name)
        if name == "monitor":
            window.watch(route)
        if name == "playground":
            window.try_route(route)
        window.deployments.table.select(route)
        qtbot.waitUntil(lambda: not untidy(window))


@pytest.mark.parametrize("name", PAGES)
def test_controls_have_names_and_take_the_keyboard(window: Window, name: str) -> None:
    window.show_page(name)
    buttons = [button for button in window.findChildren(QAbstractButton) if button.isVisible()]
    assert buttons
    for button in buttons:
        if button.objectName().startswith("qt_") or button.metaObject().className() == "QTableCornerButton":
            continue
        assert button.accessibleName(), button
        assert button.focusPolicy() & Qt.FocusPolicy.TabFocus, button
