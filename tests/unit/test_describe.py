"""`earshot data list` and `data describe`: the numbers are right, missing files are named, the picture is drawn."""

from pathlib import Path

import pyarrow as pa
import pytest

from models.errors import WrongTable
from models.storage import open_store
from pipelines.datasets.readers import READERS, read_dataset
from pipelines.datasets.table import DataSet
from pipelines.describe import describe
from tests.integration.test_command_line import earshot
from tests.sounds import encode, tone
from tests.unit.test_plan import rows

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """Five rows: two labels, two folds, a file that is not there and one that is no sound."""
    for name, seconds in (("a", 1), ("b", 2), ("c", 4)):
        (tmp_path / f"{name}.wav").write_bytes(encode(tone(440, seconds)))
    (tmp_path / "text.wav").write_text("no sound")
    rows = ["a.wav,dog,1", "b.wav,dog;cat,1", "c.wav,dog,2", "text.wav,cat,2", "gone.wav,dog,"]
    (tmp_path / "manifest.csv").write_text("\n".join(["path,labels,fold", *rows]))
    return tmp_path


def test_rows_labels_folds_and_durations_are_counted(manifest: Path) -> None:
    counted = describe(read_dataset("manifest", str(manifest)))
    assert counted.rows == 5
    assert counted.labels == {"dog": 4, "cat": 2}
    assert list(counted.labels) == ["dog", "cat"]
    assert (counted.folds, counted.splits) == ({"1": 2, "2": 2}, {})
    assert counted.hours == pytest.approx(7 / 3600)
    assert counted.quantiles_s["median"] == 2
    assert counted.quantiles_s["longest"] == 4
    assert counted.unread == ["text.wav", "gone.wav"]


def test_a_row_counts_once_for_each_of_its_labels(manifest: Path) -> None:
    (manifest / "manifest.csv").write_text("path,labels\na.wav,dog;cat;dog\nb.wav,cat\nc.wav,\n")
    counted = describe(read_dataset("manifest", str(manifest)))
    assert counted.labels == {"cat": 2, "dog": 1}
    assert counted.unlabelled == 1


def test_a_row_is_as_long_as_the_part_that_it_names(manifest: Path) -> None:
    (manifest / "manifest.csv").write_text("path,start_s,end_s\nc.wav,0.5,1\nc.wav,1,\n")
    assert describe(read_dataset("manifest", str(manifest))).durations_s.tolist() == [0.5, 3.0]


def test_a_part_that_would_end_before_it_begins_has_no_length(manifest: Path) -> None:
    (manifest / "manifest.csv").write_text("path,start_s,end_s\na.wav,,\nb.wav,5,\nc.wav,3,2\n")
    counted = describe(read_dataset("manifest", str(manifest)))
    assert counted.durations_s.tolist() == [1.0]
    assert counted.unread == ["b.wav", "c.wav"]


def test_records_of_features_are_as_long_as_their_segments(tmp_path: Path) -> None:
    own = {"start_time_seconds": [30.0, 0.0], "end_time_seconds": [40.0, 7.5], "record_offset": [12, 2000]}
    table = rows("eval/00.tfrecord", "eval/00.tfrecord", **{name: pa.array(values) for name, values in own.items()})
    counted = describe(DataSet("audioset-features", open_store(tmp_path), table))
    assert counted.durations_s.tolist() == [10.0, 7.5]
    assert counted.unread == []


def test_folders_are_classes_and_folds_are_in_the_order_of_numbers(tmp_path: Path) -> None:
    for name in ("dog/a.wav", "dog/b.wav", "cat/c.wav"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(encode(tone(440, 0.5)))
    (tmp_path / "cat" / "broken.flac").write_bytes(b"no sound")
    counted = describe(read_dataset("folder", str(tmp_path)))
    assert (counted.labels, counted.folds, counted.unread) == ({"dog": 2, "cat": 2}, {}, ["cat/broken.flac"])
    assert counted.durations_s.tolist() == [0.5, 0.5, 0.5]
    numbered = rows("dog/a.wav", "dog/a.wav", "dog/a.wav", fold=pa.array([10, 2, 10], pa.int32()))
    assert list(describe(DataSet("manifest", open_store(tmp_path), numbered)).folds.items()) == [("2", 1), ("10", 2)]


@pytest.mark.parametrize(("png", "says"), [("none/a.png", "there is no folder"), (".", "is a folder")])
def test_a_picture_that_cannot_be_written_is_one_line_before_the_work(manifest: Path, png: str, says: str) -> None:
    shown = earshot("data", "describe", "manifest", "--root", manifest, "--png", manifest / png)
    assert (shown.returncode, shown.stdout) == (2, "")
    [line] = shown.stderr.splitlines()
    assert "--png" in line
    assert says in line
    assert not (manifest / "none").exists()


def test_a_set_of_which_no_length_is_known_has_no_quantiles(manifest: Path) -> None:
    (manifest / "manifest.csv").write_text("path\ngone.wav\n")
    counted = describe(read_dataset("manifest", str(manifest)))
    assert (counted.quantiles_s, counted.hours, counted.labels) == ({}, 0.0, {})


def test_the_verb_prints_and_draws(manifest: Path) -> None:
    picture = manifest / "counts.png"
    shown = earshot(
        "data", "describe", "manifest", "--root", manifest, "--png", picture, "--where", "fold == 1 or fold == 2"
    )
    assert shown.returncode == 0, shown.stderr
    assert "4 rows" in shown.stdout
    assert "files that are not there, cannot be read, or end before the part that is meant: 1: text.wav" in shown.stdout
    assert picture.read_bytes().startswith(PNG)
    assert not list(manifest.glob(".*"))


def test_a_folder_that_is_no_such_set_is_one_line(tmp_path: Path) -> None:
    shown = earshot("data", "describe", "esc50", "--root", tmp_path)
    assert shown.returncode == 2
    [line] = shown.stderr.splitlines()
    assert "meta/esc50.csv is not there" in line
    with pytest.raises(WrongTable):
        read_dataset("esc50", str(tmp_path))


def test_every_kind_is_listed_and_fits_a_narrow_window() -> None:
    shown = earshot("data", "list", COLUMNS="80")
    assert shown.returncode == 0
    assert "…" not in shown.stdout
    for name in READERS:
        assert name in shown.stdout
