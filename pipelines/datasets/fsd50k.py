"""FSD50K: 51,197 Freesound clips with AudioSet labels, propagated to their ancestors. zenodo.org/records/4060432."""

import pyarrow as pa
import pyarrow.compute as pc

from models.storage import Store
from pipelines.datasets.table import make_table, read_csv, split_labels

DEV, EVAL = "FSD50K.ground_truth/dev.csv", "FSD50K.ground_truth/eval.csv"
LAYOUT = f"{DEV} (and eval.csv) beside FSD50K.dev_audio/ and FSD50K.eval_audio/"
TEXT = ("fname", "labels", "mids", "split")


def read(store: Store) -> pa.Table:
    """dev.csv with its splits train and val, and, where it is there, eval.csv as the split test. Raises WrongTable."""
    dev = read_csv(store, DEV, LAYOUT, TEXT, TEXT)
    tables = [_clips(dev, "FSD50K.dev_audio/", dev["split"])]
    if store.exists(EVAL):
        held_out = read_csv(store, EVAL, LAYOUT, TEXT[:-1], TEXT)
        tables.append(_clips(held_out, "FSD50K.eval_audio/", pa.array(["test"] * len(held_out))))
    return pa.concat_tables(tables, promote_options="permissive")


def _clips(table: pa.Table, folder: str, split: pa.Array) -> pa.Table:
    named = pc.binary_join_element_wise(folder, table["fname"], ".wav", "")
    columns = {"path": named, "labels": split_labels(table["labels"], ","), "split": split, "recording": table["fname"]}
    mids = table.column_names.index("mids")
    return make_table(columns, table.set_column(mids, "mids", split_labels(table["mids"], ",")))
