"""Google's machines for `ray up`, without what Ray does to a project by itself.

Ray's own start-up makes a service account that may do anything with machines and buckets of the project, binds those roles, and puts an ssh
key on every machine of the project; none of that can be switched off in its file. Here cluster/gcp.yaml names accounts and network of its
own (cluster/gcp-account.sh makes them), and this provider adds one thing: your ssh key, on this cluster's machines only.
"""

import copy
from pathlib import Path
from typing import Any

from ray.autoscaler._private.gcp.node_provider import GCPNodeProvider

PLACEHOLDER = "EDIT-"


class Machines(GCPNodeProvider):  # type: ignore[misc]
    """Ray's provider for Google Compute Engine, started with what the file says and nothing else."""

    @staticmethod
    def bootstrap_config(cluster_config: dict[str, Any]) -> dict[str, Any]:
        """The merged file -> the same with the ssh key on each machine. Raises ValueError where the file leaves a default to Google."""
        config = copy.deepcopy(cluster_config)
        if PLACEHOLDER in str(config):
            raise ValueError(
                "cluster/gcp.yaml still has EDIT- in it: cluster/gcp-account.sh makes the accounts and fills it in"
            )
        public_key = _public_key(config["auth"])
        for name, node_type in config["available_node_types"].items():
            machine = node_type["node_config"]
            for needed in ("serviceAccounts", "networkInterfaces"):
                if not machine.get(needed):
                    raise ValueError(
                        f"cluster/gcp.yaml: node type {name} needs {needed}; Google's default may do too much"
                    )
            items = machine.setdefault("metadata", {}).setdefault("items", [])
            items += [
                {"key": "ssh-keys", "value": f"{config['auth']['ssh_user']}:{public_key}"},
                {"key": "block-project-ssh-keys", "value": "TRUE"},
            ]
        return config


def _public_key(auth: dict[str, str]) -> str:
    path = Path(auth["ssh_private_key"] + ".pub").expanduser()
    try:
        kind, key = path.read_text().split()[:2]
    except (OSError, ValueError) as error:
        raise ValueError(f"no public key in {path}: ssh-keygen -t ed25519 -f {auth['ssh_private_key']}") from error
    return f"{kind} {key} {auth['ssh_user']}"
