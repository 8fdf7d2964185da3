"""A service with little room: clients that hang up, and a disk that is full."""

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from cluster.session import free_port
from tests.conftest import EARSHOT, is_ready, wait_until
from tests.sounds import encode, tone

RAW = {"Content-Type": "audio/wav"}
MIB = 1 << 20


@pytest.fixture(scope="module")
def full(tone_tagger: Path) -> Iterator[tuple[str, Path]]:
    """A service of one replica that takes eight requests at a time, whose access log and Ray session are on a disk of 300 MiB: its address
    and that disk, as seen from here."""
    disk, port = Path(tempfile.mkdtemp(prefix="ef-")), free_port()  # short: Ray's socket paths have at most 107 bytes
    command = [str(EARSHOT), "up", "--offline", "--no-ui", "--port", str(port), "--replicas", "1"]
    own = {"RAY_TMPDIR": str(disk), "EARSHOT_ACCESS_LOG": str(disk / "access.jsonl"), "EARSHOT_MAX_IN_FLIGHT": "8"}
    script = f'mount -t tmpfs -o size=300m none {disk} && exec "$@"'
    words = ["unshare", "-rm", "sh", "-c", script, "sh", *command, "--weights", str(tone_tagger)]
    url = f"http://127.0.0.1:{port}"
    process = subprocess.Popen(words, env=os.environ | own, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
    try:
        wait_until(lambda: is_ready(url) or process.poll() is not None, 120)
        if process.poll() is not None:
            pytest.skip(f"a small disk cannot be made here: {process.communicate()[1].decode().strip()}")
        yield url, Path(f"/proc/{process.pid}/root{disk}")
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
        disk.rmdir()


def classify(url: str, sound: bytes, request_id: str = "") -> int:
    headers = RAW | {"X-Request-ID": request_id}
    return httpx.post(f"{url}/v1/classify", content=sound, headers=headers, timeout=30).status_code


def eight_at_once(url: str) -> set[int]:
    """The statuses of as many requests as fit, at the same time."""
    sound = encode(tone(300, 2))
    with ThreadPoolExecutor(8) as pool:
        return set(pool.map(lambda _: classify(url, sound), range(8)))


@pytest.mark.parametrize("sent", ["a part of the body", "the whole body"])
def test_clients_that_hang_up_give_their_room_back(full: tuple[str, Path], sent: str) -> None:
    url, disk = full
    sound = encode(tone(300, 600, rate_hz=8000), 8000)
    head = f"POST /v1/classify HTTP/1.1\r\nHost: x\r\nContent-Type: audio/wav\r\nContent-Length: {len(sound)}\r\n\r\n"
    body = sound if sent == "the whole body" else sound[:1000]
    log = disk / "access.jsonl"
    before = log.read_text().count('"status": 499')
    with contextlib.ExitStack() as open_ones:
        waiting: set[socket.socket] = set()

        def is_full() -> bool:
            """Eight wait inside. One that was refused, because a probe stood in its place, has its answer: another comes for it."""
            waiting.difference_update(select.select(waiting, [], [], 0)[0])
            while len(waiting) < 8:
                client = open_ones.enter_context(socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2]))))
                client.sendall(head.encode() + body)
                waiting.add(client)
            # Twice: the room of the request before may be given back only a moment after its answer.
            return [classify(url, encode(tone(300))) for _ in range(2)] == [503, 503]

        wait_until(is_full)
    wait_until(lambda: eight_at_once(url) == {200})
    wait_until(lambda: log.read_text().count('"status": 499') == before + 8)


def test_a_full_disk_costs_no_request(full: tuple[str, Path]) -> None:
    url, disk = full
    with contextlib.suppress(OSError), (disk / "filling").open("wb") as filling:
        while True:
            filling.write(bytes(MIB))
            filling.flush()
    with pytest.raises(OSError, match="No space"):
        (disk / "more").write_bytes(bytes(MIB))
    assert [classify(url, encode(tone(300))) for _ in range(20)] == [200] * 20
    (disk / "filling").unlink()
    (disk / "more").unlink()
    assert classify(url, encode(tone(300)), "room-again") == 200
    lines = (disk / "access.jsonl").read_text
    wait_until(lambda: '"room-again"' in lines() and lines().endswith("\n"))
    assert json.loads(lines().splitlines()[-1])["status"] == 200
