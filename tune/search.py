"""Runs trials on Ray Tune, many at a time; ASHA stops those that fall behind. Each result is handed on as it comes.

A trial of one worker is a plain function in a process that goes on to the next trial: start-up costs nothing. A trial of several workers
runs Ray Train inside. There the trial itself holds next to no CPU, and there are never more trials at a time than workers for all of
them: trials that hold the CPUs for which their own workers wait would wait for ever (Ray's issue 54305).

What has ended is kept by the caller and not run again. Ray's own `Tuner.restore` is not used: it goes back to the last snapshot of the
driver, taken every 10 s or less often, and short trials that ended since would be run twice.
"""

import math
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ray
from ray import tune as ray_tune
from ray.tune.schedulers import ASHAScheduler

from models.errors import BadOption, EarshotError
from tune.experiment import Experiment, run_experiment
from tune.loop import EpochReport
from tune.trials import Record, Share, Sweep, Trial, measure

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
    waiting = {trial.number: trial for trial in trials if trial.number not in done}
    told = ray_tune.with_parameters(
        _run_trial,
        experiments={number: trial.experiment.model_dump(mode="json") for number, trial in waiting.items()},
        sweep=sweep.model_dump(mode="json"),
        share=share,
        scratch=scratch.resolve(),
    )
    tuner = ray_tune.Tuner(
        ray_tune.with_resources(told, _resources(share)),
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
            callbacks=[_Listener(watch, share)],
            failure_config=ray_tune.FailureConfig(max_failures=RETRIES),
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
            scheduler.on_trial_result(None, trial, _tell(report, sweep))
    return scheduler


def _tell(report: EpochReport, sweep: Sweep) -> dict[str, Any]:
    """An epoch as Tune is told of it: more of the value is better."""
    value = measure(report, sweep.metric)
    return {"epoch": report.epoch + 1, "value": math.nan if value is None else sweep.sign * value}


def _run_trial(
    config: dict[str, Any],
    experiments: Mapping[int, dict[str, Any]],
    sweep: dict[str, Any],
    share: Share,
    scratch: Path,
) -> None:
    """One trial, in a process of Tune's. Whatever goes wrong in it is its result."""
    number = config["number"]
    searched = Sweep.model_validate(sweep)
    began_s = time.perf_counter()

    def tell(**result: Any) -> None:
        ray_tune.report({"value": math.nan, "seconds": time.perf_counter() - began_s} | result)

    def after_epoch(report: EpochReport, *_: object) -> None:
        tell(report=asdict(report), **_tell(report, searched))

    try:
        _run_experiment(Experiment.model_validate(experiments[number]), after_epoch, share, scratch / f"trial{number}")
    except Exception as error:
        known = isinstance(error, EarshotError)
        tell(state="failed", reason=str(error) if known else f"{type(error).__name__}: {error}")
    else:
        tell(state="finished", reason=None)


def _run_experiment(experiment: Experiment, after_epoch: Callable[..., None], share: Share, folder: Path) -> None:
    if share.workers == 1:
        run_experiment(experiment, after_epoch)
        return
    from tune.workers import train_together

    folder.mkdir(parents=True, exist_ok=True)
    train_together(experiment, folder, after_epoch, workers=share.workers, gpus_per_worker=share.gpus / share.workers)


class _Listener(ray_tune.Callback):  # type: ignore[misc]
    """Makes records of what Tune hears, and hands them on."""

    def __init__(self, watch: Callable[[Record], None], share: Share) -> None:
        self._watch, self._share = watch, share
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
        if record.state == "running":
            record.state = "stopped"
        self._watch(record)

    def on_trial_error(self, *, trial: Any, **_: Any) -> None:
        record = self._record(trial)
        record.state, record.reason = "failed", f"its process died: {_last_line(trial.get_error())}"
        self._watch(record)

    def _record(self, trial: Any) -> Record:
        number = trial.config["number"]
        return self._records.setdefault(number, Record(number=number))


def _last_line(error: object) -> str:
    return (str(error).strip().splitlines() or ["no reason is known"])[-1]
