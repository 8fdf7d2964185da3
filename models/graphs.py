"""Builds ONNX graphs from plain arrays: patches in, scores and embeddings out. Knows nothing of any network."""

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from models.frontend import MEL_BANDS, PATCH_FRAMES

OPSET = 17
IR_VERSION = 8  # the one that came with opset 17: older runtimes refuse newer ones


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

    def model(self, outputs: dict[str, int], name: str) -> onnx.ModelProto:
        """The finished graph: "patches" [P, 96, 64] -> each output [P, width]. Raises onnx's error when it is not sound."""
        patches = helper.make_tensor_value_info("patches", TensorProto.FLOAT, ["P", PATCH_FRAMES, MEL_BANDS])
        results = [helper.make_tensor_value_info(o, TensorProto.FLOAT, ["P", width]) for o, width in outputs.items()]
        graph = helper.make_graph(self.nodes, name, [patches], results, self.initializers)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
        onnx.checker.check_model(model)
        return model
