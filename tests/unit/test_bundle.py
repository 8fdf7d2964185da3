"""A model's folder: what is pinned is checked, and writing is all or nothing."""

import json
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest

from models.bundle import CARD, LABELS, Bundle, FrontEnd, Label, check_sha256, load_bundle, read_labels, save_bundle
from models.errors import WeightsCorrupt, WeightsMissing

NAMES = (Label("Dog, barking", "/m/1"), Label('"Glass"', "/m/2"), Label("Straße", "/m/3"))


def save(path: Path, content: bytes = b"graph") -> Bundle:
    return save_bundle(path, {"int8": content}, NAMES, name="m", version="1", front_end=FrontEnd())


def edit_card(path: Path, **changes: object) -> None:
    card = json.loads((path / CARD).read_text())
    (path / CARD).write_text(json.dumps(card | changes))


def test_what_is_saved_is_what_is_loaded(tmp_path: Path) -> None:
    saved = save(tmp_path / "deep" / "m")
    assert load_bundle(tmp_path / "deep" / "m") == saved
    assert saved.labels == NAMES
    assert saved.graph("int8").read_bytes() == b"graph"
    assert saved.card.weights_sha256 == saved.card.files_sha256["int8.onnx"]


def test_only_graph_there_is_stands_for_the_other_precision(tmp_path: Path) -> None:
    assert save(tmp_path / "m").graph("float").name == "int8.onnx"


@pytest.mark.parametrize("file", ["int8.onnx", LABELS])
def test_changed_file_is_refused_with_both_hashes(tmp_path: Path, file: str) -> None:
    bundle = save(tmp_path / "m")
    with (bundle.path / file).open("ab") as stream:
        stream.write(b"x")
    with pytest.raises(WeightsCorrupt, match=bundle.card.files_sha256[file]) as refusal:
        load_bundle(bundle.path)
    assert str(bundle.path / file) in str(refusal.value)
    assert len([word for word in str(refusal.value).split() if len(word.rstrip(",.")) == 64]) == 2


def test_hash_may_be_known_by_its_first_digits(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"")
    check_sha256(tmp_path / "f", "e3b0c442")
    with pytest.raises(WeightsCorrupt, match="expected e3b0c443"):
        check_sha256(tmp_path / "f", "e3b0c443")


def test_missing_file_and_missing_card_are_named(tmp_path: Path) -> None:
    bundle = save(tmp_path / "m")
    (bundle.path / "int8.onnx").unlink()
    with pytest.raises(WeightsMissing, match=r"int8\.onnx"):
        load_bundle(bundle.path)
    with pytest.raises(WeightsMissing, match=r"holds no card\.json"):
        load_bundle(tmp_path)


@pytest.mark.parametrize("name", ["../x", "/etc/hostname", "a/b", ".."])
def test_card_cannot_reach_out_of_its_folder(tmp_path: Path, name: str) -> None:
    (tmp_path / "x").write_bytes(b"graph")
    bundle = save(tmp_path / "m")
    hashes = bundle.card.files_sha256
    edit_card(bundle.path, graphs={"int8": name}, files_sha256=hashes | {name: hashes["int8.onnx"]})
    with pytest.raises(WeightsMissing, match=name):
        load_bundle(bundle.path)


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"graphs": {"int8": "../x"}}, r"no SHA-256 for \.\./x"),
        ({"graphs": {"int8": "other.onnx"}}, r"no SHA-256 for other\.onnx"),
        ({"files_sha256": {}}, "no SHA-256 for"),
        ({"graphs": {}}, "no SHA-256 for any graph"),
        ({"graphs": {"int4": "int8.onnx"}}, "graphs"),
        ({"surprise": 1}, "surprise"),
        ({"name": None}, "name"),
        ({"thresholds": [0.5]}, r"1 thresholds, labels\.csv names 3 labels"),
        ({"front_end": {"hop_s": 0}}, "hop_s"),
        ({"front_end": {"frames": 0}}, "frames"),
    ],
)
def test_card_that_is_wrong_is_refused(tmp_path: Path, changes: dict[str, object], word: str) -> None:
    bundle = save(tmp_path / "m")
    edit_card(bundle.path, **changes)
    with pytest.raises(WeightsCorrupt, match=word):
        load_bundle(bundle.path)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[]"])
def test_card_that_is_no_json_is_refused(tmp_path: Path, content: bytes) -> None:
    bundle = save(tmp_path / "m")
    (bundle.path / CARD).write_bytes(content)
    with pytest.raises(WeightsCorrupt, match=r"card\.json"):
        load_bundle(bundle.path)


def test_labels_with_other_columns_are_refused(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("id,name\n0,Dog\n")
    with pytest.raises(WeightsCorrupt, match="index,mid,display_name"):
        read_labels(tmp_path / "labels.csv")


def test_bundle_that_is_there_is_kept(tmp_path: Path) -> None:
    save(tmp_path / "m", b"first")
    assert save(tmp_path / "m", b"second").graph("int8").read_bytes() == b"first"
    assert [file.name for file in tmp_path.iterdir()] == ["m"]


def save_large(path: str, number: int) -> bytes:
    """Runs in another process: writes a bundle and reads what is there then."""
    return save(Path(path), bytes([number]) * (1 << 20)).graph("int8").read_bytes()


def test_processes_that_write_at_once_leave_one_good_bundle(tmp_path: Path) -> None:
    with ProcessPoolExecutor(4, multiprocessing.get_context("spawn")) as pool:
        seen = set(pool.map(save_large, [str(tmp_path / "m")] * 12, range(12)))
    assert len(seen) == 1
    assert load_bundle(tmp_path / "m").graph("int8").read_bytes() in seen
    assert [file.name for file in tmp_path.iterdir()] == ["m"]


def test_write_that_fails_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "m").write_text("a file, where the folder should be")
    with pytest.raises(OSError, match="m"):
        save(tmp_path / "m")
    assert [file.name for file in tmp_path.rglob("*")] == ["m"]


def test_folder_of_a_run_gets_the_bundle_beside_its_own_files(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "config.json").write_text("{}")
    saved = save(tmp_path / "m")
    assert (saved.path / "config.json").read_text() == "{}"
    assert [file.name for file in tmp_path.iterdir()] == ["m"]
