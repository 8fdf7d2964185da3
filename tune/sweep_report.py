"""What came of a sweep, on disk: report.md with pictures for people, trials.parquet for programs."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from models.report_pictures import draw_learning_curves, draw_parallel_coordinates
from tune.experiment import Experiment
from tune.trials import LOSS, Record, Sweep, Trial, measure, rank

REPORT, TABLE = "report.md", "trials.parquet"
PARALLEL, CURVES = "parallel.png", "learning.png"
BEST = 10
CURVES_DRAWN = 50


def write_report(
    folder: Path, sweep: Sweep, trials: Sequence[Trial], records: Mapping[int, Record], config: Mapping[str, Any]
) -> None:
    """Writes the report of the trials that have ended into the sweep's folder."""
    by_number = {trial.number: trial for trial in trials}
    best = rank(records, sweep)
    pq.write_table(build_table(by_number, records), folder / TABLE)
    if best:
        settings = [by_number[record.number].flat for record in best]
        values = [record.value(sweep.metric) or 0.0 for record in best]
        (folder / PARALLEL).write_bytes(
            draw_parallel_coordinates(settings, values, sweep.metric, more_is_better=sweep.sign > 0)
        )
        curves = {f"trial {record.number}": _curve(record, sweep.metric) for record in best[:CURVES_DRAWN]}
        (folder / CURVES).write_bytes(draw_learning_curves(curves, f"validation {sweep.metric}".replace("_", " ")))
    (folder / REPORT).write_text(describe(sweep, by_number, records, best, config), encoding="utf-8")


def build_table(trials: Mapping[int, Trial], records: Mapping[int, Record]) -> pa.Table:
    """A row for each trial that has ended: its state, its settings, the losses and metrics of the epoch that is kept."""
    rows = []
    for number, record in sorted(records.items()):
        kept = record.kept
        row: dict[str, Any] = record.model_dump(include={"number", "state", "reason", "cpu_s", "gpu_s"})
        row |= {"model": trials[number].experiment.model, "epochs": len(record.epochs)}
        row |= {
            f"{part}.{name}": value
            for part, values in trials[number].settings.items()
            for name, value in values.items()
        }
        if kept:
            row |= {"kept_epoch": kept.epoch + 1, "train_loss": kept.train_loss, LOSS: kept.validation_loss}
            row |= {f"validation_{name}": value for name, value in kept.metrics.items()}
        rows.append(row)
    names = dict.fromkeys(name for row in rows for name in row)
    table = pa.table({name: pa.array([row.get(name) for row in rows]) for name in names})
    return table.cast(
        pa.schema([field.with_type(pa.string()) if pa.types.is_null(field.type) else field for field in table.schema])
    )


def describe(
    sweep: Sweep,
    trials: Mapping[int, Trial],
    records: Mapping[int, Record],
    best: Sequence[Record],
    config: Mapping[str, Any],
) -> str:
    """The report as Markdown."""
    shared = sweep.experiment
    failed = [record for record in records.values() if record.state == "failed"]
    lines = [
        f"# Sweep of {', '.join(sweep.models)} on {shared.features}",
        "",
        f"- {count_states(records)}; {len(trials)} were planned (space {sweep.space}, seed {sweep.seed}, scheduler {sweep.scheduler}).",
        f"- {describe_cost(records)}.",
        f"- Data: fingerprint `{config['data']}`. Earshot {config['program']}, revision {config['revision']}.",
        f"- {sweep.metric} is that of the validation rows, at the epoch with the lowest validation loss. The trials were chosen by it: "
        f"how good a model is, `earshot train` says, on test rows that no trial has seen.",
    ]
    if best:
        lines += ["", "## Best trials", "", *_best_table(sweep, trials, best)]
        lines += ["", "Train the best:", "", "```", train_command(trials[best[0].number].experiment), "```", ""]
        lines += [f"![What the trials had and what they reached]({PARALLEL})", "", f"![Learning curves]({CURVES})"]
    if failed:
        lines += ["", "## Failed", "", "To run one of these again, delete its file in `trials/`.", ""]
        lines += [f"- trial {record.number} ({show(trials[record.number].flat)}): {record.reason}" for record in failed]
    return "\n".join([*lines, ""])


def _best_table(sweep: Sweep, trials: Mapping[int, Trial], best: Sequence[Record]) -> list[str]:
    lines = [f"| trial | {sweep.metric} | epoch | epochs | CPU s | settings |", "|---|---|---|---|---|---|"]
    for record in best[:BEST]:
        assert record.kept is not None
        lines.append(
            f"| {record.number} | {record.value(sweep.metric):.4f} | {record.kept.epoch + 1} | {len(record.epochs)} "
            f"| {record.cpu_s:.1f} | {show(trials[record.number].flat)} |"
        )
    return lines


def _curve(record: Record, metric: str) -> list[float]:
    values = (measure(report, metric) for report in record.epochs)
    return [float("nan") if value is None else value for value in values]


def count_states(records: Mapping[int, Record]) -> str:
    """How many trials ended, and how."""
    counts = {
        state: sum(record.state == state for record in records.values()) for state in ("finished", "stopped", "failed")
    }
    named = {"finished": "finished", "stopped": "stopped early", "failed": "failed"}
    return f"{len(records)} trials: " + ", ".join(f"{counts[state]} {word}" for state, word in named.items())


def describe_cost(records: Mapping[int, Record]) -> str:
    """What the trials held, from their begin to their end."""
    cpu_s, gpu_s = (sum(getattr(record, name) for record in records.values()) for name in ("cpu_s", "gpu_s"))
    return f"Cost: {cpu_s:,.0f} CPU-seconds, {gpu_s:,.0f} GPU-seconds"


def show(settings: Mapping[str, Any]) -> str:
    """Settings in one line."""
    return ", ".join(f"{name} {value}" if name != "model" else str(value) for name, value in settings.items())


def train_command(experiment: Experiment) -> str:
    """The command that trains an experiment with its settings, and keeps the same rows for the test."""
    words = ["earshot", "train", experiment.features, "--model", experiment.model, "--out", f"best-{experiment.model}"]
    for name, value in experiment.recipe.model_dump(exclude_defaults=True).items():
        flag = name.replace("_", "-")
        words += [f"--{'' if value else 'no-'}{flag}"] if isinstance(value, bool) else [f"--{flag}", str(value)]
    for name, value in experiment.options.items():
        words += ["--option", f"{name}={str(value).lower() if isinstance(value, bool) else value}"]
    words += ["--positive", ",".join(experiment.positive)] if experiment.positive else []
    words += ["--min-recordings", str(experiment.min_recordings)] if experiment.min_recordings > 1 else []
    if experiment.multi_label is not None:
        words.append("--multi-label" if experiment.multi_label else "--single-label")
    words += ["--split"] if experiment.split.by_split else []
    words += ["--pretrained", str(experiment.pretrained)] if experiment.pretrained else []
    return shlex.join(words)
