"""AudioSet's segments: 10-s pieces of YouTube videos with AudioSet labels. research.google.com/audioset/download.html."""

import csv
import io
import logging

import pyarrow as pa

from models.errors import WrongTable
from models.storage import Store
from pipelines.classify import is_sound
from pipelines.datasets.table import make_table

LAYOUT = "*_segments.csv, and in any folders the clips, named YTID.* or YTID_*.*; class_labels_indices.csv gives labels their names"
CLASSES = "class_labels_indices.csv"
COLUMNS = ("YTID", "start_seconds", "end_seconds", "positive_labels")
NAMED_BY_YTID = 11  # characters of a YouTube id

logger = logging.getLogger("earshot")


def read(store: Store) -> pa.Table:
    """The segments whose clips are there; clips are the segments, already cut out. Raises WrongTable.

    Segments without a clip are left out, and their number is logged. The split is the table's name, as balanced_train.
    """
    files = [entry.name for entry in store.list_files()]
    tables = [name for name in files if name.endswith("_segments.csv")]
    if not tables:
        raise WrongTable(f"{store.address} holds no table; expected are {LAYOUT}")
    clips = {name.rsplit("/", 1)[-1][:NAMED_BY_YTID]: name for name in files if is_sound(name)}
    names = read_class_names(store)
    rows = [row for table in tables for row in _read_segments(store, table)]
    here = [row for row in rows if row["YTID"] in clips]
    if len(here) < len(rows):
        logger.warning("%d of %d segments have no clip here, and are left out", len(rows) - len(here), len(rows))
    mids = [row["positive_labels"].split(",") for row in here]
    columns = {
        "path": [clips[row["YTID"]] for row in here],
        "labels": [[names.get(mid, mid) for mid in row] for row in mids],
        "split": [row["split"] for row in here],
        "recording": [row["YTID"] for row in here],
    }
    own = {name: pa.array([float(row[name]) for row in here], pa.float64()) for name in COLUMNS[1:3]}
    return make_table(columns, pa.table(own | {"mids": pa.array(mids, pa.list_(pa.string()))}))


def read_class_names(store: Store) -> dict[str, str]:
    """Mid -> display name, and index -> display name; empty where the class table is not there."""
    if not store.exists(CLASSES):
        return {}
    rows = list(csv.DictReader(io.StringIO(store.read(CLASSES).decode())))
    try:
        return {row["mid"]: row["display_name"] for row in rows} | {row["index"]: row["display_name"] for row in rows}
    except KeyError as error:
        raise WrongTable(f"{store.address_of(CLASSES)}: no column {error}") from error


def _read_segments(store: Store, name: str) -> list[dict[str, str]]:
    """The rows of one table; its last line of comment names the columns."""
    lines = store.read(name).decode().splitlines()
    header = [line for line in lines if line.startswith("#")]
    columns = [column.strip() for column in (header[-1] if header else "#").lstrip("# ").split(",")]
    for column in COLUMNS:
        if column not in columns:
            raise WrongTable(f"{store.address_of(name)}: no column {column!r} in the last line that begins with #")
    rows = csv.DictReader(lines[len(header) :], columns, skipinitialspace=True)
    split = name.rsplit("/", 1)[-1].removesuffix("_segments.csv")
    return [row | {"split": split} for row in rows]
