"""cluster/onprem.yaml as Ray reads it: it is valid, and `ray up` would run on a host what it should."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import CHECKOUT
from tests.unit.test_floors import FLOORS

HEAD = "192.0.2.10"
READ_ME = (CHECKOUT / "cluster" / "onprem.yaml").read_text()


class Recorder:
    """Stands where Ray has `subprocess`: keeps the commands."""

    def __init__(self) -> None:
        self.commands: list[list[str]] = []

    def check_call(self, command: list[str], *_: object, **__: object) -> None:
        self.commands.append(command)

    def on_host(self) -> list[str]:
        """What ssh would have run there, without Ray's own wrapping."""
        lines = [command[-1] for command in self.commands if command[0] == "ssh"]
        return [re.sub(r"^.*PYTHONWARNINGS=ignore && \((.*)\)'$", r"\1", line, flags=re.DOTALL) for line in lines]

    def copied(self) -> dict[str, str]:
        """Remote path -> local path of every rsync."""
        pairs = [command[-2:] for command in self.commands if command[0] == "rsync"]
        return {target.split(":", 1)[1]: source for source, target in pairs}


@pytest.fixture
def config(tmp_path: Path) -> dict[str, Any]:
    """The file with a key and a token that exist."""
    loaded: dict[str, Any] = yaml.safe_load(READ_ME)
    for name in ("key", "token"):
        (tmp_path / name).write_text(name)
    loaded["auth"]["ssh_private_key"] = str(tmp_path / "key")
    loaded["file_mounts"]["~/.ray/auth_token"] = str(tmp_path / "token")
    return loaded


@pytest.fixture
def launched(config: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Recorder:
    """What `ray up` runs to set up the head."""
    monkeypatch.chdir(CHECKOUT)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.setenv("RAY_UP_enable_autoscaler_v2", "0")
    from ray.autoscaler._private.commands import get_or_create_head_node
    from ray.autoscaler._private.providers import _get_node_provider
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared = prepare_config(config)
    validate_config(prepared)
    provider = _get_node_provider(prepared["provider"], prepared["cluster_name"])
    recorder = Recorder()
    get_or_create_head_node(prepared, "onprem.yaml", False, False, True, None, _provider=provider, _runner=recorder)
    return recorder


def test_ray_accepts_the_file_and_keeps_every_worker(config: dict[str, Any]) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared = prepare_config(config)
    validate_config(prepared)
    (node_type,) = prepared["available_node_types"].values()
    assert (node_type["min_workers"], node_type["max_workers"]) == (2, 2)


def test_ray_starts_with_the_token_the_environment_and_a_dashboard_on_loopback(launched: Recorder) -> None:
    start = launched.on_host()[-1]
    assert 'eval "$(earshot cluster environment)"; RAY_AUTH_MODE=token ray start --head' in start
    assert "--dashboard-host=127.0.0.1" in start
    assert "--node-ip-address=$(set -- $SSH_CONNECTION; echo $3)" in start


def test_workers_start_as_the_head_does_and_find_it(config: dict[str, Any]) -> None:
    stop, start, watch = config["worker_start_ray_commands"]
    assert (stop, watch) == ("ray stop", "~/earshot/cluster/nodes_end.sh")
    assert 'eval "$(earshot cluster environment)"; RAY_AUTH_MODE=token ray start --address=$RAY_HEAD_IP:6379' in start


def test_setup_installs_the_pins_before_ray_is_called(launched: Recorder) -> None:
    commands = launched.on_host()
    setup = commands.index("make -C ~/earshot .venv/.core")
    assert setup < next(n for n, command in enumerate(commands) if command.endswith("ray stop"))
    core = (CHECKOUT / "Makefile").read_text().split(".venv/.core:")[1].split("\n\n")[0]
    assert "constraints.txt" in core
    assert re.search(r"^ray==2\.\d+\.\d+$", (CHECKOUT / "constraints.txt").read_text(), re.MULTILINE)
    assert not [command for command in commands if "nightly" in command or ".whl" in command]


def test_every_room_is_shipped_and_nothing_that_is_built(launched: Recorder) -> None:
    copied = launched.copied()
    rooms = {room for room in FLOORS if (CHECKOUT / room).is_dir()}
    assert {f"~/earshot/{room}/" for room in rooms} <= set(copied)
    named = re.findall(r'(?:readme = |license-files = \[)"([^"]+)"', (CHECKOUT / "pyproject.toml").read_text())
    files = {"earshot.py", "Makefile", "pyproject.toml", "constraints.txt", *named}
    assert {f"~/earshot/{name}" for name in files} <= set(copied)
    assert not [path for path in copied if re.search(r"\.venv|\.git|build|tests", path)]
    assert all(command[4:6] == ["--exclude", "__pycache__"] for command in launched.commands if command[0] == "rsync")


def test_the_token_goes_along_and_is_the_users_alone(launched: Recorder) -> None:
    assert "~/.ray/auth_token" in launched.copied()
    assert "chmod 600 ~/.ray/auth_token" in launched.on_host()


def test_a_host_is_reached_as_the_file_says(launched: Recorder) -> None:
    for command in launched.commands:
        target = next(word for word in command if word.startswith("earshot@"))
        assert target.split(":")[0] == f"earshot@{HEAD}"


def test_what_to_edit_is_marked() -> None:
    edited = [line.split(":")[0].strip() for line in READ_ME.splitlines() if "# EDIT" in line]
    assert edited == ["head_ip", "worker_ips", "ssh_user", "ssh_private_key"]
