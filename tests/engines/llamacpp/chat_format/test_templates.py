"""Every template that llama.cpp ships: the calls it renders are read back as they were, and its grammar allows them."""

import re
import time
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from engines.llamacpp.chat_format import ChatFormat
from engines.llamacpp.chat_format.analysis import analyse
from engines.llamacpp.chat_format.messages import adapt, check
from engines.llamacpp.chat_format.probe import probe_capabilities
from engines.llamacpp.chat_format.reader import cores
from engines.llamacpp.chat_template import JinjaTemplate
from tests.support.answers import read, refusal
from tests.support.tools import CALLS, TOOLS

pytestmark = pytest.mark.slow

TEMPLATES = [
    "Apertus-8B-Instruct",
    "Apriel-1.6-15b-Thinker-fixed",
    "Bielik-11B-v3.0-Instruct",
    "ByteDance-Seed-OSS",
    "Cohere2MoE",
    "CohereForAI-c4ai-command-r-plus-tool_use",
    "CohereForAI-c4ai-command-r7b-12-2024-tool_use",
    "GLM-4.6",
    "GLM-4.7-Flash",
    "GigaChat3-10B-A1.8B",
    "GigaChat3.1-10B-A1.8B",
    "HuggingFaceTB-SmolLM3-3B",
    "Kimi-K2-Instruct",
    "Kimi-K2-Thinking",
    "Kimi-K3",
    "LFM2-8B-A1B",
    "LFM2.5-8B-A1B",
    "LFM2.5-Instruct",
    "MiMo-VL",
    "MiniMax-M1",
    "MiniMax-M2",
    "MiniMax-M3",
    "Mistral-Small-3.2-24B-Instruct-2506",
    "NVIDIA-Nemotron-3-Nano-30B-A3B-BF16",
    "NVIDIA-Nemotron-Nano-v2",
    "NousResearch-Hermes-2-Pro-Llama-3-8B-tool_use",
    "NousResearch-Hermes-3-Llama-3.1-8B-tool_use",
    "Qwen-QwQ-32B",
    "Qwen-Qwen2.5-7B-Instruct",
    "Qwen-Qwen3-0.6B",
    "Qwen3-Coder",
    "Qwen3.5-4B",
    "Reka-Edge",
    "Spark2.5",
    "StepFun3.5-Flash",
    "deepseek-ai-DeepSeek-R1-Distill-Llama-8B",
    "deepseek-ai-DeepSeek-R1-Distill-Qwen-32B",
    "deepseek-ai-DeepSeek-V3.1",
    "deepseek-ai-DeepSeek-V3.2",
    "deepseek-ai-DeepSeek-V4-Flash-0731",
    "deepseek-ai-DeepSeek-V4",
    "fireworks-ai-llama-3-firefunction-v2",
    "google-gemma-2-2b-it",
    "google-gemma-4-31B-it-interleaved",
    "google-gemma-4-31B-it",
    "ibm-granite-granite-3.3-2B-Instruct",
    "ibm-granite-granite-4.0",
    "ibm-granite-granite-4.1",
    "inclusionai-ling-3.0-flash",
    "llama-cpp-deepseek-r1",
    "llama-cpp-rwkv-world",
    "meetkai-functionary-medium-v3.1",
    "meetkai-functionary-medium-v3.2",
    "meta-llama-Llama-3.1-8B-Instruct",
    "meta-llama-Llama-3.2-3B-Instruct",
    "meta-llama-Llama-3.3-70B-Instruct",
    "microsoft-Phi-3.5-mini-instruct",
    "mistralai-Ministral-3-14B-Reasoning-2512",
    "mistralai-Mistral-Nemo-Instruct-2407",
    "moonshotai-Kimi-K2",
    "muse-glimmer",
    "openai-gpt-oss-120b",
    "openbmb-MiniCPM5-1B",
    "poolside-Laguna-S-2.1",
    "poolside-Laguna-XS-2.1",
    "poolside-Laguna-XS.2",
    "tencent-Hy3",
    "unsloth-Apriel-1.5",
    "unsloth-mistral-Devstral-Small-2507",
    "upstage-Solar-Open-100B",
]
#: Templates that know no calls: tools are described in words, and the answer is plain JSON.
WITHOUT_CALLS = {
    "HuggingFaceTB-SmolLM3-3B",
    "google-gemma-2-2b-it",
    "llama-cpp-rwkv-world",
    "microsoft-Phi-3.5-mini-instruct",
}
#: They describe tools, and leave the calls of a conversation out of the prompt: nothing to read back.
WITHOUT_HISTORY = {"LFM2-8B-A1B", "LFM2.5-Instruct", "ibm-granite-granite-3.3-2B-Instruct"}
#: Thinking that no rendering shows, or none at all, is looked for in other ways; these have it.
THINKING = {
    "Bielik-11B-v3.0-Instruct": ("<think>", "</think>"),
    "Qwen-Qwen3-0.6B": ("<think>", "</think>"),
    "Qwen-QwQ-32B": ("<think>", "</think>"),
    "ByteDance-Seed-OSS": ("<seed:think>", "</seed:think>"),
    "Cohere2MoE": ("<|START_THINKING|>", "<|END_THINKING|>"),
    "Kimi-K3": ("<|open|>think<|sep|>", "<|close|>think<|sep|>"),
    "google-gemma-4-31B-it": ("<|channel>thought", "<channel|>"),
    "mistralai-Ministral-3-14B-Reasoning-2512": ("[THINK]", "[/THINK]"),
    "muse-glimmer": ("to=self<|message|>", "<|eom|>"),
    "tencent-Hy3": ("<think:opensource>", "</think:opensource>"),
    "Apriel-1.6-15b-Thinker-fixed": ("", "[BEGIN FINAL RESPONSE]"),
    "upstage-Solar-Open-100B": ("<|think|>", "<|end|>"),
}
#: What the template renders is not what its model may write: Python where the schema says JSON, text that is not
#: escaped, the section closed after each call.
NOT_WRITTEN = {
    "Reka-Edge": "letters as escapes",
    "ByteDance-Seed-OSS": "lists as Python",
    "openbmb-MiniCPM5-1B": "lists as Python",
    "LFM2.5-8B-A1B": "line breaks in quotes",
    "deepseek-ai-DeepSeek-R1-Distill-Llama-8B": "one call does not close the section, each further one the turn",
}


@cache
def chat_format(root: Path, name: str) -> ChatFormat:
    return ChatFormat((root / "models" / "templates" / f"{name}.jinja").read_text("utf-8"), "", "")


def rendered(form: ChatFormat, calls: list[tuple[str, dict[str, Any]]]) -> str:
    """What the template writes after a question: an answer of ``calls``, and what ends a turn."""
    written = [
        {
            "id": f"functions.{name}:{at}" if "functions." in form.template else f"call0000{at}",
            "type": "function",
            "function": {"name": name, "arguments": arguments},
        }
        for at, (name, arguments) in enumerate(calls)
    ]
    question = {"role": "user", "content": "Zq question."}
    answer = {"role": "assistant", "content": "", "tool_calls": written}
    template = JinjaTemplate(form.template)
    messages = adapt(check([question, answer], False), probe_capabilities(template), form.template)
    text = template.render(messages, TOOLS, {"enable_thinking": True}, False)
    return text[text.rfind("Zq question.") :]


def body(form: ChatFormat, calls: list[tuple[str, dict[str, Any]]]) -> str:
    """From the first marker of the calls to the end of the last one."""
    text = rendered(form, calls).partition("<|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|>Write")[0]
    syntax = form.syntax.calls
    if form.template.count("<|channel|>"):  # gpt-oss
        return text[text.find(" to=functions") :]
    assert syntax
    found = re.search(r"\s*".join(map(re.escape, cores(syntax.opening))) or "{", text)
    assert found, text
    begin = found.start()
    closing = cores(syntax.end)
    closing = closing if closing and closing[-1] in text else cores(syntax.call_end)
    end = text.rfind(closing[-1]) + len(closing[-1]) if closing else max(text.rfind("}"), text.rfind("]")) + 1
    return text[begin:end]


def test_all_templates_are_here(llama_sources: Path) -> None:
    assert sorted(TEMPLATES) == sorted(path.stem for path in (llama_sources / "models/templates").glob("*.jinja"))


@pytest.mark.parametrize("name", [n for n in TEMPLATES if n not in WITHOUT_CALLS | WITHOUT_HISTORY])
def test_calls_are_read_back(llama_sources: Path, name: str) -> None:
    form = chat_format(llama_sources, name)
    one_by_one = [[call] for call in CALLS]
    parallel = form.syntax.calls is not None and form.syntax.calls.parallel and "turn" not in NOT_WRITTEN.get(name, "")
    for calls in [*one_by_one, CALLS] if parallel else one_by_one:
        text = body(form, calls)
        for choice in ("auto", "required"):
            for size in (1, 3, len(text)):
                prepared = form.prepare([{"role": "user", "content": "Hi"}], tools=TOOLS, tool_choice=choice)
                thinking = form.syntax.thinking
                opened = thinking and not form.syntax.prefix and _opened(prepared.text, thinking.start, thinking.end)
                whole = (thinking.end if thinking and opened else "") + text.removeprefix(form.syntax.prefix)
                answer = read(prepared.parser, (whole[at : at + size] for at in range(0, len(whole), size)))
                if "line breaks" not in NOT_WRITTEN.get(name, ""):
                    assert answer.decoded == calls
                assert (answer.content.strip(), answer.reasoning) == ("", "")
            if name not in NOT_WRITTEN and prepared.grammar:
                assert refusal(prepared.grammar, whole) == ""


def _opened(prompt: str, start: str, end: str) -> bool:
    prompt = prompt.rstrip()
    return prompt.endswith(start) if start else not prompt.endswith(end)


@pytest.mark.parametrize("name", TEMPLATES)
def test_reasoning_and_content_are_told_apart(llama_sources: Path, name: str) -> None:
    form = chat_format(llama_sources, name)
    if name in THINKING:
        assert form.syntax.thinking
        assert (form.syntax.thinking.start, form.syntax.thinking.end) == THINKING[name]
    prepared = form.prepare([{"role": "user", "content": "Hi"}], tools=TOOLS)
    thinking = form.syntax.thinking
    assert prepared.parser
    if thinking is None or "gpt-oss" in name:
        return
    start = "" if _opened(prepared.text, thinking.start, thinking.end) else thinking.start
    answer = read(prepared.parser, f"{start}\nWell, <b> it is.\n{thinking.end}\n\nHi [there] {{you}}!")
    assert (answer.reasoning, answer.content) == ("Well, <b> it is.", "Hi [there] {you}!")


@pytest.mark.parametrize("name", TEMPLATES)
def test_analysis_is_quick(llama_sources: Path, name: str) -> None:
    text = (llama_sources / "models" / "templates" / f"{name}.jinja").read_text("utf-8")
    begun = time.process_time()
    template = JinjaTemplate(text)
    analyse(template, probe_capabilities(template))
    assert time.process_time() - begun < 1.0


@pytest.mark.parametrize("name", sorted(WITHOUT_CALLS))
def test_tools_without_a_template_for_them(llama_sources: Path, name: str) -> None:
    prepared = chat_format(llama_sources, name).prepare([{"role": "user", "content": "Hi"}], tools=TOOLS)
    assert "get_time" in prepared.text
    text = '{"tool_calls": [{"name": "get_time", "arguments": {"city": "Rome"}}]}'
    assert refusal(prepared.grammar, text) == "" or "think" in prepared.text[-20:]
    begun = "</think>" if prepared.text.rstrip().endswith("<think>") else ""
    assert read(prepared.parser, begun + text).decoded == [("get_time", {"city": "Rome"})]
