"""The look of everything that is drawn: light ink on a dark panel, for any page. PNG bytes, without pyplot, so that any thread may draw."""

import io

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

# Sizes are chosen so that the text is still 10 pixels high where the picture is as wide as a phone.
WIDTH_IN = 5.4
DOTS_PER_INCH = 220
TEXT_PT, SMALL_PT = 10.0, 8.5

PANEL, INK, FAINT = "#12141c", "#e8eaf0", "#3a3f4e"
MEAN_COLOUR, PEAK_COLOUR = "#f9a03f", "#6e5537"
# Ever lighter, as inferno is: readable without colour vision. The darkest still stands out from the panel.
HEAT = LinearSegmentedColormap.from_list(
    "earshot", ["#1b1e2a", "#331f5c", "#6a1f6e", "#b03060", "#e8603c", "#f9a03f", "#fcf3b4"]
)

LABEL_CHARACTERS = 22


def open_panels(*heights_in: float) -> tuple[Figure, list[Axes]]:
    """Empty dark panels, one below the other."""
    margins = ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08)
    figure = Figure(figsize=(WIDTH_IN, sum(heights_in)), dpi=DOTS_PER_INCH, facecolor=PANEL, layout=margins)
    panels = figure.subplots(len(heights_in), squeeze=False, height_ratios=heights_in, subplot_kw={"facecolor": PANEL})
    for axes in panels.flat:
        axes.tick_params(length=3, color=FAINT, labelcolor=INK, labelsize=TEXT_PT)
        axes.xaxis.label.set(color=INK, size=TEXT_PT)
        axes.yaxis.label.set(color=INK, size=TEXT_PT)
        axes.spines[:].set_visible(False)
    return figure, list(panels.flat)


def shorten(label: str, characters: int = LABEL_CHARACTERS) -> str:
    """A label that takes no more room than it may."""
    return label if len(label) <= characters else label[: characters - 1].rstrip(" ,(") + "…"


def to_png(figure: Figure) -> bytes:
    """The picture of a figure."""
    stream = io.BytesIO()
    FigureCanvasAgg(figure).print_png(stream)  # type: ignore[no-untyped-call]
    return stream.getvalue()
