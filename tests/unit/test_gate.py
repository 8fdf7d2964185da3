"""The gate over real HTTP: bodies too large or too slow, a full service, keys, request ids, the access log, origins, faults."""

import asyncio
import json
import logging
import resource
import select
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from ray.exceptions import TaskCancelledError
from starlette.types import Message

from serve.api import build_api
from serve.app import behind_proxy
from serve.gate import GateRules
from serve.stages import Listener
from tests.conftest import wait_until
from tests.unit.test_api import GOOD, MAX_BODY_BYTES, NO_MODELS, Api, assert_problem, load_listener, run_api


@pytest.fixture(scope="module")
def listener(tone_tagger: Path, tone_head: Path) -> Listener:
    return load_listener(tone_tagger, tone_head)


@pytest.fixture(scope="module")
def api(listener: Listener) -> Iterator[Api]:
    with run_api(listener) as running:
        yield running


def test_chunked_body_over_the_limit_is_refused_before_it_is_all_sent(api: Api) -> None:
    with api.connect("Transfer-Encoding: chunked") as connection:
        connection.sendall(f"{MAX_BODY_BYTES + 1:x}\r\n".encode() + bytes(MAX_BODY_BYTES + 1))  # and no end
        answer = connection.recv(4096)
    assert b" 413 " in answer.splitlines()[0]
    assert b"/problems/body-too-large" in answer
    assert api.classify().status_code == 200


def test_content_length_over_the_limit_is_refused_without_the_body(api: Api) -> None:
    with api.connect(f"Content-Length: {1 << 40}") as connection:
        assert b" 413 " in connection.recv(4096).splitlines()[0]


def test_slow_body_is_given_up(listener: Listener) -> None:
    with run_api(listener, body_timeout_s=0.2) as api:
        with api.connect("Content-Length: 100") as connection:
            connection.sendall(b"x")
            answer = connection.recv(4096)
        assert b" 408 " in answer.splitlines()[0]
        assert b"/problems/body-too-slow" in answer
        assert api.classify().status_code == 200


def test_full_service_says_when_to_come_again(listener: Listener) -> None:
    with run_api(listener, max_in_flight=1) as api:
        with api.connect("Content-Length: 1000"):
            wait_until(lambda: api.classify().status_code == 503)
            response = api.classify()
            assert_problem(response, 503, "overloaded")
            assert int(response.headers["retry-after"]) >= 1
            assert api.http.get("/healthz").status_code == 200
        wait_until(lambda: api.classify().status_code == 200)


KEYS = {"api_keys": ("first-key", "second-key")}


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"Authorization": "Bearer wrong"}, 401),
        ({"Authorization": "Bearer"}, 401),
        ({"Authorization": "Bearer first-key-and-more"}, 401),
        ({"X-API-Key": ""}, 401),
        ({"Authorization": "Bearer first-key"}, 200),
        ({"Authorization": "Bearer second-key"}, 200),
        ({"X-API-Key": "second-key"}, 200),
    ],
)
def test_key_is_needed_where_keys_are_set(keyed: Api, headers: dict[str, str], status: int) -> None:
    for response in (
        keyed.http.post("/v1/classify", content=GOOD, headers=headers),
        keyed.http.get("/v1/models", headers=headers),
    ):
        assert response.status_code == status
        if status == 401:
            assert "key" in assert_problem(response, 401, "unauthorized")
            assert response.headers["www-authenticate"] == "Bearer"
    assert keyed.http.get("/healthz").status_code == 200


@pytest.fixture(scope="module")
def keyed(listener: Listener) -> Iterator[Api]:
    with run_api(listener, **KEYS) as running:
        yield running


def test_request_id_is_the_callers_where_it_is_a_plain_word(api: Api) -> None:
    for given, kept in (("job-7.a_B", True), ("x" * 64, True), ("x" * 65, False), ("a b", False), ("{}", False)):
        response = api.http.post("/v1/classify", content=GOOD, headers={"X-Request-ID": given})
        assert (response.headers["x-request-id"] == given) == kept
        assert response.json()["request_id"] == response.headers["x-request-id"]
        assert len(response.headers["x-request-id"]) <= 64


def test_access_log_has_one_json_object_a_request(listener: Listener, tmp_path: Path) -> None:
    log = tmp_path / "deep" / "access.jsonl"
    with run_api(listener, access_log=log) as api:
        api.http.post("/v1/classify?top_k=1", content=GOOD, headers={"X-Request-ID": "mine"})
        api.http.post("/v1/classify", content=b"no sound")
        wait_until(lambda: log.read_text().count("\n") == 2)  # a line is written after its answer
        log.rename(tmp_path / "rotated")
        api.http.get("/v1/nothing")
    first, second = map(json.loads, (tmp_path / "rotated").read_text().splitlines())
    assert (first["request_id"], first["status"], first["body_bytes"]) == ("mine", 200, len(GOOD))
    assert (first["method"], first["path"], first["client"]) == ("POST", "/v1/classify", "127.0.0.1")
    assert first["ms"] > 0
    assert second["status"] == 422
    assert json.loads(log.read_text())["status"] == 404


def test_a_full_disk_under_the_access_log_costs_no_request_and_is_said_once(
    listener: Listener, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    with run_api(listener, access_log=Path("/dev/full")) as api:
        assert [api.classify().status_code for _ in range(5)] == [200] * 5
    told = [record.getMessage() for record in caplog.records if "access log" in record.getMessage()]
    assert len(told) == 1
    assert "No space left" in told[0]
    assert "Traceback" not in capfd.readouterr().err


def test_a_line_that_found_room_for_a_part_of_it_spoils_no_other(listener: Listener, tmp_path: Path) -> None:
    log = tmp_path / "access.jsonl"
    _, hard = limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with run_api(listener, access_log=log) as api:
        api.http.get("/healthz")
        wait_until(lambda: log.stat().st_size > 0)
        resource.setrlimit(resource.RLIMIT_FSIZE, (log.stat().st_size + 40, hard))  # as a disk with 40 bytes left
        try:
            assert [api.http.get("/healthz").status_code for _ in range(100)] == [200] * 100
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        api.http.get("/healthz", headers={"X-Request-ID": "room-again"})
        wait_until(lambda: "room-again" in log.read_text() and log.read_text().endswith("\n"))
    first, torn, *others = log.read_text().splitlines()  # the hundredth line may come when there is room again
    assert len(torn) == 40
    assert {json.loads(line)["status"] for line in [first, *others]} == {200}


def test_an_access_log_whose_folder_was_taken_away_costs_no_request_and_is_written_again_when_it_is_back(
    listener: Listener, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    log = tmp_path / "deep" / "access.jsonl"
    with run_api(listener, access_log=log) as api:
        assert api.classify().status_code == 200
        log.parent.rename(tmp_path / "away")
        assert [api.classify().status_code for _ in range(3)] == [200] * 3
        log.parent.mkdir()
        assert api.classify().status_code == 200
        wait_until(lambda: log.exists() and log.read_text().endswith("\n"))
    assert len([record for record in caplog.records if "access log" in record.getMessage()]) == 1


def test_client_that_hangs_up_is_logged_as_such_and_not_as_a_fault(
    listener: Listener, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    log = tmp_path / "access.jsonl"
    with run_api(listener, access_log=log) as api:
        with api.connect("Content-Length: 1000") as connection:
            connection.sendall(b"x")
        wait_until(lambda: log.read_text().endswith("\n"))
        assert api.classify().status_code == 200
    assert json.loads(log.read_text().splitlines()[0])["status"] == 499
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def test_client_that_hangs_up_before_rays_proxy_is_logged_as_such(
    listener: Listener, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    log = tmp_path / "access.jsonl"
    app = behind_proxy(build_api(listener, NO_MODELS, GateRules(access_log=log), deadline_s=20))
    sent: list[Message] = []

    async def receive() -> Message:
        raise TaskCancelledError

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/v1/classify",
        "query_string": b"",
        "headers": [(b"content-length", b"9")],
    }
    asyncio.run(app(scope, receive, send))
    assert json.loads(log.read_text())["status"] == 499
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


ORIGIN = "https://app.example"


def preflight(api: Api, origin: str) -> httpx.Response:
    headers = {"Origin": origin, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "x-api-key"}
    return api.http.options("/v1/classify", headers=headers)


def test_no_origin_is_allowed_by_default(api: Api) -> None:
    response = api.http.post("/v1/classify", content=GOOD, headers={"Origin": ORIGIN})
    assert "access-control-allow-origin" not in response.headers
    assert_problem(preflight(api, ORIGIN), 405, "method-not-allowed")


def test_listed_origins_are_allowed_and_no_others(listener: Listener) -> None:
    with run_api(listener, cors_origins=[ORIGIN], **KEYS) as api:
        for content, key, status in ((GOOD, "first-key", 200), (b"x", "first-key", 422), (GOOD, "wrong", 401)):
            headers = {"Origin": ORIGIN, "X-API-Key": key}
            response = api.http.post("/v1/classify", content=content, headers=headers)
            assert (response.status_code, response.headers["access-control-allow-origin"]) == (status, ORIGIN)
        assert preflight(api, ORIGIN).headers["access-control-allow-origin"] == ORIGIN
        assert "access-control-allow-origin" not in preflight(api, "https://other.example").headers


class Broken:
    """A Listener with a fault of its own."""

    async def classify(self, *_: object) -> None:
        raise ValueError("secret of the house")

    async def check_ready(self) -> bool:
        raise RuntimeError("secret of the house")


def test_fault_of_ours_is_a_problem_that_tells_nothing(caplog: pytest.LogCaptureFixture) -> None:
    with run_api(Broken()) as api:
        response = api.http.post("/v1/classify", content=GOOD)
        assert "secret" not in response.text
        assert_problem(response, 500, "internal")
        assert_problem(api.http.get("/readyz"), 503, "not-ready")
    request_id = response.headers["x-request-id"]
    assert any(request_id in record.getMessage() and record.exc_info for record in caplog.records)


def test_answer_that_takes_too_long_is_a_problem(listener: Listener) -> None:
    with run_api(listener, deadline_s=1e-6) as api:
        assert_problem(api.classify(), 504, "deadline-exceeded")


def test_all_bodies_together_are_bounded(listener: Listener) -> None:
    def is_full() -> bool:
        """Is a request that would bring 1999 bytes refused, before it brings any?"""
        with api.connect("Content-Length: 1999") as probe:
            return bool(select.select([probe], [], [], 0.2)[0])

    with run_api(listener, max_bytes_in_flight=2000) as api:
        assert_problem(api.classify(bytes(2001)), 503, "overloaded")
        assert not is_full()
        with api.connect("Content-Length: 2000") as connection:
            connection.sendall(bytes(1500))
            wait_until(is_full)
            assert_problem(api.classify(bytes(600)), 503, "overloaded")
        wait_until(lambda: not is_full())
        assert_problem(api.classify(bytes(600)), 422, "audio-undecodable")
