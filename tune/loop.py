"""One training loop for every network: on one process or as one of many, on a CPU or a GPU, from the start or from a checkpoint.

Knows nothing of Ray: whoever runs several processes gives a Crew. Epochs are seeded one by one, so that a run that goes on from a
checkpoint sees the same batches as one that was never interrupted.
"""

import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed
from numpy.typing import NDArray
from torch import Tensor, nn

from models.errors import WeightsCorrupt
from tune.batches import ReadAhead, Stream
from tune.metrics import score
from tune.recipe import Loss, Recipe, check_finite

State = dict[str, Tensor]


@dataclass(frozen=True)
class EpochReport:
    """One epoch: losses, validation metrics, seconds of waiting for data and in all. Without validation its loss is the training's."""

    epoch: int
    train_loss: float
    validation_loss: float
    metrics: dict[str, float]
    wait_s: float
    step_s: float


@dataclass(frozen=True)
class Crew:
    """Which of how many processes this is, and what makes a network one that they train together."""

    rank: int = 0
    world: int = 1
    wrap: Callable[[nn.Module], nn.Module] = lambda network: network


ALONE = Crew()


@dataclass
class Progress:
    """What a checkpoint holds beside network and optimizer: the best weights so far and every epoch's report."""

    best: State = field(default_factory=dict)
    best_loss: float = float("inf")
    best_epoch: int = -1
    epochs: list[EpochReport] = field(default_factory=list)


@dataclass(frozen=True)
class Streams:
    """What is learned from, and what tells when to stop (None: nothing does)."""

    train: Stream
    validation: Stream | None
    names: tuple[str, ...]
    multi_label: bool


@dataclass
class Trainer:
    """Trains a network. `on_epoch` gets each report and may save a checkpoint through `save`."""

    network: nn.Module
    streams: Streams
    recipe: Recipe
    loss: Loss
    device: torch.device
    crew: Crew = ALONE
    progress: Progress = field(default_factory=Progress)

    def __post_init__(self) -> None:
        self.network.to(self.device)
        self.loss.to(self.device)
        self._together = self.crew.wrap(self.network)
        self._optimizer = self.recipe.build_optimizer(self.network)
        bf16 = self.recipe.precision == "bf16" or (self.recipe.precision == "auto" and self.device.type == "cuda")
        self._autocast = torch.autocast(self.device.type, torch.bfloat16, enabled=bf16)

    def fit(self, on_epoch: Callable[[EpochReport, "Trainer"], None]) -> Progress:
        """Trains to the last epoch, or until the validation loss has not fallen for `patience` epochs. Raises TrainingDiverged."""
        batches = self._open_epoch(len(self.progress.epochs))
        try:
            for epoch in range(len(self.progress.epochs), self.recipe.epochs):
                if self.streams.validation and epoch - self.progress.best_epoch > self.recipe.patience:
                    break
                loss, wait_s, step_s = self._learn(epoch, batches)
                batches = self._open_epoch(epoch + 1)  # the next batches come while this epoch is judged
                self._note(EpochReport(epoch, loss, *self._judge(epoch, loss), wait_s, step_s))
                on_epoch(self.progress.epochs[-1], self)
        finally:
            batches.close()
        self.network.load_state_dict(self.progress.best)
        return self.progress

    def _judge(self, epoch: int, train_loss: float) -> tuple[float, dict[str, float]]:
        """The validation loss and metrics; the training loss where nothing validates."""
        if self.streams.validation is None:
            return train_loss, {}
        logits, targets = predict(self.network, self.streams.validation, self.device)
        loss = float(self.loss(torch.from_numpy(logits).to(self.device), torch.from_numpy(targets).to(self.device)))
        check_finite(loss, epoch, self.recipe)
        multi_label = self.streams.multi_label
        found = score(targets > 0.5, to_scores(logits, multi_label), self.streams.names, multi_label=multi_label)
        return loss, found.headline()

    def _note(self, report: EpochReport) -> None:
        """Keeps the report, and the weights where they are the best so far (without validation: the last)."""
        self.progress.epochs.append(report)
        if self.streams.validation is None or report.validation_loss < self.progress.best_loss:
            state = self.network.state_dict()
            self.progress.best = {name: value.detach().cpu().clone() for name, value in state.items()}
            self.progress.best_loss, self.progress.best_epoch = report.validation_loss, report.epoch

    def _open_epoch(self, epoch: int) -> ReadAhead:
        return self.streams.train.shuffled(np.random.default_rng([self.recipe.seed, epoch]), self.recipe.augment)

    def _learn(self, epoch: int, batches: ReadAhead) -> tuple[float, float, float]:
        """One epoch: the mean loss of all workers, the seconds of waiting for batches, and all seconds."""
        began_s, wait_s = time.perf_counter(), 0.0
        losses: list[Tensor] = []
        self._together.train()
        torch.manual_seed(self.recipe.seed * 100_003 + epoch * 101 + self.crew.rank)
        while True:
            asked_s = time.perf_counter()
            batch = next(batches, None)
            wait_s += time.perf_counter() - asked_s
            if batch is None:
                break
            done = (epoch + len(losses) / self.streams.train.steps) / self.recipe.epochs
            for group in self._optimizer.param_groups:
                group["lr"] = self.recipe.learning_rate(done)
            losses.append(self._step(batch.features, batch.valid, batch.targets))
        loss = float(np.mean(_gathered(float(torch.stack(losses).mean()))))
        check_finite(loss, epoch, self.recipe)
        return loss, wait_s, time.perf_counter() - began_s

    def _step(self, features: NDArray[np.float32], valid: NDArray[np.int64], targets: NDArray[np.float32]) -> Tensor:
        inputs, lengths, wanted = (torch.from_numpy(array).to(self.device) for array in (features, valid, targets))
        with self._autocast:
            logits = self._together(inputs, lengths)
        loss: Tensor = self.loss(logits.float(), wanted)
        self._optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()
        return loss.detach()

    def save(self, path: Path) -> None:
        """Writes a checkpoint: all of it or nothing."""
        draft = path.with_suffix(".draft")
        progress = asdict(self.progress) | {"best": self.progress.best}
        torch.save(
            {"network": self.network.state_dict(), "optimizer": self._optimizer.state_dict(), "progress": progress},
            draft,
        )
        os.replace(draft, path)

    def load(self, path: Path) -> None:
        """Goes on from a checkpoint. Raises WeightsCorrupt for one that is damaged or of another network."""
        try:
            saved: dict[str, Any] = torch.load(path, map_location=self.device, weights_only=True)
            self.network.load_state_dict(saved["network"])
            self._optimizer.load_state_dict(saved["optimizer"])
            progress = saved["progress"]
            epochs = [EpochReport(**report) for report in progress.pop("epochs")]
            self.progress = Progress(**progress, epochs=epochs)
        except Exception as error:  # torch raises many kinds for a damaged file
            raise WeightsCorrupt(
                f"{path}: this checkpoint cannot be read ({type(error).__name__}): delete it to start this run again"
            ) from error


@torch.inference_mode()
def predict(
    network: nn.Module, stream: Stream, device: torch.device
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Logits [N, C] and targets [N, C] of every row of a stream; with several workers, of the rows of all of them."""
    network.eval()
    logits: list[NDArray[np.float32]] = []
    targets: list[NDArray[np.float32]] = []
    for batch in stream.in_order():
        inputs, valid = torch.from_numpy(batch.features).to(device), torch.from_numpy(batch.valid).to(device)
        logits.append(network(inputs, valid).float().cpu().numpy())
        targets.append(batch.targets)
    parts = _gathered((logits, targets))
    return np.concatenate([a for part in parts for a in part[0]]), np.concatenate(
        [a for part in parts for a in part[1]]
    )


def _gathered(own: Any) -> list[Any]:
    """What each worker has, the same list for all of them."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return [own]
    parts: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(parts, own)
    return parts


def to_scores(logits: NDArray[np.float32], multi_label: bool, temperature: float = 1.0) -> NDArray[np.float32]:
    """Logits [N, C] -> scores: sigmoids, or a softmax over the classes."""
    scaled = torch.from_numpy(logits / np.float32(temperature))
    return (torch.sigmoid(scaled) if multi_label else torch.softmax(scaled, dim=1)).numpy()
