"""The faults: what is done to a running service, to its processes or by its clients, and when it counts as whole again.

Only processes below the service's own main process are ever looked for, and each is ended by its id.
"""

import contextlib
import signal
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import psutil

from benchmarks.chaos_client import CLOSED, FULL, REFUSED, Load

NOTHING: frozenset[str] = frozenset()
ON_ITS_CONNECTIONS = frozenset({CLOSED, FULL})
WHILE_NOBODY_LISTENS = frozenset({CLOSED, FULL, REFUSED})
MORE_THAN_FITS = 400  # requests at once: two Api replicas take 64 each
LEAVERS = 100
STAGES = ("Api", "Spectrogram", "Yamnet", "VggishHead")


# What is done to the service and the load that runs; it gives the processes that were struck.
Act = Callable[[psutil.Process, Load], list[psutil.Process]]


@dataclass(frozen=True)
class Fault:
    """What is done, which outcomes but a right answer may follow, and within how many seconds they must end (None: any)."""

    name: str
    act: Act
    may: frozenset[str] = NOTHING
    back_within_s: float | None = None


def find(service: psutil.Process, title: str) -> list[psutil.Process]:
    """The living processes of the service whose title has that text, oldest first."""
    found = [process for process in service.children(recursive=True) if title in _title(process)]
    return sorted(found, key=lambda process: (process.create_time(), process.pid))


def _title(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.Error):
        if process.status() != psutil.STATUS_ZOMBIE:
            return (process.cmdline() or [process.name()])[0]
    return ""


def send(title: str, number: signal.Signals, count: int = 1) -> Act:
    """A fault that sends a signal to the oldest `count` processes of that title, and tells which."""

    def act(service: psutil.Process, _: Load) -> list[psutil.Process]:
        victims = find(service, title)[:count]
        if not victims:
            raise LookupError(f"the service has no process {title!r}")
        for victim in victims:
            victim.send_signal(number)
        return victims

    return act


def kill_node(service: psutil.Process, _: Load) -> list[psutil.Process]:
    """Ends the last raylet that was started and every process of its node at once, as a machine that loses power."""
    raylet = find(service, "raylet/raylet")[-1]
    victims = [raylet, *raylet.children(recursive=True)]
    for victim in victims:
        with contextlib.suppress(psutil.Error):
            victim.kill()
    return victims


def fill_the_queue(_: psutil.Process, load: Load) -> list[psutil.Process]:
    """More requests at once than fit."""
    load.burst(MORE_THAN_FITS)
    return []


def hang_up(_: psutil.Process, load: Load) -> list[psutil.Process]:
    """Clients who send, wait for nothing and go."""
    load.hang_up(LEAVERS)
    return []


def replica(stage: str) -> str:
    """The title of a stage's replicas."""
    return f"ray::ServeReplica:earshot:{stage}"


def census(service: psutil.Process) -> dict[str, int]:
    """How many replicas each stage has, stopped ones left out, and how many proxies and controllers there are."""
    titles = {stage: replica(stage) for stage in STAGES}
    titles |= {"controller": "ray::ServeController", "proxy": "ray::HAProxyManager", "haproxy": "haproxy"}
    return {name: sum(map(_runs, find(service, title))) for name, title in titles.items()}


def _runs(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_STOPPED
    except psutil.Error:
        return False


def wake(processes: Iterable[psutil.Process]) -> None:
    """Lets stopped processes go on, so that they can be ended in the ordinary way."""
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.send_signal(signal.SIGCONT)


def on_one_machine() -> list[Fault]:
    """The faults on one machine: of processes, and of clients."""
    kill, stop = signal.SIGKILL, signal.SIGSTOP
    inner = [stage for stage in STAGES if stage != "Api"]
    return [
        *(Fault(f"kill a replica of {stage}", send(replica(stage), kill)) for stage in inner),
        Fault("kill a replica of Api", send(replica("Api"), kill), ON_ITS_CONNECTIONS, 5),
        *(Fault(f"stop a replica of {stage}", send(replica(stage), stop)) for stage in inner),
        Fault("stop a replica of Api", send(replica("Api"), stop), ON_ITS_CONNECTIONS),
        Fault("kill HAProxy", send("haproxy", kill), WHILE_NOBODY_LISTENS, 6),
        Fault("kill the proxy actor", send("ray::HAProxyManager", kill), WHILE_NOBODY_LISTENS, 6),
        Fault("kill the controller", send("ray::ServeController", kill)),
        Fault("fill the queue", fill_the_queue, frozenset({FULL})),
        Fault("clients hang up", hang_up),
    ]


def on_two_nodes() -> list[Fault]:
    """The fault of a whole machine."""
    return [Fault("kill a worker node", kill_node)]
