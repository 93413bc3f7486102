"""Blocks out of the events of one sequence."""

from hypothesis import given
from hypothesis import strategies as st

from app.api.outline import Outline
from engines.protocol import TokenEvent, TokenLogprob, ToolCallDelta

TEXTS = st.sampled_from(["", "a", "bc", "\n"])


@st.composite
def events(draw):
    """As engines send them: the deltas of a call follow one another, its id and name come first."""
    made, call = [], -1
    for _ in range(draw(st.integers(0, 12))):
        kind = draw(st.sampled_from(["text", "reasoning", "both", "begin", "more"]))
        if kind == "begin":
            call += 1
            made.append(TokenEvent(1, tool_calls=[ToolCallDelta(call, f"id{call}", "f", draw(TEXTS))]))
        elif kind == "more" and made and made[-1].tool_calls:
            made.append(TokenEvent(1, tool_calls=[ToolCallDelta(call, arguments=draw(TEXTS))]))
        else:
            reasoning = draw(TEXTS) if kind != "text" else ""
            made.append(TokenEvent(1, text=draw(TEXTS) if kind != "reasoning" else "", reasoning=reasoning))
    return made


@given(events())
def test_blocks_open_grow_and_close_in_order_and_nothing_is_lost(given_events):
    outline = Outline()
    changes = [change for event in given_events for change in outline.see(event)] + outline.end()
    grown = {}
    state = {}
    for what, block, text in changes:
        assert state.get(block.index) == {"open": None, "grow": "open", "close": "open"}[what]
        state[block.index] = "closed" if what == "close" else "open"
        assert sum(value == "open" for value in state.values()) <= 1
        grown[block.index] = grown.get(block.index, "") + text
    assert [block.index for block in outline.blocks] == list(range(len(outline.blocks)))
    assert set(state.values()) == {"closed"}
    assert {block.index: block.text for block in outline.blocks} == grown

    def of(kind):
        return "".join(block.text for block in outline.blocks if block.kind == kind)

    assert of("text") == "".join(event.text for event in given_events)
    assert of("reasoning") == "".join(event.reasoning for event in given_events)
    deltas = [delta for event in given_events for delta in event.tool_calls or ()]
    assert of("call") == "".join(delta.arguments for delta in deltas)
    calls = [(block.call_id, block.name) for block in outline.blocks if block.kind == "call"]
    assert calls == [(delta.id, delta.name) for delta in deltas if delta.id]


def test_an_answer_of_nothing_is_an_empty_text():
    outline = Outline()
    assert [what for what, _, _ in outline.end()] == ["open", "close"]
    assert [(block.kind, block.text) for block in outline.blocks] == [("text", "")]


def test_log_probabilities_of_half_a_character_go_with_the_text_that_it_becomes():
    outline = Outline()
    outline.see(TokenEvent(1, reasoning="hm", logprobs=[TokenLogprob(1, b"hm", -1)]))
    outline.see(TokenEvent(1, logprobs=[TokenLogprob(2, b"\xc3", -2)]))
    outline.see(TokenEvent(1, text="ä", logprobs=[TokenLogprob(3, b"\xa4", -3)]))
    assert [entry.token for entry in outline.blocks[1].logprobs] == [2, 3]
    assert outline.blocks[0].logprobs == []
