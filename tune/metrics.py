"""How well scores tell classes apart: the numbers of every report. Knows nothing of networks, files or Ray.

A number that is not defined - the recall of a class without rows, the average precision where nothing is positive - is None, and is
left out of averages.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from scipy.stats import norm
from sklearn.metrics import average_precision_score, balanced_accuracy_score, confusion_matrix, roc_auc_score

from models.reliability import measure_reliability

THRESHOLD = 0.5  # from where on a label is heard, unless told
HEADLINE = ("accuracy", "balanced_accuracy", "f1", "f1_micro", "mAP", "d_prime", "ece")

Targets = NDArray[np.bool_]
Scores = NDArray[np.float32]


class Metrics(BaseModel):
    """What is known of scores whose labels are known. Averages are over classes (macro) unless their name says otherwise.

    Single-label: a row's answer is its best class. Multi-label: each label whose score reaches its threshold, and accuracies are over
    labels, heard or not.
    """

    model_config = ConfigDict(frozen=True)

    accuracy: float
    balanced_accuracy: float | None  # each class weighs the same, however rare; multi-label: so do its yes and its no
    f1: float | None
    f1_micro: float | None  # of all decisions together
    mAP: float | None  # mean average precision
    d_prime: float | None
    ece: float  # expected calibration error
    per_class: dict[str, dict[str, float | None]]  # precision, recall, f1, average_precision, support (rows)
    confusion: list[list[int]] | None = None  # single-label: [truth][answer] -> rows

    def headline(self) -> dict[str, float]:
        """The defined ones of the overall numbers by name, for logs."""
        numbers = self.model_dump(include=set(HEADLINE))
        return {name: numbers[name] for name in HEADLINE if numbers[name] is not None}


def score(
    labels: Targets,
    scores: Scores,
    names: Sequence[str],
    *,
    multi_label: bool,
    thresholds: Sequence[float] | None = None,
) -> Metrics:
    """Labels [N, C] and scores [N, C] of at least one row -> metrics. `thresholds` [C] matter to multi-label scores only."""
    decisions = (
        scores >= (THRESHOLD if thresholds is None else np.asarray(thresholds)) if multi_label else _best(scores)
    )
    columns = zip(names, labels.T, decisions.T, scores.T, strict=True)
    per_class = {name: _describe_class(truth, answers, column) for name, truth, answers, column in columns}

    def average(number: str) -> float | None:
        return _mean([row[number] for row in per_class.values()])

    return Metrics(
        accuracy=float((decisions == labels).mean() if multi_label else (decisions & labels).any(axis=1).mean()),
        balanced_accuracy=_balanced_accuracy(labels, decisions) if multi_label else average("recall"),
        f1=average("f1"),
        f1_micro=_share(2 * int((decisions & labels).sum()), int(decisions.sum() + labels.sum())),
        mAP=average("average_precision"),
        d_prime=_d_prime(labels, scores),
        ece=measure_reliability(labels, scores, multi_label).error,
        per_class=per_class,
        confusion=None if multi_label else _confusion(labels, decisions),
    )


def _best(scores: Scores) -> Targets:
    """The best class of each row [N, C], one-hot."""
    decisions = np.zeros(scores.shape, bool)
    np.put_along_axis(decisions, scores.argmax(axis=1, keepdims=True), True, axis=1)
    return decisions


def _describe_class(truth: Targets, answers: Targets, scores: Scores) -> dict[str, float | None]:
    """One class, each argument [N]. Without positives it has neither recall nor F1 nor average precision."""
    right, given, there = int((truth & answers).sum()), int(answers.sum()), int(truth.sum())
    return {
        "precision": _share(right, given),
        "recall": _share(right, there),
        "f1": _share(2 * right, given + there) if there else None,
        "average_precision": float(average_precision_score(truth, scores)) if there else None,
        "support": float(there),
    }


def _balanced_accuracy(labels: Targets, decisions: Targets) -> float | None:
    """The mean over labels of how many of their yes and of their no are found; over those that have both."""
    columns = zip(labels.T, decisions.T, strict=True)
    return _mean(
        [balanced_accuracy_score(truth, answer) if 0 < truth.mean() < 1 else None for truth, answer in columns]
    )


def _d_prime(labels: Targets, scores: Scores) -> float | None:
    """sqrt(2) times the inverse normal CDF of the mean area under the ROC curve (Hershey et al. 2017, arXiv 1609.09430).

    The area is kept 1 / 2N away from 0 and 1, as Macmillan and Kaplan (1985) keep rates: so a perfect order of N rows has a finite d'.
    """
    columns = zip(labels.T, scores.T, strict=True)
    area = _mean([roc_auc_score(truth, column) if 0 < truth.mean() < 1 else None for truth, column in columns])
    if area is None:
        return None
    margin = 0.5 / len(labels)
    return float(np.sqrt(2) * norm.ppf(np.clip(area, margin, 1 - margin)))


def _confusion(labels: Targets, decisions: Targets) -> list[list[int]]:
    """Rows that are of class i and were taken for class j: [C][C]."""
    classes = np.arange(labels.shape[1])
    table: list[list[int]] = confusion_matrix(labels.argmax(1), decisions.argmax(1), labels=classes).tolist()
    return table


def _mean(values: Sequence[float | None]) -> float | None:
    """The mean of those that are defined."""
    defined = [value for value in values if value is not None]
    return float(np.mean(defined)) if defined else None


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None
