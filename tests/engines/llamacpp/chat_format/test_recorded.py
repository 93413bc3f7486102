"""Answers of real models, from llama.cpp's own tests: each is read as they read it, however it is cut."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from engines.llamacpp.chat_format import AnswerParser, ChatFormat, Prepared
from engines.protocol import Grammar
from tests.support.answers import read, refusal

pytestmark = pytest.mark.slow

RECORDED = json.loads((Path(__file__).parent / "recorded.json").read_text("utf-8"))
CASES = RECORDED["cases"]
#: What a grammar of ours does not allow, though it is read: (template, part of the answer, choice) and why.
REFUSED = {
    ("inclusionai-ling-3.0-flash.jinja", "The time has been checked.", "auto"): "calls end an answer",
    (
        "Qwen3.5-4B.jinja",
        "\n\nLet me inspect the current directory.",
        "required",
    ): "text before a call that is required",
    ("openbmb-MiniCPM5-1B.jinja", "</param>]]>", "auto"): "the tag that ends a value, in the value",
}


@cache
def chat_format(path: Path) -> ChatFormat:
    return ChatFormat(path.read_text("utf-8"), "", "")


def prepare(llama_sources: Path, case: dict[str, Any]) -> Prepared:
    messages: list[dict[str, Any]] = [{"role": "user", "content": "Hey there!"}]
    if begun := case.get("continued"):
        last = {"role": "assistant", "content": begun["content"], "reasoning_content": begun["reasoning"]}
        messages.append(last)
    return chat_format(llama_sources / "models" / "templates" / case["template"]).prepare(
        messages,
        tools=[{"type": "function", "function": RECORDED["tools"][name]} for name in case["tools"]],
        tool_choice=case.get("tool_choice", "auto"),
        variables=case.get("variables", {}),
        grammar=Grammar("json_schema", case["schema"]) if "schema" in case else None,
        continue_final="continued" in case,
    )


def arguments(text: str) -> Any:
    return json.loads(text or "{}")


def check(parser: AnswerParser | None, case: dict[str, Any], pieces: list[str]) -> None:
    answer = read(parser, pieces)
    begun, wanted = case.get("continued", {"content": "", "reasoning": ""}), case["expect"]
    assert (begun["content"] + answer.content).strip() == wanted.get("content", "").strip()
    assert (begun["reasoning"] + answer.reasoning).strip() == wanted.get("reasoning", "").strip()
    calls = wanted.get("calls", [])
    assert [name for name, _, _ in answer.calls] == [name for name, _, _ in calls]
    for (_, got, got_id), (_, text, id) in zip(answer.calls, calls, strict=True):
        assert id in ("", got_id)
        assert case.get("partial") or arguments(got) == arguments(text)


@pytest.mark.parametrize("index", range(len(CASES)), ids=lambda i: f"{CASES[i]['template']}-{i}")
def test_recorded(llama_sources: Path, index: int) -> None:
    case = CASES[index]
    text = case["input"]
    for size in (1, 2, 3, 7, len(text)):
        prepared = prepare(llama_sources, case)
        check(prepared.parser, case, [text[at : at + size] for at in range(0, len(text), size)])
    if prepared.grammar and not case.get("partial") and "continued" not in case:
        choice = case.get("tool_choice", "auto")
        expected = any(t == case["template"] and part in text and c == choice for t, part, c in REFUSED)
        assert bool(refusal(prepared.grammar, text.rstrip())) == expected, refusal(prepared.grammar, text)
