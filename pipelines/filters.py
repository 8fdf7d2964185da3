"""Which rows of a data set are meant: `--where "duration_s < 15 and country in ('IT', 'FR')"`, and `--min-per-class`.

The expression has Python's syntax and is computed by pyarrow over whole columns; nothing in it is ever run as code. A comparison with a
missing value is neither true nor false. A column whose name is no name of Python's stands in backticks: `class`, `file-name`.
"""

import ast
import difflib
import re
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from models.audio import probe
from models.errors import BadInput, BadOption
from models.storage import Store
from pipelines.datasets.table import EVENTS, DataSet, cast_column

PROBE_THREADS = 16
SHOWN = 200  # characters of an expression in a message
DURATION = "duration_s"
BACKTICKS = re.compile(r"""'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*"|`([^`]+)`""")  # text in quotes, or a name in backticks
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
    ast.Add: pc.add_checked,
    ast.Sub: pc.subtract_checked,
    ast.Mult: pc.multiply_checked,
    ast.Div: lambda left, right: pc.divide(pc.cast(left, pa.float64()), right),
}


def select(dataset: DataSet, where: str | None = None, min_per_class: int | None = None) -> DataSet:
    """The rows that are meant. Raises BadOption for an expression that cannot be computed, or where no row is left."""
    if min_per_class is not None and min_per_class < 1:
        raise BadOption(f"--min-per-class {min_per_class} is no count of rows: write 1 or more, or leave it out")
    if where and DURATION in columns_of(where):
        dataset = with_durations(dataset)
    table = filter_rows(dataset.table, where) if where else dataset.table
    table = drop_rare(table, min_per_class) if min_per_class else table
    if not len(table):
        flags = {"--where": where and _quote(where), "--min-per-class": min_per_class}
        asked = " and ".join(f"{flag} {value}" for flag, value in flags.items() if value)
        raise BadOption(
            f"no row of {dataset.store.address} is left by {asked}" if asked else f"{dataset.store.address}: no rows"
        )
    return replace(dataset, table=table)


def columns_of(where: str) -> set[str]:
    """The columns that an expression names."""
    return {node.id for node in ast.walk(_parse(where)) if isinstance(node, ast.Name)}


def filter_rows(table: pa.Table, where: str) -> pa.Table:
    """The rows for which the expression is true. Raises BadOption."""
    tree = _parse(where)
    try:
        kept = _Evaluator(table).value(tree)
    except RecursionError as error:
        raise BadOption(
            f"--where {_quote(where)} is nested too deeply: write it flatter, or make a manifest"
        ) from error
    except (pa.ArrowException, TypeError, OverflowError) as error:
        raise BadOption(f"--where {_quote(where)} cannot be computed: {str(error).splitlines()[0]}") from error
    if not pa.types.is_boolean(kept.type):
        raise BadOption(f"--where {_quote(where)} gives {kept.type}, not true or false: write a comparison, {EXAMPLE}")
    if isinstance(kept, pa.Scalar):  # no column is in it
        return table if kept.as_py() else table.slice(0, 0)
    return table.filter(pc.fill_null(kept, False))


def drop_rare(table: pa.Table, min_per_class: int) -> pa.Table:
    """Labels of fewer rows vanish, from events too, and so do the rows that are left without a label."""
    labels = [row or [] for row in table["labels"].to_pylist()]
    counts = Counter(label for row in labels for label in set(row))
    kept = {label for label, count in counts.items() if count >= min_per_class}
    lists = [[label for label in row if label in kept] for row in labels]
    table = _replace(table, "labels", lists)
    if "events" in table.column_names and table["events"].type == EVENTS:
        events = [[event for event in row or [] if event["label"] in kept] for row in table["events"].to_pylist()]
        table = _replace(table, "events", events)
    return table.filter(pa.array([bool(row) for row in lists], pa.bool_()))


def _replace(table: pa.Table, name: str, values: list[Any]) -> pa.Table:
    index = table.column_names.index(name)
    return table.set_column(index, table.schema.field(index), pa.array(values, table.schema.field(index).type))


def with_durations(dataset: DataSet) -> DataSet:
    """Fills `duration_s` where it is missing: from the part's ends, else from the files' headers.

    Null where a file cannot be read, or the part would end before it begins.
    """
    from rich.progress import track

    from cluster.terminal import err

    table = dataset.table
    start_s = pc.fill_null(table["start_s"], 0.0)
    known = pc.subtract(table["end_s"], start_s)
    if DURATION in table.column_names:
        known = pc.coalesce(known, cast_column(table, DURATION, pa.float64(), dataset.store.address))
    unknown = table["path"].filter(pc.is_null(known)).unique().to_pylist()
    with ThreadPoolExecutor(PROBE_THREADS) as pool:
        lengths = pool.map(lambda path: _length_s(dataset.store, path), unknown)
        shown = track(lengths, "reading headers", len(unknown), console=err, transient=True, disable=not unknown)
        probed = dict(zip(unknown, shown, strict=True))
    whole_s = pa.array([probed.get(path) for path in table["path"].to_pylist()], pa.float64())
    column = pc.coalesce(known, pc.subtract(whole_s, start_s))
    column = pc.if_else(pc.less(column, 0.0), pa.scalar(None, pa.float64()), column)
    if DURATION in table.column_names:
        return replace(dataset, table=table.set_column(table.column_names.index(DURATION), DURATION, column))
    return replace(dataset, table=table.append_column(DURATION, column))


def _length_s(store: Store, path: str) -> float | None:
    try:
        with store.open_sound(path) as stream:
            return probe(stream).duration_s
    except BadInput:
        return None


def _parse(where: str) -> ast.expr:
    names: dict[str, str] = {}

    def hold(match: re.Match[str]) -> str:
        return match[0] if match[1] is None else names.setdefault(match[1], f"_column_{len(names)}_")

    try:
        tree = ast.parse(BACKTICKS.sub(hold, where.strip()), mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        raise BadOption(f"--where {_quote(where)} is no expression: write one {EXAMPLE}") from error
    held = {placeholder: name for name, placeholder in names.items()}
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            node.id = held.get(node.id, node.id)
    return tree


def _quote(where: str) -> str:
    return repr(where if len(where) <= SHOWN else where[:SHOWN] + " ...")


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
            f"--where: {_quote(ast.unparse(node))} is not allowed; "
            f"columns, numbers, text, comparisons, in, and, or, not, + - * / are, {EXAMPLE}"
        )

    def _compare(self, left: ast.expr, operator: ast.cmpop, right: ast.expr) -> Any:
        if isinstance(operator, ast.In | ast.NotIn):
            found = self._contains(left, right)
            return pc.invert(found) if isinstance(operator, ast.NotIn) else found
        if isinstance(operator, ast.Is | ast.IsNot | ast.Eq | ast.NotEq) and (_is_none(left) or _is_none(right)):
            missing = pc.is_null(self.value(left if _is_none(right) else right))
            return missing if isinstance(operator, ast.Is | ast.Eq) else pc.invert(missing)
        if type(operator) not in COMPARISONS or _is_none(left) or _is_none(right):
            raise BadOption('--where: None goes with is and is not, and they with None only: write "fold is not None"')
        return COMPARISONS[type(operator)](*_dates_alike(self.value(left), self.value(right)))

    def _contains(self, left: ast.expr, right: ast.expr) -> Any:
        """`country in ('IT', 'FR')`, or `'dog' in labels`."""
        if isinstance(right, ast.Tuple | ast.List | ast.Set):
            values = self.value(left)
            wanted = [self.value(entry) for entry in right.elts]
            if not all(isinstance(value, pa.Scalar) for value in wanted):
                raise BadOption(f"--where: {_quote(ast.unparse(right))} may hold numbers and text only, {EXAMPLE}")
            found = pc.is_in(values, value_set=pc.cast(pa.array([value.as_py() for value in wanted]), values.type))
            return pc.if_else(pc.is_null(values), pa.scalar(None, pa.bool_()), found)
        lists = self.value(right)
        if not pa.types.is_list(lists.type):
            raise BadOption(f"--where: {_quote(ast.unparse(right))} is no list to look in, {EXAMPLE}")
        whole = lists.combine_chunks() if isinstance(lists, pa.ChunkedArray) else lists
        found = np.zeros(len(whole), bool)
        found[pc.list_parent_indices(whole).filter(pc.equal(whole.flatten(), self.value(left)))] = True
        return pa.array(found, mask=pc.is_null(whole).to_numpy(zero_copy_only=False))

    def _column(self, name: str) -> pa.ChunkedArray:
        if name in self._table.column_names:
            return self._table[name]
        near = difflib.get_close_matches(name, self._table.column_names, 1)
        hint = f"did you mean {near[0]}? There" if near else "there"
        raise BadOption(f"--where: no column {name!r}: {hint} are: {', '.join(self._table.column_names)}")


def _is_none(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


def _dates_alike(left: Any, right: Any) -> tuple[Any, Any]:
    """Text beside a date is read as one: `recorded >= '2021-05-01'`."""
    if pa.types.is_temporal(left.type) and pa.types.is_string(right.type):
        return left, pc.cast(right, left.type)
    if pa.types.is_temporal(right.type) and pa.types.is_string(left.type):
        return pc.cast(left, right.type), right
    return left, right


def _fold(join: Callable[[Any, Any], Any], values: list[Any]) -> Any:
    whole = values[0]
    for value in values[1:]:
        whole = join(whole, value)
    return whole
