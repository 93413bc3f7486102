"""Chat templates of our own, one for each way to write calls; none is a known family's."""

_HEAD = """{% if tools %}<sys>{{ tools | tojson }}</sys>{% endif %}{% for m in messages %}<turn:{{ m.role }}>"""
_THINK = (
    """{% if m.reasoning_content %}<ponder>\n{{ m.reasoning_content }}\n</ponder>\n\n{% endif %}{{ m.content or '' }}"""
)
_TAIL = (
    """<end>\n{% endfor %}{% if add_generation_prompt %}<turn:assistant>"""
    """{% if enable_thinking is defined and not enable_thinking %}<ponder>\n\n</ponder>\n\n{% endif %}{% endif %}"""
)


def _template(calls: str) -> str:
    return _HEAD + _THINK + "{% if m.tool_calls %}" + calls + "{% endif %}" + _TAIL


_EACH = "{% for c in m.tool_calls %}{% set f = c.function %}"
_ITEMS = "{% for k, v in f.arguments.items() %}"
_VALUE = "{{ v if v is string else v | tojson }}"

TEMPLATES = {
    "JSON in tags": _template(
        _EACH + '\n<call>\n{"tool": "{{ f.name }}", "with": {{ f.arguments | tojson }}}\n</call>{% endfor %}'
    ),
    "JSON array": _template(
        "[[CALLS]][{% for c in m.tool_calls %}"
        '{"id": "{{ c.id }}", "name": "{{ c.function.name }}", "args": {{ c.function.arguments | tojson }}}'
        "{{ ', ' if not loop.last }}{% endfor %}]"
    ),
    "JSON, id last": _template(
        "<calls>[{% for c in m.tool_calls %}"
        '{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}, "id": "{{ c.id }}"}'
        "{{ ', ' if not loop.last }}{% endfor %}]</calls>"
    ),
    "JSON, the name a key": _template(
        "<calls>[{% for c in m.tool_calls %}"
        '{"{{ c.function.name }}": {{ c.function.arguments | tojson }}}{{ ", " if not loop.last }}{% endfor %}]</calls>'
    ),
    "JSON in OpenAI's wrapper": _template(
        _EACH + '<call>{"id": "{{ c.id }}", "function": {"name": "{{ f.name }}",'
        ' "arguments": {{ f.arguments | tojson }}}}</call>{% endfor %}'
    ),
    "name and JSON": _template(_EACH + "<do={{ f.name }}>{{ f.arguments | tojson }}</do>{% endfor %}"),
    "id, name and JSON": _template(
        "<calls>" + _EACH + "<call id={{ c.id }}><name>{{ f.name }}<args>{{ f.arguments | tojson }}</call>{% endfor %}"
        "</calls>"
    ),
    "numbered": _template(
        _EACH + '<call nr="{{ loop.index }}" tool="{{ f.name }}">{{ f.arguments | tojson }}</call>{% endfor %}'
    ),
    "tags": _template(
        _EACH
        + "\n<call>\n<tool={{ f.name }}>\n"
        + _ITEMS
        + "<arg={{ k }}>\n"
        + _VALUE
        + "\n</arg>\n{% endfor %}</tool>\n</call>{% endfor %}"
    ),
    "tags with types": _template(
        "<calls>\n"
        + _EACH
        + '<run name="{{ f.name }}">\n'
        + _ITEMS
        + "<p name=\"{{ k }}\" text=\"{{ 'yes' if v is string else 'no' }}\">"
        + _VALUE
        + "</p>\n{% endfor %}</run>\n{% endfor %}</calls>"
    ),
    "keys and values": _template(
        _EACH + "<call>{{ f.name }}\n" + _ITEMS + "<k>{{ k }}</k><v>" + _VALUE + "</v>\n{% endfor %}</call>{% endfor %}"
    ),
    "Python": _template(
        "<py>[{% for c in m.tool_calls %}{{ c.function.name }}({% for k, v in c.function.arguments.items() %}"
        "{{ k }}={{ v | tojson }}{{ ', ' if not loop.last }}{% endfor %}){{ ', ' if not loop.last }}{% endfor %}]</py>"
    ),
}
#: As small instruct models had them before tools.
PLAIN = (
    "{% for m in messages %}<turn:{{ m.role }}>{{ m.content }}<end>\n{% endfor %}"
    "{% if add_generation_prompt %}<turn:assistant>{% endif %}"
)
