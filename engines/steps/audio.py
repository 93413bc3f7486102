"""Sound: samples out of a file, at the rate that a model wants, in pieces."""

import math
import struct
from functools import lru_cache

import numpy as np

from engines.card import DecodeAudio, Frame, MelSpectrogram
from engines.steps.feeds import to_float32

_ENCODINGS = {(1, 8): "u8", (1, 16): "s16", (1, 24): "s24", (1, 32): "s32", (3, 32): "f32", (3, 64): "f64"}
_SAMPLE_BYTES = {"u8": 1, "s16": 2, "s24": 3, "s32": 4, "f32": 4, "f64": 8}
#: What a file may claim; beyond it is a broken header, or somebody who wants to see how long a filter can get.
RATES, MAX_CHANNELS = (100, 768_000), 64
#: Zero crossings of the low-pass filter on each side, and the shape of its Kaiser window (about 90 dB).
_CROSSINGS, _KAISER_BETA = 32, 9.0


def decode(step: DecodeAudio, data: bytes) -> np.ndarray:
    """FP32 [samples], or [channels, samples]. Raises `ValueError`."""
    if step.encoding == "wav":
        encoding, rate, channels, data = parse_wav(data)
    else:
        encoding, rate, channels = step.encoding, step.raw_rate, step.raw_channels
    frame_bytes = _SAMPLE_BYTES[encoding] * channels
    frames = len(data) // frame_bytes
    if step.encoding != "wav" and len(data) % frame_bytes:
        raise ValueError(f"{len(data)} bytes are not a whole number of samples of {frame_bytes} bytes")
    if frames > step.max_seconds * rate:
        raise ValueError(f"the sound is {frames / rate:.1f} s long, at most {step.max_seconds:g} s are taken")
    samples = _samples(encoding, data[: frames * frame_bytes]).reshape(frames, channels)
    if encoding[0] == "f" and not np.isfinite(samples).all():
        raise ValueError("the sound has samples that are no numbers")
    sound = samples.mean(axis=1, dtype=np.float32) if step.mono else np.ascontiguousarray(samples.T)
    return resample(sound, rate, step.rate) if step.rate and rate != step.rate else sound


def parse_wav(data: bytes) -> tuple[str, int, int, bytes]:
    """Encoding, samples a second, channels and sample data of a RIFF WAVE file. Raises `ValueError`."""
    if len(data) < 12 or data[:4] != b"RIFF" or data[8:12] != b"WAVE":
        raise ValueError("this is not a WAV file")
    position, layout = 12, None
    while position + 8 <= len(data):
        name, size = data[position : position + 4], struct.unpack_from("<I", data, position + 4)[0]
        body = data[position + 8 : position + 8 + size]
        if name == b"fmt ":
            layout = _layout(body)
        elif name == b"data":
            if layout is None:
                raise ValueError("the WAV file has samples before their description")
            return *layout, body  # a recorder that was cut off leaves too large a size: what is there counts
        position += 8 + size + size % 2
    raise ValueError("the WAV file has no samples")


def _layout(body: bytes) -> tuple[str, int, int]:
    if len(body) < 16:
        raise ValueError("the WAV file's description is cut off")
    kind, channels, rate, _, _, bits = struct.unpack_from("<HHIIHH", body)
    if kind == 0xFFFE and len(body) >= 26:  # WAVE_FORMAT_EXTENSIBLE: the real kind begins its GUID
        (kind,) = struct.unpack_from("<H", body, 24)
    if (kind, bits) not in _ENCODINGS:
        raise ValueError(f"WAV files of format {kind} with {bits} bits are not read: use PCM or float")
    if not 1 <= channels <= MAX_CHANNELS or not RATES[0] <= rate <= RATES[1]:
        raise ValueError(f"the WAV file claims {channels} channels at {rate} Hz")
    return _ENCODINGS[kind, bits], rate, channels


def _samples(encoding: str, data: bytes) -> np.ndarray:
    match encoding:
        case "u8":
            return (np.frombuffer(data, np.uint8).astype(np.float32) - 128) / 128
        case "s16":
            return np.frombuffer(data, "<i2").astype(np.float32) / (1 << 15)
        case "s24":
            wide = np.zeros((len(data) // 3, 4), np.uint8)
            wide[:, 1:] = np.frombuffer(data, np.uint8).reshape(-1, 3)  # the upper three bytes keep the sign
            return (wide.view("<i4")[:, 0] / (1 << 31)).astype(np.float32)
        case "s32":
            return (np.frombuffer(data, "<i4") / (1 << 31)).astype(np.float32)
        case "f32":
            return np.frombuffer(data, "<f4").astype(np.float32)
        case _:
            with np.errstate(over="ignore"):
                return np.frombuffer(data, "<f8").astype(np.float32)


def resample(sound: np.ndarray, rate: int, new_rate: int) -> np.ndarray:
    """The last axis at another rate, FP32, ceil(samples × new_rate / rate) long: a windowed-sinc low-pass below half of
    the lower rate, evaluated for each phase once (J. O. Smith, Digital Audio Resampling)."""
    if sound.ndim > 1:
        return np.stack([resample(channel, rate, new_rate) for channel in sound])
    divisor = math.gcd(rate, new_rate)
    up, down = new_rate // divisor, rate // divisor
    length = -(-len(sound) * up // down)
    cutoff = min(1.0, up / down)
    half = math.ceil(_CROSSINGS / cutoff)
    padded = np.pad(sound.astype(np.float32), (half, half + down))
    windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * half + 1)
    result = np.empty(length, np.float32)
    for phase in range(min(up, length)):
        # Output phase + k·up is at input (phase + k·up)·down/up = start + k·down, and a part of a sample.
        start, part = divmod(phase * down, up)
        count = -(-(length - phase) // up)
        result[phase::up] = windows[start::down][:count] @ _taps(part / up, cutoff, half)
    return result


@lru_cache(maxsize=2048)
def _taps(part: float, cutoff: float, half: int) -> np.ndarray:
    """The low-pass for a point that is ``part`` of a sample after the middle, FP32 [2 × half + 1]."""
    offsets = np.arange(-half, half + 1) - part
    taps = np.sinc(cutoff * offsets) * np.interp(np.abs(offsets) / (half + 1), *_kaiser())
    return (taps / taps.sum()).astype(np.float32)


@lru_cache(maxsize=1)
def _kaiser() -> tuple[np.ndarray, np.ndarray]:
    """The right half of the window, 0 to 1: the Bessel function is too slow for every phase of an odd rate."""
    places = np.linspace(0, 1, 4097)
    return places, np.i0(_KAISER_BETA * np.sqrt(1 - places**2))


def frame(step: Frame, sound: np.ndarray) -> np.ndarray:
    """[samples] -> [frames, size]. Raises `ValueError` where there is not one frame."""
    hop = step.hop or step.size
    sound = np.pad(sound, (step.pad_start, 0))
    beyond = len(sound) - step.size
    count = (-(-beyond // hop) if step.pad_end else beyond // hop) + 1
    if step.pad_end and len(sound):
        count = max(1, count)
        sound = np.pad(sound, (0, max(0, (count - 1) * hop + step.size - len(sound))))
    if count < 1 or not len(sound):
        raise ValueError(f"the sound has {len(sound)} samples, a frame {step.size}")
    return np.lib.stride_tricks.sliding_window_view(sound, step.size)[::hop][:count]


def mel_spectrogram(step: MelSpectrogram, sound: np.ndarray) -> np.ndarray:
    """FP32 [mels, frames]."""
    half = step.fft_size // 2
    sound = to_float32(sound)
    if step.center:
        sound = np.pad(sound, half, mode="reflect" if len(sound) > half else "constant")
    if len(sound) < step.fft_size:
        sound = np.pad(sound, (0, step.fft_size - len(sound)))
    frames = np.lib.stride_tricks.sliding_window_view(sound, step.fft_size)[:: step.hop]
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(step.fft_size) / step.fft_size)
    power = np.abs(np.fft.rfft(frames * window, axis=1)) ** 2
    bands = power @ mel_filters(step.rate, step.fft_size, step.mels, step.min_hz, step.max_hz, step.scale).T
    if step.log != "none":
        bands = np.log(np.maximum(bands, step.floor))
        if step.log == "decibel":
            bands *= 10 / np.log(10)
    return to_float32(bands.T)


@lru_cache(maxsize=8)
def mel_filters(rate: int, fft_size: int, mels: int, min_hz: float, max_hz: float, scale: str) -> np.ndarray:
    """Triangles [mels, fft_size // 2 + 1] whose corners are equally far apart on the mel scale."""
    top = max_hz or rate / 2
    corners = _mel_to_hz(np.linspace(_hz_to_mel(min_hz, scale), _hz_to_mel(top, scale), mels + 2), scale)
    hz = np.fft.rfftfreq(fft_size, 1 / rate)
    low, middle, high = corners[:-2, None], corners[1:-1, None], corners[2:, None]
    triangles = np.maximum(0, np.minimum((hz - low) / (middle - low), (high - hz) / (high - middle)))
    return triangles * 2 / (high - low) if scale == "slaney" else triangles


def _hz_to_mel(hz: float, scale: str) -> float:
    if scale == "htk":
        return 2595 * math.log10(1 + hz / 700)
    return hz * 3 / 200 if hz < 1000 else 15 + math.log(hz / 1000) * 27 / math.log(6.4)


def _mel_to_hz(mel: np.ndarray, scale: str) -> np.ndarray:
    if scale == "htk":
        return 700 * (10 ** (mel / 2595) - 1)
    return np.where(mel < 15, mel * 200 / 3, 1000 * np.exp((mel - 15) * math.log(6.4) / 27))
