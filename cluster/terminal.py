"""How every verb speaks: one line for an error, and the exit codes.

0 all good, 1 our failure, 2 bad input or usage, 3 some items rejected and the rest done.
"""

import contextlib
import logging
import os
import sys
from collections.abc import Iterator

import typer
from pydantic import ValidationError
from rich.console import Console

from models.errors import BadInput, EarshotError

OK, FAILED, BAD_USAGE, SOME_REJECTED, INTERRUPTED = 0, 1, 2, 3, 130

out = Console()
err = Console(stderr=True)


def complain(message: str) -> None:
    """One error, on stderr."""
    err.print(f"[bold red]earshot:[/] {_plain(message)}", highlight=False, soft_wrap=True)


def _plain(message: str) -> str:
    return message.replace("[", r"\[")


@contextlib.contextmanager
def reporting_errors() -> Iterator[None]:
    """Turns every error into one line and an exit code; EARSHOT_DEBUG=1 shows the stack trace."""
    try:
        yield
    except typer.Exit:
        raise
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None
    except BrokenPipeError:  # the reader has gone, as in `earshot classify ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(OK) from None
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        complain(f"{name.replace('_', '-')}: {first['msg']}" if name else first["msg"].removeprefix("Value error, "))
        raise typer.Exit(BAD_USAGE) from error
    except EarshotError as error:
        complain(str(error))
        raise typer.Exit(BAD_USAGE if isinstance(error, BadInput) else FAILED) from error
    except Exception as error:
        if os.environ.get("EARSHOT_DEBUG"):
            raise
        logging.getLogger("earshot").debug("failed", exc_info=True)
        complain(f"a fault of Earshot: {type(error).__name__}: {error}. EARSHOT_DEBUG=1 shows where")
        raise typer.Exit(FAILED) from error
