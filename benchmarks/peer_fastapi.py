"""Plain FastAPI around the service's own functions, without Ray: `uvicorn --factory benchmarks.peer_fastapi:build`."""

import os
from pathlib import Path

from starlette.types import ASGIApp

from models.audio import Limits
from models.bundle import load_bundle
from serve.api import build_api
from serve.gate import GateRules
from serve.schemas import ModelsAnswer
from serve.stages import Listener, NetworkStage, OpinionPolicy, Spectrogram


class SilentMeter:
    """Counts nothing."""

    def request(self, audio_s: float = 0.0) -> None:
        """Nothing."""

    def error(self, kind: str) -> None:
        """Nothing."""

    def times(self, queue_s: float, compute_s: float) -> None:
        """Nothing."""


def build() -> ASGIApp:
    """The service's HTTP application with every stage in this process."""
    bundle = load_bundle(Path(os.environ["BENCH_BUNDLE"]))
    meter = SilentMeter()
    yamnet = NetworkStage(bundle.path, meter)
    listener = Listener(Spectrogram(Limits(), meter), yamnet, bundle, None, None, OpinionPolicy())
    return build_api(listener, ModelsAnswer(models=[]), GateRules(), deadline_s=30, cors_origins=[])
