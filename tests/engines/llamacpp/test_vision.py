"""Pictures: a small random projector of Gemma 3's kind in front of the real Gemma 3 270M."""

import dataclasses
import io
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.support.device import DEVICE

pytest.importorskip("llama_cpp")
pytest.importorskip("gguf")
pytest.importorskip("PIL")

from PIL import Image

from engines.engine import EngineError
from engines.llamacpp import vision
from engines.llamacpp.runner import KvFull, Row, Runner
from engines.llamacpp.settings import Settings
from engines.llamacpp.vision import ImageChunk, Projector, TextChunk, image_size
from tests.support import tiny_gguf

WIDTH = 640  # of Gemma 3 270M's embeddings


def picture(seed: int, file_format: str = "PNG", size: tuple[int, int] = (70, 50)) -> bytes:
    """A file of random pixels."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, file_format)
    return data.getvalue()


# --- what needs no model ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "GIF", "BMP"])
def test_the_header_gives_the_size(file_format: str) -> None:
    assert image_size(picture(1, file_format)) == (70, 50)


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "GIF", "BMP"])
def test_no_beginning_of_a_file_breaks_the_reader(file_format: str) -> None:
    data = picture(1, file_format)
    for end in range(700):
        assert image_size(data[:end]) in (None, (0, 0), (70, 50))


def test_other_files_have_no_size() -> None:
    assert image_size(b"") is None
    assert image_size(b"RIFF\0\0\0\0WAVEfmt ") is None
    assert image_size(b"\xff\xd8\xff" + b"\0" * 40) == (0, 0)


def test_equal_pictures_have_equal_tokens_that_are_no_words() -> None:
    first, again, other = (
        ImageChunk(digest=digest, count=3, positions=3, handle=None) for digest in ("a/0", "a/0", "a/1")
    )
    assert first.tokens == again.tokens
    assert not set(first.tokens) & set(other.tokens)
    assert len(first.tokens) == 3
    assert all(-(1 << 63) <= token < 0 for token in first.tokens)


# --- with the model -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def runner(gguf_path: Path) -> Iterator[Runner]:
    opened = Runner(str(gguf_path), DEVICE, 2, Settings())
    opened.open_context(
        dataclasses.replace(Settings(), sequences=2, context_tokens=256, kv_tokens=512, batch_tokens=64, step_tokens=64)
    )
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def projector(runner: Runner, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Projector]:
    path = tmp_path_factory.mktemp("projector") / "mmproj.gguf"
    assert tiny_gguf.projector(path, WIDTH) == 16
    opened = Projector(str(path), runner.model, threads=2, on_gpu=False)
    yield opened
    opened.close()


def look(runner: Runner, projector: Projector, text: str, images: list[bytes], slot: int = 0) -> np.ndarray:
    """Logits of the token after ``text``, in which ``@`` stands for a picture."""
    runner.keep(slot, 0)
    position, logits = 0, np.empty(0)
    for chunk in projector.chunks(text.replace("@", projector.marker), images):
        if isinstance(chunk, TextChunk):
            logits = runner.decode([Row(slot, position, chunk.tokens, 1)])[0].copy()
            position += len(chunk.tokens)
        else:
            position = projector.decode(runner.context, chunk, position, slot)
    return logits


@pytest.mark.slow
def test_a_prompt_becomes_text_and_pictures(projector: Projector, runner: Runner) -> None:
    assert projector.supports_vision
    assert not projector.supports_audio
    assert not projector.m_rope
    marker = projector.marker
    chunks = projector.chunks(f"One {marker} two {marker} three", [picture(1), picture(2)])
    before, first, between, second, after = chunks
    assert isinstance(before, TextChunk) and isinstance(between, TextChunk) and isinstance(after, TextChunk)
    assert isinstance(first, ImageChunk) and isinstance(second, ImageChunk)
    begin, end = runner.tokenize("<start_of_image>", False), runner.tokenize("<end_of_image>", False)
    assert before.tokens == runner.tokenize("One ") + begin
    assert between.tokens == end + runner.tokenize(" two ", False) + begin
    assert after.tokens == end + runner.tokenize(" three", False)
    assert (first.count, first.positions) == (second.count, second.positions) == (16, 16)
    assert first.digest != second.digest


@pytest.mark.slow
def test_the_same_picture_twice_is_the_same_chunk(projector: Projector) -> None:
    marker = projector.marker
    chunks = projector.chunks(f"{marker}{marker}", [picture(1), picture(1)])
    first, second = (chunk for chunk in chunks if isinstance(chunk, ImageChunk))
    assert first.digest == second.digest
    assert projector.encode(first) is projector.encode(second)


@pytest.mark.slow
def test_the_model_answers_by_what_it_sees(projector: Projector, runner: Runner) -> None:
    question = "Look: @ What is it?"
    first, other, again = (look(runner, projector, question, [picture(seed)]) for seed in (1, 2, 1))
    assert np.isfinite(first).all()
    assert np.abs(first - other).max() > 0.1
    np.testing.assert_array_equal(first, again)
    np.testing.assert_allclose(look(runner, projector, question, [picture(1)], slot=1), first, atol=0.05)


@pytest.mark.slow
def test_every_format_shows_the_picture(projector: Projector, runner: Runner) -> None:
    png, bmp = (look(runner, projector, "@ is", [picture(1, f)]) for f in ("PNG", "BMP"))
    np.testing.assert_array_equal(png, bmp)  # neither loses anything
    assert np.isfinite(look(runner, projector, "@ is", [picture(1, "JPEG")])).all()


@pytest.mark.slow
def test_words_decoded_after_a_picture_are_causal_again(projector: Projector, runner: Runner) -> None:
    tokens = runner.tokenize("Monday, Tuesday, Wednesday,")
    runner.keep(0, 0)
    alone = runner.decode([Row(0, 0, tokens, 1)])[0].copy()
    look(runner, projector, "@ is", [picture(1)])
    runner.keep(0, 0)
    np.testing.assert_array_equal(runner.decode([Row(0, 0, tokens, 1)])[0], alone)


@pytest.mark.slow
def test_pictures_that_are_none_are_named(projector: Projector) -> None:
    good = picture(1)
    wide = bytearray(good)
    wide[16:24] = struct.pack(">II", 60_000, 60_000)
    for bad, reason in [
        (b"", "not a PNG"),
        (b"hello, I am a picture", "not a PNG"),
        (good[:20], "damaged"),
        (good[: len(good) // 2], "damaged"),
        (good[:60] + b"\0" * 200, "damaged"),
        (bytes(wide), "60000 x 60000"),
    ]:
        with pytest.raises(EngineError, match=reason) as refused:
            projector.chunks(projector.marker * 2, [good, bad])
        assert (refused.value.code, refused.value.field) == ("invalid_input", "media[1]")


@pytest.mark.slow
def test_as_many_pictures_as_places(projector: Projector) -> None:
    with pytest.raises(EngineError, match="2 pictures, but 1 places"):
        projector.chunks(projector.marker, [picture(1), picture(2)])


@pytest.mark.slow
def test_no_text_can_name_the_place_of_a_picture(projector: Projector) -> None:
    (text,) = projector.chunks("<__media__> <image> <__image__>", [])
    assert isinstance(text, TextChunk)


@pytest.mark.slow
def test_encoded_pictures_are_kept_within_bounds(projector: Projector, monkeypatch: pytest.MonkeyPatch) -> None:
    one_bytes = 16 * WIDTH * 4
    monkeypatch.setattr(vision, "CACHE_BYTES", 2 * one_bytes)
    chunks = [
        next(c for c in projector.chunks(projector.marker, [picture(seed)]) if isinstance(c, ImageChunk))
        for seed in (11, 12, 13)
    ]
    first, second, third = (projector.encode(chunk) for chunk in chunks)
    assert first.shape == (16, WIDTH)
    assert projector.encode(chunks[2]) is third
    assert projector.encode(chunks[1]) is second
    again = projector.encode(chunks[0])
    assert again is not first
    np.testing.assert_array_equal(again, first)


@pytest.mark.slow
def test_a_picture_that_finds_no_room_leaves_the_slot_as_it_was(projector: Projector, runner: Runner) -> None:
    words = runner.tokenize("word " * 70)[:50]
    runner.keep(0, 0)
    with pytest.raises(KvFull):
        for start in range(0, 1200, 50):
            runner.decode([Row(0, start, words, 0)])
    chunk = next(c for c in projector.chunks(projector.marker, [picture(1)]) if isinstance(c, ImageChunk))
    with pytest.raises(KvFull):
        projector.decode(runner.context, chunk, start, 0)
    runner.keep(0, start - 50)
    runner.decode([Row(0, start - 50, words, 1)])
    runner.keep(0, 0)


@pytest.mark.slow
def test_a_picture_larger_than_a_pass_is_refused(projector: Projector, runner: Runner, tmp_path: Path) -> None:
    count = tiny_gguf.projector(tmp_path / "large.gguf", WIDTH, side=160)
    assert count == 100  # and 64 tokens are computed at once
    large = Projector(str(tmp_path / "large.gguf"), runner.model, threads=2, on_gpu=False)
    chunk = next(c for c in large.chunks(large.marker, [picture(1)]) if isinstance(c, ImageChunk))
    with pytest.raises(EngineError, match="a picture has 100 tokens") as refused:
        large.decode(runner.context, chunk, 0, 0)
    assert refused.value.code == "context_exceeded"
    large.close()


@pytest.mark.slow
def test_a_file_that_is_not_this_models_projector_is_named(runner: Runner, gguf_path: Path, tmp_path: Path) -> None:
    tiny_gguf.projector(tmp_path / "narrow.gguf", 320)
    (tmp_path / "text.gguf").write_text("no projector")
    for path, reason in [
        (tmp_path / "narrow.gguf", "mismatch"),
        (tmp_path / "text.gguf", "text.gguf"),
        (gguf_path, "no projector"),
        (tmp_path / "missing.gguf", "not there"),
    ]:
        with pytest.raises(EngineError, match=reason) as refused:
            Projector(str(path), runner.model, threads=2, on_gpu=False)
        assert refused.value.code == "bad_model"
