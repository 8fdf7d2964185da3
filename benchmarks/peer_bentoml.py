"""The model behind BentoML, in its own manner: a worker per core, the sound as a file. Runs in .venv-bench."""

import os
from pathlib import Path

import bentoml

from models.answer import Answer, Options
from models.bundle import load_bundle
from models.runtime import load_runtime
from models.tagger import Scorer, Tagger


@bentoml.service(
    workers=int(os.environ["BENCH_WORKERS"]), traffic={"timeout": 60}, logging={"access": {"enabled": False}}
)
class Classifier:
    """Bytes -> answer."""

    def __init__(self) -> None:
        bundle = load_bundle(Path(os.environ["BENCH_BUNDLE"]))
        self.tagger = Tagger(Scorer(bundle, load_runtime(bundle, "cpu")))

    @bentoml.api(route="/v1/classify")
    def classify(self, audio: Path) -> Answer:
        """The same call as the bare loop's."""
        return self.tagger.tag(audio.read_bytes(), Options())
