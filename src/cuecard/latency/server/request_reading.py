"""One timed request as a reading."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from cuecard.domain.errors import ModelError
from cuecard.latency.readings import Reading
from cuecard.latency.server.client import Raw
from cuecard.latency.server.events import TOKENS, heard


def filled(blank: Reading, raw: Raw, start_s: float, translated: Callable[..., ModelError]) -> Reading:
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
        told = heard(raw)
    except Exception as error:
        raw.error = translated(error, begun=True)
        return replace(timed, error=str(raw.error))
    times = [since for since, kind, _ in told.events if kind in TOKENS]
    counts = {
        "prompt_tokens": told.usage.prompt_tokens,
        "output_tokens": told.usage.completion_tokens,
        "cached_tokens": told.usage.cached_tokens,
    }
    return replace(
        timed,
        parts_s={"queue": queue, "ttft": times[0], "decode": times[-1] - times[0], "tail": spent - times[-1]},
        observed={name: count for name, count in counts.items() if count is not None},
        events=told.events,
        first_answer_s=told.first_answer_s,
    )
