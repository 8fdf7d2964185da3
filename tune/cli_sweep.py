"""The verb `sweep`."""

from pathlib import Path
from typing import Annotated, Any

import typer


def add_verbs(cli: typer.Typer) -> None:
    """Adds `sweep` to the command line."""
    cli.command()(sweep)


def sweep(
    features: Annotated[str, typer.Argument(help="folder that `earshot featurize` wrote, s3://... or gs://...")],
    model: Annotated[str, typer.Option(help="architectures: NAME or NAME,NAME; see `earshot models`")],
    out: Annotated[Path, typer.Option(help="folder for the trials and the report")],
    space: Annotated[
        str, typer.Option(help="what to search: FILE.yaml, or seed: the ranges that come with Earshot")
    ] = "seed",
    trials: Annotated[int, typer.Option(min=0, help="0: every combination of the space's choices")] = 16,
    metric: Annotated[
        str, typer.Option(help="of validation rows: f1 | accuracy | mAP | d_prime | validation_loss | ...")
    ] = "f1",
    scheduler: Annotated[str, typer.Option(help="asha: stops trials that fall behind | none")] = "asha",
    epochs: Annotated[int | None, typer.Option(help="of each trial, at most [default: the space's, else 50]")] = None,
    positive: Annotated[str | None, typer.Option(help="one class against the rest: LABEL or A,B")] = None,
    multi_label: Annotated[
        bool | None, typer.Option("--multi-label/--single-label", help="[default: as the labels are]")
    ] = None,
    min_recordings: Annotated[int, typer.Option(help="leave out labels with fewer recordings")] = 1,
    split: Annotated[bool, typer.Option("--split", help="use the data set's own split")] = False,
    pretrained: Annotated[
        Path | None, typer.Option(help="folder with weights to start from (yamnet, vggish, resnet18)")
    ] = None,
    seed: Annotated[int, typer.Option(help="of settings, weights, batches and division")] = 0,
    workers_per_trial: Annotated[
        int, typer.Option(min=1, help="processes that train one trial together (Ray Train)")
    ] = 1,
    gpus_per_trial: Annotated[
        float, typer.Option(min=0, help="GPUs of a trial, of all its workers; 0.25: four trials share one")
    ] = 0,
    cluster: Annotated[
        bool, typer.Option("--cluster", help="on the Ray cluster (EARSHOT_RAY_ADDRESS, or the one found)")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite/--resume", help="start over, or go on where it stopped")
    ] = False,
) -> None:
    """Search for the settings with which a classifier learns best: many trainings, on all cores or GPUs.

    A sweep that is interrupted goes on when the same command is given again; with more `--trials`, it is extended.

    Example:  `earshot sweep features --model linear,conv1d --trials 32 --out speech-sweep`
    """
    from cluster.terminal import SOME_REJECTED, complain, reporting_errors
    from cluster.terminal import out as stdout

    with reporting_errors():
        from cluster.settings import Settings
        from models.storage import open_store
        from tune.experiment import Experiment
        from tune.recipe import Recipe
        from tune.split import Split
        from tune.sweep import draw_table, sweep_models
        from tune.sweep_report import REPORT, describe_cost
        from tune.trials import Share, Sweep, plan_trials

        models = read_words(model)
        recipe: dict[str, Any] = {"seed": seed} | ({"epochs": epochs} if epochs else {})
        experiment = Experiment(
            features=open_store(features).address,
            model=models[0],
            recipe=Recipe(**recipe),
            split=Split(by_split=split, seed=seed),
            positive=read_words(positive or ""),
            multi_label=multi_label,
            min_recordings=min_recordings,
            pretrained=pretrained.resolve() if pretrained else None,
        )
        searched = Sweep(
            experiment=experiment,
            models=models,
            space=space,
            trials=trials,
            metric=metric,
            scheduler=scheduler,
            seed=seed,
        )
        share = Share(workers_per_trial, gpus_per_trial)
        records = sweep_models(searched, out, Settings(), share=share, cluster=cluster, overwrite=overwrite)
        stdout.print(draw_table(searched, plan_trials(searched), records))
        stdout.print(f"{describe_cost(records)}. Report: {out / REPORT}", highlight=False, soft_wrap=True)
        if failed := [record for record in records.values() if record.state == "failed"]:
            for record in failed:
                complain(f"trial {record.number} failed: {record.reason}")
            raise typer.Exit(SOME_REJECTED)


def read_words(text: str) -> tuple[str, ...]:
    """Words between commas: "a, b" -> ("a", "b"), each once."""
    return tuple(dict.fromkeys(word.strip() for word in text.split(",") if word.strip()))
