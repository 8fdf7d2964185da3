"""Scores per patch -> ranked classes and runs. Knows nothing of labels, seconds or networks."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from models.frontend import FloatArray


@dataclass(frozen=True)
class Run:
    """Consecutive patches, first to last inclusive, in which one class reaches the threshold; `score` is its maximum there."""

    class_index: int
    first: int
    last: int
    score: np.float32


def rank_classes(mean: FloatArray, peak: FloatArray, rank: Literal["mean", "peak"]) -> list[int]:
    """Class indices, best first; the other measure decides ties, then the order of the classes."""
    first, second = (mean, peak) if rank == "mean" else (peak, mean)
    return [int(c) for c in np.lexsort((-second, -first))]


def find_runs(scores: FloatArray, threshold: float) -> list[Run]:
    """Scores [P, C] -> runs at or above the threshold, in order of their first patch, the strongest first.

    A class that dips below for a single patch between two that reach the threshold goes on: patches overlap by half.
    """
    runs = []
    for c in np.flatnonzero(scores.max(axis=0) >= threshold):
        active = np.flatnonzero(scores[:, c] >= threshold)
        for piece in np.split(active, np.flatnonzero(np.diff(active) > 2) + 1):
            first, last = int(piece[0]), int(piece[-1])
            runs.append(Run(int(c), first, last, scores[first : last + 1, c].max()))
    return sorted(runs, key=lambda run: (run.first, -run.score, run.class_index))
