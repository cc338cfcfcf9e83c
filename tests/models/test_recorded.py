"""Recorded calls replay the same events at the recorded speed; scripted and simulated models follow their script."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hearing import Heard, hear
from hypothesis import given, settings
from hypothesis import strategies as st

from cuecard import virtual_time
from cuecard.domain.call import FinishReason
from cuecard.domain.errors import BadInput, ModelError, ModelTimeout, Unsupported
from cuecard.domain.question import AnswerKind, Image, Question
from cuecard.models.base import Event, Finished, Limits, Model, ReasoningDelta
from cuecard.models.prompt import PROSE, TAGS, CardFormat, Prompt, Style, growing, read, reason, short
from cuecard.models.replay import RecordedModel, RecordingModel, Says, ScriptedModel, key
from cuecard.models.simulated import Profile, Script, SimulatedModel, words

QUESTION = Question("How many red digits?", (Image(b"one"),), (), AnswerKind.NUMBER)
LIMITS = Limits(answer_tokens=8, reasoning_tokens=32)
SHORT, REASON = short(QUESTION, TAGS), reason(QUESTION, TAGS)
SLOW = Says("two digits", "Red here, red there.", first_token_s=0.7, token_s=0.05, confidence_logprob=-0.3)

Timed = list[tuple[float, Event]]


def scripted(says: Says = SLOW, **settings: Any) -> ScriptedModel:
    return ScriptedModel("tiny", lambda prompt: says, **settings)


async def timed(model: Model, prompt: Prompt, limits: Limits = LIMITS) -> Timed:
    clock = asyncio.get_running_loop().time
    began = clock()
    return [(clock() - began, event) async for event in model.stream(prompt, limits)]


def recorded(path: Path, model: Model | None = None) -> Path:
    """Record a short and a reasoning call in virtual time; returns the file."""

    async def record() -> None:
        recorder = RecordingModel(model or scripted(), path)
        await hear(recorder, SHORT, LIMITS)
        await hear(recorder, REASON, LIMITS)

    virtual_time.run(record())
    return path


# --- recording and replaying ------------------------------------------------------------------------------------------


@given(
    st.builds(
        Says,
        answer=st.text(max_size=20),
        reasoning=st.text(max_size=40),
        first_token_s=st.floats(0, 10),
        token_s=st.floats(0, 1),
        confidence_logprob=st.none() | st.floats(-9, 0),
    ),
    st.builds(Limits, answer_tokens=st.integers(0, 3), reasoning_tokens=st.integers(0, 5)),
)
@settings(max_examples=60, deadline=None)
def test_a_replay_has_the_same_events_at_the_same_times(
    tmp_path_factory: pytest.TempPathFactory, says: Says, limits: Limits
) -> None:
    path = tmp_path_factory.mktemp("recorded") / "calls.jsonl"

    async def both() -> tuple[list[Timed], list[Timed]]:
        recorder = RecordingModel(scripted(says), path)
        first = [await timed(recorder, prompt, limits) for prompt in (SHORT, REASON)]
        replay = RecordedModel(path)
        return first, [await timed(replay, prompt, limits) for prompt in (SHORT, REASON)]

    for live, again in zip(*virtual_time.run(both()), strict=True):
        assert [event for _, event in again] == [event for _, event in live]
        assert [at for at, _ in again] == pytest.approx([at for at, _ in live], abs=2e-6)


def test_a_replay_does_not_wait_for_a_slow_listener_as_its_model_did_not(tmp_path: Path) -> None:
    path = recorded(tmp_path / "calls.jsonl")

    async def dawdle() -> float:
        clock = asyncio.get_running_loop().time
        began = clock()
        async for event in RecordedModel(path).stream(REASON, LIMITS):
            if isinstance(event, ReasoningDelta):
                await asyncio.sleep(0.04)
        return clock() - began

    assert virtual_time.run(dawdle()) == pytest.approx(0.7 + 6 * 0.05, abs=0.05)


def test_several_replays_at_once_take_as_long_as_the_longest(tmp_path: Path) -> None:
    replay = RecordedModel(recorded(tmp_path / "calls.jsonl"))

    async def together() -> float:
        await asyncio.gather(hear(replay, SHORT, LIMITS), hear(replay, REASON, LIMITS), hear(replay, SHORT, LIMITS))
        return asyncio.get_running_loop().time()

    assert virtual_time.run(together()) == pytest.approx(0.7 + 6 * 0.05)


def test_scores_are_recorded_too(tmp_path: Path) -> None:
    path = tmp_path / "calls.jsonl"

    async def both() -> list[float]:
        recorder = RecordingModel(scripted(scores=lambda answer: -len(answer)), path)
        return [await recorder.score(SHORT, "two"), await RecordedModel(path).score(SHORT, "two")]

    assert virtual_time.run(both()) == [-3, -3]
    with pytest.raises(ModelError, match="holds no score call"):
        asyncio.run(RecordedModel(path).score(SHORT, "three"))


def test_a_replay_has_the_abilities_of_its_model_but_computes_nothing_ahead(tmp_path: Path) -> None:
    own = Style("[THINK]", "[/THINK]", "[THINK][/THINK]")
    for style in (TAGS, PROSE, own):
        path = tmp_path / f"{style.opening.strip('[<>]/ ')}.jsonl"
        model = scripted(style=style, prefix_sessions=True, scores=lambda answer: 0.0, card_formats=(CardFormat.NOTES,))
        RecordingModel(model, path)
        replay = RecordedModel(path)
        assert replay.name == "tiny"
        able = replay.abilities
        assert (able.style, able.card_formats, able.scoring, able.images) == (style, (CardFormat.NOTES,), True, True)
        assert not able.prefix_sessions
        assert path.name in able.notes[0]
        with pytest.raises(Unsupported):
            asyncio.run(replay.warm(SHORT))


@pytest.mark.parametrize(
    ("prompt", "limits"),
    [
        (short(Question("How many blue digits?", QUESTION.images, kind=QUESTION.kind), TAGS), LIMITS),
        (short(Question(QUESTION.text, (Image(b"two"),), kind=QUESTION.kind), TAGS), LIMITS),
        (read(QUESTION, "Two.", CardFormat.NOTES, TAGS), LIMITS),
        (SHORT, Limits(answer_tokens=9, reasoning_tokens=32)),
        (SHORT, Limits(answer_tokens=8, reasoning_tokens=32, temperature=0.5, seed=1)),
    ],
    ids=["text", "image", "card", "limit", "temperature"],
)
def test_a_call_that_was_not_recorded_is_a_clear_error(prompt: Prompt, limits: Limits, tmp_path: Path) -> None:
    replay = RecordedModel(recorded(tmp_path / "calls.jsonl"))
    with pytest.raises(ModelError, match=f"calls.jsonl holds no {prompt.mode} call like this one") as caught:
        asyncio.run(hear(replay, prompt, limits))
    assert "record it first" in caught.value.hint


def test_a_time_out_is_no_part_of_a_calls_identity() -> None:
    assert key("a", SHORT, Limits(timeout_s=1)) == key("a", SHORT, Limits(timeout_s=None))
    assert key("a", SHORT, LIMITS) != key("b", SHORT, LIMITS)
    assert key("a", SHORT, LIMITS) != key("a", REASON, LIMITS)


def test_broken_and_cancelled_calls_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "calls.jsonl"

    async def record() -> None:
        failing = RecordingModel(scripted(Says("two", error=ModelTimeout("late"), after_tokens=1)), path)
        with pytest.raises(ModelTimeout):
            await hear(failing, SHORT, LIMITS)
        async with aclosing(RecordingModel(scripted(), path).stream(REASON, LIMITS)) as events:
            async for event in events:
                if isinstance(event, ReasoningDelta):
                    break

    virtual_time.run(record())
    assert [list(json.loads(line)) for line in path.read_text().splitlines()] == [["header"]] * 2


def test_a_call_is_recorded_even_if_its_listener_leaves_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "calls.jsonl"

    async def record() -> Heard:
        async with aclosing(RecordingModel(scripted(), path).stream(SHORT, LIMITS)) as events:
            async for event in events:
                if isinstance(event, Finished):
                    break
        return await hear(RecordedModel(path), SHORT, LIMITS)

    assert virtual_time.run(record()).answer == "two digits"


def test_a_recording_goes_on_in_the_same_file(tmp_path: Path) -> None:
    path = recorded(recorded(tmp_path / "calls.jsonl"))
    assert virtual_time.run(hear(RecordedModel(path), SHORT, LIMITS)).answer == "two digits"


def test_a_recording_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="cannot write the recording"):
        RecordingModel(scripted(), tmp_path / "missing" / "calls.jsonl")


def edited(edit: Callable[[list[Any]], Any]) -> Callable[[Path], None]:
    """A function that edits the records of a file."""

    def damage(path: Path) -> None:
        records = [json.loads(line) for line in path.read_text().splitlines()]
        edit(records)
        path.write_text("".join(json.dumps(record) + "\n" for record in records))

    return damage


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda path: path.unlink(), "cannot read the recording"),
        (lambda path: path.write_bytes(b"\xff\xfe\x00"), "cannot read the recording"),
        (lambda path: path.write_text(""), "it has no header"),
        (lambda path: path.write_text(path.read_text()[:-20]), "line 3 of the recording"),
        (lambda path: path.write_text(path.read_text() + "3\n"), "line 4 of the recording"),
        (lambda path: path.write_text(path.read_text() + "{}\n"), "line 4 of the recording"),
        (lambda path: path.write_text("\n" + path.read_text()), "line 1 of the recording"),
        (edited(lambda records: records[1].pop("key")), "line 2 .*'key'"),
        (edited(lambda records: records[1]["events"][0].pop()), "line 2 "),
        (edited(lambda records: records[1]["events"].__setitem__(0, [0, "Sneezed", {}])), "line 2 .*Sneezed"),
        (edited(lambda records: records[2]["events"][-1][2].pop("usage")), "line 3 "),
        (edited(lambda records: records[2]["events"][-1][2].update(finish_reason="tired")), "line 3 .*tired"),
        (edited(lambda records: records[2]["events"][-1][2]["usage"].update(coffee=1)), "line 3 "),
        (edited(lambda records: records.pop(0)), "it has no header"),
        (
            edited(lambda records: records.append({"header": {**records[0]["header"], "name": "b"}})),
            "calls of b and tiny",
        ),
        (edited(lambda records: records[0]["header"].pop("name")), "the header of"),
        (edited(lambda records: records[0]["header"].pop("images")), "the header of"),
        (edited(lambda records: records[0]["header"].update(style="tags")), "the header of"),
        (edited(lambda records: records[0]["header"].update(card_formats=["song"])), "the header of .*song"),
        (edited(lambda records: records[0].update(header=None)), "the header of"),
        (edited(lambda records: records[0].update(header=["name"])), "the header of"),
    ],
)
def test_a_broken_recording_is_the_users_to_mend_and_says_where(
    damage: Callable[[Path], Any], words: str, tmp_path: Path
) -> None:
    path = recorded(tmp_path / "calls.jsonl")
    damage(path)
    with pytest.raises(BadInput, match=words) as caught:
        RecordedModel(path)
    assert "\n" not in str(caught.value)


# --- the scripted model -----------------------------------------------------------------------------------------------


def ended(model: Model, prompt: Prompt = SHORT, limits: Limits = LIMITS) -> tuple[Heard, float]:
    async def call() -> tuple[Heard, float]:
        return await hear(model, prompt, limits), asyncio.get_running_loop().time()

    return virtual_time.run(call())


def test_a_scripted_call_takes_the_time_it_was_told_to() -> None:
    heard, took_s = ended(scripted(), REASON)
    assert took_s == pytest.approx(0.7 + (4 + 2) * 0.05)
    assert (heard.reasoning, heard.answer, heard.end.answer_logprob) == ("Red here, red there.", "two digits", -0.3)


def test_a_script_goes_line_by_line_and_its_end_is_an_error() -> None:
    model = ScriptedModel("tiny", [Says("one"), Says("two")])
    assert [ended(model)[0].answer for _ in range(2)] == ["one", "two"]
    with pytest.raises(ModelError, match="the script of tiny has no line left for a short call"):
        ended(model)


@pytest.mark.parametrize("after", [None, 0, 1, 2])
def test_a_scripted_fault_comes_after_as_many_tokens_as_told(after: int | None) -> None:
    model, texts = scripted(Says("one two", error=ModelTimeout("late"), after_tokens=after)), []

    async def listen() -> None:
        async for event in model.stream(SHORT, LIMITS):
            texts.extend([event.text] if hasattr(event, "text") else [])

    with pytest.raises(ModelTimeout):
        virtual_time.run(listen())
    assert texts == ["one", " two"][: after or 0]
    assert model.running == 0


def test_a_scripted_model_that_hangs_can_be_given_up() -> None:
    model = scripted(Says("one two", hangs=True, after_tokens=1))

    async def wait() -> None:
        async with asyncio.timeout(60):
            await hear(model, SHORT, LIMITS)

    with pytest.raises(TimeoutError):
        virtual_time.run(wait())
    assert model.running == 0


def test_a_scripted_model_remembers_what_it_was_asked() -> None:
    model = scripted(prefix_sessions=True)
    ended(model)
    asyncio.run(model.warm(REASON))
    assert (model.prompts, model.warmed) == ([SHORT], [REASON])


# --- the simulated model ----------------------------------------------------------------------------------------------


def simulated(spread: float = 0.0, seed: int = 0, **settings: Any) -> SimulatedModel:
    profile = Profile(0.1, 0.001, 0.02, image_tokens=500, spread=spread)
    return SimulatedModel(
        "sim", profile, lambda prompt: Script("two", "Red here, red there.", -0.2), Random(seed), **settings
    )


def took(*work: Callable[[], Awaitable[Any]]) -> list[float]:
    """Virtual seconds that each takes, run in sequence."""

    async def time() -> list[float]:
        ends = [0.0]
        for each in work:
            await each()
            ends.append(asyncio.get_running_loop().time())
        return [after - before for before, after in pairwise(ends)]

    return virtual_time.run(time())


def test_a_simulated_call_costs_what_its_profile_says() -> None:
    heard, took_s = ended(simulated(), REASON)
    usage = heard.end.usage
    assert usage.prompt_tokens == 500 + len(words(REASON.turns[0].text)) + len(words(REASON.opening))
    assert took_s == pytest.approx(0.1 + 0.001 * usage.prompt_tokens + 0.02 * 5)


def test_a_fitted_profile_costs_the_image_the_square_of_the_prompt_and_the_context_of_each_token() -> None:
    profile = Profile(
        fixed_s=0.1,
        prefill_s_per_token=0.001,
        decode_s_per_token=0.02,
        image_tokens=500,
        vision_fixed_s=0.05,
        vision_s_per_token=0.0002,
        vision_s_per_pair=1e-6,
        prefill_s_per_pair=1e-7,
        decode_s_per_context_token=1e-5,
        decode_start_s=0.003,
        decode_start_s_per_context_token=1e-5,
        first_with_prefill=True,
    )
    model = SimulatedModel("sim", profile, lambda prompt: Script("two", "Red here, red there.", -0.2), Random(0))
    heard, took_s = ended(model, REASON)
    prompt = heard.end.usage.prompt_tokens
    assert prompt is not None
    image_s = 0.05 + 0.0002 * 500 + 1e-6 * 500**2
    prefill_s = 0.1 + 0.001 * prompt + 1e-7 * prompt * (prompt + 1) / 2
    start_s = 0.003 + 1e-5 * (prompt + 1)
    decode_s = sum(0.02 + 1e-5 * (prompt + done) for done in range(1, 5))  # the prefill yields the first of 5 tokens
    assert took_s == pytest.approx(image_s + prefill_s + start_s + decode_s)
    assert took_s == pytest.approx(profile.call_s(500, prompt, 5))
    again_s = took(lambda: hear(model, REASON, LIMITS))[0]
    assert again_s == pytest.approx(profile.call_s(500, prompt, 5, cached=prompt))


def test_what_a_simulated_model_has_read_costs_nothing_again() -> None:
    model = simulated()
    first, again, other = took(
        lambda: hear(model, SHORT, LIMITS),
        lambda: hear(model, SHORT, LIMITS),
        lambda: hear(model, short(Question(QUESTION.text, (Image(b"two"),), kind=QUESTION.kind), TAGS), LIMITS),
    )
    assert again == pytest.approx(0.1 + 0.02)
    assert other == pytest.approx(first)


def test_a_simulated_model_without_prefixes_reads_all_again_and_cannot_warm() -> None:
    model = simulated(prefix_sessions=False)
    first, again = took(lambda: hear(model, SHORT, LIMITS), lambda: hear(model, SHORT, LIMITS))
    assert again == pytest.approx(first)
    with pytest.raises(Unsupported):
        virtual_time.run(model.warm(SHORT))


def test_warming_moves_the_cost_of_a_card_ahead() -> None:
    card = " ".join(["red"] * 1000)
    model = simulated()
    warm, call = took(
        lambda: model.warm(growing(QUESTION, card, CardFormat.NOTES, TAGS)),
        lambda: hear(model, read(QUESTION, card + " blue", CardFormat.NOTES, TAGS), LIMITS),
    )
    assert warm > 0.1 + 1.5
    assert call < 0.1 + 0.02 + 0.05  # the prefill of the call contains the instruction after the card


def test_nothing_is_cached_before_it_is_computed() -> None:
    model = simulated()

    async def together() -> list[int | None]:
        heard = await asyncio.gather(hear(model, SHORT, LIMITS), hear(model, SHORT, LIMITS))
        return [each.end.usage.cached_tokens for each in heard]

    assert virtual_time.run(together()) == [0, 0]


def test_the_spread_of_speeds_repeats_with_its_seed() -> None:
    def three(seed: int) -> list[float]:
        model = simulated(0.3, seed, prefix_sessions=False)
        return took(*[lambda: hear(model, SHORT, LIMITS)] * 3)

    assert three(1) == three(1)
    assert three(1) != three(2)
    assert len(set(three(1))) == 3


@given(st.text(alphabet="ab \n", max_size=30))
def test_words_are_the_text_in_pieces(text: str) -> None:
    assert "".join(words(text)) == text
    assert all(words(text))


@pytest.mark.parametrize(
    ("limits", "finish", "reasoning", "answer"),
    [
        (Limits(4, 4), FinishReason.STOP, "a b c", "d e"),
        (Limits(2, 3), FinishReason.STOP, "a b c", "d e"),
        (Limits(4, 2), FinishReason.BUDGET, "a b", "d e"),
        (Limits(1, 4), FinishReason.LENGTH, "a b c", "d"),
        (Limits(1, 0), FinishReason.LENGTH, "", "d"),
    ],
)
def test_scripted_and_simulated_models_end_for_the_same_reasons(
    limits: Limits, finish: FinishReason, reasoning: str, answer: str
) -> None:
    simulation = SimulatedModel("sim", Profile(0, 0, 0), lambda prompt: Script("d e", "a b c"), Random(0))
    for model in (simulation, scripted(Says("d e", "a b c"))):
        heard, _ = ended(model, REASON, limits)
        assert (heard.end.finish_reason, heard.reasoning, heard.answer) == (finish, reasoning, answer)


# --- virtual time -----------------------------------------------------------------------------------------------------


def test_sleeping_costs_nothing_and_moves_the_clock() -> None:
    async def sleep() -> float:
        await asyncio.gather(asyncio.sleep(3600), asyncio.sleep(86400))
        return asyncio.get_running_loop().time()

    assert virtual_time.run(sleep()) == 86400


def test_overlap_and_cancellation_cost_what_they_would() -> None:
    async def race() -> float:
        slow = asyncio.create_task(asyncio.sleep(100))
        await asyncio.wait([slow, asyncio.create_task(asyncio.sleep(1))], return_when="FIRST_COMPLETED")
        slow.cancel()
        return asyncio.get_running_loop().time()

    assert virtual_time.run(race()) == 1


def test_a_time_out_fires_when_it_would() -> None:
    async def wait() -> float:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(30):
                await asyncio.sleep(31)
        return asyncio.get_running_loop().time()

    assert virtual_time.run(wait()) == 30


def test_waiting_for_what_can_never_happen_is_an_error() -> None:
    async def wait() -> None:
        await asyncio.sleep(5)
        await asyncio.Event().wait()

    with pytest.raises(virtual_time.Deadlock):
        virtual_time.run(wait())


def test_timers_of_the_same_moment_go_in_the_same_order_each_time() -> None:
    async def note(number: int, order: list[int]) -> None:
        await asyncio.sleep(1)
        order.append(number)

    async def all_of_them() -> list[int]:
        order: list[int] = []
        await asyncio.gather(*(note(number, order) for number in range(20)))
        return order

    assert virtual_time.run(all_of_them()) == virtual_time.run(all_of_them())
