"""A folder per class: the folder's name is the label."""

import pyarrow as pa

from models.errors import WrongTable
from models.storage import Store
from pipelines.classify import is_sound
from pipelines.datasets.table import make_table


def read(store: Store) -> pa.Table:
    """Every sound below the root; the first folder of its path is its label, and one that lies in none has no label."""
    table = list_sounds(store)
    if not len(table):
        raise WrongTable(f"{store.address} holds no sounds; expected is LABEL/*.wav (or .flac, .ogg, .mp3, ...)")
    return table


def list_sounds(store: Store) -> pa.Table:
    """As `read`; an empty table where there are no sounds."""
    names = [entry.name for entry in store.list_files() if is_sound(entry.name)]
    labels = [[name.split("/", 1)[0]] if "/" in name else [] for name in names]
    return make_table({"path": names, "labels": labels})
