"""AudioSet's two readers: segments joined with clips, and the published features with their framing, checksums and embeddings."""

import struct
from pathlib import Path

import google_crc32c
import numpy as np
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from cluster.settings import Settings
from models.errors import WrongTable
from models.storage import open_store
from pipelines.datasets.audioset_features import read_embedding
from pipelines.datasets.readers import read_dataset
from pipelines.driver import Workers
from pipelines.featurize import StoredWork
from pipelines.jobs import featurize
from tests.unit.test_datasets import lay, read, row

CLASSES = 'index,mid,display_name\n0,/m/09x0r,Speech\n72,/m/0bt9lr,"Dog, barking"\n'
SEGMENTS = """\
# Segments csv created on Sun Mar  5 10:54:31 2017
# num_ytids=3, num_segs=3, num_unique_labels=4, num_positive_labels=5
# YTID, start_seconds, end_seconds, positive_labels
--4gqARaEJE, 0.000, 10.000, "/m/09x0r,/m/0bt9lr,/t/dd00125"
0123456789_, 30.000, 40.500, "/m/09x0r"
gone_-gone0, 5.000, 15.000, "/m/0bt9lr"
"""


def encode_varint(number: int) -> bytes:
    """A protobuf varint."""
    low, rest = number & 0x7F, number >> 7
    return bytes([low | 0x80]) + encode_varint(rest) if rest else bytes([low])


def encode_field(number: int, content: bytes) -> bytes:
    """A protobuf field that is a message, a string or bytes."""
    return encode_varint(number << 3 | 2) + encode_varint(len(content)) + content


def encode_entry(name: str, value: bytes) -> bytes:
    """An entry of a protobuf map."""
    return encode_field(1, encode_field(1, name.encode()) + encode_field(2, value))


def encode_example(video: str, start_s: float, end_s: float, labels: list[int], embeddings: NDArray[np.uint8]) -> bytes:
    """A SequenceExample as AudioSet publishes them: a Feature's field 1 is a list of bytes, 2 of floats, 3 of integers."""
    context = encode_entry("video_id", encode_field(1, encode_field(1, video.encode())))
    for name, time_s in (("start_time_seconds", start_s), ("end_time_seconds", end_s)):
        context += encode_entry(name, encode_field(2, encode_field(1, struct.pack("<f", time_s))))
    context += encode_entry("labels", encode_field(3, encode_field(1, b"".join(map(encode_varint, labels)))))
    features = b"".join(encode_field(1, encode_field(1, encode_field(1, patch.tobytes()))) for patch in embeddings)
    return encode_field(1, context) + encode_field(2, encode_entry("audio_embedding", features))


def frame(record: bytes) -> bytes:
    """A TFRecord: length, its masked CRC-32C, the record, its masked CRC-32C."""
    length = struct.pack("<Q", len(record))
    return length + masked_crc(length) + record + masked_crc(record)


def masked_crc(content: bytes) -> bytes:
    """Four bytes, as tensorflow/core/lib/hash/crc32c.h masks them."""
    crc = google_crc32c.value(content)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


RANDOM = np.random.default_rng(4)
EMBEDDINGS = {"aaaaaaaaaaa": 10, "bbbbbbbbbbb": 7, "ccccccccccc": 12}  # seconds
PATCHES = {video: RANDOM.integers(0, 256, (count, 128), np.uint8) for video, count in EMBEDDINGS.items()}
RECORDS = [
    frame(encode_example("aaaaaaaaaaa", 30, 40, [0, 72], PATCHES["aaaaaaaaaaa"])),
    frame(encode_example("bbbbbbbbbbb", 0, 7.5, [500], PATCHES["bbbbbbbbbbb"])),
    frame(encode_example("ccccccccccc", 5, 17, [72], PATCHES["ccccccccccc"])),
]


@pytest.fixture
def features(tmp_path: Path) -> Path:
    """Three records in two files, as the archive holds them."""
    root = lay(tmp_path / "features", {"class_labels_indices.csv": CLASSES})
    for folder, records in {"bal_train": RECORDS[:2], "eval": RECORDS[2:]}.items():
        (root / folder).mkdir()
        (root / folder / "00.tfrecord").write_bytes(b"".join(records))
    return root


def test_segments_are_joined_with_the_clips_that_are_there(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    files = {
        "class_labels_indices.csv": CLASSES,
        "eval_segments.csv": SEGMENTS,
        "balanced_train_segments.csv": "".join(SEGMENTS.splitlines(keepends=True)[:3]),
    }
    clips = {"clips/--4gqARaEJE.wav": "", "clips/0123456789__30000_40500.flac": "", "clips/0123456789_.json": ""}
    first, second = read("audioset", lay(tmp_path, files | clips))
    assert first == row(
        "clips/--4gqARaEJE.wav", "Speech", "Dog, barking", "/t/dd00125", split="eval", recording="--4gqARaEJE",
        YTID="--4gqARaEJE", start_seconds=0.0, end_seconds=10.0, positive_labels="/m/09x0r,/m/0bt9lr,/t/dd00125",
        mids=["/m/09x0r", "/m/0bt9lr", "/t/dd00125"],
    )  # fmt: skip
    assert (second["path"], second["end_seconds"]) == ("clips/0123456789__30000_40500.flac", 40.5)
    assert "1 of 3 segments have no clip here" in caplog.text


def test_segments_without_a_class_table_have_mids_for_labels(tmp_path: Path) -> None:
    lay(tmp_path, {"eval_segments.csv": SEGMENTS, "0123456789_.ogg": ""})
    assert [clip["labels"] for clip in read("audioset", tmp_path)] == [["/m/09x0r"]]


@pytest.mark.parametrize(
    ("table", "said"),
    [
        (SEGMENTS.replace("YTID,", "id,"), "no column 'YTID'"),
        (SEGMENTS.split("\n", 3)[3], "no column 'YTID'"),
        (SEGMENTS.replace("40.500", "later"), "row 5, column 'end_seconds': 'later' is no double"),
        (SEGMENTS.replace("30.000", ""), "row 5, column 'start_seconds': no value"),
        (SEGMENTS + "last, 1.0\n", "Row #7: Expected 4 columns, got 2"),
        ("", "no column|Empty"),
    ],
)
def test_what_is_wrong_with_a_table_of_segments_is_named(table: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(WrongTable, match=rf"eval_segments\.csv.*({said})"):
        read("audioset", lay(tmp_path, {"eval_segments.csv": table}))


def test_a_class_table_without_names_is_refused(tmp_path: Path) -> None:
    lay(tmp_path, {"eval_segments.csv": SEGMENTS, "class_labels_indices.csv": "index,mid\n0,/m/09x0r\n"})
    with pytest.raises(WrongTable, match=r"class_labels_indices\.csv: no column 'display_name'"):
        read("audioset", tmp_path)


def test_features_are_rows_that_say_where_their_records_lie(features: Path) -> None:
    rows = read("audioset-features", features)
    first, second, third = rows
    assert first == row(
        "bal_train/00.tfrecord", "Speech", "Dog, barking", split="bal_train", recording="aaaaaaaaaaa",
        video_id="aaaaaaaaaaa", start_time_seconds=30.0, end_time_seconds=40.0, record_offset=12,
        record_length=len(RECORDS[0]) - 16,
    )  # fmt: skip
    assert (second["labels"], second["record_offset"]) == (["500"], len(RECORDS[0]) + 12)
    assert (third["split"], third["labels"]) == ("eval", ["Dog, barking"])
    for record in rows:
        with (features / record["path"]).open("rb") as stream:
            embedding = read_embedding(stream, record["record_offset"], record["record_length"])
        np.testing.assert_array_equal(embedding, PATCHES[record["video_id"]])


def flip(content: bytes, position: int) -> bytes:
    """The bytes with one bit turned over."""
    return content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :]


WHOLE = b"".join(RECORDS[:2])
SECOND = len(RECORDS[0])


@pytest.mark.parametrize(
    ("content", "at"),
    [
        (WHOLE[:-1], SECOND),
        (WHOLE[: SECOND + 5], SECOND),
        (flip(WHOLE, SECOND), SECOND),  # the length
        (flip(WHOLE, SECOND + 100), SECOND),  # the record
        (flip(WHOLE, len(WHOLE) - 1), SECOND),  # its checksum
        (RECORDS[0] + frame(b"\xff\xff no message"), SECOND + 12),
        (RECORDS[0] + frame(encode_field(1, b"")), SECOND + 12),  # a message without a video
        (b"text, and more than twelve bytes of it", 0),
    ],
)
def test_a_damaged_record_is_named_by_file_and_byte(content: bytes, at: int, features: Path) -> None:
    (features / "eval" / "00.tfrecord").write_bytes(content)
    with pytest.raises(WrongTable, match=rf"eval/00\.tfrecord, byte {at}: "):
        read("audioset-features", features)


def test_empty_files_hold_no_records(features: Path) -> None:
    for path in features.rglob("*.tfrecord"):
        path.write_bytes(b"")
    with pytest.raises(WrongTable, match=r"its \.tfrecord files are empty"):
        read("audioset-features", features)


def test_featurize_gives_the_published_embeddings_as_they_were_written(features: Path, tmp_path: Path) -> None:
    dataset = read_dataset("audioset-features", str(features))
    out = open_store(tmp_path / "out")
    report = featurize(dataset.store, dataset.table, StoredWork(), out, Workers(Settings(), count=0), overwrite=False)
    assert (report.tally.done, report.tally.rejected, report.state.rows) == (3, 0, 3)
    table = pq.read_table(tmp_path / "out").sort_by("video_id")
    stored = table["features"].combine_chunks().to_numpy_ndarray()
    assert (stored.dtype, stored.shape) == (np.uint8, (3, 10, 128))
    assert table["valid"].to_pylist() == [10, 7, 10]
    for patches, valid, video in zip(stored, [10, 7, 10], PATCHES, strict=True):
        np.testing.assert_array_equal(patches[:valid], PATCHES[video][:valid])
        assert not patches[valid:].any()
    assert table["labels"].to_pylist() == [["Speech", "Dog, barking"], ["500"], ["Dog, barking"]]
    assert table["start_s"].to_pylist() == [30.0, 0.0, 5.0]
    assert [str(split) for split in table["split"].to_pylist()] == ["bal_train", "bal_train", "eval"]


def test_a_record_without_embeddings_is_rejected_and_the_others_are_done(features: Path, tmp_path: Path) -> None:
    short = np.zeros((2, 64), np.uint8)
    with (features / "eval" / "00.tfrecord").open("ab") as stream:
        stream.write(frame(encode_example("ddddddddddd", 0, 1, [0], short)))
    dataset = read_dataset("audioset-features", str(features))
    out = open_store(tmp_path / "out")
    report = featurize(dataset.store, dataset.table, StoredWork(), out, Workers(Settings(), count=0), overwrite=False)
    assert (report.tally.done, report.tally.rejected) == (3, 1)
    [error] = pq.read_table(tmp_path / "out" / "_errors").to_pylist()
    assert error["item"] == f"eval/00.tfrecord@{len(RECORDS[2]) + 12}"
    assert "128-byte audio_embedding" in error["message"]
