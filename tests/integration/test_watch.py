"""`earshot watch` as a process, on folders and on an S3 server over HTTP: killed, refused, cut off, and started again."""

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cluster.session import free_port
from models.storage import Store, open_store
from tests.conftest import EARSHOT, Service, wait_until
from tests.s3 import HOST, Cloud
from tests.sounds import encode, tone

LOW, HIGH = encode(tone(300)), encode(tone(3000, 2.0))


@dataclass
class Run:
    """A running or ended `earshot watch`."""

    process: subprocess.Popen[bytes]
    folder: Path

    @property
    def out(self) -> str:
        return (self.folder / "stdout").read_text()

    @property
    def err(self) -> str:
        return (self.folder / "stderr").read_text()

    def end(self, number: int) -> int:
        """Sends the signal; the exit code."""
        self.process.send_signal(number)
        return self.process.wait(60)


@dataclass
class Watcher:
    """A place to watch, and the flags of every watch of it."""

    source: Store
    out: Store
    folder: Path
    flags: tuple[str | Path, ...]

    @contextmanager
    def start(self, *flags: str, every_s: float = 0.1) -> Iterator[Run]:
        """A watch while the block runs."""
        command = [EARSHOT, "watch", self.source.address, "--out", self.out.address, "--every", str(every_s)]
        environment = os.environ | {"XDG_STATE_HOME": str(self.folder)}
        with (self.folder / "stdout").open("wb") as out, (self.folder / "stderr").open("wb") as err:
            process = subprocess.Popen([*command, *self.flags, *flags], stdout=out, stderr=err, env=environment)
        try:
            yield Run(process, self.folder)
        finally:
            process.kill()
            process.wait(60)

    def once(self, *flags: str) -> tuple[int, str, str]:
        """`earshot watch --once`: its exit code, stdout and stderr."""
        with self.start("--once", *flags) as run:
            return run.process.wait(120), run.out, run.err

    def written(self) -> dict[str, dict[str, Any]]:
        """The JSON documents by the names of their sounds."""
        names = [entry.name for entry in self.out.list_files() if entry.name.endswith(".json")]
        return {name.removesuffix(".json"): json.loads(self.out.read(name)) for name in names}

    def request_ids(self) -> dict[str, str]:
        """What tells one classification of a sound from another."""
        return {name: answer["request_id"] for name, answer in self.written().items() if "request_id" in answer}

    def finished(self) -> int:
        return sum(entry.name.endswith(".json") for entry in self.out.list_files())


@pytest.fixture(params=["folder", "bucket"])
def watcher(request: pytest.FixtureRequest, tmp_path: Path, tone_tagger: Path) -> Watcher:
    """A watch of a folder or a bucket, with the tiny model."""
    flags = ("--weights", tone_tagger)
    if request.param == "folder":
        (tmp_path / "in").mkdir()
        return Watcher(open_store(tmp_path / "in"), open_store(tmp_path / "out"), tmp_path, flags)
    cloud: Cloud = request.getfixturevalue("cloud")
    bucket = tmp_path.name.replace("_", "-")
    cloud.make_bucket(bucket)
    source, out = (open_store(cloud.address(f"{bucket}/{place}")) for place in ("in", "out"))
    return Watcher(source, out, tmp_path, flags)


only_folder = pytest.mark.parametrize("watcher", ["folder"], indirect=True)
only_bucket = pytest.mark.parametrize("watcher", ["bucket"], indirect=True)


def test_killed_again_and_again_it_does_everything_once(watcher: Watcher) -> None:
    names = {f"hour {hour}/{minute:02}.wav" for hour in range(2) for minute in range(15)}
    for name in names:
        watcher.source.write(name, LOW)
    watcher.source.write("broken.wav", b"no sound")
    seen: dict[str, str] = {}
    for some in (3, 8, 14):
        with watcher.start() as run:
            wait_until(lambda some=some: watcher.finished() >= some, 60)
            run.end(signal.SIGKILL)
        done = watcher.request_ids()
        assert seen.items() <= done.items()
        seen = done
    assert len(seen) < len(names), "the last kill came too late to prove anything"
    code, out, err = watcher.once()
    done = watcher.request_ids()
    assert code == 0, err
    assert done.keys() == names
    assert seen.items() <= done.items()
    assert len(set(done.values())) == len(names)
    again = [line for line in out.splitlines() if line.partition(": ")[0] in seen]
    assert all(line.endswith("finished before") for line in again)
    assert len(again) <= 1  # whose JSON was whole, and not yet in the ledger
    assert watcher.once()[:2] == (0, "")


def test_rejected_once_and_replaced_ones_again(watcher: Watcher) -> None:
    watcher.source.write("tone.wav", LOW)
    watcher.source.write("broken.wav", b"no sound")
    watcher.source.write("notes.txt", b"no sound, and no sound's name")
    code, out, err = watcher.once()
    assert code == 3
    assert "tone.wav: Low tone" in out
    assert "broken.wav: rejected, not a sound" in out
    assert err.endswith("1 done, 1 rejected, 0 still queued\n")
    first = watcher.written()
    assert first["broken.wav.error"]["error"] == "audio-undecodable"
    assert watcher.once()[:2] == (0, "")
    watcher.source.write("tone.wav", HIGH)
    code, out, _ = watcher.once()
    assert (code, out.partition(" ")[0]) == (0, "tone.wav:")
    second = watcher.written()
    assert second["tone.wav"]["labels"][0]["label"] == "High tone"
    assert second["broken.wav.error"] == first["broken.wav.error"]


def test_results_beside_the_sounds_are_not_taken_for_sounds(watcher: Watcher) -> None:
    watcher.out = watcher.source
    watcher.source.write("a/tone.wav", LOW)
    assert watcher.once()[0] == 0
    assert watcher.once()[:2] == (0, "")
    names = [entry.name for entry in watcher.source.list_files()]
    assert names == ["a/tone.wav", "a/tone.wav.json", "a/tone.wav.png", "a/tone.wav.txt"]


@only_folder
def test_a_file_that_is_being_written_is_left_alone(watcher: Watcher) -> None:
    sound = encode(tone(300, 120.0))
    steps = iter(range(0, len(sound) - 4096, 4096))
    with Path(watcher.source.root, "growing.wav").open("wb", buffering=0) as file, watcher.start(every_s=1.0):

        def other_is_done() -> bool:
            start = next(steps)
            file.write(sound[start : start + 4096])
            return watcher.out.exists("rests.wav.json")

        watcher.source.write("rests.wav", LOW)
        wait_until(other_is_done)
        assert watcher.written().keys() == {"rests.wav"}
        file.write(sound[next(steps) :])
        wait_until(lambda: watcher.finished() == 2)
    assert watcher.written()["growing.wav"]["duration_s"] == 120.0
    assert watcher.written()["growing.wav"]["warnings"] == []


@only_folder
def test_a_second_watch_is_refused(watcher: Watcher, tmp_path: Path) -> None:
    watcher.source.write("tone.wav", LOW)
    with watcher.start("--ledger", str(tmp_path / "book")):
        wait_until(lambda: watcher.finished() == 1)
        command = [
            EARSHOT,
            "watch",
            watcher.source.address,
            "--out",
            watcher.out.address,
            "--ledger",
            tmp_path / "book",
        ]
        second = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert second.returncode == 2
    assert second.stderr.count("\n") == 1
    assert f"another watch holds the ledger {tmp_path / 'book'}" in second.stderr


@only_folder
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_cleanly(watcher: Watcher, number: int) -> None:
    for minute in range(40):
        watcher.source.write(f"{minute}.wav", LOW)
    with watcher.start() as run:
        wait_until(lambda: watcher.finished() > 0)
        assert run.end(number) == 0
        done = len(watcher.written())
        assert run.err == f"{done} done, 0 rejected, {40 - done} still queued\n"
        assert len(run.out.splitlines()) == done
    assert 0 < done < 40
    assert not list(Path(watcher.out.root).rglob(".*"))


@only_bucket
def test_a_store_that_goes_away_and_comes_back(watcher: Watcher, cloud: Cloud) -> None:
    watcher.source.write("before.wav", LOW)
    with watcher.start() as run:
        wait_until(lambda: watcher.finished() == 1)
        cloud.stop()
        wait_until(lambda: "cannot be reached" in run.err, 60)
        cloud.start()
        watcher.source.write("after.wav", LOW)
        wait_until(lambda: watcher.finished() == 2, 60)
        assert run.end(signal.SIGTERM) == 0
        lines = run.err.splitlines()
    assert len(lines) == 3
    assert "trying again" in lines[0]
    assert lines[1:] == ["earshot: it works again", "2 done, 0 rejected, 0 still queued"]


@only_folder
def test_a_service_classifies_and_one_that_is_away_rejects_nothing(watcher: Watcher, service: Service) -> None:
    watcher.source.write("tone.wav", LOW)
    watcher.source.write("broken.wav", b"no sound")
    watcher.flags = ("--server", f"http://{HOST}:{free_port()}")
    code, out, err = watcher.once()
    assert (code, out) == (1, "")
    assert "no Earshot service answers" in err
    assert "0 done, 0 rejected, 2 still queued" in err
    watcher.flags = ("--server", service.url)
    assert watcher.once()[0] == 3
    written = watcher.written()
    assert written["tone.wav"]["labels"][0]["label"] == "Low tone"
    assert written["broken.wav.error"]["error"] == "audio-undecodable"


@only_bucket
def test_a_place_that_does_not_exist_is_one_line(watcher: Watcher, cloud: Cloud, tmp_path: Path) -> None:
    for address, what in ((str(tmp_path / "missing"), "folder"), (cloud.address("missing/in"), "bucket")):
        watcher.source = open_store(address)
        code, out, err = watcher.once()
        assert (code, out) == (2, "")
        assert f"no such {what}" in err
        assert err.count("\n") == 1
