"""Runs trials on Ray Tune, many at a time; ASHA stops those that fall behind. Each result is handed on as it comes.

A trial of one worker is a plain function in a process that goes on to the next trial: start-up costs nothing. A trial of several workers
holds next to no CPU itself, and there are never more trials at a time than workers for all of them: trials that hold the CPUs for which
their own workers wait would wait for ever (Ray's issue 54305). What runs in the processes is in tune/trial_process.py.

What has ended is kept by the caller and not run again. Ray's own `Tuner.restore` is not used: it goes back to the last snapshot of the
driver, taken every 10 s or less often, and short trials that ended since would be run twice.
"""

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ray
from ray import tune as ray_tune
from ray.tune.schedulers import ASHAScheduler

from models.errors import BadOption
from tune.experiment import Experiment
from tune.loop import EpochReport
from tune.trial_process import Given, RunTogether, epoch_result, run_alone
from tune.trials import Record, Share, Sweep, Trial

ENVIRONMENT = {
    "RAY_AIR_NEW_OUTPUT": "0",  # it speaks even when told to be silent
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # results are kept by the caller
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C ends the sweep; it goes on with the next call
}
RAY_FOLDER = "ray"
OUTER_CPUS = 0.01  # of a trial whose workers hold CPUs of their own; Tune does not take zero
REDUCTION = 3  # one of three goes on from each rung
RETRIES = 1  # of a trial whose process was killed


def run_trials(
    trials: Sequence[Trial],
    done: Mapping[int, Record],
    sweep: Sweep,
    folder: Path,
    share: Share,
    watch: Callable[[Record], None],
) -> None:
    """Runs the trials that are not done, in a Ray session that is open. `watch` is told of every epoch and every end.

    `folder` is seen by all machines of the cluster. Raises BadOption where no trial would ever fit.
    """
    concurrent = _count_concurrent(share)
    os.environ.update(ENVIRONMENT)
    scratch = folder / RAY_FOLDER
    shutil.rmtree(scratch, ignore_errors=True)
    waiting = {trial.number: trial.experiment for trial in trials if trial.number not in done}
    given = Given(waiting, sweep, share, scratch.resolve())
    trainable = ray_tune.with_parameters(run_alone if share.workers == 1 else RunTogether, given=given)
    tuner = ray_tune.Tuner(
        ray_tune.with_resources(trainable, _resources(share)),
        param_space={"number": ray_tune.grid_search(list(waiting))},
        tune_config=ray_tune.TuneConfig(
            scheduler=_build_scheduler(trials, done, sweep),
            max_concurrent_trials=concurrent if share.workers > 1 else None,
            reuse_actors=share.workers == 1,
            trial_dirname_creator=lambda trial: str(trial.config["number"]),
        ),
        run_config=ray_tune.RunConfig(
            name="tune",
            storage_path=str(scratch.resolve()),
            verbose=0,
            callbacks=[_Listener(watch, waiting, share)],
            failure_config=ray_tune.FailureConfig(max_failures=RETRIES),
            checkpoint_config=ray_tune.CheckpointConfig(checkpoint_at_end=False),
        ),
    )
    try:
        tuner.fit()
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _resources(share: Share) -> dict[str, float]:
    """What Tune sets aside for a trial."""
    if share.workers > 1:
        return {"CPU": OUTER_CPUS}
    return {"CPU": 1.0} | ({"GPU": share.gpus} if share.gpus else {})


def _count_concurrent(share: Share) -> int:
    """How many trials may run at a time; of several workers, with a CPU to spare for what the trials hold themselves."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    cpus = sum(int(node.get("CPU", 0)) for node in nodes)
    gpus = sum(node.get("GPU", 0.0) for node in nodes)
    fitting = cpus if share.workers == 1 else (cpus - 1) // share.workers
    if share.gpus:
        fitting = min(fitting, int(gpus / share.gpus))
    if fitting < 1:
        raise BadOption(
            f"a trial of {share.workers} workers and {share.gpus:g} GPUs does not fit: "
            f"Ray has {cpus} CPUs and {gpus:g} GPUs here. Use fewer, or --cluster"
        )
    return fitting


def _build_scheduler(trials: Sequence[Trial], done: Mapping[int, Record], sweep: Sweep) -> Any:
    """ASHA (Li et al. 2018, arXiv 1810.05934), which knows what earlier calls saw; None lets all trials run to their end."""
    if sweep.scheduler == "none":
        return None
    epochs = max(trial.experiment.recipe.epochs for trial in trials)
    scheduler = ASHAScheduler(
        time_attr="epoch",
        metric="value",
        mode="max",
        max_t=epochs,
        grace_period=max(1, epochs // 10),
        reduction_factor=REDUCTION,
        stop_last_trials=False,
    )
    for record in done.values():
        trial = SimpleNamespace(trial_id=f"done {record.number}")
        scheduler.on_trial_add(None, trial)
        for report in record.epochs:
            scheduler.on_trial_result(None, trial, epoch_result(report, sweep))
    return scheduler


class _Listener(ray_tune.Callback):  # type: ignore[misc]
    """Makes records of what Tune hears, and hands them on."""

    def __init__(self, watch: Callable[[Record], None], experiments: Mapping[int, Experiment], share: Share) -> None:
        self._watch, self._experiments, self._share = watch, experiments, share
        self._records: dict[int, Record] = {}

    def on_trial_start(self, *, trial: Any, **_: Any) -> None:
        self._watch(self._record(trial))

    def on_trial_result(self, *, trial: Any, result: dict[str, Any], **_: Any) -> None:
        record = self._record(trial)
        record.cpu_s = result["seconds"] * self._share.workers
        record.gpu_s = result["seconds"] * self._share.gpus
        if "state" in result:  # the last one
            record.state, record.reason = result["state"], result["reason"]
            return
        report = EpochReport(**result["report"])
        record.epochs[report.epoch :] = [report]  # a trial that was begun again says some epochs twice
        self._watch(record)

    def on_trial_complete(self, *, trial: Any, **_: Any) -> None:
        record = self._record(trial)
        if record.state == "running":  # by ASHA, perhaps in the last epoch
            planned = self._experiments[record.number].recipe.epochs
            record.state = "stopped" if len(record.epochs) < planned else "finished"
        self._watch(record)

    def on_trial_error(self, *, trial: Any, **_: Any) -> None:
        record = self._record(trial)
        record.state, record.reason = "failed", f"Ray could not finish it: {_last_line(trial.get_error())}"
        self._watch(record)

    def _record(self, trial: Any) -> Record:
        number = trial.config["number"]
        return self._records.setdefault(number, Record(number=number))


def _last_line(error: object) -> str:
    return (str(error).strip().splitlines() or ["no reason is known"])[-1]
