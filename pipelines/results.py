"""What a watch writes of an object `a/dog.wav`: the answer for programs, for people, and as a picture, or why there is none.

    a/dog.wav.json        the full answer, and of which version of the object; written last, so that it stands for all three
    a/dog.wav.txt         labels, best first, and events
    a/dog.wav.png         the sound over its labels
    a/dog.wav.error.json  instead of these, why the object was rejected

The suffix stays in the name, so that dog.wav and dog.ogg do not meet, and no result is ever taken for a sound.
"""

from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
from pydantic import BaseModel, ValidationError

from models.answer import Answer
from models.audio import AudioReader
from models.errors import BadInput, OutputMismatch, WrongPath
from models.storage import Entry, Store
from models.tagger import read_frames
from pipelines.ledger import State

ANSWER, TEXT, PICTURE, ERROR = ".json", ".txt", ".png", ".error.json"


class Source(BaseModel):
    """Which version of an object; `modified` is ISO 8601 to the nanosecond, which no JSON reader rounds."""

    path: str
    size_bytes: int
    modified: str


class Written(BaseModel):
    """What both kinds of JSON begin with."""

    source: Source


class Result(Answer, Written):
    """The JSON of an object that was classified."""


class Rejection(Written):
    """The JSON of one that cannot be."""

    error: str
    detail: str


@dataclass(frozen=True)
class Results:
    """The results, in the store `out`, of the objects in the store `source`."""

    source: Store
    out: Store

    def find(self, version: Entry) -> State | None:
        """What the results say of this version; None where there are none yet. Raises OutputMismatch for a stranger's file."""
        if self._is_of(version, ANSWER):
            return "done"
        return "rejected" if self._is_of(version, ERROR) else None

    def write(self, version: Entry, answer: Answer, picture: bytes) -> None:
        """The results of a version that was classified, in place of those of an earlier one."""
        result = Result(**dict(answer), source=self._named(version))
        self.out.write(version.name + PICTURE, picture)
        self.out.write(version.name + TEXT, describe(answer).encode())
        self.out.delete(version.name + ERROR)
        self.out.write(version.name + ANSWER, _json(result))

    def reject(self, version: Entry, error: BadInput) -> None:
        """The result of a version that cannot be classified, in place of those of an earlier one."""
        for suffix in (ANSWER, TEXT, PICTURE):
            self.out.delete(version.name + suffix)
        rejection = Rejection(source=self._named(version), error=error.slug, detail=str(error))
        self.out.write(version.name + ERROR, _json(rejection))

    def _is_of(self, version: Entry, suffix: str) -> bool:
        name = version.name + suffix
        try:
            written = Written.model_validate_json(self.out.read(name))
        except WrongPath:
            return False
        except ValidationError as error:
            raise OutputMismatch(
                f"{self.out.address_of(name)} is there, but not made by earshot watch: name another --out"
            ) from error
        named = self._named(version)
        return (written.source.size_bytes, written.source.modified) == (named.size_bytes, named.modified)

    def _named(self, version: Entry) -> Source:
        scheme, separator, _ = self.source.address.rpartition("://")
        path = f"{scheme}{separator}{self.source.path_of(version.name)}"
        modified = f"{np.datetime64(version.modified_ns, 'ns')}Z"
        return Source(path=path, size_bytes=version.size, modified=modified)


def describe(answer: Answer) -> str:
    """An answer for people: a label a line, best first, with its score in per cent; then the events, and what else it says."""
    blocks = [
        [f"{label.score:6.1%}  {label.label}" for label in answer.labels],
        [f"{e.start_s:8.2f} - {e.end_s:.2f} s  {e.label} ({e.score:.1%})" for e in answer.events],
        [f"warning: {warning}" for warning in answer.warnings],
    ]
    return "\n\n".join("\n".join(lines) for lines in blocks if lines) + "\n"


def draw(sound: BinaryIO, answer: Answer) -> bytes:
    """A sound, read once more, and its answer -> PNG: the log-mel over the labels. Raises as AudioReader."""
    from models.pictures import draw_report, thin

    log_mel, hop_s = thin(read_frames(AudioReader(sound)))
    labels = [label.label for label in answer.labels]
    return draw_report(log_mel, hop_s, labels, [x.score for x in answer.labels], [x.peak for x in answer.labels])


def _json(document: BaseModel) -> bytes:
    return (document.model_dump_json(indent=2) + "\n").encode()
