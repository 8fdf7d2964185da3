"""Features of a data set, as rows of fixed-size tensors: log-mels, the three pictures, embeddings. Computes; bulk.py runs and writes.

A row is a window of sound. Windows cover a sound from its start, `hop_s` apart; what reaches beyond its end is padded, and a last window
that is less than half filled is left out, unless it is the only one. `valid` says how much of a row is sound.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
import pyarrow as pa

from cluster.settings import Settings
from models.audio import AudioReader
from models.errors import BadOption
from models.features import Made
from models.frontend import (
    HOP_S,
    MEL_BANDS,
    PATCH_FRAMES,
    hop_frames,
)
from models.layout import EMBEDDING_SIZE
from models.weights import find_embedder, find_weights
from pipelines.bulk import Row
from pipelines.datasets.audioset_features import read_embedding
from pipelines.extractors import (
    PCA_8_BITS,
    PICTURES,
    Embeddings,
    Extractor,
    Kind,
    LogMels,
    Pictures,
    Windows,
    load_scorer,
)

NETWORKS = ("yamnet", "vggish", "audioset")
SHORTEST_S, LONGEST_S = 0.05, 60.0
AUDIOSET_PATCHES = 10
PART_S = 600.0
DEFAULT_WINDOWS: dict[str, Windows] = {
    "logmel": Windows(0.96, 0.48),
    "stft": Windows(5.0, 5.0),
    "mel": Windows(5.0, 5.0),
    "mel64": Windows(5.0, 5.0),
    "embedding": Windows(10.0, 10.0),
}


@dataclass(frozen=True)
class FeatureWork:
    """Windows of features: what `earshot featurize` computes. A bulk.Work."""

    extractor: Extractor
    windows: Windows

    @property
    def made(self) -> Made:
        made = self.extractor.made
        stored = str(self.extractor.tensor(self.windows)[0])
        windows = {"window_s": self.windows.length_s, "window_hop_s": self.windows.hop_s, "stored_as": stored}
        return made.model_copy(update={"front_end": dict(made.front_end) | windows})

    @property
    def schema(self) -> pa.Schema:
        return _row_schema(*self.extractor.tensor(self.windows))

    @property
    def needs(self) -> tuple[Path, ...]:
        return self.extractor.needs

    @property
    def part_s(self) -> float:
        """How long the parts of long recordings are: about ten minutes, in whole hops."""
        return round(PART_S / self.windows.hop_s) * self.windows.hop_s

    def compute(self, item: Row, source: BinaryIO) -> Iterator[Row]:
        """See bulk.Work. The windows of a part of a long recording begin within it, and may end beyond it."""
        start_s, end_s = item["start_s"] or 0.0, item["end_s"]
        ends_within = end_s is not None and item["parts"] > 1
        overlap_s = self.windows.length_s - self.windows.hop_s + self.extractor.rest_s if ends_within else 0.0
        read_to_s = None if end_s is None else end_s + overlap_s
        reader = AudioReader(source, sample_rate_hz=self.extractor.sample_rate_hz, start_s=start_s, end_s=read_to_s)
        heard_s = 0.0
        for number, (features, valid) in enumerate(self.extractor.extract(reader.blocks(), self.windows)):
            window_start_s = round(start_s + number * self.windows.hop_s, 6)
            if ends_within and window_start_s >= end_s - HOP_S / 2:
                return
            window_end_s = round(window_start_s + self.windows.length_s, 6)
            yield {
                "start_s": window_start_s,
                "end_s": window_end_s,
                "labels": _labels_between(item, window_start_s, window_end_s),
                "valid": valid,
                "features": features,
                "heard_s": reader.duration_s - heard_s,
            }
            heard_s = reader.duration_s


@dataclass(frozen=True)
class StoredWork:
    """AudioSet's published embeddings, one a second: up to 10 x 128 bytes a row, the rest zeros. A bulk.Work."""

    part_s: float = math.inf
    needs: tuple[Path, ...] = ()

    @property
    def made(self) -> Made:
        return Made(
            kind="embedding",
            front_end={"patch_hop_s": 0.96, "postprocess": PCA_8_BITS},
            network="audioset, as published",
        )

    @property
    def schema(self) -> pa.Schema:
        return _row_schema(pa.uint8(), [AUDIOSET_PATCHES, EMBEDDING_SIZE])

    def compute(self, item: Row, source: BinaryIO) -> Iterator[Row]:
        """See bulk.Work."""
        values = read_embedding(source, item["record_offset"], item["record_length"])[:AUDIOSET_PATCHES]
        padded = np.pad(values, [(0, AUDIOSET_PATCHES - len(values)), (0, 0)])
        times = {"start_s": item["start_time_seconds"], "end_s": item["end_time_seconds"]}
        yield times | {
            "labels": item["labels"],
            "valid": len(values),
            "features": padded,
            "heard_s": float(len(values)),
        }


def _row_schema(value_type: pa.DataType, shape: list[int]) -> pa.Schema:
    return pa.schema(
        [
            ("start_s", pa.float64()),
            ("end_s", pa.float64()),
            ("labels", pa.list_(pa.string())),
            ("valid", pa.int32()),
            ("features", pa.fixed_shape_tensor(value_type, shape)),
        ]
    )


def _labels_between(item: Row, start_s: float, end_s: float) -> list[str]:
    """The item's labels; where events say when each was heard, those of the events that overlap the window."""
    events = item.get("events")
    if events is None:
        return list(item["labels"] or [])
    heard = (event["label"] for event in events if event["start_s"] < end_s and event["end_s"] > start_s)
    return list(dict.fromkeys(heard))


def choose_windows(kind: str, length_s: float | None, hop_s: float | None) -> Windows:
    """The windows that were asked for, or the features' own. Raises BadOption for those that cannot be."""
    if kind not in DEFAULT_WINDOWS:
        raise BadOption(f"no features named {kind!r}; there are: {', '.join(DEFAULT_WINDOWS)}")
    usual = DEFAULT_WINDOWS[kind]
    windows = Windows(length_s or usual.length_s, hop_s or min(usual.hop_s, length_s or usual.hop_s))
    if kind in PICTURES and windows.length_s != usual.length_s:
        raise BadOption(f"window-s: the picture {kind!r} is made of {usual.length_s:g} s, no other length")
    if not SHORTEST_S <= windows.hop_s <= windows.length_s <= LONGEST_S:
        raise BadOption(
            f"window-s {windows.length_s:g}, hop-s {windows.hop_s:g}: a window lasts up to {LONGEST_S:g} s, "
            f"and the hop from {SHORTEST_S:g} s to the window's length"
        )
    if any(abs(seconds / HOP_S - round(seconds / HOP_S)) > 1e-6 for seconds in (windows.length_s, windows.hop_s)):
        raise BadOption("window-s and hop-s are multiples of 0.01 s, a frame's hop")
    return windows


def build_embeddings(network: str, patch_hop_s: float | None, settings: Settings) -> Embeddings:
    """The embeddings of a network: yamnet, vggish, or audioset (VGGish, PCA, 8 bits). Raises BadOption, WeightsMissing."""
    if network not in NETWORKS:
        raise BadOption(f"no network named {network!r}; there are: {', '.join(NETWORKS)}")
    bundle = find_embedder("yamnet" if network == "yamnet" else "vggish", settings.places(), settings.head_places())
    pca = find_weights("vggish-pca", settings.places()) / "vggish_pca_params.npz" if network == "audioset" else None
    hop_s = hop_frames(patch_hop_s or bundle.card.front_end.hop_s) * HOP_S
    width = load_scorer(bundle.path).network(np.zeros((1, PATCH_FRAMES, MEL_BANDS), np.float32))[1].shape[1]
    return Embeddings(bundle.path, network, bundle.card.weights_sha256, round(hop_s, 6), width, pca)


def build_work(kind: str, windows: Windows, network: str, patch_hop_s: float | None, settings: Settings) -> FeatureWork:
    """What to compute for one kind of features. Raises BadOption, WeightsMissing, WeightsCorrupt."""
    if kind == "embedding":
        return FeatureWork(build_embeddings(network, patch_hop_s, settings), windows)
    return FeatureWork(LogMels() if kind == "logmel" else Pictures(cast(Kind, kind)), windows)
