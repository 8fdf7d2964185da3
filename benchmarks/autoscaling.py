"""Ray's autoscaling policy (ongoing requests) beside ours (queued seconds of audio), each at both paces, on short and long clips.

After a calm start a mix of clips of 5 seconds and of 10 minutes comes at a fixed rate. Told are: the time from that step to the second
replica in service, what the short clips' latency became, how many replicas it took, and what was not answered 200.
"""

import argparse
import asyncio
import io
import itertools
import statistics
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil
import soundfile
from rich.console import Console
from rich.table import Table

from benchmarks.clips import Unusable, load_inputs
from benchmarks.load.watch import count_replicas
from benchmarks.load_client import Connection, make_request, run_on_last_core
from benchmarks.report import save, show
from benchmarks.systems import PORT, NotRunning, System, end_on_sigterm, running
from serve.schemas import PACES

RESULTS = Path(__file__).resolve().parent / "RESULTS.md"
POLICIES = ("ongoing_requests", "queued_seconds")
LONG_S = 600.0
LOOK_EVERY_S = 0.1
MAX_REPLICAS = 2

out, err = Console(), Console(stderr=True)


@dataclass(frozen=True)
class Plan:
    """What is sent: `one_long_in` counts clips, rates are requests per second."""

    rate: float
    one_long_in: int
    calm_s: float = 3.0
    step_s: float = 15.0
    after_s: float = 6.0
    calm_rate: float = 3.0


@dataclass
class Seen:
    """What one way of scaling did, over all rounds. Latencies by kind of clip, during the step."""

    short_s: list[float] = field(default_factory=list)
    long_s: list[float] = field(default_factory=list)
    second_after_s: list[float | None] = field(default_factory=list)
    mean_replicas: list[float] = field(default_factory=list)
    sent: int = 0
    failed: int = 0


def main() -> None:
    """Measures, prints, saves if asked to. Exit code 2 when clips or weights are not here, 1 when a request failed."""
    args = _arguments()
    end_on_sigterm()
    try:
        inputs = load_inputs(args.clips, args.weights)
        plan = Plan(args.rate, args.one_long_in, step_s=args.step_seconds)
        shorts = inputs.bodies["ogg"]
        seen = run(shorts, [_lengthen(body) for body in shorts[:3]], inputs.bundle.path, plan, args.rounds)
    except (Unusable, NotRunning) as error:
        err.print(f"autoscaling: {error}", highlight=False, soft_wrap=True, markup=False)
        sys.exit(2 if isinstance(error, Unusable) else 1)
    table = _table(seen, plan)
    show(table)
    if args.save:
        save(
            table, RESULTS, f"`benchmarks.autoscaling`, {args.rounds} rounds, each visits every way of scaling in turn."
        )
    sys.exit(1 if any(one.failed for one in seen.values()) else 0)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks.autoscaling", description=__doc__)
    parser.add_argument("--weights", type=Path, help="folder with YAMNet's files, or a model folder")
    parser.add_argument("--clips", type=Path, help="folder with sounds")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--rate", type=float, default=10.0, help="requests per second of the step")
    parser.add_argument("--one-long-in", type=int, default=20, help="one clip of 10 minutes in so many")
    parser.add_argument("--step-seconds", type=float, default=Plan.step_s)
    parser.add_argument("--save", action="store_true", help=f"append the table to {RESULTS.name}")
    return parser.parse_args()


def _lengthen(body: bytes) -> bytes:
    """A clip -> itself over and over for LONG_S, as OGG."""
    samples, sample_rate_hz = soundfile.read(io.BytesIO(body), dtype="float32")
    stream, left = io.BytesIO(), int(LONG_S * sample_rate_hz)
    with soundfile.SoundFile(stream, "w", sample_rate_hz, 1, format="OGG", subtype="VORBIS") as sound:
        while left > 0:
            part = np.asarray(samples if samples.ndim == 1 else samples.mean(axis=1))[:left]
            sound.write(part)
            left -= len(part)
    return stream.getvalue()


def run(shorts: list[bytes], longs: list[bytes], model: Path, plan: Plan, rounds: int) -> dict[tuple[str, str], Seen]:
    """What every (policy, pace) did."""
    seen: dict[tuple[str, str], Seen] = {way: Seen() for way in itertools.product(POLICIES, PACES)}
    short_requests = [make_request(PORT, "/v1/classify", body) for body in shorts]
    long_requests = [make_request(PORT, "/v1/classify?second_opinion=never", body) for body in longs]
    for number in range(1, rounds + 1):
        for (policy, pace), one in seen.items():
            err.print(f"round {number}: {policy}, {pace}", highlight=False)
            words = [str(PORT), str(model), policy, pace, str(MAX_REPLICAS)]
            system = System(policy, [sys.executable, "-m", "benchmarks.autoscaling_service", *words])
            with running(system) as service:
                _visit(one, service, short_requests, long_requests, plan)
    return seen


def _visit(one: Seen, service: psutil.Process, shorts: list[bytes], longs: list[bytes], plan: Plan) -> None:
    calm = [(number / plan.calm_rate, False) for number in range(int(plan.calm_rate * plan.calm_s))]
    step = [(number / plan.rate, number % plan.one_long_in == 1) for number in range(int(plan.rate * plan.step_s))]
    after = [(number / plan.calm_rate, False) for number in range(int(plan.calm_rate * plan.after_s))]
    run_on_last_core(_send(one, calm, shorts, longs))
    with _counting(service) as counts:
        began_s, first = time.monotonic(), Seen()
        run_on_last_core(_send(first, step, shorts, longs))
    second = next((time_s - began_s for time_s, serving in counts if serving > 1), None)
    err.print(f"  second replica after {second}, {first.failed} of {first.sent} failed", highlight=False)
    one.short_s += first.short_s
    one.long_s += first.long_s
    one.second_after_s.append(second)
    one.mean_replicas.append(statistics.mean(serving for _, serving in counts))
    one.sent += first.sent
    one.failed += first.failed
    kept = len(one.short_s)
    run_on_last_core(_send(one, after, shorts, longs))
    del one.short_s[kept:]


async def _send(seen: Seen, schedule: list[tuple[float, bool]], shorts: list[bytes], longs: list[bytes]) -> None:
    """Each request at its time, whatever the answers do; latency counts from there."""
    idle, began_s = list[Connection](), time.perf_counter()

    async def send_one(number: int, due_s: float, is_long: bool) -> None:
        await asyncio.sleep(max(0.0, began_s + due_s - time.perf_counter()))
        connection = idle.pop() if idle else Connection(PORT)
        requests = longs if is_long else shorts
        status = await connection.ask(requests[number % len(requests)])
        (seen.long_s if is_long else seen.short_s).append(time.perf_counter() - began_s - due_s)
        seen.sent += 1
        seen.failed += status != 200
        idle.append(connection)

    await asyncio.gather(*(send_one(number, *one) for number, one in enumerate(schedule)))
    for connection in idle:
        connection.close()


@contextmanager
def _counting(service: psutil.Process) -> Iterator[list[tuple[float, int]]]:
    """(time, replicas in service) ten times a second while the block runs."""
    counts, stop = list[tuple[float, int]](), threading.Event()

    def look() -> None:
        while not stop.wait(LOOK_EVERY_S):
            counts.append((time.monotonic(), count_replicas(service)[1]))

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield counts
    finally:
        stop.set()
        thread.join()


def _table(seen: dict[tuple[str, str], Seen], plan: Plan) -> Table:
    caption = (
        f"{plan.rate:g} requests/s for {plan.step_s:g} s, one in {plan.one_long_in} of 10 minutes, the others of 5 s; "
        f"1 to {MAX_REPLICAS} replicas.\n"
        "Second replica: seconds from the step until it listens, each round. Latency in ms from the intended time of sending."
    )
    table = Table(caption=caption, caption_justify="left")
    for name in ("policy", "pace"):
        table.add_column(name, no_wrap=True)
    for name in ("second replica, s", "replicas, mean", "short p50", "short p95", "long p50", "sent", "not 200"):
        table.add_column(name, justify="right", no_wrap=True)
    for (policy, pace), one in seen.items():
        times = ", ".join("never" if time_s is None else f"{time_s:.1f}" for time_s in one.second_after_s)
        latency = [f"{1000 * float(np.quantile(one.short_s, q)):.0f}" for q in (0.5, 0.95)]
        long = f"{1000 * statistics.median(one.long_s):.0f}" if one.long_s else "-"
        replicas = f"{statistics.mean(one.mean_replicas):.2f}"
        table.add_row(policy, pace, times, replicas, *latency, long, str(one.sent), str(one.failed))
    return table


if __name__ == "__main__":
    main()
