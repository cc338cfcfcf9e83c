"""Card selection: the words that are kept, the model that weighs them, and the cost."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cuecard import virtual_time
from cuecard.domain.call import FinishReason, Mode, Usage
from cuecard.domain.errors import BadInput, ModelUnreachable
from cuecard.domain.outcome import Outcome, Route
from cuecard.domain.question import AnswerKind, Question
from cuecard.models.base import Weighing
from cuecard.models.prompt import Prompt
from cuecard.models.replay import Says, ScriptedModel
from cuecard.strategies.card_selection import (
    SELECTORS,
    TEXT_ONLY,
    CardCut,
    Ending,
    by_word,
    words,
)
from cuecard.strategies.policy import Acceptance, Policy, Schedule
from cuecard.strategies.policy_file import policy_with
from cuecard.strategies.run import answer

HOW_MANY = Question("How many cats are there?", kind=AnswerKind.NUMBER)
REASONING = "One cat sits on a mat. Two more sleep in Rome. So 1 and 2 make 3."
TEXTS = st.text(st.sampled_from("ab1. \n!"), max_size=60) | st.text(max_size=40)
CUTS = st.builds(
    CardCut,
    st.floats(0.01, 1),
    st.sampled_from([name + more for name in TEXT_ONLY for more in ("", "-passage")]),
    st.sampled_from(Ending),
)

# --- words ------------------------------------------------------------------------------------------------------------


@given(TEXTS, CUTS)
def test_a_cut_keeps_words_of_the_card_in_order(text, cut):
    kept, left = cut(text).split(), iter(text.split())
    assert all(word in left for word in kept)


@given(TEXTS, CUTS)
def test_a_larger_share_keeps_no_fewer_words_and_the_whole_share_keeps_all(text, cut):
    some, more = cut(text), replace(cut, keep=min(1.0, 2 * cut.keep))(text)
    assert len(some.split()) <= len(more.split())
    if cut.ending is not Ending.REMOVED:
        assert replace(cut, keep=1.0)(text).split() == text.split()


@given(TEXTS, st.sampled_from(sorted(TEXT_ONLY)), st.floats(0.05, 1))
def test_a_passage_is_a_piece_of_the_card(text, selector, keep):
    assert CardCut(keep, f"{selector}-passage")(text) in text


@pytest.mark.parametrize(
    ("select", "ending", "kept"),
    [
        ("first", "free", "One cat sits on a"),
        ("last", "free", "1 and 2 make 3."),
        ("content", "free", "One Two Rome. So 3."),
        ("sentences", "free", "1 and 2 make 3."),
        ("last", "removed", "sleep in Rome."),
        ("first", "kept", "One cat sits So 1 and 2 make 3."),
    ],
)
def test_each_selector_keeps_what_its_name_says(select, ending, kept):
    cut = policy_with(Policy(), card_keep=0.27, card_select=select, card_ending=ending).cut
    assert cut(REASONING) == kept


def test_weights_of_tokens_become_weights_of_words():
    weighed = [("On", 1.0), ("e", 2.0), (" cat", 4.0), (" s", 8.0), ("its", 16.0), (".", 32.0)]
    assert by_word(words("One cat sits."), weighed) == [3.0, 4.0, 56.0]
    assert CardCut(0.5, "attention")("One cat sits.", weighed) == "cat sits."


@given(TEXTS, st.integers(1, 4))
def test_no_weight_is_lost_between_pieces_and_words(text, size):
    pieces = [text[at : at + size] for at in range(0, len(text), size)]
    parts = words(text)
    assert sum(by_word(parts, [(piece, 1.0) for piece in pieces])) == (len(pieces) if parts else 0)


@pytest.mark.parametrize(
    ("keep", "select", "ending", "hint"),
    [
        (0, None, None, "above 0"),
        (float("nan"), None, None, "above 0"),
        (0.3, "atention", None, "did you mean attention?"),
        (0.3, "by-eye", None, "there are: attention, reader"),
        (0.3, None, "gone", "free, kept, removed"),
    ],
)
def test_an_invalid_cut_is_refused_in_one_line(keep, select, ending, hint):
    with pytest.raises(BadInput) as refused:
        policy_with(Policy(), card_keep=keep, card_select=select, card_ending=ending)
    assert hint in f"{refused.value.hint} {refused.value}"


# --- in a strategy ----------------------------------------------------------------------------------------------------


@dataclass
class Weighed:
    """One call of `weigh`."""

    prompt: Prompt
    answer: str
    by: Weighing


class Weigher(ScriptedModel):
    """A scripted model with word weights equal to their length; a `weigh` call takes 0.1 s."""

    def __init__(self, name: str, reply: str, *, fails: bool = False, token_s: float = 0.0, **more: bool) -> None:
        def says(prompt: Prompt) -> Says:
            return Says(reply, REASONING if prompt.mode is Mode.REASON else "", token_s=token_s)

        super().__init__(name, says, **more)
        self.abilities = replace(self.abilities, weighing=True)
        self.weighed: list[Weighed] = []
        self._fails = fails

    async def weigh(self, prompt: Prompt, answer: str, by: Weighing) -> tuple[tuple[tuple[str, float], ...], Usage]:
        self.weighed.append(Weighed(prompt, answer, by))
        self.running += 1
        try:
            await asyncio.sleep(0.1)
        finally:
            self.running -= 1
        if self._fails:
            raise ModelUnreachable("down")
        pieces = words(prompt.card or "")
        return tuple((piece, float(len(piece.strip()))) for piece in pieces), Usage(len(pieces), 0, 0, 0)


def ask(small: ScriptedModel, large: ScriptedModel, cut: CardCut, schedule: Schedule = Schedule.THRIFTY) -> Outcome:
    async def work() -> Outcome:
        policy = Policy(schedule=schedule, accept=Acceptance.parse("agree"), cut=cut, follow_chars=8)
        return await answer(HOW_MANY, {"small": small, "large": large}, "transfer", policy)

    return virtual_time.run(work())


def test_a_card_is_cut_by_its_text_without_a_call_and_without_a_model_that_weighs():
    small, large = ScriptedModel("tiny", [Says("3", REASONING)]), ScriptedModel("huge", [Says("3")])
    outcome = ask(small, large, CardCut(0.3, "last"))
    assert [call.mode for call in outcome.calls] == [Mode.REASON, Mode.READ]
    assert large.prompts[0].card == "So 1 and 2 make 3."


@pytest.mark.parametrize(
    ("select", "who", "by"),
    [
        ("attention", "small", Weighing.ATTENTION),
        ("surprise", "small", Weighing.SURPRISE),
        ("reader", "large", Weighing.ATTENTION),
        ("attention-passage", "small", Weighing.ATTENTION),
    ],
)
def test_weighing_a_card_is_a_call_with_its_time_and_tokens(select, who, by):
    pair = {"small": Weigher("tiny", "3"), "large": Weigher("huge", "3")}
    outcome = ask(pair["small"], pair["large"], CardCut(0.3, select))
    [weighing] = [call for call in outcome.calls if call.mode is Mode.WEIGH]
    assert (weighing.role, weighing.finish_reason) == (who, FinishReason.STOP)
    assert weighing.end_s - weighing.start_s == pytest.approx(0.1)
    assert weighing.usage.prompt_tokens == len(REASONING.split())
    [asked] = pair[who].weighed
    assert (asked.answer, asked.by, asked.prompt.card) == ("3", by, REASONING)
    assert outcome.usage["tiny" if who == "small" else "huge"].prompt_tokens >= len(REASONING.split())
    read = pair["large"].prompts[-1].card
    assert 0 < len(read.split()) < len(REASONING.split())


@pytest.mark.parametrize("select", [name for name in SELECTORS if name not in TEXT_ONLY])
def test_a_model_that_cannot_weigh_is_refused_before_any_call(select):
    small, large = ScriptedModel("tiny", [Says("3", REASONING)]), ScriptedModel("huge", [Says("3")])
    with pytest.raises(BadInput, match="cannot tell what of a card matters") as refused:
        ask(small, large, CardCut(0.3, select))
    assert "first, last, content" in refused.value.hint
    assert not small.prompts
    assert not large.prompts


def test_after_a_failed_weighing_the_other_models_answer_is_given():
    small, large = Weigher("tiny", "3", fails=True), Weigher("huge", "4")
    outcome = ask(small, large, CardCut(0.3, "attention"))
    assert (outcome.route, outcome.answer) == (Route.DEGRADED, "4")
    assert [call.error for call in outcome.calls if call.mode is Mode.WEIGH] == [str(ModelUnreachable("down"))]


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(SELECTORS), st.sampled_from(Schedule), st.sampled_from([0.0, 0.01, 0.05]), st.floats(0, 1.5))
def test_a_request_cancelled_at_any_moment_leaves_no_weighing_running(select, schedule, token_s, after_s):
    pair = {name: Weigher(name, "3", token_s=token_s, prefix_sessions=True) for name in ("small", "large")}

    async def work() -> None:
        policy = Policy(schedule=schedule, accept=Acceptance.parse("agree"), cut=CardCut(0.3, select), follow_chars=8)
        asking = asyncio.create_task(answer(HOW_MANY, pair, "transfer", policy))
        await asyncio.wait([asking], timeout=after_s)
        asking.cancel()
        await asyncio.wait([asking])
        assert all(model.running == 0 for model in pair.values())
        assert len(asyncio.all_tasks()) == 1
        if not asking.cancelled():
            outcome = asking.result()
            of_calls = [call.usage.prompt_tokens or 0 for call in outcome.calls]
            assert sum(usage.prompt_tokens or 0 for usage in outcome.usage.values()) == sum(of_calls)
            assert sum(call.mode is Mode.WEIGH for call in outcome.calls) == (select not in TEXT_ONLY)

    virtual_time.run(work())


@pytest.mark.parametrize("schedule", [Schedule.OVERLAP, Schedule.EAGER])
def test_the_text_before_a_card_that_will_be_cut_is_computed_ahead(schedule):
    small, large = Weigher("tiny", "3"), Weigher("huge", "3", prefix_sessions=True)
    outcome = ask(small, large, CardCut(0.3, "attention"), schedule)
    assert [prompt.card or "" for prompt in large.warmed] == [""]
    assert [call.mode for call in outcome.calls].count(Mode.WARM) == 1


@pytest.mark.parametrize("select", ["attention", "last"])
def test_an_answer_without_reasoning_is_read_as_the_card(select):
    class Silent(Weigher):
        async def stream(self, prompt, limits):
            async for event in ScriptedModel("tiny", [Says("3")]).stream(prompt, limits):
                yield event

    large = Weigher("huge", "3")
    assert ask(Silent("tiny", "3"), large, CardCut(0.3, select)).route is Route.TRANSFERRED
    assert large.prompts[-1].card == "3"
