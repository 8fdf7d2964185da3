"""UrbanSound8K: city sounds up to 4 s in 10 folds. urbansounddataset.weebly.com; Salamon et al. 2014."""

import pyarrow as pa
import pyarrow.compute as pc

from models.storage import Store
from pipelines.datasets.table import cast_column, each_in_a_list, make_table, read_csv

TABLE = "metadata/UrbanSound8K.csv"
LAYOUT = f"{TABLE} beside audio/fold1/ ... audio/fold10/"


def read(store: Store) -> pa.Table:
    """metadata/UrbanSound8K.csv; the recording is `fsID`. The own columns `start` and `end` are places in it, not in the clip."""
    needed = ("slice_file_name", "fsID", "fold", "class")
    table = read_csv(store, TABLE, LAYOUT, needed, ("slice_file_name", "fsID", "class"))
    fold = cast_column(table, "fold", pa.int32(), store.address_of(TABLE))
    folder = pc.binary_join_element_wise("audio/fold", pc.cast(fold, pa.string()), "")
    columns = {
        "path": pc.binary_join_element_wise(folder, table["slice_file_name"], "/"),
        "labels": each_in_a_list(table["class"]),
        "fold": fold,
        "recording": table["fsID"],
    }
    return make_table(columns, table)
