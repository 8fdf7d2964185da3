"""`earshot sweep` from end to end: a folder, the trials that are missing, a live table, the report.

sweep.json       what is searched, every planned trial, the fingerprint of the data
trials/0001.json what came of a trial, as soon as it has ended
report.md ...    the report: tune/sweep_report.py
"""

import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.live import Live
from rich.table import Table

from cluster.session import open_session, prepare_environment
from cluster.settings import Settings
from cluster.terminal import err
from models.errors import JobFailed, OutputMismatch, WrongTable
from tune.experiment import fingerprint, prepare
from tune.sweep_report import REPORT, count_states, show, write_report
from tune.train import git_revision
from tune.trials import Record, Share, Sweep, Trial, load_records, plan_trials, rank, save_record

CONFIG = "sweep.json"
ROWS = 20  # of the live table


def sweep_models(
    sweep: Sweep,
    out: Path,
    settings: Settings,
    *,
    share: Share,
    cluster: bool = False,
    overwrite: bool = False,
) -> dict[int, Record]:
    """Runs the trials that have not ended, each with its share of workers and GPUs, and writes the report. Raises EarshotError's kinds."""
    trials = plan_trials(sweep)
    config = open_folder(out, sweep, trials, overwrite)
    records = load_records(out, trials)
    if len(records) < len(trials):
        _run_missing(sweep, trials, records, out, settings, share, cluster)
    write_report(out, sweep, trials, records, config)
    if missing := len(trials) - len(records):
        raise JobFailed(f"{missing} trials did not end. The same command goes on with them")
    if all(record.state == "failed" for record in records.values()):
        first = records[trials[0].number]
        raise JobFailed(f"every trial failed; trial {first.number}: {first.reason}. See {out / REPORT}")
    return records


def open_folder(out: Path, sweep: Sweep, trials: Sequence[Trial], overwrite: bool) -> dict[str, Any]:
    """Writes sweep.json, or checks that the one there says the same; more trials are welcome. Raises OutputMismatch."""
    first = {trial.experiment.model: trial.experiment for trial in reversed(trials)}
    prepared = [prepare(experiment) for experiment in first.values()]
    config: dict[str, Any] = {
        "sweep": sweep.model_dump(mode="json"),
        "data": fingerprint(prepared[0].features),
        "trials": [trial.model_dump(mode="json") for trial in trials],
        "program": version("earshot"),
        "revision": git_revision(),
    }
    if overwrite and (out / CONFIG).exists():
        shutil.rmtree(out)
    if (out / CONFIG).exists():
        _check_same(out, config)
    elif out.exists() and any(out.iterdir()):
        raise OutputMismatch(f"{out} holds files, but not of a sweep: name an empty or a new folder")
    out.mkdir(parents=True, exist_ok=True)
    draft = out / f".{CONFIG}"
    draft.write_text(json.dumps(config, indent=2) + "\n")
    os.replace(draft, out / CONFIG)
    return config


def _check_same(out: Path, config: dict[str, Any]) -> None:
    try:
        there = json.loads((out / CONFIG).read_text())
    except ValueError as error:
        raise WrongTable(f"{out / CONFIG}: not JSON ({error}): name another folder, or say --overwrite") from error
    same = {
        "data": there["data"] == config["data"],
        **{name: there["sweep"].get(name) == value for name, value in config["sweep"].items() if name != "trials"},
        "trials": config["trials"][: len(there["trials"])] == there["trials"],
    }
    if different := [name for name, equal in same.items() if not equal]:
        raise OutputMismatch(
            f"{out} was begun otherwise ({', '.join(different)} differ): name another folder, or say --overwrite"
        )


def _run_missing(
    sweep: Sweep,
    trials: Sequence[Trial],
    records: dict[int, Record],
    out: Path,
    settings: Settings,
    share: Share,
    cluster: bool,
) -> None:
    """Runs what is not in `records`, and adds it there and in the folder."""
    address = "auto" if cluster and settings.ray_address == "local" else settings.ray_address
    cores = len(os.sched_getaffinity(0))
    cpus = cores if share.workers == 1 else max(cores, share.workers) + 1  # one for what the trials hold themselves
    prepare_environment(settings)
    if share.workers > 1:
        from tune.workers import prepare_ray_train

        prepare_ray_train()
    from tune.search import run_trials

    done, seen = dict(records), dict(records)

    def watch(record: Record) -> None:
        seen[record.number] = record
        if record.state != "running":
            save_record(out, record)
            records[record.number] = record

    with (
        open_session(settings.model_copy(update={"ray_address": address}), cpus),
        _showing(lambda: draw_table(sweep, trials, dict(seen))),
    ):
        run_trials(trials, done, sweep, out, share, watch)


def _showing(draw: Callable[[], Table]) -> AbstractContextManager[object]:
    """A table that is drawn again and again while the block runs, where somebody looks."""
    if not err.is_terminal:
        return nullcontext()
    return Live(get_renderable=draw, console=err, refresh_per_second=2, transient=True)


def draw_table(sweep: Sweep, trials: Sequence[Trial], records: Mapping[int, Record]) -> Table:
    """The trials that run, then the best of all."""
    running = [record for record in records.values() if record.state == "running"]
    ended = {number: record for number, record in records.items() if record.state != "running"}
    table = Table("trial", "state", "epochs", sweep.metric, "CPU s", "settings", box=None, caption_justify="left")
    table.caption = f"{count_states(ended)}; {len(trials) - len(ended)} to go"
    for record in [*running, *rank(ended, sweep)][:ROWS]:
        value = record.value(sweep.metric)
        table.add_row(
            str(record.number), record.state, str(len(record.epochs)), "-" if value is None else f"{value:.4f}",
            f"{record.cpu_s:.1f}", show(trials[record.number - 1].flat),
        )  # fmt: skip
    return table
