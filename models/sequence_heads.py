"""Classifiers on a sequence of embeddings: features [N, T, D] -> logits [N, C]. Know nothing of sound, files or labels.

Five of them follow a study of speech detection on AudioSet's features (10 x 128), whose best F1 score was 0.81; its search ranges stand in
the docstrings. Each head first brings its input to mean 0 and variance 1, so that one learning rate suits every embedding.

`valid` [N] says how many leading rows of each item are sound; what the other rows hold does not matter. Without it all rows count and
nothing depends on the data, which is the form that is exported to ONNX.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

from models.heads import VggishHead

POSITION_STD = 0.02  # of learned positions at the start, as in BERT and ViT


def sound_rows(valid: Tensor, rows: int) -> Tensor:
    """How many leading rows are sound [N] -> which are [N, rows], bool; the first always is."""
    return torch.arange(rows, device=valid.device) < valid.clamp(min=1).unsqueeze(1)


def mean_rows(rows: Tensor, valid: Tensor | None) -> Tensor:
    """Rows [N, T, D] -> the mean of those that are sound [N, D]."""
    if valid is None:
        return rows.mean(1)
    sound = sound_rows(valid, rows.shape[1]).unsqueeze(2)
    return rows.masked_fill(~sound, 0).sum(1) / sound.sum(1)


class Standardize(nn.Module):
    """Rows [N, T, D] -> the same with mean 0 and variance 1 in each of D columns; rows that are no sound become 0."""

    def __init__(self, width: int) -> None:
        """Learns mean and variance while training, as a batch norm without parameters."""
        super().__init__()
        self.norm = nn.BatchNorm1d(width, affine=False)

    def forward(self, rows: Tensor, valid: Tensor | None = None) -> Tensor:
        """Rows [N, T, D] -> [N, T, D]."""
        if valid is None:
            columns: Tensor = self.norm(rows.transpose(1, 2))
            return columns.transpose(1, 2)
        sound = sound_rows(valid, rows.shape[1])
        standard = torch.zeros_like(rows)
        standard[sound] = self.norm(rows[sound])
        return standard


class LinearHead(nn.Module):
    """Linear-ReLU-Linear on all rows side by side: features [N, T, D] -> logits [N, C].

    The study searched batches of 8-64, learning rates of 1e-5 to 1e-2 and `hidden` of 16-128.
    """

    def __init__(self, rows: int, width: int, classes: int, *, hidden: int = 64) -> None:
        """A head for `rows` x `width` features, with random weights."""
        super().__init__()
        self.standardize = Standardize(width)
        self.layers = nn.Sequential(
            nn.Flatten(), nn.Linear(rows * width, hidden), nn.ReLU(), nn.Linear(hidden, classes)
        )

    def forward(self, features: Tensor, valid: Tensor | None = None) -> Tensor:
        """Features [N, T, D] -> logits [N, C]."""
        logits: Tensor = self.layers(self.standardize(features, valid))
        return logits


class Conv1dHead(nn.Module):
    """Conv1d-ReLU-Conv1d-Dropout-MaxPool-Conv1d-Dropout-Linear over time: features [N, T, D] -> logits [N, C].

    Eight layers, of which `active_layers` are used: the first ones, and always the last, Linear. The study searched 2-8 of them, with
    kernels of 3 and a dropout of 0.01-0.5. Convolutions keep T, the pool halves it (upward, so that T may be 1).
    """

    def __init__(
        self,
        rows: int,
        width: int,
        classes: int,
        *,
        active_layers: int = 8,
        channels: int = 64,
        kernel: int = 3,
        dropout: float = 0.2,
    ) -> None:
        """A head for `rows` x `width` features, with random weights; `kernel` is odd."""
        super().__init__()
        layers = [
            nn.Conv1d(width, channels, kernel, padding="same"),
            nn.ReLU(),
            nn.Conv1d(channels, channels, kernel, padding="same"),
            nn.Dropout(dropout),
            nn.MaxPool1d(2, ceil_mode=True),
            nn.Conv1d(channels, channels, kernel, padding="same"),
            nn.Dropout(dropout),
        ][: active_layers - 1]
        pooled = any(isinstance(layer, nn.MaxPool1d) for layer in layers)
        self.standardize = Standardize(width)
        self.layers = nn.Sequential(*layers)
        self.output = nn.Linear(channels * (math.ceil(rows / 2) if pooled else rows), classes)

    def forward(self, features: Tensor, valid: Tensor | None = None) -> Tensor:
        """Features [N, T, D] -> logits [N, C]."""
        rows = self.standardize(features, valid).transpose(1, 2)  # [N, D, T]
        logits: Tensor = self.output(self.layers(rows).flatten(1))
        return logits


class Conv2dHead(nn.Module):
    """Conv2d-ReLU-Conv2d-MaxPool-Conv2d-Flatten-BatchNorm-Linear-Dropout-Linear: features [N, T, D], as a picture -> logits [N, C].

    Convolutions are 3 x 3 and keep the size, the pool halves both sides (upward, so that T may be 1). Nothing between the second
    convolution and the batch norm but a pool: their biases would be taken back by it, so they have none.
    """

    def __init__(
        self, rows: int, width: int, classes: int, *, channels: int = 16, hidden: int = 64, dropout: float = 0.2
    ) -> None:
        """A head for `rows` x `width` features, with random weights."""
        super().__init__()
        flat = channels * math.ceil(rows / 2) * math.ceil(width / 2)
        self.standardize = Standardize(width)
        self.layers = nn.Sequential(
            nn.Conv2d(1, channels, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.MaxPool2d(2, ceil_mode=True),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.Flatten(),
            nn.BatchNorm1d(flat),
            nn.Linear(flat, hidden),
            nn.Dropout(dropout),
            nn.Linear(hidden, classes),
        )

    def forward(self, features: Tensor, valid: Tensor | None = None) -> Tensor:
        """Features [N, T, D] -> logits [N, C]."""
        logits: Tensor = self.layers(self.standardize(features, valid).unsqueeze(1))
        return logits


class LstmHead(nn.Module):
    """LSTM, then a dense layer on its last state: features [N, T, D] -> logits [N, C].

    Items of several lengths are packed, so that the state is read where an item's sound ends. The study filled short items with a
    sentinel value instead, which the network had to learn to pass over.
    """

    def __init__(self, width: int, classes: int, *, hidden: int = 64, layers: int = 1, dropout: float = 0.2) -> None:
        """A head for any number of rows, with random weights."""
        super().__init__()
        self.standardize = Standardize(width)
        self.lstm = nn.LSTM(width, hidden, layers, batch_first=True, dropout=dropout if layers > 1 else 0.0)
        self.output = nn.Sequential(nn.Dropout(dropout), nn.Linear(hidden, classes))

    def forward(self, features: Tensor, valid: Tensor | None = None) -> Tensor:
        """Features [N, T, D] -> logits [N, C]."""
        rows = self.standardize(features, valid)
        # Zeros, as without them; but an exported graph then has as many as there are items.
        start = rows.new_zeros(self.lstm.num_layers, rows.shape[0], self.lstm.hidden_size)
        if valid is not None:
            lengths = valid.clamp(min=1).cpu()  # where packing wants them
            rows = pack_padded_sequence(rows, lengths, batch_first=True, enforce_sorted=False)
        _, (state, _) = self.lstm(rows, (start, start))  # [layers, N, hidden]
        logits: Tensor = self.output(state[-1])
        return logits


class TransformerHead(nn.Module):
    """Transformer encoder on the rows as they are, then a dense layer on their mean: features [N, T, D] -> logits [N, C].

    The input is its own embedding: the encoder is D wide, and only where D is not a multiple of `heads` a dense layer widens it to the
    next one. Positions are learned. Vaswani et al. 2017 (arXiv 1706.03762), with the norm before each part (arXiv 2002.04745).
    """

    def __init__(
        self,
        rows: int,
        width: int,
        classes: int,
        *,
        layers: int = 2,
        heads: int = 4,
        hidden: int = 128,
        dropout: float = 0.1,
    ) -> None:
        """A head for `rows` x `width` features, with random weights; `hidden` is the width between an encoder layer's two dense layers."""
        super().__init__()
        inner = math.ceil(width / heads) * heads
        self.standardize = Standardize(width)
        self.widen = nn.Identity() if inner == width else nn.Linear(width, inner)
        self.positions = nn.Parameter(torch.randn(rows, inner) * POSITION_STD)
        self.encoder = nn.ModuleList(EncoderLayer(inner, heads, hidden, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(inner)
        self.output = nn.Sequential(nn.Dropout(dropout), nn.Linear(inner, classes))

    def forward(self, features: Tensor, valid: Tensor | None = None) -> Tensor:
        """Features [N, T, D] -> logits [N, C]."""
        sound = None if valid is None else sound_rows(valid, features.shape[1])
        rows = self.widen(self.standardize(features, valid)) + self.positions
        for layer in self.encoder:
            rows = layer(rows, sound)
        logits: Tensor = self.output(mean_rows(self.norm(rows), valid))
        return logits


class EncoderLayer(nn.Module):
    """Self-attention and two dense layers, each added to what it was given: rows [N, T, W] -> [N, T, W]."""

    def __init__(self, width: int, heads: int, hidden: int, dropout: float) -> None:
        """A layer with random weights."""
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = SelfAttention(width, heads)
        self.dense_norm = nn.LayerNorm(width)
        self.dense = nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, width))
        self.dropout = nn.Dropout(dropout)

    def forward(self, rows: Tensor, sound: Tensor | None) -> Tensor:
        """Rows [N, T, W], and which of them are sound [N, T] (None: all) -> [N, T, W]."""
        attended: Tensor = rows + self.dropout(self.attention(self.attention_norm(rows), sound))
        thought: Tensor = attended + self.dropout(self.dense(self.dense_norm(attended)))
        return thought


class SelfAttention(nn.Module):
    """softmax(Q K^T / sqrt(d)) V over `heads` parts of the width: rows [N, T, W] -> [N, T, W].

    Written out: torch's own attention has no form in ONNX's opset 13, which old Jetsons need. Keys have no bias: softmax ignores it.
    """

    def __init__(self, width: int, heads: int) -> None:
        """Random weights; `width` is a multiple of `heads`."""
        super().__init__()
        self.heads = heads
        self.scale = math.sqrt(width // heads)
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width)
        self.output = nn.Linear(width, width)

    def forward(self, rows: Tensor, sound: Tensor | None) -> Tensor:
        """Rows [N, T, W], and which of them may be looked at [N, T] (None: all) -> [N, T, W]."""
        queries, keys, values = (self._split(layer(rows)) for layer in (self.query, self.key, self.value))
        weights = queries @ keys.transpose(2, 3) / self.scale  # [N, heads, T, T]
        if sound is not None:
            weights = weights.masked_fill(~sound[:, None, None, :], -torch.inf)
        parts = weights.softmax(3) @ values  # [N, heads, T, W / heads]
        mixed: Tensor = self.output(torch.cat(parts.unbind(1), 2))
        return mixed

    def _split(self, rows: Tensor) -> Tensor:
        """[N, T, W] -> [N, heads, T, W / heads]."""
        return torch.stack(rows.chunk(self.heads, 2), 1)


class VggishHeadAverage(nn.Module):
    """VGGish's head (models/heads.py) on every row: features [N, T, D] -> logits [N, C], the mean over the rows that are sound."""

    def __init__(self, width: int, classes: int, *, hidden: int = 4096, dropout: float = 0.5) -> None:
        """A head for any number of rows, with two hidden layers and random weights."""
        super().__init__()
        self.standardize = Standardize(width)
        self.head = VggishHead(classes, multi_label=True, embedding_size=width, hidden=hidden, dropout=dropout)

    def forward(self, features: Tensor, valid: Tensor | None = None) -> Tensor:
        """Features [N, T, D] -> logits [N, C]."""
        return mean_rows(self.head.logits(self.standardize(features, valid)), valid)
