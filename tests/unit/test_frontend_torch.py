"""The torch front end gives the numbers of the numpy one, for any length, batch and precision."""

import numpy as np
import pytest
import torch

from models.frontend import SAMPLE_RATE_HZ, VGGISH_OFFSET, YAMNET_OFFSET, log_mel
from models.frontend_torch import LogMel

SECOND = SAMPLE_RATE_HZ


def noise(samples: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.1, samples).astype(np.float32)


def tone(frequency_hz: float, seconds: float = 1.0) -> np.ndarray:
    return np.sin(2 * np.pi * frequency_hz * np.arange(int(seconds * SECOND)) / SECOND).astype(np.float32)


@pytest.mark.parametrize("offset", [YAMNET_OFFSET, VGGISH_OFFSET])
@pytest.mark.parametrize("samples", [1, 399, 400, 401, 560, 561, SECOND, 3 * SECOND + 7])
def test_agrees_with_numpy_for_any_length(samples: int, offset: float) -> None:
    wave = noise(samples)
    ours = LogMel(offset)(torch.from_numpy(wave)).numpy()
    theirs = log_mel(wave, offset)
    assert ours.shape == theirs.shape
    np.testing.assert_allclose(ours, theirs, atol=1e-4, rtol=0)


def test_empty_waveform_is_silence() -> None:
    frames = LogMel()(torch.zeros(0)).numpy()
    assert frames.shape == log_mel(np.zeros(0, np.float32)).shape
    np.testing.assert_allclose(frames, np.log(YAMNET_OFFSET), atol=1e-5)


def test_full_scale_tone_differs_only_by_the_rounding_of_float32() -> None:
    # Quiet bands beside the tone hold rounding noise in both front ends: compare before the logarithm.
    wave = tone(1000)
    ours, theirs = np.exp(LogMel()(torch.from_numpy(wave)).numpy()), np.exp(log_mel(wave))
    np.testing.assert_allclose(ours, theirs, atol=1e-6 * theirs.max(), rtol=1e-5)


def test_keeps_leading_dimensions_and_their_order() -> None:
    waves = np.stack([[noise(2000, 1), noise(2000, 2)], [tone(300)[:2000], noise(2000, 3)], [noise(2000, 4)] * 2])
    frames = LogMel()(torch.from_numpy(waves)).numpy()
    assert frames.shape == (3, 2, *log_mel(waves[0, 0]).shape)
    np.testing.assert_allclose(frames[0, 1], log_mel(waves[0, 1]), atol=1e-4)
    np.testing.assert_allclose(frames[2, 0], log_mel(waves[2, 0]), atol=1e-4)
    assert np.abs(frames[0, 0] - frames[0, 1]).max() > 0.1


def test_mixed_precision_does_not_reach_the_front_end() -> None:
    wave = torch.from_numpy(noise(SECOND))
    with torch.autocast("cpu", torch.bfloat16):
        mixed = LogMel()(wave)
    assert mixed.dtype == torch.float32
    torch.testing.assert_close(mixed, LogMel()(wave))


def test_gradient_of_silence_is_finite() -> None:
    wave = torch.zeros(1000, requires_grad=True)
    LogMel()(wave).sum().backward()
    assert wave.grad is not None
    assert torch.isfinite(wave.grad).all()


def test_gradient_reaches_every_sample_of_a_sound() -> None:
    wave = torch.from_numpy(noise(1000)).requires_grad_()
    LogMel()(wave).sum().backward()
    assert wave.grad is not None
    assert (wave.grad[1:] != 0).all()  # the periodic Hann window is zero at the very first sample


def test_adds_nothing_to_a_checkpoint() -> None:
    assert not LogMel().state_dict()
    assert not list(LogMel().parameters())
