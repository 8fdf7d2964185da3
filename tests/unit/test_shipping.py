"""Files that go along with a job: whole, in their place, and only where they are missing."""

import os
from pathlib import Path

from models.bundle import CARD, load_bundle
from pipelines.shipping import are_here, pack_files, unpack_files


def test_a_model_that_is_gone_comes_back_whole_and_its_card_last(tone_tagger: Path, tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "model"
    contents = {str(folder / Path(name).name): content for name, content in pack_files([tone_tagger]).items()}
    assert Path(list(contents)[-1]).name == CARD
    assert not are_here(contents)
    unpack_files(contents)
    assert are_here(contents)
    assert load_bundle(folder).card == load_bundle(tone_tagger).card
    assert len(os.listdir(folder)) == len(contents)


def test_a_file_that_is_there_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"here")
    unpack_files({str(tmp_path / "a"): b"there", str(tmp_path / "b"): b"new"})
    assert ((tmp_path / "a").read_bytes(), (tmp_path / "b").read_bytes()) == (b"here", b"new")


def test_a_single_file_is_packed_like_a_folder(tmp_path: Path) -> None:
    (tmp_path / "pca.npz").write_bytes(b"numbers")
    assert pack_files([tmp_path / "pca.npz"]) == {str(tmp_path / "pca.npz"): b"numbers"}
