"""Builds ONNX graphs from plain arrays and from other graphs: patches in, scores and embeddings out. Knows nothing of any network."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, compose, helper, numpy_helper

from models.frontend import MEL_BANDS, PATCH_FRAMES

OPSET = 17
PATCHES = {"patches": (PATCH_FRAMES, MEL_BANDS)}


class GraphBuilder:
    """Collects nodes and initializers of one ONNX graph."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []

    def constant(self, name: str, values: NDArray[np.generic] | np.generic) -> str:
        """Stores an array under a name, and gives the name."""
        self.initializers.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def node(self, operator: str, inputs: list[str], output: str, **attributes: Any) -> str:
        """Adds one node with one output, and gives the output's name."""
        self.nodes.append(helper.make_node(operator, inputs, [output], name=output, **attributes))
        return output

    def insert(self, model: onnx.ModelProto, names: Mapping[str, str], prefix: str = "") -> None:
        """Adds a whole graph. `names`: which tensors here its inputs and outputs are; all its other names get the prefix."""
        kept = {"rename_inputs": False, "rename_outputs": False, "rename_value_infos": False}
        graph = compose.add_prefix_graph(model.graph, prefix, name_map=dict(names), **kept)
        self.nodes.extend(graph.node)
        self.initializers.extend(graph.initializer)

    def model(
        self,
        outputs: Mapping[str, int],
        name: str,
        inputs: Mapping[str, tuple[int, ...]] = PATCHES,
        opset: int = OPSET,
    ) -> onnx.ModelProto:
        """The finished graph: "patches" [P, 96, 64], or others -> each output [P, width]. Raises onnx's error where it is not sound."""
        given = [helper.make_tensor_value_info(i, TensorProto.FLOAT, ["P", *shape]) for i, shape in inputs.items()]
        results = [helper.make_tensor_value_info(o, TensorProto.FLOAT, ["P", width]) for o, width in outputs.items()]
        graph = helper.make_graph(self.nodes, name, given, results, self.initializers)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
        mark_opset(model, opset)
        onnx.checker.check_model(model)
        return model


def opset_of(model: onnx.ModelProto) -> int:
    """The version of the standard operators that a graph uses."""
    return int(next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")))


def mark_opset(model: onnx.ModelProto, opset: int) -> None:
    """Declares the opset, and the file format that came with it: older runtimes refuse newer ones."""
    del model.opset_import[:]
    model.opset_import.append(helper.make_opsetid("", opset))
    model.ir_version = helper.find_min_ir_version_for(model.opset_import)
