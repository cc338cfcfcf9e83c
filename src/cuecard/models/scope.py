"""The questions that a narrow model was trained on; its answers to questions outside this scope are guesses."""

from __future__ import annotations

import io
import json
import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from PIL import Image as PilImage

from cuecard.domain.errors import BadInput
from cuecard.domain.question import AnswerKind, Image, Question

PLACE = re.compile(r"\{(\w+)\}")
MOST_WORDS = 3
"""Maximum words of a text that counts as an unknown value in an otherwise fitting wording."""

Values = Mapping[str, Sequence[str]]
"""Allowed values, by the name of their list."""
Size = tuple[int, int]
"""Width and height in pixels."""


@dataclass(frozen=True)
class QuestionWording:
    """A question with places for values, such as `Which digit is in cell {cell}?`. It is matched as a whole."""

    text: str
    image_sizes: tuple[Size, ...] = ()
    """Sizes of the images that it is asked about; () for all sizes."""
    options: str | None = None
    """The name of the list of its options; None: trained without options."""

    @classmethod
    def read(cls, table: Mapping[str, Any], values: Values) -> QuestionWording:
        """The wording in a table. Raises ValueError for a missing list of values; KeyError, TypeError if malformed."""
        made = cls(str(table["text"]), sizes(table.get("image_sizes", ())), table.get("options"))
        for name in (*PLACE.findall(made.text), *([] if made.options is None else [made.options])):
            if name not in values:
                raise ValueError(f"the wording {made.text!r} uses the values {name!r}, which are not there")
        return made

    def as_object(self) -> dict[str, Any]:
        """As plain data, in the form that `read` takes."""
        table: dict[str, Any] = {"text": self.text, "image_sizes": [list(size) for size in self.image_sizes]}
        return table | ({} if self.options is None else {"options": self.options})

    def fits(self, text: str, values: Values) -> bool:
        """Whether a text is this wording with some of the values.

        All alternatives are followed at once, so the time is bounded by the lengths of text, wording and lists.
        """
        ends = {0}
        for index, part in enumerate(PLACE.split(self.text)):
            choices = values[part] if index % 2 else [part]
            ends = {end + len(choice) for end in ends for choice in choices if text.startswith(choice, end)}
        return len(text) in ends

    def unknown_value(self, text: str, values: Values) -> str | None:
        """The value that is not in its list, in plain English, if a text fits otherwise; else None."""
        first, *rest = PLACE.split(self.text)
        if not text.startswith(first):
            return None
        at, found = len(first), None
        for place, (name, following) in enumerate(zip(rest[::2], rest[1::2], strict=True), 1):
            is_last = 2 * place == len(rest)
            end = len(text) - len(following) if is_last else text.find(following, at)
            given = text[at:end]
            if end <= at or not text.startswith(following, end) or len(given.split()) > MOST_WORDS:
                return None
            if given not in values[name]:
                found = found or f"{name} {given[:40]!r}, where it knows {listed(values[name])}"
            at = end + len(following)
        return found


def sizes(table: Iterable[Any]) -> tuple[Size, ...]:
    """Pairs of numbers as sizes. Raises ValueError or TypeError."""
    return tuple((int(width), int(height)) for width, height in table)


def outside_wordings(
    text: str, options: Sequence[str], size: Size | None, wordings: Sequence[QuestionWording], values: Values
) -> str | None:
    """Why a question about an image of this size fits none of the wordings, in plain English; None if it fits one."""
    fitting = [wording for wording in wordings if wording.fits(text, values)]
    if not fitting:
        unknown = (wording.unknown_value(text, values) for wording in wordings)
        return next(filter(None, unknown), "a wording that it was not trained on")
    of_size = [wording for wording in fitting if size is None or size in (wording.image_sizes or [size])]
    if not of_size:
        usual = " or ".join(f"{width}x{height}" for width, height in fitting[0].image_sizes)
        return f"a question about images of {usual}, asked about one of {'x'.join(map(str, size or ()))}"
    reasons = [_outside_options(options, wording, values) for wording in of_size]
    return None if None in reasons else reasons[0]


def _outside_options(options: Sequence[str], wording: QuestionWording, values: Values) -> str | None:
    if options and wording.options is None:
        return "options for a question that it was trained on without"
    known = values[wording.options] if wording.options is not None else ()
    unknown = [option for option in options if option not in known]
    return f"the option {unknown[0][:40]!r}, where it knows {listed(known)}" if unknown else None


def listed(values: Sequence[str]) -> str:
    """The values as text: consecutive numbers as `1 to 16`, long lists without their middle."""
    numbers = [int(value) for value in values if value.isascii() and value.isdigit()]
    if len(numbers) == len(values) > 2 and all(after == before + 1 for before, after in pairwise(numbers)):
        return f"{values[0]} to {values[-1]}"
    return ", ".join(values if len(values) < 6 else (*values[:3], "…", values[-1]))


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

    def __reduce__(self) -> tuple[type[SeenImages], tuple[()]]:
        """A copy in another process begins empty."""
        return SeenImages, ()

    def of(self, digest: str) -> Mapping[Size, float] | None:
        """The distances of an image; None if they are not stored."""
        return self._distances.get(digest)

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
            return cls(str(table["about"]), sizes(table["image_sizes"]), words, known, values)
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
            found = outside_wordings(question.text.strip(), question.options, size, self.wordings, self.values)
            if found is not None:
                return found
        if size is not None and self.seen.is_unlike(question.images[0].digest, size):
            return "an image unlike those that it was trained on"
        return None


def _size(image: Image) -> tuple[int, int] | None:
    try:
        with PilImage.open(io.BytesIO(image.data)) as picture:
            return picture.size
    except Exception:  # decoding it in the model reports the error
        return None
