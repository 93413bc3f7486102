"""Deployments of a language model with its parts, and what is kept for its next start: echo workers, a real daemon."""

from tests.support.daemon import until

ROUTE = "/manage/v1/deployments/echo"


def deploy(daemon, echo_model, **spec):
    daemon.pull(echo_model(kind="language"))
    daemon.pull(echo_model("pirate"))
    state = daemon.deploy("echo", **spec)
    assert state["state"] == "ready", state["error"]
    return state


def chat(daemon, model, text):
    body = {"model": model, "messages": [{"role": "user", "content": text}]}
    return daemon.http.post("/v1/chat/completions", json=body)


def test_an_adapter_is_chosen_by_name_and_its_model_cannot_be_removed(daemon, echo_model):
    state = deploy(daemon, echo_model, adapters={"arr": "pirate"}, settings={"n_ctx": 300, "sequences": 2})
    assert (state["adapters"], state["context_tokens"], state["sequences"]) == (["arr"], 300, 2)
    assert state["spec"]["adapters"] == {"arr": "pirate@1"}
    assert {"completion", "embedding"} <= set(state["capabilities"])
    assert state["pooling"] == "rank"
    assert chat(daemon, "echo:arr", "hello").status_code == 200
    assert chat(daemon, "echo:grr", "hello").status_code == 404
    refused = daemon.http.delete("/manage/v1/models/pirate")
    assert refused.status_code == 409 and "deployed as echo" in refused.text


def test_a_declaration_that_cannot_be_names_its_field(daemon, echo_model):
    daemon.pull(echo_model(kind="language"))
    for more, field in (
        ({"adapters": {"a": "nobody"}}, "adapters.a"),
        ({"draft": "nobody"}, "draft"),
        ({"settings": {"cache_type_k": "q3"}}, "settings.cache_type_k"),
        ({"settings": {"speculative": "draft"}}, "settings.speculative"),
    ):
        answer = daemon.http.put(ROUTE, json={"model": "echo", **more})
        assert answer.status_code in (400, 404)
        assert answer.json()["error"]["details"]["field"] == field
    assert daemon.get("/manage/v1/deployments")["items"] == []


def test_what_a_model_computed_is_kept_over_undeploy_and_restart_and_goes_with_it(daemon, echo_model):
    deploy(daemon, echo_model)
    prefixes = daemon.data_dir / "prefixes"
    [folder] = prefixes.iterdir()
    assert chat(daemon, "echo", "first").status_code == 200
    assert daemon.http.delete(ROUTE).status_code == 200
    assert (folder / "said").read_text() == "first"
    deploy(daemon, echo_model)
    assert chat(daemon, "echo", "second").status_code == 200
    assert daemon.stop() == 0
    assert (folder / "said").read_text() == "second"
    daemon.start()
    assert daemon.http.delete(ROUTE).status_code == 200
    assert daemon.http.delete("/manage/v1/models/echo").status_code == 200
    assert not folder.exists()


def test_nothing_is_kept_where_that_was_said(daemon, echo_model):
    deploy(daemon, echo_model, settings={"prefix_disk_mb": 0})
    assert list((daemon.data_dir / "prefixes").iterdir()) == []


def test_how_requests_ended_is_counted(daemon, echo_model):
    deploy(daemon, echo_model)
    assert chat(daemon, "echo", "one two").status_code == 200
    body = {"model": "echo", "prompt": "one two three", "max_tokens": 1}
    assert daemon.http.post("/v1/completions", json=body).status_code == 200
    page = until(lambda: (text := daemon.http.get("/metrics").text) and "vllm:request_success_total" in text and text)
    for reason in ("stop", "length"):
        assert f'success_total{{model_name="echo",engine="echo",finished_reason="{reason}"}} 1' in page
