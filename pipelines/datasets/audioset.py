"""AudioSet's segments: 10-s pieces of YouTube videos with AudioSet labels. research.google.com/audioset/download.html."""

import csv
import io
import itertools
import logging

import pyarrow as pa
import pyarrow.compute as pc

from models.errors import WrongTable
from models.storage import Store
from pipelines.classify import is_sound
from pipelines.datasets.table import cast_column, make_table, parse_csv, require_columns, split_labels

LAYOUT = "*_segments.csv, and in any folders the clips, named YTID.* or YTID_*.*; class_labels_indices.csv gives labels their names"
CLASSES = "class_labels_indices.csv"
TIMES = ("start_seconds", "end_seconds")
TEXT = ("YTID", "positive_labels")
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
    rows = pa.concat_tables([_read_segments(store, table) for table in tables], promote_options="permissive")
    here = rows.filter(pc.is_in(rows["YTID"], value_set=pa.array(clips, pa.string())))
    if len(here) < len(rows):
        logger.warning("%d of %d segments have no clip here, and are left out", len(rows) - len(here), len(rows))
    mids = split_labels(here["positive_labels"], ",")
    names = read_class_names(store)
    columns = {
        "path": [clips[video] for video in here["YTID"].to_pylist()],
        "labels": [[names.get(mid, mid) for mid in row] for row in mids.to_pylist()],
        "split": here["split"],
        "recording": here["YTID"],
    }
    return make_table(columns, here.append_column("mids", mids))


def read_class_names(store: Store) -> dict[str, str]:
    """Mid -> display name, and index -> display name; empty where the class table is not there."""
    if not store.exists(CLASSES):
        return {}
    rows = list(csv.DictReader(io.StringIO(store.read(CLASSES).decode())))
    try:
        return {row["mid"]: row["display_name"] for row in rows} | {row["index"]: row["display_name"] for row in rows}
    except KeyError as error:
        raise WrongTable(f"{store.address_of(CLASSES)}: no column {error}") from error


def _read_segments(store: Store, name: str) -> pa.Table:
    """One table; its last line of comment names the columns, and a space follows each comma."""
    content, address = store.read(name), store.address_of(name)
    header = list(itertools.takewhile(lambda line: line.startswith(b"#"), io.BytesIO(content)))
    columns = [column.strip() for column in (header or [b""])[-1].decode(errors="replace").lstrip("# ").split(",")]
    for column in (*TEXT, *TIMES):
        if column not in columns:
            raise WrongTable(f"{address}: no column {column!r} in the last line that begins with #")
    table = parse_csv(content.replace(b", ", b","), address, TEXT, columns, len(header))
    require_columns(table, address, (*TEXT, *TIMES), len(header) + 1)
    for column in TIMES:
        times_s = cast_column(table, column, pa.float64(), address, len(header) + 1)
        table = table.set_column(table.column_names.index(column), column, times_s)
    split = name.rsplit("/", 1)[-1].removesuffix("_segments.csv")
    return table.append_column("split", pa.array([split] * len(table), pa.string()))
