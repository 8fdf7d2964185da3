"""A features folder as training data: the index of its rows, where their features lie, what can be learned. Knows nothing of networks."""

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from models.errors import BadOption, WrongTable
from models.features import Made, open_features, part_files, read_state
from models.storage import Store, open_store

INDEX_COLUMNS = ("item", "path", "recording", "labels", "fold", "split", "start_s", "valid")
CACHE_BYTES = 1 << 30


@dataclass(frozen=True)
class Target:
    """What is to be learned: the classes' names, and whether a row may have any number of them.

    `positive`: these labels count as one class, and all others as none.
    """

    classes: tuple[str, ...]
    multi_label: bool
    positive: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """What the model's outputs are called."""
        return (" or ".join(self.positive),) if self.positive else self.classes


@dataclass(frozen=True)
class Group:
    """A row group of a file, and the numbers of its rows in the index: start <= number < stop."""

    file: str
    number: int
    start: int
    stop: int


@dataclass(frozen=True)
class FeatureSet:
    """A complete features folder: how it was made, the index of its rows, where their features lie."""

    store: Store
    made: Made
    index: pa.Table
    groups: tuple[Group, ...]
    shape: tuple[int, ...]
    cache: "Cache" = field(default_factory=lambda: Cache(CACHE_BYTES))

    def __len__(self) -> int:
        return len(self.index)

    @cached_property
    def recordings(self) -> NDArray[np.str_]:
        """Which source recording each row comes from: the data set's word, else the file."""
        known = pc.if_else(pc.equal(self.index["recording"], ""), None, self.index["recording"])
        return np.asarray(pc.coalesce(known, self.index["path"], self.index["item"]).to_pylist(), str)

    def column(self, name: str) -> NDArray[np.str_]:
        """Fold or split of each row as a word; "" where there is none."""
        return np.asarray(pc.fill_null(self.index[name].cast(pa.string()), "").to_pylist(), str)

    @property
    def folds(self) -> list[str]:
        """The folds there are."""
        return sorted({name for name in self.column("fold") if name}, key=lambda name: (len(name), name))

    def read(self, group: Group) -> tuple[NDArray[Any], NDArray[np.int64]]:
        """A row group's features [n, *shape] as they are stored, and how much of each is sound [n]."""
        if (kept := self.cache.get(group)) is not None:
            return kept
        with self.store.open_file(group.file) as stream:
            table = pq.ParquetFile(stream).read_row_group(group.number, columns=["features", "valid"])
        column = table["features"].combine_chunks()
        features = column.to_numpy_ndarray()
        rows = features, table["valid"].to_numpy().astype(np.int64)
        self.cache.put(group, rows)
        return rows


class Cache:
    """Row groups that were read, up to so many bytes; those not used for the longest time go first."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes, self._bytes = max_bytes, 0
        self._groups: OrderedDict[Group, tuple[NDArray[Any], NDArray[np.int64]]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, group: Group) -> tuple[NDArray[Any], NDArray[np.int64]] | None:
        """What was kept of a row group."""
        with self._lock:
            if group in self._groups:
                self._groups.move_to_end(group)
            return self._groups.get(group)

    def put(self, group: Group, rows: tuple[NDArray[Any], NDArray[np.int64]]) -> None:
        """Keeps a row group, and lets go of others where it is too much."""
        with self._lock:
            if group in self._groups:
                return
            self._groups[group] = rows
            self._bytes += rows[0].nbytes
            while self._bytes > self._max_bytes:
                _, (features, _) = self._groups.popitem(last=False)
                self._bytes -= features.nbytes


def open_feature_set(address: str) -> FeatureSet:
    """A folder that `earshot featurize` wrote. Raises WrongPath, OutputMismatch (not complete), WrongTable."""
    store = open_store(address)
    dataset = open_features(store)
    state = read_state(store)
    assert state is not None
    columns = [name for name in INDEX_COLUMNS if name in dataset.schema.names]
    if missing := {"item", "labels", "valid", "features"} - set(dataset.schema.names):
        raise WrongTable(
            f"{address}: no column {', '.join(sorted(missing))}: make the features with `earshot featurize`"
        )
    groups: list[Group] = []
    tables: list[pa.Table] = []
    start = 0
    for file, fragment in zip(part_files(store), dataset.get_fragments(), strict=True):
        tables.append(fragment.to_table(columns=columns, schema=dataset.schema))
        for number, rows in enumerate(fragment.row_groups):
            groups.append(Group(file, number, start, start + rows.num_rows))
            start += rows.num_rows
    index = pa.concat_tables(tables)
    if not len(index):
        raise WrongTable(f"{address} holds no rows: see its _errors folder for the reasons")
    for name in set(INDEX_COLUMNS) - set(columns):
        index = index.append_column(name, pa.nulls(len(index), pa.string()))
    shape = tuple(dataset.schema.field("features").type.shape)
    return FeatureSet(store, state.made, index, tuple(groups), shape)


def choose_target(
    features: FeatureSet, positive: Sequence[str] = (), multi_label: bool | None = None, min_recordings: int = 1
) -> Target:
    """What can be learned of a data set's labels: exactly one per row (single-label) or any number. Raises BadOption, WrongTable.

    Labels that come from fewer than `min_recordings` recordings are left out.
    """
    labels = features.index["labels"]
    names = sorted(pc.unique(pc.list_flatten(labels)).to_pylist())
    if not names:
        raise WrongTable(f"{features.store.address}: no row has a label: nothing can be learned from them")
    if unknown := [name for name in positive if name not in names]:
        raise BadOption(f"no label {', '.join(map(repr, unknown))}; there are: {', '.join(names)}")
    single = (
        pc.min(pc.fill_null(pc.list_value_length(labels), 0)).as_py()
        == 1
        == pc.max(pc.list_value_length(labels)).as_py()
    )
    if multi_label is False and not single and not positive:
        raise BadOption(
            "single-label training needs exactly one label in each row; this data set has others: leave out --single-label"
        )
    frequent = _frequent(features, min_recordings)
    names = [name for name in names if name in frequent]
    if len(names) < 2 and not positive:
        raise BadOption(f"labels to tell apart: {', '.join(names) or 'none'}; there must be two")
    return Target(tuple(names), bool(positive) or (not single if multi_label is None else multi_label), tuple(positive))


def _frequent(features: FeatureSet, min_recordings: int) -> set[str]:
    """The labels that come from at least so many recordings."""
    labels = features.index["labels"].combine_chunks()
    recordings = pa.array(features.recordings).take(pc.list_parent_indices(labels))
    pairs = pa.table({"label": pc.list_flatten(labels), "recording": recordings})
    counts = pairs.group_by("label").aggregate([("recording", "count_distinct")])
    return set(counts.filter(pc.greater_equal(counts["recording_count_distinct"], min_recordings))["label"].to_pylist())


class Labels:
    """Each row's labels as numbers of classes."""

    def __init__(self, features: FeatureSet, target: Target) -> None:
        labels = features.index["labels"].combine_chunks()
        codes = pc.fill_null(pc.index_in(pc.list_flatten(labels), pa.array(target.classes)), len(target.classes))
        lengths = pc.fill_null(pc.list_value_length(labels), 0).to_numpy(zero_copy_only=False)
        self._ends = np.concatenate([[0], np.cumsum(lengths)])
        self._codes = codes.to_numpy().astype(np.int64)
        self._positive = [target.classes.index(name) for name in target.positive]
        self._classes = len(target.classes)

    def of(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Rows [n] -> their targets [n, C]."""
        hot = np.zeros((len(rows), self._classes + 1), bool)  # the last column takes the labels that are left out
        counts = self._ends[rows + 1] - self._ends[rows]
        within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        hot[np.repeat(np.arange(len(rows)), counts), self._codes[np.repeat(self._ends[rows], counts) + within]] = True
        return np.asarray(hot[:, self._positive].any(axis=1, keepdims=True)) if self._positive else hot[:, :-1]
