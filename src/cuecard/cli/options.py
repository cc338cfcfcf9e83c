"""Options that several commands have: those of a policy, made from their declaration."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import partial, update_wrapper
from types import MappingProxyType
from typing import Annotated, Any

import typer

from cuecard.strategies.policy import Option, Surface, options_at


def takes_policy_options(
    surface: Surface, texts: Mapping[str, str] = MappingProxyType({}), **defaults: Any
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Gives a command the policy options of a surface, instead of its parameter `options`, some of `PolicyOptions`.

    `texts`: help texts where a command has its own. Options that are not given are left out, but for `defaults`.
    """
    return partial(_WithPolicyOptions, surface, texts, defaults)


class _WithPolicyOptions:
    """A command as Typer sees it."""

    def __init__(
        self, surface: Surface, texts: Mapping[str, str], defaults: Mapping[str, Any], command: Callable[..., None]
    ) -> None:
        self._surface, self._texts, self._defaults, self._command = surface, texts, defaults, command
        update_wrapper(self, command)

    @property
    def __signature__(self) -> inspect.Signature:
        """Made when it is asked for: annotations of commands name what others register."""
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
