"""Readiness of the stages, without Ray."""

import asyncio
from pathlib import Path

import pytest

from models.audio import Limits
from models.bundle import load_bundle
from serve.stages import Listener, NetworkStage, OpinionPolicy, Spectrogram


class Silent:
    """A meter that nobody reads."""

    def request(self, audio_s: float = 0.0) -> None: ...
    def error(self, kind: str) -> None: ...
    def times(self, queue_s: float, compute_s: float) -> None: ...


@pytest.fixture
def spectrogram() -> Spectrogram:
    return Spectrogram(Limits(), Silent())


@pytest.fixture
def listener(spectrogram: Spectrogram, tone_tagger: Path) -> Listener:
    yamnet = NetworkStage(tone_tagger, Silent(), "cpu")
    return Listener(spectrogram, yamnet, load_bundle(tone_tagger), None, None, OpinionPolicy())


def test_it_is_ready_when_every_stage_answers(listener: Listener) -> None:
    assert asyncio.run(listener.check_ready())


def test_a_spectrogram_that_does_not_answer_is_not_ready(listener: Listener, spectrogram: Spectrogram) -> None:
    spectrogram._worker.shutdown()
    with pytest.raises(RuntimeError):
        asyncio.run(listener.check_ready())
