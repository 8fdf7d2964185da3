"""Whether scores mean what they say: of the answers with a score of 0.7, are 7 in 10 right? Knows nothing of networks or pictures."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

BINS = 15  # as Guo et al. 2017, arXiv 1706.04599


@dataclass(frozen=True)
class Reliability:
    """Answers in equal bins of their score; bins without answers are left out. Each [B]: mean score, share that is right, count."""

    sure: NDArray[np.float64]
    right: NDArray[np.float64]
    counts: NDArray[np.int64]

    @property
    def error(self) -> float:
        """Expected calibration error: the mean distance between how sure and how often right."""
        return float(np.average(np.abs(self.sure - self.right), weights=self.counts))


def measure_reliability(labels: NDArray[np.bool_], scores: NDArray[np.float32], multi_label: bool) -> Reliability:
    """Labels [N, C] and scores [N, C] -> bins of answers.

    Single-label: a row's answer is its best class. Multi-label: each score is one, right where its label is there.
    """
    answers = np.arange(scores.shape[1]) == scores.argmax(axis=1, keepdims=True)
    sure, right = (scores.ravel(), labels.ravel()) if multi_label else (scores[answers], labels[answers])
    which = np.minimum((sure * BINS).astype(np.int64), BINS - 1)
    counts = np.bincount(which, minlength=BINS)
    held = counts > 0
    means = [np.bincount(which, values, BINS)[held] / counts[held] for values in (sure, right)]
    return Reliability(means[0], means[1], counts[held])
