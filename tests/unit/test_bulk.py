"""Bulk jobs in this process: every item ends as rows or as an error, once; outputs appear whole, and are their own ledger."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
from pyarrow.fs import LocalFileSystem, PyFileSystem

import pipelines.bulk as module
from cluster.settings import Settings
from models.answer import Options
from models.bundle import load_bundle
from models.errors import AudioNotFinite, JobFailed, OutputMismatch, WrongPath
from models.features import Made, open_features, read_state
from models.runtime import load_runtime
from models.storage import Store, open_store
from models.tagger import Scorer, Tagger
from pipelines.answers import AnswerWork, build_work
from pipelines.bulk import Job, Row, run_here
from pipelines.driver import Workers, complete, finished_items, open_progress, prepare_output, run_job
from pipelines.extractors import LogMels, Windows
from pipelines.featurize import FeatureWork
from pipelines.jobs import classify_to, featurize
from pipelines.plan import plan_items
from tests.sounds import RATE_HZ, encode, silence, tone
from tests.unit.test_plan import rows
from tests.unit.test_watch import Far

HERE = Workers(Settings())
WORK = FeatureWork(LogMels(), Windows(0.96, 0.48))


@pytest.fixture
def sounds(tmp_path: Path) -> Store:
    """Three sounds, one file that is none, and one that is empty."""
    folder = tmp_path / "sounds"
    (folder / "deep").mkdir(parents=True)
    (folder / "low.wav").write_bytes(encode(tone(300, 2)))
    (folder / "high.flac").write_bytes(encode(tone(3000, 1), container="FLAC"))
    (folder / "deep" / "quiet.ogg").write_bytes(encode(silence(3), container="OGG"))
    (folder / "text.wav").write_text("no sound")
    (folder / "empty.wav").touch()
    return open_store(folder)


PATHS = ("low.wav", "text.wav", "high.flac", "empty.wav", "deep/quiet.ogg", "not-there.wav")
FOLDS = pa.array([1, 1, 2, 2, 1, 2], pa.int32())


def make_features(sounds: Store, out: Store, *paths: str, **options: Any):
    table = rows(*PATHS, fold=FOLDS)
    chosen = table.filter(pa.compute.is_in(table["path"], pa.array(paths))) if paths else table
    return featurize(sounds, chosen, WORK, out, HERE, **{"overwrite": False} | options)


def test_every_item_ends_as_rows_or_as_an_error(sounds: Store, tmp_path: Path) -> None:
    out = open_store(tmp_path / "out")
    report = make_features(sounds, out)
    assert (report.tally.done, report.tally.rejected, report.skipped) == (3, 3, 0)
    table = pq.read_table(out.root)  # as anybody reads it: the errors stay out
    assert set(table["item"].to_pylist()) == {"low.wav", "high.flac", "deep/quiet.ogg"}
    assert report.state.rows == len(table) == 4 + 2 + 6
    errors = pq.read_table(tmp_path / "out" / "_errors").to_pylist()
    assert {row["path"]: row["error"] for row in errors} == {
        "text.wav": "audio-undecodable",
        "empty.wav": "audio-empty",
        "not-there.wav": "wrong-path",
    }
    assert all(row["message"] for row in errors)


def test_rows_are_tensors_in_folders_by_fold_and_say_how_they_were_made(sounds: Store, tmp_path: Path) -> None:
    out = open_store(tmp_path / "out")
    make_features(sounds, out)
    table = pq.read_table(tmp_path / "out", filters=[("fold", "=", 2)])
    assert table["path"].unique().to_pylist() == ["high.flac"]
    features = table["features"].combine_chunks()
    assert features.type.shape == [96, 64]
    assert features.to_numpy_ndarray().dtype == np.float16
    part = next((tmp_path / "out" / "fold=1").glob("*.parquet"))
    assert Made.model_validate_json(pq.read_schema(part).metadata[b"earshot"]) == WORK.made


def test_a_second_run_does_only_what_is_missing(sounds: Store, tmp_path: Path) -> None:
    out = open_store(tmp_path / "out")
    make_features(sounds, out, "low.wav", "text.wav")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("part-*")}
    report = make_features(sounds, out)
    assert (report.tally.done, report.tally.rejected, report.skipped) == (2, 2, 2)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert report.state.rows == 12
    third = make_features(sounds, out)
    assert (third.tally.done, third.skipped, third.state) == (0, 6, report.state)


def test_the_same_items_make_the_same_file_so_a_task_that_runs_twice_doubles_nothing(
    sounds: Store, tmp_path: Path
) -> None:
    job = Job(WORK, sounds, open_store(tmp_path / "out"))
    chunk = plan_items(sounds, rows(*PATHS), 600.0)
    for _ in range(2):
        assert module.run_chunk(job, chunk).done == 3
    assert len(list((tmp_path / "out").glob("*.parquet"))) == 1


def test_an_output_that_is_not_complete_is_not_read(sounds: Store, tmp_path: Path) -> None:
    out = open_store(tmp_path / "out")
    with pytest.raises(WrongPath, match="earshot featurize"):
        open_features(out)
    prepare_output(out, WORK.made)
    job = Job(WORK, sounds, out)
    with open_progress() as progress:
        run_job(job, plan_items(sounds, rows("low.wav"), 600.0), run_here, progress, "")
    with pytest.raises(OutputMismatch, match="is not complete"):
        open_features(out)
    complete(out, WORK.made)
    assert open_features(out, WORK.made).count_rows() == 4


def test_an_output_made_otherwise_is_refused_and_the_difference_named(sounds: Store, tmp_path: Path) -> None:
    out = open_store(tmp_path / "out")
    make_features(sounds, out, "low.wav")
    other = replace(WORK, windows=Windows(0.96, 0.24))
    with pytest.raises(OutputMismatch, match=r"front_end\.window_hop_s: 0\.48, not 0\.24"):
        featurize(sounds, rows("low.wav"), other, out, HERE, overwrite=False)
    with pytest.raises(OutputMismatch, match=r"window_hop_s: 0\.48, not 0\.24"):
        open_features(out, other.made)
    report = featurize(sounds, rows("low.wav"), other, out, HERE, overwrite=True)
    assert (report.tally.done, report.state.rows) == (1, 7)


def test_a_folder_of_somebody_else_is_left_alone(sounds: Store, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(OutputMismatch, match="not Earshot's"):
            make_features(sounds, open_store(tmp_path / "out"), overwrite=overwrite)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["thesis.txt"]


@dataclass(frozen=True)
class Fragile:
    """Gives rows that fill a row group each, and then fails on one file as a decoder might, late."""

    @property
    def made(self) -> Made:
        return Made(kind="test", front_end={})

    @property
    def schema(self) -> pa.Schema:
        return pa.schema([("features", pa.fixed_shape_tensor(pa.float32(), [1 << 21]))])

    def compute(self, item: Row, source: BinaryIO) -> Iterator[Row]:
        for number in range(3):
            yield {"features": np.full(1 << 21, number, np.float32), "heard_s": 1.0}
        if item["path"] == "high.flac":
            raise AudioNotFinite("samples that are NaN, late in the file")


def test_a_file_that_fails_after_rows_were_written_leaves_none_of_them(sounds: Store, tmp_path: Path) -> None:
    job = Job(Fragile(), sounds, open_store(tmp_path / "out"))
    chunk = plan_items(sounds, rows("low.wav", "high.flac", "deep/quiet.ogg"), 600.0)
    tally = module.run_chunk(job, chunk)
    assert (tally.done, tally.rejected, tally.heard_s) == (2, 1, 6.0)
    assert (
        pq.read_table(tmp_path / "out", columns=["item"])["item"].to_pylist()
        == ["low.wav"] * 3 + ["deep/quiet.ogg"] * 3
    )
    assert pq.read_table(tmp_path / "out" / "_errors")["item"].to_pylist() == ["high.flac"]


def test_a_fault_that_is_no_files_own_stops_the_job_and_keeps_what_is_done(sounds: Store, tmp_path: Path) -> None:
    out = open_store(tmp_path / "out")
    make_features(sounds, out, "low.wav")
    (tmp_path / "out" / "fold=2").write_text("a file where a folder must be")
    with pytest.raises(JobFailed, match=r"fold=2.*run the same command again"):
        make_features(sounds, out)
    with pytest.raises(OutputMismatch, match="not complete"):
        open_features(out)
    (tmp_path / "out" / "fold=2").unlink()
    assert make_features(sounds, out).state.rows == 12


def test_a_connection_that_breaks_is_not_the_end_of_a_sound(sounds: Store, tmp_path: Path) -> None:
    far = Far(LocalFileSystem())
    root = Store(PyFileSystem(far), sounds.root, "far://sounds")
    far.breaks = True
    tally = module.run_chunk(Job(WORK, root, open_store(tmp_path / "out")), plan_items(sounds, rows("low.wav"), 600.0))
    assert "connection reset" in tally.fault
    assert not list((tmp_path / "out").rglob("part-*"))


# Answers


@pytest.fixture(scope="module")
def answers(tone_tagger: Path) -> AnswerWork:
    """What `earshot classify --out` computes, with the tiny model."""
    return build_work(Options(threshold=0.5, timeline=True), Settings(weights_path=tone_tagger))


@pytest.fixture
def recordings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tone_tagger: Path) -> Store:
    """A short and a long recording, both with tones that cross the edges of the parts; one that ends early, one with NaN late."""
    monkeypatch.setattr("pipelines.plan.LONG_BYTES", 100 << 10)
    monkeypatch.setattr("pipelines.answers.PART_PATCHES", 128)  # 61.44 s
    folder = tmp_path / "recordings"
    folder.mkdir()
    pieces = [tone(300, 55), tone(3000, 15), silence(40), tone(3000, 20), silence(0.7), tone(3000, 44.2), tone(300, 61)]
    sound = np.concatenate(pieces)
    soundfile.write(folder / "long.wav", sound, RATE_HZ)
    soundfile.write(folder / "long.flac", np.repeat(sound, 2), 2 * RATE_HZ)
    soundfile.write(folder / "short.wav", sound[: 9 * RATE_HZ], RATE_HZ)
    content = (folder / "long.wav").read_bytes()
    (folder / "cut.wav").write_bytes(content[: len(content) * 5 // 9])
    sound[200 * RATE_HZ] = np.nan
    soundfile.write(folder / "nan.wav", sound, RATE_HZ, subtype="FLOAT")
    return open_store(folder)


def answer_all(recordings: Store, answers: AnswerWork, out: Store):
    names = [entry.name for entry in recordings.list_files()]
    return classify_to(recordings, rows(*names), answers, out, HERE, overwrite=False)


def test_a_long_recording_in_parts_gives_the_same_answer_as_in_one_go(
    recordings: Store, answers: AnswerWork, tmp_path: Path
) -> None:
    report = answer_all(recordings, answers, open_store(tmp_path / "out"))
    assert (report.state.rows, report.state.rejected) == (4, 1)
    bundle = load_bundle(answers.bundle)
    tagger = Tagger(Scorer(bundle, load_runtime(bundle)))
    for row in pq.read_table(tmp_path / "out").to_pylist():
        whole = tagger.tag(Path(recordings.path_of(row["path"])), answers.options).model_dump()
        assert whole["events"]
        if row["path"] == "long.flac":  # resampled: the parts begin within the filter
            scores = [answer["timeline"].pop("scores") for answer in (row, whole)]
            np.testing.assert_allclose(*scores, atol=5e-5)
        for name in answers.schema.names:
            assert row[name] == whole[name]
    assert not (tmp_path / "out" / "_blocks").exists()
    [error] = pq.read_table(tmp_path / "out" / "_errors").to_pylist()
    assert (error["item"], error["error"]) == ("nan.wav", "audio-not-finite")
    assert "between 19" in error["message"] or "between 20" in error["message"]


def test_the_parts_of_a_recording_that_are_there_are_not_done_again(
    recordings: Store, answers: AnswerWork, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, done = open_store(tmp_path / "out"), open_store(tmp_path / "done")
    answer_all(recordings, answers, done)
    monkeypatch.setattr("pipelines.jobs.JoinWork", None)  # the driver dies when all parts are there
    with pytest.raises(TypeError):
        answer_all(recordings, answers, out)
    monkeypatch.undo()
    monkeypatch.setattr("pipelines.plan.LONG_BYTES", 100 << 10)
    monkeypatch.setattr("pipelines.answers.PART_PATCHES", 128)
    assert sum(map(len, finished_items(out, "_blocks"))) == 4 + 4 + 4 + 2
    shutil.rmtree(tmp_path / "out" / "_errors", ignore_errors=True)
    answer_all(recordings, answers, out)
    tables = [pq.read_table(tmp_path / name).sort_by("item") for name in ("out", "done")]
    assert tables[0] == tables[1]


def test_answers_of_another_model_or_with_other_options_are_refused(
    sounds: Store, answers: AnswerWork, tone_head: Path, tmp_path: Path
) -> None:
    out = open_store(tmp_path / "out")
    table = rows("low.wav")
    classify_to(sounds, table, answers, out, HERE, overwrite=False)
    other = build_work(Options(threshold=0.4, timeline=True), Settings(weights_path=tone_head))
    with pytest.raises(OutputMismatch, match=r"front_end\.threshold: 0\.5, not 0\.4.*network: tones, not tone-head"):
        classify_to(sounds, table, other, out, HERE, overwrite=False)


def test_state_is_a_file_people_can_read(sounds: Store, tmp_path: Path) -> None:
    out = open_store(tmp_path / "out")
    make_features(sounds, out)
    state = read_state(out)
    assert state is not None
    assert (state.complete, state.rows, state.rejected, state.made) == (True, 12, 3, WORK.made)
