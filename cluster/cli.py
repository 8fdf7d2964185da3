"""The verbs `doctor` and `weights`."""

from pathlib import Path
from typing import Annotated

import typer


def add_verbs(cli: typer.Typer) -> None:
    """Adds them to the command line; each function's docstring is its help text."""
    cli.command()(doctor)
    weights = typer.Typer(no_args_is_help=True)
    for name, verb in (("list", list_weights), ("fetch", fetch), ("verify", verify)):
        weights.command(name)(verb)
    cli.add_typer(
        weights, name="weights", help="List, fetch and verify the weights.\n\nExample:  `earshot weights fetch yamnet`"
    )


def doctor(port: Annotated[int | None, typer.Option(help="the service's port [default: 8000]")] = None) -> None:
    """Say what is installed, found and free here, and how to mend what is not.

    Example:  `earshot doctor --port 9000`
    """
    from cluster.terminal import FAILED, out, reporting_errors

    with reporting_errors():
        from cluster.doctor import examine
        from cluster.settings import Settings

        settings = Settings(port=port) if port else Settings()
        findings = examine(settings)
        for finding in findings:
            sign = "[green]ok  [/]" if finding.good else "[red]no  [/]" if finding.needed else "[yellow]-   [/]"
            out.print(f"{sign} {finding.what:<14} {finding.says}", highlight=False, soft_wrap=True)
            if finding.remedy and not finding.good:
                out.print(f"     {'':<14} -> {finding.remedy}", highlight=False, soft_wrap=True, markup=False)
        if any(finding.needed and not finding.good for finding in findings):
            raise typer.Exit(FAILED)


def list_weights() -> None:
    """The weights that Earshot knows, and where they are.

    Example:  `earshot weights list`
    """
    from cluster.terminal import out, reporting_errors

    with reporting_errors():
        from rich.table import Table

        from cluster.settings import Settings
        from models.published import TABLE
        from models.weights import list_starters

        places = Settings().places()
        table = Table(caption="not here: earshot weights fetch NAME", caption_justify="left")
        table.add_column("name", no_wrap=True)
        for column in ("version", "knows", "licence", "where"):
            table.add_column(column, overflow="fold")
        for weights in TABLE.values():
            folders = [f for f in places.folders(weights.name) if all((f / x.name).is_file() for x in weights.files)]
            table.add_row(
                weights.name,
                weights.version,
                weights.knows,
                weights.licence,
                str(folders[0]) if folders else "not here",
            )
        for starter in list_starters(places):
            card = starter.card
            table.add_row(card.name, card.version, f"{len(starter.labels)} sounds", card.licence, str(starter.path))
        out.print(table)


def fetch(
    names: Annotated[list[str], typer.Argument(help="names from `earshot weights list`")],
) -> None:
    """Download weights from their official address into the cache.

    Example:  `earshot weights fetch yamnet`
    """
    from cluster.terminal import out, reporting_errors

    with reporting_errors():
        from cluster.settings import Settings
        from models.published import known
        from models.weights import fetch_weights

        places = Settings().places()
        for name in names:
            known(name)
        for name in names:
            folder = fetch_weights(name, places)
            out.print(
                f"{name}: in {folder}, hash checked, licence {known(name).licence}", highlight=False, soft_wrap=True
            )


def verify(
    names: Annotated[list[str] | None, typer.Argument(help="names; all that are here by default")] = None,
    folder: Annotated[Path | None, typer.Option(help="a folder to look in instead of the usual ones")] = None,
) -> None:
    """Check the hashes of the weights that are here.

    Example:  `earshot weights verify yamnet`
    """
    from cluster.terminal import BAD_USAGE, complain, out, reporting_errors

    with reporting_errors():
        from cluster.settings import Settings
        from models.published import TABLE, known
        from models.weights import Places, verify_weights

        places = Places(explicit=folder) if folder else Settings().places()
        checked = 0
        for weights in [known(name) for name in names] if names else TABLE.values():
            for place in places.folders(weights.name):
                if all((place / file.name).is_file() for file in weights.files):
                    verify_weights(weights, place)
                    out.print(f"{weights.name}: good, in {place}", highlight=False, soft_wrap=True)
                    checked += 1
        if not checked:
            complain("none of these weights is here: earshot weights fetch NAME")
            raise typer.Exit(BAD_USAGE)
