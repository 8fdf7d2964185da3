"""Names and shapes of the weights of VGGish and its head, and the check against them. Knows nothing of torch or files.

VGGish has the names of the torchvggish port (github.com/harritaylor/torchvggish), so that its published file loads as
it is; the head's names are ours. The networks (models/vggish.py, models/heads.py) and the graph
(models/vggish_onnx.py) both follow this.
"""

from collections.abc import Mapping
from typing import Protocol

from models.errors import WeightsCorrupt

Shape = tuple[int, ...]

EMBEDDING_SIZE = 128
HIDDEN_SIZE = 4096
# number in `features` -> channels in and out; the numbers between are ReLUs and pools
CONVOLUTIONS = {0: (1, 64), 3: (64, 128), 6: (128, 256), 8: (256, 256), 11: (256, 512), 13: (512, 512)}
POOLED = frozenset({0, 3, 8, 13})  # a 2x2 max pool follows the ReLU of these
LAST_CHANNELS = 512
FLAT_SIZE = 6 * 4 * LAST_CHANNELS  # 96 x 64 halved by four pools, flattened as height, width, channel: 12288
# number in `embeddings` -> features in and out
DENSE_LAYERS = {0: (FLAT_SIZE, HIDDEN_SIZE), 2: (HIDDEN_SIZE, HIDDEN_SIZE), 4: (HIDDEN_SIZE, EMBEDDING_SIZE)}
SLIM_DENSE_LAYERS = {0: (LAST_CHANNELS, EMBEDDING_SIZE)}  # after a global average pool
HEAD_PREFIX = "head."
HEAD_LAYERS = ("hidden1", "hidden2", "output")


class HasShape(Protocol):
    """A numpy array or a torch tensor."""

    @property
    def shape(self) -> Shape:
        """Its size in each dimension."""


def dense_layers(slim: bool) -> dict[int, tuple[int, int]]:
    """Number in `embeddings` -> (features in, features out)."""
    return SLIM_DENSE_LAYERS if slim else DENSE_LAYERS


def vggish_shapes(slim: bool) -> dict[str, Shape]:
    """Every weight of VGGish: name -> shape, in the network's order."""
    shapes: dict[str, Shape] = {}
    for number, (inputs, outputs) in CONVOLUTIONS.items():
        shapes[f"features.{number}.weight"] = (outputs, inputs, 3, 3)
        shapes[f"features.{number}.bias"] = (outputs,)
    for number, (inputs, outputs) in dense_layers(slim).items():
        shapes[f"embeddings.{number}.weight"] = (outputs, inputs)
        shapes[f"embeddings.{number}.bias"] = (outputs,)
    return shapes


def head_shapes(embedding_size: int, hidden: int, classes: int) -> dict[str, Shape]:
    """Every weight of the head: `head.*` name -> shape, in the network's order."""
    shapes: dict[str, Shape] = {}
    sizes = ((embedding_size, hidden), (hidden, hidden), (hidden, classes))
    for layer, (inputs, outputs) in zip(HEAD_LAYERS, sizes, strict=True):
        shapes[f"{HEAD_PREFIX}{layer}.weight"] = (outputs, inputs)
        shapes[f"{HEAD_PREFIX}{layer}.bias"] = (outputs,)
    return shapes


def head_widths(arrays: Mapping[str, HasShape], source: str) -> tuple[int, int, int]:
    """Embedding size, hidden size and classes of a head, from its first and last weight.

    Raises WeightsCorrupt when either of them is missing or no matrix.
    """
    hidden, embedding_size = _matrix_shape(arrays, f"{HEAD_PREFIX}{HEAD_LAYERS[0]}.weight", source)
    classes, _ = _matrix_shape(arrays, f"{HEAD_PREFIX}{HEAD_LAYERS[-1]}.weight", source)
    return embedding_size, hidden, classes


def check_shapes(arrays: Mapping[str, HasShape], expected: Mapping[str, Shape], source: str) -> None:
    """Nothing, when `arrays` has exactly the expected names and shapes.

    Raises WeightsCorrupt that names `source`, the first wrong key and both shapes.
    """
    for name, shape in expected.items():
        if name not in arrays:
            raise WeightsCorrupt(f"{source}: {name} is missing, expected shape {_text(shape)}")
        if tuple(arrays[name].shape) != shape:
            raise WeightsCorrupt(f"{source}: {name} has shape {_text(arrays[name].shape)}, expected {_text(shape)}")
    for name in arrays:
        if name not in expected:
            known = ", ".join(expected)
            raise WeightsCorrupt(f"{source}: {name} {_text(arrays[name].shape)} is no known key; expected: {known}")


def _matrix_shape(arrays: Mapping[str, HasShape], name: str, source: str) -> tuple[int, int]:
    if name not in arrays:
        raise WeightsCorrupt(f"{source}: {name} is missing, expected shape [outputs, inputs]")
    shape = arrays[name].shape
    if len(shape) != 2:
        raise WeightsCorrupt(f"{source}: {name} has shape {_text(shape)}, expected [outputs, inputs]")
    return shape[0], shape[1]


def _text(shape: Shape) -> str:
    return str(list(shape))
