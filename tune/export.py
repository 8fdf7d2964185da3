"""A model for other places: its graph as one ONNX file, in int8, at an older opset, with the front end inside, or as a TensorRT engine.

Each export is compared with the model on real clips before it is written, and the agreement goes into the model's card.
"""

import json
import os
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, cast

import onnx

from models.bundle import CARD, Bundle, load_bundle, sha256_of
from models.engine import JETPACK, JETPACKS, EnginePrecision, build_engine, trtexec_line
from models.engine_network import EngineNetwork
from models.errors import BadOption
from models.export import as_half, input_shape, load_float
from models.graphs import OPSET
from models.opset import OLDEST_OPSET, set_opset
from models.quantize import quantize
from models.tensorrt_operators import unsupported
from models.waveform_graph import samples_heard, with_waveform
from tune.agreement import Windows, check_scores, read_windows, run_graph

Format = Literal["onnx", "onnx-int8", "tensorrt"]
PRECISIONS: dict[str, tuple[EnginePrecision, ...]] = {  # the first is the default
    "onnx": ("fp32", "fp16"),
    "onnx-int8": ("int8",),
    "tensorrt": ("fp16", "fp32", "int8"),
}
TRTEXEC = "trtexec.txt"
SERVED = "onnx-int8.onnx"  # runs in the service as the model's int8 graph


@dataclass(frozen=True)
class Request:
    """What to export. `jetpack`: the device that the trtexec line is for."""

    format: Format
    precision: EnginePrecision
    opset: int
    waveform: bool = False
    batch: int = 1
    jetpack: str = JETPACK

    @property
    def name(self) -> str:
        """What the file and its entry in the card are called: tensorrt-int8, onnx-fp32.opset13 ..."""
        kind = "tensorrt" if self.format == "tensorrt" else "onnx"
        opset = "" if self.opset == default_opset(self.format) else f".opset{self.opset}"
        return f"{kind}-{self.precision}{opset}{'.waveform' if self.waveform else ''}"


@dataclass(frozen=True)
class Exported:
    """What was written: the ONNX file, how it agrees with the model, the trtexec line, the engine, and what TensorRT 8.4 does not read."""

    path: Path
    agreement: dict[str, float]
    trtexec: str | None = None
    engine: Path | None = None
    unsupported: tuple[str, ...] = ()


def default_opset(kind: str) -> int:
    """The oldest for TensorRT, whose versions all read it; else the newest."""
    return OLDEST_OPSET if kind == "tensorrt" else OPSET


def choose(
    kind: str,
    precision: str | None = None,
    opset: int | None = None,
    waveform: bool = False,
    batch: int | None = None,
    jetpack: str | None = None,
) -> Request:
    """The request, defaults filled in. Raises BadOption naming what there is."""
    if kind not in PRECISIONS:
        raise BadOption(f"--format {kind}; there are: {', '.join(PRECISIONS)}")
    if precision is not None and precision not in PRECISIONS[kind]:
        raise BadOption(f"--precision {precision}: {kind} has {' and '.join(PRECISIONS[kind])}")
    if kind != "tensorrt" and (batch or jetpack):
        raise BadOption(
            "--batch and --jetpack are for --format tensorrt: an ONNX file takes any number of items, on any device"
        )
    if jetpack is not None and jetpack not in JETPACKS:
        raise BadOption(f"--jetpack {jetpack}; known: {', '.join(JETPACKS)}")
    request = Request(
        format=cast(Format, kind),
        precision=precision or PRECISIONS[kind][0],
        opset=opset or default_opset(kind),
        waveform=waveform,
        batch=batch or 1,
        jetpack=jetpack or JETPACK,
    )
    if request.waveform and (request.format, request.precision) == ("tensorrt", "fp16"):
        raise BadOption(
            "--waveform: TensorRT's float16 cannot hold the squares of a spectrum; say --precision fp32 or int8"
        )
    return request


def export_model(model: Path, request: Request, check: str | None = None, out: Path | None = None) -> Exported:
    """Writes a model's graph as asked for, beside the model or to `out`, and its agreement into the card.

    `check`: a folder of sounds or features, to compare on and to calibrate int8 with. Raises OutputMismatch where the graph does not
    agree with the model, and then writes nothing; BadOption, WrongPath, and as load_bundle.
    """
    bundle = load_bundle(model)
    windows = read_windows(bundle, input_shape(load_float(bundle)), check)
    if request.waveform and windows.waveforms is None:
        raise BadOption("--waveform is checked on sounds: name a folder of them with --check")
    graph = build_graph(bundle, request, windows)
    agreement = check_scores(
        bundle, run_graph(_checked(graph, request), windows.for_graph(graph)), windows, request.precision
    )
    path = out or bundle.path / f"{request.name}.onnx"
    write_whole(path, graph.SerializeToString())
    bundle = update_card(bundle, **_changes(bundle, request, path, agreement))
    exported = Exported(path, agreement)
    return exported if request.format != "tensorrt" else _for_tensorrt(bundle, exported, request, graph, windows)


def build_graph(bundle: Bundle, request: Request, windows: Windows) -> onnx.ModelProto:
    """The graph as asked for, from the bundle's float graph; int8 for CPUs is the bundle's own where it has one."""
    if request.format == "onnx-int8" and _has_own_int8(bundle):
        graph = set_opset(onnx.load(bundle.graph("int8")), request.opset)
    else:
        graph = set_opset(load_float(bundle), request.opset)
        if request.precision == "int8":
            graph = quantize(graph, windows.batches(), "s8s8" if request.format == "tensorrt" else "u8s8")
    if (request.format, request.precision) == ("onnx", "fp16"):
        graph = as_half(graph)
    if request.waveform:
        front_end = bundle.card.front_end
        graph = with_waveform(graph, samples_heard(front_end.frames), front_end.log_offset)
    return graph


def _has_own_int8(bundle: Bundle) -> bool:
    """Did the model come with an int8 graph? One that was made here before is none of its own."""
    return bundle.card.graphs.get("int8", SERVED) != SERVED


def _checked(graph: onnx.ModelProto, request: Request) -> onnx.ModelProto:
    """What is compared: the graph; for float16, of which TensorRT makes its own, the graph in float16."""
    return as_half(graph) if (request.format, request.precision) == ("tensorrt", "fp16") else graph


def _changes(bundle: Bundle, request: Request, path: Path, agreement: dict[str, float]) -> dict[str, Any]:
    """What an export changes in the card: its agreement; and the service's int8 graph, where it is one."""
    changes: dict[str, Any] = {"agreement": bundle.card.agreement | {request.name: agreement}}
    if path == bundle.path / SERVED and not _has_own_int8(bundle):
        changes["graphs"] = bundle.card.graphs | {"int8": path.name}
        changes["files_sha256"] = bundle.card.files_sha256 | {path.name: sha256_of(path)}
    return changes


def _for_tensorrt(
    bundle: Bundle, exported: Exported, request: Request, graph: onnx.ModelProto, windows: Windows
) -> Exported:
    """Stores the trtexec line, and where TensorRT is, builds the engine and checks it as well."""
    path = exported.path
    line = trtexec_line(path, request.precision, request.batch, request.jetpack)
    write_whole(path.parent / TRTEXEC, f"{line}\n".encode())
    exported = replace(exported, trtexec=line, unsupported=tuple(unsupported(graph)))
    if find_spec("tensorrt") is None:
        return exported
    engine = path.with_suffix(".engine")
    build_engine(path, engine, request.precision, request.batch)
    scores = EngineNetwork(engine).run(windows.for_graph(graph))["scores"]
    agreement = check_scores(bundle, scores, windows, request.precision)
    update_card(bundle, agreement=bundle.card.agreement | {f"{request.name}.engine": agreement})
    return replace(exported, engine=engine, agreement=agreement)


def update_card(bundle: Bundle, **changes: Any) -> Bundle:
    """Changes fields of a bundle's card; a reader sees the old card or the new one."""
    card = bundle.card.model_copy(update=changes)
    write_whole(bundle.path / CARD, (json.dumps(card.model_dump(), indent=2) + "\n").encode())
    return load_bundle(bundle.path)


def write_whole(path: Path, content: bytes) -> None:
    """Writes a file; a reader sees the old content or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}-{os.getpid()}")
    draft.write_bytes(content)
    os.replace(draft, path)
