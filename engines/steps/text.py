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
        if step.truncate:
            direction = truncation.get("direction") or "right"
            self._tokenizer.enable_truncation(self.max_tokens, direction=str(direction).lower())
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
        return self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=step.special_tokens)

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
