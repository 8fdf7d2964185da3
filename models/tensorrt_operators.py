"""The ONNX operators that TensorRT 8.4 reads, and what of a graph is not among them.

The list is NVIDIA's: github.com/onnx/onnx-tensorrt/blob/009d6541b4ee1fa3f3150cd7cbabe7e56aa54840/docs/operators.md ("TensorRT 8.4 supports
operators up to Opset 13"). Later versions read more.
"""

import onnx

READ = """
Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh AveragePool BatchNormalization Cast Ceil Celu Clip Concat Constant
ConstantOfShape Conv ConvTranspose Cos Cosh CumSum DepthToSpace DequantizeLinear Div Dropout Einsum Elu Equal Erf Exp Expand EyeLike
Flatten Floor GRU Gather GatherElements GatherND Gemm GlobalAveragePool GlobalLpPool GlobalMaxPool Greater GreaterOrEqual HardSigmoid
Identity If ImageScaler InstanceNormalization IsNaN LRN LSTM LeakyRelu Less LessOrEqual Log LogSoftmax Loop LpNormalization LpPool
MatMul Max MaxPool Mean Min Mul Neg NonMaxSuppression Not Or PRelu Pad ParametricSoftplus Pow QuantizeLinear RNN RandomUniform
RandomUniformLike Range ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum
ReduceSumSquare Relu Reshape Resize ReverseSequence Round ScaledTanh Scan Scatter ScatterElements ScatterND Selu Shape Sigmoid Sign
Sin Sinh Size Slice Softmax Softplus Softsign SpaceToDepth Split Sqrt Squeeze Sub Sum Tan Tanh ThresholdedRelu Tile TopK Transpose
Unsqueeze Upsample Where Xor
"""
TENSORRT_OPERATORS = frozenset(READ.split())
OVER_A_PLANE = ("Conv", "MaxPool")  # "2D or 3D only"
EIGHT_BITS = ("QuantizeLinear", "DequantizeLinear")  # "zero point must be zero"


def unsupported(model: onnx.ModelProto) -> list[str]:
    """What of a graph the list does not hold, in words; nothing is good."""
    signed = {tensor.name for tensor in model.graph.initializer if _is_int8_zero(tensor)}
    faults = {fault for node in model.graph.node if (fault := _fault(node, signed))}
    return sorted(faults)


def _fault(node: onnx.NodeProto, signed: set[str]) -> str | None:
    if node.op_type not in TENSORRT_OPERATORS:
        return node.op_type
    if node.op_type in OVER_A_PLANE and len(_attribute(node, "kernel_shape")) == 1:
        return f"{node.op_type} over one dimension"
    if node.op_type in EIGHT_BITS and not signed & set(node.input[2:]):
        return f"{node.op_type} with a zero point that is not 0 in int8"
    return None


def _attribute(node: onnx.NodeProto, name: str) -> list[int]:
    return [value for attribute in node.attribute if attribute.name == name for value in attribute.ints]


def _is_int8_zero(tensor: onnx.TensorProto) -> bool:
    """Is it a zero point, or a row of them, of int8 and 0?"""
    return tensor.data_type == onnx.TensorProto.INT8 and not onnx.numpy_helper.to_array(tensor).any()
