import asyncio
import contextlib
import math
import random
import time
from contextlib import aclosing

import pytest

from app.deployments.on_demand import OnDemand
from app.errors import DeadlineExceeded, EngineFailed, EngineUnavailable, InsufficientMemory, InvalidInput
from app.schema.manage import DeploymentSpec, Problem
from tests.support.scripted_reconciler import ScriptedReconciler


@pytest.fixture
def reconciler(bus):
    return ScriptedReconciler(bus)


@pytest.fixture
async def keeper(reconciler, bus):
    keeper = OnDemand(reconciler, bus, timeout_s=20)
    running = asyncio.create_task(keeper.run())
    yield keeper
    running.cancel()
    await asyncio.wait([running])


async def until(bus, route, condition):
    """Wait for a state of the deployment; `None` is that it is gone."""
    async with asyncio.timeout(20), aclosing(bus.watch("deployment", route)) as states:
        async for state in states:
            if condition(state):
                return state


async def use(keeper, route="a", **more):
    async with keeper.hold(route, "model", **more):
        pass


async def test_the_first_request_deploys_and_the_next_ones_find_it(keeper, reconciler):
    for _ in range(3):
        await use(keeper)
    assert reconciler.puts == [("a", {})]
    assert (reconciler.get("a").state, reconciler.get("a").temporary) == ("ready", True)


async def test_requests_at_the_same_time_deploy_once_and_all_wait_until_it_is_ready(keeper, reconciler, bus):
    reconciler.slow = True
    requests = [asyncio.create_task(use(keeper)) for _ in range(5)]
    await until(bus, "a", lambda state: state is not None)
    done, waiting = await asyncio.wait(requests, timeout=0.05)
    assert not done
    reconciler.settle("a")
    await asyncio.gather(*waiting)
    assert len(reconciler.puts) == 1


async def test_it_goes_when_it_was_idle_for_as_long_as_was_asked(keeper, reconciler, bus):
    loop = asyncio.get_running_loop()
    async with keeper.hold("a", "model", 0.05):
        began = loop.time()
        await asyncio.sleep(0.1)  # longer than it may be idle; but it is in use
        assert reconciler.get("a").state == "ready"
    await until(bus, "a", lambda state: state is None)
    assert loop.time() - began > 0.14
    assert keeper.expires_at("a") == math.inf


async def test_nothing_said_keeps_what_was_said_before(keeper, reconciler, bus):
    async with keeper.hold("a", "model", math.inf):
        pass
    await use(keeper)
    assert keeper.expires_at("a") == math.inf
    await use(keeper, keep_alive_s=0)
    await until(bus, "a", lambda state: state is None)


async def test_the_moment_of_its_end_is_known(keeper):
    await use(keeper, keep_alive_s=60)
    assert 50 < keeper.expires_at("a") - time.time() <= 60
    await use(keeper, keep_alive_s=600)
    assert 500 < keeper.expires_at("a") - time.time() <= 600


async def test_release_ends_it_now_or_after_its_last_request(keeper, reconciler, bus):
    await use(keeper)
    assert await keeper.release("a")
    assert reconciler.now == {}
    assert not await keeper.release("a")
    async with keeper.hold("a", "model"):
        assert await keeper.release("a")
        assert reconciler.get("a").state == "ready"
    await until(bus, "a", lambda state: state is None)


async def test_a_request_that_comes_while_it_ends_has_it_deployed_again(keeper, reconciler, bus):
    await use(keeper)
    reconciler.ending.clear()
    ending = asyncio.create_task(keeper.release("a"))
    await until(bus, "a", lambda state: state.state == "draining")
    again = [asyncio.create_task(use(keeper)) for _ in range(2)]
    await asyncio.sleep(0)
    reconciler.ending.set()
    await asyncio.gather(ending, *again)
    assert len(reconciler.puts) == 2
    assert reconciler.get("a").state == "ready"
    assert keeper.expires_at("a") < math.inf  # still kept by the one object that everyone shares


async def test_what_a_user_has_deployed_is_waited_for_and_never_ended(keeper, reconciler, bus):
    reconciler.slow = True
    await reconciler.put("a", DeploymentSpec(model="model"))
    request = asyncio.create_task(use(keeper, keep_alive_s=0))
    await asyncio.sleep(0)
    assert not request.done()
    reconciler.settle("a")
    await request
    assert not await keeper.release("a")
    assert reconciler.get("a").state == "ready"
    assert keeper.expires_at("a") == math.inf
    assert len(reconciler.puts) == 1


async def test_what_a_user_takes_over_stays(keeper, reconciler):
    await use(keeper)
    reconciler.get("a").temporary = False
    assert keeper.expires_at("a") == math.inf
    assert not await keeper.release("a")
    await use(keeper, keep_alive_s=0)
    assert reconciler.get("a").state == "ready"
    assert len(reconciler.puts) == 1


async def test_a_context_larger_than_a_lasting_deployment_has_is_refused_with_the_remedy(keeper, reconciler):
    await reconciler.put("a", DeploymentSpec(model="model"))
    await asyncio.sleep(0)
    await use(keeper, context_tokens=512)
    with pytest.raises(InvalidInput, match="513") as caught:
        await use(keeper, context_tokens=513)
    assert caught.value.field == "options.num_ctx"
    assert "context_tokens=513" in caught.value.hint


async def test_a_temporary_one_is_loaded_anew_with_more_context_once_it_is_free(keeper, reconciler):
    order = []

    async def wants_more():
        async with keeper.hold("a", "model", context_tokens=2048):
            order.append("more")

    async with keeper.hold("a", "model", context_tokens=1024):
        larger = asyncio.create_task(wants_more())
        smaller = asyncio.create_task(use(keeper, context_tokens=100))
        for _ in range(10):
            await asyncio.sleep(0)
        order.append("first")
    await asyncio.gather(larger, smaller)
    assert order == ["first", "more"]
    assert reconciler.puts == [("a", {"context_tokens": 1024}), ("a", {"context_tokens": 2048})]


async def test_what_does_not_load_says_why_and_leaves_nothing(keeper, reconciler):
    reconciler.problem = lambda route: Problem(code="engine_unavailable", message="no engine", hint="install it")
    with pytest.raises(EngineUnavailable, match="no engine") as caught:
        await use(keeper)
    assert caught.value.hint == "install it"
    assert reconciler.now == {}
    reconciler.problem = lambda route: None
    await use(keeper)


async def test_without_memory_the_idle_one_that_expires_next_makes_room(keeper, reconciler):
    full = Problem(code="insufficient_memory", message="no room")
    reconciler.problem = lambda route: full if len(reconciler.now) > 2 else None
    await use(keeper, "a", keep_alive_s=100)
    await use(keeper, "b", keep_alive_s=50)
    async with keeper.hold("c", "model", 10):
        assert set(reconciler.now) == {"a", "c"}
        async with keeper.hold("a", "model"):
            with pytest.raises(InsufficientMemory):  # both are in use
                await use(keeper, "d")
            assert set(reconciler.now) == {"a", "c"}


async def test_one_that_is_never_ready_is_told(reconciler, bus):
    reconciler.slow = True
    with pytest.raises(DeadlineExceeded, match="a was not ready"):
        await use(OnDemand(reconciler, bus, timeout_s=0.05))


async def test_a_request_that_is_cancelled_while_it_waits_leaves_no_trace(keeper, reconciler, bus):
    reconciler.slow = True
    request = asyncio.create_task(use(keeper, keep_alive_s=0))
    await until(bus, "a", lambda state: state is not None)
    request.cancel()
    with pytest.raises(asyncio.CancelledError):
        await request
    reconciler.settle("a")
    await until(bus, "a", lambda state: state is None)


@pytest.mark.parametrize("seed", range(4))
async def test_whatever_comes_what_is_held_is_ready_and_nothing_is_left(keeper, reconciler, bus, seed):
    chance = random.Random(seed)
    reconciler.problem = lambda route: Problem(code="bad_model", message="no") if chance.random() < 0.1 else None
    held = 0

    async def visit():
        nonlocal held
        for _ in range(25):
            route, needed = chance.choice("ab"), chance.choice([None, 256, 1024, 2048])
            with contextlib.suppress(TimeoutError, EngineFailed):
                async with asyncio.timeout(chance.choice([0.0005, 5])):
                    async with keeper.hold(route, "model", chance.choice([0, 0.001, 0.01]), needed):
                        for _ in range(chance.randrange(4)):
                            deployment = reconciler.get(route)
                            assert deployment.state == "ready" and deployment.context_tokens >= (needed or 0)
                            await asyncio.sleep(0.0005)
                        held += 1
            if chance.random() < 0.2:
                await keeper.release(route)

    async with asyncio.timeout(60):
        await asyncio.gather(*(visit() for _ in range(8)))
    for route in "ab":
        await until(bus, route, lambda state: state is None)
        assert keeper.expires_at(route) == math.inf
    assert held > 50
