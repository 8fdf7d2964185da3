"""YAMNet in torch: TensorFlow's padding, ReLU6, the published weights, and parity with LiteRT's outputs."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from models.errors import BadOption, WeightsCorrupt
from models.tflite import STRIDES, Layer, Quantization, YamnetArrays, load_yamnet_arrays
from models.yamnet import SameConv2d, YAMNet, load_yamnet, same_padding

ANY = Quantization(1.0, 0)


@pytest.fixture(autouse=True)
def _same_numbers_every_run() -> None:
    torch.manual_seed(0)


def quantized_layer(weight_shape: tuple[int, ...], stride: int, groups: int, rng: np.random.Generator) -> Layer:
    outputs = weight_shape[0]
    return Layer(
        weight=rng.integers(-127, 128, weight_shape).astype(np.int8),
        weight_scale=rng.uniform(0.001, 0.002, outputs).astype(np.float32),
        bias=rng.integers(-100, 100, outputs).astype(np.int32),
        bias_scale=np.full(outputs, 1e-3, np.float32),
        stride=stride,
        groups=groups,
        output=ANY,
    )


def random_arrays(classes: int) -> YamnetArrays:
    """Arrays as the TFLite file's, with random numbers and so many classes."""
    rng = np.random.default_rng(0)
    convolutions = YAMNet().convolutions
    layers = [quantized_layer(tuple(c.weight.shape), c.stride[0], c.groups, rng) for c in convolutions]
    return YamnetArrays(ANY, tuple(layers), ANY, quantized_layer((classes, 1024, 1, 1), 1, 1, rng), ANY)


def cosine(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return (one * other).sum(-1) / (np.linalg.norm(one, axis=-1) * np.linalg.norm(other, axis=-1))


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "expected"),
    [
        (96, 3, 2, (0, 1)),
        (97, 3, 2, (1, 1)),
        (3, 3, 1, (1, 1)),
        (6, 1, 1, (0, 0)),
        (4, 5, 3, (2, 2)),
        (4, 4, 1, (1, 2)),
    ],
)
def test_same_padding_as_tensorflow_documents_it(
    size: int, kernel: int, stride: int, expected: tuple[int, int]
) -> None:
    assert same_padding(size, kernel, stride) == expected


def test_stride_2_on_an_even_size_pads_below_and_right_only() -> None:
    convolution = SameConv2d(1, 1, 3, stride=2)
    with torch.no_grad():
        convolution.weight.zero_()[0, 0, 2, 2] = 1.0  # picks the sample two below and two to the right
    image = torch.arange(16.0).reshape(1, 1, 4, 4)
    # outputs start at rows and columns 0 and 2: image[2, 2] = 10 and padding; symmetric padding gives 5, 7, 13, 15
    expected = torch.tensor([[[[10.0, 0.0], [0.0, 0.0]]]])
    torch.testing.assert_close(convolution(image), expected)


def test_padding_is_decided_for_each_dimension() -> None:
    convolution = SameConv2d(1, 1, 3, stride=2)
    with torch.no_grad():
        convolution.weight.zero_()[0, 0, 0, 0] = 1.0
    image = torch.arange(1.0, 13.0).reshape(1, 1, 3, 4)
    # three rows pad (1, 1): the top left sample of the first row of outputs is padding; four columns pad (0, 1)
    expected = torch.tensor([[[[0.0, 0.0], [5.0, 7.0]]]])
    torch.testing.assert_close(convolution(image), expected)


def test_parameters_and_shapes() -> None:
    model = YAMNet().eval()
    assert sum(parameter.numel() for parameter in model.parameters()) == 3_729_481
    with torch.inference_mode():
        scores, embeddings = model(torch.randn(3, 96, 64))
    assert scores.shape == (3, 521)
    assert embeddings.shape == (3, 1024)
    assert 0 <= scores.min() <= scores.max() <= 1


def test_embedding_is_the_mean_of_the_last_maps() -> None:
    model, last = YAMNet(classes=5, width=0.25), []
    model.activation.register_forward_hook(lambda _, __, maps: last.append(maps))
    embeddings = model.embed(torch.randn(2, 96, 64))
    assert last[-1].shape == (2, 256, 3, 2)
    torch.testing.assert_close(embeddings, last[-1].sum((2, 3)) / 6)


def test_narrow_network_is_narrow_throughout() -> None:
    model = YAMNet(classes=5, width=0.25)
    scores, embeddings = model(torch.randn(2, 96, 64))
    assert scores.shape == (2, 5)
    assert embeddings.shape == (2, model.embedding_size) == (2, 256)
    assert sum(parameter.numel() for parameter in model.parameters()) < 3_729_481 / 10


def test_relu6_bounds_what_relu_does_not() -> None:
    bounded, unbounded = YAMNet(5, "relu6", 0.25), YAMNet(5, "relu", 0.25)
    unbounded.load_state_dict(bounded.state_dict())
    patches = 20 * torch.randn(2, 96, 64)
    assert bounded.embed(patches).max() <= 6
    assert unbounded.embed(patches).max() > 6


def test_unknown_activation_names_the_known() -> None:
    with pytest.raises(BadOption, match="relu6, relu"):
        YAMNet(activation="gelu")  # type: ignore[arg-type]


def test_fresh_network_passes_signal_and_gradient_to_its_first_layer() -> None:
    model = YAMNet(classes=5, width=0.25)
    patches = torch.randn(8, 96, 64)
    embeddings = model.embed(patches)
    assert embeddings.std(0).mean() > 1e-2  # torch's own initialization leaves 1e-9
    model.logits(embeddings).square().mean().backward()
    assert model.convolutions[0].weight.grad.abs().max() > 1e-5


def test_loads_dequantized_weights_layer_by_layer() -> None:
    arrays = random_arrays(classes=7)
    model = load_yamnet(arrays)
    assert not model.training
    for number, layer in enumerate(arrays.convolutions):
        convolution = model.convolutions[number]
        np.testing.assert_allclose(convolution.weight.detach().numpy(), layer.float_weight())
        np.testing.assert_allclose(convolution.bias.detach().numpy(), layer.float_bias())
        assert convolution.stride[0] == STRIDES[number]
    row = arrays.dense.weight[3, :, 0, 0] * arrays.dense.weight_scale[3]
    np.testing.assert_allclose(model.dense.weight[3].detach().numpy(), row)
    assert model(torch.zeros(1, 96, 64))[0].shape == (1, 7)


def test_refuses_a_layer_of_another_shape() -> None:
    arrays = random_arrays(classes=7)
    wrong = dataclasses.replace(arrays.convolutions[4], weight=arrays.convolutions[4].weight[:, :32])
    layers = (*arrays.convolutions[:4], wrong, *arrays.convolutions[5:])
    message = r"convolutions.4.weight has shape \[128, 32, 1, 1\], expected \[128, 64, 1, 1\]"
    with pytest.raises(WeightsCorrupt, match=message):
        load_yamnet(dataclasses.replace(arrays, convolutions=layers))
    with pytest.raises(WeightsCorrupt, match=r"convolutions\.26\.weight is missing"):
        load_yamnet(dataclasses.replace(arrays, convolutions=arrays.convolutions[:26]))


def test_follows_the_int8_file_over_40_real_clips(shared: Path) -> None:
    arrays = load_yamnet_arrays((shared / "weights" / "yamnet.tflite").read_bytes())
    reference = np.load(shared / "reference" / "yamnet_esc10.npz", allow_pickle=False)
    patches, names, wanted = (reference[key] for key in ("patch_log_mel", "patch_filenames", "patch_scores"))

    def clip_means(scores: np.ndarray) -> np.ndarray:
        return np.stack([scores[names == name].mean(0) for name in np.unique(names)])

    def measure(model: YAMNet) -> tuple[float, float, float]:
        """Share of patches whose best class is among the file's best (its scores tie), of clips, and least cosine."""
        with torch.inference_mode():
            scores = torch.cat([model(part)[0] for part in torch.from_numpy(patches).split(20)]).numpy()
        best, clips, wanted_clips = scores.argmax(1), clip_means(scores), clip_means(wanted)
        patch_share = (wanted[np.arange(len(best)), best] == wanted.max(1)).mean()
        clip_share = (clips.argmax(1) == wanted_clips.argmax(1)).mean()
        return float(patch_share), float(clip_share), float(cosine(clips, wanted_clips).min())

    patch_share, clip_share, least_cosine = measure(load_yamnet(arrays))
    assert patch_share >= 0.99
    assert clip_share >= 0.96
    assert least_cosine >= 0.995
    relu_share, _, relu_cosine = measure(load_yamnet(arrays, "relu"))
    assert relu_share < 0.97  # the wrong activation shows: the figures above are no accident
    assert relu_cosine < 0.97
