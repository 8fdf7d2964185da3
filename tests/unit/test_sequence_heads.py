"""The heads on embeddings: layers, padding, and what each can tell apart."""

import pytest
import torch
from torch import Tensor, nn

from models.sequence_heads import (
    Conv1dHead,
    Conv2dHead,
    LinearHead,
    LstmHead,
    SelfAttention,
    Standardize,
    TransformerHead,
    VggishHeadAverage,
    mean_rows,
)


@pytest.fixture(autouse=True)
def _same_numbers_every_run() -> None:
    torch.manual_seed(0)


def kinds(head: nn.Sequential) -> list[str]:
    return [type(layer).__name__ for layer in head]


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_mean_is_over_what_is_sound() -> None:
    rows = torch.tensor([[[1.0], [3.0], [torch.nan]], [[2.0], [4.0], [6.0]], [[5.0], [0.0], [0.0]]])
    assert mean_rows(rows, torch.tensor([2, 3, 0])).tolist() == [[2], [4], [5]]  # a row without sound counts its first
    assert mean_rows(rows[1:2], None).tolist() == [[4]]


def test_standardizes_what_is_sound_and_silences_the_rest() -> None:
    standardize, rows, valid = Standardize(4), torch.randn(50, 6, 4) * 30 + 100, torch.arange(50) % 6 + 1
    standard = standardize.train()(rows, valid)
    sound = torch.arange(6) < valid[:, None]
    torch.testing.assert_close(standard[sound].mean(0), torch.zeros(4), atol=1e-4, rtol=0)
    torch.testing.assert_close(standard[sound].std(0), torch.ones(4), atol=1e-2, rtol=0)
    assert not standard[~sound].any()
    torch.testing.assert_close(standardize.norm.running_mean, rows[sound].mean(0) * 0.1)  # torch's momentum


def test_linear_head_is_linear_relu_linear() -> None:
    head = LinearHead(10, 128, 2, hidden=16)
    assert kinds(head.layers) == ["Flatten", "Linear", "ReLU", "Linear"]
    assert parameters(head) == (1280 + 1) * 16 + (16 + 1) * 2


@pytest.mark.parametrize(
    ("active", "expected"),
    [
        (2, ["Conv1d"]),
        (3, ["Conv1d", "ReLU"]),
        (5, ["Conv1d", "ReLU", "Conv1d", "Dropout"]),
        (8, ["Conv1d", "ReLU", "Conv1d", "Dropout", "MaxPool1d", "Conv1d", "Dropout"]),
    ],
)
def test_conv1d_head_uses_the_first_layers_and_the_last(active: int, expected: list[str]) -> None:
    head = Conv1dHead(10, 8, 3, active_layers=active)
    assert kinds(head.layers) == expected
    assert len([*head.layers, head.output]) == active
    assert head(torch.randn(2, 10, 8)).shape == (2, 3)


@pytest.mark.parametrize("rows", [1, 2, 3, 10])
@pytest.mark.parametrize("active", range(2, 9))
def test_conv1d_head_takes_any_number_of_rows(rows: int, active: int) -> None:
    assert Conv1dHead(rows, 8, 3, active_layers=active, channels=4)(torch.randn(2, rows, 8)).shape == (2, 3)


def test_conv2d_head_has_the_layers_of_the_study() -> None:
    head = Conv2dHead(10, 128, 2)
    assert kinds(head.layers) == [
        *("Conv2d", "ReLU", "Conv2d", "MaxPool2d", "Conv2d", "Flatten"),
        *("BatchNorm1d", "Linear", "Dropout", "Linear"),
    ]


def test_lstm_reads_the_state_where_the_sound_ends() -> None:
    head, features = LstmHead(6, 3, layers=2).eval(), torch.randn(4, 9, 6)
    valid = torch.tensor([9, 1, 5, 3])
    together = head(features, valid)
    for item, length in enumerate(valid.tolist()):
        torch.testing.assert_close(together[item], head(features[item : item + 1, :length])[0])
    assert not torch.allclose(together[1:], head(features)[1:])


def test_lstm_knows_the_order_of_rows_and_averages_do_not() -> None:
    features = torch.randn(2, 5, 6)
    lstm, average = LstmHead(6, 3).eval(), VggishHeadAverage(6, 3, hidden=8).eval()
    assert not torch.allclose(lstm(features), lstm(features.flip(1)), atol=1e-4)
    torch.testing.assert_close(average(features), average(features.flip(1)))


def test_attention_is_that_of_torch() -> None:
    ours, theirs = SelfAttention(12, heads=3), nn.MultiheadAttention(12, 3, batch_first=True)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([ours.query.weight, ours.key.weight, ours.value.weight]))
        theirs.in_proj_bias.copy_(torch.cat([ours.query.bias, torch.zeros(12), ours.value.bias]))
        theirs.out_proj.load_state_dict(ours.output.state_dict())
    rows, sound = torch.randn(2, 5, 12), torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    expected, _ = theirs(rows, rows, rows, key_padding_mask=~sound)
    torch.testing.assert_close(ours(rows, sound)[sound], expected[sound])
    torch.testing.assert_close(ours(rows, None), theirs(rows, rows, rows)[0])


@pytest.mark.parametrize(("width", "inner"), [(12, 12), (13, 16)])
def test_transformer_is_as_wide_as_its_input_or_a_little_wider(width: int, inner: int) -> None:
    head = TransformerHead(5, width, 3, heads=4)
    assert head.positions.shape == (5, inner)
    assert isinstance(head.widen, nn.Identity if width == inner else nn.Linear)


def test_transformer_knows_the_order_of_rows() -> None:
    features, head = torch.randn(2, 5, 12), TransformerHead(5, 12, 3).eval()
    with torch.no_grad():
        head.positions.mul_(50)  # they start small
    assert not torch.allclose(head(features), head(features.flip(1)), atol=1e-4)


def test_vggish_head_is_the_mean_of_its_logits() -> None:
    head, features = VggishHeadAverage(6, 3, hidden=8).eval(), torch.randn(2, 5, 6)
    each: list[Tensor] = [head(features[:, row : row + 1]) for row in range(5)]
    torch.testing.assert_close(head(features), torch.stack(each).mean(0))
    torch.testing.assert_close(head(features, torch.tensor([2, 2])), torch.stack(each[:2]).mean(0))
