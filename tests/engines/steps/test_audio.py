"""Sound, against the standard library's WAV writer, scipy's resampler and formulas of sines."""

import io
import struct
import wave

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.io import wavfile
from scipy.signal import resample_poly, stft

from engines.card import DecodeAudio, Frame, MelSpectrogram
from engines.steps import audio

NOISE = np.random.default_rng(3).uniform(-0.9, 0.9, 4000)


def tone(hz, rate, seconds=1.0):
    return np.sin(2 * np.pi * hz * np.arange(int(rate * seconds)) / rate).astype(np.float32)


def pcm(samples, bits, rate=16000, channels=1):
    """By the standard library, from integers."""
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as writer:
        writer.setparams((channels, bits // 8, rate, 0, "NONE", ""))
        writer.writeframes(b"".join(int(value).to_bytes(bits // 8, "little", signed=True) for value in samples))
    return buffer.getvalue()


@pytest.mark.parametrize("bits", [16, 24, 32])
def test_whole_numbers_of_every_width_are_read(bits):
    values = [0, 1, -1, (1 << bits - 1) - 1, -(1 << bits - 1), 12345, -23456]
    decoded = audio.decode(DecodeAudio(), pcm(values, bits))
    np.testing.assert_allclose(decoded, np.array(values) / (1 << bits - 1), atol=2**-24)
    assert decoded.dtype == np.float32


def test_eight_bits_are_unsigned():
    """128 is silence. (As signed numbers 0, -128, -1 and 1 are the bytes 0, 128, 255 and 1.)"""
    decoded = audio.decode(DecodeAudio(), pcm([0, -128, -1, 1], 8))
    assert decoded.tolist() == [-1, 0, 127 / 128, -127 / 128]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_floats_are_read_as_another_library_wrote_them(dtype):
    buffer = io.BytesIO()
    wavfile.write(buffer, 16000, NOISE.astype(dtype))
    np.testing.assert_array_equal(audio.decode(DecodeAudio(), buffer.getvalue()), NOISE.astype(np.float32))


def test_an_extensible_file_with_other_chunks_is_read():
    layout = struct.pack("<HHIIHHHHI", 0xFFFE, 2, 16000, 64000, 4, 16, 22, 16, 3) + struct.pack("<H", 1) + bytes(14)
    frames = struct.pack("<4h", 16384, 0, -16384, -32768)
    chunks = [(b"LIST", b"odd"), (b"fmt ", layout), (b"data", frames)]
    body = b"".join(name + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2) for name, data in chunks)
    data = b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WAVE" + body
    assert audio.decode(DecodeAudio(), data).tolist() == [0.25, -0.75]
    assert audio.decode(DecodeAudio(mono=False), data).tolist() == [[0.5, -0.5], [0, -1]]


def test_raw_samples_are_what_the_card_says():
    step = DecodeAudio(rate=0, encoding="s16", raw_rate=8000, raw_channels=2)
    assert audio.decode(step, struct.pack("<4h", 16384, 0, -16384, -32768)).tolist() == [0.25, -0.75]
    with pytest.raises(ValueError, match="7 bytes are not a whole number of samples of 4 bytes"):
        audio.decode(step, b"1234567")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "not a WAV file"),
        (b"ID3 and the rest of an MP3", "not a WAV file"),
        (pcm([1], 16)[:30], "cut off"),
        (pcm([1], 16)[:36], "no samples"),
        (pcm([1], 16).replace(b"\x10\0data", b"\x0c\0data"), "with 12 bits"),
        (pcm([1], 16, rate=1).replace(struct.pack("<II", 1, 2), bytes(8)), "0 Hz"),
    ],
)
def test_what_cannot_be_read_is_said(data, words):
    with pytest.raises(ValueError, match=words):
        audio.decode(DecodeAudio(), data)


def test_a_recording_that_was_cut_off_still_counts_and_a_long_one_does_not():
    cut = pcm([1, 2, 3, 4], 16)[:-3]
    assert len(audio.decode(DecodeAudio(), cut)) == 2
    with pytest.raises(ValueError, match=r"2\.0 s long, at most 1\.5 s"):
        audio.decode(DecodeAudio(max_seconds=1.5), pcm(np.zeros(32000, int), 16))


@pytest.mark.parametrize(
    ("rate", "new_rate"), [(44100, 16000), (48000, 16000), (8000, 16000), (22050, 16000), (16000, 44100), (11025, 8000)]
)
def test_a_tone_keeps_its_pitch_its_loudness_and_its_place(rate, new_rate):
    hz = 1000
    heard = audio.resample(tone(hz, rate), rate, new_rate)
    assert len(heard) == -(-rate * new_rate // rate)
    middle = slice(new_rate // 10, -new_rate // 10)
    np.testing.assert_allclose(heard[middle], tone(hz, new_rate)[middle], atol=2e-4)
    other = resample_poly(tone(hz, rate), new_rate, rate)
    np.testing.assert_allclose(heard[middle], other[: len(heard)][middle], atol=2e-3)


def test_what_the_lower_rate_cannot_hold_is_gone_instead_of_folded_back():
    """7 kHz sampled at 8 kHz would be heard at 1 kHz."""
    heard = audio.resample(tone(7000, 48000), 48000, 8000)
    assert np.abs(heard[800:-800]).max() < 1e-3
    np.testing.assert_allclose(audio.resample(np.ones(4000, np.float32), 44100, 16000)[200:-200], 1, atol=1e-5)


def test_decoding_resamples_each_channel():
    left, right = tone(440, 44100), tone(880, 44100)
    buffer = io.BytesIO()
    wavfile.write(buffer, 44100, np.stack([left, right], axis=1))
    both = audio.decode(DecodeAudio(mono=False), buffer.getvalue())
    np.testing.assert_array_equal(both[0], audio.resample(left, 44100, 16000))
    assert both.shape == (2, 16000)
    mixed = audio.decode(DecodeAudio(), buffer.getvalue())
    np.testing.assert_allclose(mixed, both.mean(axis=0), atol=1e-6)


def test_frames_begin_a_hop_apart():
    sound = np.arange(10, dtype=np.float32)
    assert audio.frame(Frame(size=4), sound).tolist() == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 0, 0]]
    assert audio.frame(Frame(size=4, pad_end=False), sound).tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert audio.frame(Frame(size=4, hop=3), sound).tolist() == [[0, 1, 2, 3], [3, 4, 5, 6], [6, 7, 8, 9]]
    assert audio.frame(Frame(size=4, hop=2, pad_start=2), sound[:4]).tolist() == [[0, 0, 0, 1], [0, 1, 2, 3]]
    assert audio.frame(Frame(size=20), sound).shape == (1, 20)
    for step, samples in ((Frame(size=20, pad_end=False), sound), (Frame(size=4), sound[:0])):
        with pytest.raises(ValueError, match="samples, a frame"):
            audio.frame(step, samples)


def test_the_power_of_frames_is_scipys():
    step = MelSpectrogram(mels=40, log="none")
    sound = tone(1000, 16000, 0.25) + 0.1 * NOISE.astype(np.float32)
    found = audio.mel_spectrogram(step, sound)
    mirrored = np.pad(sound, 200, mode="reflect")
    options = {"boundary": None, "padded": False, "scaling": "psd"}
    _, _, spectrum = stft(mirrored, window="hann", nperseg=400, noverlap=240, **options)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)
    power = np.abs(spectrum) ** 2 * (window**2).sum()
    filters = audio.mel_filters(16000, 400, 40, 0.0, 0.0, "slaney")
    np.testing.assert_allclose(found, filters @ power, rtol=1e-3, atol=1e-5)
    assert found.shape == (40, 26) and found.dtype == np.float32


def test_mel_scales_are_the_published_ones():
    """O'Shaughnessy's formula puts 1000 Hz at 1000 mel (HTK); Slaney's is linear up to 1000 Hz = 15 and has 27 steps up
    to 6400 Hz."""
    assert audio._hz_to_mel(1000, "htk") == pytest.approx(1000, abs=0.1)
    assert audio._hz_to_mel(1000, "slaney") == 15 and audio._hz_to_mel(6400, "slaney") == pytest.approx(42)
    for scale in ("htk", "slaney"):
        hz = np.array([0.0, 200.0, 999.0, 1001.0, 7600.0])
        mels = np.array([audio._hz_to_mel(float(value), scale) for value in hz])
        np.testing.assert_allclose(audio._mel_to_hz(mels, scale), hz, atol=1e-9)
    areas = audio.mel_filters(16000, 4096, 40, 0.0, 8000.0, "slaney").sum(axis=1) * 16000 / 4096
    np.testing.assert_allclose(areas, 1, rtol=0.02)


def test_logarithms_have_a_floor():
    silent = np.zeros(1600, np.float32)
    assert audio.mel_spectrogram(MelSpectrogram(log="natural"), silent).max() == pytest.approx(np.log(1e-10), rel=1e-6)
    assert audio.mel_spectrogram(MelSpectrogram(log="decibel"), silent).max() == pytest.approx(-100)
    assert audio.mel_spectrogram(MelSpectrogram(center=False), silent[:10]).shape == (80, 1)


@given(st.binary(max_size=80), st.binary(max_size=30))
def test_no_file_does_anything_but_sound_or_be_refused(layout, samples):
    chunks = b"fmt " + struct.pack("<I", len(layout)) + layout + b"data" + struct.pack("<I", len(samples)) + samples
    for data in (layout, b"RIFF\0\0\0\0WAVE" + chunks, pcm([1, 2, 3], 16)[: len(layout)] + samples):
        try:
            sound = audio.decode(DecodeAudio(), data)
        except ValueError:
            continue
        assert sound.ndim == 1 and sound.dtype == np.float32


def test_odd_rates_cost_little():
    """No phase of the filter is used twice."""
    heard = audio.resample(tone(440, 44101, 0.3), 44101, 16000)
    np.testing.assert_allclose(heard[800:4000], tone(440, 16000)[800:4000], atol=2e-4)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
@pytest.mark.parametrize("encoding", ["f32", "f64"])
def test_samples_that_are_no_numbers_are_refused(encoding, value):
    with np.errstate(over="ignore"):
        data = np.array([0, value]).astype("<f4" if encoding == "f32" else "<f8").tobytes()
    with pytest.raises(ValueError, match="no numbers"):
        audio.decode(DecodeAudio(encoding=encoding), data)
