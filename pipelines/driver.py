"""Drives bulk jobs to their end: leaves out what is done, starts Ray where it pays, shows progress, and marks the output complete."""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

from cluster.settings import Settings
from cluster.terminal import err
from models.errors import JobFailed
from models.features import (
    BLOCKS,
    ERRORS,
    STATE,
    Made,
    State,
    check_made,
    open_parts,
    part_files,
    read_items,
    read_state,
    write_state,
)
from models.storage import Store
from pipelines.bulk import Job, Runner, Tally, open_ray, run_here
from pipelines.plan import cut_chunks

LITTLE_WORK = 2000  # short clips: about 20 s of one core; starting Ray and its first tasks takes as long


@dataclass(frozen=True)
class Workers:
    """Where jobs run: on `count` cores of this machine, on the cluster that `settings` name, or, unless told, as the work asks for."""

    settings: Settings
    count: int | None = None
    cluster: bool = False

    @contextlib.contextmanager
    def open(self, work: float) -> Iterator[Runner]:
        """A runner for so much work, in short clips: Ray on every core, or, for little of it, this process."""
        if not self.cluster and not self.count and work < LITTLE_WORK:
            yield run_here
            return
        address = self.settings.ray_address
        if self.cluster and address == "local":
            address = "auto"
        settings = self.settings.model_copy(update={"ray_address": address})
        with open_ray(settings, self.count or len(os.sched_getaffinity(0))) as runner:
            yield runner


def prepare_output(out: Store, made: Made, *, overwrite: bool = False) -> None:
    """Makes the folder ready: new, or to go on with. Raises OutputMismatch where its rows were made otherwise."""
    state = read_state(out)
    if state is not None and overwrite:
        for name in [*part_files(out), *part_files(out, ERRORS), *part_files(out, BLOCKS), STATE]:
            out.delete(name)
        state = None
    if state is not None:
        check_made(state.made, made, out.address)
    out.sweep()
    write_state(out, State(made=made))


def finished_items(out: Store, *folders: str) -> list[pa.Array]:
    """What is in the output already, in the folders of rows, errors, ...: one array of items a file."""
    return [items for folder in folders for items in read_items(out, folder)]


def run_job(job: Job, planned: pa.Table, runner: Runner, progress: Progress, title: str) -> Tally:
    """Does the planned items. Raises JobFailed with the reason where it cannot go on."""
    chunks = cut_chunks(planned, job.partition)
    task = progress.add_task(title, total=len(planned), rejected="")
    whole = Tally()
    for tally in runner(job, chunks):
        whole += tally
        if whole.fault:
            raise JobFailed(whole.fault)
        shown = f"[red]{whole.rejected} rejected[/]" if whole.rejected else ""
        progress.update(task, completed=whole.done + whole.rejected, rejected=shown)
    return whole


def open_progress() -> Progress:
    """The progress bars of bulk jobs, on stderr."""
    columns = [TextColumn("{task.description}"), SpinnerColumn(), BarColumn(), MofNCompleteColumn()]
    return Progress(
        *columns,
        TimeRemainingColumn(),
        TextColumn("{task.fields[rejected]}"),
        console=err,
        transient=True,
        disable=not err.is_terminal,
    )


def complete(out: Store, made: Made) -> State:
    """Marks the output complete, with its counts."""
    rows, rejected = open_parts(out).count_rows(), open_parts(out, ERRORS).count_rows()
    state = State(made=made, complete=True, rows=rows, rejected=rejected)
    write_state(out, state)
    return state
