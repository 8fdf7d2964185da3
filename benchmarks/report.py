"""The benchmark's one table, on the terminal and as Markdown."""

import datetime
import os
import platform
import statistics
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.clips import FORMATS

CONNECTIONS = (1, 8, 32)
MIN_WIDTH = 150
NOTHING = "-"


@dataclass(frozen=True)
class Cell:
    """One load on one system: answers per second, latency, CPU per answer, and answers other than 200."""

    rate: float
    p50_ms: float
    p99_ms: float
    cpu_ms: float
    refused: int = 0


@dataclass
class Row:
    """One system: its cells by (format, load), its memory in MiB per round, and why it could not be measured if so.

    A load is a number of open connections, or "open" for the fixed rate.
    """

    system: str
    cells: dict[tuple[str, int | str], list[Cell]] = field(default_factory=dict)
    memory_mib: list[float] = field(default_factory=list)
    failure: str | None = None

    def add(self, kind: str, load: int | str, cell: Cell) -> None:
        """One more round's cell."""
        self.cells.setdefault((kind, load), []).append(cell)

    def median(self, kind: str, load: int | str) -> Cell | None:
        """The median of each figure over the rounds; refused answers are added up."""
        cells = self.cells.get((kind, load))
        if not cells:
            return None
        middle = {
            name: statistics.median(getattr(cell, name) for cell in cells)
            for name in ("rate", "p50_ms", "p99_ms", "cpu_ms")
        }
        return Cell(**middle, refused=sum(cell.refused for cell in cells))

    def best(self, kind: str) -> Cell | None:
        """The median cell with the highest rate over the connections."""
        cells = [cell for load in CONNECTIONS if (cell := self.median(kind, load))]
        return max(cells, key=lambda cell: cell.rate, default=None)


def build_table(rows: Iterable[Row], limit: Row, open_rate: float) -> Table:
    """All rows, two lines each (ogg, wav); percentages are of `limit`, the bare loop on every core."""
    rows = list(rows)
    table = Table(caption=_caption(rows, open_rate), caption_justify="left")
    table.add_column("system", no_wrap=True)
    table.add_column("clips")
    for name in (
        "best req/s",
        "of limit",
        "CPU ms",
        "PSS MiB",
        *(f"c={c}" for c in CONNECTIONS),
        f"{open_rate:g}/s, ms",
    ):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        for kind in FORMATS:
            table.add_row(*_line(row, kind, limit), end_section=kind == FORMATS[-1])
    return table


def _line(row: Row, kind: str, limit: Row) -> list[str]:
    best, most = row.best(kind), limit.best(kind)
    if best is None:
        return [row.system, kind, "not measured", *[NOTHING] * (4 + len(CONNECTIONS))]
    share = f"{best.rate / most.rate:.0%}" if most else NOTHING
    memory = f"{statistics.median(row.memory_mib):.0f}" if row.memory_mib else NOTHING
    loads = [_cell(row.median(kind, connections)) for connections in CONNECTIONS]
    steady = row.median(kind, "open")
    open_loop = f"{steady.p50_ms:.0f} / {steady.p99_ms:.0f}{_refused(steady)}" if steady else NOTHING
    return [row.system, kind, f"{best.rate:.0f}", share, f"{best.cpu_ms:.1f}", memory, *loads, open_loop]


def _cell(cell: Cell | None) -> str:
    if cell is None:
        return NOTHING
    return f"{cell.rate:.0f}/s  {cell.p50_ms:.0f} / {cell.p99_ms:.0f}{_refused(cell)}"


def _refused(cell: Cell) -> str:
    return f" !{cell.refused}" if cell.refused else ""


def _caption(rows: list[Row], open_rate: float) -> str:
    lines = [
        "c = open connections: answers per second, p50 / p99 in ms. best = the highest of them, CPU per answer there.",
        f"{open_rate:g}/s: p50 / p99 at a fixed rate, from the intended time of sending.",
        "PSS = memory of all its processes after the load. Limit = the bare loop on every core. !n = not 200.",
    ]
    return "\n".join(lines + [f"{row.system}: {row.failure}" for row in rows if row.failure])


def show(table: Table) -> None:
    """Prints the table, wide enough to read even where the output is not a terminal."""
    console = Console()
    Console(width=max(console.width, MIN_WIDTH)).print(table)


def save(table: Table, path: Path, how: str) -> None:
    """Appends the table as Markdown, with the date, the machine and how it was measured."""
    columns = [list(column.cells) for column in table.columns]
    lines = [[str(column.header) for column in table.columns], ["---"] * len(columns), *zip(*columns, strict=True)]
    body = "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)
    caption = str(table.caption).replace("\n", "  \n")
    with path.open("a") as stream:
        stream.write(f"\n## {datetime.date.today()}, {machine()}\n\n{how}\n\n{body}\n\n{caption}\n")


def machine() -> str:
    """The processor and its cores, in words."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    return f"{model}, {len(os.sched_getaffinity(0))} cores"
