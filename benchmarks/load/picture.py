"""A load test as stacked panels over time: requests, latency, replicas, CPU, memory, open files."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import matplotlib.axes
import matplotlib.figure
import numpy as np
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from benchmarks.load.records import NO_ANSWER, Request
from benchmarks.load.watch import Sample

BINS = 240
COLOURS = {200: "tab:green", NO_ANSWER: "black"}
OTHER_COLOUR = "tab:red"


def draw_load(requests: Sequence[Request], samples: Sequence[Sample], title: str, picture: Path) -> None:
    """Writes the PNG; time counts from the first intended sending."""
    figure = matplotlib.figure.Figure(figsize=(10, 13), layout="constrained")
    panels = figure.subplots(6, 1, sharex=True)
    start_s = requests[0].intended_s
    length_s = max(request.intended_s for request in requests) - start_s + 1
    width_s = max(1.0, length_s / BINS)
    _draw_codes(panels[0], requests, start_s, width_s)
    _draw_latency(panels[1], requests, start_s, width_s)
    times = [sample.time_s - start_s for sample in samples]
    panels[2].step(times, [sample.replicas for sample in samples], where="post", label="there", color="tab:gray")
    panels[2].step(times, [sample.serving for sample in samples], where="post", label="in service")
    panels[2].set(ylabel="replicas")
    panels[3].plot(times, [sample.cpu for sample in samples], label="service")
    panels[3].plot(times, [sample.load_cpu for sample in samples], label="load generator", color="tab:gray")
    panels[3].set(ylabel="CPU, cores")
    panels[4].plot(times, [sample.pss_mib for sample in samples], label="memory of all processes (PSS)")
    panels[4].set(ylabel="MiB")
    panels[5].plot(times, [sample.open_files for sample in samples], label="file descriptors of all processes")
    panels[5].set(ylabel="open files", xlabel="seconds", xlim=(0, length_s))
    for panel in panels:
        if panel is not panels[1]:
            panel.set_ylim(0, 1.4 * panel.get_ylim()[1])  # room for the legend
        panel.grid(alpha=0.3)
        panel.legend(loc="upper left", fontsize="small")
    figure.suptitle(title)
    figure.savefig(picture, dpi=110)


def _draw_codes(panel: matplotlib.axes.Axes, requests: Sequence[Request], start_s: float, width_s: float) -> None:
    edges = np.arange(0, max(r.intended_s for r in requests) - start_s + 2 * width_s, width_s)
    for code in sorted(Counter(request.code for request in requests)):
        times = [request.intended_s - start_s for request in requests if request.code == code]
        counts, _ = np.histogram(times, edges)
        name = str(code) if code else "no answer"
        colour = COLOURS.get(code, OTHER_COLOUR)
        panel.step(edges[:-1], counts / width_s, where="post", label=f"{name}: {len(times):,}", color=colour)
    panel.set(ylabel="requests/s by code")


def _draw_latency(panel: matplotlib.axes.Axes, requests: Sequence[Request], start_s: float, width_s: float) -> None:
    answered = [request for request in requests if request.code]
    bins: dict[int, list[float]] = {}
    for request in answered:
        bins.setdefault(int((request.intended_s - start_s) / width_s), []).append(request.latency_ms)
    times = [number * width_s for number in sorted(bins)]
    for q, colour in ((0.5, "tab:blue"), (0.95, "tab:orange"), (1.0, "tab:red")):
        name = {0.5: "median", 0.95: "p95", 1.0: "max"}[q]
        panel.plot(times, [np.quantile(bins[number], q) for number in sorted(bins)], label=name, color=colour, lw=1)
    panel.set(ylabel="latency, ms\nfrom the intended sending", yscale="log")
    panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    panel.yaxis.set_minor_formatter(NullFormatter())
