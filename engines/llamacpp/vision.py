"""Pictures in a prompt: llama.cpp's multimodal projector (libmtmd) turns each into embeddings that stand where its
tokens would.

A prompt becomes text chunks and image chunks. The tokens of a text chunk are decoded like any others; an image chunk
is encoded once (the slow part; kept for the next request that shows the same picture) and then decoded as a whole.
"""

import ctypes
import hashlib
import os
import struct
import weakref
from collections import Counter, OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
from llama_cpp import mtmd_cpp

from engines.engine import EngineError
from engines.llamacpp import log
from engines.llamacpp.runner import KvFull

#: Encoded pictures kept for reuse.
CACHE_BYTES = 64 << 20
#: Of one picture: more would take gigabytes to unpack from a small file.
MAX_PIXELS = 1 << 26
#: Markers of JPEG segments that give the size of the picture.
_JPEG_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}


@dataclass(frozen=True)
class TextChunk:
    tokens: list[int]

    @property
    def positions(self) -> int:
        return len(self.tokens)


@dataclass(eq=False)
class ImageChunk:
    """A picture, or one tile of it where the model looks at large ones in tiles. Its memory is freed with it."""

    digest: str
    """Equal for equal pictures: hexadecimal SHA-256 of the file, and the tile."""
    count: int
    """Cells of key-value memory that it fills."""
    positions: int
    """By how much the position moves on. Not `count` with M-RoPE, where what comes after a picture cannot be cut back
    or shared by counting cells."""
    handle: Any = field(repr=False)
    """``mtmd_input_chunk *``, owned."""

    def __post_init__(self) -> None:
        weakref.finalize(self, mtmd_cpp.mtmd_input_chunk_free, self.handle)

    @property
    def tokens(self) -> list[int]:
        """Numbers that stand for its cells wherever prompts are compared: negative, so no token's, and equal only for
        equal pictures (58 bits of the digest)."""
        first = int.from_bytes(hashlib.sha256(self.digest.encode()).digest()[:8], "little") >> 6
        return [-1 - first - i for i in range(self.count)]


class Projector:
    """The projector in ``path`` beside ``model`` (``llama_model *``), which it belongs to. Close it before the model
    is freed.

    Raises `EngineError`: ``bad_model`` where the file is no projector or not this model's, ``out_of_memory``.
    """

    def __init__(self, path: str, model: Any, threads: int, on_gpu: bool):
        file = Path(path)
        if not file.is_file():
            raise EngineError("bad_model", f"the projector {file.name} is not there")
        mtmd_cpp.mtmd_helper_log_set(log.keep, ctypes.c_void_p(0))
        #: What stands for a picture in a text; nobody who writes a text can guess it.
        self.marker = f"<__media_{os.urandom(8).hex()}__>"
        params = mtmd_cpp.mtmd_context_params_default()
        params.use_gpu = on_gpu
        params.n_threads = threads
        params.print_timings = False
        params.warmup = False
        params.media_marker = self.marker.encode()
        log.clear()
        self._context: Any = mtmd_cpp.mtmd_init_from_file(os.fsencode(path), model, params)
        if not self._context:
            if log.about_memory():
                raise EngineError("out_of_memory", f"not enough memory for the projector {file.name}: {log.reason()}")
            raise EngineError(
                "bad_model",
                f"{file.name} is no projector for this model: {log.reason()}",
                hint="Use the mmproj file that was published with the model.",
            )
        self.supports_vision: bool = mtmd_cpp.mtmd_support_vision(self._context)
        self.supports_audio: bool = mtmd_cpp.mtmd_support_audio(self._context)
        #: Positions are not counted in cells; see `ImageChunk.positions`.
        self.m_rope: bool = mtmd_cpp.mtmd_decode_use_mrope(self._context)
        self._width: int = llama_cpp.llama_model_n_embd_inp(model)
        self._encoded: OrderedDict[str, np.ndarray] = OrderedDict()

    def chunks(
        self, text: str, images: Sequence[bytes], add_special: bool = True, parse_special: bool = True
    ) -> list[TextChunk | ImageChunk]:
        """``text``, in which `marker` stands once for each of ``images`` (files: PNG, JPEG, GIF, BMP), cut at them.
        What the model wants to see before and after a picture is in the text chunks.

        Raises `EngineError` (``invalid_input``) about ``media[i]``.
        """
        if (markers := text.count(self.marker)) != len(images):
            raise EngineError("invalid_input", f"{len(images)} pictures, but {markers} places for them", field="media")
        with self._bitmaps(images) as bitmaps:
            array = (ctypes.c_void_p * len(bitmaps))(*bitmaps)
            data = text.encode("utf-8", "replace")
            source = mtmd_cpp.mtmd_input_text(data, len(data), add_special, parse_special)
            chunks = mtmd_cpp.mtmd_input_chunks_init()
            try:
                log.clear()
                if mtmd_cpp.mtmd_tokenize(self._context, chunks, ctypes.byref(source), array, len(bitmaps)):
                    raise EngineError(
                        "invalid_input", f"the model cannot take these pictures: {log.reason()}", field="media"
                    )
                size = mtmd_cpp.mtmd_input_chunks_size(chunks)
                pieces = [mtmd_cpp.mtmd_input_chunks_get(chunks, i) for i in range(size)]
                return list(self._read(pieces))
            finally:
                mtmd_cpp.mtmd_input_chunks_free(chunks)

    def decode(self, context: Any, chunk: ImageChunk, position: int, slot: int) -> int:
        """Put ``chunk`` into the key-value memory of ``context`` (``llama_context *``) after the ``position`` positions
        of ``slot``, in a decode of its own, causal or not as the model wants it. Returns the position after it.

        Raises `KvFull`, after which the slot holds what it did, or `EngineError` (``engine_failed``,
        ``out_of_memory``, ``context_exceeded``), after which that is unknown.
        """
        batch_tokens = llama_cpp.llama_n_batch(context)
        if mtmd_cpp.mtmd_decode_use_non_causal(self._context, chunk.handle):
            # All of the picture sees all of it, so it cannot be cut.
            batch_tokens = llama_cpp.llama_n_ubatch(context)
            if chunk.count > batch_tokens:
                raise EngineError(
                    "context_exceeded",
                    f"a picture has {chunk.count} tokens; this deployment computes {batch_tokens} at once",
                    hint="Deploy with a larger batch_tokens, or send a smaller picture.",
                    field="media",
                )
        encoded = self.encode(chunk)
        after = ctypes.c_int32(0)
        log.clear()
        status = mtmd_cpp.mtmd_helper_decode_image_chunk(
            self._context,
            context,
            chunk.handle,
            ctypes.cast(encoded.ctypes.data, ctypes.POINTER(ctypes.c_float)),
            position,
            slot,
            batch_tokens,
            ctypes.byref(after),
            mtmd_cpp.mtmd_helper_post_decode_callback(),
            None,
        )
        if status == 1:
            llama_cpp.llama_memory_seq_rm(llama_cpp.llama_get_memory(context), slot, position, -1)
            raise KvFull
        if status:
            raise EngineError("engine_failed", f"llama.cpp answered {status} to a picture: {log.reason()}")
        return after.value

    def encode(self, chunk: ImageChunk) -> np.ndarray:
        """Embeddings of a picture, float32 [count, width], from those kept where it was shown before.

        Raises `EngineError` (``engine_failed``, ``out_of_memory``).
        """
        if (known := self._encoded.get(chunk.digest)) is not None:
            self._encoded.move_to_end(chunk.digest)
            return known
        log.clear()
        if mtmd_cpp.mtmd_encode_chunk(self._context, chunk.handle):
            code = "out_of_memory" if log.about_memory() else "engine_failed"
            raise EngineError(code, f"the projector cannot encode a picture: {log.reason()}")
        rows = mtmd_cpp.mtmd_get_output_embd(self._context)
        encoded = np.ctypeslib.as_array(rows, (chunk.count, self._width)).copy()
        self._encoded[chunk.digest] = encoded
        kept = sum(rows.nbytes for rows in self._encoded.values())
        while kept > CACHE_BYTES and len(self._encoded) > 1:
            kept -= self._encoded.popitem(last=False)[1].nbytes
        return encoded

    def close(self) -> None:
        self._encoded.clear()
        if self._context:
            mtmd_cpp.mtmd_free(self._context)
            self._context = None

    @contextmanager
    def _bitmaps(self, images: Sequence[bytes]) -> Iterator[list[Any]]:
        """The unpacked pictures, freed afterwards. Raises `EngineError` (``invalid_input``)."""
        bitmaps: list[Any] = []
        options = mtmd_cpp.mtmd_helper_init_opt_default()
        try:
            for i, image in enumerate(images):
                _check(image, f"media[{i}]")
                data = (ctypes.c_uint8 * len(image)).from_buffer_copy(image)
                log.clear()
                made = mtmd_cpp.mtmd_helper_bitmap_init_from_buf_wrapper(
                    self._context, data, len(image), False, options
                )
                if made.bitmap:
                    bitmaps.append(made.bitmap)
                    # All tiles of a picture carry its name; the number tells two equal pictures' tiles apart.
                    mtmd_cpp.mtmd_bitmap_set_id(made.bitmap, f"{hashlib.sha256(image).hexdigest()}#{i}".encode())
                if made.video_ctx:
                    mtmd_cpp.mtmd_helper_video_free(made.video_ctx)
                if made.video_ctx or not made.bitmap:
                    raise EngineError(
                        "invalid_input", f"the picture media[{i}] is damaged or incomplete", field=f"media[{i}]"
                    )
            yield bitmaps
        finally:
            for bitmap in bitmaps:
                mtmd_cpp.mtmd_bitmap_free(bitmap)

    @staticmethod
    def _read(pieces: Sequence[Any]) -> Iterator[TextChunk | ImageChunk]:
        tiles: Counter[str] = Counter()
        for piece in pieces:
            if mtmd_cpp.mtmd_input_chunk_get_type(piece) == mtmd_cpp.MTMD_INPUT_CHUNK_TYPE_TEXT:
                count = ctypes.c_size_t(0)
                tokens = mtmd_cpp.mtmd_input_chunk_get_tokens_text(piece, ctypes.byref(count))
                yield TextChunk(tokens[: count.value] if count.value else [])
                continue
            name = (mtmd_cpp.mtmd_input_chunk_get_id(piece) or b"").decode()
            yield ImageChunk(
                digest=f"{name.partition('#')[0]}/{tiles[name]}",
                count=mtmd_cpp.mtmd_input_chunk_get_n_tokens(piece),
                positions=mtmd_cpp.mtmd_input_chunk_get_n_pos(piece),
                handle=mtmd_cpp.mtmd_input_chunk_copy(piece),
            )
            tiles[name] += 1


def image_size(data: bytes) -> tuple[int, int] | None:
    """(width, height) in pixels that the header of a PNG, JPEG, GIF or BMP file gives; None for anything else. Pure."""
    try:
        if data.startswith(b"\x89PNG\r\n\x1a\n"):
            return struct.unpack_from(">II", data, 16)
        if data.startswith((b"GIF87a", b"GIF89a")):
            return struct.unpack_from("<HH", data, 6)
        if data.startswith(b"BM"):
            width, height = struct.unpack_from("<ii", data, 18)
            return abs(width), abs(height)
        if data.startswith(b"\xff\xd8"):
            return _jpeg_size(data)
    except struct.error:
        return 0, 0
    return None


def _jpeg_size(data: bytes) -> tuple[int, int]:
    at = 2
    while True:
        (start, marker, length) = struct.unpack_from(">BBH", data, at)
        if start != 0xFF:
            return 0, 0
        if marker == 0xFF:  # padding
            at += 1
        elif marker in _JPEG_FRAMES:
            height, width = struct.unpack_from(">HH", data, at + 5)
            return width, height
        else:
            at += 2 + length


def _check(image: bytes, name: str) -> None:
    """Refuse what the unpacker should not even see. Raises `EngineError` (``invalid_input``)."""
    size = image_size(image)
    if size is None:
        raise EngineError("invalid_input", f"the picture {name} is not a PNG, JPEG, GIF or BMP file", field=name)
    if size[0] * size[1] == 0:
        raise EngineError("invalid_input", f"the picture {name} is damaged or incomplete", field=name)
    if size[0] * size[1] > MAX_PIXELS:
        raise EngineError(
            "invalid_input",
            f"the picture {name} has {size[0]} x {size[1]} pixels; at most {MAX_PIXELS >> 20} million are read",
            hint="Send it smaller: models look at a megapixel or so.",
            field=name,
        )
