"""From a request to the tokens of its prompt, and how its answer is to be read."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from engines.engine import EngineError
from engines.llamacpp.chat_format import AnswerParser, ChatFormat
from engines.llamacpp.chat_format.messages import MEDIA_MARKER
from engines.llamacpp.runner import Runner
from engines.llamacpp.vision import ImageChunk, Projector
from engines.protocol import Generate, Grammar, Tokenize, Tokens


@dataclass
class Prompt:
    """``tokens`` has a negative number for each cell of an image; ``images`` are those, with the index of their first
    cell."""

    tokens: list[int]
    source: str
    """The field of the request that it comes from."""
    images: list[tuple[int, ImageChunk]] = field(default_factory=list)
    stop: list[str] = field(default_factory=list)
    parser: AnswerParser | None = None
    grammar: Grammar | None = None
    lazy: list[str] = field(default_factory=list)
    show: frozenset[int] = frozenset()

    @property
    def spans(self) -> list[tuple[int, int]]:
        """(start, count) of each image."""
        return [(start, chunk.count) for start, chunk in self.images]

    @property
    def text_tokens(self) -> list[int]:
        return [token for token in self.tokens if token >= 0] if self.images else self.tokens

    def position(self, index: int) -> int:
        """Where the token ``index`` of the sequence stands, as the model counts (M-RoPE counts pictures otherwise)."""
        return index - sum(chunk.count - chunk.positions for start, chunk in self.images if start < index)


class Reader:
    """Raises `EngineError` (``invalid_input``) that names the field, in all its calls."""

    def __init__(self, runner: Runner, format: ChatFormat, projector: Projector | None):
        self._runner, self._format, self._projector = runner, format, projector
        self._shown: dict[tuple[str, ...], frozenset[int]] = {}

    def read(self, request: Generate, media: Sequence[bytes]) -> Prompt:
        given = [f for f in ("messages", "prompt", "prompt_tokens") if getattr(request, f) is not None]
        if len(given) != 1:
            raise EngineError("invalid_input", "give exactly one of messages, prompt and prompt_tokens", field="prompt")
        if request.messages is not None:
            return self._conversation(request, media)
        if media:
            raise EngineError("invalid_input", "images are read in messages only", field="prompt")
        if request.prompt is not None:
            # A tokenizer that begins every prompt with a special token would make nothing look like something.
            tokens = self._runner.tokenize(request.prompt) if request.prompt else []
            return Prompt(tokens, "prompt", grammar=request.grammar)
        tokens = request.prompt_tokens or []
        _check(self._runner, tokens, "prompt_tokens")
        return Prompt(tokens, "prompt_tokens", grammar=request.grammar)

    def tokenize(self, request: Tokenize) -> Tokens:
        if request.messages is None:
            return tokenize(self._runner, request)
        prepared = self._format.prepare(request.messages, tools=request.tools, variables=request.variables)
        tokens = self._runner.tokenize(prepared.text, prepared.add_special)
        return _tokens(self._runner, request, tokens, prepared.text)

    def _conversation(self, request: Generate, media: Sequence[bytes]) -> Prompt:
        assert request.messages is not None
        if media and self._projector is None:
            raise EngineError(
                "invalid_input",
                "this deployment reads no images",
                hint="Deploy a model with its projector (mmproj) file.",
                field="messages",
            )
        prepared = self._format.prepare(
            request.messages,
            tools=request.tools,
            tool_choice=request.tool_choice,
            # Who names a function wants that one call.
            parallel=request.parallel_tool_calls and not request.tool_choice.startswith("function:"),
            variables=request.variables,
            grammar=request.grammar,
            continue_final=request.continue_final,
            images=bool(media),
            parse=request.parse,
        )
        prompt = Prompt(
            [],
            "messages",
            # Who wants no end of text does not want the template's own either; and what must match a grammar ends
            # where that does, whatever a text in it looks like.
            stop=[] if request.ignore_eos or (prepared.grammar and not prepared.lazy) else prepared.stop,
            parser=prepared.parser,
            grammar=prepared.grammar,
            lazy=prepared.lazy,
            show=self._tokens_of(prepared.show),
        )
        if not media:
            prompt.tokens = self._runner.tokenize(prepared.text, prepared.add_special)
            return prompt
        assert self._projector is not None
        # The projector's own marker is one that nobody who writes a text can guess.
        text = prepared.text.replace(MEDIA_MARKER, self._projector.marker)
        for chunk in self._projector.chunks(text, media, prepared.add_special):
            if isinstance(chunk, ImageChunk):
                prompt.images.append((len(prompt.tokens), chunk))
            prompt.tokens += chunk.tokens
        return prompt

    def _tokens_of(self, names: list[str]) -> frozenset[int]:
        key = tuple(names)
        if key not in self._shown:
            found = (self._runner.tokenize(name, add_special=False) for name in names)
            self._shown[key] = frozenset(tokens[0] for tokens in found if len(tokens) == 1)
        return self._shown[key]


def tokenize(runner: Runner, request: Tokenize) -> Tokens:
    """The tokens of a text, or the text of tokens. Raises `EngineError` (``invalid_input``)."""
    if request.tokens is not None:
        _check(runner, request.tokens, "tokens")
        text = b"".join(runner.piece(token, special=True) for token in request.tokens)
        return _tokens(runner, request, request.tokens, text.decode("utf-8", "replace"))
    if request.text is None:
        raise EngineError("invalid_input", "give one of text, messages and tokens", field="text")
    tokens = runner.tokenize(request.text, request.add_special, request.parse_special)
    return _tokens(runner, request, tokens, request.text)


def _tokens(runner: Runner, request: Tokenize, tokens: list[int], text: str) -> Tokens:
    pieces = [runner.piece(token, special=True) for token in tokens] if request.pieces else []
    return Tokens(request.id, tokens, text, pieces)


def _check(runner: Runner, tokens: list[int], field: str) -> None:
    most = runner.vocabulary
    if tokens and not 0 <= min(tokens) <= max(tokens) < most:
        raise EngineError("invalid_input", f"a token is not in 0…{most - 1}", field=field)
