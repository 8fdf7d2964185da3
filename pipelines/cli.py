"""The verbs of this room. Those with much to say have a file of their own; here is `classify`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipelines.cli_data import add_data_verbs
from pipelines.cli_featurize import featurize
from pipelines.cli_watch import watch

if TYPE_CHECKING:
    from rich.console import Console

    from cluster.settings import Settings
    from models.answer import Answer, Options
    from pipelines.driver import Workers

BAR = 20  # characters of a score of 1.0
SHADES = " ▁▂▃▄▅▆▇█"


def add_verbs(cli: typer.Typer) -> None:
    """Adds them to the command line; each one's docstring is its help text."""
    cli.command()(classify)
    cli.command()(featurize)
    cli.command()(watch)
    add_data_verbs(cli)


def classify(
    paths: Annotated[
        list[str],
        typer.Argument(
            help="sound files, or folders of them; with --out also a manifest, s3://, gs://", metavar="PATH..."
        ),
    ],
    top_k: Annotated[int, typer.Option(help="how many labels")] = 5,
    threshold: Annotated[
        float | None,
        typer.Option(help="events are runs of patches that score at or above it [default: the model's own, or 0.3]"),
    ] = None,
    rank: Annotated[str, typer.Option(help="order labels by mean | peak")] = "mean",
    hop_s: Annotated[float | None, typer.Option(help="seconds between patches [default: the model's, 0.48]")] = None,
    second_opinion: Annotated[str, typer.Option(help="ask a second network: auto | always | never")] = "auto",
    timeline: Annotated[bool, typer.Option("--timeline", help="show the scores over time")] = False,
    json: Annotated[bool, typer.Option("--json", help="one answer per line, as JSON")] = False,
    server: Annotated[str | None, typer.Option(help="ask a running service, as http://127.0.0.1:8000")] = None,
    out_address: Annotated[
        str | None, typer.Option("--out", help="write a table of answers: Parquet in a folder, s3://, gs://")
    ] = None,
    workers: Annotated[int | None, typer.Option(help="with --out: processes [default: one per core]")] = None,
    cluster: Annotated[bool, typer.Option("--cluster", help="with --out: run on the Ray cluster")] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite/--resume", help="with --out: start over, or do what is missing")
    ] = False,
    weights: Annotated[
        Path | None, typer.Option("--model", "--weights", help="a model's folder, or one with YAMNet's files")
    ] = None,
    head: Annotated[Path | None, typer.Option(help="model folder of the second opinion")] = None,
) -> None:
    """Say what is in sound files, when, and how sure.

    With --out the answers become one table; many files are done in parallel, long recordings in parts, and a run that was
    interrupted goes on where it stopped when the same command is given again.

    Example:  `earshot classify street.wav recordings/ --json > answers.jsonl`

    Example:  `earshot classify recordings/ --out answers.parquet`
    """
    from cluster.terminal import BAD_USAGE, SOME_REJECTED, complain, err, out, reporting_errors

    with reporting_errors():
        from rich.progress import track

        from cluster.settings import Settings
        from models.answer import Options
        from models.errors import BadInput
        from pipelines.classify import classify_at, classify_files, classify_here, walk_sounds
        from pipelines.driver import Workers

        fields = {"top_k": top_k, "threshold": threshold, "rank": rank, "hop_s": hop_s}
        options = Options.model_validate(fields | {"second_opinion": second_opinion, "timeline": timeline})
        given: dict[str, Any] = {"weights_path": weights, "head": head}
        settings = Settings(**{name: value for name, value in given.items() if value is not None})
        if out_address is not None:
            _classify_to(paths, out_address, options, settings, Workers(settings, workers, cluster), overwrite)
            return
        files = list(walk_sounds(map(Path, paths)))
        if not files:
            raise BadInput(
                "no sound files there: name files, or folders that hold WAV, FLAC, OGG, MP3, M4A, MP4 or WebM"
            )
        classifier = classify_at(server, settings, options) if server else classify_here(settings, options)
        rejected = 0
        shown = track(files, "classifying", console=err, transient=True, disable=len(files) == 1)
        for outcome in classify_files(shown, classifier):
            if outcome.answer is None:
                rejected += 1
                complain(f"{outcome.path}: {outcome.reason}")
            elif json:
                print(f'{{"path":{_quoted(outcome.path)},{outcome.answer.model_dump_json()[1:]}', flush=True)
            else:
                _show(out, outcome.path, outcome.answer)
        if rejected:
            err.print(f"{len(files) - rejected} done, {rejected} rejected", highlight=False)
            raise typer.Exit(BAD_USAGE if rejected == len(files) else SOME_REJECTED)


def _classify_to(
    paths: list[str], out: str, options: "Options", settings: "Settings", workers: "Workers", overwrite: bool
) -> None:
    """The answers as a table."""
    from models.errors import BadOption
    from models.storage import open_store
    from pipelines.answers import build_work
    from pipelines.cli_report import summing_up
    from pipelines.jobs import classify_to, find_sounds

    if len(paths) != 1:
        raise BadOption("with --out name one folder, manifest (.csv, .parquet) or address, not several")
    store, work = open_store(out), build_work(options, settings)
    sounds = find_sounds(paths[0])
    with summing_up(store) as summary:
        summary.report = classify_to(sounds.store, sounds.table, work, store, workers, overwrite=overwrite)


def _quoted(path: Path) -> str:
    import json

    return json.dumps(str(path))


def _show(out: "Console", path: Path, answer: "Answer") -> None:
    """One answer for people: labels as bars, then events, and what else it says."""
    from rich import box
    from rich.table import Table

    table = Table("label", "mean", "", "peak", box=box.SIMPLE_HEAD, pad_edge=False)
    for label in answer.labels:
        table.add_row(label.label, f"{label.score:.2f}", "█" * round(label.score * BAR), f"{label.peak:.2f}")
    out.print(f"{path}  ({answer.duration_s:g} s)", style="bold", markup=False, highlight=False, soft_wrap=True)
    out.print(table)
    for line in [*_events(answer), *_timeline(answer), *_remarks(answer)]:
        out.print(line, markup=False, highlight=False, soft_wrap=True)
    out.print()


def _events(answer: "Answer") -> list[str]:
    events = [f"{e.start_s:6.2f} - {e.end_s:6.2f} s  {e.label} ({e.score:.2f})" for e in answer.events]
    return events or ["no event reaches the threshold"]


def _timeline(answer: "Answer") -> list[str]:
    if answer.timeline is None:
        return []
    lines = ["timeline:"]
    for column, name in enumerate(answer.timeline.labels):
        shades = (SHADES[round(scores[column] * (len(SHADES) - 1))] for scores in answer.timeline.scores)
        lines.append(f"  {name[:24]:<24} {''.join(shades)}")
    return lines


def _remarks(answer: "Answer") -> list[str]:
    remarks = [f"warning: {warning}" for warning in answer.warnings]
    opinion = answer.second_opinion
    if opinion.asked:
        best = opinion.labels[0].label if opinion.labels else "nothing"
        remarks.append(f"second opinion ({opinion.why}): {best}, {'agrees' if opinion.agrees else 'disagrees'}")
    return remarks
