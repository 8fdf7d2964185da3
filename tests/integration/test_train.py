"""`earshot train` as a user runs it: several workers on a real Ray, killed workers, a killed driver."""

import json
import os
import signal
import subprocess
from pathlib import Path

import psutil
import pytest

from tests.conftest import EARSHOT, wait_until
from tests.features import clusters, save_features

EPOCHS = 12


@pytest.fixture
def features(tmp_path: Path) -> Path:
    rows, labels = clusters(320, (4, 16), 4, noise=1.0)
    return save_features(tmp_path / "features", rows, labels)


def command(features: Path, out: Path, *more: str) -> list[str]:
    flags = [
        "--model",
        "linear",
        "--out",
        str(out),
        "--epochs",
        str(EPOCHS),
        "--patience",
        str(EPOCHS),
        "--lr",
        "0.003",
    ]
    return [str(EARSHOT), "train", str(features), *flags, *more]


def start(features: Path, out: Path, *more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(command(features, out, *more), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def saved_checkpoints(out: Path) -> list[Path]:
    return list(out.glob("final/ray/checkpoint_*/checkpoint.pt"))


def workers_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    found = []
    for child in psutil.Process(process.pid).children(recursive=True):
        try:
            title = " ".join(child.cmdline())
        except psutil.Error:
            continue
        if "RayTrainWorker" in title:
            found.append(child)
    return found


def finish(process: subprocess.Popen[str]) -> str:
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    return output


def accuracy(out: Path) -> float:
    return float(json.loads((out / "metrics.json").read_text())["test"]["accuracy"])


def epochs_of(out: Path) -> list[int]:
    return [report["epoch"] for report in json.loads((out / "final" / "outcome.json").read_text())["epochs"]]


def test_two_workers_of_which_one_is_killed_finish_what_one_process_finishes(features: Path, tmp_path: Path) -> None:
    finish(start(features, tmp_path / "one"))
    process = start(features, tmp_path / "two", "--workers", "2", "--batch-size", "16")
    wait_until(lambda: bool(saved_checkpoints(tmp_path / "two")) or process.poll() is not None, 120)
    victims = workers_of(process)
    assert len(victims) == 2, finish(process)
    victims[1].send_signal(signal.SIGKILL)
    finish(process)
    assert epochs_of(tmp_path / "two") == list(range(EPOCHS))
    assert accuracy(tmp_path / "two") == pytest.approx(accuracy(tmp_path / "one"), abs=0.1)
    assert accuracy(tmp_path / "two") > 0.9


def test_driver_that_is_killed_goes_on_from_its_last_epoch(features: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    slow = ["--batch-size", "1", "--epochs", "200", "--patience", "200"]
    process = start(features, out, *slow)
    checkpoint = out / "final" / "checkpoint.pt"
    wait_until(lambda: checkpoint.exists() or process.poll() is not None, 120)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert checkpoint.exists()
    assert not (out / "card.json").exists()
    finish(start(features, out, *slow))
    assert epochs_of(out) == list(range(200))
    assert not checkpoint.exists()


def test_bad_usage_is_one_line_and_exit_code_2(features: Path, tmp_path: Path) -> None:
    for flags, said in (
        (["--option", "hidden=99999"], "hidden"),
        (["--option", "hidden"], "name=value"),
        (["--folds"], "no folds"),
        (["--lr", "-1"], "lr"),
    ):
        result = subprocess.run(command(features, tmp_path / "out", *flags), capture_output=True, text=True)
        assert result.returncode == 2, result.stderr
        assert said in result.stderr
        assert "Traceback" not in result.stderr
    assert not (tmp_path / "out").exists()
