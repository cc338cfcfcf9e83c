"""The questions that a narrow model was trained on; its answers to questions outside this scope are guesses."""

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
"""The second file holds an `ImageScope`; not as safetensors, because servers load each such file as weights."""
WORD = re.compile(r"[^\W\d_]+")
IMAGES_KEPT = 1024


class SeenImages:
    """Distances of the images that a model computed last from its training images; above 1 is unusual.

    Written by the compute thread, read by any thread.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._distances = OrderedDict[str, Mapping[Size, float]]()
        self.on_keep: Callable[[str, Mapping[Size, float]], object] = lambda digest, distances: None
        """Called with each stored entry, to send it to another process."""

    def keep(self, digest: str, distances: Mapping[Size, float]) -> None:
        """Store an image's distances, by the size of the training images that it is compared with."""
        with self._lock:
            self._distances.pop(digest, None)
            self._distances[digest] = distances
            while len(self._distances) > IMAGES_KEPT:
                self._distances.popitem(last=False)
        self.on_keep(digest, distances)

    def is_unlike(self, digest: str, size: Size) -> bool:
        """Whether an image is unlike the training images of this size; False if unknown."""
        distance = self._distances.get(digest, {}).get(size)
        return distance is not None and not distance <= 1


@dataclass(frozen=True)
class Scope:
    """The questions that a model was trained on: about one image of these sizes, in these words.

    If there are `wordings`, only in these wordings.
    """

    about: str
    image_sizes: tuple[Size, ...]
    words: frozenset[str]
    """Words of questions and options, case-sensitive. Numbers and punctuation are not checked."""
    wordings: tuple[QuestionWording, ...] = ()
    values: Mapping[str, tuple[str, ...]] = field(default_factory=dict, hash=False)
    """Allowed values for the places in wordings, by name."""
    seen: SeenImages = field(default_factory=SeenImages, compare=False, repr=False)
    """Distances of images that the model has computed; empty for a model without an `ImageScope`."""

    @classmethod
    def read(cls, path: Path) -> Scope:
        """The scope in a JSON file. Raises BadInput."""
        try:
            table = json.loads(path.read_text(encoding="utf-8"))
            values = {str(name): tuple(map(str, each)) for name, each in table.get("values", {}).items()}
            known = tuple(QuestionWording.read(each, values) for each in table.get("wordings", ()))
            words = frozenset(map(str, table["words"]))
            return cls(str(table["about"]), wordings.sizes(table["image_sizes"]), words, known, values)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise BadInput(f"{path} is not a scope: {error}", "it holds about, image_sizes and words") from error

    def as_object(self) -> dict[str, Any]:
        """As plain data, in the form of the file that `read` takes."""
        return {
            "about": self.about,
            "image_sizes": [list(size) for size in self.image_sizes],
            "words": sorted(self.words),
            "values": {name: list(each) for name, each in self.values.items()},
            "wordings": [each.as_object() for each in self.wordings],
        }

    def outside(self, question: Question) -> str | None:
        """Why this question is outside the scope, in plain English; None if it is inside."""
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
    """A model that may have a scope."""

    @property
    def name(self) -> str: ...

    @property
    def abilities(self) -> Any: ...


def outside(question: Question, models: Iterable[Scoped]) -> str | None:
    """Why a question is outside the scope of some of the models, with what each scope is about; else None."""
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
    except Exception:  # decoding it in the model reports the error
        return None
