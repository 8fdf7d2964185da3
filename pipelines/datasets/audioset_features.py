"""AudioSet's published features: TFRecord files of 128-byte embeddings, one a second. research.google.com/audioset/download.html.

Framing: tensorflow.org/tutorials/load_data/tfrecord, message: tensorflow/core/example/example.proto (SequenceExample). Needs no TensorFlow.
"""

import functools
import struct
from collections.abc import Iterator
from typing import Any, BinaryIO

import google_crc32c
import numpy as np
import pyarrow as pa
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from models.errors import BadInput, WrongTable
from models.layout import EMBEDDING_SIZE
from models.storage import Store
from pipelines.datasets.audioset import CLASSES, read_class_names
from pipelines.datasets.table import make_table

LAYOUT = f"*.tfrecord, in any folders; {CLASSES} gives labels their names"
HEADER = struct.Struct("<QI")  # length, its checksum; then the record, and its checksum
CHECKSUM = struct.Struct("<I")
MASK_DELTA = 0xA282EAD8
LONGEST_RECORD = 1 << 20  # one holds about 2 KB
EMBEDDINGS = "audio_embedding"


def read(store: Store) -> pa.Table:
    """A row a record; the split is the folder's name, as bal_train. Own columns say where the record lies in its file.

    Raises WrongTable naming file and offset of a damaged record.
    """
    files = [entry.name for entry in store.list_files() if entry.name.endswith(".tfrecord")]
    if not files:
        raise WrongTable(f"{store.address} holds no records; expected are {LAYOUT}")
    names = read_class_names(store)
    rows = [_describe(name, *record, names, store) for name in files for record in _read_records(store, name)]
    if not rows:
        raise WrongTable(f"{store.address}: its .tfrecord files are empty; expected are {LAYOUT}")
    table = pa.Table.from_pylist(rows)
    common = {column: table[column] for column in ("path", "labels", "split")} | {"recording": table["video_id"]}
    return make_table(common, table)


def read_embedding(stream: BinaryIO, offset: int, length: int) -> NDArray[np.uint8]:
    """The embeddings [T, 128] of the record at an offset. Raises BadInput where there is none."""
    stream.seek(offset)
    try:
        example = _message().FromString(stream.read(length))
    except DecodeError as error:
        raise BadInput(f"no record of AudioSet at byte {offset}") from error
    lists = example.feature_lists.feature_list
    values = [feature.bytes_list.value[0] for feature in lists[EMBEDDINGS].feature] if EMBEDDINGS in lists else []
    if not values or any(len(value) != EMBEDDING_SIZE for value in values):
        raise BadInput(f"the record at byte {offset} holds no {EMBEDDING_SIZE}-byte {EMBEDDINGS}")
    return np.frombuffer(b"".join(values), np.uint8).reshape(-1, EMBEDDING_SIZE)


def _describe(path: str, offset: int, record: bytes, names: dict[str, str], store: Store) -> dict[str, Any]:
    try:
        context = _message().FromString(record).context.feature
        folder = path.rsplit("/", 2)[-2] if "/" in path else None
        return {
            "path": path,
            "labels": [names.get(str(index), str(index)) for index in context["labels"].int64_list.value],
            "split": folder,
            "video_id": context["video_id"].bytes_list.value[0].decode(),
            "start_time_seconds": float(context["start_time_seconds"].float_list.value[0]),
            "end_time_seconds": float(context["end_time_seconds"].float_list.value[0]),
            "record_offset": offset,
            "record_length": len(record),
        }
    except (DecodeError, IndexError, UnicodeDecodeError) as error:
        raise WrongTable(f"{store.address_of(path)}, byte {offset}: not a record of AudioSet's features") from error


def _read_records(store: Store, name: str) -> Iterator[tuple[int, bytes]]:
    """(offset, record) of each record, its checksums verified."""
    with store.open_file(name) as stream:
        position = 0
        while header := stream.read(HEADER.size):
            wrong = WrongTable(f"{store.address_of(name)}, byte {position}: a damaged record: fetch the file again")
            if len(header) < HEADER.size:
                raise wrong
            length, checksum = HEADER.unpack(header)
            if checksum != _masked_crc(header[:8]) or length > LONGEST_RECORD:
                raise wrong
            record, ending = stream.read(length), stream.read(CHECKSUM.size)
            if len(ending) < CHECKSUM.size or CHECKSUM.unpack(ending)[0] != _masked_crc(record):
                raise wrong
            yield position + HEADER.size, record
            position += HEADER.size + length + CHECKSUM.size


def _masked_crc(content: bytes) -> int:
    crc: int = google_crc32c.value(content)
    return ((crc >> 15 | crc << 17) + MASK_DELTA) & 0xFFFFFFFF


@functools.cache
def _message() -> Any:
    """The class of tensorflow.SequenceExample's messages, with the field numbers of example.proto and feature.proto."""
    file = descriptor_pb2.FileDescriptorProto(name="sequence_example.proto", package="earshot", syntax="proto3")
    one, many = descriptor_pb2.FieldDescriptorProto.LABEL_OPTIONAL, descriptor_pb2.FieldDescriptorProto.LABEL_REPEATED
    kinds = descriptor_pb2.FieldDescriptorProto

    def add(name: str, *fields: tuple[str, int, int, int, str]) -> Any:
        message = file.message_type.add(name=name)
        for field, number, label, kind, of in fields:
            message.field.add(name=field, number=number, label=label, type=kind)
            if of:
                message.field[-1].type_name = f".earshot.{of}"
        return message

    def add_map(name: str, field: str, of: str) -> None:
        entry = f"{field.title().replace('_', '')}Entry"
        message = add(name, (field, 1, many, kinds.TYPE_MESSAGE, f"{name}.{entry}"))
        nested = message.nested_type.add(name=entry)
        nested.options.map_entry = True
        nested.field.add(name="key", number=1, label=one, type=kinds.TYPE_STRING)
        nested.field.add(name="value", number=2, label=one, type=kinds.TYPE_MESSAGE, type_name=f".earshot.{of}")

    add("BytesList", ("value", 1, many, kinds.TYPE_BYTES, ""))
    add("FloatList", ("value", 1, many, kinds.TYPE_FLOAT, ""))
    add("Int64List", ("value", 1, many, kinds.TYPE_INT64, ""))
    lists = (("bytes_list", "BytesList"), ("float_list", "FloatList"), ("int64_list", "Int64List"))
    add("Feature", *((field, number, one, kinds.TYPE_MESSAGE, of) for number, (field, of) in enumerate(lists, start=1)))
    add_map("Features", "feature", "Feature")
    add("FeatureList", ("feature", 1, many, kinds.TYPE_MESSAGE, "Feature"))
    add_map("FeatureLists", "feature_list", "FeatureList")
    example = [
        ("context", 1, one, kinds.TYPE_MESSAGE, "Features"),
        ("feature_lists", 2, one, kinds.TYPE_MESSAGE, "FeatureLists"),
    ]
    add("SequenceExample", *example)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("earshot.SequenceExample"))
