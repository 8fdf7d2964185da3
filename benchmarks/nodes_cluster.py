"""One size of benchmarks.nodes: a head and N nodes on this machine (`ray.cluster_utils.Cluster`), each with an address of loopback.

Real: the head's control plane, the scheduler, Serve's controller, HAProxy, the handing out of ports. Not real: the cores (all nodes share
this machine's), the network (loopback), the work (a stage here waits WAIT_S, one request at a time, so that the cores are not what is
measured). `python -m benchmarks.nodes_cluster N` prints its figures as JSON.
"""

import asyncio
import contextlib
import json
import logging
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import psutil

from benchmarks.load_client import run_closed, run_on_last_core, send
from benchmarks.process_tree import MIB, cpu_by_process_s, pss_by_process_mib, short_name, tree_of

WAIT_S = 0.05
TASKS = 1000
OBJECT_STORE_BYTES = 80 * MIB
CONNECTIONS_PER_NODE = 2
LOAD_S = 6.0
IDLE_S = 5.0
TIMEOUT_S = 120


def measure(size: int) -> dict[str, float]:
    """Figures of a head and so many nodes, in this process (which imports ray here, after its environment is set)."""
    folder = tempfile.mkdtemp(prefix="en-")  # short: Ray's socket paths have at most 107 bytes
    os.environ |= {"RAY_TMPDIR": folder, "SERVE_SOCKET_REUSE_PORT_ENABLED": "1"}  # HAProxies may share a port
    from cluster.session import prepare_environment
    from cluster.settings import Settings

    prepare_environment(Settings())
    try:
        with _started(size) as figures:
            return figures | _schedule(size) | _serve(size, "HeadOnly") | _serve(size, "EveryNode")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _started(size: int) -> Iterator[dict[str, float]]:
    import ray
    from ray.cluster_utils import Cluster

    def node(number: int, cpus: int) -> dict[str, Any]:
        address = f"127.0.0.{number + 2}"
        return {
            "node_ip_address": address,
            "num_cpus": cpus,
            "object_store_memory": OBJECT_STORE_BYTES,
            "include_dashboard": False,
        }

    me = psutil.Process()
    cluster = Cluster(initialize_head=True, head_node_args=node(0, 0))
    ray.init(
        cluster.address,
        namespace="earshot",
        _node_ip_address="127.0.0.2",
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    head_mib, began_s = _memory_mib(me), time.perf_counter()
    for number in range(size):
        cluster.add_node(wait=False, **node(number + 1, 1))
    cluster.wait_for_nodes(TIMEOUT_S)
    nodes_s = time.perf_counter() - began_s
    _wait_for_workers(me, size)
    node_mib = (_memory_mib(me) - head_mib) / size
    try:
        yield {"nodes": size, "nodes_s": nodes_s, "head_mib": head_mib, "node_mib": node_mib}
    finally:
        ray.shutdown()
        cluster.shutdown()


def _wait_for_workers(me: psutil.Process, size: int) -> None:
    """Returns when every node has its first worker process, started ahead: they are part of a node's memory."""
    deadline_s = time.monotonic() + 30
    while sum(short_name(p).startswith("ray::IDLE") for p in tree_of(me)) < size and time.monotonic() < deadline_s:
        time.sleep(0.2)


def _memory_mib(process: psutil.Process) -> float:
    return sum(pss_by_process_mib(process).values())


def _schedule(size: int) -> dict[str, float]:
    """Seconds for TASKS empty tasks and for `size` actors, spread over the nodes; and over how many nodes they were spread."""
    import ray

    @ray.remote(num_cpus=1, scheduling_strategy="SPREAD")  # type: ignore[untyped-decorator]
    def where() -> str:
        return str(ray.get_runtime_context().get_node_id())

    @ray.remote(num_cpus=0.1, scheduling_strategy="SPREAD")
    class Actor:
        def where(self) -> str:
            return str(ray.get_runtime_context().get_node_id())

    while len(set(ray.get([where.remote() for _ in range(4 * size)]))) < size:
        pass
    began_s = time.perf_counter()
    task_nodes = set(ray.get([where.remote() for _ in range(TASKS)]))
    tasks_s = time.perf_counter() - began_s
    began_s = time.perf_counter()
    actors = [Actor.remote() for _ in range(size)]  # type: ignore[attr-defined]
    actor_nodes = set(ray.get([actor.where.remote() for actor in actors]))
    actors_s = time.perf_counter() - began_s
    for actor in actors:
        ray.kill(actor)
    return {
        "tasks_s": tasks_s,
        "task_nodes": len(task_nodes),
        "actors_s": actors_s,
        "actor_nodes": len(actor_nodes),
    }


def _serve(size: int, mode: str) -> dict[str, float]:
    """An application with one waiting replica a node: seconds until all answer, then load, then rest."""
    from ray import serve
    from ray.serve.config import HTTPOptions

    from cluster.session import free_port

    @serve.deployment(
        num_replicas=size,
        max_replicas_per_node=1,
        max_ongoing_requests=1000,
        ray_actor_options={"num_cpus": 0.5},
        logging_config={"enable_access_log": False},
    )
    class Wait:
        def __init__(self) -> None:
            import ray

            self._turn = asyncio.Lock()
            self._node = str(ray.get_runtime_context().get_node_id())

        async def __call__(self, _: object) -> str:
            async with self._turn:
                await asyncio.sleep(WAIT_S)
            return self._node

    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    port, me = free_port(), psutil.Process()
    request = f"GET / HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode()
    began_s = time.perf_counter()
    serve.start(proxy_location=mode, http_options=HTTPOptions(host="127.0.0.1", port=port))
    serve.run(Wait.bind(), name="wait", route_prefix="/")  # type: ignore[attr-defined]
    _wait_until_all_answer(port, request, size)
    deploy_s = time.perf_counter() - began_s
    connections = CONNECTIONS_PER_NODE * size
    run_on_last_core(run_closed(port, [request], connections, 2.0))
    before, load_began_s = _control_cpu_s(me), time.perf_counter()
    load = run_on_last_core(run_closed(port, [request], connections, LOAD_S))
    busy, busy_s = _control_cpu_s(me), time.perf_counter() - load_began_s
    time.sleep(IDLE_S)
    rest = _control_cpu_s(me)
    figures = {
        "deploy_s": deploy_s,
        "rate": load.rate,
        "p50_ms": load.quantile_ms(0.5),
        "p99_ms": load.quantile_ms(0.99),
        "refused": sum(load.statuses.values()) - load.statuses[200],
        "controller_busy": (busy["controller"] - before["controller"]) / busy_s,
        "controller_idle": (rest["controller"] - busy["controller"]) / IDLE_S,
        "gcs_idle": (rest["gcs"] - busy["gcs"]) / IDLE_S,
        "tree_idle": (rest["all"] - busy["all"]) / IDLE_S,
        "controller_mib": _controller_mib(me),
        "total_mib": _memory_mib(me),
    }
    serve.shutdown()
    return {f"{mode}.{name}": value for name, value in figures.items()}


def _wait_until_all_answer(port: int, request: bytes, size: int) -> None:
    """Returns when `size` different nodes have answered, each burst over new connections. Raises TimeoutError."""

    async def ask() -> str:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            status, body = await send(reader, writer, request)
            writer.close()
        except (OSError, asyncio.IncompleteReadError):
            return ""
        return body.decode() if status == 200 else ""

    async def burst() -> list[str]:
        return await asyncio.gather(*(ask() for _ in range(4 * size)))

    seen: set[str] = set()
    deadline_s = time.monotonic() + TIMEOUT_S
    while len(seen) < size:
        if time.monotonic() > deadline_s:
            raise TimeoutError(f"{len(seen)} of {size} replicas answered within {TIMEOUT_S} s")
        seen |= set(run_on_last_core(burst())) - {""}


def _control_cpu_s(me: psutil.Process) -> dict[str, float]:
    """CPU seconds so far of Serve's controller, of the GCS, and of everything but this process."""
    by_name = {"controller": 0.0, "gcs": 0.0, "all": 0.0}
    for process, seconds in cpu_by_process_s(me).items():
        name = short_name(process)
        by_name["controller"] += seconds if name.startswith("ray::ServeController") else 0.0
        by_name["gcs"] += seconds if name == "gcs_server" else 0.0
        by_name["all"] += seconds if process != me else 0.0
    return by_name


def _controller_mib(me: psutil.Process) -> float:
    memory = pss_by_process_mib(me).items()
    return sum(mib for process, mib in memory if short_name(process).startswith("ray::ServeController"))


if __name__ == "__main__":
    print(json.dumps(measure(int(sys.argv[1]))))
