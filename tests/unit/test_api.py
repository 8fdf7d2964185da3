"""The HTTP API over real HTTP, with real stages around tiny networks: uploads, refusals, limits, keys, logs. No Ray."""

import base64
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import uvicorn

from models.audio import Limits
from models.bundle import load_bundle
from models.frontend import PATCH_S
from serve.api import build_api
from serve.app import describe_models
from serve.gate import GateRules
from serve.schemas import ModelsAnswer
from serve.stages import Listener, NetworkStage, OpinionPolicy, Spectrogram
from tests.conftest import wait_until
from tests.sounds import encode, silence, tone

LIMITS = Limits(max_duration_s=10, max_samples=10 * 192_000)
MAX_BODY_BYTES = 1 << 20
GOOD = encode(tone(300, 2.0), container="FLAC")
RAW = {"Content-Type": "application/octet-stream"}
NO_MODELS = ModelsAnswer(models=[])


class NoMeter:
    """A Meter that counts nothing."""

    def request(self, audio_s: float = 0.0) -> None: ...
    def error(self, kind: str) -> None: ...
    def times(self, queue_s: float, compute_s: float) -> None: ...


def load_listener(tone_tagger: Path, tone_head: Path) -> Listener:
    """Real stages in this process."""
    stages = [NetworkStage(folder, NoMeter()) for folder in (tone_tagger, tone_head)]
    tagger, head = load_bundle(tone_tagger), load_bundle(tone_head)
    return Listener(Spectrogram(LIMITS, NoMeter()), stages[0], tagger, stages[1], head, OpinionPolicy())


@dataclass
class Api:
    """A running API and a client of it."""

    http: httpx.Client
    port: int

    def classify(self, content: bytes = GOOD, **options: Any) -> httpx.Response:
        return self.http.post("/v1/classify", content=content, headers=RAW, params=options)

    def connect(self, *lines: str) -> socket.socket:
        """A connection on which a POST to /v1/classify has begun with these headers."""
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=10)
        head = ["POST /v1/classify HTTP/1.1", "Host: x", "Content-Type: audio/flac", *lines, "", ""]
        connection.sendall("\r\n".join(head).encode())
        return connection


@contextmanager
def run_api(
    listener: object,
    cors_origins: list[str] | None = None,
    deadline_s: float = 20,
    models: ModelsAnswer = NO_MODELS,
    **rules: Any,
) -> Iterator[Api]:
    gate = GateRules(**{"max_body_bytes": MAX_BODY_BYTES} | rules)
    app = build_api(listener, models, gate, deadline_s, cors_origins or [])  # type: ignore[arg-type]
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="critical", lifespan="off"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        wait_until(lambda: server.started)
        port = server.servers[0].sockets[0].getsockname()[1]
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=10) as client:
            yield Api(client, port)
    finally:
        server.should_exit = True
        thread.join(10)


@pytest.fixture(scope="module")
def api(tone_tagger: Path, tone_head: Path) -> Iterator[Api]:
    models = describe_models(load_bundle(tone_tagger), load_bundle(tone_head))
    with run_api(load_listener(tone_tagger, tone_head), models=models) as running:
        yield running


def assert_problem(response: httpx.Response, status: int, slug: str) -> str:
    """Checks the whole problem, and gives its detail."""
    problem = response.json()
    assert (response.status_code, problem["status"], problem["type"]) == (status, status, f"/problems/{slug}")
    assert response.headers["content-type"] == "application/problem+json"
    assert problem["request_id"] == response.headers["x-request-id"]
    assert response.headers.get_list("x-request-id") == [problem["request_id"]]
    assert problem["title"]
    assert "Traceback" not in problem["detail"]
    return str(problem["detail"])


def in_json(text: object) -> dict[str, Any]:
    return {"json": {"audio": text}}


def raw(content: bytes) -> dict[str, Any]:
    return {"content": content, "headers": RAW}


def claims_an_hour() -> bytes:
    content = bytearray(encode(tone(300), container="FLAC"))
    content[21:26] = ((content[21] >> 4 << 36) | 16_000 * 3600).to_bytes(5, "big")
    return bytes(content)


BAD = {
    "empty body": (raw(b""), 400, "audio-empty"),
    "empty file": ({"files": {"file": b""}}, 400, "audio-empty"),
    "empty base64": (in_json(""), 400, "audio-empty"),
    "bad base64": (in_json("%%%"), 400, "bad-base64"),
    "cut base64": (in_json("UklGR"), 400, "bad-base64"),
    "bad JSON": ({"content": b"{", "headers": {"Content-Type": "application/json"}}, 400, "bad-request"),
    "JSON without a sound": ({"json": {"sound": ""}}, 422, "no-file-part"),
    "JSON with null": (in_json(None), 422, "no-file-part"),
    "no file part": ({"files": {"other": b"x"}}, 422, "no-file-part"),
    "a field for a file": ({"files": {"file": (None, "text")}}, 422, "no-file-part"),
    "two files": ({"files": [("file", GOOD), ("file", GOOD)]}, 400, "bad-request"),
    "no boundary": ({"content": b"x", "headers": {"Content-Type": "multipart/form-data"}}, 400, "bad-request"),
    "text": ({"content": b"x", "headers": {"Content-Type": "text/plain"}}, 415, "wrong-content-type"),
    "a form": ({"data": {"file": "x"}}, 415, "wrong-content-type"),
    "too large": (raw(bytes(MAX_BODY_BYTES + 1)), 413, "body-too-large"),
    "not audio": (raw(b"hello world\n" * 100), 422, "audio-undecodable"),
    "header only": (raw(encode(tone(300))[:44]), 422, "audio-undecodable"),
    "no frames": (raw(encode(tone(300)[:0])), 422, "audio-undecodable"),
    "NaN": (raw(encode(np.full(99, np.nan, np.float32), subtype="FLOAT")), 422, "audio-not-finite"),
    "Inf": (raw(encode(np.full(99, np.inf, np.float32), subtype="FLOAT")), 422, "audio-not-finite"),
    "2000 Hz": (raw(encode(tone(300), 2_000)), 422, "audio-unsupported"),
    "250000 Hz": (raw(encode(tone(300), 250_000)), 422, "audio-unsupported"),
    "9 channels": (raw(encode(np.zeros((99, 9), np.float32))), 422, "audio-unsupported"),
    "too long": (raw(encode(silence(11.0), container="FLAC")), 413, "audio-too-long"),
    "claims an hour": (raw(claims_an_hour()), 413, "audio-too-long"),
    "too much work": (raw(encode(np.zeros((288_000, 8), np.float32), 96_000, "FLAC")), 413, "audio-too-long"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_a_problem_and_the_next_good_request_succeeds(api: Api, name: str) -> None:
    request, status, slug = BAD[name]
    response = api.http.post("/v1/classify", timeout=2, **request)
    assert len(assert_problem(response, status, slug)) > 10
    assert api.classify().status_code == 200


def test_truncated_sound_is_answered_with_a_warning(api: Api) -> None:
    answer = api.classify(encode(tone(300, 4.0))[:64_000]).json()
    assert answer["duration_s"] == pytest.approx(2.0, abs=0.01)
    assert "truncated" in answer["warnings"][0]


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("second_opinion", "maybe", "'auto', 'always' or 'never'"),
        ("rank", "sum", "'mean' or 'peak'"),
        ("top_k", "0", "greater than or equal to 1"),
        ("threshold", "2", "less than or equal to 1"),
        ("threshold", "nan", "threshold"),
        ("hop_s", "0", "greater than or equal to 0.05"),
        ("topk", "3", "topk"),
    ],
)
def test_unknown_option_is_refused_with_what_is_allowed(api: Api, option: str, value: str, said: str) -> None:
    assert said in assert_problem(api.classify(**{option: value}), 422, "bad-option")


def test_unknown_route_and_method_are_problems(api: Api) -> None:
    assert "/v1/nothing" in assert_problem(api.http.post("/v1/nothing", content=b"x"), 404, "not-found")
    assert "GET" in assert_problem(api.http.get("/v1/classify"), 405, "method-not-allowed")
    assert "DELETE" in assert_problem(api.http.delete("/v1/models"), 405, "method-not-allowed")


def test_three_ways_to_upload_answer_the_same(api: Api) -> None:
    ways = [
        raw(GOOD),
        {"content": GOOD, "headers": {"Content-Type": "audio/flac"}},
        {"files": {"file": ("a.flac", GOOD)}},
        in_json(base64.b64encode(GOOD).decode()),
    ]
    answers = [api.http.post("/v1/classify", params={"timeline": True}, **way).json() for way in ways]
    assert len({answer.pop("request_id") for answer in answers}) == len(ways)
    assert answers == [answers[0]] * len(ways)
    assert answers[0]["labels"][0]["label"] == "Low tone"
    assert answers[0]["events"][0]["end_s"] == 2.0


def test_second_opinion_is_given_on_request(api: Api) -> None:
    opinion = api.classify(second_opinion="always").json()["second_opinion"]
    assert (opinion["asked"], opinion["why"], opinion["model"]) == (True, "requested", "tone-head")


@pytest.mark.parametrize("wave", [silence(1.0), np.ones(16_000, np.float32), np.sign(tone(300)), tone(300, 0.2)])
def test_odd_sounds_are_valid_and_their_scores_numbers(api: Api, wave: np.ndarray) -> None:
    answer = api.classify(encode(wave), second_opinion="always").json()
    assert all(0 <= label["score"] <= label["peak"] <= 1 for label in answer["labels"])
    assert len(answer["labels"]) == len(answer["second_opinion"]["labels"]) == 3


def test_hugging_faces_task_api(api: Api) -> None:
    route, document = "/v1/audio-classification", {"inputs": base64.b64encode(GOOD).decode()}
    whole = api.http.post(route, content=GOOD, headers={"Content-Type": "audio/flac"}).json()
    assert [list(item) for item in whole] == [["label", "score"]] * 3
    assert [item["score"] for item in whole] == sorted((item["score"] for item in whole), reverse=True)
    parameters = {"top_k": 2, "function_to_apply": "sigmoid"}
    assert api.http.post(route, json=document | {"parameters": parameters}).json() == whole[:2]
    assert api.http.post(route, json=document | {"parameters": None}).json() == whole
    for wrong, said in ({"function_to_apply": "softmax"}, "'sigmoid' or 'none'"), ({"top_k": 0}, "top_k"), ([1], ""):
        assert said in assert_problem(api.http.post(route, json=document | {"parameters": wrong}), 422, "bad-option")


def test_embeddings_have_their_times(api: Api) -> None:
    answer = api.http.post("/v1/embeddings", content=GOOD, headers=RAW).json()
    assert np.array(answer["embeddings"]).shape == (4, 64)
    assert (answer["start_s"], answer["length_s"]) == ([0.0, 0.48, 0.96, 1.44], PATCH_S)


def test_models_say_what_their_cards_say(api: Api, tone_tagger: Path) -> None:
    tagger, head = api.http.get("/v1/models").json()["models"]
    card = load_bundle(tone_tagger).card.model_dump()
    assert (tagger.pop("role"), head["role"]) == ("tagger", "second-opinion")
    assert tagger.pop("labels") == ["Low tone", "High tone", "Silence"]
    assert tagger == {name: card[name] for name in tagger}
    assert {"thresholds", "architecture", "metrics", "agreement", "starter"} <= set(tagger)


def test_events_without_a_threshold_are_those_at_the_usual_one(api: Api) -> None:
    answers = [api.classify(**options).json()["events"] for options in ({}, {"threshold": 0.3}, {"threshold": 1})]
    assert answers[0] == answers[1] != answers[2] == []


def test_health_and_readiness(api: Api) -> None:
    assert api.http.get("/healthz").json() == {"status": "alive"}
    assert api.http.get("/readyz").json() == {"status": "ready"}


def test_openapi_names_every_route_and_defines_every_schema(api: Api) -> None:
    text = api.http.get("/openapi.json").text
    document = json.loads(text)
    assert {"/v1/classify", "/v1/audio-classification", "/v1/embeddings", "/v1/models"} <= set(document["paths"])
    named = {part.split('"')[0] for part in text.split('"#/components/schemas/')[1:]}
    assert "Answer" in named
    assert named <= set(document["components"]["schemas"])
    assert "multipart/form-data" in document["paths"]["/v1/classify"]["post"]["requestBody"]["content"]
