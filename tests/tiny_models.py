"""Small real models for tests that must run without the published weights."""

from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from models.bundle import Bundle, FrontEnd, Label, save_bundle
from models.frontend import MEL_BANDS, VGGISH_OFFSET, YAMNET_OFFSET
from models.graphs import GraphBuilder

LABELS = (Label("Low tone", "/t/low"), Label("High tone", "/t/high"), Label("Silence", "/t/silence"))


def _band_weights() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """A dense layer on the mean log-mel [64] that tells a low tone, a high tone and silence apart."""
    weight = np.zeros((3, MEL_BANDS), np.float32)
    weight[0, :32], weight[0, 32:] = 0.1, -0.1
    weight[1, :32], weight[1, 32:] = -0.1, 0.1
    weight[2, :] = -0.2
    return weight, np.array([-1.0, -1.0, -84.0], np.float32)


def build_tone_graph() -> onnx.ModelProto:
    """Patches -> mean over time (the embedding [P, 64]) -> dense -> sigmoid scores [P, 3]."""
    graph = GraphBuilder()
    graph.node("ReduceMean", ["patches"], "embeddings", axes=[1], keepdims=0)
    weight, bias = _band_weights()
    inputs = ["embeddings", graph.constant("dense.weight", weight), graph.constant("dense.bias", bias)]
    graph.node("Sigmoid", [graph.node("Gemm", inputs, "logits", transB=1)], "scores")
    return graph.model({"scores": len(LABELS), "embeddings": MEL_BANDS}, "tones")


def save_tone_tagger(path: Path) -> Bundle:
    """A bundle in YAMNet's place that hears low tones, high tones and silence."""
    graph = build_tone_graph().SerializeToString()
    return save_bundle(
        path, {"int8": graph}, LABELS, name="tones", version="1", front_end=FrontEnd(log_offset=YAMNET_OFFSET)
    )


def save_tone_head(path: Path) -> Bundle:
    """The same as a second opinion, with VGGish's front end."""
    graph = build_tone_graph().SerializeToString()
    front_end = FrontEnd(log_offset=VGGISH_OFFSET, hop_s=0.96)
    return save_bundle(path, {"float": graph}, LABELS, name="tone-head", version="1", front_end=front_end)
