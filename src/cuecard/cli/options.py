"""Shared by several commands: lists of numbers, policy options made from their declaration, Ctrl-C and SIGTERM."""

from __future__ import annotations

import asyncio
import inspect
import signal
import sys
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from functools import partial, update_wrapper
from types import FrameType, MappingProxyType
from typing import Annotated, Any, TypeVar

import typer

from cuecard.domain.errors import BadInput
from cuecard.strategies.policy import Option, Surface, options_at

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


def takes_policy_options(
    surface: Surface, texts: Mapping[str, str] = MappingProxyType({}), **defaults: Any
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Decorate a command: its parameter `options` is replaced by the policy options of a surface, as `PolicyOptions`.

    `texts`: help texts specific to the command. Options that are not given are left out, except `defaults`.
    """
    return partial(_WithPolicyOptions, surface, texts, defaults)


class _WithPolicyOptions:
    """A command with the signature that Typer reads."""

    def __init__(
        self, surface: Surface, texts: Mapping[str, str], defaults: Mapping[str, Any], command: Callable[..., None]
    ) -> None:
        self._surface, self._texts, self._defaults, self._command = surface, texts, defaults, command
        update_wrapper(self, command)

    @property
    def __signature__(self) -> inspect.Signature:
        """Made at access: annotations of commands use names that others register."""
        own = inspect.signature(self._command, eval_str=True)
        options = [
            _parameter(each, self._texts.get(name, each.help), self._defaults.get(name))
            for name, each in options_at(self._surface).items()
        ]
        parameters = list(own.parameters.values())
        at = list(own.parameters).index("options")
        return own.replace(parameters=[*parameters[:at], *options, *parameters[at + 1 :]])

    def __call__(self, **given: Any) -> None:
        values = {name: given.pop(name) for name in options_at(self._surface)}
        is_set = {name: value for name, value in values.items() if value is not None and value is not False}
        self._command(**given, options=is_set)


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
def stopping() -> Iterator[Stopping]:
    """In this context, SIGTERM acts like Ctrl-C."""
    made = Stopping()
    before = signal.signal(signal.SIGTERM, made.take)
    try:
        yield made
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def telling_what_is_kept(kept: Callable[[], str]) -> Iterator[Stopping]:
    """As `stopping`; a stopped command prints in one line what is kept, and exits with the signal's code."""
    with stopping() as stop:
        try:
            yield stop
        except KeyboardInterrupt:
            print(f"stopped: {kept()}", file=sys.stderr, flush=True)
            raise typer.Exit(stop.code) from None
