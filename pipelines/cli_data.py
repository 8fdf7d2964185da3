"""The verbs `data list`, `data describe` and `data fetch`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipelines.cli_fetch import fetch

if TYPE_CHECKING:
    from pipelines.describe import Description

SHOWN_LABELS = 30
SHOWN_FILES = 5


def add_data_verbs(cli: typer.Typer) -> None:
    """Adds the group `data`."""
    group = typer.Typer(
        help="Data sets: which can be read, what one holds, and where public ones come from.", no_args_is_help=True
    )
    group.command("list")(list_datasets)
    group.command()(describe)
    group.command()(fetch)
    cli.add_typer(group, name="data")


def list_datasets() -> None:
    """Show the kinds of data set that can be read, and which of them `earshot data fetch` downloads.

    Example:  `earshot data list`
    """
    from cluster.terminal import out, reporting_errors

    with reporting_errors():
        from rich import box
        from rich.table import Table
        from rich.text import Text

        from pipelines.datasets.readers import READERS
        from pipelines.sources import FETCHABLE, SOURCES

        table = Table(
            "name", "what it is, how it lies, licence", "fetch", box=box.SIMPLE_HEAD, pad_edge=False, leading=1
        )
        table.columns[0].no_wrap = True
        for name, reader in READERS.items():
            licence = SOURCES[name].licence if name in SOURCES else "yours"
            what = Text.assemble((reader.title, "bold"), f"\n{reader.layout}\n{licence}")
            table.add_row(name, what, "yes" if name in FETCHABLE else "")
        out.print(table, markup=False)


def describe(
    name: Annotated[str, typer.Argument(help="kind of data set: see `earshot data list`")],
    root: Annotated[str, typer.Option(help="where it lies: a folder, s3://... or gs://...")],
    where: Annotated[str | None, typer.Option(help='only these rows, as "duration_s < 15 and fold != 5"')] = None,
    min_per_class: Annotated[int | None, typer.Option(help="leave out labels with fewer rows")] = None,
    png: Annotated[Path | None, typer.Option(help="draw it into this file, too")] = None,
) -> None:
    """Count what a data set holds: per class, fold and split, and how long its sounds are.

    A row of several labels counts for each.

    Example:  `earshot data describe esc50 --root ESC-50 --png esc50.png`
    """
    from cluster.terminal import out, reporting_errors

    with reporting_errors():
        from pipelines.datasets.readers import read_dataset
        from pipelines.describe import describe as count
        from pipelines.filters import select

        if png is not None:
            _check_png(png)
        counted = count(select(read_dataset(name, root), where, min_per_class))
        _show(counted)
        if png is not None:
            _draw(counted, png)
            out.print(f"drawn: {png}", markup=False, highlight=False, soft_wrap=True)


def _check_png(png: Path) -> None:
    """Raises WrongPath where no picture can be written, before anything is read."""
    from models.errors import WrongPath

    file = png.expanduser()
    if not file.parent.is_dir():
        raise WrongPath(f"--png {png}: there is no folder {file.parent}: make it first, or name another")
    if file.is_dir():
        raise WrongPath(f"--png {png}: is a folder: name a file in it, as {png / 'data.png'}")


def _show(counted: "Description") -> None:
    from rich import box
    from rich.table import Table

    from cluster.terminal import out

    out.print(
        f"{counted.rows:,} rows, {counted.hours:.2f} hours, {len(counted.labels):,} labels",
        style="bold",
        highlight=False,
    )
    spread = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in counted.quantiles_s.items())
    out.print(f"durations: {spread or 'none is known'}", highlight=False, soft_wrap=True)
    if counted.unlabelled:
        out.print(f"rows without a label: {counted.unlabelled:,}", highlight=False)
    for title, counts in (("label", counted.labels), ("fold", counted.folds), ("split", counted.splits)):
        if not counts:
            continue
        table = Table(title, "rows", box=box.SIMPLE_HEAD, pad_edge=False)
        table.columns[1].justify = "right"
        for value, rows in list(counts.items())[:SHOWN_LABELS]:
            table.add_row(value, f"{rows:,}")
        out.print(table, markup=False)
        if len(counts) > SHOWN_LABELS:
            out.print(f"and {len(counts) - SHOWN_LABELS:,} more", highlight=False)
    if counted.unread:
        named = ", ".join(counted.unread[:SHOWN_FILES]) + (", ..." if len(counted.unread) > SHOWN_FILES else "")
        line = f"files that are not there, cannot be read, or end before the part that is meant: {len(counted.unread):,}: {named}"
        out.print(line, markup=False, highlight=False, soft_wrap=True)


def _draw(counted: "Description", png: Path) -> None:
    from models.pictures import draw_counts
    from models.storage import open_beside

    store, name = open_beside(str(png.expanduser().absolute()))
    groups = counted.folds or counted.splits
    title = "fold" if counted.folds else "split"
    store.write(name, draw_counts(counted.labels, counted.durations_s, title, groups))
