"""The trials of a sweep: what each one will do, and what came of it. One JSON file for each that has ended, in trials/ of its folder."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from models.errors import BadOption, WrongTable
from tune.experiment import Experiment
from tune.loop import EpochReport
from tune.metrics import HEADLINE
from tune.recipe import Recipe
from tune.spaces import SEED, Drawn, load_space

TRIALS = "trials"
LOSS = "validation_loss"
LESS_IS_BETTER = ("ece", LOSS)
State = Literal["running", "finished", "stopped", "failed"]


@dataclass(frozen=True)
class Share:
    """What one trial holds: workers, with a CPU each, and GPUs of all of them together."""

    workers: int = 1
    gpus: float = 0.0


class Sweep(BaseModel):
    """What is searched. `experiment`: what all trials share; what its recipe sets by name comes before the space."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    experiment: Experiment
    models: tuple[str, ...]
    space: str = SEED
    trials: int = Field(16, ge=0, description="0: every combination of the space's choices")
    metric: str = "f1"
    scheduler: Literal["asha", "none"] = "asha"
    seed: int = 0

    @property
    def sign(self) -> int:
        """What makes more of the metric better."""
        return -1 if self.metric in LESS_IS_BETTER else 1


class Trial(BaseModel):
    """One experiment of a sweep; `settings` are those that the space gave it."""

    model_config = ConfigDict(frozen=True)

    number: int
    experiment: Experiment
    settings: Drawn

    @property
    def flat(self) -> dict[str, Any]:
        """The model and its settings by name."""
        return {"model": self.experiment.model, **self.settings["recipe"], **self.settings["options"]}


class Record(BaseModel):
    """What is known of a trial. `stopped`: others were better at the same epoch. Seconds are those of its CPUs and GPUs together."""

    number: int
    state: State = "running"
    reason: str | None = None
    epochs: list[EpochReport] = []
    cpu_s: float = 0.0
    gpu_s: float = 0.0

    @property
    def kept(self) -> EpochReport | None:
        """The epoch whose weights a training keeps: the one with the lowest validation loss."""
        return min(self.epochs, key=lambda report: report.validation_loss, default=None)

    def value(self, metric: str) -> float | None:
        """The metric at the epoch that is kept; None where there is none, or it is not defined."""
        return measure(self.kept, metric) if self.kept else None


def measure(report: EpochReport, metric: str) -> float | None:
    """A metric of an epoch's validation rows."""
    return report.validation_loss if metric == LOSS else report.metrics.get(metric)


def plan_trials(sweep: Sweep) -> list[Trial]:
    """Every trial, the models in turn. A sweep with more trials begins with the same ones. Raises BadOption, WrongPath."""
    if sweep.metric not in (*HEADLINE, LOSS):
        raise BadOption(f"no metric {sweep.metric!r}; there are: {', '.join((*HEADLINE, LOSS))}")
    spaces = {model: load_space(sweep.space, model) for model in sweep.models}
    if not sweep.trials:
        drawn = [(model, settings) for model, space in spaces.items() for settings in space.grid()]
    else:
        models = [sweep.models[number % len(sweep.models)] for number in range(sweep.trials)]
        drawn = [
            (model, spaces[model].draw(np.random.default_rng([sweep.seed, number])))
            for number, model in enumerate(models)
        ]
    return [_plan_trial(number, sweep.experiment, *pair) for number, pair in enumerate(drawn, start=1)]


def _plan_trial(number: int, shared: Experiment, model: str, settings: Drawn) -> Trial:
    given = shared.recipe.model_dump(exclude_unset=True)
    recipe = Recipe(**settings["recipe"] | given)
    changes = {"model": model, "options": settings["options"], "recipe": recipe}
    kept = {name: value for name, value in settings["recipe"].items() if name not in given}
    return Trial(number=number, experiment=shared.model_copy(update=changes), settings=settings | {"recipe": kept})


def rank(records: Mapping[int, Record], sweep: Sweep) -> list[Record]:
    """The records with a value, the best first."""
    valued = [record for record in records.values() if record.value(sweep.metric) is not None]
    return sorted(valued, key=lambda record: -sweep.sign * (record.value(sweep.metric) or 0.0))


def save_record(folder: Path, record: Record) -> None:
    """Writes what came of a trial: all of it or nothing."""
    path = _path(folder, record.number)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".draft")
    draft.write_text(record.model_dump_json(indent=2) + "\n")
    os.replace(draft, path)


def load_records(folder: Path, trials: Sequence[Trial]) -> dict[int, Record]:
    """What came of those trials that have ended, by number. Raises WrongTable for a file that is damaged."""
    paths = [path for trial in trials if (path := _path(folder, trial.number)).exists()]
    records = [_load_record(path) for path in paths]
    return {record.number: record for record in records}


def _load_record(path: Path) -> Record:
    try:
        return Record.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise WrongTable(f"{path}: this result cannot be read: delete the file to run its trial again") from error


def _path(folder: Path, number: int) -> Path:
    return folder / TRIALS / f"{number:04d}.json"
