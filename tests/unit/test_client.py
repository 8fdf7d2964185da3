import socket
import threading
from collections.abc import Iterator

import pytest
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response

from cluster.client import EarshotClient, InputRefused, ServiceError, ServiceUnreachable
from models.errors import BadInput


def problem(status: int, slug: str) -> Response:
    document = {
        "type": f"/problems/{slug}",
        "title": "No",
        "status": status,
        "detail": f"it is {slug}",
        "request_id": "r1",
    }
    return JSONResponse(document, status, media_type="application/problem+json")


def build_service() -> FastAPI:
    """A service that answers by the sound's first word, and echoes what it was sent."""
    app = FastAPI()

    @app.post("/v1/classify")
    async def classify(request: Request) -> Response:
        audio = await request.body()
        if audio == b"bad":
            return problem(422, "audio-undecodable")
        if audio == b"full":
            return problem(503, "overloaded")
        if audio == b"proxy":
            return PlainTextResponse("<html>bad gateway</html>", 502)
        if audio == b"list":
            return JSONResponse([])
        if audio == b"slow":
            await request.receive()  # which is the client's hanging up
        headers = {name: request.headers.get(name) for name in ("authorization", "content-type")}
        return JSONResponse({"bytes": len(audio), "query": dict(request.query_params), **headers})

    @app.post("/v1/spectrogram")
    async def spectrogram(request: Request) -> Response:
        return Response(b"PNG of " + await request.body(), media_type="image/png")

    @app.get("/v1/models")
    async def models() -> Response:
        return JSONResponse({"models": [{"name": "yamnet"}]})

    return app


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(build_service(), log_level="error", lifespan="off"))
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        while not server.started:
            thread.join(0.01)
            assert thread.is_alive()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        server.should_exit = True
        thread.join()


@pytest.fixture
def client(url: str) -> Iterator[EarshotClient]:
    with EarshotClient(url + "/") as client:
        yield client


def test_sends_the_sound_and_the_options(client: EarshotClient) -> None:
    answer = client.classify(b"sound", top_k=3, timeline=True, hop_s=None)
    assert answer["bytes"] == 5
    assert answer["query"] == {"top_k": "3", "timeline": "true"}
    assert answer["content-type"] == "application/octet-stream"
    assert answer["authorization"] is None


def test_sends_the_key(url: str) -> None:
    with EarshotClient(url, api_key="secret") as client:
        assert client.classify(b"sound", content_type="audio/wav")["authorization"] == "Bearer secret"


def test_reads_pictures_and_models(client: EarshotClient) -> None:
    assert client.spectrogram(b"sound") == b"PNG of sound"
    assert client.models() == [{"name": "yamnet"}]


def test_a_refused_sound_is_bad_input(client: EarshotClient) -> None:
    with pytest.raises(InputRefused, match="it is audio-undecodable") as caught:
        client.classify(b"bad")
    error = caught.value
    assert isinstance(error, BadInput)
    assert (error.status, error.type, error.title) == (422, "/problems/audio-undecodable", "No")
    assert (error.slug, error.request_id, error.detail) == ("audio-undecodable", "r1", "it is audio-undecodable")


def test_a_failing_service_is_not_bad_input(client: EarshotClient) -> None:
    with pytest.raises(ServiceError, match="it is overloaded") as caught:
        client.classify(b"full")
    assert not isinstance(caught.value, BadInput)


def test_an_error_page_of_another_server_is_told_by_its_status(client: EarshotClient) -> None:
    with pytest.raises(ServiceError, match="the service answered 502 Bad Gateway"):
        client.classify(b"proxy")


def test_an_answer_of_another_shape_is_refused(client: EarshotClient) -> None:
    with pytest.raises(ServiceError, match="not an Earshot service"):
        client.classify(b"list")


def test_a_late_answer_is_an_error(url: str) -> None:
    with EarshotClient(url, timeout_s=0.1) as client, pytest.raises(ServiceUnreachable, match="did not answer in time"):
        client.classify(b"slow")


def test_no_service_says_how_to_start_one() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound, but nobody listens
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        with EarshotClient(url) as client, pytest.raises(ServiceUnreachable) as caught:
            client.models()
    assert str(caught.value) == f"no Earshot service answers at {url}. Start one with: make up"
    assert caught.value.status == 0


@pytest.mark.parametrize("url", ["localhost", "http://", "ftp://x"])
def test_a_wrong_address_is_an_error_of_ours(url: str) -> None:
    with EarshotClient(url) as client, pytest.raises(ServiceUnreachable):
        client.models()
