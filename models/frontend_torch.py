"""The log-mel front end as a torch layer, for training on raw sound; its constants are those of models/frontend.py."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.frontend import (
    FFT_SIZE,
    HOP_SAMPLES,
    WINDOW_SAMPLES,
    YAMNET_OFFSET,
    frame_count,
    hann_window,
    mel_matrix,
)


class LogMel(nn.Module):
    """Log-mel: waveform [..., T] at 16 kHz -> [..., F, 64] float32, one frame per 10 ms; the tail is padded with zeros.

    Differentiable, without parameters and without an entry in the state dict. The offset is YAMNet's unless told.
    Agrees with the numpy front end to 1e-4, except in quiet bands beside a very loud frequency: there the two float32
    FFTs round differently (0.0055 beside a full-scale tone, 0.0044 in the worst of ESC-10's clips).
    """

    window: Tensor
    mel: Tensor

    def __init__(self, offset: float = YAMNET_OFFSET) -> None:
        """A front end that gives log(mel + offset)."""
        super().__init__()
        self.offset = offset
        self.register_buffer("window", torch.from_numpy(hann_window().copy()), persistent=False)  # [400]
        self.register_buffer("mel", torch.from_numpy(mel_matrix().copy()), persistent=False)  # [257, 64]

    def forward(self, waveform: Tensor) -> Tensor:
        """Waveform [..., T] at 16 kHz -> log-mel [..., F, 64] float32, with F as `frame_count(T)` says."""
        samples = waveform.shape[-1]
        covered = (frame_count(samples) - 1) * HOP_SAMPLES + WINDOW_SAMPLES
        # Mixed precision would round the spectrum to 8 bits and part from the numpy front end.
        with torch.autocast(waveform.device.type, enabled=False):
            padded = F.pad(waveform.float(), (0, covered - samples))
            windows = padded.unfold(-1, WINDOW_SAMPLES, HOP_SAMPLES) * self.window  # [..., F, 400]
            magnitude = torch.fft.rfft(windows, FFT_SIZE).abs()  # [..., F, 257]
            return torch.log(magnitude @ self.mel + self.offset)
