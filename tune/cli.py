"""The verb `train`; `sweep` and `export` have files of their own."""

from pathlib import Path
from typing import Annotated, Any

import typer

import tune.cli_export
import tune.cli_sweep


def add_verbs(cli: typer.Typer) -> None:
    """Adds `train`, `sweep` and `export` to the command line."""
    cli.command()(train)
    cli.command("models")(list_models)
    tune.cli_sweep.add_verbs(cli)
    tune.cli_export.add_verbs(cli)


def train(
    features: Annotated[str, typer.Argument(help="folder that `earshot featurize` wrote, s3://... or gs://...")],
    model: Annotated[str, typer.Option(help="architecture: see `earshot models`")],
    out: Annotated[Path, typer.Option(help="folder for the runs and the model")],
    folds: Annotated[
        bool, typer.Option("--folds", help="cross-validate over the data set's folds, then train on all of them")
    ] = False,
    split: Annotated[bool, typer.Option("--split", help="use the data set's own split")] = False,
    option: Annotated[
        list[str] | None, typer.Option(help="of the architecture: name=value, as often as needed")
    ] = None,
    positive: Annotated[str | None, typer.Option(help="one class against the rest: LABEL or A,B")] = None,
    multi_label: Annotated[
        bool | None, typer.Option("--multi-label/--single-label", help="[default: as the labels are]")
    ] = None,
    min_recordings: Annotated[int, typer.Option(help="leave out labels with fewer recordings")] = 1,
    pretrained: Annotated[
        Path | None, typer.Option(help="folder with weights to start from (yamnet, vggish, resnet18)")
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="at most [default: 50]")] = None,
    batch_size: Annotated[int | None, typer.Option(help="rows at a time, of each worker [default: 32]")] = None,
    lr: Annotated[float | None, typer.Option(help="learning rate [default: 0.001]")] = None,
    optimizer: Annotated[
        str | None, typer.Option(help="adam | adamw | rmsprop | adagrad | sgd [default: adamw]")
    ] = None,
    weight_decay: Annotated[float | None, typer.Option(help="[default: 0.0001]")] = None,
    mixup_alpha: Annotated[float | None, typer.Option(help="mix pairs of rows; 0: off [default: 0]")] = None,
    label_smoothing: Annotated[float | None, typer.Option(help="[default: 0]")] = None,
    spec_augment: Annotated[bool | None, typer.Option("--spec-augment", help="mask bands and frames")] = None,
    balance: Annotated[bool | None, typer.Option("--balance/--no-balance", help="rare classes count more")] = None,
    patience: Annotated[int | None, typer.Option(help="epochs without progress until the end [default: 10]")] = None,
    precision: Annotated[str | None, typer.Option(help="auto | fp32 | bf16")] = None,
    validation_share: Annotated[float | None, typer.Option(help="of the recordings; 0: none [default: 0.15]")] = None,
    seed: Annotated[int, typer.Option(help="of weights, batches and division")] = 0,
    workers: Annotated[int, typer.Option(help="processes that train together (Ray Train)")] = 1,
    gpus: Annotated[float, typer.Option(help="GPUs for each worker")] = 0,
    cluster: Annotated[
        bool, typer.Option("--cluster", help="on the Ray cluster (EARSHOT_RAY_ADDRESS, or the one found)")
    ] = False,
    mlflow: Annotated[str | None, typer.Option(help="address of an MLflow server to log to, too")] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite/--resume", help="start over, or go on where it stopped")
    ] = False,
    weights: Annotated[Path | None, typer.Option(help="where the network under a head is: as for featurize")] = None,
) -> None:
    """Train a classifier on features. It can be served: `earshot up --model OUT`.

    A run that is interrupted goes on from its last epoch when the same command is given again.

    Example:  `earshot train features --model linear --out dogs --folds`
    """
    given = {name: value for name, value in locals().items() if value is not None}
    from cluster.terminal import reporting_errors

    with reporting_errors():
        from cluster.settings import Settings
        from models.storage import open_store
        from tune.experiment import Experiment
        from tune.job import train_model
        from tune.recipe import Recipe
        from tune.split import Split

        recipe = Recipe(**{name: given[name] for name in Recipe.model_fields if name in given})
        divided = {"by_split": split, "seed": seed} | (
            {"validation_share": validation_share} if validation_share is not None else {}
        )
        experiment = Experiment(
            features=open_store(features).address,
            model=model,
            options=read_options(option or []),
            recipe=recipe,
            split=Split(**divided),
            positive=tuple(name.strip() for name in positive.split(",")) if positive else (),
            multi_label=multi_label,
            min_recordings=min_recordings,
            pretrained=pretrained.resolve() if pretrained else None,
        )
        places: dict[str, Any] = {"weights_path": weights} if weights else {}
        train_model(
            experiment,
            out,
            Settings(**places),
            folds=folds,
            workers=workers,
            gpus=gpus,
            cluster=cluster,
            mlflow=mlflow,
            overwrite=overwrite,
        )


def list_models() -> None:
    """The architectures that `train` and `sweep` know, with the features they take and their options.

    Example:  `earshot models`
    """
    from cluster.terminal import reporting_errors

    with reporting_errors():
        from rich.table import Table

        from cluster.terminal import out
        from models.architectures import ARCHITECTURES, describe_architectures

        table = Table("model", "features", "what it is", "parameters", "options (and defaults)", box=None)
        for row in describe_architectures():
            options = ARCHITECTURES[row.name].options().model_dump()
            shown = ", ".join(f"{name}={value}" for name, value in options.items())
            table.add_row(row.name, ", ".join(row.takes), row.about, f"{row.parameters:,}", shown)
        out.print(table)
        out.print("Parameters: of AudioSet's 10 x 128 features, one patch or one picture, and ten classes.")


def read_options(words: list[str]) -> dict[str, Any]:
    """["hidden=64", "frozen=true"] -> values; a value is JSON where it can be, else a word. Raises BadOption."""
    import json

    from models.errors import BadOption

    options: dict[str, Any] = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not equals:
            raise BadOption(f"--option {word}: write name=value, as in --option hidden=64")
        try:
            options[name.replace("-", "_")] = json.loads(text)
        except ValueError:
            options[name.replace("-", "_")] = text
    return options
