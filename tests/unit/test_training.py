"""The training loop and the run folder: learning, checkpoints, faults, the model that comes out."""

import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from cluster.settings import Settings
from models.bundle import load_bundle
from models.errors import BadOption, OutputMismatch, StoreFailed, WeightsCorrupt
from models.frontend import log_mel, split_patches
from tests.features import LOG_MEL, clusters, save_features
from tests.sounds import silence, tone
from tune.experiment import Experiment, Outcome, run_experiment
from tune.job import train_model
from tune.loop import EpochReport, Trainer
from tune.recipe import Recipe, TrainingDiverged
from tune.split import Split
from tune.train import CHECKPOINT

SHAPE = (2, 8)
FAST = Recipe(epochs=12, batch_size=16, lr=0.01)


class Interrupted(Exception):
    pass


@pytest.fixture
def features(tmp_path: Path) -> Path:
    rows, labels = clusters(160, SHAPE, 4)
    return save_features(tmp_path / "features", rows, labels, folds=[1 + (number // 4) % 4 for number in range(160)])


def experiment(features: Path, recipe: Recipe = FAST, **fields: object) -> Experiment:
    return Experiment(features=str(features), model="linear", recipe=recipe, **fields)  # type: ignore[arg-type]


def weights_equal(one: Outcome, other: Outcome) -> bool:
    return all(torch.equal(value, other.weights[name]) for name, value in one.weights.items())


def test_learns_what_can_be_told_apart_and_is_judged_on_rows_it_has_not_seen(features: Path) -> None:
    outcome = run_experiment(experiment(features, split=Split(test_fold="2")))
    assert outcome.test is not None
    assert len(outcome.test.targets) == 40
    assert outcome.test.metrics.accuracy > 0.9
    assert outcome.metrics["accuracy"] > 0.9
    assert outcome.thresholds is not None
    assert len(outcome.thresholds) == 4


def test_one_seed_gives_the_same_weights_and_another_one_others(features: Path) -> None:
    first, again = run_experiment(experiment(features)), run_experiment(experiment(features))
    other = run_experiment(experiment(features, FAST.model_copy(update={"seed": 1})))
    assert weights_equal(first, again)
    assert not weights_equal(first, other)


def test_run_that_goes_on_from_a_checkpoint_ends_where_an_uninterrupted_one_does(
    features: Path, tmp_path: Path
) -> None:
    recipe = FAST.model_copy(update={"mixup_alpha": 0.2})

    def break_off(report: EpochReport, trainer: Trainer) -> None:
        trainer.save(tmp_path / CHECKPOINT)
        if report.epoch == 4:
            raise Interrupted

    with pytest.raises(Interrupted):
        run_experiment(experiment(features, recipe), break_off)
    resumed = run_experiment(experiment(features, recipe), checkpoint=tmp_path / CHECKPOINT)
    assert weights_equal(resumed, run_experiment(experiment(features, recipe)))
    assert [report.epoch for report in resumed.epochs] == list(range(len(resumed.epochs)))


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 half a checkpoint"])
def test_damaged_checkpoint_is_named_with_what_to_do(features: Path, tmp_path: Path, content: bytes) -> None:
    (tmp_path / CHECKPOINT).write_bytes(content)
    with pytest.raises(WeightsCorrupt, match=r"checkpoint\.pt.*delete it"):
        run_experiment(experiment(features), checkpoint=tmp_path / CHECKPOINT)


def test_loss_that_is_no_number_is_an_error_with_the_epoch(tmp_path: Path) -> None:
    rows, labels = clusters(40, SHAPE, 2)
    rows[3] = np.nan
    features = save_features(tmp_path / "f", rows, labels)
    with pytest.raises(TrainingDiverged, match=r"nan in epoch 1 .*--lr"):
        run_experiment(experiment(features, split=Split(validation_share=0, test_share=0)))


def test_training_ends_when_validation_no_longer_gets_better(tmp_path: Path) -> None:
    rows, labels = clusters(80, SHAPE, 4, noise=50.0)  # nothing to learn but the rows themselves
    features = save_features(tmp_path / "f", rows, labels)
    outcome = run_experiment(experiment(features, FAST.model_copy(update={"epochs": 100, "patience": 3})))
    losses = [report.validation_loss for report in outcome.epochs]
    assert len(losses) == int(np.argmin(losses)) + 1 + 3


def test_multi_label_rows_are_learned_with_a_threshold_each(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    hot = rng.random((200, 3)) < 0.4
    rows = hot[:, None, :].repeat(2, axis=1) + 0.2 * rng.standard_normal((200, 2, 3))
    labels = [[f"class{k}" for k in np.flatnonzero(row)] for row in hot]
    features = save_features(tmp_path / "f", rows.astype(np.float32), labels)
    outcome = run_experiment(experiment(features, FAST.model_copy(update={"epochs": 30})))
    assert outcome.test is not None
    assert outcome.test.metrics.headline()["mAP"] > 0.95


def test_unknown_model_and_wrong_features_are_named_before_anything_is_written(features: Path, tmp_path: Path) -> None:
    wrong = Experiment(features=str(features), model="resnet51")
    with pytest.raises(BadOption, match=r"resnet51.*resnet18"):
        train_model(wrong, tmp_path / "out", Settings())
    with pytest.raises(BadOption, match="embedding"):
        train_model(Experiment(features=str(features), model="mel-cnn"), tmp_path / "out", Settings())
    assert not (tmp_path / "out").exists()


def test_folds_are_judged_together_and_a_model_of_all_of_them_comes_out(features: Path, tmp_path: Path) -> None:
    bundle = train_model(experiment(features), tmp_path / "out", Settings(), folds=True)
    document = json.loads((bundle.path / "metrics.json").read_text())
    assert set(document["runs"]) == {"fold1", "fold2", "fold3", "fold4", "final"}
    assert document["test"]["accuracy"] > 0.9
    assert sum(row["support"] for row in document["test"]["per_class"].values()) == 160
    assert bundle.card.takes == "features"  # embeddings of a network that is not here
    assert "mean of 4 folds" in str(bundle.card.accuracy)
    assert {"README.md", "confusion.png", "calibration.png", "learning.png", "weights.safetensors"} <= set(
        bundle.card.files_sha256
    )
    assert list((bundle.path / "tensorboard" / "fold1").iterdir())
    config = json.loads((bundle.path / "config.json").read_text())
    assert config["experiment"]["model"] == "linear"
    assert len(config["data"]) == 64


def test_second_call_repeats_nothing_and_another_experiment_is_refused_with_the_difference(
    features: Path, tmp_path: Path
) -> None:
    first = train_model(experiment(features), tmp_path / "out", Settings(), folds=True)
    written = {file: file.stat().st_mtime_ns for file in first.path.rglob("*") if file.is_file()}
    train_model(experiment(features), tmp_path / "out", Settings(), folds=True)
    assert {file: file.stat().st_mtime_ns for file in written} == written
    other = experiment(features, FAST.model_copy(update={"lr": 0.02}))
    with pytest.raises(OutputMismatch, match=r"experiment\.recipe\.lr: 0\.01, not 0\.02"):
        train_model(other, tmp_path / "out", Settings(), folds=True)
    again = train_model(other, tmp_path / "out", Settings(), overwrite=True)
    assert json.loads((again.path / "config.json").read_text())["experiment"]["recipe"]["lr"] == 0.02


def test_other_data_in_the_same_place_is_refused(features: Path, tmp_path: Path) -> None:
    train_model(experiment(features), tmp_path / "out", Settings())
    rows, labels = clusters(80, SHAPE, 4)
    save_features(tmp_path / "other", rows, labels)
    moved = tmp_path / "moved"
    features.rename(moved)
    (tmp_path / "other").rename(features)
    with pytest.raises(OutputMismatch, match="data: "):
        train_model(experiment(features), tmp_path / "out", Settings())


def test_folds_need_no_other_division_of_the_rows(tmp_path: Path) -> None:
    rows, labels = clusters(40, SHAPE, 2)
    recordings = [
        f"{labels[number][0]}-{number // 2 % 2}" for number in range(40)
    ]  # two of each class: no third for a random test
    features = save_features(
        tmp_path / "f", rows, labels, recordings=recordings, folds=[number // 2 % 2 for number in range(40)]
    )
    recipe = FAST.model_copy(update={"epochs": 2})
    bundle = train_model(
        experiment(features, recipe, split=Split(validation_share=0)), tmp_path / "out", Settings(), folds=True
    )
    assert "mean of 2 folds" in str(bundle.card.accuracy)


def test_folds_are_refused_where_the_data_set_has_none(tmp_path: Path) -> None:
    rows, labels = clusters(40, SHAPE, 2)
    features = save_features(tmp_path / "f", rows, labels)
    with pytest.raises(BadOption, match="no folds"):
        train_model(experiment(features), tmp_path / "out", Settings(), folds=True)


def test_model_on_log_mels_is_a_graph_that_scores_patches_as_torch_does(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    sounds = [tone(rng.uniform(200, 3000), level=rng.uniform(0.1, 0.9)) if k % 2 else silence() for k in range(48)]
    patches = np.concatenate([split_patches(log_mel(sound), 96, 0.001, 1) for sound in sounds])
    labels = [["tone"] if k % 2 else ["nothing"] for k in range(48)]
    features = save_features(tmp_path / "f", patches.astype(np.float16), labels, made=LOG_MEL)
    small = {"width": 0.05, "batch_norm": True}
    recipe = Recipe(epochs=30, batch_size=8, lr=0.01, patience=30)
    bundle = train_model(
        Experiment(features=str(features), model="yamnet", options=small, recipe=recipe), tmp_path / "out", Settings()
    )
    assert bundle.card.takes == "patches"
    assert [label.name for label in bundle.labels] == ["nothing", "tone"]
    session = onnxruntime.InferenceSession(bundle.graph("float"))
    scores = session.run(["scores"], {"patches": patches[:4]})[0]
    assert scores.sum(axis=1) == pytest.approx(np.ones(4), abs=1e-5)
    assert [bundle.labels[k].name for k in scores.argmax(axis=1)] == ["nothing", "tone"] * 2
    assert load_bundle(bundle.path).card == bundle.card


def test_epochs_go_to_mlflow_where_its_address_is_given(
    features: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # a store of files, so that no server is needed
    store = tmp_path / "mlflow"
    train_model(experiment(features), tmp_path / "out", Settings(), mlflow=store.as_uri())
    (losses,) = store.rglob("metrics/validation_loss")
    outcome = json.loads((tmp_path / "out" / "final" / "outcome.json").read_text())
    logged = [float(line.split()[1]) for line in losses.read_text().splitlines()]
    assert logged == pytest.approx([report["validation_loss"] for report in outcome["epochs"]])
    assert list(store.rglob("params/lr"))


def test_mlflow_that_is_not_there_is_one_clear_error(features: Path, tmp_path: Path) -> None:
    with pytest.raises(StoreFailed, match="MLflow at ftp://nowhere"):
        train_model(experiment(features), tmp_path / "out", Settings(), mlflow="ftp://nowhere")
