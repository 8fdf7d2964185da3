"""SONYC-UST: New York's street sound, tagged by volunteers and a team. zenodo.org/records/3966543; Cartwright et al. 2020."""

import re
from collections import defaultdict
from typing import Any

import pyarrow as pa

from models.storage import Store
from pipelines.datasets.table import make_table, read_csv

TABLE = "annotations.csv"
LAYOUT = f"{TABLE} beside the clips, in any folders"
NEEDED = ("split", "audio_filename", "annotator_id")
COARSE = re.compile(r"\d+_(.+)_presence")
FINE = re.compile(r"\d+-\w+?_(.+)_presence")
AGREED = 0  # the annotator_id of the agreed truth


def read(store: Store) -> pa.Table:
    """A row a clip: `labels` are the coarse names, the own column `fine_labels` the fine ones. Raises WrongTable.

    Where the agreed truth is there, it decides; else a label counts that at least half of the clip's annotators heard.
    The recording is the sensor, where the table names it: its clips resemble each other.
    """
    table = read_csv(store, TABLE, LAYOUT, NEEDED, ("split", "audio_filename"))
    places = {entry.name.rsplit("/", 1)[-1]: entry.name for entry in store.list_files()}
    clips: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in table.to_pylist():
        clips[row["audio_filename"]].append(row)
    first = [rows[0] for rows in clips.values()]
    columns = {
        "path": [places.get(name, f"audio/{name}") for name in clips],
        "labels": [_heard(rows, COARSE) for rows in clips.values()],
        "split": [row["split"] for row in first],
        "recording": [str(row.get("sensor_id") or row["audio_filename"]) for row in first],
    }
    own = {name: [row[name] for row in first] for name in table.column_names if not name.endswith("_presence")}
    for name in (*NEEDED, "annotator_id"):
        own.pop(name, None)
    own["fine_labels"] = pa.array([_heard(rows, FINE) for rows in clips.values()], pa.list_(pa.string()))
    return make_table(columns, pa.table(own))


def _heard(rows: list[dict[str, Any]], kind: re.Pattern[str]) -> list[str]:
    """The names of one kind of presence column that count for a clip."""
    agreed = [row for row in rows if row["annotator_id"] == AGREED]
    heard = []
    for column in rows[0]:
        if match := kind.fullmatch(column):
            votes = [_is_present(row[column]) for row in agreed or rows]
            if sum(votes) * 2 >= len(votes) and any(votes):
                heard.append(match[1])
    return heard


def _is_present(value: object) -> bool:
    """1 is present, 0 absent, -1 (fine labels) not looked at."""
    try:
        return float(str(value)) > 0
    except ValueError:
        return False
