"""The floor: uvicorn with an application that answers with as many bytes as a digits answer has. It reads the body, or
(``parse``) reads it as the typed request that it is, with its 64 numbers, and encodes an answer of ten numbers."""

import sys

import msgspec
import uvicorn


class Tensor(msgspec.Struct):
    name: str
    datatype: str
    shape: list[int]
    data: list[float]


class Request(msgspec.Struct):
    inputs: list[Tensor]


class Answer(msgspec.Struct):
    model_name: str
    model_version: str
    outputs: list[Tensor]


ANSWER = b'{"x":"' + b"0" * 372 + b'"}'
TYPE = (b"content-type", b"application/json")
decoder, encoder = msgspec.json.Decoder(Request), msgspec.json.Encoder()


async def echo(scope, receive, send):
    await _body(receive)
    await _answer(send, ANSWER)


async def parse(scope, receive, send):
    data = decoder.decode(await _body(receive)).inputs[0].data if scope["method"] == "POST" else [0.0] * 10
    outputs = [Tensor("probabilities", "FP32", [1, 10], data[:10]), Tensor("label", "INT64", [1], data[:1])]
    await _answer(send, encoder.encode(Answer("digits", "1", outputs)))


async def _body(receive):
    message = await receive()
    body = message["body"]
    while message.get("more_body"):
        message = await receive()
        body += message["body"]
    return body


async def _answer(send, body):
    headers = [TYPE, (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


if __name__ == "__main__":
    app = parse if "parse" in sys.argv else echo
    port = int(sys.argv[1])
    uvicorn.run(app, port=port, log_config=None, access_log=False, lifespan="off", loop="uvloop", http="httptools")
