"""SINGA:PURA: polyphonic city sound of Singapore with strong labels. zenodo.org/records/5645825; Ooi et al. 2021."""

import pyarrow as pa

from models.storage import Store
from pipelines.classify import is_sound
from pipelines.datasets.table import EVENTS, cast_column, make_table, read_csv

TABLE = "labelled_metadata_public.csv"
LAYOUT = f"{TABLE}, a CSV file of labels for each clip, and the clips, in any folders"
NEEDED = ("filename", "sensor_id")


def read(store: Store) -> pa.Table:
    """A row a clip: `events` as they were annotated, `labels` their distinct names in order of onset. Raises WrongTable.

    A recording is a clip. The CSV file of a clip has its name, in some releases only up to the first dot; a clip without one has no
    events.
    """
    table = read_csv(store, TABLE, LAYOUT, NEEDED, NEEDED)
    places = {entry.name.rsplit("/", 1)[-1]: entry.name for entry in store.list_files()}
    names = table["filename"].to_pylist()
    events = [
        _read_events(store, places.get(f"{_stem(name)}.csv") or places.get(f"{name.split('.')[0]}.csv"))
        for name in names
    ]
    columns = {
        "path": [_find(places, name) for name in names],
        "labels": [list(dict.fromkeys(event["label"] for event in row)) for row in events],
        "recording": [_stem(name) for name in names],
    }
    return make_table(columns, table.append_column("events", pa.array(events, EVENTS)))


def _stem(name: str) -> str:
    return name.rsplit(".", 1)[0] if is_sound(name) else name


def _find(places: dict[str, str], name: str) -> str:
    """Where the clip lies; as the table names it, where it does not."""
    return places.get(name) or places.get(f"{name}.flac") or name


def _read_events(store: Store, name: str | None) -> list[dict[str, object]]:
    if name is None:
        return []
    table = read_csv(store, name, LAYOUT, ("onset", "offset", "event_label"), ("event_label",))
    onsets, offsets = (
        cast_column(table, column, pa.float64(), store.address_of(name)) for column in ("onset", "offset")
    )
    rows = zip(table["event_label"].to_pylist(), onsets.to_pylist(), offsets.to_pylist(), strict=True)
    events = [{"label": label, "start_s": start_s, "end_s": end_s} for label, start_s, end_s in rows]
    return sorted(events, key=lambda event: (event["start_s"], event["end_s"]))
