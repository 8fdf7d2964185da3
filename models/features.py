"""The contract of what bulk jobs write: a folder of Parquet files, and what says how they were made.

    fold=1/part-….parquet ...   the rows, in folders by fold or split where the data set has them
    _errors/part-….parquet      what was rejected: item, path, error, message
    _earshot.json               how the rows were made, whether the job is complete, and its counts

Names that begin with an underscore are skipped by every Parquet reader, so the folder reads as one table. Every file's schema carries
`Made` as well. `pipelines/` writes it, `tune/` reads it. Knows nothing of sound or Ray.
"""

import json
from collections.abc import Iterator, Mapping
from importlib.metadata import version

import pyarrow as pa
import pyarrow.dataset as pads
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from models.errors import OutputMismatch, WrongPath, WrongTable
from models.storage import Store

STATE = "_earshot.json"
ERRORS = "_errors"
BLOCKS = "_blocks"  # scores of parts of long recordings, until their answer is composed
SCHEMA_KEY = b"earshot"
ITEM = (
    "item"  # which row of the data set a row comes from: its path, and the part of the file where that is not all of it
)

ERROR_SCHEMA = pa.schema([(ITEM, pa.string()), ("path", pa.string()), ("error", pa.string()), ("message", pa.string())])


class Made(BaseModel):
    """How rows were made. Two folders go together when everything but the program's version is equal."""

    model_config = ConfigDict(frozen=True)

    kind: str = Field(description="logmel, stft, mel, mel64, embedding or answers")
    front_end: Mapping[str, float | int | str | None] = Field(description="every parameter that the values depend on")
    network: str | None = None
    weights_sha256: str | None = None
    program: str = Field(default_factory=lambda: version("earshot"))

    def differences(self, other: "Made") -> list[str]:
        """Each field in which another one differs, as 'front_end.hop_s: 0.48, not 0.96'."""
        mine, theirs = _flat(self), _flat(other)
        names = sorted(name for name in mine.keys() | theirs.keys() if mine.get(name) != theirs.get(name))
        return [f"{name}: {mine.get(name)}, not {theirs.get(name)}" for name in names]


class State(BaseModel):
    """_earshot.json: `rows` and `rejected` are counted when the job is complete."""

    made: Made
    complete: bool = False
    rows: int = 0
    rejected: int = 0


def _flat(made: Made) -> dict[str, object]:
    fields = made.model_dump(exclude={"program", "front_end"})
    return fields | {f"front_end.{name}": value for name, value in made.front_end.items()}


def schema_metadata(made: Made) -> dict[bytes, bytes]:
    """What every file's schema carries."""
    return {SCHEMA_KEY: made.model_dump_json().encode()}


def read_state(out: Store) -> State | None:
    """The folder's state; None where nothing was written yet. Raises WrongTable for a folder of somebody else's."""
    if not out.exists(STATE):
        if out.list_files():
            raise OutputMismatch(f"{out.address} holds files, but not Earshot's: name an empty or a new folder")
        return None
    try:
        return State.model_validate_json(out.read(STATE))
    except ValidationError as error:
        raise WrongTable(f"{out.address_of(STATE)}: {error.errors()[0]['msg']}") from error


def write_state(out: Store, state: State) -> None:
    """Replaces the folder's state."""
    out.write(STATE, (json.dumps(state.model_dump(), indent=2) + "\n").encode())


def check_made(there: Made, wanted: Made, address: str) -> None:
    """Raises OutputMismatch, naming each difference, where existing rows were made otherwise."""
    if differences := there.differences(wanted):
        raise OutputMismatch(
            f"{address} was made otherwise ({'; '.join(differences)}): name another folder, or say --overwrite"
        )


def open_features(out: Store, wanted: Made | None = None) -> pads.Dataset:
    """A complete folder as a pyarrow data set, folds and splits as columns.

    Raises WrongPath where there is none, OutputMismatch where it is not complete or was made otherwise than `wanted`.
    """
    state = read_state(out)
    if state is None:
        raise WrongPath(f"{out.address}: no features there; make them with: earshot featurize DATASET --out FOLDER")
    if not state.complete:
        raise OutputMismatch(
            f"{out.address} is not complete: run the command that makes it again, it goes on from there"
        )
    if wanted is not None:
        check_made(state.made, wanted, out.address)
    return open_parts(out)


def part_files(out: Store, folder: str = "") -> list[str]:
    """The Parquet files of the rows, or those in one of the folders beside them, in order of name."""
    names = (entry.name for entry in out.list_files(folder) if entry.name.endswith(".parquet"))
    return [name for name in names if folder or not name.startswith("_")]


def open_parts(out: Store, folder: str = "") -> pads.Dataset:
    """The rows there are so far as a pyarrow data set; one without columns where there are none."""
    paths = [out.path_of(name) for name in part_files(out, folder)]
    if not paths:
        return pads.dataset(pa.table({}))
    partitioning = pads.HivePartitioning.discover(infer_dictionary=False)
    return pads.dataset(
        paths, format="parquet", filesystem=out.filesystem, partitioning=partitioning, partition_base_dir=out.root
    )


def read_items(out: Store, folder: str = "") -> Iterator[pa.Array]:
    """The distinct items of each file's rows: what a resumed job need not do again."""
    for fragment in open_parts(out, folder).get_fragments() if part_files(out, folder) else ():
        yield fragment.to_table(columns=[ITEM])[ITEM].unique()
