"""Is a worker thread still getting on? What a health check asks: it must not wait behind the work, and a busy worker is a healthy one."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from models.errors import EarshotError

STUCK_S = 20.0  # at one piece of work: blocks of a sound or a batch of patches, which take 20 ms to a second


class WorkerStuck(EarshotError):
    """A worker thread has been at one piece of work for so long that it will never end."""

    slug = "worker-stuck"


class Pulse:
    """The time that one worker thread has been at its present piece of work. Work queued behind it does not count."""

    def __init__(self, worker: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._worker = worker
        self._clock = clock
        self._began_s: float | None = None

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """In the worker's thread, around one piece of work."""
        self._began_s = self._clock()
        try:
            yield
        finally:
            self._began_s = None

    def check(self, most_s: float = STUCK_S) -> None:
        """Raises WorkerStuck when the present piece of work has lasted longer."""
        began_s = self._began_s
        if began_s is not None and (lasted_s := self._clock() - began_s) > most_s:
            raise WorkerStuck(f"{self._worker}: {lasted_s:.0f} s at one piece of work")
