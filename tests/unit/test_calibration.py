import numpy as np
import pytest
from scipy.special import expit, softmax

from tune.calibration import fit_temperature, fit_thresholds
from tune.metrics import score


def draw(rng: np.random.Generator, logits: np.ndarray, multi_label: bool) -> np.ndarray:
    """Labels that are as likely as the logits say."""
    if multi_label:
        return rng.random(logits.shape) < expit(logits)
    classes = (softmax(logits, axis=1).cumsum(axis=1) > rng.random((len(logits), 1))).argmax(axis=1)
    return np.eye(logits.shape[1], dtype=bool)[classes]


@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize("factor", [0.5, 1.0, 3.0])
def test_temperature_takes_back_by_how_much_logits_are_too_large(multi_label: bool, factor: float) -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (8000, 4)).astype(np.float32)
    labels = draw(rng, logits, multi_label)
    assert fit_temperature(logits * np.float32(factor), labels, multi_label) == pytest.approx(factor, rel=0.05)


def test_calibrated_scores_are_more_honest_on_rows_that_were_not_seen() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (4000, 5)).astype(np.float32)
    labels = draw(rng, logits, False)
    sure = 4 * logits
    temperature = fit_temperature(sure[:2000], labels[:2000], False)
    names = list("abcde")
    before, after = (
        score(labels[2000:], softmax(sure[2000:] / t, axis=1), names, multi_label=False) for t in (1, temperature)
    )
    assert after.ece < before.ece / 4
    assert after.accuracy == before.accuracy


@pytest.mark.parametrize("multi_label", [False, True])
def test_rows_that_are_all_right_have_a_temperature_that_rises_with_doubt(multi_label: bool) -> None:
    labels = np.eye(3, dtype=bool)[np.arange(30) % 3]
    logits = np.where(labels, 3, -3).astype(np.float32)
    few, many = (fit_temperature(logits[:count], labels[:count], multi_label) for count in (6, 30))
    assert 0.1 < many < few < 3


def test_threshold_lies_half_way_between_what_is_there_and_what_is_not() -> None:
    labels = np.array([[0], [0], [1], [1]], bool)
    scores = np.array([[0.1], [0.3], [0.5], [0.9]], np.float32)
    assert fit_thresholds(labels, scores) == pytest.approx([0.4])


def test_threshold_has_the_best_f1_of_all() -> None:
    rng = np.random.default_rng(0)
    labels = rng.random((200, 3)) < [0.1, 0.5, 0.9]
    scores = expit(rng.standard_normal((200, 3)) + labels).astype(np.float32)
    fitted = fit_thresholds(labels, scores)
    names = ["a", "b", "c"]
    best = score(labels, scores, names, multi_label=True, thresholds=fitted).per_class
    for threshold in np.unique(scores):
        other = score(labels, scores, names, multi_label=True, thresholds=[threshold] * 3).per_class
        assert all((other[name]["f1"] or 0) <= (best[name]["f1"] or 0) + 1e-9 for name in names)


def test_class_without_positives_keeps_one_half_and_one_with_nothing_else_is_always_heard() -> None:
    labels = np.array([[0, 1], [0, 1]], bool)
    scores = np.array([[0.9, 0.2], [0.1, 0.4]], np.float32)
    assert fit_thresholds(labels, scores) == pytest.approx([0.5, 0.1])
