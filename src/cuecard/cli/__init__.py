"""The command line: arguments, progress, exit codes."""

from __future__ import annotations

import errno
import os
import sys
from typing import Annotated, Any, NoReturn, cast

import typer
from rich.console import Console
from rich.markup import escape

import cuecard
from cuecard.cli.ask import ask
from cuecard.cli.attention import attention
from cuecard.cli.check import check
from cuecard.cli.demo import demo
from cuecard.cli.evals.compare import compare
from cuecard.cli.evals.eval import evaluate
from cuecard.cli.evals.exchange import exports_, imports
from cuecard.cli.evals.rescore import rescore
from cuecard.cli.evals.study import study
from cuecard.cli.evals.tasks import tasks
from cuecard.cli.evals.tune import tune
from cuecard.cli.latency.breakeven import breakeven
from cuecard.cli.latency.fit import fit
from cuecard.cli.latency.plan import plan
from cuecard.cli.latency.profile import profile
from cuecard.cli.models import models
from cuecard.cli.replay import replay
from cuecard.cli.report import report
from cuecard.cli.serve import key, serve
from cuecard.domain.errors import CuecardError

app = typer.Typer(
    name="cuecard",
    help="A small vision-language model writes the reasoning, a large one reads it and answers short.",
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
app.command()(tasks)
app.command()(tune)
app.command("eval")(evaluate)
app.command()(study)
app.command()(report)
app.command()(attention)
app.command()(rescore)
app.command()(compare)
app.command()(profile)
app.command()(fit)
app.command()(breakeven)
app.command()(plan)
app.add_typer(imports, name="import")
app.add_typer(exports_, name="export")

# what Typer raises for a wrong option or command; it has no public name
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EIO)
UsageError = cast(type[Exception], typer.BadParameter.__mro__[1])


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
        # Typer turns an interrupt, and output that nobody reads any more, into exit codes by itself
        sys.exit(app(sys.argv[1:] or ["--help"], prog_name="cuecard", standalone_mode=False))
    except CuecardError as error:
        _refuse(error.message, error.hint)
    except UsageError as error:
        wrong: Any = error
        _refuse(wrong.format_message(), f"see {wrong.ctx.command_path if wrong.ctx else 'cuecard'} --help")
    except OSError as error:
        if error.errno not in FULL:
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # else the interpreter fails once more when it ends
        _refuse(f"the output cannot be written: {error.strerror}", "free some space, or write it elsewhere")


def _refuse(what: str, hint: str) -> NoReturn:
    Console(stderr=True, highlight=False, soft_wrap=True).print(
        f"[red]error:[/] {_plain(what)}" + (f" [dim]({_plain(hint)})[/]" if hint else "")
    )
    sys.exit(2)


def _plain(text: str) -> str:
    """One line of text that Rich does not take for markup."""
    return escape(" ".join(text.split()))
