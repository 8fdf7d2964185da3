"""Networks as ONNX graphs: from torch, with scores, behind an embedder, in half precision. Knows nothing of sound, files or Ray.

A network's own graph is "features" [N, *shape] -> "scores" [N, C]; what is served is "patches" [P, F, 64] -> "scores" [P, C] and
"embeddings" [P, D].
"""

import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnxruntime
from onnx.utils import Extractor
from onnxruntime.transformers.float16 import convert_float_to_float16

from models.bundle import Bundle
from models.errors import BadOption
from models.frontend import MEL_BANDS, PATCH_FRAMES
from models.graphs import OPSET, GraphBuilder, mark_opset, opset_of
from models.quantize import without_rounding

if TYPE_CHECKING:
    from torch import nn


ROWS = "rows_of_items"  # a composed graph's embeddings [P, T, D], which its head takes


def load_float(bundle: Bundle) -> onnx.ModelProto:
    """A bundle's float graph; where it has none, its int8 graph without the rounding."""
    return without_rounding(onnx.load(bundle.graph("float")))


def export_module(module: "nn.Module", shape: tuple[int, ...], opset: int = OPSET) -> onnx.ModelProto:
    """A torch network for features of a shape -> "features" [N, *shape] float32 -> "logits" [N, C]; N is free.

    The same weights give the same bytes. Puts the network into eval mode.
    """
    import torch

    with tempfile.TemporaryDirectory(prefix="earshot-export-") as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of sizes that become constants, as they shall, and of this exporter's age
        file = Path(folder) / "network.onnx"
        torch.onnx.export(
            module.eval(),
            (torch.zeros(1, *shape),),
            file,
            input_names=["features"],
            output_names=["logits"],
            dynamic_axes={"features": {0: "N"}, "logits": {0: "N"}},
            opset_version=opset,
            dynamo=False,  # the other exporter starts at opset 18
        )
        return simplify(onnx.load(file))


def simplify(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same graph with constants computed, batch norms and pads moved into convolutions, and identities gone: by ONNX Runtime."""
    for node in model.graph.node:
        while node.input and not node.input[-1]:
            node.input.pop()  # a pad whose value is named "" would not be moved
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC  # standard operators only
    with tempfile.TemporaryDirectory(prefix="earshot-export-") as folder:
        options.optimized_model_filepath = str(Path(folder) / "simple.onnx")
        onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        simple = onnx.load(options.optimized_model_filepath)
    mark_opset(simple, opset_of(model))
    return simple


def with_scores(model: onnx.ModelProto, multi_label: bool, temperature: float) -> onnx.ModelProto:
    """A graph that gives "logits" [N, C] -> one that gives "scores" [N, C]: sigmoid or softmax of logits / temperature.

    Temperature: Guo et al. 2017 (arXiv 1706.04599).
    """
    graph = GraphBuilder()
    graph.insert(model, {})
    logits = graph.node("Div", ["logits", graph.constant("temperature", np.float32(temperature))], "calibrated")
    if multi_label:
        graph.node("Sigmoid", [logits], "scores")
    else:
        graph.node("Softmax", [logits], "scores", axis=1)
    (classes,) = output_shape(model, "logits")
    return graph.model({"scores": classes}, model.graph.name, {"features": input_shape(model)}, opset_of(model))


def as_patches(model: onnx.ModelProto) -> onnx.ModelProto:
    """A network that takes log-mel itself, "features" [N, F, 64] -> the same with the names of a served model.

    Embeddings [P, D] are what its last dense layer reads, the mean over an item's patches.
    """
    frames, _ = input_shape(model)
    graph = GraphBuilder()
    graph.insert(model, {"features": "patches"})
    dense = next(node for node in reversed(graph.nodes) if node.op_type == "Gemm")
    weight = next(tensor for tensor in graph.initializers if tensor.name == dense.input[1])
    width = weight.dims[1]  # [O, I], as torch has it
    _mean_over_rows(graph, dense.input[0], frames // PATCH_FRAMES, width)
    (classes,) = output_shape(model, "scores")
    outputs = {"scores": classes, "embeddings": width}
    return graph.model(outputs, model.graph.name, {"patches": (frames, MEL_BANDS)}, opset_of(model))


def compose(embedder: onnx.ModelProto, head: onnx.ModelProto, frames: int, hop_frames: int) -> onnx.ModelProto:
    """An embedder's graph, and a head's on T embeddings -> "patches" [P, frames, 64] -> "scores" [P, C], "embeddings" [P, D].

    The embedder hears the T patches, `hop_frames` apart, inside the `frames`; "embeddings" is their mean. Raises BadOption where they
    do not fit the head.
    """
    rows, width = input_shape(head)
    fits = (rows - 1) * hop_frames + PATCH_FRAMES
    if frames != fits or output_shape(embedder, "embeddings") != (width,):
        (given,) = output_shape(embedder, "embeddings")
        raise BadOption(
            f"the head takes {rows} embeddings of width {width}: {fits} frames, not {frames}, of an embedder of width {width}, not {given}"
        )
    graph = GraphBuilder()
    windows = "patches" if rows == 1 else _windows(graph, rows, hop_frames)
    without_scores = Extractor(embedder).extract_model(["patches"], ["embeddings"])
    graph.insert(without_scores, {"patches": windows, "embeddings": "rows"}, "embedder/")
    features = _mean_over_rows(graph, "rows", rows, width)
    graph.insert(head, {"features": features, "scores": "scores"}, "head/")
    (classes,) = output_shape(head, "scores")
    outputs = {"scores": classes, "embeddings": width}
    return graph.model(outputs, f"{embedder.graph.name}-head", {"patches": (frames, MEL_BANDS)}, opset_of(head))


def _windows(graph: GraphBuilder, rows: int, hop_frames: int) -> str:
    """Patches [P, frames, 64] -> the windows in them [P * rows, 96, 64]."""
    starts = np.arange(rows)[:, np.newaxis] * hop_frames
    indices = graph.constant("window_frames", (starts + np.arange(PATCH_FRAMES)).ravel())
    gathered = graph.node("Gather", ["patches", indices], "gathered", axis=1)
    shape = graph.constant("window_shape", np.array([-1, PATCH_FRAMES, MEL_BANDS], np.int64))
    return graph.node("Reshape", [gathered, shape], "windows")


def _mean_over_rows(graph: GraphBuilder, rows: str, count: int, width: int) -> str:
    """Rows [P * count, D] -> [P, count, D], whose mean [P, D] becomes "embeddings"."""
    shape = graph.constant("rows_shape", np.array([-1, count, width], np.int64))
    items = graph.node("Reshape", [rows, shape], ROWS)
    graph.node("ReduceMean", [items], "embeddings", axes=[1], keepdims=0)
    return items


def as_half(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph in float16, weights and all; inputs and outputs stay float32."""
    half = onnx.ModelProto()
    half.CopyFrom(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of weights too small for it, which become 0
        converted: onnx.ModelProto = convert_float_to_float16(half, keep_io_types=True)
    return converted


def input_shape(model: onnx.ModelProto) -> tuple[int, ...]:
    """The shape of one item of a graph's input."""
    return _item_shape(model.graph.input[0])


def output_shape(model: onnx.ModelProto, name: str) -> tuple[int, ...]:
    """The shape of one item of the named output."""
    return _item_shape(next(output for output in model.graph.output if output.name == name))


def _item_shape(value: onnx.ValueInfoProto) -> tuple[int, ...]:
    return tuple(size.dim_value for size in value.type.tensor_type.shape.dim[1:])
