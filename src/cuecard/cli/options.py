"""Shared by several commands: lists of numbers, policy options made from their declaration, Ctrl-C and SIGTERM."""

from __future__ import annotations

import asyncio
import inspect
import signal
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import is_dataclass
from functools import partial, update_wrapper
from pathlib import Path
from types import FrameType, MappingProxyType
from typing import Annotated, Any, TypeVar, cast

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column, Table
from rich.text import Text

from cuecard.domain.errors import BadInput
from cuecard.models.base import Model
from cuecard.strategies.policy_file import Option, Surface, options_at

LINE_S = 30
"""Seconds between lines of progress without a terminal."""


def parts(text: str) -> tuple[str, ...]:
    """`a, b` -> (a, b)."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def whole_numbers(option: str, text: str, least: int) -> tuple[int, ...]:
    """`1,8,32` -> (1, 8, 32). Raises BadInput."""
    try:
        numbers = tuple(dict.fromkeys(map(int, parts(text))))
    except ValueError:
        numbers = ()
    if not numbers or min(numbers) < least:
        raise BadInput(f"{option} {text!r} are not whole numbers from {least} on", f"for instance {option} 1,8,32")
    return numbers


def positive_numbers(option: str, text: str) -> tuple[float, ...]:
    """`0.5,1` -> (0.5, 1.0). Raises BadInput."""
    try:
        numbers = tuple(dict.fromkeys(map(float, parts(text))))
    except ValueError:
        numbers = ()
    if not numbers or not 0 < min(numbers) <= max(numbers) < float("inf"):
        raise BadInput(f"{option} {text!r} are not numbers above 0", f"for instance {option} 0.5,2")
    return numbers


def progress_bar(console: Console, **more: Any) -> Progress:
    """A bar with counts and the remaining time; nothing without a terminal."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, disable=not console.is_terminal, **more)


@asynccontextmanager
async def closing_models(models: Iterable[Model]) -> AsyncIterator[None]:
    """Closes these models at the end."""
    async with AsyncExitStack() as stack:
        for model in models:
            stack.push_async_callback(model.aclose)
        yield


def plain_table(heads: Iterable[str | Column], rows: Iterable[Iterable[str]], title: str | None = None) -> Table:
    """A table without lines; cells are not read as markup."""
    shown = Table(*heads, box=None, title=title)
    for row in rows:
        shown.add_row(*map(Text, row))
    return shown


def show_files(console: Console, written: Sequence[Path]) -> None:
    """The paths of a report: its page, then the names of its tables."""
    console.print(Text(f"report:  {written[0]}"))
    console.print(Text(f"tables:  {', '.join(path.name for path in written[1:])}", style="dim"))


def takes_options(command: Callable[..., None]) -> Callable[..., None]:
    """Decorate a command: a keyword parameter annotated with a dataclass is replaced by its fields, as options."""
    return _ExpandedCommand(None, {}, {}, command)


def takes_policy_options(
    surface: Surface, texts: Mapping[str, str] = MappingProxyType({}), **defaults: Any
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """As `takes_options`; the parameter `options` is replaced by the policy options of a surface, as `PolicyOptions`.

    `texts`: help texts specific to the command. Options that are not given are left out, except `defaults`.
    """
    return partial(_ExpandedCommand, surface, texts, defaults)


class _ExpandedCommand:
    """A command with the signature that Typer reads."""

    def __init__(
        self,
        surface: Surface | None,
        texts: Mapping[str, str],
        defaults: Mapping[str, Any],
        command: Callable[..., None],
    ) -> None:
        self._surface, self._texts, self._defaults, self._command = surface, texts, defaults, command
        update_wrapper(self, command)

    def _groups(self) -> Iterator[tuple[inspect.Parameter, list[inspect.Parameter] | None]]:
        """Each parameter of the command, and those that replace it, if any."""
        for each in inspect.signature(self._command, eval_str=True).parameters.values():
            if self._surface is not None and each.name == "options":
                yield (
                    each,
                    [
                        _parameter(option, self._texts.get(name, option.help), self._defaults.get(name))
                        for name, option in options_at(self._surface).items()
                    ],
                )
            elif is_dataclass(each.annotation):
                yield each, list(inspect.signature(cast(type, each.annotation), eval_str=True).parameters.values())
            else:
                yield each, None

    @property
    def __signature__(self) -> inspect.Signature:
        """Made at access: annotations of commands use names that others register."""
        return inspect.Signature(
            [
                part if own is None else part.replace(kind=inspect.Parameter.KEYWORD_ONLY)
                for each, own in self._groups()
                for part in ([each] if own is None else own)
            ]
        )

    def __call__(self, **given: Any) -> None:
        for each, own in self._groups():
            if own is None:
                continue
            values = {part.name: given.pop(part.name) for part in own}
            if is_dataclass(each.annotation):
                given[each.name] = cast(type, each.annotation)(**values)
            else:
                given[each.name] = {name: it for name, it in values.items() if it is not None and it is not False}
        self._command(**given)


def _parameter(option: Option, text: str, default: Any) -> inspect.Parameter:
    shown = typer.Option(option.flag, help=text)
    if option.kind is bool:
        annotation, default = Annotated[bool, shown], False
    elif default is None:
        annotation = Annotated[option.kind | None, shown]
    else:
        annotation = Annotated[option.kind, shown]
    return inspect.Parameter(option.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


# --- Ctrl-C and SIGTERM -----------------------------------------------------------------------------------------------


T = TypeVar("T")


class Stopping:
    """The signal that stopped the command. Code in `run` is cancelled, other code gets KeyboardInterrupt."""

    def __init__(self) -> None:
        self._signal = signal.SIGINT
        self._task: asyncio.Task[Any] | None = None

    @property
    def code(self) -> int:
        """The exit code of a process ended by a signal, as in shells: 130 or 143."""
        return 128 + self._signal

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Same as `asyncio.run`. Raises KeyboardInterrupt after either signal."""
        try:
            return asyncio.run(self._watched(work))
        except asyncio.CancelledError:
            raise KeyboardInterrupt from None
        finally:
            self._task = None

    async def _watched(self, work: Coroutine[Any, Any, T]) -> T:
        self._task = asyncio.current_task()
        return await work

    def take(self, number: int, frame: FrameType | None) -> None:
        """The handler of SIGTERM."""
        self._signal = signal.Signals(number)
        if self._task is None:
            raise KeyboardInterrupt
        self._task.get_loop().call_soon_threadsafe(self._task.cancel)


@contextmanager
def telling_what_is_kept(kept: Callable[[], str] | None) -> Iterator[Stopping]:
    """In this context, SIGTERM acts like Ctrl-C: the command exits with the signal's code.

    `kept`: returns what is kept in words, to be printed on one line; None if the command prints it by itself.
    """
    stop = Stopping()
    before = signal.signal(signal.SIGTERM, stop.take)
    try:
        yield stop
    except KeyboardInterrupt:
        if kept is not None:
            print(f"stopped: {kept()}", file=sys.stderr, flush=True)
        raise typer.Exit(stop.code) from None
    finally:
        signal.signal(signal.SIGTERM, before)
