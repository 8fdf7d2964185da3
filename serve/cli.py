"""The verb `up`."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from cluster.settings import Settings


def add_verbs(cli: typer.Typer, make_page: "Callable[[Settings], ASGIApp]") -> None:
    """Adds `up` to the command line; `make_page` builds the page that is served beside the API."""

    @cli.command()
    def up(
        host: Annotated[str | None, typer.Option(help="address to listen on [default: 127.0.0.1]")] = None,
        port: Annotated[int | None, typer.Option(help="port to listen on [default: 8000]")] = None,
        weights: Annotated[
            Path | None,
            typer.Option("--model", "--weights", help="serve this model: its folder, or one with YAMNet's files"),
        ] = None,
        head: Annotated[Path | None, typer.Option(help="model folder of the second opinion")] = None,
        ui: Annotated[bool | None, typer.Option("--ui/--no-ui", help="serve the page at /ui")] = None,
        placement: Annotated[str | None, typer.Option(help="fused | separate [default: fused]")] = None,
        replicas: Annotated[int | None, typer.Option(help="replicas (of each stage) [default: one per core]")] = None,
        max_replicas: Annotated[int | None, typer.Option(help="scale with the load, up to so many replicas")] = None,
        pace: Annotated[str | None, typer.Option(help="how fast it scales: demo | production")] = None,
        second_opinion_rate: Annotated[float | None, typer.Option(help="share of sounds asked twice, 0-1")] = None,
        unsure_below: Annotated[float | None, typer.Option(help="ask twice when no label's peak reaches this")] = None,
        max_duration_s: Annotated[float | None, typer.Option(help="longest sound over HTTP [default: 600]")] = None,
        max_body_bytes: Annotated[int | None, typer.Option(help="largest upload [default: 64 MiB]")] = None,
        cors_origins: Annotated[str | None, typer.Option(help="origins that may call from a browser: A,B")] = None,
        insecure: Annotated[bool | None, typer.Option("--insecure", help="listen beyond loopback, no key")] = None,
        download: Annotated[bool | None, typer.Option("--download/--offline", help="may fetch weights")] = None,
    ) -> None:
        """Serve the HTTP API and the page on this machine until Ctrl-C.

        Example:  `earshot up --port 9000`  then  `curl -F file=@dog.wav http://127.0.0.1:9000/v1/classify`
        """
        given: dict[str, Any] = {name: value for name, value in locals().items() if value is not None}
        del given["make_page"]
        if "weights" in given:
            given["weights_path"] = given.pop("weights")
        from cluster.terminal import reporting_errors

        with reporting_errors():
            from cluster.settings import Settings
            from serve.run import run_service

            run_service(Settings(**given), make_page)
