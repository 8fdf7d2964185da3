"""Every architecture by the same rules: shapes, gradients, padding, ONNX, learning; and what the table refuses."""

import io
import math
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.architectures import ARCHITECTURES, build_network, check_options, describe_architectures
from models.errors import BadOption

CLASSES = 3
# architecture, features, shape, options: small, and together every path there is
SMALL: dict[str, tuple[str, str, tuple[int, int], dict[str, Any]]] = {
    "linear": ("linear", "embedding", (5, 12), {"hidden": 16}),
    "conv1d": ("conv1d", "embedding", (5, 12), {"channels": 16, "dropout": 0}),
    "conv1d-one-row": ("conv1d", "embedding", (1, 12), {"channels": 16, "dropout": 0}),
    "conv2d": ("conv2d", "embedding", (5, 12), {"channels": 4, "hidden": 16, "dropout": 0}),
    "conv2d-one-row": ("conv2d", "embedding", (1, 13), {"channels": 4, "hidden": 16, "dropout": 0}),
    "lstm": ("lstm", "embedding", (5, 12), {"hidden": 16, "layers": 2, "dropout": 0}),
    "transformer": ("transformer", "embedding", (5, 12), {"hidden": 16, "dropout": 0}),
    "transformer-widened": ("transformer", "embedding", (5, 13), {"hidden": 16, "heads": 2, "dropout": 0}),
    "vggish-head": ("vggish-head", "embedding", (5, 12), {"hidden": 32, "dropout": 0}),
    "stft-cnn": ("stft-cnn", "stft", (16, 24), {"block_dropout": 0, "dropout": 0}),
    "mel-cnn": ("mel-cnn", "mel", (16, 24), {"width": 8, "dropout": 0}),
    "resnet18": ("resnet18", "mel64", (16, 24), {"dropout": 0}),
    "yamnet": ("yamnet", "logmel", (200, 64), {"width": 0.1, "dropout": 0}),
    "yamnet-normed": ("yamnet", "logmel", (96, 64), {"width": 0.1, "batch_norm": True, "dropout": 0}),
    "vggish-slim": ("vggish-slim", "logmel", (96, 64), {"dropout": 0}),
    "vggish-slim-normed": ("vggish-slim", "logmel", (200, 64), {"batch_norm": True, "dropout": 0}),
}
EVERY = pytest.mark.parametrize("case", SMALL)
WITH_ROWS = pytest.mark.parametrize("case", [case for case in SMALL if SMALL[case][1] in ("embedding", "logmel")])


@pytest.fixture(autouse=True)
def _same_numbers_every_run() -> None:
    torch.manual_seed(0)


def build(case: str) -> nn.Module:
    name, kind, shape, options = SMALL[case]
    return build_network(name, kind, shape, CLASSES, options)


def features_of(case: str, items: int) -> Tensor:
    kind, shape = SMALL[case][1:3]
    offset, scale = {"mel": (-50, 20), "mel64": (-50, 20), "stft": (0.5, 0.2), "logmel": (-4, 2)}.get(kind, (1, 3))
    return (torch.randn(items, *shape) * scale + offset).clamp(min=math.log(0.001) if kind == "logmel" else -100)


def settled(case: str) -> nn.Module:
    """A network whose batch norms have seen data, ready to infer."""
    network = build(case)
    for _ in range(3):
        network(features_of(case, 4))
    return network.eval()


def export(network: nn.Module, features: Tensor) -> bytes:
    stream = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's, about sizes that become constants
        torch.onnx.export(
            network,
            (features,),
            stream,
            input_names=["features"],
            output_names=["logits"],
            dynamic_axes={"features": {0: "N"}, "logits": {0: "N"}},
            opset_version=13,
            dynamo=False,
        )
    return stream.getvalue()


def test_every_architecture_is_tried() -> None:
    assert {name for name, *_ in SMALL.values()} == set(ARCHITECTURES) - {"vggish"}  # vggish-slim, but larger


@EVERY
def test_gives_logits_for_any_number_of_items(case: str) -> None:
    network = settled(case)
    for items in (1, 3):
        logits = network(features_of(case, items))
        assert logits.shape == (items, CLASSES)
        assert torch.isfinite(logits).all()


@EVERY
def test_gradient_reaches_every_trained_parameter(case: str) -> None:
    network = build(case).train()
    network(features_of(case, 4)).square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 1e-6, name


@WITH_ROWS
def test_padding_changes_nothing(case: str) -> None:
    network, features = settled(case), features_of(case, 3)
    rows = features.shape[1]
    valid = torch.tensor([max(1, rows // 2), max(1, rows - 1), rows])
    filled = features.clone()
    for item, length in enumerate(valid):
        filled[item, length:] = torch.nan
    torch.testing.assert_close(network(filled, valid), network(features, valid))
    network.train()
    torch.testing.assert_close(network(filled, valid), network(features, valid))


@EVERY
def test_all_valid_is_the_same_as_none_given(case: str) -> None:
    network, features = settled(case), features_of(case, 3)
    valid = torch.full((3,), features.shape[1])
    torch.testing.assert_close(network(features, valid), network(features))


@EVERY
def test_items_do_not_depend_on_each_other(case: str) -> None:
    network, features = settled(case), features_of(case, 3)
    valid = torch.tensor([features.shape[1], 1, max(1, features.shape[1] // 2)])
    one_by_one = [network(features[n : n + 1], valid[n : n + 1]) for n in range(3)]
    torch.testing.assert_close(network(features, valid), torch.cat(one_by_one), atol=1e-5, rtol=1e-4)


@EVERY
def test_runs_in_onnx_at_opset_13(case: str) -> None:
    network = settled(case)
    graph = export(network, features_of(case, 1))
    onnx.checker.check_model(onnx.load_from_string(graph))
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    for items in (1, 3):
        features = features_of(case, items)
        [logits] = session.run(["logits"], {"features": features.numpy()})
        np.testing.assert_allclose(logits, network(features).detach().numpy(), atol=1e-4)


@pytest.mark.parametrize("case", [case for case in SMALL if case != "vggish-slim"])  # which hardly learns without norm
def test_learns_eight_items_by_heart(case: str) -> None:
    network, features, classes = build(case).train(), features_of(case, 8), torch.arange(8) % CLASSES
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    for _ in range(80):
        loss = F.cross_entropy(network(features), classes)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if loss < 0.05:
            break
    assert loss < 0.05


def test_help_table_counts_parameters() -> None:
    rows = {row.name: row for row in describe_architectures()}
    assert list(rows) == list(ARCHITECTURES)
    assert {name: row.parameters for name, row in rows.items()} == {
        "linear": 82_634,
        "conv1d": 52_554,
        "conv2d": 343_402,
        "lstm": 50_314,
        "transformer": 201_738,
        "vggish-head": 17_309_696 + 10 * 4097,
        "stft-cnn": 468_800 + 10 * 129,
        "mel-cnn": 388_320 + 10 * 257,
        "resnet18": 11_170_240 + 10 * 513,
        "yamnet": 3_195_456 + 10 * 1025,
        "vggish": 72_141_184 + 10 * 129,
        "vggish-slim": 4_565_376 + 10 * 129,
    }
    assert rows["yamnet"].takes == ("logmel",)
    assert rows["mel-cnn"].shape == (128, 431)


@pytest.mark.parametrize(
    ("name", "kind", "shape", "message"),
    [
        ("lstn", "embedding", (5, 12), "no model named 'lstn'; there are: linear, conv1d, .*vggish-slim"),
        ("lstm", "mel", (128, 431), "lstm takes embedding features, not mel; .* mel: stft-cnn, mel-cnn, resnet18"),
        ("mel-cnn", "answers", (1, 1), "mel-cnn takes stft or mel or mel64 features, .* answers: none"),
        ("linear", "embedding", (12,), r"embedding features are \[T, D\], not \[12\]"),
        ("linear", "embedding", (0, 12), r"not \[0, 12\]"),
        ("yamnet", "logmel", (50, 64), r"\[F, 64\] with at least 96 frames, not \[50, 64\]"),
        ("yamnet", "logmel", (96, 128), r"not \[96, 128\]"),
        ("mel-cnn", "mel", (8, 431), r"at least 16 x 16, not \[8, 431\]"),
    ],
)
def test_refuses_what_does_not_go_together(name: str, kind: str, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(BadOption, match=message):
        build_network(name, kind, shape, CLASSES, {})


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("linear", {"hiden": 5}, ["hiden", "Its options: hidden"]),
        ("conv1d", {"active_layers": 9, "dropout": 1, "depth": 3}, ["active_layers", "8", "dropout", "depth"]),
        ("conv1d", {"kernel": 4}, ["kernel", "odd"]),
        ("yamnet", {"activation": "tanh"}, ["activation", "relu6"]),
        ("vggish", {"batch_norm": True}, ["batch_norm"]),
    ],
)
def test_names_every_option_that_is_wrong(name: str, options: Mapping[str, Any], words: list[str]) -> None:
    with pytest.raises(BadOption) as caught:
        check_options(name, options)
    assert all(word in str(caught.value) for word in (name, *words))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_options_of_a_card_build_the_same_network(name: str) -> None:
    chosen = check_options(name, {})
    assert check_options(name, chosen.model_dump()) == chosen


def test_only_some_start_from_the_weights_of_others(tmp_path: Path) -> None:
    with pytest.raises(BadOption, match="lstm starts from random weights"):
        build_network("lstm", "embedding", (5, 12), CLASSES, {}, pretrained=tmp_path)
