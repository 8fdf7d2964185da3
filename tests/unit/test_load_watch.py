"""What the load reports count as a replica in service."""

import subprocess
import sys
from collections.abc import Iterator

import psutil
import pytest

from benchmarks.load.watch import count_replicas

TITLE = "ray::ServeReplica:earshot:Api"
LISTEN = """
import itertools, socket, sys
for port in range(int(sys.argv[1]), int(sys.argv[2])):
    with socket.socket() as server:
        try:
            server.bind(("127.0.0.1", port))
        except OSError:
            continue
        server.listen()
        print("listening", flush=True)
        sys.stdin.read()
        break
"""


@pytest.fixture
def replica(request: pytest.FixtureRequest) -> Iterator[psutil.Process]:
    """A process with a replica's title that listens on one of the ports."""
    command = [TITLE, "-c", LISTEN, *map(str, request.param)]
    with subprocess.Popen(command, executable=sys.executable, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stdout.readline() == b"listening\n"
        yield psutil.Process(process.pid)
        process.communicate()


@pytest.mark.parametrize(
    ("replica", "counted"),
    [((30_000, 31_001), (1, 1)), ((32_768, 41_000), (1, 0))],
    ids=["the ports of Ray Serve", "a port that Ray's own processes may get"],
    indirect=["replica"],
)
def test_a_replica_serves_when_it_listens_where_ray_serve_puts_http(
    replica: psutil.Process, counted: tuple[int, int]
) -> None:
    assert count_replicas(replica) == counted
