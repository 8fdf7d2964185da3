"""What training reaches on ESC-10 and what it costs, in one run: every architecture by folds, a yes-or-no question, one worker and two.

Needs the clips and the real YAMNet (EARSHOT_SHARED). Accuracies are means over the five folds, each judged by a model that has not heard
it: no choice was made by looking at a test fold. A result that is in --work already is not trained again.
"""

import argparse
import functools
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.clips import SHARED
from benchmarks.report import save, show
from tune.outcomes import load_outcome

FOLDER = Path(__file__).resolve().parent
EARSHOT = Path(sys.executable).parent / "earshot"
HUMAN = "crying_baby,sneezing"
FEATURES = {
    "clips": ["--features", "embedding", "--window-s", "5", "--hop-s", "5"],
    "frames": ["--features", "logmel", "--window-s", "5", "--hop-s", "5"],
    "mel": ["--features", "mel"],
}
HEAD = ("--epochs", "40", "--validation-share", "0", "--mixup-alpha", "0.2")
YES_NO = ("--epochs", "20", "--validation-share", "0", "--mixup-alpha", "0.2", "--positive", HUMAN)
WHOLE = ("--epochs", "8", "--validation-share", "0", "--lr", "0.0003")
SLOW = ("--epochs", "20", "--option", "channels=8")  # conv2d costs far more than the others

err = Console(stderr=True)


@dataclass(frozen=True)
class Case:
    """One model on one kind of features, and the flags that it is trained with."""

    question: str
    name: str
    features: str
    model: str
    flags: tuple[str, ...] = ()


HEADS = ("linear", "conv1d", "conv2d", "lstm", "transformer")
CASES = (
    *(Case("ten classes", f"{model} on YAMNet's embeddings", "clips", model, HEAD) for model in HEADS),
    Case(
        "ten classes",
        "vggish-head on YAMNet's embeddings",
        "clips",
        "vggish-head",
        (*HEAD, "--lr", "0.0003", "--option", "hidden=256"),
    ),
    Case(
        "ten classes",
        "YAMNet, fine-tuned whole",
        "frames",
        "yamnet",
        (*WHOLE, "--pretrained", "{yamnet}"),
    ),
    *(Case("human sound or not", f"{model} on YAMNet's embeddings", "clips", model, YES_NO) for model in HEADS),
    Case(
        "ten classes",
        "mel CNN of the ESC-50 seed",
        "mel",
        "mel-cnn",
        ("--epochs", "10", "--validation-share", "0", "--spec-augment", "--mixup-alpha", "0.2"),
    ),
)

TOGETHER = (
    ("vggish-head", "yamnet"),
    ("lstm", "yamnet"),
    ("vggish-head", "lstm", "yamnet"),
    ("vggish-head", "lstm", "transformer", "yamnet"),
)


def run(*words: str) -> float:
    """Runs the command line; seconds of wall time."""
    began_s = time.perf_counter()
    done = subprocess.run([str(EARSHOT), *words], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"earshot {' '.join(words)}: {done.stderr}")
    return time.perf_counter() - began_s


def measure(case: Case, work: Path) -> dict[str, float]:
    """Trains by folds, where that was not done, and reads the figures."""
    out = work / case.question.replace(" ", "-") / case.model
    weights = str(SHARED / "weights")
    flags = [flag.format(yamnet=weights) for flag in case.flags + (SLOW if case.model == "conv2d" else ())]
    run(
        "train",
        str(work / case.features),
        "--model",
        case.model,
        "--out",
        str(out),
        "--folds",
        "--weights",
        weights,
        *flags,
    )
    document = json.loads((out / "metrics.json").read_text())
    folds = [row["test"] for name, row in document["runs"].items() if name.startswith("fold")]
    numbers = {name: statistics.mean(fold[name] for fold in folds) for name in ("accuracy", "f1")}
    waiting = max(row["wait_share"] for row in document["runs"].values())
    seconds = sum(row["seconds"] for row in document["runs"].values())
    spread = [min(fold["accuracy"] for fold in folds), max(fold["accuracy"] for fold in folds)]
    return numbers | {"low": spread[0], "high": spread[1], "waiting": waiting, "seconds": seconds}


def tabulate(work: Path) -> Table:
    """Every case."""
    table = Table(
        caption="Five folds. waiting: for data, of the training's time, in the slowest run. s: all six trainings."
    )
    for name in ("question", "model", "accuracy", "lowest - highest fold", "F1", "waiting", "s"):
        table.add_column(name)
    for case in CASES:
        found = measure(case, work)
        spread = f"{found['low']:.1%} - {found['high']:.1%}"
        numbers = (
            f"{found['accuracy']:.2%}",
            spread,
            f"{found['f1']:.3f}",
            f"{found['waiting']:.1%}",
            f"{found['seconds']:.0f}",
        )
        err.print(case.question, case.name, *numbers)
        table.add_row(case.question, case.name, *numbers)
    return table


def combine(work: Path) -> Table:
    """Models that are asked together: the mean of the logarithms of their scores, by folds."""
    table = Table(caption="The same trainings as above; the geometric mean of the models' scores.")
    for name in ("together", "accuracy", "lowest - highest fold"):
        table.add_column(name)
    for models in TOGETHER:
        right: list[float] = []
        for fold in range(1, 6):
            folders = [work / "ten-classes" / model / f"fold{fold}" for model in models]
            outcomes = [outcome.test for folder in folders if (outcome := load_outcome(folder))]
            judged = [part for part in outcomes if part]
            mixed = np.sum([np.log(part.scores + 1e-6) for part in judged], axis=0)
            right.append(float(np.mean(mixed.argmax(1) == judged[0].targets.argmax(1))))
        table.add_row(" + ".join(models), f"{statistics.mean(right):.2%}", f"{min(right):.1%} - {max(right):.1%}")
    return table


def compare_workers(work: Path, rounds: int) -> Table:
    """The same epochs with one worker and with two, interleaved; the time of training alone, Ray's start apart."""
    seconds: dict[int, list[float]] = {1: [], 2: []}
    accuracies: dict[int, list[float]] = {1: [], 2: []}
    for number in range(rounds):
        for workers in (1, 2):
            out = work / f"workers-{workers}-{number}"
            size = str(32 // workers)
            flags = [
                "--epochs",
                "3",
                "--patience",
                "3",
                "--batch-size",
                size,
                "--lr",
                "0.0003",
                "--workers",
                str(workers),
            ]
            flags += ["--pretrained", str(SHARED / "weights"), "--overwrite"]
            run("train", str(work / "frames"), "--model", "yamnet", "--out", str(out), *flags)
            document = json.loads((out / "final" / "outcome.json").read_text())
            seconds[workers].append(sum(report["step_s"] for report in document["epochs"]))
            accuracies[workers].append(document["metrics"]["test"]["accuracy"])
    table = Table(caption=f"YAMNet whole, 3 epochs of the same rows; medians of {rounds} interleaved rounds.")
    for name in ("workers", "s", "of one", "accuracy"):
        table.add_column(name)
    for workers in (1, 2):
        middle = statistics.median(seconds[workers])
        share = f"{middle / statistics.median(seconds[1]):.2f}"
        table.add_row(str(workers), f"{middle:.1f}", share, f"{statistics.mean(accuracies[workers]):.1%}")
    return table


def main() -> None:
    """Makes the features, trains, prints and saves the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=FOLDER.parent / "build" / "training")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=("models", "together", "workers"), help="one of the tables")
    chosen = parser.parse_args()
    clips, weights = str(SHARED / "data" / "esc10"), str(SHARED / "weights")
    for name, flags in FEATURES.items():
        run("featurize", "esc50", "--root", clips, "--out", str(chosen.work / name), "--weights", weights, *flags)
    makers: dict[str, Callable[[Path], Table]] = {
        "models": tabulate,
        "together": combine,
        "workers": functools.partial(compare_workers, rounds=chosen.rounds),
    }
    for name in [chosen.only] if chosen.only else makers:
        table = makers[name](chosen.work)
        show(table)
        save(table, FOLDER / "RESULTS.md", "`benchmarks.training`: ESC-10.")


if __name__ == "__main__":
    main()
