"""How the starter networks learn: clips, mixed crops, the two students, and the loss against the teacher. Knows nothing of files it leaves.

Distillation (Hinton et al. 2015, arXiv 1503.02531) in the patient manner of Beyer et al. 2022 (arXiv 2106.05237): teacher and student hear
the same mixed crops, made anew for each step. The student learns the teacher's 521 scores and its embedding, and the clips' own classes.
"""

import copy
import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy.signal
import torch
import torch.nn.functional as F
from numpy.random import Generator
from numpy.typing import NDArray
from rich.progress import track
from torch import Tensor, nn

from models.audio import AudioReader
from models.augment import Masks, add_noise, gain, spec_augment
from models.frontend import (
    PATCH_FRAMES,
    SAMPLE_RATE_HZ,
    VGGISH_OFFSET,
    YAMNET_OFFSET,
    FloatArray,
    hop_frames,
    log_mel,
    split_patches,
    with_offset,
)
from models.heads import VggishHead
from models.layout import EMBEDDING_SIZE
from models.normed import TrainableVGGish, TrainableYAMNet
from models.runtime import Network
from models.yamnet import CLASSES

# ESC-10's classes -> AudioSet's display names
ESC10 = {
    "chainsaw": "Chainsaw",
    "clock_tick": "Clock",
    "crackling_fire": "Fire",
    "crying_baby": "Baby cry, infant cry",
    "dog": "Dog",
    "helicopter": "Helicopter",
    "rain": "Rain",
    "rooster": "Chicken, rooster",
    "sea_waves": "Waves, surf",
    "sneezing": "Sneeze",
}
TEACHER_SIZE = 1024
RARE = -4.0  # the logit of a class at the start: most are not heard
CROP_SAMPLES = 15_600  # one patch
FASTEST = 1.2
BATCH = 64


@dataclass(frozen=True)
class Recipe:
    """How long and how fast to learn."""

    steps: int
    peak_lr: float
    weight_decay: float = 0.02
    ema_decay: float = 0.995
    bfloat16: bool = False


RECIPES: dict[str, Recipe] = {
    "yamnet": Recipe(steps=1100, peak_lr=2e-3),
    "vggish-slim": Recipe(steps=550, peak_lr=1e-3, ema_decay=0.99, bfloat16=True),
}


class StarterYAMNet(nn.Module):
    """Patches [P, 96, 64] -> logits [P, 521] and what is compared to the teacher's embedding [P, 1024]."""

    log_offset = YAMNET_OFFSET

    def __init__(self) -> None:
        super().__init__()
        self.network = TrainableYAMNet(CLASSES)
        nn.init.constant_(self.network.dense.bias, RARE)
        self.dropout = nn.Dropout(0.2)

    def forward(self, patches: Tensor) -> tuple[Tensor, Tensor]:
        embeddings = self.network.embed(patches)
        return self.network.logits(self.dropout(embeddings)), embeddings


class StarterVGGish(nn.Module):
    """Patches [P, 96, 64], log(mel + 0.01) -> logits [P, 521] and what is compared to the teacher's embedding [P, 1024]."""

    log_offset = VGGISH_OFFSET

    def __init__(self) -> None:
        super().__init__()
        self.network = TrainableVGGish()
        self.head = VggishHead(CLASSES, multi_label=True, hidden=256, dropout=0.2)
        nn.init.constant_(self.head.output.bias, RARE)
        self.match = nn.Linear(EMBEDDING_SIZE, TEACHER_SIZE)

    def forward(self, patches: Tensor) -> tuple[Tensor, Tensor]:
        embeddings = self.network(patches)
        return self.head.logits(embeddings), self.match(embeddings)


Student = StarterYAMNet | StarterVGGish
STUDENTS: dict[str, type[StarterYAMNet] | type[StarterVGGish]] = {
    "yamnet": StarterYAMNet,
    "vggish-slim": StarterVGGish,
}


@dataclass(frozen=True)
class Clips:
    """Waveforms [N, T] at 16 kHz, the AudioSet name of each, and its fold (0: in none)."""

    waveforms: FloatArray
    names: list[str]
    folds: NDArray[np.int64]

    def without(self, fold: int) -> "Clips":
        """All but one fold."""
        return self._of(np.flatnonzero(self.folds != fold))

    def only(self, fold: int) -> "Clips":
        """One fold."""
        return self._of(np.flatnonzero(self.folds == fold))

    def _of(self, rows: NDArray[np.int64]) -> "Clips":
        return Clips(self.waveforms[rows], [self.names[row] for row in rows], self.folds[rows])

    def __add__(self, other: "Clips") -> "Clips":
        return Clips(
            np.concatenate([self.waveforms, other.waveforms]),
            self.names + other.names,
            np.concatenate([self.folds, other.folds]),
        )


def load_clips(root: Path) -> Clips:
    """ESC-10 (or ESC-50: its other classes are left out), as downloaded."""
    with next(root.glob("meta/*.csv")).open(newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if row["category"] in ESC10]
    waveforms = []
    for row in track(rows, "reading clips"):
        waveform = np.concatenate(list(AudioReader(root / "audio" / row["filename"]).blocks()))
        waveforms.append(np.resize(np.pad(waveform, (0, 1)), 5 * SAMPLE_RATE_HZ))
    return Clips(
        np.stack(waveforms), [ESC10[row["category"]] for row in rows], np.array([int(row["fold"]) for row in rows])
    )


@dataclass(frozen=True)
class Batch:
    """Patches [N, 96, 64], the teacher's scores [N, 521] and embeddings [N, 1024], and the share of each clip class [N, 10]."""

    patches: Tensor
    scores: Tensor
    embeddings: Tensor
    shares: Tensor


class Mixer:
    """Makes batches of mixed crops: a crop, faster or slower, louder or fainter, often with another one behind it."""

    def __init__(
        self, clips: Clips, teacher: Network, class_names: list[str], log_offset: float, rng: Generator
    ) -> None:
        self.clips, self.teacher, self.rng, self.log_offset = clips, teacher, rng, log_offset
        self.columns = np.array([class_names.index(name) for name in clips.names])
        self.heard = [loud_starts(waveform) for waveform in clips.waveforms]
        esc10 = list(ESC10.values())
        self.classes = np.array([esc10.index(name) if name in esc10 else -1 for name in clips.names])
        self.recorded = np.flatnonzero(self.classes >= 0)

    def batch(self, size: int) -> Batch:
        """One batch; three of four crops are of recordings."""
        crops, hard = zip(*(self._mixed() for _ in range(size)), strict=True)
        frames = np.stack([log_mel(crop)[:PATCH_FRAMES] for crop in crops])
        scores, embeddings = self.teacher(frames)
        targets = scores.copy()
        shares = np.zeros((size, len(ESC10)), np.float32)
        for row, parts in enumerate(hard):
            for item, share in parts:
                targets[row, self.columns[item]] = max(targets[row, self.columns[item]], min(1.0, 2 * share))
                if self.classes[item] >= 0:
                    shares[row, self.classes[item]] += share
        seen = with_offset(np.stack([self._mask(patch) for patch in frames]), YAMNET_OFFSET, self.log_offset)
        return Batch(*map(torch.from_numpy, (seen, targets, embeddings, shares)))

    def _mask(self, patch: FloatArray) -> FloatArray:
        masks = Masks(band_masks=1, max_bands=10, frame_masks=1, max_frames=16)
        return spec_augment(patch, self.rng, masks) if self.rng.random() < 0.5 else patch

    def _mixed(self) -> tuple[FloatArray, list[tuple[int, float]]]:
        """A crop [15600] and which clips it holds, each with its share of the power."""
        item = self._choose()
        crop = self._crop(item)
        parts = [(item, 1.0)]
        if self.rng.random() < 0.5:
            other, snr_db = self._choose(), self.rng.uniform(-3, 20)
            behind = self._crop(other)
            if np.any(crop) and np.any(behind):
                crop = add_noise(crop, behind, snr_db)
                share = 1 / (1 + 10 ** (-snr_db / 10))
                parts = [(item, share), (other, 1 - share)]
        if self.rng.random() < 0.3:
            noise = self.rng.standard_normal(CROP_SAMPLES).astype(np.float32)
            crop = add_noise(crop, noise, self.rng.uniform(10, 40))
        return gain(crop, self.rng.uniform(-15, 6)), parts

    def _choose(self) -> int:
        if self.rng.random() < 0.75:
            return int(self.rng.choice(self.recorded))
        return int(self.rng.integers(len(self.clips.names)))

    def _crop(self, item: int) -> FloatArray:
        """One patch's samples, from where there is sound."""
        speed = self.rng.choice([1.0, self.rng.uniform(1 / FASTEST, FASTEST)])
        needed = int(CROP_SAMPLES * speed) + 1
        start = min(int(self.rng.choice(self.heard[item])), self.clips.waveforms.shape[1] - needed)
        crop = self.clips.waveforms[item, start : start + needed]
        return (
            np.asarray(scipy.signal.resample(crop, CROP_SAMPLES), np.float32) if speed != 1.0 else crop[:CROP_SAMPLES]
        )


def loud_starts(waveform: FloatArray) -> NDArray[np.int64]:
    """Where crops may begin, in samples: they hold at least a tenth of the amplitude of the loudest one."""
    starts = np.arange(0, len(waveform) - int(CROP_SAMPLES * FASTEST), 1600)
    level = np.array([np.sqrt(np.mean(waveform[start : start + CROP_SAMPLES] ** 2)) for start in starts])
    return np.asarray(starts[level >= 0.1 * level.max()])


def loss_of(logits: Tensor, embeddings: Tensor, batch: Batch, columns: list[int]) -> Tensor:
    """The teacher's scores (binary cross entropy), its embedding (squared error), and the clips' classes (cross entropy)."""
    scores = F.binary_cross_entropy_with_logits(logits, batch.scores, reduction="none").sum(1).mean()
    match = F.mse_loss(embeddings, batch.embeddings)
    recorded = batch.shares.sum(1)
    classes = -(batch.shares * F.log_softmax(logits[:, columns], 1)).sum(1)
    return 0.5 * scores + 2 * match + classes.sum() / recorded.sum().clamp(min=1)


def train(student: Student, mixer: Mixer, recipe: Recipe, columns: list[int], title: str) -> Student:
    """The student after all steps: the running mean of its weights."""
    student = student.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    average = copy.deepcopy(student)
    optimizer = torch.optim.AdamW(student.parameters(), recipe.peak_lr, weight_decay=recipe.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.peak_lr, recipe.steps, pct_start=0.1)
    for step in track(range(recipe.steps), title):
        batch = mixer.batch(BATCH)
        with torch.autocast("cpu", torch.bfloat16, enabled=recipe.bfloat16):
            logits, embeddings = student(batch.patches)
        loss = loss_of(logits.float(), embeddings.float(), batch, columns)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(student.parameters(), 5.0)
        optimizer.step()
        schedule.step()
        keep = min(recipe.ema_decay, (1 + step) / (10 + step))
        update_average(average, student, keep)
    return average.eval()


@torch.no_grad()
def update_average(average: nn.Module, student: nn.Module, keep: float) -> None:
    """Average = keep * average + (1 - keep) * student, of weights and of the norms' statistics."""
    for mean, value in zip(average.state_dict().values(), student.state_dict().values(), strict=True):
        if mean.dtype.is_floating_point:
            mean.lerp_(value, 1 - keep)


@torch.inference_mode()
def accuracy(student: nn.Module, clips: Clips, columns: list[int], log_offset: float) -> float:
    """Share of recordings whose class has the highest mean score among the ten."""
    names, right = list(ESC10.values()), 0
    for waveform, name in zip(clips.waveforms, clips.names, strict=True):
        patches = split_patches(log_mel(waveform), hop_frames(0.48), YAMNET_OFFSET)
        patches = with_offset(np.ascontiguousarray(patches), YAMNET_OFFSET, log_offset)
        logits, _ = student(torch.from_numpy(patches))
        right += names[int(torch.sigmoid(logits[:, columns]).mean(0).argmax())] == name
    return right / len(clips.names)
