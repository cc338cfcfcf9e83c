"""OpenAIModel with the scripted HTTP server."""

from __future__ import annotations

import asyncio
import math
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import pytest
from hearing import LIMITS, Heard, hear
from serving import QUESTION, REASON, SHORT, THOUGHT, served

from cuecard.answers import extract
from cuecard.domain.call import FinishReason, Usage
from cuecard.domain.errors import (
    BadInput,
    BrokenStream,
    ModelRefused,
    RequestRefused,
    Unsupported,
)
from cuecard.domain.question import AnswerKind, Question
from cuecard.models.base import Event, Finished, Limits, Progress, ReasoningDelta, Started
from cuecard.models.openai import OpenAIModel
from cuecard.models.openai.families import FAMILIES, family_of
from cuecard.models.prompt import PROSE, TAGS, CardFormat, Prompt, growing, read, reason, short
from cuecard.testing.mock_server import MockServer
from cuecard.testing.replies import Completion, Count, Framing, HttpError, Received, Reply, Stall

LONG = Limits(answer_tokens=64, reasoning_tokens=200, timeout_s=5)


# Requests


async def test_images_go_first_in_the_user_turn_as_data_urls() -> None:
    async with served(Completion("A")) as (model, server):
        await hear(model, SHORT)
    [message] = server.bodies[0]["messages"]
    kinds = [part["type"] for part in message["content"]]
    assert kinds == ["image_url", "image_url", "text"]
    urls = [part["image_url"]["url"] for part in message["content"][:2]]
    assert urls == ["data:image/png;base64,cG5nIG9uZQ==", "data:image/jpeg;base64,anBnIHR3bw=="]
    assert message["content"][2]["text"] == SHORT.turns[0].text


async def test_limits_become_the_requests_parameters() -> None:
    async with served(Completion("A")) as (model, server):
        await hear(model, SHORT, Limits(answer_tokens=7, temperature=0.5, top_p=0.9, seed=3))
        await hear(model, REASON, Limits(answer_tokens=7, reasoning_tokens=50))
    first, second = server.bodies
    assert (first["max_tokens"], first["temperature"], first["top_p"], first["seed"]) == (7, 0.5, 0.9, 3)
    assert (second["max_tokens"], second["temperature"]) == (57, 0)
    assert not {"top_p", "seed"} & set(second)


@pytest.mark.parametrize(
    ("model", "on", "off"),
    [
        ("Qwen/Qwen3-VL-8B", {"enable_thinking": True}, {"enable_thinking": False}),
        ("ibm-granite/granite-3.3-8b", {"thinking": True}, {"thinking": False}),
        ("demo-large", {"enable_thinking": True}, {"enable_thinking": False}),
        ("Qwen/Qwen2.5-VL-7B-Instruct", None, None),
        ("large", {"enable_thinking": False, "thinking": False}, {"enable_thinking": False, "thinking": False}),
    ],
)
async def test_thinking_is_switched_as_the_family_takes_it(model: str, on: Any, off: Any) -> None:
    async with served(Completion("Answer: A"), model=model) as (client, server):
        await hear(client, reason(QUESTION, client.abilities.style))
        await hear(client, short(QUESTION, client.abilities.style))
    assert [body.get("chat_template_kwargs") for body in server.bodies] == [on, off]


def test_every_family_can_be_named_and_a_wrong_name_is_answered_with_the_nearest() -> None:
    for family in FAMILIES:
        OpenAIModel("http://localhost:1/v1", "m", family=family.name)
    with pytest.raises(BadInput, match="did you mean 'plain'"):
        OpenAIModel("http://localhost:1/v1", "m", family="plian")


@pytest.mark.parametrize(
    ("model", "url", "family"),
    [
        ("Qwen/Qwen3-VL-8B-Thinking", "http://h:8000/v1", "always"),
        ("Qwen/Qwen3-VL-8B-Instruct", "http://h:8000/v1", "plain"),
        ("deepseek-ai/DeepSeek-R1-Distill-Qwen-7B", "http://h:8000/v1", "always"),
        ("openai/gpt-oss-20b", "http://h:8000/v1", "gpt-oss"),
        ("demo-small", "http://h:8000/v1", "embedded"),
        ("llava:7b", "http://localhost:11434/v1", "plain"),
        ("gpt-5-mini", "https://api.openai.com/v1", "hidden"),
        ("gpt-4o", "https://api.openai.com/v1", "plain"),
        ("small", "http://h:8000/v1", "unknown"),
    ],
)
def test_the_family_follows_from_name_and_address(model: str, url: str, family: str) -> None:
    assert family_of(model, url).name == family


def test_ollama_is_switched_by_effort_since_it_reads_no_template_switches() -> None:
    assert family_of("qwen3-vl:8b", "http://localhost:11434/v1").off == {"reasoning_effort": "none"}


@pytest.mark.parametrize("key", ["chat_template_kwargs", "continuous_usage_stats", "stream_options", "logprobs"])
async def test_a_parameter_that_the_server_does_not_know_is_left_out_from_then_on(key: str) -> None:
    server = MockServer([Completion("A")], models=["qwen3"], refuses=[key])
    async with served(server=server, model="qwen3") as (model, _):
        assert (await hear(model, SHORT)).answer == "A"
        assert (await hear(model, SHORT)).answer == "A"
        assert any(f"the server refuses {key}" in note for note in model.abilities.notes)
    flat = [{*body, *body.get("stream_options", ())} for body in server.bodies]
    assert [key in sent for sent in flat] == [True, False, False]


async def test_max_tokens_is_sent_by_its_other_name_where_that_is_wanted() -> None:
    async with served(server=MockServer(models=["m"], refuses=["max_tokens"]), model="m") as (model, server):
        await hear(model, SHORT)
    assert server.bodies[1]["max_completion_tokens"] == LIMITS.answer_tokens
    assert "max_tokens" not in server.bodies[1]


async def test_a_refusal_about_a_parameters_value_is_not_taken_for_an_unknown_parameter() -> None:
    refusal = HttpError(400, {"error": {"message": "'max_tokens' is too large: this model's context is 4096 tokens"}})
    async with served(refusal) as (model, server):
        with pytest.raises(ModelRefused, match="too large"):
            await hear(model, SHORT)
    assert len(server.received) == 1


async def test_extra_body_is_joined_with_what_is_sent_and_has_the_last_word() -> None:
    extra = {"chat_template_kwargs": {"tools": False}, "temperature": 0.2, "cache_salt": "x"}
    async with served(Completion("A"), extra_body=extra) as (model, server):
        await hear(model, SHORT)
    body = server.bodies[0]
    assert body["chat_template_kwargs"] == {"enable_thinking": False, "tools": False}
    assert (body["temperature"], body["cache_salt"]) == (0.2, "x")


async def test_no_key_of_the_environment_is_shown_to_a_server_that_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    monkeypatch.setenv("OPENAI_ADMIN_KEY", "sk-admin")
    async with served(Completion("A")) as (model, server):
        await hear(model, SHORT)
    assert "sk-" not in str(server.received[0].headers)


# Reasoning and answer


@pytest.mark.parametrize("piece", [None, 1, 3])
@pytest.mark.parametrize("framing", [Framing.REASONING, Framing.REASONING_CONTENT, Framing.TAGS, Framing.IMPLIED])
async def test_reasoning_is_found_wherever_the_server_puts_it(framing: Framing, piece: int | None) -> None:
    async with served(Completion("A", THOUGHT, framing, piece=piece)) as (model, _):
        heard = await hear(model, REASON, Limits(reasoning_tokens=200))
    assert (heard.reasoning, heard.answer) == (THOUGHT, "A")
    assert heard.end.finish_reason is FinishReason.STOP


@pytest.mark.parametrize("prompt", [SHORT, REASON])
async def test_a_call_starts_once_and_finishes_once_at_its_ends(prompt: Prompt) -> None:
    async with served(Completion("A", THOUGHT)) as (model, _):
        heard = await hear(model, prompt)
    kinds = [type(event) for event in heard.events]
    assert kinds.count(Started) == kinds.count(Finished) == 1
    assert (kinds[0], kinds[-1]) == (Started, Finished)


async def test_reasoning_comes_while_it_is_written() -> None:
    says = Completion("A", THOUGHT, Framing.TAGS, after=Stall(5))
    async with served(says) as (model, _), aclosing(model.stream(REASON, LIMITS)) as events:
        first = [event async for event in _until_reasoning(events)][-1]
    assert first == ReasoningDelta("The")


async def _until_reasoning(events: AsyncIterator[Event]) -> AsyncIterator[Event]:
    async for event in events:
        yield event
        if isinstance(event, ReasoningDelta):
            return


async def test_thinking_in_prose_ends_at_the_answer_line() -> None:
    says = Completion("May is tall.\nJune is not.\n\n**Answer:** A")
    async with served(says, model="llava", family="plain") as (model, server):
        heard = await hear(model, reason(QUESTION, PROSE))
    assert (heard.reasoning, heard.answer) == ("May is tall.\nJune is not.", "A")
    assert "Think step by step" in server.bodies[0]["messages"][0]["content"][-1]["text"]


@pytest.mark.parametrize("prefill", [True, None])
async def test_a_short_answer_in_the_reasoning_field_is_found(prefill: bool | None) -> None:
    async with served(Completion("A", framing=Framing.MISFILED), prefill=prefill) as (model, _):
        heard = await hear(model, SHORT)
        assert (heard.reasoning, heard.answer) == ("", "A")
        assert heard.end.answer_logprob == pytest.approx(-0.1)
        assert any("reasoning field" in note for note in model.abilities.notes)


async def test_a_short_call_that_thinks_anyway_gives_no_thinking_as_its_answer() -> None:
    async with served(Completion("A", THOUGHT, thinks=True)) as (model, _):
        heard = await hear(model, SHORT, Limits(answer_tokens=4))
        assert (heard.answer, heard.end.finish_reason) == ("", FinishReason.LENGTH)
        assert any("although thinking is switched off" in note for note in model.abilities.notes)


async def test_a_reply_is_read_the_same_the_first_time_and_later() -> None:
    text = "The `<think>` tag opens reasoning, `</think>` closes it.<|im_end|>"
    shown = text.removesuffix("<|im_end|>")
    for settings in ({}, {"prefill": True}, {"model": "large"}, {"model": "llava"}):
        async with served(Completion(text, piece=3), **settings) as (model, _):
            short_prompt = short(QUESTION, model.abilities.style)
            assert [(await hear(model, short_prompt, LONG)).answer for _ in range(3)] == [shown] * 3


async def test_a_short_answer_of_an_unknown_family_is_held_back_until_it_is_whole() -> None:
    unmarked = Completion("A", "So May", Framing.IMPLIED, thinks=True)
    async with served(Completion("B"), unmarked, Completion("B"), unmarked, model="large") as (model, _):
        heard = [await hear(model, short(QUESTION, PROSE)) for _ in range(4)]
    assert [(one.reasoning, one.answer) for one in heard] == [("", "B"), ("So May", "A")] * 2


async def test_a_closing_tag_alone_in_a_short_answer_of_a_known_family_stays_in_it_and_is_noted() -> None:
    unmarked = Completion("A", "So May", Framing.IMPLIED, thinks=True)
    async with served(unmarked) as (model, _):
        heard = await hear(model, SHORT)
        assert heard.answer.startswith("So May")
        assert any("the end of a reasoning" in note for note in model.abilities.notes)
    assert extract(heard.answer, QUESTION).value == "A"


async def test_configured_tags_mark_reasoning() -> None:
    says = Completion("<my>So May.</my>A", piece=2)
    async with served(says, model="large", reasoning_tags=["<my>", "</my>"]) as (model, _):
        heard = await hear(model, short(QUESTION, PROSE))
    assert (heard.reasoning, heard.answer) == ("So May.", "A")


@pytest.mark.parametrize("tags", [["<my>"], ["<my>", "<my>"], ["<my>", ""], ["<a>", "<b>", "<c>"]])
def test_configured_tags_that_are_no_pair_are_refused(tags: list[str]) -> None:
    with pytest.raises(BadInput, match="two tags"):
        OpenAIModel("http://localhost:1/v1", "m", reasoning_tags=tags)


async def test_a_field_of_an_unknown_family_is_the_reasoning_and_the_content_the_answer() -> None:
    async with served(Completion("56", "7*8 is 56", thinks=True), model="large") as (model, server):
        heard = await hear(model, reason(QUESTION, PROSE))
    assert (heard.reasoning, heard.answer) == ("7*8 is 56", "56")
    assert len(server.received) == 1


@pytest.mark.parametrize("text", ["\\boxed{6}", "The answer is 6.", "**Final Answer**\n6", "#### 6"])
async def test_prose_that_ends_in_its_conclusion_needs_no_second_request(text: str) -> None:
    async with served(Completion(f"Two rows of 3.\n\n{text}", piece=5), family="plain") as (model, server):
        heard = await hear(model, reason(replace(QUESTION, options=(), kind=AnswerKind.NUMBER), PROSE), LONG)
    assert (heard.reasoning, heard.answer) == (f"Two rows of 3.\n\n{text}", "6")
    assert heard.end.finish_reason is FinishReason.STOP
    assert len(server.received) == 1


async def test_prose_without_a_conclusion_is_asked_for_its_answer() -> None:
    async with served(Completion("Two rows of 3.\nEach is full."), Completion("6"), family="plain") as (model, server):
        heard = await hear(model, reason(QUESTION, PROSE))
    assert (heard.reasoning, heard.answer) == ("Two rows of 3.\nEach is full.", "6")
    assert len(server.received) == 2


async def test_a_short_answer_of_a_family_that_always_thinks_is_not_its_cut_thinking() -> None:
    unmarked = Completion("A", THOUGHT, Framing.IMPLIED, thinks=True)
    async with served(unmarked, model="deepseek-r1") as (model, _):
        assert (await hear(model, SHORT, Limits(answer_tokens=4))).answer == ""
        assert (await hear(model, SHORT)).answer == "A"
        assert any("cannot be switched off" in note for note in model.abilities.notes)


async def test_empty_content_is_an_empty_answer() -> None:
    async with served(Completion("")) as (model, _):
        heard = await hear(model, SHORT)
    assert (heard.answer, heard.end.finish_reason, heard.end.answer_logprob) == ("", FinishReason.STOP, None)


async def test_an_answer_cut_by_its_length_says_so() -> None:
    async with served(Completion("one two three four")) as (model, _):
        heard = await hear(model, SHORT, Limits(answer_tokens=2))
    assert (heard.answer, heard.end.finish_reason) == ("one two", FinishReason.LENGTH)


# Prefill and cards


async def test_with_prefill_the_opening_is_the_last_assistant_message() -> None:
    prompt = read(QUESTION, THOUGHT, CardFormat.THINKING, TAGS)
    async with served(Completion("A"), prefill=True) as (model, server):
        assert (await hear(model, prompt)).answer == "A"
        assert (await hear(model, SHORT)).answer == "A"
    body = server.bodies[0]
    assert body["messages"][-1] == {"role": "assistant", "content": f"<think>\n{THOUGHT}\n</think>\n\n"}
    assert (body["continue_final_message"], body["add_generation_prompt"]) == (True, False)
    assert server.bodies[1]["messages"][-1]["content"] == TAGS.none


async def test_an_open_think_block_is_left_to_the_template_of_a_family_that_opens_it() -> None:
    async with served(Completion("A", THOUGHT), prefill=True) as (model, server):
        await hear(model, REASON)
    assert server.bodies[0]["messages"][-1]["role"] == "user"
    assert "continue_final_message" not in server.bodies[0]


@pytest.mark.parametrize("prefill", [None, False])
async def test_without_prefill_a_card_as_thinking_is_refused_and_not_offered(prefill: bool | None) -> None:
    async with served(Completion("A"), prefill=prefill) as (model, server):
        assert model.abilities.card_formats == (CardFormat.NOTES, CardFormat.TURN)
        with pytest.raises(Unsupported):
            await hear(model, read(QUESTION, THOUGHT, CardFormat.THINKING, TAGS))
        for form in model.abilities.card_formats:
            assert (await hear(model, read(QUESTION, THOUGHT, form, TAGS))).answer == "A"
    assert all("continue_final_message" not in body for body in server.bodies)


def test_with_prefill_the_card_goes_best_as_thinking() -> None:
    model = OpenAIModel("http://localhost:1/v1", "qwen3", prefill=True)
    assert model.abilities.card_formats[0] is CardFormat.THINKING


async def test_images_are_refused_where_they_are_known_not_to_be_taken() -> None:
    async with served(Completion("A"), images=False) as (model, server):
        with pytest.raises(Unsupported, match="no images"):
            await hear(model, SHORT)
    assert server.received == []


# Two-stage calls


@pytest.mark.parametrize("framing", [Framing.REASONING, Framing.TAGS, Framing.IMPLIED])
async def test_with_prefill_a_spent_reasoning_is_closed_and_the_answer_decoded(framing: Framing) -> None:
    async with served(Completion("B", THOUGHT, framing), Completion("A"), prefill=True) as (model, server):
        heard = await hear(model, REASON, Limits(answer_tokens=3, reasoning_tokens=4))
    assert heard.end.finish_reason is FinishReason.BUDGET
    assert heard.answer == "A"
    assert THOUGHT.startswith(heard.reasoning)
    assert heard.reasoning
    assert server.bodies[1]["messages"][-1]["content"] == f"<think>\n{heard.reasoning}\n</think>\n\n"
    assert server.bodies[1]["max_tokens"] == 3


async def test_without_prefill_a_spent_reasoning_is_carried_on_as_notes_with_thinking_off() -> None:
    async with served(Completion("B", THOUGHT), Completion("A")) as (model, server):
        heard = await hear(model, REASON, Limits(answer_tokens=3, reasoning_tokens=4))
    assert (heard.reasoning, heard.answer) == ("The bar of May", "A")
    assert heard.end.finish_reason is FinishReason.BUDGET
    second = server.bodies[1]
    text = second["messages"][-1]["content"][-1]["text"]
    assert "The bar of May" in text
    assert text.endswith("Answer with the letter of the option only. Do not explain.")
    assert second["chat_template_kwargs"] == {"enable_thinking": False}


async def test_prose_that_is_cut_gets_a_second_stage_without_the_instruction_to_think() -> None:
    async with served(Completion("One two three four five"), Completion("A"), family="plain") as (model, server):
        heard = await hear(model, reason(QUESTION, PROSE), Limits(answer_tokens=1, reasoning_tokens=3))
    assert (heard.reasoning, heard.answer) == ("One two three", "A")
    assert "step by step" not in server.bodies[1]["messages"][-1]["content"][-1]["text"]


async def test_a_reasoning_that_ends_without_an_answer_is_asked_for_it() -> None:
    async with served(Completion("", THOUGHT), Completion("A"), prefill=True) as (model, _):
        heard = await hear(model, REASON)
    assert (heard.reasoning, heard.answer, heard.end.finish_reason) == (THOUGHT, "A", FinishReason.STOP)


async def test_a_server_that_cuts_within_the_reasoning_leads_to_the_second_stage() -> None:
    cut = Completion("", THOUGHT, finish_reason="length")
    async with served(cut, Completion("A")) as (model, _):
        heard = await hear(model, REASON)
    assert (heard.answer, heard.end.finish_reason) == ("A", FinishReason.BUDGET)


async def test_thinking_in_the_second_stage_is_no_answer_either() -> None:
    async with served(Completion("B", THOUGHT, thinks=True)) as (model, _):
        heard = await hear(model, REASON, Limits(answer_tokens=4, reasoning_tokens=4))
    assert (heard.reasoning, heard.answer) == ("The bar of May", "")


async def test_a_reasoning_that_closes_on_its_last_token_still_gets_its_whole_answer() -> None:
    async with served(Completion("one two three", THOUGHT)) as (model, server):
        heard = await hear(model, REASON, Limits(answer_tokens=5, reasoning_tokens=len(THOUGHT.split()) + 1))
    assert (heard.answer, heard.end.finish_reason) == ("one two three", FinishReason.STOP)
    assert len(server.received) == 1


async def test_after_a_reasoning_the_answer_gets_at_most_its_tokens() -> None:
    async with served(Completion("one two three four five", THOUGHT, after=Stall(13))) as (model, server):
        heard = await hear(model, REASON, Limits(answer_tokens=3, reasoning_tokens=60))
        assert (heard.answer, heard.end.finish_reason) == ("one two three", FinishReason.LENGTH)
        await server.received[0].gone.wait()


async def test_a_spent_reasoning_is_hung_up_on() -> None:
    async with served(Completion("B", THOUGHT, after=Stall(5)), Completion("A")) as (model, server):
        await hear(model, REASON, Limits(reasoning_tokens=4))
        await server.received[0].gone.wait()


@pytest.mark.parametrize("framing", [Framing.REASONING, Framing.TAGS])
async def test_a_reasoning_that_repeats_itself_is_hung_up_on_and_the_answer_asked_for(framing: Framing) -> None:
    loop = "We have to multiply the two numbers. " * 120
    async with served(Completion("B", "First. " + loop, framing, after=Stall(500)), Completion("A")) as (model, server):
        heard = await hear(model, REASON, Limits(reasoning_tokens=5_000))
        await server.received[0].gone.wait()
    assert (heard.answer, heard.end.finish_reason) == ("A", FinishReason.REPETITION)
    assert len(heard.reasoning) < len(loop) / 2


async def test_a_short_answer_may_repeat_itself() -> None:
    question = Question("Write a line thirty times.", kind=AnswerKind.FREE_TEXT)
    async with served(Completion("I shall not talk in class. " * 40)) as (model, _):
        heard = await hear(model, short(question, model.abilities.style), Limits(answer_tokens=999))
    assert heard.end.finish_reason is FinishReason.STOP


async def test_the_tokens_of_both_stages_are_added() -> None:
    server = MockServer([Completion("B", THOUGHT), Completion("A")], models=["qwen3"], running_usage=True)
    async with served(server=server, model="qwen3", prefill=True) as (model, _):
        heard = await hear(model, REASON, Limits(reasoning_tokens=4))
    prompts = [len(" ".join(_texts(body)).split()) + 2 for body in server.bodies]
    assert heard.end.usage.completion_tokens == 4 + 1
    assert heard.end.usage.reasoning_tokens == 4
    assert heard.end.usage.prompt_tokens == pytest.approx(sum(prompts), abs=2)


def _texts(body: dict[str, Any]) -> list[str]:
    contents = [message["content"] for message in body["messages"]]
    return [content if isinstance(content, str) else content[-1]["text"] for content in contents]


# Tokens and log probabilities


@pytest.mark.parametrize(
    ("count", "cached", "reasoning"),
    [(Count.DETAILED, 0, 9), (Count.SGLANG, None, 9), (Count.BARE, None, None)],
)
async def test_usage_is_read_in_every_dialect(count: Count, cached: int | None, reasoning: int | None) -> None:
    async with served(Completion("A", THOUGHT, count=count)) as (model, _):
        usage = (await hear(model, REASON)).end.usage
    assert (usage.cached_tokens, usage.completion_tokens, usage.reasoning_tokens) == (cached, 10, reasoning)
    assert usage.prompt_tokens is not None


async def test_missing_usage_is_not_observed_rather_than_zero() -> None:
    async with served(Completion("A", count=Count.MISSING)) as (model, _):
        assert (await hear(model, SHORT)).end.usage == Usage()


async def test_no_reasoning_tokens_where_reasoning_was_heard_is_no_observation() -> None:
    async with served(Completion("A", THOUGHT, Framing.TAGS)) as (model, _):
        assert (await hear(model, REASON)).end.usage.reasoning_tokens is None


async def test_progress_tells_a_cancelled_call_what_it_has_cost() -> None:
    async with served(Completion("A", THOUGHT, after=Stall(4))) as (model, _):
        seen = []
        async with aclosing(model.stream(REASON, LIMITS)) as events:
            async for event in events:
                if isinstance(event, Progress):
                    seen.append(event.usage)
                if len(seen) == 4:
                    break
    assert [usage.completion_tokens for usage in seen] == [1, 2, 3, 4]
    assert seen[-1].reasoning_tokens == 4


async def test_the_logprob_is_that_of_the_answers_tokens_only() -> None:
    for framing in (Framing.REASONING, Framing.TAGS, Framing.IMPLIED):
        async with served(Completion("May and June", THOUGHT, framing, logprob=-0.25)) as (model, _):
            heard = await hear(model, REASON)
        assert heard.end.answer_logprob == pytest.approx(3 * -0.25), framing
        assert model.abilities.logprobs is True


async def test_no_logprob_where_the_server_gives_none() -> None:
    async with served(Completion("A", logprob=None)) as (model, _):
        assert (await hear(model, SHORT)).end.answer_logprob is None
        assert model.abilities.logprobs is False


async def test_logprobs_are_not_asked_for_where_they_are_known_not_to_come() -> None:
    async with served(Completion("A"), logprobs=False) as (model, server):
        await hear(model, SHORT)
    assert "logprobs" not in server.bodies[0]


# Warming and scoring


async def test_warming_asks_for_one_token_and_a_later_call_finds_the_prefix_computed() -> None:
    server = MockServer([Completion("A")], models=["qwen3"], prefix_cache=True)
    async with served(server=server, model="qwen3", prefill=True, prefix_cache=True) as (model, _):
        assert model.abilities.prefix_sessions
        usage = await model.warm(growing(QUESTION, "The bar of May", CardFormat.THINKING, TAGS))
        heard = await hear(model, read(QUESTION, THOUGHT, CardFormat.THINKING, TAGS))
    assert server.bodies[0]["max_tokens"] == 1
    assert usage.prompt_tokens is not None
    assert heard.end.usage.cached_tokens == usage.prompt_tokens - 2  # the later card continues there
    closed = [body["messages"][-1]["content"].endswith(TAGS.closing) for body in server.bodies]
    assert closed == [True, True]


async def test_warming_is_refused_where_nothing_is_known_to_be_kept() -> None:
    async with served() as (model, server):
        with pytest.raises(Unsupported):
            await model.warm(SHORT)
    assert server.received == []


async def test_scoring_gives_the_logprob_per_token_of_the_answer() -> None:
    async with served(Completion("x", logprob=-0.5), scoring=True) as (model, server):
        assert await model.score(SHORT, "two words") == pytest.approx(-0.5)
    body = server.bodies[0]
    assert body["messages"][-1]["content"] == f"{TAGS.none}two words"
    assert (body["prompt_logprobs"], body.get("stream")) == (0, None)


async def test_scoring_is_refused_or_broken_where_the_server_does_not_do_it() -> None:
    async with served() as (model, _):
        with pytest.raises(Unsupported):
            await model.score(SHORT, "A")
    async with served(HttpError(200, {"choices": []}), scoring=True) as (model, _):
        with pytest.raises(BrokenStream):
            await model.score(SHORT, "A")
    async with served(HttpError(400, {"error": {"message": "no such thing", "code": 400}}), scoring=True) as (model, _):
        with pytest.raises(ModelRefused):
            await model.score(SHORT, "A")


# The mock server


async def test_the_mock_answers_as_a_function_of_the_request() -> None:
    def script(request: Received) -> Reply:
        return Completion("yes" if request.body["max_tokens"] > 3 else "no")

    async with MockServer(script) as url:
        model = OpenAIModel(url, "mock")
        answers = [(await hear(model, SHORT, Limits(answer_tokens=n))).answer for n in (2, 9)]
        await model.aclose()
    assert answers == ["no", "yes"]


async def test_many_calls_run_at_once_on_one_model() -> None:
    async with served(Completion("A", THOUGHT, delay_s=0.002)) as (model, server):
        heard: Sequence[Heard] = await asyncio.gather(*(hear(model, REASON) for _ in range(16)))
    assert {(one.reasoning, one.answer) for one in heard} == {(THOUGHT, "A")}
    assert len(server.received) == 16
    assert all(math.isclose(one.end.answer_logprob or 0, -0.1) for one in heard)


def test_the_mock_is_not_imported_with_the_model() -> None:
    code = "import sys, cuecard.models.openai; sys.exit('cuecard.testing.mock_server' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=15).returncode == 0


def holds(fits: int, words: str, **more: Any) -> MockServer:
    """A server that rejects max_tokens above `fits` with this message, in which MOST stands for the value."""

    def answer(request: Received) -> Reply:
        most = request.body["max_tokens"]
        if most <= fits:
            return Completion("3", THOUGHT, thinks=True)
        return HttpError(400, {"error": {"message": words.replace("MOST", str(most)), "code": 400, **more}})

    return MockServer(answer, models=["qwen3"])


HELD = "This model's maximum context length is 900 tokens. However, "


@pytest.mark.parametrize(
    ("fits", "words", "limits"),
    [
        # versions of vLLM
        (400, HELD + "you requested 1564 tokens (500 in the messages, MOST in the completion). Please", [1064, 400]),
        (400, HELD + "you requested MOST output tokens and your prompt contains 500 input tokens", [1064, 400]),
        (
            400,
            "'max_tokens' or 'max_completion_tokens' is too large: MOST. This model's maximum context length is 900 "
            "tokens and your request has 500 input tokens (MOST > 900 - 500).",
            [1064, 400],
        ),
        (300, "max_tokens=MOST cannot be greater than max_model_len=300. Please request fewer tokens.", [1064, 75]),
        (
            90,
            HELD + "you requested MOST output tokens and your prompt contains at least 201 input tokens",
            [1064, 174, 43],
        ),
        # SGLang
        (
            400,
            "Requested token count exceeds the model's maximum context length of 900 tokens. You requested a total of "
            "1564 tokens: 500 tokens from the input messages and MOST tokens for the completion.",
            [1064, 400],
        ),
        # OpenAI
        (
            512,
            "max_tokens is too large: MOST. This model supports at most 512 completion tokens, whereas you gave MOST.",
            [1064, 512],
        ),
        # without numbers
        (300, "max_tokens is too large", [1064, 266]),
    ],
)
async def test_a_limit_that_does_not_fit_into_the_servers_context_is_lowered_to_what_does(fits, words, limits):
    async with served(server=holds(fits, words), model="qwen3") as (model, server):
        heard = await hear(model, REASON, Limits(reasoning_tokens=1000, answer_tokens=64))
    assert heard.answer == "3"
    assert [body["max_tokens"] for body in server.bodies] == limits


@pytest.mark.parametrize(
    ("words", "more", "attempts"),
    [
        (HELD + "your messages resulted in 1000 tokens. Please reduce the length of the messages.", {}, 1),
        (HELD + "you requested 2064 tokens (1000 in the messages, MOST in the completion).", {}, 1),
        (HELD + "you requested 0 output tokens and your prompt contains at least 901 input tokens", {}, 1),
        ("The input (1000 tokens) is longer than the model's context length (900 tokens).", {}, 1),
        ("The decoder prompt (length 1000) is longer than the maximum model length of 900.", {}, 1),
        (
            "request (1000 tokens) exceeds the available context size (900 tokens), try increasing it",
            {"type": "exceed_context_size_error", "n_prompt_tokens": 1000, "n_ctx": 900},
            1,
        ),
        ("max_tokens is too large", {}, 3),
    ],
)
async def test_a_prompt_that_is_too_long_is_sent_once_where_the_server_says_so_else_three_times(words, more, attempts):
    async with served(server=holds(0, words, **more), model="qwen3") as (model, server):
        with pytest.raises(RequestRefused):
            await hear(model, REASON, Limits(reasoning_tokens=1000, answer_tokens=64))
    assert len(server.bodies) == attempts


# Echoed prefills, and grammars


@pytest.mark.parametrize("piece", [None, 1, 7])
async def test_a_server_that_sends_the_given_beginning_again_has_it_taken_off(piece: int | None) -> None:
    number = replace(QUESTION, options=(), kind=AnswerKind.NUMBER)
    for text, answer in (("The answer is 6.", "6."), ("6", "6"), ("The", "The")):
        async with served(Completion(text, piece=piece), family="plain", prefill=True) as (model, server):
            heard = await hear(model, short(number, model.abilities.style))
        assert server.bodies[0]["messages"][-1] == {"role": "assistant", "content": "The answer is"}
        assert heard.answer == answer


async def test_a_grammar_goes_with_brief_answers_only() -> None:
    async with served(Completion("6"), family="plain", constraint="grammar") as (model, server):
        style = model.abilities.style
        for kind in (AnswerKind.NUMBER, AnswerKind.FREE_TEXT):
            await hear(model, short(replace(QUESTION, options=(), kind=kind), style))
        await hear(model, reason(replace(QUESTION, options=(), kind=AnswerKind.NUMBER), style))
    assert ["grammar" in body for body in server.bodies] == [True, False, False]


async def test_a_server_that_refuses_a_grammar_answers_without_one() -> None:
    server = MockServer([Completion("6")], models=["m"], refuses=["structured_outputs"])
    async with served(server=server, model="m", family="plain", constraint="structured_outputs") as (model, _):
        heard = await hear(model, short(QUESTION, model.abilities.style))
        assert heard.answer == "6"
        assert any("grammar" in note for note in model.abilities.notes)
