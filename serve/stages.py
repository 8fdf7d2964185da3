"""The stages of the service as plain classes, and the Listener that leads one sound through them.

Bytes -> Spectrogram -> frames -> NetworkStage (YAMNet) -> scores -> answer, and where a second opinion is wanted the same frames go to
a second NetworkStage (VGGish + head). Each stage works in a thread of its own, so that the event loop stays free.
Whether a stage lives in the same process or is a handle on a Ray Serve deployment makes no difference here.
"""

import asyncio
import itertools
import random
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from models.answer import Answer, ModelName, Options, Scored, SecondOpinion, compose_answer, model_name
from models.audio import AudioReader, Limits
from models.bundle import Bundle, load_bundle
from models.errors import EarshotError
from models.frontend import FloatArray
from models.runtime import Device, load_runtime, trial_patch, warm_up
from models.tagger import Scorer, Sound, is_unsure, read_frames, second_opinion, why_ask
from serve.backlog import Backlog, guess_length_s
from serve.batching import GreedyBatcher
from serve.pulse import Pulse

TURN_BLOCKS = 5  # of 3 s at 44.1 kHz: a short clip is done in one turn, a long one lets others pass every 20 ms or so


class Meter(Protocol):
    """What a stage reports to; serve.metrics.StageMeter is one."""

    def request(self, audio_s: float = 0.0) -> None: ...
    def error(self, kind: str) -> None: ...
    def times(self, queue_s: float, compute_s: float) -> None: ...


class Network(Protocol):
    """A network stage, here or elsewhere."""

    async def score(self, frames: FloatArray, options: Options) -> Scored: ...
    async def embed(self, frames: FloatArray, options: Options) -> "Embedded": ...
    async def check_ready(self) -> bool: ...


@dataclass(frozen=True)
class Embedded:
    """Embeddings [P, D] of one sound, the hop between the patches and their length in seconds."""

    embeddings: FloatArray
    hop_s: float
    patch_s: float


class Spectrogram:
    """Bytes -> log-mel frames, block by block: a long sound lets short ones pass."""

    def __init__(self, limits: Limits, meter: Meter) -> None:
        self._limits = limits
        self._meter = meter
        self.backlog = Backlog()
        self._pulse = Pulse("the spectrogram")
        self._worker = ThreadPoolExecutor(1, "spectrogram")
        self._painter = ThreadPoolExecutor(1, "painter")

    async def hear(self, audio: bytes) -> Sound:
        """A whole sound -> its frames [F, 64]. Raises models.errors.BadInput's kinds."""
        reader = AudioReader(audio, self._limits)
        try:
            with self.backlog.holding(guess_length_s(audio, self._limits.max_duration_s)):
                frames = np.concatenate([block async for block in self._blocks(reader)])
        except EarshotError as error:
            self._meter.error(error.slug)
            raise
        self._meter.request(reader.duration_s)
        return Sound(frames, reader.duration_s, tuple(reader.warnings))

    async def _blocks(self, reader: AudioReader) -> AsyncIterator[FloatArray]:
        """A few blocks of frames at a time; in between, other sounds have their turn."""
        loop, blocks = asyncio.get_running_loop(), read_frames(reader)
        queue_s = compute_s = 0.0

        def work() -> tuple[float, float, list[FloatArray]]:
            began_s = time.perf_counter()
            with self._pulse.at_work():
                done = list(itertools.islice(blocks, TURN_BLOCKS))
            return began_s, time.perf_counter() - began_s, done

        while True:
            asked_s = time.perf_counter()
            began_s, took_s, turn = await loop.run_in_executor(self._worker, work)
            queue_s += began_s - asked_s
            compute_s += took_s
            for block in turn:
                yield block
            if len(turn) < TURN_BLOCKS:
                break
        self._meter.times(queue_s, compute_s)

    async def check_ready(self) -> bool:
        """Does the worker answer?"""
        return await asyncio.get_running_loop().run_in_executor(self._worker, lambda: True)

    def check_alive(self) -> None:
        """Raises WorkerStuck; a busy worker is a healthy one."""
        self._pulse.check()

    async def draw(self, audio: bytes) -> bytes:
        """A sound -> a PNG of its log-mel."""
        from models.pictures import draw_log_mel  # matplotlib: loaded when the first picture is asked for

        sound = await self.hear(audio)
        return await asyncio.get_running_loop().run_in_executor(self._painter, draw_log_mel, sound.frames)


class NetworkStage:
    """Frames -> scores or embeddings of one network."""

    def __init__(self, folder: Path, meter: Meter, device: Device = "auto") -> None:
        bundle = load_bundle(folder)
        self._front_end = bundle.card.front_end
        self.scorer = Scorer(bundle, load_runtime(bundle, device))
        warm_up(self.scorer.network, self._front_end)
        self._meter = meter
        self.backlog = Backlog()
        self._batcher = GreedyBatcher(self.scorer.network, ThreadPoolExecutor(1, bundle.card.name), meter.times)

    async def score(self, frames: FloatArray, options: Options) -> Scored:
        """Frames [F, 64] -> scores [P, C]."""
        hop_s = self.scorer.hop_s(options)
        scores, _ = await self._run(frames, hop_s)
        return Scored(scores, hop_s)

    async def embed(self, frames: FloatArray, options: Options) -> Embedded:
        """Frames [F, 64] -> embeddings [P, D]."""
        hop_s = self.scorer.hop_s(options)
        _, embeddings = await self._run(frames, hop_s)
        return Embedded(embeddings, hop_s, self._front_end.patch_s)

    async def _run(self, frames: FloatArray, hop_s: float) -> tuple[FloatArray, FloatArray]:
        audio_s = len(frames) / 100
        self._meter.request(audio_s)
        try:
            with self.backlog.holding(audio_s):
                return await self._batcher.run(self.scorer.patches(frames, hop_s))
        except Exception as error:
            self._meter.error(type(error).__name__)
            raise

    async def check_ready(self) -> bool:
        """Does the network answer?"""
        await self._batcher.run(trial_patch(self._front_end))
        return True

    def check_alive(self) -> None:
        """Raises WorkerStuck; a busy worker is a healthy one."""
        self._batcher.pulse.check()


@dataclass(frozen=True)
class OpinionPolicy:
    """When a second opinion is asked for without the caller's word: at random at `rate`, and when YAMNet is unsure."""

    rate: float = 0.0
    unsure_below: float = 0.5


class Listener:
    """Leads one sound through the stages to its answer."""

    def __init__(
        self,
        spectrogram: Spectrogram,
        yamnet: Network,
        yamnet_bundle: Bundle,
        head: Network | None,
        head_bundle: Bundle | None,
        policy: OpinionPolicy,
    ) -> None:
        self._spectrogram = spectrogram
        self._yamnet = yamnet
        self._bundle = yamnet_bundle
        self._head = head
        self._head_bundle = head_bundle
        self._policy = policy

    async def classify(self, audio: bytes, options: Options, request_id: str) -> Answer:
        """A sound -> the full answer. Raises models.errors' kinds."""
        sound = await self._spectrogram.hear(audio)
        scored = await self._yamnet.score(sound.frames, options)
        answer = compose_answer(request_id, sound.duration_s, self._bundle, scored, options, sound.warnings)
        answer.second_opinion = await self._second_opinion(sound, scored, options, answer)
        return answer

    async def _second_opinion(self, sound: Sound, scored: Scored, options: Options, answer: Answer) -> SecondOpinion:
        unsure = is_unsure(scored, self._policy.unsure_below)
        sampled = random.random() < self._policy.rate
        ask, why = why_ask(options.second_opinion, self._head is not None, unsure, sampled)
        if not ask or self._head is None or self._head_bundle is None:
            return SecondOpinion(asked=False, why=why)
        opinion = await self._head.score(sound.frames, options.model_copy(update={"hop_s": None}))
        return second_opinion(self._head_bundle, opinion, why, answer, options)

    async def embed(self, audio: bytes, options: Options) -> tuple[Embedded, Sound, ModelName]:
        """A sound -> YAMNet's embedding of each patch; the Sound comes back without its frames."""
        sound = await self._spectrogram.hear(audio)
        embedded = await self._yamnet.embed(sound.frames, options)
        return embedded, Sound(sound.frames[:0], sound.duration_s, sound.warnings), model_name(self._bundle)

    async def draw(self, audio: bytes) -> bytes:
        """A sound -> a PNG of its log-mel."""
        return await self._spectrogram.draw(audio)

    def backlog_s(self, most_s: float) -> float:
        """Seconds of audio in the stages of this process, queued and at work; a sound counts as at most `most_s`."""
        stages = (self._spectrogram, self._yamnet, self._head)
        return sum(stage.backlog.audio_s(most_s) for stage in stages if isinstance(stage, Spectrogram | NetworkStage))

    def check_alive(self) -> None:
        """Raises WorkerStuck for a stage of this process; those elsewhere are asked there."""
        for stage in (self._spectrogram, self._yamnet, self._head):
            if isinstance(stage, Spectrogram | NetworkStage):
                stage.check_alive()

    async def check_ready(self) -> bool:
        """Does every stage answer?"""
        networks = [self._yamnet] + ([self._head] if self._head else [])
        ready = [self._spectrogram.check_ready(), *(network.check_ready() for network in networks)]
        return all(await asyncio.gather(*ready))
