"""Batch norm for training, folded into plain networks that do the same."""

import pytest
import torch
from torch import nn

from models.normed import TrainableVGGish, TrainableYAMNet


def trained(network: nn.Module) -> nn.Module:
    """The network after a few steps, so that no norm is what it was at the start."""
    torch.manual_seed(0)
    optimizer = torch.optim.SGD(network.parameters(), 0.01)
    for _ in range(3):
        output = network(torch.randn(6, 96, 64) * 2 - 1)
        optimizer.zero_grad()
        (output[0] if isinstance(output, tuple) else output).square().mean().backward()
        optimizer.step()
    return network.eval()


def test_folded_yamnet_scores_as_the_trained_one() -> None:
    network = trained(TrainableYAMNet(5, width=0.1))
    patches = torch.randn(4, 96, 64)
    assert isinstance(network, TrainableYAMNet)
    plain = network.fold()
    for mine, other in zip(plain(patches), network(patches), strict=True):
        assert torch.allclose(mine, other, atol=1e-5)
    assert not [name for name in plain.state_dict() if "running" in name]


def test_folded_vggish_embeds_as_the_trained_one() -> None:
    network = trained(TrainableVGGish())
    patches = torch.randn(2, 96, 64)
    assert isinstance(network, TrainableVGGish)
    expected = network(patches).detach()
    assert torch.allclose(network.fold()(patches), expected, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.parametrize("network", [TrainableYAMNet(3, width=0.05), TrainableVGGish()])
def test_norm_follows_each_convolution_that_has_no_bias(network: nn.Module) -> None:
    convolutions = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d)]
    norms = [layer for layer in network.modules() if isinstance(layer, nn.BatchNorm2d)]
    assert len(convolutions) == len(norms) > 0
    assert all(layer.bias is None for layer in convolutions)
