"""Answers in bulk: what `earshot classify --out` computes for bulk.py to run and write.

A short file is one item and gives its answer. A long recording is cut into parts whose scores are written beside the answers; when all are
there, they are put together in order and become one answer, the same as if the file had been read in one go. Second opinions are not
asked: an answer must not depend on chance.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cluster.settings import Settings
from models.answer import Options, Scored, compose_answer
from models.audio import AudioReader
from models.errors import AudioTooShort, BadInput, BadOption, rejection
from models.features import BLOCKS, Made, open_parts
from models.frontend import FRAME_REST_S
from models.storage import Store
from models.tagger import read_frames
from models.weights import find_tagger, warn_of_starter
from pipelines.bulk import Row
from pipelines.extractors import LOG_MEL, load_scorer

PART_PATCHES = 1280  # of a long recording: 10 minutes at YAMNet's hop; whole blocks of the front end at any hop
LABEL = pa.struct([("label", pa.string()), ("mid", pa.string()), ("score", pa.float64()), ("peak", pa.float64())])
EVENT = pa.struct(
    [
        ("label", pa.string()),
        ("mid", pa.string()),
        ("start_s", pa.float64()),
        ("end_s", pa.float64()),
        ("score", pa.float64()),
    ]
)
TIMELINE = pa.struct(
    [
        ("labels", pa.list_(pa.string())),
        ("start_s", pa.list_(pa.float64())),
        ("length_s", pa.float64()),
        ("scores", pa.list_(pa.list_(pa.float64()))),
    ]
)


@dataclass(frozen=True)
class AnswerWork:
    """The answer to each item. A bulk.Work."""

    bundle: Path
    options: Options
    made: Made

    @property
    def needs(self) -> tuple[Path, ...]:
        return (self.bundle,)

    @property
    def schema(self) -> pa.Schema:
        fields = [
            ("duration_s", pa.float64()),
            ("labels", pa.list_(LABEL)),
            ("events", pa.list_(EVENT)),
            ("warnings", pa.list_(pa.string())),
        ]
        return pa.schema(fields + [("timeline", TIMELINE)] * self.options.timeline)

    def compute(self, item: Row, source: BinaryIO) -> Iterator[Row]:
        """See bulk.Work."""
        scorer = load_scorer(self.bundle)
        reader = AudioReader(source, start_s=item["start_s"] or 0.0, end_s=item["end_s"])
        scored = scorer.score(read_frames(reader), scorer.hop_s(self.options))
        yield self.row(reader.duration_s, scored, reader.warnings)

    def row(self, duration_s: float, scored: Scored, warnings: list[str]) -> Row:
        """A whole item's scores -> its row."""
        answer = compose_answer("", duration_s, load_scorer(self.bundle).bundle, scored, self.options, warnings)
        return answer.model_dump(include=set(self.schema.names)) | {"heard_s": duration_s}


@dataclass(frozen=True)
class PartWork:
    """The scores of a part of a long recording; what is wrong with a part becomes part of its row. A bulk.Work."""

    answers: AnswerWork

    @property
    def made(self) -> Made:
        return self.answers.made

    @property
    def needs(self) -> tuple[Path, ...]:
        return self.answers.needs

    @property
    def schema(self) -> pa.Schema:
        return pa.schema(
            [
                ("part", pa.int32()),
                ("duration_s", pa.float64()),
                ("scores", pa.large_binary()),
                ("warnings", pa.list_(pa.string())),
                ("error", pa.string()),
                ("message", pa.string()),
            ]
        )

    def compute(self, item: Row, source: BinaryIO) -> Iterator[Row]:
        """See bulk.Work."""
        scorer = load_scorer(self.answers.bundle)
        hop_s = scorer.hop_s(self.answers.options)
        end_s = item["end_s"]
        beyond_s = max(scorer.bundle.card.front_end.patch_s - hop_s, 0.0) + FRAME_REST_S  # of the part's last patch
        read_to_s = None if end_s is None else end_s + beyond_s
        reader = AudioReader(source, start_s=item["start_s"], end_s=read_to_s)
        row: Row = {"part": item["part"], "scores": b"", "error": None, "message": None}
        try:
            scores = scorer.score(read_frames(reader), hop_s).scores
            row["scores"] = (
                scores if end_s is None else scores[:PART_PATCHES]
            ).tobytes()  # the next is the next part's
        except AudioTooShort:  # the file ends before its header says; the part in which it ends has a warning
            pass
        except BadInput as error:
            row |= {"error": error.slug, "message": str(error)}
        heard_s = reader.duration_s if end_s is None else min(reader.duration_s, end_s - item["start_s"])
        yield row | {"duration_s": heard_s, "warnings": reader.warnings, "heard_s": heard_s}


@dataclass(frozen=True)
class JoinWork:
    """The answer to each long recording, from the scores of its parts. A bulk.Work; it does not read the recording again."""

    answers: AnswerWork
    out: Store

    @property
    def made(self) -> Made:
        return self.answers.made

    @property
    def needs(self) -> tuple[Path, ...]:
        return self.answers.needs

    @property
    def schema(self) -> pa.Schema:
        return self.answers.schema

    def compute(self, item: Row, source: BinaryIO) -> Iterator[Row]:  # noqa: ARG002
        """See bulk.Work."""
        table = open_parts(self.out, BLOCKS).to_table(filter=pc.field("path") == item["path"])
        parts = table.sort_by("part").to_pylist()
        for part in parts:
            if part["error"]:
                raise rejection(part["error"], part["message"])
        scorer = load_scorer(self.answers.bundle)
        scores = np.frombuffer(b"".join(part["scores"] for part in parts), np.float32)
        scored = Scored(scores.reshape(-1, len(scorer.bundle.labels)), scorer.hop_s(self.answers.options))
        warnings = [warning for part in parts for warning in part["warnings"]]
        yield self.answers.row(sum(part["duration_s"] for part in parts), scored, warnings)


def part_s(work: AnswerWork) -> float:
    """How long the parts of long recordings are."""
    return PART_PATCHES * load_scorer(work.bundle).hop_s(work.options)


def build_work(options: Options, settings: Settings) -> AnswerWork:
    """What to compute for `earshot classify --out`. Raises BadOption, WeightsMissing, WeightsCorrupt."""
    if options.second_opinion == "always":
        raise BadOption("--second-opinion always does not go with --out: ask the service, or classify without --out")
    bundle = warn_of_starter(find_tagger(settings.places()))
    scorer = load_scorer(bundle.path)
    asked = options.model_dump(include={"top_k", "threshold", "rank", "timeline"})
    made = Made(
        kind="answers",
        front_end=LOG_MEL | {"patch_hop_s": scorer.hop_s(options)} | asked,
        network=bundle.card.name,
        weights_sha256=bundle.card.weights_sha256,
    )
    return AnswerWork(bundle.path, options, made)
