"""Features folders made for tests, as `earshot featurize` writes them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from models.features import Made, State, schema_metadata, write_state
from models.storage import open_store

EMBEDDING = Made(
    kind="embedding", front_end={"window_s": 0.96, "window_hop_s": 0.96, "patch_hop_s": 0.48}, network="tiny"
)
LOG_MEL = Made(kind="logmel", front_end={"window_s": 0.96, "window_hop_s": 0.48, "log_offset": 0.001})


def save_features(
    folder: Path,
    features: NDArray[Any],
    labels: Sequence[Sequence[str]],
    *,
    folds: Sequence[int] | None = None,
    splits: Sequence[str] | None = None,
    recordings: Sequence[str] | None = None,
    valid: Sequence[int] | None = None,
    made: Made = EMBEDDING,
    row_group: int = 16,
    complete: bool = True,
) -> Path:
    """Features [N, *shape] with their labels -> the folder."""
    count = len(features)
    tensor = pa.fixed_shape_tensor(pa.from_numpy_dtype(features.dtype), features.shape[1:])
    items = [f"clip{number}.wav" for number in range(count)]
    columns = {
        "item": pa.array(items),
        "path": pa.array(items),
        "recording": pa.array(recordings if recordings is not None else items),
        "start_s": pa.array(np.zeros(count)),
        "labels": pa.array([list(row) for row in labels], pa.list_(pa.string())),
        "valid": pa.array(valid if valid is not None else np.full(count, features.shape[1]), pa.int32()),
        "features": pa.ExtensionArray.from_storage(
            tensor, pa.array(list(features.reshape(count, -1)), tensor.storage_type)
        ),
    }
    if splits is not None:
        columns["split"] = pa.array(splits)
    table = pa.table(columns).replace_schema_metadata(schema_metadata(made))
    places = [f"fold={fold}" for fold in folds] if folds is not None else ["."] * count
    for place in dict.fromkeys(places):
        part = folder / place / "part-0.parquet"
        part.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table.filter(pa.array([other == place for other in places])), part, row_group_size=row_group)
    write_state(open_store(folder), State(made=made, complete=complete, rows=count))
    return folder


def clusters(
    count: int, shape: tuple[int, ...], classes: int, seed: int = 0, noise: float = 0.5
) -> tuple[NDArray[np.float32], list[list[str]]]:
    """Rows that are easy to tell apart: each class has a centre of its own. Features [N, *shape] and a label for each."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(1).standard_normal((classes, *shape))
    which = np.arange(count) % classes
    features = centres[which] + noise * rng.standard_normal((count, *shape))
    return features.astype(np.float32), [[f"class{number}"] for number in which]
