"""cluster/SIZING.md: every computed cell is computed anew from the figures that the page names, and those are the ones in RESULTS.md."""

import math
import re

import pytest

from models.frontend import MEL_BANDS, PATCH_HOP_S, SAMPLE_RATE_HZ
from tests.conftest import CHECKOUT

PAGE = (CHECKOUT / "cluster" / "SIZING.md").read_text()
RESULTS = (CHECKOUT / "benchmarks" / "RESULTS.md").read_text()
Row = dict[str, str]


def rows_under(title: str) -> list[Row]:
    """The first table under a heading of the page, a dictionary a row."""
    section = PAGE.split(f"\n## {title}\n", 1)[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    header, _, *body = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [dict(zip(header, cells, strict=True)) for cells in body if len(cells) == len(header)]


def number(cell: str) -> float:
    """The first number of a cell; thousands are separated by commas."""
    found = re.search(r"\d[\d,]*\.?\d*", cell)
    assert found, cell
    return float(found.group().replace(",", ""))


def figures(title: str) -> dict[str, float]:
    """The figures of a table with the columns `name` and `figure`."""
    return {row["name"].strip("`"): number(row["figure"]) for row in rows_under(title)}


MEASURED, ASSUMED, PRICES = figures("Measured"), figures("Assumed"), figures("List prices")


def is_shown(cell: str, value: float) -> bool:
    """Is the cell this value, rounded to as many digits as the cell has?"""
    shown = re.search(r"\d[\d,]*(\.\d+)?", cell)
    assert shown, cell
    digits = len((shown.group(1) or ".")[1:])
    return f"{value:,.{digits}f}" == shown.group() and number(cell) > 0


def expected(kind: str, streams: int) -> dict[str, float]:
    """A row of the table of streams: as the page's section says that it is computed."""
    every_s = ASSUMED["piece_s"] - PATCH_HOP_S if kind == "live" else ASSUMED["trigger_every_s"]
    ms = MEASURED["live_ms"] if kind == "live" else MEASURED["ogg_ms"]
    heard_s = every_s if kind == "live" else ASSUMED["piece_s"]
    requests_s = streams / every_s
    busy = requests_s * ms / 1000
    workers = math.ceil(busy / ASSUMED["load"] / ASSUMED["worker_vcpus"])
    nodes = workers + (1 if workers > 1 else 0)
    usd_h = nodes * PRICES["c7i.2xlarge"]
    body_bits = SAMPLE_RATE_HZ * 16 * ASSUMED["piece_s"] if kind == "live" else 8000 * MEASURED["ogg_kb"]
    return {
        "requests/s": requests_s,
        "busy cores": busy,
        "nodes": nodes,
        "USD/h": usd_h,
        "USD per 1,000 audio-hours": 1000 * usd_h / (streams * heard_s / every_s),
        "Gbit/s in": requests_s * body_bits / 1e9,
        "replicas": workers * ASSUMED["worker_vcpus"],
    }


def test_the_streams_are_computed_as_the_page_says() -> None:
    seen = []
    for row in rows_under("Streams"):
        kind, streams = row["kind"], int(number(row["streams"]))
        seen.append((kind, streams))
        for column, value in expected(kind, streams).items():
            assert is_shown(row[column], value), f"{kind}, {streams}: {column} is {value}, the page says {row[column]}"
    assert seen == [(kind, streams) for kind in ("live", "trigger") for streams in (10, 1000, 100_000)]


def test_bulk_costs_are_computed_as_the_page_says() -> None:
    for row in rows_under("Recordings in bulk"):
        name = row["node"].strip("`")
        cpu_s, vcpus = MEASURED[row["cost"].strip("`")], number(row["vCPU"])
        assert is_shown(row["audio-hours an hour"], 3600 * vcpus / cpu_s), row
        assert is_shown(row["USD per 1,000 audio-hours"], PRICES[name] * cpu_s / vcpus / 3600 * 1000), row


def test_what_a_gpu_must_save_is_computed_as_the_page_says() -> None:
    rest_ms = MEASURED["live_ms"] - MEASURED["yamnet_int8_ms"]
    cpu_usd = PRICES["c7i.2xlarge"] / ASSUMED["worker_vcpus"]
    gpu_usd = PRICES["g6.xlarge"] / ASSUMED["gpu_node_vcpus"]
    by_name = {row["name"].strip("`"): row["figure"] for row in rows_under("GPUs")}
    assert is_shown(by_name["rest_ms"], rest_ms)
    assert is_shown(by_name["price_ratio"], gpu_usd / cpu_usd)
    assert is_shown(by_name["breakeven_ms"], rest_ms * (gpu_usd / cpu_usd - 1))
    workers = math.ceil(100_000 / (ASSUMED["piece_s"] - PATCH_HOP_S) * rest_ms / 1000 / ASSUMED["load"] / 4)
    assert is_shown(by_name["gpu_nodes"], workers)
    assert is_shown(by_name["gpu_usd_h"], workers * PRICES["g6.xlarge"])


def test_what_breaks_first_is_computed_as_the_page_says() -> None:
    by_name = {row["name"].strip("`"): row["figure"] for row in rows_under("What breaks first")}
    every_s = ASSUMED["piece_s"] - PATCH_HOP_S
    proxy_rps = 1000 / MEASURED["haproxy_ms"]
    stream_bits_s = SAMPLE_RATE_HZ * 16 * ASSUMED["piece_s"] / every_s
    network_streams = ASSUMED["node_gbit_s"] * 1e9 / stream_bits_s
    assert is_shown(by_name["network_streams"], network_streams)
    assert is_shown(by_name["proxy_rps"], proxy_rps)
    assert is_shown(by_name["proxy_streams"], proxy_rps * every_s)
    assert number(by_name["proxy_connections"]) < network_streams < proxy_rps * every_s, "the page names them in order"
    per_replica = MEASURED["controller_percent"] / MEASURED["nodes_simulated"]
    assert is_shown(by_name["controller_replicas"], 100 * ASSUMED["load"] / per_replica)
    assert is_shown(by_name["frames_kb"], 100 * ASSUMED["piece_s"] * MEL_BANDS * 4 / 1000)


def test_the_figures_in_the_sentences_are_computed_as_the_page_says() -> None:
    live = expected("live", 100_000)
    workers = live["replicas"] / ASSUMED["worker_vcpus"]
    for before, value, after in (
        ("separate_ms / live_ms =", MEASURED["separate_ms"] / MEASURED["live_ms"], "times"),
        ("opinion_ms / ogg_ms =", MEASURED["opinion_ms"] / MEASURED["ogg_ms"], "times"),
        ("separate_ms - live_ms =", MEASURED["separate_ms"] - MEASURED["live_ms"], "ms more"),
        ("more, to save", MEASURED["yamnet_int8_ms"], "ms"),
        ("live streams above are", 100_000 / workers, "connections"),
        ("connections and", live["requests/s"] / workers, "requests/s a worker"),
        ("a node of 8 reads", 8 * 3600 / ASSUMED["piece_s"] / MEASURED["bulk_s"], "clips/s"),
    ):
        found = re.search(rf"{re.escape(before)}\s+([\d,.]+)\s+{re.escape(after)}", PAGE)
        assert found, before
        assert is_shown(found.group(1), value), f"{before} {value}, the page says {found.group(1)}"


@pytest.mark.parametrize("row", rows_under("Measured"), ids=lambda row: row["name"].strip("`"))
def test_a_measured_figure_is_the_one_in_the_results(row: Row) -> None:
    """The last column names the row of RESULTS.md (its first cells) that the figure stands in."""
    named = row["row of RESULTS.md"].strip("`")
    if named == "-":
        return
    cells = [cell.strip() for cell in named.split(" / ")]
    lines = [line for line in RESULTS.splitlines() if line.startswith("| " + " | ".join(cells) + " |")]
    assert lines, f"RESULTS.md has no row {cells}"
    shown = re.search(r"\d[\d,]*(\.\d+)?", row["figure"])
    assert shown
    assert re.search(rf"(?<![\d.]){re.escape(shown.group())}(?![\d.])", lines[-1]), (
        f"{shown.group()} not in {lines[-1]}"
    )
