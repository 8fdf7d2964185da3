"""One experiment: features, a network, a recipe, a division of the rows -> a trained network and what is known of it."""

import hashlib
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from models.architectures import build_network
from models.errors import BadOption
from tune.batches import Stream
from tune.calibration import fit_temperature, fit_thresholds
from tune.data import FeatureSet, Labels, Target, choose_target, open_feature_set
from tune.loop import ALONE, Crew, EpochReport, State, Streams, Trainer, predict, to_scores
from tune.metrics import Metrics, score
from tune.recipe import Loss, Recipe
from tune.split import TEST, TRAIN, VALIDATION, Roles, Split, assign_roles


class Experiment(BaseModel):
    """Everything that a result depends on, beside the features' content."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    features: str
    model: str
    options: Mapping[str, Any] = {}
    recipe: Recipe = Recipe()
    split: Split = Split()
    positive: tuple[str, ...] = ()
    multi_label: bool | None = None
    min_recordings: int = 1
    pretrained: Path | None = None


@dataclass(frozen=True)
class Judged:
    """Rows that were judged: targets [N, C], scores [N, C], and what they come to."""

    targets: NDArray[np.bool_]
    scores: NDArray[np.float32]
    metrics: Metrics


@dataclass(frozen=True)
class Outcome:
    """A trained network's weights, how its logits become decisions, and how well it did on rows that did not train it."""

    target: Target
    weights: State
    temperature: float
    thresholds: list[float] | None
    epochs: list[EpochReport]
    validation: Judged | None
    test: Judged | None
    seconds: float

    @property
    def metrics(self) -> dict[str, float]:
        """The validation rows' metrics, of the weights that are kept; the training loss where there are none."""
        return self.validation.metrics.headline() if self.validation else {"train_loss": self.epochs[-1].train_loss}

    @property
    def wait_share(self) -> float:
        """The share of training time that was spent waiting for data."""
        return sum(report.wait_s for report in self.epochs) / max(sum(report.step_s for report in self.epochs), 1e-9)


class OnEpoch(Protocol):
    """Is told of every epoch, and may save a checkpoint."""

    def __call__(self, report: EpochReport, trainer: Trainer) -> None: ...


def ignore(report: EpochReport, trainer: Trainer) -> None:
    """An OnEpoch that does nothing."""


def run_experiment(
    experiment: Experiment,
    on_epoch: OnEpoch = ignore,
    *,
    device: str = "auto",
    checkpoint: Path | None = None,
    crew: Crew = ALONE,
) -> Outcome:
    """Trains, from a checkpoint where one is given, calibrates on the validation rows and judges on the test rows.

    Raises BadOption, WrongTable, TrainingDiverged, WeightsCorrupt.
    """
    began_s = time.perf_counter()
    torch.set_num_threads(1)  # a worker is a core
    prepared = prepare(experiment)
    trainer = prepared.trainer(choose_device(device), crew)
    if checkpoint:
        trainer.load(checkpoint)
    progress = trainer.fit(on_epoch)
    return prepared.judge(trainer, progress.best, time.perf_counter() - began_s)


def choose_device(device: str) -> torch.device:
    """Auto is a GPU where torch sees one. Raises BadOption for one that is not there."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise BadOption(f"device {device!r}: torch sees no GPU here; use cpu")
    return torch.device(device)


@dataclass(frozen=True)
class Prepared:
    """An experiment whose input was looked at and found good."""

    experiment: Experiment
    features: FeatureSet
    target: Target
    labels: Labels
    roles: Roles

    def stream(self, role: int, crew: Crew) -> Stream | None:
        """The rows of one role in batches; None where there are none."""
        chosen = self.roles == role
        batch_size = self.experiment.recipe.batch_size
        return Stream(self.features, self.labels, chosen, batch_size, crew.rank, crew.world) if chosen.any() else None

    def build_network(self) -> torch.nn.Module:
        """The network with its first weights. Raises BadOption."""
        one = self.experiment
        torch.manual_seed(one.recipe.seed)
        return build_network(
            one.model, self.features.made.kind, self.features.shape, len(self.target.names), one.options, one.pretrained
        )

    def trainer(self, device: torch.device, crew: Crew) -> Trainer:
        """Everything that training needs."""
        rows = np.flatnonzero(self.roles == TRAIN)
        counts = self.labels.of(rows).sum(axis=0)
        train = self.stream(TRAIN, crew)
        assert train is not None
        loss = Loss(self.target.multi_label, self.experiment.recipe, counts, len(rows))
        streams = Streams(train, self.stream(VALIDATION, crew), self.target.names, self.target.multi_label)
        return Trainer(self.build_network(), streams, self.experiment.recipe, loss, device, crew)

    def judge(self, trainer: Trainer, weights: State, seconds: float) -> Outcome:
        """Fits temperature and thresholds on the validation rows, and judges validation and test rows with them."""
        multi_label = self.target.multi_label
        seen = self._predict(trainer, VALIDATION)
        temperature, thresholds = 1.0, None
        if seen:
            temperature = fit_temperature(seen[0], seen[1], multi_label)
            thresholds = fit_thresholds(seen[1], to_scores(seen[0], multi_label, temperature))
        test = self._predict(trainer, TEST)
        return Outcome(
            target=self.target,
            weights=weights,
            temperature=temperature,
            thresholds=thresholds,
            epochs=trainer.progress.epochs,
            validation=self._judged(seen, temperature, thresholds),
            test=self._judged(test, temperature, thresholds),
            seconds=seconds,
        )

    def _predict(self, trainer: Trainer, role: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]] | None:
        stream = self.stream(role, trainer.crew)
        if stream is None:
            return None
        logits, targets = predict(trainer.network, stream, trainer.device)
        return logits, targets > 0.5

    def _judged(
        self,
        seen: tuple[NDArray[np.float32], NDArray[np.bool_]] | None,
        temperature: float,
        thresholds: list[float] | None,
    ) -> Judged | None:
        if seen is None:
            return None
        logits, targets = seen
        scores = to_scores(logits, self.target.multi_label, temperature)
        found = score(targets, scores, self.target.names, multi_label=self.target.multi_label, thresholds=thresholds)
        return Judged(targets, scores, found)


def prepare(experiment: Experiment) -> Prepared:
    """Opens the features and divides the rows. Raises BadOption, WrongTable, WrongPath, OutputMismatch before anything costs time."""
    features = open_feature_set(experiment.features)
    target = choose_target(features, experiment.positive, experiment.multi_label, experiment.min_recordings)
    roles = assign_roles(features, target, experiment.split)
    prepared = Prepared(experiment, features, target, Labels(features, target), roles)
    prepared.build_network()
    return prepared


def fingerprint(features: FeatureSet) -> str:
    """SHA-256 over how the features were made, and every row's item, labels, fold and split, in any order of files."""
    columns = [features.index[name].to_pylist() for name in ("item", "start_s", "labels", "fold", "split")]
    digest = hashlib.sha256(features.made.model_dump_json(exclude={"program"}).encode())
    for row in sorted(map(repr, zip(*columns, strict=True))):
        digest.update(row.encode())
    return digest.hexdigest()
