"""The log-mel front end that YAMNet and VGGish share: waveform at 16 kHz -> frames -> patches. Knows nothing of files, networks or HTTP.

Parameters are those of the reference implementation, github.com/tensorflow/models/tree/master/research/audioset
(yamnet/features.py, vggish/vggish_params.py): 25 ms periodic Hann windows every 10 ms, 512-point FFT, *magnitude*
spectrum, 64 triangular bands between 125 and 7500 Hz that are linear on the HTK mel scale, log(mel + offset).
"""

import functools
import math

import numpy as np
import scipy.fft
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]

SAMPLE_RATE_HZ = 16_000
WINDOW_SAMPLES = 400  # 25 ms
HOP_SAMPLES = 160  # 10 ms
HOP_S = HOP_SAMPLES / SAMPLE_RATE_HZ
FRAME_REST_S = (WINDOW_SAMPLES - HOP_SAMPLES) / SAMPLE_RATE_HZ  # 15 ms, by which a frame's window outlasts its hop
FFT_SIZE = 512
MEL_BANDS = 64
MEL_LOW_HZ = 125.0
MEL_HIGH_HZ = 7500.0
YAMNET_OFFSET = 0.001
VGGISH_OFFSET = 0.01

TAIL_FRAMES = 2  # beyond the frames that cover a sound: they begin in its last samples, and pad its last patch

PATCH_FRAMES = 96
PATCH_S = PATCH_FRAMES * HOP_S  # 0.96 s
PATCH_HOP_S = 0.48  # YAMNet's; VGGish's patches do not overlap

BLOCK_FRAMES = (
    128  # computed at a time: fits the CPU's cache, and makes a frame's value independent of the blocks it came in
)
BLOCK_SAMPLES = BLOCK_FRAMES * HOP_SAMPLES


def hz_to_mel(frequency_hz: NDArray[np.float64]) -> NDArray[np.float64]:
    """HTK mel scale: 1127 ln(1 + f / 700) (The HTK Book, section 5.6)."""
    return 1127.0 * np.log1p(frequency_hz / 700.0)


@functools.cache
def mel_matrix() -> FloatArray:
    """Magnitude spectrum [257] -> mel bands [64], as a matrix [257, 64]; triangles are linear in mel, the DC bin is zero."""
    bins_mel = hz_to_mel(np.linspace(0.0, SAMPLE_RATE_HZ / 2, FFT_SIZE // 2 + 1))[:, np.newaxis]
    low_mel, high_mel = hz_to_mel(np.array([MEL_LOW_HZ, MEL_HIGH_HZ]))
    edges_mel = np.linspace(low_mel, high_mel, MEL_BANDS + 2)
    lower, center, upper = edges_mel[:-2], edges_mel[1:-1], edges_mel[2:]
    rising = (bins_mel - lower) / (center - lower)
    falling = (upper - bins_mel) / (upper - center)
    matrix = np.maximum(0.0, np.minimum(rising, falling))
    matrix[0] = 0.0
    return np.asarray(matrix, np.float32)


@functools.cache
def hann_window() -> FloatArray:
    """Periodic Hann window [400]."""
    phase = 2 * np.pi * np.arange(WINDOW_SAMPLES) / WINDOW_SAMPLES
    return (0.5 - 0.5 * np.cos(phase)).astype(np.float32)


@functools.cache
def _audible_bins() -> tuple[slice, FloatArray]:
    """The spectrum's bins that any band hears, and the matrix's rows for them."""
    heard = np.flatnonzero(mel_matrix().any(axis=1))
    bins = slice(int(heard[0]), int(heard[-1]) + 1)
    return bins, np.ascontiguousarray(mel_matrix()[bins])


def frame_count(samples: int) -> int:
    """How many frames a waveform of so many samples gives: those that cover it, at least one, and the tail."""
    return 1 + math.ceil(max(samples - WINDOW_SAMPLES, 0) / HOP_SAMPLES) + TAIL_FRAMES


def _log_mel_of_windows(windows: FloatArray, offset: float) -> FloatArray:
    """Windows of samples [F, 400] -> log-mel [F, 64]."""
    bins, matrix = _audible_bins()
    spectrum = scipy.fft.rfft(windows * hann_window(), FFT_SIZE, axis=-1)[:, bins]
    mel = np.abs(spectrum) @ matrix
    mel += np.float32(offset)
    return np.log(mel, out=mel)


class LogMelStream:
    """Log-mel of a waveform that comes in blocks: bit for bit the same frames, whatever the blocks.

    `push` takes samples [n] and gives the frames that are ready, [f, 64]; `finish` gives the rest, padded with zeros.
    """

    def __init__(self, offset: float = YAMNET_OFFSET) -> None:
        self._offset = offset
        self._rest: FloatArray = np.empty(0, np.float32)
        self._frames = 0

    def push(self, samples: FloatArray) -> FloatArray:
        """Samples [n] -> the frames that are ready [f, 64], in whole blocks; f may be 0."""
        waveform = np.concatenate([self._rest, samples]) if len(self._rest) else samples
        blocks = max(0, (len(waveform) - (WINDOW_SAMPLES - HOP_SAMPLES)) // BLOCK_SAMPLES)
        self._rest = waveform[blocks * BLOCK_SAMPLES :].copy()
        self._frames += blocks * BLOCK_FRAMES
        return self._log_mel(waveform, blocks)

    def finish(self) -> FloatArray:
        """The frames [f, 64] over the samples that are left; a waveform without samples gives frame_count(0)."""
        missing = frame_count(len(self._rest))
        if self._frames:  # earlier frames cover the first 240 samples of the rest
            missing = 1 + math.ceil((len(self._rest) - WINDOW_SAMPLES) / HOP_SAMPLES) + TAIL_FRAMES
        blocks = math.ceil(missing / BLOCK_FRAMES)
        padded = np.zeros(blocks * BLOCK_SAMPLES + WINDOW_SAMPLES - HOP_SAMPLES, np.float32)
        padded[: len(self._rest)] = self._rest
        return self._log_mel(padded, blocks)[:missing]

    def _log_mel(self, waveform: FloatArray, blocks: int) -> FloatArray:
        frames = np.empty((blocks * BLOCK_FRAMES, MEL_BANDS), np.float32)
        if blocks:
            windows = sliding_window_view(waveform, WINDOW_SAMPLES)[::HOP_SAMPLES]
            for start in range(0, len(frames), BLOCK_FRAMES):
                block = slice(start, start + BLOCK_FRAMES)
                frames[block] = _log_mel_of_windows(windows[block], self._offset)
        return frames


def log_mel(waveform: FloatArray, offset: float = YAMNET_OFFSET) -> FloatArray:
    """Log-mel: waveform [T] at 16 kHz -> [F, 64], one frame per 10 ms; the last frames are padded with zeros."""
    stream = LogMelStream(offset)
    return np.concatenate([stream.push(np.asarray(waveform, np.float32)), stream.finish()])


def with_offset(frames: FloatArray, old: float, new: float) -> FloatArray:
    """Log-mel [F, 64] made with one offset -> the same frames with another: log(exp(x) - old + new)."""
    if old == new:
        return frames
    mel = np.maximum(np.exp(frames) - np.float32(old), 0)
    return np.log(mel + np.float32(new))


def hop_frames(hop_s: float) -> int:
    """A hop between patches in seconds -> in frames of 10 ms; at least one."""
    return max(1, round(hop_s / HOP_S))


def patch_count(frames: int, hop: int, length: int = PATCH_FRAMES) -> int:
    """How many patches of `length` frames cover a sound of so many frames, `hop` frames apart; at least one."""
    return 1 + math.ceil(max(frames - TAIL_FRAMES - length, 0) / hop)


def split_patches(
    frames: FloatArray, hop: int, offset: float, count: int | None = None, length: int = PATCH_FRAMES
) -> FloatArray:
    """Log-mel [F, 64] -> its first `count` patches [P, length, 64] (all, by default), `hop` frames apart.

    Where the frames end before the last patch does, silence follows: log(offset).
    """
    count = count or patch_count(len(frames), hop, length)
    missing = (count - 1) * hop + length - len(frames)
    if missing > 0:
        silence = np.full((missing, MEL_BANDS), np.log(np.float32(offset)), np.float32)
        frames = np.concatenate([frames, silence])
    return sliding_window_view(frames, length, axis=0)[::hop][:count].transpose(0, 2, 1)
