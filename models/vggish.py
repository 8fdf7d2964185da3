"""VGGish as a torch network: patches -> embeddings. Knows nothing of sound, classes or labels.

Hershey et al. 2017, 'CNN architectures for large-scale audio classification' (arXiv 1609.09430); reference
implementation: github.com/tensorflow/models/tree/master/research/audioset/vggish.
"""

import pickle
from collections.abc import Mapping
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from models.errors import WeightsCorrupt, WeightsMissing
from models.layout import CONVOLUTIONS, HEAD_PREFIX, POOLED, check_shapes, dense_layers, vggish_shapes

State = Mapping[str, Tensor]


def build_features() -> nn.Sequential:
    """The six 3x3 convolutions with their ReLUs and pools: [P, 1, 96, 64] -> [P, 512, 6, 4]."""
    layers: list[nn.Module] = []
    for number, (inputs, outputs) in CONVOLUTIONS.items():
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU()]
        if number in POOLED:
            layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers)


def build_embeddings(slim: bool, last_relu: bool) -> nn.Sequential:
    """The dense layers with a ReLU between each two: [P, 12288] (slim: [P, 512]) -> [P, 128]."""
    layers: list[nn.Module] = []
    for inputs, outputs in dense_layers(slim).values():
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers) if last_relu else nn.Sequential(*layers[:-1])


class VGGish(nn.Module):
    """VGGish: patches [P, 96, 64], log(mel + 0.01) -> embeddings [P, 128].

    72,141,184 parameters. The embedding is the last layer before its activation, as TensorFlow gives it; `last_relu`
    adds the ReLU of the torchvggish port. `slim` keeps the six convolutions and replaces the two layers of 4096 by a
    global average pool: 4,565,376 parameters, to train on few clips.
    """

    def __init__(self, *, slim: bool = False, last_relu: bool = False) -> None:
        """A network with random weights (He initialization)."""
        super().__init__()
        self.slim = slim
        self.features = build_features()
        self.embeddings = build_embeddings(slim, last_relu)
        self.apply(_initialize)

    def forward(self, patches: Tensor) -> Tensor:
        """Patches [P, 96, 64] -> embeddings [P, 128]."""
        maps: Tensor = self.features(patches.unsqueeze(1))  # [P, 512, 6, 4]
        # TensorFlow's weights expect height, width, channel.
        flat = maps.mean((2, 3)) if self.slim else maps.permute(0, 2, 3, 1).flatten(1)
        embeddings: Tensor = self.embeddings(flat)
        return embeddings


def load_vggish(source: Path | State, *, slim: bool = False, last_relu: bool = False) -> VGGish:
    """A .pth or .safetensors file, or its state dict -> VGGish, ready to infer.

    Names are torchvggish's: `features.{0,3,6,8,11,13}` and `embeddings.{0,2,4}` (slim: `embeddings.0`), each with
    `.weight` and `.bias`; `head.*` names may be there too and are left for the head. Raises WeightsMissing without a
    file, and WeightsCorrupt for one that does not parse, or naming the first wrong key and both shapes.
    """
    state = {name: tensor for name, tensor in read_state(source).items() if not name.startswith(HEAD_PREFIX)}
    check_shapes(state, vggish_shapes(slim), source_name(source))
    with torch.device("meta"):
        model = VGGish(slim=slim, last_relu=last_relu)
    model.to_empty(device="cpu").load_state_dict(state)
    return model.eval()


def read_state(source: Path | State) -> dict[str, Tensor]:
    """A .safetensors or a torch file, or a state dict -> name to tensor. A pickle may hold tensors only.

    Raises WeightsMissing without a file, and WeightsCorrupt for anything but a flat dictionary of tensors.
    """
    state = _read_file(source) if isinstance(source, Path) else source
    if not isinstance(state, Mapping):
        raise WeightsCorrupt(f"{source_name(source)}: holds a {type(state).__name__}, expected a dictionary of tensors")
    for name, tensor in state.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise WeightsCorrupt(f"{source_name(source)}: {name} is a {type(tensor).__name__}, expected a tensor")
    return dict(state)


def source_name(source: Path | State) -> str:
    """What an error message calls the source of weights."""
    return str(source) if isinstance(source, Path) else "state dict"


def _read_file(path: Path) -> object:
    if not path.is_file():
        raise WeightsMissing(f"{path}: no such file")
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except (safetensors.SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise WeightsCorrupt(f"{path}: neither tensors alone nor a whole file ({type(error).__name__})") from error


def _initialize(layer: nn.Module) -> None:
    if isinstance(layer, nn.Conv2d | nn.Linear):
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
