"""Classifiers on top of embeddings: embeddings -> scores. Knows nothing of sound or labels."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.layout import EMBEDDING_SIZE, HEAD_PREFIX, HIDDEN_SIZE, check_shapes, head_shapes, head_widths
from models.vggish import State, VGGish, read_state, source_name


class VggishHead(nn.Module):
    """Embeddings [P, 128] -> scores [P, K] in 0..1, through two hidden layers (ReLU, dropout) and an output layer.

    `multi_label=True`: independent sigmoids, any number of classes may be true; `False`: a softmax, exactly one is.
    Takes the embedding as it is, before or after its activation. 17,309,696 + 4,097 K parameters by default.
    """

    def __init__(
        self,
        classes: int,
        *,
        multi_label: bool,
        embedding_size: int = EMBEDDING_SIZE,
        hidden: int = HIDDEN_SIZE,
        dropout: float = 0.5,
    ) -> None:
        """A head with random weights."""
        super().__init__()
        self.multi_label = multi_label
        self.hidden1 = nn.Linear(embedding_size, hidden)
        self.hidden2 = nn.Linear(hidden, hidden)
        self.output = nn.Linear(hidden, classes)
        self.dropout = nn.Dropout(dropout)

    def logits(self, embeddings: Tensor) -> Tensor:
        """Embeddings [P, 128] -> logits [P, K], what a training loss takes."""
        first = self.dropout(torch.relu(self.hidden1(embeddings)))
        second = self.dropout(torch.relu(self.hidden2(first)))
        logits: Tensor = self.output(second)
        return logits

    def forward(self, embeddings: Tensor) -> Tensor:
        """Embeddings [P, 128] -> scores [P, K]."""
        logits = self.logits(embeddings)
        return torch.sigmoid(logits) if self.multi_label else torch.softmax(logits, dim=-1)


def load_head(source: Path | State, *, multi_label: bool, dropout: float = 0.5) -> VggishHead:
    """A .pth or .safetensors file, or its state dict, with `head.*` names -> the head, as wide as its weights.

    Other names are left alone: they are the embedding network's. Raises WeightsMissing without a file, and
    WeightsCorrupt for one that does not parse, or naming the first wrong key and both shapes.
    """
    state = {name: tensor for name, tensor in read_state(source).items() if name.startswith(HEAD_PREFIX)}
    embedding_size, hidden, classes = head_widths(state, source_name(source))
    check_shapes(state, head_shapes(embedding_size, hidden, classes), source_name(source))
    head = VggishHead(classes, multi_label=multi_label, embedding_size=embedding_size, hidden=hidden, dropout=dropout)
    head.load_state_dict({name.removeprefix(HEAD_PREFIX): tensor for name, tensor in state.items()})
    return head.eval()


def build_arrays(vggish: VGGish, head: VggishHead) -> dict[str, NDArray[np.float32]]:
    """Both networks' weights by name, the head's under `head.*`, as models/vggish_onnx.py takes them."""
    state = vggish.state_dict() | {HEAD_PREFIX + name: tensor for name, tensor in head.state_dict().items()}
    return {name: tensor.detach().float().cpu().numpy() for name, tensor in state.items()}
