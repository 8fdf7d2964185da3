"""The greedy batcher: no waiting, fair turns, and failures that stay with those they belong to."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from serve.batching import GreedyBatcher

TIMEOUT_S = 20


@dataclass
class Echo:
    """A network whose scores and embeddings are its patches' first numbers. `gate` holds it; -1 in a patch breaks it."""

    gate: threading.Event = field(default_factory=threading.Event)
    busy: threading.Event = field(default_factory=threading.Event)
    batches: list[list[int]] = field(default_factory=list)

    def __call__(self, patches: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        self.busy.set()
        assert self.gate.wait(TIMEOUT_S)
        owners = patches[:, 0, 0]
        self.batches.append([int(owner) for owner in owners])
        if (owners == -1).any():
            raise ValueError("a patch of -1")
        return patches[:, 0, :2].copy(), patches[:, 0, :1].copy()


@pytest.fixture
def echo() -> Iterator[Echo]:
    network = Echo()
    yield network
    network.gate.set()


def patches(owner: int, count: int) -> np.ndarray:
    """Patches [count, 96, 64] that carry their owner and their number."""
    array = np.zeros((count, 96, 64), np.float32)
    array[:, 0, 0], array[:, 0, 1] = owner, np.arange(count)
    return array


def run(network: Echo, work: Callable[[GreedyBatcher], Awaitable[None]], **options: Any) -> None:
    """Runs a coroutine over a batcher on one worker thread."""

    async def bounded() -> None:
        async with asyncio.timeout(TIMEOUT_S):
            await work(GreedyBatcher(network, worker, **options))

    with ThreadPoolExecutor(1) as worker:
        asyncio.run(bounded())


async def hold(batcher: GreedyBatcher, network: Echo, owner: int = 9, count: int = 1) -> asyncio.Task:
    """A request whose first batch is in the network, which waits for the gate."""
    task = asyncio.create_task(batcher.run(patches(owner, count)))
    await asyncio.to_thread(network.busy.wait, TIMEOUT_S)
    assert network.busy.is_set()
    return task


def batches_with(network: Echo, owner: int) -> list[int]:
    return [number for number, batch in enumerate(network.batches) if owner in batch]


@pytest.mark.parametrize("count", [1, 9, 10, 11, 32, 33, 1000])
def test_rows_come_back_in_order(echo: Echo, count: int) -> None:
    async def work(batcher: GreedyBatcher) -> None:
        echo.gate.set()
        results = await asyncio.gather(*(batcher.run(patches(owner, count + owner)) for owner in range(5)))
        for owner, (scores, embeddings) in enumerate(results):
            np.testing.assert_array_equal(scores, patches(owner, count + owner)[:, 0, :2])
            np.testing.assert_array_equal(embeddings, patches(owner, count + owner)[:, 0, :1])

    run(echo, work)
    assert max(map(len, echo.batches)) <= 32


def test_lone_request_starts_at_once_and_alone(echo: Echo) -> None:
    async def work(batcher: GreedyBatcher) -> None:
        echo.gate.set()
        await batcher.run(patches(1, 3))
        await batcher.run(patches(2, 3))

    run(echo, work)
    assert echo.batches == [[1] * 3, [2] * 3]


def test_what_waits_while_the_worker_is_busy_goes_together(echo: Echo) -> None:
    async def work(batcher: GreedyBatcher) -> None:
        first = await hold(batcher, echo)
        others = [asyncio.create_task(batcher.run(patches(owner, 10))) for owner in (1, 2, 3, 4)]
        await asyncio.sleep(0)  # each has queued
        echo.gate.set()
        await asyncio.gather(first, *others)

    run(echo, work)
    assert echo.batches[1] == [1] * 10 + [2] * 10 + [3] * 10 + [4] * 2
    assert echo.batches[2] == [4] * 8


def test_long_request_does_not_delay_a_short_one_by_more_than_two_batches(echo: Echo) -> None:
    async def work(batcher: GreedyBatcher) -> None:
        long = await hold(batcher, echo, owner=1, count=1000)
        short = asyncio.create_task(batcher.run(patches(2, 10)))
        await asyncio.sleep(0)
        echo.gate.set()
        await short
        assert not long.done()
        await long

    run(echo, work)
    assert max(batches_with(echo, 2)) <= 2
    assert sum(batch.count(1) for batch in echo.batches) == 1000


@pytest.mark.parametrize("long_ones", [1, 2, 3, 4, 5])
def test_short_request_waits_for_one_turn_of_those_before_it(echo: Echo, long_ones: int) -> None:
    async def work(batcher: GreedyBatcher) -> None:
        first = await hold(batcher, echo)
        long = [asyncio.create_task(batcher.run(patches(1, 500))) for _ in range(long_ones)]
        short = asyncio.create_task(batcher.run(patches(2, 10)))
        await asyncio.sleep(0)
        echo.gate.set()
        await asyncio.gather(first, short, *long)

    run(echo, work)
    turns = -(-(long_ones + 1) * 10 // 32)  # batches that hold one turn of each
    assert max(batches_with(echo, 2)) <= turns + 1


def test_every_one_of_many_long_requests_gets_on(echo: Echo) -> None:
    async def work(batcher: GreedyBatcher) -> None:
        long = await hold(batcher, echo, owner=1, count=200)
        others = [asyncio.create_task(batcher.run(patches(owner, 200))) for owner in (2, 3, 4)]
        await asyncio.sleep(0)
        echo.gate.set()
        await asyncio.gather(long, *others)

    run(echo, work)
    last = [max(batches_with(echo, owner)) for owner in (1, 2, 3, 4)]
    assert max(last) - min(last) <= 3  # none is finished long before another
    assert len(echo.batches) <= 1 + 800 // 32 + 3  # and batches are full


def test_error_reaches_every_request_of_its_batch_and_no_other(echo: Echo) -> None:
    async def work(batcher: GreedyBatcher) -> None:
        first = await hold(batcher, echo)
        same = [asyncio.create_task(batcher.run(patches(owner, 10))) for owner in (1, -1, 3)]
        later = asyncio.create_task(batcher.run(patches(4, 10)))
        await asyncio.sleep(0)
        echo.gate.set()
        results = await asyncio.gather(*same, return_exceptions=True)
        assert [str(result) for result in results] == ["a patch of -1"] * 3
        assert len((await first)[0]) == 1
        assert len((await later)[0]) == 10
        assert len((await batcher.run(patches(5, 40)))[0]) == 40

    run(echo, work, batch=30)


def test_rest_of_a_failed_request_is_not_computed(echo: Echo) -> None:
    async def work(batcher: GreedyBatcher) -> None:
        echo.gate.set()
        with pytest.raises(ValueError, match="-1"):
            await batcher.run(patches(-1, 100))
        await batcher.run(patches(1, 1))

    run(echo, work)
    assert echo.batches == [[-1] * 10, [1]]


def test_cancelled_request_is_not_computed_and_disturbs_none(echo: Echo) -> None:
    async def work(batcher: GreedyBatcher) -> None:
        first = await hold(batcher, echo, owner=1, count=100)
        gone, stays = (asyncio.create_task(batcher.run(patches(owner, 5))) for owner in (2, 3))
        await asyncio.sleep(0)
        gone.cancel()
        first.cancel()
        await asyncio.wait([gone, first])
        echo.gate.set()
        assert len((await stays)[0]) == 5

    run(echo, work)
    assert echo.batches == [[1] * 10, [3] * 5]


def test_patches_of_another_shape_fail_and_leave_the_batcher_working(echo: Echo) -> None:
    async def work(batcher: GreedyBatcher) -> None:
        first = await hold(batcher, echo)
        odd = [batcher.run(patches(1, 5)), batcher.run(np.zeros((5, 96, 32), np.float32))]
        waiting = asyncio.gather(*odd, return_exceptions=True)
        await asyncio.sleep(0)
        echo.gate.set()
        await first
        async with asyncio.timeout(2):
            assert [type(result) for result in await waiting] == [ValueError, ValueError]
        assert len((await batcher.run(patches(2, 3)))[0]) == 3

    run(echo, work)


def test_queue_and_compute_times_are_told_once_a_request(echo: Echo) -> None:
    told: list[tuple[float, float]] = []

    async def work(batcher: GreedyBatcher) -> None:
        echo.gate.set()
        await asyncio.gather(batcher.run(patches(1, 100)), batcher.run(patches(2, 5)))

    run(echo, work, observe=lambda queue_s, compute_s: told.append((queue_s, compute_s)))
    assert len(told) == 2
    assert all(queue_s >= 0 and compute_s > 0 for queue_s, compute_s in told)
