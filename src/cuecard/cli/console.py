"""The console to which all commands print."""

from __future__ import annotations

import os

from rich.console import Console


def make_console(*, stderr: bool = False, soft_wrap: bool = False) -> Console:
    """A console that writes no styles if NO_COLOR is set: Rich then drops only colours, and keeps bold and dim text."""
    return Console(stderr=stderr, soft_wrap=soft_wrap, highlight=False, color_system=None if is_unstyled() else "auto")


def is_unstyled() -> bool:
    """Whether the environment variable NO_COLOR is set."""
    return bool(os.environ.get("NO_COLOR"))
