"""Whatever JSON a client sends: it is taken, or refused by name. Never anything else."""

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.api import structured, tools
from app.api.messages import canonical
from app.api.openai.completions import prompts
from app.api.openai.embeddings import inputs
from app.api.sampling import sampling
from app.errors import InvalidInput
from engines.protocol import Generate, Sampling, frame

_KEYS = (
    "type role content text image_url url tool_calls function function_call name arguments id parameters properties "
    "items anyOf required enum schema json_schema json regex choice grammar mode tools allowed_tools $defs"
)
_WORDS = (
    "user assistant system tool text image_url function object string array json_object json_schema allowed_tools "
    "required auto data:image/png;base64,AAAA http://a/b f"
)
KEYS, WORDS = st.sampled_from(_KEYS.split()), st.sampled_from(_WORDS.split())
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False) | WORDS | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS | st.text(max_size=3), inner, max_size=4),
    max_leaves=25,
)


def attempt(call, *args):
    try:
        return call(*args)
    except InvalidInput as error:
        assert error.field
        assert error.message
        return None


@given(st.lists(JSON, max_size=3))
def test_messages(value):
    if (made := attempt(canonical, value)) is not None:
        messages, _ = made
        assert len(messages) == len(value)
        assert {message["role"] for message in messages} <= {"system", "user", "assistant", "tool"}
        assert frame(Generate(0, messages=messages))


@given(JSON, JSON)
def test_tools_and_the_choice_among_them(offered, choice):
    checked = attempt(tools.tools, offered) or []
    chosen = attempt(tools.choice, choice, checked)
    if chosen is not None:
        name, left = chosen
        assert name in ("none", "auto", "required") or name.removeprefix("function:") in {
            tool["function"]["name"] for tool in checked
        }
        assert all(tool in checked for tool in left)


@given(st.dictionaries(KEYS, JSON, max_size=3), JSON, JSON, st.dictionaries(KEYS, JSON, max_size=2))
def test_structured_output(response_format, guided, choices, outputs):
    fields = {
        "response_format": response_format,
        "guided_json": guided,
        "guided_choice": choices,
        "structured_outputs": outputs,
    }
    for name, value in fields.items():
        made = attempt(structured.grammar, {name: value})
        assert made is None or made.kind in ("json_schema", "json_object", "regex", "choice", "gbnf", "lark")


@given(JSON)
def test_prompts_and_inputs(value):
    if isinstance(value, (str, list)):
        attempt(prompts, value)
        attempt(inputs, value)


@given(st.dictionaries(st.sampled_from([*Sampling.__struct_fields__, "repetition_penalty", "typ_p"]), JSON))
def test_sampling(fields):
    if (made := attempt(sampling, fields)) is not None:
        assert msgspec.msgpack.decode(msgspec.msgpack.encode(made), type=Sampling) == made


@pytest.mark.parametrize(
    ("call", "field"),
    [
        (lambda deep: tools.tools([{"function": {"name": "f", "parameters": {"default": deep}}}]), "tools[0].function"),
        (lambda deep: structured.schema({"enum": [deep]}, "guided_json"), "guided_json"),
        (lambda deep: structured.schema({"not": deep}, "guided_json"), "guided_json"),
        (
            lambda deep: canonical([{"role": "assistant", "function_call": {"name": "f", "arguments": deep}}]),
            "messages",
        ),
    ],
)
def test_what_is_nested_without_end_is_refused(call, field):
    deep = json.loads('{"not": ' * 900 + "{}" + "}" * 900)
    with pytest.raises(InvalidInput) as caught:
        call(deep)
    assert caught.value.field.startswith(field)
    assert "nested" in caught.value.message
