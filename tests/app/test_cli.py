"""The command line against a tiny real server: what it asks, what it prints, and how it ends."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from app.cli import main
from tests.support.scripted_daemon import ScriptedDaemon

Run = Callable[..., Result]

VERSION = {
    "version": 1, "format": "onnx", "precision": "fp32", "size_bytes": 341_045, "digest": "sha256:" + "ab" * 32,
    "files": [], "source": "embedded", "created": "2026-11-23T21:00:00Z",
}  # fmt: skip
MODEL = {
    "name": "tiny",
    "task": "image-classification",
    "licence": "MIT",
    "size_bytes": 341_045,
    "versions": [VERSION],
}
JOB = {
    "id": "j1",
    "kind": "download",
    "title": "downloading tiny",
    "state": "queued",
    "progress": 0.0,
    "message": "",
}
DONE = JOB | {"state": "succeeded", "progress": 1.0, "result": {"model": "tiny", "version": 1}}
SPEC = {"model": "tiny", "version": 1, "replicas": 1}
READY = {
    "route": "tiny", "model": "tiny", "version": 1, "task": "image-classification", "spec": SPEC, "state": "ready",
    "engine": "onnxruntime", "engine_version": "1.32.0", "device": "cpu", "replicas": [{"id": "a", "state": "ready"}],
    "decision": {"reason": "the only engine here that reads ONNX", "candidates": []}, "notes": ["labels are numbers"],
    "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}], "labels": ["cat", "dog"],
    "memory_bytes": 45_000_000,
}  # fmt: skip
CHAT = READY | {"task": "text-generation", "context_tokens": 2048, "inputs": [], "labels": []}
ANSWER = {"outputs": [{"name": "p", "datatype": "FP32", "shape": [1, 2], "data": [0.25, 0.75]}]}
NO_ENGINE = {
    "code": "engine_unavailable", "message": "llama.cpp is not installed",
    "hint": "pilothouse runtime install llamacpp-cpu", "details": {"runtime": "llamacpp-cpu"},
}  # fmt: skip


@pytest.fixture
def run(scripted_daemon: ScriptedDaemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """`pilothouse …` with a data directory whose daemon is the fake one."""
    scripted_daemon.write_daemon_file(tmp_path)
    monkeypatch.setenv("PILOTHOUSE_DATA_DIR", str(tmp_path))
    return lambda *words, **more: CliRunner().invoke(main, [str(word) for word in words], **more)


def follow_job(daemon: ScriptedDaemon, end: dict = DONE) -> None:
    """A job is accepted, and ends as ``end`` in the events."""
    daemon.answers[("POST", "/manage/v1/jobs")] = (202, JOB)
    daemon.state["job"] = {"j1": JOB}
    daemon.script += [("job", "j1", JOB | {"state": "running", "progress": 0.5}), ("job", "j1", end)]


def catalogue(daemon: ScriptedDaemon) -> None:
    """``tiny`` can be pulled; it is here once it has been."""
    items = {"items": [{"name": "tiny"}], "next_cursor": None}
    daemon.answers[("GET", "/manage/v1/catalog")] = (200, items)


# --- models ----------------------------------------------------------------------------------------------


def test_models_is_a_table_of_newest_versions(run: Run, scripted_daemon: ScriptedDaemon):
    versions = [VERSION, VERSION | {"version": 2, "precision": "int8"}]
    scripted_daemon.answers[("GET", "/manage/v1/models")] = (200, {"items": [MODEL | {"versions": versions}]})
    done = run("models")
    assert done.exit_code == 0
    assert [line.split() for line in done.stdout.splitlines()] == [
        ["MODEL", "TASK", "NEWEST", "FORMAT", "PRECISION", "SIZE"],
        ["tiny", "image-classification", "2", "onnx", "int8", "341.0", "kB"],
    ]


def test_show_prints_the_one_version_asked_for(run: Run, scripted_daemon: ScriptedDaemon):
    scripted_daemon.answers[("GET", "/manage/v1/models/tiny")] = (200, MODEL)
    assert "sha256:abababababab" in run("show", "tiny").stdout
    assert json.loads(run("show", "tiny@1", "--json").stdout) == MODEL
    missing = run("show", "tiny@7")
    assert missing.exit_code == 1 and "has no version 7" in missing.stderr and missing.stdout == ""


CARD = "/manage/v1/models/tiny/versions/1/card"


@pytest.fixture
def described(scripted_daemon: ScriptedDaemon) -> ScriptedDaemon:
    """``tiny`` can be described, and runs."""
    version = VERSION | {"card": {"item": "text", "labels": ["a", "b"]}}
    scripted_daemon.answers |= {
        ("GET", "/manage/v1/models/tiny"): (200, MODEL),
        ("GET", "/manage/v1/deployments"): (200, {"items": [READY], "next_cursor": None}),
        ("GET", CARD): (200, {"item": "row", "labels": []}),
        ("PUT", CARD): (200, version),
        ("PUT", CARD.replace("card", "files/tokenizer.json")): (200, version),
    }
    return scripted_daemon


def test_describe_sends_files_before_the_card_that_needs_them(run: Run, described: ScriptedDaemon, tmp_path: Path):
    for name, content in (("c.json", {"item": "text", "task": "t", "note": 1}), ("tokenizer.json", {"version": "1.0"})):
        (tmp_path / name).write_text(json.dumps(content))
    (tmp_path / "l.txt").write_text("a\nb\n")
    files = ["--file", tmp_path / "tokenizer.json", "--labels", tmp_path / "l.txt"]
    done = run("describe", "tiny", "--card", tmp_path / "c.json", *files)
    assert done.stdout.splitlines() == [
        "tiny@1 is described: takes an item of text; 2 labels",
        "  note  tiny runs it as it was before; deploy it again to take this up",
    ]
    puts = [entry for entry in described.asked if entry.method == "PUT"]
    assert [(put.path.rpartition("/")[2], put.query, put.body) for put in puts] == [
        ("tokenizer.json", "", {"version": "1.0"}),
        ("card", "task=t", {"item": "text", "labels": ["a", "b"]}),
    ]


def test_describe_without_a_card_keeps_the_one_that_is_there(run: Run, described: ScriptedDaemon, tmp_path: Path):
    (tmp_path / "l.json").write_text('{"id2label": {"0": "x"}}')
    assert run("describe", "tiny@1", "--labels", tmp_path / "l.json").exit_code == 0
    assert described.bodies("PUT", CARD) == [{"item": "row", "labels": ["x"]}]


def test_describe_of_nothing_shows_the_card(run: Run, described: ScriptedDaemon):
    assert json.loads(run("describe", "tiny").stdout) == {"item": "row", "labels": []}
    assert [entry.method for entry in described.asked if entry.method != "GET"] == []


@pytest.mark.parametrize(
    ("content", "said"),
    [("{", "is not JSON"), ('{"lables": []}', "did you mean labels?"), ("[]", "expected an object")],
)
def test_describe_explains_a_card_that_cannot_be(
    run: Run, described: ScriptedDaemon, tmp_path: Path, content: str, said: str
):
    (tmp_path / "c.json").write_text(content)
    done = run("describe", "tiny", "--card", tmp_path / "c.json")
    assert done.exit_code == 1 and said in done.stderr
    assert described.bodies("PUT", CARD) == []


def test_rm_removes_one_version(run: Run, scripted_daemon: ScriptedDaemon):
    scripted_daemon.answers[("DELETE", "/manage/v1/models/tiny")] = (200, {})
    assert run("rm", "tiny@3").stdout == "tiny@3 is removed\n"
    assert scripted_daemon.asked[-1].query == "version=3"


@pytest.mark.parametrize("word", ["tiny@", "@1", "tiny@one"])
def test_a_name_that_is_none_is_wrong_usage(run: Run, word: str):
    assert run("show", word).exit_code == 2


# --- long work -------------------------------------------------------------------------------------------


def test_pull_waits_for_the_job(run: Run, scripted_daemon: ScriptedDaemon):
    follow_job(scripted_daemon)
    done = run("pull", "tiny", "--name", "small")
    assert (done.exit_code, done.stdout) == (0, "tiny@1 is here\n")
    assert "downloading tiny" in done.stderr  # progress
    assert scripted_daemon.bodies("POST", "/manage/v1/jobs") == [{"kind": "download", "ref": "tiny", "name": "small"}]


def test_pull_makes_a_file_absolute(
    run: Run, scripted_daemon: ScriptedDaemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    follow_job(scripted_daemon)
    monkeypatch.chdir(tmp_path)
    run("pull", "file:sub/tiny.onnx")
    assert scripted_daemon.bodies("POST", "/manage/v1/jobs")[0]["ref"] == f"file:{tmp_path / 'sub' / 'tiny.onnx'}"


def test_detach_returns_the_job(run: Run, scripted_daemon: ScriptedDaemon):
    scripted_daemon.answers[("POST", "/manage/v1/jobs")] = (202, JOB)
    assert json.loads(run("pull", "tiny", "--detach", "--json").stdout) == JOB
    assert run("runtime", "install", "x", "--detach").stdout == "job j1 is queued: downloading tiny\n"


def test_a_failed_job_is_one_line_with_its_remedy(run: Run, scripted_daemon: ScriptedDaemon):
    error = {
        "code": "insufficient_disk",
        "message": "it needs 5.0 GB,\nand 1.2 GB are free",
        "hint": "remove a model",
    }
    follow_job(scripted_daemon, JOB | {"state": "failed", "error": error})
    done = run("pull", "tiny")
    assert (done.exit_code, done.stdout) == (1, "")
    last = done.stderr.splitlines()[-1]
    assert last == "pilothouse: it needs 5.0 GB, and 1.2 GB are free — remove a model"


def test_a_failure_in_json_is_still_one_document(run: Run, scripted_daemon: ScriptedDaemon):
    scripted_daemon.answers[("POST", "/manage/v1/jobs")] = (
        404,
        {"error": {"code": "model_not_found", "message": "no x"}},
    )
    done = run("pull", "x", "--json")
    assert done.exit_code == 1 and done.stderr == "pilothouse: no x\n"
    assert json.loads(done.stdout)["error"]["code"] == "model_not_found"


def test_ctrl_c_leaves_the_job_running_and_says_so(
    run: Run, scripted_daemon: ScriptedDaemon, monkeypatch: pytest.MonkeyPatch
):
    from app.commands.console import Progress

    def interrupted(*_):
        raise KeyboardInterrupt

    follow_job(scripted_daemon)
    monkeypatch.setattr(Progress, "job", interrupted)
    done = run("pull", "tiny")
    assert done.exit_code == 1 and "goes on in the background" in done.stderr
    assert [asked.path for asked in scripted_daemon.asked if asked.method == "POST"] == ["/manage/v1/jobs"]  # no cancel


# --- serving ---------------------------------------------------------------------------------------------


def test_deploy_says_engine_reason_and_address(run: Run, scripted_daemon: ScriptedDaemon):
    scripted_daemon.answers[("GET", "/manage/v1/models/tiny")] = (200, MODEL)
    scripted_daemon.answers[("PUT", "/manage/v1/deployments/pets")] = (
        200,
        READY | {"route": "pets", "state": "starting"},
    )
    scripted_daemon.answers[("GET", "/manage/v1/deployments/pets")] = (200, READY | {"route": "pets"})
    scripted_daemon.state["deployment"] = {"pets": READY | {"route": "pets"}}
    done = run(
        "deploy",
        "tiny@1",
        "--route",
        "pets",
        "--engine",
        "onnxruntime",
        "--set",
        "threads=2",
        "--set",
        "device=cpu",
    )
    assert done.exit_code == 0
    for part in ("pets is ready: tiny@1 on onnxruntime 1.32.0, cpu", "the only engine here", "labels are numbers"):
        assert part in done.stdout
    assert f"{scripted_daemon.url}/v2/models/pets/infer" in done.stdout
    assert scripted_daemon.bodies("PUT", "/manage/v1/deployments/pets") == [
        {"model": "tiny", "version": 1, "engine": "onnxruntime", "device": "cpu", "settings": {"threads": 2}}
    ]


def test_deploy_pulls_a_catalogue_name_first(run: Run, scripted_daemon: ScriptedDaemon):
    catalogue(scripted_daemon)
    follow_job(scripted_daemon)
    scripted_daemon.answers[("PUT", "/manage/v1/deployments/tiny")] = (200, READY)
    done = run("deploy", "tiny", "--json")
    assert json.loads(done.stdout) == READY and "pulling it" in done.stderr
    order = [(asked.method, asked.path) for asked in scripted_daemon.asked if asked.method != "GET"]
    assert order == [("POST", "/manage/v1/jobs"), ("PUT", "/manage/v1/deployments/tiny")]


def test_deploy_detached_returns_the_job_that_comes_first(run: Run, scripted_daemon: ScriptedDaemon):
    catalogue(scripted_daemon)
    scripted_daemon.answers[("POST", "/manage/v1/jobs")] = (202, JOB)
    assert json.loads(run("deploy", "tiny", "--detach", "--json").stdout) == JOB


def test_deploy_of_an_unknown_name_fails(run: Run, scripted_daemon: ScriptedDaemon):
    catalogue(scripted_daemon)
    done = run("deploy", "nothing")
    assert done.exit_code == 1 and "nothing at /manage/v1/models/nothing" in done.stderr


def test_deploy_installs_a_missing_runtime_and_says_so(run: Run, scripted_daemon: ScriptedDaemon):
    scripted_daemon.answers[("GET", "/manage/v1/models/tiny")] = (200, MODEL)
    answers = [READY | {"state": "failed", "error": NO_ENGINE}, READY]
    scripted_daemon.answers[("PUT", "/manage/v1/deployments/tiny")] = lambda _: (200, answers.pop(0))
    follow_job(scripted_daemon)
    done = run("deploy", "tiny")
    assert done.exit_code == 0 and "needs the runtime llamacpp-cpu: installing it" in done.stderr
    assert scripted_daemon.bodies("POST", "/manage/v1/jobs") == [{"kind": "runtime", "runtime": "llamacpp-cpu"}]


@pytest.mark.parametrize("refused", [True, False])
def test_deploy_installs_nothing_when_told_so(run: Run, scripted_daemon: ScriptedDaemon, refused: bool):
    scripted_daemon.answers[("GET", "/manage/v1/models/tiny")] = (200, MODEL)
    answer = (409, {"error": NO_ENGINE}) if refused else (200, READY | {"state": "failed", "error": NO_ENGINE})
    scripted_daemon.answers[("PUT", "/manage/v1/deployments/tiny")] = answer
    done = run("deploy", "tiny", "--no-install")
    assert done.exit_code == 1
    assert (
        done.stderr.splitlines()[-1]
        == "pilothouse: llama.cpp is not installed — pilothouse runtime install llamacpp-cpu"
    )
    assert scripted_daemon.bodies("POST", "/manage/v1/jobs") == []


def test_a_setting_without_a_value_is_wrong_usage(run: Run):
    assert run("deploy", "tiny", "--set", "threads").exit_code == 2


def test_deploy_of_a_language_model_with_all_its_parts(run: Run, scripted_daemon: ScriptedDaemon):
    for name in ("tiny", "pirate", "eyes", "small"):
        scripted_daemon.answers[("GET", f"/manage/v1/models/{name}")] = (200, MODEL)
    offered = {"capabilities": ["completion", "vision"], "adapters": ["arr"], "sequences": 8,
               "trained_context_tokens": 32768}  # fmt: skip
    scripted_daemon.answers[("PUT", "/manage/v1/deployments/tiny")] = (200, CHAT | offered)
    scripted_daemon.answers[("GET", "/manage/v1/deployments/tiny")] = (200, CHAT | offered)
    words = ["--adapter", "arr=pirate@2", "--projector", "eyes", "--draft", "small@1"]
    settings = ["n_ctx=2048", "cache_type_k=q8_0", "tensor_split=3,1", "swa_full=false", "flash_attention=on"]
    done = run("deploy", "tiny", *words, *(word for text in settings for word in ("--set", text)))
    assert done.exit_code == 0
    [body] = scripted_daemon.bodies("PUT", "/manage/v1/deployments/tiny")
    assert (body["adapters"], body["projector"], body["draft"]) == ({"arr": "pirate@2"}, "eyes", "small@1")
    assert body["settings"] == {
        "n_ctx": 2048, "cache_type_k": "q8_0", "tensor_split": "3,1", "swa_full": False, "flash_attention": "on",
    }  # fmt: skip
    assert "2,048 tokens of context (of 32,768) · 8 sequences at once" in done.stdout
    assert "completion, vision · adapters tiny:arr" in done.stdout
    assert done.stdout.rstrip().endswith("/v1/chat/completions")


@pytest.mark.parametrize(
    ("capabilities", "path"), [(["embedding"], "/v1/embeddings"), (["rerank"], "/v1/rerank"), ([], "completions")]
)
def test_deploy_says_where_to_ask(run: Run, scripted_daemon: ScriptedDaemon, capabilities: list[str], path: str):
    scripted_daemon.answers[("GET", "/manage/v1/models/tiny")] = (200, MODEL)
    deployed = (200, CHAT | {"capabilities": capabilities})
    scripted_daemon.answers[("PUT", "/manage/v1/deployments/tiny")] = deployed
    scripted_daemon.answers[("GET", "/manage/v1/deployments/tiny")] = deployed
    assert run("deploy", "tiny").stdout.rstrip().endswith(path)


def test_deploy_pulls_a_part_that_is_in_the_catalogue(run: Run, scripted_daemon: ScriptedDaemon):
    items = {"items": [{"name": "small"}], "next_cursor": None}
    scripted_daemon.answers[("GET", "/manage/v1/catalog")] = (200, items)
    scripted_daemon.answers[("GET", "/manage/v1/models/tiny")] = (200, MODEL)
    scripted_daemon.answers[("PUT", "/manage/v1/deployments/tiny")] = (200, CHAT)
    follow_job(scripted_daemon)
    assert "small is not here yet: pulling it" in run("deploy", "tiny", "--draft", "small").stderr
    assert scripted_daemon.bodies("POST", "/manage/v1/jobs") == [{"kind": "download", "ref": "small"}]


def test_an_adapter_without_a_name_is_wrong_usage(run: Run):
    done = run("deploy", "tiny", "--adapter", "pirate")
    assert done.exit_code == 2 and "NAME=MODEL" in done.stderr


def test_undeploy(run: Run, scripted_daemon: ScriptedDaemon):
    scripted_daemon.answers[("DELETE", "/manage/v1/deployments/tiny")] = (200, {})
    assert run("undeploy", "tiny").stdout == "tiny is no longer served\n"
    assert run("undeploy", "other").exit_code == 1


def test_undeploy_by_force(run: Run, scripted_daemon: ScriptedDaemon):
    scripted_daemon.answers[("DELETE", "/manage/v1/deployments/tiny")] = (200, {})
    run("undeploy", "tiny")
    run("undeploy", "tiny", "--force")
    assert [asked.query for asked in scripted_daemon.asked if asked.method == "DELETE"] == ["", "force=true"]


PIPELINE = {
    "steps": [{"name": "a", "route": "tiny", "inputs": {"x": "v"}, "outputs": {"p": "p"}}],
    "outputs": {"p": "p"},
}
PIPE = READY | {
    "route": "pipe", "model": "pipe", "engine": "ensemble", "engine_version": None, "device": None, "decision": None,
    "replicas": [], "spec": {"model": "", "pipeline": PIPELINE, "replicas": 1}, "notes": [], "memory_bytes": None,
}  # fmt: skip


@pytest.mark.parametrize("document", [PIPELINE, {"pipeline": PIPELINE}])
def test_deploy_serves_the_pipeline_in_a_file(run: Run, scripted_daemon: ScriptedDaemon, tmp_path: Path, document):
    scripted_daemon.answers[("PUT", "/manage/v1/deployments/pipe")] = (200, PIPE)
    (tmp_path / "pipe.json").write_text(json.dumps(document))
    done = run("deploy", "--pipeline", tmp_path / "pipe.json", "pipe")
    assert done.stdout == (f"pipe is ready: a pipeline of tiny\n  POST  {scripted_daemon.url}/v2/models/pipe/infer\n")
    assert scripted_daemon.bodies("PUT", "/manage/v1/deployments/pipe") == [{"pipeline": PIPELINE}]


@pytest.mark.parametrize("text", ["{", "[]", '{"pipeline": 3}'])
def test_a_file_that_is_no_pipeline_is_said_before_anything_is_asked(
    run: Run, scripted_daemon: ScriptedDaemon, tmp_path: Path, text: str
):
    (tmp_path / "pipe.json").write_text(text)
    done = run("deploy", "--pipeline", tmp_path / "pipe.json", "pipe")
    assert done.exit_code == 1
    assert "pipe.json is not" in done.stderr
    assert scripted_daemon.asked == []


def test_status_shows_pipelines_and_changes(run: Run, scripted_daemon: ScriptedDaemon):
    error = {"code": "bad_model", "message": "not a model", "hint": ""}
    failed = {"model": "tiny", "version": 2, "state": "failed", "error": error, "note": "tiny@1 goes on as before"}
    scripted_daemon.state["deployment"] = {"pipe": PIPE, "tiny": READY | {"pending": failed}}
    shown = run("status").stdout
    row = next(line for line in shown.splitlines() if line.startswith("pipe"))
    assert "→ tiny" in row and "ensemble" in row
    assert "tiny: the change to tiny@2 failed: not a model; tiny@1 goes on as before" in shown
    scripted_daemon.state["deployment"]["tiny"] = READY | {"pending": failed | {"state": "starting"}}
    assert "tiny: the change to tiny@2 is under way" in run("status").stdout


def test_status_shows_what_is_served_and_what_is_under_way(run: Run, scripted_daemon: ScriptedDaemon):
    sample = {"requests_per_s": 25.0, "p50_ms": 0.63, "queue_depth": 0}
    broken = READY | {"route": "sad", "state": "failed", "error": NO_ENGINE}
    scripted_daemon.state = {
        "daemon": {"info": {"version": "0.1.0", "url": scripted_daemon.url, "pid": 7, "data_dir": "/data"}},
        "deployment": {"tiny": READY, "sad": broken},
        "metrics": {"tiny": sample},
        "job": {
            "j1": JOB | {"state": "running", "progress": 0.4, "message": "3 of 5 GB"},
            "j0": DONE | {"id": "j0"},
        },
    }
    text = run("status").stdout
    lines = {line.split()[0]: line for line in text.splitlines() if line}
    assert "pid 7" in lines["daemon"]
    for part in ("tiny@1", "● ready", "onnxruntime 1.32.0", "1/1", "45.0 MB", "25.0", "0.6 ms"):
        assert part in lines["tiny"]
    assert "■ failed" in lines["sad"] and "sad: llama.cpp is not installed — pilothouse runtime" in text
    assert "40%" in lines["j1"] and "3 of 5 GB" in lines["j1"] and "j0" not in lines
    document = json.loads(run("status", "--json").stdout)
    assert [(entry["route"], entry["load"]) for entry in document["deployments"]] == [
        ("sad", None),
        ("tiny", sample),
    ]


def test_status_of_language_models_has_their_context_and_hits(run: Run, scripted_daemon: ScriptedDaemon):
    sample = {"requests_per_s": 2.0, "p50_ms": None, "queue_depth": 0, "prefix_hit_rate": 0.906}
    served = CHAT | {"route": "chat", "sequences": 8}
    scripted_daemon.state = {"deployment": {"chat": served, "tiny": READY}, "metrics": {"chat": sample}}
    lines = {line.split()[0]: line for line in run("status").stdout.splitlines() if line}
    assert lines["ROUTE"].split()[-2:] == ["CONTEXT", "HITS"]
    assert lines["chat"].endswith("8 × 2,048  91%")
    assert lines["tiny"].split()[-2:] == ["—", "—"]


def test_status_of_nothing_says_what_to_do(run: Run):
    assert "pilothouse deploy digits" in run("status").stdout


# --- run -------------------------------------------------------------------------------------------------


@pytest.fixture
def tensors(scripted_daemon: ScriptedDaemon) -> ScriptedDaemon:
    scripted_daemon.answers[("GET", "/manage/v1/deployments/tiny")] = (200, READY)
    scripted_daemon.answers[("POST", "/v2/models/tiny/infer")] = (200, ANSWER)
    scripted_daemon.answers[("GET", CARD)] = (200, {"item": ""})
    return scripted_daemon


def sent(daemon: ScriptedDaemon) -> dict:
    return daemon.bodies("POST", "/v2/models/tiny/infer")[-1]["inputs"][0]


def test_run_prints_the_classes_most_likely_first(run: Run, tensors: ScriptedDaemon):
    lines = run("run", "tiny", "[0.5, 1]").stdout.splitlines()
    assert [line.split()[:2] for line in lines] == [["dog", "75.0%"], ["cat", "25.0%"]]
    assert sent(tensors) == {"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [0.5, 1.0]}


def test_run_reads_arrays_files_and_standard_input(run: Run, tensors: ScriptedDaemon, tmp_path: Path):
    np.save(tmp_path / "x.npy", np.array([[1, 2], [3, 4]], np.float32))
    (tmp_path / "x.json").write_text('{"x": [5, 6]}', encoding="utf-8")
    assert run("run", "tiny", tmp_path / "x.npy").exit_code == 0
    assert sent(tensors)["shape"] == [2, 2] and sent(tensors)["data"] == [1, 2, 3, 4]
    run("run", "tiny", tmp_path / "x.json")
    assert sent(tensors)["data"] == [5, 6]
    run("run", "tiny", input="[[7, 8]]")
    assert sent(tensors)["data"] == [7, 8]


@pytest.mark.parametrize(
    ("kind", "given", "item"),
    [
        ("text", "good day", "good day"),
        ("text", "[[1, 0]]", None),
        ("image", "FILE.png", {"image": "UE5H"}),
        ("image", "FILE.npy", None),
        ("file", "FILE.png", {"file": "UE5H"}),
        ("file", "FILE.json", {"file": "e30="}),
        ("file", "[[1, 0]]", None),
        ("row", '{"age": 3}', {"row": {"age": 3}}),
        ("row", '{"x": [[1, 0]]}', None),
        ("row", "[[1, 0]]", None),
    ],
)
def test_run_takes_the_items_of_a_card(
    run: Run, tensors: ScriptedDaemon, tmp_path: Path, kind: str, given: str, item: object
):
    (tmp_path / "FILE.png").write_bytes(b"PNG")
    (tmp_path / "FILE.json").write_bytes(b"{}")
    np.save(tmp_path / "FILE.npy", np.array([[1.0, 0.0]]))
    if given.startswith("FILE"):
        given = str(tmp_path / given)
    tensors.answers[("GET", "/manage/v1/deployments/tiny")] = (200, READY | {"capabilities": ["classify"]})
    tensors.answers[("GET", CARD)] = (200, {"item": kind})
    scores = [{"label": "dog", "score": 0.75}, {"label": "cat", "score": 0.25}]
    tensors.answers[("POST", "/v1/classify")] = (200, {"data": [{"label": "dog", "scores": scores}]})
    done = run("run", "tiny", given)
    assert done.exit_code == 0, done.output
    assert done.stdout.split()[:2] == ["dog", "75.0%"]
    asked = tensors.bodies("POST", "/v1/classify")
    assert asked == ([] if item is None else [{"model": "tiny", "input": [item]}])


def test_run_embeds_an_item(run: Run, tensors: ScriptedDaemon):
    tensors.answers[("GET", "/manage/v1/deployments/tiny")] = (200, READY | {"capabilities": ["embedding", "rerank"]})
    tensors.answers[("GET", CARD)] = (200, {"item": "text"})
    tensors.answers[("POST", "/v1/embeddings")] = (200, {"data": [{"embedding": [0.6, 0.8]}]})
    assert run("run", "tiny", "good day").stdout == "2 values: 0.6000, 0.8000\n"


@pytest.mark.parametrize(
    ("kind", "given", "item"),
    [("audio", "FILE.wav", b"RI\xff\xfe"), ("text", "good day", b"good day"), ("row", '{"age": 3}', b'{"age": 3}')],
)
def test_run_sends_an_item_to_steps_that_end_in_neither_classes_nor_an_embedding(
    run: Run, tensors: ScriptedDaemon, tmp_path: Path, kind: str, given: str, item: bytes
):
    (tmp_path / "FILE.wav").write_bytes(b"RI\xff\xfe")
    tensors.answers[("GET", "/manage/v1/deployments/tiny")] = (200, READY | {"capabilities": []})
    tensors.answers[("GET", CARD)] = (200, {"item": kind})
    speech = {"name": "speech", "datatype": "FP32", "shape": [1, 2], "data": [0.25, 0.75]}
    tensors.answers[("POST", "/v2/models/tiny/infer")] = (200, {"outputs": [speech]})
    done = run("run", "tiny", str(tmp_path / given) if given.startswith("FILE") else given)
    assert done.stdout == "speech  FP32 [1, 2]  0.25, 0.75\n"
    [asked] = [entry for entry in tensors.asked if entry.method == "POST"]
    at = int(asked.headers["inference-header-content-length"])
    [tensor] = json.loads(asked.body[:at])["inputs"]
    assert tensor == {
        "name": "item", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": 4 + len(item)},
    }  # fmt: skip
    assert asked.body[at:] == len(item).to_bytes(4, "little") + item


def test_run_says_that_a_file_is_not_there(run: Run, tensors: ScriptedDaemon):
    tensors.answers[("GET", CARD)] = (200, {"item": "audio"})
    done = run("run", "tiny", "hello.wav")
    assert done.exit_code == 1
    assert done.stderr == "pilothouse: there is no file hello.wav — this model takes the path of an audio file\n"


@pytest.mark.parametrize(
    ("count", "lines"),
    [(2, ["  cat   90.0%  1, 2 to 30, 40", "mouse   50.0%  5, 6 to 7, 8"]), (0, ["nothing is found"])],
)
def test_run_tells_what_a_detector_found(
    run: Run, tensors: ScriptedDaemon, tmp_path: Path, count: int, lines: list[str]
):
    (tmp_path / "x.png").write_bytes(b"PNG")
    tensors.answers[("GET", CARD)] = (200, {"item": "image"})
    outputs = {"boxes": [1, 2, 30.2, 40, 5, 6, 7, 8, 0, 0, 0, 0], "label": ["cat", "mouse", ""],
               "score": [0.9, 0.5, 0], "count": [count]}  # fmt: skip
    answer = {"outputs": [{"name": name, "data": data} for name, data in outputs.items()]}
    tensors.answers[("POST", "/v2/models/tiny/infer")] = (200, answer)
    assert run("run", "tiny", str(tmp_path / "x.png")).stdout.splitlines() == lines


def test_run_takes_a_held_out_sample(run: Run, tensors: ScriptedDaemon):
    sample = {"inputs": {"x": [1.0, 2.0]}, "shapes": {"x": [1, 2]}, "label": "dog"}
    tensors.answers[("GET", "/manage/v1/models/tiny/samples")] = (200, {"items": [sample]})
    assert "the true label is dog" in run("run", "tiny", "--sample", "3").stdout
    assert "offset=3" in next(asked.query for asked in tensors.asked if asked.path.endswith("samples"))
    document = json.loads(run("run", "tiny", "--sample", "3", "--json").stdout)
    assert document["expected"] == "dog" and document["classes"][0][0] == {"label": "dog", "confidence": 0.75}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["[1, 2, 3]"], "input x expects FP32 of shape [-1, 2], and [3] came"),
        (['{"y": [1, 2]}'], "input x is missing"),
        (["nowhere.npy"], "nowhere.npy cannot be read"),
        (["cat.png"], "cat.png is a picture"),
        (["[1, "], "neither JSON nor an array"),
    ],
)
def test_run_explains_a_wrong_input(run: Run, tensors: ScriptedDaemon, words: list[str], said: str):
    done = run("run", "tiny", *words)
    assert done.exit_code == 1 and said in done.stderr and len(done.stderr.splitlines()) == 1
    assert tensors.bodies("POST", "/v2/models/tiny/infer") == []


def test_run_of_a_route_that_is_not_there_names_the_remedy(run: Run):
    done = run("run", "nobody", "[1]")
    assert done.exit_code == 1 and "`pilothouse deploy nobody`" in done.stderr


def test_run_streams_a_chat(run: Run, scripted_daemon: ScriptedDaemon):
    scripted_daemon.answers[("GET", "/manage/v1/deployments/tiny")] = (200, CHAT)
    chunks = ['{"choices":[{"delta":{"content":"Good "}}]}', '{"choices":[{"delta":{"content":"day"}}]}', "[DONE]"]
    scripted_daemon.answers[("POST", "/v1/chat/completions")] = (200, chunks)
    assert run("run", "tiny", "Say hello", "--max-tokens", "4").stdout == "Good day\n"
    body = scripted_daemon.asked[-1].body
    assert body["messages"] == [{"role": "user", "content": "Say hello"}] and body["max_tokens"] == 4
    assert run("run", "tiny", input="from a pipe").stdout == "Good day\n"
    assert scripted_daemon.asked[-1].body["messages"][0]["content"] == "from a pipe"
    assert run("run", "tiny", input=" ").exit_code == 1


def test_run_in_json_is_the_whole_answer(run: Run, scripted_daemon: ScriptedDaemon):
    scripted_daemon.answers[("GET", "/manage/v1/deployments/tiny")] = (200, CHAT)
    answer = {"choices": [{"message": {"content": "Good day"}}]}
    scripted_daemon.answers[("POST", "/v1/chat/completions")] = (200, answer)
    assert json.loads(run("run", "tiny", "Say hello", "--json").stdout) == answer
    assert "stream" not in scripted_daemon.asked[-1].body


def chat_chunks(*deltas: dict) -> list[str]:
    return [*(json.dumps({"choices": [{"delta": delta}]}) for delta in deltas), "[DONE]"]


def test_run_keeps_what_a_model_thinks_out_of_its_answer(run: Run, scripted_daemon: ScriptedDaemon):
    scripted_daemon.answers[("GET", "/manage/v1/deployments/tiny")] = (200, CHAT)
    thoughts = [{"reasoning_content": "Let me "}, {"reasoning_content": "see."}]
    chunks = chat_chunks({"role": "assistant"}, *thoughts, {"content": "Good "}, {"content": "day"})
    scripted_daemon.answers[("POST", "/v1/chat/completions")] = (200, chunks)
    done = run("run", "tiny", "Say hello")
    assert (done.stdout, done.stderr) == ("Good day\n", "Let me see.\n\n")
    assert "\x1b[2mLet me \x1b[0m" in run("run", "tiny", "Say hello", color=True).stderr


def test_run_sends_system_images_and_a_schema(run: Run, scripted_daemon: ScriptedDaemon, tmp_path: Path):
    seeing = CHAT | {"capabilities": ["completion", "vision"]}
    scripted_daemon.answers[("GET", "/manage/v1/deployments/tiny")] = (200, seeing)
    scripted_daemon.answers[("POST", "/v1/chat/completions")] = (200, chat_chunks({"content": "{}"}))
    (tmp_path / "cat.png").write_bytes(b"meow")
    (tmp_path / "schema.json").write_text('{"type": "object"}', encoding="utf-8")
    words = ["--system", "Be brief.", "--image", tmp_path / "cat.png", "--json-schema", tmp_path / "schema.json"]
    assert run("run", "tiny", "What is it?", *words).exit_code == 0
    body = scripted_daemon.asked[-1].body
    assert body["messages"] == [
        {"role": "system", "content": "Be brief."},
        {
            "role": "user",
            "content": [
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,bWVvdw=="}},
                {"type": "text", "text": "What is it?"},
            ],
        },
    ]
    assert body["response_format"]["json_schema"]["schema"] == {"type": "object"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--image", "cat.txt"], "is not an image"),
        (["--image", "nowhere.png"], "cannot be read"),
        (["--json-schema", "nowhere.json"], "is not a JSON schema"),
    ],
)
def test_run_explains_what_it_cannot_send(run: Run, scripted_daemon: ScriptedDaemon, words: list[str], said: str):
    seeing = CHAT | {"capabilities": ["completion", "vision"]}
    scripted_daemon.answers[("GET", "/manage/v1/deployments/tiny")] = (200, seeing)
    done = run("run", "tiny", "What is it?", *words)
    assert done.exit_code == 1 and said in done.stderr
    assert scripted_daemon.bodies("POST", "/v1/chat/completions") == []


def test_run_of_a_model_without_eyes_says_what_it_lacks(run: Run, scripted_daemon: ScriptedDaemon):
    blind = CHAT | {"capabilities": ["completion"]}
    scripted_daemon.answers[("GET", "/manage/v1/deployments/tiny")] = (200, blind)
    done = run("run", "tiny", "What is it?", "--image", "cat.png")
    assert done.exit_code == 1 and "--projector" in done.stderr


def test_run_embeds(run: Run, scripted_daemon: ScriptedDaemon):
    embedding = CHAT | {"capabilities": ["embedding"], "task": "embedding"}
    answer = {"data": [{"embedding": [0.125] * 384}]}
    scripted_daemon.answers[("GET", "/manage/v1/deployments/tiny")] = (200, embedding)
    scripted_daemon.answers[("POST", "/v1/embeddings")] = (200, answer)
    done = run("run", "tiny", "Good day")
    assert done.stdout == f"384 values: {', '.join(['0.1250'] * 8)}, …\n"
    assert scripted_daemon.asked[-1].body == {"model": "tiny", "input": "Good day"}
    assert json.loads(run("run", "tiny", "Good day", "--json").stdout) == answer


def test_run_of_a_reranker_says_how_to_ask(run: Run, scripted_daemon: ScriptedDaemon):
    scripted_daemon.answers[("GET", "/manage/v1/deployments/tiny")] = (200, CHAT | {"capabilities": ["rerank"]})
    done = run("run", "tiny", "Good day")
    assert done.exit_code == 1 and "/v1/rerank" in done.stderr


# --- runtimes and settings -------------------------------------------------------------------------------


def test_runtimes(run: Run, scripted_daemon: ScriptedDaemon):
    item = {"name": "llamacpp-cpu", "engine": "llamacpp", "state": "available", "description": "compiled here"}
    scripted_daemon.answers[("GET", "/manage/v1/runtimes")] = (200, {"items": [item]})
    scripted_daemon.answers[("DELETE", "/manage/v1/runtimes/llamacpp-cpu")] = (200, {})
    assert "○ available" in run("runtime", "list").stdout
    assert json.loads(run("runtime", "list", "--json").stdout) == {"items": [item]}
    assert json.loads(run("runtime", "remove", "llamacpp-cpu", "--json").stdout) == {"removed": "llamacpp-cpu"}


def test_config_tells_value_source_and_meaning_and_hides_keys(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "settings.toml").write_text("port = 9000\napi_key = 'hush'\n", encoding="utf-8")
    monkeypatch.setenv("PILOTHOUSE_QUEUE_LIMIT", "9")
    done = run("config", "--json")
    items = {item["key"]: item for item in json.loads(done.stdout)["items"]}
    assert (items["port"]["value"], items["port"]["source"]) == (9000, "file")
    assert (items["queue_limit"]["value"], items["queue_limit"]["source"]) == (9, "environment")
    assert items["api_key"]["value"] == "•••" and items["management_key"]["value"] == ""
    text = run("config").stdout
    assert "hush" not in done.stdout + text and all(item["meaning"] in text for item in items.values())


def test_a_broken_settings_file_is_explained(run: Run, tmp_path: Path):
    (tmp_path / "settings.toml").write_text("port = 'many'\n", encoding="utf-8")
    for command in (["config"], ["models"], ["serve"]):
        done = run(*command)
        assert done.exit_code == 1 and "setting port" in done.stderr


def test_the_management_key_is_sent(run: Run, scripted_daemon: ScriptedDaemon, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PILOTHOUSE_MANAGEMENT_KEY", "captain")
    scripted_daemon.answers[("GET", "/manage/v1/models")] = (200, {"items": []})
    run("models")
    assert scripted_daemon.asked[-1].headers["authorization"] == "Bearer captain"


# --- the program -----------------------------------------------------------------------------------------


def test_wrong_usage_ends_with_2(run: Run):
    for words in (["nonsense"], ["pull"], ["serve", "--log-level", "loud"], ["run", "x", "--sample", "-1"]):
        assert run(*words).exit_code == 2


def test_without_a_display_the_window_is_refused_with_the_reason(run: Run, monkeypatch: pytest.MonkeyPatch):
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "QT_QPA_PLATFORM"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("sys.platform", "linux")
    done = run()
    assert done.exit_code == 1 and "there is no display" in done.stderr
