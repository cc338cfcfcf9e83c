"""The command line: arguments, progress, exit codes."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from importlib import import_module
from typing import Annotated, Any, NoReturn, cast

import typer
import typer.main
from rich.console import Console
from rich.markup import escape
from typer.core import TyperCommand, TyperGroup

import cuecard
from cuecard.domain.errors import CuecardError

# before a command imports NumPy: the embedded pair's matrices are too small for several threads (see models.local)
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

COMMANDS: Mapping[str, tuple[str, str]] = {
    "ask": ("ask:ask", "Answer one question with a pair of models."),
    "demo": (
        "demo:demo",
        "Run every strategy on two kinds of questions, live: a table, verdicts, a time line and an HTML report.",
    ),
    "models": ("models:models", "Show models and what each can do."),
    "serve": ("serve:serve", "Serve a pair as one model to every OpenAI client."),
    "check": ("models:check", "Read a cuecard.toml and probe its servers; other commands use the results."),
    "key": ("serve:key", "Make an API key: the secret for a client, and its hash for cuecard.toml."),
    "replay": (
        "serve:replay",
        "Answer a journal's requests again with another policy or pair; calls in the journal are not repeated.",
    ),
    "tasks": ("evals.tasks:tasks", "List tasks; show the exact prompts of one; check a whole file."),
    "tune": (
        "evals.tune:tune",
        "Choose the fastest or cheapest policy that keeps the accuracy, with a confidence. Exit code 1: none does.",
    ),
    "eval": ("evals.study:evaluate", "Evaluate strategies on tasks, or resume an evaluation, then summarise it."),
    "study": (
        "evals.matched_budget:studies",
        "Run or resume a study, then summarise it. `cuecard study FILE` runs the study that a file describes.",
    ),
    "report": (
        "report:report",
        "Write a page with figures and tables of a run: the results, and how certain they are.",
    ),
    "attention": (
        "report:attention",
        "Measure how answers attend to reasoning: total mass, sparsity, key tokens, tightness of the bound.",
    ),
    "unparsed": (
        "evals.runs:unparsed",
        "List replies in which no answer was found, for manual inspection; --judge lets a model read them.",
    ),
    "grade": (
        "evals.runs:grade",
        "Grade replies to open questions (MM-Vet's, for example) from 0 to 1 by a judge model.",
    ),
    "rescore": (
        "evals.runs:rescore",
        "Score stored replies with this version's extractors and scorers, and list the scores that change.",
    ),
    "compare": (
        "evals.runs:compare",
        "Compare two runs arm by arm: paired differences with intervals and tests, and their configurations.",
    ),
    "profile": (
        "profile:profile",
        "Time models component by component, or servers under load, in interleaved rounds; store every reading.",
    ),
    "fit": (
        "fit:fit",
        "Fit latency models to a profile's readings, and report their errors on held-out points.",
    ),
    "breakeven": (
        "fit:breakeven",
        "Estimate how many tokens a small model may write before a large model that reasons itself is as fast.",
    ),
    "plan": (
        "fit:plan",
        "Estimate latency and cost of each strategy for pairs of models, without a call.",
    ),
    "import": ("evals.exchange:imports", "Turn predictions of one or two models, made by other tools, into a run."),
    "export": ("evals.exchange:exports_", "Write a run's answers as files that other tools read."),
}
"""Location and help of each command, so that listing the commands imports none of them."""


class LoadedCommands(Mapping[str, Any]):
    """The commands by name, each imported at its first use."""

    def __init__(self) -> None:
        self._loaded: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._loaded:
            module, _, attribute = COMMANDS[name][0].partition(":")
            found = getattr(import_module(f"cuecard.cli.{module}"), attribute)
            if not isinstance(found, typer.Typer):
                alone = typer.Typer(add_completion=False)
                alone.command(name)(found)
                found = alone
            self._loaded[name] = typer.main.get_command(found)
            self._loaded[name].name = name
        return self._loaded[name]

    def __iter__(self) -> Iterator[str]:
        return iter(COMMANDS)

    def __len__(self) -> int:
        return len(COMMANDS)


class CommandGroup(TyperGroup):
    """`cuecard`: imports only the command that is called, and none for its own help or the completion of its names."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands = cast(Any, LoadedCommands())
        self._lists = False

    def format_help(self, ctx: Any, formatter: Any) -> None:
        self._lists = True
        super().format_help(ctx, formatter)

    def shell_complete(self, ctx: Any, incomplete: str) -> Any:
        self._lists = True
        return super().shell_complete(ctx, incomplete)

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:  # in a command without its own handling
            print("stopped", file=sys.stderr, flush=True)
            raise typer.Exit(INTERRUPTED) from None

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if self._lists and cmd_name in COMMANDS:
            return TyperCommand(cmd_name, help=COMMANDS[cmd_name][1])
        return super().get_command(ctx, cmd_name)


app = typer.Typer(
    name="cuecard",
    cls=CommandGroup,
    help="A small vision-language model writes the reasoning; a large one reads it and gives a short answer.",
    pretty_exceptions_enable=False,
)

CLOSED_PIPE = 141
"""128 + the number of SIGPIPE."""
INTERRUPTED = 130
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EIO)
# Typer raises its own copy of Click's UsageError, which has no public name
UsageError = cast(type[Exception], typer.BadParameter.__base__)


def make_console(*, stderr: bool = False, soft_wrap: bool = False) -> Console:
    """A console that writes no styles if NO_COLOR is set: Rich then drops only colours, and keeps bold and dim text."""
    return Console(stderr=stderr, soft_wrap=soft_wrap, highlight=False, color_system=None if is_unstyled() else "auto")


def is_unstyled() -> bool:
    """Whether the environment variable NO_COLOR is set."""
    return bool(os.environ.get("NO_COLOR"))


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
    """Run the command line. Exit codes: 0 success, 2 after a one-line error, 130 when interrupted.

    141, as for other programs, if the reader of the output (`head`, a pager) closes it.
    """
    try:
        arguments = sys.argv[1:] or ["--help"]
        if "--help" in arguments and is_unstyled():
            cast(Any, import_module("typer.rich_utils")).COLOR_SYSTEM = None
        # Typer turns an interrupt into an exit code
        code = app(arguments, prog_name="cuecard", standalone_mode=False)
        if sys.stdout is not None:  # None if the shell has closed it (`>&-`)
            sys.stdout.flush()
        sys.exit(code)
    except (BrokenPipeError, SystemExit) as ended:
        # Typer and Rich exit with 1 if the output is closed
        cause = ended.__context__ if isinstance(ended, SystemExit) else ended
        if not isinstance(cause, BrokenPipeError):
            raise
        _drop_output()
        sys.exit(CLOSED_PIPE)
    except CuecardError as error:
        _refuse(error.message, error.hint)
    except UsageError as error:
        wrong: Any = error
        _refuse(wrong.format_message(), f"see {wrong.ctx.command_path if wrong.ctx else 'cuecard'} --help")
    except OSError as error:
        if error.errno not in FULL:
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # else the interpreter fails again at exit
        _refuse(f"the output cannot be written: {error.strerror}", "free some space, or write it elsewhere")


def _drop_output() -> None:
    """Discard pending output, else the interpreter fails again at exit."""
    for stream in (1, 2):
        with suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream)


def _refuse(what: str, hint: str) -> NoReturn:
    line = f"[red]error:[/] {_plain(what)}" + (f" [dim]({_plain(hint)})[/]" if hint else "")
    try:
        make_console(stderr=True, soft_wrap=True).print(line)
    except (BrokenPipeError, SystemExit):  # Rich exits with 1 if the output is closed
        _drop_output()
    sys.exit(2)


def _plain(text: str) -> str:
    """The text on one line, escaped for Rich."""
    return escape(" ".join(text.split()))
