"""What a health check says of a worker: busy is healthy, however much is queued; stuck at one piece of work is not."""

import asyncio
import threading

import pytest

from models.audio import Limits
from serve.batching import GreedyBatcher
from serve.pulse import Pulse, WorkerStuck
from serve.stages import Spectrogram
from tests.sounds import encode, tone
from tests.unit.test_batching import Echo, patches, run
from tests.unit.test_stages import Silent


def test_one_piece_of_work_that_does_not_end_is_told() -> None:
    now_s = 100.0
    pulse = Pulse("yamnet", clock=lambda: now_s)
    with pulse.at_work():
        now_s = 119.0
        pulse.check(20)
        now_s = 121.0
        with pytest.raises(WorkerStuck, match="yamnet: 21 s"):
            pulse.check(20)
    pulse.check(20)


def test_a_piece_that_fails_has_ended() -> None:
    pulse = Pulse("yamnet")
    with pytest.raises(ValueError, match="broken"), pulse.at_work():
        raise ValueError("broken")
    pulse.check(0)


def test_a_network_with_a_long_queue_is_healthy_and_one_stuck_in_a_batch_is_not() -> None:
    network = Echo()

    async def work(batcher: GreedyBatcher) -> None:
        asked = [asyncio.create_task(batcher.run(patches(owner, 500))) for owner in range(20)]
        await asyncio.to_thread(network.busy.wait)
        batcher.pulse.check(20)
        with pytest.raises(WorkerStuck, match="network"):
            batcher.pulse.check(0)
        network.gate.set()
        await asyncio.gather(*asked)
        batcher.pulse.check(0)

    run(network, work)


def test_a_spectrogram_whose_worker_waits_for_its_turn_is_healthy() -> None:
    spectrogram, hold = Spectrogram(Limits(), Silent()), threading.Event()

    async def hear() -> None:
        spectrogram._worker.submit(hold.wait)  # others' work, which the pulse does not see
        asked = asyncio.create_task(spectrogram.hear(encode(tone(300))))
        await asyncio.sleep(0)
        spectrogram.check_alive()
        hold.set()
        assert (await asked).duration_s == 1.0

    asyncio.run(hear())
