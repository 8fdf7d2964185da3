"""How the time and the memory of `earshot featurize` grow with the data: one run a size, in its own process."""

import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import matplotlib.figure
import psutil
from matplotlib.ticker import FuncFormatter
from rich.table import Table

from benchmarks.clips import Unusable
from benchmarks.process_tree import pss_by_process_mib

SAMPLE_EVERY_S = 0.5


def measure_growth(paths: list[Path], sizes: list[int], picture: Path | None) -> Table:
    """Featurizes the first so many clips, for each size; draws the curves if a picture is named. Raises Unusable."""
    table = Table(
        caption="s: the whole command, Ray's start included. Peak: PSS of all its processes.", caption_justify="left"
    )
    for name in ("clips", "s", "clips/s", "peak MiB"):
        table.add_column(name, justify="right", no_wrap=True)
    runs = [(size, *_run(paths[:size])) for size in sizes]
    for size, seconds, peak_mib in runs:
        table.add_row(str(size), f"{seconds:.1f}", f"{size / seconds:.0f}", f"{peak_mib:.0f}")
    if picture and runs:
        _draw(runs, picture)
    return table


def _run(paths: list[Path]) -> tuple[float, float]:
    """Seconds and peak MiB of one run of the command."""
    with tempfile.TemporaryDirectory(prefix="earshot-bench-") as folder:
        manifest = Path(folder, "manifest.csv")
        manifest.write_text("path\n" + "\n".join(map(str, paths)) + "\n")
        program = str(Path(sys.executable).parent / "earshot")
        command = [
            program,
            "featurize",
            "manifest",
            "--root",
            str(manifest),
            "--out",
            f"{folder}/out",
            "--window-s",
            "5",
        ]
        began_s = time.perf_counter()
        process = psutil.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=os.environ)
        peak_mib = [0.0]
        watcher = threading.Thread(target=_watch, args=(process, peak_mib))
        watcher.start()
        printed = process.communicate()[0].decode()
        seconds = time.perf_counter() - began_s
        watcher.join()
        if process.returncode:
            raise Unusable(f"featurize ended with {process.returncode}: {printed.strip().splitlines()[-1]}")
        return seconds, peak_mib[0]


def _watch(process: psutil.Popen, peak_mib: list[float]) -> None:
    while process.poll() is None:
        peak_mib[0] = max(peak_mib[0], sum(pss_by_process_mib(process).values()))
        time.sleep(SAMPLE_EVERY_S)


def _draw(runs: list[tuple[int, float, float]], picture: Path) -> None:
    sizes, seconds, peaks = zip(*runs, strict=True)
    figure = matplotlib.figure.Figure(figsize=(9, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    for axes, values, title in ((left, seconds, "seconds"), (right, peaks, "peak memory, MiB")):
        axes.plot(sizes, values, "o-", color="#b03060")
        axes.set_title(title, loc="left", fontsize=10)
        axes.set_xlabel("clips of 5 s")
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axes.grid(alpha=0.3)
        axes.set_ylim(0, max(values) * 1.15)
        for size, value in zip(sizes, values, strict=True):
            axes.annotate(f"{value:,.0f}", (size, value), (0, 6), textcoords="offset points", ha="center", fontsize=9)
    left.set_yscale("log")
    left.set_ylim(min(seconds) / 2, max(seconds) * 3)
    figure.savefig(picture, dpi=120)
