"""ESC-50 and ESC-10: environmental sounds in 5 folds; clips of one recording never cross folds. github.com/karolpiczak/ESC-50."""

import pyarrow as pa
import pyarrow.compute as pc

from models.storage import Store
from pipelines.datasets.table import cast_column, each_in_a_list, make_table, read_csv

TABLE = "meta/esc50.csv"
LAYOUT = f"{TABLE} beside audio/"


def read(store: Store) -> pa.Table:
    """meta/esc50.csv; the recording is `src_file`, a Freesound id. Raises WrongTable."""
    text = ("filename", "category", "src_file", "take")
    table = read_csv(store, TABLE, LAYOUT, ("filename", "fold", "category", "src_file"), text)
    columns = {
        "path": pc.binary_join_element_wise("audio", table["filename"], "/"),
        "labels": each_in_a_list(table["category"]),
        "fold": cast_column(table, "fold", pa.int32(), store.address_of(TABLE)),
        "recording": table["src_file"],
    }
    return make_table(columns, table)
