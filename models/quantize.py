"""Static int8 quantization: a float graph and real inputs -> the same graph with Q/DQ pairs, one scale per output channel.

Two schemes (onnxruntime.ai/docs/performance/model-optimizations/quantization.html):

- u8s8: uint8 activations x int8 weights, int32 biases: what CPUs multiply fastest. ReLU and ReLU6 become the ends of a scale.
- s8s8: int8 with zero point 0, float biases, and pairs only where a layer reads, so that a layer and its ReLU stay one kernel: what
  TensorRT takes (docs.nvidia.com/deeplearning/tensorrt, "Working with Quantized Types").

Ranges are the smallest and largest values that calibration saw. Inputs and outputs keep their names and stay float32.
"""

import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from models.errors import BadOption

Scheme = Literal["u8s8", "s8s8"]

DENSE = ["Gemm", "MatMul"]  # their results stay float: the last one's are the logits
PASSING = ["Relu", "Clip", "MaxPool"]  # between two layers: 8 bits in, 8 bits out

SCHEMES: dict[Scheme, dict[str, Any]] = {
    "u8s8": {
        "activation_type": QuantType.QUInt8,
        "op_types_to_quantize": ["Conv", *DENSE, *PASSING],
        "extra_options": {
            "OpTypesToExcludeOutputQuantization": DENSE,
            "QDQOpTypePerChannelSupportToAxis": {"MatMul": 1},  # ONNX Runtime finds that of Conv and Gemm
        },
    },
    "s8s8": {
        "activation_type": QuantType.QInt8,
        "op_types_to_quantize": ["Conv", "Gemm"],  # TensorRT 8.4 reads no MatMul in int8 (models/tensorrt_operators.py)
        "extra_options": {
            "ActivationSymmetric": True,
            "AddQDQPairToWeight": True,
            "DedicatedQDQPair": True,
            "OpTypesToExcludeOutputQuantization": ["Conv", "Gemm"],
            "QuantizeBias": False,
        },
    },
}


def quantize(
    model: onnx.ModelProto, batches: Iterable[NDArray[np.float32]], scheme: Scheme = "u8s8"
) -> onnx.ModelProto:
    """A float graph with one input, and batches [N, ...] of real inputs -> the int8 graph, at the same opset.

    Raises BadOption where the graph is int8 already, or there is no batch.
    """
    if is_quantized(model):
        raise BadOption("the graph is int8 already: quantize the float one")
    with tempfile.TemporaryDirectory(prefix="earshot-quantize-") as folder:
        source, prepared, result = (str(Path(folder) / name) for name in ("float.onnx", "prepared.onnx", "int8.onnx"))
        onnx.save(model, source)
        quant_pre_process(source, prepared, skip_symbolic_shape=True)  # folds batch norms, infers shapes
        quantize_static(
            prepared,
            result,
            _Batches(model.graph.input[0].name, batches),
            per_channel=True,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=_products_of_activations(onnx.load(prepared).graph),
            **SCHEMES[scheme],
        )
        quantized = onnx.load(result)
    del quantized.opset_import[:], quantized.metadata_props[:]  # ONNX Runtime declares domains that nothing uses
    quantized.opset_import.extend(model.opset_import)
    onnx.checker.check_model(quantized)
    return quantized


def is_quantized(model: onnx.ModelProto) -> bool:
    """Does any node take 8 bits?"""
    return any(node.op_type == "DequantizeLinear" for node in model.graph.node)


def without_rounding(model: onnx.ModelProto) -> onnx.ModelProto:
    """An int8 graph -> the same in float: weights dequantized, and in each Q/DQ pair's place a clip to the range that its 8 bits span.

    So a ReLU that went into a scale still clips. A float graph comes back as it is.
    """
    if not is_quantized(model):
        return model
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    sources = {node.output[0]: node.input[0] for node in model.graph.node if node.op_type == "QuantizeLinear"}
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        if node.op_type == "QuantizeLinear":
            continue
        if node.op_type != "DequantizeLinear":
            nodes.append(node)
            continue
        quantized, scale, zero_point = node.input[0], values[node.input[1]], values[node.input[2]]
        (output,) = node.output
        if sources.get(quantized) in values:  # a weight that is quantized in the graph itself
            values[output] = values[sources[quantized]]
        elif quantized in sources:
            limits = np.iinfo(zero_point.dtype)
            bounds = {f"{output}.low": limits.min, f"{output}.high": limits.max}
            values |= {
                name: np.asarray((bound - int(zero_point)) * scale, np.float32) for name, bound in bounds.items()
            }
            nodes.append(helper.make_node("Clip", [sources[quantized], *bounds], [output], name=f"{output}.range"))
        else:
            axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 0)
            values[output] = _dequantized(values[quantized], scale, zero_point, axis)
    used = {name for node in nodes for name in node.input}
    constants = [numpy_helper.from_array(np.asarray(array), name) for name, array in values.items() if name in used]
    graph = helper.make_graph(nodes, model.graph.name, model.graph.input, model.graph.output, constants)
    plain = helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    onnx.checker.check_model(plain)
    return plain


def _dequantized(values: NDArray[Any], scale: NDArray[Any], zero_point: NDArray[Any], axis: int) -> NDArray[np.float32]:
    if scale.ndim:
        shape = [-1 if dimension == axis else 1 for dimension in range(values.ndim)]
        scale, zero_point = scale.reshape(shape), zero_point.reshape(shape)
    return np.asarray((values.astype(np.int64) - zero_point.astype(np.int64)) * scale, np.float32)


class _Batches(CalibrationDataReader):  # type: ignore[misc]
    """Gives batches of the graph's input one by one, then None."""

    def __init__(self, name: str, batches: Iterable[NDArray[np.float32]]) -> None:
        self._name = name
        self._batches = iter(batches)
        self._begun = False

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        """The next batch by the input's name."""
        batch = next(self._batches, None)
        if batch is None and not self._begun:
            raise BadOption("no features to calibrate with: name a folder that holds some")
        self._begun = True
        return None if batch is None else {self._name: np.ascontiguousarray(batch, np.float32)}


def _products_of_activations(graph: onnx.GraphProto) -> list[str]:
    """The MatMul nodes without weights, as attention has: they stay float."""
    weights = {tensor.name for tensor in graph.initializer}
    return [node.name for node in graph.node if node.op_type == "MatMul" and not weights & set(node.input)]
