"""The syntax of calls, from a template's own rendering of them: as JSON that decodes to the arguments that were put in,
or as words between tags."""

import json
import re
from dataclasses import replace
from typing import Any

from engines.llamacpp.chat_format.probe import (
    CONTENT,
    FIRST,
    ID_1,
    ID_2,
    KEY_1,
    KEY_2,
    SECOND,
    USER_MESSAGE,
    VALUE_1,
    VALUE_2,
    Probe,
    common_prefix,
    common_suffix,
)
from engines.llamacpp.chat_format.reader import cores
from engines.llamacpp.chat_format.syntax import (
    Calls,
    Elements,
    Hole,
    JsonCall,
    LooseDict,
    PythonCall,
    TagCall,
    Tagged,
    Thinking,
)
from engines.llamacpp.chat_format.thinking_analysis import content_wrapper


def find_calls(probe: Probe, thinking: Thinking | None = None) -> Calls | None:
    """The syntax of calls, from the template's own rendering of them."""
    arguments = {KEY_1: VALUE_1, KEY_2: VALUE_2}
    one = _turn(probe, thinking, (FIRST, arguments, ID_1))
    if one is None:
        return None
    two = _turn(probe, thinking, (FIRST, arguments, ID_1), (SECOND, arguments, ID_2)) if probe.can.parallel else None
    if two is not None and (SECOND not in two or two.count(VALUE_1) != 2):
        two = None
    if FIRST not in one and ID_1 in one:
        return _calls_named_by_id(probe, thinking)
    if _json_at(one, arguments, FIRST) is not None:
        return _json_calls(one, two, arguments)
    if re.search(re.escape(FIRST) + r"\(\s*" + KEY_1 + "=", one):
        return _python_calls(one)
    return _tag_calls(probe, thinking, one, two)


def described_calls(probe: Probe) -> Calls | None:
    """Templates that describe tools but write no calls: known words of their descriptions."""
    text = probe.render(USER_MESSAGE) or ""
    if "List of tools: " in text:
        start, end = "<|tool_call_start|>", "<|tool_call_end|>"
        return Calls(PythonCall(), start=start, end=end, separator=",", array=True)
    if "<|tool_call|> followed by a JSON list" in text:
        return Calls(JsonCall("name", "arguments"), start="<|tool_call|>", separator=",", array=True)
    if re.search(r"<tool_call>\s*{\s*.name", text):
        return Calls(JsonCall("name", "arguments"), call_start="<tool_call>\n", call_end="\n</tool_call>")
    return None


def _turn(probe: Probe, thinking: Thinking | None, *calls: tuple[str, dict[str, Any], str]) -> str | None:
    """What the template writes for an assistant's turn that only calls: after what begins every turn, before what
    ends it."""
    message = probe.calls(*calls)
    shown = probe.render(USER_MESSAGE, message)
    plain = probe.render(USER_MESSAGE, {"role": "assistant", "content": CONTENT})
    base = probe.render(USER_MESSAGE)
    if shown is None or base is None:
        return None
    begin = len(common_prefix(shown, base))
    prompted = base + probe.can.generation_prompt
    if shown.startswith(prompted):
        begin = len(prompted)
    elif plain is not None:
        begin = len(common_prefix(shown, plain[: plain.rfind(CONTENT)] if CONTENT in plain else plain))
    text = shown[begin:]
    if thinking and thinking.end:
        first = min((at for name in (FIRST, ID_1, KEY_1) if (at := text.find(name)) >= 0), default=0)
        cut = text.rfind(thinking.end, 0, first)
        if cut >= 0:
            text = text[cut + len(thinking.end) :]
    opened, closed = content_wrapper(probe, thinking)
    close = closed[0] if closed else ""
    if opened and text.startswith(opened + close):
        text = text[len(opened + close) :]
    if plain is not None and CONTENT in plain:
        ending = plain[plain.rfind(CONTENT) + len(CONTENT) :].removeprefix(close)
        if ending and text.endswith(ending):
            text = text[: -len(ending)]
        else:
            text = text[: len(text) - len(common_suffix(text, ending))]
    return text


def _json_at(text: str, arguments: dict[str, Any], name: str, begin: int = 0) -> tuple[int, int, Any] | None:
    """(start, end, value) of the outermost JSON in ``text`` that holds a call of ``name`` with ``arguments``."""
    decoder = json.JSONDecoder()
    for found in re.finditer(r"[{\[]", text[begin:]):
        start = begin + found.start()
        try:
            value, end = decoder.raw_decode(text, start)
        except ValueError:
            continue
        if _holds(value, arguments) and name in text[start:end]:
            return start, end, value
    return None


def _holds(value: Any, arguments: dict[str, Any]) -> bool:
    if value in (arguments, json.dumps(arguments)):
        return True
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return any(_holds(item, arguments) for item in inner)


def _json_calls(one: str, two: str | None, arguments: dict[str, Any]) -> Calls | None:
    found = _json_at(one, arguments, FIRST)
    assert found
    start, end, value = found
    array = isinstance(value, list)
    shape = _json_shape(value[0] if array else value, arguments)
    if shape is None:
        return None
    before, after = one[:start], one[end:]
    if array:
        return _stripped(Calls(shape, start=before, end=after, separator=",", array=True))
    if two is not None:
        first = _json_at(two, arguments, FIRST)
        second = _json_at(two, arguments, SECOND, first[1]) if first else None
        if first and second:
            pieces = _split(two[: first[0]], two[first[1] : second[0]], two[second[1] :])
            return _stripped(Calls(shape, *pieces))
    return _stripped(Calls(shape, start=before, end=after, parallel=False))


def _json_shape(call: Any, arguments: dict[str, Any]) -> JsonCall | None:
    if not isinstance(call, dict):
        return None
    if set(call) == {FIRST}:
        return JsonCall(name="")
    for key, value in call.items():
        if isinstance(value, dict) and value != arguments and _holds(value, arguments):
            inner = _json_shape(value, arguments)
            return replace(inner, wrapper=key, id=_key(call, ID_1)) if inner else None
    keys = list(call)
    name, wanted = _key(call, FIRST), next((k for k in keys if _holds({"": call[k]}, arguments)), "")
    if not name or not wanted:
        return None
    id = _key(call, ID_1) or next((key for key in keys if re.search(r"(^|_)id$", key)), "")
    return JsonCall(name, wanted, id, id_last=bool(id) and keys.index(id) > keys.index(wanted))


def _key(call: dict[str, Any], wanted: str) -> str:
    return next((key for key, value in call.items() if value == wanted), "")


def _split(before: str, between: str, after: str) -> tuple[str, str, str, str, str]:
    """(start, end, call_start, call_end, separator) from what stands before, between and after two calls."""
    call_end = common_prefix(between, after)
    rest = between[len(call_end) :]
    call_start = common_suffix(before, rest)
    separator = rest[: len(rest) - len(call_start)]
    return before[: len(before) - len(call_start)], after[len(call_end) :], call_start, call_end, separator


def _stripped(calls: Calls) -> Calls:
    # What closes the section; the rest ends the turn.
    count = max(1, len(cores(calls.start))) if calls.start.strip() else int(not calls.parallel)
    end = calls.end
    for extra in reversed(cores(calls.end)[count:]):
        end = end[: end.rfind(extra)]
    return replace(
        calls,
        start=calls.start.lstrip(),
        end=end.rstrip(),
        call_start=calls.call_start if calls.start.strip() else calls.call_start.lstrip(),
        separator=calls.separator if calls.separator.strip() else "",
    )


def _tag_calls(probe: Probe, thinking: Thinking | None, one: str, two: str | None) -> Calls | None:
    core = _tag_core(probe, thinking, one)
    if core is None:
        return None
    start, end, shape = core
    before, after = one[:start], one[end:]
    pieces: tuple[str, str, str, str, str] = (before, after, "", "", "")
    parallel = two is not None
    if two is not None:
        ends = _core_ends(two, one[start:end], shape)
        if ends is None:
            parallel = False
        else:
            (first_at, first_end), (second_at, second_end), shape = ends
            pieces = _split(two[:first_at], two[first_end:second_at], two[second_end:])
    opening, section_end, call_start, call_end, separator = pieces
    head = (call_start, *shape.head) if call_start else shape.head
    if not call_start.strip() and not opening.strip() and separator.strip():
        # What separates calls also opens the first one, where the prompt ends with it.
        if probe.can.generation_prompt.endswith(separator):
            head, separator = (separator, *shape.head), ""
        else:
            return None
    first = head[0] if isinstance(head[0], str) else ""
    tags = [part for part in re.split(r"\s*\n\s*", first.strip()) if part]
    skippable = tags[1] if len(tags) == 2 and tags[1].startswith("<") and shape.arguments is not None else ""
    if opening.strip().startswith("<|") and first.strip().startswith("<|"):
        skippable = first.strip()
    return _stripped(
        Calls(
            replace(shape, head=_named_ids(_lstrip_head(head, bool(opening.strip())))),
            start=opening,
            end=section_end,
            call_end=call_end,
            separator=separator,
            skippable=skippable,
            parallel=parallel,
        )
    )


def _lstrip_head(head: tuple[str | Hole, ...], inside: bool) -> tuple[str | Hole, ...]:
    first = head[0]
    return (first.lstrip(), *head[1:]) if isinstance(first, str) and not inside else head


def _named_ids(head: tuple[str | Hole, ...]) -> tuple[str | Hole, ...]:
    """``functions.`` name ``:`` number is an id that holds the name."""
    at = next((at for at, part in enumerate(head) if part == Hole("name")), -1)
    before, after = head[at - 1] if at > 0 else "", head[at + 1 : at + 3]
    if isinstance(before, str) and before.endswith("functions.") and after == (":", Hole("number")):
        opening = before.removesuffix("functions.")
        return (*head[: at - 1], *([opening] if opening else []), Hole("id", ("functions.", ":")), *head[at + 3 :])
    return head


def _tag_core(probe: Probe, thinking: Thinking | None, one: str) -> tuple[int, int, TagCall] | None:
    """(start, end, shape) of the part of a call from its first hole (name or id) to the end of its arguments."""
    arguments = {KEY_1: VALUE_1, KEY_2: VALUE_2}
    names = [found.start() for found in re.finditer(re.escape(FIRST), one)]
    if not names:
        return None
    plain = _plain_arguments(one, arguments, names[0])
    stop = plain[0] if plain else one.find(KEY_1)
    holes = sorted(
        [(at, len(FIRST), Hole("name")) for at in names if at < stop]
        + [(found.start(), len(ID_1), Hole("id")) for found in re.finditer(ID_1, one[:stop])]
    )
    if not holes:
        return None
    start = holes[0][0]
    lead = one.rfind("<", 0, start)
    if lead >= 0 and re.search(r"\d", one[lead:start]):
        start = lead  # calls that are numbered before they are named
    head: list[str | Hole] = []
    at = start
    for begin, length, hole in holes:
        if begin > at:
            head.append(one[at:begin])
        head.append(hole)
        at = begin + length
    if plain:
        return start, plain[1], TagCall(tuple(head), None, head_end=one[at : plain[0]])
    shown = _tagged_arguments(probe, thinking, one, at)
    if shown is None:
        return None
    shape, head_end, end = shown
    return start, end, TagCall(tuple(head), shape, head_end=head_end)


def _plain_arguments(text: str, arguments: dict[str, Any], begin: int) -> tuple[int, int] | None:
    """Where the arguments stand as a JSON object of their own."""
    decoder = json.JSONDecoder()
    for found in re.finditer(r"{", text[begin:]):
        try:
            value, end = decoder.raw_decode(text, begin + found.start())
        except ValueError:
            continue
        if value == arguments:
            return begin + found.start(), end
    return None


def _tagged_arguments(
    probe: Probe, thinking: Thinking | None, one: str, at: int
) -> tuple[Tagged | Elements | LooseDict, str, int] | None:
    """(shape, what stands before the first argument, end of the last argument)."""
    key_1, value_1 = one.find(KEY_1, at), one.find(VALUE_1, at)
    key_2, value_2 = one.find(KEY_2, max(value_1, 0)), one.find(VALUE_2, max(value_1, 0))
    if not 0 <= key_1 < value_1 < value_2:
        return None
    before = one[at:key_1]
    key_end = one[key_1 + len(KEY_1) : value_1]
    after = one[value_2 + len(VALUE_2) :]
    if before.endswith("{") and key_end.startswith(":"):
        quote = key_end[1:].strip()
        closing = after.find("}")
        return LooseDict(quote), before[:-1], len(one) - len(after) + closing + 1
    between = one[value_1 + len(VALUE_1) : key_2]
    if KEY_1 in between:
        prefix = between[: between.find("</")]
        end = after.find(">", after.find(KEY_2)) + 1
        opening = prefix + "<"
        return Elements(prefix), before.removesuffix(opening), len(one) - len(after) + end
    value_end = common_prefix(between, after)
    key_start = common_suffix(before, between[len(value_end) :])
    value_end = between[: len(between) - len(key_start)]
    if not value_end.strip() or not after.startswith(value_end.rstrip()):
        return None
    ends = {"string": key_end}
    for kind, value in (("integer", 7), ("boolean", True), ("array", [7]), ("object", {"zq": 7}), ("null", None)):
        shown = _turn(probe, thinking, (FIRST, {KEY_1: value}, ID_1))
        found = shown.rfind(KEY_1) if shown else -1
        if shown and found >= 0:
            written = json.dumps(value)
            tail = shown[found + len(KEY_1) :]
            close = cores(value_end)[0]
            cut = min((at for w in (written, str(value)) if (at := tail.find(w + close)) >= 0), default=-1)
            if cut < 0:
                cut = min((at for w in (written, str(value)) if (at := tail.find(w)) >= 0), default=-1)
            if cut >= 0:
                ends[kind] = tail[:cut]
    if "integer" in ends:
        ends["number"] = ends["integer"]
    json_strings = key_end.endswith('"') and ends.get("integer") == key_end[:-1]
    if json_strings:
        ends["string"] = key_end[:-1]
        value_end = value_end.removeprefix('"')
    if len({end.strip() for end in ends.values()}) == 1:
        ends = {"string": ends["string"]}
    consumed = len(value_end.rstrip()) if not after.startswith(value_end) else len(value_end)
    head_end = before.removesuffix(key_start)
    return Tagged(key_start, ends, value_end, json_strings), head_end, len(one) - len(after) + consumed


def _core_ends(two: str, core: str, shape: TagCall) -> tuple[tuple[int, int], tuple[int, int], TagCall] | None:
    """Where the cores of two calls stand, the first as it stood alone, the second with the other name and id; and the
    shape with the numbers that differ between them."""
    first = two.find(core)
    if first < 0:
        return None
    other = core.replace(FIRST, SECOND).replace(ID_1, ID_2)
    second = two.find(other, first + len(core))
    if second >= 0:
        return (first, first + len(core)), (second, second + len(other)), shape
    pattern = "".join(
        r"\d+" if part.isdigit() else re.escape(part) for part in re.split(f"({SECOND}|{ID_2}|\\d+)", other)
    )
    numbered = re.compile(pattern).search(two, first + len(core))
    if numbered is None:
        return None
    head: list[str | Hole] = []
    for part in (*shape.head, shape.head_end):
        if isinstance(part, Hole):
            head.append(part)
        else:
            head += [Hole("number") if piece.isdigit() else piece for piece in re.split(r"(\d+)", part) if piece]
    head_end = head.pop() if isinstance(head[-1], str) else ""
    assert isinstance(head_end, str)
    return (first, first + len(core)), numbered.span(), replace(shape, head=tuple(head), head_end=head_end)


def _calls_named_by_id(probe: Probe, thinking: Thinking | None) -> Calls | None:
    """Templates that write only the id of a call: it holds the name, as in ``functions.NAME:0``."""
    arguments = {KEY_1: VALUE_1}
    ids = f"functions.{FIRST}:0", f"functions.{SECOND}:1"
    two = _turn(probe, thinking, (FIRST, arguments, ids[0]), (SECOND, arguments, ids[1]))
    if two is None or ids[0] not in two or ids[1] not in two:
        return None
    places = []
    for id in ids:
        at = two.find(id)
        plain = _plain_arguments(two, arguments, at)
        if plain is None:
            return None
        places.append((at, at + len(id), *plain))
    first, second = places
    opening, end, call_start, call_end, separator = _split(two[: first[0]], two[first[3] : second[0]], two[second[3] :])
    head = (call_start, Hole("id", ("functions.", ":")))
    shape = TagCall(head, None, head_end=two[first[1] : first[2]])
    return _stripped(Calls(shape, start=opening, end=end, call_end=call_end, separator=separator))


def _python_calls(one: str) -> Calls:
    start = one.find(FIRST)
    before, after = one[:start], one[one.rfind(")") + 1 :]
    array = before.rstrip().endswith("[")
    if array:
        before, after = before.rstrip()[:-1], after.lstrip().removeprefix("]")
    return Calls(PythonCall(), start=before.lstrip(), end=after.rstrip(), separator=",", array=array)
