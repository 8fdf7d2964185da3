"""A greedy batcher: whenever the worker is free it takes what is queued, a few patches of each request in turn. Never waits for more.

Knows nothing of Ray, HTTP or sounds.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass, field

import numpy as np

from models.frontend import FloatArray
from models.runtime import BATCH_PATCHES, Network
from serve.pulse import Pulse

TURN_PATCHES = 10  # of one request at a time: a 5-s clip in one turn, while a long clip lets short ones pass


@dataclass
class _Request:
    patches: FloatArray
    done: asyncio.Future[tuple[FloatArray, FloatArray]]
    queued_s: float = field(default_factory=time.perf_counter)
    began_s: float | None = None
    compute_s: float = 0.0
    started: int = 0
    outputs: list[tuple[FloatArray, FloatArray]] = field(default_factory=list)

    @property
    def waiting(self) -> int:
        return len(self.patches) - self.started


class GreedyBatcher:
    """Runs a network over the patches of many requests. A patch's result does not depend on what it is batched with."""

    def __init__(
        self,
        network: Network,
        worker: Executor,
        observe: Callable[[float, float], None] | None = None,
        batch: int = BATCH_PATCHES,
        turn: int = TURN_PATCHES,
    ) -> None:
        """`observe` hears of each request how many seconds it waited and was computed."""
        self._network = network
        self._worker = worker
        self._batch = batch
        self._turn = turn
        self._queue: deque[_Request] = deque()
        self._drainer: asyncio.Task[None] | None = None
        self._observe = observe
        self.pulse = Pulse("the network")

    async def run(self, patches: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Patches [P, frames, 64] -> scores [P, C], embeddings [P, D]. Raises what the network raises."""
        request = _Request(patches, asyncio.get_running_loop().create_future())
        self._queue.append(request)
        if self._drainer is None or self._drainer.done():
            self._drainer = asyncio.create_task(self._drain())
        return await request.done

    async def _drain(self) -> None:
        loop = asyncio.get_running_loop()
        while shares := self._take():
            began_s = time.perf_counter()
            try:
                patches = np.concatenate([request.patches[start:stop] for request, start, stop in shares])
                scores, embeddings = await loop.run_in_executor(self._worker, self._compute, patches)
            except Exception as error:  # the network's; every request of the batch must hear of it
                self._fail(shares, error)
                continue
            compute_s = time.perf_counter() - began_s
            first = 0
            for request, start, stop in shares:
                rows = slice(first, first := first + stop - start)
                request.began_s = request.began_s or began_s
                request.compute_s += compute_s
                self._deliver(request, (scores[rows], embeddings[rows]))

    def _compute(self, patches: FloatArray) -> tuple[FloatArray, FloatArray]:
        """In the worker's thread."""
        with self.pulse.at_work():
            return self._network(patches)

    def _take(self) -> list[tuple[_Request, int, int]]:
        """The next batch: (request, first patch, end), a turn of each request in the order they wait."""
        shares, room = [], self._batch
        for _ in range(len(self._queue)):
            if not room:
                break
            request = self._queue.popleft()
            if request.done.done():  # cancelled, or failed
                continue
            count = min(request.waiting, self._turn, room)
            shares.append((request, request.started, request.started + count))
            request.started += count
            room -= count
            if not request.waiting:
                continue
            if count < self._turn:  # its turn was cut for lack of room: it goes on in the next batch
                self._queue.appendleft(request)
            else:
                self._queue.append(request)
        return shares

    def _deliver(self, request: _Request, output: tuple[FloatArray, FloatArray]) -> None:
        request.outputs.append(output)
        if sum(len(scores) for scores, _ in request.outputs) < len(request.patches) or request.done.done():
            return
        scores, embeddings = zip(*request.outputs, strict=True)
        request.done.set_result((np.concatenate(scores), np.concatenate(embeddings)))
        if self._observe and request.began_s:
            self._observe(request.began_s - request.queued_s, request.compute_s)

    @staticmethod
    def _fail(shares: list[tuple[_Request, int, int]], error: Exception) -> None:
        for request, _, _ in shares:
            if not request.done.done():
                request.done.set_exception(error)
