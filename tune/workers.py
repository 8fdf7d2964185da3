"""Several processes train one network together: Ray Train (V2), data-parallel. The loop itself is tune/loop.py.

Rank 0 saves a checkpoint after each epoch; a worker that dies is replaced, and all go on from the last one. The same run folder goes on
after the driver's death, too.
"""

import contextlib
import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ray.train
import ray.train.torch
from ray.train import Checkpoint, CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer
from ray.util.queue import Queue

from models.errors import EarshotError, JobFailed
from tune.experiment import Experiment, Outcome, run_experiment
from tune.loop import Crew, EpochReport, Trainer
from tune.outcomes import OUTCOME, load_outcome, save_outcome

CHECKPOINT = "checkpoint.pt"
RAY_FOLDER = "ray"
MAX_FAILURES = 3
ENVIRONMENT = {
    "RAY_TRAIN_V2_ENABLED": "1",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",  # with 2, the default, each report costs seconds
}
END = None  # the last thing in the queue


def prepare_ray_train() -> None:
    """Sets what Ray Train reads from the environment; comes before Ray starts."""
    os.environ.update(ENVIRONMENT)


def train_together(
    experiment: Experiment,
    folder: Path,
    on_epoch: Callable[[EpochReport], None],
    *,
    workers: int,
    gpus_per_worker: float,
) -> Outcome:
    """Trains in `workers` processes, each with a core and its share of GPUs. Raises our own errors as they are, JobFailed for Ray's."""
    resources = {"CPU": 1.0} | ({"GPU": gpus_per_worker} if gpus_per_worker else {})
    with _listening(on_epoch) as heard:
        trainer = TorchTrainer(
            _work,
            train_loop_config={"experiment": experiment.model_dump(mode="json"), "heard": heard.queue},
            scaling_config=ScalingConfig(
                num_workers=workers, use_gpu=gpus_per_worker > 0, resources_per_worker=resources
            ),
            torch_config=TorchConfig(backend="nccl" if gpus_per_worker else "gloo"),
            run_config=RunConfig(
                name=RAY_FOLDER,
                storage_path=str(folder.resolve()),
                failure_config=FailureConfig(max_failures=MAX_FAILURES),
                checkpoint_config=CheckpointConfig(num_to_keep=2),
            ),
        )
        try:
            result = trainer.fit()
        except Exception as error:  # Ray's, of many kinds
            first = str(error).strip().splitlines()[0]
            raise JobFailed(f"training stopped: {first}. The same command goes on from the last checkpoint") from error
    if heard.errors:
        raise heard.errors[0]
    assert result.checkpoint is not None
    with result.checkpoint.as_directory() as path:
        outcome = load_outcome(Path(path))
    assert outcome is not None
    return outcome


class _Heard:
    """What the workers tell the driver: epochs, and errors of ours, after which trying again would not help."""

    def __init__(self) -> None:
        self.queue = Queue(actor_options={"num_cpus": 0})
        self.errors: list[EarshotError] = []

    def listen(self, on_epoch: Callable[[EpochReport], None]) -> None:
        """Hands on each report until the END."""
        while (thing := self.queue.get()) is not END:
            if isinstance(thing, EarshotError):
                self.errors.append(thing)
            else:
                on_epoch(thing)


@contextlib.contextmanager
def _listening(on_epoch: Callable[[EpochReport], None]) -> Iterator[_Heard]:
    """Listens to the workers while the block runs."""
    heard = _Heard()
    listener = threading.Thread(target=heard.listen, args=(on_epoch,), daemon=True)
    listener.start()
    try:
        yield heard
    finally:
        heard.queue.put(END)
        listener.join()
        heard.queue.shutdown()


def _work(config: dict[str, Any]) -> None:
    """What each worker runs."""
    try:
        _train(Experiment.model_validate(config["experiment"]), config["heard"])
    except EarshotError as error:
        config["heard"].put(error)


def _train(experiment: Experiment, heard: Queue) -> None:
    context = ray.train.get_context()
    crew = Crew(context.get_world_rank(), context.get_world_size(), ray.train.torch.prepare_model)

    def tell_ray(save: Callable[[Path], None]) -> None:
        """Reports to Ray; rank 0 with what `save` writes as the checkpoint."""
        if crew.rank:
            ray.train.report({})
            return
        with tempfile.TemporaryDirectory() as draft:
            save(Path(draft))
            ray.train.report({}, checkpoint=Checkpoint.from_directory(draft))

    def after_epoch(report: EpochReport, trainer: Trainer) -> None:
        tell_ray(lambda draft: trainer.save(draft / CHECKPOINT))
        if crew.rank == 0:
            heard.put(report)

    def run(checkpoint: Path | None) -> Outcome:
        device = str(ray.train.torch.get_device())
        return run_experiment(experiment, after_epoch, device=device, checkpoint=checkpoint, crew=crew)

    if (last := ray.train.get_checkpoint()) is None:
        outcome = run(None)
    else:
        with last.as_directory() as path:
            if (Path(path) / OUTCOME).exists():
                return
            outcome = run(Path(path) / CHECKPOINT)
    tell_ray(lambda draft: save_outcome(draft, outcome))
