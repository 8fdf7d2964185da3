"""Every network that can be trained, by name: what features it takes, its options, and how it is built. Knows nothing of sound or labels.

A network is `module(features [N, *shape], valid [N] | None) -> logits [N, C]`, without sigmoid or softmax; `valid` says how many leading
rows (of embeddings), frames (of log-mel) or samples (of pictures) of each item are sound.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from pydantic import ValidationError
from torch import nn

from models.errors import BadOption
from models.frontend import MEL_BANDS, PATCH_FRAMES
from models.network_options import (
    Conv1dOptions,
    Conv2dOptions,
    LinearOptions,
    LstmOptions,
    MelCnnOptions,
    Options,
    ResNetOptions,
    StftCnnOptions,
    TransformerOptions,
    VggishHeadOptions,
    VggishOptions,
    VggishSlimOptions,
    YamnetOptions,
)
from models.normed import TrainableVGGish, TrainableYAMNet
from models.patch_networks import VggishClassifier, YamnetClassifier
from models.picture_networks import MelCnn, PictureResNet, StftCnn
from models.sequence_heads import Conv1dHead, Conv2dHead, LinearHead, LstmHead, TransformerHead, VggishHeadAverage
from models.spectrograms import MEL64_SHAPE, MEL_SHAPE, STFT_SHAPE
from models.vggish import VGGish
from models.yamnet import Activation, YAMNet

Shape = tuple[int, ...]
Build = Callable[[Shape, int, Any], nn.Module]

AUDIOSET_SHAPE = (10, 128)  # AudioSet's features: a row for each of 10 s
PATCH_SHAPE = (PATCH_FRAMES, MEL_BANDS)
SMALLEST_PICTURE = 16  # the mel CNN halves it four times
PICTURES = ("stft", "mel", "mel64")
EXAMPLE_CLASSES = 10  # in the help table


@dataclass(frozen=True)
class Architecture:
    """One network: the kinds of features that it takes, with a usual shape, and what builds it for (shape, classes, options)."""

    name: str
    takes: tuple[str, ...]
    example: Shape
    build: Build
    options: type[Options]
    about: str


@dataclass(frozen=True)
class Row:
    """One row of the help table; the parameters are those for `shape` and ten classes."""

    name: str
    takes: tuple[str, ...]
    about: str
    shape: Shape
    parameters: int


@runtime_checkable
class Pretrained(Protocol):
    """A network of which trained weights are published, or that goes on from one that was trained here."""

    def load_pretrained(self, folder: Path) -> None: ...


def _sized(network: Callable[..., nn.Module]) -> Build:
    """For a network of (rows, width, classes): one that fits features [T, D]."""
    return lambda shape, classes, options: network(*shape, classes, **options.model_dump())


def _wide(network: Callable[..., nn.Module]) -> Build:
    """For a network of (width, classes): one that takes any number of rows."""
    return lambda shape, classes, options: network(shape[-1], classes, **options.model_dump())


def _any_size(network: Callable[..., nn.Module]) -> Build:
    """For a network of (classes): one that takes features of any size."""
    return lambda _, classes, options: network(classes, **options.model_dump())


def _yamnet(classes: int, activation: Activation, width: float, batch_norm: bool, **options: Any) -> YamnetClassifier:
    return YamnetClassifier((TrainableYAMNet if batch_norm else YAMNet)(classes, activation, width), **options)


def _vggish(classes: int, **options: Any) -> VggishClassifier:
    return VggishClassifier(VGGish(), classes, **options)


def _vggish_slim(classes: int, batch_norm: bool, **options: Any) -> VggishClassifier:
    return VggishClassifier(TrainableVGGish() if batch_norm else VGGish(slim=True), classes, **options)


def _on_embeddings(name: str, build: Build, options: type[Options], about: str) -> Architecture:
    return Architecture(name, ("embedding",), AUDIOSET_SHAPE, build, options, about)


def _on_pictures(name: str, example: Shape, build: Build, options: type[Options], about: str) -> Architecture:
    return Architecture(name, PICTURES, example, build, options, about)


def _on_log_mel(name: str, build: Build, options: type[Options], about: str) -> Architecture:
    return Architecture(name, ("logmel",), PATCH_SHAPE, build, options, about)


ARCHITECTURES: dict[str, Architecture] = {
    architecture.name: architecture
    for architecture in (
        _on_embeddings("linear", _sized(LinearHead), LinearOptions, "two dense layers on all rows side by side"),
        _on_embeddings("conv1d", _sized(Conv1dHead), Conv1dOptions, "convolutions over time"),
        _on_embeddings("conv2d", _sized(Conv2dHead), Conv2dOptions, "convolutions over time and width, as a picture"),
        _on_embeddings("lstm", _wide(LstmHead), LstmOptions, "reads the rows one by one"),
        _on_embeddings("transformer", _sized(TransformerHead), TransformerOptions, "rows attend to each other"),
        _on_embeddings("vggish-head", _wide(VggishHeadAverage), VggishHeadOptions, "VGGish's own head on each row"),
        _on_pictures("stft-cnn", STFT_SHAPE, _any_size(StftCnn), StftCnnOptions, "the bird-song CNN, made for stft"),
        _on_pictures("mel-cnn", MEL_SHAPE, _any_size(MelCnn), MelCnnOptions, "a plain CNN for ESC-50, made for mel"),
        _on_pictures("resnet18", MEL64_SHAPE, _any_size(PictureResNet), ResNetOptions, "ResNet-18, made for mel64"),
        _on_log_mel("yamnet", _any_size(_yamnet), YamnetOptions, "YAMNet, trained whole or its last layer alone"),
        _on_log_mel("vggish", _any_size(_vggish), VggishOptions, "VGGish, trained whole or its last layer alone"),
        _on_log_mel("vggish-slim", _any_size(_vggish_slim), VggishSlimOptions, "a small VGGish, for few clips"),
    )
}


def build_network(
    name: str,
    kind: str,
    shape: Shape,
    classes: int,
    options: Mapping[str, Any],
    pretrained: Path | None = None,
) -> nn.Module:
    """The named network for features of a kind and shape, with random weights or, but for its last layer, those of a folder.

    Raises BadOption for an unknown name, features it does not take, or options it does not have; WeightsMissing, WeightsCorrupt.
    """
    architecture = find_architecture(name)
    _check_features(architecture, kind, shape)
    network = architecture.build(shape, classes, check_options(name, options))
    if pretrained:
        if not isinstance(network, Pretrained):
            raise BadOption(f"{name} starts from random weights: there are no pretrained ones")
        network.load_pretrained(pretrained)
    return network


def find_architecture(name: str) -> Architecture:
    """The table's entry. Raises BadOption naming the entries there are."""
    if name not in ARCHITECTURES:
        raise BadOption(f"no model named {name!r}; there are: {', '.join(ARCHITECTURES)}")
    return ARCHITECTURES[name]


def check_options(name: str, options: Mapping[str, Any]) -> Options:
    """The named architecture's options, defaults filled in. Raises BadOption naming each that is unknown or out of range."""
    kind = find_architecture(name).options
    try:
        return kind.model_validate(options)
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors())
        raise BadOption(f"{name}: {faults}. Its options: {', '.join(kind.model_fields)}") from error


def describe_architectures() -> list[Row]:
    """A row for each architecture, in the order of the table."""
    return [Row(one.name, one.takes, one.about, one.example, _count_parameters(one)) for one in ARCHITECTURES.values()]


def _count_parameters(architecture: Architecture) -> int:
    with torch.device("meta"):  # nothing is allocated
        network = architecture.build(architecture.example, EXAMPLE_CLASSES, architecture.options())
    return sum(parameter.numel() for parameter in network.parameters())


def _check_features(architecture: Architecture, kind: str, shape: Shape) -> None:
    if kind not in architecture.takes:
        raise BadOption(
            f"{architecture.name} takes {' or '.join(architecture.takes)} features, not {kind}; "
            f"networks that take {kind}: {', '.join(_takers(kind)) or 'none'}"
        )
    wanted, fits = _fit(kind, shape)
    if not fits:
        raise BadOption(f"{kind} features are {wanted}, not {list(shape)}: make them again with earshot featurize")


def _fit(kind: str, shape: Shape) -> tuple[str, bool]:
    """What shape features of a kind have, and whether this is one."""
    matrix = len(shape) == 2 and min(shape) > 0
    if kind == "embedding":
        return "[T, D]", matrix
    if kind == "logmel":
        fits = matrix and shape[0] >= PATCH_FRAMES and shape[1] == MEL_BANDS
        return f"[F, {MEL_BANDS}] with at least {PATCH_FRAMES} frames", fits
    return f"[H, W] of at least {SMALLEST_PICTURE} x {SMALLEST_PICTURE}", matrix and min(shape) >= SMALLEST_PICTURE


def _takers(kind: str) -> list[str]:
    return [one.name for one in ARCHITECTURES.values() if kind in one.takes]
