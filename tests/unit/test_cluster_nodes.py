"""What a node is started with, what is deployed, and what a check makes of the nodes' reports."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from cluster.check import NodeReport, _agree, a_tone, fingerprint, look
from cluster.deploy import on_cluster, read_config
from cluster.session import HAPROXY_WRAPPER, find_haproxy, node_environment
from cluster.settings import Settings
from models.audio import load_audio
from models.errors import BadOption
from tests.conftest import CHECKOUT, EARSHOT

CONFIG = CHECKOUT / "serve" / "earshot.yaml"
REPORT = NodeReport("n", "192.0.2.1")


def test_the_command_prints_the_environment_for_a_shell(tmp_path: Path) -> None:
    script = f'eval "$({shlex.quote(str(EARSHOT))} cluster environment)"; env -0'
    shown = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    found = dict(line.split("=", 1) for line in shown.stdout.strip("\0").split("\0"))
    wanted = node_environment(Settings())
    assert {name: found.get(name) for name in wanted} == wanted


def test_nodes_ask_for_the_token_and_agree_on_their_ports() -> None:
    environment = node_environment(Settings())
    assert environment["RAY_AUTH_MODE"] == "token"
    assert environment == node_environment(Settings())  # no port drawn by chance
    assert environment["PYTHONPATH"] == str(CHECKOUT)


@pytest.mark.parametrize("host", ["127.0.0.1", "192.0.2.7", "::1"])
def test_the_proxy_listens_where_the_node_says_whatever_ray_wrote(host: str, tmp_path: Path) -> None:
    config = tmp_path / "haproxy.cfg"
    config.write_text(
        "defaults\nfrontend http_frontend\n    bind 0.0.0.0:8000\n    mode http\n"
        "backend api\n    server a 192.0.2.8:30000 check\nlisten stats\n    bind *:8404\n"
    )
    environment = os.environ | {"EARSHOT_HAPROXY": "/bin/true", "EARSHOT_PROXY_HOST": host}
    subprocess.run([str(HAPROXY_WRAPPER), "-f", str(config)], env=environment, check=True)
    lines = config.read_text().splitlines()
    assert f"    bind {host}:8000" in lines
    assert "    server a 192.0.2.8:30000 check" in lines
    assert not [line for line in lines if "0.0.0.0" in line or "8404" in line]


def test_a_deployment_takes_keys_and_weights_from_the_settings_where_the_file_names_none(tmp_path: Path) -> None:
    settings = Settings(api_keys=("k",), weights="s3://bucket/weights")
    (application,) = read_config(settings, CONFIG)["applications"]
    assert (application["args"]["api_keys"], application["args"]["weights_folder"]) == (["k"], "s3://bucket/weights")

    named = yaml.safe_load(CONFIG.read_text())
    named["applications"][0]["args"] |= {"api_keys": ["own"], "weights_folder": "/data/weights"}
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(named))
    (application,) = read_config(settings, tmp_path / "own.yaml")["applications"]
    assert (application["args"]["api_keys"], application["args"]["weights_folder"]) == (["own"], "/data/weights")


def test_replicas_listen_where_other_nodes_reach_them_and_only_with_a_key() -> None:
    with pytest.raises(BadOption, match="set EARSHOT_API_KEYS=KEY, or say --insecure"):
        read_config(Settings(), CONFIG)
    host = read_config(Settings(insecure=True), CONFIG)["http_options"]["host"]
    assert host == ("0.0.0.0" if find_haproxy() else "127.0.0.1")  # Ray's own proxy would open the port itself


@pytest.mark.parametrize("text", ["- no mapping", "applications: [", "a: 1"])
def test_a_file_that_is_no_config_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text(text)
    with pytest.raises(BadOption, match=r"bad\.yaml: no Serve config file"):
        read_config(Settings(insecure=True), tmp_path / "bad.yaml")


def test_without_a_cluster_the_error_says_how_to_name_one(tmp_path: Path) -> None:
    nowhere = os.environ | {"RAY_TMPDIR": str(tmp_path), "EARSHOT_RAY_ADDRESS": "127.0.0.1:1"}
    program = "from cluster.check import check_nodes; from cluster.settings import Settings; check_nodes(Settings())"
    ended = subprocess.run(
        [sys.executable, "-c", program], cwd=CHECKOUT, env=nowhere, capture_output=True, text=True, check=False
    )
    assert "EARSHOT_RAY_ADDRESS=ADDRESS:6379" in ended.stderr


def test_a_named_cluster_is_kept() -> None:
    assert on_cluster(Settings()).ray_address == "auto"
    assert on_cluster(Settings(ray_address="192.0.2.1:6379")).ray_address == "192.0.2.1:6379"


def test_the_fingerprint_is_that_of_the_code(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "a.py").write_text("x = 1\n")
    first = fingerprint(tmp_path)
    (tmp_path / "models" / "notes.txt").write_text("not code")
    assert fingerprint(tmp_path) == first
    (tmp_path / "models" / "a.py").write_text("x = 2\n")
    assert fingerprint(tmp_path) != first


def test_a_node_with_other_code_or_other_weights_is_a_fault() -> None:
    good = NodeReport("a", "192.0.2.1", code="new", weights_sha256="1" * 64)
    old = NodeReport("b", "192.0.2.2", code="old", weights_sha256="1" * 64)
    other = NodeReport("c", "192.0.2.3", code="new", weights_sha256="2" * 64)
    silent = NodeReport("d", "192.0.2.4", fault="no answer within 6 s", remedy="ssh")
    good, old, other, silent = _agree("new", [good, old, other, silent])
    assert not good.fault
    assert "its code is old, this checkout's is new" in old.fault
    assert "222222222222, those of most nodes 111111111111" in other.fault
    assert silent.fault == "no answer within 6 s"
    assert all(report.remedy for report in (old, other, silent))


def test_a_node_started_without_the_environment_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_SERVE_THROUGHPUT_OPTIMIZED", raising=False)
    report = look(Settings(), REPORT)
    assert "RAY_SERVE_THROUGHPUT_OPTIMIZED" in report.fault
    assert "cluster environment" in report.remedy


def test_a_node_without_weights_and_one_without_a_proxy_are_told_apart(
    monkeypatch: pytest.MonkeyPatch, tone_tagger: Path, tmp_path: Path
) -> None:
    for name, value in node_environment(Settings()).items():
        monkeypatch.setenv(name, value)
    bare = look(Settings(cache=tmp_path, weights=None, download=False), REPORT)
    assert bare.fault.startswith("no weights: ")
    deaf = look(Settings(weights_path=tone_tagger, port=9), REPORT)
    assert deaf.fault == "its proxy does not answer at http://127.0.0.1:9 (ConnectError)"
    assert len(deaf.weights_sha256) == 64


def test_the_request_is_a_sound(tmp_path: Path) -> None:
    (tmp_path / "tone.wav").write_bytes(a_tone(seconds=0.5))
    assert load_audio(tmp_path / "tone.wav").samples.shape == (8000,)
