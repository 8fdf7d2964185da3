"""Earshot beside its peers: one table from one run. README.md in this folder says what is measured, and how."""

import argparse
import asyncio
import json
import os
import sys
from collections.abc import Coroutine
from dataclasses import dataclass
from pathlib import Path

import psutil
from rich.console import Console

from benchmarks.bare_loop import load_tagger, run_loops
from benchmarks.clips import FORMATS, Bodies, Inputs, Unusable, load_inputs
from benchmarks.load_client import LoadResult, run_closed, run_on_last_core, run_open, send
from benchmarks.process_tree import cpu_by_process_s, cpu_spent_s, pss_by_process_mib
from benchmarks.report import CONNECTIONS, Cell, Row, build_table, save, show
from benchmarks.systems import PORT, NotRunning, System, end_on_sigterm, list_systems, running
from models.answer import Options

RESULTS = Path(__file__).resolve().parent / "RESULTS.md"
WARM_UP_CONNECTIONS = 8
BROKEN = (NotRunning, OSError, EOFError, psutil.Error, ValueError)

err = Console(stderr=True)


@dataclass(frozen=True)
class Plan:
    """How long and how often."""

    rounds: int = 3
    seconds: float = 5.0
    warm_up_s: float = 3.0
    open_rate: float = 20.0
    open_seconds: float = 15.0


def main() -> None:
    """Measures, prints, saves if asked to. Exit code 2 when clips or weights are not here."""
    args = _arguments()
    end_on_sigterm()
    try:
        inputs = load_inputs(args.clips, args.weights)
    except Unusable as error:
        err.print(f"benchmarks: {error}", highlight=False, soft_wrap=True, markup=False)
        sys.exit(2)
    plan = Plan(args.rounds, args.seconds, open_seconds=args.open_seconds)
    rows, limit = run(inputs, plan, args.only)
    table = build_table(rows, limit, plan.open_rate)
    show(table)
    if args.save:
        how = f"{plan.rounds} rounds, {plan.seconds:g} s per load, {len(inputs.bodies['ogg'])} clips; medians."
        save(table, RESULTS, how)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks.serving", description=__doc__)
    parser.add_argument("--weights", type=Path, help="folder with YAMNet's files, or a model folder")
    parser.add_argument("--clips", type=Path, help="folder with sounds")
    parser.add_argument("--rounds", type=int, default=Plan.rounds, help="each visits every system in turn")
    parser.add_argument("--seconds", type=float, default=Plan.seconds, help="length of one load")
    parser.add_argument("--open-seconds", type=float, default=Plan.open_seconds, help="length of the fixed-rate load")
    parser.add_argument("--only", default="", help="visit only systems whose name contains this")
    parser.add_argument("--save", action="store_true", help=f"append the table to {RESULTS.name}")
    return parser.parse_args()


def run(inputs: Inputs, plan: Plan, only: str = "") -> tuple[list[Row], Row]:
    """Every row, and the row that percentages are of: the bare loop on every core."""
    cores = len(os.sched_getaffinity(0))
    one, every = Row("bare loop, 1 process"), Row(f"bare loop, {cores} processes")
    systems = [system for system in list_systems(inputs.bundle.path) if only.lower() in system.name.lower()]
    rows = {system.name: Row(system.name) for system in systems}
    expected = _expected_labels(inputs)
    for number in range(1, plan.rounds + 1):
        for row, processes in ((one, 1), (every, cores)):
            err.print(f"round {number}: {row.system}", highlight=False)
            _visit_bare_loop(row, inputs, plan, processes)
        for system in systems:
            err.print(f"round {number}: {system.name}", highlight=False)
            _visit(rows[system.name], system, inputs.bodies, expected, plan)
    return [one, every, *rows.values()], every


def _expected_labels(inputs: Inputs) -> dict[str, object]:
    """What every system must answer to the first clip of each format."""
    tagger = load_tagger(inputs.bundle.path)
    answers = {kind: tagger.tag(bodies[0], Options()) for kind, bodies in inputs.bodies.items()}
    return {kind: answer.model_dump(mode="json")["labels"] for kind, answer in answers.items()}


def _visit_bare_loop(row: Row, inputs: Inputs, plan: Plan, processes: int) -> None:
    for kind in FORMATS:
        result = run_loops(inputs.bundle.path, inputs.bodies[kind], plan.seconds, processes)
        row.add(kind, CONNECTIONS[0], _cell(result.load, result.cpu_s))
    row.memory_mib.append(result.pss_mib)


def _visit(row: Row, system: System, bodies: Bodies, expected: dict[str, object], plan: Plan) -> None:
    """One round on one system; what goes wrong ends in its row, and later rounds leave it out."""
    if row.failure:
        return
    try:
        with running(system) as process:
            for kind in FORMATS:
                requests = [system.request(body) for body in bodies[kind]]
                _check_answer(requests[0], expected[kind])
                _measure(row, kind, requests, process, plan)
            row.memory_mib.append(sum(pss_by_process_mib(process).values()))
    except BROKEN as error:
        row.failure = str(error) or type(error).__name__
        err.print(f"  {row.failure}", highlight=False, markup=False)


def _check_answer(request: bytes, labels: object) -> None:
    """The system must say what the bare loop says: else it does other work, and its speed means nothing."""

    async def ask() -> tuple[int, bytes]:
        reader, writer = await asyncio.open_connection("127.0.0.1", PORT)
        answer = await send(reader, writer, request)
        writer.close()
        return answer

    status, body = run_on_last_core(ask())
    if status != 200:
        raise NotRunning(f"answers {status}: {body[:200].decode(errors='replace')}")
    if json.loads(body)["labels"] != labels:
        raise NotRunning("its labels differ from the bare loop's")


def _measure(row: Row, kind: str, requests: list[bytes], process: psutil.Process, plan: Plan) -> None:
    run_on_last_core(run_closed(PORT, requests, WARM_UP_CONNECTIONS, plan.warm_up_s))
    for connections in CONNECTIONS:
        row.add(kind, connections, _load(run_closed(PORT, requests, connections, plan.seconds), process))
    row.add(kind, "open", _load(run_open(PORT, requests, plan.open_rate, plan.open_seconds), process))


def _load(load: Coroutine[None, None, LoadResult], process: psutil.Process) -> Cell:
    before = cpu_by_process_s(process)
    result = run_on_last_core(load)
    return _cell(result, cpu_spent_s(before, cpu_by_process_s(process)))


def _cell(result: LoadResult, cpu_s: float) -> Cell:
    good = result.statuses[200]
    refused = sum(result.statuses.values()) - good
    cpu_ms = 1000 * cpu_s / good if good else float("nan")
    return Cell(result.rate, result.quantile_ms(0.5), result.quantile_ms(0.99), cpu_ms, refused)


if __name__ == "__main__":
    main()
