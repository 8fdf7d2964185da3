"""Trains a model from a features folder into a run folder, by folds or once; what is done is not done again.

config.json       the experiment, the program's version and git revision, the fingerprint of the data
fold1/ ... final/ one training each: checkpoint.pt while it runs; outcome.json, weights.safetensors, scores.npz when it is done
tensorboard/      losses and metrics of every epoch
card.json ...     the model itself (models/bundle.py), with README.md and pictures: tune/publish.py
"""

import json
import shutil
import subprocess
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from models.errors import BadOption, OutputMismatch, WrongTable
from tune.data import open_feature_set
from tune.experiment import Experiment, Outcome, fingerprint, prepare, run_experiment
from tune.loop import EpochReport, Trainer
from tune.outcomes import load_outcome, save_outcome
from tune.split import Split

CONFIG = "config.json"
CHECKPOINT = "checkpoint.pt"
FINAL = "final"

RunOne = Callable[[Experiment, Path, Callable[[EpochReport], None]], Outcome]


@dataclass(frozen=True)
class Run:
    """One training of a run folder."""

    name: str
    experiment: Experiment


def plan_runs(experiment: Experiment, folds: bool) -> list[Run]:
    """By folds: one for each, and the final one, which learns from all of them; else the final one alone. Raises BadOption."""
    if not folds:
        runs = [Run(FINAL, experiment)]
    else:
        names = open_feature_set(experiment.features).folds
        if not names:
            raise BadOption("--folds: this data set has no folds; leave it out, or use --split")
        runs = [Run(f"fold{name}", _with_split(experiment, test_fold=name)) for name in names]
        runs.append(Run(FINAL, _with_split(experiment, test_share=0.0)))
    for run in runs:
        prepare(run.experiment)  # so that what cannot be trained or judged is refused before anything trains
    return runs


def _with_split(experiment: Experiment, **changes: Any) -> Experiment:
    split = Split.model_validate(experiment.split.model_dump() | changes)
    return experiment.model_copy(update={"split": split})


def open_run_folder(out: Path, experiment: Experiment, folds: bool, overwrite: bool) -> dict[str, Any]:
    """Writes config.json, or checks that the one there says the same. Raises OutputMismatch naming the differences."""
    config = {
        "experiment": experiment.model_dump(mode="json"),
        "folds": folds,
        "data": fingerprint(open_feature_set(experiment.features)),
        "program": version("earshot"),
        "revision": git_revision(),
    }
    if overwrite and (out / CONFIG).exists():
        shutil.rmtree(out)
    if not (out / CONFIG).exists():
        if out.exists() and any(out.iterdir()):
            raise OutputMismatch(f"{out} holds files, but not of a training: name an empty or a new folder")
        out.mkdir(parents=True, exist_ok=True)
        (out / CONFIG).write_text(json.dumps(config, indent=2) + "\n")
        return config
    there = _read_config(out / CONFIG)
    if differences := list(_differences(there, config)):
        raise OutputMismatch(
            f"{out} was begun otherwise ({'; '.join(differences)}): name another folder, or say --overwrite"
        )
    return there


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config: dict[str, Any] = json.loads(path.read_text())
    except ValueError as error:
        raise WrongTable(f"{path}: not JSON ({error}): name another folder, or say --overwrite") from error
    return config


def _differences(there: Any, wanted: Any, name: str = "") -> list[str]:
    """Each field of two configurations that differs; program and revision may."""
    if isinstance(there, dict) and isinstance(wanted, dict):
        names = sorted(there.keys() | wanted.keys() - {"program", "revision"})
        parts = [
            _differences(there.get(key), wanted.get(key), f"{name}.{key}".lstrip("."))
            for key in names
            if key not in ("program", "revision")
        ]
        return [line for part in parts for line in part]
    return [] if there == wanted else [f"{name}: {there}, not {wanted}"]


def git_revision() -> str | None:
    """The checkout's commit, with '+' where files were changed since; None where there is no git."""
    checkout = Path(__file__).resolve().parent.parent
    try:
        commands = (["git", "rev-parse", "HEAD"], ["git", "status", "--porcelain", "--untracked-files=no"])
        revision, changed = (
            subprocess.run(command, cwd=checkout, capture_output=True, text=True, check=True).stdout.strip()  # noqa: S603
            for command in commands
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return revision + ("+" if changed else "")


def run_here(experiment: Experiment, folder: Path, on_epoch: Callable[[EpochReport], None]) -> Outcome:
    """A RunOne in this process, from the checkpoint in the folder where there is one."""
    checkpoint = folder / CHECKPOINT

    def after_epoch(report: EpochReport, trainer: Trainer) -> None:
        trainer.save(checkpoint)
        on_epoch(report)

    return run_experiment(experiment, after_epoch, checkpoint=checkpoint if checkpoint.exists() else None)


def train_all(
    runs: list[Run],
    out: Path,
    run_one: RunOne,
    watching: Callable[[Run], AbstractContextManager[Callable[[EpochReport], None]]] = lambda _: nullcontext(
        lambda _: None
    ),
) -> dict[str, Outcome]:
    """Each run's outcome; those that are done are read. `watching` gives what is told of a run's epochs."""
    outcomes = {}
    for run in runs:
        folder = out / run.name
        if (done := load_outcome(folder)) is None:
            folder.mkdir(parents=True, exist_ok=True)
            with watching(run) as on_epoch:
                done = run_one(run.experiment, folder, on_epoch)
            save_outcome(folder, done)
            (folder / CHECKPOINT).unlink(missing_ok=True)
        outcomes[run.name] = done
    return outcomes
