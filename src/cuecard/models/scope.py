"""What a model was trained on, where that is less than anything a person may ask: questions outside it are guesses."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from PIL import Image as PilImage

from cuecard.domain.errors import BadInput
from cuecard.domain.question import AnswerKind, Image, Question

FILE = "scope.json"
WORD = re.compile(r"[^\W\d_]+")


@dataclass(frozen=True)
class Scope:
    """What a model answers questions about: always one image of these sizes, always in these words."""

    about: str
    image_sizes: tuple[tuple[int, int], ...]
    """Width and height in pixels."""
    words: frozenset[str]
    """Of questions and options, as they are written: capital letters count. Numbers and punctuation are free."""

    @classmethod
    def read(cls, path: Path) -> Scope:
        """Raises BadInput."""
        try:
            table = json.loads(path.read_text(encoding="utf-8"))
            sizes = tuple((int(width), int(height)) for width, height in table["image_sizes"])
            return cls(str(table["about"]), sizes, frozenset(map(str, table["words"])))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise BadInput(f"{path} is not a scope: {error}", "it holds about, image_sizes and words") from error

    def as_object(self) -> dict[str, Any]:
        """As `read` takes it."""
        return {
            "about": self.about,
            "image_sizes": [list(size) for size in self.image_sizes],
            "words": sorted(self.words),
        }

    def outside(self, question: Question) -> str | None:
        """Why this question is none of those that the model was trained on, in plain English; None if it is one."""
        if question.kind is AnswerKind.JSON:
            return "an answer in JSON"
        if not question.images:
            return "no image"
        if len(question.images) > 1 or any(message.images for message in question.history):
            return "several images"
        if (size := _size(question.images[0])) is not None and size not in self.image_sizes:
            return f"an image of {size[0]}x{size[1]}"
        if question.system or question.history:
            return "a system prompt" if question.system else "a conversation"
        for text in (question.text, *question.options):
            for word in WORD.findall(text):
                if word not in self.words:
                    return f"a word that it was not trained on: {word[:40]!r}"
        return None


class Scoped(Protocol):
    """What may have a scope."""

    @property
    def name(self) -> str: ...

    @property
    def abilities(self) -> Any: ...


def outside(question: Question, models: Iterable[Scoped]) -> str | None:
    """Why a question is outside what some of the models were trained on, and what that is; None if it is not."""
    reasons: dict[tuple[str, str], list[str]] = {}
    for model in models:
        scope: Scope | None = model.abilities.scope
        if scope is not None and (why := scope.outside(question)) is not None:
            reasons.setdefault((scope.about, why), []).append(model.name)
    table = [
        f"outside what {' and '.join(names)} {'were' if len(names) > 1 else 'was'} trained on ({about}): {why}"
        for (about, why), names in reasons.items()
    ]
    return "; ".join(table) or None


def _size(image: Image) -> tuple[int, int] | None:
    try:
        with PilImage.open(io.BytesIO(image.data)) as picture:
            return picture.size
    except Exception:  # the model says what is wrong with it
        return None
