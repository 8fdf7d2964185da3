"""How the fault runs judge answers and results: what they do not notice, nobody does."""

import math
from collections import Counter
from pathlib import Path

import httpx
import pytest

from benchmarks.chaos import Result, find_complaints
from benchmarks.chaos_client import Sound, count_doubled, judge
from benchmarks.chaos_faults import Fault

LABEL = {"label": "Low tone", "mid": "/t/low", "score": 0.9, "peak": 0.95}
SOUND = Sound(b"", [LABEL], 1.5)
RIGHT = {"request_id": "mine", "labels": [LABEL], "duration_s": 1.5}


def answer(status: int = 200, headers: dict[str, str] | None = None, **changed: object) -> httpx.Response:
    return httpx.Response(status, headers=headers, json=RIGHT | changed)


@pytest.mark.parametrize(
    ("given", "what"),
    [
        (answer(), "200"),
        (answer(request_id="another's"), "wrong"),
        (answer(labels=[LABEL | {"mid": "/t/high"}]), "wrong"),
        (answer(labels=[LABEL | {"score": 0.899}]), "wrong"),
        (answer(labels=[LABEL | {"score": 0.900001}]), "200"),
        (answer(duration_s=1.6), "wrong"),
        (answer(503, {"Retry-After": "1"}), "503"),
        (answer(503), "503 without Retry-After"),
        (answer(500), "500"),
    ],
)
def test_an_answer_counts_only_when_it_is_the_right_one(given: httpx.Response, what: str) -> None:
    assert judge(given, SOUND, "mine") == what


def test_an_id_that_was_answered_twice_is_seen_in_the_access_log(tmp_path: Path) -> None:
    log = tmp_path / "access.jsonl"
    lines = [("chaos-a", 200), ("chaos-b", 200), ("chaos-a", 200), ("chaos-c", 503), ("chaos-c", 200)]
    log.write_text("".join(f'{{"request_id": "{name}", "status": {status}}}\n' for name, status in lines))
    assert count_doubled(log) == 1


@pytest.mark.parametrize(
    ("result", "complaints"),
    [
        (Result("x", Counter({"200": 9, "503": 1}), 4.0, 3.0), []),
        (Result("x", Counter({"200": 9, "lost": 1}), 0.0, 3.0), ["1 ended as lost"]),
        (Result("x", Counter({"200": 9}), 6.5, 3.0), ["back after 6.5 s instead of 5"]),
        (Result("x", Counter({"200": 9}), 0.0, 3.0, unaccounted=2), ["2 without an outcome"]),
        (Result("x", Counter({"200": 9}), 0.0, 3.0, doubled=1), ["1 doubled"]),
        (Result("x", Counter({"200": 9}), 0.0, math.nan), ["not every process was back within 60 s"]),
    ],
)
def test_whatever_a_fault_does_not_allow_is_told(result: Result, complaints: list[str]) -> None:
    assert find_complaints(result, Fault("x", lambda *_: [], frozenset({"503"}), 5)) == complaints
