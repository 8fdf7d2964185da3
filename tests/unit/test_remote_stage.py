"""Which calls to another replica are made again, with a stand-in for Ray Serve's handle."""

import asyncio
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Any

import pytest
from ray.exceptions import ActorUnavailableError, RayActorError
from ray.serve.exceptions import BackPressureError

from models.errors import AudioUndecodable, Overloaded
from serve.remote import MOST_AT_ONCE, PAUSES_S, RemoteStage, SecondAsks

FULL = BackPressureError(num_queued_requests=9, max_queued_requests=9)
SILENT = "silent"
LONG_S, SHORT_S = 60.0, 0.01


@dataclass
class Response:
    """What a call gives: fails, answers, or stays silent until it is cancelled."""

    what: object
    cancelled: bool = False

    def __await__(self) -> Generator[Any, None, object]:
        return self._answer().__await__()

    async def _answer(self) -> object:
        if self.what == SILENT:
            await asyncio.Event().wait()
        if isinstance(self.what, Exception):
            raise self.what
        return self.what

    def cancel(self) -> None:
        self.cancelled = True


@dataclass
class Handle:
    """Gives one of the outcomes to each call in turn, then answers."""

    outcomes: list[object] = field(default_factory=list)
    calls: list[tuple[object, ...]] = field(default_factory=list)
    responses: list[Response] = field(default_factory=list)

    @property
    def score(self) -> "Handle":
        return self

    @property
    def remote(self) -> Callable[..., Response]:
        return self._call

    def _call(self, *args: object) -> Response:
        self.calls.append(args)
        self.responses.append(Response(self.outcomes.pop(0) if self.outcomes else "scores"))
        return self.responses[-1]


def call(handle: Handle, patience_s: float = LONG_S) -> object:
    stage: Any = RemoteStage(handle, patience_s)  # type: ignore[arg-type]

    async def ask() -> object:
        async with asyncio.timeout(20):
            return await stage.score("frames")

    return asyncio.run(ask())


def test_a_call_whose_replica_died_is_sent_again_with_the_same_arguments() -> None:
    handle = Handle([RayActorError(), ActorUnavailableError("gone", None)])
    assert call(handle) == "scores"
    assert handle.calls == [("frames",)] * 3


def test_our_own_errors_are_not_tried_again() -> None:
    handle = Handle([AudioUndecodable("no sound")])
    with pytest.raises(AudioUndecodable):
        call(handle)
    assert len(handle.calls) == 1


def test_a_full_queue_is_not_tried_again_and_says_come_back() -> None:
    handle = Handle([FULL])
    with pytest.raises(Overloaded, match="again"):
        call(handle)
    assert len(handle.calls) == 1


def test_a_stage_that_stays_down_is_given_up() -> None:
    handle = Handle([RayActorError()] * 99)
    with pytest.raises(Overloaded, match="down"):
        call(handle)
    assert len(handle.calls) == len(PAUSES_S) + 1


def test_a_silent_replica_is_passed_over_and_its_call_cancelled() -> None:
    handle = Handle([SILENT])
    assert call(handle, SHORT_S) == "scores"
    assert handle.calls == [("frames",)] * 2
    assert handle.responses[0].cancelled


def test_a_second_replica_that_is_full_does_not_end_the_first_ones_call() -> None:
    handle = Handle([SILENT, FULL])
    assert call(handle, SHORT_S) == "scores"
    assert len(handle.calls) == 3


def test_a_second_replica_that_refuses_the_sound_has_the_last_word() -> None:
    handle = Handle([SILENT, AudioUndecodable("no sound")])
    with pytest.raises(AudioUndecodable):
        call(handle, SHORT_S)
    assert handle.responses[0].cancelled


def test_the_same_call_is_never_in_more_than_a_few_replicas() -> None:
    handle = Handle([SILENT] * 99)
    stage: Any = RemoteStage(handle, SHORT_S)  # type: ignore[arg-type]

    async def ask() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(SHORT_S * 20):
                await stage.score("frames")
        await asyncio.sleep(0)

    asyncio.run(ask())
    assert len(handle.calls) == MOST_AT_ONCE
    assert all(response.cancelled for response in handle.responses)


def test_a_caller_who_leaves_cancels_the_call() -> None:
    handle = Handle([SILENT])
    stage: Any = RemoteStage(handle, LONG_S)  # type: ignore[arg-type]

    async def leave() -> None:
        asking = asyncio.create_task(stage.score("frames"))
        while not handle.calls:
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        await asyncio.sleep(0)

    asyncio.run(leave())
    assert handle.responses[0].cancelled


def test_slow_stages_are_asked_twice_for_a_tenth_of_their_calls_at_most() -> None:
    asks = SecondAsks()
    assert sum(asks.spend() for _ in range(100)) == 10
    for _ in range(50):
        asks.earn()
    assert sum(asks.spend() for _ in range(100)) in (4, 5)
