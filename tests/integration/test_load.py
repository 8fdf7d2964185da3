"""The load test's harness: a few seconds of Artillery against a real service, and the report held against its own record."""

import json
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.load.artillery import PROGRAM, SCENARIOS
from benchmarks.load.records import Phase, figures, read_phases, read_requests
from benchmarks.load.watch import read_samples
from tests.conftest import CHECKOUT


def record(folder: Path, *lines: str) -> Path:
    file = folder / "record.txt"
    file.write_text("\n".join(lines))
    return file


def test_latency_counts_from_the_intended_time(tmp_path: Path) -> None:
    """The second request is sent 0.3 s late and answered 0.1 s after that; the third gets no answer."""
    lines = (
        "sent 0 100.0",
        "answered 0 100.2 200 load-0",
        "sent 1 100.8",
        "sent 2 101.0",
        "answered 1 100.9 503 load-7",
    )
    one, two, three = read_requests(record(tmp_path, *lines, "sent 3 10"), [Phase(1.5, 2)])
    assert (one.latency_ms, one.code, one.own_id) == (pytest.approx(200), 200, True)
    assert (two.latency_ms, two.code, two.own_id) == (pytest.approx(400), 503, False)
    assert (three.intended_s, three.code) == (pytest.approx(101.0), 0)
    told = figures([one, two, three])
    assert (told.sent, told.codes, told.failed) == (3, {200: 1, 503: 1, 0: 1}, 2)
    assert (told.min_ms, told.max_ms) == (pytest.approx(200), pytest.approx(400))


def test_the_long_forms_send_what_is_said() -> None:
    assert sum(phase.arrivals for phase in read_phases(SCENARIOS / "test1.yaml", "long")) == 12_720
    assert sum(phase.arrivals for phase in read_phases(SCENARIOS / "test2.yaml", "long")) == 100_000


def test_a_short_load_ends_in_a_report_that_its_record_bears_out(tone_tagger: Path, tmp_path: Path) -> None:
    for name in ("node", "npm"):
        if shutil.which(name) is None:
            pytest.skip(f"{name} is not here: Artillery runs on Node.js 20")
    if not PROGRAM.exists():
        pytest.skip("Artillery is not installed: `make bench-load ARGS=--short` does that, it takes minutes")
    folder, sounds = tmp_path / "out", CHECKOUT / "ui" / "samples"
    flags = ["--mini", "--weights", str(tone_tagger), "--clips", str(sounds), "--out", str(folder)]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.load", *flags], cwd=CHECKOUT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr + (folder / "artillery.log").read_text()
    phases = read_phases(SCENARIOS / "test1.yaml", "mini")
    requests = read_requests(folder / "record.txt", phases)
    assert len(requests) == sum(phase.arrivals for phase in phases) == 60
    report = json.loads((folder / "report.json").read_text())
    assert report["figures"]["codes"] == {"200": 60}
    assert report["wrong_ids"] == 0
    latencies_ms = sorted(request.latency_ms for request in requests)
    assert report["figures"]["median_ms"] == pytest.approx(statistics.median_high(latencies_ms))
    assert report["figures"]["p95_ms"] == pytest.approx(latencies_ms[57])
    assert report["figures"]["max_ms"] == pytest.approx(latencies_ms[-1])
    assert (folder / "load.png").read_bytes().startswith(b"\x89PNG")
    theirs = json.loads((folder / "artillery.json").read_text())["aggregate"]
    assert theirs["counters"]["http.codes.200"] == 60
    assert all(sample.serving >= 1 for sample in read_samples(folder / "samples.jsonl"))
    again = subprocess.run(
        [sys.executable, "-m", "benchmarks.load", *flags], cwd=CHECKOUT, capture_output=True, text=True, timeout=60
    )
    assert again.returncode == 0
    assert len(read_requests(folder / "record.txt", phases)) == 60  # reported again, not run again
