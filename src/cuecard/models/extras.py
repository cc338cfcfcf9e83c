"""Fields that a client's request adds to the calls made for it."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from typing import Any

SAMPLING = ("top_k", "min_p")
PENALTIES = ("repetition_penalty", "frequency_penalty", "presence_penalty")
TEMPLATE, PASSED = "chat_template_kwargs", "passed"
NAMES = frozenset({*SAMPLING, *PENALTIES, "stop", "logit_bias", TEMPLATE, "logprobs", "top_logprobs", PASSED})
"""What a model may honour of them; `passed` stands for fields that are not known here."""

Numbers = tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Extras:
    """Fields by name, or objects as JSON, so that limits that hold them can be hashed and stored."""

    sampling: Numbers = ()
    """Of all calls; names of SAMPLING."""
    penalties: Numbers = ()
    """Of calls that reason or write free text: a brief answer has to repeat words of its question."""
    stop: tuple[str, ...] = ()
    """Texts at which an answer in free text may end, as what follows is not shown."""
    stop_is_named: bool = False
    """Whether the text that ends an answer has to be known. Servers do not report it, so they get no stop texts."""
    logit_bias: Numbers = ()
    """By token id. Of the large model's calls alone, as ids are those of one tokenizer."""
    template: str | None = None
    """A JSON object for the chat template; what switches thinking has the last word over it."""
    top_logprobs: int | None = None
    """Alternatives of each token of the answer; None: the answer's tokens are not wanted."""
    passed: str | None = None
    """A JSON object of further fields for every body; whatever else sets one of them has the last word."""

    def __repr__(self) -> str:
        given = [
            (each.name, getattr(self, each.name)) for each in fields(self) if getattr(self, each.name) != each.default
        ]
        return f"Extras({', '.join(f'{name}={value!r}' for name, value in given)})"

    @property
    def passed_fields(self) -> dict[str, Any]:
        return _object(self.passed)

    @property
    def template_fields(self) -> dict[str, Any]:
        return _object(self.template)


def _object(text: str | None) -> dict[str, Any]:
    found: dict[str, Any] = {} if text is None else json.loads(text)
    return found
