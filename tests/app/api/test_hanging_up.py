"""Clients that go away while items are computed for them."""

import asyncio

import msgspec
import numpy as np
import pytest
import uvicorn

from app.api.images import Images
from app.api.openai import OpenAI
from app.api.server import Server
from app.api.transport import Protocol
from app.settings import Settings
from tests.support.item_models import ItemModels

TOKENIZE = {"item": "text", "before": [{"step": "tokenize"}]}
CLASSES = TOKENIZE | {"after": [{"step": "top_k", "k": 0}], "labels": ["cat", "dog"]}


class Slow(ItemModels):
    """Never answers; ``happened`` tells what became of a request."""

    def __init__(self):
        super().__init__()
        self.happened = asyncio.Queue()

    async def infer(self, route, ask):
        self.happened.put_nowait("begun")
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.happened.put_nowait("cancelled")
            raise


@pytest.fixture
async def listening():
    """(port, what happens in the models ``classes`` and ``embedder``)."""
    models = Slow()
    models.serve("classes", CLASSES, lambda given: {"label": [["cat", "dog"]], "score": np.ones((1, 2), np.float32)})
    models.serve(
        "embedder", TOKENIZE | {"after": [{"step": "mean_pool"}]}, lambda given: {"embedding": np.ones((1, 2))}
    )
    app = Server(OpenAI(models, Images()).routes(), Settings())
    config = uvicorn.Config(app, http=Protocol, port=0, lifespan="off", log_config=None, access_log=False)
    server = uvicorn.Server(config)
    sock = config.bind_socket()
    serving = asyncio.create_task(server.serve([sock]))
    yield sock.getsockname()[1], models.happened
    server.should_exit = True
    await serving
    sock.close()


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/classify", {"model": "classes", "input": "a"}),
        ("/v1/embeddings", {"model": "embedder", "input": "a"}),
        ("/v1/rerank", {"model": "embedder", "query": "a", "documents": ["b"]}),
    ],
)
async def test_nothing_goes_on_for_a_client_that_is_gone(listening, path, body):
    port, happened = listening
    content = msgspec.json.encode(body)
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    async with asyncio.timeout(10):
        head = f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(content)}\r\n\r\n"
        writer.write(head.encode() + content)
        assert await happened.get() == "begun"
        writer.close()
        assert await happened.get() == "cancelled"
