"""Checks every node of the running cluster: its code, its weights, how it was started, and that its own proxy answers a request.

One small task a node, all at once, with one deadline: a node that does not come back in time is reported like one that fails.
"""

import hashlib
import io
import logging
import math
import os
import struct
import time
import wave
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cluster.deploy import on_cluster
from cluster.session import CHECKOUT, node_environment, open_session, prepare_environment
from cluster.settings import Settings
from models.errors import EarshotError
from models.weights import find_tagger

DEADLINE_S = 60.0
REQUEST_S = 20.0
ROOMS = ("models", "cluster", "pipelines", "serve", "tune", "ui")
# What must be the same on every node; the others are of one node alone, or a matter of taste.
NEEDED = ("RAY_SERVE_THROUGHPUT_OPTIMIZED", "RAY_SERVE_ENABLE_HA_PROXY", "RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH")


@dataclass(frozen=True)
class NodeReport:
    """What one node says. `fault` is empty where all is well; `remedy` is the next step where it is not.

    Ray runs a proxy on the head and on every node that holds a replica: others have none to ask.
    """

    node_id: str
    address: str
    has_proxy: bool = True
    host: str = ""
    code: str = ""
    weights_sha256: str = ""
    answer_ms: float | None = None
    fault: str = ""
    remedy: str = ""


def check_nodes(settings: Settings, deadline_s: float = DEADLINE_S) -> list[NodeReport]:
    """A report of every node that Ray believes alive, the head first. Raises EarshotError where there is no cluster."""
    settings = on_cluster(settings)
    prepare_environment(settings)
    with open_session(settings):
        return _agree(fingerprint(CHECKOUT), _ask_all(settings, deadline_s))


def fingerprint(checkout: Path) -> str:
    """Twelve digits that stand for all Python files of the rooms."""
    digest = hashlib.sha256()
    for file in sorted(file for room in ROOMS for file in (checkout / room).rglob("*.py")):
        digest.update(file.relative_to(checkout).as_posix().encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()[:12]


def look(settings: Settings, report: NodeReport) -> NodeReport:
    """Runs on the node: what it has and how it answers."""
    report = replace(report, host=os.uname().nodename, code=fingerprint(CHECKOUT))
    wrong = [name for name in NEEDED if os.environ.get(name) != node_environment(settings).get(name)]
    if wrong:
        remedy = 'start Ray there after: eval "$(earshot cluster environment)"'
        return replace(report, fault=f"started without {', '.join(wrong)}", remedy=remedy)
    try:
        card = find_tagger(replace(settings.places(), starter=None)).card
    except EarshotError as error:
        remedy = "name a shared store in EARSHOT_WEIGHTS, or on that node: earshot weights fetch yamnet"
        return replace(report, fault=f"no weights: {_first_line(error)}", remedy=remedy)
    report = replace(report, weights_sha256=card.weights_sha256)
    return _ask_proxy(settings, report) if report.has_proxy else report


def _ask_proxy(settings: Settings, report: NodeReport) -> NodeReport:
    """One request to the node's own proxy, whose answer must come from the weights that the node has."""
    import httpx

    keys = [key.get_secret_value() for key in settings.api_keys]
    headers = {"Content-Type": "audio/wav"} | ({"Authorization": f"Bearer {keys[0]}"} if keys else {})
    began_s = time.perf_counter()
    try:
        url = f"{settings.url}/v1/classify?second_opinion=never"
        answer = httpx.post(url, content=a_tone(), headers=headers, timeout=REQUEST_S, trust_env=False)
    except httpx.HTTPError as error:
        fault = f"its proxy does not answer at {settings.url} ({type(error).__name__})"
        return replace(report, fault=fault, remedy="earshot cluster deploy; then: serve status")
    if answer.status_code != 200:
        remedy = "EARSHOT_API_KEYS=KEY, as at the deployment" if answer.status_code == 401 else "serve status"
        return replace(report, fault=f"its proxy answers {answer.status_code}: {answer.text[:200]}", remedy=remedy)
    report = replace(report, answer_ms=(time.perf_counter() - began_s) * 1000)
    served = answer.json()["model"]["weights_sha256"]
    if served != report.weights_sha256:
        fault = f"it has the weights {report.weights_sha256[:12]}, and the service answers with {served[:12]}"
        return replace(report, fault=fault, remedy="the same EARSHOT_WEIGHTS here and at the deployment; then deploy")
    return report


def a_tone(hz: float = 440.0, seconds: float = 1.0, rate_hz: int = 16_000) -> bytes:
    """A tone as a WAV file."""
    samples = (int(8000 * math.sin(2 * math.pi * hz * n / rate_hz)) for n in range(int(seconds * rate_hz)))
    stream = io.BytesIO()
    with wave.open(stream, "wb") as sound:
        sound.setparams((1, 2, rate_hz, 0, "NONE", ""))
        sound.writeframes(b"".join(struct.pack("<h", sample) for sample in samples))
    return stream.getvalue()


def _ask_all(settings: Settings, deadline_s: float) -> list[NodeReport]:
    """A task on every live node; what has not come back by the deadline is a fault of its own."""
    import ray
    from ray import serve
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    for name in ("ray", "ray.serve"):
        logging.getLogger(name).setLevel(logging.ERROR)
    nodes = sorted((node for node in ray.nodes() if node["Alive"]), key=_head_first)
    proxies = set(serve.status().proxies)
    reports = [
        NodeReport(node["NodeID"], node["NodeManagerAddress"], not proxies or node["NodeID"] in proxies)
        for node in nodes
    ]
    task = ray.remote(num_cpus=0, max_retries=0)(look)
    asked: dict[Any, NodeReport] = {}
    for report in reports:
        there = NodeAffinitySchedulingStrategy(report.node_id, soft=False)
        asked[task.options(scheduling_strategy=there).remote(settings, report)] = report
    answered, silent = ray.wait(list(asked), num_returns=len(asked), timeout=deadline_s)
    found = {asked[ref].node_id: _fetch(ref, asked[ref]) for ref in answered}
    for ref in silent:
        ray.cancel(ref, force=True)
        remedy = f"look at that host (load, disk, network): ssh {asked[ref].address}"
        found[asked[ref].node_id] = replace(asked[ref], fault=f"no answer within {deadline_s:g} s", remedy=remedy)
    return [found[report.node_id] for report in reports]


def _head_first(node: dict[str, Any]) -> tuple[bool, str]:
    return "node:__internal_head__" not in node["Resources"], node["NodeManagerAddress"]


def _fetch(ref: Any, report: NodeReport) -> NodeReport:
    """What came back: the node's report, or why there is none."""
    import ray

    try:
        return ray.get(ref)  # type: ignore[no-any-return]
    except Exception as error:
        if "ModuleNotFoundError" in str(error) or "ImportError" in str(error):
            remedy = "the packages there are others: on that node, make -C ~/earshot .venv/.core"
            return replace(report, fault=f"does not import the code: {_last_line(error)}", remedy=remedy)
        return replace(report, fault=_last_line(error), remedy=f"see /tmp/ray/session_latest/logs on {report.address}")


def _agree(expected: str, reports: Iterable[NodeReport]) -> list[NodeReport]:
    """The reports, where other code than ours, or other weights than most nodes have, is a fault."""
    reports = list(reports)
    most = Counter(report.weights_sha256 for report in reports if report.weights_sha256).most_common(1)
    checked = []
    for report in reports:
        if not report.fault and report.code != expected:
            fault = f"its code is {report.code}, this checkout's is {expected}"
            report = replace(report, fault=fault, remedy="ray up again, or unset PYTHONPATH on that node")
        elif not report.fault and report.weights_sha256 != most[0][0]:
            fault = f"its weights are {report.weights_sha256[:12]}, those of most nodes {most[0][0][:12]}"
            report = replace(report, fault=fault, remedy="the same EARSHOT_WEIGHTS everywhere; empty that node's cache")
        checked.append(report)
    return checked


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0]


def _last_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[-1] if lines else type(error).__name__
