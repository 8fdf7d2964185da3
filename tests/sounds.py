"""Sounds made for tests."""

import io

import numpy as np
import soundfile
from numpy.typing import NDArray

RATE_HZ = 16_000


def tone(frequency_hz: float, seconds: float = 1.0, rate_hz: int = RATE_HZ, level: float = 0.5) -> NDArray[np.float32]:
    """A sine [T]."""
    return (level * np.sin(2 * np.pi * frequency_hz * np.arange(int(seconds * rate_hz)) / rate_hz)).astype(np.float32)


def silence(seconds: float = 1.0, rate_hz: int = RATE_HZ) -> NDArray[np.float32]:
    """Zeros [T]."""
    return np.zeros(int(seconds * rate_hz), np.float32)


def encode(
    samples: NDArray[np.float32], rate_hz: int = RATE_HZ, container: str = "WAV", subtype: str | None = None
) -> bytes:
    """Samples [T] or [T, channels] -> a file's bytes."""
    stream = io.BytesIO()
    soundfile.write(stream, samples, rate_hz, format=container, subtype=subtype)
    return stream.getvalue()
