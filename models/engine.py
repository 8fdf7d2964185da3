"""TensorRT, from 8.2 (JetPack 4.6.1) to 11: an ONNX graph -> an engine, here or by a command for the device.

What differs between versions is asked of the module itself, which is imported only where an engine is built or run:

- explicit batch: a flag that 8 needs, 10 ignores, and 11 has no more;
- workspace: `max_workspace_size` up to 8.3, `set_memory_pool_limit` from 8.4 on;
- precision: builder flags FP16 and INT8 up to 10; from 11 on only the graph's own types count, so a float graph is made float16 here.

Sources: the Python bindings of 8.2 (python/src/infer/pyCore.cpp in github.com/NVIDIA/TensorRT), of 8.6.1, 10.3.0 and 11.4.0 as they are
published, and docs.nvidia.com/deeplearning/tensorrt/latest/api/migration/tensorrt-10x-to-11x-python-api-reference.html.
"""

from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import onnx

from models.errors import BadOption, JobFailed
from models.export import as_half, input_shape

EnginePrecision = Literal["fp32", "fp16", "int8"]

# docs.nvidia.com/jetson/jetpack: the TensorRT that comes with each JetPack
JETPACKS = {
    "4.6": (8, 0),
    "4.6.1": (8, 2),
    "5.1": (8, 5),
    "6.1": (10, 3),
    "6.2": (10, 3),
    "7.1": (10, 13),
    "7.2": (10, 16),
}
JETPACK = "6.2"
MEMORY_POOLS_SINCE = (8, 4)
WORKSPACE_MIB = 512


def load_tensorrt() -> ModuleType:
    """The tensorrt module. Raises BadOption that says how to get it."""
    try:
        import tensorrt
    except ImportError as error:
        raise BadOption(
            "TensorRT's Python module is not here: on a Jetson it comes with JetPack (apt-get install python3-libnvinfer); "
            "elsewhere: pip install 'earshot[tensorrt]' on a machine with an NVIDIA GPU. Or run the trtexec line on the device"
        ) from error
    module: ModuleType = tensorrt
    return module


def build_engine(
    graph: Path, out: Path, precision: EnginePrecision, batch: int = 1, workspace_mib: int = WORKSPACE_MIB
) -> None:
    """An ONNX file with one input -> an engine file for this GPU, for 1 to `batch` items. int8 takes a graph with Q/DQ.

    Raises BadOption without TensorRT, JobFailed with its parser's words where it cannot read or build the graph.
    """
    trt = load_tensorrt()
    plan = build_plan(trt, onnx.load(graph), precision, batch, workspace_mib)
    out.write_bytes(plan)


def build_plan(
    trt: Any, model: onnx.ModelProto, precision: EnginePrecision, batch: int, workspace_mib: int = WORKSPACE_MIB
) -> bytes:
    """A graph -> a serialized engine, by the given module."""
    logger = trt.Logger(trt.Logger.WARNING)
    builder = trt.Builder(logger)
    network = builder.create_network(network_flags(trt))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(typed_graph(trt, model, precision).SerializeToString()):
        faults = "; ".join(parser.get_error(number).desc() for number in range(parser.num_errors))
        raise JobFailed(f"TensorRT cannot read the graph: {faults}")
    config = builder.create_builder_config()
    limit_workspace(trt, config, workspace_mib << 20)
    for flag in precision_flags(trt, precision):
        config.set_flag(flag)
    profile = builder.create_optimization_profile()
    name, shape = model.graph.input[0].name, input_shape(model)
    profile.set_shape(name, (1, *shape), (batch, *shape), (batch, *shape))
    config.add_optimization_profile(profile)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise JobFailed("TensorRT cannot build the engine: its log above says why")
    return bytes(plan)


def network_flags(trt: Any) -> int:
    """What create_network takes: explicit batch, where there is still a choice."""
    flag = getattr(trt.NetworkDefinitionCreationFlag, "EXPLICIT_BATCH", None)
    return 0 if flag is None else 1 << int(flag)


def limit_workspace(trt: Any, config: Any, limit_bytes: int) -> None:
    """Limits the memory that the builder's kernels may take."""
    if hasattr(config, "set_memory_pool_limit"):
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, limit_bytes)
    else:
        config.max_workspace_size = limit_bytes


def precision_flags(trt: Any, precision: EnginePrecision) -> list[Any]:
    """The builder's flag for a precision; none where the graph's types say it all."""
    flag = getattr(trt.BuilderFlag, precision.upper(), None)
    return [] if flag is None else [flag]


def typed_graph(trt: Any, model: onnx.ModelProto, precision: EnginePrecision) -> onnx.ModelProto:
    """The graph to build: in float16 where the builder has no flag for it."""
    return as_half(model) if precision == "fp16" and not hasattr(trt.BuilderFlag, "FP16") else model


def trtexec_line(
    graph: Path, precision: EnginePrecision, batch: int = 1, jetpack: str = JETPACK, workspace_mib: int = WORKSPACE_MIB
) -> str:
    """The command that builds the same engine on a device. Raises BadOption for an unknown JetPack.

    No JetPack has TensorRT 11 yet, whose trtexec has no flags for precision.
    """
    if jetpack not in JETPACKS:
        raise BadOption(f"JetPack {jetpack}; known: {', '.join(JETPACKS)}")
    version = JETPACKS[jetpack]
    model = onnx.load(graph, load_external_data=False)
    name, shape = model.graph.input[0].name, "x".join(map(str, input_shape(model)))
    pool = (
        f"--memPoolSize=workspace:{workspace_mib}" if version >= MEMORY_POOLS_SINCE else f"--workspace={workspace_mib}"
    )
    words = [
        "/usr/src/tensorrt/bin/trtexec",
        f"--onnx={graph.name}",
        f"--saveEngine={graph.stem}.engine",
        *(f"--{size}Shapes={name}:{count}x{shape}" for size, count in (("min", 1), ("opt", batch), ("max", batch))),
        *([] if precision == "fp32" else [f"--{precision}"]),
        pool,
    ]
    return " ".join(words)
