"""Exported graphs compute what torch computes, at every opset, alone and behind an embedder."""

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from torch import nn

from models.architectures import build_network
from models.errors import BadOption
from models.export import as_half, as_patches, compose, export_module, input_shape, output_shape, with_scores
from models.graphs import GraphBuilder, opset_of
from models.opset import set_opset
from models.tensorrt_operators import TENSORRT_OPERATORS, unsupported
from models.yamnet_onnx import build_yamnet_int8
from tests.tiny_models import build_tone_graph
from tests.unit.test_yamnet_onnx import small_arrays

CLASSES = 3
Case = tuple[str, str, tuple[int, ...], dict[str, Any]]
CASES: list[Case] = [
    ("linear", "embedding", (4, 16), {"hidden": 8}),
    ("linear", "embedding", (1, 16), {"hidden": 8}),
    ("conv1d", "embedding", (4, 16), {"channels": 8}),
    ("conv2d", "embedding", (4, 16), {"channels": 4}),
    ("lstm", "embedding", (4, 16), {"hidden": 8, "layers": 2}),
    ("transformer", "embedding", (4, 18), {"hidden": 8}),
    ("vggish-head", "embedding", (4, 16), {"hidden": 8}),
    ("stft-cnn", "stft", (40, 34), {}),
    ("mel-cnn", "mel", (32, 43), {"width": 2}),
    ("resnet18", "mel64", (64, 32), {}),
    ("yamnet", "logmel", (96, 64), {"width": 0.05}),
    ("yamnet", "logmel", (200, 64), {"width": 0.05, "batch_norm": True}),
    ("vggish-slim", "logmel", (96, 64), {}),
]


def build(case: Case) -> nn.Module:
    """The network with statistics in its norms that are not those of the start."""
    name, kind, shape, options = case
    torch.manual_seed(0)
    network = build_network(name, kind, shape, CLASSES, options)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
            nn.init.uniform_(module.running_var, 0.5, 2)
    return network.eval()


def features(shape: tuple[int, ...], count: int = 3) -> NDArray[np.float32]:
    return np.random.default_rng(0).standard_normal((count, *shape)).astype(np.float32)


def run(model: onnx.ModelProto, inputs: NDArray[np.float32], *outputs: str) -> list[NDArray[np.float32]]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(list(outputs) or None, {session.get_inputs()[0].name: inputs})


def run_torch(network: nn.Module, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
    with torch.inference_mode():
        return network(torch.from_numpy(inputs)).numpy()


def names(case: Case) -> str:
    return f"{case[0]}-{'x'.join(map(str, case[2]))}"


@pytest.mark.parametrize("case", CASES, ids=names)
def test_graph_computes_what_torch_computes_for_any_number_of_items(case: Case) -> None:
    network, inputs = build(case), features(case[2])
    model = export_module(network, case[2])
    wanted = run_torch(network, inputs)
    assert np.ptp(wanted) > 1e-3
    np.testing.assert_allclose(run(model, inputs)[0], wanted, atol=1e-5, rtol=1e-4)
    np.testing.assert_allclose(run(model, inputs[:1])[0], wanted[:1], atol=1e-5, rtol=1e-4)
    assert (input_shape(model), output_shape(model, "logits")) == (case[2], (CLASSES,))
    assert [value.name for value in [*model.graph.input, *model.graph.output]] == ["features", "logits"]


@pytest.mark.parametrize("case", CASES, ids=names)
def test_opset_13_computes_the_same_with_operators_of_old_tensorrt(case: Case) -> None:
    model = export_module(build(case), case[2])
    old = set_opset(model, 13)
    assert (opset_of(old), old.ir_version) == (13, 7)
    assert (opset_of(model), model.ir_version) == (17, 8)
    inputs = features(case[2])
    np.testing.assert_allclose(run(old, inputs)[0], run(model, inputs)[0], atol=1e-5)
    faults = ["Conv over one dimension", "MaxPool over one dimension"] if case[0] == "conv1d" else []
    assert unsupported(old) == faults


def test_export_at_opset_13_is_the_same_as_moving_there() -> None:
    network = build(CASES[5])
    inputs = features(CASES[5][2])
    direct, moved = export_module(network, CASES[5][2], 13), set_opset(export_module(network, CASES[5][2]), 13)
    assert opset_of(direct) == 13
    np.testing.assert_allclose(run(direct, inputs)[0], run(moved, inputs)[0], atol=1e-5)


def test_same_weights_give_the_same_bytes() -> None:
    first, second = (export_module(build(CASES[0]), CASES[0][2]).SerializeToString() for _ in range(2))
    assert first == second


def test_convolutional_network_is_nothing_but_its_layers() -> None:
    model = export_module(build(("yamnet", "logmel", (96, 64), {"width": 0.05})), (96, 64))
    operators = {node.op_type for node in model.graph.node}
    assert operators <= {"Slice", "Reshape", "Unsqueeze", "Conv", "Clip", "ReduceMean", "Gemm"}


@pytest.mark.parametrize("opset", [12, 18])
def test_opset_out_of_range_is_refused(opset: int) -> None:
    with pytest.raises(BadOption, match="there are 13 to 17"):
        set_opset(export_module(build(CASES[0]), CASES[0][2]), opset)


def test_operator_that_an_opset_has_not_is_named() -> None:
    graph = GraphBuilder()
    frame = graph.constant("window", np.ones(64, np.float32))
    step, flat = graph.constant("step", np.int64(32)), graph.node("Flatten", ["patches"], "flat")
    graph.node("STFT", [flat, step, frame], "spectrum", onesided=1)
    graph.node("Flatten", ["spectrum"], "scores")
    with pytest.raises(BadOption, match="opset 13 has not this form of STFT: say --opset 17"):
        set_opset(graph.model({"scores": 12_606}, "spectrum"), 13)


@pytest.mark.parametrize(("multi_label", "temperature"), [(True, 1.0), (False, 2.5)])
def test_scores_are_those_of_calibrated_logits(multi_label: bool, temperature: float) -> None:
    network, inputs = build(CASES[0]), features(CASES[0][2])
    logits = torch.from_numpy(run_torch(network, inputs)) / temperature
    wanted = logits.sigmoid() if multi_label else logits.softmax(1)
    model = with_scores(export_module(network, CASES[0][2]), multi_label, temperature)
    assert [output.name for output in model.graph.output] == ["scores"]
    np.testing.assert_allclose(run(model, inputs)[0], wanted.numpy(), atol=1e-6)


@pytest.mark.parametrize(("frames", "count"), [(96, 1), (200, 2)])
def test_network_on_log_mel_becomes_one_on_patches(frames: int, count: int) -> None:
    network = build(("yamnet", "logmel", (frames, 64), {"width": 0.05}))
    inputs = features((frames, 64))
    model = as_patches(with_scores(export_module(network, (frames, 64)), True, 1.0))
    scores, embeddings = run(model, inputs, "scores", "embeddings")
    np.testing.assert_allclose(scores, torch.from_numpy(run_torch(network, inputs)).sigmoid().numpy(), atol=1e-6)
    patches = torch.from_numpy(inputs[:, : count * 96].reshape(-1, 96, 64))
    with torch.inference_mode():
        wanted = network.network.embed(patches).reshape(3, count, -1).mean(1)
    np.testing.assert_allclose(embeddings, wanted.numpy(), atol=1e-5)
    assert output_shape(model, "embeddings") == embeddings.shape[1:]


EMBEDDERS = {"float": build_tone_graph, "int8": lambda: build_yamnet_int8(small_arrays(0))}


@pytest.mark.parametrize("precision", EMBEDDERS)
@pytest.mark.parametrize(("rows", "hop"), [(1, 48), (2, 96), (4, 48)])
def test_embedder_and_head_in_one_graph_do_what_both_do(precision: str, rows: int, hop: int) -> None:
    embedder = EMBEDDERS[precision]()
    (width,) = output_shape(embedder, "embeddings")
    head = with_scores(
        export_module(build(("linear", "embedding", (rows, width), {"hidden": 8})), (rows, width)), False, 1.0
    )
    frames = (rows - 1) * hop + 96
    inputs = features((frames, 64))
    windows = sliding_window_view(inputs, 96, axis=1)[:, ::hop].transpose(0, 1, 3, 2)
    (embedded,) = run(embedder, np.ascontiguousarray(windows.reshape(-1, 96, 64)), "embeddings")
    embedded = embedded.reshape(3, rows, width)
    model = compose(embedder, head, frames, hop)
    for opset in (17, 13):
        scores, embeddings = run(set_opset(model, opset), inputs, "scores", "embeddings")
        np.testing.assert_allclose(scores, run(head, embedded)[0], atol=1e-5)
        np.testing.assert_allclose(embeddings, embedded.mean(1), atol=1e-5)
    assert (input_shape(model), output_shape(model, "scores")) == ((frames, 64), (CLASSES,))


@pytest.mark.parametrize(("frames", "width"), [(97, 64), (96, 5)])
def test_head_that_does_not_fit_its_embedder_is_refused_with_both_sizes(frames: int, width: int) -> None:
    head = with_scores(export_module(build(("linear", "embedding", (1, width), {})), (1, width)), True, 1.0)
    with pytest.raises(BadOption, match=rf"1 embeddings of width {width}: 96 frames, not {frames}, .* not 64"):
        compose(EMBEDDERS["float"](), head, frames, 48)


def test_float16_graph_is_half_as_large_and_takes_float32() -> None:
    case = CASES[7]
    model = with_scores(export_module(build(case), case[2]), True, 1.0)
    half, inputs = as_half(model), features(case[2])
    assert len(half.SerializeToString()) < 0.6 * len(model.SerializeToString())
    assert half.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    np.testing.assert_allclose(run(half, inputs)[0], run(model, inputs)[0], atol=1e-3)
    assert all(tensor.data_type != onnx.TensorProto.FLOAT16 for tensor in model.graph.initializer)


def test_list_of_operators_holds_those_that_are_published_and_no_others() -> None:
    assert {"Conv", "Clip", "GlobalAveragePool", "Flatten", "Gemm", "Sigmoid", "QuantizeLinear"} <= TENSORRT_OPERATORS
    assert not {"LayerNormalization", "STFT", "QLinearConv", "OneHot"} & TENSORRT_OPERATORS


def test_uint8_quantization_is_not_for_tensorrt() -> None:
    faults = unsupported(build_yamnet_int8(small_arrays(0)))
    assert "QuantizeLinear with a zero point that is not 0 in int8" in faults
