"""BirdCLEF: bird recordings of Xeno-canto, as Kaggle's competitions hand them out. kaggle.com/c/birdclef-2021, -2022, ..."""

import ast

import pyarrow as pa
import pyarrow.compute as pc

from models.errors import WrongTable
from models.storage import Store
from pipelines.datasets.table import make_table, read_csv

TABLE = "train_metadata.csv"
LAYOUT = f"{TABLE} beside train_audio/"
TEXT = ("primary_label", "secondary_labels", "type", "filename", "date", "time", "author", "url")


def read(store: Store) -> pa.Table:
    """train_metadata.csv; labels are the primary and the secondary ones, which stay as own columns, too. Raises WrongTable."""
    table = read_csv(store, TABLE, LAYOUT, ("primary_label", "filename"), TEXT)
    table = _with_lists(table, store.address_of(TABLE))
    primary = table["primary_label"].to_pylist()
    secondary = table["secondary_labels"].to_pylist() if "secondary_labels" in table.column_names else [[]] * len(table)
    labels = [list(dict.fromkeys([first, *rest])) for first, rest in zip(primary, secondary, strict=True)]
    columns = {
        "path": pc.binary_join_element_wise("train_audio", table["filename"], "/"),
        "labels": labels,
        "recording": table["filename"],
    }
    return make_table(columns, table)


def _with_lists(table: pa.Table, address: str) -> pa.Table:
    """The columns that hold lists, written as Python writes them, as lists."""
    for name in {"secondary_labels", "type"} & set(table.column_names):
        values = [_parse(text, row, name, address) for row, text in enumerate(table[name].to_pylist(), start=2)]
        table = table.set_column(table.column_names.index(name), name, pa.array(values, pa.list_(pa.string())))
    return table


def _parse(text: str | None, row: int, column: str, address: str) -> list[str]:
    if not text:
        return []
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        value = None
    if not isinstance(value, list):
        raise WrongTable(f"{address}, row {row}, column {column!r}: {text[:80]!r} is no list as ['a', 'b']")
    return [str(entry) for entry in value if entry != ""]  # 2025 writes [''] for none
