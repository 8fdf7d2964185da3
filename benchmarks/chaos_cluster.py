"""The service on a cluster of a head and one more node (`ray.cluster_utils`), for the fault that takes a node away.

Api's replicas stay on the head, as in a cluster whose ingress is one machine; of each inner stage one replica is on either node.
`python -m benchmarks.chaos_cluster --port P --weights FOLDER --head FOLDER` serves until SIGTERM.
"""

import argparse
import logging
import os
import shutil
import tempfile
import threading
from pathlib import Path
from typing import Any

from cluster.processes import listen_for_signals, stop_children
from cluster.session import prepare_environment
from cluster.settings import MIB, Settings

HEAD_ADDRESS, NODE_ADDRESS = "127.0.0.2", "127.0.0.3"
REPLICAS = 2


def main() -> None:
    """Serves until it is told to stop."""
    parser = argparse.ArgumentParser(prog="benchmarks.chaos_cluster", description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--head", type=Path, required=True)
    args = parser.parse_args()
    settings = Settings(port=args.port, weights_path=args.weights, head=args.head, placement="separate", ui=False)
    folder = tempfile.mkdtemp(prefix="ec-")  # short: Ray's socket paths have at most 107 bytes
    os.environ["RAY_TMPDIR"] = folder
    prepare_environment(settings)
    stop = threading.Event()
    try:
        serve_until(stop, settings)
    finally:
        stop_children()
        shutil.rmtree(folder, ignore_errors=True)


def serve_until(stop: threading.Event, settings: Settings) -> None:
    """Starts the nodes and the service, and ends them when the event is set."""
    import ray
    from ray import serve
    from ray.cluster_utils import Cluster
    from ray.serve.config import HTTPOptions

    from models.bundle import load_bundle
    from serve.app import APP_NAME, build
    from serve.run import QUIET, service_args
    from serve.schemas import StageScaling

    cluster = Cluster(initialize_head=True, head_node_args=_node(HEAD_ADDRESS, num_gpus=REPLICAS))
    cluster.add_node(**_node(NODE_ADDRESS))
    ray.init(
        cluster.address, _node_ip_address=HEAD_ADDRESS, namespace="earshot", log_to_driver=False, logging_level="ERROR"
    )
    listen_for_signals(stop)
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    assert settings.weights_path is not None
    assert settings.head is not None
    stage = StageScaling(replicas=REPLICAS, num_cpus=0.5)
    scaling = dict.fromkeys(("spectrogram", "yamnet", "vggish_head"), stage)
    scaling["api"] = stage.model_copy(update={"num_gpus": 1})  # which only the head claims to have
    service = service_args(settings, load_bundle(settings.weights_path), load_bundle(settings.head))
    serve.start(http_options=HTTPOptions(host=settings.host, port=settings.port), logging_config=QUIET)
    serve.run(build(service.model_copy(update=scaling)), name=APP_NAME, route_prefix="/", logging_config=QUIET)
    stop.wait()
    serve.shutdown()
    ray.shutdown()
    cluster.shutdown()


def _node(address: str, **more: Any) -> dict[str, Any]:
    return {
        "node_ip_address": address,
        "num_cpus": 6,
        "object_store_memory": 100 * MIB,
        "include_dashboard": False,
        **more,
    }


if __name__ == "__main__":
    main()
