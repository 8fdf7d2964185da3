"""The `earshot` command: composes the verbs of the rooms. Imports nothing heavy; a verb imports its room when it runs."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import typer
    from starlette.types import ASGIApp

    from cluster.settings import Settings


def main() -> None:
    """Entry point. The checkout comes first on the path: a stranger's `models` package must not win."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # small matrices: more threads only wait for each other
    checkout = str(Path(__file__).resolve().parent)
    sys.path[:] = [checkout, *(entry for entry in sys.path if entry != checkout)]
    build_cli()()


def build_cli() -> "typer.Typer":
    """The command line with every verb."""
    import typer

    import cluster.cli
    import cluster.cli_cluster
    import pipelines.cli
    import serve.cli
    import tune.cli

    cli = typer.Typer(
        name="earshot",
        help="Says what is in a sound, when, and how sure it is.",
        no_args_is_help=True,
        rich_markup_mode="markdown",
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    serve.cli.add_verbs(cli, make_page)
    pipelines.cli.add_verbs(cli)
    tune.cli.add_verbs(cli)
    cluster.cli.add_verbs(cli)
    cluster.cli_cluster.add_verbs(cli)
    return cli


def make_page(settings: "Settings") -> "ASGIApp":
    """The page's ASGI application for a service with these settings."""
    from ui.page import build_asgi

    key = settings.api_keys[0].get_secret_value() if settings.api_keys else None
    return build_asgi(settings.url, key, settings.max_body_bytes)


if __name__ == "__main__":
    main()
