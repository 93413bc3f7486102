"""`/api` over the echo engine: what Ollama's clients send, and what they read."""

import asyncio
import base64
import json
import re
from dataclasses import replace

import pytest

from app.api.ollama import Ollama
from app.api.ollama_models import NEVER, OllamaModels, human
from app.api.ollama_names import reference
from app.deployments.on_demand import OnDemand
from app.errors import InvalidInput
from app.registry.catalog import Catalog
from app.schema.manage import DeploymentSpec
from app.settings import Settings
from tests.support.gguf_bytes import gguf
from tests.support.hub import publish
from tests.support.pulling import build
from tests.support.range_server import RangeServer
from tests.support.scripted_reconciler import ScriptedReconciler

TOOL = {"type": "function", "function": {"name": "say", "parameters": {"type": "object", "properties": {}}}}
PICTURE = base64.b64encode(b"picture").decode()
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z")
NUMBERS = ["total_duration", "load_duration", "prompt_eval_count", "prompt_eval_duration", "eval_count"]


class Kitchen:
    """Ollama's endpoints over an `EchoHouse` that has ``echo`` deployed; ``spare`` and ``file`` are in the registry."""

    def __init__(self, house, data, store, bus):
        self.house, self.data, self.store, self.bus = house, data, store, bus

    async def open(self, hub=""):
        self.jobs, self.registry = await build(self.data, self.store, self.bus, Catalog([]), Settings(hub_endpoint=hub))
        await self.register("echo-model", b'{"engine": "echo"}', "echo")
        await self.register("spare", b'{"engine": "echo", "spare": 1}', "echo")
        await self.register("file", gguf(), "gguf", precision="q4_k_m", architecture="gemma3", parameters=268_098_176)
        await self.register("tensors", b"onnx", "onnx")
        self.reconciler = ScriptedReconciler(self.bus)
        self.reconciler.loaded, self.reconciler.gone = self._loaded, self._gone
        self.on_demand = OnDemand(self.reconciler, self.bus, 20)
        self.running = asyncio.create_task(self.on_demand.run())
        await self.reconciler.put("echo", DeploymentSpec(model="echo-model"))
        await asyncio.sleep(0)
        dataplane = self.house.dataplane
        self.routes = [
            *Ollama(dataplane, self.registry, self.on_demand).routes(),
            *OllamaModels(
                dataplane, self.registry, self.reconciler, self.on_demand, self.jobs, self.bus, asyncio.Event()
            ).routes(),
        ]

    async def register(self, name, content, form, precision=None, task="text-generation", **metadata):
        path = self.data.downloads / name
        path.write_bytes(content)
        files = [(f"{name}.bin", path)]
        more = {"source": "a test", "licence": "MIT", "metadata": metadata}
        await self.registry.add_version(name, task=task, files=files, format=form, precision=precision, **more)

    def _loaded(self, route, spec):
        if route != "echo":
            self.house.serve(route, **spec.settings)
            table = self.house.dataplane.table
            self.house.dataplane.publish({**table, route: replace(table[route], model=spec.model)})

    def _gone(self, route):
        table = self.house.dataplane.table
        self.house.dataplane.publish({key: value for key, value in table.items() if key != route})

    async def close(self):
        self.running.cancel()
        await asyncio.wait([self.running])
        await self.jobs.stop()


@pytest.fixture
async def kitchen(echo_house, data, store, bus):
    kitchen = Kitchen(echo_house, data, store, bus)
    await kitchen.open()
    yield kitchen
    await kitchen.close()


@pytest.fixture
async def http(kitchen):
    async with kitchen.house.client(kitchen.routes) as client:
        yield client


async def ask(http, path, **body):
    answer = await http.post(f"/api/{path}", json={"model": "echo", "stream": False, **body})
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/json"
    return answer.json()


async def stream(http, path, **body):
    answer = await http.post(f"/api/{path}", json={"model": "echo", **body})
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/x-ndjson"
    return [json.loads(line) for line in answer.text.splitlines()]


async def refuse(http, path, status=400, **body):
    answer = await http.post(f"/api/{path}", json={"model": "echo", **body})
    assert answer.status_code == status, answer.text
    assert list(answer.json()) == ["error"]
    return answer.json()["error"]


def says(text="one two"):
    return [{"role": "user", "content": text}]


# --- chat ------------------------------------------------------------------------------------------------


async def test_a_chat_is_a_stream_of_lines_unless_told_otherwise(http):
    *pieces, last = await stream(http, "chat", messages=says(), think=False)
    assert [piece["message"]["content"] for piece in pieces] == ["one ", "two "]
    assert all(piece["message"]["role"] == "assistant" and not piece["done"] for piece in pieces)
    assert all(TIME.fullmatch(piece["created_at"]) and piece["model"] == "echo" for piece in [*pieces, last])
    assert (last["done"], last["done_reason"], last["message"]["content"]) == (True, "stop", "")
    assert all(last[name] >= 0 for name in NUMBERS)
    assert (last["prompt_eval_count"], last["eval_count"]) == (2, 2)
    assert "done_reason" not in pieces[0] and "total_duration" not in pieces[0]


async def test_the_whole_answer_has_the_same_and_its_durations_add_up(http):
    whole = await ask(http, "chat", messages=says(), think=False)
    assert (whole["message"], whole["done"]) == ({"role": "assistant", "content": "one two "}, True)
    parts = whole["load_duration"] + whole["prompt_eval_duration"] + whole["eval_duration"]
    assert 0 < parts <= whole["total_duration"] < 60e9


async def test_thinking_is_told_apart(http):
    *pieces, _ = await stream(http, "chat", messages=says())
    assert [piece["message"].get("thinking") for piece in pieces] == ["I ", "repeat.", None, None]
    whole = await ask(http, "chat", messages=says(), think=True)
    assert whole["message"] == {"role": "assistant", "content": "one two ", "thinking": "I repeat."}


async def test_each_call_comes_whole_with_its_arguments_as_an_object(http):
    *pieces, last = await stream(http, "chat", messages=says("call up down"), tools=[TOOL], think=False)
    calls = [piece["message"]["tool_calls"] for piece in pieces]
    assert [[call["function"] for call in entry] for entry in calls] == [
        [{"name": "say", "arguments": {"word": "up"}, "index": 0}],
        [{"name": "say", "arguments": {"word": "down"}, "index": 1}],
    ]
    assert len({call["id"] for entry in calls for call in entry}) == 2
    assert (last["done_reason"], "tool_calls" in last["message"]) == ("stop", False)
    whole = await ask(http, "chat", messages=says("call up down"), tools=[TOOL], think=False)
    assert [call["function"]["arguments"] for call in whole["message"]["tool_calls"]] == [
        {"word": "up"},
        {"word": "down"},
    ]


async def test_a_call_that_was_cut_off_is_none(http):
    options = {"num_predict": 2}
    [last] = await stream(http, "chat", messages=says("call up"), tools=[TOOL], think=False, options=options)
    assert last["done_reason"] == "length"
    whole = await ask(http, "chat", messages=says("call up"), tools=[TOOL], think=False, options=options)
    assert (whole["done_reason"], "tool_calls" in whole["message"]) == ("length", False)


async def test_options_reach_the_engine(http, kitchen):
    options = {"num_predict": 1, "temperature": 0.1, "seed": 3, "stop": "two"}
    whole = await ask(http, "chat", messages=says(), think=False, options=options, format="json")
    assert (whole["message"]["content"], whole["done_reason"]) == ("{}", "stop")
    [(request, _)] = kitchen.house.workers["echo"].generated
    assert (request.sampling.temperature, request.sampling.seed, request.stop) == (0.1, 3, ["two"])
    assert (request.max_tokens, request.variables, request.grammar.kind) == (
        1,
        {"enable_thinking": False},
        "json_object",
    )


async def test_images_reach_the_engine(http, kitchen):
    await ask(http, "chat", messages=[{"role": "user", "content": "see", "images": [PICTURE]}])
    await ask(http, "generate", prompt="see", images=[PICTURE])
    assert [media for _, media in kitchen.house.workers["echo"].generated] == [[b"picture"], [b"picture"]]


async def test_log_probabilities_come_with_their_lines(http):
    more = {"messages": says("one"), "think": False, "logprobs": True, "top_logprobs": 1}
    entry = {"token": "one ", "logprob": -0.5, "bytes": list(b"one ")}
    piece, _ = await stream(http, "chat", **more)
    assert piece["logprobs"] == [{**entry, "top_logprobs": [entry]}]
    assert (await ask(http, "chat", **more))["logprobs"] == piece["logprobs"]
    assert "logprobs" not in await ask(http, "chat", messages=says("one"))


async def test_an_error_in_mid_stream_is_a_line(http, kitchen):
    kitchen.house.serve(error_after=1)
    *pieces, error = await stream(http, "chat", messages=says(), think=False)
    assert [piece["message"]["content"] for piece in pieces] == ["one "]
    assert error == {"error": "echo was asked to fail"}
    assert await refuse(http, "chat", 502, messages=says(), stream=False) == "echo was asked to fail"


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"messages": says(), "options": {"temperature": -1}}, "options.temperature"),
        ({"messages": "hello"}, "messages"),
        ({"messages": [{"role": "wizard"}]}, "messages"),
        ({"messages": says(), "keep_alive": "soon"}, "keep_alive"),
        ({"messages": says("word " * 600)}, "600 tokens"),
        ({"messages": says(), "model": "tensors"}, '"tensors" is not a language model'),
        ({"messages": says(), "model": ""}, "model is required"),
        ({"messages": says(), "options": {"num_ctx": 100_000}, "model": "echo"}, None),
    ],
)
async def test_bad_input_is_a_400_before_any_line(http, body, words):
    if words is None:  # more than the model was trained on is not used, so it is enough
        await ask(http, "chat", **body)
        return
    for streaming in (True, False):
        assert words in await refuse(http, "chat", **body, stream=streaming)


async def test_an_unknown_model_is_a_404_in_ollamas_words(http):
    for path in ("chat", "generate", "embed", "embeddings", "show"):
        assert 'model "nobody" not found' in await refuse(http, path, 404, model="nobody")
    assert (await http.request("DELETE", "/api/delete", json={"model": "nobody"})).status_code == 404
    assert "no adapter" in await refuse(http, "chat", 404, model="echo:nobody", messages=says())


async def test_a_name_may_be_the_latest_or_an_adapter(http, kitchen):
    worker = kitchen.house.serve(adapters=["poet"])
    for model in ("echo", "echo:latest", "echo:poet"):
        assert (await ask(http, "chat", model=model, messages=says()))["model"] == model
    assert [request.adapter for request, _ in worker.generated] == ["", "", "poet"]
    names = [entry["name"] for entry in (await http.get("/api/tags")).json()["models"]]
    assert {"echo:latest", "echo:poet"} <= set(names)


# --- generate --------------------------------------------------------------------------------------------


async def test_generate_streams_and_ends_with_its_context(http):
    *pieces, last = await stream(http, "generate", prompt="one two", think=False)
    assert [piece["response"] for piece in pieces] == ["one ", "two "]
    assert (last["response"], last["done_reason"], last["context"]) == ("", "stop", [0, 1, 0, 1])


async def test_a_context_that_is_given_back_comes_first(http, kitchen):
    whole = await ask(http, "generate", prompt="one two", context=[7, 8])
    [(request, _)] = kitchen.house.workers["echo"].generated
    assert (request.prompt_tokens, request.messages) == ([7, 8, 0, 1], None)
    assert whole["context"][:4] == [7, 8, 0, 1]
    assert "context" in await refuse(http, "generate", prompt="x", context=[-1])


async def test_a_raw_prompt_has_no_template_and_no_context(http, kitchen):
    whole = await ask(http, "generate", prompt="one two", raw=True, think=False)
    [(request, _)] = kitchen.house.workers["echo"].generated
    assert (request.prompt, whole["response"], "context" in whole) == ("one two", "one two ", False)


async def test_thinking_of_generate_has_a_field_of_its_own(http):
    whole = await ask(http, "generate", prompt="one", think="high")
    assert (whole["thinking"], whole["response"]) == ("I repeat.", "one ")


async def test_without_a_prompt_the_model_is_loaded_and_with_zero_unloaded(http, kitchen):
    loaded = await ask(http, "generate", model="spare")
    assert (loaded["done"], loaded["done_reason"], loaded["response"]) == (True, "load", "")
    assert kitchen.reconciler.get("spare").temporary
    loaded = await ask(http, "chat", model="spare", messages=[])
    assert (loaded["done_reason"], loaded["message"]) == ("load", {"role": "assistant", "content": ""})
    for _ in range(2):  # the second time there is nothing left to do
        unloaded = await ask(http, "chat", model="spare", messages=[], keep_alive=0)
        assert unloaded["done_reason"] == "unload"
        assert "spare" not in kitchen.reconciler.now


async def test_what_a_user_deployed_is_not_unloaded_and_the_answer_does_not_pretend(http, kitchen):
    assert (await ask(http, "generate", keep_alive=0))["done_reason"] == "load"
    assert kitchen.reconciler.get("echo").state == "ready"


# --- on demand -------------------------------------------------------------------------------------------


async def test_a_model_of_the_registry_is_deployed_by_the_first_request(http, kitchen):
    whole = await ask(http, "chat", model="spare:latest", messages=says(), think=False)
    assert (whole["message"]["content"], whole["model"]) == ("one two ", "spare:latest")
    assert kitchen.reconciler.puts[-1] == ("spare", {})
    [entry] = [entry for entry in (await http.get("/api/ps")).json()["models"] if entry["name"] == "spare:latest"]
    assert entry["expires_at"] < NEVER


async def test_an_answer_is_finished_before_keep_alive_ends_the_model(http, kitchen):
    pieces = await stream(http, "chat", model="spare", messages=says(), think=False, keep_alive=0)
    assert [piece["message"]["content"] for piece in pieces] == ["one ", "two ", ""]
    async with asyncio.timeout(20):
        async for state in kitchen.bus.watch("deployment", "spare"):
            if state is None:
                break


async def test_num_ctx_is_the_context_of_a_temporary_deployment(http, kitchen):
    await ask(http, "chat", model="spare", messages=says(), options={"num_ctx": 256})
    await ask(http, "chat", model="spare", messages=says(), options={"num_ctx": 128})
    assert kitchen.reconciler.puts[-1] == ("spare", {"context_tokens": 256})
    shown = await ask(http, "show", model="spare")
    assert shown["parameters"].split() == ["num_ctx", "256"]


async def test_a_lasting_deployment_with_less_context_refuses(http, kitchen):
    table = kitchen.house.dataplane.table
    language = table["echo"].language
    roomy = type(language)(
        **{**{name: getattr(language, name) for name in language.__struct_fields__}, "trained_context": 4096}
    )
    kitchen.house.dataplane.publish({**table, "echo": replace(table["echo"], language=roomy)})
    error = await refuse(http, "chat", messages=says(), options={"num_ctx": 1024})
    assert "options.num_ctx is 1024" in error and "context_tokens=1024" in error


# --- embeddings ------------------------------------------------------------------------------------------


async def test_texts_are_embedded(http):
    one = await ask(http, "embed", input="a b")
    both = await ask(http, "embed", input=["a b", "c"])
    assert both["embeddings"][0] == one["embeddings"][0] != both["embeddings"][1]
    assert (len(both["embeddings"]), len(one["embeddings"][0]), both["prompt_eval_count"]) == (2, 8, 3)
    assert both["total_duration"] >= both["load_duration"] > 0
    old = await ask(http, "embeddings", prompt="a b")
    assert old == {"embedding": one["embeddings"][0]}


async def test_fewer_dimensions_have_length_one_again(http):
    [vector] = (await ask(http, "embed", input="a b", dimensions=3))["embeddings"]
    assert len(vector) == 3
    assert sum(value * value for value in vector) == pytest.approx(1)
    assert "dimensions" in await refuse(http, "embed", input="a", dimensions=0)


async def test_nothing_to_embed_only_loads(http, kitchen):
    assert (await ask(http, "embed", model="spare", input=""))["embeddings"] == []
    assert (await ask(http, "embed", model="spare"))["embeddings"] == []
    assert await ask(http, "embeddings", model="spare") == {"embedding": []}
    assert kitchen.reconciler.get("spare").state == "ready"


async def test_an_input_is_cut_only_where_it_may_be(http, kitchen, monkeypatch):
    from engines.engine import EngineError

    worker = kitchen.house.workers["echo"]
    embed = worker.engine.embed

    def narrow(requests):
        for request in requests:
            for text in request.inputs:
                if len(text.split() if isinstance(text, str) else text) > 512:
                    raise EngineError("context_exceeded", "input[0] is too long", field="input[0]")
        return embed(requests)

    monkeypatch.setattr(worker.engine, "embed", narrow)
    assert (await ask(http, "embed", input="word " * 600))["prompt_eval_count"] == 512
    assert "too long" in await refuse(http, "embed", input="word " * 600, truncate=False)


# --- models ----------------------------------------------------------------------------------------------


async def test_the_root_says_what_clients_look_for_and_shows_people_the_way(http):
    answer = await http.get("/")
    assert (answer.text, answer.headers["content-type"]) == ("Ollama is running", "text/plain; charset=utf-8")
    page = await http.get("/", headers={"accept": "text/html,*/*"})
    assert '"/docs"' in page.text
    for path in ("/", "/api/version", "/api/tags"):
        assert (await http.head(path)).status_code == 200
    version = (await http.get("/api/version")).json()
    assert tuple(map(int, version["version"].split("."))) >= (0, 6, 4)  # what editors ask for


async def test_language_models_are_listed_deployed_or_not(http):
    models = {entry["model"]: entry for entry in (await http.get("/api/tags")).json()["models"]}
    assert set(models) == {"echo:latest", "echo-model:latest", "spare:latest", "file:latest"}
    entry = models["file:latest"]
    assert entry["details"] == {
        "parent_model": "",
        "format": "gguf",
        "family": "gemma3",
        "families": ["gemma3"],
        "parameter_size": "268.10M",
        "quantization_level": "Q4_K_M",
    }
    assert re.fullmatch(r"[0-9a-f]{64}", entry["digest"]) and entry["size"] > 0
    assert models["echo:latest"]["details"]["family"] == "echo"
    assert "tools" in models["echo:latest"]["capabilities"]


async def test_only_what_is_loaded_is_running(http):
    [entry] = (await http.get("/api/ps")).json()["models"]
    assert (entry["name"], entry["expires_at"], entry["context_length"]) == ("echo:latest", NEVER, 512)
    assert entry["size_vram"] == 0


async def test_show_reads_the_header_of_a_file(http):
    shown = await ask(http, "show", model="file")
    info = shown["model_info"]
    assert (info["general.architecture"], info["gemma3.context_length"]) == ("gemma3", 4096)
    assert (info["general.parameter_count"], info["tokenizer.tokens"]) == (32, None)
    assert (shown["template"], "tokenizer.chat_template" in info) == ("{{ x }}", False)
    assert (shown["license"], shown["capabilities"]) == ("MIT", ["completion"])
    whole = (await ask(http, "show", name="file", model="", verbose=True))["model_info"]
    assert whole["tokenizer.tokens"] == ["a", "bc"]


async def test_show_asks_the_loaded_model_first(http):
    shown = await ask(http, "show", model="echo:latest")
    assert shown["model_info"]["echo.context_length"] == 512
    assert (shown["template"], "thinking" in shown["capabilities"]) == ("{{ messages }}", True)


async def test_what_makes_no_sense_here_says_what_to_do_instead(http):
    for path in ("copy", "create", "push", "blobs/sha256:0"):
        assert "; " in await refuse(http, path)
    assert (await http.head("/api/blobs/sha256:0")).status_code == 404


async def test_a_model_is_deleted_unless_it_is_deployed(http, kitchen):
    async def delete(model):
        return await http.request("DELETE", "/api/delete", json={"model": model})

    refused = await delete("echo-model")
    assert (refused.status_code, "deployed as echo" in refused.json()["error"]) == (409, True)
    await ask(http, "generate", model="spare")  # deployed on demand: no reason to keep it
    assert (await delete("spare:latest")).status_code == 200
    assert "spare" not in {model.name for model in kitchen.registry.models()}
    assert "spare" not in kitchen.reconciler.now


# --- pull ------------------------------------------------------------------------------------------------


def test_names_are_what_ollamas_users_write():
    assert reference("gemma:latest") == "gemma"
    assert reference("hf.example/org/repo:Q4_K_M") == "hf:org/repo:Q4_K_M"
    assert reference("hf.example/org/repo:latest") == reference("huggingface.example/org/repo") == "hf:org/repo"
    assert reference("hf:org/repo") == "hf:org/repo"
    assert reference("registry.example/org/repo") == "registry.example/org/repo"
    with pytest.raises(InvalidInput, match="required"):
        reference("")


async def test_a_file_is_pulled_with_progress(http, tmp_path):
    path = tmp_path / "new.gguf"
    path.write_bytes(gguf())
    lines = await stream(http, "pull", model=f"file:{path}")
    statuses = [line["status"] for line in lines]
    assert statuses[0] == "pulling manifest"
    assert statuses[-3:] == ["verifying sha256 digest", "writing manifest", "success"]
    assert await ask(http, "pull", name=f"file:{path}", model="") == {"status": "success"}
    assert (await ask(http, "show", model="new"))["details"]["family"] == "gemma3"


async def test_a_model_of_the_hub_keeps_the_name_that_ollama_gives_it(echo_house, data, store, bus):
    files = {"m-Q4_K_M.gguf": gguf(), "m-Q8_0.gguf": gguf(data_bytes=256)}
    with RangeServer() as server:
        publish(server, "org/repo", files)
        kitchen = Kitchen(echo_house, data, store, bus)
        await kitchen.open(hub=server.url)
        async with kitchen.house.client(kitchen.routes) as http:
            name = "hf.example/org/repo:q4_k_m"
            lines = await stream(http, "pull", model=name)
            assert lines[-1] == {"status": "success"}, lines
            assert (await ask(http, "chat", model=name, messages=says()))["model"] == name
            assert kitchen.reconciler.get("repo").temporary
        await kitchen.close()


async def test_what_is_here_already_is_a_success(http):
    assert (await stream(http, "pull", model="spare"))[-1] == {"status": "success"}


async def test_what_cannot_be_pulled_says_why(http, tmp_path):
    assert "not in the catalogue" in await refuse(http, "pull", 404, model="nobody")
    assert "not supported" in await refuse(http, "pull", model="ollama:llama")
    path = tmp_path / "bad.gguf"
    path.write_bytes(b"<!doctype html>")
    *_, last = await stream(http, "pull", model=f"file:{path}")
    assert "not a model" in last["error"]
    assert "not a model" in await refuse(http, "pull", 502, model=f"file:{path}", stream=False)


def test_counts_are_written_as_ollama_does():
    assert [human(count) for count in (0, 999, 22_000, 268_098_176, 7_000_000_000, 7_240_000_000)] == [
        "",
        "999",
        "22K",
        "268.10M",
        "7B",
        "7.2B",
    ]
