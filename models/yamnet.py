"""YAMNet as a torch network: patches -> scores and embeddings. Knows nothing of sound, files or labels.

MobileNet v1 (Howard et al. 2017, arXiv 1704.04861) on log-mel patches, trained on AudioSet by Google after Hershey et
al. 2017 (arXiv 1609.09430); reference implementation: research/audioset/yamnet in github.com/tensorflow/models. Here
batch norm is folded into the convolutions, as in Google's TFLite file, whose ReLU6 and padding are kept.
"""

from pathlib import Path
from typing import Literal

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import Tensor, nn

from models.errors import BadOption, WeightsCorrupt
from models.layout import check_shapes
from models.tflite import YamnetArrays

CLASSES = 521  # AudioSet's, as published with YAMNet
FIRST_CHANNELS = 32
# channels and stride of the 13 depthwise + pointwise pairs; patch 96 x 64 -> 3 x 2
PAIRS = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1))
SMALLEST_CHANNELS = 8

Activation = Literal["relu6", "relu"]
ACTIVATIONS: dict[str, type[nn.Module]] = {"relu6": nn.ReLU6, "relu": nn.ReLU}


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """TensorFlow's SAME padding of one dimension: samples (before, after), so that ceil(size / stride) come out.

    What cannot be halved goes after: a 3-wide kernel of stride 2 on an even size pads (0, 1).
    """
    outputs = -(-size // stride)
    total = max((outputs - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


class SameConv2d(nn.Conv2d):
    """Convolution with a square kernel and TensorFlow's SAME padding, which torch has only for stride 1."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        """Weight [outputs, inputs / groups, kernel, kernel] and bias [outputs]; He initialization."""
        super().__init__(inputs, outputs, kernel, stride, groups=groups)
        # Without batch norm, torch's own smaller start fades to nothing over 27 layers.
        nn.init.kaiming_normal_(self.weight, nonlinearity="relu")
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, maps: Tensor) -> Tensor:
        """Maps [P, I, H, W] -> [P, O, ceil(H / stride), ceil(W / stride)]."""
        height, width = map(int, maps.shape[-2:])  # constants in an exported graph
        top, bottom = same_padding(height, self.kernel_size[0], self.stride[0])
        left, right = same_padding(width, self.kernel_size[1], self.stride[1])
        if top != bottom or left != right:
            maps, top, left = F.pad(maps, (left, right, top, bottom)), 0, 0
        return F.conv2d(maps, self.weight, self.bias, self.stride, (top, left), groups=self.groups)


def build_convolutions(width: float) -> nn.ModuleList:
    """YAMNet's 27 convolutions, numbered as in the TFLite file; `width` scales the channels."""
    channels = _scaled(FIRST_CHANNELS, width)
    layers = [SameConv2d(1, channels, 3, stride=2)]
    for full_outputs, stride in PAIRS:
        outputs = _scaled(full_outputs, width)
        layers.append(SameConv2d(channels, channels, 3, stride, groups=channels))
        layers.append(SameConv2d(channels, outputs, 1))
        channels = outputs
    return nn.ModuleList(layers)


class YAMNet(nn.Module):
    """YAMNet: patches [P, 96, 64], log(mel + 0.001) -> (scores [P, C] in 0..1, embeddings [P, 1024]).

    3,729,481 parameters with 521 classes. `width` scales every layer's channels (and the embedding) for smaller
    networks; the published weights have width 1 and relu6. Scores are independent sigmoids. Raises BadOption for an
    unknown activation.
    """

    def __init__(self, classes: int = CLASSES, activation: Activation = "relu6", width: float = 1.0) -> None:
        """A network with random weights."""
        super().__init__()
        if activation not in ACTIVATIONS:
            raise BadOption(f"activation {activation!r} does not exist; allowed: {', '.join(ACTIVATIONS)}")
        self.embedding_size = _scaled(PAIRS[-1][0], width)
        self.convolutions = build_convolutions(width)
        self.activation = ACTIVATIONS[activation]()
        self.dense = nn.Linear(self.embedding_size, classes)

    def embed(self, patches: Tensor) -> Tensor:
        """Patches [P, 96, 64] -> embeddings [P, 1024]: the mean of the last maps, never negative."""
        maps = patches.unsqueeze(1)
        for convolution in self.convolutions:
            maps = self.activation(convolution(maps))
        return maps.mean((2, 3))

    def logits(self, embeddings: Tensor) -> Tensor:
        """Embeddings [P, 1024] -> logits [P, C], what a training loss takes."""
        logits: Tensor = self.dense(embeddings)
        return logits

    def forward(self, patches: Tensor) -> tuple[Tensor, Tensor]:
        """Patches [P, 96, 64] -> (scores [P, C], embeddings [P, 1024])."""
        embeddings = self.embed(patches)
        return torch.sigmoid(self.logits(embeddings)), embeddings


def load_yamnet(arrays: YamnetArrays, activation: Activation = "relu6") -> YAMNet:
    """Google's quantized weights -> the same network in float32, ready to infer.

    It follows the int8 file up to the rounding of activations. Raises WeightsCorrupt, naming the first layer whose
    shape is not YAMNet's, and BadOption for an unknown activation.
    """
    return _load_state(arrays.float_state(), activation)


def load_yamnet_graph(path: Path) -> YAMNet:
    """A bundle's float32 ONNX graph -> the same network in torch, for devices that torch alone reaches.

    Raises WeightsCorrupt when the graph is not YAMNet's.
    """
    initializers = onnx.load(path).graph.initializer
    arrays = {tensor.name: numpy_helper.to_array(tensor).copy() for tensor in initializers}
    return _load_state({name: array for name, array in arrays.items() if name.endswith((".weight", ".bias"))}, "relu6")


def _load_state(state: dict[str, NDArray[np.float32]], activation: Activation) -> YAMNet:
    if "dense.bias" not in state:
        raise WeightsCorrupt("YAMNet's weights: dense.bias is missing")
    model = YAMNet(len(state["dense.bias"]), activation)
    expected = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    check_shapes(state, expected, "YAMNet's weights")
    model.load_state_dict({name: torch.from_numpy(array) for name, array in state.items()})
    return model.eval()


def _scaled(channels: int, width: float) -> int:
    return max(SMALLEST_CHANNELS, round(channels * width))
