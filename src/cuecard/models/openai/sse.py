"""Server-sent events from bytes, by the HTML standard (section 9.2.6), in time linear in their number."""

from __future__ import annotations

import re
from dataclasses import dataclass

_MIB = 2**20
LONGEST_EVENT = 8 * _MIB
"""Bytes of an event: room for an image in a chunk, but a bound on what a server can fill."""
LONGEST_BODY = 64 * _MIB
"""Bytes of an answer that is not streamed."""
_LONGEST_INDENT = 64
_BREAK = re.compile(rb"\r\n|\n|\r")
_BOM = b"\xef\xbb\xbf"


class TooLong(Exception):
    """More bytes than the limit."""


@dataclass(frozen=True)
class SentEvent:
    """One event; `kind` is its `event` field."""

    data: str
    kind: str = "message"


class EventStream:
    """Takes bytes however they are cut into pieces, and gives back the events that they complete."""

    def __init__(self, limit: int = LONGEST_EVENT) -> None:
        """`limit`: bytes of one event."""
        self._limit, self._rest, self._size = limit, bytearray(), 0
        self._at_start, self._behind_cr = True, False
        self._data: list[str] = []
        self._kind = ""

    def take(self, data: bytes) -> list[SentEvent]:
        """The events that these bytes complete. Raises TooLong."""
        if not data:
            return []
        ends_in_cr = data.endswith(b"\r")
        if self._behind_cr:
            data = data.removeprefix(b"\n")
        self._behind_cr = ends_in_cr
        first, *others = _BREAK.split(data) if b"\r" in data else data.split(b"\n")
        self._grow(first)
        found: list[SentEvent] = []
        for part in others:
            found += self._line()
            self._grow(part)
        return found

    def end(self) -> list[SentEvent]:
        """The event that no blank line has ended: the standard drops it, but it may be the answer's last."""
        return [*self._line(), *self._dispatched()]

    def _grow(self, part: bytes) -> None:
        self._rest += part
        if self._size + len(self._rest) > self._limit:
            raise TooLong(f"an event of more than {self._limit / _MIB:g} MiB")

    def _line(self) -> list[SentEvent]:
        """Ends the present line; an event if the line is blank. Bytes that are no UTF-8 become U+FFFD."""
        line, self._rest = bytes(self._rest), bytearray()
        if self._at_start:
            line, self._at_start = line.removeprefix(_BOM), False
        if not line:
            return self._dispatched()
        name, _, value = line.decode(errors="replace").partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            self._data.append(value)
            self._size += len(line)
        elif name == "event":
            self._kind = value
        return []

    def _dispatched(self) -> list[SentEvent]:
        data, kind = self._data, self._kind
        self._data, self._kind, self._size = [], "", 0
        return [SentEvent("\n".join(data), kind or "message")] if data else []


class AnswerBody:
    """The events of an answer; of one that is JSON as a whole, that JSON as an event."""

    def __init__(self) -> None:
        self._stream, self._head = EventStream(), bytearray()
        self.is_whole: bool | None = None
        """It is JSON as a whole: no line of a stream begins like that. None: not known yet."""

    def take(self, data: bytes) -> list[SentEvent]:
        """The events that these bytes complete. Raises TooLong."""
        if self.is_whole is False:
            return self._stream.take(data)
        self._head += data
        if len(self._head) > LONGEST_BODY:
            raise TooLong(f"an answer of more than {LONGEST_BODY / _MIB:g} MiB")
        if self.is_whole is None:
            begun = self._head[:_LONGEST_INDENT].lstrip(_BOM + b" \t\r\n")
            if begun or len(self._head) >= _LONGEST_INDENT:
                self.is_whole = begun.startswith((b"{", b"["))
                return [] if self.is_whole else self._stream.take(bytes(self._head))
        return []

    def end(self) -> list[SentEvent]:
        """What only the end of the answer completes."""
        if self.is_whole:
            return [SentEvent(self._head.removeprefix(_BOM).decode(errors="replace"))]
        return self._stream.end()
