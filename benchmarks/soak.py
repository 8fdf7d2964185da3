"""Does memory stay flat? 10,000 requests at 16 connections.

Every answer must be 200, no process more than 5 % larger than at request 2,000; exit code 1 when that does not hold.
`python -m benchmarks.soak` starts `earshot up` itself; `--port P` looks at one that runs. With `--minutes M` it goes by the clock instead,
at half of what the service carries, and draws memory, file descriptors and temporary files.
"""

import argparse
import dataclasses
import sys
import tempfile
from collections import Counter
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table

from benchmarks.clips import ROOT, Inputs, Unusable, load_inputs
from benchmarks.load_client import make_request, run_closed, run_on_last_core
from benchmarks.process_tree import pss_by_process_mib, short_name
from benchmarks.report import save
from benchmarks.soak_steady import draw_soak, judge, measure_capacity, soak_steadily
from benchmarks.systems import PORT, NotRunning, earshot, end_on_sigterm, running
from cluster.processes import find_service

RESULTS = ROOT / "benchmarks" / "RESULTS.md"
WARM_UP_REQUESTS = 500
STEP_REQUESTS = 500
SETTLED_AFTER = 2_000
CONNECTIONS = 16
MAX_GROWTH = 0.05

Memory = dict[psutil.Process, float]  # MiB

out, err = Console(), Console(stderr=True)


def main() -> None:
    """Runs the soak. Exit code 2 when clips or weights are not here, 1 when the service fails."""
    args = _arguments()
    end_on_sigterm()
    try:
        inputs = load_inputs(args.clips, args.weights)
        if args.minutes:
            good = _soak_by_the_clock(inputs, args)
        else:
            good = _soak_running(args.port, inputs, args) if args.port else _soak_started(inputs, args)
    except (Unusable, NotRunning, ConnectionError) as error:
        err.print(f"soak: {error}", highlight=False, soft_wrap=True, markup=False)
        sys.exit(2 if isinstance(error, Unusable) else 1)
    sys.exit(0 if good else 1)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks.soak", description=__doc__)
    parser.add_argument("--weights", type=Path, help="folder with YAMNet's files, or a model folder")
    parser.add_argument("--clips", type=Path, help="folder with sounds")
    parser.add_argument("--port", type=int, help="a running service's port, instead of starting one")
    parser.add_argument("--placement", choices=("fused", "separate"), default="fused")
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--minutes", type=float, help="go by the clock, at half capacity")
    parser.add_argument("--rate", type=float, help="requests per second of --minutes, instead of half capacity")
    parser.add_argument("--picture", type=Path, default=ROOT / "build" / "soak.png", help="what --minutes draws")
    parser.add_argument("--save", action="store_true", help="append the table of --minutes to RESULTS.md")
    return parser.parse_args()


def _soak_running(port: int, inputs: Inputs, args: argparse.Namespace) -> bool:
    service = find_service(port)
    if service is None:
        raise NotRunning(f"no `earshot up` of yours serves port {port}")
    return soak(service, port, inputs.bodies["ogg"], args.requests)


def _soak_started(inputs: Inputs, args: argparse.Namespace) -> bool:
    with running(earshot(args.placement, inputs.bundle.path)) as service:
        return soak(service, PORT, inputs.bodies["ogg"], args.requests)


def _soak_by_the_clock(inputs: Inputs, args: argparse.Namespace) -> bool:
    with tempfile.TemporaryDirectory(prefix="soak-", dir="/tmp") as folder:  # short: Ray's sockets lie in it
        system = earshot(args.placement, inputs.bundle.path)
        own = {"TMPDIR": folder, "RAY_TMPDIR": folder}
        with running(dataclasses.replace(system, environment=own)) as service:
            requests = [make_request(PORT, "/v1/classify", body) for body in inputs.bodies["ogg"]]
            run_on_last_core(run_closed(PORT, requests, CONNECTIONS, count=WARM_UP_REQUESTS))
            rate = args.rate or measure_capacity(PORT, requests) / 2
            looks, statuses = soak_steadily(service, PORT, requests, args.minutes, rate, Path(folder))
    if not looks:
        raise NotRunning("ended before the first look")
    table, flat = judge(looks, rate, statuses)
    args.picture.parent.mkdir(parents=True, exist_ok=True)
    draw_soak(looks, rate, args.picture)
    out.print(table, f"picture: {args.picture}")
    if args.save:
        save(table, RESULTS, f"`benchmarks.soak --minutes {args.minutes:g}`.")
    return flat and set(statuses) == {200}


def soak(service: psutil.Process, port: int, bodies: list[bytes], count: int) -> bool:
    """Sends the requests and prints what became of answers and memory; whether both are good."""
    requests = [make_request(port, "/v1/classify", body) for body in bodies]
    run_on_last_core(run_closed(port, requests, CONNECTIONS, count=WARM_UP_REQUESTS))
    statuses, samples = Counter[int](), dict[int, Memory]()
    for done in range(STEP_REQUESTS, count + 1, STEP_REQUESTS):
        result = run_on_last_core(run_closed(port, requests, CONNECTIONS, count=STEP_REQUESTS))
        statuses += result.statuses
        samples[done] = pss_by_process_mib(service)
        total_mib = sum(samples[done].values())
        err.print(f"{done} requests, {total_mib:.0f} MiB, {result.rate:.0f}/s, {dict(statuses)}", highlight=False)
    flat = _print_growth(samples)
    out.print(f"answers by status (0: connection ended): {dict(statuses)}", highlight=False)
    return flat and set(statuses) == {200}


def _print_growth(samples: dict[int, Memory]) -> bool:
    """One line per process, from SETTLED_AFTER (or the first sample) to the last. Is no process over MAX_GROWTH?"""
    first, last = SETTLED_AFTER if max(samples) > SETTLED_AFTER else min(samples), max(samples)
    before, after = samples[first], samples[last]
    growth = {process: mib / before[process] - 1 for process, mib in after.items() if process in before}
    table = Table("process", "pid", f"MiB at {first}", f"MiB at {last}", "growth")
    for process, share in sorted(growth.items(), key=lambda item: -after[item[0]]):
        colour = "red" if share > MAX_GROWTH else "green"
        figures = (f"{before[process]:.1f}", f"{after[process]:.1f}", f"[{colour}]{share:+.1%}[/]")
        table.add_row(short_name(process), str(process.pid), *figures)
    for process in after.keys() - before.keys():
        table.add_row(short_name(process), str(process.pid), "-", f"{after[process]:.1f}", "started since")
    for process in before.keys() - after.keys():
        table.add_row("gone", str(process.pid), f"{before[process]:.1f}", "-", "ended since")
    out.print(table)
    return all(share <= MAX_GROWTH for share in growth.values())


if __name__ == "__main__":
    main()
