"""What an hour of audio and a request cost in CPU seconds: each stage alone, the service as a whole, the bulk job. For cluster/SIZING.md.

Stages: CPU time of this one process. Service and bulk: CPU time of the whole process tree, the client left out. Every figure is a median.
"""

import argparse
import io
import math
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # as the service has it: more threads than cores burn CPU waiting

import numpy as np
import psutil
import soundfile
from rich.console import Console
from rich.table import Table

from benchmarks.clips import Inputs, Unusable, load_inputs
from benchmarks.load_client import make_request, run_closed, run_on_last_core
from benchmarks.process_tree import cpu_by_process_s, cpu_spent_s, short_name, tree_of
from benchmarks.report import save, show
from benchmarks.systems import PORT, NotRunning, earshot, end_on_sigterm, running
from models.answer import Options, compose_answer
from models.audio import load_audio
from models.bundle import load_bundle
from models.frontend import SAMPLE_RATE_HZ
from models.runtime import load_runtime
from models.tagger import Scorer, hear
from models.weights import STARTER

RESULTS = Path(__file__).resolve().parent / "RESULTS.md"
LONG_S = 600  # the longest sound that the service takes by default
SAMPLE_EVERY_S = 0.1
HOUR_S = 3600
CLIP_S = 5
CONNECTIONS = 8
LIVE = "wav 16 kHz"
NEVER = "/v1/classify?second_opinion=never"
ALWAYS = "/v1/classify?second_opinion=always"

err = Console(stderr=True)


class Costs:
    """Figures by (group, what, unit), one more each round; `per_hour` makes CPU seconds per hour of audio of a median."""

    def __init__(self) -> None:
        self.values: dict[tuple[str, str, str], list[float]] = {}
        self.per_hour: dict[tuple[str, str, str], float] = {}

    def add(self, group: str, what: str, unit: str, value: float, hour_factor: float = math.nan) -> None:
        """One more round's figure; `hour_factor` times it is CPU seconds per hour of audio."""
        self.values.setdefault((group, what, unit), []).append(value)
        self.per_hour[group, what, unit] = hour_factor

    def table(self) -> Table:
        """Medians with the lowest and the highest."""
        table = Table(
            caption="A clip lasts 5 s and is 10 patches. Service: CPU per answer of all its processes, no second opinion unless named.",
            caption_justify="left",
        )
        for name in ("where", "what"):
            table.add_column(name, no_wrap=True)
        for name in ("median", "lowest - highest", "CPU s per audio-hour"):
            table.add_column(name, justify="right", no_wrap=True)
        for key, values in self.values.items():
            middle = statistics.median(values)
            hour = middle * self.per_hour[key]
            spread = f"{min(values):.3g} - {max(values):.3g}"
            table.add_row(
                key[0], key[1], f"{middle:.3g} {key[2]}", spread, f"{hour:.2f}" if math.isfinite(hour) else "-"
            )
        return table


def main() -> None:
    """Measures, prints, saves if asked to. Exit code 2 when clips or weights are not here."""
    parser = argparse.ArgumentParser(prog="benchmarks.cost", description=__doc__)
    parser.add_argument("--weights", type=Path, help="folder with YAMNet's files, or a model folder")
    parser.add_argument("--clips", type=Path, help="folder with sounds")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5.0, help="length of one load")
    parser.add_argument(
        "--hours",
        type=int,
        nargs=2,
        default=[3, 9],
        help="two sizes of the bulk job, both too large to run without Ray",
    )
    parser.add_argument("--parts", nargs="*", default=["stages", "fused", "separate", "bulk"])
    parser.add_argument("--save", action="store_true", help="append to RESULTS.md")
    args = parser.parse_args()
    end_on_sigterm()
    costs = Costs()
    try:
        inputs = load_inputs(args.clips, args.weights)
        with tempfile.TemporaryDirectory(prefix="earshot-bench-") as folder:
            long = _long_recording(Path(folder), inputs)
            for number in range(1, args.rounds + 1):
                for part in args.parts:
                    err.print(f"round {number}: {part}", highlight=False)
                    if part == "stages":
                        measure_stages(costs, inputs)
                    elif part == "bulk":
                        measure_bulk(costs, inputs, Path(folder), tuple(args.hours))
                    else:
                        measure_service(costs, inputs, long.read_bytes(), part, args.seconds)
    except (Unusable, NotRunning) as error:
        err.print(f"cost: {error}", highlight=False, soft_wrap=True, markup=False)
        sys.exit(2 if isinstance(error, Unusable) else 1)
    table = costs.table()
    show(table)
    if args.save:
        save(table, RESULTS, f"`benchmarks.cost`: {args.rounds} rounds, {args.seconds:g} s per load; medians.")


def _live_pieces(inputs: Inputs) -> list[bytes]:
    """The clips as a microphone's stream would be sent: WAV, 16 kHz, mono, 16 bit."""
    pieces = []
    for body in inputs.bodies["wav"]:
        stream = io.BytesIO()
        soundfile.write(stream, load_audio(body).samples, SAMPLE_RATE_HZ, format="WAV", subtype="PCM_16")
        pieces.append(stream.getvalue())
    return pieces


def _long_recording(folder: Path, inputs: Inputs) -> Path:
    """A FLAC of LONG_S seconds, 16 kHz mono, joined from the clips."""
    parts = [load_audio(body).samples for body in inputs.bodies["ogg"]]
    joined = np.concatenate(parts)
    samples = np.tile(joined, math.ceil(LONG_S * SAMPLE_RATE_HZ / len(joined)))[: LONG_S * SAMPLE_RATE_HZ]
    path = folder / "long.flac"
    soundfile.write(path, samples, SAMPLE_RATE_HZ, subtype="PCM_16")
    return path


def measure_stages(costs: Costs, inputs: Inputs) -> None:
    """Each stage over every clip in this process, one thread."""
    options = Options()
    for kind, bodies in (inputs.bodies | {LIVE: _live_pieces(inputs)}).items():
        took = _cpu_ms(lambda bodies=bodies: [hear(body) for body in bodies]) / len(bodies)  # type: ignore[misc]
        costs.add("stage", f"decode, resample, log-mel: {kind}", "ms a clip", took, _hours(CLIP_S))
    sounds = [hear(body) for body in inputs.bodies["wav"]]
    networks = {
        "YAMNet int8": Scorer(inputs.bundle, load_runtime(inputs.bundle, "cpu")),
        "YAMNet float": Scorer(inputs.bundle, load_runtime(inputs.bundle, "cpu", "float")),
        "starter YAMNet int8": _starter("yamnet"),
        "second opinion (starter VGGish-slim int8)": _starter("vggish-slim"),
    }
    for name, scorer in networks.items():
        hop_s = scorer.hop_s(options)
        patches = [scorer.patches(sound.frames, hop_s) for sound in sounds]
        took = _cpu_ms(lambda s=scorer, p=patches: [s.network(one) for one in p]) / len(sounds)  # type: ignore[misc]
        costs.add("stage", f"{name}, {len(patches[0])} patches", "ms a clip", took, _hours(CLIP_S))
    first = networks["YAMNet int8"]
    scored = [first.score(iter([sound.frames]), first.hop_s(options)) for sound in sounds]
    took = _cpu_ms(
        lambda: [compose_answer("id", 5.0, inputs.bundle, one, options, []).model_dump_json() for one in scored]
    )
    costs.add("stage", "labels, events, JSON", "ms a clip", took / len(sounds), _hours(CLIP_S))


def _starter(name: str) -> Scorer:
    bundle = load_bundle(STARTER / name)
    return Scorer(bundle, load_runtime(bundle, "cpu"))


def _hours(audio_s: float) -> float:
    """What turns milliseconds per so much audio into seconds per hour of it."""
    return HOUR_S / audio_s / 1000


def _cpu_ms(work: Callable[[], object]) -> float:
    """CPU milliseconds of a piece of work, the first (cold) time left out."""
    work()
    began_s = time.process_time()
    work()
    return 1000 * (time.process_time() - began_s)


def measure_service(costs: Costs, inputs: Inputs, long: bytes, placement: str, seconds: float) -> None:
    """CPU per answer of `earshot up`, by kind of process; of long recordings; and of the service at rest. Raises NotRunning."""
    head = ["--head", str(STARTER / "vggish-slim")]
    with running(earshot(placement, inputs.bundle.path, *head)) as service:
        kinds = inputs.bodies | {LIVE: _live_pieces(inputs)}
        for kind, bodies in kinds.items():
            requests = [make_request(PORT, NEVER, body) for body in bodies]
            run_on_last_core(run_closed(PORT, requests, CONNECTIONS, 2.0))
            total, by_process = _per_answer(service, requests, CONNECTIONS, seconds)
            costs.add(placement, f"5-s clip, {kind}", "ms an answer", 1000 * total, _hours(CLIP_S))
            for process, cpu_s in by_process.items() if kind == LIVE else ():
                costs.add(placement, f"of which {process}", "ms an answer", 1000 * cpu_s, _hours(CLIP_S))
        requests = [make_request(PORT, ALWAYS, body) for body in inputs.bodies["ogg"]]
        total, _ = _per_answer(service, requests, CONNECTIONS, seconds)
        costs.add(placement, "5-s clip, ogg, always a second opinion", "ms an answer", 1000 * total, _hours(CLIP_S))
        total, _ = _per_answer(service, [make_request(PORT, NEVER, long)], 2, seconds)
        costs.add(placement, "10-min recording, FLAC", "s an answer", total, HOUR_S / LONG_S)
        before, began_s = cpu_by_process_s(service), time.perf_counter()
        time.sleep(seconds)
        spent_s = cpu_spent_s(before, cpu_by_process_s(service))
        costs.add(placement, "at rest", "% of a core", 100 * spent_s / (time.perf_counter() - began_s))


def _per_answer(
    service: psutil.Process, requests: list[bytes], connections: int, seconds: float
) -> tuple[float, dict[str, float]]:
    """CPU seconds per answer, in all and by kind of process. Raises NotRunning when an answer is not 200."""
    before = cpu_by_process_s(service)
    load = run_on_last_core(run_closed(PORT, requests, connections, seconds))
    after = cpu_by_process_s(service)
    if set(load.statuses) != {200}:
        raise NotRunning(f"answers by status: {dict(load.statuses)}")
    answers = load.statuses[200]
    kinds = {"HAProxy": 0.0, "replicas": 0.0, "Ray and Serve's own": 0.0}
    for process, spent_s in after.items():
        name = short_name(process)
        kind = "HAProxy" if name == "haproxy" else "replicas" if "ServeReplica" in name else "Ray and Serve's own"
        kinds[kind] += (spent_s - before.get(process, 0.0)) / answers
    return cpu_spent_s(before, after) / answers, kinds


def measure_bulk(costs: Costs, inputs: Inputs, folder: Path, hours: tuple[int, int]) -> None:
    """CPU of `earshot classify --out` over two sizes: of the larger, and of each hour more (without the start)."""
    spent = [_bulk_cpu_s(inputs, folder, size) for size in hours]
    costs.add("bulk", f"5-s clips, ogg, {hours[1]} h in all, with its start", "s an audio-hour", spent[1] / hours[1], 1)
    more = (spent[1] - spent[0]) / (hours[1] - hours[0])
    costs.add("bulk", "5-s clips, ogg, each hour more", "s an audio-hour", more, 1)


def _bulk_cpu_s(inputs: Inputs, folder: Path, hours: int) -> float:
    clips, out = folder / "clips", folder / "answers"
    for place in (clips, out):
        shutil.rmtree(place, ignore_errors=True)
    clips.mkdir()
    bodies = inputs.bodies["ogg"]
    for number in range(hours * HOUR_S // CLIP_S):
        (clips / f"{number:05}.ogg").write_bytes(bodies[number % len(bodies)])
    program = str(Path(sys.executable).parent / "earshot")
    command = [program, "classify", str(clips), "--out", str(out), "--second-opinion", "never"]
    command += ["--weights", str(inputs.bundle.path)]
    with tempfile.TemporaryFile() as log:
        process = psutil.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        with _summed_cpu(process) as cpu_s:
            code = process.wait()
        if code:
            log.seek(0)
            raise NotRunning(f"classify ended with {code}: {log.read().decode(errors='replace')[-300:]}")
    return sum(cpu_s.values())


@contextmanager
def _summed_cpu(process: psutil.Process) -> Iterator[dict[int, float]]:
    """CPU seconds by process id while the block runs; a process that ended counts as it was last seen."""
    seen: dict[int, float] = {}
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(SAMPLE_EVERY_S):
            for member in _members(process):
                try:
                    times = member.cpu_times()
                except psutil.Error:
                    continue
                seen[member.pid] = max(seen.get(member.pid, 0.0), times.user + times.system)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield seen
    finally:
        ended.set()
        watcher.join()


def _members(process: psutil.Process) -> list[psutil.Process]:
    try:
        return tree_of(process)
    except psutil.Error:
        return []


if __name__ == "__main__":
    main()
