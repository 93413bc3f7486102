"""A voice that a speech detector takes for one: a buzz with a moving pitch through the resonances of three vowels."""

import numpy as np

RATE = 16000
#: Of a, i, u: (frequency, bandwidth) in Hz; Peterson and Barney (1952), men.
_FORMANTS = (
    ((730, 90), (1090, 110), (2440, 170)),
    ((270, 60), (2290, 100), (3010, 200)),
    ((300, 60), (870, 90), (2240, 170)),
)


def voice(syllables: int = 4) -> np.ndarray:
    """FP32, 16 kHz, a quarter of a second for each syllable; silero-vad is sure of it from the second one on."""
    parts = []
    for index in range(syllables):
        sound = _vowel(_FORMANTS[index % 3], samples=3200)
        parts += [np.hanning(3200) ** 0.3 * sound / np.abs(sound).max(), np.zeros(800)]
    return (0.3 * np.concatenate(parts)).astype(np.float32)


def _vowel(formants: tuple[tuple[int, int], ...], samples: int) -> np.ndarray:
    time_s = np.arange(samples) / RATE
    pitch_hz = 130 * (1 + 0.08 * np.sin(2 * np.pi * 2.5 * time_s))
    sound = np.diff(np.floor(np.cumsum(pitch_hz) / RATE), prepend=0.0)
    for frequency, bandwidth in formants:
        radius = np.exp(-np.pi * bandwidth / RATE)
        first, second = 2 * radius * np.cos(2 * np.pi * frequency / RATE), -radius * radius
        before = last = 0.0
        for index in range(samples):
            before, last = last, sound[index] + first * last + second * before
            sound[index] = last
    return sound
