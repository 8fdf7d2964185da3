"""What our wrapper makes of the configuration that Ray Serve writes for HAProxy, with the real binary."""

import os
import socket
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from cluster.session import HAPROXY_WRAPPER, find_haproxy, free_port
from tests.conftest import wait_until

# The lines that the wrapper looks for, as ray.serve._private.haproxy_templates has them.
CONFIGURATION = """global
    maxconn 100
defaults
    mode http
    timeout connect 1s
    timeout client 5s
    timeout server 5s
    errorfile 502 {folder}/500.http
    errorfile 503 {folder}/500.http
    errorfile 504 {folder}/500.http
frontend prometheus
    bind :{metrics}
    http-request use-service prometheus-exporter if {{ path /metrics }}
frontend http_frontend
    bind 127.0.0.1:{port}
    use_backend dead if {{ path_beg /dead }}
    use_backend broken if {{ path_beg /broken }}
    default_backend default_backend
backend default_backend
    http-request return status 404 content-type text/plain lf-string "Path \\'%[path]\\' not found."
backend dead
    server gone 127.0.0.1:{dead}
backend broken
    server hangs-up 127.0.0.1:{broken}
listen stats
  bind *:{stats}
  stats enable
"""


@pytest.fixture
def ports() -> dict[str, int]:
    return {name: free_port() for name in ("metrics", "port", "dead", "broken", "stats")}


@pytest.fixture
def proxy(tmp_path: Path, ports: dict[str, int]) -> Iterator[str]:
    """HAProxy behind the wrapper, started as Ray starts it."""
    (tmp_path / "500.http").write_bytes(b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n")
    config = tmp_path / "haproxy.cfg"
    config.write_text(CONFIGURATION.format(folder=tmp_path, **ports))
    environment = os.environ | {"EARSHOT_HAPROXY": str(find_haproxy())}
    process = subprocess.Popen([str(HAPROXY_WRAPPER), "-db", "-f", str(config)], env=environment)
    try:
        wait_until(lambda: _listens(ports["port"]))
        yield f"http://127.0.0.1:{ports['port']}"
    finally:
        process.terminate()
        process.wait(10)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_its_own_503_stays_a_503_in_our_words(proxy: str) -> None:
    answer = httpx.get(f"{proxy}/dead", timeout=20)
    assert answer.status_code == 503
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["retry-after"] == "1"
    assert answer.json()["type"] == "/problems/unavailable"


def test_a_replica_that_dies_over_a_request_is_a_503_too(proxy: str, ports: dict[str, int]) -> None:
    with socket.create_server(("127.0.0.1", ports["broken"])) as replica, ThreadPoolExecutor(1) as pool:
        asked = pool.submit(httpx.post, f"{proxy}/broken", content=b"x", timeout=20)
        connection, _ = replica.accept()
        connection.recv(1000)
        connection.close()
        answer = asked.result()
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert answer.json()["type"] == "/problems/unavailable"


def test_while_no_application_is_there_it_says_come_back_instead_of_404(proxy: str) -> None:
    answer = httpx.get(f"{proxy}/v1/models")
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "1"
    assert answer.json()["status"] == 503


def test_no_statistics_and_no_metrics_page_is_open(proxy: str, ports: dict[str, int]) -> None:
    assert httpx.get(f"{proxy}/x").status_code == 503
    assert not _listens(ports["stats"])
    assert not _listens(ports["metrics"])


def test_rays_template_still_has_the_lines_that_the_wrapper_changes() -> None:
    from ray.serve._private.haproxy_templates import HAPROXY_CONFIG_TEMPLATE as template

    for line in (
        "\ndefaults\n",
        "\nfrontend prometheus\n",
        "\nfrontend http_frontend\n",
        "\nlisten stats\n",
        "errorfile 503 ",
    ):
        assert line in template, line
    assert "\nbackend default_backend\n    http-request return status 404 " in template
