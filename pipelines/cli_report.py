"""What a bulk job says at its end."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from cluster.terminal import BAD_USAGE, SOME_REJECTED, err
from models.features import ERRORS
from models.storage import Store
from pipelines.jobs import Report


class Summary:
    """Holds the report while a job is timed."""

    report: Report


@contextmanager
def summing_up(out: Store) -> Iterator[Summary]:
    """Times the block, prints what it did, and ends the command with 3 where files were rejected (2 where all were)."""
    summary, begun_s = Summary(), time.monotonic()
    yield summary
    report, took_s = summary.report, time.monotonic() - begun_s
    tally, state = report.tally, report.state
    line = f"{tally.done} done"
    line += f", {report.skipped} there already" if report.skipped else ""
    line += f", {tally.rejected} rejected" if tally.rejected else ""
    speed = f"{tally.heard_s / 3600:.2f} h of sound in {took_s:.0f} s ({tally.heard_s / took_s:.0f} x real time)"
    err.print(f"{line}; {speed if tally.done else 'nothing was left to do'}", highlight=False)
    err.print(f"{out.address}: {state.rows} rows", highlight=False, soft_wrap=True)
    if state.rejected:
        err.print(
            f"{state.rejected} rejected in all: the reasons are in {out.address_of(ERRORS)}",
            highlight=False,
            soft_wrap=True,
        )
        raise typer.Exit(SOME_REJECTED if state.rows else BAD_USAGE)
