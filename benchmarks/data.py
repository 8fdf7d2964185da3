"""Clips per second of the bulk jobs beside other ways to do the same work, interleaved; and how time and memory grow with the data.

Every way reads the same files. One process, Pool and Ray Data write the same Parquet files; librosa and the DataLoader write nothing.
Ray is started anew in each round: its start is shown apart, what is compared is the job once it is warm.
"""

import argparse
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # one thread a process, in every way

import pyarrow as pa
from rich.console import Console
from rich.table import Table

from benchmarks.clips import SHARED, SOUNDS, Unusable, load_model
from benchmarks.data_growth import measure_growth
from benchmarks.report import save, show
from benchmarks.systems import end_on_sigterm
from cluster.settings import Settings
from models import spectrograms
from models.audio import load_audio, probe
from models.frontend import log_mel
from models.storage import open_store
from pipelines.bulk import Job, Runner, Tally, Work, open_ray, run_chunk, run_here
from pipelines.featurize import build_work, choose_windows
from pipelines.jobs import find_sounds
from pipelines.plan import cut_chunks, plan_items

FOLDER = Path(__file__).resolve().parent
WARM_UP_CLIPS = 64
BATCH = 32
FEWER = 10  # the slow ways do a tenth of the clips
KINDS = {"log-mel": ("logmel", 5.0), "YAMNet embeddings": ("embedding", 5.0), "ESC-50 mel picture": ("mel", None)}

out, err = Console(), Console(stderr=True)


@dataclass
class Row:
    """One way to do one kind of work, and its clips per second in each round."""

    features: str
    way: str
    processes: int
    measure: Callable[[], float]
    rates: list[float] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """The median over the rounds."""
        return statistics.median(self.rates)


@dataclass(frozen=True)
class Clips:
    """The same clips for every way: their folder, their paths, and their mean length in seconds."""

    folder: Path
    paths: list[Path]
    mean_s: float

    def chunks(self, count: int | None = None) -> list[pa.Table]:
        """The first so many (all, by default), as the bulk jobs take them."""
        sounds = find_sounds(str(self.folder))
        return cut_chunks(plan_items(sounds.store, sounds.table.slice(0, count or len(self.paths)), 600.0))


def main() -> None:
    """Measures and prints. Exit code 2 when clips or weights are not here."""
    parser = argparse.ArgumentParser(prog="benchmarks.data", description=__doc__)
    parser.add_argument("--weights", type=Path, help="folder with YAMNet's files, or a model folder")
    parser.add_argument("--clips", type=Path, help="folder with sounds")
    parser.add_argument("--count", type=int, default=4000, help="how many clips: those in the folder, repeated")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--growth", type=int, nargs="*", default=[400, 4000, 40000], help="sizes of the growth plot")
    parser.add_argument("--save", action="store_true", help="append to RESULTS.md, and draw data-growth.png")
    args = parser.parse_args()
    end_on_sigterm()
    try:
        bundle = load_model(args.weights).path
        with repeated_clips(args.clips, args.count) as clips:
            compared = compare(clips, bundle, args.rounds)
        show(compared)
        with repeated_clips(args.clips, max(args.growth, default=0)) as clips:
            grown = measure_growth(clips.paths, args.growth, FOLDER / "data-growth.png" if args.save else None)
        show(grown)
    except Unusable as error:
        err.print(f"data: {error}", highlight=False, soft_wrap=True, markup=False)
        sys.exit(2)
    if args.save:
        results = FOLDER / "RESULTS.md"
        save(compared, results, f"`benchmarks.data`: {args.count} clips, medians of {args.rounds} interleaved rounds.")
        save(grown, results, "`benchmarks.data`, growth: one `earshot featurize` each. ![growth](data-growth.png)")


@contextmanager
def repeated_clips(named: Path | None, count: int) -> Iterator[Clips]:
    """So many names in a folder, each a link to one of the clips. Raises Unusable."""
    source = named or SHARED / "data" / "esc10" / "audio"
    clips = sorted(path.resolve() for path in source.glob("*") if path.suffix in SOUNDS) if source.is_dir() else []
    if not clips:
        raise Unusable(f"no sounds in {source}: name a folder with --clips")
    with tempfile.TemporaryDirectory(prefix="earshot-bench-") as folder:
        links = [Path(folder, f"{number:06}{clips[number % len(clips)].suffix}") for number in range(count)]
        for number, link in enumerate(links):
            link.symlink_to(clips[number % len(clips)])
        yield Clips(Path(folder), links, statistics.mean(probe(clip).duration_s or 0.0 for clip in clips))


def compare(clips: Clips, bundle: Path, rounds: int) -> Table:
    """Every way in turn, so often."""
    cores = len(os.sched_getaffinity(0))
    settings, chunks, warm_up = Settings(weights_path=bundle), clips.chunks(), clips.chunks(WARM_UP_CLIPS)
    fewer = clips.paths[: len(clips.paths) // FEWER]
    starts_s: list[float] = []
    rows: list[Row] = []
    for features, (kind, length_s) in KINDS.items():
        work = build_work(kind, choose_windows(kind, length_s, None), "yamnet", None, settings)
        rows.append(Row(features, "one process", 1, partial(_warm_rate, work, clips, chunks, warm_up, run_here)))
        if kind == "mel":  # to compare with librosa
            continue
        rows.append(Row(features, f"Pool({cores})", cores, partial(_pool_rate, work, clips, chunks, warm_up, cores)))
        start_and_run = partial(_ray_rate, work, clips, chunks, warm_up, settings, cores, starts_s)
        rows.append(Row(features, "Ray Data", cores, start_and_run))
    rows.insert(3, Row("log-mel", "torch DataLoader", cores, lambda: _loader_rate(clips.paths, cores)))
    librosa_mel(fewer[0])  # its imports and its compiler are not what is measured
    rows.append(Row("ESC-50 mel picture", "librosa", 1, lambda: _rate(len(fewer), map(librosa_mel, fewer))))
    for number in range(rounds):
        for row in rows:
            row.rates.append(row.measure())
            err.print(f"{number + 1}/{rounds} {row.features}, {row.way}: {row.rates[-1]:.0f} clips/s", highlight=False)
    return _table(rows, clips.mean_s, statistics.median(starts_s))


def _rate(count: int, work: Iterable[object]) -> float:
    """Clips per second of doing all of it."""
    began_s = time.perf_counter()
    for done in work:
        assert not isinstance(done, Tally) or not done.fault, done
    return count / (time.perf_counter() - began_s)


@contextmanager
def _job(work: Work, clips: Clips) -> Iterator[Job]:
    """The work on the clips, into a folder that is deleted afterwards."""
    with tempfile.TemporaryDirectory(prefix="earshot-bench-out-") as folder:
        yield Job(work, open_store(clips.folder), open_store(folder))


def _job_rate(work: Work, clips: Clips, chunks: list[pa.Table], runner: Runner) -> float:
    with _job(work, clips) as job:
        return _rate(sum(map(len, chunks)), runner(job, chunks))


def _warm_rate(work: Work, clips: Clips, chunks: list[pa.Table], warm_up: list[pa.Table], runner: Runner) -> float:
    """Clips per second, once libraries, networks and workers are there."""
    _job_rate(work, clips, warm_up, runner)
    return _job_rate(work, clips, chunks, runner)


def _pool_rate(work: Work, clips: Clips, chunks: list[pa.Table], warm_up: list[pa.Table], processes: int) -> float:
    with multiprocessing.get_context("spawn").Pool(processes) as pool:

        def run(job: Job, some: list[pa.Table]) -> Iterator[Tally]:
            return pool.imap_unordered(_run_pair, [(job, chunk) for chunk in some])

        return _warm_rate(work, clips, chunks, warm_up, run)


def _run_pair(pair: tuple[Job, pa.Table]) -> Tally:
    return run_chunk(*pair)


def _ray_rate(
    work: Work,
    clips: Clips,
    chunks: list[pa.Table],
    warm_up: list[pa.Table],
    settings: Settings,
    processes: int,
    starts_s: list[float],
) -> float:
    began_s = time.perf_counter()
    with open_ray(settings, processes) as runner:
        _job_rate(work, clips, warm_up, runner)
        starts_s.append(time.perf_counter() - began_s)
        return _job_rate(work, clips, chunks, runner)


def _loader_rate(paths: list[Path], processes: int) -> float:
    import torch
    from torch.utils.data import DataLoader

    torch.set_num_threads(1)
    options = {"num_workers": processes, "collate_fn": _collate, "multiprocessing_context": "spawn"}
    loader: DataLoader[object] = DataLoader(paths, BATCH, **options)  # type: ignore[arg-type]
    batches = iter(loader)
    first = len(next(batches))  # the workers have started
    return _rate(len(paths) - first, batches)


def _collate(paths: list[Path]) -> object:
    import torch

    torch.set_num_threads(1)
    frames = [torch.from_numpy(log_mel(load_audio(path).samples)) for path in paths]
    return torch.nn.utils.rnn.pad_sequence(frames, batch_first=True)


def librosa_mel(path: Path) -> object:
    """The picture as the ESC-50 system makes it."""
    import librosa

    samples, _ = librosa.load(path, sr=spectrograms.MEL_RATE_HZ)
    mel = librosa.feature.melspectrogram(
        y=samples,
        sr=spectrograms.MEL_RATE_HZ,
        n_fft=spectrograms.MEL_WINDOW_SAMPLES,
        hop_length=spectrograms.MEL_HOP_SAMPLES,
        n_mels=spectrograms.MEL_ROWS,
        fmin=spectrograms.MEL_ROWS_LOW_HZ,
        fmax=spectrograms.MEL_ROWS_HIGH_HZ,
    )
    return librosa.power_to_db(mel, top_db=80)


def _table(rows: list[Row], mean_s: float, start_s: float) -> Table:
    pools = {row.features: row.rate for row in rows if row.way.startswith("Pool")}
    singles = {row.features: row.rate for row in rows if row.way == "one process"}
    table = Table(
        caption=f"A clip lasts {mean_s:.2f} s on average. Ray's start, once per job and not in its figures: {start_s:.1f} s (median).\n"
        "One process, Pool and Ray Data write Parquet; librosa and the DataLoader write nothing.",
        caption_justify="left",
    )
    for name in ("features", "way"):
        table.add_column(name, no_wrap=True)
    for name in ("processes", "clips/s", "per process", "of one process", "of Pool", "x real time", "lowest - highest"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        share = f"{row.rate / pools[row.features]:.0%}" if row.features in pools else "-"
        single = f"{row.rate / row.processes / singles[row.features]:.0%}"
        spread = f"{min(row.rates):.0f} - {max(row.rates):.0f}"
        figures = [
            f"{row.rate:.0f}",
            f"{row.rate / row.processes:.0f}",
            single,
            share,
            f"{row.rate * mean_s:.0f}",
            spread,
        ]
        table.add_row(row.features, row.way, str(row.processes), *figures)
    return table


if __name__ == "__main__":
    main()
