"""Reads Google's YAMNet TFLite file into plain arrays. Knows nothing of ONNX, torch or files on disk.

The file: github.com/tensorflow/models/tree/master/research/audioset/yamnet, quantized per channel; batch norm is folded
into the convolutions. 27 convolutions (one 3x3, then 13 depthwise + pointwise pairs), a mean, one dense layer, a sigmoid.
Quantization follows the TFLite specification: real = scale * (q - zero_point), tensorflow.org/lite/performance/quantization_spec.
"""

from dataclasses import dataclass

import numpy as np
import tflite
from numpy.typing import NDArray

from models.errors import WeightsCorrupt

CONVOLUTIONS = 27
QUANTIZED_PATCH = 28  # tensor numbers, as the file counts them
FIRST_CONVOLUTION = 33
MEAN, DENSE_WEIGHT, DENSE_BIAS, LOGITS, SCORES = 115, 116, 117, 118, 119
STRIDES = tuple(2 if number in (0, 3, 7, 11, 23) else 1 for number in range(CONVOLUTIONS))

TYPES: dict[int, type[np.generic]] = {0: np.float32, 2: np.int32, 9: np.int8}


@dataclass(frozen=True)
class Quantization:
    """A tensor's scale and zero point, int8."""

    scale: float
    zero_point: int


@dataclass(frozen=True)
class Layer:
    """One convolution (or, with a 1x1 kernel and no stride, the dense layer), int8.

    weight [O, I / groups, kh, kw] int8 with zero point 0; weight_scale [O] or [1]; bias [O] int32 with scale
    input scale x weight_scale; `output` is what the result is quantized to (its range holds the ReLU6 where there is one).
    """

    weight: NDArray[np.int8]
    weight_scale: NDArray[np.float32]
    bias: NDArray[np.int32]
    bias_scale: NDArray[np.float32]
    stride: int
    groups: int
    output: Quantization

    def float_weight(self) -> NDArray[np.float32]:
        """The weight as float32 [O, I / groups, kh, kw]."""
        return self.weight * self.weight_scale.reshape(-1, 1, 1, 1)

    def float_bias(self) -> NDArray[np.float32]:
        """The bias as float32 [O]."""
        return (self.bias * self.bias_scale).astype(np.float32)


@dataclass(frozen=True)
class YamnetArrays:
    """YAMNet as plain arrays: patch -> 27 convolutions -> mean [1024] -> dense -> logits [C] -> sigmoid scores [C]."""

    patch: Quantization
    convolutions: tuple[Layer, ...]
    mean: Quantization
    dense: Layer
    scores: Quantization

    def float_state(self) -> dict[str, NDArray[np.float32]]:
        """Every weight in float32 by its name in models/yamnet.py: convolutions.{0..26} and dense, .weight and .bias."""
        layers = {f"convolutions.{number}": layer for number, layer in enumerate(self.convolutions)}
        state = {f"{name}.weight": layer.float_weight() for name, layer in layers.items()}
        state |= {f"{name}.bias": layer.float_bias() for name, layer in layers.items()}
        return state | {"dense.weight": self.dense.float_weight()[:, :, 0, 0], "dense.bias": self.dense.float_bias()}


def load_yamnet_arrays(content: bytes) -> YamnetArrays:
    """The TFLite file's bytes -> its arrays. Raises WeightsCorrupt when this is not YAMNet's file."""
    try:
        graph = tflite.Model.GetRootAs(content, 0)
        reader = _Reader(graph, graph.Subgraphs(0))
        return YamnetArrays(
            patch=reader.quantization(QUANTIZED_PATCH),
            convolutions=tuple(reader.convolution(number) for number in range(CONVOLUTIONS)),
            mean=reader.quantization(MEAN),
            dense=reader.dense(),
            scores=reader.quantization(SCORES),
        )
    except (IndexError, ValueError, TypeError, AttributeError, KeyError) as error:
        raise WeightsCorrupt(f"not YAMNet's TFLite file: {error}. Run: earshot weights fetch yamnet") from error


class _Reader:
    """Picks tensors out of the flatbuffer by number."""

    def __init__(self, model: tflite.Model, graph: tflite.SubGraph) -> None:
        self.model = model
        self.graph = graph

    def array(self, number: int) -> NDArray[np.generic]:
        tensor = self.graph.Tensors(number)
        raw = self.model.Buffers(tensor.Buffer()).DataAsNumpy().tobytes()
        return np.frombuffer(raw, TYPES[tensor.Type()]).reshape(tensor.ShapeAsNumpy())

    def scale(self, number: int) -> NDArray[np.float32]:
        return np.asarray(self.graph.Tensors(number).Quantization().ScaleAsNumpy(), np.float32)

    def quantization(self, number: int) -> Quantization:
        zero_points = self.graph.Tensors(number).Quantization().ZeroPointAsNumpy()
        return Quantization(float(self.scale(number)[0]), int(zero_points[0]))

    def convolution(self, number: int) -> Layer:
        first = FIRST_CONVOLUTION + 3 * number
        depthwise = number % 2 == 1
        weight = self.array(first)  # depthwise [1, kh, kw, C], else [O, kh, kw, I]
        axes = (3, 0, 1, 2) if depthwise else (0, 3, 1, 2)
        return Layer(
            weight=np.ascontiguousarray(weight.transpose(axes)).astype(np.int8, copy=False),
            weight_scale=self.scale(first),
            bias=self.array(first + 1).astype(np.int32, copy=False),
            bias_scale=self.scale(first + 1),
            stride=STRIDES[number],
            groups=weight.shape[3] if depthwise else 1,
            output=self.quantization(first + 2),
        )

    def dense(self) -> Layer:
        return Layer(
            weight=self.array(DENSE_WEIGHT).astype(np.int8, copy=False)[:, :, None, None],
            weight_scale=self.scale(DENSE_WEIGHT),
            bias=self.array(DENSE_BIAS).astype(np.int32, copy=False),
            bias_scale=self.scale(DENSE_BIAS),
            stride=1,
            groups=1,
            output=self.quantization(LOGITS),
        )
