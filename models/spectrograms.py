"""Three pictures of 5 s of sound that older networks were trained on: waveform [T] -> [H, W]. Knows nothing of files or networks.

`stft_picture` is what a bird-song CNN sees, `mel_picture` what a CNN for ESC-50 sees, `mel64_picture` what a ResNet-18 sees. Row 0 is the
lowest frequency, a column is a frame. YAMNet and VGGish have their own front end, models/frontend.py. librosa gives window, mel matrix
and decibels; frames go through scipy.fft in blocks that fit the cache: librosa's values, sooner.
"""

import functools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import librosa
import numpy as np
import scipy.fft
from numpy.lib.stride_tricks import sliding_window_view

from models.frontend import FloatArray

PICTURE_S = 5
TOP_DB = 80.0  # what is fainter than the maximum by more is drawn as if by just so much

STFT_RATE_HZ = 22_050
STFT_SAMPLES = PICTURE_S * STFT_RATE_HZ  # 110,250
STFT_WINDOW_SAMPLES = 430  # 19.5 ms
STFT_HOP_SAMPLES = STFT_WINDOW_SAMPLES // 2  # 50 % overlap
STFT_SHAPE = (STFT_WINDOW_SAMPLES // 2 + 1, math.ceil(STFT_SAMPLES / STFT_HOP_SAMPLES) + 1)  # 216 x 514

MEL_RATE_HZ = 44_100
MEL_SAMPLES = PICTURE_S * MEL_RATE_HZ  # 220,500
MEL_WINDOW_SAMPLES = 2048  # 46.4 ms
MEL_HOP_SAMPLES = 512  # 11.6 ms
MEL_ROWS = 128
MEL_ROWS_LOW_HZ, MEL_ROWS_HIGH_HZ = 20.0, 8300.0
MEL_SHAPE = (MEL_ROWS, MEL_SAMPLES // MEL_HOP_SAMPLES + 1)  # 128 x 431

MEL64_RATE_HZ = 22_050
MEL64_SAMPLES = PICTURE_S * MEL64_RATE_HZ  # 110,250
MEL64_ROWS = 64
MEL64_ROWS_LOW_HZ, MEL64_ROWS_HIGH_HZ = 0.0, MEL64_RATE_HZ / 2
MEL64_SHAPE = (
    MEL64_ROWS,
    MEL64_SAMPLES // MEL_HOP_SAMPLES + 1,
)  # 64 x 216; windows and hops are as many samples as above

BLOCK_FRAMES = 64  # computed at a time: fits the CPU's cache


@dataclass(frozen=True)
class Picture:
    """One kind of picture: what it is drawn from, its size [H, W], and every parameter that its values depend on.

    `draw` takes a waveform of any length at `sample_rate_hz`: a longer one is cut, a shorter one padded as its docstring says.
    """

    sample_rate_hz: int
    samples: int
    shape: tuple[int, int]
    parameters: Mapping[str, float | int | str | None]
    draw: Callable[[FloatArray], FloatArray]


def fit_length(waveform: FloatArray, samples: int, mode: Literal["zeros", "reflect"] = "zeros") -> FloatArray:
    """Waveform [T] -> its first `samples`, or, where it is shorter, padded to [samples].

    `zeros` puts silence after it. `reflect` mirrors it on both sides, as often as it takes, and leaves it in the middle; a single
    sample becomes a constant. Without any sample there is nothing to mirror: silence.
    """
    missing = samples - len(waveform)
    if missing <= 0:
        return waveform[:samples]
    if mode == "zeros" or not len(waveform):
        return np.pad(waveform, (0, missing))
    return np.pad(waveform, (missing - missing // 2, missing // 2), mode="reflect")


def stft_picture(waveform: FloatArray) -> FloatArray:
    """STFT: waveform [T] at 22.05 kHz, 5 s -> [216, 514] float32 from 0 (80 dB below the loudest cell, or fainter) to 1 (the loudest).

    The paper gives 5-s chunks at 22.05 kHz, a window of 430 samples, 50 % overlap, a logarithm, values in [0, 1] and 216 x 514. 430
    samples give 430 / 2 + 1 = 216 bins, 51.3 Hz apart; 110,250 samples are 512.8 hops of 215. Frames that are centred on each hop and
    must cover the last sample, too, are ceil(512.8) + 1 = 514: half a window of zeros before, half a window and 45 zeros after. That is
    what scipy.signal.stft does unless told otherwise; librosa leaves the last frame out (513), and without padding there are 511.

    The paper leaves open: the window's shape (here Hann, periodic), the logarithm and its floor (here decibels, 80), and what 1 stands
    for (here the chunk's own maximum, so that the recording's level does not matter). Silence is 0 everywhere. A shorter sound is
    followed by silence.
    """
    sound = fit_length(np.asarray(waveform, np.float32), STFT_SAMPLES)
    half = STFT_WINDOW_SAMPLES // 2
    padded = np.pad(sound, (half, half + -STFT_SAMPLES % STFT_HOP_SAMPLES))
    power = np.concatenate(list(_power_blocks(padded, STFT_WINDOW_SAMPLES, STFT_HOP_SAMPLES))).T
    loudest = power.max()
    if not loudest:
        return np.zeros(STFT_SHAPE, np.float32)
    level_db: FloatArray = librosa.power_to_db(power / loudest, top_db=TOP_DB)
    return np.ascontiguousarray(1 + level_db / np.float32(TOP_DB))


def mel_picture(waveform: FloatArray) -> FloatArray:
    """Mel spectrogram: waveform [T] at 44.1 kHz, 5 s -> [128, 431] float32 in dB, not scaled; 431 = 220,500 // 512 + 1.

    The ESC-50 network's parameters: librosa's melspectrogram with 2048 samples of periodic Hann every 512, centred, power, 128 Slaney
    bands from 20 to 8300 Hz, and its power_to_db: 0 dB is a power of 1, nothing is more than 80 dB below the maximum, silence is
    -100 dB. Zeros pad the first and the last frame, as in librosa since 0.9 (before, the sound was mirrored there).

    A shorter sound is mirrored on both sides; where an odd number of samples is missing, the network's own code added one more.
    """
    sound = fit_length(np.asarray(waveform, np.float32), MEL_SAMPLES, "reflect")
    return _mel_db(sound, *_mel_matrix(MEL_RATE_HZ, MEL_ROWS, MEL_ROWS_LOW_HZ, MEL_ROWS_HIGH_HZ))


def mel64_picture(waveform: FloatArray) -> FloatArray:
    """Mel spectrogram: waveform [T] at 22.05 kHz, 5 s -> [64, 216] float32 in dB, not scaled; 216 = 110,250 // 512 + 1.

    The network's description gives 64 bands at 22.05 kHz. The rest is what librosa's melspectrogram and power_to_db do unless told
    otherwise: 2048 samples of periodic Hann every 512, centred, power, Slaney bands from 0 to 11,025 Hz, 0 dB for a power of 1, nothing
    more than 80 dB below the maximum. A shorter sound is followed by silence.
    """
    sound = fit_length(np.asarray(waveform, np.float32), MEL64_SAMPLES)
    return _mel_db(sound, *_mel_matrix(MEL64_RATE_HZ, MEL64_ROWS, MEL64_ROWS_LOW_HZ, MEL64_ROWS_HIGH_HZ))


def _mel_db(sound: FloatArray, bins: slice, matrix: FloatArray) -> FloatArray:
    """Waveform [T], the spectrum's bins that are heard and their mel matrix [bins, H] -> decibels [H, W]."""
    blocks = _power_blocks(np.pad(sound, MEL_WINDOW_SAMPLES // 2), MEL_WINDOW_SAMPLES, MEL_HOP_SAMPLES, bins)
    mel = np.concatenate([power @ matrix for power in blocks])
    level_db: FloatArray = librosa.power_to_db(mel.T, top_db=TOP_DB)
    return np.ascontiguousarray(level_db)


def _power_blocks(
    padded: FloatArray, window_samples: int, hop_samples: int, bins: slice = slice(None)
) -> Iterator[FloatArray]:
    """Padded waveform [T] -> the power spectra of its frames, [f, bins] at a time."""
    frames = sliding_window_view(padded, window_samples)[::hop_samples]
    for start in range(0, len(frames), BLOCK_FRAMES):
        windows = frames[start : start + BLOCK_FRAMES] * _hann_window(window_samples)
        spectrum = scipy.fft.rfft(windows, axis=-1)[:, bins]
        yield spectrum.real**2 + spectrum.imag**2


@functools.cache
def _hann_window(samples: int) -> FloatArray:
    """Periodic Hann window [samples]."""
    from librosa.filters import get_window

    return np.asarray(get_window("hann", samples), np.float32)


@functools.cache
def _mel_matrix(rate_hz: int, rows: int, low_hz: float, high_hz: float) -> tuple[slice, FloatArray]:
    """The spectrum's bins that any band hears, and librosa's mel matrix for them, [bins, rows]."""
    from librosa.filters import mel

    matrix = mel(sr=rate_hz, n_fft=MEL_WINDOW_SAMPLES, n_mels=rows, fmin=low_hz, fmax=high_hz)
    heard = np.flatnonzero(matrix.any(axis=0))
    bins = slice(int(heard[0]), int(heard[-1]) + 1)
    return bins, np.ascontiguousarray(matrix[:, bins].T)


STFT_PICTURE = Picture(
    STFT_RATE_HZ,
    STFT_SAMPLES,
    STFT_SHAPE,
    {
        "sample_rate_hz": STFT_RATE_HZ,
        "length_s": PICTURE_S,
        "window_samples": STFT_WINDOW_SAMPLES,
        "hop_samples": STFT_HOP_SAMPLES,
        "values": "dB below the maximum, scaled to [0, 1]",
        "top_db": TOP_DB,
        "padding": "zeros",
    },
    stft_picture,
)
MEL_PICTURE = Picture(
    MEL_RATE_HZ,
    MEL_SAMPLES,
    MEL_SHAPE,
    {
        "sample_rate_hz": MEL_RATE_HZ,
        "length_s": PICTURE_S,
        "window_samples": MEL_WINDOW_SAMPLES,
        "hop_samples": MEL_HOP_SAMPLES,
        "mel_bands": MEL_ROWS,
        "mel_low_hz": MEL_ROWS_LOW_HZ,
        "mel_high_hz": MEL_ROWS_HIGH_HZ,
        "values": "dB",
        "top_db": TOP_DB,
        "padding": "reflect",
    },
    mel_picture,
)
MEL64_PICTURE = Picture(
    MEL64_RATE_HZ,
    MEL64_SAMPLES,
    MEL64_SHAPE,
    {
        "sample_rate_hz": MEL64_RATE_HZ,
        "length_s": PICTURE_S,
        "window_samples": MEL_WINDOW_SAMPLES,
        "hop_samples": MEL_HOP_SAMPLES,
        "mel_bands": MEL64_ROWS,
        "mel_low_hz": MEL64_ROWS_LOW_HZ,
        "mel_high_hz": MEL64_ROWS_HIGH_HZ,
        "values": "dB",
        "top_db": TOP_DB,
        "padding": "zeros",
    },
    mel64_picture,
)
