"""From logits to decisions: a temperature that makes scores honest, and a threshold for each label. Both are fitted on validation rows."""

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import log_expit, log_softmax
from sklearn.metrics import precision_recall_curve

from tune.metrics import THRESHOLD

LOWEST, HIGHEST = 0.05, 20.0  # temperatures that are looked at


def fit_temperature(logits: NDArray[np.float32], labels: NDArray[np.bool_], multi_label: bool) -> float:
    """Logits [N, C] and labels [N, C] -> the T that makes the scores of logits / T most likely (Guo et al. 2017, arXiv 1706.04599).

    One row in N + 1 is taken to have any label, in the way of Platt (1999): so rows that are all answered right have a T, too.
    """
    unsure = 1 / (len(labels) + 1)
    targets = labels * (1 - unsure) + unsure / (2 if multi_label else labels.shape[1])
    exact = logits.astype(np.float64)

    def negative_log_likelihood(log_temperature: float) -> float:
        scaled = exact / np.exp(log_temperature)
        if multi_label:
            return float(-np.mean(targets * log_expit(scaled) + (1 - targets) * log_expit(-scaled)))
        return float(-np.mean(targets * log_softmax(scaled, axis=1)))

    found = minimize_scalar(negative_log_likelihood, bounds=(np.log(LOWEST), np.log(HIGHEST)), method="bounded")
    return float(np.exp(found.x))


def fit_thresholds(labels: NDArray[np.bool_], scores: NDArray[np.float32]) -> list[float]:
    """Labels [N, C] and scores [N, C] -> for each class the threshold with the best F1; 0.5 for one without positives.

    It lies half way between the lowest score that should be heard and the next lower one, so that rows not seen have room.
    """
    return [_best_threshold(truth, column) for truth, column in zip(labels.T, scores.T, strict=True)]


def _best_threshold(truth: NDArray[np.bool_], scores: NDArray[np.float32]) -> float:
    if not truth.any():
        return THRESHOLD
    precision, recall, thresholds = precision_recall_curve(truth, scores)  # thresholds: each score there is, ascending
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    best = int(f1[:-1].argmax())
    lower = thresholds[best - 1] if best else 0.0
    return float((thresholds[best] + lower) / 2)
