import pytest

from ui.sse import Event, Parser

STREAM = (
    ': hello\nid: 1\nevent: snapshot\ndata: {"state": {}}\n\n'
    "id: 2\r\nevent: change\r\ndata: première\r\ndata: second\r\n\r\n"
    "data:no space\n\nevent: nothing\n\nid:3\rdata: lone returns\r\r"
).encode()
EVENTS = [
    Event("snapshot", '{"state": {}}', "1"),
    Event("change", "première\nsecond", "2"),
    Event("message", "no space"),
    Event("message", "lone returns", "3"),
]


@pytest.mark.parametrize("cut", range(len(STREAM) + 1))
def test_split_at_any_byte_gives_the_same_events(cut: int) -> None:
    parser = Parser()
    assert parser.feed(STREAM[:cut]) + parser.feed(STREAM[cut:]) == EVENTS


def test_byte_by_byte() -> None:
    parser = Parser()
    assert [event for byte in STREAM for event in parser.feed(bytes([byte]))] == EVENTS


def test_an_event_without_its_blank_line_is_not_given_out() -> None:
    assert Parser().feed(b"event: change\ndata: {}\n") == []
