"""Tables of data sets with something wrong: what it is, is said in one error that names the file, the row and the column."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from models.errors import BadOption, WrongTable
from pipelines.datasets.readers import READERS, read_dataset
from tests.unit.test_datasets import BIRDS, ESC50, MANIFEST, SINGAPURA, SONYC, URBANSOUND, lay, read

TABLES = {
    "esc50": "meta/esc50.csv",
    "urbansound8k": "metadata/UrbanSound8K.csv",
    "singapura": "labelled_metadata_public.csv",
    "fsd50k": "FSD50K.ground_truth/dev.csv",
    "birdclef": "train_metadata.csv",
    "sonyc-ust": "annotations.csv",
    "manifest": "manifest.csv",
}

HEADERS = {
    "esc50": ESC50,
    "urbansound8k": URBANSOUND,
    "singapura": SINGAPURA,
    "fsd50k": "fname,labels,mids,split",
    "birdclef": BIRDS,
    "sonyc-ust": SONYC,
    "manifest": MANIFEST,
}


@pytest.mark.parametrize("kind", TABLES)
def test_a_table_without_rows_is_a_data_set_without_rows(kind: str, tmp_path: Path) -> None:
    header = HEADERS[kind].split("\n", 1)[0] + "\n"
    assert read(kind, lay(tmp_path, {TABLES[kind]: header})) == []


@pytest.mark.parametrize("kind", READERS)
def test_a_missing_table_is_named_with_the_layout_that_is_expected(kind: str, tmp_path: Path) -> None:
    with pytest.raises(WrongTable) as raised:
        read(kind, tmp_path)
    assert str(tmp_path) in str(raised.value)
    assert TABLES.get(kind, "") in str(raised.value)
    assert any(word in str(raised.value) for word in ("expected is", "expected are", "put one there"))


@pytest.mark.parametrize("kind", TABLES)
def test_a_missing_column_is_named_with_those_that_are_there(kind: str, tmp_path: Path) -> None:
    lay(tmp_path, {TABLES[kind]: "colour,taste\nred,sweet\n"})
    with pytest.raises(WrongTable, match=rf"{TABLES[kind]}: no column '.+'; there are: colour, taste"):
        read(kind, tmp_path)


@pytest.mark.parametrize(
    ("kind", "content", "said"),
    [
        ("esc50", ESC50.replace(",5,12,", ",five,12,"), "row 3, column 'fold': 'five' is no int32"),
        ("esc50", ESC50.replace(",crackling_fire", ","), "row 3, column 'category': no value"),
        ("esc50", ESC50.replace(",take", ",fold"), "the column 'fold' is there twice"),
        ("esc50", ESC50 + "1-2-A-3.wav,1\n", "Row #4: Expected 7 columns, got 2"),
        ("esc50", "", "Empty CSV file"),
        ("urbansound8k", URBANSOUND.replace(",1,5,3", ",1,5.5,3"), "row 2, column 'fold': 5.5 is no int32"),
        ("birdclef", BIRDS.replace("[],", "none,"), r"row 3, column 'secondary_labels': 'none' is no list"),
        ("birdclef", BIRDS.replace("[],", "__import__('os').getcwd(),"), "column 'secondary_labels'.* is no list"),
        ("birdclef", BIRDS.replace("[],", "[" * 9999 + ","), "row 3, column 'secondary_labels'"),
        ("sonyc-ust", SONYC.replace(",101,3", ",bob,3"), "row 5, column 'annotator_id': 'bob' is no int64"),
        ("sonyc-ust", SONYC.replace("-1,0,0,1\n", "-1,0,yes,1\n"), "row 4, column '1_engine_presence': 'yes' is no double"),
        ("manifest", MANIFEST.replace("/data/a.wav", ""), "row 2, column 'path': no value"),
        ("manifest", MANIFEST.replace(",2,1,", ",2,early,"), "row 2, column 'start_s': 'early' is no double"),
        ("manifest", MANIFEST.replace(",2,1,", ",2,2020-01-01,"), r"row 2, column 'start_s': datetime\.date.* is no double"),
    ],
)  # fmt: skip
def test_a_bad_value_is_named_with_its_row_and_column(kind: str, content: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(WrongTable, match=said) as raised:
        read(kind, lay(tmp_path, {TABLES[kind]: content}))
    assert str(tmp_path / TABLES[kind]) in str(raised.value)


def test_text_in_another_encoding_is_named(tmp_path: Path) -> None:
    (tmp_path / "manifest.csv").write_bytes("path,labels\na.wav,Häher\n".encode("latin-1"))
    with pytest.raises(WrongTable, match=r"manifest\.csv.*UTF8"):
        read("manifest", tmp_path)


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ("annotator,onset,offset\nA,1,2\n", "_2.csv: no column 'event_label'"),
        ("annotator,onset,offset,event_label\nA,1,soon,car\n", "_2.csv, row 2, column 'offset': 'soon' is no double"),
        ("annotator,onset,offset,event_label\nA,1,2,car\nA,,2,car\n", "_2.csv, row 3, column 'onset': no value"),
    ],
)
def test_singapuras_label_files_are_checked_too(labels: str, said: str, tmp_path: Path) -> None:
    lay(tmp_path, {"labelled_metadata_public.csv": SINGAPURA, "labels/[b827][2020-08-03]_2.csv": labels})
    with pytest.raises(WrongTable, match=said):
        read("singapura", tmp_path)


@pytest.mark.parametrize(
    ("page", "said"),
    [
        ("{", "is no page"),
        ("[]", "is no page"),
        ('{"recordings": [3]}', "is no page"),
        ('{"recordings": [{"id": "1", "gen": "Turdus", "file-name": "a.mp3"}]}', "recording 0: no 'sp'"),
    ],
)
def test_a_page_that_is_none_of_xeno_cantos_is_named(page: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(WrongTable, match=rf"page1\.json.*{said}"):
        read("xeno-canto", lay(tmp_path, {"page1.json": page}))


def test_a_damaged_parquet_manifest_is_named(tmp_path: Path) -> None:
    pq.write_table(pa.table({"path": [f"{number}.wav" for number in range(999)]}), tmp_path / "manifest.parquet")
    whole = (tmp_path / "manifest.parquet").read_bytes()
    for content in (
        b"path\n",
        whole[:200],
        whole[:20] + b"\xff" * 400 + whole[420:],
        whole[:-40] + b"\xff" * 32 + whole[-8:],
    ):
        (tmp_path / "manifest.parquet").write_bytes(content)
        with pytest.raises(WrongTable, match=r"manifest\.parquet is no Parquet file that can be read"):
            read("manifest", tmp_path)


def test_columns_of_extension_types_are_refused(tmp_path: Path) -> None:
    pictures = pa.FixedShapeTensorArray.from_numpy_ndarray(np.zeros((1, 2, 2)))
    table = pa.table({"path": ["a.wav"], "picture": pictures})
    pq.write_table(table, tmp_path / "manifest.parquet")
    with pytest.raises(WrongTable, match="extension type"):
        read("manifest", tmp_path)


def test_an_unknown_kind_is_answered_with_the_known_ones() -> None:
    with pytest.raises(BadOption, match=r"'imagenet'; there are: esc50, .*manifest"):
        read_dataset("imagenet", "/tmp")
