"""Faults under load, the short form of benchmarks/chaos.py: every request ends in exactly one outcome, one that its fault allows."""

import asyncio
import dataclasses
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from benchmarks.chaos import Plan, Result, find_complaints, watch
from benchmarks.chaos_client import Load, Sound, count_doubled, make_sounds
from benchmarks.chaos_faults import Fault, find, on_one_machine
from cluster.session import free_port
from serve.schemas import ServiceArgs, StageScaling
from tests.conftest import CHECKOUT, EARSHOT, Service, is_ready, run_up

DEADLINE_S = 12.0
PLAN = Plan(rate=10, calm_s=1, watch_s=2)
FAULTS = {fault.name: fault for fault in on_one_machine()}


@pytest.fixture(scope="module")
def sounds(tone_tagger: Path) -> list[Sound]:
    return make_sounds(tone_tagger)


@pytest.fixture(scope="module")
def separate(tmp_path_factory: pytest.TempPathFactory, tone_tagger: Path, tone_head: Path) -> Iterator[Service]:
    """Two replicas of each stage."""
    flags = ("--no-ui", "--placement", "separate", "--replicas", "2", "--weights", str(tone_tagger))
    folder = tmp_path_factory.mktemp("faults")
    with run_up(folder, *flags, "--head", str(tone_head), EARSHOT_DEADLINE_S=str(DEADLINE_S)) as running:
        yield running


def strike(service: Service, fault: Fault, sounds: list[Sound]) -> Result:
    """The fault under load; fails on what it does not allow. How fast the service is back, benchmarks.chaos measures."""
    fault = dataclasses.replace(fault, back_within_s=None)
    process = psutil.Process(service.process.pid)
    result = asyncio.run(watch(process, fault, service.url, sounds, PLAN, DEADLINE_S))
    result.doubled = count_doubled(service.log.parent / "access.jsonl")
    assert result.outcomes["200"], result
    assert find_complaints(result, fault) == []
    return result


@pytest.mark.parametrize("stage", ["Spectrogram", "Yamnet", "VggishHead"])
def test_a_killed_inner_replica_costs_no_request(separate: Service, sounds: list[Sound], stage: str) -> None:
    strike(separate, FAULTS[f"kill a replica of {stage}"], sounds)


def test_a_killed_ingress_replica_costs_at_most_the_requests_on_its_connections(
    separate: Service, sounds: list[Sound]
) -> None:
    strike(separate, FAULTS["kill a replica of Api"], sounds)


def test_a_stopped_inner_replica_is_replaced_and_its_requests_answered_by_another(
    separate: Service, sounds: list[Sound]
) -> None:
    strike(separate, FAULTS["stop a replica of Yamnet"], sounds)


def test_a_stopped_ingress_replica_is_replaced(separate: Service, sounds: list[Sound]) -> None:
    strike(separate, FAULTS["stop a replica of Api"], sounds)


@pytest.mark.parametrize("name", ["kill HAProxy", "kill the proxy actor", "kill the controller"])
def test_the_service_outlives_what_runs_it(separate: Service, sounds: list[Sound], name: str) -> None:
    strike(separate, FAULTS[name], sounds)


def test_more_than_fits_is_refused_with_when_to_come_back_and_what_was_taken_is_answered(
    separate: Service, sounds: list[Sound]
) -> None:
    async def overload() -> Load:
        """More and more, until one has been refused: how much fits depends on the machine."""
        async with Load(separate.url, sounds, rate=1000, deadline_s=DEADLINE_S) as load:
            while load.sent < 5000 and not any(outcome.what == "503" for outcome in load.outcomes):
                await asyncio.sleep(0.01)
        return load

    load = asyncio.run(overload())
    assert {outcome.what for outcome in load.outcomes} == {"200", "503"}
    assert len(load.outcomes) == load.sent
    assert count_doubled(separate.log.parent / "access.jsonl") == 0


def test_clients_that_hang_up_cost_the_others_nothing(separate: Service, sounds: list[Sound]) -> None:
    strike(separate, FAULTS["clients hang up"], sounds)


DEPLOY = """
import sys
from cluster.session import LOOPBACK, prepare_environment
from cluster.settings import Settings
prepare_environment(Settings())
import ray
from ray import serve
from serve.app import APP_NAME, build
from serve.schemas import ServiceArgs
ray.init(sys.argv[1], _node_ip_address=LOOPBACK, namespace="earshot", log_to_driver=False)
serve.run(build(ServiceArgs.model_validate_json(sys.argv[2])), name=APP_NAME, route_prefix="/")
"""


def deploy(service: Service, args: ServiceArgs) -> subprocess.CompletedProcess[str]:
    """Deploys over the running service, as `serve run serve.app:build` on its cluster does."""
    raylet = find(psutil.Process(service.process.pid), "raylet/raylet")[0]
    address = next(word.partition("=")[2] for word in raylet.cmdline() if word.startswith("--gcs-address="))
    return subprocess.run(
        [sys.executable, "-c", DEPLOY, address, args.model_dump_json()],
        cwd=CHECKOUT,
        env=os.environ | {"RAY_AUTH_MODE": "token"},
        capture_output=True,
        text=True,
        check=False,
        timeout=150,
    )


@pytest.mark.parametrize("broken", ["weights that are corrupt", "a device that no node has"])
def test_a_broken_version_leaves_the_working_one_serving(
    broken: str, separate: Service, sounds: list[Sound], tone_tagger: Path, tone_head: Path, tmp_path: Path
) -> None:
    stage = StageScaling(replicas=2, num_cpus=0)
    scaling = dict.fromkeys(("api", "spectrogram", "yamnet", "vggish_head"), stage)
    args = ServiceArgs(weights=tone_tagger, head=tone_head, download=False, **scaling)
    if broken == "weights that are corrupt":
        folder = shutil.copytree(tone_tagger, tmp_path / "corrupt")
        graph = next(folder.glob("*.onnx"))
        graph.write_bytes(graph.read_bytes()[:-100] + bytes(100))
        args.weights = folder
    else:
        args.device = "cuda"

    async def under_load() -> tuple[Load, subprocess.CompletedProcess[str]]:
        async with Load(separate.url, sounds, PLAN.rate, DEADLINE_S) as load:
            deployed = await asyncio.to_thread(deploy, separate, args)
        return load, deployed

    load, deployed = asyncio.run(under_load())
    assert deployed.returncode != 0
    assert ("WeightsCorrupt" if "weights" in broken else "failed") in deployed.stderr, deployed.stderr
    assert {outcome.what for outcome in load.outcomes} == {"200"}
    assert is_ready(separate.url)


def test_corrupt_weights_are_one_clear_error_at_the_start(tone_tagger: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tone_tagger, tmp_path / "corrupt")
    graph = next(folder.glob("*.onnx"))
    graph.write_bytes(graph.read_bytes()[:-100] + bytes(100))
    command = [str(EARSHOT), "up", "--offline", "--no-ui", "--port", str(free_port()), "--weights", str(folder)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert ended.returncode == 1
    assert "Traceback" not in ended.stderr
    assert graph.name in ended.stderr
