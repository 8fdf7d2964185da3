"""What is asked of TensorRT exists in each of its versions. No engine is built here: that takes NVIDIA's libraries and a GPU.

PRESENT is read from the Python bindings: of 8.2 from python/src/infer/pyCore.cpp in github.com/NVIDIA/TensorRT (052281f), of 8.6.1, 10.3.0
and 11.4.0 from the published packages tensorrt-bindings and tensorrt-cu12-bindings, whose classes were listed with dir().
"""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import onnx
import pytest

from models.engine import build_engine, build_plan, network_flags, trtexec_line
from models.engine_network import EngineTensor, list_tensors, set_batch
from models.errors import BadOption, JobFailed
from models.graphs import GraphBuilder
from tests.tiny_models import build_tone_graph

ALL = ("8.2", "8.6", "10.3", "11.4")
EIGHT, UP_TO_10, FROM_8_6 = ALL[:2], ALL[:3], ALL[1:]
PRESENT = {
    "NetworkDefinitionCreationFlag": {"EXPLICIT_BATCH": UP_TO_10},
    "BuilderFlag": {"FP16": UP_TO_10, "INT8": UP_TO_10},
    "MemoryPoolType": {"WORKSPACE": FROM_8_6},
    "TensorIOMode": {"INPUT": FROM_8_6},
    "Logger": {"WARNING": ALL},
    "Builder": {
        "build_serialized_network": ALL,
        "create_builder_config": ALL,
        "create_network": ALL,
        "create_optimization_profile": ALL,
    },
    "INetworkDefinition": {},
    "OnnxParser": {"get_error": ALL, "num_errors": ALL, "parse": ALL},
    "ParserError": {"desc": ALL},
    "IOptimizationProfile": {"set_shape": ALL},
    "IBuilderConfig": {
        "add_optimization_profile": ALL,
        "max_workspace_size": EIGHT,
        "set_flag": ALL,
        "set_memory_pool_limit": FROM_8_6,
    },
    "ICudaEngine": {
        "binding_is_input": EIGHT,
        "get_binding_name": EIGHT,
        "get_binding_shape": EIGHT,
        "get_profile_shape": EIGHT,
        "get_tensor_mode": FROM_8_6,
        "get_tensor_name": FROM_8_6,
        "get_tensor_profile_shape": FROM_8_6,
        "get_tensor_shape": FROM_8_6,
        "num_bindings": EIGHT,
        "num_io_tensors": FROM_8_6,
    },
    "IExecutionContext": {"set_binding_shape": EIGHT, "set_input_shape": FROM_8_6},
}


class Recorded:
    """An object of one class of one version: it has what PRESENT says and nothing else, and writes down what is done with it."""

    def __init__(self, kind: str, version: str, log: list[tuple[Any, ...]], **answers: Any) -> None:
        has = {name for name, versions in PRESENT[kind].items() if version in versions}
        object.__setattr__(self, "_parts", (kind, has, log, answers))

    def __getattr__(self, name: str) -> Any:
        kind, has, log, answers = self._parts
        if name not in has:
            raise AttributeError(f"{kind} has no {name}")
        if name in answers and not callable(answers[name]):
            return answers[name]
        answer = answers.get(name, lambda *_: None)

        def call(*given: Any) -> Any:
            log.append((f"{kind}.{name}", *given))
            return answer(*given)

        return call

    def __setattr__(self, name: str, value: Any) -> None:
        kind, has, log, _ = self._parts
        if name not in has:
            raise AttributeError(f"{kind} has no {name}")
        log.append((f"{kind}.{name}", value))


class Module:
    """The tensorrt module of one version, as far as it is used; `readable`: does its parser read the graph?"""

    def __init__(self, version: str, readable: bool = True, buildable: bool = True) -> None:
        self.log: list[tuple[Any, ...]] = []

        def make(kind: str, **answers: Any) -> Recorded:
            return Recorded(kind, version, self.log, **answers)

        config, profile = make("IBuilderConfig"), make("IOptimizationProfile")
        error = make("ParserError", desc=lambda: "no importer for STFT")
        self.NetworkDefinitionCreationFlag = make("NetworkDefinitionCreationFlag", EXPLICIT_BATCH=0)
        self.BuilderFlag = make("BuilderFlag", FP16="FP16", INT8="INT8")
        self.MemoryPoolType = make("MemoryPoolType", WORKSPACE="WORKSPACE")
        self.TensorIOMode = make("TensorIOMode", INPUT="INPUT")
        self._builder = make(
            "Builder",
            create_network=lambda flags: make("INetworkDefinition"),
            create_builder_config=lambda: config,
            create_optimization_profile=lambda: profile,
            build_serialized_network=lambda *_: b"plan" if buildable else None,
        )
        self._parser = make("OnnxParser", parse=lambda _: readable, num_errors=1, get_error=lambda _: error)
        self.Logger = LoggerClass
        self.make = make

    def Builder(self, logger: Any) -> Recorded:
        return self._builder

    def OnnxParser(self, network: Any, logger: Any) -> Recorded:
        return self._parser

    def calls(self, name: str) -> list[tuple[Any, ...]]:
        """What each call of a method, or each setting of an attribute, was given."""
        return [given for called, *given in self.log if called == name]


class LoggerClass:
    WARNING = 2

    def __init__(self, severity: int) -> None:
        assert severity == self.WARNING


@pytest.mark.parametrize("version", ALL)
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_engine_is_built_by_calls_that_the_version_has(version: str, precision: Any) -> None:
    trt = Module(version)
    assert build_plan(trt, build_tone_graph(), precision, batch=8, workspace_mib=64) == b"plan"
    assert trt.calls("Builder.create_network") == [[0 if version == "11.4" else 1]]
    assert trt.calls("IOptimizationProfile.set_shape") == [["patches", (1, 96, 64), (8, 96, 64), (8, 96, 64)]]
    assert len(trt.calls("IBuilderConfig.add_optimization_profile")) == 1
    pool = trt.calls("IBuilderConfig.set_memory_pool_limit") or trt.calls("IBuilderConfig.max_workspace_size")
    assert pool == [[64 << 20]] if version == "8.2" else pool == [["WORKSPACE", 64 << 20]]


@pytest.mark.parametrize("version", ALL)
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_precision_is_a_flag_or_the_type_of_the_graph(version: str, precision: Any) -> None:
    trt = Module(version)
    build_plan(trt, build_tone_graph(), precision, batch=1)
    wanted = [] if precision == "fp32" or version == "11.4" else [[precision.upper()]]
    assert trt.calls("IBuilderConfig.set_flag") == wanted
    ((serialized,),) = trt.calls("OnnxParser.parse")
    types = {tensor.data_type for tensor in onnx.load_from_string(serialized).graph.initializer}
    assert (onnx.TensorProto.FLOAT16 in types) == (precision == "fp16" and version == "11.4")


def test_graph_that_the_parser_cannot_read_is_an_error_in_its_words() -> None:
    with pytest.raises(JobFailed, match="cannot read the graph: no importer for STFT"):
        build_plan(Module("10.3", readable=False), build_tone_graph(), "fp32", batch=1)


def test_engine_that_cannot_be_built_is_an_error() -> None:
    with pytest.raises(JobFailed, match="cannot build"):
        build_plan(Module("8.6", buildable=False), build_tone_graph(), "fp32", batch=1)


def test_explicit_batch_is_asked_for_where_it_can_be() -> None:
    assert [network_flags(Module(version)) for version in ALL] == [1, 1, 1, 0]


def engine(trt: Module) -> Recorded:
    """An engine for 1 to 8 patches: one input, two outputs."""
    tensors = {"patches": (-1, 96, 64), "scores": (-1, 3), "embeddings": (-1, 64)}
    names, shapes = list(tensors), list(tensors.values())
    sizes = [(count, 96, 64) for count in (1, 8, 8)]
    return trt.make(
        "ICudaEngine",
        num_bindings=3,
        num_io_tensors=3,
        get_binding_name=lambda number: names[number],
        get_tensor_name=lambda number: names[number],
        binding_is_input=lambda number: number == 0,
        get_tensor_mode=lambda name: "INPUT" if name == "patches" else "OUTPUT",
        get_binding_shape=lambda number: shapes[number],
        get_tensor_shape=lambda name: tensors[name],
        get_profile_shape=lambda profile, number: sizes,
        get_tensor_profile_shape=lambda name, profile: sizes,
    )


@pytest.mark.parametrize("version", ALL)
def test_inputs_and_outputs_are_found_in_order_with_the_largest_batch(version: str) -> None:
    trt = Module(version)
    assert list_tensors(trt, engine(trt)) == [
        EngineTensor("patches", True, (8, 96, 64)),
        EngineTensor("scores", False, (8, 3)),
        EngineTensor("embeddings", False, (8, 64)),
    ]


@pytest.mark.parametrize("version", ALL)
def test_context_is_told_the_batch(version: str) -> None:
    trt = Module(version)
    set_batch(trt.make("IExecutionContext"), list_tensors(trt, engine(trt)), 5)
    if version == "8.2":
        assert trt.calls("IExecutionContext.set_binding_shape") == [[0, (5, 96, 64)]]
    else:
        assert trt.calls("IExecutionContext.set_input_shape") == [["patches", (5, 96, 64)]]


def test_memory_of_a_tensor_is_that_of_its_largest_batch() -> None:
    assert EngineTensor("scores", False, (8, 3)).nbytes == 8 * 3 * 4


@pytest.mark.skipif(find_spec("tensorrt") is not None, reason="TensorRT is here")
def test_without_tensorrt_one_learns_where_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(BadOption, match="JetPack"):
        build_engine(tmp_path / "model.onnx", tmp_path / "model.engine", "fp32")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("precision", "jetpack", "ending"),
    [
        ("fp32", "6.2", "--memPoolSize=workspace:512"),
        ("fp16", "5.1", "--fp16 --memPoolSize=workspace:512"),
        ("int8", "4.6.1", "--int8 --workspace=512"),
    ],
)
def test_line_for_the_device_is_whole(tmp_path: Path, precision: Any, jetpack: str, ending: str) -> None:
    graph = tmp_path / "tones.onnx"
    onnx.save(build_tone_graph(), graph)
    shapes = "--minShapes=patches:1x96x64 --optShapes=patches:4x96x64 --maxShapes=patches:4x96x64"
    assert trtexec_line(graph, precision, 4, jetpack) == (
        f"/usr/src/tensorrt/bin/trtexec --onnx=tones.onnx --saveEngine=tones.engine {shapes} {ending}"
    )


def test_unknown_jetpack_is_refused_with_those_that_are_known(tmp_path: Path) -> None:
    with pytest.raises(BadOption, match=r"JetPack 3\.0; known: 4\.6, 4\.6\.1, 5\.1"):
        trtexec_line(tmp_path / "model.onnx", "fp16", 1, "3.0")


def test_graph_of_waveforms_is_described_by_its_own_input(tmp_path: Path) -> None:
    graph = GraphBuilder()
    graph.node("Identity", ["waveform"], "scores")
    onnx.save(graph.model({"scores": 100}, "echo", {"waveform": (100,)}), tmp_path / "echo.onnx")
    assert "--optShapes=waveform:2x100 " in trtexec_line(tmp_path / "echo.onnx", "fp32", 2)
