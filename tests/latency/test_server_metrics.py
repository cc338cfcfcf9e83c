"""From timed bytes to metrics, on hand-written streams: every figure is known."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cuecard.domain.errors import BrokenStream
from cuecard.latency.readings import Point, Reading
from cuecard.latency.server_requests import Raw, Spread, StreamEvents, figures, spread, stream_events
from cuecard.models.openai.response_body import StreamError

ROLE = {"role": "assistant", "content": ""}


def event(delta: dict[str, Any] | None, running: int | None = None, total: int | None = None) -> bytes:
    data: dict[str, Any] = {"choices": [] if delta is None else [{"delta": delta, "finish_reason": None}]}
    count = running if running is not None else total
    if count is not None:
        data["usage"] = {"prompt_tokens": 40, "completion_tokens": count}
    return f"data: {json.dumps(data)}\n\n".encode()


DONE = b"data: [DONE]\n\n"


def stream(*chunks: tuple[float, bytes], sent_s: float = 100.0) -> Raw:
    """A stream of (seconds after sending, bytes)."""
    raw = Raw(sent_s, sent_s, sent_s + 0.01)
    raw.chunks = [(sent_s + since, data) for since, data in chunks]
    raw.end_s = raw.chunks[-1][0]
    return raw


def reading(parsed: StreamEvents, end_s: float, queue_s: float = 0.0) -> Reading:
    counts = {"output_tokens": parsed.usage.completion_tokens or 0}
    return Reading(
        "m", "server", 0, 0, False, Point(), {"queue": queue_s}, queue_s + end_s, counts, events=parsed.events,
        first_answer_s=parsed.first_answer_s,
    )  # fmt: skip


REASONED = stream(
    (0.20, event(ROLE, 0)),
    (0.21, event({"reasoning": "one"}, 1)),
    (0.26, event({"reasoning": " two three"}, 3)),
    (0.36, event({"content": "four"}, 4)),
    (0.40, event({"content": " five six"}, 6)),
    (0.41, event({}, 6) + event(None, total=6)),
    (0.42, DONE),
)


def test_every_metric_is_as_its_tool_defines_it() -> None:
    found = figures(reading(stream_events(REASONED), 0.42, queue_s=0.5))
    assert found["queue"] == [0.5]
    assert found["TTFT"] == pytest.approx([0.21])
    assert found["TTFT, vLLM"] == pytest.approx([0.20])
    assert found["TTFO"] == pytest.approx([0.36])
    assert found["TPOT, vLLM"] == pytest.approx([(0.41 - 0.20) / 5])
    assert found["TPOT, guidellm"] == pytest.approx([0.40 / 6])
    assert found["ITL"] == pytest.approx([0.05, 0.10, 0.04])
    assert found["ITL, vLLM"] == pytest.approx([0.01, 0.05, 0.10, 0.04, 0.01])
    assert found["ITL, guidellm"] == pytest.approx([(0.40 - 0.21) / 5])
    assert found["E2EL"] == pytest.approx([0.42])
    assert found["E2EL, vLLM"] == pytest.approx([0.41])
    assert found["tokens an event"] == [1.5]


def test_only_a_running_count_gives_the_tokens_of_bundles() -> None:
    assert [tokens for _, kind, tokens in stream_events(REASONED).events if kind in ("reasoning", "answer")] == [
        1,
        2,
        1,
        2,
    ]
    bundled = stream_events(stream((0.1, event({"content": "one two"})), (0.2, event(None, total=4)), (0.2, DONE)))
    assert [tokens for *_, tokens in bundled.events] == [None, None, None]
    assert bundled.usage.completion_tokens == 4


@pytest.mark.parametrize("total", [2, 3])
def test_without_a_running_count_as_many_events_as_tokens_are_one_each_save_an_end_without_text(total: int) -> None:
    chunks = [(0.1, event({"content": "one"})), (0.2, event({"content": " two"})), (0.3, event(None, total=total))]
    assert [tokens for *_, tokens in stream_events(stream(*chunks)).events] == [1, 1, None]


def test_tokens_without_text_are_tokens_where_the_server_counts_them() -> None:
    parsed = stream_events(stream((0.1, event({"content": ""}, 1)), (0.2, event({"content": "é"}, 2)), (0.2, DONE)))
    assert [kind for _, kind, _ in parsed.events] == ["silent", "answer", "done"]
    assert figures(reading(parsed, 0.2))["TTFT"] == pytest.approx([0.1])
    assert parsed.first_answer_s == pytest.approx(0.2)


def test_bytes_may_be_cut_anywhere() -> None:
    whole = event({"content": "é"}) + event({"content": " two"}) + event(None, total=2) + DONE
    pieces = [(0.1 + at / 1000, whole[at : at + 1]) for at in range(len(whole))]
    parsed, at_once = stream_events(stream(*pieces)), stream_events(stream((0.1, whole)))
    assert [kind for _, kind, _ in parsed.events] == [kind for _, kind, _ in at_once.events]
    assert parsed.events[0][0] == pytest.approx(0.1 + (len(event({"content": "é"})) - 1) / 1000)


@pytest.mark.parametrize(
    ("texts", "first"),
    [
        (["four", " five"], 0.0),
        (["<think>", "so", "</think>", "\n\n", "four"], 0.4),
        (["so", "</th", "ink>\n\nfour", " five"], 0.2),
        (["<think>", "so and so"], None),
    ],
)
def test_the_first_token_of_the_answer_comes_behind_reasoning_that_is_marked(
    texts: list[str], first: float | None
) -> None:
    chunks = [(place / 10, event({"content": text})) for place, text in enumerate(texts)]
    assert stream_events(stream(*chunks, (1.0, DONE))).first_answer_s == (
        None if first is None else pytest.approx(first)
    )


def test_a_stream_without_a_token_and_one_with_an_error_are_no_answers() -> None:
    with pytest.raises(BrokenStream, match="no token"):
        stream_events(stream((0.1, event(ROLE)), (0.2, DONE)))
    with pytest.raises(StreamError):
        stream_events(stream((0.1, event({"content": "a"})), (0.2, b'data: {"error": {"message": "engine died"}}\n\n')))


def test_percentiles_are_between_values_as_numpy_has_them() -> None:
    numpy = pytest.importorskip("numpy")
    values = [0.3, 0.1, 0.9, 0.4, 0.25]
    found = Spread.of(values)
    assert found.mean == pytest.approx(0.39)
    assert [found.percentiles[p] for p in (50, 90, 99)] == pytest.approx(
        numpy.percentile(values, (50, 90, 99)).tolist()
    )
    assert Spread.of([0.2]).percentiles == {50: 0.2, 90: 0.2, 99: 0.2}


def test_requests_that_failed_are_counted_and_left_out() -> None:
    good = reading(stream_events(REASONED), 0.42)
    bad = Reading("m", "server", 0, 1, False, Point(), {"queue": 0.0}, 9.0, error="it broke off")
    found = spread([good, bad])
    assert found is not None
    assert (found.requests, found.failed, found.metrics["E2EL"].mean) == (1, 1, pytest.approx(0.42))
    assert "queue" not in found.metrics
    assert spread([bad]) is None
