"""Images, against what Pillow itself does."""

import io
import struct

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from engines.card import Crop, DecodeImage, Resize
from engines.steps import image
from engines.steps.geometry import Geometry

RANDOM = np.random.default_rng(7)


def picture(width=37, height=23, channels=3):
    pixels = RANDOM.integers(0, 256, (height, width, channels), dtype=np.uint8)
    return pixels


def saved(pixels, form="PNG", **options):
    buffer = io.BytesIO()
    (pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)).save(buffer, form, **options)
    return buffer.getvalue()


def plain(pixels):
    size = (pixels.shape[1], pixels.shape[0])
    return Geometry(size, size)


@pytest.mark.parametrize("form", ["PNG", "BMP", "TIFF", "PPM"])
def test_lossless_files_give_their_pixels(form):
    pixels = picture()
    decoded, geometry = image.decode(DecodeImage(), saved(pixels, form))
    np.testing.assert_array_equal(decoded, pixels)
    assert geometry == Geometry((37, 23), (37, 23))


def test_a_jpeg_is_what_pillow_reads():
    data = saved(picture(), "JPEG")
    decoded, _ = image.decode(DecodeImage(), data)
    np.testing.assert_array_equal(decoded, np.asarray(Image.open(io.BytesIO(data))))


def test_colours_may_be_turned_round_or_left_out():
    pixels = picture()
    data = saved(pixels)
    np.testing.assert_array_equal(image.decode(DecodeImage(mode="BGR"), data)[0], pixels[..., ::-1])
    grey, _ = image.decode(DecodeImage(mode="L"), data)
    np.testing.assert_array_equal(grey[..., 0], np.asarray(Image.fromarray(pixels).convert("L")))
    assert grey.shape == (23, 37, 1)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photograph_is_turned_as_its_camera_was_held(orientation):
    pixels = picture(4, 2)
    exif = Image.Exif()
    exif[0x0112] = orientation
    decoded, geometry = image.decode(DecodeImage(), saved(pixels, "PNG", exif=exif))
    # The EXIF standard's own words: where row 0 and column 0 of the file are on the upright picture.
    upright = {
        1: pixels,
        2: pixels[:, ::-1],
        3: pixels[::-1, ::-1],
        4: pixels[::-1],
        5: pixels.transpose(1, 0, 2),
        6: np.rot90(pixels, -1),
        7: np.rot90(pixels, 2).transpose(1, 0, 2),
        8: np.rot90(pixels),
    }[orientation]
    np.testing.assert_array_equal(decoded, upright)
    assert geometry.size == (upright.shape[1], upright.shape[0])


def test_what_is_transparent_shows_the_background():
    pixels = np.zeros((2, 2, 4), np.uint8)
    pixels[0, 0] = [10, 20, 30, 255]
    decoded, _ = image.decode(DecodeImage(background=200), saved(pixels))
    assert decoded[0, 0].tolist() == [10, 20, 30] and (decoded[1] == 200).all()
    palette = Image.new("P", (2, 1))
    palette.putpalette([0, 0, 0, 9, 9, 9])
    palette.putpixel((1, 0), 1)
    decoded, _ = image.decode(DecodeImage(mode="L"), saved(palette, transparency=0))
    assert decoded[..., 0].tolist() == [[255, 9]]


def test_sixteen_bits_of_grey_keep_their_brightness():
    data = saved(np.array([[0, 0x1234, 0xFFFF]], np.uint16))
    assert image.decode(DecodeImage(mode="L"), data)[0][..., 0].tolist() == [[0, 0x12, 0xFF]]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "cannot be read"),
        (b"hello", "cannot be read"),
        (saved(picture())[:200], "cannot be read"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "cannot be read"),
    ],
)
def test_what_is_no_image_is_said_to_be_none(data, words):
    with pytest.raises(ValueError, match=words):
        image.decode(DecodeImage(), data)


def test_a_huge_image_is_refused_before_it_is_unpacked():
    header = saved(np.zeros((3000, 3000), np.uint8))[:100]
    with pytest.raises(ValueError, match="larger than the 1000000 pixels"):
        image.decode(DecodeImage(max_pixels=1_000_000), header)


@pytest.mark.parametrize("name", ["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"])
@pytest.mark.parametrize("channels", [1, 3])
def test_resizing_is_pillows(name, channels):
    pixels = picture(channels=3)[..., :channels]
    step = Resize(width=16, height=40, filter=name)
    resized, geometry = image.resize(step, pixels, plain(pixels))
    source = Image.fromarray(pixels[..., 0] if channels == 1 else pixels)
    expected = np.asarray(source.resize((16, 40), getattr(Image.Resampling, name.upper())))
    np.testing.assert_array_equal(resized, expected.reshape(40, 16, channels))
    assert (geometry.scale_x, geometry.scale_y) == (16 / 37, 40 / 23)


def test_numbers_that_are_no_bytes_are_resized_without_rounding():
    pixels = picture().astype(np.float32) / 255
    resized, _ = image.resize(Resize(size=8), pixels, plain(pixels))
    of_bytes, _ = image.resize(Resize(size=8), picture(), plain(pixels))
    assert resized.dtype == np.float32 and of_bytes.dtype == np.uint8
    expected = np.asarray(Image.fromarray(pixels[..., 1]).resize((8, 8), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(resized[..., 1], expected)


def test_the_usual_preparation_for_classifiers():
    """torchvision: Resize(256), CenterCrop(224); its formulas: int(256 * longer / shorter), round((n - 224) / 2)."""
    pixels = picture(500, 333)
    small, geometry = image.resize(Resize(size=256, mode="shorter"), pixels, plain(pixels))
    assert small.shape == (256, int(256 * 500 / 333), 3)
    cropped, geometry = image.crop(Crop(size=224), small, geometry)
    np.testing.assert_array_equal(cropped, small[16:240, 80:304])
    assert (geometry.offset_x, geometry.offset_y, geometry.size) == (-80, -16, (224, 224))


@pytest.mark.parametrize(("width", "height"), [(37, 23), (23, 37), (8, 8), (100, 3), (3, 100), (9, 8)])
def test_a_letterbox_shows_all_and_a_cover_fills_all(width, height):
    pixels = np.full((height, width, 3), 255, np.uint8)
    boxed, geometry = image.resize(Resize(width=20, height=10, mode="letterbox", fill=7), pixels, plain(pixels))
    share = min(20 / width, 10 / height)
    shown = (boxed == 255).all(axis=2)
    assert boxed.shape == (10, 20, 3) and set(np.unique(boxed)) <= {7, 255}
    assert shown.sum() == max(1, round(width * share)) * max(1, round(height * share))
    rows, columns = np.flatnonzero(shown.any(1)), np.flatnonzero(shown.any(0))
    assert (geometry.offset_x, geometry.offset_y) == (columns[0], rows[0])
    # Centred: what is filled on both sides differs by one pixel at most.
    assert abs(rows[0] - (9 - rows[-1])) <= 1 and abs(columns[0] - (19 - columns[-1])) <= 1
    covered, _ = image.resize(Resize(width=20, height=10, mode="cover", fill=7), pixels, plain(pixels))
    assert covered.shape == (10, 20, 3) and (covered == 255).all()


def test_a_cut_beyond_the_edges_is_filled():
    pixels = picture(4, 4)
    part = image.cut(pixels, -1, 2, 6, 4, 9)
    np.testing.assert_array_equal(part[:2, 1:5], pixels[2:])
    assert (part[2:] == 9).all() and (part[:, 0] == 9).all() and (part[:, 5] == 9).all()
    assert (image.cut(pixels, 10, 10, 2, 2, 5) == 5).all()
    at_corner, geometry = image.crop(Crop(width=2, height=1, left=0, top=3), pixels, plain(pixels))
    np.testing.assert_array_equal(at_corner, pixels[3:, :2])
    assert geometry.offset_y == -3


def test_parameters_of_a_card_reach_the_step():
    step = msgspec.convert({"step": "resize", "size": 5, "mode": "stretch", "filter": "nearest"}, Resize)
    pixels = picture()
    assert image.resize(step, pixels, plain(pixels))[0].shape == (5, 5, 3)


@given(st.binary(max_size=60), st.integers(0, 400), st.sampled_from(["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP"]))
def test_no_file_does_anything_but_show_or_be_refused(noise, place, form):
    whole = FILES.setdefault(form, saved(picture(), form))
    data = whole[:place] + noise + whole[place + len(noise) :]
    try:
        pixels, geometry = image.decode(DecodeImage(max_pixels=100_000), data)
    except ValueError:
        return
    assert pixels.dtype == np.uint8 and pixels.shape[2] == 3
    assert geometry.size == (pixels.shape[1], pixels.shape[0])


FILES = {}


def of_zeros(width, height):
    """A PNG of one bit a pixel: a few kilobytes for many megapixels."""
    return saved(Image.new("1", (width, height)))


def test_a_picture_inside_of_another_file_is_not_unpacked_beyond_the_limit():
    inner = of_zeros(3000, 3000)
    entry = struct.pack("<BBBBHHII", 16, 16, 0, 0, 1, 32, len(inner), 22)
    with pytest.raises(ValueError, match="larger than the 1000 pixels"):
        image.decode(DecodeImage(max_pixels=1000), struct.pack("<HHH", 0, 1, 1) + entry + inner)


def test_an_icon_is_read():
    decoded, _ = image.decode(DecodeImage(), saved(Image.new("RGB", (16, 16), "red"), "ICO"))
    assert decoded.shape == (16, 16, 3)
    assert decoded[3, 3].tolist() == [255, 0, 0]


@pytest.mark.parametrize("mode", ["cover", "shorter"])
@pytest.mark.parametrize(("width", "height"), [(1, 30000), (30000, 1)])
def test_a_picture_that_is_a_line_is_not_blown_up(mode, width, height):
    pixels, geometry = image.decode(DecodeImage(), of_zeros(width, height))
    with pytest.raises(ValueError, match=f"{width}×{height} pixels cannot become"):
        image.resize(Resize(size=224, mode=mode), pixels, geometry)


@pytest.mark.parametrize("data", [b"", b"x", b"%PDF-1.7 and more", bytes(1000)])
def test_what_is_in_no_known_format_is_said_so(data):
    with pytest.raises(ValueError, match="cannot be read: it is no PNG"):
        image.decode(DecodeImage(), data)


def test_the_first_picture_of_a_stereo_photograph_is_read():
    buffer = io.BytesIO()
    left, right = (Image.new("RGB", (24, 16), colour) for colour in ("red", "blue"))
    left.save(buffer, "MPO", save_all=True, append_images=[right])
    decoded, _ = image.decode(DecodeImage(), buffer.getvalue())
    assert decoded.shape == (16, 24, 3)
    assert decoded[8, 12, 0] > 250 and decoded[8, 12, 2] < 5
