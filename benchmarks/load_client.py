"""A load generator that costs little: raw sockets, a keep-alive connection per worker, bodies made beforehand."""

import asyncio
import math
import os
import time
from collections import Counter
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import uvloop

T = TypeVar("T")
PATIENCE_S = 120
DROPPED = 0


@dataclass
class LoadResult:
    """What a run saw: latencies, status codes (DROPPED where the connection ended instead), its length."""

    latencies_s: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    length_s: float = 0.0

    @property
    def rate(self) -> float:
        """Answers with status 200 per second."""
        return self.statuses[200] / self.length_s

    def quantile_ms(self, q: float) -> float:
        """A quantile of the latency in milliseconds."""
        ordered = sorted(self.latencies_s)
        return 1000 * ordered[min(len(ordered) - 1, int(q * len(ordered)))] if ordered else float("nan")


def make_request(port: int, path: str, body: bytes, content_type: str = "application/octet-stream") -> bytes:
    """One whole HTTP request."""
    headers = f"Host: 127.0.0.1:{port}\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n"
    return f"POST {path} HTTP/1.1\r\n{headers}\r\n".encode() + body


async def send(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes) -> tuple[int, bytes]:
    """Sends one request and reads its answer: status and body."""
    writer.write(request)
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    status = int(head.split(" ", 2)[1])
    headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in head.split("\r\n")[1:])}
    if headers.get("transfer-encoding") == "chunked":
        body = b""
        while size := int((await reader.readline()).split(b";")[0], 16):
            body += (await reader.readexactly(size + 2))[:-2]
        await reader.readline()
    else:
        body = await reader.readexactly(int(headers.get("content-length", 0)))
    if headers.get("connection", "").lower() == "close":  # as a proxy that is about to be replaced says
        writer.close()
    return status, body


class Connection:
    """One keep-alive connection, opened when first needed and anew after the server has ended it."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, request: bytes) -> int:
        """Sends a request and gives the answer's status, or DROPPED, once. Raises OSError when nobody listens."""
        if self._streams is None or self._streams[1].is_closing():
            self._streams = await asyncio.open_connection("127.0.0.1", self._port, limit=1 << 20)
        try:
            return (await send(*self._streams, request))[0]
        except (OSError, asyncio.IncompleteReadError):
            self.close()
            return DROPPED

    def close(self) -> None:
        """Ends the connection."""
        if self._streams:
            self._streams[1].close()
        self._streams = None


async def run_closed(
    port: int, requests: Sequence[bytes], connections: int, seconds: float = math.inf, count: float = math.inf
) -> LoadResult:
    """Each connection sends its next request when the last is answered, for so long or so many requests in all."""
    result, sent = LoadResult(), 0
    began_s = time.perf_counter()

    async def work(turn: int) -> None:
        nonlocal sent
        connection = Connection(port)
        while time.perf_counter() - began_s < seconds and sent < count:
            sent += 1
            start_s = time.perf_counter()
            status = await connection.ask(requests[turn % len(requests)])
            result.latencies_s.append(time.perf_counter() - start_s)
            result.statuses[status] += 1
            turn += connections
        connection.close()

    await asyncio.gather(*(work(number) for number in range(connections)))
    result.length_s = time.perf_counter() - began_s
    return result


async def run_open(port: int, requests: Sequence[bytes], rate: float, seconds: float) -> LoadResult:
    """Requests at a fixed rate whatever the answers do; latency counts from the intended time of sending."""
    result, idle = LoadResult(), list[Connection]()
    began_s = time.perf_counter()

    async def one(number: int) -> None:
        due_s = began_s + number / rate
        await asyncio.sleep(max(0.0, due_s - time.perf_counter()))
        connection = idle.pop() if idle else Connection(port)
        status = await connection.ask(requests[number % len(requests)])
        result.latencies_s.append(time.perf_counter() - due_s)
        result.statuses[status] += 1
        idle.append(connection)

    await asyncio.gather(*(one(number) for number in range(int(rate * seconds))))
    result.length_s = time.perf_counter() - began_s
    for connection in idle:
        connection.close()
    return result


def run_on_last_core(load: Coroutine[None, None, T]) -> T:
    """Runs a load in this process, pinned to the last core meanwhile. Raises TimeoutError when answers stay out."""
    cores = os.sched_getaffinity(0)

    async def bounded() -> T:
        async with asyncio.timeout(PATIENCE_S):
            return await load

    os.sched_setaffinity(0, {max(cores)})
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(bounded())
    finally:
        os.sched_setaffinity(0, cores)
