"""What makes features of a sound: log-mels, the two pictures, a network's embeddings, in windows. Knows nothing of data sets or files."""

import functools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from models.bundle import load_bundle
from models.features import Made
from models.frontend import (
    FFT_SIZE,
    FRAME_REST_S,
    HOP_S,
    MEL_BANDS,
    MEL_HIGH_HZ,
    MEL_LOW_HZ,
    PATCH_FRAMES,
    SAMPLE_RATE_HZ,
    TAIL_FRAMES,
    WINDOW_SAMPLES,
    YAMNET_OFFSET,
    FloatArray,
    hop_frames,
)
from models.runtime import load_runtime
from models.spectrograms import MEL64_PICTURE, MEL_PICTURE, STFT_PICTURE, Picture
from models.tagger import Scorer, mel_frames
from models.vggish_pca import load_pca

Kind = Literal["logmel", "stft", "mel", "mel64", "embedding"]
PICTURES: dict[str, Picture] = {"stft": STFT_PICTURE, "mel": MEL_PICTURE, "mel64": MEL64_PICTURE}
PCA_8_BITS = "VGGish PCA, 8 bits"
LOG_MEL: dict[str, float | int | str | None] = {
    "sample_rate_hz": SAMPLE_RATE_HZ,
    "frame_s": WINDOW_SAMPLES / SAMPLE_RATE_HZ,
    "hop_s": HOP_S,
    "fft_size": FFT_SIZE,
    "mel_bands": MEL_BANDS,
    "mel_low_hz": MEL_LOW_HZ,
    "mel_high_hz": MEL_HIGH_HZ,
    "log_offset": YAMNET_OFFSET,
}


@dataclass(frozen=True)
class Windows:
    """How long the sound in a row is, and how far apart rows begin."""

    length_s: float
    hop_s: float


def slide(blocks: Iterable[NDArray[Any]], length: int, hop: int, tail: int = 0) -> Iterator[tuple[NDArray[Any], int]]:
    """Rows in blocks [n, ...] -> windows of at most `length` rows every `hop` rows, and how many of each are sound.

    The last `tail` rows are no sound of their own. A last window that is less than half filled is left out, unless it is the only one.
    """
    rest: NDArray[Any] | None = None
    waiting: list[NDArray[Any]] = []
    first = True
    for block in blocks:
        waiting.append(block)
        if sum(map(len, waiting)) + (0 if rest is None else len(rest)) < length + tail:
            continue
        rest = np.concatenate(waiting if rest is None else [rest, *waiting])
        waiting = []
        while len(rest) >= length + tail:
            yield rest[:length], length
            rest, first = rest[hop:], False
    rest = np.concatenate(waiting if rest is None else [rest, *waiting])
    while first or 2 * (len(rest) - tail) >= length:
        yield rest[:length], max(1, min(len(rest) - tail, length))
        rest, first = rest[hop:], False


class Extractor(Protocol):
    """Makes features of a sound that comes in blocks. Small, picklable and hashable."""

    @property
    def made(self) -> Made: ...

    @property
    def sample_rate_hz(self) -> int: ...

    @property
    def rest_s(self) -> float:
        """How far the sound of a window reaches beyond its end."""
        ...

    @property
    def needs(self) -> tuple[Path, ...]:
        """See bulk.Work."""
        ...

    def tensor(self, windows: Windows) -> tuple[pa.DataType, list[int]]:
        """The type and the shape of one window's features."""
        ...

    def extract(self, blocks: Iterator[FloatArray], windows: Windows) -> Iterator[tuple[NDArray[Any], int]]:
        """The waveform in blocks [n] -> each window's features, and how many of its frames, samples or patches are sound."""
        ...


@dataclass(frozen=True)
class LogMels:
    """Log-mels of the front end that YAMNet and VGGish share: [F, 64]."""

    kind: Kind = "logmel"
    sample_rate_hz: int = SAMPLE_RATE_HZ
    rest_s: float = FRAME_REST_S
    needs: tuple[Path, ...] = ()

    @property
    def made(self) -> Made:
        return Made(kind=self.kind, front_end=LOG_MEL)

    def tensor(self, windows: Windows) -> tuple[pa.DataType, list[int]]:
        """See Extractor."""
        return pa.float16(), [hop_frames(windows.length_s), MEL_BANDS]

    def extract(self, blocks: Iterator[FloatArray], windows: Windows) -> Iterator[tuple[NDArray[Any], int]]:
        """See Extractor."""
        length = hop_frames(windows.length_s)
        silence = np.float32(math.log(YAMNET_OFFSET))
        for frames, valid in slide_frames(blocks, windows):
            yield np.pad(frames, [(0, length - len(frames)), (0, 0)], constant_values=silence), valid


@dataclass(frozen=True)
class Pictures:
    """One of the three pictures of models/spectrograms.py: [H, W]."""

    kind: Kind
    rest_s: float = 0.0
    needs: tuple[Path, ...] = ()

    @property
    def sample_rate_hz(self) -> int:
        """The picture's own."""
        return PICTURES[self.kind].sample_rate_hz

    @property
    def made(self) -> Made:
        return Made(kind=self.kind, front_end=PICTURES[self.kind].parameters)

    def tensor(self, windows: Windows) -> tuple[pa.DataType, list[int]]:
        """See Extractor. A picture's size is fixed, and so is the length of its windows."""
        assert round(windows.length_s * self.sample_rate_hz) == PICTURES[self.kind].samples
        return pa.float16(), list(PICTURES[self.kind].shape)

    def extract(self, blocks: Iterator[FloatArray], windows: Windows) -> Iterator[tuple[NDArray[Any], int]]:
        """See Extractor."""
        length, hop = (round(seconds * self.sample_rate_hz) for seconds in (windows.length_s, windows.hop_s))
        for samples, valid in slide(blocks, length, hop):
            yield PICTURES[self.kind].draw(samples), valid


@dataclass(frozen=True)
class Embeddings:
    """A network's embeddings of the patches in a window: [T, D] float32, or [T, 128] uint8 through AudioSet's PCA."""

    bundle: Path
    network: str
    weights_sha256: str
    patch_hop_s: float
    width: int
    pca: Path | None = None
    kind: Kind = "embedding"
    sample_rate_hz: int = SAMPLE_RATE_HZ
    rest_s: float = FRAME_REST_S

    @property
    def made(self) -> Made:
        front_end = LOG_MEL | {"patch_hop_s": self.patch_hop_s, "postprocess": PCA_8_BITS if self.pca else None}
        return Made(kind=self.kind, front_end=front_end, network=self.network, weights_sha256=self.weights_sha256)

    def tensor(self, windows: Windows) -> tuple[pa.DataType, list[int]]:
        """See Extractor."""
        patches = len(self._starts(hop_frames(windows.length_s)))
        return pa.uint8() if self.pca else pa.float32(), [patches, self.width]

    def extract(self, blocks: Iterator[FloatArray], windows: Windows) -> Iterator[tuple[NDArray[Any], int]]:
        """See Extractor."""
        scorer = load_scorer(self.bundle)
        patches = self.tensor(windows)[1][0]
        for frames, valid in slide_frames(blocks, windows):
            count = len(self._starts(valid))
            values: NDArray[Any] = scorer.network(scorer.patches(frames, self.patch_hop_s, count))[1]
            if self.pca:
                values = _pca(self.pca).postprocess(values)
            yield np.pad(values, [(0, patches - count), (0, 0)]), count

    @property
    def needs(self) -> tuple[Path, ...]:
        """See bulk.Work."""
        return (self.bundle, self.pca) if self.pca else (self.bundle,)

    def _starts(self, frames: int) -> range:
        """Where patches begin in so many frames of sound: each at least half filled, and at least one."""
        return range(0, max(frames - PATCH_FRAMES // 2, 0) + 1, hop_frames(self.patch_hop_s))


@functools.lru_cache(maxsize=2)
def load_scorer(bundle: Path) -> Scorer:
    """A bundle and its network, once per process."""
    loaded = load_bundle(bundle)
    return Scorer(loaded, load_runtime(loaded))


_pca = functools.lru_cache(maxsize=1)(load_pca)


def slide_frames(blocks: Iterator[FloatArray], windows: Windows) -> Iterator[tuple[FloatArray, int]]:
    """The waveform at 16 kHz in blocks [n] -> windows of at most F log-mel frames [f, 64], and how many of them are sound."""
    frames = mel_frames(blocks)
    return slide(frames, hop_frames(windows.length_s), hop_frames(windows.hop_s), TAIL_FRAMES)
