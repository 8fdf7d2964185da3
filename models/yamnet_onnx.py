"""YAMNet as ONNX graphs, built from plain arrays without torch: int8 with the TFLite file's own scales, or float32.

Both take "patches" [P, 96, 64] float32 (log-mel, offset 0.001) and give "scores" [P, C] and "embeddings" [P, 1024].
The int8 graph is exact Q/DQ: every scale and zero point is the file's, activations moved from int8 to uint8 by adding 128
to the zero points (the same numbers; uint8 x int8 is what CPUs multiply fast). ReLU6 is in the scales: they end at 6.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from models.graphs import GraphBuilder
from models.tflite import STRIDES, Layer, Quantization, YamnetArrays


def _convolution_attributes(kernel: int, stride: int, groups: int) -> dict[str, Any]:
    """TensorFlow's SAME: on even sizes a stride of 2 pads only at the bottom and the right."""
    before = (kernel - 1) // 2 if stride == 1 else 0
    after = (kernel - 1) // 2
    return {"strides": [stride] * 2, "pads": [before, before, after, after], "group": groups}


def build_yamnet_float(state: Mapping[str, NDArray[np.float32]], strides: Sequence[int] = STRIDES) -> onnx.ModelProto:
    """Weights by name, as YamnetArrays.float_state() and YAMNet's state dict have them -> the float32 graph with explicit ReLU6."""
    graph = GraphBuilder()
    axis = graph.constant("channel_axis", np.array([1], np.int64))
    zero, six = graph.constant("zero", np.float32(0)), graph.constant("six", np.float32(6))
    hidden = graph.node("Unsqueeze", ["patches", axis], "image")
    for number, stride in enumerate(strides):
        name = f"convolutions.{number}"
        weight, bias = (graph.constant(f"{name}.{part}", state[f"{name}.{part}"]) for part in ("weight", "bias"))
        outputs, _, kernel, _ = state[weight].shape
        attributes = _convolution_attributes(kernel, stride, outputs if number % 2 else 1)  # odd ones are depthwise
        hidden = graph.node("Conv", [hidden, weight, bias], name, **attributes)
        hidden = graph.node("Clip", [hidden, zero, six], f"{name}.relu6")
    pooled = graph.node("GlobalAveragePool", [hidden], "pooled")
    graph.node("Flatten", [pooled], "embeddings")
    weight, bias = (graph.constant(f"dense.{part}", state[f"dense.{part}"]) for part in ("weight", "bias"))
    logits = graph.node("Gemm", ["embeddings", weight, bias], "logits", transB=1)
    graph.node("Sigmoid", [logits], "scores")
    classes, width = state["dense.weight"].shape
    return graph.model({"scores": classes, "embeddings": width}, "yamnet-float")


class _QuantizedGraph(GraphBuilder):
    """Adds the Q/DQ pairs."""

    def requantize(self, tensor: str, to: Quantization, name: str) -> str:
        """Float tensor -> uint8 with the given scale -> float again."""
        scale = self.constant(f"{name}.scale", np.float32(to.scale))
        zero_point = self.constant(f"{name}.zero_point", np.uint8(to.zero_point + 128))
        quantized = self.node("QuantizeLinear", [tensor, scale, zero_point], f"{name}.q")
        return self.node("DequantizeLinear", [quantized, scale, zero_point], f"{name}.dq")

    def constants(self, layer: Layer, name: str) -> tuple[str, str]:
        """The layer's int8 weight and int32 bias, dequantized in the graph."""
        weight = self._dequantized(f"{name}.weight", layer.weight, layer.weight_scale)
        bias = self._dequantized(f"{name}.bias", layer.bias, layer.bias_scale)
        return weight, bias

    def _dequantized(self, name: str, values: NDArray[np.generic], scales: NDArray[np.float32]) -> str:
        per_channel = len(scales) > 1
        scale = self.constant(f"{name}.scale", scales if per_channel else scales[0])
        zero_points = np.zeros(len(scales), values.dtype)
        zero_point = self.constant(f"{name}.zero_point", zero_points if per_channel else zero_points[0])
        axis = {"axis": 0} if per_channel else {}
        return self.node("DequantizeLinear", [self.constant(name, values), scale, zero_point], f"{name}.dq", **axis)


def build_yamnet_int8(arrays: YamnetArrays) -> onnx.ModelProto:
    """The int8 graph: the TFLite file's quantized network, number for number."""
    graph = _QuantizedGraph()
    axis = graph.constant("channel_axis", np.array([1], np.int64))
    image = graph.node("Unsqueeze", ["patches", axis], "image")
    hidden = graph.requantize(image, arrays.patch, "patch")
    for number, layer in enumerate(arrays.convolutions):
        name = f"convolutions.{number}"
        weight, bias = graph.constants(layer, name)
        attributes = _convolution_attributes(layer.weight.shape[2], layer.stride, layer.groups)
        hidden = graph.node("Conv", [hidden, weight, bias], name, **attributes)
        hidden = graph.requantize(hidden, layer.output, name)
    pooled = graph.node("GlobalAveragePool", [hidden], "pooled")
    pooled = graph.requantize(pooled, arrays.mean, "pooled")
    graph.node("Flatten", [pooled], "embeddings")
    weight, bias = graph.constants(arrays.dense, "dense")
    logits = graph.node("Conv", [pooled, weight, bias], "dense")  # on 1 x 1 images: the dense layer
    logits = graph.requantize(logits, arrays.dense.output, "logits")
    sigmoid = graph.node("Sigmoid", [logits], "sigmoid")
    graph.node("Flatten", [graph.requantize(sigmoid, arrays.scores, "sigmoid")], "scores")
    return graph.model({"scores": len(arrays.dense.bias), "embeddings": arrays.dense.weight.shape[1]}, "yamnet-int8")
