"""The log-mel front end against an independent computation, at its edges, and in blocks."""

import math
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr

from models.frontend import (
    BLOCK_SAMPLES,
    MEL_BANDS,
    VGGISH_OFFSET,
    YAMNET_OFFSET,
    LogMelStream,
    hann_window,
    hop_frames,
    log_mel,
    mel_matrix,
    patch_count,
    split_patches,
    with_offset,
)
from tests.sounds import silence, tone

HOP = 48  # frames between YAMNet's patches


def noise(samples: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.1, samples).astype(np.float32)


def mel(frequency_hz: float) -> float:
    return 1127.0 * math.log(1.0 + frequency_hz / 700.0)


def triangle(band: int, bin_number: int) -> float:
    """One weight of the mel matrix, from the formula: 66 edges evenly spaced in mel between 125 and 7500 Hz."""
    step = (mel(7500.0) - mel(125.0)) / 65
    lower = mel(125.0) + band * step
    here = mel(bin_number * 16000.0 / 512)
    return max(0.0, min(here - lower, lower + 2 * step - here) / step) if bin_number else 0.0


@pytest.mark.parametrize("band", [0, 1, 17, 40, 63])
def test_mel_band_is_a_triangle_in_mel(band: int) -> None:
    np.testing.assert_allclose(mel_matrix()[:, band], [triangle(band, number) for number in range(257)], atol=1e-6)


def test_mel_matrix_hears_no_bin_outside_its_range() -> None:
    heard = np.flatnonzero(mel_matrix().any(axis=1))
    assert (heard[0], heard[-1]) == (5, 239)  # as in Google's file


def test_hann_window_is_periodic() -> None:
    window = hann_window()
    assert len(window) == 400
    assert window[0] == 0
    assert window[200] == 1
    assert window[399] == window[1] > 0  # a symmetric window ends with zero


def test_frames_are_the_log_of_mel_weighted_magnitudes() -> None:
    wave = noise(16000)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)
    magnitude = np.abs(np.fft.rfft(wave[160 * 7 : 160 * 7 + 400] * window, 512))
    expected = [math.log(magnitude @ [triangle(b, n) for n in range(257)] + YAMNET_OFFSET) for b in range(64)]
    np.testing.assert_allclose(log_mel(wave)[7], expected, atol=1e-4)


@pytest.mark.parametrize(
    ("samples", "patches"),
    [(0, 1), (1, 1), (400, 1), (401, 1), (15600, 1), (15601, 2), (23280, 2), (23281, 3), (80000, 10), (80159, 10)],
)
def test_patches_cover_the_sound_as_in_the_reference(samples: int, patches: int) -> None:
    assert patches == 1 + math.ceil(max(samples - 15600, 0) / 7680)
    assert split_patches(log_mel(noise(samples)), HOP, YAMNET_OFFSET).shape == (patches, 96, 64)


@pytest.mark.parametrize("samples", [0, 1, 399, 400, 15600, 15601, 23333, BLOCK_SAMPLES + 240, 50_001])
def test_last_patch_is_that_of_a_sound_padded_with_zeros(samples: int) -> None:
    wave = noise(samples)
    patches = split_patches(log_mel(wave), HOP, YAMNET_OFFSET)
    padded = np.zeros(15600 + 7680 * (len(patches) - 1), np.float32)
    padded[:samples] = wave
    np.testing.assert_array_equal(patches, split_patches(log_mel(padded), HOP, YAMNET_OFFSET))


@pytest.mark.parametrize("samples", [0, 1, 399, 561, 20_479, 20_480, 20_719, 20_720, 20_721, 20_881, 41_200, 100_003])
def test_frames_do_not_depend_on_the_blocks_they_came_in(samples: int) -> None:
    wave, random = noise(samples, seed=samples), np.random.default_rng(samples)
    whole = log_mel(wave)
    for cuts in (1, 3, 40):
        stream = LogMelStream()
        pieces = np.split(wave, np.sort(random.integers(0, samples + 1, cuts)))
        frames = np.concatenate([*(stream.push(piece) for piece in pieces), stream.finish()])
        assert frames.tobytes() == whole.tobytes()


def test_stream_gives_every_frame_as_soon_as_its_block_is_whole() -> None:
    stream = LogMelStream()
    assert len(stream.push(noise(BLOCK_SAMPLES + 239))) == 0
    assert len(stream.push(noise(1))) == 128


@pytest.mark.parametrize("frequency_hz", [200, 440, 1000, 3000, 7000])
def test_tone_lands_in_its_band(frequency_hz: int) -> None:
    band = log_mel(tone(frequency_hz))[20:60].mean(axis=0).argmax()
    step = (mel(7500.0) - mel(125.0)) / 65
    center = 700 * (math.exp((mel(125.0) + (band + 1) * step) / 1127) - 1)
    assert abs(center - frequency_hz) <= max(16000 / 512, 0.04 * frequency_hz)


def test_silence_is_the_offset() -> None:
    np.testing.assert_allclose(log_mel(silence(1.0), VGGISH_OFFSET), math.log(VGGISH_OFFSET), rtol=1e-6)


def test_offset_can_be_exchanged() -> None:
    wave = noise(30_000)
    yamnet, vggish = log_mel(wave, YAMNET_OFFSET), log_mel(wave, VGGISH_OFFSET)
    np.testing.assert_allclose(with_offset(yamnet, YAMNET_OFFSET, VGGISH_OFFSET), vggish, atol=1e-5)
    round_trip = with_offset(with_offset(yamnet, YAMNET_OFFSET, VGGISH_OFFSET), VGGISH_OFFSET, YAMNET_OFFSET)
    np.testing.assert_allclose(round_trip, yamnet, atol=1e-5)
    assert with_offset(yamnet, YAMNET_OFFSET, YAMNET_OFFSET) is yamnet


def test_missing_frames_are_silence_of_the_right_offset() -> None:
    patches = split_patches(np.ones((3, MEL_BANDS), np.float32), HOP, VGGISH_OFFSET)
    assert (patches[0, :3] == 1).all()
    np.testing.assert_allclose(patches[0, 3:], math.log(VGGISH_OFFSET), rtol=1e-6)


def test_first_patches_alone_are_the_first_of_all() -> None:
    frames = log_mel(noise(100_000))
    np.testing.assert_array_equal(
        split_patches(frames, HOP, YAMNET_OFFSET, 3), split_patches(frames, HOP, YAMNET_OFFSET)[:3]
    )


@pytest.mark.parametrize("length", [1, 96, 200, 500])
def test_patches_of_any_length_begin_every_hop_and_cover_the_sound(length: int) -> None:
    frames = log_mel(noise(100_000))
    patches = split_patches(frames, HOP, YAMNET_OFFSET, length=length)
    assert patches.shape == (patch_count(len(frames), HOP, length), length, MEL_BANDS)
    assert (len(patches) - 1) * HOP + length >= len(frames) - 2 > (len(patches) - 2) * HOP + length
    padded = np.concatenate([frames, np.full((length, MEL_BANDS), np.log(np.float32(YAMNET_OFFSET)), np.float32)])
    for number, patch in enumerate(patches):
        np.testing.assert_array_equal(patch, padded[number * HOP : number * HOP + length])


def test_hops_are_whole_frames_and_at_least_one() -> None:
    assert [hop_frames(hop_s) for hop_s in (0.48, 0.96, 0.05, 0.001)] == [48, 96, 5, 1]
    assert [patch_count(98 + more, 96) for more in (0, 1, 96, 97)] == [1, 2, 2, 3]


def test_patches_are_those_of_the_reference_over_40_real_clips(shared: Path) -> None:
    reference = np.load(shared / "reference" / "yamnet_esc10.npz", allow_pickle=False)
    names, wanted = reference["patch_filenames"], reference["patch_log_mel"]
    for name in np.unique(names):
        wave, rate_hz = soundfile.read(shared / "data/esc10/audio" / str(name), dtype="float32", always_2d=True)
        ours = split_patches(log_mel(soxr.resample(wave.mean(axis=1), rate_hz, 16000, "HQ")), HOP, YAMNET_OFFSET)
        np.testing.assert_allclose(ours, wanted[names == name], atol=0.005, rtol=0)
