"""A local checkpoint gives the same output as Transformers, and computes no prompt token twice."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Callable, Coroutine
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import tiny
from hearing import Heard, hear
from reference import Expected, Reference

from cuecard.demo import boards
from cuecard.domain.call import FinishReason
from cuecard.domain.errors import BadInput
from cuecard.domain.question import AnswerKind, Image, Question
from cuecard.models.base import AnswerDelta, Limits, ReasoningDelta
from cuecard.models.local.model import LocalModel
from cuecard.models.local.network import IMAGES_KEPT, KeptImages
from cuecard.models.prompt import PROSE, TAGS, CardFormat, Prompt, growing, read, reason, short

LIMITS = Limits(answer_tokens=24, reasoning_tokens=24)
CARD = "Let us count row by row. Row 1 shows red (1), blue, red (2), green. 它有两个红色。 So the answer is 2."
CUTS = (1, 8, 30, 31, 52, 70, 73, 90, len(CARD))
CALLS = {
    "short": lambda question: short(question, TAGS),
    "reason": lambda question: reason(question, TAGS),
    **{f"read {form}": (lambda question, form=form: read(question, CARD, form, TAGS)) for form in CardFormat},
}
every_call = pytest.mark.parametrize("call", CALLS)


@pytest.fixture(scope="module")
def reference(checkpoints: Callable[[str], Path]) -> Reference:
    return Reference(checkpoints("qwen3_vl"))


@pytest.fixture(scope="module")
def truth(reference: Reference) -> Callable[[Prompt, Limits], Expected]:
    """Looks up the expected output of a prompt; Transformers computes it once."""
    known: dict[Prompt, Expected] = {}

    def look_up(prompt: Prompt, limits: Limits = LIMITS) -> Expected:
        if prompt not in known:
            known[prompt] = reference.expected(prompt, limits)
        return known[prompt]

    return look_up


def content(heard: Heard) -> tuple[str, str, int, FinishReason]:
    usage = heard.end.usage
    return heard.reasoning, heard.answer, usage.completion_tokens or 0, heard.end.finish_reason


def due(expected: Expected) -> tuple[str, str, int, FinishReason]:
    return expected.reasoning.lstrip(), expected.answer, expected.tokens, expected.finish_reason


# --- greedy decoding equals Transformers' -----------------------------------------------------------------------------


async def nothing(model: LocalModel, question: Question, other: Question) -> None:
    pass


async def the_same(model: LocalModel, question: Question, other: Question) -> None:
    for make in CALLS.values():
        await hear(model, make(question), LIMITS)


async def its_short_answer(model: LocalModel, question: Question, other: Question) -> None:
    await hear(model, short(question, TAGS), LIMITS)


async def growing_cards(model: LocalModel, question: Question, other: Question) -> None:
    for form in CardFormat:
        for cut in CUTS:
            await model.warm(growing(question, CARD[:cut], form, TAGS))


async def another_image(model: LocalModel, question: Question, other: Question) -> None:
    await hear(model, short(other, TAGS), LIMITS)
    await hear(model, reason(other, TAGS), LIMITS)


async def another_system(model: LocalModel, question: Question, other: Question) -> None:
    for system in ("Be brief.", "Be"):
        await hear(model, short(replace(question, system=system), TAGS), LIMITS)


async def no_image(model: LocalModel, question: Question, other: Question) -> None:
    await hear(model, short(Question(question.text, kind=question.kind), TAGS), LIMITS)


async def an_abandoned_call(model: LocalModel, question: Question, other: Question) -> None:
    async with aclosing(model.stream(reason(question, TAGS), LIMITS)) as events:
        async for event in events:
            if isinstance(event, ReasoningDelta | AnswerDelta):
                break


@every_call
@pytest.mark.parametrize(
    "before",
    [nothing, the_same, its_short_answer, growing_cards, another_image, another_system, no_image, an_abandoned_call],
)
async def test_greedy_calls_say_what_generate_says_whatever_was_computed_before(
    call: str,
    before: Callable[..., Coroutine[Any, Any, None]],
    qwen: LocalModel,
    truth: Callable[[Prompt], Expected],
    question: Question,
    pictures: tuple[Image, Image],
) -> None:
    await before(qwen, question, Question(question.text, pictures[1:], (), question.kind))
    prompt = CALLS[call](question)
    assert content(await hear(qwen, prompt, LIMITS)) == due(truth(prompt))


@every_call
async def test_calls_that_take_turns_do_not_mix(
    call: str,
    qwen: LocalModel,
    truth: Callable[[Prompt], Expected],
    question: Question,
    pictures: tuple[Image, Image],
) -> None:
    others = [
        CALLS["reason"](Question(question.text, pictures[1:], (), question.kind)),
        CALLS["short"](Question("What colour is the digit in cell 3?", pictures, ("red", "blue"), AnswerKind.CHOICE)),
        CALLS["short"](Question("How many red digits are there?", kind=AnswerKind.NUMBER)),
    ]
    prompts = [CALLS[call](question), *others]
    heard = await asyncio.gather(*(hear(qwen, prompt, LIMITS) for prompt in prompts))
    assert [content(each) for each in heard] == [due(truth(prompt)) for prompt in prompts]


async def test_the_random_checkpoint_ends_calls_by_itself_and_by_the_limit(
    truth: Callable[[Prompt], Expected], question: Question, pictures: tuple[Image, Image]
) -> None:
    """The tests above need both finish reasons; exhausted budgets have a separate test."""
    asked = [question, *(Question(f"How many {colour} digits are there?", pictures[1:]) for colour in boards.COLOURS)]
    ends = {truth(make(each)).finish_reason for make in CALLS.values() for each in asked}
    assert ends == {FinishReason.STOP, FinishReason.LENGTH}


@pytest.mark.parametrize("budget", [0, 1, 3])
async def test_a_spent_budget_closes_the_reasoning_and_the_answer_is_that_of_the_closed_prompt(
    budget: int, tmp_path: Path, question: Question
) -> None:
    endless = tiny.qwen3_vl(tmp_path, partial(tiny.lively, tokenizer=tiny.demo_tokenizer(), likely=()))
    model, reference = LocalModel.load(endless, device="cpu"), Reference(endless)
    limits, prompt = Limits(answer_tokens=24, reasoning_tokens=budget), reason(question, TAGS)
    heard = await hear(model, prompt, limits)
    await model.aclose()
    inputs = reference.reader.inputs(prompt)
    thought = reference.greedy(inputs, inputs.ids, budget) if budget else []
    closing = reference.tokenizer(TAGS.closing).input_ids
    answer = reference.greedy(inputs, [*inputs.ids, *thought, *closing], limits.answer_tokens)
    assert heard.reasoning == reference.tokenizer.decode(thought).strip()
    assert heard.answer == reference.tokenizer.decode(answer, skip_special_tokens=True).strip()
    assert heard.end.finish_reason in (FinishReason.BUDGET, FinishReason.LENGTH)
    assert heard.end.usage.reasoning_tokens == budget
    assert heard.end.usage.prompt_tokens == len(inputs.ids) + len(closing)


@every_call
async def test_the_logprob_is_that_of_the_answers_tokens_in_a_full_forward(
    call: str, qwen: LocalModel, reference: Reference, truth: Callable[[Prompt], Expected], question: Question
) -> None:
    await growing_cards(qwen, question, question)
    prompt = CALLS[call](question)
    expected = truth(prompt)
    each = reference.logprobs(reference.reader.inputs(prompt), expected.before_answer, expected.answer_ids)
    heard = await hear(qwen, prompt, LIMITS)
    assert heard.end.answer_logprob == pytest.approx(float(each.sum()), abs=1e-3)


# --- prefix caching ---------------------------------------------------------------------------------------------------


class Trie:
    """A prefix tree of prompt tokens; tokens in the tree need no computation."""

    def __init__(self) -> None:
        self._root: dict[int, Any] = {}

    def add(self, ids: list[int]) -> int:
        """Insert a prompt; returns the number of new tokens."""
        node, new = self._root, 0
        for token in ids:
            new += token not in node
            node = node.setdefault(token, {})
        return new


async def test_no_prompt_token_of_a_question_is_computed_twice(
    qwen: LocalModel, reference: Reference, question: Question
) -> None:
    """Except the last token of a cached prompt, which is computed again for its logits."""
    warmed = [growing(question, CARD[:cut], form, TAGS) for form in CardFormat for cut in CUTS]
    asked = [make(question) for make in CALLS.values()]
    trie, due, computed = Trie(), [], []
    for prompt in [asked[0], *warmed, *asked, *reversed(warmed), *asked]:
        due.append(max(1, trie.add(reference.reader.inputs(prompt).ids)))
        if prompt.unfinished:
            usage = await qwen.warm(prompt)
            computed.append((usage.prompt_tokens or 0) - (usage.cached_tokens or 0))
        else:
            computed.append((await hear(qwen, prompt, LIMITS)).computed)
    assert computed == due


async def test_two_questions_in_turns_do_not_push_each_other_out(
    qwen: LocalModel, reference: Reference, question: Question, pictures: tuple[Image, Image]
) -> None:
    questions = [question, Question(question.text, pictures[1:], (), question.kind)]
    tries = Trie(), Trie()
    for cut in range(4, len(CARD), 4):
        for asked, trie in zip(questions, tries, strict=True):
            prompt = growing(asked, CARD[:cut], CardFormat.NOTES, TAGS)
            usage = await qwen.warm(prompt)
            assert (usage.prompt_tokens or 0) - (usage.cached_tokens or 0) == max(
                1, trie.add(reference.reader.inputs(prompt).ids)
            )
    heard = await hear(qwen, short(question, TAGS), LIMITS)
    assert heard.computed < 30


async def test_the_same_text_with_another_image_shares_nothing(
    qwen: LocalModel, question: Question, pictures: tuple[Image, Image]
) -> None:
    other = Question(question.text, pictures[1:], (), question.kind)
    first, second = [(await hear(qwen, short(asked, TAGS), LIMITS)) for asked in (question, other)]
    assert (first.end.usage.cached_tokens, second.end.usage.cached_tokens) == (0, 0)
    assert first.answer != second.answer


def test_of_processed_images_the_last_are_kept_and_the_files_are_not() -> None:
    kept, images = KeptImages(), [Image(bytes([number])) for number in range(IMAGES_KEPT + 1)]
    assert [kept.of(image, lambda image: image.digest) for image in images] == [image.digest for image in images]
    assert kept.of(images[-1], lambda _: "anew") == images[-1].digest
    assert kept.of(images[0], lambda _: "anew") == "anew"
    last = weakref.ref(images.pop())
    gc.collect()
    assert last() is None


async def test_the_order_of_two_images_changes_the_answer(
    qwen: LocalModel, truth: Callable[[Prompt], Expected], question: Question, pictures: tuple[Image, Image]
) -> None:
    for images in (pictures, pictures[::-1], pictures):
        prompt = short(Question(question.text, images, (), question.kind), TAGS)
        assert content(await hear(qwen, prompt, LIMITS)) == due(truth(prompt))


async def test_what_is_forgotten_is_computed_again(qwen: LocalModel, question: Question) -> None:
    first = await hear(qwen, short(question, TAGS), LIMITS)
    qwen.forget()
    again = await hear(qwen, short(question, TAGS), LIMITS)
    assert (again.end.usage.cached_tokens, content(again)) == (0, content(first))


async def test_a_long_prompt_is_read_in_pieces(
    qwen: LocalModel,
    truth: Callable[[Prompt], Expected],
    question: Question,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("cuecard.models.local.model.PREFILL_CHUNK", 7)
    prompt = read(question, CARD, CardFormat.NOTES, TAGS)
    assert content(await hear(qwen, prompt, LIMITS)) == due(truth(prompt))
    assert await qwen.score(prompt, CARD) == pytest.approx(await qwen.score(prompt, CARD))


# --- scores and sampling ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("answer", ["2", "two red digits", CARD])
@pytest.mark.parametrize("warm", [False, True])
async def test_a_score_is_the_mean_logprob_of_one_full_forward(
    answer: str, warm: bool, qwen: LocalModel, reference: Reference, question: Question
) -> None:
    prompt = short(question, TAGS)
    if warm:
        await hear(qwen, prompt, LIMITS)
    inputs, wanted = reference.reader.inputs(prompt), reference.tokenizer(answer).input_ids
    assert await qwen.score(prompt, answer) == pytest.approx(
        float(reference.logprobs(inputs, inputs.ids, wanted).mean()), abs=1e-4
    )


async def test_an_answer_that_is_scored_cannot_end_the_turn(qwen: LocalModel, question: Question) -> None:
    prompt = short(question, TAGS)
    scores = [await qwen.score(prompt, answer) for answer in ("2<|im_end|>", "2< |im_end|>")]
    assert scores[0] == pytest.approx(scores[1], abs=1e-4)


async def test_an_empty_answer_has_no_score(qwen: LocalModel, question: Question) -> None:
    with pytest.raises(BadInput, match="empty"):
        await qwen.score(short(question, TAGS), "")


async def test_a_sample_repeats_with_its_seed_and_differs_with_another(qwen: LocalModel, question: Question) -> None:
    async def sample(seed: int, top_p: float = 1.0) -> str:
        heard = await hear(qwen, short(question, TAGS), Limits(8, 8, temperature=1.0, top_p=top_p, seed=seed))
        return heard.answer

    first = await sample(1)
    assert await sample(1) == first
    assert len({first, *[await sample(seed) for seed in range(2, 6)]}) > 2


async def test_a_sample_from_the_tip_of_the_nucleus_is_greedy(
    qwen: LocalModel, truth: Callable[[Prompt], Expected], question: Question
) -> None:
    prompt = short(question, TAGS)
    limits = Limits(LIMITS.answer_tokens, LIMITS.reasoning_tokens, temperature=2.0, top_p=1e-6, seed=3)
    assert content(await hear(qwen, prompt, limits)) == due(truth(prompt))


# --- limits -----------------------------------------------------------------------------------------------------------


async def test_a_prompt_that_is_too_long_is_the_users_to_mend(qwen: LocalModel, question: Question) -> None:
    asked = Question("red " * tiny.MOST, question.images)
    with pytest.raises(BadInput, match=f"reads at most {tiny.MOST}"):
        await hear(qwen, short(asked, TAGS), LIMITS)


async def test_a_call_that_fills_the_models_memory_ends_by_length(
    qwen: LocalModel, reference: Reference, question: Question
) -> None:
    prompt = short(question, TAGS)
    while len(reference.reader.inputs(prompt).ids) < tiny.MOST - 6:
        prompt = short(question := Question(question.text + " red", question.images), TAGS)
    heard = await hear(qwen, prompt, Limits(answer_tokens=100, temperature=5.0, seed=1))
    assert (heard.end.finish_reason, heard.end.usage.completion_tokens) == (FinishReason.LENGTH, 6)


async def test_near_the_end_of_the_models_memory_the_reasoning_leaves_room_for_the_answer(
    tmp_path: Path, question: Question
) -> None:
    endless = tiny.taught(tmp_path / "taught", ("\n", " red", " blue", " red"), ("\n\n", "7", " digits", "<|im_end|>"))
    model = LocalModel.load(endless, device="cpu")
    for words in (400, 440, 460):
        long = Question(question.text + " red" * words, question.images)
        heard = await hear(model, reason(long, TAGS), Limits(answer_tokens=3, reasoning_tokens=2048))
        assert (heard.answer, heard.end.finish_reason) == ("7 digits", FinishReason.BUDGET)
    await model.aclose()


async def test_a_reasoning_that_repeats_itself_is_closed(tmp_path: Path, question: Question) -> None:
    loop = ("\n", " green", " blue", " green")
    model = LocalModel.load(
        tiny.taught(tmp_path / "taught", loop, ("\n\n", "7", " digits", "<|im_end|>")), device="cpu"
    )
    heard = await hear(model, reason(question, TAGS), Limits(reasoning_tokens=2048))
    assert (heard.answer, heard.end.finish_reason) == ("7 digits", FinishReason.REPETITION)
    await model.aclose()


async def test_unrequested_reasoning_counts_against_the_answers_limit(tmp_path: Path, question: Question) -> None:
    ruminates = tiny.taught(tmp_path / "taught", ("\n\n", "<think>", " red", " blue", " red"))
    model = LocalModel.load(ruminates, device="cpu")
    heard = await hear(model, short(question, TAGS), Limits(answer_tokens=10, reasoning_tokens=5))
    assert heard.reasoning.split() == ["red", "blue"] * 4 + ["red"]
    assert (heard.answer, heard.end.finish_reason, heard.end.answer_logprob) == ("", FinishReason.LENGTH, None)
    assert heard.end.usage.completion_tokens == 10
    await model.aclose()


async def test_reasoning_in_prose_ends_at_the_word_answer(tmp_path: Path, question: Question) -> None:
    tokens = ("\n", "Let", " us", " look", ".", "\n\n", "Answer", ":", " ", "7", "<|im_end|>")
    model = LocalModel.load(tiny.taught(tmp_path / "taught", tokens), device="cpu")
    whole = await hear(model, reason(question, PROSE), LIMITS)
    cut = await hear(model, reason(question, PROSE), Limits(reasoning_tokens=2))
    assert (whole.reasoning, whole.answer, whole.end.finish_reason) == ("Let us look.", "7", FinishReason.STOP)
    assert (cut.reasoning, cut.answer, cut.end.finish_reason) == ("Let us", "7", FinishReason.BUDGET)
    await model.aclose()
