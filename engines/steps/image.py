"""Images: a value is [height, width, channels], and what was done to its coordinates goes with it."""

import io
import warnings

import numpy as np

from engines.card import Crop, DecodeImage, Resize
from engines.engine import EngineError
from engines.steps.geometry import Geometry

try:
    from PIL import Image, ImageOps, UnidentifiedImageError
except ImportError as error:
    raise EngineError(
        "missing_library",
        f"images need Pillow, which this runtime lacks: {error}",
        hint="pilothouse runtime install onnxruntime-cpu (again), or pip install pillow",
    ) from None

#: Formats that Pillow reads itself; others start programs or fetch (EPS) or are not pictures.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "TGA", "ICO", "JPEG2000", "AVIF")
#: A picture is not made larger than this: one that is a pixel wide and very long would be.
MOST_RESIZED = 64 << 20


def decode(step: DecodeImage, data: bytes) -> tuple[np.ndarray, Geometry]:
    """Raises `ValueError`: not an image, broken, too large."""
    # A format that holds a file of another one (ICO) unpacks it when it is opened: Pillow refuses twice this limit.
    Image.MAX_IMAGE_PIXELS = step.max_pixels
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(io.BytesIO(data), formats=FORMATS) as image:
            width, height = image.size
            if width * height > step.max_pixels:
                raise _too_large(step, f" ({width}×{height})")
            pixels = np.asarray(_opaque(ImageOps.exif_transpose(image), step))
    except ValueError:
        raise
    except UnidentifiedImageError:
        raise ValueError("this image cannot be read: it is no PNG, JPEG, WebP, GIF, BMP, TIFF, …") from None
    except Image.DecompressionBombError:
        raise _too_large(step) from None
    except Exception as error:  # Pillow raises OSError, SyntaxError, struct.error and more for broken files
        raise ValueError(f"this image cannot be read: {' '.join(str(error).split())[:200]}") from None
    pixels = pixels.reshape(*pixels.shape[:2], -1)
    if step.mode == "BGR":
        pixels = np.ascontiguousarray(pixels[..., ::-1])
    size = (pixels.shape[1], pixels.shape[0])
    return pixels, Geometry(size, size)


def _too_large(step: DecodeImage, size: str = "") -> ValueError:
    return ValueError(f"the image is larger{size} than the {step.max_pixels} pixels that are read")


def _opaque(image: Image.Image, step: DecodeImage) -> Image.Image:
    mode = "L" if step.mode == "L" else "RGB"
    if image.mode.startswith("I;16") or image.mode == "I":  # 16 bits of grey, which convert() would cut off at 255
        image = Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).clip(0, 255).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        ground = Image.new("RGBA", image.size, (step.background,) * 3 + (255,))
        image = Image.alpha_composite(ground, image)
    return image.convert(mode)


def resize(step: Resize, pixels: np.ndarray, geometry: Geometry) -> tuple[np.ndarray, Geometry]:
    height, width = pixels.shape[:2]
    wide, high = step.width or step.size, step.height or step.size
    if step.mode == "stretch":
        return _scale(step, pixels, wide, high), geometry.resized(wide, high)
    if step.mode == "shorter":
        # As torchvision's Resize: the longer side is cut off, not rounded.
        short = min(width, height)
        new = (int(wide * width / short), int(wide * height / short))
        return _scale(step, pixels, *new), geometry.resized(*new)
    shares = (wide / width, high / height)
    share = max(shares) if step.mode == "cover" else min(shares)
    new_width, new_height = max(1, round(width * share)), max(1, round(height * share))
    pixels, geometry = _scale(step, pixels, new_width, new_height), geometry.resized(new_width, new_height)
    # (-1 // 2 is -1: an odd pixel too few or too many is at the right and at the bottom.)
    left, top = -((wide - new_width) // 2), -((high - new_height) // 2)
    return cut(pixels, left, top, wide, high, step.fill), geometry.moved(left, top, wide, high)


def crop(step: Crop, pixels: np.ndarray, geometry: Geometry) -> tuple[np.ndarray, Geometry]:
    wide, high = step.width or step.size, step.height or step.size
    # As torchvision's CenterCrop, which rounds half to even.
    left = step.left if step.left is not None else round((pixels.shape[1] - wide) / 2)
    top = step.top if step.top is not None else round((pixels.shape[0] - high) / 2)
    return cut(pixels, left, top, wide, high, step.fill), geometry.moved(left, top, wide, high)


def cut(pixels: np.ndarray, left: int, top: int, width: int, height: int, fill: float) -> np.ndarray:
    """The part that begins at (left, top); what is beyond the edges is ``fill``."""
    if left >= 0 and top >= 0 and left + width <= pixels.shape[1] and top + height <= pixels.shape[0]:
        return pixels[top : top + height, left : left + width]
    canvas = np.full((height, width, pixels.shape[2]), fill, pixels.dtype)
    x0, y0 = max(0, left), max(0, top)
    part = pixels[y0 : max(0, top + height), x0 : max(0, left + width)]
    canvas[y0 - top : y0 - top + part.shape[0], x0 - left : x0 - left + part.shape[1]] = part
    return canvas


def _scale(step: Resize, pixels: np.ndarray, width: int, height: int) -> np.ndarray:
    if pixels.shape[:2] == (height, width):
        return pixels
    if not 0 < width * height <= MOST_RESIZED:
        raise ValueError(f"an image of {pixels.shape[1]}×{pixels.shape[0]} pixels cannot become {width}×{height}")
    resample = Image.Resampling[step.filter.upper()]
    if pixels.dtype == np.uint8 and pixels.shape[2] in (1, 3):
        image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
        return np.asarray(image.resize((width, height), resample)).reshape(height, width, -1)
    planes = [
        np.asarray(Image.fromarray(plane.astype(np.float32)).resize((width, height), resample))
        for plane in np.moveaxis(pixels, 2, 0)
    ]
    return np.stack(planes, axis=2)
