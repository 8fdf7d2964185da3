"""`earshot train` from end to end: runs, model, report."""

import contextlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from rich.table import Table

from cluster.session import open_session, prepare_environment
from cluster.settings import Settings
from cluster.terminal import err
from cluster.terminal import out as stdout
from models.bundle import Bundle
from models.errors import BadOption
from models.features import read_state
from models.storage import open_store
from tune.experiment import Experiment, Outcome
from tune.publish import find_embedder_of, publish
from tune.records import Records, open_progress
from tune.train import RunOne, open_run_folder, plan_runs, run_here, train_all


def train_model(
    experiment: Experiment,
    out: Path,
    settings: Settings,
    *,
    folds: bool = False,
    workers: int = 1,
    gpus: float = 0,
    cluster: bool = False,
    mlflow: str | None = None,
    overwrite: bool = False,
) -> Bundle:
    """Trains into a run folder, from where it was left, and says what came of it. Raises EarshotError's kinds."""
    if folds and experiment.split.by_split:
        raise BadOption("--folds and --split: choose one")
    runs = plan_runs(experiment, folds)
    config = open_run_folder(out, experiment, folds, overwrite)
    with _runner(settings, workers, gpus, cluster) as run_one, open_progress() as progress:
        records = Records(out, progress, experiment.recipe.epochs, mlflow, config["experiment"]["recipe"])
        outcomes = train_all(runs, out, run_one, records.watching)
    state = read_state(open_store(experiment.features))
    assert state is not None
    embedder = find_embedder_of(state.made, settings.places(), settings.head_places())
    bundle = publish(out, runs[-1].experiment, config, outcomes, embedder)
    _say(bundle, outcomes)
    return bundle


@contextlib.contextmanager
def _runner(settings: Settings, workers: int, gpus: float, cluster: bool) -> Iterator[RunOne]:
    """One worker without Ray's GPUs trains in this process; more of them with Ray Train."""
    if workers == 1 and not gpus and not cluster:
        yield run_here
        return
    address = "auto" if cluster and settings.ray_address == "local" else settings.ray_address
    prepare_environment(settings)
    from tune.workers import prepare_ray_train, train_together

    prepare_ray_train()
    with open_session(settings.model_copy(update={"ray_address": address}), num_cpus=workers + 1):
        yield partial(train_together, workers=workers, gpus_per_worker=gpus)


def _say(bundle: Bundle, outcomes: dict[str, Outcome]) -> None:
    table = Table("run", "epochs", "seconds", "waiting for data", "test", box=None)
    for name, outcome in outcomes.items():
        numbers = outcome.test.metrics.headline() if outcome.test else {}
        shown = "  ".join(f"{key} {value:.3f}" for key, value in numbers.items())
        table.add_row(
            name, str(len(outcome.epochs)), f"{outcome.seconds:.1f}", f"{outcome.wait_share:.1%}", shown or "-"
        )
    stdout.print(table)
    stdout.print(f"{bundle.path}: {bundle.card.accuracy}", highlight=False, soft_wrap=True)
    if bundle.card.takes == "patches":
        stdout.print(f"serve it:  earshot up --model {bundle.path}", highlight=False, soft_wrap=True)
    else:
        err.print(
            "it cannot be served: it takes features that the service does not make, or its embedding network is not here",
            soft_wrap=True,
        )
