"""What people look at, as PNG bytes: log-mel, timeline, bars. Knows nothing of sounds, files or HTTP."""

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, MultipleLocator, NullLocator, StrMethodFormatter
from numpy.typing import ArrayLike, NDArray

from models.frontend import HOP_S, MEL_BANDS, MEL_HIGH_HZ, MEL_LOW_HZ, hz_to_mel
from models.look import FAINT, HEAT, INK, MEAN_COLOUR, PANEL, PEAK_COLOUR, SMALL_PT, open_panels, shorten, to_png

TICKS_HZ = (125.0, 250.0, 500.0, 1000.0, 2000.0, 4000.0, 7500.0)
MAX_COLUMNS = 700  # even; never more than the picture has pixels: none may fall between two
MAX_ROWS = 24
MAX_NAMED = 30
WIDE_RANGE = 30  # from the 5 % to the 95 % quantile: durations that differ more have a logarithmic axis
LONG_S = 600.0
STEPS_S = (120, 300, 600, 900, 1800, 3600, 7200, 10_800, 21_600, 43_200)  # between the ticks of a long time axis
DAY_S = 86_400


def draw_log_mel(log_mel: NDArray[np.floating], hop_s: float = HOP_S) -> bytes:
    """Log-mel [F, 64], one frame per `hop_s` -> PNG with a time axis and a mel axis in Hz."""
    figure, (axes,) = open_panels(2.9)
    _plot_log_mel(axes, log_mel, hop_s)
    return to_png(figure)


def draw_report(
    log_mel: NDArray[np.floating],
    hop_s: float,
    labels: Sequence[str],
    scores: Sequence[float],
    peaks: Sequence[float],
) -> bytes:
    """A sound and what is in it -> one PNG: the log-mel as `draw_log_mel`, and below it at most 24 labels as `draw_probabilities`."""
    rows = slice(MAX_ROWS)
    figure, (sound, bars) = open_panels(2.9, 0.8 + 0.3 * len(labels[rows]))
    _plot_log_mel(sound, log_mel, hop_s)
    _plot_probabilities(figure, bars, labels[rows], scores[rows], peaks[rows])
    return to_png(figure)


def thin(blocks: Iterable[NDArray[np.float32]]) -> tuple[NDArray[np.float32], float]:
    """Log-mel in blocks [f, 64], a frame per 10 ms -> at most 700 columns [F, 64], and the seconds from one to the next.

    Each column is the maximum of its frames, so that a short sound stays seen. Memory does not grow with the sound's length.
    """
    columns = np.full((MAX_COLUMNS, MEL_BANDS), -np.inf, np.float32)
    frames, stride = 0, 1
    for block in blocks:
        while frames + len(block) > stride * len(columns):
            halved = columns.reshape(-1, 2, MEL_BANDS).max(axis=1)
            columns = np.concatenate([halved, np.full_like(halved, -np.inf)])
            stride *= 2
        np.maximum.at(columns, np.arange(frames, frames + len(block)) // stride, block)
        frames += len(block)
    return columns[: math.ceil(frames / stride)], stride * HOP_S


def draw_timeline(
    labels: Sequence[str],
    start_s: Sequence[float],
    length_s: float,
    scores: ArrayLike,
    duration_s: float = math.inf,
) -> bytes:
    """Scores [P, K] of patches that begin at `start_s` [P] -> PNG, label by time.

    Of more than 24 labels, those with the best peaks are drawn. A last patch that is padded beyond the sound's end is
    cut at `duration_s`.
    """
    table = np.asarray(scores, np.float64).reshape(len(start_s), len(labels))
    rows = np.sort(np.argsort(-table.max(axis=0), kind="stable")[:MAX_ROWS])
    step = _stride(len(start_s))
    edges_s = _cell_edges(np.asarray(start_s, np.float64)[::step], start_s[-1], length_s)
    edges_s = np.minimum(edges_s, max(duration_s, edges_s[0]))
    figure, (axes,) = open_panels(1.0 + 0.3 * len(rows))
    cells = axes.pcolormesh(
        edges_s, np.arange(len(rows) + 1), _decimate(table)[:, rows].T, cmap=HEAT, vmin=0.0, vmax=1.0
    )
    axes.set_yticks(np.arange(len(rows)) + 0.5, [shorten(labels[row]) for row in rows])
    axes.invert_yaxis()
    axes.hlines(np.arange(1, len(rows)), edges_s[0], edges_s[-1], colors=PANEL, linewidths=1.5)
    _time_axis(axes)
    bar = figure.colorbar(cells, ax=axes, pad=0.02, aspect=max(8, 4 * len(rows)), ticks=[0, 0.5, 1])
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=0, labelcolor=INK, labelsize=SMALL_PT)
    return to_png(figure)


def draw_probabilities(labels: Sequence[str], scores: Sequence[float], peaks: Sequence[float]) -> bytes:
    """Labels with mean score and peak, each 0 to 1 -> PNG: a bar for the mean in front of one for the peak."""
    figure, (axes,) = open_panels(0.8 + 0.3 * len(labels))
    _plot_probabilities(figure, axes, labels, scores, peaks)
    return to_png(figure)


def draw_counts(
    labels: Mapping[str, int], durations_s: NDArray[np.float64], group: str, groups: Mapping[str, int]
) -> bytes:
    """Rows per label (most frequent first), durations in seconds [N], rows per fold or split (may be none) -> PNG.

    Of more than 30 labels the most frequent are named, and all are drawn as one falling curve above. Of more than 30 folds the
    first are drawn.
    """
    many = len(labels) > MAX_NAMED
    bars = [(title, counts) for title, counts in (("label", labels), (group, groups)) if counts]
    heights = [1.8] * many + [0.6 + 0.24 * min(len(counts), MAX_NAMED) for _, counts in bars] + [1.8]
    figure, axes = open_panels(*heights)
    if many:
        _plot_ranks(axes[0], list(labels.values()))
    for panel, (title, counts) in zip(axes[many:], bars, strict=False):
        _plot_counts(panel, f"rows per {title}", counts)
    _plot_durations(axes[-1], durations_s)
    return to_png(figure)


def band_of(frequency_hz: NDArray[np.float64]) -> NDArray[np.float64]:
    """Where a frequency lies among the 64 mel bands; the ends of the scale, half a band out, go to the picture's edge.

    Band b is centred on the b+1st of 66 points that are equally far apart in mel between 125 and 7500 Hz.
    """
    low_mel, high_mel = hz_to_mel(np.array([MEL_LOW_HZ, MEL_HIGH_HZ]))
    bands = (hz_to_mel(frequency_hz) - low_mel) / (high_mel - low_mel) * (MEL_BANDS + 1) - 1
    edged: NDArray[np.float64] = np.clip(bands, -0.5, MEL_BANDS - 0.5)
    return edged


def _plot_log_mel(axes: Axes, log_mel: NDArray[np.floating], hop_s: float) -> None:
    columns = _decimate(np.asarray(log_mel, np.float64))
    darkest, brightest = np.percentile(columns, [2, 99.8])
    axes.imshow(
        columns.T,
        aspect="auto",
        origin="lower",
        cmap=HEAT,
        vmin=darkest,
        vmax=max(brightest, darkest + 1.0),
        interpolation="nearest",
        extent=(0.0, len(log_mel) * hop_s, -0.5, MEL_BANDS - 0.5),
    )
    axes.set_yticks(band_of(np.array(TICKS_HZ)), [_hz_text(frequency_hz) for frequency_hz in TICKS_HZ], size=SMALL_PT)
    axes.set_ylabel("Hz")
    _time_axis(axes)


def _plot_probabilities(
    figure: Figure, axes: Axes, labels: Sequence[str], scores: Sequence[float], peaks: Sequence[float]
) -> None:
    rows = np.arange(len(labels))
    axes.barh(rows, peaks, height=0.62, color=PEAK_COLOUR, label="peak")
    axes.barh(rows, scores, height=0.62, color=MEAN_COLOUR, label="mean")
    for row, (score, peak) in enumerate(zip(scores, peaks, strict=True)):
        axes.annotate(
            f"{score:.2f}",
            (max(score, peak), row),
            (4, 0),
            textcoords="offset points",
            va="center",
            color=INK,
            size=SMALL_PT,
        )
    axes.set_yticks(rows, [shorten(label) for label in labels])
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.set_xlim(0, 1.12)
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1.0])
    axes.grid(axis="x", color=FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
    figure.legend(loc="outside lower right", ncols=2, frameon=False, fontsize=SMALL_PT, labelcolor=INK, handlelength=1)


def _plot_ranks(axes: Axes, counts: Sequence[int]) -> None:
    """All counts, the largest first."""
    axes.fill_between(np.arange(1, len(counts) + 1), counts, step="mid", color=MEAN_COLOUR)
    axes.set_yscale("log")
    axes.set_ylim(0.5)
    axes.margins(x=0)
    _count_axis(axes, f"the {len(counts):,} labels by rank", "rows")


def _plot_counts(axes: Axes, title: str, counts: Mapping[str, int]) -> None:
    """A bar for each of the first 30."""
    named = dict(list(counts.items())[:MAX_NAMED])
    axes.barh(np.arange(len(named)), list(named.values()), height=0.62, color=MEAN_COLOUR)
    axes.set_yticks(np.arange(len(named)), [shorten(name) for name in named])
    axes.set_ylim(len(named) - 0.4, -0.6)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 5, 10], integer=True))
    _count_axis(axes, title + (f", the first {MAX_NAMED} of {len(counts):,}" if len(counts) > len(named) else ""))


def _plot_durations(axes: Axes, durations_s: NDArray[np.float64]) -> None:
    """A histogram from zero on; with a logarithmic axis where most durations would fall into the first bars."""
    _count_axis(axes, "seconds", "rows")
    if not len(durations_s):
        return
    low_s, high_s = np.quantile(durations_s, [0.05, 0.95])
    if low_s > 0 and high_s > WIDE_RANGE * low_s:
        positive_s = durations_s[durations_s > 0]
        edges_s = np.geomspace(positive_s.min(), positive_s.max(), 41)
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))
        axes.xaxis.set_minor_locator(NullLocator())
    else:
        edges_s = np.linspace(0, 1.05 * max(durations_s.max(), 0.1), 41)
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5, steps=[1, 2, 5, 10], integer=True))
    axes.hist(durations_s, edges_s.tolist(), color=MEAN_COLOUR)


def _count_axis(axes: Axes, title: str, vertical: str = "") -> None:
    axes.set_xlabel(title)
    axes.set_ylabel(vertical)
    axes.tick_params(labelsize=SMALL_PT)
    axes.grid(axis="y" if vertical else "x", color=FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
    counts = axes.yaxis if vertical else axes.xaxis
    counts.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    counts.set_minor_locator(NullLocator())


def _stride(length: int) -> int:
    return math.ceil(length / MAX_COLUMNS)


def _decimate(table: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rows of time [T, K] -> at most 700, each the maximum of those it stands for: a short sound stays seen."""
    return np.maximum.reduceat(table, np.arange(0, len(table), _stride(len(table))), axis=0)


def _cell_edges(start_s: NDArray[np.float64], last_start_s: float, length_s: float) -> NDArray[np.float64]:
    """Starts of overlapping patches [P] -> edges of cells [P + 1] that meet half way between the patches' centres."""
    centres_s = start_s + length_s / 2
    between_s = (centres_s[:-1] + centres_s[1:]) / 2
    return np.concatenate([start_s[:1], between_s, [last_start_s + length_s]])


def _time_axis(axes: Axes) -> None:
    """Seconds below the panel; hours and minutes where it is longer than ten minutes."""
    length_s = axes.get_xlim()[1]
    if length_s <= LONG_S:
        axes.xaxis.set_major_locator(MaxNLocator(nbins=8, steps=[1, 2, 5, 10]))
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.set_xlabel("seconds")
        return
    days_s = math.ceil(length_s / (8 * DAY_S)) * DAY_S
    axes.xaxis.set_major_locator(MultipleLocator(next((s for s in STEPS_S if length_s <= 8 * s), days_s)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x // 3600:.0f}:{x % 3600 // 60:02.0f}"))
    axes.set_xlabel("hours:minutes")


def _hz_text(frequency_hz: float) -> str:
    return f"{frequency_hz / 1000:g}k" if frequency_hz >= 1000 else f"{frequency_hz:g}"
