"""The command line: arguments, progress, exit codes."""

from __future__ import annotations

import sys
from typing import Annotated

import typer
from rich.console import Console

import cuecard
from cuecard.cli.ask import ask
from cuecard.cli.check import check
from cuecard.cli.demo import demo
from cuecard.cli.models import models
from cuecard.cli.replay import replay
from cuecard.cli.serve import key, serve
from cuecard.domain.errors import CuecardError

app = typer.Typer(
    name="cuecard",
    help="A small vision-language model writes the reasoning, a large one reads it and answers short.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command()(ask)
app.command()(demo)
app.command()(models)
app.command()(serve)
app.command()(check)
app.command()(key)
app.command()(replay)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"cuecard {cuecard.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line: 0 when all went well, 2 with one line of what was wrong, 130 when interrupted."""
    try:
        app()
    except CuecardError as error:
        Console(stderr=True, highlight=False, soft_wrap=True).print(
            f"[red]error:[/] {_plain(error)} [dim]({_plain(error.hint)})[/]"
        )
        sys.exit(2)
    except KeyboardInterrupt:
        Console(stderr=True).print("interrupted")
        sys.exit(130)
    except BrokenPipeError:
        sys.stderr.close()  # whoever read our output has gone: not an error of ours
        sys.exit(0)


def _plain(text: object) -> str:
    """Text that Rich does not take for markup."""
    return str(text).replace("[", "\\[")
