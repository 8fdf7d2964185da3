"""The verb `data fetch`."""

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.progress import Progress


def fetch(
    name: Annotated[str, typer.Argument(help="which data set: see `earshot data list`")],
    root: Annotated[str, typer.Option(help="the folder to put it into: an empty one, or one not there yet")],
    keep: Annotated[bool, typer.Option("--keep", help="leave the archives in ROOT/downloads")] = False,
) -> None:
    """Download a public data set from its official address.

    Shows the licence and stores it beside the data, checks each file's hash, and unpacks. A download that breaks off goes on where it
    was when the same command is given again; a second run with everything there does nothing.

    Example:  `earshot data fetch esc50 --root ESC-50`
    """
    from cluster.terminal import err, reporting_errors

    with reporting_errors():
        from pathlib import Path

        from models.errors import BadOption
        from pipelines.fetch import Manner
        from pipelines.fetch import fetch as run

        if "://" in root:
            raise BadOption(f"--root {root}: not a local folder; fetch into one, and copy it there")

        def say(text: str) -> None:
            err.print(text, markup=False, highlight=False, soft_wrap=True)

        with _build_progress() as progress:
            fetched = run(name, Path(root).expanduser(), Manner(progress, say, keep))
        say(
            f"{fetched} file{'s' * (fetched > 1)} downloaded"
            if fetched
            else f"nothing to do: all of {name} is in {root} already"
        )
        say(f"next:  earshot data describe {name} --root {root}")


def _build_progress() -> "Progress":
    """A line per file: bytes, speed, time left."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    from cluster.terminal import err

    name = TextColumn("{task.description}", markup=False)
    columns = (name, BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    return Progress(*columns, console=err, disable=not err.is_terminal)
