"""Loading, unloading, and what a configuration may change."""

import asyncio
from contextlib import aclosing
from types import SimpleNamespace

import pytest

from app.api.kserve.repository import Repository, override
from app.errors import InvalidInput, ModelNotFound, NotFound
from app.events import Bus
from app.schema.manage import Deployment, DeploymentSpec, Problem
from tests.support.scripted_reconciler import ScriptedReconciler


class Registry:
    def models(self):
        return [SimpleNamespace(name="digits"), SimpleNamespace(name="other")]

    def get(self, name):
        for model in self.models():
            if model.name == name:
                return model
        raise ModelNotFound(f"there is no model named {name!r}")


@pytest.fixture
def reconciler():
    return ScriptedReconciler(Bus())


@pytest.fixture
def repository(reconciler):
    return Repository(reconciler, Registry(), reconciler.bus)


def declare(reconciler, route, state, **more):
    spec = DeploymentSpec(model="digits", stopped=state == "stopped", settings=more.pop("settings", {}))
    reconciler.now[route] = Deployment(route=route, model="digits", version=2, task="", spec=spec, state=state, **more)


def test_the_index_tells_states_in_tritons_words(repository, reconciler):
    assert [entry.name for entry in repository.index()] == ["digits", "other"]
    assert repository.index()[0].state == ""
    declare(reconciler, "digits", "ready")
    declare(reconciler, "fast", "stopped")
    declare(reconciler, "broken", "failed", error=Problem(code="bad_model", message="it is no model"))
    declare(reconciler, "new", "starting")
    found = {entry.name: (entry.version, entry.state, entry.reason) for entry in repository.index()}
    assert found == {
        "digits": ("2", "READY", ""),
        "fast": ("2", "UNAVAILABLE", "unloaded"),
        "broken": ("2", "UNAVAILABLE", "it is no model"),
        "new": ("2", "LOADING", ""),
        "other": ("", "", ""),
    }
    assert [entry.name for entry in repository.index(ready=True)] == ["digits"]


async def test_loading_declares_the_model_and_waits_until_it_serves(repository, reconciler):
    reconciler.slow = True
    loading = asyncio.ensure_future(repository.load("digits", {}))
    async with aclosing(reconciler.bus.watch("deployment", "digits")) as states:
        async for state in states:
            if state is not None:
                break
    assert not loading.done()
    reconciler.settle("digits")
    await loading
    assert reconciler.now["digits"].spec.model == "digits"


async def test_loading_changes_what_the_configuration_says_and_keeps_the_rest(repository, reconciler):
    declare(reconciler, "fast", "stopped", settings={"queue_limit": 5, "max_batch_size": 2})
    await repository.load("fast", {"config": '{"max_batch_size": 8, "instance_group": [{"count": 2}]}'})
    spec = reconciler.now["fast"].spec
    assert (spec.stopped, spec.replicas) == (False, 2)
    assert spec.settings == {"queue_limit": 5, "max_batch_size": 8}


async def test_what_does_not_load_says_why(repository, reconciler):
    reconciler.problem = lambda route: Problem(code="bad_model", message="it is no model", hint="convert it")
    with pytest.raises(InvalidInput, match="failed to load 'digits': it is no model") as caught:
        await repository.load("digits", {})
    assert (caught.value.hint, caught.value.status) == ("convert it", 400)


async def test_what_is_not_there_cannot_be_loaded_or_unloaded(repository):
    with pytest.raises(ModelNotFound):
        await repository.load("nobody", {})
    with pytest.raises(NotFound):
        await repository.unload("nobody", {})


async def test_model_files_are_refused(repository, reconciler):
    with pytest.raises(InvalidInput, match="not taken") as caught:
        await repository.load("digits", {"config": "{}", "file:1/model.onnx": "AAAA"})
    assert caught.value.field == "parameters.file:1/model.onnx"
    assert reconciler.puts == []


async def test_unloading_stops_and_keeps_the_declaration(repository, reconciler):
    declare(reconciler, "fast", "ready", settings={"queue_limit": 5})
    await repository.unload("fast", {"unload_dependents": False})
    spec = reconciler.now["fast"].spec
    assert spec.stopped
    assert spec.settings == {"queue_limit": 5}
    with pytest.raises(InvalidInput, match="unload_dependents"):
        await repository.unload("fast", {"unload_dependents": "yes"})


def test_a_configuration_becomes_settings():
    found = override(
        {
            "name": "m",
            "max_batch_size": "16",
            "dynamic_batching": {
                "max_queue_delay_microseconds": "100",
                "preferred_batch_size": [4, "8"],
                "preserve_ordering": True,
                "priority_levels": 2,
                "default_priority_level": 0,
                "default_queue_policy": {"max_queue_size": 7, "default_timeout_microseconds": 2500},
                "priority_queue_policy": {},
            },
            "instance_group": [{"count": 2, "kind": "KIND_CPU"}, {"kind": "KIND_CPU"}],
            "response_cache": {"enable": True},
            "input": [],
            "platform": "onnxruntime_onnx",
        },
        "m",
    )
    assert found == {
        "max_batch_size": 16,
        "max_queue_delay_us": 100,
        "preferred_batch_sizes": [4, 8],
        "preserve_order": True,
        "priority_levels": 2,
        "queue_limit": 7,
        "request_timeout_s": 0.0025,
        "replicas": 3,
        "response_cache": True,
    }
    assert override(None) == {}
    assert override({"max_batch_size": 0}) == {"max_batch_size": 1}


@pytest.mark.parametrize(
    ("config", "field"),
    [
        ("{", "parameters.config"),
        ("[]", "parameters.config"),
        (7, "parameters.config"),
        ({"name": "other"}, "parameters.config.name"),
        ({"max_batch_size": "many"}, "parameters.config.max_batch_size"),
        ({"max_batch_size": -1}, "parameters.config.max_batch_size"),
        ({"max_batch_size": True}, "parameters.config.max_batch_size"),
        ({"dynamic_batching": []}, "parameters.config.dynamic_batching"),
        ({"dynamic_batching": {"preferred_batch_size": 4}}, "parameters.config.dynamic_batching.preferred_batch_size"),
        ({"dynamic_batching": {"magic": 4}}, "parameters.config.dynamic_batching.magic"),
        ({"instance_group": {"count": 1}}, "parameters.config.instance_group"),
        ({"instance_group": [3]}, "parameters.config.instance_group"),
        ({"magic": 1}, "parameters.config.magic"),
    ],
)
def test_a_configuration_that_cannot_be_followed_names_what_is_wrong(config, field):
    with pytest.raises(InvalidInput) as caught:
        override(config, "m")
    assert caught.value.field == field
