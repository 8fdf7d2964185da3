"""A training of several workers as a Ray job of its own, in a process beside Tune's.

Tune ends a trial by ending its process. The workers of a Ray Train inside then die, but not the placement that holds their CPUs and GPUs:
it lives as long as its job, and Ray's own cleaner asks the dashboard, which is not there. The next trial would wait for ever. A job of
its own is asked to end, and ends Ray Train in good order; should it be killed, Ray takes back what a dead job held.
"""

import contextlib
import logging
import multiprocessing
import os
import signal
import threading
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import ray

from models.errors import EarshotError, JobFailed
from tune.experiment import Experiment
from tune.loop import EpochReport
from tune.trials import Share

DONE = None  # a job's last word


class Job:
    """Trains while it is listened to: Ray Train with the share's workers, in the Ray session of this process."""

    def __init__(self, experiment: Experiment, folder: Path, share: Share) -> None:
        """Starts the process. `folder`, seen by all machines, takes the checkpoints."""
        context = ray.get_runtime_context()
        session = {
            "address": context.gcs_address,
            "_node_ip_address": ray.util.get_node_ip_address(),
            "runtime_env": dict(context.runtime_env),
        }
        folder.mkdir(parents=True, exist_ok=True)
        spawning = multiprocessing.get_context("spawn")
        self._pipe, theirs = spawning.Pipe()
        self._process = spawning.Process(target=_train, args=(theirs, session, experiment, folder, share))
        self._process.start()
        theirs.close()

    def next_epoch(self) -> EpochReport | None:
        """Waits for an epoch; None when the training is done. Raises EarshotError's kinds, JobFailed where the process died."""
        try:
            told: EpochReport | EarshotError | None = self._pipe.recv()
        except EOFError:
            raise JobFailed("the process that led the workers died") from None
        if isinstance(told, EarshotError):
            raise told
        return told

    def close(self) -> None:
        """Ends the training, if it has not ended, and waits until all that it held is free."""
        self._pipe.close()
        self._process.join()


def _train(pipe: Connection, session: dict[str, Any], experiment: Experiment, folder: Path, share: Share) -> None:
    """What the process runs."""
    from tune.workers import train_together

    signal.signal(signal.SIGINT, signal.default_int_handler)  # Ray's processes, which start it, ignore this signal
    threading.Thread(target=_stop_when_alone, args=(pipe,), daemon=True).start()
    ray.init(**session, log_to_driver=False, logging_level=logging.ERROR)
    with contextlib.suppress(BrokenPipeError, KeyboardInterrupt):
        try:
            gpus = share.gpus / share.workers
            train_together(experiment, folder, pipe.send, workers=share.workers, gpus_per_worker=gpus)
        except EarshotError as error:
            pipe.send(error)
        else:
            pipe.send(DONE)


def _stop_when_alone(pipe: Connection) -> None:
    """Interrupts this process when the other end of the pipe is closed; Ray Train then ends in good order."""
    with contextlib.suppress(EOFError, OSError):
        pipe.recv()
    os.kill(os.getpid(), signal.SIGINT)
