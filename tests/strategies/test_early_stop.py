"""Early stop: reasoning ends when the reader's answer is stable; all tokens are counted, and no call keeps running."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cuecard import virtual_time
from cuecard.domain.call import Mode, Usage
from cuecard.domain.errors import BadInput, ModelUnreachable
from cuecard.domain.outcome import Outcome, Route
from cuecard.domain.question import AnswerKind, Question
from cuecard.models.prompt import Prompt
from cuecard.models.simulated import Profile, Script, SimulatedModel
from cuecard.strategies.card_selection import CardCut
from cuecard.strategies.policy import Acceptance, EarlyStop, Policy, Schedule
from cuecard.strategies.run import answer

QUESTION = Question("How many cats are there?", kind=AnswerKind.NUMBER)
THOUGHT = " ".join(f"w{number}" for number in range(100))
FAST = Profile(fixed_s=0.01, prefill_s_per_token=0.0, decode_s_per_token=0.001)
WRITER = Profile(fixed_s=0.01, prefill_s_per_token=0.0, decode_s_per_token=0.1)
POLICY = Policy(accept=Acceptance.parse("agree"), early_stop=EarlyStop(2, 10))


def words_read(prompt: Prompt) -> int:
    return len((prompt.card or "").split())


def reader(answers: dict[int, str] | None = None, final: str = "7", profile: Profile = FAST) -> SimulatedModel:
    """A reader that answers probes by the card's number of words: the entry of the largest key not above it."""

    def says(prompt: Prompt) -> Script:
        known = [reply for least, reply in sorted((answers or {}).items()) if least <= words_read(prompt)]
        return Script(known[-1] if known and prompt.mode is Mode.PROBE else final)

    return SimulatedModel("large", profile, says, Random(0))


def writer() -> SimulatedModel:
    def says(prompt: Prompt) -> Script:
        return Script("9", THOUGHT if prompt.mode is Mode.REASON else "")

    return SimulatedModel("small", WRITER, says, Random(0))


def ask(large: SimulatedModel, policy: Policy = POLICY, strategy: str = "transfer") -> Outcome:
    return virtual_time.run(answer(QUESTION, {"small": writer(), "large": large}, strategy, policy))


def probes(outcome: Outcome) -> list[str | None]:
    return [call.answer for call in outcome.calls if call.mode is Mode.PROBE]


def test_the_reasoning_ends_when_the_answer_was_the_same_n_times():
    outcome = ask(reader({0: "3", 20: "4", 30: "5"}))
    assert (outcome.route, outcome.answer, probes(outcome)) == (Route.STOPPED, "5", ["3", "4", "5", "5"])
    assert "word 40" in outcome.reason
    (thought,) = [call for call in outcome.calls if call.mode is Mode.REASON]
    assert thought.cancelled
    assert 40 <= (thought.usage.completion_tokens or 0) < 50


def test_without_a_stable_answer_the_whole_card_is_read():
    outcome = ask(reader({least: str(least) for least in range(0, 100, 10)}))
    assert (outcome.route, outcome.answer) == (Route.TRANSFERRED, "7")
    assert len(probes(outcome)) == 9


def test_unparseable_answers_never_stop_the_reasoning():
    assert ask(reader({0: "no idea"})).route is Route.TRANSFERRED


def test_unsure_answers_do_not_stop_the_reasoning():
    def says(prompt: Prompt) -> Script:
        return Script("3", answer_logprob=-0.01 if words_read(prompt) >= 40 else -1.0)

    outcome = ask(SimulatedModel("large", FAST, says, Random(0)), replace(POLICY, early_stop=EarlyStop(2, 10, 0.9)))
    assert (outcome.route, len(probes(outcome))) == (Route.STOPPED, 5)


def test_stopping_after_three_equal_answers_is_later_than_after_two():
    outcome = ask(reader({0: "3"}), replace(POLICY, early_stop=EarlyStop(3, 10)))
    assert probes(outcome) == ["3", "3", "3"]


def test_in_mutual_probing_follows_the_short_answers():
    outcome = ask(reader({0: "3"}), strategy="mutual")
    assert (outcome.route, outcome.answer) == (Route.STOPPED, "3")
    assert [call.mode for call in outcome.calls].count(Mode.SHORT) == 2


def test_a_slow_reader_gets_one_probe_at_a_time_and_skips_missed_ones():
    slow = replace(FAST, fixed_s=2.5)
    outcome = ask(reader({0: "3"}, profile=slow))
    asked = [call for call in outcome.calls if call.mode is Mode.PROBE]
    assert outcome.route is Route.STOPPED
    assert all(one.end_s <= other.start_s for one, other in pairwise(asked))


def test_a_probe_under_way_at_the_end_of_the_reasoning_is_cancelled_and_recorded():
    outcome = ask(reader({0: "3"}, profile=replace(FAST, fixed_s=9.5)))
    cancelled = [call for call in outcome.calls if call.mode is Mode.PROBE and call.cancelled]
    assert (outcome.route, outcome.answer, len(cancelled)) == (Route.TRANSFERRED, "7", 1)


def test_a_failed_probe_ends_the_probing_not_the_request():
    class Failing(SimulatedModel):
        def stream(self, prompt, limits):
            if prompt.mode is Mode.PROBE:
                raise ModelUnreachable("gone for a moment")
            return super().stream(prompt, limits)

    outcome = ask(Failing("large", FAST, lambda prompt: Script("7"), Random(0)))
    assert (outcome.route, outcome.answer, len(probes(outcome))) == (Route.TRANSFERRED, "7", 1)


@given(
    answers=st.dictionaries(st.integers(0, 99), st.sampled_from(["1", "2", "3", "none"]), max_size=6),
    times=st.integers(2, 4),
    every=st.integers(1, 60),
    schedule=st.sampled_from(list(Schedule)),
    strategy=st.sampled_from(["transfer", "mutual"]),
    reader_s=st.floats(0.0, 12.0),
)
def test_for_any_answers_tokens_are_conserved_and_no_call_is_left_running(
    answers, times, every, schedule, strategy, reader_s
):
    large = reader(answers, profile=replace(FAST, fixed_s=reader_s))
    outcome = ask(large, replace(POLICY, early_stop=EarlyStop(times, every), schedule=schedule), strategy)
    total = sum((call.usage for call in outcome.calls), Usage())
    assert sum((usage for usage in outcome.usage.values()), Usage()) == total
    assert max(call.end_s for call in outcome.calls) <= outcome.total_s + 1e-9
    if outcome.route is Route.STOPPED:
        assert [found for found in probes(outcome) if found is not None][-times:] == [outcome.answer] * times


@pytest.mark.parametrize("text", ["", "1", "2:0", "two", "2:16:1.5", "2:16:0.9:1", "-2"])
def test_an_invalid_early_stop_is_refused(text):
    with pytest.raises(BadInput, match="early stop"):
        EarlyStop.parse(text)


def test_early_stop_and_a_cut_card_exclude_each_other():
    with pytest.raises(BadInput, match="cannot be read while"):
        Policy(cut=CardCut(0.5, "last"), early_stop=EarlyStop())
