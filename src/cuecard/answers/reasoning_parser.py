"""The reasoning parser: separates the reasoning and the answer of a reply, for every engine.

Servers put reasoning into a field of its own; between tags at the beginning of the content; behind an opening tag that
is in the prompt and not visible; or, for models without a thinking mode, into prose that ends at a line `Answer:`.
Only text at the beginning is reasoning: a tag that is mentioned later is text. The result depends only on the text and
the parser's settings, not on how the text is split into pieces or on earlier replies.

Not covered: a closing tag alone if the parser starts outside of reasoning (it stays in the answer); an answer that
begins by mentioning a tag (it is taken for a tag); a reasoning that mentions its own closing tag (it ends there).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum, StrEnum, auto

from cuecard.answers.text.reasoning_tags import AnswerMarker, TagTable, TurnEndFilter, tag_table
from cuecard.answers.text.statements import conclusion

_BRIEF = 60
"""Maximum length of a reply that is an answer and nothing else."""
_PORTION = 512
"""Characters processed at once, so that many tags in a long piece take linear time."""


class Start(StrEnum):
    """State at the start of a text. A leading opening tag is recognised in any state."""

    INSIDE = "inside"
    """In the reasoning: its opening tag is in the prompt, or thinking is switched on."""
    OUTSIDE = "outside"
    """Before any reasoning."""
    UNSURE = "unsure"
    """Unknown: text is held back until a closing tag without an opening one, or the end, decides."""


@dataclass(frozen=True)
class Piece:
    """A piece of reasoning or answer, without tags."""

    text: str
    is_reasoning: bool


class _At(Enum):
    LEADING = auto()
    """Before the first character that is not white space, or directly after a block of reasoning."""
    INSIDE = auto()
    UNSURE = auto()
    PROSE = auto()
    BEHIND = auto()
    """In prose after a block of reasoning: more reasoning if a marker follows, else the answer."""
    ANSWER = auto()


class ReasoningParser:
    """Takes a reply in pieces and returns reasoning and answer as soon as they can be separated.

    `reasons`: reasoning was requested; `prose`: as prose, which ends at the first line that begins with `Answer:` or
    `Final answer:`, whatever follows it. Without such a line, the answer is the `conclusion` of the text; or, if
    `brief` is false, the whole text, which is also the reasoning: a description has no concluding line. `readable`:
    whether such a conclusion holds an answer of the requested kind. `may_think`: a text that is truncated in the state
    UNSURE is reasoning, not an answer. `closing`: the tags that close reasoning from INSIDE; any if none is given.
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
        """Whether there is reasoning."""
        return bool(self._written[True])

    @property
    def answering(self) -> bool:
        """Whether the answer has begun."""
        return bool(self._written[False])

    @property
    def closed(self) -> bool:
        """Whether the reasoning is over; without a closing tag it is over when the answer begins."""
        return self._closed or self.answering

    @property
    def inside(self) -> bool:
        """Whether the next text is reasoning, as far as known."""
        at = self._then if self._at is _At.LEADING else self._at
        return at in (_At.INSIDE, _At.PROSE, _At.BEHIND)

    def feed(self, text: str) -> list[Piece]:
        """The pieces that are complete after this text of the content."""
        if self._fields and not self._has_content and text.strip():
            self._leave_fields()
        self._has_content = self._has_content or bool(text.strip())
        for portion in _portions(text):
            self._take(self._turn_end.feed(portion))
        return self._emitted()

    def field(self, text: str) -> list[Piece]:
        """The pieces that are complete after this text of the reasoning field."""
        self._fields.append(text)
        if self._reasons:  # else the field may hold a misplaced short answer: `end` decides
            self._emit(text, is_reasoning=True)
        return self._emitted()

    def end(self, *, whole: bool = True) -> list[Piece]:
        """The text held back, and the conclusion if no answer was marked. `whole`: the reply is not truncated."""
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
        """Content after a reasoning field: the server has separated the reasoning."""
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
            _At.UNSURE: self._open,
            _At.PROSE: self._open,
            _At.BEHIND: self._open,
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

    def _open(self, ended: bool) -> bool:
        """Text that a closing tag, a marker or the end of the reply tells apart from the answer."""
        at, tag = self._tags.any.first(self._buffer, ended=ended)
        take = self._hold if self._at is _At.UNSURE else self._think
        used = take(self._buffer[:at])
        if self._at is _At.ANSWER:
            self._buffer = self._buffer[used:]
            return True
        if self._ends_reasoning(tag):
            self._emit("".join([*self._held, self._marker.end()]), is_reasoning=True)
            self._held.clear()
            self._close()
        elif tag:
            take(self._buffer[at : at + len(tag)])
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
        """Consume prose up to a marker; return the number of characters consumed."""
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

    def _hold(self, text: str) -> int:
        self._held.append(text)
        self._previous = text[-1:] or self._previous
        return len(text)

    def _ends_reasoning(self, tag: str) -> bool:
        """Whether a closing tag is unquoted, and its opening tag was not mentioned before."""
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

    # --- output -------------------------------------------------------------------------------------------------------

    def _emit(self, text: str, *, is_reasoning: bool) -> None:
        """Emit a piece, without white space at the outer ends of the reasoning and of the answer."""
        written = self._written[is_reasoning]
        if is_reasoning and self.answering:  # reasoning after the answer: not part of the card
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


def parse(text: str, start: Start = Start.UNSURE) -> ReasoningParser:
    """The parser after a whole reply; if it is still `inside`, the reply is truncated in its reasoning."""
    parser = ReasoningParser(start)
    parser.feed(text)
    parser.end()
    return parser


def visible(text: str) -> str | None:
    """The reply without its reasoning; None if the reasoning is not closed."""
    parsed = parse(text)
    return None if parsed.inside else parsed.answer
