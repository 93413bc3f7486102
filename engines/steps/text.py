"""Text: a tokenizer as its own library saves it."""

from collections.abc import Collection, Sequence
from pathlib import Path

import msgspec
import numpy as np

from engines.card import TokenizeText
from engines.engine import EngineError

try:
    from tokenizers import Encoding, Tokenizer
except ImportError as error:
    raise EngineError(
        "missing_library",
        f"text needs the tokenizers library, which this runtime lacks: {error}",
        hint="pilothouse runtime install onnxruntime-cpu (again), or pip install tokenizers",
    ) from None

#: Where neither the card nor the file says it.
MAX_TOKENS = 512
#: Tokens up to which a text is padded to any other.
SHORT = 32
#: Of a longer text only the beginning is looked at, so many characters for each token that the model takes. Tokenising
#: takes half a second and 150 MB for each megabyte of text.
TOKEN_CHARACTERS = 64
_pair = msgspec.json.Decoder(tuple[str, str])


class TextTokenizer:
    """Texts -> arrays of tokens. ``wanted``: the names that are made, of those that the step has."""

    def __init__(self, step: TokenizeText, folder: Path, wanted: Collection[str]):
        self._step, self._wanted = step, wanted
        self._tokenizer = _open(folder / step.file)
        padding = self._tokenizer.padding or {}
        self._pad_id = step.pad_id if step.pad_id >= 0 else int(padding.get("pad_id") or _pad_token(self._tokenizer))
        self._pad_left = padding.get("direction") == "left"
        truncation = self._tokenizer.truncation or {}
        self.max_tokens = step.max_tokens or int(truncation.get("max_length") or MAX_TOKENS)
        self._tokenizer.no_padding()
        direction = str(truncation.get("direction") or "right").lower()
        self._from_end = direction == "left"
        if step.truncate:
            self._tokenizer.enable_truncation(self.max_tokens, direction=direction)
        else:
            self._tokenizer.no_truncation()

    def pair(self, text: str) -> tuple[str, str]:
        """Raises `ValueError`."""
        try:
            return _pair.decode(text)
        except msgspec.DecodeError:
            raise ValueError("this model takes pairs: a JSON list of two texts") from None

    def __call__(self, texts: Sequence[str | tuple[str, str]]) -> list[Encoding]:
        step = self._step
        if step.prefix:
            texts = [step.prefix + text if isinstance(text, str) else text for text in texts]
        parts = [self._part(text) for text in texts]
        encodings = self._encode(parts)
        for index, text in enumerate(texts):
            # Hardly any tokens in so many characters: white space, or what no tokenizer was made for.
            if parts[index] is not text and self._fits(encodings[index]):
                encodings[index] = self._encode([text])[0]
        return encodings

    def _encode(self, texts: Sequence[str | tuple[str, str]]) -> list[Encoding]:
        return self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=self._step.special_tokens)

    def _fits(self, encoding: Encoding) -> bool:
        return len(encoding.ids) <= self.max_tokens and not encoding.overflowing

    def _part(self, text: str | tuple[str, str]) -> str | tuple[str, str]:
        """As much as can matter; ``text`` itself where that is all of it."""
        most = self.max_tokens * TOKEN_CHARACTERS
        if isinstance(text, str):
            return text if len(text) <= most else text[-most:] if self._from_end else text[:most]
        if max(map(len, text)) <= most:
            return text
        first, second = map(self._part, text)
        return first, second  # type: ignore[return-value]

    def arrays(self, encodings: Sequence[Encoding]) -> dict[str, np.ndarray]:
        """INT64 [texts, tokens] by name, as long as the longest of them."""
        step = self._step
        counts = np.array([len(encoding.ids) for encoding in encodings])[:, None]
        longest = self.max_tokens if step.pad_to_max else max(1, int(counts.max()))
        width = -(-longest // step.pad_multiple) * step.pad_multiple
        column = np.arange(width)
        start = width - counts if self._pad_left else np.zeros_like(counts)
        filled = (column >= start) & (column < start + counts)
        arrays = {step.ids: np.full(filled.shape, self._pad_id, np.int64)}
        arrays[step.ids][filled] = [token for encoding in encodings for token in encoding.ids]
        if step.mask in self._wanted:
            arrays[step.mask] = filled.astype(np.int64)
        if step.types in self._wanted:
            arrays[step.types] = np.zeros(filled.shape, np.int64)
            arrays[step.types][filled] = [kind for encoding in encodings for kind in encoding.type_ids]
        if step.positions in self._wanted:
            arrays[step.positions] = np.where(filled, column - start, 0)
        return arrays


def length_groups(counts: Sequence[int], pad: bool) -> list[list[int]]:
    """Which texts, by index, are padded to one length: those not shorter than half of the longest of them, so that less
    than half of what is computed is padding; below `SHORT` it does not matter. Without ``pad``, equal lengths only."""
    groups: list[list[int]] = []
    least = 0
    for index in sorted(range(len(counts)), key=lambda index: -counts[index]):
        count = max(1, counts[index])
        if not groups or count < least:
            groups.append([])
            least = (count // 2 if count > SHORT else 1) if pad else count
        groups[-1].append(index)
    return groups


def _open(path: Path) -> Tokenizer:
    if not path.is_file():
        raise EngineError(
            "bad_setting",
            f"{path.name} is not beside the model",
            hint=f"give it with the card: pilothouse describe NAME --file {path.name}",
        )
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exception
        raise EngineError("bad_setting", f"{path.name} is not a tokenizer: {error}") from None


def _pad_token(tokenizer: Tokenizer) -> int:
    for name in ("[PAD]", "<pad>"):
        if (token := tokenizer.token_to_id(name)) is not None:
            return token
    return 0
