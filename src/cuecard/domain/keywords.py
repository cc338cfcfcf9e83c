"""Constructors that suggest the nearest keyword for an unknown one."""

from __future__ import annotations

import inspect
from functools import wraps
from typing import Any, TypeVar

from cuecard.domain.errors import BadInput, did_you_mean

T = TypeVar("T", bound=type)


def suggests_keywords(cls: T) -> T:
    """Make a class's constructor raise BadInput, with a suggestion, for an unknown keyword."""
    construct = cls.__init__  # type: ignore[misc]
    known = inspect.signature(cls).parameters

    @wraps(construct)
    def __init__(self: Any, *values: Any, **named: Any) -> None:
        if not named.keys() <= known.keys():
            unknown = next(name for name in named if name not in known)
            raise BadInput(f"{cls.__name__} has no {unknown!r}", did_you_mean(unknown, known))
        construct(self, *values, **named)

    cls.__init__ = __init__  # type: ignore[misc]
    return cls
