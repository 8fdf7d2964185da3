"""Xeno-canto: bird recordings from the world, as its API (version 2) describes them in JSON pages. xeno-canto.org/explore/api."""

import json
from typing import Any

import pyarrow as pa

from models.errors import WrongTable
from models.storage import Store
from pipelines.datasets.table import make_table

LAYOUT = '*.json pages as {"recordings": [...]} beside the files that "file-name" names'
NEEDED = ("id", "gen", "sp", "file-name")
NUMBERS = ("lat", "lng")


def read(store: Store) -> pa.Table:
    """Every recording of every page, once; the label is the scientific name, `length` becomes `duration_s`. Raises WrongTable."""
    pages = [entry.name for entry in store.list_files() if entry.name.endswith(".json")]
    recordings = {str(row["id"]): row for name in pages for row in _read_page(store, name)}
    if not recordings:
        raise WrongTable(f"{store.address} holds no recordings; expected are {LAYOUT}")
    rows = list(recordings.values())
    columns = {
        "path": [row["file-name"] for row in rows],
        "labels": [[f"{row['gen']} {row['sp']}".strip()] for row in rows],
        "recording": [str(row["id"]) for row in rows],
    }
    own = {"duration_s": pa.array([_seconds(row.get("length")) for row in rows], pa.float64())}
    for name in {name: None for row in rows for name in row if name not in ("file-name", "length")}:
        values = [row.get(name) for row in rows]
        own[name] = (
            pa.array(map(_number, values), pa.float64())
            if name in NUMBERS
            else pa.array(map(_text, values), pa.string())
        )
    return make_table(columns, pa.table(own))


def _read_page(store: Store, name: str) -> list[dict[str, Any]]:
    try:
        recordings = json.loads(store.read(name))["recordings"]
        rows = [dict(row) for row in recordings]
    except (ValueError, TypeError, KeyError) as error:
        raise WrongTable(f"{store.address_of(name)} is no page of Xeno-canto's API: expected is {LAYOUT}") from error
    for number, row in enumerate(rows):
        for column in NEEDED:
            if not row.get(column):
                raise WrongTable(f"{store.address_of(name)}, recording {number}: no {column!r}")
    return rows


def _seconds(text: str | None) -> float | None:
    """'m:ss' or 'h:mm:ss' -> seconds."""
    try:
        seconds = 0.0
        for part in (text or "").split(":"):
            seconds = 60 * seconds + float(part)
        return seconds
    except ValueError:
        return None


def _number(value: object) -> float | None:
    try:
        return float(str(value))
    except ValueError:
        return None


def _text(value: object) -> str | None:
    return value if isinstance(value, str) or value is None else json.dumps(value)
