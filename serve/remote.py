"""A stage in other replicas, behind the methods it has at home: calls outlive replicas that die or fall silent.

Every stage is idempotent, so the same call may be made twice; only one answer is ever used.
"""

import asyncio
import functools
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from ray.exceptions import RayActorError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle

from models.errors import Overloaded

PAUSES_S = (0.05, 0.1, 0.2, 0.4, 0.8)  # between the tries of a call whose replica died
MOST_AT_ONCE = 3  # the same call, in as many replicas

logger = logging.getLogger("earshot.remote")


@dataclass
class SecondAsks:
    """How many calls may be made a second time while the first still runs: a tenth of those answered, and a few at once.

    Slowness alone must not double the work of stages that are slow because they have too much of it.
    """

    most: float = 10.0
    share: float = 0.1
    left: float = field(init=False)

    def __post_init__(self) -> None:
        self.left = self.most

    def earn(self) -> None:
        """A call was answered."""
        self.left = min(self.most, self.left + self.share)

    def spend(self) -> bool:
        """May one more be made?"""
        if self.left < 1:
            return False
        self.left -= 1
        return True


class RemoteStage:
    """Has the methods of the stage behind the handle.

    A call whose replica died is sent again. One that is silent for `patience_s` is sent to another replica as well, and the first
    answer is taken: a stopped replica, or one on a machine that lost its power, does not say that it is gone. Our own errors and full
    queues are not tried again.
    """

    def __init__(self, handle: DeploymentHandle, patience_s: float) -> None:
        self._handle = handle
        self._patience_s = patience_s
        self._second_asks = SecondAsks()

    def __getattr__(self, method: str) -> Callable[..., Awaitable[Any]]:
        return functools.partial(self._call, method)

    async def _call(self, method: str, *args: object) -> Any:
        tries = {asyncio.create_task(self._try(method, *args))}
        started = 1
        try:
            while True:
                done, tries = await asyncio.wait(tries, timeout=self._patience_s, return_when=asyncio.FIRST_COMPLETED)
                told = sorted(done, key=_is_overloaded)
                if told and not (tries and _is_overloaded(told[0])):  # else what still runs may answer
                    self._second_asks.earn()
                    return told[0].result()
                if not done and started < MOST_AT_ONCE and self._second_asks.spend():
                    logger.warning("%s: no answer in %g s, asking another replica, too", method, self._patience_s)
                    tries.add(asyncio.create_task(self._try(method, *args)))
                    started += 1
        finally:
            for unused in tries:
                unused.cancel()

    async def _try(self, method: str, *args: object) -> Any:
        pauses_s = iter(PAUSES_S)
        while True:
            response = getattr(self._handle, method).remote(*args)
            try:
                return await response
            except asyncio.CancelledError:
                response.cancel()
                raise
            except (BackPressureError, DeploymentUnavailableError) as error:
                raise Overloaded("every queue is full: send the request again a little later") from error
            except RayActorError as error:
                if (pause_s := next(pauses_s, None)) is None:
                    raise Overloaded("a stage of the service is down: send the request again a little later") from error
                logger.warning("%s: the replica died, trying again", method)
                await asyncio.sleep(pause_s)


def _is_overloaded(ended: asyncio.Task[Any]) -> bool:
    return isinstance(ended.exception(), Overloaded)
