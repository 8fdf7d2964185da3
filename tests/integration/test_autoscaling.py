"""A real service that grows under load and shrinks after it, and loses no request meanwhile."""

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
import pytest

from benchmarks.load.watch import count_replicas
from tests.conftest import Service, run_up, wait_until
from tests.sounds import encode, tone

CLIENTS = 10  # with 20 s of sound each: more than one replica may hold


@pytest.fixture(scope="module")
def scaling(tmp_path_factory: pytest.TempPathFactory, tone_tagger: Path) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("scaling")
    with run_up(folder, "--weights", str(tone_tagger), "--no-ui", "--max-replicas", "2", "--pace", "demo") as running:
        yield running


@contextmanager
def asking(service: Service, seconds: float, clients: int) -> Iterator[Counter[object]]:
    """So many clients ask without a pause while the block runs; counts what they got."""
    sound, stop, seen = encode(tone(440, seconds=seconds)), threading.Event(), Counter[object]()
    headers = {"Content-Type": "audio/wav"}

    def ask() -> None:
        with httpx.Client(timeout=60, trust_env=False) as client:
            while not stop.is_set():
                try:
                    seen[client.post(f"{service.url}/v1/classify", content=sound, headers=headers).status_code] += 1
                except httpx.HTTPError as error:
                    seen[repr(error)] += 1

    threads = [threading.Thread(target=ask) for _ in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield seen
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def test_a_load_step_grows_it_and_calm_shrinks_it_without_a_failed_request(scaling: Service) -> None:
    process = psutil.Process(scaling.process.pid)
    assert count_replicas(process) == (1, 1)
    with asking(scaling, seconds=1.0, clients=1) as few:
        with asking(scaling, seconds=20.0, clients=CLIENTS) as many:
            wait_until(lambda: count_replicas(process) == (2, 2), 60)
            served = many[200]
            wait_until(lambda: many[200] > served + 5 * CLIENTS)  # by both
        wait_until(lambda: count_replicas(process) == (1, 1), 60)
        served = few[200]
        wait_until(lambda: few[200] > served + 20)
    assert set(many) == {200}
    assert set(few) == {200}
