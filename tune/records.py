"""Where the epochs of a training go: a progress bar, TensorBoard, and MLflow where a server's address is given."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from cluster.terminal import err
from models.errors import StoreFailed
from tune.loop import EpochReport
from tune.train import Run

TENSORBOARD = "tensorboard"
EXPERIMENT = "earshot"


def open_progress() -> Progress:
    """The bars of trainings, on stderr."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[seen]}"))
    return Progress(*columns, TimeElapsedColumn(), console=err, disable=not err.is_terminal)


def flat(report: EpochReport) -> dict[str, float]:
    """A report's numbers by name."""
    losses = {"train_loss": report.train_loss, "validation_loss": report.validation_loss}
    return losses | {f"validation_{name}": value for name, value in report.metrics.items()}


@dataclass
class Records:
    """Records the runs of one run folder."""

    out: Path
    progress: Progress
    epochs: int
    mlflow_uri: str | None = None
    parameters: dict[str, Any] = field(default_factory=dict)

    @contextmanager
    def watching(self, run: Run) -> Iterator[Callable[[EpochReport], None]]:
        """What is told of the epochs of one run, while it lasts."""
        from torch.utils.tensorboard import SummaryWriter

        bar = self.progress.add_task(f"{run.experiment.model}, {run.name}", total=self.epochs, seen="")
        with SummaryWriter(str(self.out / TENSORBOARD / run.name)) as writer, self._mlflow_run(run) as to_mlflow:

            def on_epoch(report: EpochReport) -> None:
                numbers = flat(report)
                for name, value in numbers.items():
                    writer.add_scalar(name, value, report.epoch)
                to_mlflow(numbers, report.epoch)
                seen = f"loss {report.train_loss:.3f}, validation {report.validation_loss:.3f}"
                self.progress.update(bar, completed=report.epoch + 1, seen=seen)

            yield on_epoch

    @contextmanager
    def _mlflow_run(self, run: Run) -> Iterator[Callable[[dict[str, float], int], None]]:
        if self.mlflow_uri is None:
            yield lambda *_: None
            return
        import mlflow

        try:
            mlflow.set_tracking_uri(self.mlflow_uri)
            mlflow.set_experiment(EXPERIMENT)
            with mlflow.start_run(run_name=f"{self.out.name}/{run.name}"):
                mlflow.log_params(self.parameters)
                yield lambda numbers, epoch: mlflow.log_metrics(numbers, step=epoch)
        except mlflow.exceptions.MlflowException as error:
            raise StoreFailed(f"MLflow at {self.mlflow_uri}: {error}") from error
