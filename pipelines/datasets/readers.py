"""Every kind of data set by its name."""

from collections.abc import Callable
from dataclasses import dataclass

import pyarrow as pa

from models.errors import BadOption
from models.storage import Store, open_beside, open_store
from pipelines.datasets import (
    audioset,
    audioset_features,
    birdclef,
    esc50,
    folder,
    fsd50k,
    manifest,
    singapura,
    sonyc_ust,
    urbansound8k,
    xeno_canto,
)
from pipelines.datasets.table import DataSet

MANIFEST_SUFFIXES = (".csv", ".parquet")


@dataclass(frozen=True)
class Reader:
    """A kind of data set: what it is, how it lies, and what reads it."""

    title: str
    layout: str
    read: Callable[[Store], pa.Table]


READERS = {
    "esc50": Reader("ESC-50 and ESC-10: environmental sounds", esc50.LAYOUT, esc50.read),
    "urbansound8k": Reader("UrbanSound8K: city sounds", urbansound8k.LAYOUT, urbansound8k.read),
    "singapura": Reader("SINGA:PURA: Singapore's streets, strong labels", singapura.LAYOUT, singapura.read),
    "audioset": Reader("AudioSet: segments of videos", audioset.LAYOUT, audioset.read),
    "audioset-features": Reader("AudioSet: published embeddings", audioset_features.LAYOUT, audioset_features.read),
    "fsd50k": Reader("FSD50K: Freesound with AudioSet's labels", fsd50k.LAYOUT, fsd50k.read),
    "birdclef": Reader("BirdCLEF: birds, as on Kaggle", birdclef.LAYOUT, birdclef.read),
    "xeno-canto": Reader("Xeno-canto: birds", xeno_canto.LAYOUT, xeno_canto.read),
    "sonyc-ust": Reader("SONYC-UST: New York's streets", sonyc_ust.LAYOUT, sonyc_ust.read),
    "folder": Reader("a folder per class", "LABEL/*.wav, .flac, .ogg, .mp3, ...", folder.read),
    "manifest": Reader("a table of your own", f"{manifest.LAYOUT}, or such a file itself", manifest.read),
}


def read_dataset(name: str, root: str) -> DataSet:
    """The rows of the data set at an address. Raises BadOption for an unknown kind, WrongTable, WrongPath, StoreFailed."""
    if name not in READERS:
        raise BadOption(f"no kind of data set named {name!r}; there are: {', '.join(READERS)}")
    if name == "manifest" and root.partition("?")[0].endswith(MANIFEST_SUFFIXES):
        store, file = open_beside(root)
        return DataSet(name, store, manifest.read_file(store, file))
    store = open_store(root)
    return DataSet(name, store, READERS[name].read(store))
