"""VGGish and its head as one ONNX graph, from plain arrays. Knows nothing of torch.

Names and shapes of the arrays are those of models/layout.py; `safetensors.numpy.load_file` reads them from a file.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from models.graphs import GraphBuilder
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


def build_vggish_graph(
    arrays: Arrays, *, multi_label: bool, slim: bool = False, last_relu: bool = False, head: bool = True
) -> onnx.ModelProto:
    """Weights by name -> a graph: "patches" [P, 96, 64] -> "scores" [P, K] and "embeddings" [P, 128], all float32.

    Patches are log(mel + 0.01); P is free. `multi_label`, `slim` and `last_relu` mean what they mean in VggishHead and
    VGGish. Without a head the scores are the embeddings. Raises WeightsCorrupt naming the first wrong key and both shapes.
    """
    _, hidden, classes = head_widths(arrays, SOURCE) if head else (0, 0, EMBEDDING_SIZE)
    check_shapes(arrays, vggish_shapes(slim) | (head_shapes(EMBEDDING_SIZE, hidden, classes) if head else {}), SOURCE)

    graph = _Graph(arrays)
    embeddings = graph.embeddings(graph.features("patches"), slim, last_relu)
    graph.node("Identity", [embeddings], "embeddings")
    if not head:
        graph.node("Identity", [embeddings], "scores")
        return graph.model({"scores": EMBEDDING_SIZE, "embeddings": EMBEDDING_SIZE}, "vggish")
    logits = graph.head("embeddings")
    if multi_label:
        graph.node("Sigmoid", [logits], "scores")
    else:
        graph.node("Softmax", [logits], "scores", axis=1)
    return graph.model({"scores": classes, "embeddings": EMBEDDING_SIZE}, "vggish")


class _Graph(GraphBuilder):
    """VGGish's parts; every method gives the name of what it made."""

    def __init__(self, arrays: Arrays) -> None:
        super().__init__()
        for name, array in arrays.items():
            self.constant(name, array.astype(np.float32))

    def features(self, patches: str) -> str:
        """Patches [P, 96, 64] -> maps [P, 512, 6, 4]."""
        self.constant("channel_axis", np.array([1], np.int64))
        maps = self.node("Unsqueeze", [patches, "channel_axis"], "image")
        for number in CONVOLUTIONS:
            layer = f"features.{number}"
            weights = [f"{layer}.weight", f"{layer}.bias"]
            maps = self.node("Conv", [maps, *weights], layer, kernel_shape=[3, 3], pads=[1, 1, 1, 1])
            maps = self.node("Relu", [maps], f"{layer}.relu")
            if number in POOLED:
                maps = self.node("MaxPool", [maps], f"{layer}.pool", kernel_shape=[2, 2], strides=[2, 2])
        return maps

    def embeddings(self, maps: str, slim: bool, last_relu: bool) -> str:
        """Maps [P, 512, 6, 4] -> embeddings [P, 128]."""
        if slim:
            maps = self.node("GlobalAveragePool", [maps], "average")
        else:  # TensorFlow's weights expect height, width, channel
            maps = self.node("Transpose", [maps], "channels_last", perm=[0, 2, 3, 1])
        rows = self.node("Flatten", [maps], "flat", axis=1)
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
        rows = self.node("Gemm", [rows, f"{layer}.weight", f"{layer}.bias"], layer, transB=1)
        return self.node("Relu", [rows], f"{layer}.relu") if relu else rows
