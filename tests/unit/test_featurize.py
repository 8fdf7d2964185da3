"""Windows of features: what a row holds, how many there are, what a short or a long sound gives."""

import io
import itertools
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from models.audio import AudioReader, load_audio
from models.bundle import load_bundle
from models.errors import AudioTooShort, BadOption
from models.frontend import log_mel
from models.spectrograms import mel_picture, stft_picture
from models.tagger import Scorer, read_frames
from pipelines.bulk import Row
from pipelines.extractors import Embeddings, LogMels, Pictures, Windows, load_scorer, slide
from pipelines.featurize import FeatureWork, choose_windows
from tests.sounds import encode, tone


def item(**fields: object) -> Row:
    return {"path": "a.wav", "labels": ["tone"], "start_s": None, "end_s": None, "part": 0, "parts": 1} | fields


def rows_of(work: FeatureWork, content: bytes, **fields: object) -> list[Row]:
    return list(work.compute(item(**fields), io.BytesIO(content)))


def noise(seconds: float, rate_hz: int = 16_000) -> np.ndarray:
    return np.random.default_rng(1).normal(0, 0.1, int(seconds * rate_hz)).astype(np.float32)


def in_blocks(rows: np.ndarray, size: int) -> Iterator[np.ndarray]:
    return (rows[start : start + size] for start in range(0, len(rows), size))


@pytest.mark.parametrize("block", [1, 7, 100])
@pytest.mark.parametrize(
    ("rows", "length", "hop", "tail", "expected"),
    [
        (10, 4, 4, 0, [(0, 4), (4, 4), (8, 2)]),  # half filled: kept
        (9, 4, 4, 0, [(0, 4), (4, 4)]),  # less: left out
        (1, 4, 4, 0, [(0, 1)]),  # the only one is kept
        (12, 4, 2, 0, [(0, 4), (2, 4), (4, 4), (6, 4), (8, 4), (10, 2)]),
        (10, 4, 4, 2, [(0, 4), (4, 4)]),  # two rows of tail are no sound
        (2, 4, 4, 2, [(0, 1)]),
    ],
)
def test_windows_slide_over_blocks_of_any_size(
    block: int, rows: int, length: int, hop: int, tail: int, expected: list[tuple[int, int]]
) -> None:
    windows = list(slide(in_blocks(np.arange(rows), block), length, hop, tail))
    assert [(int(values[0]), valid) for values, valid in windows] == expected


def test_log_mel_windows_are_the_front_ends_frames() -> None:
    content = encode(noise(2))
    rows = rows_of(FeatureWork(LogMels(), Windows(0.96, 0.48)), content)
    frames = log_mel(load_audio(content).samples)
    assert [row["start_s"] for row in rows] == [0.0, 0.48, 0.96, 1.44]
    for row in rows:
        first = round(row["start_s"] * 100)
        assert row["features"].shape == (96, 64)
        np.testing.assert_array_equal(row["features"][: row["valid"]], frames[first : first + row["valid"]])
    assert rows[-1]["valid"] == 55  # 199 frames cover 2 s
    np.testing.assert_allclose(rows[-1]["features"][60:], math.log(0.001), rtol=1e-6)
    assert sum(row["heard_s"] for row in rows) == pytest.approx(2.0)


def test_a_part_of_a_file_gives_the_windows_of_that_part() -> None:
    work = FeatureWork(LogMels(), Windows(1.0, 1.0))
    rows = rows_of(work, encode(noise(6)), start_s=2.0, end_s=4.0)
    assert [(row["start_s"], row["end_s"], row["valid"]) for row in rows] == [(2.0, 3.0, 100), (3.0, 4.0, 99)]
    with pytest.raises(AudioTooShort):
        rows_of(work, encode(noise(1)), start_s=2.0, end_s=4.0)


@pytest.mark.parametrize("windows", [Windows(0.96, 0.48), Windows(2.0, 2.0), Windows(1.5, 0.5)])
def test_parts_of_a_long_recording_give_the_rows_of_the_whole(windows: Windows) -> None:
    content = encode(noise(24.3))
    work = FeatureWork(LogMels(), windows)
    part_s = 12 * windows.hop_s if windows.hop_s < 1 else 12.0
    edges = [*np.arange(0, 24.3 - part_s / 2, part_s), None]
    parts = []
    for number, (start_s, end_s) in enumerate(itertools.pairwise(edges)):
        parts += rows_of(work, content, start_s=float(start_s), end_s=end_s, part=number, parts=len(edges) - 1)
    whole = rows_of(work, content)
    assert [row["start_s"] for row in parts] == pytest.approx([row["start_s"] for row in whole])
    for part, row in zip(parts, whole, strict=True):
        np.testing.assert_allclose(part["features"], row["features"], atol=1e-5)
        assert part["valid"] == row["valid"]


def test_labels_with_times_go_to_the_windows_they_overlap() -> None:
    events = [
        {"label": "dog", "start_s": 0.2, "end_s": 1.5},
        {"label": "cat", "start_s": 2.5, "end_s": 2.6},
        {"label": "dog", "start_s": 0.5, "end_s": 0.6},
    ]
    rows = rows_of(FeatureWork(LogMels(), Windows(1.0, 1.0)), encode(noise(4)), events=events)
    assert [row["labels"] for row in rows] == [["dog"], ["dog"], ["cat"], []]


def test_pictures_are_those_of_the_waveform_at_their_own_rate() -> None:
    content = encode(noise(5, 44_100), 44_100)
    [mel] = rows_of(FeatureWork(Pictures("mel"), Windows(5, 5)), content)
    samples = np.concatenate(list(AudioReader(content, sample_rate_hz=44_100).blocks()))
    np.testing.assert_array_equal(mel["features"], mel_picture(samples))
    [stft] = rows_of(FeatureWork(Pictures("stft"), Windows(5, 5)), content)
    samples = np.concatenate(list(AudioReader(content, sample_rate_hz=22_050).blocks()))
    np.testing.assert_array_equal(stft["features"], stft_picture(samples))
    assert FeatureWork(Pictures("stft"), Windows(5, 5)).schema.field("features").type.shape == [216, 514]


def test_embeddings_are_the_taggers_and_the_rest_of_a_window_is_zero(tone_tagger: Path) -> None:
    bundle = load_bundle(tone_tagger)
    embeddings = Embeddings(tone_tagger, "tones", bundle.card.weights_sha256, 0.48, 64)
    content = encode(tone(300, 5))
    [row] = rows_of(FeatureWork(embeddings, Windows(10, 10)), content)
    scorer: Scorer = load_scorer(tone_tagger)
    expected = scorer.embed(read_frames(AudioReader(content)), 0.48)
    assert row["features"].shape == (20, 64)
    assert row["valid"] == len(expected) == 10
    np.testing.assert_allclose(row["features"][:9], expected[:9], atol=1e-6)
    assert not row["features"][10:].any()


def test_ten_seconds_are_ten_vggish_patches() -> None:
    embeddings = Embeddings(Path(), "vggish", "", 0.96, 128)
    assert embeddings.tensor(Windows(10, 10))[1] == [10, 128]


@pytest.mark.parametrize(
    ("kind", "length_s", "hop_s", "said"),
    [
        ("mfcc", None, None, "there are: logmel, stft, mel, mel64, embedding"),
        ("stft", 4.0, None, "made of 5 s"),
        ("logmel", 1.0, 2.0, "the hop from"),
        ("logmel", 900.0, None, "a window lasts up to"),
        ("logmel", 0.965, 0.48, "multiples of 0.01 s"),
    ],
)
def test_windows_that_cannot_be_are_refused(kind: str, length_s: float | None, hop_s: float | None, said: str) -> None:
    with pytest.raises(BadOption, match=said):
        choose_windows(kind, length_s, hop_s)


def test_a_shorter_window_brings_its_hop_along() -> None:
    assert choose_windows("embedding", 5.0, None) == Windows(5.0, 5.0)
    assert choose_windows("logmel", None, None) == Windows(0.96, 0.48)
