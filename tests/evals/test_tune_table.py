"""`cuecard tune` with an acceptance table: fitted on the explored third, tested on the rest, saved and used."""

from __future__ import annotations

import json
import math
import random
import re
from pathlib import Path
from typing import Any

import pytest
import typer
from laboratory import Laboratory, MadeUp
from typer.testing import CliRunner

from cuecard import disk, virtual_time
from cuecard.cli.evals.tune import tune as command
from cuecard.domain.call import Mode
from cuecard.domain.errors import BadInput
from cuecard.domain.outcome import Route
from cuecard.domain.question import AnswerKind, Question
from cuecard.evals.analysis import tune as tuning
from cuecard.evals.analysis.acceptance import called_short
from cuecard.evals.analysis.results import run_results
from cuecard.evals.analysis.tune import calibrated, candidates
from cuecard.evals.arm import base_of, parse
from cuecard.evals.database import AnswerRow, CallRow, ItemRow, Store
from cuecard.evals.study import run_config
from cuecard.models.acceptance_table import SHARED, AcceptanceTable, KindWeights
from cuecard.models.prompt import Prompt
from cuecard.models.replay import Says, ScriptedModel
from cuecard.strategies import policy_file
from cuecard.strategies.policy import Acceptance, Calibrated, Policy
from cuecard.strategies.run import answer

ALL, NONE = "mutual/thrifty/accept=confidence(0)", "mutual/thrifty/accept=agree+confidence(1)"
MODELS = {role: {"name": name, "revision": f"of {name}"} for role, name in (("small", "tiny"), ("large", "huge"))}
TOKENS = {"prompt_tokens": 100, "cached_tokens": 0, "completion_tokens": 2, "reasoning_tokens": 0}


def short_call(text: str, sure: float | None) -> dict[str, Any]:
    logprob = None if sure is None else math.log(sure)
    call = {"mode": "short", "model": "m", "status": "ok", "answer": text, "answer_logprob": logprob, "reasoning": None}
    return call | TOKENS | {"finish_reason": "stop", "end_s": 0.1, "failures": []}


def made_run(folder: Path, count: int = 600, errors: float = 1.0, probabilities: bool = True) -> Path:
    """A run with a small model that is often wrong, and a calibrated large model; reasoning is right."""
    rng, rows = random.Random(11), []
    item = {"text": "How many?", "options": [], "kind": "number", "system": None, "golds": ["1"], "scorer": "exact"}
    item |= {"group": None, "category": None, "split": None, "extra": None}
    for place in range(count):
        id, sure = str(place), 1 - errors * rng.choice([0.001, 0.004, 0.2, 0.5])
        large, small = rng.random() < sure, rng.random() < 0.5
        rows.append(ItemRow("made", id, place, item | {"cluster": f"image {id}"}))
        texts = {"small": "1" if small else "2", "large": "1" if large else "3"}
        for role, text in texts.items():
            known = (sure if role == "large" else 0.6) if probabilities else None
            rows.append(CallRow(f"{role} {id}", short_call(text, known)))
        calls = [
            {"role": role, "model": MODELS[role]["name"], "mode": "short", "key": f"{role} {id}", "start_s": 0.0}
            | {"first_token_s": 0.1, "end_s": 0.2, "finish_reason": "stop"}
            | TOKENS
            for role in texts
        ]
        for arm, route, score, seconds in (
            ("reason:large", "direct", 1.0, 4.0),
            (ALL, "agreed", float(large), 0.2),
            (NONE, "transferred", 1.0, 3.0),
        ):
            made = {"task": "made", "id": id, "arm": arm, "status": "ok", "route": route, "confidence": sure}
            made |= {"score": score, "latency": {"total_s": seconds, "kind": "composed"}, "calls": calls}
            rows.append(AnswerRow("made", id, arm, made))
    store = Store(folder / "run.sqlite")
    store.put(rows)
    store.close()
    config = {"arms": ["reason:large", ALL, NONE], "models": MODELS, "tasks": []}
    disk.save(folder / "run.json", {"version": 1, "config": config})
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return made_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def done(run):
    return tuned(run, "--keep", "0.97", "--out", run / "policy.toml", "--table", run / "acceptance.json")


def tuned(*options: Any) -> Any:
    app = typer.Typer()
    app.command()(command)
    return CliRunner().invoke(app, [*map(str, options)], env={"COLUMNS": "160"})


def test_a_calibrated_policy_is_chosen_tested_and_written_with_its_table(run, done):
    assert done.exit_code == 0, done.output
    policy = policy_file.read(run / "policy.toml")
    assert isinstance(Acceptance.parse(policy.options["accept"]), Calibrated)
    assert (policy.table.small, policy.table.large) == ("tiny", "huge")
    assert (policy.table.small_revision, policy.table.large_revision) == ("of tiny", "of huge")
    assert policy.origin.p <= 0.05
    assert re.fullmatch(r"[0-9a-f]{16}", policy.origin.data)
    assert re.search(r"number +200 +\d", done.output)
    assert "of the questions wrong (beta)" in done.output
    assert "fitted on the 200 questions that no policy is tested on" in done.output
    assert "calibrated(0.98)" in done.output


def test_a_written_table_has_its_evidence(run, done):
    for table in (policy_file.read(run / "policy.toml").table, AcceptanceTable.read(run / "acceptance.json")):
        seen = table.evidence
        assert (seen.rule, seen.level) == ("calibrated(0.98)", 0.95)
        assert 0 <= seen.wrong <= seen.accepted <= table.questions
        assert seen.risk <= seen.risk_high <= 1
        assert 0 <= seen.beta <= 1
        assert re.fullmatch(r"[0-9a-f]{16}", seen.data)
    with pytest.raises(BadInput, match=r"evidence\.rule is missing"):
        AcceptanceTable.of_object({**table.as_object(), "evidence": {"accepted": 1}})


def test_the_table_is_fitted_on_the_questions_that_no_policy_is_tested_on(run, done):
    store = Store(run / "run.sqlite", read_only=True)
    items, answers = list(store.items()), list(store.answers())
    seen = tuning.table(tuning.observations(candidates(answers), items, "reason:large"))
    explored = tuning.explored_clusters(seen)
    short = called_short(items, answers, store.call)
    store.close()
    assert (len(short), len(explored)) == (600, 200)
    tested = policy_file.read(run / "policy.toml").table
    assert tested.questions == 200
    right = sum(each.large_right for each in short.values() if each.cluster in explored)
    assert dict(tested.kinds)[SHARED].accuracy == pytest.approx(right / 200, abs=1e-4)
    # the separate file has the table fitted on all questions
    assert AcceptanceTable.read(run / "acceptance.json").questions == 600


def test_the_policy_works_in_python_in_arms_and_by_its_json_file(run, done, tmp_path):
    arm = parse(f"policy:{run / 'policy.toml'}")
    assert arm.policy.table == policy_file.read(run / "policy.toml").table
    (tmp_path / "acceptance.json").write_bytes((run / "acceptance.json").read_bytes())
    by_name = tmp_path / "named.toml"
    by_name.write_text('version = 1\nstrategy = "mutual"\ntable = "acceptance.json"\n')
    for policy in (arm.policy, policy_file.read(by_name).policy()):
        assert ask(policy, sure=0.999).route is Route.AGREED
        assert "by the table" in ask(policy, sure=0.999).reason
        assert ask(policy, sure=0.6).route is not Route.AGREED


def ask(policy: Policy, sure: float) -> Any:
    def model(name: str, text: str, sure: float) -> ScriptedModel:
        def says(prompt: Prompt) -> Says:
            return Says(text if prompt.mode is Mode.SHORT else "7", "So.", confidence_logprob=math.log(sure))

        return ScriptedModel(name, says)

    models = {"small": model("tiny", "2", 0.6), "large": model("huge", "3", sure)}
    return virtual_time.run(answer(Question("How many?", kind=AnswerKind.NUMBER), models, "mutual", policy))


def test_only_a_table_is_written_where_no_policy_is_wanted(run, tmp_path):
    file = tmp_path / "acceptance.json"
    done = tuned(run, "--table", file)
    assert done.exit_code == 0, done.output
    assert "acceptance table of tiny and huge, fitted on 600 questions of made" in done.output
    table = AcceptanceTable.read(file)
    assert (table.questions, table.tasks, table.run) == (600, ("made",), run.name)
    assert dict(table.kinds)["number"].ece < 0.05
    assert json.loads(tuned(run, "--table", file, "--json").output) == table.as_object()


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"count": 40}, "needs 50 questions that both models answered short"),
        ({"count": 90, "errors": 0.0}, "there are 90 questions, 90 right and 0 wrong"),
        ({"count": 90, "probabilities": False}, "needs probabilities, and huge gives none"),
    ],
)
def test_data_that_show_too_little_are_one_message_and_tuning_goes_on_without_a_table(tmp_path, how, message):
    run = made_run(tmp_path, **how)
    refused = tuned(run, "--table", tmp_path / "acceptance.json").exception
    assert isinstance(refused, BadInput)
    assert message in refused.message
    assert not (tmp_path / "acceptance.json").exists()
    done = tuned(run, "--keep", "0.5")
    assert done.output.count("no acceptance table: an acceptance table needs") == 1
    assert "calibrated" not in done.output


def test_a_run_without_the_small_models_short_answers_is_refused(tmp_path):
    store = Store(tmp_path / "run.sqlite")
    store.put([ItemRow("made", "1", 0, {"cluster": "c"})])
    store.close()
    disk.save(tmp_path / "run.json", {"version": 1, "config": {"arms": [], "models": MODELS}})
    refused = tuned(tmp_path, "--table", tmp_path / "acceptance.json").exception
    assert "the run has none" in refused.message
    assert "short:small and short:large" in refused.hint


# --- candidates that were not run -------------------------------------------------------------------------------------

TABLE = AcceptanceTable("small", "large", 0.5, 0.5, 0.1, 0.0, ((SHARED, KindWeights(0.0, 1.5, 1000)),))
RULES = [f"mutual/eager/accept=calibrated({p})" for p in (0.9, 0.95)]


@pytest.fixture(scope="module")
def laboratory(tmp_path_factory):
    """Questions on which the models agree or not, with different confidences of the large one."""

    def says(role: str, prompt: Prompt) -> Says:
        place = int(re.search(r"Question (\d+)", prompt.turns[-1].text)[1])
        sure = 1 - [0.02, 0.1, 0.3, 0.001][place % 4]
        text = "ABC"[place % 3] if role == "small" else "AB"[place % 2]
        if prompt.mode is not Mode.SHORT:
            return Says("A", "I look.", confidence_logprob=math.log(sure))
        # the small model's short answer comes first, on a busy machine too
        return Says(text, confidence_logprob=math.log(sure), first_token_s=0.0 if role == "small" else 0.1)

    made = Laboratory(
        tmp_path_factory.mktemp("laboratory"),
        MadeUp(24),
        [
            "reason:large",
            "mutual/eager/accept=agree",
            *(f"mutual/eager/accept={rule}" for rule in ("confidence(0)", "agree+confidence(1)")),
            *RULES,
        ],
        ScriptedModel("small", lambda prompt: says("small", prompt)),
        ScriptedModel("large", lambda prompt: says("large", prompt)),
        Policy(table=TABLE),
    )
    made.run()
    return made


def test_what_a_calibrated_rule_would_have_done_is_what_it_does(laboratory):
    store = laboratory.store()
    items, answers = list(store.items()), list(store.answers())
    short = called_short(items, answers, store.call)
    store.close()
    run = candidates([each for each in answers if each["arm"] not in RULES])
    made = calibrated(run, short, TABLE)
    for name in RULES:
        ran = {(each["task"], each["id"]): each for each in answers if each["arm"] == name}
        assert len(ran) == 24
        assert {each["route"] for each in ran.values()} > {"agreed"}
        for key, each in made[name].answers.items():
            same = ("answer", "route", "score", "latency", "usage", "calls")
            assert {it: each[it] for it in same} == {it: ran[key][it] for it in same}
    assert made[RULES[0]].arm.policy.table == TABLE


def test_a_rule_that_no_arm_shows_is_no_candidate(laboratory):
    store = laboratory.store()
    items, answers = list(store.items()), list(store.answers())
    short = called_short(items, answers, store.call)
    store.close()
    # no disagreeing answer was accepted, so the cost of accepting one is unknown
    run = candidates([each for each in answers if each["arm"] == "mutual/eager/accept=agree+confidence(1)"])
    assert calibrated(run, short, TABLE) == {}


def test_a_run_by_a_table_keeps_it_and_its_report_shows_calibrated_rules(laboratory):
    base, arms = Policy(table=TABLE), [*laboratory.arms, "short:small", "short:large"]
    config = run_config(laboratory.seats, [laboratory.task], [parse(each, base) for each in arms], base)
    assert config["policy"]["accept"] == "calibrated(0.98)"
    assert base_of(config).table == TABLE
    assert base_of(config).accept == Calibrated(0.98)
    plain = run_config(laboratory.seats, [laboratory.task], [parse("mutual")], Policy())
    assert (plain["policy"]["accept"], "table" in plain["policy"]) == ("agree+confidence(0.9)|confidence(0.99)", False)
    short = Laboratory(laboratory.folder, laboratory.task, ["short:small", "short:large"], *laboratory.models.values())
    short.run()
    store = laboratory.store()
    rules = {rule.rule for rule in run_results(config, store).tasks[0].rules}
    store.close()
    assert {"agree", "calibrated(0.9)", "calibrated(0.98)"} <= rules
