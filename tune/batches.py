"""Batches of a features folder's rows, streamed: row groups in random order through a shuffle buffer, read ahead in a thread.

What fits is kept in memory, so that a small data set is read once. Workers of one run share the rows among them.
"""

import contextlib
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from models.errors import BadOption
from models.vggish_pca import dequantize
from tune.data import FeatureSet, Group, Labels

BUFFER_BYTES = 256 << 20
READ_AHEAD = 4  # batches
FEW_GROUPS = 8  # row groups per worker: fewer cannot be dealt out evenly


@dataclass(frozen=True)
class Batch:
    """Features [n, *shape] float32, how much of each is sound [n], targets [n, C], and the rows' numbers."""

    features: NDArray[np.float32]
    valid: NDArray[np.int64]
    targets: NDArray[np.float32]
    rows: NDArray[np.int64]


class Stream:
    """Batches of the chosen rows, as one of `world` workers sees them."""

    def __init__(
        self,
        features: FeatureSet,
        labels: Labels,
        chosen: NDArray[np.bool_],
        batch_size: int,
        rank: int = 0,
        world: int = 1,
    ):
        self._features, self._labels, self._batch_size = features, labels, batch_size
        self._shares = deal(features.groups, chosen, rank, world)
        counts = [sum(len(rows) for _, rows in deal(features.groups, chosen, other, world)) for other in range(world)]
        if not min(counts):
            raise BadOption(f"{sum(counts)} rows are too few for {world} workers: use fewer")
        self.rows = counts[rank]
        self.steps = (
            max(1, min(counts) // batch_size) if world > 1 else max(1, (self.rows + batch_size - 2) // batch_size)
        )

    def shuffled(self, rng: Generator, change: Callable[[Batch, Generator], Batch]) -> "ReadAhead":
        """One epoch in random order, each batch changed (augmented) by `change`; every worker gets the same number of batches.

        A last batch of a single row is left out, unless it is the only one: it has no variance for a batch norm.
        """
        order = [self._shares[number] for number in rng.permutation(len(self._shares))]
        return ReadAhead(change(batch, rng) for batch in self._batches(order, rng))

    def in_order(self) -> "ReadAhead":
        """Every row once."""
        return ReadAhead(self._batches(self._shares, None))

    def _batches(self, order: list[tuple[Group, NDArray[np.int64]]], rng: Generator | None) -> Iterator[Batch]:
        given, held = 0, _Held()
        for number, (group, rows) in enumerate(order):
            features, valid = self._features.read(group)
            held.add(features[rows - group.start], valid[rows - group.start], rows)
            last = number == len(order) - 1
            if not last and (held.bytes < BUFFER_BYTES if rng else len(held) < self._batch_size):
                continue
            for batch in self._cut(held, rng, last):
                if rng is None or given < self.steps:
                    given += 1
                    yield batch

    def _cut(self, held: "_Held", rng: Generator | None, last: bool) -> Iterator[Batch]:
        """What is held in whole batches; the rest of it is held on, or, at the end, a smaller batch."""
        size = self._batch_size
        features, valid, rows = held.take()
        order = rng.permutation(len(rows)) if rng else np.arange(len(rows))
        whole = len(rows) if last else len(rows) // size * size
        for start in range(0, whole, size):
            picked = order[start : min(start + size, whole)]
            targets = self._labels.of(rows[picked]).astype(np.float32)
            yield Batch(_as_float(features[picked]), valid[picked], targets, rows[picked])
        rest = order[whole:]
        held.add(features[rest], valid[rest], rows[rest])


class _Held:
    """The shuffle buffer."""

    def __init__(self) -> None:
        self._parts: list[tuple[NDArray[Any], NDArray[np.int64], NDArray[np.int64]]] = []

    def __len__(self) -> int:
        return sum(len(rows) for _, _, rows in self._parts)

    @property
    def bytes(self) -> int:
        """How much memory the features take."""
        return sum(features.nbytes for features, _, _ in self._parts)

    def add(self, features: NDArray[Any], valid: NDArray[np.int64], rows: NDArray[np.int64]) -> None:
        self._parts.append((features, valid, rows))

    def take(self) -> tuple[NDArray[Any], NDArray[np.int64], NDArray[np.int64]]:
        """All of it; nothing is held afterwards."""
        features, valid, rows = (np.concatenate(column) for column in zip(*self._parts, strict=True))
        self._parts = []
        return features, valid, rows


def deal(
    groups: Sequence[Group], chosen: NDArray[np.bool_], rank: int, world: int
) -> list[tuple[Group, NDArray[np.int64]]]:
    """The row groups of one worker with the chosen rows in each: whole groups where there are many, else every world-th row of each."""
    with_rows = [(group, group.start + np.flatnonzero(chosen[group.start : group.stop])) for group in groups]
    with_rows = [(group, rows) for group, rows in with_rows if len(rows)]
    if world > 1 and len(with_rows) < FEW_GROUPS * world:
        shares = [(group, rows[(rank + number) % world :: world]) for number, (group, rows) in enumerate(with_rows)]
        return [(group, rows) for group, rows in shares if len(rows)]
    return with_rows[rank::world]


def _as_float(stored: NDArray[Any]) -> NDArray[np.float32]:
    return dequantize(stored) if stored.dtype == np.uint8 else stored.astype(np.float32)


class ReadAhead(Iterator[Batch]):
    """The same batches, made in a thread of their own that begins at once; `close` ends it early."""

    def __init__(self, batches: Iterator[Batch]) -> None:
        self._batches = batches
        self._ready: queue.Queue[Batch | BaseException | None] = queue.Queue(READ_AHEAD)
        self._closed = threading.Event()
        threading.Thread(target=self._work, daemon=True).start()

    def __next__(self) -> Batch:
        thing = self._ready.get()
        if thing is None:
            raise StopIteration
        if isinstance(thing, BaseException):
            raise thing
        return thing

    def close(self) -> None:
        """Lets the thread end."""
        self._closed.set()

    def _work(self) -> None:
        try:
            for batch in self._batches:
                self._hand_over(batch)
                if self._closed.is_set():
                    return
            self._hand_over(None)
        except BaseException as error:  # it belongs to whoever reads
            self._hand_over(error)

    def _hand_over(self, thing: Batch | BaseException | None) -> None:
        while not self._closed.is_set():
            with contextlib.suppress(queue.Full):
                self._ready.put(thing, timeout=0.1)
                return
