"""The findings of a report are computed once, from the records, and add up."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from runs import ARMS, RIGHT, Pictured, model, rewritten, run_directory

from cuecard.domain.call import Mode
from cuecard.domain.errors import BadInput
from cuecard.evals import run_folder
from cuecard.evals.analysis import examples
from cuecard.evals.analysis.comparisons import Pays
from cuecard.evals.analysis.ledger import Price
from cuecard.evals.analysis.results import compare_runs, run_results
from cuecard.evals.analysis.summary import summary
from cuecard.report.evaluation import sentences
from cuecard.stats import Interval


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return run_directory(tmp_path_factory.mktemp("found") / "run")


def found_in(run, **options):
    about, store = run_folder.opened(run)
    try:
        return run_results(about["config"], store, **options)
    finally:
        store.close()


def cases_in(run):
    about, store = run_folder.opened(run)
    try:
        return run_results(about["config"], store), examples.all_examples(about["config"], store)
    finally:
        store.close()


def contrasted(one, other):
    opened = [run_folder.opened(each) for each in (one, other)]
    try:
        return compare_runs(*((about["config"], store) for about, store in opened))
    finally:
        for _, store in opened:
            store.close()


def test_accuracies_are_those_that_the_pair_was_scripted_to_have(run):
    (task,) = found_in(run).tasks
    right = {name: round(12 * arm.accuracy.estimate) for name, arm in task.arms.items()}
    assert right == {
        "short:small": 7,
        "short:large": 8,
        "reason:small": 11,
        "reason:large": 11,
        "transfer": 11,
        "mutual": 10,
        "transfer/placebo=empty": 11,
    }


def test_routes_sum_to_all_questions_and_their_means_to_the_arms(run):
    (task,) = found_in(run).tasks
    for arm in task.arms.values():
        assert sum(route.questions for route in arm.routes) == arm.answered == 12
        assert sum(route.share for route in arm.routes) == pytest.approx(1)
        whole = sum(route.mean_s * route.questions for route in arm.routes) / arm.answered
        assert whole == pytest.approx(arm.latency.estimate)
        right = sum(route.accuracy * route.questions for route in arm.routes) / arm.answered
        assert right == pytest.approx(arm.accuracy.estimate)


def test_an_arm_is_compared_with_the_baseline_on_the_same_questions(run):
    (task,) = found_in(run).tasks
    against = task.difference("short:large")
    assert (against.against, against.pairs) == ("reason:large", 12)
    # short:large is wrong on 0 to 3, reason:large on 7
    assert (against.accuracy.better, against.accuracy.worse) == (1, 4)
    assert against.accuracy.difference.estimate == pytest.approx(-3 / 12)
    assert against.times_faster.estimate > 1
    assert against.tokens.estimate < 0


def test_the_baseline_is_not_compared_with_itself_and_another_one_can_be_named(run):
    (task,) = found_in(run, against="short").tasks
    assert task.difference("short:large") is None
    assert {each.against for each in task.differences if each.family == "arms"} == {"short:large"}


def test_a_baseline_that_the_run_does_not_have_is_refused_with_those_it_has(run):
    with pytest.raises(BadInput, match="no arm 'cascade'") as refused:
        found_in(run, against="cascade")
    assert "mutual" in refused.value.hint


def test_a_placebo_is_compared_with_the_card_that_was_written(run):
    (task,) = found_in(run).tasks
    each = task.difference("transfer/placebo=empty", "placebos")
    assert each.against == "transfer"
    assert task.difference("transfer/placebo=empty") is None


def test_p_values_of_a_family_are_adjusted_together(run):
    (task,) = found_in(run).tasks
    family = sorted((each for each in task.differences if each.family == "arms"), key=lambda each: each.accuracy.p)
    assert family[0].p_adjusted == pytest.approx(min(1, len(family) * family[0].accuracy.p))
    assert all(each.p_adjusted >= each.accuracy.p for each in family)


def test_no_arm_on_a_front_is_beaten_in_both_and_every_other_is(run):
    (task,) = found_in(run, prices={"tiny": Price(1, 2), "huge": Price(4, 8)}).tasks
    arms = task.plain
    for measure in ("latency", "tokens", "price"):
        for arm in arms:
            beaten = any(
                other.accuracy.estimate >= arm.accuracy.estimate
                and other.cost(measure) <= arm.cost(measure)
                and (other.accuracy.estimate, -other.cost(measure)) != (arm.accuracy.estimate, -arm.cost(measure))
                for other in arms
            )
            assert (measure in arm.fronts) is not beaten


@pytest.mark.parametrize("option", ["prices", "powers"])
def test_a_price_or_power_of_a_model_that_no_arm_calls_is_refused(run, option):
    message = r"about 'hugh', which no arm calls \(did you mean huge\?\)"
    with pytest.raises(BadInput, match=message):
        found_in(run, **{option: {"tiny": Price(1, 2) if option == "prices" else 1.0, "hugh": Price(4, 8)}})


def test_a_price_is_known_only_where_every_model_has_one(run):
    (task,) = found_in(run, prices={"tiny": Price(1, 2)}).tasks
    assert task.arms["short:small"].price is not None
    assert task.arms["mutual"].price is None


def test_a_difference_that_only_one_extractor_sees_does_not_survive(tmp_path):
    large = model("huge", {Mode.SHORT: []}, 0.0, "My answer is clearly {} because the others are not.")
    run = run_directory(tmp_path / "run", Pictured(16), ("short:small", "short:large"), large=large)
    (task,) = found_in(run, against="short:small").tasks
    arm, each = task.arms["short:large"], task.difference("short:large")
    assert arm.span[0] < arm.span[1]
    assert not each.survives


def test_rotations_of_a_question_are_one_unit_right_if_all_of_them_are(tmp_path):
    run = run_directory(
        tmp_path / "run", Pictured(12, aggregate="circular", rotations=True), ("short:large", "reason:large")
    )
    (task,) = found_in(run).tasks
    assert (task.units, task.unit) == (6, "group of rotations")
    assert task.arms["short:large"].accuracy.estimate == pytest.approx(4 / 6)  # wrong on 0 to 3: two groups
    assert task.difference("short:large").pairs == 6


def test_findings_are_json_without_anything_that_is_not_a_number(tmp_path):
    # answers that took no time: a speed-up would divide by 0
    none = {"small": model("tiny", {}, 0.0), "large": model("huge", {}, 0.0)}
    run = run_directory(tmp_path / "run", arms=("short:large", "reason:large"), **none)

    def timeless(record):
        record["latency"]["total_s"], record["calls"] = 0.0, []

    rewritten(run, timeless)
    findings = found_in(run).as_object()
    assert (
        json.loads(json.dumps(findings, allow_nan=False))["tasks"][0]["differences"][0]["times_faster"]["estimate"]
        is None
    )


def test_the_gallery_holds_exactly_what_the_card_turned(run):
    found, known = cases_in(run)
    (gallery,) = examples.galleries(found, known)
    assert gallery.arm == "transfer"
    assert [case.id for case in gallery.helped] == ["0", "1", "2", "3"]
    assert [case.id for case in gallery.misled] == ["8"]
    assert "So the answer is A." in gallery.helped[0].card
    assert gallery.helped[0].gold == f"{RIGHT}. red"


def test_questions_on_which_arms_differ_come_first_and_no_more_than_asked_for(run):
    _, known = cases_in(run)
    shown = examples.most_telling(known["pictured"], ["short:large", "reason:large"], 6)
    assert [case.id for case in shown] == ["0", "1", "2", "3", "7", "4"]


def test_the_request_shown_was_transferred_by_both_strategies_and_has_their_calls(run):
    about, store = run_folder.opened(run)
    found, known = cases_in(run)
    (task,) = found.tasks
    asked = examples.request(task, found.baseline, known["pictured"])
    record = store.answer("pictured", asked.example.id, "mutual")
    store.close()
    assert set(asked.outcomes) == {"short:large", "reason:large", "transfer", "mutual"}
    assert asked.outcomes["mutual"].route == asked.outcomes["transfer"].route == "transferred"
    assert asked.outcomes["mutual"].total_s == record["latency"]["total_s"]
    assert asked.outcomes["mutual"].handoff_s == pytest.approx(record["latency"]["handoff_s"], abs=1e-6)
    assert about["config"]["arms"] == list(ARMS)


def test_a_run_compared_with_itself_differs_in_nothing(run):
    compared = contrasted(run, run)
    assert compared.configuration == ()
    assert {each.arm for each in compared.arms} == set(ARMS)
    for each in compared.arms:
        assert (each.accuracy.better, each.accuracy.worse, each.accuracy.p) == (0, 0, 1.0)
        assert each.seconds.p == each.tokens.p == each.same_answer == 1.0


def test_another_large_model_shows_in_its_arms_and_in_the_configuration(run, tmp_path):
    better = model("giant", {}, 0.0002)
    other = run_directory(tmp_path / "run", arms=("short:large", "reason:large"), large=better)
    compared = contrasted(run, other)
    assert [each.arm for each in compared.arms] == ["short:large", "reason:large"]
    short, reasoned = compared.arms
    assert (short.accuracy.better, short.accuracy.worse) == (4, 0)
    assert short.first_accuracy == pytest.approx(8 / 12)
    assert short.second_accuracy == 1
    assert reasoned.times_faster is not None
    assert any("giant" in line for line in compared.configuration)
    assert compared.only_second == ()
    assert "pictured mutual" in compared.only_first


def test_questions_that_only_share_a_number_are_left_out(run, tmp_path):
    class Others(Pictured):
        def items(self):
            for item in Pictured.items(self):
                yield item if int(item.id) % 2 else _with_other_options(item)

    other = run_directory(tmp_path / "run", Others(), ("short:large",))
    compared = contrasted(run, other)
    assert compared.left_out == {"pictured": 6}
    assert compared.arms[0].questions == 6


def _with_other_options(item):
    return replace(item, question=replace(item.question, options=("red", "blue", "black")))


def test_runs_without_a_common_question_are_refused(run, tmp_path):
    other = run_directory(tmp_path / "run", Pictured(2, name="other"), ("short:large",))
    with pytest.raises(BadInput, match="in common"):
        contrasted(run, other)


def made_of(path, small=(), large=(), read=(), count=40):
    """A run of `count` questions. Wrong on the given ones: small (short, reasoning), large (the same), read calls."""
    models = {
        "small": model("tiny", {Mode.SHORT: small, Mode.REASON: small}, 0.0003),
        "large": model("huge", {Mode.SHORT: large, Mode.REASON: large, Mode.READ: read}, 0.001),
    }
    return run_directory(path, Pictured(count), ("short:small", "short:large", "reason:large", "transfer"), **models)


@pytest.mark.parametrize(
    ("large", "read", "pays"),
    [(range(20), range(2), "pays"), (range(4), range(3), "is not shown to pay"), (range(4), range(20), "does not pay")],
)
def test_the_verdict_is_against_the_best_single_model_that_is_not_shown_to_take_longer(large, read, pays, tmp_path):
    (task,) = found_in(made_of(tmp_path / "run", range(30), large, read)).tasks
    shown = task.verdict.shown
    assert task.verdict.pays == pays
    assert (shown.arm, shown.against) == ("transfer", "short:large")
    assert sentences.pays(task).startswith(f"On pictured the pair {pays}: transfer is right on")


@pytest.mark.slow
def test_a_gain_that_is_shown_to_be_below_a_point_does_not_pay(tmp_path):
    class Apart(Pictured):
        """Each question is its own cluster."""

        def items(self):
            yield from (replace(item, cluster=item.id) for item in super().items())

    models = {"small": model("tiny", {}, 0.0003), "large": model("huge", {}, 0.001)}
    run = run_directory(tmp_path / "run", Apart(400), ("short:large", "transfer"), **models)
    verdict = found_in(run).tasks[0].verdict
    assert (verdict.pays, verdict.shown.accuracy.difference.estimate) == (Pays.NO, 0)
    assert verdict.shown.interval.high < 0.01


def test_the_verdict_has_its_break_even_and_stands_in_the_summary(tmp_path):
    run = made_of(tmp_path / "run", range(30), range(20), range(2))
    (task,) = found_in(run).tasks
    verdict = task.verdict
    arm, single = (task.arms[name] for name in (verdict.shown.arm, verdict.shown.against))
    more_s = arm.latency.estimate - single.latency.estimate
    assert verdict.seconds_a_right_answer == pytest.approx(more_s / (18 / 40))
    assert verdict.settled_from in (None, 0.0)
    sentence = verdict.sentence("pictured")
    assert f"break-even: a further right answer costs {more_s / (18 / 40):.3g} s" in sentence
    assert "Tango's score test" in sentence
    about, store = run_folder.opened(run)
    summed = summary(about["config"], store)["tasks"]["pictured"]["verdict"]
    store.close()
    assert (summed["pays"], summed["arm"], summed["against"]) == ("pays", "transfer", "short:large")
    assert summed["sentence"] == sentence
    assert found_in(run).as_object()["tasks"][0]["verdict"] == summed


def test_a_pair_that_is_less_accurate_has_no_break_even(tmp_path):
    (task,) = found_in(made_of(tmp_path / "run", range(4), range(4), range(20))).tasks
    assert task.verdict.seconds_a_right_answer is None
    assert "no break-even: it is not more accurate" in task.verdict.sentence("pictured")


def test_questions_on_which_an_arm_failed_are_in_no_comparison_and_the_verdict_counts_the_others(tmp_path):
    run = made_of(tmp_path / "run", range(30), range(20), range(2))

    def failed(record):
        if record["arm"] == "transfer" and int(record["id"]) >= 30:
            record |= {"status": "error", "route": None, "answer": None, "reply": None, "score": None, "scores": {}}
            record["latency"]["total_s"] = 0.0
            record["calls"], record["usage"] = [], {}

    rewritten(run, failed)
    (task,) = found_in(run).tasks
    arm = task.arms["transfer"]
    assert (arm.answered, arm.errors, arm.units) == (40, 10, 30)
    assert arm.latency.low > 0
    assert task.difference("transfer").pairs == task.verdict.shown.pairs == 30
    assert "30 of 40 questions" in sentences.pays(task)
    assert any("transfer 10 of 40" in line for line in sentences.summary(task, found_in(run)))


def test_chance_in_the_seconds_does_not_choose_the_single_model(tmp_path):
    models = {"small": model("tiny", {}, 0.0003), "large": model("huge", {Mode.SHORT: range(20)}, 0.001)}
    run = run_directory(tmp_path / "run", Pictured(40), ("short:large", "reason:large", "transfer"), **models)
    seconds = {"reason:large": (1.0, 1.22), "transfer": (1.2, 1.0)}  # means differ by 1%, questions by 20%

    def timed(record):
        if record["arm"] in seconds:
            record["latency"]["total_s"] = seconds[record["arm"]][int(record["id"]) % 2]
            record["calls"], record["usage"] = [], {}

    rewritten(run, timed)
    (task,) = found_in(run).tasks
    assert task.arms["reason:large"].latency.estimate > task.arms["transfer"].latency.estimate
    assert task.verdict.shown.against == "reason:large"


@pytest.mark.parametrize("read", [(), range(2)])
def test_a_handful_of_questions_shows_nothing(read, tmp_path):
    (task,) = found_in(made_of(tmp_path / "run", (), (), read, count=2)).tasks
    assert task.verdict.pays == Pays.OPEN
    sentence = sentences.pays(task)
    assert "is not shown to pay" in sentence
    assert "2 questions: too few to tell" in sentence


def test_a_loss_that_may_be_chance_is_not_shown(tmp_path):
    (task,) = found_in(made_of(tmp_path / "run", range(30), range(4), range(6))).tasks
    assert task.verdict.shown.accuracy.difference.estimate < 0
    assert task.verdict.pays == Pays.OPEN


def test_the_verdict_names_the_baseline_of_its_speed_and_what_was_settled_without_reasoning(run):
    (task,) = found_in(run).tasks
    sentence = sentences.pays(task)
    assert "Against the large model reasoning for itself (reason:large) it is" in sentence
    shares = {route.route: route.share for route in task.arms[task.verdict.shown.arm].routes}
    assert f"settles {sentences.share(shares.get('agreed', 0.0))} of the questions" in sentence
    assert task.verdict.settled == shares.get("agreed", 0.0)


def test_an_interval_has_zero_in_it_unless_the_adjusted_test_rejects_that(run):
    (task,) = found_in(run).tasks
    for each in task.differences:
        assert (each.interval.low <= 0 <= each.interval.high) is not each.significant
        assert each.interval.low <= each.accuracy.difference.low
        assert each.interval.high >= each.accuracy.difference.high
    close = replace(task.differences[0], p_adjusted=1.0)
    close = replace(close, accuracy=replace(close.accuracy, difference=Interval(0.1, 0.02, 0.2, 0.95, "")))
    assert (close.interval.low, close.interval.high) == (0.0, 0.2)


def test_a_run_without_a_single_model_has_no_verdict(tmp_path):
    (task,) = found_in(run_directory(tmp_path / "run", arms=("transfer", "mutual"))).tasks
    assert task.verdict is None
