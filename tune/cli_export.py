"""The verb `export`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from tune.export import Exported


def add_verbs(cli: typer.Typer) -> None:
    """Adds `export` to the command line."""
    cli.command()(export)


def export(
    model: Annotated[Path, typer.Argument(help="model folder, as `earshot train` writes it")],
    kind: Annotated[str, typer.Option("--format", help="onnx | onnx-int8 | tensorrt")] = "onnx",
    precision: Annotated[
        str | None, typer.Option(help="fp32 | fp16 | int8 [default: the first that the format has]")
    ] = None,
    opset: Annotated[int | None, typer.Option(help="13 to 17 [default: 13 for tensorrt, else 17]")] = None,
    check: Annotated[
        str | None,
        typer.Option(
            help="folder of sounds or features to compare and calibrate on [default: the program's own samples]"
        ),
    ] = None,
    waveform: Annotated[
        bool, typer.Option("--waveform", help="take sound at 16 kHz: the front end goes into the graph")
    ] = False,
    batch: Annotated[int | None, typer.Option(help="tensorrt: patches at a time, at most [default: 1]")] = None,
    jetpack: Annotated[
        str | None, typer.Option(help="tensorrt: of the device that trtexec runs on [default: 6.2]")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="the ONNX file to write [default: one in the model folder]")] = None,
) -> None:
    """Write a model as one file for other places: ONNX for any runtime, int8 for CPUs, TensorRT for Jetsons.

    The file is compared with the model on real clips before it is written; the agreement goes into the model's card. An int8 graph that
    lies in the model folder is what the service runs on CPUs from then on.

    Example:  `earshot export dogs --format tensorrt --precision int8 --jetpack 6.2`
    """
    from cluster.terminal import reporting_errors

    with reporting_errors():
        from tune.export import choose, export_model

        request = choose(kind, precision, opset, waveform, batch, jetpack)
        show(export_model(model, request, check, out))


def show(exported: "Exported") -> None:
    """Says what was written, how it agrees, and what comes next."""
    numbers = exported.agreement
    typer.echo(f"{exported.path} ({exported.path.stat().st_size / 1e6:.1f} MB)")
    for prefix, reference in (("", "the float graph"), ("torch_", "torch")):
        if f"{prefix}top1" in numbers:
            typer.echo(
                f"against {reference}, {numbers['windows']:.0f} windows: same best class {numbers[f'{prefix}top1']:.1%}, "
                f"mean difference {numbers[f'{prefix}mean_difference']:.2g}, cosine {numbers[f'{prefix}cosine']:.5f}"
            )
    if exported.unsupported:
        typer.echo(f"TensorRT 8.4 does not read {', '.join(exported.unsupported)}; later versions may")
    if exported.engine:
        typer.echo(f"{exported.engine}: for this GPU and this TensorRT alone")
    elif exported.trtexec:
        typer.echo(f"TensorRT is not here. On the device, beside the file:\n{exported.trtexec}")
