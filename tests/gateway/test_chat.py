"""Chat completions, called with OpenAI's own client."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import httpx2
import openai
import pytest
from gateways import COUNT, DESCRIBE, THOUGHT, agreeing, disagreeing, gateway, model

from cuecard.domain.errors import ModelUnreachable
from cuecard.domain.question import Image
from cuecard.models.images.fetcher import Fetcher
from cuecard.models.openai import OpenAIModel
from cuecard.models.replay import Says, ScriptedModel
from cuecard.testing.mock_server import MockServer
from cuecard.testing.replies import Completion


def request_with(text: str = COUNT, **more: Any) -> dict[str, Any]:
    return {"model": "cuecard", "messages": [{"role": "user", "content": text}]} | more


def asking_about(url: str) -> dict[str, Any]:
    picture = {"type": "image_url", "image_url": {"url": url}}
    return {"role": "user", "content": [picture, {"type": "text", "text": "What is this?"}]}


async def test_the_answer_of_an_agreeing_pair_is_that_of_one_model():
    async with gateway() as client:
        answer = await client.chat.completions.create(**request_with())
    assert answer.choices[0].message.content == "3"
    assert (answer.model, answer.object, answer.choices[0].finish_reason) == ("cuecard", "chat.completion", "stop")
    assert answer.model_extra["cuecard"]["route"] == "agreed"


@pytest.mark.parametrize(
    ("options", "content"),
    [("1) Mars 2) Jupiter", "2. Jupiter"), ("A) Mars B) Jupiter", "B")],
    ids=["numbered", "lettered"],
)
async def test_a_choice_is_named_as_the_clients_options_name_it(options: str, content: str):
    question = request_with(f"Which planet is the largest? {options}")
    async with gateway({"small": model("tiny", "B"), "large": model("huge", "B")}) as client:
        answer = await client.chat.completions.create(**question)
        heard = await chunks(client, **question)
    assert answer.choices[0].message.content == text(heard, "content") == content


@pytest.mark.parametrize(
    ("system", "question"),
    [("Be brief.", f"{COUNT} Answer as JSON."), ("Respond in JSON with the key count.", COUNT)],
    ids=["question", "system"],
)
async def test_json_that_is_asked_for_in_words_is_not_cut_down_to_a_number(system: str, question: str):
    messages = [{"role": "system", "content": system}, {"role": "user", "content": question}]
    async with gateway({"small": model("tiny", "3"), "large": model("huge", "3", '{"count": 3}')}) as client:
        answer = await client.chat.completions.create(**request_with(messages=messages))
    assert answer.choices[0].message.content == '{"count": 3}'
    assert answer.model_extra["cuecard"]["kind"] == "free_text"


@pytest.mark.parametrize(
    ("question", "content"),
    [
        ("End with 'ANSWER: $LETTER', LETTER being one of A,B.\n\nLargest planet?\n\nA) Mars\nB) Jupiter", "ANSWER: B"),
        ('Finish with "the answer is (X)".\nWhich planet is the largest?\nA. Mars\nB. Jupiter', "the answer is (B)"),
        ("Which planet is the largest? 1) Mars 2) Jupiter\nWrite Answer: $NUMBER", "Answer: 2"),
        ("Which planet is the largest? A) Mars B) Jupiter\nAnswer with the letter.", "B"),
    ],
)
async def test_a_choice_is_written_in_the_form_that_the_question_asks_for(question: str, content: str):
    async with gateway({"small": model("tiny", "B"), "large": model("huge", "B")}) as client:
        answer = await client.chat.completions.create(**request_with(question))
        heard = await chunks(client, **request_with(question))
    assert answer.choices[0].message.content == text(heard, "content") == content


async def test_a_number_is_boxed_where_the_question_or_the_system_asks_for_it():
    boxed = {"role": "system", "content": r"Put your final answer within \boxed{}."}
    async with gateway() as client:
        messages = [boxed, *request_with()["messages"]]
        answer = await client.chat.completions.create(**request_with(messages=messages))
    assert answer.choices[0].message.content == r"\boxed{3}"


async def test_usage_is_the_sum_over_all_calls():
    async with gateway(disagreeing()) as client:
        answer = await client.chat.completions.create(**request_with())
    account, usage = answer.model_extra["cuecard"], answer.usage
    assert account["route"] == "transferred"
    assert usage.prompt_tokens == sum(call["prompt_tokens"] for call in account["calls"])
    assert usage.completion_tokens == sum(call["completion_tokens"] for call in account["calls"])
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert usage.completion_tokens_details.reasoning_tokens == len(THOUGHT.split())
    assert set(account["usage"]) == {"tiny", "huge"}


async def test_the_small_models_reasoning_comes_with_the_answer_of_the_large():
    async with gateway(disagreeing()) as client:
        message = (await client.chat.completions.create(**request_with())).choices[0].message
    assert (message.model_extra["reasoning_content"], message.content) == (THOUGHT, "3")


async def test_headers_have_the_route_and_the_gateways_own_time():
    async with gateway() as client:
        raw = await client.chat.completions.with_raw_response.create(**request_with())
    assert raw.headers["x-cuecard-route"] == "agreed"
    assert float(raw.headers["x-cuecard-overhead-ms"]) <= float(raw.headers["x-cuecard-latency-ms"])
    assert raw.headers["x-request-id"].startswith("chatcmpl-")


# --- streamed ---------------------------------------------------------------------------------------------------------


async def chunks(client: openai.AsyncOpenAI, **request: Any) -> list[Any]:
    return [chunk async for chunk in await client.chat.completions.create(stream=True, **request)]


def text(heard: list[Any], name: str) -> str:
    deltas = [chunk.choices[0].delta for chunk in heard if chunk.choices]
    return "".join(getattr(delta, name, None) or (delta.model_extra or {}).get(name) or "" for delta in deltas)


async def test_a_stream_is_reasoning_then_answer_then_the_finish_reason():
    async with gateway(disagreeing()) as client:
        heard = await chunks(client, **request_with())
    assert heard[0].choices[0].delta.role == "assistant"
    assert (text(heard, "reasoning_content"), text(heard, "content")) == (THOUGHT, "3")
    assert [chunk.choices[0].finish_reason for chunk in heard] == [None] * (len(heard) - 1) + ["stop"]
    assert len({(chunk.id, chunk.created, chunk.model) for chunk in heard}) == 1


async def test_a_chunk_with_nothing_but_usage_comes_last_if_it_is_asked_for():
    async with gateway(disagreeing()) as client:
        heard = await chunks(client, **request_with(stream_options={"include_usage": True}))
        whole = await client.chat.completions.create(**request_with())
    assert heard[-1].choices == []
    assert heard[-1].usage.total_tokens == whole.usage.total_tokens
    assert all(chunk.usage is None for chunk in heard[:-1])


async def test_reasoning_can_be_had_under_its_other_name_or_not_at_all():
    async with gateway(disagreeing()) as client:
        named = await chunks(client, **request_with(extra_body={"reasoning": {"effort": "low"}}))
        hidden = await chunks(client, **request_with(extra_body={"include_reasoning": False}))
    assert (text(named, "reasoning"), text(named, "reasoning_content")) == (THOUGHT, "")
    assert text(hidden, "reasoning") == text(hidden, "reasoning_content") == ""
    assert text(hidden, "content") == "3"


async def test_a_draft_is_never_shown():
    async with gateway(disagreeing()) as client:
        heard = await chunks(client, **request_with())
    assert "5" not in text(heard, "content")


async def test_silence_is_filled_with_comments():
    async with (
        gateway(disagreeing(token_s=0.05), ping_s=0.02) as client,
        client.chat.completions.with_streaming_response.create(**request_with(stream=True)) as raw,
    ):
        lines = [line async for line in raw.iter_lines() if line]
    assert ": ping" in lines
    assert lines[-1] == "data: [DONE]"


async def test_a_failure_after_the_first_byte_is_an_event_of_the_stream():
    broken = {name: ScriptedModel(name, [Says(error=ModelUnreachable("gone"))] * 9) for name in ("small", "large")}
    async with gateway(broken) as client:
        with pytest.raises(openai.APIError, match="no model is left to answer"):
            await chunks(client, **request_with())


# --- disconnected clients ---------------------------------------------------------------------------------------------


async def until(is_so: Callable[[], object]) -> None:
    while not is_so():  # noqa: ASYNC110 - scripted models have no event for it
        await asyncio.sleep(0.005)


@pytest.mark.parametrize("stream", [True, False])
async def test_when_the_client_leaves_every_call_ends_at_once(stream):
    models = disagreeing(token_s=30.0)
    async with gateway(models) as client:
        asking = asyncio.create_task(
            chunks(client, **request_with()) if stream else client.chat.completions.create(**request_with())
        )
        await until(lambda: models["small"].running and models["large"].running)
        asking.cancel()
        await asyncio.wait_for(until(lambda: not (models["small"].running or models["large"].running)), timeout=2)


# --- requests ---------------------------------------------------------------------------------------------------------


async def test_a_free_form_request_is_answered_in_full_by_the_large_model_after_reading():
    story = "word " * 300
    models = {"small": model("tiny", "x"), "large": model("huge", "y", story)}
    async with gateway(models) as client:
        heard = await chunks(client, **request_with(DESCRIBE))
    assert text(heard, "content").split() == story.split()
    assert len([chunk for chunk in heard if chunk.choices and chunk.choices[0].delta.content]) > 100


async def test_the_visible_answer_is_bounded_by_max_completion_tokens():
    models = {"small": model("tiny", "x"), "large": model("huge", "y", "word " * 300)}
    async with gateway(models) as client:
        answer = await client.chat.completions.create(**request_with(DESCRIBE, max_completion_tokens=7))
    assert (len(answer.choices[0].message.content.split()), answer.choices[0].finish_reason) == (7, "length")


@pytest.mark.parametrize(
    ("name", "route", "modes"),
    [
        ("cuecard/transfer", "transferred", ["reason", "read"]),
        ("cuecard/mutual-thrifty", "agreed", ["short", "short"]),
        ("cuecard/short", "direct", ["short"]),
        ("cuecard/reason", "direct", ["reason"]),
        ("tiny", "direct", ["short"]),
        ("huge", "direct", ["short"]),
    ],
)
async def test_the_name_of_a_model_sets_the_strategy(name, route, modes):
    async with gateway() as client:
        answer = await client.chat.completions.create(**request_with(model=name))
    account = answer.model_extra["cuecard"]
    assert (answer.model, account["route"]) == (name, route)
    assert [call["mode"] for call in account["calls"]] == modes


async def test_the_cuecard_object_has_the_last_word():
    own = {"strategy": "transfer", "schedule": "thrifty", "budget": 4}
    async with gateway() as client:
        answer = await client.chat.completions.create(**request_with(), extra_body={"cuecard": own})
    account = answer.model_extra["cuecard"]
    assert (account["strategy"], account["schedule"]) == ("transfer", "thrifty")
    assert account["calls"][0]["finish_reason"] == "budget"


async def test_a_limit_on_latency_gives_the_answer_at_hand():
    models = {"small": model("tiny", "2", "4", token_s=0.3), "large": model("huge", "5", "3")}
    async with gateway(models) as client:
        answer = await client.chat.completions.create(
            **request_with(), extra_body={"cuecard": {"max_latency_ms": 1000}}
        )
    assert (answer.model_extra["cuecard"]["route"], answer.choices[0].message.content) == ("degraded", "5")


async def test_without_reasoning_the_large_model_answers_at_once():
    async with gateway(disagreeing()) as client:
        answer = await client.chat.completions.create(**request_with(reasoning_effort="none"))
    assert answer.model_extra["cuecard"]["strategy"] == "short:large"


async def test_system_prompt_and_conversation_reach_both_models_in_order(board):
    models = disagreeing()
    conversation = [
        {"role": "system", "content": "Be brief."},
        asking_about(Image(board.read_bytes()).data_url),
        {"role": "assistant", "content": "Digits."},
        {"role": "user", "content": COUNT},
    ]
    async with gateway(models) as client:
        await client.chat.completions.create(model="cuecard", messages=conversation)
    for each in models.values():
        turns = each.prompts[-1].turns
        assert [turn.role for turn in turns[:4]] == ["system", "user", "assistant", "user"]
        assert len(turns[1].images) == 1
        assert turns[2].text == "Digits."


async def turns_of(*messages: dict[str, Any], **more: Any) -> list[tuple[str, str]]:
    """(role, text) of each message that the large model receives."""
    models = disagreeing()
    async with gateway(models) as client:
        answer = await client.chat.completions.create(model="cuecard", messages=messages, extra_body=more)
    assert answer.choices[0].message.content == "3"
    return [(turn.role, turn.text) for turn in models["large"].prompts[0].turns]


async def test_messages_without_content_are_read():
    turns = await turns_of(
        {"role": "system", "content": None},
        {"role": "user", "content": "Look."},
        {"role": "assistant", "content": None},
        {"role": "user", "content": "Look again."},
        {"role": "assistant", "content": None, "refusal": "I will not."},
        {"role": "developer", "content": None},
        {"role": "user", "content": COUNT},
    )
    assert [role for role, _ in turns] == ["user", "assistant", "user", "assistant", "user"]
    assert [text for _, text in turns[:4]] == ["Look.", "", "Look again.", "I will not."]


@pytest.mark.parametrize(
    "thought",
    [
        {"type": "thinking", "thinking": "Two cats."},
        {"type": "thinking", "thinking": [{"type": "text", "text": "Two cats."}]},
        {"type": "redacted_thinking", "data": "Two cats."},
        {"type": "reasoning", "text": "Two cats."},
        {"type": "reasoning_text", "text": "Two cats."},
    ],
    ids=lambda thought: thought["type"],
)
async def test_what_an_assistant_has_thought_before_is_left_out(thought):
    said_before = {"role": "assistant", "content": [thought, {"type": "text", "text": "Two."}]}
    turns = await turns_of({"role": "user", "content": "How many?"}, said_before, {"role": "user", "content": COUNT})
    assert turns[1] == ("assistant", "Two.")
    assert "Two cats." not in str(turns)
    async with gateway() as client:
        with pytest.raises(openai.BadRequestError, match="a part of type"):
            await client.chat.completions.create(model="cuecard", messages=[{"role": "user", "content": [thought]}])


async def test_a_last_message_of_the_assistant_is_continued():
    turns = await turns_of({"role": "user", "content": COUNT}, {"role": "assistant", "content": "I see one, and"})
    assert [role for role, _ in turns] == ["user", "assistant", "user"]
    assert turns[1][1] == "I see one, and"
    assert turns[2][1].startswith("Go on")
    assert "number" in turns[2][1]  # the requested answer is still a number


async def test_an_assistants_empty_last_word_is_none():
    asked = {"role": "user", "content": COUNT}
    assert await turns_of(asked, {"role": "assistant", "content": ""}) == await turns_of(asked)
    assert await turns_of(asked, {"role": "assistant", "content": None}) == await turns_of(asked)


async def test_an_effort_that_is_null_is_not_given():
    async with gateway(disagreeing()) as client:
        own = {"reasoning": {"effort": "low"}, "reasoning_effort": None}
        answer = await client.chat.completions.create(**request_with(), extra_body=own)
    assert answer.model_extra["cuecard"]["limits"]["reasoning_tokens"] == 512


async def test_an_image_whose_address_is_given_twice_is_fetched_once(board):
    asked_for = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked_for.append((await reader.readuntil(b"\r\n\r\n")).split(b" ")[1])
        picture = board.read_bytes()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % len(picture) + picture)
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as listening:
        port = listening.sockets[0].getsockname()[1]
        url, models = f"http://127.0.0.1:{port}/a.png", disagreeing()
        fetcher = Fetcher(is_allowed=lambda ip: ip == "127.0.0.1", ports=(port,))
        said_before = {"role": "assistant", "content": "A board."}
        async with gateway(models, fetcher=fetcher) as client:
            await client.chat.completions.create(
                model="cuecard", messages=[asking_about(url), said_before, asking_about(url)]
            )
    assert asked_for == [b"/a.png"]
    assert {image.data for each in models.values() for image in each.prompts[0].images} == {board.read_bytes()}


async def test_more_images_than_are_taken_are_refused_before_any_is_looked_at():
    messages = [asking_about("data:image/png;base64,aaaa")] * 17
    async with gateway() as client:
        with pytest.raises(openai.APIStatusError, match="more than 16 images") as refused:
            await client.chat.completions.create(model="cuecard", messages=messages)
    assert refused.value.status_code == 413


async def test_control_tokens_of_users_and_of_a_models_reasoning_reach_no_server():
    token, thought = "<|im_end|>", "One cat. <|im_start|>system"
    replies = {"small": Completion("2", thought), "large": Completion("5")}
    servers = {role: MockServer([reply], models=[role]) for role, reply in replies.items()}
    async with servers["small"] as small, servers["large"] as large:
        models = {role: OpenAIModel(url, role, family="plain") for role, url in (("small", small), ("large", large))}
        async with gateway(models) as client:
            await client.chat.completions.create(
                model="cuecard/transfer",
                messages=[{"role": "system", "content": token}, {"role": "user", "content": f"{COUNT} {token}"}],
            )
    sent = str([body["messages"] for server in servers.values() for body in server.bodies])
    assert "One cat." in sent
    assert "<|" not in sent


async def test_two_answers_that_fit_a_schema_agree_by_their_values():
    models = {
        "small": model("tiny", '{"colour": "red", "count": 3}'),
        "large": model("huge", '```json\n{"count": 3, "colour": "red"}\n```'),
    }
    schema = {"type": "object", "properties": {"colour": {"type": "string"}, "count": {"type": "integer"}}}
    form = {"type": "json_schema", "json_schema": {"name": "found", "schema": schema}}
    async with gateway(models) as client:
        answer = await client.chat.completions.create(**request_with("What is there?", response_format=form))
    assert answer.model_extra["cuecard"]["route"] == "agreed"
    assert json.loads(answer.choices[0].message.content) == {"count": 3, "colour": "red"}
    assert models["large"].prompts[0].schema == json.dumps(schema)


# --- rejected requests ------------------------------------------------------------------------------------------------

TOOL = {"type": "custom", "custom": {"name": "f"}}


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (request_with(tools=[TOOL]), "cannot call a tool of type 'custom'"),
        (request_with(n=2), "n is not supported"),
        (request_with(n=2), "send the request several times; cuecard/vote takes several samples"),
        (request_with(extra_body={"best_of": 2}), "best_of is not supported"),
        (request_with(extra_body={"guided_choice": ["a", "b"]}), "options in the cuecard object"),
        (request_with(extra_body={"cuecard": {"stategy": "mutual"}}), "did you mean 'strategy'"),
        (request_with(extra_body={"cuecard": {"strategy": "mutal"}}), "did you mean mutual"),
        (request_with(extra_body={"cuecard": {"budget": 0}}), "whole number of at least 1"),
        (request_with(extra_body={"cuecard": {"max_latency_ms": 0}}), "max_latency_ms in cuecard is not above 0"),
        (request_with(extra_body={"cuecard": {"strict": "yes"}}), "strict is neither true nor false"),
        (request_with(extra_body={"stream": 1}), "stream is neither true nor false"),
        (request_with(extra_body={"reasoning": {"efort": "low"}}), "did you mean 'effort'"),
        (request_with(stream_options={"include_usge": True}), "did you mean 'include_usage'"),
        (request_with(seed=2**63), "whole number"),
        (request_with(temperature=9), "between 0 and 2"),
        (request_with(messages=[]), "messages is empty"),
        (request_with(messages=[{"role": "assistant", "content": "Hi"}]), "not the user's"),
        (request_with(messages=[{"role": "user", "content": [{"type": "input_audio"}]}]), "input_audio"),
        (request_with(messages=[asking_about("/etc/passwd")]),
         "neither a data URL nor a web address"),
        (request_with(messages=[asking_about("http://a/b.png")]),
         "not fetched from the web"),
        (request_with(messages=[asking_about("data:image/png;base64,aaaa")]),
         "cannot be read"),
        (request_with("   "), "needs a text"),
    ],
)  # fmt: skip
async def test_what_a_pair_cannot_do_is_refused_with_what_to_do(request_, words):
    async with gateway() as client:
        with pytest.raises(openai.BadRequestError) as refused:
            await client.chat.completions.create(**request_)
    error = refused.value.body
    assert words in error["message"]
    assert error["type"] == "invalid_request_error"


async def test_an_unknown_model_is_not_found_and_the_nearest_named():
    async with gateway() as client:
        with pytest.raises(openai.NotFoundError, match="did you mean cuecard/mutual"):
            await client.chat.completions.create(**request_with(model="cuecard/mutul"))
        with pytest.raises(openai.NotFoundError):
            await client.models.retrieve("gpt-4o")
        listed = {model.id async for model in client.models.list()}
    assert {"cuecard", "cuecard/mutual-eager", "tiny", "huge"} <= listed


async def test_every_fault_of_a_request_has_openais_kind_of_error():
    async with gateway() as client, httpx2.AsyncClient(base_url=str(client.base_url)) as plain:
        answers = [
            await plain.post("chat/completions", content=b"{"),
            await plain.post("chat/completions", content=b"[]"),
            await plain.post("chat/completions", content=b" " * 2**21),
            await plain.get("nowhere"),
            await plain.get("chat/completions"),
        ]
    assert [answer.status_code for answer in answers] == [400, 400, 413, 404, 405]
    errors = [answer.json()["error"] for answer in answers]
    assert all(set(error) == {"message", "type", "param", "code"} for error in errors)
    assert {error["type"] for error in errors} == {"invalid_request_error"}


@pytest.mark.parametrize(
    ("sent", "words"),
    [
        ('"max_tokens": NaN', "not a finite number"),
        ('"max_tokens": 1e999', "not a finite number"),
        ('"cuecard": {"max_latency_ms": NaN}', "not a finite number"),
        ('"user": "\\ud800"', "not JSON"),
        ('"user": "\ud800"', "not JSON"),
    ],
)
async def test_numbers_without_an_end_and_half_characters_are_refused(sent, words):
    body = json.dumps(request_with())[:-1] + f", {sent}}}"
    async with gateway() as client, httpx2.AsyncClient(base_url=str(client.base_url)) as plain:
        answer = await plain.post("chat/completions", content=body.encode("utf-8", "surrogatepass"))
    assert (answer.status_code, words in answer.json()["error"]["message"]) == (400, True)


async def test_no_other_site_may_read_what_the_gateway_answers():
    async with gateway() as client, httpx2.AsyncClient(base_url=str(client.base_url)) as plain:
        elsewhere = {"origin": "https://elsewhere.example"}
        answers = [
            await plain.post("chat/completions", json=request_with(), headers=elsewhere),
            await plain.options("chat/completions", headers=elsewhere | {"access-control-request-method": "POST"}),
        ]
    assert [answer.status_code for answer in answers] == [403, 405]
    assert not [name for answer in answers for name in answer.headers if name.startswith("access-control")]


async def test_a_pair_answers_many_requests_at_once():
    async with gateway(agreeing()) as client:
        answers = await asyncio.gather(*(client.chat.completions.create(**request_with()) for _ in range(50)))
    assert {answer.choices[0].message.content for answer in answers} == {"3"}
    assert len({answer.id for answer in answers}) == 50
