"""What a bulk job has to do: the rows of a data set as named items, long recordings cut into parts, and all of it in chunks.

Nothing here depends on the number of workers, so neither do the results.
"""

import itertools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from models.audio import probe
from models.errors import EarshotError
from models.features import ITEM
from models.storage import Store, open_beside

LONG_BYTES = 8 << 20  # smaller files are never cut: opening each of a million headers would take longer than it saves
PROBE_THREADS = 16
CHUNK_ITEMS = 256  # of a large data set; a small one is cut finer, so that every core has work until the end
MIN_CHUNK_ITEMS = 8
CHUNKS_AT_LEAST = 32
SHORT_S = 20.0  # a longer part of a file counts as several items
PART_COLUMNS = ("part", "parts")


def item_of(path: str, start_s: float | None, end_s: float | None) -> str:
    """The name of a row of a data set: its path, and the part of the file where that is not all of it."""
    if start_s is None and end_s is None:
        return path
    return f"{path}#{start_s or 0:.10g}-" + ("" if end_s is None else f"{end_s:.10g}")


def plan_items(store: Store, table: pa.Table, part_s: float, partition: str | None = None) -> pa.Table:
    """The data set's rows, one an item, with the columns `item`, `part` and `parts`; recordings far longer than `part_s` in parts of it.

    Parts begin at multiples of `part_s`; the last one goes on to the end, and is half to one and a half as long. Rows are in order of
    `partition`. A row that is there twice is an item once.
    """
    if partition is not None:
        table = table.take(pc.sort_indices(table, [(partition, "ascending")]))
    durations_s = _long_recordings(store, table, part_s)
    rows: list[int] = []
    starts, ends, parts, counts = [], [], [], []
    columns = (table[name].to_pylist() for name in ("path", "start_s", "end_s"))
    for row, (path, start_s, end_s) in enumerate(zip(*columns, strict=True)):
        count = round(durations_s[path] / part_s) if start_s is None and end_s is None and path in durations_s else 1
        for part in range(count):
            rows.append(row)
            starts.append(part * part_s if count > 1 else start_s)
            ends.append((part + 1) * part_s if part + 1 < count else end_s)
            parts.append(part)
            counts.append(count)
    paths = table["path"].to_pylist()
    if "record_offset" in table.column_names:  # many rows in one file
        paths = [f"{path}@{offset}" for path, offset in zip(paths, table["record_offset"].to_pylist(), strict=True)]
    items = [item_of(paths[row], start, end) for row, start, end in zip(rows, starts, ends, strict=True)]
    first = np.unique(np.array(items, object), return_index=True)[1] if len(set(items)) < len(items) else None
    planned = table.drop_columns(["start_s", "end_s"]).take(pa.array(rows, pa.int64()))
    for name, values, kind in [
        ("start_s", starts, pa.float64()),
        ("end_s", ends, pa.float64()),
        ("part", parts, pa.int32()),
        ("parts", counts, pa.int32()),
    ]:
        planned = planned.append_column(name, pa.array(values, kind))
    planned = planned.add_column(0, ITEM, pa.array(items, pa.string()))
    return planned if first is None else planned.take(pa.array(np.sort(first)))


def _long_recordings(store: Store, table: pa.Table, part_s: float) -> dict[str, float]:
    """Path -> duration in seconds of the recordings worth cutting: far longer than a part, and of a format that can be entered anywhere."""
    large = [path for path, size in _sizes(store, table) if size >= LONG_BYTES]
    with ThreadPoolExecutor(PROBE_THREADS) as pool:
        lengths_s = pool.map(lambda path: _cuttable_length_s(store, path), large)
        return {path: length for path, length in zip(large, lengths_s, strict=True) if length > 1.5 * part_s}


def _sizes(store: Store, table: pa.Table) -> Iterator[tuple[str, int]]:
    """(path, bytes) of each distinct file of the table, as far as it is there."""
    paths = table["path"].unique()
    outside = pc.or_(pc.starts_with(paths, "/"), pc.match_substring(paths, "://"))
    below = {entry.name: entry.size for entry in store.list_files()}
    yield from ((path, below[path]) for path in paths.filter(pc.invert(outside)).to_pylist() if path in below)
    for path in paths.filter(outside).to_pylist():
        place, name = open_beside(path)
        yield path, place.size(name)


def _cuttable_length_s(store: Store, path: str) -> float:
    """How long a recording is, 0 where it cannot be cut; one that cannot be read is reported when its turn comes."""
    try:
        with store.open_sound(path) as stream:
            told = probe(stream)
        return told.duration_s or 0.0 if told.cuttable else 0.0
    except EarshotError:
        return 0.0


def leave_out(planned: pa.Table, done: list[pa.Array]) -> pa.Table:
    """The items that are not done yet."""
    if not done:
        return planned
    return planned.filter(pc.invert(pc.is_in(planned[ITEM], value_set=pa.concat_arrays(done))))


def weigh(planned: pa.Table) -> NDArray[np.float64]:
    """How much work each item is, in short clips."""
    lengths_s = pc.fill_null(pc.subtract(planned["end_s"], pc.fill_null(planned["start_s"], 0.0)), SHORT_S)
    weights: NDArray[np.float64] = np.clip(lengths_s.to_numpy() / SHORT_S, 1, MIN_CHUNK_ITEMS * 4)
    return weights


def cut_chunks(planned: pa.Table, partition: str | None = None) -> list[pa.Table]:
    """Items -> chunks of consecutive items, each within one value of the partition."""
    if not len(planned):
        return []
    weights = weigh(planned)
    size = np.clip(weights.sum() // CHUNKS_AT_LEAST, MIN_CHUNK_ITEMS, CHUNK_ITEMS)
    numbers = np.ceil(np.cumsum(weights) / size).astype(int)
    edges = np.flatnonzero(np.diff(numbers)) + 1
    if partition is not None:
        values = pc.fill_null(pc.cast(planned[partition], pa.string()), "").to_numpy()
        edges = np.union1d(edges, np.flatnonzero(values[1:] != values[:-1]) + 1)
    bounds = [0, *edges.tolist(), len(planned)]
    return [planned.slice(first, last - first) for first, last in itertools.pairwise(bounds)]
