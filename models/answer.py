"""What Earshot says of one sound, over HTTP and on the command line alike: the answer's shapes, and how scores become one.

AudioSet scores are independent sigmoids: they do not sum to one, and are not calibrated probabilities.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from models.bundle import Bundle, Label
from models.events import Run, find_runs, rank_classes
from models.frontend import FloatArray

Rank = Literal["mean", "peak"]
OpinionMode = Literal["auto", "always", "never"]
Why = Literal["sampled", "unsure", "requested", "not_needed", "declined", "unavailable"]

TOP_K = 5
THRESHOLD = 0.3  # where neither the caller nor the model has one
NOT_HEARD = -1.0  # below every score and every threshold
MAX_TOP_K = 1000
MIN_HOP_S, MAX_HOP_S = 0.05, 10.0


class Options(BaseModel):
    """What the caller may choose."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    top_k: Annotated[int, Field(ge=1, le=MAX_TOP_K, description="how many labels")] = TOP_K
    threshold: Annotated[
        float | None,
        Field(
            ge=0,
            le=1,
            description=f"events are runs of patches that score at or above it; each label's own by default, or {THRESHOLD:g}",
        ),
    ] = None
    rank: Annotated[Rank, Field(description="order labels by their mean over patches or by their peak")] = "mean"
    hop_s: Annotated[
        float | None,
        Field(ge=MIN_HOP_S, le=MAX_HOP_S, description="seconds between patches; the model's own by default"),
    ] = None
    second_opinion: Annotated[OpinionMode, Field(description="when to ask the second network")] = "auto"
    timeline: Annotated[bool, Field(description="add the scores per patch")] = False


class LabelScore(BaseModel):
    """One label of a clip: `score` is the mean over its patches, `peak` the maximum."""

    label: str
    mid: str
    score: float
    peak: float


class Event(BaseModel):
    """A run of patches at or above the threshold, in seconds; `score` is the maximum within."""

    label: str
    mid: str
    start_s: float
    end_s: float
    score: float


class ModelName(BaseModel):
    """Which network answered."""

    name: str
    version: str
    weights_sha256: str


class SecondOpinion(BaseModel):
    """What the second network says, whether and why it was asked."""

    asked: bool
    why: Why
    model: str | None = None
    labels: list[LabelScore] = []
    agrees: bool | None = Field(None, description="is its best label among the first network's labels or events?")


class Timeline(BaseModel):
    """Scores per patch, of the labels that the answer names: scores[patch][label]."""

    labels: list[str]
    start_s: list[float]
    length_s: float
    scores: list[list[float]]


class Answer(BaseModel):
    """The full answer to one sound."""

    request_id: str
    duration_s: float
    model: ModelName
    labels: list[LabelScore]
    events: list[Event]
    second_opinion: SecondOpinion
    warnings: list[str] = []
    timeline: Timeline | None = None


@dataclass(frozen=True)
class Scored:
    """One network's scores [P, C] of one sound, and the hop between the patches in seconds."""

    scores: FloatArray
    hop_s: float


def model_name(bundle: Bundle) -> ModelName:
    """The part of the card that every answer carries."""
    return ModelName(name=bundle.card.name, version=bundle.card.version, weights_sha256=bundle.card.weights_sha256)


def list_labels(scores: FloatArray, labels: tuple[Label, ...], options: Options) -> list[LabelScore]:
    """Scores [P, C] -> the best `top_k` labels, best first."""
    mean, peak = scores.mean(axis=0), scores.max(axis=0)
    return [
        LabelScore(label=labels[c].name, mid=labels[c].mid, score=_rounded(mean[c]), peak=_rounded(peak[c]))
        for c in rank_classes(mean, peak, options.rank)[: options.top_k]
    ]


def _event(run: Run, bundle: Bundle, hop_s: float, duration_s: float) -> Event:
    label = bundle.labels[run.class_index]
    start_s = min(run.first * hop_s, duration_s)
    end_s = min(run.last * hop_s + bundle.card.front_end.patch_s, duration_s)
    return Event(
        label=label.name, mid=label.mid, start_s=round(start_s, 3), end_s=round(end_s, 3), score=_rounded(run.score)
    )


def list_events(scored: Scored, bundle: Bundle, threshold: float | None, duration_s: float) -> list[Event]:
    """Scores [P, C] -> events in order of time. Without a threshold each label's own counts, where the model has them."""
    own = bundle.card.thresholds or THRESHOLD
    thresholds = np.asarray(own if threshold is None else threshold, np.float32)
    heard = np.where(scored.scores >= thresholds, scored.scores, np.float32(NOT_HEARD))
    return [_event(run, bundle, scored.hop_s, duration_s) for run in find_runs(heard, 0.0)]


def _timeline(scored: Scored, bundle: Bundle, named: set[str]) -> Timeline:
    labels, peak = bundle.labels, scored.scores.max(axis=0)
    columns = sorted((c for c, label in enumerate(labels) if label.name in named), key=lambda c: -peak[c])
    return Timeline(
        labels=[labels[c].name for c in columns],
        start_s=[round(patch * scored.hop_s, 3) for patch in range(len(scored.scores))],
        length_s=bundle.card.front_end.patch_s,
        scores=np.round(scored.scores[:, columns].astype(np.float64), 6).tolist(),
    )


def compose_answer(
    request_id: str,
    duration_s: float,
    bundle: Bundle,
    scored: Scored,
    options: Options,
    warnings: list[str] | tuple[str, ...] = (),
) -> Answer:
    """One network's scores -> the answer, without a second opinion (the caller adds it)."""
    labels = list_labels(scored.scores, bundle.labels, options)
    events = list_events(scored, bundle, options.threshold, duration_s)
    named = {label.label for label in labels} | {event.label for event in events}
    return Answer(
        request_id=request_id,
        duration_s=round(duration_s, 3),
        model=model_name(bundle),
        labels=labels,
        events=events,
        second_opinion=SecondOpinion(asked=False, why="not_needed"),
        warnings=list(warnings),
        timeline=_timeline(scored, bundle, named) if options.timeline else None,
    )


def agrees(opinion: list[LabelScore], answer: Answer) -> bool:
    """Is the second network's best label one that the first names too?"""
    named = {label.label for label in answer.labels} | {event.label for event in answer.events}
    return bool(opinion) and opinion[0].label in named


def _rounded(score: np.floating) -> float:
    return round(float(score), 6)
