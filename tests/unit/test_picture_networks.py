"""The networks on pictures: layers, sizes, input ranges, ImageNet's weights."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from models.errors import WeightsCorrupt, WeightsMissing
from models.picture_networks import MelCnn, PictureResNet, StftCnn
from models.spectrograms import MEL64_SHAPE, MEL_SHAPE, STFT_SHAPE

EVERY = pytest.mark.parametrize("build", [StftCnn, MelCnn, PictureResNet])
Build = Callable[[int], nn.Module]


@pytest.fixture(autouse=True)
def _same_numbers_every_run() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize(("build", "shape"), [(StftCnn, STFT_SHAPE), (MelCnn, MEL_SHAPE), (PictureResNet, MEL64_SHAPE)])
def test_takes_its_own_picture(build: Build, shape: tuple[int, int]) -> None:
    with torch.inference_mode():
        assert build(10).eval()(torch.randn(1, *shape)).shape == (1, 10)


@EVERY
def test_range_of_the_picture_does_not_matter_once_it_was_seen(build: Build) -> None:
    network, pictures = build(3), torch.randn(8, 32, 48)
    torch.manual_seed(1)
    logits = network.train()(pictures)
    torch.manual_seed(1)
    torch.testing.assert_close(network(pictures * 20 - 60), logits, atol=1e-3, rtol=1e-3)


def test_stft_cnn_has_the_layers_of_its_paper() -> None:
    network = StftCnn(10)
    convolutions = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d)]
    dense = [layer for layer in network.modules() if isinstance(layer, nn.Linear)]
    dropouts = [layer.p for layer in network.modules() if isinstance(layer, nn.Dropout)]
    assert [layer.out_channels for layer in convolutions] == [64, 128, 256]
    assert [layer.out_features for layer in dense] == [256, 128, 10]
    assert dropouts == [0.1, 0.1, 0.1, 0.3]


def imagenet_state() -> dict[str, Tensor]:
    """Names and shapes of the official file, with other numbers."""
    from torchvision.models import resnet18

    return {name: torch.randn_like(tensor.float()) for name, tensor in resnet18(weights=None).state_dict().items()}


def test_imagenet_weights_fill_all_but_the_last_layer() -> None:
    network, state = PictureResNet(3), imagenet_state()
    last = network.body.fc[1].weight.clone()
    network.load_imagenet(state)
    own = network.body.state_dict()
    torch.testing.assert_close(own["conv1.weight"], state["conv1.weight"].mean(1, keepdim=True))
    torch.testing.assert_close(own["layer4.1.bn2.running_mean"], state["layer4.1.bn2.running_mean"])
    torch.testing.assert_close(own["fc.1.weight"], last)


def test_imagenet_weights_may_lack_the_counts_of_batches() -> None:
    state = {name: tensor for name, tensor in imagenet_state().items() if not name.endswith("num_batches_tracked")}
    PictureResNet(3).load_imagenet(state)


def test_other_networks_weights_are_refused() -> None:
    state = imagenet_state()
    with pytest.raises(WeightsCorrupt, match=r"conv1\.weight is missing"):
        PictureResNet(3).load_imagenet({name: tensor for name, tensor in state.items() if name != "conv1.weight"})
    with pytest.raises(WeightsCorrupt, match=r"layer1.0.conv1.weight has shape \[1\], expected \[64, 64, 3, 3\]"):
        PictureResNet(3).load_imagenet(state | {"layer1.0.conv1.weight": torch.zeros(1)})


def test_only_the_official_file_is_read(tmp_path: Path) -> None:
    with pytest.raises(WeightsMissing, match=r"resnet18-f37072fd.pth: no such file.*weights fetch resnet18-imagenet"):
        PictureResNet(3).load_pretrained(tmp_path)
    torch.save(imagenet_state(), tmp_path / "resnet18-f37072fd.pth")
    with pytest.raises(WeightsCorrupt, match="expected f37072fd"):
        PictureResNet(3).load_pretrained(tmp_path)
