"""From bytes that arrived to events of a stream: what each brought, and how many tokens, where the server tells."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from cuecard.answers.reasoning_parser import ReasoningParser, Start, parse
from cuecard.domain.call import Usage
from cuecard.domain.errors import BrokenStream
from cuecard.latency.server.client import Raw
from cuecard.models.openai.response_body import Chunk, chunk, objects
from cuecard.models.openai.sse import EventStream

REASONING, ANSWER, SILENT = "reasoning", "answer", "silent"
"""Events with tokens; silent ones bring tokens that are no text: special ones, halves of characters."""
EMPTY, USAGE, DONE = "empty", "usage", "done"
"""A choice without a token (a role, a finish reason); counts alone; the end of the stream."""
TOKENS = (REASONING, ANSWER, SILENT)

Event = tuple[float, str, int | None]
"""Seconds from sending on, what it brought, tokens. None: not told."""


@dataclass(frozen=True)
class Heard:
    """One stream, taken apart."""

    events: tuple[Event, ...]
    usage: Usage
    first_answer_s: float | None


def heard(raw: Raw) -> Heard:
    """Raises StreamError, ValueError, TooLong, BrokenStream where nothing was said."""
    said = list(_said(raw))
    counts = [each.usage for _, each, _ in said if each is not None and each.usage is not None]
    events = _events(said)
    if not any(kind in TOKENS for _, kind, _ in events):
        raise BrokenStream("the stream brought no token")
    usage = counts[-1] if counts else Usage()
    return Heard(_counted(events, usage), usage, _first_answer(said))


Said = tuple[float, Chunk | None, bool]
"""When, what (None: the end), and whether there was a choice in it."""


def _said(raw: Raw) -> Iterator[Said]:
    stream = EventStream()
    for at, data in [*raw.chunks, (raw.end_s, b"")]:
        if at is None:
            return
        for sent in stream.take(data) if data else stream.end():
            since = at - raw.sent_s
            if sent.data.startswith("[DONE]"):
                yield since, None, False
                return
            for told in objects(sent.data, sent.kind) if sent.data.strip() else ():
                yield since, chunk(told), bool(told.get("choices"))


def _events(said: Sequence[Said]) -> list[Event]:
    """A running count of tokens, where each event has one, tells how many each brought."""
    runs = all(each.usage is not None for _, each, choice in said if choice and each is not None)
    found: list[Event] = []
    before = 0
    for since, each, choice in said:
        if each is None:
            found.append((since, DONE, None))
        elif not choice:
            found.append((since, USAGE, None))
        else:
            count = each.usage.completion_tokens if runs and each.usage is not None else None
            brought = None if count is None else max(0, count - before)
            before = before if count is None else max(before, count)
            found.append((since, _kind(each, brought), brought))
    return found


def _kind(each: Chunk, brought: int | None) -> str:
    if each.reasoning:
        return REASONING
    if each.content:
        return ANSWER
    return SILENT if brought else EMPTY


def _counted(events: Sequence[Event], usage: Usage) -> tuple[Event, ...]:
    """Without a running count, as many events as tokens are one each; the last token may be an end without text."""
    texts = sum(kind in TOKENS for _, kind, _ in events)
    told = any(brought is not None for _, kind, brought in events if kind in TOKENS)
    if told or usage.completion_tokens not in (texts, texts + 1):
        return tuple(events)
    return tuple((since, kind, 1 if kind in TOKENS else None) for since, kind, _ in events)


def _first_answer(said: Sequence[Said]) -> float | None:
    """Behind the reasoning, be it in a field of its own or marked in the content."""
    texts = [(since, each.content) for since, each, _ in said if each is not None and each.content]
    behind_reasoning = bool(parse("".join(text for _, text in texts)).reasoning)
    parser = ReasoningParser(Start.INSIDE if behind_reasoning else Start.OUTSIDE)
    return next((since for since, text in texts if any(not piece.is_reasoning for piece in parser.feed(text))), None)
