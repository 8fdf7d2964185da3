"""Weights from a shared store: copied once, whole or not at all, by one process at a time; the last copy serves while the store is away."""

import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from models.bundle import CARD
from models.errors import StoreFailed, WeightsCorrupt, WeightsMissing
from models.storage import open_store
from models.weights import Places, find_head, find_tagger, find_weights
from models.weights_store import copy_weights
from tests.conftest import CHECKOUT
from tests.s3 import Cloud


@pytest.fixture
def store(tmp_path: Path, tone_tagger: Path, tone_head: Path) -> Path:
    """A shared folder with a tagger and a second opinion."""
    folder = tmp_path / "shared"
    shutil.copytree(tone_tagger, folder / "yamnet")
    shutil.copytree(tone_head, folder / "vggish-head")
    return folder


def places(address: object, tmp_path: Path) -> Places:
    return Places(folder=str(address), cache=tmp_path / "cache", download=False)


def test_both_models_are_found_through_an_address(store: Path, tmp_path: Path) -> None:
    looked = places(f"file://{store}", tmp_path)
    tagger = find_tagger(looked)
    head = find_head(looked, tagger)
    assert head is not None
    assert (tagger.card.name, head.path.name) == ("tones", "vggish-head")
    assert tagger.path.is_relative_to(tmp_path / "cache")


def test_a_bundle_at_the_root_is_the_tagger_and_no_second_opinion(tone_tagger: Path, tmp_path: Path) -> None:
    looked = places(f"file://{tone_tagger}", tmp_path)
    assert find_tagger(looked).card.name == "tones"
    assert find_head(looked) is None


def test_a_second_look_copies_nothing(store: Path, tmp_path: Path) -> None:
    looked = places(f"file://{store}", tmp_path)
    first = find_tagger(looked).path
    times = {file: file.stat().st_mtime_ns for file in first.iterdir()}
    assert find_tagger(looked).path == first
    assert {file: file.stat().st_mtime_ns for file in first.iterdir()} == times


def test_a_damaged_copy_is_made_again(store: Path, tmp_path: Path) -> None:
    looked = places(f"file://{store}", tmp_path)
    (find_tagger(looked).path / "labels.csv").write_text("damaged")
    assert len(find_tagger(looked).labels) == 3


def test_a_file_with_another_hash_is_refused_and_not_kept(store: Path, tmp_path: Path) -> None:
    (store / "yamnet" / "int8.onnx").write_bytes(b"not it")
    with pytest.raises(WeightsCorrupt, match=r"int8\.onnx: SHA-256 is .*, expected"):
        find_tagger(places(f"file://{store}", tmp_path))
    kept = [file.name for file in (tmp_path / "cache").rglob("*") if file.is_file()]
    assert not [name for name in kept if "onnx" in name or name == CARD]


def test_a_card_cannot_name_files_elsewhere(store: Path, tmp_path: Path) -> None:
    card = store / "yamnet" / CARD
    card.write_text(card.read_text().replace('"labels.csv"', '"../labels.csv"'))
    with pytest.raises(WeightsCorrupt, match="no file beside it"):
        find_tagger(places(f"file://{store}", tmp_path))


def test_a_store_without_the_weights_is_named_in_the_error(tmp_path: Path) -> None:
    with pytest.raises(WeightsMissing, match=f"put these files into file://{tmp_path}/none or "):
        find_weights("yamnet", places(f"file://{tmp_path}/none", tmp_path))


def test_the_published_files_come_from_a_store(shared: Path, tmp_path: Path) -> None:
    assert find_tagger(places(f"file://{shared}/weights", tmp_path)).card.name == "yamnet"


def test_from_a_bucket_and_then_without_it(store: Path, tmp_path: Path, cloud: Cloud, monkeypatch) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    cloud.make_bucket("weights")
    bucket = open_store(cloud.address("weights/earshot"))
    for file in (store / "yamnet").iterdir():
        bucket.write(f"yamnet/{file.name}", file.read_bytes())
    looked = places(bucket.address, tmp_path)
    first = find_tagger(looked)
    cloud.stop()
    try:
        assert find_tagger(looked).path == first.path
        with pytest.raises(StoreFailed, match="cannot be reached"):
            copy_weights(bucket.address, "yamnet", tmp_path / "another")
    finally:
        cloud.start()


def test_processes_that_come_at_once_end_with_the_same_copy(store: Path, tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from models.weights import Places, find_tagger;"
        "print(find_tagger(Places(folder=sys.argv[1], cache=Path(sys.argv[2]), download=False)).path)"
    )
    command = [sys.executable, "-c", program, f"file://{store}", str(tmp_path / "cache")]

    def run(_: int) -> str:
        return subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=True).stdout

    with ThreadPoolExecutor(4) as pool:
        paths = set(pool.map(run, range(4)))
    assert len(paths) == 1
    assert not [file for file in Path(paths.pop().strip()).iterdir() if file.name.startswith(".")]
