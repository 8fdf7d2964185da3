"""`earshot featurize` and `earshot classify --out` from outside, on real Ray: the same results at any parallelism, kills, full disks."""

import os
import shutil
import signal
import subprocess
from collections import Counter
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile

from models.features import read_state
from models.storage import open_store
from tests.conftest import EARSHOT, wait_until
from tests.sounds import encode, tone

CLIPS = 160
BAD = 3
LONG_S = 1500


@pytest.fixture(scope="module")
def sounds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of clips, some of them broken, and one recording long enough to be cut."""
    folder = tmp_path_factory.mktemp("sounds")
    for name, hz in (("low", 300), ("high", 3000)):
        (folder / name).mkdir()
        for number in range(CLIPS // 2):
            clip = encode(tone(hz + number, 0.5 + number / 20), container="FLAC")
            (folder / name / f"{number:03}.flac").write_bytes(clip)
    for number in range(BAD):
        (folder / "low" / f"bad{number}.wav").write_bytes(b"RIFF" + bytes([number]) * 100)
    turns = np.tile(np.concatenate([tone(3000, 10, 8000), tone(300, 10, 8000)]), LONG_S // 20)
    soundfile.write(folder / "high" / "long.wav", turns, 8000, subtype="PCM_U8")
    return folder


def run(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [str(EARSHOT), *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=300, env=os.environ | environment, check=False
    )


def serialized(table: pa.Table) -> bytes:
    """A table's bytes, in order of item and time."""
    ordered = table.sort_by([("item", "ascending"), ("start_s", "ascending")]).combine_chunks()
    stream = pa.BufferOutputStream()
    with pa.ipc.new_stream(stream, ordered.schema) as writer:
        writer.write_table(ordered)
    return stream.getvalue().to_pybytes()


def test_answers_are_the_same_bytes_with_one_worker_and_with_two(
    sounds: Path, tone_tagger: Path, tmp_path: Path
) -> None:
    for workers in "12":
        out = tmp_path / f"answers-{workers}.parquet"
        ended = run("classify", sounds, "--out", out, "--workers", workers, "--weights", tone_tagger)
        assert ended.returncode == 3, ended.stderr
        assert f"{CLIPS + 1} done, {BAD} rejected" in ended.stderr
        assert "_errors" in ended.stderr
    one, two = (pq.read_table(tmp_path / f"answers-{workers}.parquet") for workers in "12")
    assert len(one) == CLIPS + 1
    assert serialized(one) == serialized(two)
    [long] = [row for row in one.to_pylist() if row["path"] == "high/long.wav"]
    assert long["duration_s"] == LONG_S
    high = [event for event in long["events"] if event["label"] == "High tone"]
    assert [round(event["start_s"] / 20) * 20 for event in high] == list(range(0, LONG_S, 20)), "one timeline"


def test_a_killed_driver_loses_nothing_and_doubles_nothing(sounds: Path, tmp_path: Path) -> None:
    out, reference = tmp_path / "out", tmp_path / "reference"
    command = ["featurize", "folder", "--root", sounds, "--out", out, "--window-s", "1", "--hop-s", "0.1"]
    driver = psutil.Popen([str(EARSHOT), *map(str, command), "--workers", "1"], stderr=subprocess.DEVNULL)
    wait_until(lambda: len(list(out.rglob("part-*.parquet"))) >= 2 or driver.poll() is not None, 60)
    driver.send_signal(signal.SIGKILL)
    driver.wait(20)
    state = read_state(open_store(out))
    assert state is not None
    assert not state.complete
    before = {path: path.stat().st_mtime_ns for path in out.rglob("part-*.parquet")}

    again = run(*command)
    assert again.returncode == 3, again.stderr
    assert "there already" in again.stderr
    assert {path: path.stat().st_mtime_ns for path in before} == before

    command[command.index(out)] = reference
    assert run(*command).returncode == 3
    resumed, whole = pq.read_table(out), pq.read_table(reference)
    assert max(Counter(zip(resumed["item"].to_pylist(), resumed["start_s"].to_pylist(), strict=True)).values()) == 1
    assert serialized(resumed) == serialized(whole)
    assert sorted(pq.read_table(out / "_errors")["path"].to_pylist()) == [f"low/bad{n}.wav" for n in range(BAD)]


def test_a_killed_worker_is_replaced_and_nothing_is_doubled(sounds: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = ["featurize", "folder", "--root", str(sounds), "--out", str(out), "--window-s", "1", "--hop-s", "0.1"]
    driver = psutil.Popen([str(EARSHOT), *command, "--workers", "2"], stderr=subprocess.PIPE, text=True)
    wait_until(lambda: len(list(out.rglob("part-*.parquet"))) >= 2 or driver.poll() is not None, 60)
    [*busy] = [child for child in driver.children(recursive=True) if "MapBatches" in " ".join(child.cmdline())]
    busy[0].kill()
    _, said = driver.communicate(timeout=200)
    assert driver.returncode == 3, said
    rows = pq.read_table(out, columns=["item", "start_s"])
    assert max(Counter(zip(rows["item"].to_pylist(), rows["start_s"].to_pylist(), strict=True)).values()) == 1
    assert len({item.split("#")[0] for item in rows["item"].to_pylist()}) == CLIPS + 1


def test_a_full_disk_is_one_clear_error_and_the_next_run_goes_on(sounds: Path, tmp_path: Path) -> None:
    out, kept = tmp_path / "out", tmp_path / "kept"
    kept.mkdir()
    command = ["featurize", "folder", "--root", str(sounds), "--out", str(out), "--window-s", "1", "--hop-s", "0.1"]
    script = (
        f'mkdir -p {out} && mount -t tmpfs -o size=400k none {out} && "$@"; code=$?; cp -r {out}/. {kept}; exit $code'
    )
    inside = subprocess.run(
        ["unshare", "-rm", "sh", "-c", script, "sh", str(EARSHOT), *command],
        capture_output=True,
        text=True,
        check=False,
    )
    if "unshare" in inside.stderr or "mount" in inside.stderr:
        pytest.skip(f"a small disk cannot be made here: {inside.stderr.strip()}")
    assert inside.returncode == 1, inside.stderr
    [line] = [line for line in inside.stderr.splitlines() if line.startswith("earshot:")]
    assert "no space left" in line
    assert "Traceback" not in inside.stderr
    assert list(kept.rglob("part-*.parquet"))
    for part in kept.rglob("part-*.parquet"):
        pq.read_table(part)
    shutil.rmtree(out)
    shutil.copytree(kept, out)
    again = run(*command)
    assert again.returncode == 3
    assert "there already" in again.stderr
    assert not list(out.rglob("*.draft"))


def test_ctrl_c_ends_it_cleanly(sounds: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = ["featurize", "folder", "--root", str(sounds), "--out", str(out), "--window-s", "1", "--hop-s", "0.1"]
    driver = psutil.Popen([str(EARSHOT), *command], stderr=subprocess.PIPE, start_new_session=True, text=True)
    wait_until(lambda: bool(list(out.rglob("part-*"))), 60)  # the first one's draft is enough
    started = driver.children(recursive=True)
    os.killpg(driver.pid, signal.SIGINT)
    _, said = driver.communicate(timeout=60)
    assert driver.returncode == 130, said
    assert "Traceback" not in said
    assert not psutil.wait_procs(started, timeout=30)[1]
