"""One interface over ONNX Runtime and torch."""

from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from models.bundle import Bundle, FrontEnd, Label, load_bundle, save_bundle
from models.errors import BadOption, WeightsCorrupt
from models.runtime import OnnxNetwork, TorchNetwork, load_runtime, trial_patch, warm_up
from models.yamnet import load_yamnet, load_yamnet_graph
from models.yamnet_onnx import build_yamnet_float, build_yamnet_int8
from tests.tiny_models import LABELS, build_tone_graph
from tests.unit.test_yamnet import random_arrays

CPU = "CPUExecutionProvider"


def patches(count: int) -> np.ndarray:
    return np.random.default_rng(0).normal(0, 1, (count, 96, 64)).astype(np.float32)


def save(path: Path, graph: bytes, labels: tuple[Label, ...] = LABELS) -> Bundle:
    return save_bundle(path, {"float": graph}, labels, name="m", version="1", front_end=FrontEnd())


def test_patches_become_scores_and_embeddings(tone_tagger: Path) -> None:
    network = load_runtime(load_bundle(tone_tagger))
    warm_up(network, FrontEnd())
    scores, embeddings = network(patches(5))
    assert (scores.shape, embeddings.shape) == ((5, 3), (5, 64))
    assert scores.dtype == embeddings.dtype == np.float32
    np.testing.assert_allclose(embeddings, patches(5).mean(axis=1), atol=1e-5)


def test_a_trial_patch_is_as_long_as_the_networks() -> None:
    assert [trial_patch(FrontEnd(frames=frames)).shape for frames in (96, 500)] == [(1, 96, 64), (1, 500, 64)]


def test_views_that_are_not_contiguous_are_taken(tone_tagger: Path) -> None:
    network = load_runtime(load_bundle(tone_tagger))
    flipped = np.ascontiguousarray(patches(3).transpose(0, 2, 1)).transpose(0, 2, 1)
    np.testing.assert_array_equal(network(flipped)[0], network(patches(3))[0])


def test_unknown_device_is_refused_with_the_allowed(tone_tagger: Path) -> None:
    with pytest.raises(BadOption, match="'tpu'; there are: auto, cpu, cuda, tensorrt, torch"):
        load_runtime(load_bundle(tone_tagger), "tpu")  # type: ignore[arg-type]


def test_device_whose_provider_is_missing_is_refused_with_those_here(tone_tagger: Path) -> None:
    with pytest.raises(BadOption, match=f"needs ONNX Runtime's TensorrtExecutionProvider; here are: .*{CPU}"):
        load_runtime(load_bundle(tone_tagger), "tensorrt")


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
def test_torch_without_a_gpu_is_refused(tmp_path: Path) -> None:
    graph = build_yamnet_float(random_arrays(classes=3).float_state()).SerializeToString()
    with pytest.raises(BadOption, match="torch"):
        load_runtime(save(tmp_path / "m", graph), "torch")


def test_cpu_takes_int8_unless_told(tmp_path: Path) -> None:
    arrays = random_arrays(classes=3)
    graphs = {"int8": build_yamnet_int8(arrays), "float": build_yamnet_float(arrays.float_state())}
    contents = {name: graph.SerializeToString() for name, graph in graphs.items()}
    bundle = save_bundle(tmp_path / "m", contents, LABELS, name="m", version="1", front_end=FrontEnd())  # type: ignore[arg-type]
    chosen, _ = load_runtime(bundle)(patches(2))
    for precision in ("int8", "float"):
        told, _ = load_runtime(bundle, precision=precision)(patches(2))
        assert np.array_equal(told, chosen) == (precision == "int8")


def test_graph_with_another_number_of_classes_than_labels_is_refused(tmp_path: Path) -> None:
    bundle = save(tmp_path / "m", build_tone_graph().SerializeToString(), LABELS[:2])
    with pytest.raises(WeightsCorrupt, match=r"scores 3 classes, labels\.csv names 2"):
        load_runtime(bundle)


def test_graph_that_does_not_load_is_refused() -> None:
    whole = build_tone_graph().SerializeToString()
    for content in (b"", b"no graph", whole[: len(whole) // 2]):
        with pytest.raises(WeightsCorrupt, match="does not load"):
            OnnxNetwork(content, CPU, 1)


def test_graph_without_scores_is_refused() -> None:
    graph = build_tone_graph()
    graph.graph.node[-1].output[0] = graph.graph.output[0].name = "other"
    with pytest.raises(WeightsCorrupt, match="scores"):
        OnnxNetwork(graph.SerializeToString(), CPU, 1)


def test_one_thread_is_the_callers_own() -> None:
    graph, process = build_tone_graph().SerializeToString(), psutil.Process()
    before = process.num_threads()
    one = OnnxNetwork(graph, CPU, 1)
    assert process.num_threads() == before
    three = OnnxNetwork(graph, CPU, 3)
    assert process.num_threads() == before + 2
    np.testing.assert_array_equal(one(patches(4))[0], three(patches(4))[0])


def test_torch_agrees_with_the_float_graph(tmp_path: Path) -> None:
    arrays = random_arrays(classes=3)
    bundle = save(tmp_path / "m", build_yamnet_float(arrays.float_state()).SerializeToString())
    scores, embeddings = load_runtime(bundle)(patches(4))
    assert embeddings.std() > 1e-3
    for module in (load_yamnet(arrays), load_yamnet_graph(bundle.graph("float"))):
        torch_scores, torch_embeddings = TorchNetwork(module, "cpu")(patches(4))
        np.testing.assert_allclose(torch_scores, scores, atol=1e-4)
        np.testing.assert_allclose(torch_embeddings, embeddings, atol=1e-4)


def test_graph_of_another_network_does_not_become_yamnet(tone_tagger: Path) -> None:
    with pytest.raises(WeightsCorrupt, match="YAMNet's weights"):
        load_yamnet_graph(load_bundle(tone_tagger).graph("int8"))


def test_silence_is_heard_as_silence(tone_tagger: Path) -> None:
    bundle = load_bundle(tone_tagger)
    frames = np.full((1, 96, 64), np.log(0.001), np.float32)
    scores, _ = load_runtime(bundle)(frames)
    assert bundle.labels[int(scores[0].argmax())].name == "Silence"
