"""How long from starting `earshot up` to its first answer, and what it holds when idle.

Rounds visit both placements in turn.
"""

import argparse
import asyncio
import statistics
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.clips import Inputs, Unusable, load_inputs
from benchmarks.load_client import Connection
from benchmarks.process_tree import pss_by_process_mib
from benchmarks.systems import PORT, READY_TIMEOUT_S, Launched, NotRunning, System, earshot, end_on_sigterm, launched

PAUSE_S = 0.05
IDLE_S = 10
PLACEMENTS = ("fused", "separate")

out, err = Console(), Console(stderr=True)


def main() -> None:
    """Measures and prints. Exit code 2 when clips, weights or the port are not here."""
    parser = argparse.ArgumentParser(prog="benchmarks.cold_start", description=__doc__)
    parser.add_argument("--weights", type=Path, help="folder with YAMNet's files, or a model folder")
    parser.add_argument("--clips", type=Path, help="folder with sounds")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    end_on_sigterm()
    try:
        run(load_inputs(args.clips, args.weights, count=1), args.rounds)
    except (Unusable, NotRunning) as error:
        err.print(f"cold_start: {error}", highlight=False, soft_wrap=True, markup=False)
        sys.exit(2)


def run(inputs: Inputs, rounds: int) -> None:
    """Starts each placement so often, in turn, and prints the medians."""
    systems = {placement: earshot(placement, inputs.bundle.path) for placement in PLACEMENTS}
    seen: dict[str, list[tuple[float, float]]] = {placement: [] for placement in PLACEMENTS}
    for _ in range(rounds):
        for placement, system in systems.items():
            start_s, idle_mib = measure(system, system.request(inputs.bodies["ogg"][0]))
            seen[placement].append((start_s, idle_mib))
            err.print(f"{placement}: {start_s:.1f} s, {idle_mib:.0f} MiB", highlight=False)
    table = Table("placement", "first answer, s", "idle PSS, MiB")
    for placement, figures in seen.items():
        seconds, memory = zip(*figures, strict=True)
        table.add_row(placement, f"{statistics.median(seconds):.1f}", f"{statistics.median(memory):.0f}")
    out.print(table)


def measure(system: System, request: bytes) -> tuple[float, float]:
    """Seconds from start to first good answer; MiB of the whole tree after a rest. Raises NotRunning."""
    began_s = time.perf_counter()
    with launched(system) as started:
        asyncio.run(_wait_for_answer(request, started))
        start_s = time.perf_counter() - began_s
        time.sleep(IDLE_S)  # what is measured is the rest itself
        return start_s, sum(pss_by_process_mib(started.process).values())


async def _wait_for_answer(request: bytes, started: Launched) -> None:
    connection = Connection(PORT)
    async with asyncio.timeout(READY_TIMEOUT_S):
        while not await _is_answered(connection, request):
            started.raise_if_ended()
            await asyncio.sleep(PAUSE_S)
    connection.close()


async def _is_answered(connection: Connection, request: bytes) -> bool:
    try:
        return await connection.ask(request) == 200
    except ConnectionError:  # nobody listens yet
        return False


if __name__ == "__main__":
    main()
