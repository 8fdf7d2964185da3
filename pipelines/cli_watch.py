"""The verb `watch`."""

import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from pipelines.watch import Finished, Recovered, Trouble


def watch(
    address: Annotated[
        str, typer.Argument(help="where sounds arrive: a folder, s3://... or gs://...", metavar="ADDRESS")
    ],
    out_address: Annotated[str, typer.Option("--out", help="where results go; may be the same place")],
    every: Annotated[float, typer.Option(help="seconds from one look to the next", min=0.05)] = 2.0,
    once: Annotated[bool, typer.Option("--once", help="end when everything that is there is done")] = False,
    ledger: Annotated[
        Path | None, typer.Option(help="file of what is done [default: one per pair of addresses]")
    ] = None,
    top_k: Annotated[int, typer.Option(help="how many labels")] = 5,
    threshold: Annotated[
        float | None,
        typer.Option(help="events are runs of patches that score at or above it [default: the model's own, or 0.3]"),
    ] = None,
    rank: Annotated[str, typer.Option(help="order labels by mean | peak")] = "mean",
    hop_s: Annotated[float | None, typer.Option(help="seconds between patches [default: the model's, 0.48]")] = None,
    second_opinion: Annotated[str, typer.Option(help="ask a second network: auto | always | never")] = "auto",
    timeline: Annotated[bool, typer.Option("--timeline", help="add the scores over time to the JSON")] = False,
    server: Annotated[str | None, typer.Option(help="ask a running service, as http://127.0.0.1:8000")] = None,
    weights: Annotated[
        Path | None, typer.Option("--model", "--weights", help="a model's folder, or one with YAMNet's files")
    ] = None,
    head: Annotated[Path | None, typer.Option(help="model folder of the second opinion")] = None,
) -> None:
    """Classify every sound that arrives in a folder or bucket, once.

    Of `a/dog.wav` it writes `a/dog.wav.json` (the full answer), `.txt` and `.png`, or `a/dog.wav.error.json`. A file counts as
    whole when two looks find it the same; one that is replaced is classified again. Ctrl-C ends it, and the same command goes on
    from there, however it ended.

    Example:  `earshot watch s3://microphones/today --out s3://microphones/heard`
    """
    from cluster.terminal import SOME_REJECTED, err, reporting_errors

    with reporting_errors():
        from cluster.processes import listen_for_signals
        from cluster.settings import Settings
        from models.answer import Options
        from models.storage import open_store
        from pipelines.classify import classify_at, classify_here
        from pipelines.ledger import default_ledger, open_ledger, purpose_of
        from pipelines.results import Results
        from pipelines.watch import Watch, keep_watching, require_place

        stop = threading.Event()  # the sound in work is finished
        listen_for_signals(stop)
        fields = {"top_k": top_k, "threshold": threshold, "rank": rank, "hop_s": hop_s}
        options = Options.model_validate(fields | {"second_opinion": second_opinion, "timeline": timeline})
        given: dict[str, Any] = {"weights_path": weights, "head": head}
        settings = Settings(**{name: value for name, value in given.items() if value is not None})
        source, out = open_store(address), open_store(out_address)
        require_place(source)
        purpose = purpose_of(source, out)
        with open_ledger(ledger or default_ledger(purpose), purpose) as book:
            classifier = classify_at(server, settings, options) if server else classify_here(settings, options)
            out.sweep()
            watched = Watch(source, Results(source, out), book, classifier)
            counts = {"done": 0, "rejected": 0}
            try:
                for event in keep_watching(watched, stop, every, once=once):
                    _tell(event, counts)
            finally:
                said = ", ".join(f"{count} {state}" for state, count in counts.items())
                err.print(f"{said}, {len(watched.queued)} still queued", highlight=False)
        if once and counts["rejected"]:
            raise typer.Exit(SOME_REJECTED)


def _tell(event: "Finished | Trouble | Recovered", counts: dict[str, int]) -> None:
    """A line for people; what is finished is counted."""
    from cluster.terminal import complain, err, out
    from pipelines.watch import Finished, Trouble

    if isinstance(event, Finished):
        counts[event.state] += 1
        verdict = "rejected, " if event.state == "rejected" else ""
        out.print(f"{event.name}: {verdict}{event.says}", markup=False, highlight=False, soft_wrap=True)
    elif isinstance(event, Trouble):
        complain(f"{event.error} (trying again until it works)")
    else:
        err.print("earshot: it works again", highlight=False)
