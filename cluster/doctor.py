"""What is installed, found and free on this machine, and how to mend what is not."""

import contextlib
import importlib.metadata
import shutil
import subprocess
from dataclasses import dataclass

import psutil

from cluster.processes import service_memory
from cluster.session import find_haproxy
from cluster.settings import Settings
from models.bundle import Bundle
from models.errors import EarshotError
from models.weights import find_head, find_tagger, starter_notice

NEEDED_MEMORY_GIB = 2.0


@dataclass(frozen=True)
class Finding:
    """One thing looked at. `needed`: the service cannot run without."""

    what: str
    good: bool
    says: str
    remedy: str = ""
    needed: bool = False


def examine(settings: Settings) -> list[Finding]:
    """Everything worth knowing before `earshot up`, in the order a person would ask."""
    return [
        _program(),
        _training(),
        _proxy(),
        _weights(settings),
        _second_opinion(settings),
        _port(settings),
        _gpu(),
        _memory(),
    ]


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _program() -> Finding:
    names = ("ray", "onnxruntime", "gradio", "soundfile", "av")
    versions = {name: _version(name) for name in names}
    missing = [name for name, version in versions.items() if version is None]
    says = ", ".join(f"{name} {version}" for name, version in versions.items() if version)
    return Finding("packages", not missing, says, f"missing {', '.join(missing)}: make setup", needed=True)


def _training() -> Finding:
    torch = _version("torch")
    return Finding(
        "training", bool(torch), f"torch {torch}" if torch else "no torch (not needed to serve)", "make setup"
    )


def _proxy() -> Finding:
    binary = find_haproxy()
    return Finding("proxy", bool(binary), binary or "no HAProxy: Ray's own, slower proxy serves", "make setup")


def _find_tagger(settings: Settings) -> Bundle:
    """What would be served, without a download."""
    return find_tagger(settings.model_copy(update={"download": False}).places())


def _weights(settings: Settings) -> Finding:
    try:
        bundle = _find_tagger(settings)
    except EarshotError as error:
        return Finding("weights", False, "YAMNet's are not here", str(error), needed=True)
    says = f"{bundle.card.name} {bundle.card.version}, {len(bundle.labels)} classes, {bundle.path}"
    return Finding("weights", not bundle.card.starter, says, starter_notice(len(bundle.labels)))


def _second_opinion(settings: Settings) -> Finding:
    remedy = "name a model folder with --head"
    tagger = None
    with contextlib.suppress(EarshotError):  # said where its weights are looked at
        tagger = _find_tagger(settings)
    try:
        head = find_head(settings.head_places(), tagger)
    except EarshotError as error:
        return Finding("2nd opinion", False, str(error), remedy)
    return Finding("2nd opinion", bool(head), f"{head.card.name}, {head.path}" if head else "none", remedy)


def _port(settings: Settings) -> Finding:
    memory = service_memory(settings.port)
    if memory:
        parts = sorted(memory.by_name.items(), key=lambda part: -part[1])
        detail = ", ".join(f"{name} {mib:.0f}" for name, mib in parts)
        return Finding("service", True, f"runs on {settings.url}: {memory.total_mib:.0f} MiB PSS ({detail})")
    taken = any(
        connection.laddr and connection.laddr.port == settings.port and connection.status == psutil.CONN_LISTEN
        for connection in psutil.net_connections("tcp")
    )
    remedy = "stop what listens there, or use another: --port"
    return Finding("port", not taken, f"{settings.port} is {'taken' if taken else 'free'}", remedy, needed=True)


def _gpu() -> Finding:
    if not shutil.which("nvidia-smi"):
        return Finding("GPU", False, "none seen (not needed)", "install NVIDIA's driver where there is a GPU")
    query = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"]
    seen = subprocess.run(query, capture_output=True, text=True, check=False, timeout=20)  # noqa: S603 (no word of it is a stranger's)
    names = "; ".join(seen.stdout.split("\n")).strip("; ")
    return Finding("GPU", seen.returncode == 0 and bool(names), names or "nvidia-smi sees none", "check the driver")


def _memory() -> Finding:
    memory = psutil.virtual_memory()
    free_gib, all_gib = memory.available / 2**30, memory.total / 2**30
    says = f"{free_gib:.1f} of {all_gib:.1f} GiB free, {psutil.cpu_count()} cores"
    return Finding("memory", free_gib >= NEEDED_MEMORY_GIB, says, "the service needs about 2 GiB: end other programs")
