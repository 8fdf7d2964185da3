"""What a process and everything it started costs: CPU seconds and memory."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil

MIB = 1 << 20


def tree_of(process: psutil.Process) -> list[psutil.Process]:
    """The process and all that it started."""
    return [process, *process.children(recursive=True)]


def cpu_by_process_s(process: psutil.Process) -> dict[psutil.Process, float]:
    """User and system seconds of every process in the tree."""
    return dict(_each(process, lambda member: sum(member.cpu_times()[:2])))


def cpu_spent_s(before: dict[psutil.Process, float], after: dict[psutil.Process, float]) -> float:
    """CPU seconds between two looks; a process that has ended in between is not counted."""
    return sum(seconds - before.get(member, 0.0) for member, seconds in after.items())


def pss_by_process_mib(process: psutil.Process) -> dict[psutil.Process, float]:
    """Proportional set size of every process in the tree: shared pages are counted once over all."""
    return dict(_each(process, lambda member: member.memory_full_info().pss / MIB))


def short_name(process: psutil.Process) -> str:
    """A name for people: ray::Api, haproxy, python."""
    try:
        line = process.cmdline()
    except psutil.Error:
        return "gone"
    return Path((line or [process.name()])[0].split(" ")[0]).name


def _each(process: psutil.Process, look: Callable[[psutil.Process], float]) -> Iterator[tuple[psutil.Process, float]]:
    for member in tree_of(process):
        with contextlib.suppress(psutil.Error):
            yield member, look(member)
