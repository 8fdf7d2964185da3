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
FIRST_ROW = 2  # the header is row 1
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
    whole = labels.combine_chunks()
    return pa.chunked_array([pa.ListArray.from_arrays(pa.array(range(len(whole) + 1), pa.int32()), whole)])


def split_labels(text: pa.ChunkedArray, mark: str) -> pa.ChunkedArray:
    """Text with a mark between labels -> lists; spaces around labels and empty labels are dropped."""
    lists = ([label for part in row.split(mark) if (label := part.strip())] if row else [] for row in text.to_pylist())
    return pa.chunked_array([pa.array(lists, pa.list_(pa.string()))])


def read_csv(store: Store, name: str, layout: str, needed: Sequence[str], text: Sequence[str] = ()) -> pa.Table:
    """A CSV file by its header; the columns in `text` stay text whatever they look like.

    Raises WrongTable where the file or a needed column is missing, or one has no value in some row.
    """
    address = store.address_of(name)
    try:
        content = store.read(name)
    except WrongPath as error:
        raise WrongTable(f"{address} is not there; expected is {layout}") from error
    table = parse_csv(content, address, text)
    require_columns(table, address, needed)
    return table


def parse_csv(
    content: bytes, address: str, text: Sequence[str], columns: Sequence[str] = (), skip: int = 0
) -> pa.Table:
    """A CSV file's bytes; the columns are the first line's unless they are given. An empty text is null, 'NA' (Namibia) is not."""
    try:
        table = pacsv.read_csv(
            pa.BufferReader(content),
            # without threads the rows of a fault have numbers
            read_options=pacsv.ReadOptions(column_names=list(columns), skip_rows=skip, use_threads=False),
            parse_options=pacsv.ParseOptions(newlines_in_values=True),
            convert_options=pacsv.ConvertOptions(column_types=dict.fromkeys(text, pa.string())),
        )
    except pa.ArrowInvalid as error:
        raise WrongTable(f"{address}: {error}") from error
    return pa.table([_empty_to_null(column) for column in table.columns], table.column_names)


def _empty_to_null(values: pa.ChunkedArray) -> pa.ChunkedArray:
    if not pa.types.is_string(values.type):
        return values
    return pc.if_else(pc.equal(values, ""), pa.scalar(None, pa.string()), values)


def require_columns(table: pa.Table, address: str, needed: Sequence[str], first_row: int = FIRST_ROW) -> None:
    """Raises WrongTable naming the first column that is missing, is there twice, or has no value in some row."""
    names = table.column_names
    for column in needed:
        if column not in names:
            raise WrongTable(f"{address}: no column {column!r}; there are: {', '.join(names)}")
    for column in names:
        if names.count(column) > 1:
            raise WrongTable(f"{address}: the column {column!r} is there twice: rename one")
    for column in needed:
        if table[column].null_count:
            row = pc.index(pc.is_null(table[column]), True).as_py() + first_row
            raise WrongTable(f"{address}, row {row}, column {column!r}: no value; write one, or leave the row out")


def cast_column(
    table: pa.Table, column: str, kind: pa.DataType, address: str, first_row: int = FIRST_ROW
) -> pa.ChunkedArray:
    """A column as another type. Raises WrongTable naming the first row whose value cannot be."""
    values = table[column]
    try:
        return pc.cast(values, kind)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        for row, value in enumerate(values.to_pylist(), first_row):
            try:
                pc.cast(pa.scalar(value, values.type), kind)
            except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
                raise WrongTable(f"{address}, row {row}, column {column!r}: {value!r} is no {kind}") from None
        raise
