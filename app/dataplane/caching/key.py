"""Under which key an answer is kept: SHA-256 over an encoding that no two different requests share.

What is hashed begins with MessagePack, which says where each of its values ends, and goes on with raw bytes whose sizes
it has told: there is one way only to read it. What any two deployments that share a store may differ in (files, card,
engine, device, settings) is hashed first, once.
"""

import hashlib
from collections.abc import Mapping, Sequence

import msgspec

from app.dataplane.tensors import Tensor
from engines.protocol import Generate, Load, Ready, Sampling

#: Goes up when what is kept, or how it is encoded, changes.
_FORMAT = 1
_ANY_SEED = 0xFFFFFFFF
_json = msgspec.json.Encoder(order="sorted")
#: Never sorted: a chat template renders an object in the order in which it came.
_pack = msgspec.msgpack.Encoder().encode


def identity(digest: str, parts: Mapping[str, str], load: Load, ready: Ready) -> bytes:
    """Of everything but the request that an answer depends on. ``digest`` is that of the version (files and card),
    ``parts`` those of what is loaded beside it, by name; threads and the number of a device change no answer."""
    engine = (ready.engine, ready.engine_version, ready.provider, ready.device.partition(":")[0])
    return _json.encode([_FORMAT, digest, sorted(parts.items()), sorted(load.files), load.card, engine, load.settings])


class Keys:
    """Of one deployment. Each method gives 32 bytes."""

    def __init__(self, identity: bytes):
        self._start = hashlib.sha256(_pack(identity))

    def tensors(self, inputs: Sequence[Tensor], outputs: Sequence[str], items: bool) -> bytes:
        """``inputs`` in the order of the signature."""
        headers = [(t.name, t.datatype, t.shape, len(t.data)) for t in inputs]
        digest = self._start.copy()
        digest.update(_pack(("tensors", items, outputs, headers)))
        for tensor in inputs:
            digest.update(tensor.data)
        return digest.digest()

    def embedding(self, given: str | list[int]) -> bytes:
        return self._of(("embedding", given))

    def score(self, query: str, document: str) -> bytes:
        return self._of(("score", query, document))

    def text(self, request: Generate, media: Sequence[bytes]) -> bytes | None:
        """`None` for an answer that need not be the same the next time, and for what cannot be sent to a worker."""
        if not repeatable(request.sampling):
            return None
        asked = msgspec.structs.replace(request, id=0, priority=0, media=[len(image) for image in media])
        digest = self._start.copy()
        try:
            digest.update(_pack(("text", asked)))
        except (OverflowError, UnicodeError):  # the worker's client says what is wrong
            return None
        for image in media:
            digest.update(image)
        return digest.digest()

    def _of(self, value: object) -> bytes:
        digest = self._start.copy()
        digest.update(_pack(value))
        return digest.digest()


def repeatable(sampling: Sampling) -> bool:
    """Whether nothing is left to chance: there is a seed, or the likeliest token is taken."""
    if sampling.seed is not None and sampling.seed & _ANY_SEED != _ANY_SEED:
        return True
    chance = sampling.mirostat or sampling.dynatemp_range > 0 or sampling.xtc_probability > 0
    cooled = not sampling.samplers or not {"temperature", "temp"}.isdisjoint(sampling.samplers)
    return sampling.temperature <= 0 and cooled and not chance
