import io
import json
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pytest
from fsspec.implementations.local import LocalFileSystem
from PIL import Image
from pyarrow.fs import FSSpecHandler, PyFileSystem

from cluster.settings import Settings
from models.answer import Answer, Options
from models.errors import BadInput, EarshotError, OutputMismatch, Overloaded, StoreFailed, WrongPath
from models.storage import Entry, Store, open_store
from pipelines.classify import Classifier, classify_here
from pipelines.ledger import default_ledger, open_ledger, purpose_of
from pipelines.results import Results
from pipelines.watch import Finished, Recovered, Trouble, Watch, keep_watching, require_place
from tests.conftest import wait_until
from tests.sounds import encode, silence, tone

EVERY_S = 0.05
LOW, HIGH = encode(tone(300)), encode(tone(3000))

Events = list[Finished | Trouble | Recovered]


@pytest.fixture(scope="module")
def classifier(tone_tagger: Path) -> Classifier:
    return classify_here(Settings(weights_path=tone_tagger, second_opinion_rate=0), Options(top_k=2))


class Place:
    """A folder of sounds, one of results and a ledger: a watch at a time can be opened on them."""

    def __init__(self, folder: Path, classifier: Classifier) -> None:
        self.sounds, self.results, self.ledger = folder / "in", folder / "out", folder / "ledger.sqlite"
        self.sounds.mkdir()
        self.classifier = classifier

    @contextmanager
    def open(self, classifier: Classifier | None = None) -> Iterator[Watch]:
        source, out = open_store(self.sounds), open_store(self.results)
        with open_ledger(self.ledger, purpose_of(source, out)) as ledger:
            yield Watch(source, Results(source, out), ledger, classifier or self.classifier)

    def run(self, classifier: Classifier | None = None) -> Events:
        """As `earshot watch --once`."""
        with self.open(classifier) as watch:
            return list(keep_watching(watch, threading.Event(), EVERY_S, once=True))

    def put(self, name: str, content: bytes) -> None:
        path = self.sounds / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    def read(self, name: str) -> dict[str, object]:
        document: dict[str, object] = json.loads((self.results / name).read_text())
        return document

    def written(self) -> list[str]:
        return sorted(path.relative_to(self.results).as_posix() for path in self.results.rglob("*") if path.is_file())


@pytest.fixture
def place(tmp_path: Path, classifier: Classifier) -> Place:
    return Place(tmp_path, classifier)


def failing(error: EarshotError, times: int, then: Classifier) -> Classifier:
    """A classifier that is away for its first calls."""
    left = iter(range(times))

    def classify(sound: Path | BinaryIO) -> Answer:
        if next(left, None) is not None:
            raise error
        return then(sound)

    return classify


def states(events: Events) -> dict[str, str]:
    finished = [event for event in events if isinstance(event, Finished)]
    assert len({event.name for event in finished}) == len(finished), "one was finished twice"
    return {event.name: event.state for event in finished}


def test_each_sound_gets_an_answer_a_text_and_a_picture(place: Place) -> None:
    place.put("a/low.wav", LOW)
    place.put("a/low.flac", encode(tone(3000), container="FLAC"))
    place.put("a/notes.md", b"no sound")
    assert states(place.run()) == {"a/low.wav": "done", "a/low.flac": "done"}
    names = ["a/low.flac", "a/low.wav"]
    assert place.written() == [f"{name}{suffix}" for name in names for suffix in (".json", ".png", ".txt")]
    answer = place.read("a/low.wav.json")
    stat = (place.sounds / "a/low.wav").stat()
    source = answer.pop("source")
    assert source["path"] == str(place.sounds / "a/low.wav")
    assert source["size_bytes"] == len(LOW)
    assert np.datetime64(source["modified"].removesuffix("Z"), "ns") == np.datetime64(stat.st_mtime_ns, "ns")
    assert Answer.model_validate(answer).labels[0].label == "Low tone"
    with Image.open(place.results / "a/low.wav.png") as picture:
        assert picture.width == 1188


def test_the_text_names_the_best_label_first_then_the_events(place: Place) -> None:
    place.put("high.wav", encode(np.concatenate([tone(3000, 2.0), silence(2.0)])))
    events = place.run()
    labels, happenings = (place.results / "high.wav.txt").read_text().split("\n\n")[:2]
    answer = Answer.model_validate(place.read("high.wav.json"))
    best = answer.labels[0]
    assert labels.splitlines()[0] == f"{best.score:6.1%}  {best.label}"
    assert len(labels.splitlines()) == 2
    assert f"0.00 - {answer.events[0].end_s:.2f} s  High tone" in happenings
    assert events == [Finished("high.wav", "done", f"{best.label} {best.score:.1%}")]


def test_a_second_run_does_nothing(place: Place) -> None:
    place.put("low.wav", LOW)
    place.put("bad.wav", b"no sound")
    place.run()
    before = place.read("low.wav.json")
    assert place.run() == []
    assert place.read("low.wav.json") == before


def test_results_in_the_same_folder_are_not_taken_for_sounds(tmp_path: Path, place: Place) -> None:
    place.results = place.sounds
    place.put("low.wav", LOW)
    assert states(place.run()) == {"low.wav": "done"}
    assert place.run() == []


def test_a_death_between_results_and_ledger_is_made_good_without_work(place: Place) -> None:
    place.put("low.wav", LOW)
    place.put("bad.wav", b"no sound")
    place.run()
    before = place.read("low.wav.json")
    place.ledger.unlink()
    events = place.run(failing(StoreFailed("must not be asked"), 99, place.classifier))
    assert states(events) == {"low.wav": "done", "bad.wav": "rejected"}
    assert place.read("low.wav.json") == before


@pytest.mark.parametrize("lost", [[".json"], [".json", ".txt"], [".json", ".txt", ".png"]])
def test_a_death_before_the_json_is_written_starts_over(place: Place, lost: list[str]) -> None:
    place.put("low.wav", LOW)
    place.run()
    place.ledger.unlink()
    for suffix in lost:
        (place.results / f"low.wav{suffix}").unlink()
    assert states(place.run()) == {"low.wav": "done"}
    assert place.written() == ["low.wav.json", "low.wav.png", "low.wav.txt"]


def test_a_replaced_sound_is_classified_again(place: Place) -> None:
    place.put("tone.wav", LOW)
    place.run()
    place.put("tone.wav", HIGH)
    assert states(place.run()) == {"tone.wav": "done"}
    assert Answer.model_validate(place.read("tone.wav.json")).labels[0].label == "High tone"


def test_a_replaced_sound_leaves_no_result_of_the_old_one(place: Place) -> None:
    place.put("tone.wav", LOW)
    place.run()
    place.put("tone.wav", b"no sound")
    assert states(place.run()) == {"tone.wav": "rejected"}
    assert place.written() == ["tone.wav.error.json"]
    place.put("tone.wav", HIGH)
    assert states(place.run()) == {"tone.wav": "done"}
    assert place.written() == ["tone.wav.json", "tone.wav.png", "tone.wav.txt"]


@pytest.mark.parametrize(
    ("content", "slug"),
    [
        (b"", "audio-empty"),
        (b"no sound", "audio-undecodable"),
        (encode(np.full(16_000, np.nan, np.float32), subtype="FLOAT"), "audio-not-finite"),
        (encode(tone(300, rate_hz=2000), rate_hz=2000), "audio-unsupported"),
    ],
)
def test_a_bad_sound_is_rejected_with_the_reason(place: Place, content: bytes, slug: str) -> None:
    place.put("bad.wav", content)
    place.put("good.wav", LOW)
    assert states(place.run()) == {"bad.wav": "rejected", "good.wav": "done"}
    rejection = place.read("bad.wav.error.json")
    assert rejection["error"] == slug
    assert rejection["detail"]
    assert rejection["source"]["size_bytes"] == len(content)


def test_a_sound_that_grows_is_left_until_it_rests(place: Place) -> None:
    with place.open() as watch:
        for part in (LOW[:4000], LOW[:9000], LOW):
            place.put("growing.wav", part)
            assert watch.look() == []
        (resting,) = watch.look()
        assert resting.size == len(LOW)


def test_a_sound_whose_time_changes_does_not_rest(place: Place) -> None:
    place.put("low.wav", LOW)
    with place.open() as watch:
        watch.look()
        os.utime(place.sounds / "low.wav", ns=(1, 1))
        assert watch.look() == []
        assert [entry.modified_ns for entry in watch.look()] == [1]


def test_what_becomes_of_a_sound_that_changes_while_it_is_read_is_thrown_away(place: Place) -> None:
    place.put("low.wav", LOW)

    def classify(sound: Path | BinaryIO) -> Answer:
        answer = place.classifier(sound)
        place.put("low.wav", encode(tone(3000, 2.0)))
        return answer

    with place.open(classify) as watch:
        watch.look()
        (resting,) = watch.look()
        assert watch.finish(resting) is None
    assert not place.results.exists()
    assert states(place.run()) == {"low.wav": "done"}
    assert Answer.model_validate(place.read("low.wav.json")).labels[0].label == "High tone"


class Dropping(io.FileIO):
    """A connection that breaks after 8,000 bytes."""

    def read(self, size: int | None = -1, /) -> bytes:
        if self.tell() > 8_000:
            raise OSError("connection reset")
        return super().read(-1 if size is None else min(size, 8_001))


class Far(FSSpecHandler):
    """A folder of this machine as a remote store, which sometimes breaks a connection."""

    breaks = False

    def open_input_file(self, path: str) -> pa.PythonFile:
        return pa.PythonFile((Dropping if self.breaks else io.FileIO)(path), mode="r")


def test_a_store_that_fails_in_the_middle_of_a_sound_is_not_the_sounds_end(place: Place) -> None:
    place.put("low.wav", LOW)
    far = Far(LocalFileSystem())
    with place.open() as watch:
        watch.source = Store(PyFileSystem(far), str(place.sounds), "far://sounds")
        watch.look()
        (resting,) = watch.look()
        far.breaks = True
        with pytest.raises(StoreFailed, match="connection reset"):
            watch.finish(resting)
        far.breaks = False
        assert watch.finish(resting) is not None
    answer = Answer.model_validate(place.read("low.wav.json"))
    assert (answer.duration_s, answer.warnings) == (1.0, [])


def test_a_sound_that_is_gone_again_is_no_trouble(place: Place) -> None:
    place.put("low.wav", LOW)
    with place.open() as watch:
        watch.look()
        (resting,) = watch.look()
        (place.sounds / "low.wav").unlink()
        assert watch.finish(resting) is None
    assert place.run() == []


def test_what_is_no_sounds_fault_is_told_once_and_tried_again(place: Place) -> None:
    place.put("low.wav", LOW)
    busy = Overloaded("every queue is full")
    events = place.run(failing(busy, 3, place.classifier))
    assert [type(event) for event in events] == [Trouble, Recovered, Finished]
    assert events[0] == Trouble(busy)
    assert place.written() == ["low.wav.json", "low.wav.png", "low.wav.txt"]


def test_a_run_that_is_to_end_gives_up_after_a_while_and_rejects_nothing(place: Place) -> None:
    place.put("low.wav", LOW)
    with pytest.raises(Overloaded):
        place.run(failing(Overloaded("every queue is full"), 99, place.classifier))
    assert not place.results.exists()
    assert states(place.run()) == {"low.wav": "done"}


def test_one_sound_that_fails_does_not_hold_up_the_others(place: Place) -> None:
    place.put("a.wav", HIGH)
    place.put("b.wav", LOW)

    def classify(sound: Path | BinaryIO) -> Answer:
        answer = place.classifier(sound)
        if answer.labels[0].label == "High tone":
            raise Overloaded("no room for this one")
        return answer

    with pytest.raises(Overloaded):
        place.run(classify)
    assert place.written() == ["b.wav.json", "b.wav.png", "b.wav.txt"]


def test_results_that_cannot_be_written_reject_nothing(place: Place) -> None:
    place.put("low.wav", LOW)
    place.results.write_bytes(b"a file where the folder should be")
    with pytest.raises(EarshotError):
        place.run()
    place.results.unlink()
    assert states(place.run()) == {"low.wav": "done"}


def test_a_file_of_somebody_else_is_not_written_over(place: Place) -> None:
    place.put("low.wav", LOW)
    place.results.mkdir()
    (place.results / "low.wav.json").write_text('{"recorded_by": "me"}')
    with pytest.raises(OutputMismatch, match=r"low\.wav\.json .*name another --out"):
        place.run()
    assert place.written() == ["low.wav.json"]


def test_a_watch_takes_what_comes_and_ends_when_it_is_told(place: Place) -> None:
    stop, events = threading.Event(), Events()

    def watch_on() -> None:
        with place.open() as watch:
            events.extend(keep_watching(watch, stop, EVERY_S))

    def done(name: str) -> Callable[[], bool]:
        return (place.results / f"{name}.json").exists

    watching = threading.Thread(target=watch_on)
    watching.start()
    try:
        for name in ("first.wav", "second.wav"):
            place.put(name, LOW)
            wait_until(done(name))
    finally:
        stop.set()
        watching.join(30)
    assert not watching.is_alive()
    assert states(events) == {"first.wav": "done", "second.wav": "done"}


def test_a_folder_that_is_not_there_is_one_error(tmp_path: Path) -> None:
    with pytest.raises(WrongPath, match="missing: no such folder"):
        require_place(open_store(tmp_path / "missing"))
    require_place(open_store(tmp_path))


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "low.wav").write_bytes(LOW)
    with pytest.raises(WrongPath, match=r"low\.wav: no such folder"):
        require_place(open_store(tmp_path / "low.wav"))


def test_a_name_that_is_not_utf_8_is_one_error(place: Place) -> None:
    Path(os.fsdecode(bytes(place.sounds) + b"/caf\xe9.wav")).write_bytes(LOW)
    with pytest.raises(WrongPath, match=r"caf\\xe9\.wav' there is not UTF-8: rename"):
        place.run()


def test_a_ledger_has_one_holder(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    refused = pytest.raises(BadInput, match=r"another watch holds the ledger .*ledger\.sqlite")
    with open_ledger(path, "a -> b"), refused, open_ledger(path, "a -> b"):
        pass
    with open_ledger(path, "a -> b"):
        pass


def test_a_ledger_remembers_the_last_version_of_each_object(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "ledger.sqlite"
    old, new, other = Entry("a.wav", 5, 1), Entry("a.wav", 5, 2), Entry("b.wav", 5, 1)
    with open_ledger(path, "a -> b") as ledger:
        ledger.record(old, "done")
        ledger.record(new, "rejected")
    with open_ledger(path, "a -> b") as ledger:
        assert new in ledger
        assert old not in ledger
        assert other not in ledger


def test_a_ledger_belongs_to_two_addresses(tmp_path: Path) -> None:
    with open_ledger(tmp_path / "ledger.sqlite", "a -> b"):
        pass
    with pytest.raises(BadInput, match=r"ledger of another watch \(a -> b\)"):
        open_ledger(tmp_path / "ledger.sqlite", "a -> c").__enter__()


def test_what_cannot_be_a_ledger_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("not a data base, and long enough to be seen as none " * 50)
    for path in (tmp_path, tmp_path / "text", tmp_path / "text" / "below"):
        with pytest.raises(WrongPath), open_ledger(path, "a -> b"):
            pass


def test_addresses_name_the_ledger_without_their_credentials() -> None:
    def purpose(source: str, out: str) -> str:
        return purpose_of(open_store(source), open_store(out))

    plain = purpose("s3://box/in?region=eu-west-1", "s3://box/out?region=eu-west-1")
    assert plain == "s3://box/in?region=eu-west-1 -> s3://box/out?region=eu-west-1"
    assert purpose("s3://key:secret@box/in?region=eu-west-1", "s3://box/out?region=eu-west-1") == plain
    assert default_ledger(plain) != default_ledger(purpose("/a", "/b"))
