"""Long or hostile texts that could block the gateway."""

from __future__ import annotations

import asyncio
import time
from functools import partial

import httpx2
import pytest
from gateways import COUNT, gateway

from cuecard.domain.errors import BadInput, CuecardError
from cuecard.domain.question import Image
from cuecard.gateway.config import GatewaySettings, ImageSettings
from cuecard.gateway.wire import responses
from cuecard.gateway.wire.body import ImageLoader, Parse, understood
from cuecard.gateway.wire.request import ParsedRequest, parse
from cuecard.gateway.wire.responses import ItemMemory

MOST_S = 1.0
MOST_TEXT = GatewaySettings().most_text
LOADER = ImageLoader(ImageSettings(), None)
SPACES = " " * 60_000
HELD_UP = {
    "spaces before a word and options": f"What?x{SPACES}y\nA) red\nB) blue",
    "spaces before options of one line": f"What?x{SPACES}A) red B) blue",
    "spaces before options": f"What?x{SPACES}\nA) red\nB) blue",
    "spaces behind options": f"What?\nA) red\nB) blue.{SPACES}x",
    "a million option lines": "What?\n" + "A) x\n" * 1_000_000,
    "four megabytes": "how much do " * 350_000,
}


def taken(body: object, most: int = MOST_TEXT, read: Parse = parse) -> ParsedRequest:
    return asyncio.run(understood(body, read, LOADER, most))


def no_image(url: str) -> Image:
    raise AssertionError(url)


def asking(content: object, **more: object) -> dict[str, object]:
    return {"model": "cuecard", "messages": [{"role": "user", "content": content}], **more}


@pytest.mark.parametrize("name", HELD_UP)
def test_no_question_holds_up_the_event_loop(name: str) -> None:
    began = time.thread_time()
    parse(asking(HELD_UP[name]), no_image)
    assert time.thread_time() - began < MOST_S


@pytest.mark.parametrize("name", [name for name in HELD_UP if name.startswith("spaces")])
async def test_a_decision_about_many_spaces_is_given(name: str) -> None:
    async with gateway() as client, httpx2.AsyncClient(base_url=str(client.base_url), timeout=10) as plain:
        answer = await plain.post("decision", json=asking(HELD_UP[name]))
    assert answer.status_code == 200


@pytest.mark.parametrize(
    "much",
    [
        asking("How many? " + "a" * MOST_TEXT),
        asking([{"type": "text", "text": "a" * 1000}] * (MOST_TEXT // 1000 + 1)),
        asking(COUNT) | {"messages": [{"role": "system", "content": "a" * MOST_TEXT}, *asking(COUNT)["messages"]]},
        asking(COUNT) | {"messages": [{"role": "user", "content": "a" * MOST_TEXT}, *asking(COUNT)["messages"]]},
    ],
    ids=["text", "parts", "system", "history"],
)
def test_more_text_than_is_taken_is_refused_wherever_it_is(much: dict[str, object]) -> None:
    with pytest.raises(BadInput, match=f"more than the {MOST_TEXT} that are taken") as refused:
        taken(much)
    assert "server.most_text" in refused.value.hint
    assert taken(much, 2 * MOST_TEXT).question.characters > MOST_TEXT


def test_many_long_texts_of_the_system_are_refused_at_once() -> None:
    long: dict[str, object] = {"role": "system", "content": "answer format " * 285}
    messages = [*[long] * 9_000, {"role": "user", "content": COUNT}]
    began = time.thread_time()
    with pytest.raises(BadInput, match=f"more than the {MOST_TEXT} that are taken"):
        taken({"model": "cuecard", "messages": messages})
    assert time.thread_time() - began < MOST_S


def with_calls(count: int, arguments: str = "{}") -> list[dict[str, object]]:
    """A conversation with `count` tool calls of the assistant."""
    calls = [{"id": f"c{at}", "function": {"name": "look", "arguments": arguments}} for at in range(count)]
    return [{"role": "user", "content": COUNT}, {"role": "assistant", "content": None, "tool_calls": calls}]


def test_a_call_is_repeated_for_its_first_result_alone() -> None:
    results: list[dict[str, object]] = [{"role": "tool", "tool_call_id": "c0", "content": "x"}] * 100
    messages = [*with_calls(1, '{"at": "the mat"}'), *results]
    text = parse({"model": "cuecard", "messages": messages}, no_image).question.text
    assert text.startswith('Result of look({"at": "the mat"}):\nx\n\nResult of the same call:\nx\n\n')
    assert text.count("the mat") == 1


def test_more_calls_than_are_taken_are_refused_at_once() -> None:
    messages = with_calls(400_000)
    began = time.thread_time()
    with pytest.raises(BadInput, match="more than 10000 tool calls"):
        parse({"model": "cuecard", "messages": messages}, no_image)
    assert time.thread_time() - began < MOST_S


async def test_too_much_text_is_a_400() -> None:
    async with gateway() as client, httpx2.AsyncClient(base_url=str(client.base_url)) as plain:
        answers = [
            await plain.post("chat/completions", json=asking("a" * (MOST_TEXT + 1))),
            await plain.post("decision", json=asking("a" * (MOST_TEXT + 1))),
            await plain.post("responses", json={"model": "cuecard", "input": "a" * (MOST_TEXT + 1)}),
            await plain.post("completions", json={"model": "cuecard", "prompt": "a" * (MOST_TEXT + 1)}),
            await plain.post("messages", json=asking("a" * (MOST_TEXT + 1)) | {"max_tokens": 9}),
        ]
    assert [answer.status_code for answer in answers] == [400] * 5


@pytest.mark.parametrize(
    "much",
    [
        asking(COUNT) | {"messages": [{"role": "user", "content": "a"}] * 200_000},
        asking([{"type": "text", "text": ""}] * 200_000),
        asking(COUNT, cuecard={"options": ["a"] * 200_000}),
        asking(COUNT, cuecard={"options": ["a"] * 27, "kind": "number"}),
        asking(COUNT, cuecard={"options": ["a" * 4_000_000, "b"]}),
        asking(COUNT, cuecard={"kind": "n" * 4_000_000}),
        asking(COUNT, **{"n" * 4_000_000: 1}),
        asking(COUNT, cuecard={"k" * 4_000_000: 1}),
    ],
    ids=["messages", "parts", "options", "options of a number", "long option", "kind", "parameter", "setting"],
)
def test_many_small_things_and_long_names_are_refused_at_once(much: dict[str, object]) -> None:
    began = time.thread_time()
    with pytest.raises(CuecardError):
        parse(much, no_image)
    assert time.thread_time() - began < MOST_S


def test_texts_within_the_bound_are_taken_by_both_wires() -> None:
    read_response = partial(responses.parse, memory=ItemMemory())
    for read, body in ((parse, asking(COUNT)), (read_response, {"model": "cuecard", "input": COUNT})):
        asked = taken(body, read=read)
        assert asked.question.text == COUNT
