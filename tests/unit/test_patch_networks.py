"""YAMNet and VGGish as classifiers of longer sounds: patches, offsets, freezing, weights of others."""

from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor

from models.errors import BadOption, WeightsCorrupt, WeightsMissing
from models.frontend import VGGISH_OFFSET, YAMNET_OFFSET, with_offset
from models.normed import TrainableVGGish, TrainableYAMNet
from models.patch_networks import VggishClassifier, YamnetClassifier
from models.tflite import load_yamnet_arrays
from models.vggish import VGGish
from models.yamnet import YAMNet, load_yamnet


@pytest.fixture(autouse=True)
def _same_numbers_every_run() -> None:
    torch.manual_seed(0)


def small_yamnet(*, frozen: bool = False, normed: bool = False, classes: int = 3) -> YamnetClassifier:
    return YamnetClassifier((TrainableYAMNet if normed else YAMNet)(classes, width=0.1), frozen=frozen)


def slim_vggish(*, frozen: bool = False, normed: bool = False, classes: int = 3) -> VggishClassifier:
    return VggishClassifier(TrainableVGGish() if normed else VGGish(slim=True), classes, frozen=frozen)


def log_mel(*shape: int) -> Tensor:
    return torch.log(torch.rand(*shape) + YAMNET_OFFSET)


def test_logits_are_the_mean_over_whole_patches() -> None:
    classifier, features = small_yamnet().eval(), log_mel(2, 250, 64)
    first, second = classifier(features[:, :96]), classifier(features[:, 96:192])
    torch.testing.assert_close(classifier(features), (first + second) / 2)


@pytest.mark.parametrize(("valid", "patches"), [(1, 1), (96, 1), (143, 1), (144, 2), (192, 2), (250, 2)])
def test_patch_counts_when_half_of_it_is_sound(valid: int, patches: int) -> None:
    classifier, features = small_yamnet().eval(), log_mel(1, 250, 64)
    heard = features.clone()
    heard[:, valid:] = np.log(YAMNET_OFFSET)
    torch.testing.assert_close(classifier(features, torch.tensor([valid])), classifier(heard[:, : 96 * patches]))


def test_yamnet_is_yamnet() -> None:
    network = YAMNet(3, width=0.1).eval()
    patches = log_mel(2, 96, 64)
    scores, _ = network(patches)
    torch.testing.assert_close(YamnetClassifier(network).eval()(patches).sigmoid(), scores)


def test_vggish_gets_frames_with_its_own_offset() -> None:
    classifier, heard = slim_vggish().eval(), []
    classifier.network.register_forward_pre_hook(lambda _, inputs: heard.append(inputs[0]))
    patches = log_mel(2, 96, 64)
    classifier(patches)
    np.testing.assert_allclose(heard[0], with_offset(patches.numpy(), YAMNET_OFFSET, VGGISH_OFFSET), atol=1e-5)
    assert torch.isfinite(classifier(torch.full((1, 96, 64), -8.0))).all()  # below the offset, as float16 may round


@pytest.mark.parametrize("build", [small_yamnet, slim_vggish])
def test_frozen_network_trains_its_last_layer_alone(build: type[YamnetClassifier]) -> None:
    classifier = build(frozen=True, normed=True).train()
    before = {name: tensor.clone() for name, tensor in classifier.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in classifier.parameters() if p.requires_grad], lr=0.1)
    classifier(log_mel(4, 96, 64)).square().sum().backward()
    optimizer.step()
    changed = {name for name, tensor in classifier.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed in ({"network.dense.weight", "network.dense.bias"}, {"output.weight", "output.bias"})
    assert classifier.dropout.training


@pytest.mark.parametrize("build", [small_yamnet, slim_vggish])
@pytest.mark.parametrize("normed", [False, True])
def test_goes_on_from_a_network_trained_here(build: type[YamnetClassifier], normed: bool, tmp_path: Path) -> None:
    trained, fresh = build(normed=normed, classes=7), build(normed=normed)
    safetensors.torch.save_file(trained.state_dict(), tmp_path / "weights.safetensors")
    fresh.load_pretrained(tmp_path)
    mine, theirs = fresh.state_dict(), trained.state_dict()
    last = {name for name in mine if name.startswith(("network.dense.", "output."))}
    assert len(last) == 2
    assert all(torch.equal(mine[name], theirs[name]) for name in mine.keys() - last)


def test_bare_networks_weights_will_do(tmp_path: Path) -> None:
    network, fresh = YAMNet(7, width=0.1), small_yamnet()
    safetensors.torch.save_file(network.state_dict(), tmp_path / "weights.safetensors")
    fresh.load_pretrained(tmp_path)
    torch.testing.assert_close(fresh.network.convolutions[26].weight, network.convolutions[26].weight)


def test_takes_the_published_vggish() -> None:
    published, classifier = VGGish(), VggishClassifier(VGGish(), 3)
    classifier.load_trunk(published.state_dict(), "vggish.pth")
    patches = log_mel(1, 96, 64)
    converted = torch.from_numpy(with_offset(patches.numpy(), YAMNET_OFFSET, VGGISH_OFFSET))
    torch.testing.assert_close(classifier.network(converted), published(converted))


def test_takes_google_s_yamnet(shared: Path) -> None:
    classifier = YamnetClassifier(YAMNet(3))
    classifier.load_pretrained(shared / "weights")
    published = load_yamnet(load_yamnet_arrays((shared / "weights" / "yamnet.tflite").read_bytes()))
    patches = log_mel(2, 96, 64)
    torch.testing.assert_close(classifier.network.embed(patches), published.embed(patches))
    with pytest.raises(BadOption, match="say batch_norm=false"):
        YamnetClassifier(TrainableYAMNet(3)).load_pretrained(shared / "weights")
    with pytest.raises(BadOption, match="say width=1"):
        small_yamnet().load_pretrained(shared / "weights")


def test_says_what_is_missing_or_does_not_fit(tmp_path: Path) -> None:
    with pytest.raises(WeightsMissing, match=r"holds no weights\.safetensors or yamnet\.tflite"):
        small_yamnet().load_pretrained(tmp_path)
    with pytest.raises(WeightsMissing, match=r"holds no weights\.safetensors:"):
        slim_vggish().load_pretrained(tmp_path)
    safetensors.torch.save_file(slim_vggish().state_dict(), tmp_path / "weights.safetensors")
    with pytest.raises(WeightsCorrupt, match=r"weights\.safetensors: convolutions\.0\.weight is missing"):
        small_yamnet().load_pretrained(tmp_path)
