"""What a model was trained on, where that is less than anything a person may ask: questions outside it are guesses."""

from __future__ import annotations

import io
import json
import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from PIL import Image as PilImage

from cuecard.domain.errors import BadInput
from cuecard.domain.question import AnswerKind, Image, Question
from cuecard.models import wordings
from cuecard.models.wordings import QuestionWording, Size

FILE, IMAGES_FILE = FILES = "scope.json", "scope.npz"
"""The second one holds an `ImageScope`; no safetensors: servers take every such file in a folder for weights."""
WORD = re.compile(r"[^\W\d_]+")
IMAGES_KEPT = 1024


class SeenImages:
    """How far the images that a model has computed last lie from those that it was trained on; above 1 is unusual.

    Written by the thread that computes, read by any.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._distances = OrderedDict[str, Mapping[Size, float]]()
        self.on_keep: Callable[[str, Mapping[Size, float]], object] = lambda digest, distances: None
        """Takes what is kept: another process hears of it."""

    def keep(self, digest: str, distances: Mapping[Size, float]) -> None:
        """By the size of images that it is compared with."""
        with self._lock:
            self._distances.pop(digest, None)
            self._distances[digest] = distances
            while len(self._distances) > IMAGES_KEPT:
                self._distances.popitem(last=False)
        self.on_keep(digest, distances)

    def is_unlike(self, digest: str, size: Size) -> bool:
        """Whether an image is unlike those of its size; False where that is not known."""
        distance = self._distances.get(digest, {}).get(size)
        return distance is not None and not distance <= 1


@dataclass(frozen=True)
class Scope:
    """What a model answers questions about: always one image of these sizes, always in these words.

    And in these wordings, where there are any.
    """

    about: str
    image_sizes: tuple[Size, ...]
    words: frozenset[str]
    """Of questions and options, as they are written: capital letters count. Numbers and punctuation are free."""
    wordings: tuple[QuestionWording, ...] = ()
    values: Mapping[str, tuple[str, ...]] = field(default_factory=dict, hash=False)
    """What may stand in the places of wordings, by name."""
    seen: SeenImages = field(default_factory=SeenImages, compare=False, repr=False)
    """What the model has found out about images; empty for a model that does not look."""

    @classmethod
    def read(cls, path: Path) -> Scope:
        """Raises BadInput."""
        try:
            table = json.loads(path.read_text(encoding="utf-8"))
            values = {str(name): tuple(map(str, each)) for name, each in table.get("values", {}).items()}
            known = tuple(QuestionWording.read(each, values) for each in table.get("wordings", ()))
            words = frozenset(map(str, table["words"]))
            return cls(str(table["about"]), wordings.sizes(table["image_sizes"]), words, known, values)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise BadInput(f"{path} is not a scope: {error}", "it holds about, image_sizes and words") from error

    def as_object(self) -> dict[str, Any]:
        """As `read` takes it."""
        return {
            "about": self.about,
            "image_sizes": [list(size) for size in self.image_sizes],
            "words": sorted(self.words),
            "values": {name: list(each) for name, each in self.values.items()},
            "wordings": [each.as_object() for each in self.wordings],
        }

    def outside(self, question: Question) -> str | None:
        """Why this question is none of those that the model was trained on, in plain English; None if it is one."""
        if question.kind is AnswerKind.JSON:
            return "an answer in JSON"
        if not question.images:
            return "no image"
        if len(question.images) > 1 or any(message.images for message in question.history):
            return "several images"
        size = _size(question.images[0])
        if size is not None and size not in self.image_sizes:
            return f"an image of {size[0]}x{size[1]}"
        if question.system or question.history:
            return "a system prompt" if question.system else "a conversation"
        for text in (question.text, *question.options):
            for word in WORD.findall(text):
                if word not in self.words:
                    return f"a word that it was not trained on: {word[:40]!r}"
        if self.wordings:
            found = wordings.outside(question.text.strip(), question.options, size, self.wordings, self.values)
            if found is not None:
                return found
        if size is not None and self.seen.is_unlike(question.images[0].digest, size):
            return "an image unlike those that it was trained on"
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
