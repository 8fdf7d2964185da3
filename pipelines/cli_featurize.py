"""The verb `featurize`."""

from pathlib import Path
from typing import Annotated, Any

import typer

STORED = "audioset-features"  # holds embeddings, not sound


def featurize(
    dataset: Annotated[str, typer.Argument(help="kind of data set: see `earshot data list`")],
    root: Annotated[str, typer.Option(help="where it lies: a folder, s3://... or gs://...")],
    out: Annotated[str, typer.Option(help="where the features go: a folder, s3://... or gs://...")],
    features: Annotated[str, typer.Option(help="logmel | stft | mel | mel64 | embedding")] = "logmel",
    network: Annotated[
        str, typer.Option(help="whose embeddings: yamnet | vggish | audioset (VGGish, PCA, 8 bits)")
    ] = "yamnet",
    window_s: Annotated[
        float | None, typer.Option(help="seconds of sound in a row [default: the features' own]")
    ] = None,
    hop_s: Annotated[float | None, typer.Option(help="seconds between rows [default: the features' own]")] = None,
    patch_hop_s: Annotated[
        float | None, typer.Option(help="seconds between embeddings [default: the network's own]")
    ] = None,
    where: Annotated[str | None, typer.Option(help='only these rows, as "duration_s < 15 and fold != 5"')] = None,
    min_per_class: Annotated[int | None, typer.Option(help="leave out labels with fewer rows")] = None,
    workers: Annotated[int | None, typer.Option(help="processes on this machine [default: one per core]")] = None,
    cluster: Annotated[
        bool, typer.Option("--cluster", help="run on the Ray cluster (EARSHOT_RAY_ADDRESS, or the one found)")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite/--resume", help="start over, or do only what is missing")
    ] = False,
    weights: Annotated[Path | None, typer.Option(help="folder with YAMNet's files, or a model folder")] = None,
    head: Annotated[Path | None, typer.Option(help="model folder whose VGGish embeddings to use")] = None,
) -> None:
    """Turn a data set into features for training: Parquet files with a tensor in each row.

    A run that is interrupted goes on where it stopped when the same command is given again.

    Example:  `earshot featurize esc50 --root ESC-50 --out features --features embedding`
    """
    from cluster.terminal import reporting_errors

    with reporting_errors():
        from cluster.settings import Settings
        from models.storage import open_store
        from pipelines.cli_report import summing_up
        from pipelines.datasets.readers import read_dataset
        from pipelines.driver import Workers
        from pipelines.featurize import StoredWork, build_work, choose_windows
        from pipelines.filters import select
        from pipelines.jobs import featurize as run

        given: dict[str, Any] = {"weights_path": weights, "head": head}
        settings = Settings(**{name: value for name, value in given.items() if value is not None})
        windows = choose_windows(features, window_s, hop_s)
        work = StoredWork() if dataset == STORED else build_work(features, windows, network, patch_hop_s, settings)
        chosen = select(read_dataset(dataset, root), where, min_per_class)
        store = open_store(out)
        with summing_up(store) as summary:
            pool = Workers(settings, workers, cluster)
            summary.report = run(chosen.store, chosen.table, work, store, pool, overwrite=overwrite)
