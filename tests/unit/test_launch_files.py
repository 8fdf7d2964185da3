"""The files for `ray up`, as Ray's own code merges and validates them, without launching anything.

What Ray's defaults for the clouds do (dashboard on every interface, no token, nightly wheels) is looked for by the same function
that must find nothing in ours.
"""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.util import fillout_defaults, prepare_config, validate_config

from tests.conftest import CHECKOUT

CLUSTER = CHECKOUT / "cluster"
FILES = ("onprem.yaml", "aws.yaml", "gcp.yaml")
CLOUDS = ("aws.yaml", "gcp.yaml")
COMMANDS = (
    "initialization_commands",
    "setup_commands",
    "head_setup_commands",
    "worker_setup_commands",
    "head_start_ray_commands",
    "worker_start_ray_commands",
)
SCRIPTS = ("up.sh", "setup_node.sh", "gcp-account.sh", "testbed.sh")
ROOMS = {"models", "cluster", "pipelines", "serve", "tune", "ui"}


def load(name: str) -> dict[str, Any]:
    config: dict[str, Any] = yaml.safe_load((CLUSTER / name).read_text())
    return config


def commands(config: dict[str, Any]) -> list[str]:
    """Every shell command that a merged config makes a node run."""
    of_types = [node_type.get(key, []) for node_type in config["available_node_types"].values() for key in COMMANDS]
    return [command for group in [*(config.get(key, []) for key in COMMANDS), *of_types] for command in group]


def faults(config: dict[str, Any]) -> set[str]:
    """What is unsafe in the commands of a merged config."""
    found = set()
    starts = [c for key in COMMANDS[-2:] for c in config[key] if "ray start" in c]
    for start in starts:
        before, _, after = start.partition("ray start")
        if 'eval "$(earshot cluster environment)"' not in before and "RAY_AUTH_MODE=token" not in before:
            found.add("no token")
        if not re.search(r"--port=6379\b|--address=\$RAY_HEAD_IP:6379\b", after):
            found.add("another port")
        if "--head" in after and "--dashboard-host=127.0.0.1" not in after.split():
            found.add("dashboard open")
    for command in commands(config):
        if re.search(r"nightly|/latest/|\.whl|install -U|--upgrade", command):
            found.add("unpinned Ray")
        if re.search(r"\b(curl|wget)\b", command):
            found.add("runs what it downloads")
    if "~/.ray/auth_token" not in config.get("file_mounts", {}):
        found.add("no token file")
    return found


@pytest.mark.parametrize("name", FILES)
def test_ray_takes_the_file_and_nothing_in_it_is_unsafe(name: str) -> None:
    merged = prepare_config(load(name))
    validate_config(merged)
    assert faults(merged) == set()


@pytest.mark.parametrize("provider", ["aws", "gcp"])
def test_the_faults_of_rays_own_defaults_are_seen(provider: str) -> None:
    merged = fillout_defaults({"cluster_name": "default", "provider": {"type": provider}})
    assert faults(merged) == {"no token", "dashboard open", "unpinned Ray", "no token file"}


@pytest.mark.parametrize("name", CLOUDS)
def test_a_cloud_cluster_has_bounds_and_its_helpers_are_spot_machines(name: str) -> None:
    merged = prepare_config(load(name))
    types = merged["available_node_types"]
    assert {name: (t["min_workers"], t["max_workers"]) for name, t in types.items()} == {
        "head": (0, 0),
        "cpu": (1, 10),
        "gpu": (0, 2),
    }
    assert merged["max_workers"] == 12
    assert merged["idle_timeout_minutes"] > 0
    assert merged["provider"]["cache_stopped_nodes"] is False
    assert types["head"]["resources"] == {"CPU": 0}
    spot = {name: "spot" in str(t["node_config"]).lower() for name, t in types.items()}
    assert spot == {"head": False, "cpu": True, "gpu": True}


@pytest.mark.parametrize("name", CLOUDS)
def test_no_default_of_ray_comes_into_a_cloud_file(name: str) -> None:
    defaults = fillout_defaults({"cluster_name": "default", "provider": {"type": name.removesuffix(".yaml")}})
    assert set(load(name)) >= set(defaults) - {"head_node", "worker_nodes"}


@pytest.mark.parametrize("name", FILES)
def test_the_code_and_the_pins_are_shipped_and_no_more(name: str) -> None:
    mounts = load(name)["file_mounts"]
    shipped = {
        target.removeprefix("~/earshot/"): source for target, source in mounts.items() if "auth_token" not in target
    }
    assert all(target == source for target, source in shipped.items())
    files = {"earshot.py", "Makefile", "pyproject.toml", "constraints.txt", "README.md", "LICENSE"}
    assert set(shipped) == ROOMS | files
    assert all((CHECKOUT / source).exists() for source in shipped.values())
    assert mounts["~/.ray/auth_token"] == "~/.ray/auth_token"
    assert not [path for source in shipped for path in (CHECKOUT / source).rglob("auth_token")]


def test_every_launch_file_ships_the_same() -> None:
    assert load("aws.yaml")["file_mounts"] == load("gcp.yaml")["file_mounts"] == load("onprem.yaml")["file_mounts"]


@pytest.mark.parametrize("name", FILES)
def test_the_shell_can_read_every_command(name: str) -> None:
    for command in commands(prepare_config(load(name))):
        check_shell(command)


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_shell_can_read_every_script(script: str) -> None:
    assert (CLUSTER / script).stat().st_mode & 0o111
    check_shell((CLUSTER / script).read_text())


def check_shell(text: str) -> None:
    done = subprocess.run(["bash", "-n"], input=text, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{text}\n{done.stderr}"


def constraints() -> dict[str, str]:
    """Package -> version."""
    lines = (CHECKOUT / "constraints.txt").read_text().splitlines()
    pins = [line.split(";")[0].strip().partition("==") for line in lines if "==" in line]
    return {name: version for name, _, version in pins}


@pytest.mark.parametrize("name", CLOUDS)
def test_a_node_installs_pinned_versions_only(name: str) -> None:
    setups = [c for c in commands(prepare_config(load(name))) if "setup_node.sh" in c]
    assert len(setups) == 3  # head, cpu, gpu
    extras = [extra for command in setups for extra in command.partition("setup_node.sh")[2].split()]
    assert all(extra == "train" or "==" in extra or extra in constraints() for extra in extras)


def test_the_setup_of_a_node_is_that_of_the_checkout() -> None:
    script = (CLUSTER / "setup_node.sh").read_text()
    installs = [line for line in script.splitlines() if "pip install" in line]
    assert len(installs) == 2
    assert "uv==$uv_version" in installs[0]
    assert "-c constraints.txt" in installs[1]
    assert ".venv/.core" in script
    makefile = (CHECKOUT / "Makefile").read_text()
    assert "install --quiet -c constraints.txt --editable .\n" in makefile
    assert re.search(r"^UV_VERSION := [\d.]+$", makefile, re.MULTILINE)


def test_a_launch_file_that_nobody_has_filled_in_stops_the_setup(tmp_path: Path) -> None:
    done = subprocess.run(
        [CLUSTER / "setup_node.sh"],
        env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "EARSHOT_WEIGHTS": "s3://EDIT-BUCKET/weights"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "put the bucket's name there" in done.stderr
    assert not list(tmp_path.iterdir())


def note_calls(folder: Path, name: str, answer: str = "") -> None:
    """A command of that name that notes how it was called, and answers."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(
        f"#!/bin/sh\necho {name} $* key=$EARSHOT_API_KEYS >> $CALLS\ncat <<'END'\n{answer}\nEND\n"
    )
    (folder / name).chmod(0o755)


def run_up(folder: Path, *arguments: str) -> tuple["subprocess.CompletedProcess[str]", list[str]]:
    """cluster/up.sh with the commands in folder/bin instead of the real ones, and what they were called with."""
    environment = {
        "PATH": f"{folder / 'bin'}:{Path(sys.executable).parent}:/usr/bin:/bin",
        "HOME": str(folder),
        "EARSHOT_BIN": str(folder / "bin"),
        "CALLS": str(folder / "calls"),
    }
    command = [CLUSTER / "up.sh", *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    calls = folder / "calls"
    return done, calls.read_text().splitlines() if calls.exists() else []


@pytest.mark.parametrize(("name", "nodes"), [("aws.yaml", 2), ("gcp.yaml", 2), ("onprem.yaml", 3)])
def test_one_command_starts_deploys_and_checks(tmp_path: Path, name: str, nodes: int) -> None:
    note_calls(tmp_path / "bin", "ray")
    done, calls = run_up(tmp_path, f"cluster/{name}")
    assert done.returncode == 0, done.stderr
    key = f"{tmp_path}/.ray/earshot_api_key"
    assert [call.removesuffix(" key=") for call in calls] == [
        f"ray up -y --no-config-cache cluster/{name}",
        f"ray rsync-up cluster/{name} {key} ~/.ray/earshot_api_key",
        f"ray exec cluster/{name} bash ~/earshot/cluster/up.sh --on-head {nodes}",
    ]
    for secret in ("auth_token", "earshot_api_key"):
        path = tmp_path / ".ray" / secret
        assert re.fullmatch(r"[0-9a-f]{64}", path.read_text())
        assert path.stat().st_mode & 0o077 == 0
        path.write_text("kept")
    run_up(tmp_path, f"cluster/{name}")
    assert (tmp_path / ".ray" / "auth_token").read_text() == "kept"


def test_on_the_head_it_waits_for_the_nodes_then_deploys_with_the_key(tmp_path: Path) -> None:
    status = "Active:\n 1 head\n 1 cpu\nPending:\n 10.0.0.9: cpu, setting-up\n"
    note_calls(tmp_path / "bin", "ray", status)
    note_calls(tmp_path / "bin", "earshot")
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "earshot_api_key").write_text("the-key")
    done, calls = run_up(tmp_path, "--on-head", "2")
    assert done.returncode == 0, done.stderr
    assert calls == ["ray status key=", "earshot cluster deploy key=the-key", "earshot cluster check key=the-key"]


def test_a_launch_file_that_is_not_there_is_said(tmp_path: Path) -> None:
    done, calls = run_up(tmp_path, "cluster/azure.yaml")
    assert (done.returncode, calls) == (2, [])
    assert "cluster/aws.yaml" in done.stderr
