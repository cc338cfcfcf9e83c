"""The reasoning parser: which part of a reply is reasoning and which is answer, for every engine.

Servers put reasoning into a field of its own, between tags at the beginning of the content, behind an opening tag that
stood in the prompt and is not seen, or, with models that do not think by themselves, into prose that ends in a line
`Answer:`. Only what stands at the beginning is reasoning: a tag that is mentioned later is text. The parse depends on
the text and on the parser's settings alone, not on how the text is cut into pieces nor on earlier replies.

Not covered: a closing tag alone where the parser is set to begin outside of reasoning (it stays in the
answer); an answer that begins with a tag it wants to talk about (it is taken for a tag); a reasoning that spells out
its own closing tag (it ends there).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum, StrEnum, auto

from cuecard.answers.reasoning_tags import AnswerMarker, TagTable, TurnEndFilter, tag_table
from cuecard.answers.text.marked_answers import conclusion

_BRIEF = 60
"""Characters of a reply that is an answer and nothing else."""
_PORTION = 512
"""Characters that are looked at in one go, so that many tags in a long piece take linear time."""


class Start(StrEnum):
    """Where a text begins. A leading opening tag is seen in any case."""

    INSIDE = "inside"
    """In the reasoning: its opening tag stood in the prompt, or thinking is switched on."""
    OUTSIDE = "outside"
    """Before any reasoning."""
    UNSURE = "unsure"
    """Not known: text is held back until a closing tag without its opening one, or the end, tells."""


@dataclass(frozen=True)
class Piece:
    """A stretch of reasoning or answer, tags left out."""

    text: str
    is_reasoning: bool


@dataclass(frozen=True)
class Parsed:
    """A whole reply. `unclosed`: its reasoning was never closed, so it was cut off."""

    reasoning: str
    answer: str
    unclosed: bool = False


class _At(Enum):
    LEADING = auto()
    """Before the first character that is no white space, or directly behind a block of reasoning."""
    INSIDE = auto()
    UNSURE = auto()
    PROSE = auto()
    BEHIND = auto()
    """In prose that follows a block of reasoning: more reasoning if a marker follows, else the answer."""
    ANSWER = auto()


class ReasoningParser:
    """Takes a reply in pieces and gives back reasoning and answer as soon as they can be separated.

    `reasons`: reasoning was asked for; `prose`: as prose, which ends at the first line that begins with `Answer:` or
    `Final answer:`, whatever follows it. Where there is no such line, the answer is the `conclusion` of the text; or,
    where `brief` is false, the whole text, which is the reasoning too: a description has no line that concludes it.
    `readable`: whether such a conclusion holds an answer of the kind that was asked for.
    `may_think`: a text that is cut while it is unsure is reasoning, not an answer. `closing`: the tags that close
    reasoning which is inside from the start; any, if none is given.
    """

    def __init__(
        self,
        start: Start = Start.OUTSIDE,
        *,
        reasons: bool = False,
        prose: bool = False,
        brief: bool = True,
        may_think: bool = False,
        readable: Callable[[str], bool] = bool,
        closing: Sequence[str] = (),
        tags: TagTable | None = None,
    ) -> None:
        self._tags = tags or tag_table()
        self._reasons, self._in_prose, self._brief, self._may_think = reasons, prose, brief, may_think
        self._readable = readable
        self._closing = self._tags.closing(*closing)
        self._at = _At.LEADING
        if prose:
            self._then = _At.PROSE
        else:
            self._then = {Start.INSIDE: _At.INSIDE, Start.UNSURE: _At.UNSURE, Start.OUTSIDE: _At.ANSWER}[start]
        self._turn_end, self._marker = TurnEndFilter(), AnswerMarker()
        self._buffer, self._previous = "", ""
        self._held: list[str] = []
        self._mentioned: set[int] = set()
        self._written: dict[bool, list[str]] = {True: [], False: []}
        self._spaces: list[str] = []
        self._breaks = self._closed = self._tagged = self._has_content = False
        self._fields: list[str] = []
        self._fresh: list[Piece] = []
        self.misfiled = False
        """The answer was found in the reasoning field."""

    @property
    def reasoning(self) -> str:
        return self._whole(True)

    @property
    def answer(self) -> str:
        return self._whole(False)

    @property
    def reasoned(self) -> bool:
        """There is reasoning."""
        return bool(self._written[True])

    @property
    def answering(self) -> bool:
        """The answer has begun."""
        return bool(self._written[False])

    @property
    def closed(self) -> bool:
        """The reasoning is over; one that never was is over when the answer begins."""
        return self._closed or self.answering

    @property
    def inside(self) -> bool:
        """What comes next is reasoning, as far as is known."""
        at = self._then if self._at is _At.LEADING else self._at
        return at in (_At.INSIDE, _At.PROSE, _At.BEHIND)

    def feed(self, text: str) -> list[Piece]:
        """The pieces that this text of the content completes."""
        if self._fields and not self._has_content and text.strip():
            self._leave_fields()
        self._has_content = self._has_content or bool(text.strip())
        for portion in _portions(text):
            self._take(self._turn_end.feed(portion))
        return self._emitted()

    def field(self, text: str) -> list[Piece]:
        """The pieces that this text of the reasoning field completes."""
        self._fields.append(text)
        if self._reasons:  # else a short answer may have been put here by mistake: `end` tells
            self._emit(text, is_reasoning=True)
        return self._emitted()

    def end(self, *, whole: bool = True) -> list[Piece]:
        """What was held back, and the conclusion where no answer was marked. `whole`: the reply was not cut."""
        self._take(self._turn_end.end())
        self._step(ended=True)
        match self._at:
            case _At.UNSURE:
                self._emit("".join(self._held), is_reasoning=self._may_think and not whole)
            case _At.PROSE:
                self._emit(self._marker.end(), is_reasoning=True)
            case _At.BEHIND:
                self._end_behind("".join([*self._held, self._marker.end()]), whole=whole)
            case _:
                pass
        self._held.clear()
        if not self._reasons:
            self._end_fields(whole=whole)
        elif whole and not self.answering:
            self._emit(self._concluded(), is_reasoning=False)
        return self._emitted()

    # --- the fields of a message --------------------------------------------------------------------------------------

    def _leave_fields(self) -> None:
        """Content follows a reasoning field: the server has taken the reasoning out of it."""
        if not self._reasons:
            self._emit("".join(self._fields), is_reasoning=True)
        if self._at is _At.LEADING:
            self._then = _At.BEHIND if self._in_prose else _At.ANSWER
        self._breaks, self._closed = True, not self._in_prose

    def _end_fields(self, *, whole: bool) -> None:
        if self._fields and not self._has_content:
            text = "".join(self._fields)
            answer = parse(text).answer if whole else ""
            self.misfiled = bool(answer)
            self._emit(answer or text, is_reasoning=not answer)

    # --- the ends of prose --------------------------------------------------------------------------------------------

    def _end_behind(self, text: str, *, whole: bool) -> None:
        concluded = conclusion(text) if "\n" in text.strip() else None
        if whole and concluded is None:
            self._emit(text, is_reasoning=False)
            return
        self._emit(text, is_reasoning=True)
        if whole:
            self._emit(concluded or "", is_reasoning=False)

    def _concluded(self) -> str:
        text = self.reasoning
        if self._in_prose and not self._brief:
            return text
        plain = not self._tagged and not self._fields and len(text) <= _BRIEF and "\n" not in text
        written = text if plain else conclusion(text) or ""
        return written if self._readable(written) else ""

    # --- the content --------------------------------------------------------------------------------------------------

    def _take(self, text: str) -> None:
        for portion in _portions(text):
            self._buffer += portion
            self._step(ended=False)

    def _step(self, *, ended: bool) -> None:
        """Parse the buffer as far as its parts are certain."""
        steps = {
            _At.LEADING: self._leading,
            _At.INSIDE: self._inside,
            _At.UNSURE: self._unsure,
            _At.PROSE: self._prose,
            _At.BEHIND: self._prose,
            _At.ANSWER: self._answer,
        }
        while self._buffer and steps[self._at](ended):
            pass

    def _leading(self, ended: bool) -> bool:
        self._buffer = self._buffer.lstrip()
        tag = self._tags.any.leading(self._buffer, ended=ended)
        if not self._buffer or tag == "":
            return False
        outside = self._then is _At.ANSWER or self._closed
        if tag is None or (outside and not self._tags.opens(tag) and not self._tags.opens_answer(tag)):
            self._at = self._then
            return True
        self._buffer, self._tagged = self._buffer[len(tag) :], True
        if self._tags.opens(tag):
            self._at, self._closing = _At.INSIDE, self._tags.closing(tag)
        else:
            self._close()
        return True

    def _inside(self, ended: bool) -> bool:
        at, tag = self._closing.first(self._buffer, ended=ended)
        self._emit(self._buffer[:at], is_reasoning=True)
        self._buffer = self._buffer[at + len(tag) :]
        if tag:
            self._close()
        return bool(tag)

    def _unsure(self, ended: bool) -> bool:
        at, tag = self._tags.any.first(self._buffer, ended=ended)
        self._hold(self._buffer[:at])
        if self._ends_reasoning(tag):
            self._emit("".join(self._held), is_reasoning=True)
            self._held.clear()
            self._close()
        else:
            self._hold(self._buffer[at : at + len(tag)])
        self._buffer = self._buffer[at + len(tag) :]
        return bool(tag)

    def _prose(self, ended: bool) -> bool:
        at, tag = self._tags.any.first(self._buffer, ended=ended)
        used = self._think(self._buffer[:at])
        if self._at is _At.ANSWER:
            self._buffer = self._buffer[used:]
            return True
        if self._ends_reasoning(tag):
            self._emit("".join([*self._held, self._marker.end()]), is_reasoning=True)
            self._held.clear()
            self._close()
        elif tag:
            self._think(self._buffer[at : at + len(tag)])
        self._buffer = self._buffer[at + len(tag) :]
        return bool(tag)

    def _answer(self, ended: bool) -> bool:
        text = self._buffer
        if not self.answering and self._marker.bold:
            text = text.lstrip(" \t\r\n*_")
        self._emit(text, is_reasoning=False)
        self._buffer = ""
        return False

    def _think(self, text: str) -> int:
        """Prose up to a marker; how many characters of the text that took."""
        thought, used = self._marker.feed(text)
        self._previous = text[-1:] or self._previous
        if self._at is _At.BEHIND:
            self._held.append(thought)
        else:
            self._emit(thought, is_reasoning=True)
        if self._marker.is_complete:
            self._emit("".join(self._held), is_reasoning=True)
            self._held.clear()
            self._at, self._closed = _At.ANSWER, True
        return used

    def _hold(self, text: str) -> None:
        if text:
            self._held.append(text)
            self._previous = text[-1]

    def _ends_reasoning(self, tag: str) -> bool:
        """A closing tag that is not quoted, and whose opening was not mentioned before it."""
        if not tag:
            return False
        family = id(self._tags.family[tag])
        if self._tags.opens(tag):
            self._mentioned.add(family)
            return False
        return family not in self._mentioned and self._previous not in tuple("`'\"")

    def _close(self) -> None:
        self._closed = self._breaks = self._tagged = True
        self._at, self._then = _At.LEADING, _At.BEHIND if self._in_prose else _At.ANSWER
        self._marker = AnswerMarker()

    # --- what comes out -----------------------------------------------------------------------------------------------

    def _emit(self, text: str, *, is_reasoning: bool) -> None:
        """A piece, without white space at the outer ends of the reasoning and of the answer."""
        written = self._written[is_reasoning]
        if is_reasoning and self.answering:  # thinking again after the answer: not the card's
            return
        if not written or (is_reasoning and self._breaks):
            text = text.lstrip()
            if text:
                self._spaces = ["\n\n"] if written else []
                self._breaks = False
        shown = text.rstrip()
        if shown:
            piece = "".join([*self._spaces, shown])
            written.append(piece)
            self._fresh.append(Piece(piece, is_reasoning))
            self._spaces = []
        if written:
            self._spaces.append(text[len(shown) :])

    def _emitted(self) -> list[Piece]:
        pieces, self._fresh = self._fresh, []
        return pieces

    def _whole(self, is_reasoning: bool) -> str:
        text = "".join(self._written[is_reasoning])
        self._written[is_reasoning] = [text] if text else []
        return text


def _portions(text: str) -> Iterator[str]:
    return (text[at : at + _PORTION] for at in range(0, len(text), _PORTION))


def parse(text: str, start: Start = Start.UNSURE) -> Parsed:
    """A whole reply that came as one text."""
    parser = ReasoningParser(start)
    parser.feed(text)
    parser.end()
    return Parsed(parser.reasoning, parser.answer, parser.inside)


def visible(text: str) -> str | None:
    """The reply without its reasoning; None if that was never closed."""
    parsed = parse(text)
    return None if parsed.unclosed else parsed.answer
