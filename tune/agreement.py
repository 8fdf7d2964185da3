"""Does an exported graph say what the model says? On real clips, against the model's float graph and, where its weights are here, torch.

Clips are cut into windows as long as the model hears at once. A class that the reference scores within TIE of its best counts as its best:
of classes that are nearly equal, int8 may name the other one.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from numpy.lib.stride_tricks import sliding_window_view

from models.audio import AudioReader
from models.bundle import Bundle
from models.errors import BadOption, EarshotError, OutputMismatch, WeightsCorrupt, WrongPath
from models.export import ROWS, load_float
from models.features import STATE
from models.frontend import HOP_SAMPLES, FloatArray, hop_frames, log_mel, with_offset
from models.storage import open_store
from models.waveform_graph import samples_heard
from tune.data import open_feature_set

SAMPLES = (
    Path(__file__).resolve().parent.parent / "ui" / "samples"
)  # recordings and synthesised sounds that come with the program
SOUNDS = (".wav", ".flac", ".ogg", ".opus", ".mp3", ".m4a")
MAX_WINDOWS = 512
BATCH = 32
TIE = 0.02
WEIGHTS = "weights.safetensors"


@dataclass(frozen=True)
class Bound:
    """What an export in a precision must reach: share of windows with the same best class, mean difference of scores."""

    top1: float
    mean_difference: float


BOUNDS = {"fp32": Bound(0.999, 1e-4), "fp16": Bound(0.99, 2e-3), "int8": Bound(0.95, 2e-2)}


@dataclass(frozen=True)
class Windows:
    """What models are compared on: a graph's inputs [N, ...], and the waveforms [N, T] that they are of, where it is sound."""

    inputs: FloatArray
    waveforms: FloatArray | None = None

    def for_graph(self, graph: onnx.ModelProto) -> FloatArray:
        """What a graph takes: inputs, or waveforms."""
        if graph.graph.input[0].name != "waveform":
            return self.inputs
        assert self.waveforms is not None
        return self.waveforms

    def batches(self) -> Iterator[FloatArray]:
        """The inputs, some at a time."""
        return (self.inputs[start : start + BATCH] for start in range(0, len(self.inputs), BATCH))


def read_windows(bundle: Bundle, shape: tuple[int, ...], data: str | None) -> Windows:
    """Windows of a folder of sounds or of features, at most MAX_WINDOWS; without one, of the sounds that come with the program.

    Raises WrongPath where there are none, BadOption for features that this model does not take, and as AudioReader.
    """
    if data is not None and open_store(data).exists(STATE):
        return _read_features(bundle, shape, data)
    if bundle.card.takes == "features":
        raise BadOption(
            f"{bundle.path} takes features, not sound: say --check FOLDER, where FOLDER holds some like those it was trained on"
        )
    return _read_sounds(bundle, shape, Path(data or SAMPLES))


def _read_features(bundle: Bundle, shape: tuple[int, ...], data: str) -> Windows:
    features = open_feature_set(data)
    kinds = ("logmel",) if bundle.card.takes == "patches" else (features.made.kind,)
    if features.made.kind not in kinds or features.shape != shape:
        raise BadOption(
            f"{data} holds {features.made.kind} features {list(features.shape)}; this model takes {list(shape)}: name a folder of sounds"
        )
    rows = _spread(np.concatenate([features.read(group)[0] for group in features.groups])).astype(np.float32)
    if bundle.card.takes == "patches":
        rows = with_offset(rows, float(features.made.front_end["log_offset"] or 0), bundle.card.front_end.log_offset)
    return Windows(rows)


def _read_sounds(bundle: Bundle, shape: tuple[int, ...], folder: Path) -> Windows:
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SOUNDS)
    if not files:
        raise WrongPath(f"{folder} holds neither sounds ({', '.join(SOUNDS)}) nor features")
    frames = shape[0]
    front_end = bundle.card.front_end
    hop = hop_frames(front_end.hop_s) * HOP_SAMPLES
    waveforms = _spread(np.concatenate([_cut(_read_waveform(file), samples_heard(frames), hop) for file in files]))
    patches = np.stack([log_mel(waveform, front_end.log_offset)[:frames] for waveform in waveforms])
    return Windows(patches, waveforms)


def _read_waveform(file: Path) -> FloatArray:
    try:
        return np.concatenate(list(AudioReader(file).blocks()))
    except EarshotError as error:
        raise type(error)(f"{file}: {error}") from error


def _cut(waveform: FloatArray, length: int, hop: int) -> FloatArray:
    """Waveform [T] -> windows [n, length], `hop` samples apart; silence follows a sound that is shorter."""
    padded = np.pad(waveform, (0, max(0, length - len(waveform))))
    return np.asarray(sliding_window_view(padded, length)[::hop])


def _spread(rows: FloatArray) -> FloatArray:
    """At most MAX_WINDOWS of the rows, from all over."""
    return rows[:: -(-len(rows) // MAX_WINDOWS)]


def check_scores(bundle: Bundle, scores: FloatArray, windows: Windows, precision: str) -> dict[str, float]:
    """How an export's scores [N, C] agree with the model, for its card. Raises OutputMismatch where less than BOUNDS says.

    Keys: top1, mean_difference and cosine against the float graph; the same with `torch_` before it against torch; windows.
    """
    references = {"": run_graph(load_float(bundle), windows.inputs)}
    if bundle.card.architecture and (bundle.path / WEIGHTS).is_file():
        references["torch_"] = run_torch(bundle, windows.inputs)
    agreement = {"windows": float(len(windows.inputs))}
    for prefix, reference in references.items():
        found = compare(scores, reference)
        _check_bound(found, precision, "torch" if prefix else "the float graph")
        agreement |= {prefix + name: round(value, 8) for name, value in found.items()}
    return agreement


def _check_bound(found: dict[str, float], precision: str, reference: str) -> None:
    bound = BOUNDS[precision]
    if found["top1"] < bound.top1 or not found["mean_difference"] <= bound.mean_difference:
        raise OutputMismatch(
            f"{precision} does not say what {reference} says: same best class in {found['top1']:.1%} of windows (at least "
            f"{bound.top1:.1%}), mean difference {found['mean_difference']:.2g} (at most {bound.mean_difference:g}). "
            "Not used: name other sounds with --check, or another --precision"
        )


def compare(scores: FloatArray, reference: FloatArray) -> dict[str, float]:
    """Two models' scores [N, C] of the same inputs -> top1, mean_difference, cosine."""
    if scores.shape[1] == 1:  # one class: it, or not
        scores, reference = (np.hstack([1 - part, part]) for part in (scores, reference))
    best = reference[np.arange(len(scores)), scores.argmax(axis=1)]
    lengths = np.linalg.norm(scores, axis=1) * np.linalg.norm(reference, axis=1)
    cosines = (scores * reference).sum(axis=1) / np.maximum(lengths, np.finfo(np.float32).tiny)
    return {
        "top1": float(np.mean(best >= reference.max(axis=1) - TIE)),
        "mean_difference": float(np.abs(scores - reference).mean()),
        "cosine": float(cosines.mean()),
    }


def run_graph(graph: onnx.ModelProto, inputs: FloatArray, output: str = "scores") -> FloatArray:
    """Runs a graph of one input in ONNX Runtime. Raises WeightsCorrupt where it does not load."""
    try:
        session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    except Exception as error:  # its errors share no base class but this
        raise WeightsCorrupt(f"the graph does not load: {error}") from error
    name = session.get_inputs()[0].name
    parts = [session.run([output], {name: inputs[start : start + BATCH]})[0] for start in range(0, len(inputs), BATCH)]
    return np.concatenate(parts)


def run_torch(bundle: Bundle, inputs: FloatArray) -> FloatArray:
    """The trained network itself, from its weights: what the float graph takes [N, ...] -> scores [N, C].

    A head gets the embeddings from inside the float graph. Raises WeightsCorrupt for weights that do not fit the card.
    """
    import safetensors.torch
    import torch

    from models.architectures import build_network, find_architecture

    card = bundle.card
    assert card.architecture is not None
    kind = find_architecture(card.architecture).takes[0]
    features = (
        _embeddings_inside(load_float(bundle), inputs) if (kind, card.takes) == ("embedding", "patches") else inputs
    )
    network = build_network(card.architecture, kind, features.shape[1:], len(bundle.labels), card.options)
    try:
        network.load_state_dict(safetensors.torch.load_file(bundle.path / WEIGHTS))
    except RuntimeError as error:
        raise WeightsCorrupt(f"{bundle.path / WEIGHTS}: {str(error).splitlines()[0]}") from error
    with torch.inference_mode():
        batches = (torch.from_numpy(features[start : start + BATCH]) for start in range(0, len(features), BATCH))
        logits = torch.cat([network.eval()(batch) for batch in batches]) / card.temperature
        scores = torch.sigmoid(logits) if card.multi_label else torch.softmax(logits, 1)
    return np.asarray(scores.numpy(), np.float32)


def _embeddings_inside(graph: onnx.ModelProto, patches: FloatArray) -> FloatArray:
    """Patches [N, F, 64] -> the embeddings [N, T, D] that the head of a composed graph takes."""
    graph.graph.output.append(onnx.helper.make_tensor_value_info(ROWS, onnx.TensorProto.FLOAT, None))
    return run_graph(graph, patches, ROWS)
