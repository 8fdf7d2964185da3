"""The verbs `cluster environment`, `cluster deploy` and `cluster check`."""

from pathlib import Path
from typing import Annotated

import typer

SHIPPED = Path(__file__).resolve().parent.parent / "serve" / "earshot.yaml"


def add_verbs(cli: typer.Typer) -> None:
    """Adds them to the command line; each function's docstring is its help text."""
    cluster = typer.Typer(no_args_is_help=True)
    for verb in (environment, deploy, check):
        cluster.command()(verb)
    cli.add_typer(
        cluster,
        name="cluster",
        help="Start nodes rightly, deploy to a running cluster, check every node.\n\nExample:  `earshot cluster check`",
    )


def environment() -> None:
    """Print what Ray must find in a node's environment, for the shell to read before `ray start`.

    Example:  `eval "$(earshot cluster environment)"; ray start --head`
    """
    from cluster.terminal import reporting_errors

    with reporting_errors():
        import shlex

        from cluster.session import node_environment
        from cluster.settings import Settings

        for name, value in node_environment(Settings(insecure=True)).items():
            typer.echo(f"export {name}={shlex.quote(value)}")


def deploy(
    config: Annotated[Path, typer.Argument(help="a Serve config file")] = SHIPPED,
    insecure: Annotated[
        bool | None, typer.Option("--insecure", help="no API key: a firewall keeps strangers out")
    ] = None,
    deadline_s: Annotated[float, typer.Option(min=1, help="seconds to wait for replicas and proxies")] = 300.0,
) -> None:
    """Deploy the service to the running cluster, with this checkout as its code, and wait until it is ready.

    API keys (EARSHOT_API_KEYS) and the weights' place (EARSHOT_WEIGHTS) are the settings', where the file names none.

    Example:  `EARSHOT_API_KEYS=KEY EARSHOT_WEIGHTS=s3://bucket/weights earshot cluster deploy`
    """
    from cluster.terminal import out, reporting_errors

    with reporting_errors():
        from cluster.deploy import deploy as run
        from cluster.settings import Settings

        settings = Settings(insecure=insecure) if insecure else Settings()
        run(settings, config, deadline_s)
        out.print(f"deployed; on every node: {settings.url}/docs. Next: earshot cluster check", highlight=False)


def check(
    deadline_s: Annotated[float, typer.Option(min=1, help="seconds that all nodes together may take")] = 60.0,
) -> None:
    """Check every node of the running cluster: its code, its weights, one request to its own proxy.

    Exit code 1 where a node fails or hangs; the table says which, why, and what to do.

    Example:  `EARSHOT_API_KEYS=KEY earshot cluster check`
    """
    from cluster.terminal import FAILED, complain, err, out, reporting_errors

    with reporting_errors():
        from rich.table import Table

        from cluster.check import check_nodes
        from cluster.settings import Settings

        with err.status("asking every node"):
            reports = check_nodes(Settings(), deadline_s)
        table = Table("node", "host", "code", "weights", "its own proxy", "")
        for report in reports:
            took = "" if report.answer_ms is None else f"{report.answer_ms:.0f} ms"
            took = took if report.has_proxy else "no replica, no proxy"
            sign = "[red]no[/]" if report.fault else "[green]ok[/]"
            table.add_row(report.address, report.host, report.code, report.weights_sha256[:12], took, sign)
        out.print(table)
        for report in reports:
            if report.fault:
                complain(f"{report.address}: {report.fault}\n    -> {report.remedy}")
        if any(report.fault for report in reports):
            raise typer.Exit(FAILED)
