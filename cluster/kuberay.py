"""Puts serve/earshot.yaml into cluster/kuberay.yaml, which must hold it as text.

`python -m cluster.kuberay` does it anew after a change. In a pod the service listens on the pod's address (the network policy says who
reaches it), and the weights are the mounted volume.
"""

import textwrap
from pathlib import Path

import yaml

from cluster.session import CHECKOUT

KUBERAY = CHECKOUT / "cluster" / "kuberay.yaml"
SHIPPED = CHECKOUT / "serve" / "earshot.yaml"
BEGIN, END = "  serveConfigV2: |\n", "  rayClusterConfig:\n"
WEIGHTS = "/weights"


def serve_config(shipped: Path = SHIPPED) -> str:
    """The shipped Serve config as a pod runs it."""
    config = yaml.safe_load(shipped.read_text())
    config["http_options"]["host"] = "0.0.0.0"  # noqa: S104
    for application in config["applications"]:
        application["args"]["weights_folder"] = WEIGHTS
    text: str = yaml.safe_dump(config, sort_keys=False, width=120)
    return text


def embed(manifest: str, config: str) -> str:
    """The manifest with the config in its place."""
    before, _, rest = manifest.partition(BEGIN)
    _, _, after = rest.partition(END)
    return before + BEGIN + textwrap.indent(config, "    ") + END + after


if __name__ == "__main__":
    KUBERAY.write_text(embed(KUBERAY.read_text(), serve_config()))
