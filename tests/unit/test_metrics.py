import json
import warnings

import numpy as np
import pytest
from scipy.stats import norm

from models.reliability import measure_reliability
from tune.metrics import Metrics, score

NAMES = ["dog", "rain", "siren"]


@pytest.fixture(autouse=True)
def _no_warnings() -> None:
    warnings.simplefilter("error")


def one_hot(classes: list[int], count: int = 3) -> np.ndarray:
    return np.eye(count, dtype=bool)[classes]


def single(truth: list[int], answers: list[int], sure: float = 0.9) -> Metrics:
    labels = one_hot(truth)
    scores = np.where(one_hot(answers), sure, (1 - sure) / 2).astype(np.float32)
    return score(labels, scores, NAMES, multi_label=False)


def test_answers_of_one_class_a_row_are_counted_by_hand() -> None:
    found = single([0, 0, 0, 0, 1, 1, 2, 2], [0, 0, 0, 1, 1, 1, 2, 0])
    assert found.confusion == [[3, 1, 0], [0, 2, 0], [1, 0, 1]]
    assert found.accuracy == pytest.approx(6 / 8)
    assert found.f1_micro == pytest.approx(6 / 8)
    assert found.balanced_accuracy == pytest.approx((3 / 4 + 1 + 1 / 2) / 3)
    assert found.per_class["dog"]["precision"] == pytest.approx(3 / 4)
    assert found.per_class["dog"]["recall"] == pytest.approx(3 / 4)
    assert found.per_class["rain"]["f1"] == pytest.approx(4 / 5)
    assert found.per_class["siren"]["support"] == 2
    assert found.f1 == pytest.approx(np.mean([3 / 4, 4 / 5, 2 / 3]))
    assert found.ece == pytest.approx(0.9 - 6 / 8, abs=1e-6)


def test_labels_are_heard_from_their_own_threshold_on() -> None:
    labels = np.array([[1, 0], [1, 1], [0, 1], [0, 0]], bool)
    scores = np.array([[0.4, 0.1], [0.6, 0.8], [0.2, 0.7], [0.1, 0.65]], np.float32)
    plain = score(labels, scores, NAMES[:2], multi_label=True)
    fitted = score(labels, scores, NAMES[:2], multi_label=True, thresholds=[0.3, 0.68])
    assert plain.per_class["dog"]["recall"] == pytest.approx(1 / 2)
    assert plain.accuracy == pytest.approx(6 / 8)
    assert fitted.f1 == fitted.f1_micro == fitted.accuracy == fitted.balanced_accuracy == 1
    assert fitted.confusion is None
    assert fitted.mAP == plain.mAP == 1


def test_one_label_against_the_rest_is_judged_by_its_own_rows() -> None:
    labels, scores = (
        np.array([[1], [1], [0], [0], [0]], bool),
        np.array([[0.9], [0.2], [0.6], [0.1], [0.3]], np.float32),
    )
    found = score(labels, scores, ["speech"], multi_label=True)
    assert list(found.per_class) == ["speech"]
    assert found.f1 == found.f1_micro == pytest.approx(1 / 2)
    assert found.balanced_accuracy == pytest.approx((1 / 2 + 2 / 3) / 2)


def test_d_prime_of_two_normal_distributions_is_their_distance() -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat([[True], [False]], 20_000, axis=0)
    scores = norm.cdf(rng.standard_normal((40_000, 1)) + 1.5 * labels).astype(np.float32)
    assert score(labels, scores, ["dog"], multi_label=True).d_prime == pytest.approx(1.5, abs=0.03)


def test_perfect_order_has_a_finite_d_prime() -> None:
    few, many = (single([0, 1, 2] * rows, [0, 1, 2] * rows).d_prime for rows in (2, 200))
    assert few is not None
    assert many is not None
    assert 1 < few < many < 10


def test_class_without_rows_is_left_out_of_every_average() -> None:
    found = single([0, 0, 1, 1], [0, 0, 1, 2])
    assert found.per_class["siren"] == {
        "precision": 0.0,
        "recall": None,
        "f1": None,
        "average_precision": None,
        "support": 0.0,
    }
    assert found.balanced_accuracy == pytest.approx(3 / 4)
    assert found.f1 == pytest.approx((1 + 2 / 3) / 2)
    assert found.mAP == pytest.approx((1 + 3 / 4) / 2)


def test_class_that_is_never_answered_has_no_precision() -> None:
    assert single([0, 1, 2], [0, 0, 2]).per_class["rain"]["precision"] is None


@pytest.mark.parametrize("value", [False, True])
def test_what_cannot_be_said_of_one_kind_of_row_is_not_said(value: bool) -> None:
    found = score(np.full((4, 2), value), np.full((4, 2), 0.3, np.float32), NAMES[:2], multi_label=True)
    assert found.d_prime is None
    assert found.balanced_accuracy is None
    assert (found.mAP is None) is not value
    assert set(found.headline()) == {"accuracy", "ece"} | ({"f1", "f1_micro", "mAP"} if value else set())


def test_one_row_is_enough() -> None:
    assert single([1], [1]).accuracy == 1


def test_survives_json() -> None:
    found = single([0, 1, 1], [0, 1, 0])
    assert Metrics.model_validate(json.loads(json.dumps(found.model_dump(), allow_nan=False))) == found


def test_headline_is_flat_and_in_order() -> None:
    headline = single([0, 1, 2, 2], [0, 1, 2, 0]).headline()
    assert list(headline) == ["accuracy", "balanced_accuracy", "f1", "f1_micro", "mAP", "d_prime", "ece"]
    assert all(isinstance(value, float) for value in headline.values())


def test_scores_that_mean_what_they_say_have_no_calibration_error() -> None:
    rng = np.random.default_rng(0)
    scores = rng.random((60_000, 1), np.float32)
    labels = rng.random((60_000, 1)) < scores
    assert measure_reliability(labels, scores, multi_label=True).error < 0.01
    assert measure_reliability(labels, scores**3, multi_label=True).error > 0.2


def test_bins_hold_every_answer_up_to_a_score_of_one() -> None:
    bins = measure_reliability(one_hot([0, 1, 2]), np.array([[1, 0, 0], [0, 1, 0], [0.4, 0.3, 0.3]], np.float32), False)
    assert bins.counts.tolist() == [1, 2]
    assert bins.sure == pytest.approx([0.4, 1])
    assert bins.right.tolist() == [0, 1]
