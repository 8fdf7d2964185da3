"""Which failed calls to another replica are sent again, with a stand-in for Ray Serve's handle."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from ray.exceptions import ActorUnavailableError, RayActorError
from ray.serve.exceptions import BackPressureError

from models.errors import AudioUndecodable, Overloaded
from serve.app import PAUSES_S, RemoteStage


class Handle:
    """Fails with each of the given errors in turn, then answers."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.calls: list[tuple[object, ...]] = []

    @property
    def score(self) -> "Handle":
        return self

    @property
    def remote(self) -> Callable[..., Awaitable[str]]:
        return self._call

    async def _call(self, *args: object) -> str:
        self.calls.append(args)
        if self.errors:
            raise self.errors.pop(0)
        return "scores"


def call(handle: Handle) -> object:
    return asyncio.run(RemoteStage(handle).score("frames"))


def test_a_call_whose_replica_died_is_sent_again_with_the_same_arguments() -> None:
    handle = Handle(RayActorError(), ActorUnavailableError("gone", None))
    assert call(handle) == "scores"
    assert handle.calls == [("frames",)] * 3


def test_our_own_errors_are_not_tried_again() -> None:
    handle = Handle(AudioUndecodable("no sound"))
    with pytest.raises(AudioUndecodable):
        call(handle)
    assert len(handle.calls) == 1


def test_a_full_queue_is_not_tried_again_and_says_come_back() -> None:
    handle = Handle(BackPressureError(num_queued_requests=9, max_queued_requests=9))
    with pytest.raises(Overloaded, match="again"):
        call(handle)
    assert len(handle.calls) == 1


def test_a_stage_that_stays_down_is_given_up() -> None:
    handle = Handle(*[RayActorError()] * 99)
    with pytest.raises(Overloaded, match="down"):
        call(handle)
    assert len(handle.calls) == len(PAUSES_S) + 1
