"""A load test's report: one row a phase and one for all, from what lies in its folder."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.table import Table

from benchmarks.load.picture import draw_load
from benchmarks.load.records import NO_ANSWER, Figures, Phase, Request, figures, read_requests
from benchmarks.load.watch import Sample, read_samples

BIRDS = "The birds seed, for comparison: all 200; median 1,838 ms; 204 s until a new instance served; 18,120 and 100,000 requests."
INTENDED = (
    "Latency in ms from the intended time of sending: the i-th request of a phase at the phase's start + i / rate,\n"
    "the start being the latest for which none was sent before its time. In service: replicas that listen for requests."
)


def write_report(folder: Path, phases: Sequence[Phase], title: str) -> tuple[Table, Figures]:
    """Table and figures of what was recorded so far; report.json and load.png beside the record. Raises ValueError when it is empty."""
    requests = read_requests(folder / "record.txt", phases) if (folder / "record.txt").exists() else []
    if not requests:
        raise ValueError("no request was sent")
    samples = read_samples(folder / "samples.jsonl")
    total = figures(requests)
    draw_load(requests, samples, title, folder / "load.png")
    document = {"title": title, "figures": asdict(total), "wrong_ids": count_wrong_ids(requests)}
    (folder / "report.json").write_text(json.dumps(document, indent=1) + "\n")
    return _table(requests, samples, phases, total), total


def count_wrong_ids(requests: Sequence[Request]) -> int:
    """Answers that carried another request's id."""
    return sum(request.code != NO_ANSWER and not request.own_id for request in requests)


def _table(requests: Sequence[Request], samples: Sequence[Sample], phases: Sequence[Phase], total: Figures) -> Table:
    table = Table(caption=f"{INTENDED}\n{BIRDS}", caption_justify="left")
    for name in ("phase", "sent", "200", "others", "min", "median", "p95", "p99", "max", "in service", "cores", "MiB"):
        table.add_column(name, justify="right", no_wrap=True)
    for number, phase in enumerate(phases):
        if part := [request for request in requests if request.phase == number]:
            began_s, ended_s = part[0].intended_s, part[-1].intended_s
            seen = [sample for sample in samples if began_s <= sample.time_s <= ended_s]
            table.add_row(f"{phase.rate:g}/s, {phase.duration_s:g} s", *_cells(figures(part)), *_state(seen))
    table.add_section()
    table.add_row("all", *_cells(total), *_state(samples))
    return table


def _cells(one: Figures) -> list[str]:
    others = ", ".join(f"{n} x {code or 'no answer'}" for code, n in sorted(one.codes.items()) if code != 200)
    latencies = (one.min_ms, one.median_ms, one.p95_ms, one.p99_ms, one.max_ms)
    return [f"{one.sent:,}", f"{one.codes.get(200, 0):,}", others or "-", *(f"{ms:.0f}" for ms in latencies)]


def _state(samples: Sequence[Sample]) -> list[str]:
    if not samples:
        return ["-"] * 3
    few, many = min(s.serving for s in samples), max(s.serving for s in samples)
    cores = sum(sample.cpu for sample in samples) / len(samples)
    memory = [sample.pss_mib for sample in samples if sample.pss_mib]
    return [f"{few}" if few == many else f"{few} to {many}", f"{cores:.2f}", f"{max(memory):.0f}" if memory else "-"]
