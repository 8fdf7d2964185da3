"""Runs the README: every command in it works as it stands, and every file it names exists."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from cluster.session import free_port
from tests.conftest import CHECKOUT, is_ready, wait_until

README = (CHECKOUT / "README.md").read_text()
BLOCKS = re.findall(r"```(sh|python)\n(.*?)```", README, re.DOTALL)
LINES = [line for kind, block in BLOCKS if kind == "sh" for line in block.splitlines()]
PYTHON = [block for kind, block in BLOCKS if kind == "python"]


@pytest.fixture(scope="module")
def environment(tone_tagger: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A user's environment: the virtual environment on the path, a model, a home of its own."""
    cache = tmp_path_factory.mktemp("cache")
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    own = {"EARSHOT_WEIGHTS_PATH": str(tone_tagger), "EARSHOT_CACHE": str(cache), "XDG_STATE_HOME": str(cache)}
    return os.environ | own | {"PATH": path}


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the README calls /tmp."""
    return tmp_path_factory.mktemp("scratch")


@pytest.fixture(scope="module")
def port(environment: dict[str, str]) -> Iterator[int]:
    """The service, started by the README's own first command."""
    number = free_port()
    command = [*LINES[0].split(), f"ARGS=--port {number}"]
    process = subprocess.Popen(command, cwd=CHECKOUT, env=environment, start_new_session=True)
    try:
        wait_until(lambda: is_ready(f"http://127.0.0.1:{number}"), 180)
        yield number
    finally:
        started = psutil.Process(process.pid).children(recursive=True)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal's Ctrl-C does
        process.wait(60)
        assert not psutil.wait_procs(started, timeout=20)[1]


def test_the_two_commands_come_first() -> None:
    assert LINES[:2] == ["make up", "make test"]
    subprocess.run(["make", "-n", "test"], cwd=CHECKOUT, check=True, capture_output=True)


@pytest.mark.parametrize("line", LINES[2:])
def test_a_command_runs_as_it_stands(line: str, port: int, environment: dict[str, str], scratch: Path) -> None:
    command = line.replace("127.0.0.1:8000", f"127.0.0.1:{port}").replace("curl ", "curl -sS --fail-with-body ")
    command = command.replace("/tmp/", f"{scratch}/")
    command = command.replace("earshot doctor", f"earshot doctor --port {port}")
    run = subprocess.run(
        ["bash", "-ec", command], cwd=CHECKOUT, env=environment, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.parametrize("program", PYTHON)
def test_a_program_runs_as_it_stands(program: str, port: int, environment: dict[str, str]) -> None:
    program = program.replace("127.0.0.1:8000", f"127.0.0.1:{port}")
    run = subprocess.run(
        [sys.executable, "-c", program], cwd=CHECKOUT, env=environment, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    assert len(run.stdout.splitlines()) >= 3


def test_every_file_it_names_exists() -> None:
    named = re.findall(r"\]\(([^)#:]+)\)", README) + re.findall(r"`([\w./-]+\.(?:py|yaml|md))`", README)
    assert len(named) >= 5
    for name in named:
        assert (CHECKOUT / name).exists(), name
