"""VGGish and its head as one ONNX graph, from plain arrays. Knows nothing of torch.

Names and shapes of the arrays are those of models/layout.py; `safetensors.numpy.load_file` reads them from a file.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from models.frontend import MEL_BANDS, PATCH_FRAMES
from models.layout import (
    CONVOLUTIONS,
    EMBEDDING_SIZE,
    HEAD_LAYERS,
    HEAD_PREFIX,
    POOLED,
    check_shapes,
    dense_layers,
    head_shapes,
    head_widths,
    vggish_shapes,
)

Arrays = Mapping[str, NDArray[Any]]

SOURCE = "VGGish's arrays"  # what an error message calls them
OPSET = 17
IR_VERSION = 8  # the one that came with opset 17: older runtimes refuse newer ones


def build_vggish_graph(
    arrays: Arrays, *, multi_label: bool, slim: bool = False, last_relu: bool = False
) -> onnx.ModelProto:
    """Weights by name -> a graph: "patches" [P, 96, 64] -> "scores" [P, K] and "embeddings" [P, 128], all float32.

    Patches are log(mel + 0.01); P is free. `multi_label`, `slim` and `last_relu` mean what they mean in VggishHead and
    VGGish. Raises WeightsCorrupt naming the first wrong key and both shapes.
    """
    _, hidden, classes = head_widths(arrays, SOURCE)
    check_shapes(arrays, vggish_shapes(slim) | head_shapes(EMBEDDING_SIZE, hidden, classes), SOURCE)

    graph = _Graph(arrays)
    embeddings = graph.embeddings(graph.features("patches"), slim, last_relu)
    graph.add("Identity", [embeddings], "embeddings")
    logits = graph.head("embeddings")
    if multi_label:
        graph.add("Sigmoid", [logits], "scores")
    else:
        graph.add("Softmax", [logits], "scores", axis=1)
    return graph.model(classes)


class _Graph:
    """Collects nodes and weights; every method gives the name of what it made."""

    def __init__(self, arrays: Arrays) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights = [
            numpy_helper.from_array(np.ascontiguousarray(array, np.float32), name) for name, array in arrays.items()
        ]

    def add(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(kind, inputs, [output], name=output, **attributes))
        return output

    def features(self, patches: str) -> str:
        """Patches [P, 96, 64] -> maps [P, 512, 6, 4]."""
        self.weights.append(numpy_helper.from_array(np.array([1], np.int64), "channel_axis"))
        maps = self.add("Unsqueeze", [patches, "channel_axis"], "image")
        for number in CONVOLUTIONS:
            layer = f"features.{number}"
            weights = [f"{layer}.weight", f"{layer}.bias"]
            maps = self.add("Conv", [maps, *weights], layer, kernel_shape=[3, 3], pads=[1, 1, 1, 1])
            maps = self.add("Relu", [maps], f"{layer}.relu")
            if number in POOLED:
                maps = self.add("MaxPool", [maps], f"{layer}.pool", kernel_shape=[2, 2], strides=[2, 2])
        return maps

    def embeddings(self, maps: str, slim: bool, last_relu: bool) -> str:
        """Maps [P, 512, 6, 4] -> embeddings [P, 128]."""
        if slim:
            maps = self.add("GlobalAveragePool", [maps], "average")
        else:  # TensorFlow's weights expect height, width, channel
            maps = self.add("Transpose", [maps], "channels_last", perm=[0, 2, 3, 1])
        rows = self.add("Flatten", [maps], "flat", axis=1)
        numbers = list(dense_layers(slim))
        for number in numbers:
            rows = self.dense(rows, f"embeddings.{number}", relu=last_relu or number != numbers[-1])
        return rows

    def head(self, embeddings: str) -> str:
        """Embeddings [P, 128] -> logits [P, K]."""
        rows = embeddings
        for layer in HEAD_LAYERS:
            rows = self.dense(rows, HEAD_PREFIX + layer, relu=layer != HEAD_LAYERS[-1])
        return rows

    def dense(self, rows: str, layer: str, relu: bool) -> str:
        """Rows [P, I] -> [P, O]."""
        rows = self.add("Gemm", [rows, f"{layer}.weight", f"{layer}.bias"], layer, transB=1)
        return self.add("Relu", [rows], f"{layer}.relu") if relu else rows

    def model(self, classes: int) -> onnx.ModelProto:
        def tensor(name: str, *shape: int) -> onnx.ValueInfoProto:
            return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["P", *shape])

        inputs = [tensor("patches", PATCH_FRAMES, MEL_BANDS)]
        outputs = [tensor("scores", classes), tensor("embeddings", EMBEDDING_SIZE)]
        graph = helper.make_graph(self.nodes, "vggish", inputs, outputs, self.weights)
        opsets = [helper.make_opsetid("", OPSET)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="earshot")
        onnx.checker.check_model(model)
        return model
