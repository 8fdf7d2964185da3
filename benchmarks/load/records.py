"""The record of a load test -> requests with their intended times of sending, and figures over them.

When a request was meant to be sent follows from the phases alone: the i-th of a phase at its start + i / rate. A phase's start is the
latest one for which no request of the phase was sent before its time. So what Artillery sends late counts as latency.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

NO_ANSWER = 0


@dataclass(frozen=True)
class Phase:
    """A constant rate for some time."""

    duration_s: float
    rate: float

    @property
    def arrivals(self) -> int:
        """Requests of the whole phase, counted as Artillery does: in ticks of whole microseconds."""
        return int(self.duration_s * 1_000_000 // (1_000_000 // self.rate))


@dataclass(frozen=True)
class Request:
    """One request: times in seconds since 1970; code NO_ANSWER where none came."""

    phase: int
    intended_s: float
    sent_s: float
    answered_s: float = math.inf
    code: int = NO_ANSWER
    own_id: bool = False

    @property
    def latency_ms(self) -> float:
        """From the intended time of sending to the whole answer."""
        return 1000 * (self.answered_s - self.intended_s)


@dataclass(frozen=True)
class Figures:
    """What became of some requests. Latencies are in milliseconds, over all that were answered."""

    sent: int
    codes: dict[int, int]
    min_ms: float
    median_ms: float
    p95_ms: float
    p99_ms: float
    max_ms: float

    @property
    def failed(self) -> int:
        """Requests that did not end in 200."""
        return self.sent - self.codes.get(200, 0)


def read_phases(scenario: Path, form: str) -> list[Phase]:
    """The phases of a scenario file's form: long, short or mini (Artillery's word is environment)."""
    chosen = yaml.safe_load(scenario.read_text())["config"]["environments"][form]
    return [Phase(phase["duration"], phase["arrivalRate"]) for phase in chosen["phases"]]


def read_requests(record: Path, phases: Sequence[Phase]) -> list[Request]:
    """All requests of a record, in the order of sending. A last line that was cut is left out."""
    sent: dict[int, float] = {}
    answers: dict[int, tuple[float, int, bool]] = {}
    for line in record.read_text().rpartition("\n")[0].splitlines():
        match line.split(" "):
            case ["sent", number, time_s]:
                sent[int(number)] = float(time_s)
            case ["answered", number, time_s, code, *ids] if ids:  # two where the proxy tells the id, too
                own_id = {one.rstrip(",") for one in ids} == {f"load-{number}"}
                answers[int(number)] = (float(time_s), int(code), own_id)
    return [request for part in _by_phase(sorted(sent), phases) for request in _build(*part, phases, sent, answers)]


def _by_phase(numbers: Sequence[int], phases: Sequence[Phase]) -> Iterable[tuple[int, Sequence[int]]]:
    first = 0
    for phase, plan in enumerate(phases):
        yield phase, numbers[first : first + plan.arrivals]
        first += plan.arrivals


def _build(
    phase: int,
    numbers: Sequence[int],
    phases: Sequence[Phase],
    sent: dict[int, float],
    answers: dict[int, tuple[float, int, bool]],
) -> Iterable[Request]:
    rate = phases[phase].rate
    start_s = min((sent[number] - index / rate for index, number in enumerate(numbers)), default=0.0)
    for index, number in enumerate(numbers):
        yield Request(phase, start_s + index / rate, sent[number], *answers.get(number, ()))


def figures(requests: Sequence[Request]) -> Figures:
    """Counts and quantiles of the latency."""
    ordered = sorted(request.latency_ms for request in requests if request.code != NO_ANSWER)

    def quantile(q: float) -> float:
        return ordered[min(len(ordered) - 1, int(q * len(ordered)))] if ordered else math.nan

    codes = Counter(request.code for request in requests)
    return Figures(len(requests), dict(codes), quantile(0), quantile(0.5), quantile(0.95), quantile(0.99), quantile(1))
