"""Server-sent events: cases of the HTML standard and of browser tests (web-platform-tests/eventsource)."""

from __future__ import annotations

import time

import pytest

from cuecard.models.openai.http import LONGEST_BODY, AnswerBody, EventStream, SentEvent, TooLong


def events(*parts: bytes) -> list[tuple[str, str]]:
    """(kind, data) of every event that a blank line ends."""
    stream = EventStream()
    return [(sent.kind, sent.data) for part in parts for sent in stream.take(part)]


def data(*parts: bytes) -> list[str]:
    return [text for _, text in events(*parts)]


# from the HTML standard, section 9.2.6 ("Interpreting an event stream"), then web-platform-tests/eventsource
STANDARD = [
    (b"data: YHOO\ndata: +2\ndata: 10\n\n", ["YHOO\n+2\n10"]),
    (b": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third event\n\n",
     ["first event", "second event", " third event"]),
    (b"data\n\ndata\ndata\n\ndata:", ["", "\n"]),
    (b"data:test\n\ndata: test\n\n", ["test", "test"]),
    (b"data:a\rdata:b\r\rdata:c\r\n\r\n", ["a\nb", "c"]),
    (b"\xef\xbb\xbfdata:1\n\n\xef\xbb\xbfdata:2\n\ndata:3\n\n", ["1", "3"]),
    (b"\xef\xbb\xbf\xef\xbb\xbfdata:1\n\ndata:2\n\n", ["2"]),
    (b"data:\0\ndata: 2\rData:1\ndata\0:2\ndata:1\r\0data:4\nda-ta:3\rdata_5\ndata:3\rdata:\r\n data:32\ndata:4\n\n",
     ["\0\n2\n1\n3\n\n4"]),
    (b"retry: 1000\ndata: a\nid: 7\n\n", ["a"]),
    (b"data: \xc3\xa9\xff\xe6\xbc\xa2\n\n", ["é\ufffd漢"]),
    (b"data: a\xe2\x80\xa8b\x0bc\x0cd\xc2\x85e\n\n", ["a\u2028b\x0bc\x0cd\x85e"]),
    (b"data: cut", []),
    (b"data: cut\n", []),
    (b"\n\n\r\r\r\n", []),
]  # fmt: skip


@pytest.mark.parametrize(("stream", "expected"), STANDARD, ids=lambda value: None)
@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_a_stream_is_read_as_the_standard_says_however_it_is_cut(stream: bytes, expected: list[str], size: int) -> None:
    assert data(*(stream[at : at + size] for at in range(0, len(stream), size))) == expected


def test_an_event_has_the_kind_of_its_own_field_only() -> None:
    stream = (
        b"event: error\ndata: a\n\ndata: b\n\nevent: c\n\ndata: d\n\nevent:e\nevent:f\ndata: g\n\nevent\ndata: h\n\n"
    )
    assert events(stream) == [("error", "a"), ("message", "b"), ("message", "d"), ("f", "g"), ("message", "h")]


def test_what_no_blank_line_ends_is_there_at_the_end() -> None:
    stream = EventStream()
    assert stream.take(b"data: a\n\ndata: b\ndata: c") == [SentEvent("a")]
    assert stream.end() == [SentEvent("b\nc")]
    assert stream.end() == []


def test_a_long_event_in_small_pieces_takes_time_linear_in_its_length() -> None:
    stream, piece, began = EventStream(), b"x" * 16, time.process_time()
    stream.take(b"data:")
    for _ in range(2**17):
        stream.take(piece)
    (sent,) = stream.take(b"\n\n")
    assert len(sent.data) == 2**21
    assert time.process_time() - began < 2  # takes 15 s if each piece copies the buffer


@pytest.mark.parametrize(
    "stream",
    [b"data:" + b"x" * 60, b"data: a\n\n: " + b"x" * 64, b"data:x\n" * 11, b"x" * 65 + b"\n", b"a\n" + b"x" * 65],
)
def test_an_event_longer_than_the_limit_is_refused_wherever_it_stands(stream: bytes) -> None:
    with pytest.raises(TooLong, match="an event of more than"):
        EventStream(64).take(stream)
    limited = EventStream(64)
    with pytest.raises(TooLong):
        [limited.take(stream[at : at + 1]) for at in range(len(stream))]


@pytest.mark.parametrize("size", [1, 5, 100])
@pytest.mark.parametrize("before", [b"", b" \r\n\t", b"\xef\xbb\xbf\n"])
def test_an_answer_that_is_json_as_a_whole_is_one_event(before: bytes, size: int) -> None:
    sent = before + b'{\n "a":\r\n\r\n [1]\n}\n'
    body = AnswerBody()
    for at in range(0, len(sent), size):
        assert body.take(sent[at : at + size]) == []
    (whole,) = body.end()
    assert whole.data.split() == ["{", '"a":', "[1]", "}"]


def test_an_answer_that_is_no_json_is_a_stream() -> None:
    body = AnswerBody()
    assert [*body.take(b"\n\n"), *body.take(b"data: {}\n\n"), *body.end()] == [SentEvent("{}")]


def test_a_whole_answer_has_a_limit() -> None:
    body, part = AnswerBody(), b"{" * 2**20
    with pytest.raises(TooLong, match="64 MiB"):
        [body.take(part) for _ in range(LONGEST_BODY // len(part) + 1)]
