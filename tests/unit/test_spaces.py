from pathlib import Path

import numpy as np
import pytest

from models.architectures import check_options
from models.errors import BadOption, WrongPath
from tune.recipe import Recipe
from tune.spaces import SEED_SPACES, load_space, read_space


def write(folder: Path, text: str) -> Path:
    path = folder / "space.yaml"
    path.write_text(text)
    return path


def draws(path: Path, model: str = "linear", count: int = 400) -> list[dict[str, dict[str, object]]]:
    space = read_space(path, model)
    rng = np.random.default_rng(0)
    return [space.draw(rng) for _ in range(count)]


SPACE = """
recipe:
  lr: {loguniform: [1e-5, 1e-2]}   # YAML 1.1 would read words here
  mixup_alpha: {uniform: [0, 0.5]}
  optimizer: {choice: [adam, sgd]}
  epochs: 7
options:
  hidden: {randint: [16, 18]}
"""


def test_values_are_drawn_from_all_of_their_range_and_only_from_there(tmp_path: Path) -> None:
    drawn = draws(write(tmp_path, SPACE))
    rates = np.array([settings["recipe"]["lr"] for settings in drawn], float)
    assert rates.min() >= 1e-5
    assert rates.max() <= 1e-2
    assert np.median(rates) == pytest.approx(10**-3.5, rel=0.5)  # the middle of a logarithmic range
    mixed = np.array([settings["recipe"]["mixup_alpha"] for settings in drawn], float)
    assert np.median(mixed) == pytest.approx(0.25, rel=0.2)
    assert {settings["options"]["hidden"] for settings in drawn} == {16, 17, 18}
    assert {settings["recipe"]["optimizer"] for settings in drawn} == {"adam", "sgd"}
    assert {settings["recipe"]["epochs"] for settings in drawn} == {7}


def test_one_seed_draws_the_same_values(tmp_path: Path) -> None:
    path = write(tmp_path, SPACE)
    assert draws(path) == draws(path)


def test_drawn_numbers_can_be_written_down(tmp_path: Path) -> None:
    for settings in draws(write(tmp_path, SPACE), count=50):
        rate = settings["recipe"]["lr"]
        assert float(f"{rate:.4g}") == rate


@pytest.mark.parametrize("model", sorted(file.stem for file in SEED_SPACES.glob("*.yaml")))
def test_every_seed_space_fits_its_architecture(model: str) -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        settings = load_space("seed", model).draw(rng)
        check_options(model, settings["options"])
        assert Recipe(**settings["recipe"]).batch_size in (8, 16, 32, 64)


def test_seed_spaces_have_the_study_s_ranges() -> None:
    rng = np.random.default_rng(0)
    linear, conv1d = ([load_space("seed", name).draw(rng) for _ in range(2000)] for name in ("linear", "conv1d"))
    rates = [settings["recipe"]["lr"] for settings in linear]
    assert 1e-5 <= min(rates) < 2e-5
    assert 5e-3 < max(rates) <= 1e-2
    assert {settings["recipe"]["optimizer"] for settings in linear} == {"adam", "rmsprop", "adagrad"}
    assert {settings["options"]["hidden"] for settings in linear} == set(range(16, 129))
    assert {settings["options"]["active_layers"] for settings in conv1d} == set(range(2, 9))
    assert {settings["options"]["kernel"] for settings in conv1d} == {3}
    assert all(0.01 <= settings["options"]["dropout"] <= 0.5 for settings in conv1d)


def test_grid_is_every_combination_in_order(tmp_path: Path) -> None:
    path = write(tmp_path, "recipe:\n  lr: {choice: [1e-3, 0.1]}\n  epochs: 3\noptions:\n  hidden: {choice: [8, 16]}\n")
    grid = list(read_space(path, "linear").grid())
    assert [(one["recipe"]["lr"], one["options"]["hidden"]) for one in grid] == [
        (0.001, 8),
        (0.001, 16),
        (0.1, 8),
        (0.1, 16),
    ]
    assert all(one["recipe"]["epochs"] == 3 for one in grid)


def test_grid_over_a_range_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadOption, match=r"space\.yaml: recipe\.lr is a range.*--trials"):
        list(read_space(write(tmp_path, SPACE), "linear").grid())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("recipe:\n  lr: {loguniform: [0, 1]}", r"line 2: recipe\.lr: loguniform needs ends above 0"),
        ("recipe:\n  lr: {uniform: [0.1]}", r"line 2: recipe\.lr: uniform needs two ends"),
        ("recipe:\n  lr: {uniform: [0.2, 0.1]}", "the first end is the lower one"),
        ("recipe:\n  lr: {normal: [0, 1]}", r"line 2: recipe\.lr: .*loguniform"),
        ("recipe:\n  lr: {choice: []}", "choice needs values"),
        ("recipe:\n  lr: [0.1, 0.2]", r"line 2: recipe\.lr: "),
        ("recipe:\n  lr: {choice: [0.1, -1]}", r"line 2: recipe\.lr: -1: .*greater than 0"),
        ("recipe:\n  lr: {uniform: [a, b]}", "the ends of uniform are numbers"),
        ("options:\n  hidden: {randint: [1.5, 3]}", "the ends of randint are whole numbers"),
        ("recipe:\n  epochs: 3\n\noptions:\n  hidden: {randint: [16, 9999]}", r"line 5: options\.hidden: 9999: .*4096"),
        ("options:\n  hiden: 3", r"line 2: options\.hiden: no such setting; there are: hidden"),
        ("recipe:\n  learning_rate: 3", r"no such setting; there are: epochs"),
        ("recipes:\n  lr: 3", r"line 1: no part named 'recipes'; there are: recipe, options"),
        ("recipe:\n  lr: 0.1\n  lr: 0.2", "line 3: lr stands here a second time"),
        ("recipe: 3", "line 1: write `name: value` here"),
        ("- recipe", "line 1: write `name: value` here"),
        ("recipe:\n  lr: {", "not YAML: .*line 2"),
        ("", "no settings"),
        ("recipe:\noptions:\n", "no settings"),
    ],
)
def test_faults_are_named_with_their_line(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(BadOption, match=said):
        read_space(write(tmp_path, text), "linear")


def test_missing_file_and_missing_seed_space_are_named(tmp_path: Path) -> None:
    with pytest.raises(WrongPath, match=r"nothing\.yaml.*--space seed"):
        load_space(str(tmp_path / "nothing.yaml"), "linear")
    with pytest.raises(BadOption, match=r"no seed space for yamnet, only for .*linear.*--space FILE"):
        load_space("seed", "yamnet")
    with pytest.raises(BadOption, match="no model named 'resnet51'"):
        read_space(write(tmp_path, SPACE), "resnet51")
