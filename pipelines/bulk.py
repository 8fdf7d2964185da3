"""Bulk jobs: chunks of a data set, each computed and written by one task, in this process or by Ray Data on many.

A chunk becomes one Parquet file of rows and, where files were rejected, one of errors; both appear whole or not at all, under a name made
from the chunk's own items. So the output is its own ledger: a job that was killed reads which items are there and does the rest, and a
task that Ray runs twice writes the same file twice. Reading, decoding, computing and writing are fused into one task.
"""

import contextlib
import functools
import hashlib
import itertools
import logging
import math
import traceback
import urllib.parse
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cluster.session import open_session, prepare_environment
from cluster.settings import Settings
from models.errors import BadInput, EarshotError, JobFailed
from models.features import ERROR_SCHEMA, ERRORS, ITEM, Made, schema_metadata
from models.storage import Store
from pipelines.plan import PART_COLUMNS, weigh
from pipelines.shipping import are_here, pack_files, unpack_files

ROW_GROUP_BYTES = 8 << 20
TASKS_PER_CORE = 4  # of a small job, so that all cores end together
TASK_WORK = 1024  # short clips in a task of a large one
CHUNK = "chunk"
OBJECT_STORE_MIB = 512  # holds the plan, never sound

Row = dict[str, Any]


class Work(Protocol):
    """What a job computes. Small, picklable and hashable: every task gets it; heavy things are loaded there, once per process."""

    @property
    def made(self) -> Made: ...

    @property
    def schema(self) -> pa.Schema:
        """The computed columns: they follow the data set's own, or replace those of the same name."""
        ...

    @property
    def needs(self) -> tuple[Path, ...]:
        """Files and model folders that a task reads besides the items: they go along to other machines."""
        ...

    def compute(self, item: Row, source: BinaryIO) -> Iterator[Row]:
        """One item and its file -> the rows to write; `heard_s` among their fields is the sound they stand for. Raises BadInput."""
        ...


@dataclass(frozen=True)
class Job:
    """Work on files below `root`; the rows go below `out`, into folders by the values of `partition` where there is one."""

    work: Work
    root: Store
    out: Store
    partition: str | None = None
    folder: str = ""


@dataclass(frozen=True)
class Tally:
    """What became of some items; `heard_s` is the sound in those that are done. `fault`: why the job cannot go on."""

    done: int = 0
    rejected: int = 0
    heard_s: float = 0.0
    fault: str = ""

    def __add__(self, other: "Tally") -> "Tally":
        done, rejected = self.done + other.done, self.rejected + other.rejected
        return Tally(done, rejected, self.heard_s + other.heard_s, self.fault or other.fault)


Runner = Callable[[Job, list[pa.Table]], Iterator[Tally]]


def run_here(job: Job, chunks: list[pa.Table]) -> Iterator[Tally]:
    """One chunk after the other, in this process."""
    return (run_chunk(job, chunk) for chunk in chunks)


@contextlib.contextmanager
def open_ray(settings: Settings, workers: int | None) -> Iterator[Runner]:
    """A runner on Ray Data while the block runs: on this machine's `workers` cores, or on the cluster that the settings name."""
    prepare_environment(settings)
    with open_session(settings.model_copy(update={"object_store_mib": OBJECT_STORE_MIB}), num_cpus=workers):
        yield functools.partial(_run_on_ray, ships=settings.ray_address != "local")


def _run_on_ray(job: Job, chunks: list[pa.Table], *, ships: bool) -> Iterator[Tally]:
    import ray.data
    from ray.exceptions import RayError

    logging.getLogger("ray.data").setLevel(logging.ERROR)
    ray.data.DataContext.get_current().enable_progress_bars = False  # the driver has its own
    tasks = ray.data.from_arrow(_cut_tasks(chunks, cores=int(ray.cluster_resources().get("CPU", 1))))
    files = pack_files(job.work.needs) if ships else {}
    shipment = Shipment(tuple(files), ray.put(files)) if files else None
    tallies = tasks.map_batches(
        _run_task, fn_args=[job, shipment], batch_size=None, batch_format="pyarrow", zero_copy_batch=True
    )
    try:
        for row in tallies.iter_rows():
            yield Tally(**row)
    except RayError as error:
        raise JobFailed(
            f"a worker died ({type(error).__name__}): {str(error).splitlines()[0]}. Run the same command again: it goes on from here"
        ) from error


def _cut_tasks(chunks: list[pa.Table], cores: int) -> list[pa.Table]:
    """Consecutive chunks joined into tasks, each row with its chunk's number: between two tasks a core waits 0.17 s for Ray (measured)."""
    ends = np.cumsum([weigh(chunk).sum() for chunk in chunks])
    size = min(ends[-1] / (TASKS_PER_CORE * cores), TASK_WORK) if chunks else 1.0
    numbered = [chunk.append_column(CHUNK, pa.array([n] * len(chunk), pa.int32())) for n, chunk in enumerate(chunks)]
    groups = itertools.groupby(zip(ends, numbered, strict=True), lambda pair: math.ceil(round(pair[0] / size, 6)))
    return [pa.concat_tables(chunk for _, chunk in group) for _, group in groups]


@dataclass(frozen=True)
class Shipment:
    """Names of files, and Ray's reference to their contents."""

    names: tuple[str, ...]
    contents: Any


def _run_task(task: pa.Table, job: Job, shipment: Shipment | None) -> pa.Table:
    """Chunks -> one row, what became of them."""
    if shipment and not are_here(shipment.names):
        import ray

        unpack_files(ray.get(shipment.contents))
    numbers = task[CHUNK].to_numpy()
    edges = [0, *(np.flatnonzero(np.diff(numbers)) + 1).tolist(), len(task)]
    tally = Tally()
    for first, last in itertools.pairwise(edges):
        tally += run_chunk(job, task.drop_columns([CHUNK]).slice(first, last - first))
        if tally.fault:
            break
    return pa.Table.from_pylist([asdict(tally)])


def run_chunk(job: Job, chunk: pa.Table) -> Tally:
    """Computes and writes a chunk. Faults that are not one file's own come back in the tally, for the driver to stop at."""
    try:
        return _write_chunk(job, chunk)
    except EarshotError as error:
        return Tally(fault=str(error))
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        return Tally(fault=f"a fault of Earshot: {type(error).__name__}: {error} ({where.filename}:{where.lineno})")


def _write_chunk(job: Job, chunk: pa.Table) -> Tally:
    name = f"part-{hashlib.sha256(''.join(chunk[ITEM].to_pylist()).encode()).hexdigest()[:20]}.parquet"
    rejected: dict[int, BadInput] = {}
    while True:
        try:
            with _open_part(job, chunk, name) as writer:
                _compute_items(job, chunk, writer, rejected)
            break
        except _Again:  # a file failed after some of its rows were written: once more without it
            continue
    if rejected:
        _write_errors(job.out, name, chunk, rejected)
    return Tally(len(chunk) - len(rejected), len(rejected), writer.heard_s)


class _Again(Exception):
    pass


def _compute_items(job: Job, chunk: pa.Table, writer: "_PartWriter", rejected: dict[int, BadInput]) -> None:
    for index, item in enumerate(chunk.to_pylist()):
        if index in rejected:
            continue
        try:
            with job.root.open_sound(item["path"]) as source:
                for row in job.work.compute(item, source):
                    writer.add(index, row)
        except BadInput as error:
            rejected[index] = error
            if not writer.forget(index):
                raise _Again from error


def _write_errors(out: Store, name: str, chunk: pa.Table, rejected: dict[int, BadInput]) -> None:
    failed = chunk.take(list(rejected))
    columns = [failed[ITEM], failed["path"], [e.slug for e in rejected.values()], [str(e) for e in rejected.values()]]
    with out.create(f"{ERRORS}/{name}") as stream:
        pq.write_table(pa.table(columns, schema=ERROR_SCHEMA), stream)


@contextlib.contextmanager
def _open_part(job: Job, chunk: pa.Table, name: str) -> Iterator["_PartWriter"]:
    """A writer of one file of rows, which appears when the block ends well and there was a row."""
    with contextlib.ExitStack() as closing:
        writer = _PartWriter(job, chunk, name, closing)
        yield writer
        writer.flush()


class _PartWriter:
    """Collects rows and writes them in row groups of about 8 MiB."""

    def __init__(self, job: Job, chunk: pa.Table, name: str, closing: contextlib.ExitStack) -> None:
        self.heard_s = 0.0
        self._job, self._chunk, self._closing = job, chunk, closing
        self._name = "/".join(filter(None, [job.folder, _partition_folder(job, chunk), name]))
        self._waiting: list[tuple[int, Row]] = []
        self._waiting_bytes = 0
        self._written_to = -1  # the last item of which a row is in the file
        self._parquet: pq.ParquetWriter | None = None

    def add(self, index: int, row: Row) -> None:
        """A row of the chunk's item at `index`."""
        self._waiting.append((index, row))
        self._waiting_bytes += sum(getattr(value, "nbytes", 64) for value in row.values())
        if self._waiting_bytes >= ROW_GROUP_BYTES:
            self.flush()

    def forget(self, index: int) -> bool:
        """Drops the item's rows; False where some are in the file already."""
        self._waiting = [(i, row) for i, row in self._waiting if i != index]
        return self._written_to != index

    def flush(self) -> None:
        """Writes what is waiting as a row group."""
        if not self._waiting:
            return
        indices, rows = zip(*self._waiting, strict=True)
        self.heard_s += sum(row.pop("heard_s") for row in rows)
        computed = self._job.work.schema
        left_out = {*computed.names, *PART_COLUMNS, self._job.partition}
        own = self._chunk.select([name for name in self._chunk.column_names if name not in left_out])
        table = own.take(pa.array(indices, pa.int64()))
        for column in computed:
            table = table.append_column(column, _column([row[column.name] for row in rows], column.type))
        if self._parquet is None:
            stream = self._closing.enter_context(self._job.out.create(self._name))
            schema = table.schema.with_metadata(schema_metadata(self._job.work.made))
            self._parquet = self._closing.enter_context(_open_parquet(stream, schema))
        self._parquet.write_table(table.replace_schema_metadata(schema_metadata(self._job.work.made)))
        self._waiting, self._waiting_bytes, self._written_to = [], 0, indices[-1]


def _column(values: list[Any], kind: pa.DataType) -> pa.Array:
    if not isinstance(kind, pa.FixedShapeTensorType):
        return pa.array(values, kind)
    tensors = np.stack(values).astype(kind.value_type.to_pandas_dtype(), copy=False)
    return pa.FixedShapeTensorArray.from_numpy_ndarray(tensors).cast(kind)


def _open_parquet(stream: BinaryIO, schema: pa.Schema) -> pq.ParquetWriter:
    """Floats of tensors are stored byte by byte (byte-stream split), which zstd packs a tenth smaller, as fast."""
    tensors = [field for field in schema if isinstance(field.type, pa.FixedShapeTensorType)]
    split = {f"{f.name}.list.element": "BYTE_STREAM_SPLIT" for f in tensors if pa.types.is_floating(f.type.value_type)}
    packed = [field.name for field in schema if field not in tensors]
    return pq.ParquetWriter(stream, schema, compression="zstd", use_dictionary=packed, column_encoding=split or None)


def _partition_folder(job: Job, chunk: pa.Table) -> str:
    if job.partition is None:
        return ""
    value = chunk[job.partition][0].as_py()
    quoted = "__HIVE_DEFAULT_PARTITION__" if value is None else urllib.parse.quote(str(value), safe="")
    return f"{job.partition}={quoted}"
