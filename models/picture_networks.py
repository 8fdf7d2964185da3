"""Classifiers of pictures of sound (models/spectrograms.py): [N, H, W] -> logits [N, C]. Know nothing of sound, files or labels.

Each first brings its input to mean 0 and variance 1 as a whole: pictures are in decibels or in 0..1, and the zeros that convolutions put
around a picture should be its mean, not its loudest value. A picture's padding is part of it, so `valid` changes nothing.
"""

import itertools
from pathlib import Path

import torch
from torch import Tensor, nn

from models.bundle import check_sha256
from models.errors import WeightsMissing
from models.layout import check_shapes
from models.published import IMAGENET, known
from models.vggish import State, read_state, source_name

STFT_CHANNELS = (64, 128, 256)
MEL_BLOCKS = 4


def normed_block(inputs: int, outputs: int, dropout: float = 0.0) -> nn.Sequential:
    """Conv 3x3 - BatchNorm - ReLU - MaxPool 2x2 - Dropout: maps [N, I, H, W] -> [N, O, H // 2, W // 2]."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),  # the norm would take a bias back
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Dropout(dropout),
    )


class StftCnn(nn.Module):
    """The bird-song CNN: STFT pictures [N, 216, 514] (or others of at least 8 x 8) -> logits [N, C].

    Three blocks of 64, 128 and 256 channels (Conv 3x3 - BatchNorm - ReLU - MaxPool 2x2 - Dropout 0.1), global average pool, dense layers
    of 256 and 128 with ReLU, dropout 0.3, and the classes. 468,800 + 129 C parameters.
    """

    def __init__(self, classes: int, *, block_dropout: float = 0.1, dropout: float = 0.3) -> None:
        """A network with random weights."""
        super().__init__()
        first, second, third = STFT_CHANNELS
        self.layers = nn.Sequential(
            nn.BatchNorm2d(1, affine=False),
            normed_block(1, first, block_dropout),
            normed_block(first, second, block_dropout),
            normed_block(second, third, block_dropout),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(third, 256),
            nn.ReLU(),
            nn.Linear(256, 128),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(128, classes),
        )

    def forward(self, pictures: Tensor, valid: Tensor | None = None) -> Tensor:
        """Pictures [N, H, W] -> logits [N, C]."""
        del valid  # see the module's docstring
        logits: Tensor = self.layers(pictures.unsqueeze(1))
        return logits


class MelCnn(nn.Module):
    """A plain CNN for ESC-50's mel pictures [N, 128, 431] (or others of at least 16 x 16) -> logits [N, C].

    Four blocks of 32, 64, 128 and 256 channels (Conv 3x3 - BatchNorm - ReLU - MaxPool 2x2), global average pool, dropout, the classes:
    388,320 + 257 C parameters. The network that it stands for reached 54.5 % on ESC-50. It gives the picture, not its channels; those
    here are ours. `width` is the first block's channels.
    """

    def __init__(self, classes: int, *, width: int = 32, dropout: float = 0.3) -> None:
        """A network with random weights."""
        super().__init__()
        channels = [1, *(width * 2**block for block in range(MEL_BLOCKS))]
        self.layers = nn.Sequential(
            nn.BatchNorm2d(1, affine=False),
            *(normed_block(*pair) for pair in itertools.pairwise(channels)),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Dropout(dropout),
            nn.Linear(channels[-1], classes),
        )

    def forward(self, pictures: Tensor, valid: Tensor | None = None) -> Tensor:
        """Pictures [N, H, W] -> logits [N, C]."""
        del valid  # see the module's docstring
        logits: Tensor = self.layers(pictures.unsqueeze(1))
        return logits


class PictureResNet(nn.Module):
    """ResNet-18 (He et al. 2015, arXiv 1512.03385; torchvision's) on mel pictures [N, 64, 216] or others -> logits [N, C].

    Its first convolution takes one channel, and a dropout of 0.3 precedes the last layer. 11,170,240 + 513 C parameters.
    """

    def __init__(self, classes: int, *, dropout: float = 0.3) -> None:
        """A network with random weights."""
        from torchvision.models import resnet18  # its import is slow, and no other network needs it

        super().__init__()
        self.norm = nn.BatchNorm2d(1, affine=False)
        self.body = resnet18(weights=None)
        self.body.conv1 = nn.Conv2d(1, 64, 7, stride=2, padding=3, bias=False)
        nn.init.kaiming_normal_(self.body.conv1.weight, mode="fan_out", nonlinearity="relu")  # as torchvision
        self.body.fc = nn.Sequential(nn.Dropout(dropout), nn.Linear(512, classes))

    def forward(self, pictures: Tensor, valid: Tensor | None = None) -> Tensor:
        """Pictures [N, H, W] -> logits [N, C]."""
        del valid  # see the module's docstring
        logits: Tensor = self.body(self.norm(pictures.unsqueeze(1)))
        return logits

    def load_pretrained(self, folder: Path) -> None:
        """Takes ImageNet's weights from the folder with torchvision's official file. Raises WeightsMissing, WeightsCorrupt."""
        (file,) = known(IMAGENET).files
        if not (folder / file.name).is_file():
            raise WeightsMissing(
                f"{folder / file.name}: no such file. Get it with:  earshot weights fetch {IMAGENET}  (from {file.urls[0]})"
            )
        check_sha256(folder / file.name, file.sha256)
        self.load_imagenet(folder / file.name)

    def load_imagenet(self, source: Path | State) -> None:
        """Takes every weight but the last layer's; the first convolution gets the mean of the filters for red, green and blue.

        Raises WeightsCorrupt naming the first wrong key and both shapes.
        """
        state = {name: tensor for name, tensor in read_state(source).items() if _is_weight(name)}
        first = state.get("conv1.weight", torch.empty(0))
        if first.ndim == 4:
            state["conv1.weight"] = first.mean(1, keepdim=True)
        expected = {name: tuple(tensor.shape) for name, tensor in self.body.state_dict().items() if _is_weight(name)}
        check_shapes(state, expected, source_name(source))
        self.body.load_state_dict(state, strict=False)


def _is_weight(name: str) -> bool:
    """Not the last layer's, whose classes are others, and not a count of batches, which the file may lack."""
    return not name.startswith("fc.") and not name.endswith("num_batches_tracked")
