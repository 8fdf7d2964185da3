"""The HTTP routes: FastAPI around a Listener. Knows nothing of Ray: the same app runs in a replica or under plain uvicorn."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated, Protocol, TypeVar

from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import PlainTextResponse, RedirectResponse
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp

from models.answer import Answer, ModelName, Options
from models.errors import EarshotError
from models.tagger import Sound
from serve.gate import Gate, GateRules
from serve.problems import HttpError, Problem, problem_response
from serve.schemas import ClassificationParameters, ClassificationScore, EmbeddingsAnswer, ModelsAnswer
from serve.stages import Embedded
from serve.uploads import read_upload

T = TypeVar("T")
CLIENT_HUNG_UP = 499  # for the access log: nobody reads the answer

DESCRIPTION = """Says what is in a sound, when, and how sure it is.

Send a sound as a multipart `file`, as a raw body, or as base64 in JSON: WAV, FLAC, OGG (Vorbis, Opus), MP3, M4A/AAC, MP4, WebM.
Errors are `application/problem+json` with a stable `type` and the request id."""

BINARY = {"schema": {"type": "string", "format": "binary"}}
UPLOAD = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {"type": "object", "required": ["file"], "properties": {"file": BINARY["schema"]}}
            },
            "application/octet-stream": BINARY,
            "audio/*": BINARY,
            "application/json": {
                "schema": {"type": "object", "properties": {"audio": {"type": "string", "format": "byte"}}}
            },
        },
    }
}
ERRORS: dict[int | str, dict[str, object]] = {
    status: {"model": Problem, "content": {"application/problem+json": {}}} for status in (400, 413, 415, 422, 503)
}


class Listens(Protocol):
    """What the routes need: serve.stages.Listener here, or a handle on one elsewhere."""

    async def classify(self, audio: bytes, options: Options, request_id: str) -> Answer: ...
    async def embed(self, audio: bytes, options: Options) -> tuple[Embedded, Sound, ModelName]: ...
    async def draw(self, audio: bytes) -> bytes: ...
    async def check_ready(self) -> bool: ...


def build_api(
    listener: Listens,
    models: ModelsAnswer,
    rules: GateRules,
    deadline_s: float,
    cors_origins: Sequence[str] = (),
    home: str = "/docs",
    read_metrics: Callable[[], Awaitable[str]] | None = None,
) -> ASGIApp:
    """The whole HTTP application; `read_metrics` gives the page that Prometheus reads, where there is one."""
    app = FastAPI(title="Earshot", version="1", description=DESCRIPTION)
    _add_errors(app)
    _add_sound_routes(app, listener, deadline_s)
    _add_state_routes(app, listener, models, home)
    if read_metrics:
        _add_metrics(app, read_metrics)
    gate: ASGIApp = Gate(app, rules)
    if cors_origins:
        gate = CORSMiddleware(gate, allow_origins=cors_origins, allow_methods=["GET", "POST"], allow_headers=["*"])
    return gate


def _request_id(request: Request) -> str:
    return str(request.state.request_id)


def _add_errors(app: FastAPI) -> None:
    async def answer_problem(request: Request, error: Exception) -> Response:
        return problem_response(error, _request_id(request))

    async def answer_http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        detail = {
            404: f"no route {request.url.path}: see /docs",
            405: f"{request.url.path} does not take {request.method}",
        }
        known = HttpError(
            error.status_code, detail.get(error.status_code, str(error.detail)), headers=dict(error.headers or {})
        )
        return problem_response(known, _request_id(request))

    async def answer_nobody(request: Request, error: Exception) -> Response:  # noqa: ARG001 (FastAPI's signature)
        return Response(status_code=CLIENT_HUNG_UP)

    app.add_exception_handler(ClientDisconnect, answer_nobody)
    for kind in (EarshotError, HttpError, RequestValidationError, TimeoutError, Exception):
        app.add_exception_handler(kind, answer_problem)
    app.add_exception_handler(HTTPException, answer_http)


def _add_sound_routes(app: FastAPI, listener: Listens, deadline_s: float) -> None:
    async def in_time(work: Awaitable[T]) -> T:
        async with asyncio.timeout(deadline_s):
            return await work

    @app.post("/v1/classify", response_model=Answer, responses=ERRORS, openapi_extra=UPLOAD)
    async def classify(request: Request, options: Annotated[Options, Query()]) -> Response:
        """What is in the sound, when, and how sure."""
        audio, _ = await read_upload(request)
        answer = await in_time(listener.classify(audio, options, _request_id(request)))
        return Response(answer.model_dump_json(exclude_none=False), media_type="application/json")

    @app.post(
        "/v1/audio-classification", response_model=list[ClassificationScore], responses=ERRORS, openapi_extra=UPLOAD
    )
    async def audio_classification(request: Request) -> list[ClassificationScore]:
        """The same in the shape of Hugging Face's task API: labels and scores, best first."""
        audio, document = await read_upload(request, fields=("inputs", "audio"))
        try:
            parameters = ClassificationParameters.model_validate(document.get("parameters") or {})
        except ValidationError as error:
            raise RequestValidationError(error.errors()) from error
        options = Options(top_k=parameters.top_k) if parameters.top_k else Options()
        answer = await in_time(listener.classify(audio, options, _request_id(request)))
        return [ClassificationScore(label=label.label, score=label.score) for label in answer.labels]

    @app.post("/v1/embeddings", response_model=EmbeddingsAnswer, responses=ERRORS, openapi_extra=UPLOAD)
    async def embeddings(request: Request, options: Annotated[Options, Query()]) -> Response:
        """The network's embedding of each patch."""
        audio, _ = await read_upload(request)
        embedded, sound, name = await in_time(listener.embed(audio, options))
        answer = EmbeddingsAnswer(
            request_id=_request_id(request),
            duration_s=round(sound.duration_s, 3),
            model=name,
            start_s=[round(patch * embedded.hop_s, 3) for patch in range(len(embedded.embeddings))],
            length_s=embedded.patch_s,
            embeddings=embedded.embeddings.round(6).tolist(),
            warnings=list(sound.warnings),
        )
        return Response(answer.model_dump_json(), media_type="application/json")

    @app.post("/v1/spectrogram", response_class=Response, responses=ERRORS, openapi_extra=UPLOAD)
    async def spectrogram(request: Request) -> Response:
        """A PNG of the sound's log-mel, with a time and a Hz axis."""
        audio, _ = await read_upload(request)
        return Response(await in_time(listener.draw(audio)), media_type="image/png")


def _add_state_routes(app: FastAPI, listener: Listens, models: ModelsAnswer, home: str) -> None:
    @app.get("/", include_in_schema=False)
    async def go_home() -> RedirectResponse:
        return RedirectResponse(home)

    @app.get("/v1/models")
    async def list_models() -> ModelsAnswer:
        """What is served."""
        return models

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        """Alive."""
        return {"status": "alive"}

    @app.get("/readyz", responses={503: {"model": Problem}})
    async def readyz() -> dict[str, str]:
        """Ready: every stage answers."""
        try:
            async with asyncio.timeout(5):
                await listener.check_ready()
        except Exception as error:
            raise HttpError(503, f"a stage does not answer yet ({type(error).__name__})", "not-ready") from error
        return {"status": "ready"}


def _add_metrics(app: FastAPI, read_metrics: Callable[[], Awaitable[str]]) -> None:
    @app.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> PlainTextResponse:
        """Prometheus metrics of every stage."""
        return PlainTextResponse(await read_metrics())
