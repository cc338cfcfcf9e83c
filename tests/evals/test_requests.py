"""Stored calls: which requests are equal, and the cost of calls in the arms that replay them."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace

import pytest

from cuecard.domain.call import FinishReason, Mode, Usage
from cuecard.domain.errors import ModelBusy, ModelTimeout
from cuecard.domain.question import AnswerKind, Question
from cuecard.evals.arm import Arm, parse
from cuecard.evals.database import Record
from cuecard.evals.item import Item
from cuecard.evals.requests import CallRequest, Seat, StoredCalls
from cuecard.evals.runner.compose import ArmOutcome, Composition, TaskItem
from cuecard.evals.runner.worker import TimedCall, call_record, timed_call
from cuecard.models import prompt as layouts
from cuecard.models.base import Abilities, Limits
from cuecard.models.prompt import TAGS, CardFormat
from cuecard.models.replay import Says, ScriptedModel
from cuecard.strategies.policy import Policy

ITEM = Item("1", Question("Which?", (), ("red", "blue"), AnswerKind.CHOICE), ("A",), "exact", "1")
AT = TaskItem("t", ITEM, None)
ABLE = Abilities(True, True, False, True, tuple(CardFormat), TAGS)
SEATS = {role: Seat(role, role, "1", ABLE) for role in ("small", "large")}
SHORT, REASON = layouts.short(ITEM.question, TAGS), layouts.reason(ITEM.question, TAGS)
CARD = "It is red."
READ = layouts.read(ITEM.question, CARD, CardFormat.THINKING, TAGS)
PROMPTS = {Mode.SHORT: SHORT, Mode.REASON: REASON, Mode.READ: READ}
COLD = {"extra_s": 0.4, "cached_tokens": 2}


def call(mode: Mode, answer: str, first_s: float, end_s: float, **changes: object) -> Record:
    """A stored call: 100 prompt tokens, 90 of them cached, 1 answer token, 10 reasoning tokens if it reasons."""
    thinks = mode is Mode.REASON
    counts = {"prompt_tokens": 100, "cached_tokens": 90, "completion_tokens": 11 if thinks else 1}
    return {
        "model": "-",
        "mode": mode,
        "status": "ok",
        "error": None,
        "first_token_s": first_s,
        "end_s": end_s,
        "hot_first_token_s": None,
        "hot_end_s": None,
        "pieces": [(first_s, 5), (end_s, 5)] if thinks else [],
        "reasoning": CARD if thinks else None,
        "answer": answer,
        "answer_logprob": -0.1,
        **counts,
        "reasoning_tokens": 10 if thinks else 0,
        "finish_reason": FinishReason.STOP,
        "failures": [],
        "cold": None,
        **changes,
    }


def outcome(arm: Arm, stored: StoredCalls) -> ArmOutcome:
    """The outcome of an arm, composed from stored calls; none may be missing."""
    with closing(Composition(AT, [arm], SEATS, stored)) as composition:
        assert composition.advance() == {}
    return composition.outcomes[arm.name]


def result(arm: str, calls: dict[tuple[str, Mode], Record], pace: float | None = None) -> ArmOutcome:
    """The outcome of an arm, composed from these calls."""
    stored = {CallRequest(SEATS[role], PROMPTS[mode], Limits()).key: record for (role, mode), record in calls.items()}
    return outcome(parse(arm), StoredCalls(stored.get, pace=pace))


CALLS = {
    ("small", Mode.SHORT): call(Mode.SHORT, "B", 0.5, 0.6),
    ("large", Mode.SHORT): call(Mode.SHORT, "A", 1.0, 1.2),
    ("small", Mode.REASON): call(Mode.REASON, "B", 0.1, 2.0, cold=COLD),
    ("large", Mode.READ): call(
        Mode.READ, "A", 0.3, 0.5, hot_first_token_s=0.05, hot_end_s=0.25, cold={"extra_s": 0.7, "cached_tokens": 0}
    ),
}


# --- identity ---------------------------------------------------------------------------------------------------------


def key(prompt=SHORT, limits=Limits(), seat=SEATS["small"], answer=None) -> str:
    return CallRequest(seat, prompt, limits, answer).key


def test_what_decides_an_answer_decides_the_key():
    others = [
        key(seat=replace(SEATS["small"], revision="2")),
        key(seat=SEATS["large"]),
        key(REASON),
        key(READ),
        key(limits=Limits(answer_tokens=3)),
        key(limits=Limits(temperature=0.7, seed=1)),
        key(limits=Limits(temperature=0.7, seed=2)),
        key(answer="A"),
    ]
    assert len({key(), *others}) == len(others) + 1


def test_what_does_not_decide_it_does_not():
    assert key(limits=Limits(timeout_s=1)) == key()
    assert key(limits=Limits(seed=3)) == key()
    assert key(limits=Limits(reasoning_tokens=9)) == key(), "a short answer does not reason"
    assert key(REASON, Limits(reasoning_tokens=9)) != key(REASON)


def test_a_reasoning_that_ended_within_a_smaller_budget_is_that_budget_s_too():
    large, small = (CallRequest(SEATS["small"], REASON, Limits(reasoning_tokens=count)) for count in (2048, 11))
    stored = {large.key: call(Mode.REASON, "A", 0.1, 1.0)}
    assert StoredCalls(stored.get, (2048, 11)).get(small) == (large.key, stored[large.key])
    tight = replace(small, limits=Limits(reasoning_tokens=10))
    assert StoredCalls(stored.get, (2048, 10)).get(tight) is None, "it may have been cut there"
    sampled = replace(small, limits=Limits(reasoning_tokens=11, temperature=0.7))
    assert StoredCalls(stored.get, (2048, 11)).get(sampled) is None


# --- replay -----------------------------------------------------------------------------------------------------------


def test_calls_on_two_models_overlap_and_calls_on_one_follow_each_other():
    overlap, thrifty = result("mutual", CALLS), result("mutual/thrifty", CALLS)
    assert overlap.outcome.total_s == pytest.approx(1.2 + 2.0 + 0.25)
    assert thrifty.outcome.total_s == pytest.approx(0.6 + 1.2 + 2.0 + 0.5)


def test_a_model_s_first_call_in_an_arm_computes_the_question_that_it_found_computed():
    reasoned = result("reason:small", CALLS)
    assert reasoned.outcome.total_s == pytest.approx(2.0 + 0.4)
    assert reasoned.outcome.usage["small"].cached_tokens == 2
    transferred = result("transfer/thrifty", CALLS)
    assert transferred.outcome.total_s == pytest.approx(2.4 + 0.5 + 0.7)


def test_cached_tokens_are_unknown_where_the_prompt_s_tokens_are():
    uncounted = call(Mode.REASON, "B", 0.1, 2.0, cold=COLD, prompt_tokens=None, cached_tokens=None)
    assert result("reason:small", {("small", Mode.REASON): uncounted}).outcome.usage["small"].cached_tokens is None


def test_a_card_that_was_read_while_it_was_written_costs_what_a_computed_prompt_does():
    transferred = result("transfer", CALLS)
    assert transferred.outcome.handoff_s == pytest.approx(0.05)
    assert transferred.outcome.total_s == pytest.approx(2.4 + 0.25)


def test_calls_at_once_take_longer_on_a_machine_that_they_share():
    overlap = result("mutual", CALLS, pace=0.5)  # 0.6 s and 1.2 s of work side by side: both done after 1.8 s
    assert overlap.outcome.total_s == pytest.approx(1.8 + 2.0 + 0.25)
    small, large = (next(note for note in overlap.calls if note.role == role) for role in ("small", "large"))
    assert (small.end_s, large.end_s) == (pytest.approx(1.2), pytest.approx(1.8))
    assert result("mutual/thrifty", CALLS, pace=0.5).outcome.total_s == result("mutual/thrifty", CALLS).outcome.total_s


def test_a_card_that_is_computed_while_it_is_written_costs_a_step_for_each_of_its_pieces():
    written = call(Mode.REASON, "B", 0.1, 2.0, pieces=[(0.1, 5), (1.0, 6)], reasoning=CARD)
    calls = CALLS | {("small", Mode.REASON): written}
    calls["large", Mode.SHORT] = call(Mode.SHORT, "A", 1.0, 1.2, hot_first_token_s=0.3)
    arm = replace(parse("transfer"), policy=Policy(follow_chars=8))
    stored = {CallRequest(SEATS[role], PROMPTS[mode], Limits()).key: record for (role, mode), record in calls.items()}
    alone, beside = (outcome(arm, StoredCalls(stored.get, pace=pace)) for pace in (None, 0.5))
    [warm] = [note for note in alone.calls if note.mode is Mode.WARM]
    assert (warm.start_s, warm.end_s) == (pytest.approx(1.0), pytest.approx(1.0 + 0.7 + 0.3)), "the question too"
    assert alone.outcome.total_s == pytest.approx(2.0 + 0.25)
    assert beside.outcome.total_s == pytest.approx(2.0 + 1.0 + 0.25), "a second of work of each beside the other's"


def test_a_card_that_ended_before_any_of_it_was_computed_is_read_from_the_beginning():
    calls = CALLS | {("large", Mode.SHORT): call(Mode.SHORT, "A", 1.0, 1.2, hot_first_token_s=0.3)}
    assert result("transfer", calls).outcome.total_s == pytest.approx(2.4 + 0.5 + 0.7)


def test_of_a_card_that_is_cut_nothing_was_computed_ahead_but_the_question():
    whole, cut = result("transfer", CALLS), result("transfer/keep=1/select=last", CALLS)
    assert cut.outcome.handoff_s == pytest.approx(0.7 + 0.3)
    assert cut.outcome.total_s - whole.outcome.total_s == pytest.approx(0.7 + 0.5 - 0.25)
    calls = CALLS | {("large", Mode.SHORT): call(Mode.SHORT, "A", 1.0, 1.2, hot_first_token_s=0.3)}
    warmed = result("transfer/keep=1/select=last", calls)
    assert [note.end_s for note in warmed.calls if note.mode is Mode.WARM] == [pytest.approx(0.7 + 0.3)]
    assert warmed.outcome.handoff_s == pytest.approx(0.3)
    assert warmed.outcome.total_s == pytest.approx(2.4 + 0.5)


def test_what_eager_reasoning_had_cost_when_it_was_cancelled_is_counted():
    calls = CALLS | {("small", Mode.SHORT): call(Mode.SHORT, "A", 0.5, 0.6)}
    agreed = result("mutual/eager", calls)
    assert agreed.outcome.total_s == pytest.approx(1.2)
    [cancelled] = [note for note in agreed.calls if note.finish_reason is FinishReason.CANCELLED]
    assert cancelled.usage == Usage(100, 2, 5, 5), "half of the reasoning, and the whole prompt"
    assert cancelled.end_s == pytest.approx(1.2)


def test_an_arm_that_only_began_a_call_needs_it_all_the_same():
    calls = CALLS | {("small", Mode.SHORT): call(Mode.SHORT, "A", 0.5, 0.6)}
    stored = {
        CallRequest(SEATS[role], SHORT, Limits()).key: record
        for (role, mode), record in calls.items()
        if mode is Mode.SHORT
    }
    calls = StoredCalls(stored.get)
    with closing(Composition(AT, [parse("mutual/eager")], SEATS, calls)) as composition:
        [request] = composition.advance().values()
        assert (request.mode, composition.outcomes) == (Mode.REASON, {})
        calls.add(request.key, call(Mode.REASON, "B", 0.1, 2.0))
        assert composition.advance() == {}
    [cancelled] = [each for each in composition.outcomes["mutual/eager"].calls if each.cancelled]
    assert (cancelled.key, cancelled.end_s) == (request.key, pytest.approx(1.2))


def test_a_failure_is_replayed_as_it_was_and_the_arm_fails_at_its_time():
    error = {"class": "ModelBusy", "message": "too much", "hint": "wait", "retryable": True}
    failed = call(Mode.SHORT, "", 0.2, 0.9, status="error", error=error, finish_reason=FinishReason.ERROR)
    for arm in ("mutual/thrifty", "short:small"):
        done = result(arm, CALLS | {("small", Mode.SHORT): failed})
        assert done.outcome is None
        assert "too much" in str(done.error)
        [call_of_small] = [each for each in done.calls if each.role == "small"]
        assert call_of_small.end_s - call_of_small.start_s == pytest.approx(0.9)


# --- making -----------------------------------------------------------------------------------------------------------


async def made(says: Says, prompt=REASON, limits=Limits()) -> TimedCall:
    return await timed_call(
        ScriptedModel("small", [says]), CallRequest(SEATS["small"], prompt, limits), iter(range(99)).__next__
    )


async def test_a_call_is_kept_with_its_times_pieces_and_prompt():
    taken = await made(Says("A", "one two", confidence_logprob=-0.5))
    record = call_record(CallRequest(SEATS["small"], REASON, Limits()), taken, None, at_once=1)
    assert (record["reasoning"], record["answer"], record["answer_logprob"]) == ("one two", "A", -0.5)
    assert [size for _, size in record["pieces"]] == [3, 4]
    assert record["prompt"]["turns"][0]["text"].startswith("Which?")
    assert (record["status"], record["completion_tokens"], record["reasoning_tokens"]) == ("ok", 3, 2)


async def test_a_failed_call_keeps_its_text_and_cost():
    taken = await made(Says("A", "one two", error=ModelBusy("no"), after_tokens=1))
    record = call_record(CallRequest(SEATS["small"], REASON, Limits()), taken, None)
    assert (record["status"], record["error"]["class"], record["reasoning"]) == ("error", "ModelBusy", "one")
    assert record["completion_tokens"] == 1


async def test_a_call_that_hangs_ends_at_its_time_out():
    taken = await made(Says(hangs=True), limits=Limits(timeout_s=0.01))
    assert isinstance(taken.error, ModelTimeout)


# --- collecting -------------------------------------------------------------------------------------------------------


def collected(arm: str, calls: dict[tuple[str, Mode], Record]) -> tuple[list[list[Mode]], ArmOutcome]:
    """The modes of the calls that an arm requests at each pause, and its outcome once they are stored."""
    stored, rounds = StoredCalls({}.get), []
    with closing(Composition(AT, [parse(arm)], SEATS, stored)) as composition:
        while requests := composition.advance():
            rounds.append([request.mode for request in requests.values()])
            for key, request in requests.items():
                stored.add(key, calls[request.seat.role, request.mode])
    return rounds, composition.outcomes[arm]


@pytest.mark.parametrize(
    "arm", ["mutual", "mutual/thrifty", "mutual/eager", "transfer", "cascade", "verdict/samples=2"]
)
def test_an_arm_that_waited_for_its_calls_has_the_figures_of_one_whose_calls_were_stored(arm):
    rounds, waited = collected(arm, CALLS | {("large", Mode.REASON): CALLS["small", Mode.REASON]})
    calls = {call.key: CALLS.get((call.role, call.mode), CALLS["small", Mode.REASON]) for call in waited.calls}
    at_once = outcome(parse(arm), StoredCalls(calls.get))
    assert (waited.outcome.total_s, waited.calls) == (at_once.outcome.total_s, at_once.calls)
    assert sum(map(len, rounds)) == len(calls.keys() - {None})


def test_calls_that_begin_at_once_are_requested_at_once_and_others_when_they_are_needed():
    assert collected("mutual", CALLS)[0] == [[Mode.SHORT, Mode.SHORT], [Mode.REASON], [Mode.READ]]
    assert collected("mutual/eager", CALLS)[0] == [[Mode.SHORT, Mode.REASON, Mode.SHORT], [Mode.READ]]


def test_an_arm_whose_calls_are_never_made_ends_without_an_outcome():
    composition = Composition(AT, [parse("mutual"), parse("short:large")], SEATS, StoredCalls({}.get))
    assert len(composition.advance()) == 2
    assert {arm: len(requests) for arm, requests in composition.waiting.items()} == {"mutual": 2, "short:large": 1}
    composition.close()
    assert composition.outcomes == {}
