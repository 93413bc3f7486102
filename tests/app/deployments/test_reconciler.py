"""Changes of a route over real workers of the echo engine, on a machine that a test makes up."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from app.dataplane.dataplane import Dataplane
from app.dataplane.inference import Ask
from app.dataplane.tensors import Tensor
from app.db import Store
from app.deployments.planner import BOTH_DO_NOT_FIT
from app.deployments.reconciler import Reconciler
from app.errors import Conflict, NotReady
from app.events import Bus
from app.monitoring.metrics import Metrics
from app.paths import DataDir
from app.registry.registry import Registry
from app.schema.manage import Cpu, Deployment, DeploymentSpec, Hardware, Pipeline, PipelineStep
from app.settings import Settings
from app.workers.probe import Prober
from app.workers.runtimes import Runtimes
from engines.selection import OVERHEAD_BYTES


class Machine:
    """Stands for the sampler: what is free is what a test says."""

    def __init__(self) -> None:
        self.free_bytes = 64 << 30

    async def machine(self) -> Hardware:
        return Hardware(
            time="",
            hostname="",
            os="",
            cpu=Cpu(name="", physical_cores=1, logical_cores=1),
            cpu_percent=0,
            memory_total_bytes=self.free_bytes,
            memory_used_bytes=0,
            disk_free_bytes=0,
            gpus=[],
        )


class House:
    def __init__(self, store: Store, bus: Bus, data: DataDir, registry: Registry, settings: Settings):
        self.machine, self.dataplane, self.metrics = Machine(), Dataplane(), Metrics()
        self.runtimes = Runtimes(data, bus)
        self.reconciler = Reconciler(
            store=store,
            bus=bus,
            registry=registry,
            runtimes=self.runtimes,
            prober=Prober(self.runtimes),
            sampler=self.machine,  # type: ignore[arg-type]
            metrics=self.metrics,
            dataplane=self.dataplane,
            settings=settings,
        )

    async def deploy(self, route: str = "echo", **settings: Any) -> Deployment:
        await self.reconciler.put(route, DeploymentSpec(model="echo", settings=settings))
        async with asyncio.timeout(30):
            return await self.reconciler.settled(route)

    async def ask(self, route: str = "echo", name: str = "input") -> list[Tensor]:
        data = bytes(8)
        return (await self.dataplane.infer(route, Ask([Tensor(name, "FP32", [1, 2], data)]))).outputs


@pytest.fixture
async def house(store: Store, bus: Bus, data: DataDir, registry: Registry, tmp_path: Path) -> AsyncIterator[House]:
    path = tmp_path / "echo.json"
    path.write_text(json.dumps({"engine": "echo", "kind": "tensor"}))
    await registry.add_version(
        "echo", task="", files=[("echo.json", path)], format="echo", precision=None, source="test"
    )
    house = House(store, bus, data, registry, Settings())
    await house.runtimes.start()
    yield house
    await house.reconciler.stop()


def pid(deployment: Deployment) -> int | None:
    return deployment.replicas[0].pid


async def test_where_there_is_no_memory_for_both_what_serves_is_stopped_first_and_it_is_said(house: House):
    before = pid(await house.deploy())
    house.machine.free_bytes = OVERHEAD_BYTES - (10 << 20)  # with what the old worker holds it is enough
    seen: list[tuple[str, int | None]] = []
    async with asyncio.timeout(30):
        watching = asyncio.create_task(_watch(house, seen))
        await house.reconciler.put("echo", DeploymentSpec(model="echo", settings={"load_delay_ms": 300}))
        await watching
    after = house.reconciler.get("echo")
    assert pid(after) not in (before, None)
    assert after.decision is not None and BOTH_DO_NOT_FIT in after.decision.reason
    assert "starting" in [state for state, _ in seen]  # nothing served meanwhile
    await house.ask()


async def _watch(house: House, seen: list[tuple[str, int | None]]) -> None:
    async for state in house.reconciler._bus.watch("deployment", "echo"):
        assert state is not None
        seen.append((state.state, state.pending and 1))
        if state.spec.settings and state.state == "ready" and state.pending is None:
            return


async def test_where_there_is_memory_for_both_it_serves_all_the_time(house: House):
    before = pid(await house.deploy())
    after = await house.deploy(load_delay_ms=100)
    assert pid(after) != before
    assert after.decision is not None and BOTH_DO_NOT_FIT not in after.decision.reason


async def test_a_first_start_without_memory_fails_and_nothing_is_stopped_for_a_change_that_never_fits(house: House):
    before = pid(await house.deploy())
    house.machine.free_bytes = -(64 << 30)
    failed = await house.deploy(max_batch_size=2)
    assert failed.state == "ready" and pid(failed) == before
    assert failed.pending is not None and failed.pending.error is not None
    assert failed.pending.error.code == "insufficient_memory"


async def test_what_is_declared_is_stored_and_a_failed_change_too(house: House, store: Store):
    await house.deploy()
    failed = await house.deploy(load_error="bad_model")
    assert failed.pending is not None and failed.pending.state == "failed"
    rows = await store.run(lambda db: list(db["deployments"].rows))
    assert json.loads(rows[0]["spec"])["settings"] == {"load_error": "bad_model"}
    await house.reconciler.put("echo", DeploymentSpec(model="echo"))
    rows = await store.run(lambda db: list(db["deployments"].rows))
    assert json.loads(rows[0]["spec"])["settings"] == {}
    assert rows[0]["decision"] is not None
    assert house.reconciler.get("echo").pending is None


async def test_the_same_declaration_changes_nothing_also_while_it_starts(house: House):
    await house.deploy()
    spec = DeploymentSpec(model="echo", settings={"load_delay_ms": 300})
    first = await house.reconciler.put("echo", spec)
    since = first.pending and first.pending.since
    again = await house.reconciler.put("echo", spec)
    assert again.pending is not None and again.pending.since == since
    async with asyncio.timeout(30):
        after = await house.reconciler.settled("echo")
    same = await house.reconciler.put("echo", spec)
    assert (pid(same), same.pending) == (pid(after), None)


async def test_a_temporary_deployment_is_replaced_not_changed_beside(house: House):
    spec = DeploymentSpec(model="echo")
    await house.reconciler.put("echo", spec, temporary=True)
    await house.reconciler.settled("echo")
    changing = await house.reconciler.put("echo", DeploymentSpec(model="echo", settings={"n": 1}), temporary=True)
    assert (changing.state, changing.pending) == ("starting", None)
    await house.reconciler.settled("echo")
    await house.reconciler.put("echo", spec)
    with pytest.raises(Conflict):
        await house.reconciler.put("echo", DeploymentSpec(model="echo", settings={"n": 2}), temporary=True)


async def test_a_temporary_one_that_is_declared_otherwise_for_good_stays(house: House):
    await house.reconciler.put("echo", DeploymentSpec(model="echo"), temporary=True)
    await house.reconciler.settled("echo")
    changing = await house.reconciler.put("echo", DeploymentSpec(model="echo", settings={"n": 1}))
    assert changing.pending is not None
    assert not changing.temporary  # so that whoever keeps temporary ones does not end it
    async with asyncio.timeout(30):
        assert not (await house.reconciler.settled("echo")).temporary


async def test_the_metrics_go_on_where_the_version_is_the_same(house: House):
    await house.deploy()
    await house.ask()
    await house.deploy(n=1)
    await house.ask()
    assert [(route.name, route.succeeded) for route in house.metrics] == [("echo", 2)]


def chain(*routes: str) -> DeploymentSpec:
    steps = [
        PipelineStep(name=f"s{n}", route=route, inputs={"input": f"v{n}"}, outputs={"output": f"v{n + 1}"})
        for n, route in enumerate(routes)
    ]
    return DeploymentSpec(pipeline=Pipeline(steps=steps, outputs={"out": f"v{len(routes)}"}))


async def test_a_route_may_become_a_pipeline_and_a_model_again(house: House):
    await house.deploy()
    await house.deploy("both")
    await house.reconciler.put("both", chain("echo", "echo"))
    assert (await house.reconciler.settled("both")).engine == "ensemble"
    assert [tensor.name for tensor in await house.ask("both", "v0")] == ["out"]
    assert house.reconciler.used_by("echo") == ["both"]
    assert (await house.deploy("both")).engine == "echo"
    assert [tensor.name for tensor in await house.ask("both")] == ["output"]


async def test_two_pipelines_declared_at_once_make_no_circle(house: House):
    await house.deploy("a")
    await house.deploy("b")
    results = await asyncio.gather(
        house.reconciler.put("a", _renamed(chain("b"))),
        house.reconciler.put("b", _renamed(chain("a"))),
        return_exceptions=True,
    )
    assert sum(isinstance(result, Exception) for result in results) == 1


def _renamed(spec: DeploymentSpec) -> DeploymentSpec:
    """With the tensors of the echo engine, so that another pipeline can take its place."""
    assert spec.pipeline is not None
    step = spec.pipeline.steps[0]
    return DeploymentSpec(
        pipeline=Pipeline(
            steps=[PipelineStep(name="s", route=step.route, inputs={"input": "input"}, outputs={"output": "o"})],
            outputs={"output": "o"},
        )
    )


async def test_a_pipeline_of_a_stopped_route_says_so_and_comes_back(house: House):
    await house.deploy()
    await house.reconciler.put("pipe", chain("echo"))
    await house.reconciler.put("echo", DeploymentSpec(model="echo", stopped=True))
    with pytest.raises(NotReady, match="step s0: echo is stopped"):
        await house.ask("pipe", "v0")
    await house.deploy()
    async with asyncio.timeout(30):
        await house.reconciler.settled("pipe")
    await house.ask("pipe", "v0")


async def test_a_pipeline_can_be_stopped_and_declared_again_whatever_its_routes_do(house: House):
    await house.deploy()
    await house.reconciler.put("pipe", chain("echo"))
    await house.reconciler.delete("echo", force=True)
    stopped = chain("echo")
    stopped.stopped = True
    assert (await house.reconciler.put("pipe", stopped)).state == "stopped"
    assert (await house.reconciler.put("pipe", chain("echo"))).state == "starting"
    await house.deploy()
    async with asyncio.timeout(30):
        await house.reconciler.settled("pipe")
    await house.ask("pipe", "v0")
