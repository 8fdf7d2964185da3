"""The head on VGGish's embeddings: sizes, sigmoid or softmax, dropout, loading."""

import pytest
import torch

from models.errors import WeightsCorrupt
from models.heads import VggishHead, build_arrays, load_head
from models.layout import head_shapes
from models.vggish import VGGish


@pytest.fixture(autouse=True)
def _same_numbers_every_run() -> None:
    torch.manual_seed(0)


def small_head(multi_label: bool = True, dropout: float = 0.5) -> VggishHead:
    torch.manual_seed(0)
    return VggishHead(3, multi_label=multi_label, embedding_size=8, hidden=16, dropout=dropout)


def prefixed(head: VggishHead) -> dict[str, torch.Tensor]:
    return {f"head.{name}": tensor for name, tensor in head.state_dict().items()}


def test_default_sizes() -> None:
    head = VggishHead(10, multi_label=False)
    assert sum(parameter.numel() for parameter in head.parameters()) == 17_309_696 + 10 * 4097
    assert {name: tuple(tensor.shape) for name, tensor in prefixed(head).items()} == head_shapes(128, 4096, 10)


def test_widths_are_parameters() -> None:
    assert small_head()(torch.randn(5, 8)).shape == (5, 3)
    assert {name: tuple(t.shape) for name, t in prefixed(small_head()).items()} == head_shapes(8, 16, 3)


def test_multi_label_scores_are_independent_and_others_sum_to_one() -> None:
    embeddings = torch.randn(5, 8)
    many, one = small_head(multi_label=True).eval(), small_head(multi_label=False).eval()
    torch.testing.assert_close(many(embeddings), torch.sigmoid(one.logits(embeddings)))
    torch.testing.assert_close(one(embeddings).sum(1), torch.ones(5))
    assert (many(embeddings).sum(1) - 1).abs().min() > 0.01


def test_has_two_hidden_layers_with_an_activation_each() -> None:
    head = small_head().eval()
    with torch.no_grad():
        head.hidden1.bias.fill_(-1000.0)  # silences the first layer: what is left cannot depend on the input
    one, other = head.logits(torch.randn(2, 8))
    torch.testing.assert_close(one, other)
    with torch.no_grad():
        head.hidden2.bias.fill_(-1000.0)
    torch.testing.assert_close(head.logits(torch.randn(1, 8))[0], head.output.bias)


def test_dropout_follows_both_hidden_layers() -> None:
    head, dropped = small_head().train(), []
    head.dropout.register_forward_hook(lambda _, inputs, output: dropped.append((inputs[0], output)))
    head(torch.randn(50, 8))
    assert len(dropped) == 2
    for before, after in dropped:
        assert before.min() >= 0  # after the activation
        assert 0.4 < float((after[before > 0] == 0).float().mean()) < 0.6


def test_dropout_acts_in_training_only() -> None:
    head, embeddings = small_head(), torch.randn(4, 8)
    assert not torch.equal(head.train()(embeddings), head(embeddings))
    assert torch.equal(head.eval()(embeddings), head(embeddings))
    none = small_head(dropout=0.0).train()
    assert torch.equal(none(embeddings), none(embeddings))


def test_loads_as_wide_as_its_weights() -> None:
    head = small_head().eval()
    loaded = load_head({**prefixed(head), "features.0.bias": torch.zeros(64)}, multi_label=True)
    embeddings = torch.randn(2, 8)
    assert not loaded.training
    torch.testing.assert_close(loaded(embeddings), head(embeddings))


def test_refuses_layers_that_do_not_fit_together() -> None:
    state = prefixed(small_head())
    with pytest.raises(WeightsCorrupt, match=r"head.hidden2.weight has shape \[16, 4\], expected \[16, 16\]"):
        load_head({**state, "head.hidden2.weight": torch.zeros(16, 4)}, multi_label=True)
    with pytest.raises(WeightsCorrupt, match=r"head.hidden1.weight has shape \[16\]"):
        load_head({**state, "head.hidden1.weight": torch.zeros(16)}, multi_label=True)
    with pytest.raises(WeightsCorrupt, match=r"head.extra.bias \[2\] is no known key"):
        load_head({**state, "head.extra.bias": torch.zeros(2)}, multi_label=True)
    with pytest.raises(WeightsCorrupt, match=r"head\.hidden1\.weight is missing"):
        load_head({}, multi_label=True)


def test_arrays_of_both_networks_share_no_name() -> None:
    vggish, head = VGGish(slim=True), VggishHead(3, multi_label=True, hidden=16)
    arrays = build_arrays(vggish, head)
    assert len(arrays) == len(vggish.state_dict()) + len(head.state_dict())
    assert all(name.split(".")[0] in {"features", "embeddings", "head"} for name in arrays)
