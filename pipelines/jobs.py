"""The two bulk jobs from end to end: `featurize` and `classify_to`. What is asked for in, what was done out."""

from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from models.errors import WrongPath
from models.features import BLOCKS, ERRORS, State
from models.storage import Store, open_beside, open_store
from pipelines.answers import AnswerWork, JoinWork, PartWork, part_s
from pipelines.bulk import Job, Tally
from pipelines.classify import is_sound
from pipelines.datasets.folder import list_sounds
from pipelines.datasets.readers import MANIFEST_SUFFIXES, read_dataset
from pipelines.datasets.table import DataSet, make_table
from pipelines.driver import Workers, complete, finished_items, open_progress, prepare_output, run_job
from pipelines.featurize import FeatureWork, StoredWork
from pipelines.plan import leave_out, plan_items, weigh


@dataclass(frozen=True)
class Report:
    """What one run did, and what the output holds now. `skipped` items were there already."""

    tally: Tally
    skipped: int
    state: State


def featurize(
    store: Store, table: pa.Table, work: FeatureWork | StoredWork, out: Store, workers: Workers, *, overwrite: bool
) -> Report:
    """The features of a data set's rows, written to `out` in folders by fold or split. Raises OutputMismatch, StoreFailed, JobFailed."""
    made = work.made
    prepare_output(out, made, overwrite=overwrite)
    partition = find_partition(table)
    planned = plan_items(store, table, work.part_s, partition)
    missing = leave_out(planned, finished_items(out, "", ERRORS))
    job = Job(work, store, out, partition)
    with workers.open(weigh(missing).sum()) as runner, open_progress() as progress:
        tally = run_job(job, missing, runner, progress, "featurizing")
    return Report(tally, len(planned) - len(missing), complete(out, made))


def find_partition(table: pa.Table) -> str | None:
    """The column by which the output is partitioned: fold, else split, where the data set has one."""
    return next((name for name in ("fold", "split") if table[name].null_count < len(table)), None)


def classify_to(
    store: Store, table: pa.Table, work: AnswerWork, out: Store, workers: Workers, *, overwrite: bool
) -> Report:
    """The answer to each of a data set's rows, written to `out`. Raises OutputMismatch, StoreFailed, JobFailed."""
    prepare_output(out, work.made, overwrite=overwrite)
    planned = plan_items(store, _to_classify(table), part_s(work))
    whole = planned.filter(pc.equal(planned["parts"], 1))
    parts = planned.filter(pc.greater(planned["parts"], 1))
    done = finished_items(out, "", ERRORS)
    missing = leave_out(whole, done)
    joined = leave_out(_recordings(parts), done)
    missing_parts = parts.filter(pc.is_in(parts["path"], value_set=joined["path"].combine_chunks()))
    missing_parts = leave_out(missing_parts, finished_items(out, BLOCKS))
    with workers.open(weigh(missing).sum() + weigh(missing_parts).sum()) as runner, open_progress() as progress:
        tally = run_job(Job(work, store, out), missing, runner, progress, "classifying")
        if len(joined):
            run_job(
                Job(PartWork(work), store, out, folder=BLOCKS),
                missing_parts,
                runner,
                progress,
                "parts of long recordings",
            )
            tally += run_job(Job(JoinWork(work, out), store, out), joined, runner, progress, "long recordings")
            out.delete(BLOCKS)
    total = len(whole) + len(_recordings(parts))
    return Report(tally, total - len(missing) - len(joined), complete(out, work.made))


def find_sounds(address: str) -> DataSet:
    """A manifest (.csv, .parquet), a folder or prefix of sounds, or one sound. Raises BadInput where there is no sound."""
    base = address.partition("?")[0]
    if base.endswith(MANIFEST_SUFFIXES):
        return read_dataset("manifest", address)
    if is_sound(base):
        store, name = open_beside(address)
        return DataSet("file", store, make_table({"path": [name]}))
    store = open_store(address)
    table = list_sounds(store)
    if not len(table):
        raise WrongPath(f"{address}: no sounds there; name a folder, a manifest (.csv, .parquet), s3://... or gs://...")
    return DataSet(
        "folder", store, table.set_column(1, "labels", pa.nulls(len(table), table.schema.field("labels").type))
    )


def _to_classify(table: pa.Table) -> pa.Table:
    """The columns that go with answers: what the data set says of labels and events is called given_*; empty columns are left out."""
    for name in {"labels", "events"} & set(table.column_names):
        if pc.sum(pc.list_value_length(table[name])).as_py():
            table = table.append_column(f"given_{name}", table[name])
        table = table.drop_columns([name])
    empty = [name for name in ("fold", "split") if table[name].null_count == len(table)]
    return table.drop_columns(["recording", *empty])


def _recordings(parts: pa.Table) -> pa.Table:
    """Parts of long recordings -> one row a recording."""
    first = parts.filter(pc.equal(parts["part"], 0))
    items = {
        "item": first["path"],
        "start_s": pa.nulls(len(first), pa.float64()),
        "end_s": pa.nulls(len(first), pa.float64()),
    }
    for name, values in items.items():
        first = first.set_column(first.column_names.index(name), name, values)
    return first
