"""Readers of tables: each data set as it lies on disk -> whole rows."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from models.errors import WrongTable
from pipelines.datasets.readers import read_dataset
from pipelines.datasets.table import COMMON


def read(kind: str, root: Path) -> list[dict[str, Any]]:
    """The rows; every reader gives the common columns first."""
    table = read_dataset(kind, str(root)).table
    assert table.schema.names[: len(COMMON)] == COMMON.names
    assert table.select(COMMON.names).schema.types == COMMON.types
    return table.to_pylist()


def row(path: str, *labels: str, **columns: object) -> dict[str, Any]:
    """A row as it is expected: common columns that are not given are null, the recording is the path."""
    empty = {"fold": None, "split": None, "recording": path, "start_s": None, "end_s": None}
    return {"path": path, "labels": list(labels)} | empty | columns


def lay(root: Path, files: dict[str, str]) -> Path:
    """Writes text files below a folder."""
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content, encoding="utf-8")
    return root


ESC50 = """\
filename,fold,target,category,esc10,src_file,take
1-100032-A-0.wav,1,0,dog,True,100032,A
5-9032-B-12.wav,5,12,crackling_fire,False,009032,B
"""
URBANSOUND = """\
class,slice_file_name,fsID,start,end,salience,fold,classID
dog_bark,100032-3-0-0.wav,100032,0.0,0.317551,1,5,3
siren,24074-8-0-0.wav,024074,5.5,9.5,2,10,8
"""
BIRDS = """\
primary_label,secondary_labels,type,latitude,longitude,scientific_name,common_name,author,license,rating,url,filename
amerob,"['houspa', 'amerob']","['call', 'song']",45.5,-120,Turdus migratorius,American Robin,NA,CC BY,4.5,u/1,amerob/XC1.ogg
houspa,[],['call'],,,Passer domesticus,House Sparrow,"O'Neil, Ann",CC BY,0.0,u/2,houspa/XC2.ogg
houspa,[''],[''],1,2,Passer domesticus,House Sparrow,B,CC BY,1,u/3,houspa/XC3.ogg
"""
BIRDS_2021 = """\
primary_label,secondary_labels,type,latitude,longitude,scientific_name,common_name,author,date,filename,license,rating,time,url
acafly,['amegfi'],['begging call'],35.4,-88.3,Empidonax virescens,Acadian Flycatcher,M,2012-08-12,XC109605.ogg,L,2.5,09:30,u
acafly,[],['song'],9.1,-79.6,Empidonax virescens,Acadian Flycatcher,R,0000-00-00,XC11209.ogg,L,5.0,?,u
"""
SINGAPURA = """\
filename,sensor_id,town,year,month,date,day,hour,minute,second
[b827][2020-08-03]_1.5.flac,b827,West 1,2020,8,3,Mon,9,4,5
[b827][2020-08-03]_2.flac,b827,West 1,2020,8,3,Mon,10,4,5
[b828][2020-08-04]_3.flac,b828,East 2,2020,8,4,Tue,0,0,0
"""
SONYC = """\
split,sensor_id,audio_filename,annotator_id,borough,latitude,longitude,week,day,hour,1-1_small-engine_presence,\
1-1_small-engine_proximity,2-X_other-unknown-impact_presence,1_engine_presence,7_human-voice_presence
train,12,00_1.wav,101,1,40.7,-73.9,12,3,4,1,near,0,1,0
train,12,00_1.wav,102,1,40.7,-73.9,12,3,4,-1,-1,0,0,0
train,12,00_1.wav,103,1,40.7,-73.9,12,3,4,0,-1,0,0,1
test,7,00_2.wav,101,3,40.8,-73.8,13,0,23,1,far,1,1,0
test,7,00_2.wav,-4,3,40.8,-73.8,13,0,23,1,far,1,1,1
test,7,00_2.wav,0,3,40.8,-73.8,13,0,23,0,-1,0,0,1
"""


def test_esc50_keeps_folds_and_recordings(tmp_path: Path) -> None:
    assert read("esc50", lay(tmp_path, {"meta/esc50.csv": ESC50})) == [
        row(
            "audio/1-100032-A-0.wav", "dog", fold=1, recording="100032",
            filename="1-100032-A-0.wav", target=0, category="dog", esc10=True, src_file="100032", take="A",
        ),
        row(
            "audio/5-9032-B-12.wav", "crackling_fire", fold=5, recording="009032",
            filename="5-9032-B-12.wav", target=12, category="crackling_fire", esc10=False, src_file="009032", take="B",
        ),
    ]  # fmt: skip


def test_the_real_esc10(shared: Path) -> None:
    dataset = read_dataset("esc50", str(shared / "data" / "esc10"))
    table = dataset.table
    assert len(table) == 400
    assert {x["values"]: x["counts"] for x in table["fold"].value_counts().to_pylist()} == dict.fromkeys(
        range(1, 6), 80
    )
    labels = table["labels"].combine_chunks().flatten().value_counts().to_pylist()
    assert [x["counts"] for x in labels] == [40] * 10
    assert all(dataset.store.exists(path) for path in table["path"].to_pylist())


def test_urbansound8k_by_header_and_its_start_is_no_place_in_the_clip(tmp_path: Path) -> None:
    assert read("urbansound8k", lay(tmp_path, {"metadata/UrbanSound8K.csv": URBANSOUND})) == [
        row(
            "audio/fold5/100032-3-0-0.wav", "dog_bark", fold=5, recording="100032", slice_file_name="100032-3-0-0.wav",
            fsID="100032", start=0.0, end=0.317551, salience=1, classID=3, **{"class": "dog_bark"},
        ),
        row(
            "audio/fold10/24074-8-0-0.wav", "siren", fold=10, recording="024074", slice_file_name="24074-8-0-0.wav",
            fsID="024074", start=5.5, end=9.5, salience=2, classID=8, **{"class": "siren"},
        ),
    ]  # fmt: skip


def test_singapura_has_events_with_times_and_finds_labels_cut_at_the_first_dot(tmp_path: Path) -> None:
    files = {
        "labelled_metadata_public.csv": SINGAPURA,
        "labels/[b827][2020-08-03]_1.csv": "annotator,onset,offset,event_label\nA,2.5,4.0,car\nA,0.5,9.0,wind\nA,6,7,car\n",
        "labels/[b827][2020-08-03]_2.csv": "annotator,onset,offset,event_label\n",
        "clips/[b827][2020-08-03]_1.5.flac": "",
    }
    first, second, third = read("singapura", lay(tmp_path, files))
    assert first == row(
        "clips/[b827][2020-08-03]_1.5.flac", "wind", "car", recording="[b827][2020-08-03]_1.5",
        filename="[b827][2020-08-03]_1.5.flac", sensor_id="b827", town="West 1", year=2020, month=8, date=3, day="Mon",
        hour=9, minute=4, second=5,
        events=[
            {"label": "wind", "start_s": 0.5, "end_s": 9.0},
            {"label": "car", "start_s": 2.5, "end_s": 4.0},
            {"label": "car", "start_s": 6.0, "end_s": 7.0},
        ],
    )  # fmt: skip
    assert (second["labels"], second["events"]) == (third["labels"], third["events"]) == ([], [])
    assert third["path"] == "[b828][2020-08-04]_3.flac"  # not there: as the table names it


def test_fsd50k_joins_dev_and_eval(tmp_path: Path) -> None:
    dev = 'fname,labels,mids,split,note\n64760,"Bark,Dog","/m/05tny_,/m/0bt9lr",train,x\n99,Dog,/m/0bt9lr,val,\n'
    held_out = 'fname,labels,mids\n37199,"Rain , Water",/m/06mb1\n12,,\n'
    files = {"FSD50K.ground_truth/dev.csv": dev, "FSD50K.ground_truth/eval.csv": held_out}
    with pytest.raises(WrongTable, match=r"eval\.csv, row 3, column 'labels': no value"):
        read("fsd50k", lay(tmp_path, files))
    files["FSD50K.ground_truth/eval.csv"] = held_out.replace("12,,\n", "")
    dog = {"mids": ["/m/0bt9lr"], "fname": "99", "note": None}
    assert read("fsd50k", lay(tmp_path, files)) == [
        row(
            "FSD50K.dev_audio/64760.wav", "Bark", "Dog", split="train", recording="64760", fname="64760",
            mids=["/m/05tny_", "/m/0bt9lr"], note="x",
        ),
        row("FSD50K.dev_audio/99.wav", "Dog", split="val", recording="99", **dog),
        row(
            "FSD50K.eval_audio/37199.wav", "Rain", "Water", split="test", recording="37199", fname="37199",
            mids=["/m/06mb1"], note=None,
        ),
    ]  # fmt: skip
    (tmp_path / "FSD50K.ground_truth/eval.csv").unlink()
    assert [clip["split"] for clip in read("fsd50k", tmp_path)] == ["train", "val"]


def test_birdclef_reads_lists_and_keeps_namibia(tmp_path: Path) -> None:
    first, second, third = read("birdclef", lay(tmp_path, {"train_metadata.csv": BIRDS}))
    assert first == row(
        "train_audio/amerob/XC1.ogg", "amerob", "houspa", recording="amerob/XC1.ogg", primary_label="amerob",
        secondary_labels=["houspa", "amerob"], type=["call", "song"], latitude=45.5, longitude=-120.0,
        scientific_name="Turdus migratorius", common_name="American Robin", author="NA", license="CC BY", rating=4.5,
        url="u/1", filename="amerob/XC1.ogg",
    )  # fmt: skip
    assert (second["latitude"], second["author"], second["labels"]) == (None, "O'Neil, Ann", ["houspa"])
    assert (third["labels"], third["secondary_labels"], third["type"]) == (["houspa"], [], [])


def test_birdclef_2021_has_other_columns_in_another_order(tmp_path: Path) -> None:
    first, second = read("birdclef", lay(tmp_path, {"train_metadata.csv": BIRDS_2021}))
    assert first == row(
        "train_audio/XC109605.ogg", "acafly", "amegfi", recording="XC109605.ogg", primary_label="acafly",
        secondary_labels=["amegfi"], type=["begging call"], latitude=35.4, longitude=-88.3,
        scientific_name="Empidonax virescens", common_name="Acadian Flycatcher", author="M", date="2012-08-12",
        filename="XC109605.ogg", license="L", rating=2.5, time="09:30", url="u",
    )  # fmt: skip
    assert (second["date"], second["time"]) == ("0000-00-00", "?")


def test_xeno_canto_reads_pages_once_and_leaves_out_what_is_kept_back(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    robin = {"id": "1", "gen": "Turdus", "sp": "merula", "cnt": "Italy", "lat": "41.9", "lng": None, "length": "1:05"}
    robin |= {"file-name": "XC1.mp3", "also": ["Parus major", ""], "q": "A"}
    owl = {"id": 2, "gen": "Sonus", "sp": "", "lat": "?", "length": "1:00:01", "file-name": "XC2.mp3"}
    secret = {"id": "3", "gen": "Otis", "sp": "tarda", "length": "", "file-name": ""}
    pages = {"1.json": {"recordings": [robin, secret]}, "deep/2.json": {"numPages": 2, "recordings": [robin, owl]}}
    lay(tmp_path, {name: json.dumps(page) for name, page in pages.items()})
    assert read("xeno-canto", tmp_path) == [
        row(
            "XC1.mp3", "Turdus merula", recording="1", duration_s=65.0, id="1", gen="Turdus", sp="merula", cnt="Italy",
            lat=41.9, lng=None, length="1:05", also='["Parus major", ""]', q="A", **{"file-name": "XC1.mp3"},
        ),
        row(
            "XC2.mp3", "Sonus", recording="2", duration_s=3601.0, id="2", gen="Sonus", sp="", cnt=None, lat=None,
            lng=None, length="1:00:01", also=None, q=None, **{"file-name": "XC2.mp3"},
        ),
    ]  # fmt: skip
    assert "1 of 3 recordings name no file" in caplog.text


def test_sonyc_clips_have_what_was_agreed_or_else_what_half_of_the_annotators_heard(tmp_path: Path) -> None:
    lay(tmp_path, {"annotations.csv": SONYC, "audio-2/00_2.wav": ""})
    assert read("sonyc-ust", tmp_path) == [
        # one of three heard an engine; of the two who looked for a small one, one heard it
        row(
            "audio/00_1.wav", split="train", recording="12", sensor_id="12", audio_filename="00_1.wav", borough=1,
            latitude=40.7, longitude=-73.9, week=12, day=3, hour=4, fine_labels=["small-engine"],
        ),
        row(
            "audio-2/00_2.wav", "human-voice", split="test", recording="7", sensor_id="7", audio_filename="00_2.wav",
            borough=3, latitude=40.8, longitude=-73.8, week=13, day=0, hour=23, fine_labels=[],
        ),
    ]  # fmt: skip


def test_a_folder_per_class(tmp_path: Path) -> None:
    lay(tmp_path, dict.fromkeys(["dog/1.wav", "dog/deep/2.FLAC", "cat/3.ogg", "loose.mp3", "cat/notes.txt"], ""))
    assert read("folder", tmp_path) == [
        row("cat/3.ogg", "cat"),
        row("dog/1.wav", "dog"),
        row("dog/deep/2.FLAC", "dog"),
        row("loose.mp3"),
    ]


MANIFEST = """\
country,labels,path,fold,start_s,split
NA, dog ;; big dog,/data/a.wav,2,1,train
IT,,s3://bucket/b.wav?region=eu-south-1,,,
"""


def test_a_manifest_keeps_its_paths_and_its_own_columns(tmp_path: Path) -> None:
    lay(tmp_path, {"manifest.csv": "\ufeff" + MANIFEST})  # with the mark that Excel puts first
    expected = [
        row("/data/a.wav", "dog", "big dog", fold=2, start_s=1.0, split="train", country="NA"),
        row("s3://bucket/b.wav?region=eu-south-1", country="IT"),
    ]
    assert read("manifest", tmp_path) == read("manifest", tmp_path / "manifest.csv") == expected


LISTS = [["dog", "big dog"], []]


@pytest.mark.parametrize(
    "labels",
    [
        pa.array(LISTS),
        pa.array(LISTS, pa.large_list(pa.large_string())),  # as polars writes lists
        pa.array(["dog; big dog", ""]),
        pa.array(["dog; big dog", None], pa.large_string()),
        pa.array(["dog; big dog", None]).dictionary_encode(),
    ],
)
def test_a_parquet_manifest_has_labels_as_lists_or_text(tmp_path: Path, labels: pa.Array) -> None:
    table = pa.table(
        {"path": ["a.wav", "b.wav"], "labels": labels, "fold": pa.array([1, 2], pa.int64()), "gain": [0.5, 1]}
    )
    pq.write_table(table, tmp_path / "mine.parquet")
    assert read("manifest", tmp_path / "mine.parquet") == [
        row("a.wav", "dog", "big dog", fold=1, gain=0.5),
        row("b.wav", fold=2, gain=1.0),
    ]


def test_numbers_are_labels_too(tmp_path: Path) -> None:
    pq.write_table(pa.table({"path": ["a.wav"], "labels": [7]}), tmp_path / "manifest.parquet")
    assert read("manifest", tmp_path) == [row("a.wav", "7")]


def test_a_million_rows_are_read(tmp_path: Path) -> None:
    lines = "\n".join(f"clips/{number}.wav,dog;cat,{number % 5}" for number in range(1_000_000))
    lay(tmp_path, {"manifest.csv": f"path,labels,fold\n{lines}\n"})
    table = read_dataset("manifest", str(tmp_path)).table
    assert len(table) == 1_000_000
    assert table.slice(999_999).to_pylist() == [row("clips/999999.wav", "dog", "cat", fold=4)]
