"""Shapes of the HTTP API beyond models.answer: the documents in and out, and the builder's arguments."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from models.answer import ModelName
from models.runtime import Device


class ClassificationScore(BaseModel):
    """One label in the shape of Hugging Face's audio-classification task."""

    label: str
    score: float


class ClassificationParameters(BaseModel):
    """Parameters of Hugging Face's task. AudioSet's scores are independent: a softmax over them would be no probability."""

    model_config = ConfigDict(extra="forbid")

    top_k: Annotated[int, Field(ge=1, le=1000)] | None = None
    function_to_apply: Literal["sigmoid", "none"] | None = None


class EmbeddingsAnswer(BaseModel):
    """Embeddings per patch: embeddings[patch][dimension], with the patches' start and length in seconds."""

    request_id: str
    duration_s: float
    model: ModelName
    start_s: list[float]
    length_s: float
    embeddings: list[list[float]]
    warnings: list[str]


class ServedModel(BaseModel):
    """One model that the service holds."""

    name: str
    version: str
    role: Literal["tagger", "second-opinion"]
    labels: list[str]
    thresholds: list[float] | None = Field(description="per label, for events where the caller gives none")
    architecture: str | None
    weights_sha256: str
    licence: str
    accuracy: str | None
    metrics: dict[str, float]
    agreement: dict[str, dict[str, float]] = Field(description="per export: how it agrees with torch on real clips")
    starter: bool = Field(description="a stand-in for weights that cannot be had: it knows few sounds, for trying out")


class ModelsAnswer(BaseModel):
    """What is served."""

    models: list[ServedModel]


@dataclass(frozen=True)
class Pace:
    """How fast a deployment follows its load.

    Each replica tells its backlog every `report_every_s`; what decides is the mean over `look_back_s`, 10 times a second;
    a replica is given up when it was not wanted for `shrink_after_s`.
    """

    report_every_s: float
    look_back_s: float
    shrink_after_s: float


PaceName = Literal["demo", "production"]
PACES: dict[PaceName, Pace] = {"demo": Pace(0.1, 0.5, 5.0), "production": Pace(0.2, 1.0, 60.0)}


class StageScaling(BaseModel):
    """How one deployment scales: a fixed number of replicas, or between two bounds on its own backlog.

    serve/autoscaling.py has the formula, serve/earshot.yaml explains the settings.
    """

    model_config = ConfigDict(extra="forbid")

    # How many replicas.
    min_replicas: int = Field(1, ge=0)
    max_replicas: int = Field(4, ge=1)
    replicas: int | None = Field(None, ge=1, description="a fixed number instead of scaling")

    # What a replica may be burdened with before there are more, and how fast that happens.
    policy: Literal["queued_seconds", "ongoing_requests"] = "queued_seconds"
    full_s: float = Field(50, gt=0, description="seconds of audio that one replica may hold, queued and at work")
    target_ongoing_requests: float = Field(4, gt=0, description="per replica, where no seconds are known")
    pace: PaceName = "production"

    # What one replica takes.
    max_ongoing_requests: int = Field(64, ge=1)
    max_queued_requests: int = Field(128, ge=-1)
    num_cpus: float = Field(0.5, ge=0, description="cores that Ray reserves; four stages fit a laptop of two")
    num_gpus: float = Field(0, ge=0)


class ServiceArgs(BaseModel):
    """Arguments of serve.app:build. Paths are as the replicas see them."""

    model_config = ConfigDict(extra="forbid")

    # What to serve.
    weights: Path | None = Field(None, description="a model's folder, or one with YAMNet's files; looked for when None")
    weights_folder: str | Path | None = Field(None, description="a folder, or the address of a store: s3://...")
    head: Path | None = None
    cache: Path | None = None
    download: bool = True
    device: Device = "auto"
    second_opinion_rate: float = Field(0.05, ge=0, le=1)
    unsure_below: float = Field(0.5, ge=0, le=1)

    # How the stages are placed and scaled.
    placement: Literal["fused", "separate"] = "separate"
    api: StageScaling = StageScaling()
    spectrogram: StageScaling = StageScaling()
    yamnet: StageScaling = StageScaling()
    vggish_head: StageScaling = StageScaling()

    # What the API lets through.
    home: str = Field("/docs", description="where / leads")
    api_keys: list[Annotated[str, Field(min_length=1)]] = []
    cors_origins: list[str] = []
    access_log: Path | None = None
    max_body_bytes: int = 64 << 20
    max_duration_s: float = 600
    max_in_flight: int = 64
    deadline_s: float = 30
    body_timeout_s: float = 20
