"""Runs a TensorRT engine on this GPU, from 8.2 to 11, as one of the runtime's networks.

Inputs and outputs are bindings by number up to 8.4, tensors by name from 8.5 on; `execute_v2`, with addresses in order, is in all.
"""

import ctypes
import ctypes.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from models.engine import load_tensorrt
from models.errors import BadOption, JobFailed, WeightsCorrupt
from models.frontend import FloatArray


@dataclass(frozen=True)
class EngineTensor:
    """An input or output of an engine; the shape is that of the largest batch."""

    name: str
    is_input: bool
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Its size as float32."""
        return 4 * int(np.prod(self.shape))


def list_tensors(trt: Any, engine: Any) -> list[EngineTensor]:
    """An engine's inputs and outputs, in the order of its bindings."""
    if hasattr(engine, "get_tensor_profile_shape"):
        names = [engine.get_tensor_name(number) for number in range(engine.num_io_tensors)]
        inputs = [engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT for name in names]
        shapes = [tuple(engine.get_tensor_shape(name)) for name in names]
        largest = [
            engine.get_tensor_profile_shape(name, 0)[2] for name, given in zip(names, inputs, strict=True) if given
        ]
    else:
        names = [engine.get_binding_name(number) for number in range(engine.num_bindings)]
        inputs = [engine.binding_is_input(number) for number in range(engine.num_bindings)]
        shapes = [tuple(engine.get_binding_shape(number)) for number in range(engine.num_bindings)]
        largest = [engine.get_profile_shape(0, number)[2] for number, given in enumerate(inputs) if given]
    batch = largest[0][0]
    return [
        EngineTensor(name, given, (batch, *shape[1:])) for name, given, shape in zip(names, inputs, shapes, strict=True)
    ]


def set_batch(context: Any, tensors: list[EngineTensor], count: int) -> None:
    """Says how many items the next run has."""
    for number, tensor in enumerate(tensors):
        if tensor.is_input and hasattr(context, "set_input_shape"):
            context.set_input_shape(tensor.name, (count, *tensor.shape[1:]))
        elif tensor.is_input:
            context.set_binding_shape(number, (count, *tensor.shape[1:]))


class EngineNetwork:
    """An engine file on this GPU, as a runtime's network: patches [P, F, 64] -> scores [P, C], embeddings [P, D].

    An engine that takes waveforms gets waveforms [P, T]. Raises BadOption without TensorRT or CUDA, WeightsCorrupt for an engine that was
    built by another version or for another GPU.
    """

    def __init__(self, path: Path) -> None:
        trt = load_tensorrt()
        self._runtime = trt.Runtime(trt.Logger(trt.Logger.WARNING))
        self._engine = self._runtime.deserialize_cuda_engine(path.read_bytes())
        if self._engine is None:
            raise WeightsCorrupt(
                f"{path}: not an engine of this TensorRT and this GPU; build it here: earshot export MODEL --format tensorrt"
            )
        self._context = self._engine.create_execution_context()
        self._tensors = list_tensors(trt, self._engine)
        self._memory = [DeviceMemory(tensor.nbytes) for tensor in self._tensors]

    def __call__(self, patches: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Patches [P, F, 64] -> scores [P, C], embeddings [P, D]."""
        outputs = self.run(patches)
        return outputs["scores"], outputs["embeddings"]

    def run(self, inputs: FloatArray) -> dict[str, FloatArray]:
        """The engine's inputs [P, ...] -> each of its outputs; P may be larger than the engine's batch."""
        batch = self._tensors[0].shape[0]
        parts = [self._run_batch(inputs[start : start + batch]) for start in range(0, len(inputs), batch)]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _run_batch(self, inputs: FloatArray) -> dict[str, FloatArray]:
        set_batch(self._context, self._tensors, len(inputs))
        pairs = list(zip(self._tensors, self._memory, strict=True))
        for tensor, memory in pairs:
            if tensor.is_input:
                memory.write(np.ascontiguousarray(inputs, np.float32))
        if not self._context.execute_v2([memory.address for memory in self._memory]):
            raise JobFailed("TensorRT could not run the engine: its log above says why")
        return {
            tensor.name: memory.read((len(inputs), *tensor.shape[1:]))
            for tensor, memory in pairs
            if not tensor.is_input
        }


class DeviceMemory:
    """Bytes on the GPU, through the CUDA runtime's C functions, which are wherever TensorRT is. Freed with the object."""

    def __init__(self, nbytes: int) -> None:
        self._cuda = _load_cuda_runtime()
        address = ctypes.c_void_p()
        self._check(self._cuda.cudaMalloc(ctypes.byref(address), ctypes.c_size_t(nbytes)))
        self.address = int(address.value or 0)

    def write(self, array: FloatArray) -> None:
        """Copies an array to the GPU."""
        self._copy(self.address, array.ctypes.data, array.nbytes)

    def read(self, shape: tuple[int, ...]) -> FloatArray:
        """Copies float32 values from the GPU."""
        array = np.empty(shape, np.float32)
        self._copy(array.ctypes.data, self.address, array.nbytes)
        return array

    def _copy(self, to: int, source: int, nbytes: int) -> None:
        by_address = 4  # cudaMemcpyDefault: the addresses say which way
        self._check(
            self._cuda.cudaMemcpy(ctypes.c_void_p(to), ctypes.c_void_p(source), ctypes.c_size_t(nbytes), by_address)
        )

    def _check(self, code: int) -> None:
        if code:
            raise JobFailed(f"CUDA error {code}: see cudaError_t in docs.nvidia.com/cuda/cuda-runtime-api")

    def __del__(self) -> None:
        if getattr(self, "address", 0):
            self._cuda.cudaFree(ctypes.c_void_p(self.address))


def _load_cuda_runtime() -> ctypes.CDLL:
    """Raises BadOption where there is none."""
    try:
        return ctypes.CDLL(ctypes.util.find_library("cudart") or "libcudart.so")
    except OSError as error:
        raise BadOption(
            "CUDA's runtime library, libcudart, is not here: it comes with JetPack or the CUDA toolkit"
        ) from error
