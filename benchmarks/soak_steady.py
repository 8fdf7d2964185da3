"""The soak by the clock: a constant rate for minutes, and memory, file descriptors and temporary files drawn over them."""

import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path

import matplotlib.figure
import psutil
from rich.console import Console
from rich.table import Table

from benchmarks.load.watch import count_open_files
from benchmarks.load_client import run_closed, run_on_last_core, run_open
from benchmarks.process_tree import pss_by_process_mib

STEP_S = 10.0
CAPACITY_S = 5.0
CONNECTIONS = 8
MAX_GROWTH = 0.05
ROOM = 3  # descriptors or files more or fewer at the moment of a look
NAMES = ("memory of all processes, MiB (PSS)", "file descriptors", "files in the temporary folder")

err = Console(stderr=True)


@dataclass(frozen=True)
class Look:
    """The service at one moment."""

    time_s: float
    pss_mib: float
    descriptors: int
    files: int


def measure_capacity(port: int, requests: Sequence[bytes]) -> float:
    """Requests per second that it answers at best with a few connections."""
    return run_on_last_core(run_closed(port, requests, CONNECTIONS, CAPACITY_S)).rate


def soak_steadily(
    service: psutil.Process, port: int, requests: Sequence[bytes], minutes: float, rate: float, temporary: Path
) -> tuple[list[Look], Counter[int]]:
    """A look every ten seconds, and the answers by status. Ctrl-C ends it early."""
    looks, statuses, began_s = list[Look](), Counter[int](), time.monotonic()
    try:
        while (passed_s := time.monotonic() - began_s) < 60 * minutes:
            result = run_on_last_core(run_open(port, requests, rate, STEP_S))
            statuses += result.statuses
            look = Look(passed_s + STEP_S, sum(pss_by_process_mib(service).values()), *_count(service, temporary))
            looks.append(look)
            told = f"{look.pss_mib:.0f} MiB, {look.descriptors} descriptors, {look.files} files"
            err.print(f"{look.time_s / 60:.1f} min, {told}, {dict(statuses)}", highlight=False)
    except KeyboardInterrupt:
        err.print("soak: ended early", highlight=False)
    return looks, statuses


def _count(service: psutil.Process, temporary: Path) -> tuple[int, int]:
    return count_open_files(service), sum(1 for path in temporary.rglob("*") if path.is_file())


def judge(looks: Sequence[Look], rate: float, statuses: Counter[int]) -> tuple[Table, bool]:
    """The second quarter (the first warms up) beside the last; is none of the three more than MAX_GROWTH above?"""
    quarter = max(1, len(looks) // 4)
    early, late = looks[quarter : 2 * quarter] or looks[:1], looks[-quarter:]
    caption = f"{rate:.0f} requests/s for {looks[-1].time_s / 60:.1f} minutes; answers by status: {dict(statuses)}"
    table, flat = Table("what", caption=caption, caption_justify="left"), True
    for name in ("second quarter", "last quarter", "growth"):
        table.add_column(name, justify="right")
    for name, before, after in zip(NAMES, _means(early), _means(late), strict=True):
        flat &= after <= max(before * (1 + MAX_GROWTH), before + ROOM)
        table.add_row(name, f"{before:.1f}", f"{after:.1f}", f"{after / before - 1:+.1%}" if before else "-")
    return table, flat


def _means(looks: Sequence[Look]) -> list[float]:
    return [statistics.mean(values) for values in list(zip(*map(astuple, looks), strict=True))[1:]]


def draw_soak(looks: Sequence[Look], rate: float, picture: Path) -> None:
    """Writes the PNG."""
    figure = matplotlib.figure.Figure(figsize=(9, 8), layout="constrained")
    minutes = [look.time_s / 60 for look in looks]
    readings: tuple[Callable[[Look], float], ...] = (
        lambda look: look.pss_mib,
        lambda look: look.descriptors,
        lambda look: look.files,
    )
    for panel, name, read in zip(figure.subplots(3, 1, sharex=True), NAMES, readings, strict=True):
        values = [read(look) for look in looks]
        panel.plot(minutes, values)
        panel.set(title=name, ylim=(0, 1.15 * max(values)), xlabel="minutes" if name is NAMES[-1] else "")
        panel.grid(alpha=0.3)
    figure.suptitle(f"{rate:.0f} requests/s, half of what this machine carries")
    figure.savefig(picture, dpi=110)
