"""Synthesised sounds to learn from, beside recordings: seeded, each with AudioSet's names for it. `speech` needs espeak-ng."""

import subprocess
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.signal
from numpy.random import Generator
from numpy.typing import NDArray

from models.audio import AudioReader
from models.errors import BadOption
from models.frontend import SAMPLE_RATE_HZ, FloatArray

Waveform = NDArray[np.floating[Any]]

LENGTH = 5 * SAMPLE_RATE_HZ
WORDS = (
    "rain",
    "wind",
    "river",
    "door",
    "hello",
    "where",
    "night",
    "house",
    "seven",
    "music",
    "train",
    "never",
    "please",
    "water",
)
VOICES = ("en-us", "en-gb", "de", "fr", "es", "it")


def _time() -> Waveform:
    return np.arange(LENGTH, dtype=np.float32) / SAMPLE_RATE_HZ


def _tone(frequency_hz: Waveform | float) -> Waveform:
    """A sine [T] whose frequency is a number or changes from sample to sample."""
    phase = 2 * np.pi * np.cumsum(np.broadcast_to(frequency_hz, LENGTH)) / SAMPLE_RATE_HZ
    return np.sin(phase)


def _silence(rng: Generator) -> Waveform:
    return np.asarray(rng.standard_normal(LENGTH) * rng.choice([0.0, 1e-5, 1e-4]))


def _sine(rng: Generator) -> Waveform:
    low_hz, high_hz = sorted(np.exp(rng.uniform(np.log(80), np.log(6000), 2)))
    if rng.random() < 0.6:
        return _tone(float(low_hz))
    return _tone(np.geomspace(low_hz, high_hz, LENGTH)[:: rng.choice([-1, 1])])


def _noise(exponent: float) -> Callable[[Generator], Waveform]:
    """Noise whose power falls with frequency to the power `exponent`: 0 white, 1 pink."""

    def make(rng: Generator) -> Waveform:
        spectrum = np.fft.rfft(rng.standard_normal(LENGTH))
        spectrum[1:] /= np.arange(1, len(spectrum)) ** (exponent / 2)
        spectrum[0] = 0
        noise = np.fft.irfft(spectrum, LENGTH)
        return np.asarray(noise / np.abs(noise).max())

    return make


def _siren(rng: Generator) -> Waveform:
    """A horn that wails, yelps or changes between two pitches (hi-lo)."""
    low_hz = rng.uniform(400, 800)
    glide = 0.5 - 0.5 * scipy.signal.sawtooth(2 * np.pi * _time() / rng.uniform(0.3, 4.0), rng.uniform(0.3, 0.7))
    if rng.random() < 0.3:
        glide = np.round(glide)
    pitch_hz = low_hz * rng.uniform(1.4, 2.6) ** glide
    return np.asarray(np.tanh(sum(_tone(pitch_hz * k) / k ** rng.uniform(0.8, 1.6) for k in range(1, 6))))


def _beeps(rng: Generator) -> Waveform:
    beep = np.tanh(rng.uniform(1, 8) * _tone(rng.uniform(700, 4000)))
    gate = scipy.signal.square(2 * np.pi * _time() * rng.uniform(1, 8), rng.uniform(0.2, 0.7)) > 0
    return np.asarray(beep * gate)


def _clicks(rng: Generator) -> Waveform:
    """Short decaying rings, even or at random."""
    count = int(rng.integers(2, 40))
    starts = np.linspace(0, LENGTH - 1600, count) if rng.random() < 0.5 else rng.uniform(0, LENGTH - 1600, count)
    ring = np.exp(-_time()[:800] / rng.uniform(0.0005, 0.006)) * _tone(rng.uniform(1000, 6000))[:800]
    click = ring + np.exp(-_time()[:800] / 0.0007) * rng.standard_normal(800)
    waveform = np.zeros(LENGTH, np.float32)
    for start in starts.astype(int):
        waveform[start : start + 800] += click * rng.uniform(0.5, 1)
    return np.asarray(waveform / max(1.0, np.abs(waveform).max()))


def _speech(rng: Generator) -> Waveform:
    """A few words by espeak-ng, in a random voice, pitch and speed."""
    words = " ".join(rng.choice(WORDS, 14))
    voice = f"{rng.choice(VOICES)}+{rng.choice(['f1', 'f2', 'f4', 'm1', 'm3', 'm7'])}"
    flags = ["-v", voice, "-p", str(rng.integers(15, 90)), "-s", str(rng.integers(110, 220)), "--stdout"]
    try:
        spoken = subprocess.run(["espeak-ng", *flags, words], capture_output=True, check=True).stdout  # noqa: S603, S607
    except FileNotFoundError as error:
        raise BadOption("speech is made by espeak-ng, which is not here: apt-get install espeak-ng") from error
    return np.resize(np.concatenate(list(AudioReader(spoken).blocks())), LENGTH)


KINDS: dict[str, Callable[[Generator], Waveform]] = {
    "Silence": _silence,
    "Sine wave": _sine,
    "White noise": _noise(0.0),
    "Pink noise": _noise(1.0),
    "Siren": _siren,
    "Beep, bleep": _beeps,
    "Clicking": _clicks,
    "Speech": _speech,
}


def synthesise(per_kind: int, seed: int) -> tuple[FloatArray, list[str]]:
    """`per_kind` sounds of each kind: waveforms [N, 80000] at 16 kHz, and AudioSet's name of each."""
    names = [name for name in KINDS for _ in range(per_kind)]
    rng = np.random.default_rng(seed)
    return np.stack([KINDS[name](rng) for name in names]).astype(np.float32), names
