"""A bundle: the folder that holds one servable model. card.json says what it is and pins every file's SHA-256.

    card.json   labels.csv   int8.onnx and/or float.onnx

A graph takes "patches" [P, frames, 64] float32 log-mel (96 frames, unless the card says more) and gives "scores" [P, C] and "embeddings"
[P, D]. Training writes bundles, the runtime, the service and the exporter read them. Knows nothing of networks, Ray or HTTP.
"""

import csv
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from models.errors import WeightsCorrupt, WeightsMissing
from models.frontend import HOP_SAMPLES, PATCH_FRAMES, PATCH_HOP_S, SAMPLE_RATE_HZ, YAMNET_OFFSET

CARD = "card.json"
LABELS = "labels.csv"
Precision = Literal["int8", "float"]
Takes = Literal[
    "patches", "features"
]  # features: rows of a data set's features, which only `earshot` itself can make; not servable


class FrontEnd(BaseModel):
    """What the graph expects of its patches: the offset in log(mel + offset), the hop between patches in seconds, a patch's frames."""

    model_config = ConfigDict(frozen=True)

    log_offset: float = YAMNET_OFFSET
    hop_s: float = Field(PATCH_HOP_S, gt=0)
    frames: int = Field(
        PATCH_FRAMES, ge=1, description="a patch's length: 96; more where a network hears longer windows"
    )

    @property
    def patch_s(self) -> float:
        """A patch's length in seconds."""
        return self.frames * HOP_SAMPLES / SAMPLE_RATE_HZ


class Card(BaseModel):
    """card.json: what a model is, where it comes from, what is known of it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    version: str
    front_end: FrontEnd = FrontEnd()
    graphs: dict[Precision, str]
    weights_sha256: str = Field(description="SHA-256 of the file that the weights come from")
    files_sha256: dict[str, str] = Field(description="SHA-256 of each file in the bundle")
    licence: str = "unknown"
    source: str = ""
    accuracy: str | None = Field(None, description="what is known of its accuracy, in words, with the data set")
    starter: bool = Field(False, description="a stand-in for weights that cannot be had: the service says so plainly")

    # What training adds.
    takes: Takes = "patches"
    architecture: str | None = None
    options: dict[str, Any] = Field({}, description="the architecture's options")
    multi_label: bool = True
    temperature: float = Field(1.0, gt=0, description="already in the graph: its logits are divided by it")
    thresholds: list[float] | None = Field(None, description="per label: at or above it, the label is heard")
    embedder_sha256: str | None = Field(None, description="SHA-256 of the weights of the network under a head")
    metrics: dict[str, float] = Field({}, description="on recordings that had no part in training")
    agreement: dict[str, dict[str, float]] = Field({}, description="per export: how it agrees with torch on real clips")


@dataclass(frozen=True)
class Label:
    """One class: its display name and, where it is one of AudioSet's, its mid."""

    name: str
    mid: str


@dataclass(frozen=True)
class Bundle:
    """A bundle whose files are all there, with the hashes its card pins."""

    path: Path
    card: Card
    labels: tuple[Label, ...]

    @property
    def names(self) -> frozenset[str]:
        """The labels' display names."""
        return frozenset(label.name for label in self.labels)

    def graph(self, precision: Precision) -> Path:
        """The graph's file in the wanted precision, or in the only one there is."""
        name = self.card.graphs.get(precision) or next(iter(self.card.graphs.values()))
        return self.path / name


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, in hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def check_sha256(path: Path, expected: str) -> None:
    """Raises WeightsCorrupt with both hashes when the file's SHA-256 does not begin with `expected`."""
    actual = sha256_of(path)
    if not actual.startswith(expected):
        raise WeightsCorrupt(
            f"{path}: SHA-256 is {actual}, expected {expected}. The file is damaged or not the official one: delete it and fetch it again"
        )


def load_bundle(path: Path) -> Bundle:
    """Reads and checks a bundle. Raises WeightsMissing or WeightsCorrupt, naming the file."""
    if not (path / CARD).is_file():
        raise WeightsMissing(f"{path} holds no {CARD}: it is not a model folder")
    try:
        card = Card.model_validate_json((path / CARD).read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        raise WeightsCorrupt(f"{path / CARD}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    for name, sha256 in card.files_sha256.items():
        if Path(name).name != name or not (path / name).is_file():
            raise WeightsMissing(f"{path}: the card names {name}, which is not there")
        check_sha256(path / name, sha256)
    unpinned = {LABELS, *card.graphs.values()} - set(card.files_sha256)
    if unpinned or not card.graphs:
        raise WeightsCorrupt(f"{path / CARD}: no SHA-256 for {', '.join(sorted(unpinned)) or 'any graph'}")
    labels = read_labels(path / LABELS)
    if card.thresholds is not None and len(card.thresholds) != len(labels):
        raise WeightsCorrupt(f"{path / CARD}: {len(card.thresholds)} thresholds, {LABELS} names {len(labels)} labels")
    return Bundle(path, card, labels)


def read_labels(path: Path) -> tuple[Label, ...]:
    """Reads a class map: CSV with the header index,mid,display_name, as AudioSet's."""
    with path.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    try:
        return tuple(Label(row["display_name"], row["mid"]) for row in rows)
    except KeyError as error:
        raise WeightsCorrupt(f"{path}: no column {error}; expected index,mid,display_name") from error


def write_labels(path: Path, labels: tuple[Label, ...]) -> None:
    """Writes a class map that read_labels reads."""
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["index", "mid", "display_name"])
        writer.writerows((index, label.mid, label.name) for index, label in enumerate(labels))


def save_bundle(
    path: Path,
    graphs: dict[Precision, bytes],
    labels: tuple[Label, ...],
    *,
    weights_sha256: str | None = None,
    files: Mapping[str, bytes] | None = None,
    **about: Any,
) -> Bundle:
    """Writes a bundle in one step: a reader sees all of it or nothing. A bundle that is already there is kept.

    `files` are further files beside the graphs, `about` the card's other fields. A folder that is there without a card gets the files; the
    card comes last.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    try:
        names: dict[Precision, str] = {precision: f"{precision}.onnx" for precision in graphs}
        contents = {names[precision]: content for precision, content in graphs.items()} | dict(files or {})
        for name, content in contents.items():
            (draft / name).write_bytes(content)
        write_labels(draft / LABELS, labels)
        hashes = {name: sha256_of(draft / name) for name in (*contents, LABELS)}
        sha256 = weights_sha256 or next(iter(hashes.values()))
        card = Card(graphs=names, weights_sha256=sha256, files_sha256=hashes, **about)
        (draft / CARD).write_text(json.dumps(card.model_dump(), indent=2) + "\n")
        draft.chmod(0o755)
        if not (path / CARD).is_file():
            _move_into_place(draft, path)
    except OSError:
        if not (path / CARD).is_file():  # else another process was faster, which is as good
            raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return load_bundle(path)


def _move_into_place(draft: Path, path: Path) -> None:
    if not path.is_dir():
        os.replace(draft, path)
        return
    for file in sorted(draft.iterdir(), key=lambda file: file.name == CARD):  # the card last
        os.replace(file, path / file.name)
