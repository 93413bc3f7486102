"""The markers around reasoning and content, from a template's rendering of both."""

import re

from engines.llamacpp.chat_format.probe import (
    CONTENT,
    FIRST,
    ID_1,
    KEY_1,
    REASON,
    USER,
    USER_MESSAGE,
    VALUE_1,
    Probe,
    common_prefix,
)
from engines.llamacpp.chat_format.reader import cores
from engines.llamacpp.chat_format.syntax import Thinking


def find_thinking(probe: Probe) -> tuple[Thinking | None, str]:
    """The tags around reasoning, and what stands between reasoning and content besides."""
    reasoned = {"role": "assistant", "content": CONTENT, "reasoning_content": REASON}
    plain = probe.render(USER_MESSAGE, {"role": "assistant", "content": CONTENT}) or ""
    for message in (
        reasoned,
        {**reasoned, "thinking": REASON, "reasoning": REASON},
        probe.calls((FIRST, {KEY_1: VALUE_1}, ID_1), reasoning_content=REASON),
        probe.calls((FIRST, {KEY_1: VALUE_1}, ID_1), reasoning_content=REASON, thinking=REASON, reasoning=REASON),
    ):
        shown = probe.render(USER_MESSAGE, message)
        if shown is None or REASON not in shown:
            continue
        before, _, after = shown.rpartition(REASON)
        until = min((at for at in (after.find(CONTENT), after.find(FIRST)) if at >= 0), default=len(after))
        between = after[:until]
        prompted = (probe.render(USER_MESSAGE) or "") + probe.can.generation_prompt
        rest = before[len(prompted) :] if before.startswith(prompted) else ""
        start = rest if re.search(r"[<\[]", rest) else _last_marker(before)
        end = _first_marker(between)
        if not end:
            continue
        tail = plain[: plain.rfind(CONTENT)] if CONTENT in plain else ""
        if start and tail.rstrip().endswith(start.rstrip()) and end not in tail[tail.rfind(start.strip()) :]:
            start = ""  # it begins the turn, with or without reasoning
        return _thinking(start, end), between.strip().removeprefix(end) if CONTENT in after else ""
    return _thinking_from_prompt(probe), ""


def _thinking(start: str, end: str) -> Thinking:
    return Thinking(start.strip(), end.strip(), anywhere="|" in start)


def _thinking_from_prompt(probe: Probe) -> Thinking | None:
    """Templates that drop the reasoning of old turns still open, or close, a block for the new one."""
    on = probe.render(USER_MESSAGE, prompt=True, enable_thinking=True) or ""
    off = probe.render(USER_MESSAGE, prompt=True, enable_thinking=False) or ""
    for text in (on, off):
        tail = text[text.rfind(USER) + len(USER) :]
        if found := re.search(r"(<[^<>/]*think[^<>]*>)\s*(</[^<>]*think[^<>]*>)?\s*$", tail, re.IGNORECASE):
            return _thinking(found[1], found[2] or found[1].replace("<", "</", 1))
    source = probe.source
    if "</think>" in source or "<think>" in (probe.render(USER_MESSAGE) or ""):
        return Thinking("<think>", "</think>")
    if "[THINK]" in source and "[/THINK]" in source:
        return Thinking("[THINK]", "[/THINK]")
    return None


def _last_marker(text: str) -> str:
    """The last marker of ``text`` with what follows it on its line: ``<think>``, ``<|channel>thought``."""
    found = list(re.finditer(r"<[^<>\s][^<>]*>|\[[A-Z_ ]+\]", text))
    if not found or text[found[-1].end() :].count("\n") > 1 + (text[found[-1].end() :].strip() == ""):
        return ""
    last = found[-1]
    start = last.start()
    # Markers of one piece: ``<|open|>think<|sep|>``
    while len(found) > 1 and _joined(text, found[-2], last):
        found.pop()
        last = found[-1]
        start = last.start()
    return text[start:]


def _joined(text: str, first: re.Match[str], second: re.Match[str]) -> bool:
    return first.end() < second.start() and bool(re.fullmatch(r"[a-z_]+", text[first.end() : second.start()]))


def _first_marker(text: str) -> str:
    found = re.match(r"\s*(<[^<>\s][^<>]*>([a-z_]+<\|[^<>]*\|>)?|\[[^\[\]\n]+\])", text)
    return found[1] if found else ""


def content_markers(probe: Probe, thinking: Thinking | None, turn: str) -> tuple[str, ...]:
    """Markers before a turn's content, and after it, that the model writes itself."""
    before, after = content_wrapper(probe, thinking)
    markers = [turn.strip(), before, *after]
    if thinking and (found := re.fullmatch(r"(<[^<>]+>)\w+", thinking.start)):
        markers.append(found[1])  # an opening that was broken off
    prompt = probe.can.generation_prompt.strip()
    if prompt and turn.strip().startswith(prompt):
        markers.append(prompt)  # each part of the answer begins as the answer does
    return tuple(dict.fromkeys(marker for marker in markers if marker))


def before_content(probe: Probe) -> str:
    """What stands between the prompt for an answer and its content."""
    shown = probe.render(USER_MESSAGE, {"role": "assistant", "content": CONTENT})
    prompted = (probe.render(USER_MESSAGE) or "") + probe.can.generation_prompt
    return shown[len(prompted) : shown.rfind(CONTENT)] if shown and shown.startswith(prompted) else ""


def content_wrapper(probe: Probe, thinking: Thinking | None) -> tuple[str, tuple[str, ...]]:
    """(what opens content, what closes it, part by part); empty where content stands bare."""
    shown = probe.render(USER_MESSAGE, {"role": "assistant", "content": CONTENT})
    base = probe.render(USER_MESSAGE)
    if shown is None or base is None or CONTENT not in shown:
        return "", ()
    turn = shown[len(common_prefix(shown, base)) :]
    before, _, after = turn.partition(CONTENT)
    extra = before[len(common_prefix(before, probe.can.generation_prompt)) :]
    if thinking and thinking.end:
        extra = extra[extra.rfind(thinking.end) + len(thinking.end) :] if thinking.end in extra else extra
    extra = extra.strip()
    if not re.search(r"[<\[>]", extra) or (thinking and extra == thinking.start):
        return "", ()
    if "<|open|>" in extra and after.startswith(close := extra.replace("open", "close")):
        return extra, (close, *(part for part in cores(after[len(close) :]) if part.startswith("<|close|>")))
    closing = re.match(r"\s*(<\|?(?:END|end|/)[^<>]*>)", after)
    return extra, (closing[1],) if closing else ()
