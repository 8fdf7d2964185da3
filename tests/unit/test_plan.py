"""The plan of a bulk job: named items, long recordings in parts, chunks that do not depend on the workers."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import soundfile

import pipelines.plan as module
from models.storage import Store, open_store
from pipelines.plan import cut_chunks, leave_out, plan_items
from tests.sounds import RATE_HZ


def rows(*paths: str, **columns: pa.Array) -> pa.Table:
    """A data set's table with the common columns."""
    count = len(paths)
    fields = {
        "path": pa.array(paths),
        "labels": pa.nulls(count, pa.list_(pa.string())),
        "fold": pa.nulls(count, pa.int32()),
        "split": pa.nulls(count, pa.string()),
        "recording": pa.array(paths),
        "start_s": pa.nulls(count, pa.float64()),
        "end_s": pa.nulls(count, pa.float64()),
    }
    return pa.table(fields | columns)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A folder in which whatever is above 100 KiB counts as long: 25 s and 4 s of sound, each in two formats."""
    monkeypatch.setattr(module, "LONG_BYTES", 100 << 10)
    silence = np.zeros(25 * RATE_HZ, np.int16)
    for name in ("long.wav", "long.mp3"):
        soundfile.write(tmp_path / name, np.random.default_rng(0).normal(0, 0.1, len(silence)), RATE_HZ)
    soundfile.write(tmp_path / "short.wav", silence[: 4 * RATE_HZ], RATE_HZ)
    (tmp_path / "broken.wav").write_bytes(b"x" * (200 << 10))
    return open_store(tmp_path)


def test_a_long_recording_is_cut_into_parts_and_the_last_goes_to_the_end(store: Store) -> None:
    planned = plan_items(store, rows("short.wav", "long.wav"), 4.0)
    assert planned["item"].to_pylist() == [
        "short.wav",
        *(f"long.wav#{start}-{start + 4}" for start in (0, 4, 8, 12, 16)),
        "long.wav#20-",
    ]
    assert planned["part"].to_pylist() == [0, 0, 1, 2, 3, 4, 5]
    assert planned["parts"].to_pylist() == [1, 6, 6, 6, 6, 6, 6]
    assert planned["end_s"].to_pylist() == [None, 4, 8, 12, 16, 20, None]


def test_what_cannot_be_cut_or_read_stays_whole(store: Store) -> None:
    planned = plan_items(store, rows("long.mp3", "broken.wav", "not-there.wav"), 4.0)
    assert planned["item"].to_pylist() == ["long.mp3", "broken.wav", "not-there.wav"]


def test_a_row_that_names_a_part_of_a_file_stays_as_it_is(store: Store) -> None:
    table = rows("long.wav", "long.wav", start_s=pa.array([1.5, 12.0]), end_s=pa.array([20.0, 25.0]))
    assert plan_items(store, table, 4.0)["item"].to_pylist() == ["long.wav#1.5-20", "long.wav#12-25"]


def test_a_row_that_is_there_twice_is_one_item(store: Store) -> None:
    assert plan_items(store, rows("short.wav", "short.wav"), 4.0)["item"].to_pylist() == ["short.wav"]


def test_an_absolute_path_is_found_outside_the_root(store: Store, tmp_path: Path) -> None:
    other = open_store(tmp_path / "elsewhere")
    path = str(tmp_path / "long.wav")
    assert len(plan_items(other, rows(path), 4.0)) == 6


def test_items_come_in_order_of_the_partition(store: Store) -> None:
    table = rows("a", "b", "c", "d", fold=pa.array([2, 1, None, 1], pa.int32()))
    assert plan_items(store, table, 4.0, "fold")["path"].to_pylist() == ["b", "d", "a", "c"]


def test_what_is_done_is_left_out(store: Store) -> None:
    planned = plan_items(store, rows("a", "b", "c"), 4.0)
    assert leave_out(planned, [pa.array(["b"]), pa.array(["c", "x"])])["item"].to_pylist() == ["a"]
    assert leave_out(planned, []) == planned


def test_chunks_hold_every_item_once_and_one_value_of_the_partition_each(store: Store) -> None:
    folds = pa.array(sorted([number % 3 for number in range(1000)]), pa.int32())
    planned = plan_items(store, rows(*(f"{n:04}" for n in range(1000)), fold=folds), 4.0, "fold")
    chunks = cut_chunks(planned, "fold")
    assert pa.concat_tables(chunks) == planned
    assert all(len(chunk["fold"].unique()) == 1 for chunk in chunks)
    assert len(chunks) >= module.CHUNKS_AT_LEAST
    assert cut_chunks(planned.slice(0, 0)) == []


def test_parts_of_long_recordings_weigh_more_than_clips(store: Store) -> None:
    starts = pa.array(np.arange(0.0, 400 * 600, 600))
    table = rows(*["day.wav"] * 400, start_s=starts, end_s=pa.array(np.arange(600.0, 401 * 600, 600)))
    chunks = cut_chunks(plan_items(store, table, 600.0))
    clips = cut_chunks(plan_items(store, rows(*(f"{n:04}" for n in range(400))), 600.0))
    assert max(map(len, chunks)) < max(map(len, clips))
