"""A manifest: a CSV or Parquet file with a column `path`, and any of labels, fold, split, recording, start_s, end_s, and others."""

import pyarrow as pa
import pyarrow.parquet as pq

from models.errors import WrongTable
from models.storage import Store
from pipelines.datasets.table import COMMON, cast_column, make_table, read_csv, require_columns, split_labels

EXTENSION = b"ARROW:extension:name"
NAMES = ("manifest.csv", "manifest.parquet")
TEXT = ("path", "labels", "split", "recording")
LAYOUT = "manifest.csv or manifest.parquet with a column path"


def read(store: Store) -> pa.Table:
    """The manifest.csv or manifest.parquet in a folder. Raises WrongTable."""
    for name in NAMES:
        if store.exists(name):
            return read_file(store, name)
    raise WrongTable(f"{store.address} holds neither {' nor '.join(NAMES)}; name the file itself, or put one there")


def read_file(store: Store, name: str) -> pa.Table:
    """A manifest by its name. Labels are a list, or text with `;` between them. Raises WrongTable naming row and column."""
    address = store.address_of(name)
    table = _read_parquet(store, name) if name.endswith(".parquet") else read_csv(store, name, LAYOUT, ["path"], TEXT)
    require_columns(table, address, ["path"])
    columns = {field.name: _column(table, field, address) for field in COMMON if field.name in table.column_names}
    return make_table(columns, table)


def _column(table: pa.Table, field: pa.Field, address: str) -> pa.ChunkedArray:
    if field.name == "labels" and not pa.types.is_nested(table["labels"].type):
        return split_labels(cast_column(table, "labels", pa.string(), address), ";")
    return cast_column(table, field.name, field.type, address)


def _read_parquet(store: Store, name: str) -> pa.Table:
    try:
        table = pq.read_table(pa.BufferReader(store.read(name)))
    except (pa.ArrowException, OSError) as error:
        raise WrongTable(f"{store.address_of(name)} is no Parquet file that can be read: {error}") from error
    if EXTENSION in table.schema.serialize().to_pybytes():  # some of these run code when they are read
        raise WrongTable(f"{store.address_of(name)}: holds columns of an extension type: write plain columns only")
    return table
