"""The int8 graph is the file's integer network, number for number; and it follows LiteRT's outputs."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from numpy.lib.stride_tricks import sliding_window_view
from onnx import ModelProto

from models.tflite import Layer, Quantization, YamnetArrays, load_yamnet_arrays
from models.yamnet_onnx import build_yamnet_float, build_yamnet_int8
from tests.unit.test_yamnet import random_arrays

RELU6 = Quantization(6 / 255, -128)
SMALL_STRIDES = (2, 2, 1)


def run(graph: ModelProto, patches: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(["scores", "embeddings"], {"patches": patches})


def random_layer(
    rng: np.random.Generator,
    shape: tuple[int, ...],
    source: Quantization,
    output: Quantization,
    stride: int,
    groups: int,
) -> Layer:
    scales = rng.uniform(0.5, 1.5, shape[0]) * 2 / (127 * np.sqrt(np.prod(shape[1:])))
    return Layer(
        weight=rng.integers(-127, 128, shape).astype(np.int8),
        weight_scale=scales.astype(np.float32),
        bias=rng.integers(-2000, 2000, shape[0]).astype(np.int32),
        bias_scale=(np.float32(source.scale) * scales).astype(np.float32),
        stride=stride,
        groups=groups,
        output=output,
    )


def small_arrays(seed: int) -> YamnetArrays:
    """One 3x3, one depthwise with stride 2, one pointwise convolution, and a dense layer of 3 classes."""
    rng = np.random.default_rng(seed)
    patch, mean, logits = Quantization(0.04, 17), RELU6, Quantization(0.05, 9)
    layers = (
        random_layer(rng, (4, 1, 3, 3), patch, RELU6, 2, 1),
        random_layer(rng, (4, 1, 3, 3), RELU6, RELU6, 2, 4),
        random_layer(rng, (6, 4, 1, 1), RELU6, RELU6, 1, 1),
    )
    return YamnetArrays(
        patch, layers, mean, random_layer(rng, (3, 6, 1, 1), mean, logits, 1, 1), Quantization(1 / 256, -128)
    )


def quantize(values: np.ndarray, to: Quantization) -> np.ndarray:
    return np.clip(np.rint(values / to.scale) + to.zero_point, -128, 127).astype(np.int64)


def dequantize(values: np.ndarray, of: Quantization) -> np.ndarray:
    return (values - of.zero_point) * of.scale


def convolve(inputs: np.ndarray, source: Quantization, layer: Layer) -> np.ndarray:
    """Integers [P, I, h, w] -> integers [P, O, h', w'], with TensorFlow's SAME padding, all sums in int64."""
    kernel = layer.weight.shape[2]
    sizes = inputs.shape[2:]
    total = [max((-(-size // layer.stride) - 1) * layer.stride + kernel - size, 0) for size in sizes]
    pads = [(0, 0), (0, 0), *((t // 2, t - t // 2) for t in total)]
    padded = np.pad(inputs - source.zero_point, pads)
    windows = sliding_window_view(padded, (kernel, kernel), axis=(2, 3))[:, :, :: layer.stride, :: layer.stride]
    weight = layer.weight.astype(np.int64)
    product = "pcyxij,cij->pcyx" if layer.groups > 1 else "pcyxij,ocij->poyx"
    sums = np.einsum(product, windows, weight[:, 0] if layer.groups > 1 else weight)
    sums += layer.bias[:, None, None]
    return quantize(sums * (source.scale * layer.weight_scale.astype(np.float64))[:, None, None], layer.output)


def run_integers(arrays: YamnetArrays, patches: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The whole network in integers -> scores [P, C], embeddings [P, D]."""
    maps, source = quantize(patches[:, None], arrays.patch), arrays.patch
    for layer in arrays.convolutions:
        maps, source = convolve(maps, source, layer), layer.output
    mean = quantize(dequantize(maps, source).mean(axis=(2, 3), keepdims=True), arrays.mean)
    logits = dequantize(convolve(mean, arrays.mean, arrays.dense), arrays.dense.output)[:, :, 0, 0]
    scores = dequantize(quantize(1 / (1 + np.exp(-logits)), arrays.scores), arrays.scores)
    return scores, dequantize(mean, arrays.mean)[:, :, 0, 0]


@pytest.mark.parametrize("seed", range(5))
def test_int8_graph_computes_what_integers_compute(seed: int) -> None:
    arrays = small_arrays(seed)
    patches = np.random.default_rng(seed).normal(0, 1, (16, 96, 64)).astype(np.float32)
    scores, embeddings = run(build_yamnet_int8(arrays), patches)
    wanted_scores, wanted_embeddings = run_integers(arrays, patches)
    assert len(np.unique(wanted_scores)) > 5
    np.testing.assert_allclose(embeddings, wanted_embeddings, atol=1.01 * arrays.mean.scale)  # a rounding tie: one step
    np.testing.assert_allclose(scores, wanted_scores, atol=1.01 / 64)
    assert np.isclose(embeddings, wanted_embeddings, atol=1e-6).mean() > 0.97
    assert np.isclose(scores, wanted_scores, atol=1e-6).mean() > 0.97


def test_float_graph_is_the_int8_graph_without_rounding() -> None:
    arrays = small_arrays(0)
    patches = np.random.default_rng(0).normal(0, 1, (16, 96, 64)).astype(np.float32)
    (scores, embeddings), (wanted_scores, wanted) = (
        run(build_yamnet_float(arrays.float_state(), SMALL_STRIDES), patches),
        run_integers(arrays, patches),
    )
    np.testing.assert_allclose(embeddings, wanted, atol=6 / 255 + arrays.mean.scale)
    np.testing.assert_allclose(scores, wanted_scores, atol=0.03)
    assert not np.array_equal(embeddings, wanted)


def test_embeddings_end_at_six_in_both_graphs() -> None:
    arrays = small_arrays(0)
    patches = np.full((1, 96, 64), 5.0, np.float32)
    for graph in (build_yamnet_int8(arrays), build_yamnet_float(arrays.float_state(), SMALL_STRIDES)):
        _, embeddings = run(graph, patches)
        assert 0 <= embeddings.min() <= embeddings.max() <= 6.001


def test_result_of_a_patch_does_not_depend_on_its_batch_bit_for_bit() -> None:
    graph = build_yamnet_int8(random_arrays(classes=7))
    patches = np.random.default_rng(0).normal(0, 1, (33, 96, 64)).astype(np.float32)
    scores, embeddings = run(graph, patches)
    for start, stop in ((0, 1), (5, 15), (32, 33), (1, 33)):
        part_scores, part_embeddings = run(graph, patches[start:stop])
        assert part_scores.tobytes() == scores[start:stop].tobytes()
        assert part_embeddings.tobytes() == embeddings[start:stop].tobytes()


def test_int8_graph_gives_the_scores_of_litert(shared: Path) -> None:
    arrays = load_yamnet_arrays((shared / "weights" / "yamnet.tflite").read_bytes())
    reference = np.load(shared / "reference" / "yamnet_esc10.npz", allow_pickle=False)
    wanted = reference["patch_scores"]
    scores, _ = run(build_yamnet_int8(arrays), reference["patch_log_mel"])
    best = scores.argmax(axis=1)
    assert (wanted[np.arange(len(best)), best] == wanted.max(axis=1)).all()  # the file's scores tie
    assert (np.abs(scores - wanted).max(axis=1) <= 1 / 256 + 1e-6).mean() >= 0.99
