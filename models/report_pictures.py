"""What reports of trainings and sweeps show, as PNG bytes: confusion, calibration, learning curves, parallel coordinates.

Takes numbers and names. Knows nothing of networks, files or Ray.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.ticker import MaxNLocator, StrMethodFormatter
from numpy.typing import ArrayLike, NDArray

from models.look import FAINT, HEAT, INK, MEAN_COLOUR, PANEL, SMALL_PT, WIDTH_IN, open_panels, shorten, to_png
from models.reliability import measure_reliability

MAX_CLASSES_COUNTED, MAX_CLASSES_NAMED = 16, 30  # more of them are drawn without counts, without names
MAX_CURVES_NAMED = 8
MAX_LEVEL_NAMES = 6  # below parallel axes; more of them are turned
MAX_STEPS = 7  # different numbers that stand at equal distances on an axis
LINES = ("#f9a03f", "#6fb7ff", "#e05a8a", "#8bd17c", "#c9a0ff", "#5fd4c8", "#fcf3b4", "#9aa3b8")
WIDE_RANGE = 30  # settings whose values differ more than so many times have a logarithmic axis
Value = float | str | bool


def draw_confusion(confusion: ArrayLike, names: Sequence[str]) -> bytes:
    """Rows that are of class i and were taken for class j [C, C] -> PNG: the share of each truth, with the count in the cell."""
    counts = np.asarray(confusion, np.int64)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    figure, (axes,) = open_panels(WIDTH_IN)
    axes.imshow(shares, cmap=HEAT, vmin=0, vmax=1, interpolation="nearest")
    axes.set_xlabel("answer")
    axes.set_ylabel("truth")
    axes.tick_params(length=0, labelsize=min(SMALL_PT, 190 / len(names)))
    named = len(names) <= MAX_CLASSES_NAMED
    ticks, labels = (range(len(names)), [shorten(name) for name in names]) if named else ((), ())
    axes.set_xticks(ticks, labels, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(ticks, labels)
    for row, column in np.argwhere(counts) if len(names) <= MAX_CLASSES_COUNTED else ():
        ink = PANEL if shares[row, column] > 0.55 else INK
        axes.text(column, row, f"{counts[row, column]}", ha="center", va="center", color=ink, size=SMALL_PT - 1)
    return to_png(figure)


def draw_calibration(labels: NDArray[np.bool_], scores: NDArray[np.float32], *, multi_label: bool) -> bytes:
    """Labels [N, C] and scores [N, C] -> PNG: how often answers are right by how sure they are, and how many there are.

    On the diagonal a score of 0.7 is right 7 times in 10; below it the model is too sure.
    """
    bins = measure_reliability(labels, scores, multi_label)
    figure, (curve, bars) = open_panels(3.6, 1.4)
    curve.plot([0, 1], [0, 1], color=FAINT, linewidth=1.2)
    curve.plot(bins.sure, bins.right, color=MEAN_COLOUR, linewidth=1.6)
    curve.scatter(
        bins.sure, bins.right, 12 + 90 * bins.counts / bins.counts.max(), color=MEAN_COLOUR, linewidths=0, zorder=3
    )
    curve.set_ylabel("is right")
    curve.set_ylim(-0.04, 1.04)
    curve.annotate(
        f"calibration error {bins.error:.3f}", (0.02, 0.94), xycoords="axes fraction", color=INK, size=SMALL_PT
    )
    bars.bar(bins.sure, bins.counts, width=0.045, color=MEAN_COLOUR)
    bars.set_ylabel("answers")
    bars.yaxis.set_major_locator(MaxNLocator(nbins=3, integer=True))
    bars.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    bars.set_xlabel("score")
    for axes in (curve, bars):
        axes.set_xlim(-0.02, 1.02)
        _grid(axes)
    return to_png(figure)


def draw_learning_curves(curves: Mapping[str, Sequence[float]], quantity: str) -> bytes:
    """A quantity after each epoch, by the name of the run -> PNG. Of more than eight runs none is named; the first one stands out."""
    figure, (axes,) = open_panels(3.4)
    named = len(curves) <= MAX_CURVES_NAMED
    for number, (name, values) in reversed(list(enumerate(curves.items()))):
        colour = LINES[number % len(LINES)] if named else MEAN_COLOUR if number == 0 else FAINT
        marker = "o" if len(values) == 1 else ""
        axes.plot(
            np.arange(1, len(values) + 1), values, color=colour, linewidth=1.5, marker=marker, label=shorten(name)
        )
    axes.set_xlabel("epoch")
    axes.set_ylabel(quantity)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, min_n_ticks=1))
    _grid(axes)
    if named and len(curves) > 1:
        handles, labels = axes.get_legend_handles_labels()
        columns = min(4, len(curves))
        figure.legend(
            handles[::-1], labels[::-1], loc="outside upper center", ncols=columns, frameon=False,
            fontsize=SMALL_PT, labelcolor=INK, handlelength=1,
        )  # fmt: skip
    return to_png(figure)


def draw_parallel_coordinates(
    settings: Sequence[Mapping[str, Value]], values: Sequence[float], quantity: str, *, more_is_better: bool = True
) -> bytes:
    """Trials with their settings and what they reached -> PNG: a line for each trial through one axis per setting, and the result last.

    The better ones are brighter and lie in front. Settings that are the same in all trials are left out.
    """
    names = [name for name in dict.fromkeys(name for row in settings for name in row) if _differs(settings, name)]
    axes_of = [_Axis([row.get(name) for row in settings]) for name in names] + [_Axis(list(values))]
    places = np.stack([axis.places for axis in axes_of], axis=1)
    figure, (axes,) = open_panels(3.8)
    order = np.argsort(values if more_is_better else np.negative(values), kind="stable")
    ranks = np.empty(len(values))
    ranks[order] = np.linspace(0.25, 1, len(values))
    for trial in order:
        known = ~np.isnan(places[trial])
        axes.plot(
            np.flatnonzero(known), places[trial][known], color=HEAT(ranks[trial]), linewidth=0.8 + 1.2 * ranks[trial]
        )
    for number, axis in enumerate(axes_of):
        axes.axvline(number, color=INK, linewidth=0.8, zorder=0.5)
        for place, text in axis.ticks:
            axes.annotate(
                text, (number, place), (4, 0), textcoords="offset points", va="center", color=INK, size=SMALL_PT - 1,
                bbox={"facecolor": PANEL, "edgecolor": "none", "alpha": 0.75, "pad": 0.8},
            )  # fmt: skip
    axes.set_xticks(range(len(axes_of)), [shorten(name, 16) for name in [*names, quantity]], size=SMALL_PT)
    if len(axes_of) > MAX_LEVEL_NAMES:
        axes.tick_params(axis="x", labelrotation=20)
    axes.set_yticks([])
    axes.set_xlim(-0.2, len(axes_of) - 0.45)
    axes.set_ylim(-0.05, 1.05)
    axes.tick_params(length=0)
    return to_png(figure)


class _Axis:
    """Where each trial's value lies on one axis, 0 to 1 (NaN: it has none), and what is written beside it."""

    def __init__(self, values: Sequence[Value | None]) -> None:
        known = {value for value in values if value is not None}
        numbers = all(isinstance(value, int | float) for value in known)
        if numbers and len(known) > MAX_STEPS:
            self.places, self.ticks = _place_numbers(np.array(values, np.float64))
            return
        steps: list[Value] = sorted(known, key=None if numbers else str)
        places = dict(zip(steps, np.linspace(0, 1, len(steps)) if len(steps) > 1 else [0.5], strict=True))
        self.places = np.array([math.nan if value is None else places[value] for value in values])
        self.ticks = [
            (place, f"{step:.3g}" if isinstance(step, float) else shorten(str(step), 12))
            for step, place in places.items()
        ]


def _place_numbers(values: NDArray[np.float64]) -> tuple[NDArray[np.float64], list[tuple[float, str]]]:
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    norm = (LogNorm if low > 0 and high > WIDE_RANGE * low else Normalize)(low, high)
    ticks = [(place, f"{float(norm.inverse(place)):.3g}") for place in (0.0, 0.5, 1.0)]
    return np.asarray(norm(np.ma.masked_invalid(values)).filled(np.nan), np.float64), ticks


def _differs(settings: Sequence[Mapping[str, Value]], name: str) -> bool:
    return len({row[name] for row in settings if name in row}) > 1


def _grid(axes: Axes) -> None:
    axes.tick_params(labelsize=SMALL_PT)
    axes.grid(color=FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
