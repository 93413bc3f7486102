"""What streams in, what is sent, and what is said of it afterwards."""

from typing import Any

from PySide6.QtWidgets import QWidget
from pytestqt.qtbot import QtBot

from ui.chat import Answer, Call, Turn
from ui.theme import Theme
from ui.widgets.chat_message import Message
from ui.widgets.conversation import Conversation


def chunk(finish_reason: str | None = None, **delta: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason}], "usage": None}


def test_an_answer_gathers_reasoning_text_and_calls() -> None:
    answer = Answer()
    answer.take(chunk(role="assistant", content=""), 50)
    assert answer.turn.is_empty() and answer.first_ms is None, "the opening says nothing"
    answer.take(chunk(reasoning_content="Hm."), 100)
    answer.take(chunk(content="Two "), 150)
    answer.take(chunk(content="calls."), 200)
    answer.take(chunk(tool_calls=[{"index": 1, "id": "b", "function": {"name": "two", "arguments": "{}"}}]), 250)
    answer.take(chunk("tool_calls"), 900)
    assert (answer.turn.reasoning, answer.turn.text) == ("Hm.", "Two calls.")
    assert answer.turn.calls == {1: Call("b", "two", "{}")}
    assert (answer.finish_reason, answer.tokens, answer.first_ms) == ("tool_calls", 4, 100)
    assert answer.tokens_per_s == 20.0, "three tokens after the first, in 150 ms"
    assert answer.sentence() == "first token 100 ms · 20 tokens/s · 4 tokens"


def test_the_daemon_counts_better_than_pieces_do() -> None:
    answer = Answer()
    answer.take(chunk(content="a"), 100)
    answer.take(chunk("length", content="b"), 200)
    answer.take({"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 11}}, 205)
    assert answer.tokens_per_s == 100.0
    assert answer.facts() == [
        ("Ended", "at the most tokens it may write"), ("Prompt", "1 token"), ("Answer", "11 tokens"),
        ("Speed", "100 tokens/s"), ("First token", "100 ms"),
    ]  # fmt: skip


def test_nothing_is_said_of_no_answer() -> None:
    assert Answer().sentence() == "" and not any(value for _, value in Answer().facts())


def test_a_turn_as_it_is_sent() -> None:
    assert Turn("assistant", "Yes.", reasoning="Hm.").as_sent() == {"role": "assistant", "content": "Yes."}
    picture = {"type": "image_url", "image_url": {"url": "data:,x"}}
    assert Turn("user", picture="data:,x").as_sent() == {"role": "user", "content": [picture]}


def test_a_call_is_readable_before_and_after_it_is_whole() -> None:
    assert Call(name="steer", arguments='{"deg').text() == 'steer {"deg'
    assert Call(name="steer", arguments='{"degrees":12}').text() == 'steer {"degrees": 12}'
    long = Call(name="steer", arguments='{"why": "' + "so " * 30 + '"}').text()
    assert long.startswith('steer {\n  "why"')


def test_a_conversation_follows_its_end_and_leaves_no_empty_room(qtbot: QtBot, theme: Theme) -> None:
    conversation = Conversation()
    qtbot.addWidget(conversation)
    conversation.resize(640, 400)
    conversation.show()
    turns = conversation.widget()
    for _ in range(4):
        conversation.append(Message(Turn("user", "Where to? " * 60)))
    bar = conversation.verticalScrollBar()
    qtbot.waitUntil(lambda: bar.maximum() > 0 and bar.value() == bar.maximum())
    last: QWidget = conversation.messages[-1]
    qtbot.waitUntil(lambda: turns.height() - last.geometry().bottom() <= 2)
    bar.setValue(0)
    conversation.messages[-1].turn.text += "And then? " * 60
    before = bar.maximum()
    conversation.messages[-1].changed()
    qtbot.waitUntil(lambda: bar.maximum() > before)
    assert bar.value() == 0, "the reader is looking at the beginning"
    conversation.clear()
    qtbot.waitUntil(lambda: bar.maximum() == 0 and conversation.messages == [])
