"""The table that every reader gives: the same columns first, then the source's own."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv

from models.errors import WrongPath, WrongTable
from models.storage import Store

COMMON = pa.schema(
    [
        ("path", pa.string()),  # below the root; a manifest's may be absolute or an address
        ("labels", pa.list_(pa.string())),
        ("fold", pa.int32()),
        ("split", pa.string()),
        ("recording", pa.string()),  # what a split must not cut through
        ("start_s", pa.float64()),  # the part of the file that is meant; null is all of it
        ("end_s", pa.float64()),
    ]
)
EVENTS = pa.list_(pa.struct([("label", pa.string()), ("start_s", pa.float64()), ("end_s", pa.float64())]))


@dataclass(frozen=True)
class DataSet:
    """A data set: what it is, where it lies, and its rows."""

    name: str
    store: Store
    table: pa.Table


def make_table(columns: Mapping[str, Any], own: pa.Table | None = None) -> pa.Table:
    """The common columns (those not given are null; `recording` is the path) and the source's own, which must not be named as they are."""
    count = len(columns["path"])
    given = {"recording": columns["path"]} | dict(columns)
    arrays = [
        _typed(given[field.name], field.type) if field.name in given else pa.nulls(count, field.type)
        for field in COMMON
    ]
    table = pa.table(arrays, schema=COMMON)
    if own is not None:
        for name in (name for name in own.column_names if name not in COMMON.names):
            table = table.append_column(name, own[name])
    return table


def _typed(values: Any, kind: pa.DataType) -> pa.ChunkedArray:
    if isinstance(values, (pa.Array, pa.ChunkedArray)):
        return pc.cast(values, kind)
    return pa.chunked_array([pa.array(values, kind)])


def each_in_a_list(labels: pa.ChunkedArray) -> pa.ChunkedArray:
    """One label a row -> lists of one."""
    whole = labels.combine_chunks() if isinstance(labels, pa.ChunkedArray) else labels
    return pa.chunked_array([pa.ListArray.from_arrays(pa.array(range(len(whole) + 1), pa.int32()), whole)])


def read_csv(store: Store, name: str, layout: str, needed: Sequence[str], text: Sequence[str] = ()) -> pa.Table:
    """A CSV file by its header; the columns in `text` stay text whatever they look like. Raises WrongTable."""
    try:
        content = store.read(name)
    except WrongPath as error:
        raise WrongTable(f"{store.address_of(name)} is not there; expected is {layout}") from error
    options = pacsv.ConvertOptions(column_types=dict.fromkeys(text, pa.string()), strings_can_be_null=True)
    try:
        table = pacsv.read_csv(
            pa.BufferReader(content),
            parse_options=pacsv.ParseOptions(newlines_in_values=True),
            convert_options=options,
        )
    except pa.ArrowInvalid as error:
        raise WrongTable(f"{store.address_of(name)}: {error}") from error
    require_columns(table, store.address_of(name), needed)
    return table


def require_columns(table: pa.Table, address: str, needed: Sequence[str]) -> None:
    """Raises WrongTable naming the first column that is missing."""
    for column in needed:
        if column not in table.column_names:
            raise WrongTable(f"{address}: no column {column!r}; there are: {', '.join(table.column_names)}")


def cast_column(table: pa.Table, column: str, kind: pa.DataType, address: str) -> pa.ChunkedArray:
    """A column as another type. Raises WrongTable naming the first row (the header is row 1) whose value cannot be."""
    values = table[column]
    try:
        return pc.cast(values, kind)
    except pa.ArrowInvalid:
        for row, value in enumerate(values.to_pylist(), start=2):
            try:
                pc.cast(pa.scalar(value), kind)
            except pa.ArrowInvalid:
                raise WrongTable(f"{address}, row {row}, column {column!r}: {value!r} is no {kind}") from None
        raise
