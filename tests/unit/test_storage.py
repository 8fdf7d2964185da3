"""Stores: names below a root, files that appear whole or not at all, and what cannot be reached."""

import os
from pathlib import Path

import pytest

from models.errors import StoreFailed, WrongPath
from models.storage import open_beside, open_store, reaching


def test_a_file_is_written_listed_read_and_deleted(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    store.write("deep/er/a.txt", b"sound")
    assert [(entry.name, entry.size) for entry in store.list_files()] == [("deep/er/a.txt", 5)]
    assert store.read("deep/er/a.txt") == b"sound"
    assert (store.exists("deep"), store.exists("none"), store.size("deep/er/a.txt")) == (True, False, 5)
    store.delete("deep")
    store.delete("deep")
    assert store.list_files() == []


def test_a_write_that_fails_leaves_nothing(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    store.write("kept.txt", b"old")
    with pytest.raises(TypeError), store.create("kept.txt") as stream:
        stream.writelines([b"new", "not bytes"])
    assert store.read("kept.txt") == b"old"
    assert os.listdir(tmp_path) == ["kept.txt"]


def test_drafts_of_a_killed_process_are_not_listed_and_are_swept(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    (tmp_path / "fold=1").mkdir()
    draft = tmp_path / "fold=1" / ".part.parquet-12345678.draft"
    draft.write_bytes(b"half")
    assert store.list_files() == []
    store.sweep()
    assert not draft.exists()


def test_a_table_may_name_files_below_the_root_or_anywhere(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b.txt").write_bytes(b"beside")
    (tmp_path / "a" / "c.txt").write_bytes(b"below")
    store = open_store(tmp_path / "a")
    for path, content in (
        ("c.txt", b"below"),
        (str(tmp_path / "b.txt"), b"beside"),
        (f"file://{tmp_path}/b.txt", b"beside"),
    ):
        with store.open_sound(path) as stream:
            assert stream.read() == content


@pytest.mark.parametrize("address", ["ftp://host/x", "s3://", "nonsense://"])
def test_an_address_of_no_known_kind_is_refused(address: str) -> None:
    with pytest.raises(WrongPath, match="bucket"):
        open_store(address)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(WrongPath, match=r"none\.wav: no such file"):
        open_store(tmp_path).read("none.wav")
    with pytest.raises(WrongPath, match="names a folder"):
        open_beside("s3://bucket/")


def test_a_query_stays_at_the_end_of_an_address() -> None:
    store, name = open_beside("s3://bucket/deep/a.wav?endpoint_override=127.0.0.1:9&scheme=http")
    assert (store.root, name) == ("bucket/deep", "a.wav")
    assert store.address_of("b.wav") == "s3://bucket/deep/b.wav?endpoint_override=127.0.0.1:9&scheme=http"


def test_a_store_that_cannot_be_reached_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    store = open_store("s3://bucket/x?endpoint_override=127.0.0.1:1&scheme=http")
    with pytest.raises(StoreFailed, match=r"cannot be reached.*run the same command again"):
        store.list_files()


def test_a_full_disk_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "full").symlink_to("/dev/full")
    with (
        pytest.raises(StoreFailed, match="no space left"),
        reaching("full"),
        open(tmp_path / "full", "wb", 0) as stream,
    ):
        stream.write(b"x")
