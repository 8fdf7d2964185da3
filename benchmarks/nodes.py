"""Ray and Serve against the number of nodes, simulated on this one machine: benchmarks/nodes_cluster.py says what is real in it.

A size runs in a process of its own; `--keep FILE` collects sizes over several calls.
"""

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import matplotlib.figure
import psutil
from rich.console import Console
from rich.table import Table

from benchmarks.nodes_cluster import CONNECTIONS_PER_NODE, TASKS, WAIT_S
from benchmarks.process_tree import tree_of
from benchmarks.report import save, show
from benchmarks.systems import end_on_sigterm

FOLDER = Path(__file__).resolve().parent
SIZE_TIMEOUT_S = 300
MODES = {"HeadOnly": "one proxy", "EveryNode": "a proxy on each node"}

err = Console(stderr=True)


def main() -> None:
    """Measures each size, prints, and with --save appends to RESULTS.md and draws nodes.png."""
    parser = argparse.ArgumentParser(prog="benchmarks.nodes", description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="*", default=[2, 4, 8], help="worker nodes beside the head")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--keep", type=Path, help="add what is measured to this file, and report on all that is in it")
    parser.add_argument("--save", action="store_true", help="append to RESULTS.md, and draw nodes.png")
    args = parser.parse_args()
    end_on_sigterm()
    runs = json.loads(args.keep.read_text()) if args.keep and args.keep.exists() else []
    for _ in range(args.rounds):
        for size in args.sizes:
            err.print(f"{size} nodes", highlight=False)
            runs.append(_in_own_process(size))
            if args.keep:
                args.keep.write_text(json.dumps(runs))
    table = _table(_medians(runs))
    show(table)
    if args.save:
        _draw(_medians(runs), FOLDER / "nodes.png")
        save(table, FOLDER / "RESULTS.md", f"`benchmarks.nodes`: {_how(runs)} ![nodes](nodes.png)")


def _in_own_process(size: int) -> dict[str, float]:
    """One size's figures. Exits with what it printed when it fails; whatever it started is ended."""
    command = [sys.executable, "-m", "benchmarks.nodes_cluster", str(size)]
    with tempfile.NamedTemporaryFile("w+", prefix="earshot-nodes-", suffix=".log") as log:
        process = psutil.Popen(command, stdout=subprocess.PIPE, stderr=log, cwd=FOLDER.parent, start_new_session=True)
        try:
            printed = process.communicate(timeout=SIZE_TIMEOUT_S)[0].decode()
        finally:
            with contextlib.suppress(psutil.Error):
                for member in reversed(tree_of(process)):
                    member.kill()
        if process.returncode:
            sys.exit(f"{size} nodes: {''.join(Path(log.name).read_text().splitlines(True)[-15:])}")
    figures: dict[str, float] = json.loads(printed.strip().splitlines()[-1])
    return figures


def _medians(runs: list[dict[str, float]]) -> list[dict[str, float]]:
    sizes = sorted({int(run["nodes"]) for run in runs})
    chosen = [[run for run in runs if run["nodes"] == size] for size in sizes]
    return [{name: statistics.median(run[name] for run in same) for name in same[0]} for same in chosen]


def _how(runs: list[dict[str, float]]) -> str:
    rounds = len(runs) / len({run["nodes"] for run in runs})
    return (
        f"nodes simulated on this one machine, a stage that waits {1000 * WAIT_S:.0f} ms; {rounds:g} round(s), medians."
    )


def _table(rows: list[dict[str, float]]) -> Table:
    wait_ms, most = 1000 * WAIT_S, 1 / WAIT_S
    caption = (
        "Nodes beside the head, all on the cores of this machine and on loopback. add: until all are alive.\n"
        f"tasks: {TASKS} empty ones. actors: as many as nodes, strategy SPREAD (on so many nodes). MiB a node: before Serve.\n"
        "deploy: Serve's start and one replica a node, until each has answered.\n"
        f"A replica takes one request at a time for {wait_ms:.0f} ms: {most:.0f}/s a node at most.\n"
        f"{CONNECTIONS_PER_NODE} connections a node,"
        f" so {wait_ms * CONNECTIONS_PER_NODE:.0f} ms is the median where the load is even.\n"
        "controller: % of a core under load, at rest.\n1: HAProxy on the head only. N: one on every node, on one shared port of loopback."
    )
    table = Table(caption=caption, caption_justify="left")
    names = ("nodes", "add, s", "tasks, s", "actors, s (on)", "MiB a node", "deploy, s: 1 / N", "req/s: 1 / N")
    for name in (*names, "p50 ms: 1 / N", "p99 ms: 1 / N", "controller %: 1 / N", "total MiB: 1 / N"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:

        def both(name: str, form: str = ".0f", row: dict[str, float] = row) -> str:
            return " / ".join(format(row[f"{mode}.{name}"], form) for mode in MODES)

        control = " / ".join(
            f"{100 * row[f'{mode}.controller_busy']:.1f} {100 * row[f'{mode}.controller_idle']:.1f}" for mode in MODES
        )
        table.add_row(
            f"{row['nodes']:.0f}",
            f"{row['nodes_s']:.1f}",
            f"{row['tasks_s']:.1f}",
            f"{row['actors_s']:.1f} ({row['actor_nodes']:.0f})",
            f"{row['node_mib']:.0f}",
            both("deploy_s", ".1f"),
            *(both(name) for name in ("rate", "p50_ms", "p99_ms")),
            control,
            both("total_mib"),
        )
    return table


def _draw(rows: list[dict[str, float]], picture: Path) -> None:
    """Rate, latency, scheduling time and the controller's load against nodes -> a PNG."""
    nodes = [row["nodes"] for row in rows]
    figure = matplotlib.figure.Figure(figsize=(11, 6), layout="constrained")
    rate, latency, seconds, control = figure.subplots(2, 2).flat
    for mode, colour in zip(MODES, ("#b03060", "#3060b0"), strict=True):
        rate.plot(nodes, [row[f"{mode}.rate"] for row in rows], "o-", color=colour, label=MODES[mode])
        latency.plot(nodes, [row[f"{mode}.p50_ms"] for row in rows], "o-", color=colour, label=f"median, {MODES[mode]}")
        latency.plot(nodes, [row[f"{mode}.p99_ms"] for row in rows], "o:", color=colour, label=f"p99, {MODES[mode]}")
        seconds.plot(
            nodes, [row[f"{mode}.deploy_s"] for row in rows], "o-", color=colour, label=f"Serve up, {MODES[mode]}"
        )
        busy = [100 * row[f"{mode}.controller_busy"] for row in rows]
        control.plot(nodes, busy, "o-", color=colour, label=f"under load, {MODES[mode]}")
    rate.plot(nodes, [n / WAIT_S for n in nodes], ":", color="grey", label="the most there can be")
    seconds.plot(nodes, [row["nodes_s"] for row in rows], "s--", color="#208060", label="nodes added")
    seconds.plot(nodes, [row["tasks_s"] for row in rows], "^--", color="#c08020", label=f"{TASKS} empty tasks")
    seconds.plot(nodes, [row["actors_s"] for row in rows], "v--", color="#606060", label="an actor a node")
    control.plot(nodes, [100 * row["HeadOnly.controller_idle"] for row in rows], "o:", color="grey", label="at rest")
    titles = ("requests/s", "latency, ms", "seconds", "Serve's controller, % of a core")
    for axes, title in zip((rate, latency, seconds, control), titles, strict=True):
        axes.set_title(title, loc="left", fontsize=10)
        axes.set_xlabel("nodes (simulated on one machine)")
        axes.set_ylim(0)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=7)
    figure.savefig(picture, dpi=120)


if __name__ == "__main__":
    main()
