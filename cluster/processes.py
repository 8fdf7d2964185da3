"""The processes of a running service: a note of who serves which port, their memory, and an end for those left over."""

import contextlib
import json
import os
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import platformdirs
import psutil

from cluster.settings import MIB, Settings

TERM_GRACE_S = 5


@dataclass(frozen=True)
class ServiceMemory:
    """Proportional set size of a service, in MiB, whole and by process name; shared pages are counted once."""

    pid: int
    total_mib: float
    by_name: dict[str, float]


def _note(port: int) -> Path:
    return platformdirs.user_state_path("earshot", ensure_exists=True) / f"{port}.json"


@contextlib.contextmanager
def record_service(settings: Settings) -> Iterator[None]:
    """Notes this process as the one that serves the port, while the block runs."""
    note = _note(settings.port)
    note.write_text(json.dumps({"pid": os.getpid(), "started": psutil.Process().create_time()}))
    try:
        yield
    finally:
        note.unlink(missing_ok=True)


def find_service(port: int) -> psutil.Process | None:
    """The `earshot up` process that serves the port, if one does."""
    try:
        noted = json.loads(_note(port).read_text())
        process = psutil.Process(noted["pid"])
        return process if abs(process.create_time() - noted["started"]) < 1 else None
    except (OSError, ValueError, KeyError, psutil.Error):
        return None


def service_memory(port: int) -> ServiceMemory | None:
    """The memory of the service on the port and of every process it started; None where none runs."""
    service = find_service(port)
    if service is None:
        return None
    by_name: dict[str, float] = {}
    for process in [service, *service.children(recursive=True)]:
        with contextlib.suppress(psutil.Error):
            name = _short_name(process)
            by_name[name] = by_name.get(name, 0.0) + process.memory_full_info().pss / MIB
    return ServiceMemory(service.pid, sum(by_name.values()), by_name)


def _short_name(process: psutil.Process) -> str:
    line = process.cmdline()
    title = line[0] if line else process.name()
    if title.startswith("ray::"):
        return title.removeprefix("ray::").split(" ")[0].split(".")[0]
    return Path(title.split(" ")[0]).name


def listen_for_signals(stop: threading.Event) -> None:
    """SIGINT and SIGTERM set the event; a second one interrupts at once."""

    def handle(_number: int, _frame: FrameType | None) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, handle)


def stop_children() -> None:
    """Ends every process that this one started and that is still there."""
    children = psutil.Process().children(recursive=True)
    for child in children:
        with contextlib.suppress(psutil.Error):
            child.terminate()
    _, alive = psutil.wait_procs(children, timeout=TERM_GRACE_S)
    for child in alive:
        with contextlib.suppress(psutil.Error):
            child.kill()
