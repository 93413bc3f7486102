"""The floor: uvicorn with an application that reads the body and answers with as many bytes as a digits answer has."""

import sys

import uvicorn

ANSWER = b'{"x":"' + b"0" * 372 + b'"}'
HEADERS = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(ANSWER))]


async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
    await send({"type": "http.response.body", "body": ANSWER})


if __name__ == "__main__":
    uvicorn.run(
        app, port=int(sys.argv[1]), log_config=None, access_log=False, lifespan="off", loop="uvloop", http="httptools"
    )
