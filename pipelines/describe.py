"""What a data set holds: rows and hours, counts per class, fold and split, durations, files that are not there."""

from collections import Counter
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipelines.datasets.table import DataSet
from pipelines.filters import DURATION, with_durations

QUANTILES = {"shortest": 0.0, "5 %": 0.05, "median": 0.5, "95 %": 0.95, "longest": 1.0}


@dataclass(frozen=True)
class Description:
    """Counts of rows by value: the most frequent label first, folds and splits in order. A row of several labels counts for each.

    `unlabelled` are rows; `unread` are files that are not there, whose length cannot be read, or that end before the part that is meant.
    """

    rows: int
    unlabelled: int
    durations_s: NDArray[np.float64]
    labels: dict[str, int]
    folds: dict[str, int]
    splits: dict[str, int]
    unread: list[str]

    @property
    def hours(self) -> float:
        """All rows together, as far as their lengths are known."""
        return float(self.durations_s.sum()) / 3600

    @property
    def quantiles_s(self) -> dict[str, float]:
        """The spread of the durations; empty where none is known."""
        if not len(self.durations_s):
            return {}
        return {name: float(np.quantile(self.durations_s, share)) for name, share in QUANTILES.items()}


def describe(dataset: DataSet) -> Description:
    """Counts a data set's rows; reads the headers of files whose length its table does not tell. Raises StoreFailed."""
    table = with_durations(_with_record_times(dataset)).table
    known = pc.is_valid(table[DURATION])
    labels = [sorted(set(row or [])) for row in table["labels"].to_pylist()]
    return Description(
        rows=len(table),
        unlabelled=sum(not row for row in labels),
        durations_s=table[DURATION].filter(known).to_numpy(),
        labels=dict(Counter(label for row in labels for label in row).most_common()),
        folds=_count(table["fold"]),
        splits=_count(table["split"]),
        unread=table["path"].filter(pc.invert(known)).unique().to_pylist(),
    )


def _with_record_times(dataset: DataSet) -> DataSet:
    """Records of AudioSet's features have no header to read: they are as long as their segments."""
    table = dataset.table
    if "record_offset" not in table.column_names or DURATION in table.column_names:
        return dataset
    length_s = pc.subtract(table["end_time_seconds"], table["start_time_seconds"])
    return replace(dataset, table=table.append_column(DURATION, length_s))


def _count(values: pa.ChunkedArray) -> dict[str, int]:
    """Rows by value, in order; empty where no row has one."""
    counts = Counter(value for value in values.to_pylist() if value is not None)
    return {str(value): counts[value] for value in sorted(counts)}
