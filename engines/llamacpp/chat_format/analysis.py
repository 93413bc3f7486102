"""From a chat template to the syntax of the answers it expects.

The template is rendered with made-up messages: with and without calls, reasoning and arguments. What differs, and what
stands around the made-up words, are the markers. The idea is llama.cpp's (common/chat-diff-analyzer.cpp); the way is
our own.
"""

from dataclasses import replace

from engines.llamacpp.chat_format.call_analysis import described_calls, find_calls
from engines.llamacpp.chat_format.probe import Capabilities, Probe
from engines.llamacpp.chat_format.syntax import Hole, Syntax, TagCall
from engines.llamacpp.chat_format.thinking_analysis import before_content, content_markers, find_thinking
from engines.llamacpp.chat_template import JinjaTemplate


def analyse(template: JinjaTemplate, can: Capabilities) -> Syntax:
    """The syntax of the answers; where nothing is found, the empty syntax: all is content."""
    probe = Probe(template, can)
    thinking, turn = find_thinking(probe)
    calls = find_calls(probe, thinking) if can.calls else None
    calls = calls or (described_calls(probe) if can.tools else None)
    if thinking and calls and isinstance(calls.shape, TagCall):
        # What llama.cpp's recordings show: these families call without having closed the block.
        ids = any(isinstance(part, Hole) and any(part.around) for part in calls.shape.head)
        thinking = replace(thinking, ended_by_call=ids or calls.shape.arguments is not None)
    dropped = content_markers(probe, thinking, turn)
    head = calls.shape.head[0] if calls and isinstance(calls.shape, TagCall) else ""
    prompt = can.generation_prompt
    if isinstance(head, str) and head and prompt.endswith(head) and (plain := before_content(probe)):
        # The prompt already holds what opens a call, or the content (functionary's ``>>>``).
        return Syntax(thinking, calls, (*dropped, head + plain), prefix=head)
    return Syntax(thinking, calls, dropped)
