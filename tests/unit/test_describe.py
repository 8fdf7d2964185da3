"""`earshot data list` and `data describe`: the numbers are right, missing files are named, the picture is drawn."""

from pathlib import Path

import pytest

from models.errors import WrongTable
from pipelines.datasets.readers import READERS, read_dataset
from pipelines.describe import describe
from tests.integration.test_command_line import earshot
from tests.sounds import encode, tone

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
    assert "1 files are not there or cannot be read: text.wav" in shown.stdout
    assert picture.read_bytes().startswith(PNG)


def test_a_folder_that_is_no_such_set_is_one_line(tmp_path: Path) -> None:
    shown = earshot("data", "describe", "esc50", "--root", tmp_path)
    assert shown.returncode == 2
    [line] = shown.stderr.splitlines()
    assert "meta/esc50.csv is not there" in line
    with pytest.raises(WrongTable):
        read_dataset("esc50", str(tmp_path))


def test_every_kind_is_listed() -> None:
    shown = earshot("data", "list")
    assert shown.returncode == 0
    for name in READERS:
        assert name in shown.stdout
