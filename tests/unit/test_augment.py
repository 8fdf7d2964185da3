"""Augmentations: what each changes and keeps, that seeds repeat, and what they refuse."""

import functools
import math
import pickle
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
from numpy.random import Generator, default_rng
from numpy.typing import NDArray

from models.augment import (
    Augmentation,
    Masks,
    add_noise,
    chain,
    choice,
    drawn,
    gain,
    mixup,
    pitch_shift,
    room_impulse,
    sometimes,
    spec_augment,
    time_shift,
    time_stretch,
    uniform,
)
from models.errors import BadOption
from tests.conftest import CHECKOUT
from tests.sounds import RATE_HZ, silence, tone

Waveform = NDArray[np.float32]


def noise(samples: int = RATE_HZ, seed: int = 0, level: float = 0.1) -> Waveform:
    return default_rng(seed).normal(0, level, samples).astype(np.float32)


def power(waveform: Waveform) -> float:
    return float(np.mean(np.square(waveform, dtype=np.float64)))


def peak_hz(waveform: Waveform, rate_hz: int = RATE_HZ) -> float:
    """The strongest frequency, from the middle half of the sound."""
    middle = waveform[len(waveform) // 4 : 3 * len(waveform) // 4]
    spectrum = np.abs(np.fft.rfft(middle * np.hanning(len(middle)), 1 << 18))
    return float(spectrum.argmax()) * rate_hz / (1 << 18)


def impulse(*samples: float) -> Waveform:
    return np.array(samples, np.float32)


EFFECTS: dict[str, Callable[[Waveform], Waveform]] = {
    "time_shift": lambda waveform: time_shift(waveform, 0.1),
    "pitch_shift": lambda waveform: pitch_shift(waveform, 2),
    "gain": lambda waveform: gain(waveform, 3),
    "add_noise": lambda waveform: add_noise(waveform, noise(1000, seed=1), 10),
    "room_impulse": lambda waveform: room_impulse(waveform, impulse(0.1, 1, 0.5, 0.2)),
}


@pytest.mark.parametrize("effect", EFFECTS.values(), ids=EFFECTS)
@pytest.mark.parametrize("samples", [0, 1, 2, 2047, 16_000])
def test_effect_keeps_length_and_type_and_leaves_its_input_alone(
    effect: Callable[[Waveform], Waveform], samples: int
) -> None:
    waveform = noise(samples)
    before = waveform.copy()
    changed = effect(waveform)
    assert changed.shape == waveform.shape
    assert changed.dtype == np.float32
    assert np.isfinite(changed).all()
    assert not np.shares_memory(changed, waveform)
    np.testing.assert_array_equal(waveform, before)
    np.testing.assert_array_equal(effect(waveform), changed)


@pytest.mark.parametrize("effect", EFFECTS.values(), ids=EFFECTS)
def test_effect_changes_a_sound_but_not_silence(effect: Callable[[Waveform], Waveform]) -> None:
    assert not np.allclose(effect(noise()), noise(), atol=1e-3)
    assert not effect(silence()).any()


@pytest.mark.parametrize(("shift_s", "at"), [(0.25, 5000), (-0.05, 200), (1.0, 1000), (-0.1, 15_400)])
def test_time_shift_moves_and_wraps(shift_s: float, at: int) -> None:
    click = silence()
    click[1000] = 1
    assert np.flatnonzero(time_shift(click, shift_s)).tolist() == [at]


def test_time_shift_counts_in_seconds_at_any_rate() -> None:
    assert time_shift(impulse(1, 0, 0, 0), 0.5, sample_rate_hz=4).tolist() == [0, 0, 1, 0]


@pytest.mark.parametrize("semitones", [-12, -3, 0.5, 7, 12])
def test_pitch_moves_by_semitones(semitones: float) -> None:
    shifted = pitch_shift(tone(440, 2), semitones)
    assert peak_hz(shifted) == pytest.approx(440 * 2 ** (semitones / 12), rel=0.005)


@pytest.mark.parametrize("rate", [0.5, 0.9, 1.25, 2.0])
def test_stretch_changes_the_length_and_keeps_the_pitch(rate: float) -> None:
    waveform = tone(440, 2)
    before = waveform.copy()
    stretched = time_stretch(waveform, rate)
    assert len(stretched) == round(len(waveform) / rate)
    assert stretched.dtype == np.float32
    assert peak_hz(stretched) == pytest.approx(440, rel=0.005)
    np.testing.assert_array_equal(waveform, before)


@pytest.mark.parametrize("samples", [0, 1, 100, 2048])
@pytest.mark.parametrize("rate", [0.25, 0.7, 4.0])
def test_stretch_of_a_short_sound_has_its_length(samples: int, rate: float) -> None:
    assert len(time_stretch(noise(samples), rate)) == round(samples / rate)


@pytest.mark.parametrize("gain_db", [-20.0, 0.0, 6.0])
def test_gain_is_in_db(gain_db: float) -> None:
    waveform = noise()
    assert 10 * math.log10(power(gain(waveform, gain_db)) / power(waveform)) == pytest.approx(gain_db, abs=1e-5)


@pytest.mark.parametrize("snr_db", [-10.0, 0.0, 5.5, 40.0])
@pytest.mark.parametrize("noise_samples", [1, 1000, 16_000, 50_000])
def test_noise_comes_at_the_ratio_asked_for(snr_db: float, noise_samples: int) -> None:
    waveform = tone(440)
    added = add_noise(waveform, noise(noise_samples, level=3), snr_db) - waveform
    assert 10 * math.log10(power(waveform) / power(added)) == pytest.approx(snr_db, abs=0.01)


def test_noise_is_repeated_or_cut() -> None:
    waveform = np.full(5, 1, np.float32)
    np.testing.assert_allclose(add_noise(waveform, impulse(1, -1), 0) - waveform, [1, -1, 1, -1, 1])
    np.testing.assert_allclose(add_noise(waveform, impulse(1, 1, -1, 1, -1, 9, 9), 0) - waveform, [1, 1, -1, 1, -1])


def test_silence_and_noise_have_no_ratio() -> None:
    np.testing.assert_array_equal(add_noise(silence(), noise(), 0), silence())
    np.testing.assert_array_equal(add_noise(noise(), silence(), 0), noise())


def test_faintest_noise_is_raised_without_overflow() -> None:
    waveform = tone(440)
    added = add_noise(waveform, np.full(10, 1e-42, np.float32), 0) - waveform
    assert power(added) == pytest.approx(power(waveform), rel=1e-4)


@pytest.mark.parametrize("taps", [(1,), (0, 0, 1), (2,), (0, 1, 0, 0)])
def test_room_of_a_single_impulse_changes_nothing(taps: tuple[float, ...]) -> None:
    np.testing.assert_allclose(room_impulse(noise(), impulse(*taps)), noise(), atol=1e-6)


def test_room_adds_an_echo_in_time_and_at_the_same_power() -> None:
    waveform = np.zeros(100, np.float32)
    waveform[10] = 1
    heard = room_impulse(waveform, impulse(0, 0, 1, 0, 0, 0, 0.5))
    assert np.flatnonzero(np.abs(heard) > 1e-6).tolist() == [10, 14]
    assert heard[14] / heard[10] == pytest.approx(0.5)
    assert power(heard) == pytest.approx(power(waveform))


def test_room_longer_than_the_sound_is_cut() -> None:
    assert len(room_impulse(noise(100), noise(5000, seed=1))) == 100


def test_mixup_is_a_blend_of_sounds_and_labels_with_one_share() -> None:
    first, second = np.full(8, 3, np.float32), np.full(8, -1, np.float32)
    shares = []
    for seed in range(200):
        mixed, labels = mixup(first, impulse(1, 0, 0), second, impulse(0, 0, 1), default_rng(seed), alpha=0.4)
        assert labels.sum() == pytest.approx(1)
        assert labels[1] == 0
        np.testing.assert_allclose(mixed, 3 * labels[0] - labels[2], atol=1e-6)
        assert mixed.dtype == labels.dtype == np.float32
        shares.append(labels[0])
    assert 0 <= min(shares) < 0.05
    assert 0.95 < max(shares) <= 1
    assert np.var(shares) == pytest.approx(1 / (4 * (2 * 0.4 + 1)), rel=0.15)  # of Beta(a, a)


def test_mixup_takes_log_mels_in_batches_and_leaves_them_alone() -> None:
    batch, labels = default_rng(0).normal(size=(2, 4, 96, 64)).astype(np.float32), np.eye(4, dtype=np.float32)
    before = batch.copy()
    mixed, mixed_labels = mixup(batch[0], labels, batch[1], labels[::-1], default_rng(1))
    assert mixed.shape == (4, 96, 64)
    share = mixed_labels[0, 0]
    np.testing.assert_allclose(mixed, share * batch[0] + (1 - share) * batch[1], atol=1e-6)
    np.testing.assert_array_equal(batch, before)


@pytest.mark.parametrize("alpha", [0.001, 1000])
def test_mixup_at_its_limits_is_finite(alpha: float) -> None:
    for seed in range(50):
        mixed, labels = mixup(noise(), impulse(1, 0), noise(seed=1), impulse(0, 1), default_rng(seed), alpha)
        assert np.isfinite(mixed).all()
        assert ((labels >= 0) & (labels <= 1)).all()


def hidden(masked: Waveform, log_mel: Waveform, axis: int) -> NDArray[np.bool_]:
    """Which bands (axis 0) or frames (axis 1) were wholly replaced."""
    return (masked != log_mel).all(axis=axis)


@pytest.mark.parametrize("seed", range(30))
def test_masks_are_bounded_stretches_of_the_mean(seed: int) -> None:
    log_mel = default_rng(99).normal(size=(96, 64)).astype(np.float32)
    masked = spec_augment(log_mel, default_rng(seed), Masks(1, 10, 1, 20))
    changed = masked != log_mel
    np.testing.assert_allclose(masked[changed], log_mel.mean(), atol=1e-6)
    bands, frames = hidden(masked, log_mel, 0), hidden(masked, log_mel, 1)
    assert bands.sum() <= 10
    assert frames.sum() <= 20
    np.testing.assert_array_equal(changed, bands[np.newaxis, :] | frames[:, np.newaxis])
    for mask in (bands, frames):
        assert np.abs(np.diff(mask.astype(int), prepend=0, append=0)).sum() in (0, 2)  # one stretch


def test_masks_reach_every_width_and_both_ends() -> None:
    log_mel = default_rng(99).normal(size=(12, 6)).astype(np.float32)
    frames = np.array(
        [hidden(spec_augment(log_mel, default_rng(seed), Masks(0, 0, 1, 4)), log_mel, 1) for seed in range(300)]
    )
    assert set(frames.sum(axis=1)) == {0, 1, 2, 3, 4}
    assert frames.any(axis=0).all()


def test_time_masks_keep_to_their_share_of_a_short_sound() -> None:
    log_mel = default_rng(99).normal(size=(10, 64)).astype(np.float32)
    for seed in range(50):
        masked = spec_augment(log_mel, default_rng(seed), Masks(0, 0, 1, 100, max_frames_share=0.3))
        assert hidden(masked, log_mel, 1).sum() <= 3


def test_masks_wider_than_the_log_mel_fit_into_it() -> None:
    log_mel = noise(15).reshape(3, 5)
    assert spec_augment(log_mel, default_rng(0), Masks(1, 100, 1, 100)).shape == (3, 5)


def test_each_log_mel_of_a_batch_has_its_own_masks() -> None:
    batch = default_rng(99).normal(size=(2, 3, 96, 64)).astype(np.float32)
    before = batch.copy()
    masked = spec_augment(batch, default_rng(0))
    assert masked.shape == batch.shape
    patterns = {(masked != batch)[at].tobytes() for at in np.ndindex(2, 3)}
    assert len(patterns) == 6
    np.testing.assert_array_equal(batch, before)


TRAINING: Augmentation = chain(
    drawn(time_shift, shift_s=uniform(-0.5, 0.5)),
    sometimes(drawn(pitch_shift, semitones=uniform(-2, 2)), 0.3),
    drawn(add_noise, noise=choice([noise(500, seed=1), noise(700, seed=2)]), snr_db=uniform(0, 20)),
    sometimes(drawn(functools.partial(room_impulse, impulse=impulse(1, 0.5))), 0.5),
    drawn(gain, gain_db=uniform(-6, 6)),
)


def test_same_seed_same_sound_other_seed_other_sound() -> None:
    waveform = tone(440)
    sounds = [TRAINING(waveform, default_rng(seed)).tobytes() for seed in (1, 2, 3)]
    assert [TRAINING(waveform, default_rng(seed)).tobytes() for seed in (1, 2, 3)] == sounds
    assert len(set(sounds)) == 3
    np.testing.assert_array_equal(waveform, tone(440))


@pytest.mark.parametrize("step", [TRAINING, spec_augment, sometimes(spec_augment, 0.5)])
def test_augmentation_travels_to_other_processes(step: Augmentation) -> None:
    there = pickle.loads(pickle.dumps(step))
    sound = noise(16_000).reshape(250, 64) if step is not TRAINING else noise()
    np.testing.assert_array_equal(there(sound, default_rng(5)), step(sound, default_rng(5)))


def louder(waveform: Waveform, rng: Generator) -> Waveform:
    return waveform + np.float32(1)


def doubled(waveform: Waveform, rng: Generator) -> Waveform:
    return waveform * np.float32(2)


def test_chain_goes_in_order() -> None:
    assert chain(louder, doubled)(impulse(1), default_rng(0)).tolist() == [4]
    assert chain(doubled, louder)(impulse(1), default_rng(0)).tolist() == [3]
    assert chain()(impulse(1), default_rng(0)).tolist() == [1]


@pytest.mark.parametrize("probability", [0.0, 0.3, 1.0])
def test_sometimes_is_as_often_as_asked(probability: float) -> None:
    rng, step = default_rng(0), sometimes(louder, probability)
    share = np.mean([step(impulse(0), rng)[0] for _ in range(2000)])
    assert share == pytest.approx(probability, abs=0.04 if 0 < probability < 1 else 0)


def test_draws_stay_within_their_range_and_reach_every_option() -> None:
    rng = default_rng(0)
    numbers = [uniform(-3, 5)(rng) for _ in range(500)]
    assert -3 <= min(numbers) < -2.5
    assert 4.5 < max(numbers) <= 5
    assert uniform(2, 2)(rng) == 2
    assert {choice("abc")(rng) for _ in range(100)} == {"a", "b", "c"}


@pytest.mark.parametrize(
    ("act", "words"),
    [
        (lambda: time_shift(noise(), math.nan), "shift_s is nan: give a number from -86400 to 86400"),
        (lambda: pitch_shift(noise(), 25), "semitones is 25: give a number from -24 to 24"),
        (lambda: time_stretch(noise(), 0), "rate is 0: give a number from 0.25 to 4"),
        (lambda: gain(noise(), math.inf), "gain_db is inf: give a number from -120 to 120"),
        (lambda: add_noise(noise(), noise(), 200), "snr_db is 200: give a number from -120 to 120"),
        (lambda: add_noise(noise(), noise(0), 10), "noise has no samples"),
        (lambda: room_impulse(noise(), noise(0)), "impulse has no samples"),
        (lambda: room_impulse(noise(), silence()), "impulse is silent"),
        (lambda: mixup(noise(), noise(2), noise(), noise(2), default_rng(0), 0), "alpha is 0: give a number from"),
        (lambda: mixup(noise(3), noise(2), noise(4), noise(2), default_rng(0)), r"not \(3,\) and \(4,\)"),
        (lambda: mixup(noise(3), noise(2), noise(3), noise(1), default_rng(0)), r"not \(2,\) and \(1,\)"),
        (lambda: Masks(max_bands=-1), "max_bands is -1: give a number from 0 to"),
        (lambda: Masks(max_frames_share=1.5), "max_frames_share is 1.5: give a number from 0 to 1"),
        (lambda: sometimes(louder, 1.5), "probability is 1.5: give a number from 0 to 1"),
        (lambda: uniform(2, 1), "cannot draw from 2 to 1"),
        (lambda: uniform(0, math.inf), "cannot draw from 0 to inf"),
        (lambda: choice([]), "options is empty"),
    ],
)
def test_bad_parameter_is_named_with_its_range(act: Callable[[], object], words: str) -> None:
    with pytest.raises(BadOption, match=words):
        act()


def test_import_is_light_and_no_augmentation_needs_torch() -> None:
    script = (
        "import sys, numpy as np, models.augment as a\n"
        "assert not {'numba', 'scipy.signal', 'torch'} & set(sys.modules)\n"
        "sound = np.ones(4000, np.float32)\n"
        "a.pitch_shift(sound, 1), a.time_stretch(sound, 2), a.room_impulse(sound, sound)\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], cwd=CHECKOUT, check=True)
