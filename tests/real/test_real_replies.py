"""Recorded replies of two pretrained models: the answers extracted from them, and strategies run on them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from statistics import mean

import pytest
from calls import CALLS, QWEN, READS, SMOLLM, STRICT, UNJUDGED, Row, applies, client, digest, load_rows
from judging import README, Found, equals, final, read_all, table, written
from replaying import QUESTIONS, replayed

from cuecard.answers.kinds import KINDS
from cuecard.domain.outcome import Outcome
from cuecard.domain.question import AnswerKind
from cuecard.models.prompt import CardFormat
from cuecard.strategies.policy import Policy
from cuecard.strategies.run import answer

pytestmark = pytest.mark.slow

RECORD = "record again: python tests/real/record.py QWEN_URL SMOLLM_URL"
JUDGE = "read them and write their answers into replies.jsonl: python tests/real/judging.py lists them"
MODELS = (QWEN, SMOLLM)
BRIEF = [name for name, (question, _) in QUESTIONS.items() if KINDS[question.kind].brief]


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    return load_rows()


@pytest.fixture(scope="module")
def found(rows: list[Row]) -> Found:
    return asyncio.run(read_all(rows))


def test_there_are_ten_questions_of_each_of_six_kinds():
    kinds = [question.kind for question, _ in QUESTIONS.values()]
    assert {kind: kinds.count(kind) for kind in kinds} == dict.fromkeys(set(AnswerKind) - {AnswerKind.MATHS}, 10)


def test_the_recording_matches_the_current_prompts(rows: list[Row]):
    outdated = [row.key for row in rows if row.prompt != digest(row.call, QUESTIONS[row.question][0], row.model)]
    assert outdated == [], RECORD


def test_every_call_is_recorded(rows: list[Row]):
    wanted = {
        (name, model, call)
        for name, (question, _) in QUESTIONS.items()
        for model in MODELS
        for call in CALLS
        if applies(call, question)
    }
    assert wanted - {row.key for row in rows} == set(), RECORD


@pytest.mark.parametrize("call", ["short", "short/grammar", *READS])
def test_a_capable_models_brief_answers_are_brief_and_complete(call: str, found: Found):
    rows = [found[name, QWEN, call].row for name in BRIEF if (name, QWEN, call) in found]
    assert [row.question for row in rows if row.requests[0].finish_reason != "stop"] == []
    assert mean(row.requests[0].completion_tokens or 0 for row in rows) <= 10


def test_a_grammar_keeps_a_verbose_models_answers_brief(found: Found):
    rows = [found[key].row for key in found if key[1:] == (SMOLLM, "short/grammar")]
    assert mean(row.requests[0].completion_tokens or 0 for row in rows) <= 10


def test_a_finished_reasoning_gives_its_conclusion_without_a_second_request(found: Found):
    written = [found[name, QWEN, "reason"] for name in BRIEF]
    finished = [each for each in written if each.row.requests[0].finish_reason == "stop"]
    assert len(finished) >= 35
    assert sum(each.requests == 1 for each in finished) >= 0.95 * len(finished)


MISREAD = {
    ("short_text-6", QWEN, "reason"),  # "The parcel was just before Madrid in Munich."
    ("short_text-3", QWEN, "short/plain"),  # "Apple, River, Tree": the question's own words
    ("short_text-6", SMOLLM, "read/notes"),
    ("short_text-6", SMOLLM, "read/turn"),  # "Answer: Answer."
    ("short_text-9", SMOLLM, "read/turn"),
    ("short_text-9", SMOLLM, "reason"),
    ("number-3", SMOLLM, "reason"),  # "… has read 84 pages in 18 days.": restated, no answer
    ("short_text-4", SMOLLM, "reason"),
    ("short_text-6", SMOLLM, "reason"),
    ("free_text-2", SMOLLM, "reason"),  # "I'm sorry for your loss …": taken for a refusal
    ("yes_no-3", SMOLLM, "short/plain"),  # "The milk is still good after the 14th.": yes, without the word
    ("number-7", SMOLLM, "short/plain"),  # "A ride of 15 kilometres costs 1.80 euros."
    ("short_text-4", SMOLLM, "short/plain"),
    ("short_text-6", SMOLLM, "short/plain"),
    ("short_text-9", SMOLLM, "short/plain"),
    ("short_text-10", SMOLLM, "short/plain"),  # "Mia's clock is 20 minutes fast."
}
"""Replies whose extracted answer differs from the judgement; most repeat words of the question."""


def test_every_reply_is_judged(rows: list[Row]):
    assert [row.key for row in rows if row.judged == UNJUDGED] == [], JUDGE


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("call", CALLS)
def test_extraction_equals_the_judgement_of_a_person(call: str, model: str, found: Found):
    replies = [each for key, each in found.items() if key[1:] in ((model, call), (model, call + STRICT))]
    assert len(replies) >= 30
    misread = {
        each.row.key: f"judged {each.row.judged!r}, found {each.answer.value!r} in {each.text!r}"
        for each in replies
        if not equals(each.answer, each.row.judged, QUESTIONS[each.row.question][0])
    }
    assert set(misread) == {key for key in MISREAD if key[1:] == (model, call)}, misread


def test_the_table_of_the_readme_matches_the_recording(found: Found):
    page = README.read_text(encoding="utf-8")
    assert page == written(page, table(found)), "write it again: python tests/real/judging.py"
    assert f"all but {len(MISREAD)} of {len(found)} replies" in " ".join(page.split())


async def outcomes(rows: list[Row], small: str, large: str, strategy: str, policy: Policy) -> dict[str, Outcome]:
    """The outcome of a strategy for every brief question, over recorded replies."""
    async with replayed(rows) as (replay, url, _):
        models = {role: client(url, name, "short") for role, name in (("small", small), ("large", large))}
        recorded = [(name, QUESTIONS[name]) for name in BRIEF]
        try:
            answered = {name: await answer(asked, models, strategy, policy) for name, (asked, _) in recorded}
        finally:
            for model in models.values():
                await model.aclose()
        assert replay.unknown == []
        return answered


@pytest.fixture(scope="module", params=MODELS)
def reader(request: pytest.FixtureRequest) -> Iterator[str]:
    return request.param


@pytest.mark.parametrize("form", CardFormat)
async def test_transfer_gives_the_readers_answer(form: CardFormat, reader: str, rows: list[Row], found):
    policy = Policy(card=form)
    for name, outcome in (await outcomes(rows, QWEN, reader, "transfer", policy)).items():
        read = final(found, name, reader, f"read/{form}")
        assert outcome.route == "transferred", outcome.reason
        assert outcome.answer == (read.answer.text if read.answer.parsed else read.text.strip())


async def test_mutual_accepts_equal_short_answers_and_else_reads_the_card(reader: str, rows: list[Row], found: Found):
    answered = await outcomes(rows, QWEN, reader, "mutual", Policy(card=CardFormat.NOTES))
    routes = [outcome.route for outcome in answered.values()]
    assert set(routes) <= {"agreed", "confirmed", "transferred"}
    assert "agreed" in routes
    for name, outcome in answered.items():
        call = "read/notes" if outcome.route == "transferred" else "short"
        expected = final(found, name, reader, call)
        assert outcome.answer == (expected.answer.text if expected.answer.parsed else expected.text.strip())
