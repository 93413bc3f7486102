"""Messages to a worker, as far as they go before one is there to read them."""

import asyncio

import pytest

from app.errors import PayloadTooLarge
from app.workers.client import WorkerClient
from engines import protocol
from engines.protocol import TensorHeader


class Sent(asyncio.Transport):
    def __init__(self):
        super().__init__()
        self.data = b""

    def write(self, data):
        self.data += data


def test_what_no_message_can_hold_is_refused_and_nothing_of_it_is_sent(monkeypatch):
    monkeypatch.setattr(protocol, "MAX_PAYLOAD_BYTES", 8)
    client, transport = WorkerClient(print, print), Sent()
    client.connection_made(transport)
    with pytest.raises(PayloadTooLarge, match="too large for one message"):
        client.infer([TensorHeader("x", "UINT8", [9], 9)], [bytes(5), bytes(4)], [], print)
    assert transport.data == b""
    assert client.unanswered == 0
    client.infer([TensorHeader("x", "UINT8", [8], 8)], [bytes(8)], [], print)
    assert transport.data.endswith(bytes(8))
    assert client.unanswered == 1
