"""Quantized graphs follow the float ones, in the form that their runtimes want."""

import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import nn

from models.errors import BadOption
from models.export import as_patches, export_module, with_scores
from models.graphs import opset_of
from models.opset import set_opset
from models.quantize import Scheme, is_quantized, quantize, without_rounding
from models.tensorrt_operators import unsupported

CLASSES = 4


def small_network() -> nn.Module:
    """Two convolutions with batch norm, ReLU6, ReLU and a pool between them, then a dense layer: log-mel [N, 96, 64] -> [N, 4]."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Unflatten(1, (1, 96)),
        nn.Conv2d(1, 8, 3, stride=2, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU6(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 3),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, CLASSES),
    )
    network[1].weight.data[0] *= 20  # channels of very different size: what one scale for all of them would spoil
    return network


@pytest.fixture(scope="module")
def network() -> onnx.ModelProto:
    return as_patches(with_scores(export_module(small_network(), (96, 64)), True, 1.0))


def patches(count: int, seed: int = 0) -> NDArray[np.float32]:
    """Log-mel of no sound in particular."""
    return np.random.default_rng(seed).normal(-3, 2, (count, 96, 64)).astype(np.float32)


def run(model: onnx.ModelProto, inputs: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(["scores", "embeddings"], {"patches": inputs})


def quantized(model: onnx.ModelProto, scheme: Scheme) -> onnx.ModelProto:
    return quantize(model, [patches(16, seed) for seed in range(4)], scheme)


def arrays(model: onnx.ModelProto) -> dict[str, NDArray[np.generic]]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


@pytest.mark.parametrize("scheme", ["u8s8", "s8s8"])
def test_int8_follows_the_float_graph(network: onnx.ModelProto, scheme: Scheme) -> None:
    inputs = patches(32, seed=9)
    (scores, embeddings), (wanted, wanted_embeddings) = run(quantized(network, scheme), inputs), run(network, inputs)
    np.testing.assert_allclose(scores, wanted, atol=0.01)
    np.testing.assert_allclose(embeddings, wanted_embeddings, atol=0.03 * wanted_embeddings.max())


@pytest.mark.parametrize("scheme", ["u8s8", "s8s8"])
def test_without_its_rounding_an_int8_graph_is_a_float_one_that_scores_alike(
    network: onnx.ModelProto, scheme: Scheme
) -> None:
    inputs, int8 = patches(32, seed=9), quantized(network, scheme)
    plain = without_rounding(int8)
    assert {node.op_type for node in plain.graph.node}.isdisjoint({"QuantizeLinear", "DequantizeLinear"})
    np.testing.assert_allclose(run(plain, inputs)[0], run(network, inputs)[0], atol=0.01)
    assert without_rounding(network) == network


def test_what_an_int8_graph_clips_is_clipped_without_its_rounding(network: onnx.ModelProto) -> None:
    int8, loud = quantized(network, "u8s8"), 100 * patches(8, seed=9)  # far beyond what calibration saw
    np.testing.assert_allclose(run(without_rounding(int8), loud)[0], run(int8, loud)[0], atol=0.02)
    assert np.abs(run(network, loud)[0] - run(int8, loud)[0]).max() > 0.02


@pytest.mark.parametrize("scheme", ["u8s8", "s8s8"])
def test_names_types_and_opset_stay(network: onnx.ModelProto, scheme: Scheme) -> None:
    result = quantized(network, scheme)
    assert is_quantized(result)
    assert not is_quantized(network)
    assert opset_of(result) == opset_of(network)
    assert [entry.domain for entry in result.opset_import] == [""]
    for before, after in zip(
        [*network.graph.input, *network.graph.output], [*result.graph.input, *result.graph.output], strict=True
    ):
        assert (before.name, before.type.tensor_type.elem_type) == (after.name, onnx.TensorProto.FLOAT)


def test_for_cpus_every_convolution_is_integers_with_a_scale_per_channel(
    network: onnx.ModelProto, tmp_path: Path
) -> None:
    result = quantized(network, "u8s8")
    scales = [array for name, array in arrays(result).items() if name.endswith("weight_scale") or "_scale" in name]
    assert {len(scale) for scale in scales if scale.ndim} == {8, 16, CLASSES}
    assert not {"Relu", "Clip"} & {node.op_type for node in result.graph.node}  # they are the ends of a scale
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(result.SerializeToString(), options, providers=["CPUExecutionProvider"])
    operators = [node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node]
    assert operators.count("QLinearConv") == 2
    assert "QGemm" in operators
    assert "Conv" not in operators


def test_for_tensorrt_all_is_int8_around_zero_and_layers_keep_their_relu(network: onnx.ModelProto) -> None:
    result = quantized(set_opset(network, 13), "s8s8")
    assert unsupported(result) == []
    values = arrays(result)
    for node in result.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            zero_point = values[node.input[2]]
            assert zero_point.dtype == np.int8
            assert not zero_point.any()
    producers = {output: node.op_type for node in result.graph.node for output in node.output}
    readers = {tensor: node.op_type for node in result.graph.node for tensor in node.input}
    for node in result.graph.node:
        if node.op_type == "Conv":
            assert [producers.get(name) for name in node.input] == ["DequantizeLinear", "DequantizeLinear", None]
            assert values[node.input[2]].dtype == np.float32
            assert readers[node.output[0]] in ("Relu", "Clip")


def test_products_of_activations_stay_float() -> None:
    class Attends(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.dense = nn.Linear(64, 64)

        def forward(self, features: torch.Tensor) -> torch.Tensor:
            rows = self.dense(features)
            return (rows @ rows.transpose(1, 2)).mean(2)[:, :3]

    torch.manual_seed(0)
    result = quantize(export_module(Attends(), (96, 64)), [patches(8)])
    producers = {output: node.op_type for node in result.graph.node for output in node.output}
    products = [{producers.get(name) for name in node.input} for node in result.graph.node if node.op_type == "MatMul"]
    assert {"DequantizeLinear"} in products
    assert any("DequantizeLinear" not in inputs for inputs in products)


def test_int8_graph_is_not_quantized_again(network: onnx.ModelProto) -> None:
    with pytest.raises(BadOption, match="int8 already"):
        quantize(quantized(network, "u8s8"), [patches(4)])


def test_nothing_to_calibrate_with_is_said(network: onnx.ModelProto) -> None:
    with pytest.raises(BadOption, match="no features to calibrate with"):
        quantize(network, [])


def test_input_stays_as_it_is_and_no_file_is_left(
    network: onnx.ModelProto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = network.SerializeToString(deterministic=True)
    quantized(network, "u8s8")
    assert network.SerializeToString(deterministic=True) == before
    assert list(tmp_path.iterdir()) == []
