"""Seconds of audio that a stage has taken and not answered yet: what its deployment scales on. Knows nothing of Ray."""

import contextlib
import itertools
import math
from collections.abc import Iterator

from models.audio import probe
from models.errors import EarshotError

SMALL_BYTES = 256 << 10  # a sound of that size is short: to open an OGG for its exact length would cost 0.4 ms
TYPICAL_BYTES_PER_S = 16_000  # OGG and MP3 as people send them, 128 kbit/s


class Backlog:
    """The lengths of the sounds that are queued and at work."""

    def __init__(self) -> None:
        self._numbers = itertools.count()
        self._held: dict[int, float] = {}

    @contextlib.contextmanager
    def holding(self, audio_s: float) -> Iterator[None]:
        """Counts a sound of so many seconds while the block runs, whatever ends it."""
        number = next(self._numbers)
        self._held[number] = audio_s
        try:
            yield
        finally:
            del self._held[number]

    def audio_s(self, most_s: float = math.inf) -> float:
        """All held sounds together, each counted as at most `most_s`."""
        return sum(min(audio_s, most_s) for audio_s in self._held.values())


def guess_length_s(audio: bytes, max_s: float | None = None) -> float:
    """A sound's length before it is decoded: from its header where it is large, else from its size.

    At most `max_s`: whatever a header claims, more than that is not decoded.
    """
    length_s = len(audio) / TYPICAL_BYTES_PER_S
    if len(audio) > SMALL_BYTES:
        with contextlib.suppress(EarshotError):
            length_s = probe(audio).duration_s or length_s
    return length_s if max_s is None else min(length_s, max_s)
