"""What tests share: the folder of real weights and clips where there is one, tiny models, a real running service."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from cluster.session import free_port
from tests.s3 import Cloud
from tests.tiny_models import save_tone_head, save_tone_tagger

CHECKOUT = Path(__file__).resolve().parent.parent
EARSHOT = Path(sys.executable).parent / "earshot"
START_TIMEOUT_S = 120
BESIDE = ("test_bulk", "test_cluster", "test_sweep", "test_train")  # of those that are not unit tests


class ServiceApart(LoadScopeScheduling):
    """Two processes run the tests: one those that ask the service, one after the other, the other one the rest, file by file."""

    def _split_scope(self, nodeid: str) -> str:
        path = Path(nodeid.split("::")[0])
        return "service" if path.parent.name != "unit" and path.stem not in BESIDE else path.stem


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> ServiceApart:
    """What divides the tests."""
    return ServiceApart(config, log)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real weights, clips and reference outputs, from EARSHOT_SHARED."""
    folder = os.environ.get("EARSHOT_SHARED")
    if not folder:
        pytest.skip("EARSHOT_SHARED is not set: it names the folder with weights/, data/ and reference/")
    return Path(folder)


@pytest.fixture(scope="session")
def tone_tagger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny tagger: low tone, high tone, silence."""
    return save_tone_tagger(tmp_path_factory.mktemp("models") / "tones").path


@pytest.fixture(scope="session")
def tone_head(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny second opinion."""
    return save_tone_head(tmp_path_factory.mktemp("models") / "tone-head").path


def wait_until(condition: Callable[[], bool], timeout_s: float = 30) -> None:
    """Returns when the condition holds; fails the test when it does not in time."""
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, f"not within {timeout_s} s"
        time.sleep(0.05)


def is_ready(url: str) -> bool:
    """Does every stage of the service at the address answer?"""
    try:
        return httpx.get(f"{url}/readyz", timeout=5).status_code == 200
    except httpx.HTTPError:
        return False


@dataclass
class Service:
    """A running `earshot up`."""

    url: str
    port: int
    process: subprocess.Popen[bytes]
    log: Path

    def children(self) -> list[psutil.Process]:
        """Every process that the service started."""
        return psutil.Process(self.process.pid).children(recursive=True)


@contextmanager
def run_up(folder: Path, *flags: str, **environment: str) -> Iterator[Service]:
    """`earshot up` as a user starts it, until the block ends; then it must leave no process behind."""
    port = free_port()
    log = folder / "up.log"
    own = {"EARSHOT_CACHE": str(folder / "cache"), "EARSHOT_ACCESS_LOG": str(folder / "access.jsonl")}
    command = [str(EARSHOT), "up", "--offline", "--port", str(port), *flags]
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env=os.environ | own | environment)
    service = Service(f"http://127.0.0.1:{port}", port, process, log)
    try:
        wait_until(lambda: is_ready(service.url) or process.poll() is not None, START_TIMEOUT_S)
        assert process.poll() is None, log.read_text()
        yield service
    finally:
        started = service.children() if process.poll() is None else []
        process.send_signal(signal.SIGTERM)
        process.wait(60)
        _, alive = psutil.wait_procs(started, timeout=20)
        for child in alive:
            child.kill()
    assert not alive, f"left behind: {alive}"
    assert process.returncode == 0, log.read_text()


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory, tone_tagger: Path, tone_head: Path) -> Iterator[Service]:
    """The service with the page and both tiny models, fused, as `earshot up` starts it by default."""
    folder = tmp_path_factory.mktemp("service")
    with run_up(folder, "--weights", str(tone_tagger), "--head", str(tone_head)) as running:
        yield running


@pytest.fixture(scope="module")
def credentials() -> Iterator[None]:
    """What an S3 client wants to have, whatever the server makes of it."""
    with pytest.MonkeyPatch.context() as environment:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            environment.setenv(name, "test")
        environment.setenv("AWS_DEFAULT_REGION", "us-east-1")
        environment.setenv("AWS_EC2_METADATA_DISABLED", "true")
        yield


@pytest.fixture(scope="module")
def cloud(credentials: None) -> Iterator[Cloud]:
    running = Cloud()
    yield running
    running.stop()
