import io

import numpy as np
import pytest
from PIL import Image

from models.report_pictures import draw_calibration, draw_confusion, draw_learning_curves, draw_parallel_coordinates


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"), np.int64)


def amber(picture: np.ndarray) -> np.ndarray:
    """Where the picture has the colour of what is drawn."""
    return (picture[..., 0] > 235) & (abs(picture[..., 1] - 160) < 12) & (picture[..., 2] < 90)


def brightness(picture: np.ndarray) -> float:
    return float(picture.sum(axis=2).mean())


@pytest.mark.parametrize("classes", [2, 10, 16, 17, 30, 31, 100])
def test_confusion_of_any_number_of_classes_is_one_square(classes: int) -> None:
    picture = pixels(draw_confusion(np.eye(classes, dtype=int), [f"a class with number {k}" for k in range(classes)]))
    assert picture.shape[:2] == (1188, 1188)


def test_right_answers_are_bright_on_the_diagonal() -> None:
    right = brightness(pixels(draw_confusion(np.eye(40, dtype=int) * 9, [""] * 40)))
    spread = brightness(pixels(draw_confusion(np.ones((40, 40), int), [""] * 40)))
    assert right > spread


def test_class_without_rows_is_drawn_empty() -> None:
    draw_confusion([[3, 1], [0, 0]], ["there", "not there"])


@pytest.mark.parametrize("rows", [1, 500])
@pytest.mark.parametrize("multi_label", [False, True])
def test_calibration_is_drawn_for_any_number_of_rows(rows: int, multi_label: bool) -> None:
    rng = np.random.default_rng(0)
    scores = rng.dirichlet(np.ones(4), rows).astype(np.float32)
    labels = np.eye(4, dtype=bool)[rng.integers(0, 4, rows)]
    assert amber(pixels(draw_calibration(labels, scores, multi_label=multi_label))).sum() > 500


def test_a_model_that_is_too_sure_is_drawn_below_the_diagonal() -> None:
    rng = np.random.default_rng(0)
    scores = rng.random((20_000, 1), np.float32)
    drawn = [
        amber(pixels(draw_calibration(rng.random((20_000, 1)) < scores**power, scores, multi_label=True)))[:700]
        for power in (3.0, 1 / 3)
    ]
    below, above = (np.flatnonzero(picture[:, 600]).mean() for picture in drawn)
    assert below > above + 100


@pytest.mark.parametrize("runs", [1, 2, 8, 9, 60])
def test_learning_curves_of_any_number_of_runs(runs: int) -> None:
    curves = {f"fold{run}": list(np.exp(-np.arange(1 + run) / 5)) for run in range(runs)}
    assert pixels(draw_learning_curves(curves, "validation loss")).shape[1] == 1188


def test_curve_with_gaps_is_drawn() -> None:
    draw_learning_curves({"one": [float("nan"), 0.5, 0.6], "none": [float("nan")]}, "mAP")


def test_parallel_coordinates_take_numbers_words_and_settings_that_some_trials_lack() -> None:
    settings = [
        {"model": "linear", "lr": 1e-5, "hidden": 16, "balance": True},
        {"model": "linear", "lr": 1e-2, "hidden": 128, "balance": False},
        {"model": "conv1d", "lr": 1e-3, "dropout": 0.1, "balance": True, "kernel": 3},
    ]
    one, other = (
        pixels(draw_parallel_coordinates(settings, [0.2, 0.9, 0.5], "f1", more_is_better=more))
        for more in (True, False)
    )
    assert one.shape == other.shape
    assert (one != other).any()


@pytest.mark.parametrize("trials", [1, 2, 300])
def test_parallel_coordinates_of_any_number_of_trials(trials: int) -> None:
    rng = np.random.default_rng(0)
    settings = [{"lr": float(rng.random()), "width": 8} for _ in range(trials)]
    draw_parallel_coordinates(settings, list(rng.random(trials)), "f1")
