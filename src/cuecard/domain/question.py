"""A question (images, text, options, the kind of answer it wants), and an answer, or why there is none."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, StrEnum
from fractions import Fraction
from functools import cached_property
from typing import ClassVar

from cuecard.domain.errors import BadInput, did_you_mean, suggests_keywords

MOST_OPTIONS = 26
"""One for each letter."""


class _Registered(type):
    """Metaclass: the class is the collection of its registered values."""

    def __iter__(cls) -> Iterator[AnswerKind]:
        return iter(_KINDS.values())

    def __len__(cls) -> int:
        return len(_KINDS)

    def __contains__(cls, name: object) -> bool:
        return name in _KINDS


class AnswerKind(str, metaclass=_Registered):
    """The kind of answer that a question asks for; `cuecard.answers.kinds.register` adds one.

    Like an enumeration of texts: one object for each name, so that kinds can be compared with `is`.
    """

    CHOICE: ClassVar[AnswerKind]
    YES_NO: ClassVar[AnswerKind]
    NUMBER: ClassVar[AnswerKind]
    SHORT_TEXT: ClassVar[AnswerKind]
    MATHS: ClassVar[AnswerKind]
    FREE_TEXT: ClassVar[AnswerKind]
    JSON: ClassVar[AnswerKind]

    def __new__(cls, name: str) -> AnswerKind:
        """The kind of this name. Raises ValueError if there is none."""
        if name not in _KINDS:
            raise ValueError(f"{name!r} is not a valid AnswerKind")
        return _KINDS[name]

    @classmethod
    def add(cls, name: str) -> AnswerKind:
        """The kind of this name, created if it does not exist."""
        return _KINDS.setdefault(name, str.__new__(cls, name))

    @property
    def value(self) -> str:
        return str(self)


_KINDS: dict[str, AnswerKind] = {}
for _name in ("choice", "yes_no", "number", "short_text", "maths", "free_text", "json"):
    setattr(AnswerKind, _name.upper(), AnswerKind.add(_name))


class Calling(StrEnum):
    """Whether a reply may or must call tools; its JSON then has the form that `answers.json_replies` reads."""

    AUTO = "auto"
    """The reply calls tools, or is an answer."""
    REQUIRED = "required"
    """The reply calls at least one tool."""


@dataclass(frozen=True)
class Image:
    """One encoded image (PNG, JPEG, …), passed to every model as the same bytes."""

    data: bytes
    media_type: str = "image/png"

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the bytes, the image's identity in caches and records."""
        return hashlib.sha256(self.data).hexdigest()

    @property
    def data_url(self) -> str:
        """The image as a data URL, the form that every server accepts."""
        return f"data:{self.media_type};base64,{base64.b64encode(self.data).decode()}"


@dataclass(frozen=True)
class Message:
    """An earlier message of the conversation, by the `user` or the `assistant`."""

    role: str
    text: str
    images: tuple[Image, ...] = ()


@suggests_keywords
@dataclass(frozen=True)
class Question:
    """What a user asks: zero or more images, a text, options for a choice; and the conversation that led to it."""

    text: str
    images: tuple[Image, ...] = ()
    options: tuple[str, ...] = ()
    kind: AnswerKind = AnswerKind.FREE_TEXT
    system: str | None = None
    history: tuple[Message, ...] = ()
    schema: str | None = None
    """The JSON Schema that an answer of kind `json` must fit, as JSON."""
    labels: tuple[str, ...] = ()
    """The numbers that the user gave the options; () for letters. Prompts always use letters."""
    schema_name: str = "answer"
    """The schema's name in requests to servers."""
    schema_strict: bool = False
    """Whether OpenAI's `strict` is requested from servers that support it."""
    calling: Calling | None = None
    """Whether the reply may or must call tools; None: there are no tools."""

    def __post_init__(self) -> None:
        if not self.text.strip():
            raise ValueError("a question needs a text")
        if len(self.options) > MOST_OPTIONS or (self.kind is AnswerKind.CHOICE and len(self.options) < 2):
            raise ValueError(f"a choice needs 2 to {MOST_OPTIONS} options, got {len(self.options)}")

    @property
    def characters(self) -> int:
        """Number of characters of all its texts."""
        earlier = (message.text for message in self.history)
        return sum(map(len, (self.text, self.system or "", self.schema or "", *self.options, *earlier)))


def kind_named(name: object) -> AnswerKind:
    """The kind of answer of this name. Raises BadInput with a suggestion."""
    if isinstance(name, str) and name in AnswerKind:
        return AnswerKind(name)
    near = did_you_mean(name, AnswerKind, "")
    raise BadInput(f"unknown kind {str(name)[:40]!r}", f"{kinds_hint()}{near and f'; {near}'}")


def kinds_hint() -> str:
    """Lists all kinds, for an error."""
    return f"kinds are: {', '.join(AnswerKind)}"


def labelled(question: Question, value: object) -> str | None:
    """The option of a letter, with the user's label: "B. Jupiter" or "2. Jupiter"; None if there is no such option."""
    for index, option in enumerate(question.options):
        if letter(index) == value:
            return f"{question.labels[index] if question.labels else letter(index)}. {option}"
    return None


def letter(index: int) -> str:
    """The letter of an option: 0 -> A."""
    return chr(ord("A") + index)


# --- answers ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Answer:
    """A final answer: `text` as written, `value` for comparison. A value of None is unparseable."""

    text: str
    value: str | Fraction | None

    @property
    def parsed(self) -> bool:
        """Whether there is an answer."""
        return self.value is not None


UNPARSED = Answer("", None)


class Blank(Enum):
    """Why a text gives no answer. UNCLEAR is final; after NOTHING another part of the text may hold the answer."""

    NOTHING = "nothing is stated"
    UNCLEAR = "several answers, a refusal, or one taken back"


Reading = Answer | Blank
