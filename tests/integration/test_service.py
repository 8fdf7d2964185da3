"""The running service from outside: HTTP, processes, sockets. Every service here is a real `earshot up`."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest
from huggingface_hub import InferenceClient

from cluster.session import free_port
from tests.conftest import EARSHOT, Service, run_up, wait_until
from tests.sounds import encode, silence, tone

RAW = {"Content-Type": "audio/wav"}


@pytest.fixture(scope="module")
def separate(tmp_path_factory: pytest.TempPathFactory, tone_tagger: Path, tone_head: Path) -> Iterator[Service]:
    """Every stage a deployment of its own, two replicas each."""
    flags = ("--no-ui", "--placement", "separate", "--replicas", "2", "--weights", str(tone_tagger))
    with run_up(tmp_path_factory.mktemp("separate"), *flags, "--head", str(tone_head)) as running:
        yield running


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory, tone_tagger: Path) -> Iterator[Service]:
    """Small limits, no HAProxy binary, no torch, no head, and a stranger's `models` package on the path."""
    folder = tmp_path_factory.mktemp("narrow")
    strange = folder / "site"
    (strange / "models").mkdir(parents=True)
    (strange / "models" / "__init__.py").write_text("raise RuntimeError('a stranger')\n")
    (strange / "torch.py").write_text("raise ImportError('hidden for this test')\n")
    environment = {
        "PYTHONPATH": str(strange),
        "RAY_SERVE_HAPROXY_BINARY_PATH": "/nowhere/haproxy",
        "EARSHOT_MAX_IN_FLIGHT": "2",
        "EARSHOT_BODY_TIMEOUT_S": "2",
    }
    flags = ("--no-ui", "--weights", str(tone_tagger), "--replicas", "1", "--max-body-bytes", "400000")
    with run_up(folder, *flags, **environment) as running:
        yield running


def classify(url: str, sound: bytes, **options: object) -> httpx.Response:
    return httpx.post(f"{url}/v1/classify", content=sound, headers=RAW, params=options, timeout=30)  # type: ignore[arg-type]


def test_a_short_tone_in_silence_is_an_event_though_silence_leads(service: Service) -> None:
    sound = encode(np.concatenate([silence(2), tone(3000), silence(2)]))
    answer = classify(service.url, sound).json()
    assert answer["labels"][0]["label"] == "Silence"
    event = next(event for event in answer["events"] if event["label"] == "High tone")
    assert event["start_s"] < 2.1
    assert event["end_s"] > 2.9


def test_both_placements_answer_byte_for_byte_the_same(service: Service, separate: Service) -> None:
    sounds = [encode(tone(frequency, 0.3 + frequency / 500), rate) for frequency, rate in ((300, 16000), (2500, 44100))]
    options = {"timeline": "true", "second_opinion": "always", "hop_s": 0.1}
    for sound in sounds:
        answers = [
            httpx.post(
                f"{url}/v1/classify", content=sound, headers=RAW | {"X-Request-ID": "same"}, params=options
            ).content
            for url in (service.url, separate.url)
        ]
        assert answers[0] == answers[1]
        assert json.loads(answers[0])["second_opinion"]["model"] == "tone-head"
        embeddings = [
            httpx.post(f"{url}/v1/embeddings", content=sound, headers=RAW | {"X-Request-ID": "same"}).content
            for url in (service.url, separate.url)
        ]
        assert embeddings[0] == embeddings[1]


def test_hugging_faces_own_client_works(service: Service) -> None:
    client = InferenceClient(model=f"{service.url}/v1/audio-classification")
    labels = client.audio_classification(encode(tone(300)))
    assert labels[0].label == "Low tone"
    assert labels[0].score > 0.9
    assert len(client.audio_classification(encode(tone(300)), top_k=2)) == 2


def test_a_killed_replica_costs_no_request(separate: Service) -> None:
    sound, stop = encode(tone(300)), threading.Event()

    def ask() -> list[int]:
        statuses = []
        with httpx.Client(timeout=30) as client:
            while not stop.is_set():
                statuses.append(client.post(f"{separate.url}/v1/classify", content=sound, headers=RAW).status_code)
        return statuses

    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(ask) for _ in range(4)]
        for stage in ("Spectrogram", "Yamnet"):
            victim = next(p for p in separate.children() if f":{stage}" in " ".join(p.cmdline()))
            victim.kill()
            psutil.wait_procs([victim], timeout=10)
            wait_until(lambda stage=stage: _replicas(separate, stage) == 2, 60)  # type: ignore[misc]
        stop.set()
        statuses = [status for future in asked for status in future.result()]
    assert set(statuses) == {200}


def _replicas(service: Service, stage: str) -> int:
    return sum(f":{stage}" in " ".join(child.cmdline()) for child in _alive(psutil.Process(service.process.pid)))


def _alive(parent: psutil.Process) -> Iterator[psutil.Process]:
    """Its children that are still there to be asked."""
    for child in parent.children(recursive=True):
        with contextlib.suppress(psutil.Error):
            child.cmdline()
            yield child


def test_nothing_of_the_proxy_listens_beyond_loopback_and_no_statistics_page_is_open(service: Service) -> None:
    proxies = [process for process in service.children() if process.name() == "haproxy"]
    sockets = [c for process in proxies for c in process.net_connections() if c.status == psutil.CONN_LISTEN]
    assert service.port in {c.laddr.port for c in sockets}
    assert {c.laddr.ip for c in sockets} == {"127.0.0.1"}
    assert not {8404, 9101} & {c.laddr.port for c in sockets}


def test_when_every_replica_is_killed_each_request_is_answered_or_told_when_to_come_back(
    tmp_path: Path, tone_tagger: Path
) -> None:
    sound = encode(tone(300))
    with run_up(tmp_path, "--no-ui", "--replicas", "1", "--weights", str(tone_tagger)) as running:
        victims = [p for p in running.children() if "ServeReplica" in " ".join(p.cmdline())]
        for process in victims:
            process.kill()
        psutil.wait_procs(victims, timeout=10)
        answers = [classify(running.url, sound) for _ in range(20)]
        wait_until(lambda: classify(running.url, sound).status_code == 200, 60)
    refused = [answer for answer in answers if answer.status_code != 200]
    assert {answer.status_code for answer in refused} <= {502, 503}
    assert all(answer.headers["content-type"] == "application/problem+json" for answer in refused)
    assert all(answer.headers["retry-after"] == "1" for answer in refused)


def test_slow_headers_are_cut_off_by_the_proxy(service: Service) -> None:
    with socket.create_connection(("127.0.0.1", service.port), timeout=30) as client:
        client.sendall(b"POST /v1/classify HTTP/1.1\r\nHost: x\r\n")
        assert client.recv(64).startswith(b"HTTP/1.1 408")
    assert classify(service.url, encode(tone(300))).status_code == 200


def test_the_service_runs_without_haproxy_without_torch_and_beside_a_strangers_package(narrow: Service) -> None:
    answer = classify(narrow.url, encode(tone(300))).json()
    assert answer["labels"][0]["label"] == "Low tone"
    assert answer["second_opinion"] == {
        "asked": False,
        "why": "unavailable",
        "model": None,
        "labels": [],
        "agrees": None,
    }
    assert narrow.log.read_text().count("no HAProxy binary here") == 1
    assert not [process for process in narrow.children() if process.name() == "haproxy"]


@pytest.mark.parametrize("which", ["service", "narrow"])
def test_a_body_over_the_limit_is_refused_before_it_is_sent(which: str, request: pytest.FixtureRequest) -> None:
    running: Service = request.getfixturevalue(which)
    head = f"POST /v1/classify HTTP/1.1\r\nHost: x\r\nContent-Type: audio/wav\r\nContent-Length: {1 << 31}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", running.port), timeout=10) as client:
        client.sendall(head.encode() + b"RIFF")
        assert client.recv(64).startswith(b"HTTP/1.1 413")
    assert classify(running.url, encode(tone(300))).status_code == 200


def test_a_chunked_body_is_cut_off_at_the_limit(narrow: Service) -> None:
    sent = 0
    with socket.create_connection(("127.0.0.1", narrow.port), timeout=10) as client:
        client.sendall(b"POST /v1/classify HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        client.settimeout(0.02)
        answer = b""
        while not answer and sent < 50_000_000:
            client.sendall(b"8000\r\n" + bytes(0x8000) + b"\r\n")
            sent += 0x8000
            try:
                answer = client.recv(64)
            except TimeoutError:
                continue
    assert answer.startswith(b"HTTP/1.1 413")
    assert sent < 10_000_000
    assert classify(narrow.url, encode(tone(300))).status_code == 200


def test_a_body_that_dribbles_in_is_given_up(narrow: Service) -> None:
    with socket.create_connection(("127.0.0.1", narrow.port), timeout=20) as client:
        client.sendall(b"POST /v1/classify HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nRIFF")
        assert client.recv(64).startswith(b"HTTP/1.1 408")
    assert classify(narrow.url, encode(tone(300))).status_code == 200


def test_overload_is_answered_at_once_with_when_to_come_back(narrow: Service) -> None:
    sound = encode(tone(300, 5))
    with ThreadPoolExecutor(24) as pool:
        answers = list(pool.map(lambda _: classify(narrow.url, sound), range(72)))
    statuses = {answer.status_code for answer in answers}
    assert statuses == {200, 503}
    full = [answer for answer in answers if answer.status_code == 503]
    assert all(
        answer.headers["retry-after"] == "1" and answer.json()["type"] == "/problems/overloaded" for answer in full
    )
    assert classify(narrow.url, sound).status_code == 200


def test_metrics_count_requests_audio_and_errors_of_each_stage(service: Service) -> None:
    assert classify(service.url, encode(tone(300, 3))).status_code == 200
    assert classify(service.url, b"not a sound").status_code == 422

    def told() -> bool:
        page = httpx.get(f"{service.url}/metrics", timeout=10).text
        wanted = (
            "requests_total",
            "errors_total",
            "audio_seconds_total",
            "queue_seconds_bucket",
            "compute_seconds_bucket",
        )
        return all(f"ray_earshot_{name}" in page for name in wanted) and 'type="audio-undecodable"' in page

    wait_until(told, 60)


def test_every_request_leaves_one_line_in_the_access_log(service: Service) -> None:
    headers = RAW | {"X-Request-ID": "find-me"}
    httpx.post(f"{service.url}/v1/classify", content=encode(tone(300)), headers=headers)
    log = service.log.parent / "access.jsonl"
    wait_until(lambda: "find-me" in log.read_text())
    lines = [json.loads(line) for line in log.read_text().splitlines() if "find-me" in line]
    assert [(line["method"], line["path"], line["status"]) for line in lines] == [("POST", "/v1/classify", 200)]


def test_ctrl_c_ends_it_cleanly(tmp_path: Path, tone_tagger: Path) -> None:
    with run_up(tmp_path, "--no-ui", "--weights", str(tone_tagger)) as running:
        started = running.children()
        os.kill(running.process.pid, signal.SIGINT)
        assert running.process.wait(60) == 0
        assert not psutil.wait_procs(started, timeout=20)[1]
        told = running.log.read_text()
        assert "Traceback" not in told
        assert "ray" not in told.lower().partition("stopping")[2]


@pytest.mark.parametrize("step", ["raylet", "ServeController", "ServeReplica"])
def test_a_stop_while_it_still_starts_leaves_nothing_behind(step: str, tone_tagger: Path) -> None:
    command = [str(EARSHOT), "up", "--no-ui", "--port", str(free_port()), "--weights", str(tone_tagger)]
    starting = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    process = psutil.Process(starting.pid)
    wait_until(lambda: any(step in " ".join(child.cmdline()[:1]) for child in _alive(process)), 60)
    started = process.children(recursive=True)
    starting.send_signal(signal.SIGTERM)
    assert starting.wait(90) == 0
    assert not psutil.wait_procs(started, timeout=20)[1]
