"""`earshot sweep` as a user runs it: on a real Ray, with trials that fail, killed processes, a killed driver, workers inside trials."""

import json
import os
import signal
import subprocess
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest

from tests.conftest import EARSHOT, wait_until
from tests.features import clusters, save_features

SLOW = "recipe:\n  batch_size: 1\n  patience: 1000\n  lr: {loguniform: [1e-3, 1e-2]}\n"


@pytest.fixture
def features(tmp_path: Path) -> Path:
    rows, labels = clusters(320, (4, 16), 4, noise=2.0)
    return save_features(tmp_path / "features", rows, labels)


def command(features: Path, *flags: str) -> list[str]:
    return [str(EARSHOT), "sweep", str(features), "--out", str(features.parent / "out"), *flags]


def start(features: Path, *flags: str) -> subprocess.Popen[str]:
    return subprocess.Popen(command(features, *flags), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(process: subprocess.Popen[str]) -> str:
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, output
    return output


def ended(features: Path) -> dict[int, int]:
    """The trials that have ended, with when they were written down."""
    paths = (features.parent / "out" / "trials").glob("*.json")
    return {int(path.stem): path.stat().st_mtime_ns for path in paths}


def states(features: Path) -> list[str]:
    return list(pq.read_table(features.parent / "out" / "trials.parquet")["state"].to_pylist())


def write_space(features: Path, text: str) -> str:
    path = features.parent / "space.yaml"
    path.write_text(text)
    return str(path)


def trial_processes(process: subprocess.Popen[str]) -> list[psutil.Process]:
    found = []
    for child in psutil.Process(process.pid).children(recursive=True):
        try:
            if "ImplicitFunc.train" in " ".join(child.cmdline()):
                found.append(child)
        except psutil.Error:
            continue
    return found


def test_sweep_of_two_models_ends_with_a_report_and_a_failed_trial_stops_no_other(features: Path) -> None:
    space = write_space(features, "recipe:\n  optimizer: sgd\n  lr: {choice: [0.01, 0.003, 1e30]}\n")
    flags = ["--model", "linear,conv1d", "--space", space, "--trials", "0", "--epochs", "6", "--metric", "accuracy"]
    result = subprocess.run(command(features, *flags), capture_output=True, text=True)
    assert result.returncode == 3, result.stderr
    assert result.stderr.count("the loss became") == 2
    assert "Traceback" not in result.stderr
    assert "2 failed; 0 to go" in result.stdout
    assert states(features).count("failed") == 2
    assert "finished" in states(features)
    out = features.parent / "out"
    report = (out / "report.md").read_text()
    assert "earshot train" in report
    assert "learning rate 1e+30" in report
    assert {"parallel.png", "learning.png", "sweep.json", "trials.parquet"} <= {file.name for file in out.iterdir()}
    assert not (out / "ray").exists()


def test_killed_trial_is_run_again_and_a_killed_driver_loses_no_trial_and_repeats_none(features: Path) -> None:
    space = write_space(features, SLOW)
    flags = ["--model", "linear", "--space", space, "--trials", "6", "--epochs", "20", "--scheduler", "none"]
    process = start(features, *flags)
    wait_until(lambda: bool(trial_processes(process)) or process.poll() is not None, 180)
    trial_processes(process)[0].kill()
    wait_until(lambda: len(ended(features)) >= 2 or process.poll() is not None, 180)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    before = ended(features)
    assert 2 <= len(before) < 6
    finish(start(features, *flags))
    after = ended(features)
    assert set(after) == set(range(1, 7))
    assert {number: after[number] for number in before} == before
    assert states(features) == ["finished"] * 6
    for number in after:
        record = json.loads((features.parent / "out" / "trials" / f"{number:04d}.json").read_text())
        assert [report["epoch"] for report in record["epochs"]] == list(range(20))


def test_trials_of_several_workers_never_wait_for_each_other_s_cores(features: Path) -> None:
    """Trials that each want both of two cores: two that began at once would wait for each other for ever."""
    finish(start(features, "--model", "linear", "--trials", "2", "--epochs", "3", "--workers-per-trial", "2"))
    assert len(states(features)) == 2
    assert set(states(features)) <= {"finished", "stopped"}


def test_bad_usage_is_one_line_and_exit_code_2(features: Path) -> None:
    space = write_space(features, "recipe:\n  lr: {uniform: [1]}\n")
    for flags, said in (
        (["--space", space], "line 2: recipe.lr"),
        (["--gpus-per-trial", "99"], "99 GPUs does not fit"),
    ):
        result = subprocess.run(command(features, "--model", "linear", *flags), capture_output=True, text=True)
        assert result.returncode == 2, result.stderr
        assert said in " ".join(result.stderr.split())
        assert "Traceback" not in result.stderr
