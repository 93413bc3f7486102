"""Messages to prompt text."""

import pytest

from engines.engine import EngineError
from engines.llamacpp.chat_template import ChatTemplate, JinjaTemplate

# The shape of Gemma's own template: it begins with the special token, renames a role and refuses a wrong order.
ALTERNATING = """{{ bos_token }}{% for message in messages %}
{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
{{ raise_exception("Conversation roles must alternate") }}
{% endif %}
{{ '<turn>' + ('model' if message['role'] == 'assistant' else message['role']) }}
{{ message['content'] | trim }}<end>
{% endfor %}{% if add_generation_prompt %}<turn>model
{% endif %}"""


def refused(template: ChatTemplate, messages: list) -> EngineError:
    with pytest.raises(EngineError) as caught:
        template.render(messages)
    assert (caught.value.code, caught.value.field) == ("invalid_input", "messages")
    return caught.value


def test_the_template_of_the_file() -> None:
    template = ChatTemplate(ALTERNATING, "<bos>", "<eos>")
    messages = [
        {"role": "user", "content": " Hi "},
        {"role": "assistant", "content": "Hello"},
        {"role": "user", "content": "Bye"},
    ]
    text, add_special = template.render(messages)
    assert text == "<bos><turn>user\nHi<end>\n<turn>model\nHello<end>\n<turn>user\nBye<end>\n<turn>model\n"
    assert not add_special
    assert (template.source, template.notes, template.stop) == ("gguf", [], [])


def test_chatml_stands_in_and_says_so() -> None:
    template = ChatTemplate(None, "<bos>", "<eos>")
    text, add_special = template.render([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}])
    assert text == ("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")
    assert add_special
    assert template.source == "chatml"
    assert "<|im_end|>" in template.stop
    assert "no chat template" in template.notes[0]


def test_a_broken_template_is_stood_in_for_and_said() -> None:
    template = ChatTemplate("{% for %}", "", "")
    assert template.source == "chatml"
    assert "broken" in template.notes[0]


def test_a_template_may_refuse_messages() -> None:
    template = ChatTemplate(ALTERNATING, "<bos>", "<eos>")
    assert "must alternate" in refused(template, [{"role": "assistant", "content": "Hi"}]).message


def test_text_parts_are_joined() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    text, _ = ChatTemplate(None, "", "").render([{"role": "user", "content": parts}])
    assert "user\nab<|im_end|>" in text


@pytest.mark.parametrize(
    "messages",
    [
        [],
        [{"content": "no role"}],
        [{"role": "user", "content": 5}],
        [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:"}}]}],
    ],
)
def test_messages_that_are_none(messages: list) -> None:
    refused(ChatTemplate(None, "", ""), messages)


def test_a_template_cannot_reach_out_of_its_sandbox() -> None:
    template = ChatTemplate("{{ messages.__class__.__mro__[1].__subclasses__() }}", "", "")
    refused(template, [{"role": "user", "content": "Hi"}])


def test_braces_in_a_message_are_only_text() -> None:
    text, _ = ChatTemplate(None, "", "").render([{"role": "user", "content": "{{ 7 * 7 }}"}])
    assert "{{ 7 * 7 }}" in text


@pytest.mark.parametrize(
    "text",
    [
        "{% for i in range(99999) %}{% for j in range(99999) %}x{% endfor %}{% endfor %}",
        "{{ 'x' * 99999999 }}",
        "{{ 9 ** 9 ** 9 }}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    ],
)
def test_a_template_that_would_not_end(text: str) -> None:
    refused(ChatTemplate(text, "", ""), [{"role": "user", "content": "Hi"}])


def test_what_transformers_renders_besides_jinja() -> None:
    template = JinjaTemplate(
        "{% generation %}{{ messages[0]['n'] | tojson(ensure_ascii=True) }}{% endgeneration %}"
        "{% for i in [1, 2] %}{% break %}{% endfor %}{{ messages | map(attribute='n') | tojson }}"
    )
    assert template.render([{"n": "é"}]) == '"\\u00e9"["é"]'
