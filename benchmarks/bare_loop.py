"""The limit: the tagger in a plain loop, without any server; in one process, or in one on each core."""

import multiprocessing
import os
import time
from dataclasses import dataclass
from multiprocessing.synchronize import Barrier
from pathlib import Path

import psutil

from benchmarks.load_client import LoadResult
from benchmarks.process_tree import MIB
from models.answer import Options
from models.bundle import load_bundle
from models.runtime import load_runtime
from models.tagger import Scorer, Tagger

WARM_UP_CLIPS = 5
READY_TIMEOUT_S = 60


@dataclass(frozen=True)
class LoopResult:
    """What the loops saw together, the CPU seconds they spent and their memory in MiB."""

    load: LoadResult
    cpu_s: float
    pss_mib: float


def load_tagger(bundle: Path) -> Tagger:
    """The tagger over a bundle's int8 graph."""
    loaded = load_bundle(bundle)
    return Tagger(Scorer(loaded, load_runtime(loaded, "cpu")))


def run_loops(bundle: Path, bodies: list[bytes], seconds: float, processes: int) -> LoopResult:
    """So many processes, each on a core of its own, over the same bodies at the same time."""
    os.environ["OMP_NUM_THREADS"] = "1"  # the loops inherit it: more BLAS threads than cores are several times slower
    context = multiprocessing.get_context("spawn")
    cores = sorted(os.sched_getaffinity(0))
    with context.Manager() as manager:
        barrier = manager.Barrier(processes)
        tasks = [(bundle, bodies, seconds, cores[number % len(cores)], barrier) for number in range(processes)]
        with context.Pool(processes) as pool:
            results = pool.starmap(_loop, tasks, chunksize=1)
    together = LoadResult(length_s=max(result.load.length_s for result in results))
    for result in results:
        together.latencies_s += result.load.latencies_s
        together.statuses += result.load.statuses
    return LoopResult(together, sum(r.cpu_s for r in results), sum(r.pss_mib for r in results))


def _loop(bundle: Path, bodies: list[bytes], seconds: float, core: int, barrier: Barrier) -> LoopResult:
    os.sched_setaffinity(0, {core})
    tagger, options, result = load_tagger(bundle), Options(), LoadResult()
    for body in bodies[:WARM_UP_CLIPS]:
        tagger.tag(body, options)
    barrier.wait(READY_TIMEOUT_S)
    began_s, cpu_s = time.perf_counter(), time.process_time()
    while time.perf_counter() - began_s < seconds:
        start_s = time.perf_counter()
        tagger.tag(bodies[len(result.latencies_s) % len(bodies)], options).model_dump_json()
        result.latencies_s.append(time.perf_counter() - start_s)
    result.statuses[200] = len(result.latencies_s)
    result.length_s = time.perf_counter() - began_s
    return LoopResult(result, time.process_time() - cpu_s, psutil.Process().memory_full_info().pss / MIB)
