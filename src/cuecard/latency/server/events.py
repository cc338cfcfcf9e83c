"""From bytes to the events of a stream, with the tokens of each where the server reports them, and to a reading."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from cuecard.answers.reasoning_parser import ReasoningParser, Start, parse
from cuecard.domain.call import Usage
from cuecard.domain.errors import BrokenStream, ModelError
from cuecard.latency.readings import Reading
from cuecard.latency.server.client import Raw
from cuecard.models.openai.response_body import Chunk, chunk, objects
from cuecard.models.openai.sse import EventStream

REASONING, ANSWER, SILENT = "reasoning", "answer", "silent"
"""Events with tokens; silent ones bring tokens that are no text: special ones, halves of characters."""
EMPTY, USAGE, DONE = "empty", "usage", "done"
"""A choice without a token (a role, a finish reason); counts alone; the end of the stream."""
TOKENS = (REASONING, ANSWER, SILENT)

Event = tuple[float, str, int | None]
"""Seconds from sending on, what it brought, tokens. None: not reported."""


@dataclass(frozen=True)
class StreamEvents:
    """One stream, taken apart."""

    events: tuple[Event, ...]
    usage: Usage
    first_answer_s: float | None


def stream_events(raw: Raw) -> StreamEvents:
    """Raises StreamError, ValueError, TooLong, BrokenStream where the stream brought no token."""
    chunks = list(_timed_chunks(raw))
    counts = [each.usage for _, each, _ in chunks if each is not None and each.usage is not None]
    events = _events(chunks)
    if not any(kind in TOKENS for _, kind, _ in events):
        raise BrokenStream("the stream brought no token")
    usage = counts[-1] if counts else Usage()
    return StreamEvents(_counted(events, usage), usage, _first_answer(chunks))


TimedChunk = tuple[float, Chunk | None, bool]
"""When, what (None: the end), and whether there was a choice in it."""


def _timed_chunks(raw: Raw) -> Iterator[TimedChunk]:
    stream = EventStream()
    for at, data in [*raw.chunks, (raw.end_s, b"")]:
        if at is None:
            return
        for sent in stream.take(data) if data else stream.end():
            since = at - raw.sent_s
            if sent.data.startswith("[DONE]"):
                yield since, None, False
                return
            for message in objects(sent.data, sent.kind) if sent.data.strip() else ():
                yield since, chunk(message), bool(message.get("choices"))


def _events(chunks: Sequence[TimedChunk]) -> list[Event]:
    """A running count of tokens, where each event has one, tells how many each brought."""
    runs = all(each.usage is not None for _, each, choice in chunks if choice and each is not None)
    found: list[Event] = []
    before = 0
    for since, each, choice in chunks:
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
    is_counted = any(brought is not None for _, kind, brought in events if kind in TOKENS)
    if is_counted or usage.completion_tokens not in (texts, texts + 1):
        return tuple(events)
    return tuple((since, kind, 1 if kind in TOKENS else None) for since, kind, _ in events)


def _first_answer(chunks: Sequence[TimedChunk]) -> float | None:
    """Behind the reasoning, be it in a field of its own or marked in the content."""
    texts = [(since, each.content) for since, each, _ in chunks if each is not None and each.content]
    behind_reasoning = bool(parse("".join(text for _, text in texts)).reasoning)
    parser = ReasoningParser(Start.INSIDE if behind_reasoning else Start.OUTSIDE)
    return next((since for since, text in texts if any(not piece.is_reasoning for piece in parser.feed(text))), None)


def reading_of(blank: Reading, raw: Raw, start_s: float, translated: Callable[..., ModelError]) -> Reading:
    """The reading with its times, counts and events; what cannot be read is an error, in `raw` too.

    `start_s` is when its load began.
    """
    assert raw.end_s is not None
    queue, spent = raw.sent_s - raw.due_s, raw.end_s - raw.sent_s
    timed = replace(
        blank,
        parts_s={"queue": queue},
        total_s=queue + spent,
        sent_s=raw.sent_s - start_s,
        head_s=None if raw.head_s is None else raw.head_s - raw.sent_s,
    )
    try:
        if raw.error is not None:
            raise raw.error
        stream = stream_events(raw)
    except Exception as error:
        raw.error = translated(error, begun=True)
        return replace(timed, error=str(raw.error))
    times = [since for since, kind, _ in stream.events if kind in TOKENS]
    counts = {
        "prompt_tokens": stream.usage.prompt_tokens,
        "output_tokens": stream.usage.completion_tokens,
        "cached_tokens": stream.usage.cached_tokens,
    }
    return replace(
        timed,
        parts_s={"queue": queue, "ttft": times[0], "decode": times[-1] - times[0], "tail": spent - times[-1]},
        observed={name: count for name, count in counts.items() if count is not None},
        events=stream.events,
        first_answer_s=stream.first_answer_s,
    )
