"""A cluster that is really launched: `cluster/up.sh cluster/onprem.yaml` on three hosts of namespaces, the service, a bulk job, the end.

The tests follow each other: each goes on with the cluster that the ones before it left.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import yaml

from models.features import open_features
from models.storage import open_store
from tests.conftest import CHECKOUT, wait_until
from tests.sounds import encode, tone

SCRIPT = CHECKOUT / "cluster" / "testbed.sh"
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
HOSTS = ("head", "worker1", "worker2")
SOUNDS = 48
TIMEOUT_S = 300
WITH_KEY = "EARSHOT_API_KEYS=$(cat ~/.ray/earshot_api_key)"  # the service's, which cluster/up.sh has made


@dataclass
class Hosts:
    """The hosts. `state` is the one folder that all of them see."""

    state: Path
    weights: Path

    def call(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """cluster/testbed.sh with these arguments."""
        own = {"EARSHOT_TESTBED": str(self.state), "EARSHOT_WEIGHTS": str(self.weights)}
        return subprocess.run(
            [str(SCRIPT), *arguments],
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            env=os.environ | own,
            check=False,
        )

    def run(self, host: str, command: str) -> subprocess.CompletedProcess[str]:
        """A shell command on a host, in its user's environment."""
        return self.call("run", host, command)

    def ray_list(self, what: str) -> list[dict[str, str]]:
        """Ray's own list of actors or tasks."""
        shown = self.run("head", f"ray list {what} --format json --limit 1000 2>/dev/null")
        found: list[dict[str, str]] = json.loads(shown.stdout)
        return found

    def nodes_with(self, actor: str) -> set[str]:
        """The nodes on which an actor of such a class lives."""
        actors = self.ray_list("actors")
        return {one["node_id"] for one in actors if one["state"] == "ALIVE" and actor in one["class_name"]}

    def processes(self, host: str) -> list[str]:
        """What runs on a host besides its sshd."""
        shown = self.run(host, "ps -eo args --no-headers").stdout.splitlines()
        return [line for line in shown if not line.startswith(("sshd", "bash -c cd", "ps ", "/usr/sbin/sshd"))]


def traces() -> dict[str, set[str]]:
    """What namespaces, networks and mounts there are on this machine, outside of any host."""
    spaces = set()
    for process in psutil.process_iter():
        for kind in ("net", "mnt", "pid"):
            try:
                spaces.add(os.readlink(f"/proc/{process.pid}/ns/{kind}"))
            except OSError:
                continue
    return {
        "namespaces": spaces,
        "links": {path.name for path in Path("/sys/class/net").iterdir()},
        "mounts": {line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()},
    }


@pytest.fixture(scope="module")
def sentinel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[psutil.Process]:
    """A process outside that `ray stop` would take for Ray's."""
    program = tmp_path_factory.mktemp("sentinel") / "raylet"
    shutil.copy(shutil.which("sleep") or "/bin/sleep", program)
    process = subprocess.Popen([str(program), "600"])
    yield psutil.Process(process.pid)
    process.kill()
    process.wait()


@pytest.fixture(scope="module")
def testbed(
    tmp_path_factory: pytest.TempPathFactory, tone_tagger: Path, tone_head: Path, sentinel: psutil.Process
) -> Iterator[Hosts]:
    can = subprocess.run([str(SCRIPT), "can"], capture_output=True, text=True, check=False)
    if can.returncode:
        pytest.skip(can.stderr.strip())
    weights = tmp_path_factory.mktemp("weights")
    shutil.copytree(tone_tagger, weights / "yamnet")
    shutil.copytree(tone_head, weights / "vggish-head")
    state = tmp_path_factory.mktemp("cluster") / "testbed"
    hosts = Hosts(state, weights)
    before = traces()
    started = hosts.call("hosts")
    assert started.returncode == 0, started.stderr
    made = {kind: found - before[kind] for kind, found in traces().items()}
    assert len(made["namespaces"]) >= 3 * (1 + len(HOSTS))
    for number in range(SOUNDS):
        sound = state / "sounds" / ("low" if number % 2 else "high") / f"{number}.wav"
        sound.parent.mkdir(parents=True, exist_ok=True)
        sound.write_bytes(encode(tone(300 + 100 * number, 2)))
    try:
        yield hosts
    finally:
        ended = hosts.call("down")
    assert ended.returncode == 0, ended.stderr
    assert not state.exists()
    assert sentinel.is_running()
    wait_until(lambda: not any(made[kind] & found for kind, found in traces().items()))
    assert not traces()["links"] - before["links"]
    assert not [place for place in traces()["mounts"] if str(state) in place]


@pytest.fixture(scope="module")
def cluster(testbed: Hosts) -> Hosts:
    started = testbed.call("up")
    assert started.returncode == 0, started.stderr
    sys.stderr.write(started.stderr)
    return testbed


def test_ray_up_makes_three_nodes_that_ask_for_the_token(cluster: Hosts) -> None:
    status = cluster.run("head", "ray status")
    assert " 3 local.cluster.node" in status.stdout, status.stdout + status.stderr
    refused = cluster.run("head", "RAY_AUTH_MODE=disabled ray status")
    assert refused.returncode != 0
    assert "InvalidAuthToken" in refused.stderr + refused.stdout


KNOCK = """
import sys, grpc
call = grpc.insecure_channel("127.0.0.1:10001").unary_unary("/ray.rpc.RayletDriver/ClusterInfo")
for header in ({}, {"authorization": "Bearer wrong"}, {"authorization": f"Bearer {sys.argv[1]}"}):
    try:
        call(b"", metadata=tuple(header.items()), timeout=10)
        print("let in")
    except grpc.RpcError as error:
        print("refused" if error.code() == grpc.StatusCode.UNAUTHENTICATED else "let in")
"""


def test_rays_client_port_asks_for_the_token(cluster: Hosts) -> None:
    (cluster.state / "knock.py").write_text(KNOCK)
    knocked = cluster.run("head", f"python {cluster.state}/knock.py $(cat ~/.ray/auth_token)")
    assert knocked.stdout.split("\n") == ["refused", "refused", "let in", ""], knocked.stderr


def test_a_second_up_changes_nothing(cluster: Hosts) -> None:
    again = cluster.call("hosts")
    assert (again.returncode, again.stderr) == (0, "testbed: the hosts are there\n")


def test_a_deployment_without_a_key_is_refused(cluster: Hosts) -> None:
    refused = cluster.run("head", "EARSHOT_API_KEYS= earshot cluster deploy")
    assert refused.returncode == 2
    assert "set EARSHOT_API_KEYS=KEY, or say --insecure" in refused.stderr


def test_one_command_has_brought_up_the_service_and_checked_every_node(cluster: Hosts) -> None:
    told = COLOUR.sub("", (cluster.state / "up.log").read_text())
    assert told.count(" ok ") == 3, told
    assert "ray attach -p 8000" in told
    assert len(cluster.nodes_with("ServeReplica")) > 1


def test_a_check_without_the_service_says_so(cluster: Hosts) -> None:
    ended = cluster.run("head", "serve shutdown -y")
    assert ended.returncode == 0, ended.stderr
    checked = cluster.run("head", "earshot cluster check")
    assert checked.returncode == 1
    assert checked.stderr.count("its proxy does not answer") == 3
    assert "-> earshot cluster deploy" in checked.stderr


def test_a_featurize_job_runs_on_every_node_and_brings_its_model_along(cluster: Hosts) -> None:
    folder = cluster.state
    places = f"--root {folder}/sounds --out {folder}/features"
    done = cluster.run("head", f"earshot featurize folder {places} --features embedding --window-s 2 --cluster")
    assert done.returncode == 0, done.stderr
    assert f"{SOUNDS} done" in done.stderr
    rows = open_features(open_store(folder / "features")).to_table(columns=["path"])
    assert len(set(rows["path"].to_pylist())) == SOUNDS

    def nodes() -> set[str]:
        return {task["node_id"] for task in cluster.ray_list("tasks") if "_run_task" in task["name"]}

    wait_until(lambda: len(nodes()) == 3)  # the list lags behind


def deploy(cluster: Hosts, flags: str = "", **args: object) -> subprocess.CompletedProcess[str]:
    """`earshot cluster deploy` of a service that fills the cluster: 5.5 cores of the 6 that three nodes have."""
    config = yaml.safe_load((CHECKOUT / "serve" / "earshot.yaml").read_text())
    config["applications"][0]["args"]["yamnet"]["min_replicas"] = 3
    config["applications"][0]["args"] |= args
    (cluster.state / "service.yaml").write_text(yaml.safe_dump(config))
    return cluster.run("head", f"{WITH_KEY} earshot cluster deploy {flags} {cluster.state}/service.yaml")


def test_the_service_runs_on_every_node(cluster: Hosts) -> None:
    deployed = deploy(cluster)
    assert deployed.returncode == 0, deployed.stderr
    assert len(cluster.nodes_with("ServeReplica")) == 3
    assert len(cluster.nodes_with("HAProxy")) == 3


def test_every_node_answers_through_its_own_proxy(cluster: Hosts) -> None:
    checked = cluster.run("head", f"{WITH_KEY} earshot cluster check")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert checked.stdout.count(" ok ") == 3
    for host in HOSTS:
        assert host in checked.stdout


def test_proxies_listen_on_loopback_and_the_statistics_pages_are_closed(cluster: Hosts) -> None:
    for host in HOSTS:
        shown = cluster.run(host, "ss -ltnH | tr -s ' ' | cut -d' ' -f4").stdout.split()
        assert "127.0.0.1:8000" in shown
        assert not [place for place in shown if place.endswith((":8404", ":9101"))]
        assert not [place for place in shown if place.endswith((":8000", ":8265")) and not place.startswith("127.")]


def test_strangers_are_refused_at_the_replicas_own_ports(cluster: Hosts) -> None:
    ports = "ss -ltnH | grep -o '0.0.0.0:30[0-9]*' | cut -d: -f2"
    asked = [
        cluster.run(
            host,
            f"for port in $({ports}); do curl -s -o /dev/null -w '%{{http_code}} ' $(hostname -I | tr -d ' '):$port/v1/models; done",
        )
        for host in HOSTS
    ]
    codes = " ".join(answer.stdout for answer in asked).split()
    assert codes
    assert set(codes) == {"401"}


def test_a_version_for_which_there_is_no_room_leaves_the_one_before_it_serving(cluster: Hosts) -> None:
    deployed = deploy(cluster, "--deadline-s 8", second_opinion_rate=0.5)
    assert deployed.returncode == 1
    assert "not ready within 8 s" in deployed.stderr
    assert "is there room for both?" in deployed.stderr
    checked = cluster.run("head", f"{WITH_KEY} earshot cluster check")
    assert checked.stdout.count(" ok ") == 3, checked.stdout + checked.stderr


def test_a_node_that_hangs_is_reported_and_not_waited_for(cluster: Hosts) -> None:
    cluster.run("worker2", "kill -STOP $(pgrep -x raylet)")
    try:
        checked = cluster.run("head", f"{WITH_KEY} earshot cluster check --deadline-s 9")
    finally:
        cluster.run("worker2", "kill -CONT $(pgrep -x raylet)")
    assert checked.returncode == 1
    assert checked.stdout.count(" ok ") == 2, checked.stdout
    assert "no answer within 9 s" in checked.stderr


def test_ray_down_leaves_no_process_on_any_host_and_none_outside_dies(cluster: Hosts, sentinel: psutil.Process) -> None:
    cluster.run("head", "cp $(which sleep) /tmp/raylet && (setsid /tmp/raylet 600 >/dev/null 2>&1 &)")
    assert "/tmp/raylet 600" in cluster.processes("head")
    ended = cluster.run("desk", f"cd {CHECKOUT} && ray down -y {cluster.state}/cluster.yaml")
    assert ended.returncode == 0, ended.stderr
    left: list[str] = []

    def is_empty() -> bool:
        left[:] = [f"{host}: {line}" for host in HOSTS for line in cluster.processes(host)]
        return not left

    wait_until(is_empty, 60)
    assert sentinel.is_running()
