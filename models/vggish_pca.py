"""The AudioSet feature format: VGGish embeddings -> PCA -> 8 bits, and back. Knows nothing of networks.

Same numbers as research/audioset/vggish/vggish_postprocess.py in github.com/tensorflow/models.
"""

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.errors import WeightsCorrupt, WeightsMissing
from models.layout import EMBEDDING_SIZE, check_shapes

LOW, HIGH = -2.0, 2.0  # what the 8 bits span
LEVELS = 255

PCA_SHAPES = {"pca_eigen_vectors": (EMBEDDING_SIZE, EMBEDDING_SIZE), "pca_means": (EMBEDDING_SIZE,)}


@dataclass(frozen=True)
class VggishPca:
    """The whitening PCA: eigen_vectors [128, 128], one component a row, and means [128], float64."""

    eigen_vectors: NDArray[np.float64]
    means: NDArray[np.float64]

    def postprocess(self, embeddings: NDArray[np.floating[Any]]) -> NDArray[np.uint8]:
        """Embeddings [P, 128] before their activation -> AudioSet's features [P, 128] uint8.

        Components beyond +-2 are clipped; like the reference it cuts, not rounds, to a whole level.
        Raises ValueError for another shape or for NaN.
        """
        if embeddings.ndim != 2 or embeddings.shape[1] != EMBEDDING_SIZE:
            raise ValueError(f"embeddings have shape {list(embeddings.shape)}, expected [P, {EMBEDDING_SIZE}]")
        if np.isnan(embeddings).any():
            raise ValueError("embeddings hold NaN, which 8 bits cannot")
        components = (embeddings - self.means) @ self.eigen_vectors.T
        return ((np.clip(components, LOW, HIGH) - LOW) * (LEVELS / (HIGH - LOW))).astype(np.uint8)


def load_pca(path: Path) -> VggishPca:
    """Google's vggish_pca_params.npz -> the PCA.

    Raises WeightsMissing without a file, and WeightsCorrupt for one that does not parse, or naming the first wrong key
    and both shapes.
    """
    if not path.is_file():
        raise WeightsMissing(f"{path}: no such file")
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: np.asarray(file[name], np.float64) for name in file.files}
    except (ValueError, OSError, EOFError, AttributeError, TypeError, zipfile.BadZipFile) as error:
        raise WeightsCorrupt(f"{path}: not an npz file of plain arrays ({type(error).__name__})") from error
    check_shapes(arrays, PCA_SHAPES, str(path))
    return VggishPca(arrays["pca_eigen_vectors"], arrays["pca_means"])


def dequantize(features: NDArray[np.uint8]) -> NDArray[np.float32]:
    """AudioSet's features [..., 128] uint8 -> PCA components [..., 128] float32, each in the middle of its level.

    The reverse that the YouTube-8M readers use (github.com/google/youtube-8m, utils.py): q * 4 / 255 + 4 / 512 - 2.
    """
    span = HIGH - LOW
    return features.astype(np.float32) * np.float32(span / LEVELS) + np.float32(span / 512 + LOW)
