"""How to learn: epochs, batches, optimizer, losses, augmentation of batches."""

import math
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.random import Generator
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from models.augment import mixup, spec_augment
from models.errors import EarshotError
from tune.batches import Batch

WARM_UP = 0.05  # of all steps
MAX_WEIGHT = 20.0  # how much more than others a rare class may count


class TrainingDiverged(EarshotError):
    """A loss that is NaN or infinite: nothing is learned from then on."""

    slug = "training-diverged"


class Recipe(BaseModel):
    """How to learn. The defaults suit small networks on some thousand rows."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    epochs: int = Field(50, ge=1)
    batch_size: int = Field(32, ge=1, description="of each worker")
    lr: float = Field(
        1e-3, gt=0, description="the highest; it rises over the first steps and falls to zero as a half cosine"
    )
    weight_decay: float = Field(1e-4, ge=0)
    optimizer: Literal["adam", "adamw", "rmsprop", "adagrad", "sgd"] = "adamw"
    balance: bool = Field(True, description="rare classes count more in the loss, up to 20 times")
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    mixup_alpha: float = Field(0.0, ge=0)
    spec_augment: bool = False
    patience: int = Field(10, ge=1, description="epochs without a lower validation loss until training ends")
    precision: Literal["auto", "fp32", "bf16"] = Field("auto", description="auto: bf16 on a GPU, fp32 on a CPU")
    seed: int = 0

    def learning_rate(self, done: float) -> float:
        """The rate when a share of all steps is done, 0..1."""
        warm = min(1.0, (done + 1e-9) / WARM_UP)
        return self.lr * warm * (0.5 + 0.5 * math.cos(math.pi * done))

    def build_optimizer(self, network: nn.Module) -> torch.optim.Optimizer:
        """The optimizer over what is to be trained."""
        trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
        if self.optimizer == "sgd":
            return torch.optim.SGD(trained, self.lr, momentum=0.9, weight_decay=self.weight_decay)
        kinds: dict[str, type[torch.optim.Optimizer]] = {
            "adam": torch.optim.Adam,
            "adamw": torch.optim.AdamW,
            "rmsprop": torch.optim.RMSprop,
            "adagrad": torch.optim.Adagrad,
        }
        return kinds[self.optimizer](trained, lr=self.lr, weight_decay=self.weight_decay)  # type: ignore[call-arg]

    def augment(self, batch: Batch, rng: Generator) -> Batch:
        """SpecAugment and mixup, where they are wanted."""
        features, targets, valid = batch.features, batch.targets, batch.valid
        if self.spec_augment:
            features = spec_augment(features, rng)
        if self.mixup_alpha:
            other = rng.permutation(len(features))
            features, targets = mixup(features, targets, features[other], targets[other], rng, self.mixup_alpha)
            valid = np.maximum(valid, valid[other])
        return Batch(features, valid, targets, batch.rows)


class Loss(nn.Module):
    """Logits [N, C] and targets [N, C] -> the mean loss: cross entropy, or binary cross entropy where a row may have any number of classes.

    `counts` [C] and `rows`: how many training rows have each class, and how many there are; they balance the classes where wanted.
    """

    weight: Tensor | None

    def __init__(self, multi_label: bool, recipe: Recipe, counts: NDArray[np.int64], rows: int) -> None:
        super().__init__()
        self.multi_label, self.smoothing = multi_label, recipe.label_smoothing
        present = np.maximum(counts, 1)
        ratio = (rows - counts) / present if multi_label else rows / (len(counts) * present)
        weight = (
            torch.from_numpy(np.clip(ratio, 1 / MAX_WEIGHT, MAX_WEIGHT).astype(np.float32)) if recipe.balance else None
        )
        self.register_buffer("weight", weight)

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The loss of one batch."""
        if self.multi_label:
            smoothed = targets * (1 - self.smoothing) + self.smoothing / 2
            return F.binary_cross_entropy_with_logits(logits, smoothed, pos_weight=self.weight)
        return F.cross_entropy(logits, targets, weight=self.weight, label_smoothing=self.smoothing)


def check_finite(loss: float, epoch: int, recipe: Recipe) -> None:
    """Raises TrainingDiverged, with what to do about it."""
    if not math.isfinite(loss):
        raise TrainingDiverged(
            f"the loss became {loss} in epoch {epoch + 1} (learning rate {recipe.lr:g}): use a lower --lr, "
            f"and see that the features are finite"
        )
