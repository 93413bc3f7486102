"""Rendering the templates that models carry."""

import jinja2
import pytest

from engines.llamacpp.chat_template import CHATML, RENDER_ERRORS, JinjaTemplate

USER = {"role": "user", "content": "Hi"}

# The shape of Gemma's own template: it begins with the special token, renames a role and refuses a wrong order.
ALTERNATING = """{{ bos_token }}{% for message in messages %}
{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
{{ raise_exception("Conversation roles must alternate") }}
{% endif %}
{{ '<turn>' + ('model' if message['role'] == 'assistant' else message['role']) }}
{{ message['content'] | trim }}<end>
{% endfor %}{% if add_generation_prompt %}<turn>model
{% endif %}"""


def test_a_conversation() -> None:
    template = JinjaTemplate(ALTERNATING, "<bos>", "<eos>")
    messages = [
        {"role": "user", "content": " Hi "},
        {"role": "assistant", "content": "Hello"},
        {"role": "user", "content": "Bye"},
    ]
    begun = "<bos><turn>user\nHi<end>\n<turn>model\nHello<end>\n<turn>user\nBye<end>\n"
    assert template.render(messages) == begun + "<turn>model\n"
    assert template.render(messages, generation_prompt=False) == begun


def test_what_is_no_template() -> None:
    with pytest.raises(jinja2.TemplateError):
        JinjaTemplate("{% for %}")


@pytest.mark.parametrize(
    "text",
    [
        "{{ messages.__class__.__mro__[1].__subclasses__() }}",
        "{% for i in range(99999) %}{% for j in range(99999) %}x{% endfor %}{% endfor %}",
        "{{ 'x' * 99999999 }}",
        "{{ 9 ** 9 ** 9 }}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{{ raise_exception('no') }}",
    ],
)
def test_a_template_that_reaches_out_or_would_not_end(text: str) -> None:
    with pytest.raises(RENDER_ERRORS):
        JinjaTemplate(text).render([USER])


def test_braces_in_a_message_are_only_text() -> None:
    assert "{{ 7 * 7 }}" in JinjaTemplate(CHATML).render([{"role": "user", "content": "{{ 7 * 7 }}"}])


def test_what_transformers_renders_besides_jinja() -> None:
    template = JinjaTemplate(
        "{% generation %}{{ messages[0]['n'] | tojson(ensure_ascii=True) }}{% endgeneration %}"
        "{% for i in [1, 2] %}{% break %}{% endfor %}{{ messages | map(attribute='n') | tojson }}"
        "{{ strftime_now('%Y') | length }}{{ '[1]' | from_json | first }}{{ tools is defined }}"
    )
    assert template.render([{"n": "é"}]) == '"\\u00e9"["é"]41False'
