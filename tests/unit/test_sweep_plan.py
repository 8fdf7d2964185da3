"""A sweep without Ray: what is planned, what is kept of it, what the report says."""

import json
import shlex
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import typer

from models.errors import BadOption, OutputMismatch, WrongTable
from tests.features import clusters, save_features
from tune.cli import train
from tune.experiment import Experiment
from tune.loop import EpochReport
from tune.recipe import Recipe
from tune.sweep import draw_table, open_folder
from tune.sweep_report import train_command, write_report
from tune.trials import Record, Sweep, Trial, load_records, plan_trials, rank, save_record


@pytest.fixture
def features(tmp_path: Path) -> Path:
    rows, labels = clusters(80, (2, 8), 4)
    return save_features(tmp_path / "features", rows, labels)


def sweep_of(features: Path, **fields: object) -> Sweep:
    shared = Experiment(features=str(features), model="linear", recipe=Recipe(epochs=9))
    return Sweep.model_validate({"experiment": shared, "models": ("linear", "conv1d"), "trials": 6} | fields)


def epoch(number: int, loss: float, f1: float | None) -> EpochReport:
    return EpochReport(number, 1.0, loss, {} if f1 is None else {"f1": f1}, 0.1, 1.0)


def records_of(trials: list[Trial]) -> dict[int, Record]:
    ended = [
        Record(
            number=1, state="finished", epochs=[epoch(0, 0.5, 0.6), epoch(1, 0.4, 0.7), epoch(2, 0.6, 0.9)], cpu_s=2
        ),
        Record(number=2, state="stopped", epochs=[epoch(0, 0.3, 0.8)], cpu_s=1, gpu_s=0.5),
        Record(number=3, state="failed", reason="the loss became nan in epoch 1"),
        Record(number=4, state="finished", epochs=[epoch(0, 0.2, None)]),
    ]
    return {record.number: record for record in ended[: len(trials)]}


def test_models_take_turns_and_a_longer_sweep_begins_with_the_same_trials(features: Path) -> None:
    trials = plan_trials(sweep_of(features))
    assert [trial.experiment.model for trial in trials] == ["linear", "conv1d"] * 3
    assert [trial.number for trial in trials] == [1, 2, 3, 4, 5, 6]
    assert plan_trials(sweep_of(features, trials=20))[:6] == trials
    assert plan_trials(sweep_of(features, seed=1)) != trials


def test_what_is_given_comes_before_the_space(features: Path, tmp_path: Path) -> None:
    space = tmp_path / "space.yaml"
    space.write_text("recipe:\n  epochs: 30\n  lr: {choice: [0.1, 0.2]}\noptions:\n  hidden: {choice: [8, 16]}\n")
    trials = plan_trials(sweep_of(features, models=("linear",), space=str(space), trials=0))
    assert [(trial.experiment.recipe.epochs, trial.experiment.recipe.lr) for trial in trials] == [
        (9, 0.1),
        (9, 0.1),
        (9, 0.2),
        (9, 0.2),
    ]
    assert trials[1].flat == {"model": "linear", "lr": 0.1, "hidden": 16}


def test_unknown_metric_is_named_with_those_there_are(features: Path) -> None:
    with pytest.raises(BadOption, match=r"no metric 'f2'; there are: accuracy.*validation_loss"):
        plan_trials(sweep_of(features, metric="f2"))


def test_value_is_that_of_the_epoch_a_training_would_keep(features: Path) -> None:
    records = records_of(plan_trials(sweep_of(features)))
    assert records[1].value("f1") == 0.7
    assert records[1].value("validation_loss") == 0.4
    assert records[3].value("f1") is None
    assert [record.number for record in rank(records, sweep_of(features))] == [2, 1]
    assert [record.number for record in rank(records, sweep_of(features, metric="validation_loss"))] == [4, 2, 1]


def test_records_are_read_as_they_were_written(features: Path, tmp_path: Path) -> None:
    trials = plan_trials(sweep_of(features))
    for record in records_of(trials).values():
        save_record(tmp_path, record)
    assert load_records(tmp_path, trials) == records_of(trials)
    (tmp_path / "trials" / "0002.json").write_text('{"number": 2')
    with pytest.raises(WrongTable, match=r"0002\.json.*delete the file"):
        load_records(tmp_path, trials)


def test_folder_takes_more_trials_of_the_same_sweep_and_nothing_else(features: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"

    def begin(overwrite: bool = False, **fields: object) -> None:
        sweep = sweep_of(features, **fields)
        open_folder(out, sweep, plan_trials(sweep), overwrite)

    begin()
    begin(trials=9)
    assert len(json.loads((out / "sweep.json").read_text())["trials"]) == 9
    with pytest.raises(OutputMismatch, match=r"trials differ.*--overwrite"):
        begin(trials=6)
    with pytest.raises(OutputMismatch, match=r"metric differ"):
        begin(trials=9, metric="mAP")
    begin(overwrite=True, metric="mAP")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("dear")
    with pytest.raises(OutputMismatch, match="not of a sweep"):
        open_folder(tmp_path / "full", sweep_of(features), plan_trials(sweep_of(features)), overwrite=True)


def test_other_features_than_a_model_takes_are_refused_before_anything_is_written(
    features: Path, tmp_path: Path
) -> None:
    space = tmp_path / "space.yaml"
    space.write_text("recipe:\n  epochs: 3\n")
    sweep = sweep_of(features, models=("linear", "mel-cnn"), space=str(space))
    with pytest.raises(BadOption, match="mel-cnn takes"):
        open_folder(tmp_path / "out", sweep, plan_trials(sweep), overwrite=False)
    assert not (tmp_path / "out").exists()


def test_report_says_what_was_best_what_failed_and_what_it_cost(features: Path, tmp_path: Path) -> None:
    sweep = sweep_of(features)
    trials = plan_trials(sweep)
    config = open_folder(tmp_path / "out", sweep, trials, overwrite=False)
    write_report(tmp_path / "out", sweep, trials, records_of(trials), config)
    text = (tmp_path / "out" / "report.md").read_text()
    assert "4 trials: 2 finished, 1 stopped early, 1 failed; 6 were planned" in text
    assert "3 CPU-seconds, 0 GPU-seconds" in text
    assert text.index("| 2 | 0.8000 | 1 | 1 |") < text.index("| 1 | 0.7000 | 2 | 3 |")
    assert "- trial 3 (linear" in text
    assert "the loss became nan in epoch 1" in text
    assert f"earshot train {features} --model conv1d" in text
    for picture in ("parallel.png", "learning.png"):
        assert f"({picture})" in text
        assert (tmp_path / "out" / picture).read_bytes().startswith(b"\x89PNG")
    table = pq.read_table(tmp_path / "out" / "trials.parquet")
    assert table["number"].to_pylist() == [1, 2, 3, 4]
    assert table["validation_f1"].to_pylist() == [0.7, 0.8, None, None]
    assert table["options.hidden"].to_pylist()[1] is None
    assert table["recipe.lr"].to_pylist() == [trial.experiment.recipe.lr for trial in trials[:4]]


def test_report_of_nothing_but_failures_has_no_pictures(features: Path, tmp_path: Path) -> None:
    sweep = sweep_of(features, trials=1)
    trials = plan_trials(sweep)
    config = open_folder(tmp_path / "out", sweep, trials, overwrite=False)
    write_report(tmp_path / "out", sweep, trials, {1: Record(number=1, state="failed", reason="no luck")}, config)
    assert "no luck" in (tmp_path / "out" / "report.md").read_text()
    assert "png" not in (tmp_path / "out" / "report.md").read_text()


def test_table_shows_those_that_run_and_then_the_best(features: Path) -> None:
    sweep = sweep_of(features)
    trials = plan_trials(sweep)
    table = draw_table(sweep, trials, records_of(trials) | {5: Record(number=5)})
    assert list(table.columns[0].cells) == ["5", "2", "1"]
    assert table.caption == "4 trials: 2 finished, 1 stopped early, 1 failed; 2 to go"


def test_command_of_the_report_is_one_that_train_understands(features: Path) -> None:
    recipe = Recipe(epochs=7, lr=0.0123, optimizer="sgd", balance=False, spec_augment=True, seed=3)
    experiment = Experiment(
        features=str(features), model="conv1d", options={"kernel": 5, "dropout": 0.25}, recipe=recipe,
        positive=("crying baby", "sneezing"), multi_label=True, min_recordings=2, pretrained=Path("weights"),
    )  # fmt: skip
    program, verb, *words = shlex.split(train_command(experiment))
    assert (program, verb) == ("earshot", "train")
    cli = typer.Typer()
    cli.command()(train)
    given = typer.main.get_command(cli).make_context("train", words).params
    assert {name: given[name] for name in ("epochs", "lr", "optimizer", "balance", "spec_augment", "seed")} == (
        recipe.model_dump(include={"epochs", "lr", "optimizer", "balance", "spec_augment", "seed"})
    )
    assert given["option"] == ["kernel=5", "dropout=0.25"]
    assert given["positive"] == "crying baby,sneezing"
    assert given["multi_label"] is True
    assert given["min_recordings"] == 2


def test_seed_of_a_trial_does_not_depend_on_those_before(features: Path) -> None:
    both, alone = plan_trials(sweep_of(features)), plan_trials(sweep_of(features, models=("linear",)))
    assert both[0] == alone[0]
    assert np.unique([trial.experiment.recipe.lr for trial in alone]).size == 6
