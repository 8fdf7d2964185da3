"""Scores per patch -> ranked classes and runs."""

import numpy as np
import pytest

from models.events import Run, find_runs, rank_classes


def column(*scores: float) -> np.ndarray:
    """Scores of one class, [P, 1]."""
    return np.array(scores, np.float32)[:, np.newaxis]


def spans(scores: np.ndarray, threshold: float) -> list[tuple[int, int, int]]:
    return [(run.class_index, run.first, run.last) for run in find_runs(scores, threshold)]


def test_run_lasts_from_the_first_to_the_last_patch_that_reaches_the_threshold() -> None:
    assert find_runs(column(0.1, 0.5, 0.9, 0.6, 0.1), 0.5) == [Run(0, 1, 3, np.float32(0.9))]


def test_score_that_equals_the_threshold_reaches_it() -> None:
    assert spans(column(0.25), 0.25) == [(0, 0, 0)]
    assert spans(column(0.25), np.nextafter(0.25, 1)) == []


def test_dip_of_one_patch_does_not_end_a_run() -> None:
    assert spans(column(0.9, 0.0, 0.9), 0.5) == [(0, 0, 2)]


def test_dip_of_two_patches_ends_it() -> None:
    assert spans(column(0.9, 0.0, 0.0, 0.9), 0.5) == [(0, 0, 0), (0, 3, 3)]


def test_each_dip_is_judged_alone() -> None:
    assert spans(column(0.9, 0.0, 0.9, 0.0, 0.9, 0.0, 0.0, 0.9), 0.5) == [(0, 0, 4), (0, 7, 7)]


def test_first_and_last_patch_count() -> None:
    assert spans(column(0.9, 0.0, 0.0, 0.0, 0.9), 0.5) == [(0, 0, 0), (0, 4, 4)]


def test_classes_do_not_merge_with_each_other() -> None:
    scores = np.array([[0.9, 0.0], [0.0, 0.9]], np.float32)
    assert spans(scores, 0.5) == [(0, 0, 0), (1, 1, 1)]


def test_runs_come_in_order_of_time_then_the_strongest_then_the_class() -> None:
    scores = np.array([[0.0, 0.6, 0.8, 0.6], [0.9, 0.0, 0.0, 0.0]], np.float32)
    assert spans(scores, 0.5) == [(2, 0, 0), (1, 0, 0), (3, 0, 0), (0, 1, 1)]


def test_nothing_reaches_the_threshold() -> None:
    assert find_runs(np.full((4, 3), 0.2, np.float32), 0.3) == []


def test_threshold_zero_makes_every_class_one_run() -> None:
    assert spans(np.zeros((4, 2), np.float32), 0) == [(0, 0, 3), (1, 0, 3)]


def test_threshold_one_needs_full_certainty() -> None:
    scores = np.array([[1.0, 0.999], [0.5, 0.5]], np.float32)
    assert spans(scores, 1) == [(0, 0, 0)]


@pytest.mark.parametrize(("rank", "expected"), [("mean", [0, 2, 1]), ("peak", [1, 2, 0])])
def test_classes_rank_by_mean_or_by_peak(rank: str, expected: list[int]) -> None:
    mean, peak = np.array([0.5, 0.1, 0.3], np.float32), np.array([0.6, 0.9, 0.7], np.float32)
    assert rank_classes(mean, peak, rank) == expected  # type: ignore[arg-type]


def test_the_other_measure_decides_ties_then_the_order_of_the_classes() -> None:
    mean = np.array([0.5, 0.5, 0.5, 0.9], np.float32)
    peak = np.array([0.6, 0.8, 0.6, 0.9], np.float32)
    assert rank_classes(mean, peak, "mean") == [3, 1, 0, 2]
    assert rank_classes(peak, mean, "peak") == [3, 1, 0, 2]
