"""What `ray up` would make of cluster/gcp.yaml, and what cluster/gcp-account.sh asks of gcloud.

There is no stand-in for Google: Ray's merge, its schema and our provider run for real; whether Google accepts the machines is not tested.
"""

import os
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.commands import _bootstrap_config
from ray.autoscaler.node_provider import NodeProvider

from tests.conftest import CHECKOUT
from tests.unit.test_launch_files import CLUSTER, faults

ADDRESS = "203.0.113.7/32"
Config = dict[str, Any]

GCLOUD = """#!/bin/sh
echo "$*" >> "$GCLOUD_LOG"
case "$*" in *describe-from-family*) echo "https://www.googleapis.com/compute/v1/projects/p/global/images/$6-v1" ;; esac
"""


def run_account_script(folder: Path, address: str) -> tuple["subprocess.CompletedProcess[str]", list[str]]:
    """cluster/gcp-account.sh with a gcloud that only notes what it is asked."""
    (folder / "gcloud").write_text(GCLOUD)
    (folder / "gcloud").chmod(0o755)
    (folder / "gcp.yaml").write_text((CLUSTER / "gcp.yaml").read_text())
    log = folder / "asked"
    log.touch()
    environment = {
        "PATH": f"{folder}:{os.environ['PATH']}",
        "GCLOUD_LOG": str(log),
        "EARSHOT_GCP_CONFIG": str(folder / "gcp.yaml"),
    }
    command = [CLUSTER / "gcp-account.sh", "up", "my-project", address, "ears-of-mine"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    return done, log.read_text().splitlines()


def test_google_lets_in_one_address_and_the_nodes_themselves(tmp_path: Path) -> None:
    done, asked = run_account_script(tmp_path, ADDRESS)
    assert done.returncode == 0, done.stderr
    walls = [line.partition("firewall-rules create ")[2] for line in asked if "firewall-rules create" in line]
    assert [wall.split()[0] for wall in walls] == ["earshot-ssh", "earshot-nodes"]
    assert walls[0].endswith(f"--allow tcp:22 --source-ranges {ADDRESS}")
    assert walls[1].endswith("--allow all --source-tags earshot")
    assert not any("0.0.0.0/0" in line for line in asked)


def test_googles_accounts_may_do_what_they_need(tmp_path: Path) -> None:
    _, asked = run_account_script(tmp_path, ADDRESS)
    bindings = [line for line in asked if "add-iam-policy-binding" in line]
    of_project = [line for line in bindings if "projects add-iam-policy-binding" in line]
    assert [line.split("--role ")[1] for line in of_project] == ["projects/my-project/roles/earshotHead"]
    assert {line.split("--role ")[1] for line in bindings if line not in of_project} == {
        "roles/storage.objectViewer",
        "roles/iam.serviceAccountUser",
    }
    (permissions,) = [line.split("--permissions ")[1].split(",") for line in asked if "iam roles create" in line]
    assert {permission.rsplit(".", 1)[0] for permission in permissions} == {
        "compute.instances",
        "compute.disks",
        "compute.subnetworks",
        "compute.zoneOperations",
    }
    assert not any(word in permission for permission in permissions for word in ("*", "setIamPolicy", "images"))


@pytest.mark.parametrize("address", ["0.0.0.0/0", "203.0.113.7", "10.0.0.0/8"])
def test_googles_script_refuses_a_wide_address_before_it_asks_anything(tmp_path: Path, address: str) -> None:
    done, asked = run_account_script(tmp_path, address)
    assert done.returncode == 2
    assert "203.0.113.7/32" in done.stderr
    assert asked == []


@pytest.fixture
def google(monkeypatch: pytest.MonkeyPatch) -> None:
    """Google's client where it is installed; else Ray's base class in the place of Ray's provider for Google, which needs it."""
    try:
        import googleapiclient  # noqa: F401
    except ImportError:
        module = types.ModuleType("ray.autoscaler._private.gcp.node_provider")
        module.GCPNodeProvider = NodeProvider  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, module.__name__, module)
        monkeypatch.delitem(sys.modules, "cluster.gcp_provider", raising=False)


def bootstrap_google(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.chdir(CHECKOUT)
    config: Config = yaml.safe_load((folder / "gcp.yaml").read_text())
    return dict(_bootstrap_config(config, no_config_cache=True))


def test_every_machine_of_googles_has_our_account_our_network_and_your_key_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, google: None
) -> None:
    run_account_script(tmp_path, ADDRESS)
    (tmp_path / ".ssh").mkdir()
    (tmp_path / ".ssh" / "earshot.pub").write_text("ssh-ed25519 AAAAkey me@desk\n")
    merged = bootstrap_google(tmp_path, monkeypatch)
    assert faults(merged) == set()
    assert merged.get("head_node", {}) == {}  # where Ray puts its own account
    for name, node_type in merged["available_node_types"].items():
        machine = node_type["node_config"]
        (served_as,) = machine["serviceAccounts"]
        role = "head" if name == "head" else "worker"
        assert served_as["email"] == f"earshot-{role}@my-project.iam.gserviceaccount.com"
        assert not any("cloud-platform" in scope for scope in served_as["scopes"])
        assert {i["subnetwork"] for i in machine["networkInterfaces"]} == {
            "projects/my-project/regions/us-west1/subnetworks/earshot"
        }
        assert machine["tags"] == {"items": ["earshot"]}
        assert {item["key"]: item["value"] for item in machine["metadata"]["items"]} == {
            "ssh-keys": "earshot:ssh-ed25519 AAAAkey earshot",
            "block-project-ssh-keys": "TRUE",
        }
        (disk,) = machine["disks"]
        assert "/images/" in disk["initializeParams"]["sourceImage"]
        assert "/family/" not in disk["initializeParams"]["sourceImage"]


def test_googles_file_says_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, google: None) -> None:
    (tmp_path / "gcp.yaml").write_text((CLUSTER / "gcp.yaml").read_text())
    with pytest.raises(ValueError, match=r"gcp-account\.sh"):
        bootstrap_google(tmp_path, monkeypatch)
    run_account_script(tmp_path, ADDRESS)
    with pytest.raises(ValueError, match="ssh-keygen -t ed25519 -f"):
        bootstrap_google(tmp_path, monkeypatch)
