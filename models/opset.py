"""A graph at another opset, the version of ONNX's operators: old devices read old versions.

Opsets 13 to 17 differ little in what networks use: newer versions of an operator allow more number types and attributes. Where that is
all, relabelling is exact; a layer norm, which came with 17, is spelled out.
"""

import numpy as np
import onnx
from onnx import defs

from models.errors import BadOption
from models.graphs import OPSET, GraphBuilder, mark_opset, opset_of

OLDEST_OPSET = 13  # TensorRT 8, of JetPack 4.6, reads it
LAYER_NORM_OPSET = 17
# Operators that changed between the two in nothing but number types and attributes that are off by default (onnx.ai/onnx/operators).
UNCHANGED = ("Add", "BatchNormalization", "Div", "Identity", "LSTM", "Mul", "Pow", "Relu", "Reshape", "Shape", "Sub")


def set_opset(model: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    """The same graph at another opset, 13 to 17. Raises BadOption, naming operators that are not the same there."""
    if not OLDEST_OPSET <= opset <= OPSET:
        raise BadOption(f"opset {opset}; there are {OLDEST_OPSET} to {OPSET}")
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    if opset < LAYER_NORM_OPSET:
        _spell_out_layer_norms(changed.graph)
    nodes = changed.graph.node
    if foreign := {node.op_type for node in nodes if not _is_the_same(node.op_type, opset_of(model), opset)}:
        raise BadOption(
            f"opset {opset} has not this form of {', '.join(sorted(foreign))}: say --opset {opset_of(model)}"
        )
    for node in nodes:
        _drop_unknown_zeros(node, opset)
    mark_opset(changed, opset)
    onnx.checker.check_model(changed, full_check=True)
    return changed


def _is_the_same(operator: str, opset: int, other: int) -> bool:
    """Does an operator do the same at both opsets?"""
    versions = [
        defs.get_schema(operator, version).since_version for version in (opset, other) if defs.has(operator, version)
    ]
    return len(versions) == 2 and (versions[0] == versions[1] or operator in UNCHANGED)


def _drop_unknown_zeros(node: onnx.NodeProto, opset: int) -> None:
    """Takes away attributes that the opset does not know where they are off; others the checker refuses."""
    known = defs.get_schema(node.op_type, opset).attributes
    kept = [attribute for attribute in node.attribute if attribute.name in known or attribute.i]
    del node.attribute[:]
    node.attribute.extend(kept)


def _spell_out_layer_norms(graph: onnx.GraphProto) -> None:
    """Each layer norm over the last axis -> (x - mean) / sqrt(variance + epsilon) * scale + bias."""
    spelled = GraphBuilder()
    for node in graph.node:
        if node.op_type == "LayerNormalization":
            _spell_out(node, spelled)
        else:
            spelled.nodes.append(node)
    nodes = list(spelled.nodes)
    del graph.node[:]
    graph.node.extend(nodes)
    graph.initializer.extend(spelled.initializers)


def _spell_out(norm: onnx.NodeProto, graph: GraphBuilder) -> None:
    rows, scale, bias = norm.input
    name = norm.output[0]
    epsilon = next((attribute.f for attribute in norm.attribute if attribute.name == "epsilon"), 1e-5)
    mean = graph.node("ReduceMean", [rows], f"{name}.mean", axes=[-1])
    centred = graph.node("Sub", [rows, mean], f"{name}.centred")
    squares = graph.node("Mul", [centred, centred], f"{name}.squares")
    variance = graph.node("ReduceMean", [squares], f"{name}.variance", axes=[-1])
    padded = graph.node("Add", [variance, graph.constant(f"{name}.epsilon", np.float32(epsilon))], f"{name}.padded")
    deviation = graph.node("Sqrt", [padded], f"{name}.deviation")
    standard = graph.node("Div", [centred, deviation], f"{name}.standard")
    graph.node("Add", [graph.node("Mul", [standard, scale], f"{name}.scaled"), bias], name)
