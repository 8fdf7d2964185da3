"""The model behind LitServe, in its own manner: a worker per core, the body as it is. Runs in .venv-bench."""

import os
from pathlib import Path
from typing import Annotated

import litserve
from fastapi import Body, Response

from models.answer import Answer, Options
from models.bundle import load_bundle
from models.runtime import load_runtime
from models.tagger import Scorer, Tagger


class Classifier(litserve.LitAPI):
    """Bytes -> answer."""

    def setup(self, device: str) -> None:  # noqa: ARG002  (LitServe names it)
        """Loads the model in a worker."""
        bundle = load_bundle(Path(os.environ["BENCH_BUNDLE"]))
        self.tagger = Tagger(Scorer(bundle, load_runtime(bundle, "cpu")))

    def decode_request(self, request: Annotated[bytes, Body(media_type="application/octet-stream")]) -> bytes:
        """The body is the sound."""
        return request

    def predict(self, audio: bytes) -> Answer:
        """The same call as the bare loop's."""
        return self.tagger.tag(audio, Options())

    def encode_response(self, answer: Answer) -> Response:
        """The answer as JSON."""
        return Response(answer.model_dump_json(), media_type="application/json")


if __name__ == "__main__":
    server = litserve.LitServer(
        Classifier(api_path="/v1/classify"),
        accelerator="cpu",
        devices=1,
        workers_per_device=int(os.environ["BENCH_WORKERS"]),
        fast_queue=True,
    )
    server.run(
        host="127.0.0.1",
        port=int(os.environ["BENCH_PORT"]),
        generate_client_file=False,
        log_level="warning",
        access_log=False,
    )
