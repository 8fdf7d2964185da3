"""The log-mel front end inside a graph, for devices whose runtime has no STFT: a waveform goes in, the outputs stay the same.

Every operator is one that TensorRT 8 reads at opset 13. The windowed DFT is a convolution with cosines and sines, one step per frame; then
magnitude, mel bands and logarithm follow, as in models/frontend.py. The front end stays float32 before an int8 or float16 network.
"""

import numpy as np
import onnx

from models.errors import BadOption
from models.export import input_shape, output_shape
from models.frontend import (
    FFT_SIZE,
    HOP_SAMPLES,
    WINDOW_SAMPLES,
    YAMNET_OFFSET,
    FloatArray,
    hann_window,
    mel_matrix,
)
from models.graphs import GraphBuilder, opset_of


def samples_heard(frames: int) -> int:
    """How many samples so many frames hear: 15,600 for the 96 of a patch."""
    return (frames - 1) * HOP_SAMPLES + WINDOW_SAMPLES


def with_waveform(model: onnx.ModelProto, samples: int, log_offset: float = YAMNET_OFFSET) -> onnx.ModelProto:
    """A graph that takes "patches" [P, F, 64] -> one with the same outputs that takes "waveform" [P, samples], float32 at 16 kHz.

    Where the waveform ends before the F frames do, silence follows, as in models/frontend.py. Raises BadOption where it is longer.
    """
    frames, _ = input_shape(model)
    silence = samples_heard(frames) - samples
    if samples < 1 or silence < 0:
        raise BadOption(f"{samples} samples; this model hears 1 to {samples_heard(frames)} at a time")
    graph = GraphBuilder()
    row = graph.node("Unsqueeze", ["waveform", graph.constant("row_axes", np.array([1, 2], np.int64))], "row")
    step = {"strides": [1, HOP_SAMPLES], "pads": [0, 0, 0, silence]}
    squares = []
    for name, filters in dft_filters().items():
        part = graph.node("Conv", [row, graph.constant(f"{name}_filters", filters)], name, **step)
        squares.append(graph.node("Mul", [part, part], f"{name}_squared"))
    magnitude = graph.node("Sqrt", [graph.node("Add", squares, "power")], "magnitude")  # [P, bins, 1, F]
    columns = graph.node("Squeeze", [magnitude, graph.constant("height_axis", np.array([2], np.int64))], "columns")
    spectrum = graph.node("Transpose", [columns], "spectrum", perm=[0, 2, 1])
    mel = graph.node("MatMul", [spectrum, graph.constant("mel_matrix", mel_matrix()[heard_bins()])], "mel")
    graph.node(
        "Log", [graph.node("Add", [mel, graph.constant("log_offset", np.float32(log_offset))], "audible")], "log_mel"
    )
    outputs = {output.name: output_shape(model, output.name)[0] for output in model.graph.output}
    graph.insert(model, {"patches": "log_mel"} | {name: name for name in outputs}, "network/")
    return graph.model(outputs, model.graph.name, {"waveform": (samples,)}, opset_of(model))


def heard_bins() -> slice:
    """The spectrum's bins that reach any mel band."""
    heard = np.flatnonzero(mel_matrix().any(axis=1))
    return slice(int(heard[0]), int(heard[-1]) + 1)


def dft_filters() -> dict[str, FloatArray]:
    """The windowed DFT as convolution filters [bins, 1, 1, 400], for each bin that is heard: real parts and imaginary parts."""
    bins = np.arange(FFT_SIZE // 2 + 1)[heard_bins(), np.newaxis]
    phase = 2 * np.pi * bins * np.arange(WINDOW_SAMPLES) / FFT_SIZE
    parts = {"real": np.cos(phase), "imaginary": np.sin(phase)}
    return {name: (part * hann_window())[:, np.newaxis, np.newaxis].astype(np.float32) for name, part in parts.items()}
