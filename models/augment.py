"""Changes to sounds that keep their label, for training: pure functions of a waveform [T] or a log-mel [..., F, M], and how to chain them.

Effects take their parameters, and the same parameters give the same result bit for bit. What is random takes a numpy Generator, never a
global seed. No input is changed in place. Needs no torch, so that the processes that load data stay small. Sums are not clipped: float
waveforms may exceed 1. Knows nothing of files, data sets or networks.
"""

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy
from numpy.random import Generator

from models.errors import BadOption
from models.frontend import SAMPLE_RATE_HZ, FloatArray

Augmentation = Callable[[FloatArray, Generator], FloatArray]
Draw = Callable[[Generator], Any]

MAX_LEVEL_DB = 120.0  # beyond it, float32 keeps nothing of the fainter sound
MAX_SHIFT_S = 86_400.0  # a day
MAX_SEMITONES = 24.0  # two octaves
MAX_STRETCH = 4.0
MAX_ALPHA = 1e3  # Beta(1000, 1000) is a half for any practical purpose
MAX_MASK = 10_000  # masks, bands or frames
VOCODER_SAMPLES = 2048  # librosa's window: what is shorter is padded to it


def _check(name: str, value: float, low: float, high: float) -> None:
    """Raises BadOption for a value outside the range, and for NaN."""
    if not low <= value <= high:
        raise BadOption(f"{name} is {value}: give a number from {low:g} to {high:g}")


def time_shift(waveform: FloatArray, shift_s: float, sample_rate_hz: int = SAMPLE_RATE_HZ) -> FloatArray:
    """Waveform [T] -> [T], later by `shift_s` (earlier if negative); what leaves at one end comes in at the other."""
    _check("shift_s", shift_s, -MAX_SHIFT_S, MAX_SHIFT_S)
    return np.roll(waveform, round(shift_s * sample_rate_hz))


def pitch_shift(waveform: FloatArray, semitones: float, sample_rate_hz: int = SAMPLE_RATE_HZ) -> FloatArray:
    """Waveform [T] -> [T], every frequency times 2^(semitones / 12), at the same speed (librosa: phase vocoder and resampling)."""
    _check("semitones", semitones, -MAX_SEMITONES, MAX_SEMITONES)
    from librosa.effects import pitch_shift as shift

    shifted = shift(_at_least_a_window(waveform), sr=sample_rate_hz, n_steps=semitones)
    return np.asarray(shifted[: len(waveform)], np.float32)


def time_stretch(waveform: FloatArray, rate: float) -> FloatArray:
    """Waveform [T] -> [round(T / rate)], `rate` times as fast at the same pitch (librosa: phase vocoder)."""
    _check("rate", rate, 1 / MAX_STRETCH, MAX_STRETCH)
    from librosa.effects import time_stretch as stretch

    stretched = stretch(_at_least_a_window(waveform), rate=rate)
    return np.asarray(stretched[: round(len(waveform) / rate)], np.float32)


def gain(waveform: FloatArray, gain_db: float) -> FloatArray:
    """Waveform [T] -> [T], louder by `gain_db`."""
    _check("gain_db", gain_db, -MAX_LEVEL_DB, MAX_LEVEL_DB)
    return waveform * np.float32(10 ** (gain_db / 20))


def add_noise(waveform: FloatArray, noise: FloatArray, snr_db: float) -> FloatArray:
    """Waveform [T] and noise [N] -> [T] with the noise's level set so that the ratio of their powers is `snr_db`.

    The noise is repeated or cut to T samples, from its start: shift it for another part. Where one of the two is silent there is no such
    ratio, and no noise is added.
    """
    _check("snr_db", snr_db, -MAX_LEVEL_DB, MAX_LEVEL_DB)
    _check_samples("noise", noise)
    fitted = np.resize(noise, len(waveform))
    wanted_power = _power(waveform) / 10 ** (snr_db / 10)
    return (waveform + fitted * _level_factor(fitted, wanted_power)).astype(np.float32)


def room_impulse(waveform: FloatArray, impulse: FloatArray) -> FloatArray:
    """Waveform [T] and a room's impulse response [N] -> [T], as heard in that room, in time with the waveform and at its power.

    The response's largest sample is taken for the direct sound; the tail after T samples is cut.
    """
    _check_samples("impulse", impulse)
    if not np.any(impulse):
        raise BadOption("impulse is silent: give an impulse response with at least one sample that is not zero")
    if not len(waveform):
        return waveform.copy()
    direct = int(np.argmax(np.abs(impulse)))
    heard = scipy.signal.fftconvolve(waveform, impulse)[direct : direct + len(waveform)]
    return np.asarray(heard * _level_factor(heard, _power(waveform)), np.float32)


def mixup(
    first: FloatArray,
    first_labels: FloatArray,
    second: FloatArray,
    second_labels: FloatArray,
    rng: Generator,
    alpha: float = 0.2,
) -> tuple[FloatArray, FloatArray]:
    """Two sounds [...] with label vectors [..., K] -> share x first + (1 - share) x second, of both; share from Beta(alpha, alpha).

    Sounds are waveforms or log-mels, single or whole batches (which get one share); both must have one shape. Zhang et al., 'mixup:
    Beyond Empirical Risk Minimization', ICLR 2018, with alpha from 0.1 to 0.4 for ImageNet.
    """
    _check("alpha", alpha, 1 / MAX_ALPHA, MAX_ALPHA)
    for one, other in ((first, second), (first_labels, second_labels)):
        if one.shape != other.shape:
            raise BadOption(f"mixup wants two of one shape, not {one.shape} and {other.shape}: crop or pad them first")
    share = np.float32(rng.beta(alpha, alpha))
    rest = np.float32(1) - share
    return share * first + rest * second, share * first_labels + rest * second_labels


@dataclass(frozen=True)
class Masks:
    """How much spec_augment hides: each mask's width is drawn from 0 to its largest, a time mask's also from 0 to a share of the frames.

    Park's LD policy is two masks of up to 27 of 80 bands and two of up to 100 frames (1 s); these are as wide for 64 bands, and for 96
    frames (0.96 s) narrower.
    """

    band_masks: int = 2
    max_bands: int = 21
    frame_masks: int = 2
    max_frames: int = 24
    max_frames_share: float = 1.0

    def __post_init__(self) -> None:
        for name in ("band_masks", "max_bands", "frame_masks", "max_frames"):
            _check(name, getattr(self, name), 0, MAX_MASK)
        _check("max_frames_share", self.max_frames_share, 0, 1)


DEFAULT_MASKS = Masks()


def spec_augment(log_mel: FloatArray, rng: Generator, masks: Masks = DEFAULT_MASKS) -> FloatArray:
    """Log-mel [..., F, M] -> the same with some bands and some frames replaced by the mean; each [F, M] has its own masks and mean.

    Park et al., 'SpecAugment', Interspeech 2019, without time warping.
    """
    masked = np.array(log_mel, order="C")
    frames, bands = masked.shape[-2:]
    max_bands = min(masks.max_bands, bands)
    max_frames = min(masks.max_frames, int(masks.max_frames_share * frames))
    for picture in masked.reshape(-1, frames, bands):
        mean = picture.mean()
        for _ in range(masks.band_masks):
            picture[:, _mask(rng, max_bands, bands)] = mean
        for _ in range(masks.frame_masks):
            picture[_mask(rng, max_frames, frames)] = mean
    return masked


def uniform(low: float, high: float) -> Draw:
    """Draws a number from `low` to `high`, each as likely."""
    if not -math.inf < low <= high < math.inf:
        raise BadOption(f"uniform cannot draw from {low} to {high}: give two finite numbers, the lower one first")
    return functools.partial(Generator.uniform, low=low, high=high)


def choice(options: Sequence[Any]) -> Draw:
    """Draws one of the options, each as likely: a noise, an impulse response."""
    if not len(options):
        raise BadOption("options is empty: give at least one to choose from")
    return functools.partial(_choose, options)


def drawn(effect: Callable[..., FloatArray], **parameters: Draw) -> Augmentation:
    """An effect whose parameters are drawn anew each time.

    For example, drawn(add_noise, noise=choice(noises), snr_db=uniform(0, 20)).
    """
    return functools.partial(_run_drawn, effect, parameters)


def sometimes(step: Augmentation, probability: float) -> Augmentation:
    """The step with that probability, else the sound as it is."""
    _check("probability", probability, 0, 1)
    return functools.partial(_run_sometimes, step, probability)


def chain(*steps: Augmentation) -> Augmentation:
    """The steps one after the other. What it gives can be pickled, as the parts can, for processes that load data."""
    return functools.partial(_run_chain, steps)


def _choose(options: Sequence[Any], rng: Generator) -> Any:
    return options[int(rng.integers(len(options)))]


def _run_drawn(
    effect: Callable[..., FloatArray], parameters: dict[str, Draw], sound: FloatArray, rng: Generator
) -> FloatArray:
    return effect(sound, **{name: draw(rng) for name, draw in parameters.items()})


def _run_sometimes(step: Augmentation, probability: float, sound: FloatArray, rng: Generator) -> FloatArray:
    return step(sound, rng) if rng.random() < probability else sound


def _run_chain(steps: tuple[Augmentation, ...], sound: FloatArray, rng: Generator) -> FloatArray:
    return functools.reduce(lambda changed, step: step(changed, rng), steps, sound)


def _mask(rng: Generator, max_width: int, size: int) -> slice:
    """A stretch of up to `max_width` within `size`; all widths and all places are as likely."""
    width = int(rng.integers(max_width + 1))
    start = int(rng.integers(size - width + 1))
    return slice(start, start + width)


def _at_least_a_window(waveform: FloatArray) -> FloatArray:
    return np.pad(waveform, (0, max(0, VOCODER_SAMPLES - len(waveform))))


def _power(waveform: FloatArray) -> float:
    """Mean square; 0 without samples."""
    return float(np.square(waveform, dtype=np.float64).sum()) / max(len(waveform), 1)


def _level_factor(waveform: FloatArray, power: float) -> np.float64:
    """What the waveform must be multiplied by to have this power; 0 where it is silent."""
    own = _power(waveform)
    return np.float64(math.sqrt(power / own) if own else 0.0)


def _check_samples(name: str, waveform: FloatArray) -> None:
    if not len(waveform):
        raise BadOption(f"{name} has no samples: give a waveform with at least one")
