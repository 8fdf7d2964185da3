"""What runs in Tune's processes: a trial of one worker as a plain function, a trial of several as a job beside the process.

Whatever goes wrong in a trial is its result. Tune hears of each epoch, and of the end in a last result that has a `state`.
"""

import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ray import tune as ray_tune

from models.errors import EarshotError
from tune.apart import Job
from tune.experiment import Experiment, run_experiment
from tune.loop import EpochReport
from tune.trials import Share, Sweep, measure

Result = dict[str, Any]


@dataclass(frozen=True)
class Given:
    """What every trial of a sweep is given beside its number."""

    experiments: Mapping[int, Experiment]
    sweep: Sweep
    share: Share
    scratch: Path


def epoch_result(report: EpochReport, sweep: Sweep) -> Result:
    """An epoch as Tune is told of it: more of the `value` is better."""
    value = measure(report, sweep.metric)
    return {
        "epoch": report.epoch + 1,
        "value": math.nan if value is None else sweep.sign * value,
        "report": asdict(report),
    }


def end_result(error: Exception | None = None) -> Result:
    """The end as Tune is told of it."""
    if error is None:
        return {"value": math.nan, "state": "finished", "reason": None}
    reason = str(error) if isinstance(error, EarshotError) else f"{type(error).__name__}: {error}"
    return {"value": math.nan, "state": "failed", "reason": reason}


def run_alone(config: dict[str, Any], given: Given) -> None:
    """A trial of one worker, in a process that goes on to the next trial."""
    began_s = time.perf_counter()

    def tell(result: Result) -> None:
        ray_tune.report(result | {"seconds": time.perf_counter() - began_s})

    try:
        run_experiment(given.experiments[config["number"]], lambda report, _: tell(epoch_result(report, given.sweep)))
    except Exception as error:
        tell(end_result(error))
    else:
        tell(end_result())


class RunTogether(ray_tune.Trainable):  # type: ignore[misc]
    """A trial of several workers. Tune waits for `cleanup` before it gives the workers' cores to another trial."""

    def setup(self, config: dict[str, Any], given: Given) -> None:
        """Starts the job."""
        self._began_s, self._sweep = time.perf_counter(), given.sweep
        number = config["number"]
        self._job = Job(given.experiments[number], given.scratch / f"trial{number}", given.share)

    def step(self) -> Result:
        """The next epoch, or the end."""
        try:
            report = self._job.next_epoch()
            result = epoch_result(report, self._sweep) if report else end_result() | {"done": True}
        except Exception as error:
            result = end_result(error) | {"done": True}
        return result | {"seconds": time.perf_counter() - self._began_s}

    def cleanup(self) -> None:
        """Ends the job."""
        self._job.close()
