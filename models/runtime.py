"""Runs a network: patches [P, frames, 64] -> scores [P, C], embeddings [P, D]. One interface over ONNX Runtime and torch.

ONNX Runtime serves on CPUs (int8) and, where its providers are installed, on CUDA and TensorRT (float32); torch serves on CUDA where only
torch is there. On a CPU one process uses one thread: a process per core is the fastest layout (measured). Knows nothing of labels.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
import onnxruntime

from models.bundle import Bundle, FrontEnd, Precision
from models.errors import BadOption, WeightsCorrupt
from models.frontend import MEL_BANDS, FloatArray

if TYPE_CHECKING:
    import torch

Network = Callable[[FloatArray], tuple[FloatArray, FloatArray]]
Device = Literal["auto", "cpu", "cuda", "tensorrt", "torch"]
PROVIDERS: dict[str, str] = {
    "tensorrt": "TensorrtExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "cpu": "CPUExecutionProvider",
}
BATCH_PATCHES = 32  # more at once gains nothing on a CPU (flat from 10 on), and only costs memory


def load_runtime(
    bundle: Bundle, device: Device = "auto", precision: Precision | None = None, threads: int = 1
) -> Network:
    """A bundle -> a callable over its graph. int8 on a CPU, float elsewhere, unless `precision` says otherwise.

    Raises BadOption when the device is not there, WeightsCorrupt when the graph does not load or does not fit the labels.
    """
    device = _choose_device(device)
    graph = bundle.graph(precision or ("int8" if device == "cpu" else "float"))
    if device == "torch":
        return _load_torch(graph)
    network = OnnxNetwork(graph.read_bytes(), PROVIDERS[device], threads)
    if network.classes != len(bundle.labels):
        raise WeightsCorrupt(
            f"{graph}: the graph scores {network.classes} classes, labels.csv names {len(bundle.labels)}"
        )
    return network


def _load_torch(graph: Path) -> "TorchNetwork":
    try:
        import torch

        from models.yamnet import load_yamnet_graph
    except ImportError as error:
        raise BadOption("device 'torch' needs torch: make setup") from error
    if not torch.cuda.is_available():
        raise BadOption("device 'torch' needs a CUDA GPU, and torch sees none: use 'cpu'")
    return TorchNetwork(load_yamnet_graph(graph), "cuda")


def _choose_device(device: Device) -> Device:
    available = onnxruntime.get_available_providers()
    if device == "auto":
        return "cuda" if PROVIDERS["cuda"] in available else "cpu"
    if device not in get_args(Device):
        raise BadOption(f"device {device!r}; there are: {', '.join(get_args(Device))}")
    if device in PROVIDERS and PROVIDERS[device] not in available:
        raise BadOption(f"device {device!r} needs ONNX Runtime's {PROVIDERS[device]}; here are: {', '.join(available)}")
    return device


class OnnxNetwork:
    """A graph in ONNX Runtime."""

    def __init__(self, graph: bytes, provider: str, threads: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session = onnxruntime.InferenceSession(graph, options, providers=[provider])
            classes = {output.name: output.shape[-1] for output in self._session.get_outputs()}
            self.classes = int(classes["scores"])
        except Exception as error:  # its errors share no base class but this
            raise WeightsCorrupt(f"the graph does not load: {error}") from error

    def __call__(self, patches: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Patches [P, frames, 64] -> scores [P, C], embeddings [P, D]."""
        scores, embeddings = self._session.run(["scores", "embeddings"], {"patches": np.ascontiguousarray(patches)})
        return scores, embeddings


class TorchNetwork:
    """A torch module on a device."""

    def __init__(self, module: "torch.nn.Module", device: str) -> None:
        import torch

        self._torch = torch
        self._device = torch.device(device)
        self._module = module.eval().to(self._device)

    def __call__(self, patches: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Patches [P, frames, 64] -> scores [P, C], embeddings [P, D]."""
        with self._torch.inference_mode():
            batch = self._torch.from_numpy(np.ascontiguousarray(patches)).to(self._device)
            scores, embeddings = self._module(batch)
        return scores.cpu().numpy(), embeddings.cpu().numpy()


def trial_patch(front_end: FrontEnd) -> FloatArray:
    """A patch of zeros [1, frames, 64], to try a network with."""
    return np.zeros((1, front_end.frames, MEL_BANDS), np.float32)


def warm_up(network: Network, front_end: FrontEnd) -> None:
    """Runs one patch, so that the first caller does not wait for memory and kernels."""
    network(trial_patch(front_end))
