"""The server by itself: keys, statuses, limits, cancelling, streams, stopping; over real connections."""

import asyncio
import logging

import grpc
import pytest
from grpc import StatusCode

from app import errors
from app.api.grpc import inference_pb2 as pb
from app.api.grpc.server import SERVICE
from app.api.grpc.stream import IN_FLIGHT
from app.errors import BadSetting

Request = pb.ModelInferRequest


async def refused(work) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await work
    return caught.value


def metadata(call_or_error) -> dict[str, str]:
    return dict(call_or_error.trailing_metadata())


async def forever(request, rpc):
    await asyncio.Event().wait()


# --- keys and ids ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["infer-key", "manage-key"])
async def test_a_key_opens_inference_under_both_names(guarded, key):
    for header in (("authorization", f"Bearer {key}"), ("x-api-key", key)):
        assert (await guarded.infer(Request(id="1"), metadata=[header])).id == "1"


async def test_without_the_right_key_only_health_answers(guarded):
    assert (await guarded.call("ServerLive")(pb.ServerLiveRequest())).live
    for given in ([], [("x-api-key", "wrong")], [("authorization", "Basic infer-key")]):
        assert (await refused(guarded.infer(Request(), metadata=given))).code() is StatusCode.UNAUTHENTICATED
    stream = guarded.stream(metadata=[("x-api-key", "wrong")])
    assert (await refused(stream.read())).code() is StatusCode.UNAUTHENTICATED


async def test_management_takes_its_own_key(guarded):
    settings = guarded.call("LogSettings")
    error = await refused(settings(pb.LogSettingsRequest(), metadata=[("x-api-key", "infer-key")]))
    assert error.code() is StatusCode.PERMISSION_DENIED
    await settings(pb.LogSettingsRequest(), metadata=[("x-api-key", "manage-key")])


async def test_every_answer_has_an_id_the_callers_if_it_sent_one(peer):
    infer = peer.call("ModelInfer")
    own, ours, again = (infer(Request(), metadata=given) for given in ([("x-request-id", "mine")], None, None))
    ids = [dict(await call.trailing_metadata())["x-request-id"] for call in (own, ours, again)]
    assert ids[0] == "mine"
    assert len(set(ids)) == 3
    peer.answer = failing(errors.InvalidInput("no"))
    assert metadata(await refused(peer.infer(Request(), metadata=[("x-request-id", "mine")])))["x-request-id"] == "mine"


# --- errors ----------------------------------------------------------------------------------------------


def failing(error: Exception):
    async def answer(request, rpc):
        raise error

    return answer


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.InvalidInput("m"), StatusCode.INVALID_ARGUMENT),
        (errors.RouteNotFound("m"), StatusCode.NOT_FOUND),
        (errors.Conflict("m"), StatusCode.FAILED_PRECONDITION),
        (errors.PayloadTooLarge("m"), StatusCode.RESOURCE_EXHAUSTED),
        (errors.QueueFull("m"), StatusCode.UNAVAILABLE),
        (errors.NotReady("m"), StatusCode.UNAVAILABLE),
        (errors.ReplicaLost("m"), StatusCode.UNAVAILABLE),
        (errors.DeadlineExceeded("m"), StatusCode.DEADLINE_EXCEEDED),
        (errors.EngineFailed("m"), StatusCode.INTERNAL),
        (errors.InsufficientMemory("m"), StatusCode.RESOURCE_EXHAUSTED),
    ],
)
async def test_an_error_is_a_status_with_its_words(peer, error, code):
    error.hint = "do so"
    peer.answer = failing(error)
    found = await refused(peer.infer(Request()))
    assert (found.code(), found.details()) == (code, "m; do so")


@pytest.mark.parametrize("letter", ["x", "é", "😀"])
async def test_words_that_no_client_would_take_are_cut(peer, letter):
    peer.answer = failing(errors.InvalidInput("there is no output " + letter * 100_000))
    found = await refused(peer.infer(Request()))
    assert found.code() == StatusCode.INVALID_ARGUMENT
    assert found.details().startswith(f"there is no output {letter * 9}")
    assert found.details().endswith(f"{letter}…")


async def test_overload_says_when_to_come_again(peer):
    peer.answer = failing(errors.QueueFull("full", retry_after_s=2))
    told = metadata(await refused(peer.infer(Request())))
    assert (told["retry-after"], told["grpc-retry-pushback-ms"]) == ("2", "2000")
    peer.answer = failing(errors.InvalidInput("wrong"))
    assert "retry-after" not in metadata(await refused(peer.infer(Request())))


async def test_a_client_with_a_retry_policy_comes_again(peer):
    """What the pushback is for: gRPC's own retries wait for as long as they are told."""
    tries = []

    async def answer(request, rpc):
        tries.append(asyncio.get_running_loop().time())
        if len(tries) == 1:
            raise errors.QueueFull("full", retry_after_s=1)
        return pb.ModelInferResponse(id="done")

    peer.answer = answer
    policy = (
        '{"methodConfig": [{"name": [{}], "retryPolicy": {"maxAttempts": 2, "initialBackoff": "0.01s",'
        ' "maxBackoff": "0.01s", "backoffMultiplier": 1, "retryableStatusCodes": ["UNAVAILABLE"]}}]}'
    )
    await peer.channel.close()
    peer.channel = grpc.aio.insecure_channel(f"127.0.0.1:{peer.port}", options=[("grpc.service_config", policy)])
    assert (await peer.infer(Request())).id == "done"
    assert tries[1] - tries[0] > 0.9


async def test_a_defect_of_ours_is_logged_and_told_without_its_trace(peer, caplog):
    peer.answer = failing(ZeroDivisionError("secret"))
    with caplog.at_level(logging.ERROR):
        error = await refused(peer.infer(Request()))
    assert error.code() is StatusCode.INTERNAL
    assert "secret" not in error.details() and "log" in error.details()
    assert "ZeroDivisionError: secret" in caplog.text


# --- limits ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compression", list(grpc.Compression))
async def test_a_message_may_be_as_large_as_the_limit_and_no_larger(peer, compression):
    async def size(request, rpc):
        return pb.ModelInferResponse(id=str(len(request.raw_input_contents[0])))

    peer.answer = size
    fits, too_large = (1 << 20) - 100, 64 << 20
    answer = await peer.infer(Request(raw_input_contents=[bytes(fits)]), compression=compression)
    assert answer.id == str(fits)
    error = await refused(peer.infer(Request(raw_input_contents=[bytes(too_large)]), compression=compression))
    assert error.code() is StatusCode.RESOURCE_EXHAUSTED  # also where 64 MiB of zeros came as a few kilobytes


async def test_a_port_is_never_shared(peer):
    from app.api.auth import Guard
    from app.api.grpc.server import GrpcServer
    from app.settings import Settings

    second = GrpcServer([], Guard(Settings()), 1)
    with pytest.raises(BadSetting, match=str(peer.port)):
        await second.start("127.0.0.1", peer.port)
    await second.stop(0)


# --- cancelling ------------------------------------------------------------------------------------------


async def test_a_call_that_is_cancelled_or_too_late_cancels_its_request(peer):
    began = asyncio.Event()

    async def hang(request, rpc):
        began.set()
        await forever(request, rpc)

    peer.answer = hang
    call = peer.call("ModelInfer")(Request(id="given up"))
    await began.wait()
    call.cancel()
    assert await asyncio.wait_for(peer.cancelled.get(), 5) == "given up"
    error = await refused(peer.infer(Request(id="late"), timeout=0.05))
    assert error.code() is StatusCode.DEADLINE_EXCEEDED
    assert await asyncio.wait_for(peer.cancelled.get(), 5) == "late"


async def test_a_handler_knows_how_long_the_client_waits(peer):
    left = []

    async def look(request, rpc):
        left.append(rpc.remaining_s)
        return pb.ModelInferResponse()

    peer.answer = look
    await peer.infer(Request(), timeout=30)
    await peer.infer(Request())
    assert 20 < left[0] < 31  # gRPC rounds deadlines
    assert left[1] is None


# --- streams ---------------------------------------------------------------------------------------------


async def test_answers_of_a_stream_keep_the_order_of_its_requests(peer):
    """The first request is answered last, and all run at once."""
    gate, running = asyncio.Event(), []

    async def answer(request, rpc):
        running.append(request.id)
        if request.id == "0":
            await gate.wait()
        elif request.id == "4":
            gate.set()
        return pb.ModelInferResponse(id=request.id)

    peer.answer = answer
    stream = peer.stream()
    for n in range(5):
        await stream.write(Request(id=str(n)))
    await stream.done_writing()
    assert [answer.infer_response.id async for answer in stream] == ["0", "1", "2", "3", "4"]
    assert running == ["0", "1", "2", "3", "4"]
    assert await stream.code() is StatusCode.OK


async def odd_ones(request, rpc):
    if int(request.id) % 2:
        raise errors.InvalidInput("odd", hint="even ones only")
    return pb.ModelInferResponse(id=request.id)


async def test_an_error_in_a_stream_is_told_and_the_stream_goes_on(peer):
    peer.answer = odd_ones
    stream = peer.stream()
    for n in range(3):
        await stream.write(Request(id=str(n)))
    await stream.done_writing()
    told = [(answer.infer_response.id, answer.error_message) async for answer in stream]
    assert told == [("0", ""), ("1", "odd; even ones only"), ("2", "")]


async def test_bytes_that_are_no_message_are_the_clients_mistake(peer):
    call = peer.channel.unary_unary(f"/{SERVICE.full_name}/ModelInfer")
    error = await refused(call(b"\xff\xff\xff"))
    assert (error.code(), error.details()) == (StatusCode.INVALID_ARGUMENT, "the message is no ModelInferRequest")


async def test_bytes_that_are_no_message_do_not_end_a_stream(peer):
    stream = peer.channel.stream_stream(f"/{SERVICE.full_name}/ModelStreamInfer")()
    for data in (b"\xff\xff\xff", Request(id="next").SerializeToString()):
        await stream.write(data)
    await stream.done_writing()
    told = [pb.ModelStreamInferResponse.FromString(data) async for data in stream]
    assert [(one.infer_response.id, one.error_message) for one in told] == [
        ("", "the message is no ModelInferRequest"),
        ("next", ""),
    ]


async def test_a_client_may_ask_for_the_first_error_to_end_the_stream(peer):
    peer.answer = odd_ones
    stream = peer.stream(metadata=[("triton_grpc_error", "true")])
    for n in range(2):
        await stream.write(Request(id=str(n)))
    assert (await stream.read()).infer_response.id == "0"
    error = await refused(stream.read())
    assert (error.code(), error.details()) == (StatusCode.INVALID_ARGUMENT, "odd; even ones only")


async def test_a_stream_takes_no_more_than_it_may_hold(peer):
    gate, running, full = asyncio.Event(), 0, asyncio.Event()

    async def hold(request, rpc):
        nonlocal running
        running += 1
        if running == IN_FLIGHT:
            full.set()
        await gate.wait()
        return pb.ModelInferResponse(id=request.id)

    peer.answer = hold
    stream = peer.stream()
    sent = IN_FLIGHT + 20
    for n in range(sent):
        await stream.write(Request(id=str(n)))
    await stream.done_writing()
    await asyncio.wait_for(full.wait(), 5)
    assert (await peer.call("ServerLive")(pb.ServerLiveRequest())).live  # a round trip: more would have come by now
    assert running == IN_FLIGHT
    gate.set()
    assert [answer.infer_response.id async for answer in stream] == [str(n) for n in range(sent)]


async def test_a_stream_that_is_given_up_cancels_what_it_asked_for(peer):
    began = asyncio.Event()

    async def hang(request, rpc):
        began.set()
        await forever(request, rpc)

    peer.answer = hang
    stream = peer.stream()
    await stream.write(Request(id="a"))
    await began.wait()
    stream.cancel()
    assert await asyncio.wait_for(peer.cancelled.get(), 5) == "a"


# --- stopping --------------------------------------------------------------------------------------------


async def test_stopping_answers_what_was_read_and_ends_streams_that_wait(peer):
    gate, began = asyncio.Event(), asyncio.Event()

    async def hold(request, rpc):
        if request.id != "first":
            began.set()
            await gate.wait()
        return pb.ModelInferResponse(id=request.id)

    peer.answer = hold
    stream, idle = peer.stream(), peer.stream()
    await idle.write(Request(id="first"))
    assert (await idle.read()).infer_response.id == "first"
    await stream.write(Request(id="held"))
    await began.wait()
    stopping = asyncio.create_task(peer.server.stop(5))
    assert (await refused(idle.read())).code() is StatusCode.UNAVAILABLE
    gate.set()
    assert (await stream.read()).infer_response.id == "held"
    error = await refused(stream.read())
    assert "stopping" in error.details()
    await asyncio.wait_for(stopping, 5)


async def test_a_stop_may_be_hurried(peer):
    began = asyncio.Event()

    async def hang(request, rpc):
        began.set()
        await forever(request, rpc)

    peer.answer = hang
    call = peer.call("ModelInfer")(Request(id="stuck"))
    await began.wait()
    stopping = asyncio.create_task(peer.server.stop(600))
    done, _ = await asyncio.wait([stopping], timeout=0.1)
    assert not done
    peer.server.hurry()
    await asyncio.wait_for(stopping, 5)
    assert await asyncio.wait_for(peer.cancelled.get(), 5) == "stuck"
    assert await call.code() is not StatusCode.OK


async def test_stopping_cancels_what_does_not_end(peer):
    began = asyncio.Event()

    async def hang(request, rpc):
        began.set()
        await forever(request, rpc)

    peer.answer = hang
    call = peer.call("ModelInfer")(Request(id="stuck"))
    await began.wait()
    await asyncio.wait_for(peer.server.stop(0.05), 5)
    assert await asyncio.wait_for(peer.cancelled.get(), 5) == "stuck"
    assert await call.code() in (StatusCode.UNAVAILABLE, StatusCode.CANCELLED)
