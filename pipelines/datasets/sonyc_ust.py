"""SONYC-UST: New York's street sound, tagged by volunteers and a team. zenodo.org/records/3966543; Cartwright et al. 2020."""

import re

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from models.storage import Store
from pipelines.datasets.table import cast_column, make_table, read_csv

TABLE = "annotations.csv"
LAYOUT = f"{TABLE} beside the clips, in any folders"
NEEDED = ("split", "audio_filename", "annotator_id")
COARSE = re.compile(r"\d+_(.+)_presence")
FINE = re.compile(r"\d+-\w+?_(.+)_presence")
BY_ANNOTATOR = re.compile(r"annotator_id|.+_(presence|proximity)")
AGREED = 0  # the annotator_id of the agreed truth


def read(store: Store) -> pa.Table:
    """A row a clip: `labels` are the coarse names, the own column `fine_labels` the fine ones. Raises WrongTable.

    Where the agreed truth is there, it decides; else a label counts that at least half of the clip's annotators heard. What
    differs between annotators is no column of a clip. The recording is the sensor, where the table names it: its clips resemble
    each other.
    """
    table = read_csv(store, TABLE, LAYOUT, NEEDED, ("split", "audio_filename", "sensor_id"))
    places = {entry.name.rsplit("/", 1)[-1]: entry.name for entry in store.list_files()}
    names = table["audio_filename"].combine_chunks().dictionary_encode()
    clip = names.indices.to_numpy()
    first = table.take(np.unique(clip, return_index=True)[1])
    columns = {
        "path": [places.get(name, f"audio/{name}") for name in names.dictionary.to_pylist()],
        "labels": _heard(table, clip, COARSE, store.address_of(TABLE)),
        "split": first["split"],
        "recording": first["audio_filename"],
    }
    if "sensor_id" in table.column_names:
        columns["recording"] = pc.coalesce(first["sensor_id"], first["audio_filename"])
    own = first.select([name for name in table.column_names if not BY_ANNOTATOR.fullmatch(name)])
    fine = _heard(table, clip, FINE, store.address_of(TABLE))
    return make_table(columns, own.append_column("fine_labels", pa.array(fine, pa.list_(pa.string()))))


def _heard(table: pa.Table, clip: NDArray[np.int32], kind: re.Pattern[str], address: str) -> list[list[str]]:
    """The names of one kind of presence column that count for each clip; `clip` says whose annotation a row is."""
    agreed = cast_column(table, "annotator_id", pa.int64(), address).to_numpy() == AGREED
    counts = agreed | ~np.isin(clip, clip[agreed])
    heard: list[list[str]] = [[] for _ in range(clip.max(initial=-1) + 1)]
    for column in filter(kind.fullmatch, table.column_names):
        # 1 is present, 0 absent; -1, or nothing, is not looked at
        present = pc.fill_null(cast_column(table, column, pa.float64(), address), -1.0).to_numpy()
        votes = np.bincount(clip, counts & (present > 0))
        voters = np.bincount(clip, counts & (present >= 0))
        name = kind.sub(r"\1", column)
        for number in np.flatnonzero((votes > 0) & (2 * votes >= voters)):
            heard[number].append(name)
    return heard
