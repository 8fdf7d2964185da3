"""The Tagger: a sound in, an answer out, in one process and in bounded memory. Plain Python over front end, networks and events.

Its parts are what the service's stages hold, too: `hear` is the spectrogram stage, `Scorer` holds a network.
Knows nothing of Ray, HTTP or settings.
"""

import random
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np

from models.answer import (
    Answer,
    OpinionMode,
    Options,
    Scored,
    SecondOpinion,
    Why,
    agrees,
    compose_answer,
    list_labels,
)
from models.audio import NO_LIMITS, AudioReader, AudioSource, Limits
from models.bundle import Bundle
from models.errors import AudioNotFinite
from models.frontend import (
    MEL_BANDS,
    TAIL_FRAMES,
    YAMNET_OFFSET,
    FloatArray,
    LogMelStream,
    hop_frames,
    split_patches,
    with_offset,
)
from models.runtime import BATCH_PATCHES, Network

UNSURE_BELOW = 0.5


@dataclass(frozen=True)
class Sound:
    """A sound as the networks see it: log-mel [F, 64] with YAMNet's offset, its duration, and what was odd about it."""

    frames: FloatArray
    duration_s: float
    warnings: tuple[str, ...]


def read_frames(reader: AudioReader) -> Iterator[FloatArray]:
    """An opened sound -> its log-mel in blocks [f, 64]. Raises as AudioReader."""
    return mel_frames(reader.blocks())


def mel_frames(blocks: Iterable[FloatArray]) -> Iterator[FloatArray]:
    """A waveform at 16 kHz in blocks [n] -> its log-mel in blocks [f, 64]. Raises AudioNotFinite."""
    stream = LogMelStream(YAMNET_OFFSET)
    for block in blocks:
        yield _finite(stream.push(block))
    yield _finite(stream.finish())


def _finite(frames: FloatArray) -> FloatArray:
    if not np.isfinite(frames).all():
        raise AudioNotFinite("samples so large that their spectrum overflows: scale the file to full scale 1.0")
    return frames


def hear(source: AudioSource, limits: Limits = NO_LIMITS) -> Sound:
    """Bytes, a path or a file object -> the whole sound's frames. Raises as AudioReader."""
    reader = AudioReader(source, limits)
    frames = np.concatenate(list(read_frames(reader)))
    return Sound(frames, reader.duration_s, tuple(reader.warnings))


@dataclass(frozen=True)
class Scorer:
    """A bundle and its loaded network."""

    bundle: Bundle
    network: Network

    def hop_s(self, options: Options) -> float:
        """The hop between patches in seconds: the caller's, else the model's own, in whole frames."""
        return hop_frames(options.hop_s or self.bundle.card.front_end.hop_s) / 100

    def patches(self, frames: FloatArray, hop_s: float, count: int | None = None) -> FloatArray:
        """Log-mel [F, 64] with YAMNet's offset -> this network's first `count` patches [P, frames, 64], or all."""
        front_end = self.bundle.card.front_end
        own = with_offset(frames, YAMNET_OFFSET, front_end.log_offset)
        return split_patches(own, hop_frames(hop_s), front_end.log_offset, count, front_end.frames)

    def score(self, blocks: Iterable[FloatArray], hop_s: float) -> Scored:
        """Log-mel in blocks [f, 64] -> scores [P, C]; memory does not grow but with the scores."""
        scores = [self.network(batch)[0] for batch in self._batches(blocks, hop_s)]
        return Scored(np.concatenate(scores), hop_s)

    def embed(self, blocks: Iterable[FloatArray], hop_s: float) -> FloatArray:
        """Log-mel in blocks [f, 64] -> embeddings [P, D]."""
        return np.concatenate([self.network(batch)[1] for batch in self._batches(blocks, hop_s)])

    def _batches(self, blocks: Iterable[FloatArray], hop_s: float) -> Iterator[FloatArray]:
        """Patches [p, frames, 64], p <= BATCH_PATCHES, over frames that come in blocks."""
        hop = hop_frames(hop_s)
        batch = max((BATCH_PATCHES - 1) * hop + self.bundle.card.front_end.frames, BATCH_PATCHES * hop)
        frames = np.empty((0, MEL_BANDS), np.float32)
        waiting: list[FloatArray] = []
        for block in blocks:
            waiting.append(block)
            if len(frames) + sum(map(len, waiting)) <= batch + TAIL_FRAMES:
                continue
            frames, waiting = np.concatenate([frames, *waiting]), []
            while len(frames) > batch + TAIL_FRAMES:  # so that at least one patch is left for the end
                yield self.patches(frames[:batch], hop_s, BATCH_PATCHES)
                frames = frames[BATCH_PATCHES * hop :]
        yield self.patches(np.concatenate([frames, *waiting]), hop_s)


def is_unsure(scored: Scored, unsure_below: float) -> bool:
    """Does no class reach `unsure_below` in any patch?"""
    return bool(scored.scores.max() < unsure_below)


def why_ask(mode: OpinionMode, available: bool, unsure: bool, sampled: bool) -> tuple[bool, Why]:
    """Whether to ask for a second opinion, and the reason either way."""
    if not available:
        return False, "unavailable"
    if mode == "never":
        return False, "declined"
    if mode == "always":
        return True, "requested"
    if unsure:
        return True, "unsure"
    return (True, "sampled") if sampled else (False, "not_needed")


def second_opinion(head: Bundle, scored: Scored, why: Why, answer: Answer, options: Options) -> SecondOpinion:
    """The head's scores [P, K] -> its part of the answer."""
    labels = list_labels(scored.scores, head.labels, options)
    return SecondOpinion(asked=True, why=why, model=head.card.name, labels=labels, agrees=agrees(labels, answer))


@dataclass(frozen=True)
class Tagger:
    """Classifies sounds in this process."""

    first: Scorer
    head: Scorer | None = None
    sample_rate: float = 0.0
    unsure_below: float = UNSURE_BELOW
    limits: Limits = field(default=NO_LIMITS)

    def tag(self, source: AudioSource, options: Options) -> Answer:
        """A sound -> the full answer. Raises as AudioReader. A second opinion reads a source that is not bytes once more."""
        reader = AudioReader(source, self.limits)
        scored = self.first.score(read_frames(reader), self.first.hop_s(options))
        answer = compose_answer(
            str(uuid.uuid4()), reader.duration_s, self.first.bundle, scored, options, reader.warnings
        )
        sampled = random.random() < self.sample_rate
        ask, why = why_ask(options.second_opinion, self.head is not None, is_unsure(scored, self.unsure_below), sampled)
        if not ask or self.head is None:
            answer.second_opinion = SecondOpinion(asked=False, why=why)
            return answer
        again = self.head.score(read_frames(AudioReader(source, self.limits)), self.head.bundle.card.front_end.hop_s)
        answer.second_opinion = second_opinion(self.head.bundle, again, why, answer, options)
        return answer
