"""How the starter weights are made, and the ones that come with the program."""

import shutil

import numpy as np
import onnxruntime
import pytest
import torch

from models.answer import Options
from models.bundle import load_bundle
from models.frontend import FloatArray
from models.runtime import Network, load_runtime
from models.tagger import Scorer, Tagger
from tests.conftest import CHECKOUT
from tune.starter import KNOWN, build_graph, compare
from tune.starter_sounds import KINDS, LENGTH, synthesise
from tune.starter_training import (
    CROP_SAMPLES,
    ESC10,
    STUDENTS,
    Clips,
    Mixer,
    loss_of,
    loud_starts,
    update_average,
)

QUIET_KINDS = [name for name in KINDS if name != "Speech"]  # speech needs espeak-ng
CLASS_NAMES = [*ESC10.values(), *KINDS, *(f"other {number}" for number in range(521 - len(KNOWN)))]


def teacher(patches: FloatArray) -> tuple[FloatArray, FloatArray]:
    """A network of the teacher's widths."""
    return np.full((len(patches), 521), 0.01, np.float32), np.zeros((len(patches), 1024), np.float32)


def clips(count: int = 20) -> Clips:
    rng = np.random.default_rng(0)
    waveforms = rng.standard_normal((count, LENGTH)).astype(np.float32) * 0.1
    names = [list(ESC10.values())[number % 10] for number in range(count)]
    return Clips(waveforms, names, 1 + np.arange(count) % 5)


def mixer(network: Network = teacher) -> Mixer:
    return Mixer(clips(), network, CLASS_NAMES, 0.001, np.random.default_rng(3))


@pytest.mark.parametrize("name", QUIET_KINDS)
def test_synthesised_sound_is_seeded_finite_and_not_too_loud(name: str) -> None:
    one, again, other = (KINDS[name](np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert one.shape == (LENGTH,)
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)
    assert np.isfinite(one).all()
    assert np.abs(one).max() <= 1.5


@pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="speech needs espeak-ng")
def test_every_kind_is_there_with_its_name() -> None:
    waveforms, names = synthesise(per_kind=1, seed=0)
    assert names == list(KINDS)
    assert waveforms.dtype == np.float32
    assert (np.abs(waveforms).max(axis=1) > 0.01)[1:].all()


def test_crops_begin_where_there_is_sound() -> None:
    waveform = np.zeros(LENGTH, np.float32)
    waveform[40_000:42_000] = 0.5
    starts = loud_starts(waveform)
    assert len(starts)
    assert all(start < 42_000 and start + CROP_SAMPLES > 40_000 for start in starts)


def test_batch_holds_what_the_student_hears_and_what_its_clips_are() -> None:
    batch = mixer().batch(32)
    assert batch.patches.shape == (32, 96, 64)
    assert torch.isfinite(batch.patches).all()
    assert batch.shares.sum(1) == pytest.approx(np.ones(32), abs=1e-5)
    assert ((batch.scores > 0.01).sum(1) >= 1).all()
    assert ((batch.shares > 0).sum(1) == 2).any()


def test_no_clip_of_the_fold_that_is_left_out_is_heard() -> None:
    left = clips().without(2)
    assert set(left.folds) == {1, 3, 4, 5}
    assert len(left.names) == len(left.waveforms) == 16
    assert set(clips().only(2).folds) == {2}


@pytest.mark.parametrize("kind", list(STUDENTS))
def test_student_learns_from_a_batch_and_its_graph_scores_the_known_classes_as_it_does(kind: str) -> None:
    torch.manual_seed(0)
    student = STUDENTS[kind]()
    batch = mixer().batch(6)
    columns = [CLASS_NAMES.index(name) for name in ESC10.values()]
    loss = loss_of(*student(batch.patches), batch, columns)
    loss.backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in student.parameters())
    known = [CLASS_NAMES.index(name) for name in KNOWN]
    graph = build_graph(student.eval(), known)
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    scores = session.run(["scores"], {"patches": batch.patches.numpy()})[0]
    with torch.inference_mode():
        expected = torch.sigmoid(student(batch.patches)[0][:, known]).numpy()
    np.testing.assert_allclose(scores, expected, atol=1e-4)
    assert compare(graph, graph, batch.patches.numpy()) == {"top1": 1.0, "mean_difference": 0.0}


def test_average_follows_weights_and_norms() -> None:
    average, student = torch.nn.BatchNorm1d(2), torch.nn.BatchNorm1d(2)
    with torch.no_grad():
        student.weight.fill_(3.0)
    student.running_mean = torch.full((2,), 4.0)
    update_average(average, student, keep=0.75)
    assert average.weight.tolist() == [1.5, 1.5]
    assert average.running_mean is not None
    assert average.running_mean.tolist() == [1.0, 1.0]


STARTER = CHECKOUT / "models" / "starter"
SAMPLES = CHECKOUT / "ui" / "samples"
FOLDERS = ("yamnet", "vggish-slim")


@pytest.mark.parametrize("name", FOLDERS)
def test_bundle_in_the_repository_is_whole_and_says_what_it_is(name: str) -> None:
    bundle = load_bundle(STARTER / name)
    assert bundle.card.starter
    assert bundle.card.name == f"starter-{name}"
    assert [label.name for label in bundle.labels] == list(KNOWN)
    assert all(label.mid.startswith("/") for label in bundle.labels)
    assert "five folds" in str(bundle.card.accuracy)
    assert bundle.card.metrics["accuracy"] >= 0.87
    assert bundle.card.agreement["int8"]["top1"] >= 0.95


def test_bundles_are_small() -> None:
    assert sum(file.stat().st_size for file in STARTER.rglob("*") if file.is_file()) <= 12e6


@pytest.mark.parametrize(
    ("name", "sample", "label"),
    [
        ("yamnet", "siren", "Siren"),
        ("yamnet", "smoke-alarm", "Beep, bleep"),
        ("yamnet", "tone-sweep", "Sine wave"),  # the other one takes it for a beep
        ("vggish-slim", "siren", "Siren"),
        ("vggish-slim", "smoke-alarm", "Beep, bleep"),
    ],
)
def test_bundle_knows_sounds_that_it_never_heard(name: str, sample: str, label: str) -> None:
    bundle = load_bundle(STARTER / name)
    tagger = Tagger(Scorer(bundle, load_runtime(bundle, "cpu")))
    answer = tagger.tag(SAMPLES / f"{sample}.ogg", Options())
    assert answer.labels[0].label == label
