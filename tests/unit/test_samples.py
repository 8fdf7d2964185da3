import io
from pathlib import Path

import numpy as np
import pytest
import soundfile

from ui.samples.generate import FOLDER, SOUNDS, encode, make_sound

FILES = sorted(FOLDER.glob("*.ogg"))


def test_every_sound_has_its_file() -> None:
    assert [path.stem for path in FILES] == sorted(SOUNDS)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_sample_is_small_short_and_whole(path: Path) -> None:
    waveform, sample_rate_hz = soundfile.read(path)
    assert path.stat().st_size <= 60 * 1024
    assert sample_rate_hz == 16_000
    assert waveform.ndim == 1
    assert 3 <= len(waveform) / sample_rate_hz <= 6
    assert np.isfinite(waveform).all()
    assert (np.abs(waveform).max() > 0.3) == (path.stem != "silence")


@pytest.mark.parametrize("name", [name for name in SOUNDS if name != "speech"])
def test_a_sample_is_what_its_generator_makes(name: str) -> None:
    shipped, _ = soundfile.read(FOLDER / f"{name}.ogg")
    made, _ = soundfile.read(io.BytesIO(encode(make_sound(name))))
    assert len(made) == len(shipped)
    assert np.linalg.norm(made - shipped) <= 0.01 * np.linalg.norm(shipped)
