"""Faults under load: each is done to a running service that is asked at a fixed rate; every request must end in exactly one outcome.

`python -m benchmarks.chaos` starts `earshot up` with two replicas of each stage, and a cluster of two nodes for the fault that needs one.
Exit code 1 when a request was lost, wrong or doubled, or ended in a way that its fault does not allow.
"""

import argparse
import asyncio
import dataclasses
import math
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table

from benchmarks.chaos_client import OUTCOMES, RIGHT, Load, Outcome, Sound, count_doubled, make_sounds
from benchmarks.chaos_faults import Fault, census, on_one_machine, on_two_nodes, wake
from benchmarks.report import save, show
from benchmarks.systems import PORT, NotRunning, System, earshot, end_on_sigterm, running
from tests.tiny_models import save_tone_head, save_tone_tagger

RESULTS = Path(__file__).resolve().parent / "RESULTS.md"
URL = f"http://127.0.0.1:{PORT}"
DEADLINE_S = 20.0  # of the service; a request may wait no longer
WHOLE_AGAIN_S = 60
GOES_WELL_S = 1.5

err = Console(stderr=True)


@dataclasses.dataclass(frozen=True)
class Plan:
    """Requests a second, and the seconds of the calm before and the watch after each fault."""

    rate: float = 20.0
    calm_s: float = 5.0
    watch_s: float = 12.0


@dataclasses.dataclass
class Result:
    """One fault's requests by outcome, the seconds until requests went well again, and those until every process was back."""

    name: str
    outcomes: Counter[str]
    back_s: float
    whole_s: float
    unaccounted: int = 0
    doubled: int = 0
    complaints: list[str] = dataclasses.field(default_factory=list)


def main() -> None:
    """Runs the faults, prints the table, saves it if asked to."""
    args = _arguments()
    end_on_sigterm()
    plan = Plan(args.rate, watch_s=args.watch_s)
    with tempfile.TemporaryDirectory(prefix="earshot-chaos-") as folder:
        try:
            results = run_all(Path(folder), plan, args.only)
        except NotRunning as error:
            err.print(f"chaos: {error}", highlight=False, soft_wrap=True, markup=False)
            sys.exit(1)
    table = build_table(results)
    show(table)
    if args.save:
        save(table, RESULTS, f"`make bench-chaos`: {plan.rate:g} requests/s, two replicas of each stage, tiny models.")
    sys.exit(1 if any(result.complaints for result in results) else 0)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks.chaos", description=__doc__)
    parser.add_argument("--rate", type=float, default=Plan.rate, help="requests a second")
    parser.add_argument("--watch-s", type=float, default=Plan.watch_s, help="how long each fault is watched at least")
    parser.add_argument("--only", default="", help="only the faults whose name contains this")
    parser.add_argument("--save", action="store_true", help=f"append the table to {RESULTS.name}")
    return parser.parse_args()


def run_all(folder: Path, plan: Plan, only: str) -> list[Result]:
    """Every fault that `only` names, each on the service as the one before has left it. Raises NotRunning."""
    tagger, head = save_tone_tagger(folder / "tones").path, save_tone_head(folder / "tone-head").path
    sounds, log = make_sounds(tagger), folder / "access.jsonl"
    results = []
    for start, every in ((_one_machine, on_one_machine()), (_two_nodes, on_two_nodes())):
        faults = [fault for fault in every if only in fault.name]
        if not faults:
            continue
        with running(start(tagger, head, log)) as service:
            for fault in faults:
                results.append(asyncio.run(watch(service, fault, URL, sounds, plan, DEADLINE_S)))
                results[-1].doubled = count_doubled(log) - sum(result.doubled for result in results)
                _tell(results[-1], fault)
    return results


def _one_machine(tagger: Path, head: Path, log: Path) -> System:
    system = earshot("separate", tagger, "--replicas", "2", "--head", str(head))
    return dataclasses.replace(system, environment=_environment(log))


def _two_nodes(tagger: Path, head: Path, log: Path) -> System:
    flags = ["--port", str(PORT), "--weights", str(tagger), "--head", str(head)]
    command = [sys.executable, "-m", "benchmarks.chaos_cluster", *flags]
    return System("two nodes", command, environment=_environment(log))


def _environment(log: Path) -> dict[str, str]:
    return {"EARSHOT_ACCESS_LOG": str(log), "EARSHOT_DEADLINE_S": str(DEADLINE_S)}


async def watch(
    service: psutil.Process, fault: Fault, url: str, sounds: list[Sound], plan: Plan, deadline_s: float
) -> Result:
    """Calm, the fault, then load until every process is back, requests go well and the watch is over."""
    err.print(fault.name, highlight=False)
    before = census(service)
    async with Load(url, sounds, plan.rate, deadline_s) as load:
        await asyncio.sleep(plan.calm_s)
        victims, struck_s = fault.act(service, load), time.monotonic()
        whole_s = None
        while not (whole_s is not None and _goes_well(load)) or time.monotonic() < struck_s + plan.watch_s:
            if time.monotonic() > struck_s + WHOLE_AGAIN_S:
                break
            await asyncio.sleep(0.1)
            if whole_s is None and not any(map(_is_there, victims)) and _at_least(census(service), before):
                whole_s = time.monotonic() - struck_s
    wake(victims)
    result = Result(fault.name, Counter(outcome.what for outcome in load.outcomes), 0.0, whole_s or math.nan)
    result.back_s = max((outcome.due_s - struck_s for outcome in load.outcomes if outcome.what != RIGHT), default=0.0)
    result.back_s = max(result.back_s, 0.0)
    _tell_slowest(load.outcomes, result)
    result.unaccounted = load.sent - len(load.outcomes)
    return result


def _goes_well(load: Load) -> bool:
    """Were all the latest requests answered rightly?"""
    latest = load.since(time.monotonic() - GOES_WELL_S)
    return bool(latest) and all(outcome.what == RIGHT for outcome in latest)


def _at_least(now: dict[str, int], before: dict[str, int]) -> bool:
    return all(now[name] >= count for name, count in before.items())


def _is_there(process: psutil.Process) -> bool:
    try:
        return process.status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
    except psutil.Error:
        return False


def _tell_slowest(outcomes: list[Outcome], result: Result) -> None:
    slowest = max(outcomes, key=lambda outcome: outcome.took_s)
    err.print(
        f"  {dict(result.outcomes)}, back {result.back_s:.1f} s, whole {result.whole_s:.1f} s, "
        f"slowest {slowest.took_s:.1f} s ({slowest.what})",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )


def _tell(result: Result, fault: Fault) -> None:
    result.complaints = find_complaints(result, fault)
    for complaint in result.complaints:
        err.print(f"  [red]{complaint}[/]", highlight=False)


def find_complaints(result: Result, fault: Fault) -> list[str]:
    """What of a result its fault does not allow."""
    found = [f"{result.outcomes[what]} ended as {what}" for what in result.outcomes.keys() - {RIGHT, *fault.may}]
    if result.unaccounted:
        found.append(f"{result.unaccounted} without an outcome")
    if fault.back_within_s is not None and result.back_s > fault.back_within_s:
        found.append(f"back after {result.back_s:.1f} s instead of {fault.back_within_s:g}")
    if result.doubled:
        found.append(f"{result.doubled} doubled")
    if math.isnan(result.whole_s):
        found.append(f"not every process was back within {WHOLE_AGAIN_S} s")
    return found


def build_table(results: list[Result]) -> Table:
    """One line a fault."""
    table = Table(
        caption="503: with Retry-After. closed: the connection ended; refused: it was never made. lost: no end within the deadline + 5 s.\n"
        "back: from the fault until the last request that did not go well was sent. whole: until every process was replaced.",
        caption_justify="left",
    )
    for name in ("fault", "sent", *OUTCOMES, "other", "doubled", "back, s", "whole, s", "as it should"):
        table.add_column(name, justify="left" if name == "fault" else "right", no_wrap=True)
    for result in results:
        counts = [str(result.outcomes[what]) for what in OUTCOMES]
        other = ", ".join(f"{count} {what}" for what, count in result.outcomes.items() if what not in OUTCOMES)
        table.add_row(
            result.name,
            str(result.outcomes.total()),
            *counts,
            other or "0",
            str(result.doubled),
            f"{result.back_s:.1f}",
            f"{result.whole_s:.1f}",
            "; ".join(result.complaints) or "yes",
        )
    return table


if __name__ == "__main__":
    main()
