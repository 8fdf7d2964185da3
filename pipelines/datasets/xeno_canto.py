"""Xeno-canto: bird recordings from the world, as its API (version 2) describes them in JSON pages. xeno-canto.org/explore/api."""

import json
import logging
import math
from typing import Any

import pyarrow as pa

from models.errors import WrongTable
from models.storage import Store
from pipelines.datasets.table import make_table

LAYOUT = '*.json pages as {"recordings": [...]} beside the files that "file-name" names'
NEEDED = ("id", "gen", "sp", "file-name")
NUMBERS = ("lat", "lng")

logger = logging.getLogger("earshot")


def read(store: Store) -> pa.Table:
    """Every recording of every page, once; the label is the scientific name, `duration_s` comes from `length`. Raises WrongTable.

    Of threatened species Xeno-canto keeps the files back: such recordings are left out, and their number is logged.
    """
    pages = [entry.name for entry in store.list_files() if entry.name.endswith(".json")]
    recordings = {str(row["id"]): row for name in pages for row in _read_page(store, name)}
    if not recordings:
        raise WrongTable(f"{store.address} holds no recordings; expected are {LAYOUT}")
    rows = [row for row in recordings.values() if row["file-name"]]
    if len(rows) < len(recordings):
        logger.warning(
            "%d of %d recordings name no file, and are left out", len(recordings) - len(rows), len(recordings)
        )
    columns = {
        "path": [str(row["file-name"]) for row in rows],
        "labels": [[f"{row['gen']} {row['sp']}".strip()] for row in rows],
        "recording": [str(row["id"]) for row in rows],
    }
    own = {"duration_s": pa.array([_seconds(row.get("length")) for row in rows], pa.float64())}
    for name in {name: None for row in rows for name in row}:
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
            if row.get(column) is None:
                raise WrongTable(f"{store.address_of(name)}, recording {number}: no {column!r}; expected is {LAYOUT}")
    return rows


def _seconds(length: object) -> float | None:
    """'m:ss' or 'h:mm:ss' -> seconds."""
    try:
        seconds = 0.0
        for part in str(length).split(":"):
            seconds = 60 * seconds + float(part)
        return seconds
    except ValueError:
        return None


def _number(value: object) -> float | None:
    try:
        number = float(str(value))
        return number if math.isfinite(number) else None
    except ValueError:
        return None


def _text(value: object) -> str | None:
    return value if isinstance(value, str) or value is None else json.dumps(value)
