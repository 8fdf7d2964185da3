"""`earshot export`: what it writes, what it says of it, and what it refuses."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import safetensors.torch
import torch
import typer
from click.testing import Result
from typer.testing import CliRunner

from models.architectures import build_network
from models.bundle import Bundle, load_bundle, save_bundle
from models.export import compose, export_module, input_shape, with_scores
from models.graphs import opset_of
from models.quantize import is_quantized
from models.runtime import load_runtime
from tests.conftest import CHECKOUT
from tests.features import LOG_MEL, clusters, save_features
from tests.sounds import encode, silence, tone
from tests.tiny_models import LABELS, build_tone_graph
from tune.agreement import compare
from tune.cli_export import add_verbs
from tune.export import TRTEXEC

ROWS, HOP = 2, 48
WEIGHTS = "weights.safetensors"


@pytest.fixture(scope="module")
def sounds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of low tones, high tones and silence, some of them shorter than a patch."""
    folder = tmp_path_factory.mktemp("sounds")
    for frequency_hz in (150, 300, 600, 2000, 4000, 6000):
        (folder / f"{frequency_hz}.wav").write_bytes(encode(tone(frequency_hz, seconds=frequency_hz / 1500)))
    (folder / "silence.wav").write_bytes(encode(silence(2.0)))
    return folder


@pytest.fixture
def tones(tmp_path: Path) -> Bundle:
    """A model whose float graph is all there is."""
    return save_bundle(
        tmp_path / "tones", {"float": build_tone_graph().SerializeToString()}, LABELS, name="tones", version="1"
    )


def save_trained(path: Path, **about: Any) -> Bundle:
    """A model as training writes it: a head on the embeddings of two patches, and its weights."""
    torch.manual_seed(0)
    options = {"hidden": 8}
    head = build_network("linear", "embedding", (ROWS, 64), len(LABELS), options).eval()
    scored = with_scores(export_module(head, (ROWS, 64)), False, 2.0)
    graph = compose(build_tone_graph(), scored, (ROWS - 1) * HOP + 96, HOP)
    return save_bundle(
        path,
        {"float": graph.SerializeToString()},
        LABELS,
        files={WEIGHTS: safetensors.torch.save(head.state_dict())},
        **{
            "name": "trained",
            "version": "1",
            "architecture": "linear",
            "options": options,
            "multi_label": False,
            "temperature": 2.0,
            "front_end": {"frames": (ROWS - 1) * HOP + 96, "hop_s": 0.48},
        }
        | about,
    )


@pytest.fixture
def export(sounds: Path) -> Callable[..., Result]:
    """Runs the verb on a model, checked on the sounds."""
    cli = typer.Typer()
    add_verbs(cli)

    def run(bundle: Bundle, *flags: str, check: Path | None = sounds) -> Result:
        words = [str(bundle.path), *flags, *(["--check", str(check)] if check else [])]
        return CliRunner().invoke(cli, words, env={"COLUMNS": "400"})

    return run


def files(bundle: Bundle) -> set[str]:
    return {path.name for path in bundle.path.iterdir()}


def test_graph_is_written_beside_the_model_and_its_agreement_into_the_card(
    tones: Bundle, export: Callable[..., Result]
) -> None:
    result = export(tones)
    assert result.exit_code == 0, result.output
    assert "same best class 100.0%" in result.output
    assert files(tones) == {"card.json", "labels.csv", "float.onnx", "onnx-fp32.onnx"}
    agreement = load_bundle(tones.path).card.agreement["onnx-fp32"]
    assert agreement["top1"] == 1.0
    assert agreement["mean_difference"] == 0.0
    assert agreement["cosine"] == pytest.approx(1.0)
    assert agreement["windows"] > 7


def test_trained_model_is_compared_with_torch_too(tmp_path: Path, export: Callable[..., Result]) -> None:
    trained = save_trained(tmp_path / "trained")
    result = export(trained, "--opset", "13")
    assert result.exit_code == 0, result.output
    assert "against torch" in result.output
    agreement = load_bundle(trained.path).card.agreement["onnx-fp32.opset13"]
    assert agreement["torch_top1"] == 1.0
    assert 0 < agreement["torch_mean_difference"] < 1e-5
    assert opset_of(onnx.load(trained.path / "onnx-fp32.opset13.onnx")) == 13


def test_graph_that_does_not_say_what_torch_says_is_an_error_and_not_written(
    tmp_path: Path, export: Callable[..., Result]
) -> None:
    trained = save_trained(tmp_path / "trained", temperature=0.5)  # not the temperature in the graph
    result = export(trained)
    assert result.exit_code == 2
    assert "fp32 does not say what torch says" in result.output
    assert "onnx-fp32.onnx" not in files(trained)
    assert load_bundle(trained.path).card.agreement == {}


def test_int8_graph_is_what_the_service_runs_from_then_on(tones: Bundle, export: Callable[..., Result]) -> None:
    result = export(tones, "--format", "onnx-int8")
    assert result.exit_code == 0, result.output
    bundle = load_bundle(tones.path)
    assert bundle.graph("int8").name == "onnx-int8.onnx"
    assert is_quantized(onnx.load(bundle.graph("int8")))
    patches = np.random.default_rng(0).normal(-3, 2, (2, 96, 64)).astype(np.float32)
    scores, _ = load_runtime(bundle, "cpu")(patches)
    np.testing.assert_allclose(scores, load_runtime(bundle, "cpu", "float")(patches)[0], atol=0.05)
    assert export(bundle, "--format", "onnx-int8").exit_code == 0  # again, from the float graph
    assert set(load_bundle(tones.path).card.agreement) == {"onnx-int8"}


def test_int8_graph_of_the_models_own_is_kept(tmp_path: Path, export: Callable[..., Result]) -> None:
    graph = build_tone_graph().SerializeToString()
    bundle = save_bundle(tmp_path / "m", {"float": graph, "int8": graph}, LABELS, name="m", version="1")
    for opset, name in (("13", "onnx-int8.opset13.onnx"), ("17", "onnx-int8.onnx")):
        assert export(bundle, "--format", "onnx-int8", "--opset", opset).exit_code == 0
        assert not is_quantized(onnx.load(bundle.path / name))
    assert load_bundle(bundle.path).card.graphs == bundle.card.graphs


def test_float16_file_is_checked_in_float16(tmp_path: Path, export: Callable[..., Result]) -> None:
    trained = save_trained(tmp_path / "trained")
    result = export(trained, "--precision", "fp16")
    assert result.exit_code == 0, result.output
    assert 1e-7 < load_bundle(trained.path).card.agreement["onnx-fp16"]["torch_mean_difference"] < 2e-3


def test_waveform_goes_in_where_it_is_asked_for(tmp_path: Path, export: Callable[..., Result]) -> None:
    trained = save_trained(tmp_path / "trained")
    result = export(trained, "--waveform", "--opset", "13")
    assert result.exit_code == 0, result.output
    graph = onnx.load(trained.path / "onnx-fp32.opset13.waveform.onnx")
    assert graph.graph.input[0].name == "waveform"
    assert input_shape(graph) == (143 * 160 + 400,)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_tensorrt_gets_a_graph_at_opset_13_and_the_line_for_the_device(
    tones: Bundle, export: Callable[..., Result], precision: str
) -> None:
    result = export(tones, "--format", "tensorrt", "--precision", precision, "--batch", "8", "--jetpack", "5.1")
    assert result.exit_code == 0, result.output
    graph = onnx.load(tones.path / f"tensorrt-{precision}.onnx")
    assert opset_of(graph) == 13
    assert is_quantized(graph) == (precision == "int8")
    line = (tones.path / TRTEXEC).read_text().strip()
    assert f"--onnx=tensorrt-{precision}.onnx" in line
    assert "--optShapes=patches:8x96x64" in line
    assert line in result.output
    assert "TensorRT 8.4 does not read" not in result.output


def test_file_goes_where_it_is_told_and_the_card_learns_of_it(
    tones: Bundle, export: Callable[..., Result], tmp_path: Path
) -> None:
    out = tmp_path / "elsewhere" / "small.onnx"
    assert export(tones, "--format", "onnx-int8", "--out", str(out)).exit_code == 0
    assert is_quantized(onnx.load(out))
    card = load_bundle(tones.path).card
    assert card.graphs == tones.card.graphs
    assert set(card.agreement) == {"onnx-int8"}


def test_model_on_features_is_checked_on_features(tmp_path: Path, export: Callable[..., Result]) -> None:
    features, labels = clusters(20, (4, 8), 3)
    folder = save_features(tmp_path / "features", features, labels)
    torch.manual_seed(0)
    head = build_network("conv2d", "embedding", (4, 8), len(LABELS), {}).eval()
    graph = with_scores(export_module(head, (4, 8)), True, 1.0).SerializeToString()
    weights = {WEIGHTS: safetensors.torch.save(head.state_dict())}
    about = {"name": "m", "version": "1", "takes": "features", "architecture": "conv2d"}
    bundle = save_bundle(tmp_path / "m", {"float": graph}, LABELS, files=weights, **about)
    result = export(bundle, "--format", "tensorrt", "--precision", "int8", check=folder)
    assert result.exit_code == 0, result.output
    assert load_bundle(bundle.path).card.agreement["tensorrt-int8"]["windows"] == 20
    assert "takes features, not sound" in export(bundle).output
    assert "--check FOLDER" in export(bundle, check=None).output


def test_model_on_patches_is_checked_on_log_mel(tones: Bundle, tmp_path: Path, export: Callable[..., Result]) -> None:
    features, labels = clusters(8, (96, 64), 2)
    folder = save_features(tmp_path / "features", features, labels, made=LOG_MEL)
    result = export(tones, check=folder)
    assert result.exit_code == 0, result.output
    assert "8 windows" in result.output
    assert "is checked on sounds" in export(tones, "--waveform", check=folder).output


def test_features_that_the_model_does_not_take_are_refused(
    tones: Bundle, tmp_path: Path, export: Callable[..., Result]
) -> None:
    features, labels = clusters(8, (4, 8), 2)
    result = export(tones, check=save_features(tmp_path / "features", features, labels))
    assert result.exit_code == 2
    assert "holds embedding features [4, 8]; this model takes [96, 64]" in result.output


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--format", "tflite"], "there are: onnx, onnx-int8, tensorrt"),
        (["--format", "onnx", "--precision", "int8"], "onnx has fp32 and fp16"),
        (["--opset", "18"], "there are 13 to 17"),
        (["--batch", "4"], "for --format tensorrt"),
        (["--format", "tensorrt", "--jetpack", "3"], "known: 4.6, 4.6.1"),
        (["--format", "tensorrt", "--waveform"], "float16 cannot hold the squares"),
    ],
)
def test_option_that_makes_no_sense_is_refused_with_those_that_do(
    tones: Bundle, export: Callable[..., Result], flags: list[str], words: str
) -> None:
    result = export(tones, *flags)
    assert result.exit_code == 2
    assert words in result.output
    assert files(tones) == {"card.json", "labels.csv", "float.onnx"}


def test_folder_without_sounds_and_folder_that_is_not_there_are_refused(
    tones: Bundle, tmp_path: Path, export: Callable[..., Result]
) -> None:
    (tmp_path / "empty").mkdir()
    for folder in (tmp_path / "empty", tmp_path / "missing"):
        result = export(tones, check=folder)
        assert result.exit_code == 2
        assert str(folder) in result.output
    assert not (tmp_path / "missing").exists()


def test_sound_that_cannot_be_read_is_named(tones: Bundle, tmp_path: Path, export: Callable[..., Result]) -> None:
    (tmp_path / "broken.wav").write_bytes(b"no sound")
    result = export(tones, check=tmp_path)
    assert result.exit_code == 2
    assert "broken.wav: " in result.output


def test_model_whose_only_graph_is_int8_is_exported_without_its_rounding(
    tmp_path: Path, export: Callable[..., Result]
) -> None:
    starter = tmp_path / "starter"
    shutil.copytree(CHECKOUT / "models" / "starter" / "yamnet", starter)
    result = export(load_bundle(starter), check=None)
    assert result.exit_code == 0, result.output
    assert not is_quantized(onnx.load(starter / "onnx-fp32.onnx"))


def test_folder_without_a_model_is_refused(tones: Bundle, export: Callable[..., Result]) -> None:
    bundle = tones
    (bundle.path / "card.json").unlink()
    result = export(bundle)
    assert result.exit_code == 1
    assert "holds no card.json" in result.output


def test_samples_of_the_program_stand_in_for_sounds(tones: Bundle, export: Callable[..., Result]) -> None:
    assert export(tones, check=None).exit_code == 0


def test_classes_that_are_nearly_equal_count_as_the_same() -> None:
    reference = np.array([[0.50, 0.49, 0.0], [0.50, 0.40, 0.0]], np.float32)
    assert compare(reference[:, [1, 0, 2]], reference)["top1"] == 0.5
    assert compare(reference, reference) == pytest.approx({"top1": 1.0, "mean_difference": 0.0, "cosine": 1.0})


def test_of_one_class_its_being_there_or_not_is_compared() -> None:
    reference = np.array([[0.9], [0.2], [0.6]], np.float32)
    assert compare(np.array([[0.8], [0.3], [0.1]], np.float32), reference)["top1"] == pytest.approx(2 / 3)
