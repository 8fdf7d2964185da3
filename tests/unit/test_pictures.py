import io
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from models.frontend import log_mel
from models.pictures import (
    TICKS_HZ,
    band_of,
    draw_counts,
    draw_log_mel,
    draw_probabilities,
    draw_report,
    draw_timeline,
    thin,
)


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"), np.int64)


def bright_columns(png: bytes) -> np.ndarray:
    """Columns of the picture that hold colours only the brightest cells have."""
    picture = pixels(png)
    pale_yellow = (picture[..., 0] > 245) & (picture[..., 1] > 225) & (picture[..., 2] < 190)
    return np.flatnonzero(pale_yellow.sum(axis=0) > 20)


@pytest.mark.parametrize("frequency_hz", [250.0, 1000.0, 2000.0, 4000.0])
def test_a_tone_is_loudest_where_the_axis_says_its_frequency_is(frequency_hz: float) -> None:
    wave = np.sin(2 * np.pi * frequency_hz * np.arange(16_000) / 16_000).astype(np.float32)
    loudest_band = log_mel(wave)[20:60].mean(axis=0).argmax()
    assert abs(band_of(np.array([frequency_hz]))[0] - loudest_band) <= 0.75


def test_the_axis_spans_the_picture() -> None:
    ticks = band_of(np.array(TICKS_HZ))
    assert ticks[0] == -0.5
    assert ticks[-1] == 63.5
    assert (np.diff(ticks) > 2).all()


@pytest.mark.parametrize("frames", [1, 2, 96, 500])
def test_draws_a_log_mel_of_any_length(frames: int) -> None:
    noise = np.random.default_rng(0).normal(size=(frames, 64)).astype(np.float32)
    assert pixels(draw_log_mel(noise)).shape[1] == 1188


def test_draws_silence() -> None:
    draw_log_mel(np.full((300, 64), np.log(0.001), np.float32))


def test_a_click_in_ten_minutes_is_seen() -> None:
    frames = np.full((60_000, 64), np.log(0.001), np.float32)
    frames[30_000:30_100] = 0.0
    assert len(bright_columns(draw_log_mel(frames))) > 0


def test_a_patch_in_two_hours_is_seen() -> None:
    scores = np.zeros((15_000, 2))
    scores[4321, 1] = 1.0
    timeline = draw_timeline(["Speech", "Glass"], (np.arange(15_000) * 0.48).tolist(), 0.96, scores)
    nothing = draw_timeline(["Speech", "Glass"], (np.arange(15_000) * 0.48).tolist(), 0.96, np.zeros((15_000, 2)))
    assert timeline != nothing


@pytest.mark.parametrize("patches", [1, 2, 10])
def test_draws_a_timeline_of_any_length(patches: int) -> None:
    scores = np.random.default_rng(0).random((patches, 3))
    start_s = [0.48 * patch for patch in range(patches)]
    draw_timeline(["Glass", "Inside, large room or hall", "Supercalifragilisticexpialidocious"], start_s, 0.96, scores)
    draw_timeline(["Glass", "Speech", "Silence"], start_s, 0.96, scores, duration_s=0.2)


def test_a_timeline_of_many_labels_stays_bounded() -> None:
    scores = np.random.default_rng(0).random((4, 521))
    labels = [f"Label {k}" for k in range(521)]
    assert pixels(draw_timeline(labels, [0.0, 0.48, 0.96, 1.44], 0.96, scores)).shape[0] < 2000


def test_longer_bars_have_more_colour() -> None:
    few, much = (pixels(draw_probabilities(["Dog"], [score], [score])) for score in (0.2, 0.9))
    amber = [((picture[..., 0] > 230) & (picture[..., 2] < 90)).sum() for picture in (few, much)]
    assert amber[1] > 3 * amber[0]


def test_a_report_is_the_log_mel_above_the_probabilities() -> None:
    noise = np.random.default_rng(0).normal(size=(200, 64)).astype(np.float32)
    alone = (
        pixels(draw_log_mel(noise)).shape[0],
        pixels(draw_probabilities(["Dog", "Cat"], [0.2, 0.1], [0.9, 0.3])).shape[0],
    )
    quiet, loud = (pixels(draw_report(noise, 0.01, ["Dog", "Cat"], [s, 0.1], [0.9, 0.3])) for s in (0.2, 0.8))
    assert quiet.shape[0] == sum(alone)
    changed = np.flatnonzero((quiet != loud).any(axis=(1, 2)))
    assert changed.min() > quiet.shape[0] / 2


def test_a_report_of_every_label_stays_bounded() -> None:
    scores = [0.5] * 521
    report = draw_report(np.zeros((10, 64)), 0.01, [f"Label {k}" for k in range(521)], scores, scores)
    assert pixels(report).shape[0] < 3000


@pytest.mark.parametrize(
    ("lengths", "columns", "hop_s"),
    [([3], 3, 0.01), ([700], 700, 0.01), ([701], 351, 0.02), ([128] * 100, 400, 0.32), ([3000, 0, 5], 376, 0.08)],
)
def test_thinning_keeps_each_maximum(lengths: list[int], columns: int, hop_s: float) -> None:
    rng = np.random.default_rng(0)
    blocks = [rng.normal(size=(length, 64)).astype(np.float32) for length in lengths]
    thinned, thinned_hop_s = thin(iter(blocks))
    stride = round(hop_s * 100)
    frames = np.concatenate(blocks)
    expected = [frames[start : start + stride].max(axis=0) for start in range(0, len(frames), stride)]
    assert thinned_hop_s == pytest.approx(hop_s)
    assert len(thinned) == columns
    assert np.array_equal(thinned, expected)


def test_thinning_holds_no_more_for_more_sound() -> None:
    block = np.zeros((384, 64), np.float32)
    tracemalloc.start()
    thin(block for _ in range(1000))  # an hour, 98 MB of frames
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < 2e6


def test_threads_draw_the_same_pictures() -> None:
    noises = [np.random.default_rng(seed).normal(size=(200, 64)).astype(np.float32) for seed in range(8)]
    alone = [draw_log_mel(noise) for noise in noises]
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(draw_log_mel, noises)) == alone


@pytest.mark.parametrize("labels", [0, 3, 30, 500])
@pytest.mark.parametrize("groups", [{}, {"train": 9, "test": 1}, {str(fold): 1 for fold in range(400)}])
def test_counts_are_drawn_for_few_and_many_labels(labels: int, groups: dict[str, int]) -> None:
    counts = {f"label {number}": 1000 - number for number in range(labels)}
    height = [len(pixels(draw_counts(counts, np.full(n, 5.0), "split", groups))) for n in (0, 100)]
    assert height[0] == height[1]
    assert height[0] < 5000


def amber_columns(picture: np.ndarray) -> int:
    """How many columns of the picture hold some of the bars' colour."""
    return int(((picture[..., 0] > 230) & (picture[..., 2] < 90)).any(axis=0).sum())


def test_durations_of_any_range_are_spread_over_the_axis() -> None:
    near, far = np.linspace(4, 5, 1000), np.geomspace(0.5, 5000, 1000)
    near_columns, far_columns = (amber_columns(pixels(draw_counts({}, spread, "", {}))) for spread in (near, far))
    assert (
        far_columns > 3 * near_columns
    )  # from zero on, 4 to 5 s is a fifth; on the other, logarithmic axis all is used
    assert near_columns > 100


def test_a_duration_of_zero_is_drawn_beside_others() -> None:
    draw_counts({}, np.zeros(1), "", {})
    draw_counts({}, np.concatenate([[0.0], np.geomspace(0.5, 5000, 1000)]), "", {})


def test_more_counts_make_a_higher_picture() -> None:
    few, many = (draw_counts(dict.fromkeys("abcdefghij"[:n], 1), np.ones(3), "fold", {}) for n in (2, 10))
    assert len(pixels(few)) < len(pixels(many))
