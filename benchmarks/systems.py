"""The systems that are compared: how each is started, known to be ready, asked and stopped."""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

import httpx
import psutil

from benchmarks.clips import ROOT
from benchmarks.load_client import make_request
from benchmarks.process_tree import tree_of

PORT = 18710
PEERS = ROOT / ".venv-bench" / "bin" / "python"
READY_TIMEOUT_S = 90
STOP_TIMEOUT_S = 40
BUNDLE_VARIABLE = "BENCH_BUNDLE"
WORKERS_VARIABLE = "BENCH_WORKERS"
PORT_VARIABLE = "BENCH_PORT"
BOUNDARY = "earshot-bench"


class NotRunning(Exception):
    """A system that cannot be measured, and why."""


def end_on_sigterm() -> None:
    """Turns SIGTERM into a normal exit, so that what was started is ended, too."""

    def leave(number: int, _: FrameType | None) -> None:
        sys.exit(128 + number)

    signal.signal(signal.SIGTERM, leave)


@dataclass(frozen=True)
class System:
    """One way to serve the model over HTTP on PORT."""

    name: str
    command: list[str]
    ready: str = "/readyz"
    multipart_field: str | None = None
    path: str = "/v1/classify?second_opinion=never"
    environment: dict[str, str] = field(default_factory=dict)

    def request(self, body: bytes) -> bytes:
        """A sound -> the whole HTTP request, in the form that this system reads."""
        if self.multipart_field is None:
            return make_request(PORT, self.path, body)
        disposition = f'form-data; name="{self.multipart_field}"; filename="clip"'
        head = f"--{BOUNDARY}\r\nContent-Disposition: {disposition}\r\nContent-Type: application/octet-stream\r\n\r\n"
        form = head.encode() + body + f"\r\n--{BOUNDARY}--\r\n".encode()
        return make_request(PORT, self.path, form, f"multipart/form-data; boundary={BOUNDARY}")


def earshot(placement: str, bundle: Path, *more: str) -> System:
    """`earshot up`, as a user starts it."""
    program = str(Path(sys.executable).parent / "earshot")
    flags = ["--port", str(PORT), "--no-ui", "--offline", "--weights", str(bundle), "--placement", placement]
    return System(f"Earshot, {placement}", [program, "up", *flags, *more])


def list_systems(bundle: Path) -> list[System]:
    """Every system, in the order of the table."""
    cores = str(len(os.sched_getaffinity(0)))
    given = {BUNDLE_VARIABLE: str(bundle), WORKERS_VARIABLE: cores, PORT_VARIABLE: str(PORT)}
    uvicorn = ["-m", "uvicorn", "--factory", "benchmarks.peer_fastapi:build", "--port", str(PORT), "--workers", cores]
    quiet = ["--no-access-log", "--log-level", "warning"]
    bento = ["-m", "bentoml", "serve", "benchmarks.peer_bentoml:Classifier", "--host", "127.0.0.1", "--port", str(PORT)]
    private = {
        "BENTOML_DO_NOT_TRACK": "True",
        "BENTOML_HOME": str(Path(tempfile.gettempdir()) / "earshot-bench-bentoml"),
    }
    return [
        System("FastAPI + uvicorn", [sys.executable, *uvicorn, *quiet], environment=given),
        earshot("fused", bundle),
        earshot("separate", bundle),
        System("LitServe", [str(PEERS), "-m", "benchmarks.peer_litserve"], ready="/health", environment=given),
        System("BentoML", [str(PEERS), *bento], multipart_field="audio", environment=given | private),
    ]


@dataclass(frozen=True)
class Launched:
    """A started system: its main process and what it prints."""

    process: psutil.Popen
    log: Path

    def raise_if_ended(self) -> None:
        """Raises NotRunning with the last line it printed when the main process has ended."""
        if self.process.poll() is not None:
            raise NotRunning(f"ended at its start: {self.last_line()}")

    def last_line(self) -> str:
        """The last line it printed."""
        lines = [line.strip() for line in self.log.read_text(errors="replace").splitlines() if line.strip()]
        return lines[-1] if lines else "it printed nothing"


@contextlib.contextmanager
def running(system: System) -> Iterator[psutil.Process]:
    """The system's main process while the block runs; then it and all that it started are ended. Raises NotRunning."""
    with launched(system) as started:
        _wait_until_ready(system, started)
        try:
            yield started.process
        except OSError as error:
            raise NotRunning(f"{error}; the last it printed: {started.last_line()}") from error


@contextlib.contextmanager
def launched(system: System) -> Iterator[Launched]:
    """As `running`, but does not wait until the system is ready."""
    if not Path(system.command[0]).exists():
        raise NotRunning(f"{system.command[0]} is not here: `make bench` installs it")
    if _answers("/"):
        raise NotRunning(f"port {PORT} is taken: end what runs there")
    with tempfile.NamedTemporaryFile("w", prefix="earshot-bench-", suffix=".log") as log:
        process = psutil.Popen(
            system.command, cwd=ROOT, env=_environment(system), stdout=log, stderr=log, start_new_session=True
        )
        try:
            yield Launched(process, Path(log.name))
        finally:
            _stop(process)


def _environment(system: System) -> dict[str, str]:
    """One thread per process and our packages; none of the user's own settings but the cache."""
    inherited = {
        name: v for name, v in os.environ.items() if not name.startswith("EARSHOT_") or name == "EARSHOT_CACHE"
    }
    return inherited | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)} | system.environment


def _answers(path: str) -> int:
    """The status of a GET, 0 where nobody listens."""
    try:
        return httpx.get(f"http://127.0.0.1:{PORT}{path}", timeout=5).status_code
    except httpx.HTTPError:
        return 0


def _wait_until_ready(system: System, started: Launched) -> None:
    deadline_s = time.monotonic() + READY_TIMEOUT_S
    while _answers(system.ready) != 200:
        started.raise_if_ended()
        if time.monotonic() > deadline_s:
            raise NotRunning(f"not ready within {READY_TIMEOUT_S} s: {started.last_line()}")
        time.sleep(0.1)


def _stop(process: psutil.Popen) -> None:
    """SIGTERM to the main process, then an end for whatever of its tree or its process group is left."""
    members: list[psutil.Process] = []
    with contextlib.suppress(psutil.Error):
        members = tree_of(process)
    with contextlib.suppress(psutil.Error):
        process.terminate()
    with contextlib.suppress(psutil.TimeoutExpired, subprocess.TimeoutExpired):
        process.wait(STOP_TIMEOUT_S)
    _, alive = psutil.wait_procs(members, timeout=5)
    for member in alive:
        with contextlib.suppress(psutil.Error):
            member.kill()
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
