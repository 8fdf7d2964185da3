"""YAMNet and VGGish as classifiers of longer sounds, to train whole or with the network frozen. Know nothing of labels.

Log-mel frames [N, F, 64], log(mel + 0.001) -> logits [N, C]: the mean over the F // 96 patches, which do not overlap. `valid` [N] says how
many leading frames of each item are sound: the others are silence, and a patch that is not half sound does not count.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn

from models.errors import BadOption, WeightsMissing
from models.frontend import MEL_BANDS, PATCH_FRAMES, VGGISH_OFFSET, YAMNET_OFFSET
from models.layout import EMBEDDING_SIZE, check_shapes
from models.normed import TrainableYAMNet
from models.sequence_heads import mean_rows, sound_rows
from models.tflite import load_yamnet_arrays
from models.vggish import VGGish, read_state
from models.yamnet import YAMNet, load_yamnet

WEIGHTS = "weights.safetensors"  # a trained network's, as training writes them
YAMNET_FILE = "yamnet.tflite"
VGGISH_FILE = "vggish.pth"
NETWORK_PREFIX = "network."


class PatchClassifier(nn.Module):
    """Log-mel [N, F, 64] -> logits [N, C], through `network`, whose children in `trunk` make the embedding.

    `frozen` keeps the trunk as it is, its batch norms and all: only what follows is trained.
    """

    trunk: ClassVar[tuple[str, ...]]
    network: nn.Module

    def __init__(self, network: nn.Module, *, frozen: bool, dropout: float) -> None:
        """A classifier with the network's weights."""
        super().__init__()
        self.network = network
        self.dropout = nn.Dropout(dropout)
        self.frozen = frozen
        for part in self.trunk:
            self.network.get_submodule(part).requires_grad_(not frozen)

    def train(self, mode: bool = True) -> "PatchClassifier":
        """Training mode for all but a frozen trunk."""
        super().train(mode)
        if self.frozen:
            for part in self.trunk:
                self.network.get_submodule(part).eval()
        return self

    def forward(self, features: Tensor, valid: Tensor | None = None) -> Tensor:
        """Log-mel [N, F, 64] -> logits [N, C]."""
        count = int(features.shape[1]) // PATCH_FRAMES  # int: a constant in an exported graph
        if valid is not None:
            sound = sound_rows(valid, features.shape[1]).unsqueeze(2)
            features = features.masked_fill(~sound, math.log(YAMNET_OFFSET))
            valid = (valid + PATCH_FRAMES // 2) // PATCH_FRAMES
        patches = features[:, : count * PATCH_FRAMES].reshape(-1, PATCH_FRAMES, MEL_BANDS)
        logits = self.patch_logits(patches)
        return mean_rows(logits.reshape(-1, count, int(logits.shape[1])), valid)

    def patch_logits(self, patches: Tensor) -> Tensor:
        """Patches [P, 96, 64], log(mel + 0.001) -> logits [P, C]."""
        raise NotImplementedError

    def load_trunk(self, state: Mapping[str, Tensor], source: str) -> None:
        """Takes the trunk's weights, and leaves the others alone. Raises WeightsCorrupt naming the first wrong key and both shapes."""
        own = self.network.state_dict()
        given = {name.removeprefix(NETWORK_PREFIX): tensor for name, tensor in state.items()}
        prefixes = tuple(f"{part}." for part in self.trunk)
        taken = {name: tensor for name, tensor in given.items() if name.startswith(prefixes)}
        expected = {name: tuple(tensor.shape) for name, tensor in own.items() if name.startswith(prefixes)}
        check_shapes(taken, expected, source)
        self.network.load_state_dict(own | taken)


class YamnetClassifier(PatchClassifier):
    """YAMNet, with dropout before its last layer: log-mel [N, F, 64] -> logits [N, C]. 3,195,456 + 1025 C parameters."""

    trunk = ("convolutions",)
    network: YAMNet

    def __init__(self, network: YAMNet, *, frozen: bool = False, dropout: float = 0.2) -> None:
        """A classifier for the network's own classes; the network may be one with batch norm (models/normed.py)."""
        super().__init__(network, frozen=frozen, dropout=dropout)

    def patch_logits(self, patches: Tensor) -> Tensor:
        """Patches [P, 96, 64], log(mel + 0.001) -> logits [P, C]."""
        return self.network.logits(self.dropout(self.network.embed(patches)))

    def load_pretrained(self, folder: Path) -> None:
        """Takes the trunk from a folder with weights.safetensors (a network trained here) or yamnet.tflite (Google's).

        Raises WeightsMissing, WeightsCorrupt, and BadOption where Google's weights do not go with the network's options.
        """
        file = find_file(folder, WEIGHTS, YAMNET_FILE)
        if file.name == WEIGHTS:
            self.load_trunk(read_state(file), str(file))
            return
        published = load_yamnet(load_yamnet_arrays(file.read_bytes()))
        if isinstance(self.network, TrainableYAMNet):
            raise BadOption(f"{file} has its batch norms folded in: say batch_norm=false")
        if self.network.embedding_size != published.embedding_size:
            raise BadOption(f"{file} holds a network of full width: say width=1")
        self.load_trunk(published.state_dict(), str(file))


class VggishClassifier(PatchClassifier):
    """VGGish, ReLU, dropout and a last layer: log-mel [N, F, 64] -> logits [N, C].

    72,141,184 + 129 C parameters, of a slim one 4,565,376 + 129 C. The ReLU is that of vggish_train_demo.py in the reference
    implementation. VGGish's log(mel + 0.01) is made inside, so that a trained model takes the same frames as YAMNet.
    """

    trunk = ("features", "embeddings")
    network: VGGish

    def __init__(self, network: VGGish, classes: int, *, frozen: bool = False, dropout: float = 0.2) -> None:
        """A classifier with random weights in its last layer; the network may be one with batch norm (models/normed.py)."""
        super().__init__(network, frozen=frozen, dropout=dropout)
        self.output = nn.Linear(EMBEDDING_SIZE, classes)

    def patch_logits(self, patches: Tensor) -> Tensor:
        """Patches [P, 96, 64], log(mel + 0.001) -> logits [P, C]."""
        mel = (patches.exp() - YAMNET_OFFSET).clamp(min=0)
        embeddings = self.network(torch.log(mel + VGGISH_OFFSET))
        logits: Tensor = self.output(self.dropout(torch.relu(embeddings)))
        return logits

    def load_pretrained(self, folder: Path) -> None:
        """Takes the trunk from a folder with weights.safetensors (a network trained here) or, if not slim, the published vggish.pth.

        Raises WeightsMissing, WeightsCorrupt.
        """
        names = (WEIGHTS,) if self.network.slim else (WEIGHTS, VGGISH_FILE)
        file = find_file(folder, *names)
        self.load_trunk(read_state(file), str(file))


def find_file(folder: Path, *names: str) -> Path:
    """The first of the files that is in the folder. Raises WeightsMissing naming them."""
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise WeightsMissing(f"{folder} holds no {' or '.join(names)}: name a folder that does")
