"""Runs: each call is made once, even after interruptions; failures are reported and counted; token counts add up."""

from __future__ import annotations

import asyncio
import json
import re
import sqlite3
from collections import Counter
from contextlib import aclosing
from dataclasses import replace
from itertools import count

import pytest
from laboratory import ARMS, LARGE, SMALL, Laboratory, MadeUp, says

from cuecard.disk import CannotStore
from cuecard.domain.call import Mode
from cuecard.domain.errors import BadInput, BrokenStream, ModelBusy, ModelRefused, ModelUnreachable, RequestRefused
from cuecard.domain.outcome import LatencyKind
from cuecard.domain.question import Question
from cuecard.evals.analysis.ledger import LedgerError
from cuecard.evals.analysis.summary import summary
from cuecard.evals.arm import parse_all
from cuecard.evals.database import Store
from cuecard.evals.runner import Plan, chosen, expected, run, task_items
from cuecard.models.base import Finished, Progress
from cuecard.models.replay import Says, ScriptedModel
from cuecard.strategies.policy import Policy

SAID = {"small": SMALL, "large": LARGE}


def summed(lab: Laboratory) -> dict:
    store = lab.store()
    try:
        return summary(lab.config, store)
    finally:
        store.close()


def failing(at: int, error, *, until: int | None = None):
    """A small model that fails from call number `at` on, up to call number `until`."""
    numbers, well = count(), says(SMALL)

    def one(prompt):
        number = next(numbers)
        return Says(error=error) if at <= number < (until or 10**9) else well(prompt)

    return ScriptedModel("small", one)


def changed(lab: Laboratory, statement: str) -> None:
    with sqlite3.connect(lab.folder / "run.sqlite") as connection:
        assert connection.execute(statement).rowcount >= 1
    connection.close()


# --- every call once --------------------------------------------------------------------------------------------------


def test_eight_arms_make_each_call_once(tmp_path):
    lab = Laboratory(tmp_path, arms=(*ARMS, "mutual/eager", "transfer/thrifty"))
    progress = lab.run()
    assert (progress.answered, progress.fresh, progress.calls) == (4, 4, 4 * 5)
    assert Counter(prompt.mode for prompt in lab.large.prompts) == dict.fromkeys(
        (Mode.SHORT, Mode.REASON, Mode.READ), 4
    )
    answers = lab.answers()
    assert len(answers) == 4 * 8
    assert {answer["latency"]["kind"] for answer in answers.values()} == {LatencyKind.COMPOSED}
    assert answers["0", "mutual"]["route"] == "transferred"


def test_a_finished_run_makes_no_call_again(tmp_path):
    Laboratory(tmp_path).run()
    again = Laboratory(tmp_path)
    assert (again.run().calls, again.small.prompts) == (0, [])
    assert len(again.heard) == 4 * len(ARMS), "stored answers are reported again, for the accuracy so far"


def test_another_arm_of_the_same_calls_costs_only_what_is_new(tmp_path):
    Laboratory(tmp_path, arms=("short:small", "short:large")).run()
    assert Laboratory(tmp_path, arms=("short:small", "short:large", "mutual")).run().calls == 4 * 2


def test_equal_questions_are_asked_once(tmp_path):
    class Twins(MadeUp):
        def items(self):
            for item in super().items():
                yield type(item)(f"{item.id} a", item.question, ("A",), "exact", item.cluster)
                yield type(item)(f"{item.id} b", item.question, ("A",), "exact", item.cluster)

    lab = Laboratory(tmp_path, task=Twins(3), small=ScriptedModel("small", says(SMALL, 0.01)))
    assert lab.run(at_once=8).calls == 3 * 5


def test_the_answers_do_not_depend_on_how_many_calls_run_at_once(tmp_path):
    one, many = Laboratory(tmp_path / "one", task=MadeUp(20)), Laboratory(tmp_path / "many", task=MadeUp(20))
    one.run()
    many.run(at_once=6)
    shown = [
        {key: (a["answer"], a["route"], {call["key"] for call in a["calls"]}) for key, a in lab.answers().items()}
        for lab in (one, many)
    ]
    assert shown[0] == shown[1]


def test_a_damaged_row_is_made_again_and_the_run_is_whole(tmp_path):
    lab = Laboratory(tmp_path)
    lab.run()
    before = summed(lab)
    changed(lab, "UPDATE calls SET record = replace(record, '\"A\"', '\"B\"') WHERE mode = 'read' AND rowid % 2 = 0")
    changed(lab, "UPDATE answers SET record = substr(record, 1, 100) WHERE id = '1' AND arm = 'mutual'")
    store = lab.store()
    mended = store.mend()
    store.close()
    assert mended.calls >= 1
    assert lab.run().calls == mended.calls
    after = summed(lab)
    for shown in (before, after):
        assert shown["tasks"]["made-up"]["arms"]["mutual"]["routes"] == {"transferred": 4}


# --- failures ---------------------------------------------------------------------------------------------------------


def test_a_failed_call_is_a_status_no_wrong_answer_and_costs_what_it_cost(tmp_path):
    lab = Laboratory(tmp_path, small=failing(4, BrokenStream("gone")), arms=("reason:small", "mutual"))
    lab.run(backoff_s=0.001)
    arms = summed(lab)["tasks"]["made-up"]["arms"]
    assert 0 < arms["mutual"]["errors"] < 4
    assert arms["mutual"]["answered"] == arms["mutual"]["n"] == 4
    assert sum(arms["mutual"]["routes"].values()) == 4


@pytest.mark.parametrize("live", [False, True])
def test_a_single_models_arm_is_never_scored_with_the_other_models_answers(tmp_path, live):
    """Small model: HTTP 400 on eight of twelve questions, wrong on the other four. The large model is right on all."""
    bad = {str(number) for number in range(12) if number % 3}

    def small(prompt):
        number = re.search(r"Question (\d+)", prompt.turns[-1].text)[1]
        return Says("B", error=RequestRefused("too long") if number in bad else None)

    right = dict.fromkeys(Mode, "A")
    lab = Laboratory(
        tmp_path,
        MadeUp(12),
        ("short:large", "short:small", "mutual"),
        ScriptedModel("small", small),
        ScriptedModel("large", says(right)),
    )
    lab.run(live=live)
    task = summed(lab)["tasks"]["made-up"]
    for name in ("short:small", *(["short:small@live"] if live else [])):
        arm = task["arms"][name]
        assert (arm["accuracy"], arm["scored"], arm["errors"], arm["answered"]) == (0.0, 4, 8, 12)
        assert arm["routes"] == {"direct": 4, "error": 8}
    assert task["arms"]["mutual"]["errors"] == 8
    assert (task["acceptance"]["questions"], task["acceptance"]["accepted"]) == (4, 0)
    failed = lab.answers()["1", "mutual"]
    assert (failed["status"], failed["score"], failed["answer"]) == ("error", None, None)


def test_a_failed_answer_is_in_no_mean(tmp_path):
    slow = ScriptedModel("large", lambda prompt: slow_or_refused(prompt))

    def slow_or_refused(prompt):
        if "Question 2" in prompt.turns[-1].text:
            return Says("", error=ModelRefused("no"))
        return Says("A B C", first_token_s=0.02)

    lab = Laboratory(tmp_path, arms=("short:large",), large=slow)
    lab.run()
    arm, answers = summed(lab)["tasks"]["made-up"]["arms"]["short:large"], lab.answers()
    whole = [answer for answer in answers.values() if answer["status"] == "ok"]
    assert arm["latency"]["mean_s"] == pytest.approx(sum(each["latency"]["total_s"] for each in whole) / 3)
    assert arm["generated_mean"] == pytest.approx(3)


def test_an_answer_that_another_call_rescued_in_an_earlier_version_reads_as_a_failure(tmp_path):
    lab = Laboratory(tmp_path, arms=("short:large",))
    lab.run()
    changed(lab, "UPDATE answers SET record = json_set(record, '$.status', 'degraded', '$.route', 'degraded')")
    assert {answer["status"] for answer in lab.answers().values()} == {"error"}
    assert summed(lab)["tasks"]["made-up"]["arms"]["short:large"]["errors"] == 4


def test_a_failed_answer_has_no_score_and_stays_in_the_cost(tmp_path):
    lab = Laboratory(tmp_path, arms=("short:large",))
    lab.large, well = ScriptedModel("large", lambda prompt: script(prompt)), says(LARGE)

    def script(prompt):
        bad = "Question 2" in prompt.turns[-1].text
        return Says("A B C", error=ModelRefused("no"), after_tokens=2) if bad else well(prompt)

    lab.small = ScriptedModel("small", lambda prompt: Says(error=ModelRefused("no")))
    lab.run()
    answer = lab.answers()["2", "short:large"]
    assert (answer["status"], answer["route"], answer["score"], answer["answer"]) == ("error", None, None, None)
    assert sum(call["completion_tokens"] for call in answer["calls"]) == 2
    shown = summed(lab)["tasks"]["made-up"]["arms"]["short:large"]
    assert (shown["errors"], shown["scored"], shown["answered"]) == (1, 3, 4)
    assert shown["routes"] == {"direct": 3, "error": 1}
    assert shown["tokens"]["large"]["wasted"] > 0
    assert shown["accuracy"] == 0, "of the three that were answered"


def test_failed_calls_are_made_again_when_that_is_wanted_and_only_those(tmp_path):
    lab = Laboratory(tmp_path, small=failing(3, ModelRefused("no"), until=5), task=MadeUp(6))
    lab.run()
    assert any(answer["status"] != "ok" for answer in lab.answers().values())
    again = Laboratory(tmp_path, task=MadeUp(6))
    assert again.run().calls == 0, "a failure is a result until it is to be tried again"
    store = again.store()
    dropped = store.drop_errors()
    store.close()
    assert dropped.calls == 2
    again.run()
    assert all(answer["status"] == "ok" for answer in again.answers().values())
    assert len(again.small.prompts) == 2


def test_a_server_that_is_overloaded_gets_fewer_calls_at_once_and_none_is_lost(tmp_path):
    running = most = 0

    class Crowded(ScriptedModel):
        async def stream(self, prompt, limits):
            nonlocal running, most
            if running >= 3:
                raise ModelBusy("too many")
            running += 1
            most = max(most, running)
            try:
                async for event in super().stream(prompt, limits):
                    yield event
            finally:
                running -= 1

    lab = Laboratory(tmp_path, task=MadeUp(20), large=Crowded("large", says(LARGE, 0.02)), arms=("short:large",))
    lab.run(at_once=12, backoff_s=0.01)
    answers = lab.answers().values()
    assert {answer["status"] for answer in answers} == {"ok"}
    assert most == 3
    refused = sum(answer["attempts"] for answer in answers) - len(answers)
    assert 0 < refused < 60
    assert summed(lab)["calls"][0]["tried_again"] == refused


def test_a_model_that_is_not_there_stops_the_run_and_is_stored_nowhere(tmp_path):
    lab = Laboratory(tmp_path, small=failing(4, ModelUnreachable("refused")))
    with pytest.raises(ModelUnreachable, match="small is lost"):
        lab.run(backoff_s=0.001)
    store = lab.store()
    assert {record["status"] for _, record in store.calls()} == {"ok"}
    store.close()
    again = Laboratory(tmp_path)
    assert again.run().answered == 4
    assert {answer["status"] for answer in again.answers().values()} == {"ok"}


def test_a_model_that_refuses_everything_is_not_asked_a_thousand_times(tmp_path):
    lab = Laboratory(tmp_path, task=MadeUp(50), small=failing(0, ModelRefused("wrong key")))
    with pytest.raises(ModelRefused, match="all of its first 8 calls: wrong key"):
        lab.run()
    assert len(lab.small.prompts) == 8


# --- stopped ----------------------------------------------------------------------------------------------------------


def test_a_run_that_is_cancelled_keeps_what_was_made(tmp_path):
    lab = Laboratory(tmp_path, task=MadeUp(50), small=ScriptedModel("small", says(SMALL, 0.01)))

    async def broken_off():
        store = lab.store()
        working = asyncio.create_task(
            run(Plan([lab.task], parse_all(lab.arms), lab.seats), lab.models, store, lambda *_: None)
        )
        while len(lab.small.prompts) < 20:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        working.cancel()
        with pytest.raises(asyncio.CancelledError):
            await working
        stored = len(list(store.calls()))
        store.close()
        return stored

    stored = asyncio.run(broken_off())
    made = len(lab.small.prompts) + len(lab.large.prompts)
    assert made - 2 <= stored <= made, "no more than the calls under way are lost"
    again = Laboratory(tmp_path, task=MadeUp(50))
    assert again.run().calls == 50 * 5 - stored


def test_a_full_disk_ends_the_run_with_a_message_and_it_resumes_later(tmp_path, monkeypatch):
    lab, whole = Laboratory(tmp_path, task=MadeUp(30)), Store.put
    writes = count()

    def full(self, rows):
        if next(writes) >= 10:
            raise CannotStore("the disk is full")
        whole(self, rows)

    monkeypatch.setattr(Store, "put", full)
    with pytest.raises(CannotStore, match="disk is full"):
        lab.run()
    assert len(lab.small.prompts) < 60, "no call is made that cannot be stored"
    monkeypatch.setattr(Store, "put", whole)
    assert Laboratory(tmp_path, task=MadeUp(30)).run().answered == 30


# --- placebos, samples, live ------------------------------------------------------------------------------------------


def test_a_placebo_reaches_the_reader_and_a_foreign_card_is_another_question_s(tmp_path):
    def numbered(prompt):
        number = prompt.turns[-1].text.split(":")[0].split()[-1]
        return Says("A", f"About {number}." if prompt.mode is Mode.REASON else "")

    lab = Laboratory(tmp_path, arms=("transfer", "transfer/placebo=foreign", "transfer/placebo=empty"))
    lab.small = ScriptedModel("small", numbered)
    assert lab.run().calls == 4 + 4 * 3
    cards = {(prompt.turns[-1].text[:10], prompt.card) for prompt in lab.large.prompts}
    assert cards == {
        *((f"Question {n}", f"About {n}.") for n in range(4)),
        *((f"Question {n}", f"About {m}.") for n, m in ((0, 1), (1, 0), (2, 1), (3, 2))),
        *((f"Question {n}", "") for n in range(4)),
    }


def test_votes_take_as_many_samples_as_the_tokens_of_another_arm_allow(tmp_path):
    large = ScriptedModel("large", lambda prompt: Says("A", "so " * 35))
    small = ScriptedModel("small", lambda prompt: Says("A", "so " * 9))
    lab = Laboratory(tmp_path, arms=("vote/equal=reason:large", "reason:large"), small=small, large=large)
    lab.run()
    answers = lab.answers()
    assert len(answers["0", "vote/equal=reason:large"]["calls"]) == 3
    assert len({call["key"] for call in answers["0", "vote/equal=reason:large"]["calls"]}) == 3


class Uncounted(ScriptedModel):
    """Counts the tokens of a whole reply, but not those of its reasoning, as many servers do."""

    async def stream(self, prompt, limits):
        async with aclosing(super().stream(prompt, limits)) as events:
            async for event in events:
                if isinstance(event, Progress | Finished):
                    event = replace(event, usage=replace(event.usage, reasoning_tokens=None))
                yield event


def test_the_tokens_of_a_transferred_reasoning_are_counted_with_and_without_reasoning_counts(tmp_path):
    spoken = says(SMALL, token_s=0.005)
    generated = []
    for number, kind in enumerate((ScriptedModel, Uncounted)):
        lab = Laboratory(tmp_path / str(number), arms=("transfer",), small=kind("small", spoken))
        lab.run()
        calls = [call for answer in lab.answers().values() for call in answer["calls"] if call["role"] == "small"]
        assert {call["finish_reason"] for call in calls} == {"cancelled"}
        generated.append(sum(call["completion_tokens"] for call in calls))
    assert generated[0] == pytest.approx(generated[1], rel=0.3)


@pytest.mark.slow
def test_live_answers_are_measured_beside_the_composed_ones(tmp_path):
    lab = Laboratory(
        tmp_path,
        small=ScriptedModel("small", says(SMALL, 0.1, 0.002)),
        large=ScriptedModel("large", says(LARGE, 0.15, 0.002)),
    )
    lab.run(live=True)
    shown = summed(lab)["tasks"]["made-up"]
    assert shown["arms"]["mutual@live"]["latency"]["kind"] == "measured"
    for arm, both in shown["composed_against_measured"].items():
        assert (both["questions"], both["same_answer"]) == (4, 1.0)
        assert 0.4 < both["ratio"] < 1.6, arm  # wide limits, for a busy machine
    assert lab.run(live=True).calls == 0


def test_calls_that_found_the_question_computed_are_marked_and_know_what_it_saves(tmp_path):
    class Keeping(ScriptedModel):
        """Slow at the first call about a question."""

        known: str | None = None

        def forget(self):
            self.known = None

        async def stream(self, prompt, limits):
            text = prompt.turns[-1].text[:10]
            await asyncio.sleep(0.0 if self.known == text else 0.1)
            self.known = text
            async for event in super().stream(prompt, limits):
                yield event

    small = Keeping("small", says(SMALL, token_s=0.02), prefix_sessions=True)
    large = Keeping("large", says(LARGE), prefix_sessions=True)
    follows = Policy(follow_chars=8)
    lab = Laboratory(tmp_path, MadeUp(2), (*ARMS, "transfer/thrifty"), small, large, policy=follows)
    lab.run()
    store = lab.store()
    calls = {(call["model"], call["mode"]): call for _, call in store.calls()}  # of the last question
    store.close()
    assert {mode for (_, mode), call in calls.items() if call["cold"] is not None} == {"reason", "read"}
    short = calls["small", "short"]
    assert calls["small", "reason"]["cold"]["extra_s"] == pytest.approx(
        short["first_token_s"] - short["hot_first_token_s"]
    )
    assert short["hot_end_s"] < 0.1 < short["end_s"]
    latency = {arm: answer["latency"]["total_s"] for (item, arm), answer in lab.answers().items() if item == "1"}
    assert latency["short:small"] > 0.1
    assert latency["reason:small"] > 0.1, "as if it had come first"
    assert latency["transfer/thrifty"] > 0.2, "both models compute the question, one after the other"
    assert latency["transfer/thrifty"] - latency["transfer"] > 0.05, "the reader computes while the card is written"


def test_calls_decoded_together_have_no_latency_and_their_times_are_kept_apart(tmp_path):
    both = {name: ScriptedModel(name, says(what, 0.001), prefix_sessions=True) for name, what in SAID.items()}
    lab = Laboratory(tmp_path, task=MadeUp(6), arms=(*ARMS, "mutual/eager"), **both)
    assert lab.run(at_once=4, batched=True).calls == 6 * 5
    assert len(lab.small.prompts) + len(lab.large.prompts) == 6 * 5, "no call is repeated to be timed"
    for answer in lab.answers().values():
        assert answer["latency"] == {"total_s": None, "handoff_s": None, "kind": None}
        assert {(call["start_s"], call["end_s"]) for call in answer["calls"]} == {(None, None)}
    store = lab.store()
    calls = [record for _, record in store.calls()]
    shown = summary({**lab.config, "batched": True}, store)
    store.close()
    assert {(call["end_s"], call["first_token_s"], call["hot_end_s"]) for call in calls} == {(None, None, None)}
    assert all(call["batched"]["end_s"] > 0 for call in calls)
    mutual = shown["tasks"]["made-up"]["arms"]["mutual"]
    assert (mutual["accuracy"], mutual["latency"]["mean_s"]) == (1.0, None)
    assert {row["seconds"] for row in shown["calls"]} == {None}
    plain = Laboratory(tmp_path / "plain", task=MadeUp(6), arms=lab.arms)
    plain.run()
    message = [{key: answer["answer"] for key, answer in each.answers().items()} for each in (lab, plain)]
    assert message[0] == message[1]
    assert lab.run(at_once=4, batched=True).calls == 0


def test_free_text_is_compared_by_the_large_model_and_its_scores_are_stored_calls_too(tmp_path):
    class Open(MadeUp):
        def items(self):
            for item in super().items():
                asked = Question(item.question.text.removesuffix(" which one?"), item.question.images)
                yield type(item)(item.id, asked, ("A",), "exact", item.cluster)

    large = ScriptedModel("large", says(LARGE), scores=lambda answer: -1.0)
    lab = Laboratory(tmp_path, task=Open(2), large=large, arms=("mutual", "mutual/accept=agree"))
    lab.run()
    assert lab.answers()["0", "mutual/accept=agree"]["route"] == "agreed"
    scores = [row for row in summed(lab)["calls"] if row["mode"] == "score"]
    assert [row["calls"] for row in scores] == [2 * 2]


# --- items ------------------------------------------------------------------------------------------------------------


class Rotated(MadeUp):
    """Every question has three rotations."""

    def items(self):
        for item in super().items():
            for turn in range(3):
                name = f"{item.id}-{turn}"
                yield type(item)(name, item.question, ("A",), "exact", item.cluster, group=item.id)


def test_a_limit_takes_the_first_items_and_whole_groups():
    assert [item.id for item in chosen(MadeUp(9), 3, None)] == ["0", "1", "2"]
    assert [item.id for item in chosen(Rotated(9), 4, None)] == ["0-0", "0-1", "0-2", "1-0", "1-1", "1-2"]


def test_a_sample_is_the_same_for_the_same_seed_in_the_task_s_order_and_of_whole_groups():
    one, same, other = ([item.id for item in chosen(MadeUp(50), 10, seed)] for seed in (1, 1, 2))
    assert one == same != other
    assert one == sorted(one, key=int)
    assert len(one) == 10
    assert Counter(item.group for item in chosen(Rotated(9), 7, 1)).most_common() == [
        (group, 3) for group in dict.fromkeys(item.group for item in chosen(Rotated(9), 7, 1))
    ]


def test_a_task_without_questions_is_refused():
    for sample in (None, 1):
        with pytest.raises(BadInput, match="has no questions"):
            list(chosen(MadeUp(0), 5, sample))
    with pytest.raises(BadInput, match=r"every group of .* has more than 2 questions"):
        list(chosen(Rotated(9), 2, 1))


def test_two_items_of_one_id_are_refused():
    class Twice(MadeUp):
        def items(self):
            yield from super().items()
            yield from super().items()

    with pytest.raises(BadInput, match="two items '0'"):
        list(chosen(Twice(3), None, None))


def test_every_item_has_a_partner_about_something_else():
    plan = Plan([MadeUp(5)], parse_all(["mutual"]), {})
    partners = [(each.item.id, each.partner.id) for _, each in task_items(plan)]
    assert partners == [("0", "1"), ("1", "0"), ("2", "1"), ("3", "2"), ("4", "3")]
    assert expected(plan) == 5


# --- the summary ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM calls WHERE mode = 'read' AND key IN (SELECT key FROM calls WHERE mode = 'read' LIMIT 1)",
        "UPDATE calls SET record = json_set(record, '$.completion_tokens', 77) WHERE mode = 'reason'",
        "UPDATE answers SET record = json_set(record, '$.calls[0].completion_tokens', 77) WHERE arm = 'mutual'",
        "UPDATE answers SET record = json_set(record, '$.route', 'elsewhere') WHERE arm = 'mutual'",
        "UPDATE answers SET record = json_set(record, '$.latency.total_s', 0) WHERE arm = 'reason:large'",
        "DELETE FROM items WHERE id = '2'",
    ],
)
def test_counts_that_contradict_each_other_leave_no_summary(tmp_path, statement):
    slow = [ScriptedModel(name, says(what, 0.001)) for name, what in (("small", SMALL), ("large", LARGE))]
    lab = Laboratory(tmp_path, small=slow[0], large=slow[1])
    lab.run()
    summed(lab)
    changed(lab, statement)
    with pytest.raises(LedgerError):
        summed(lab)


def test_the_summary_has_accuracy_routes_tokens_and_rates_by_arm(tmp_path):
    lab = Laboratory(tmp_path)
    lab.run()
    shown = summed(lab)
    json.dumps(shown)
    mutual, short = (shown["tasks"]["made-up"]["arms"][arm] for arm in ("mutual", "short:small"))
    assert (mutual["accuracy"], short["accuracy"], short["unparsed"]) == (1.0, 0.0, 0.0)
    assert mutual["interval"]["low"] < 1 == mutual["interval"]["high"]
    assert mutual["by_category"]["even"] | {"mean_s": 0} == {
        "n": 2,
        "errors": 0,
        "scored": 2,
        "accuracy": 1.0,
        "mean_s": 0,
        "routes": {"transferred": 2},
    }
    assert mutual["tokens"]["small"]["reasoning"] == 4 * 11
    assert mutual["scores"]["by_extractor"].keys() == {"strict", "ours", "vlmevalkit"}
    assert sum(row["calls"] for row in shown["calls"]) == 4 * 5


def test_accepted_answers_that_are_wrong_are_counted(tmp_path):
    alike = ScriptedModel("small", says(SMALL | {Mode.SHORT: "C"}))
    lab = Laboratory(tmp_path, small=alike, arms=("mutual/accept=agree",))
    lab.run()
    shown = summed(lab)["tasks"]["made-up"]["arms"]["mutual/accept=agree"]
    assert (shown["accepted"], shown["accepted_wrong"], shown["accuracy"]) == (4, 4, 0.0)
