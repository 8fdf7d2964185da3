"""Which rows of a data set are meant: `--where "duration_s < 15 and country in ('IT', 'FR')"`, and `--min-per-class`.

The expression has Python's syntax and is computed by pyarrow over whole columns; nothing in it is ever run as code. A comparison with a
missing value is not true.
"""

import ast
import difflib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from models.audio import probe
from models.errors import BadOption, EarshotError
from models.storage import Store
from pipelines.datasets.table import DataSet

PROBE_THREADS = 16
DURATION = "duration_s"
EXAMPLE = "as \"duration_s < 15 and fold != 5 and country in ('IT', 'FR') and 'dog' in labels\""
COMPARISONS: dict[type[ast.cmpop], Callable[..., Any]] = {
    ast.Eq: pc.equal,
    ast.NotEq: pc.not_equal,
    ast.Lt: pc.less,
    ast.LtE: pc.less_equal,
    ast.Gt: pc.greater,
    ast.GtE: pc.greater_equal,
}
ARITHMETIC: dict[type[ast.operator], Callable[..., Any]] = {
    ast.Add: pc.add,
    ast.Sub: pc.subtract,
    ast.Mult: pc.multiply,
    ast.Div: lambda left, right: pc.divide(pc.cast(left, pa.float64()), right),
}


def select(dataset: DataSet, where: str | None = None, min_per_class: int | None = None) -> DataSet:
    """The rows that are meant. Raises BadOption for an expression that cannot be computed, or where no row is left."""
    if where and DURATION in columns_of(where):
        dataset = with_durations(dataset)
    table = filter_rows(dataset.table, where) if where else dataset.table
    table = drop_rare(table, min_per_class) if min_per_class else table
    if not len(table):
        flags = {"--where": where, "--min-per-class": min_per_class}
        asked = " and ".join(f"{flag} {value!r}" for flag, value in flags.items() if value)
        raise BadOption(
            f"no row of {dataset.store.address} is left by {asked}" if asked else f"{dataset.store.address}: no rows"
        )
    return replace(dataset, table=table)


def columns_of(where: str) -> set[str]:
    """The columns that an expression names."""
    return {node.id for node in ast.walk(_parse(where)) if isinstance(node, ast.Name)}


def filter_rows(table: pa.Table, where: str) -> pa.Table:
    """The rows for which the expression is true. Raises BadOption."""
    try:
        kept = _Evaluator(table).value(_parse(where))
        if not pa.types.is_boolean(kept.type):
            raise BadOption(f"--where {where!r} gives {kept.type}, not true or false: write a comparison, {EXAMPLE}")
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError, TypeError, OverflowError) as error:
        raise BadOption(f"--where {where!r} cannot be computed: {str(error).splitlines()[0]}") from error
    return (
        table.filter(pc.fill_null(kept, False))
        if not isinstance(kept, pa.Scalar)
        else table.slice(0, len(table) * bool(kept))
    )


def drop_rare(table: pa.Table, min_per_class: int) -> pa.Table:
    """Labels of fewer rows vanish, and so do the rows that are left without a label."""
    labels = table["labels"].combine_chunks()
    counts = pc.value_counts(labels.flatten())
    common = counts.filter(pc.greater_equal(counts.field("counts"), min_per_class)).field("values")
    kept = set(common.to_pylist())
    lists = [[label for label in row or [] if label in kept] for row in labels.to_pylist()]
    column = table.schema.get_field_index("labels")
    table = table.set_column(column, table.schema.field(column), pa.array(lists, labels.type))
    return table.filter(pa.array([bool(row) for row in lists], pa.bool_()))


def with_durations(dataset: DataSet) -> DataSet:
    """Fills `duration_s` where it is missing: from the part's ends, else from the files' headers. Null where a file cannot be read."""
    from rich.progress import track

    from cluster.terminal import err

    table = dataset.table
    known = pc.subtract(table["end_s"], pc.fill_null(table["start_s"], 0.0))
    if DURATION in table.column_names:
        known = pc.coalesce(known, pc.cast(table[DURATION], pa.float64()))
    unknown = table["path"].filter(pc.is_null(known)).unique().to_pylist()
    with ThreadPoolExecutor(PROBE_THREADS) as pool:
        lengths = pool.map(lambda path: _length_s(dataset.store, path), unknown)
        shown = track(lengths, "reading headers", len(unknown), console=err, transient=True, disable=not unknown)
        probed = dict(zip(unknown, shown, strict=True))
    values = [
        x if x is not None else probed.get(path)
        for x, path in zip(known.to_pylist(), table["path"].to_pylist(), strict=True)
    ]
    column = pa.array(values, pa.float64())
    if DURATION in table.column_names:
        return replace(dataset, table=table.set_column(table.column_names.index(DURATION), DURATION, column))
    return replace(dataset, table=table.append_column(DURATION, column))


def _length_s(store: Store, path: str) -> float | None:
    try:
        with store.open_sound(path) as stream:
            return probe(stream).duration_s
    except EarshotError:
        return None


def _parse(where: str) -> ast.expr:
    try:
        return ast.parse(where.strip(), mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        raise BadOption(f"--where {where!r} is no expression: write one {EXAMPLE}") from error


class _Evaluator:
    """Computes an expression over a table's columns."""

    def __init__(self, table: pa.Table) -> None:
        self._table = table

    def value(self, node: ast.expr) -> Any:
        """A column, an array or a scalar."""
        match node:
            case ast.Name(name):
                return self._column(name)
            case ast.Constant(value) if isinstance(value, str | int | float | None):
                return pa.scalar(value)
            case ast.UnaryOp(ast.USub(), operand):
                return pc.negate(self.value(operand))
            case ast.UnaryOp(ast.Not(), operand):
                return pc.invert(self.value(operand))
            case ast.BoolOp(operator, operands):
                join = pc.and_kleene if isinstance(operator, ast.And) else pc.or_kleene
                return _fold(join, [self.value(operand) for operand in operands])
            case ast.BinOp(left, operator, right) if type(operator) in ARITHMETIC:
                return ARITHMETIC[type(operator)](self.value(left), self.value(right))
            case ast.Compare(left, operators, others):
                sides = [left, *others]
                pairs = zip(sides, operators, others, strict=False)
                return _fold(pc.and_kleene, [self._compare(a, operator, b) for a, operator, b in pairs])
        raise BadOption(
            f"--where: {ast.unparse(node)!r} is not allowed; columns, numbers, text, comparisons, in, and, or, not, + - * / are, {EXAMPLE}"
        )

    def _compare(self, left: ast.expr, operator: ast.cmpop, right: ast.expr) -> Any:
        if isinstance(operator, ast.In | ast.NotIn):
            found = self._contains(left, right)
            return pc.invert(found) if isinstance(operator, ast.NotIn) else found
        if isinstance(right, ast.Constant) and right.value is None:
            missing = pc.is_null(self.value(left))
            return missing if isinstance(operator, ast.Is | ast.Eq) else pc.invert(missing)
        if type(operator) not in COMPARISONS:
            raise BadOption(f"--where: 'is' goes with None only, {EXAMPLE}")
        return COMPARISONS[type(operator)](self.value(left), self.value(right))

    def _contains(self, left: ast.expr, right: ast.expr) -> Any:
        """`country in ('IT', 'FR')`, or `'dog' in labels`."""
        if isinstance(right, ast.Tuple | ast.List | ast.Set):
            values = self.value(left)
            wanted = pa.array([self.value(entry).as_py() for entry in right.elts])
            found = pc.is_in(values, value_set=pc.cast(wanted, values.type))
            return pc.if_else(pc.is_null(values), pa.scalar(None, pa.bool_()), found)
        lists = self.value(right)
        if not pa.types.is_list(lists.type):
            raise BadOption(f"--where: {ast.unparse(right)!r} is no list to look in, {EXAMPLE}")
        whole = lists.combine_chunks() if isinstance(lists, pa.ChunkedArray) else lists
        rows = pc.list_parent_indices(whole).filter(pc.equal(whole.flatten(), self.value(left)))
        return pc.is_in(pa.array(range(len(whole)), pa.int64()), value_set=pc.cast(rows, pa.int64()))

    def _column(self, name: str) -> pa.ChunkedArray:
        if name in self._table.column_names:
            return self._table[name]
        near = difflib.get_close_matches(name, self._table.column_names, 1)
        hint = f": did you mean {near[0]}?" if near else ""
        raise BadOption(f"--where: no column {name!r}{hint} There are: {', '.join(self._table.column_names)}")


def _fold(join: Callable[[Any, Any], Any], values: list[Any]) -> Any:
    whole = values[0]
    for value in values[1:]:
        whole = join(whole, value)
    return whole
