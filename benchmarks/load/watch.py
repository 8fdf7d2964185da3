"""What the service's processes do while a load runs: a line of JSON a second."""

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from benchmarks.process_tree import cpu_by_process_s, cpu_spent_s, pss_by_process_mib, tree_of

EVERY_S = 1.0
MEMORY_EVERY_S = 5.0  # to read what each process shares takes 0.2 s of CPU
REPLICA = "ServeReplica:earshot:"
SERVING_PORTS = range(30_000, 31_001)  # where Ray Serve puts HTTP; Ray itself listens from 32768 on


@dataclass(frozen=True)
class Sample:
    """One look: `replicas` exist, `serving` of them listen for requests; CPU in cores."""

    time_s: float
    replicas: int
    serving: int
    cpu: float
    load_cpu: float
    open_files: int
    pss_mib: float


@contextlib.contextmanager
def watching(service: psutil.Process, load: psutil.Process, into: Path) -> Iterator[None]:
    """Appends a sample of the service and the load generator every second while the block runs."""
    stop = threading.Event()
    thread = threading.Thread(target=_watch, args=(service, load, into, stop), daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def read_samples(file: Path) -> list[Sample]:
    """What `watching` has written; a last line that was cut is left out."""
    lines = file.read_text().splitlines() if file.exists() else []
    return [Sample(**json.loads(line)) for line in lines if line.endswith("}")]


def _watch(service: psutil.Process, load: psutil.Process, into: Path, stop: threading.Event) -> None:
    looked_s, memory_s, pss_mib = time.monotonic(), -MEMORY_EVERY_S, 0.0
    before, load_before = cpu_by_process_s(service), cpu_by_process_s(load)
    with into.open("a") as stream, contextlib.suppress(psutil.NoSuchProcess):
        while not stop.wait(EVERY_S):
            now_s = time.monotonic()
            if now_s - memory_s >= MEMORY_EVERY_S:
                memory_s, pss_mib = now_s, sum(pss_by_process_mib(service).values())
            after, load_after = cpu_by_process_s(service), cpu_by_process_s(load)
            passed_s = now_s - looked_s
            sample = Sample(
                time.time(),
                *count_replicas(service),
                cpu_spent_s(before, after) / passed_s,
                cpu_spent_s(load_before, load_after) / passed_s,
                count_open_files(service),
                pss_mib,
            )
            stream.write(json.dumps(asdict(sample)) + "\n")
            stream.flush()
            looked_s, before, load_before = now_s, after, load_after


def count_replicas(service: psutil.Process) -> tuple[int, int]:
    """How many replicas there are, and how many of them listen for requests."""
    found = serving = 0
    for member in tree_of(service):
        with contextlib.suppress(psutil.Error):
            if any(REPLICA in word for word in member.cmdline()[:1]):
                found += 1
                ports = (link.laddr.port for link in member.net_connections() if link.status == psutil.CONN_LISTEN)
                serving += any(port in SERVING_PORTS for port in ports)
    return found, serving


def count_open_files(service: psutil.Process) -> int:
    """File descriptors of all its processes."""
    total = 0
    for member in tree_of(service):
        with contextlib.suppress(psutil.Error):
            total += member.num_fds()
    return total
