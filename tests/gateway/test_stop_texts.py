"""Stop sequences: where the visible answer ends."""

from __future__ import annotations

from typing import Any

import httpx2
import openai
import pytest
from gateways import COUNT, DESCRIBE, THOUGHT, disagreeing, gateway, model
from hypothesis import given
from hypothesis import strategies as st

from cuecard.gateway.streaming import StopCutter
from cuecard.models.openai import OpenAIModel
from cuecard.testing.mock_server import MockServer
from cuecard.testing.replies import Completion

STORY = "A cat sat on the mat. STOP Then it slept. END It woke."


def asked(text: str = DESCRIBE, **more: Any) -> dict[str, Any]:
    return {"model": "cuecard", "messages": [{"role": "user", "content": text}]} | more


async def streamed(client: openai.AsyncOpenAI, **request: Any) -> tuple[str, str | None]:
    """(visible answer, finish reason) of a streamed request."""
    heard = [chunk async for chunk in await client.chat.completions.create(stream=True, **request)]
    choices = [chunk.choices[0] for chunk in heard if chunk.choices]
    return "".join(choice.delta.content or "" for choice in choices), choices[-1].finish_reason


# --- the cutter -------------------------------------------------------------------------------------------------------


def shown(pieces: list[str], stops: list[str]) -> str:
    cutter = StopCutter(stops)
    return "".join(map(cutter.feed, pieces)) + cutter.end()


def as_a_server_cuts(text: str, stops: list[str]) -> str:
    """The text before the first stop text, searched after each character as a server searches after each token."""
    for end in range(1, len(text) + 1):
        ending = [stop for stop in stops if text[:end].endswith(stop)]
        if ending:
            return text[: end - max(map(len, ending))]
    return text


texts = st.text("ab\n", max_size=30)


@given(text=texts, stops=st.lists(st.text("ab\n", min_size=1, max_size=5), max_size=4), data=st.data())
def test_however_a_text_is_split_it_is_cut_at_the_same_place(text, stops, data):
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    pieces = [text[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    assert shown(pieces, stops) == as_a_server_cuts(text, stops)


@given(text=texts, stops=st.lists(st.text("ab\n", min_size=1, max_size=5), min_size=1, max_size=4))
def test_nothing_is_held_back_but_the_beginning_of_a_stop_text(text, stops):
    cutter, seen = StopCutter(stops), ""
    for at, letter in enumerate(text, start=1):
        seen += cutter.feed(letter)
        held = text[len(seen) : at]
        assert cutter.stopped_by or not held or any(stop.startswith(held) for stop in stops)


# --- in answers -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["cuecard", "cuecard/transfer", "cuecard/reason", "cuecard/short", "cuecard/verdict"])
@pytest.mark.parametrize("stop", ["STOP", ["END", " STOP"], [". ST"]])
async def test_the_answer_ends_before_the_first_stop_text_in_every_strategy(name, stop):
    models = {"small": model("tiny", "x"), "large": model("huge", STORY, STORY)}
    async with gateway(models) as client:
        whole = await client.chat.completions.create(**asked(model=name, stop=stop))
        result = await streamed(client, **asked(model=name, stop=stop))
    expected = STORY[: min(STORY.index(each) for each in ([stop] if isinstance(stop, str) else stop) if each in STORY)]
    assert (whole.choices[0].message.content, whole.choices[0].finish_reason) == (expected, "stop")
    assert result == (expected, "stop")
    assert whole.model_extra["cuecard"]["truncated"] is False


async def test_a_call_is_ended_where_its_answer_is_cut():
    models = {"small": model("tiny", "x"), "large": model("huge", STORY, STORY + " and so on" * 100)}
    async with gateway(models) as client:
        answer = await client.chat.completions.create(**asked(model="huge", stop="STOP"))
    assert answer.usage.completion_tokens < len(STORY.split())


async def test_an_answer_that_begins_with_a_stop_text_is_empty_and_no_error():
    models = {"small": model("tiny", "x"), "large": model("huge", "STOP it", "STOP it")}
    async with gateway(models) as client:
        whole = await client.chat.completions.create(**asked(stop="STOP"))
        result = await streamed(client, **asked(stop="STOP"))
    assert (whole.choices[0].message.content, whole.choices[0].finish_reason) == ("", "stop")
    assert result == ("", "stop")


async def test_a_cut_by_the_limit_behind_the_stop_text_does_not_count():
    models = {"small": model("tiny", "x"), "large": model("huge", STORY, STORY)}
    async with gateway(models) as client:
        cut = await client.chat.completions.create(**asked(stop="STOP", max_tokens=8))
        long = await client.chat.completions.create(**asked(stop="nowhere", max_tokens=4))
    assert (cut.choices[0].message.content, cut.choices[0].finish_reason) == ("A cat sat on the mat. ", "stop")
    assert (long.choices[0].message.content, long.choices[0].finish_reason) == ("A cat sat on", "length")


async def test_the_reasoning_is_never_cut_and_brief_answers_agree_as_ever():
    async with gateway(disagreeing()) as client:
        answer = await client.chat.completions.create(**asked(COUNT, stop=["cat", "3"]))
    message = answer.choices[0].message
    assert (message.model_extra["reasoning_content"], message.content) == (THOUGHT, "")
    assert answer.model_extra["cuecard"]["route"] == "transferred"


async def test_the_responses_wire_cuts_too():
    models = {"small": model("tiny", "x"), "large": model("huge", STORY, STORY)}
    async with gateway(models) as client:
        answer = await client.responses.create(model="cuecard", input=DESCRIBE, extra_body={"stop": "STOP"})
    assert (answer.output_text, answer.status) == ("A cat sat on the mat. ", "completed")


@pytest.mark.parametrize("stop", ["", [""], ["a"] * 5, "a" * 501, [1], {"a": 1}, 7, True])
async def test_what_is_no_stop_text_is_refused(stop):
    async with gateway() as client:
        with pytest.raises(openai.BadRequestError, match="stop"):
            await client.chat.completions.create(**asked(), extra_body={"stop": stop})


# --- to servers -------------------------------------------------------------------------------------------------------


async def served(replies: Completion, family: str = "enable_thinking", refuses: tuple[str, ...] = (), **request: Any):
    """The choice that the gateway returns, and the request bodies that the large model's server received."""
    server = MockServer([replies], models=["huge"], refuses=refuses)
    async with server as url:
        models = {"small": model("tiny", "x"), "large": OpenAIModel(url, "huge", family=family)}
        async with gateway(models) as client:
            answer = await client.chat.completions.create(**request)
    return answer.choices[0], server.bodies


async def test_calls_that_write_the_answer_alone_are_stopped_by_the_server():
    for name in ("cuecard", "cuecard/short"):
        choice, bodies = await served(Completion(STORY), **asked(model=name, stop=["STOP"]))
        assert [body["stop"] for body in bodies] == [["STOP"]]
        assert (choice.message.content.rstrip(), choice.finish_reason) == ("A cat sat on the mat.", "stop")


async def test_no_stop_text_reaches_a_call_that_may_reason_or_answers_briefly():
    thinking = Completion("Done.", reasoning="We STOP here to think.")
    choice, bodies = await served(thinking, **asked(model="cuecard/reason", stop=["STOP"]))
    assert "stop" not in bodies[0]
    assert (choice.message.content, choice.message.model_extra["reasoning_content"]) == (
        "Done.",
        "We STOP here to think.",
    )
    for family, text in (("always", DESCRIBE), ("unknown", DESCRIBE), ("enable_thinking", COUNT)):
        _, bodies = await served(Completion("3"), family, **asked(text, model="cuecard/short", stop=["STOP"]))
        assert all("stop" not in body for body in bodies)


async def test_a_server_that_refuses_stop_loses_only_that():
    choice, bodies = await served(Completion(STORY), refuses=("stop",), **asked(model="cuecard/short", stop=["STOP"]))
    assert ["stop" in body for body in bodies] == [True, False]
    assert (choice.message.content, choice.finish_reason) == ("A cat sat on the mat. ", "stop")


async def test_a_server_that_stops_at_the_very_beginning_gives_an_empty_answer():
    choice, _ = await served(Completion("STOP it"), **asked(model="cuecard/short", stop=["STOP"]))
    assert (choice.message.content, choice.finish_reason) == ("", "stop")


async def test_the_stop_sequence_of_a_message_is_named_though_servers_report_none():
    server = MockServer([Completion(STORY)], models=["huge"])
    async with server as url:
        models = {"small": model("tiny", "x"), "large": OpenAIModel(url, "huge", family="enable_thinking")}
        async with gateway(models) as client, httpx2.AsyncClient(base_url=str(client.base_url), timeout=10) as http:
            body = asked(model="cuecard/short", stop_sequences=["END", "STOP"], max_tokens=100)
            message = (await http.post("messages", json=body)).json()
    assert ["stop" in body for body in server.bodies] == [False]
    assert message["content"][0]["text"].rstrip() == "A cat sat on the mat."
    assert (message["stop_reason"], message["stop_sequence"]) == ("stop_sequence", "STOP")
