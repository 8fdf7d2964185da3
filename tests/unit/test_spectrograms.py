"""The three pictures: against librosa and scipy as the older systems called them, and what they must show."""

import math
import pickle
import subprocess
import sys
from pathlib import Path

import librosa
import numpy as np
import pytest
import scipy.signal
from numpy.typing import NDArray

from models.audio import AudioReader
from models.spectrograms import (
    MEL64_PICTURE,
    MEL_PICTURE,
    STFT_PICTURE,
    Picture,
    fit_length,
    mel64_picture,
    mel_picture,
    stft_picture,
)
from tests.conftest import CHECKOUT
from tests.sounds import silence, tone

STFT_RATE_HZ, MEL_RATE_HZ = 22_050, 44_100
EVERY = pytest.mark.parametrize("picture", [STFT_PICTURE, MEL_PICTURE, MEL64_PICTURE], ids=["stft", "mel", "mel64"])


def noise(samples: int, level: float = 0.1) -> NDArray[np.float32]:
    return np.random.default_rng(0).normal(0, level, samples).astype(np.float32)


def decode(path: Path, rate_hz: int) -> NDArray[np.float32]:
    with path.open("rb") as stream:
        return np.concatenate(list(AudioReader(stream, sample_rate_hz=rate_hz).blocks()))


def librosa_stft(waveform: NDArray[np.float32]) -> NDArray[np.float32]:
    """librosa's own STFT of 5 s and 45 zeros, which make the hops come out even."""
    magnitude = np.abs(librosa.stft(np.pad(waveform, (0, 110_295 - len(waveform))), n_fft=430, hop_length=215))
    return 1 + librosa.amplitude_to_db(magnitude, ref=np.max, top_db=80) / 80


def librosa_mel(waveform: NDArray[np.float32]) -> NDArray[np.float32]:
    """What the ESC-50 network was trained on: a short sound mirrored on both sides, then librosa."""
    waveform = np.pad(waveform, math.ceil((220_500 - len(waveform)) / 2), mode="reflect")
    power = librosa.feature.melspectrogram(
        y=waveform, sr=44_100, n_fft=2048, hop_length=512, n_mels=128, fmin=20, fmax=8300
    )
    return librosa.power_to_db(power, top_db=80)


def librosa_mel64(waveform: NDArray[np.float32]) -> NDArray[np.float32]:
    """librosa's own, with nothing but the rate and the number of bands said."""
    waveform = np.pad(waveform, (0, 110_250 - len(waveform)))
    return librosa.power_to_db(librosa.feature.melspectrogram(y=waveform, sr=22_050, n_mels=64))


def test_stft_is_216_by_514_as_scipy_makes_it_by_default() -> None:
    waveform = noise(110_250)
    frequencies_hz, times_s, spectrum = scipy.signal.stft(waveform, 22_050, nperseg=430)
    picture = stft_picture(waveform)
    assert picture.shape == spectrum.shape == (216, 514)
    assert frequencies_hz[1] == pytest.approx(51.28, abs=0.01)
    assert times_s[1] == pytest.approx(215 / 22_050)
    power = np.abs(spectrum) ** 2
    level_db = 10 * np.log10(power / power.max())
    np.testing.assert_allclose(picture, np.maximum(1 + level_db / 80, 0), atol=5e-5)


def test_stft_equals_librosa() -> None:
    waveform = noise(110_250)
    np.testing.assert_allclose(stft_picture(waveform), librosa_stft(waveform), atol=5e-5)  # 0.004 dB


def test_mel_equals_librosa() -> None:
    waveform = noise(220_500)
    picture = mel_picture(waveform)
    assert picture.shape == (128, 431)
    np.testing.assert_allclose(picture, librosa_mel(waveform), atol=1e-4)


@pytest.mark.parametrize("samples", [110_250, 40_001])
def test_mel64_equals_librosa(samples: int) -> None:
    waveform = noise(samples)
    picture = mel64_picture(waveform)
    assert picture.shape == (64, 216)
    np.testing.assert_allclose(picture, librosa_mel64(waveform), atol=1e-4)


@pytest.mark.parametrize("fold", [1, 2, 3, 4, 5])
def test_pictures_of_real_sounds_equal_librosa(shared: Path, fold: int) -> None:
    for clip in sorted((shared / "data" / "esc10" / "audio").glob(f"{fold}-*.ogg"))[::20]:
        at_stft_rate, at_mel_rate = decode(clip, STFT_RATE_HZ)[:110_250], decode(clip, MEL_RATE_HZ)[:220_500]
        np.testing.assert_allclose(stft_picture(at_stft_rate), librosa_stft(at_stft_rate), atol=1e-4)
        np.testing.assert_allclose(mel64_picture(at_stft_rate), librosa_mel64(at_stft_rate), atol=3e-3)
        np.testing.assert_allclose(mel_picture(at_mel_rate)[:, :-2], librosa_mel(at_mel_rate)[:, :-2], atol=3e-3)


@EVERY
@pytest.mark.parametrize("samples", [0, 1, 2, 999, 110_251, 500_000])
def test_any_length_gives_a_whole_picture(picture: Picture, samples: int) -> None:
    drawn = picture.draw(noise(samples))
    assert drawn.shape == picture.shape
    assert drawn.dtype == np.float32
    assert drawn.flags["C_CONTIGUOUS"]
    assert np.isfinite(drawn).all()


@EVERY
def test_picture_is_of_five_seconds(picture: Picture) -> None:
    assert picture.samples == 5 * picture.sample_rate_hz
    assert picture.parameters["sample_rate_hz"] == picture.sample_rate_hz
    longer = noise(picture.samples + 5000)
    np.testing.assert_array_equal(picture.draw(longer), picture.draw(longer[: picture.samples]))


@EVERY
def test_picture_is_the_same_each_time_and_leaves_its_input_alone(picture: Picture) -> None:
    waveform = noise(picture.samples)
    before = waveform.copy()
    np.testing.assert_array_equal(picture.draw(waveform), picture.draw(waveform))
    np.testing.assert_array_equal(waveform, before)


@EVERY
def test_picture_travels_to_other_processes(picture: Picture) -> None:
    assert pickle.loads(pickle.dumps(picture)) == picture


@EVERY
@pytest.mark.parametrize("at_s", [0.0, 1.0, 4.99])
def test_click_is_in_its_column(picture: Picture, at_s: float) -> None:
    waveform = silence(5, picture.sample_rate_hz)
    at = round(at_s * picture.sample_rate_hz)
    waveform[at] = 1
    loudest = int(picture.draw(waveform).mean(axis=0).argmax())
    assert abs(loudest - at / int(str(picture.parameters["hop_samples"]))) <= 1


@pytest.mark.parametrize("row", [1, 20, 100, 214])
def test_tone_is_in_its_row_of_the_stft(row: int) -> None:
    picture = stft_picture(tone(row * 22_050 / 430, 5, STFT_RATE_HZ))
    assert set(picture[:, 2:-3].argmax(axis=0)) == {row}
    far = np.delete(picture, slice(max(row - 3, 0), row + 4), axis=0)[:, 2:-3]
    assert far.max() < 0.3


@pytest.mark.parametrize("frequency_hz", [200, 1000, 4000, 8000])
def test_tone_is_in_its_row_of_the_mel_picture(frequency_hz: int) -> None:
    centres_hz = librosa.mel_frequencies(130, fmin=20, fmax=8300)[1:-1]
    loudest = int(mel_picture(tone(frequency_hz, 5, MEL_RATE_HZ))[:, 100].argmax())
    assert abs(loudest - int(np.abs(centres_hz - frequency_hz).argmin())) <= 1


def test_stft_is_between_0_and_1_and_knows_no_level() -> None:
    picture = stft_picture(tone(1000, 5, STFT_RATE_HZ, level=0.9))
    assert (picture.min(), picture.max()) == (0, 1)
    np.testing.assert_allclose(stft_picture(tone(1000, 5, STFT_RATE_HZ, level=1e-5)), picture, atol=0.02)


def test_stft_halves_at_40_db_below_the_loudest() -> None:
    loud, faint = tone(21 * 22_050 / 430, 5, STFT_RATE_HZ), tone(150 * 22_050 / 430, 5, STFT_RATE_HZ, level=0.005)
    assert stft_picture(loud + faint)[150, 100] == pytest.approx(0.5, abs=0.001)


def test_mel_picture_follows_the_level_and_spans_80_db() -> None:
    loud, faint = (mel_picture(tone(1000, 5, MEL_RATE_HZ, level)) for level in (0.5, 0.05))
    assert loud.max() - faint.max() == pytest.approx(20, abs=1e-3)
    assert loud.max() - loud.min() == pytest.approx(80, abs=1e-3)


@pytest.mark.parametrize("frequency_hz", [200, 1000, 4000, 10_000])
def test_tone_is_in_its_row_of_the_mel64_picture(frequency_hz: int) -> None:
    centres_hz = librosa.mel_frequencies(66, fmin=0, fmax=11_025)[1:-1]
    loudest = int(mel64_picture(tone(frequency_hz, 5, STFT_RATE_HZ))[:, 100].argmax())
    assert abs(loudest - int(np.abs(centres_hz - frequency_hz).argmin())) <= 1


def test_silence_is_even() -> None:
    assert not stft_picture(silence(5, STFT_RATE_HZ)).any()
    np.testing.assert_allclose(mel_picture(silence(5, MEL_RATE_HZ)), -100, rtol=1e-6)
    np.testing.assert_allclose(mel64_picture(silence(5, STFT_RATE_HZ)), -100, rtol=1e-6)


def test_short_sound_is_followed_by_silence_in_the_stft() -> None:
    picture = stft_picture(noise(22_050))
    assert picture[:, :103].min() > 0
    assert not picture[:, 105:].any()


@pytest.mark.parametrize("samples", [44_100, 99_998, 220_498])
def test_short_sound_is_mirrored_in_the_mel_picture_as_the_network_saw_it(samples: int) -> None:
    waveform = noise(samples)
    np.testing.assert_allclose(mel_picture(waveform), librosa_mel(waveform), atol=1e-4)


def test_odd_rest_differs_from_the_network_in_no_more_than_the_last_columns() -> None:
    waveform = noise(44_101)
    np.testing.assert_allclose(mel_picture(waveform)[:, :-2], librosa_mel(waveform)[:, :-2], atol=1e-4)


def test_fit_length_pads_and_cuts() -> None:
    waveform = np.array([1, 2, 3], np.float32)
    assert fit_length(waveform, 2).tolist() == [1, 2]
    assert fit_length(waveform, 3).tolist() == [1, 2, 3]
    assert fit_length(waveform, 5).tolist() == [1, 2, 3, 0, 0]
    assert fit_length(waveform, 10, "reflect").tolist() == [1, 2, 3, 2, 1, 2, 3, 2, 1, 2]
    assert fit_length(waveform[:1], 4, "reflect").tolist() == [1, 1, 1, 1]
    assert fit_length(waveform[:0], 2, "reflect").tolist() == [0, 0]


def test_import_is_light_and_a_picture_needs_no_torch() -> None:
    script = (
        "import sys, numpy as np, models.spectrograms as s\n"
        "assert not {'numba', 'scipy.signal', 'torch'} & set(sys.modules)\n"
        "s.stft_picture(np.ones(110_250, np.float32)), s.mel_picture(np.ones(220_500, np.float32))\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], cwd=CHECKOUT, check=True)
