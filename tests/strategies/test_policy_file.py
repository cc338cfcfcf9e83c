"""Policy files: reading, writing, and errors in one line."""

from __future__ import annotations

import json
import shutil
import tomllib
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

import program
from cuecard.domain.errors import BadInput
from cuecard.models.acceptance_table import SHARED, AcceptanceTable, KindWeights
from cuecard.models.prompt import CardFormat
from cuecard.models.spec import Embedded
from cuecard.strategies.policy import Acceptance, Calibrated, Policy, Schedule
from cuecard.strategies.policy_file import Origin, PolicyFile, policy_with, read, write

TUNED = PolicyFile(
    "mutual",
    {
        "schedule": "eager",
        "accept": "agree+confidence(0.85)",
        "card": "notes",
        "budget": 128,
        "answer_tokens": 32,
    },
    origin=Origin(run="runs/x", arm="mutual/eager", questions=2000, keep=0.99, p=0.003, guarantee='"kept"\nwith 95%'),
)
TABLE = AcceptanceTable(
    "demo-small",
    "demo-large",
    0.25,
    1.5,
    0.1,
    -0.2,
    ((SHARED, KindWeights(-1.0, 2.0, 900, 0.8, 0.05, 0.01)), ("a kind", KindWeights(-1.5, 2.5, 90))),
    tasks=("boards:split=validation", 'a "quoted" one'),
    run="x",
)
CALIBRATED = replace(TUNED, options={"accept": "calibrated(0.97)"}, table=TABLE)
TEXT = 'version = 1\nstrategy = "mutual"\nschedule = "eager"\naccept = "agree"\nbudget = 5\n[origin]\nquestions = 7\n'


def test_a_written_policy_file_is_read_again(tmp_path):
    write(tmp_path / "policy.toml", TUNED)
    assert read(tmp_path / "policy.toml") == TUNED
    assert tomllib.loads((tmp_path / "policy.toml").read_text())["version"] == 1
    assert "samples" not in (tmp_path / "policy.toml").read_text()


def test_a_policy_file_keeps_its_acceptance_table(tmp_path):
    write(tmp_path / "policy.toml", CALIBRATED)
    assert read(tmp_path / "policy.toml") == CALIBRATED
    policy = read(tmp_path / "policy.toml").policy(Policy(table=replace(TABLE, small="other")))
    assert (policy.accept, policy.table) == (Calibrated(0.97), TABLE)
    assert TUNED.policy(Policy(table=TABLE)).table == TABLE


@given(st.text(st.characters(exclude_categories=["Cs"])), st.floats(0, 1), st.integers(0, 10**9))
def test_any_text_and_number_of_an_origin_survives(tmp_path_factory, text, p, questions):
    path = tmp_path_factory.mktemp("policy") / "policy.toml"
    kept = PolicyFile("transfer", origin=Origin(guarantee=text, p=p, questions=questions))
    write(path, kept)
    assert read(path) == kept


def test_a_policy_file_changes_only_the_options_that_it_sets():
    base = Policy(strict=True, samples=9)
    policy = TUNED.policy(base)
    assert (policy.schedule, policy.card, policy.limits.reasoning_tokens) == (Schedule.EAGER, CardFormat.NOTES, 128)
    assert policy.limits.answer_tokens == 32
    assert policy.accept == Acceptance(True, 0.85)
    assert (policy.strict, policy.samples) == (True, 9)
    assert policy == policy_with(base, **TUNED.options)


@pytest.mark.parametrize(
    ("change", "message", "hint"),
    [
        (("version = 1\n", ""), "says no version", "version = 1"),
        (("version = 1", "version = 2"), "is of version 2", ""),
        (('strategy = "mutual"\n', ""), "strategy is missing", ""),
        (("strategy", "stategy"), "unknown key stategy", "did you mean strategy?"),
        (('"mutual"', '"mutal"'), "unknown strategy 'mutal'", "did you mean mutual?"),
        (("schedule", "sched"), "unknown key sched", "did you mean schedule?"),
        (('"eager"', '"egaer"'), "unknown schedule 'egaer'", "overlap"),
        (('"agree"', '"agreed"'), "unknown acceptance rule", "agree+confidence"),
        (("budget = 5", 'budget = "5"'), "budget is not a whole number", "write budget as a whole number"),
        (("budget = 5", "budget = true"), "budget is not a whole number", ""),
        (("budget = 5", "budget = 0"), "at least 1 token", ""),
        (("budget = 5", 'card = "note"'), "unknown card format", ""),
        (("questions", "question"), "unknown key origin.question", "did you mean questions?"),
        (("[origin]\nquestions = 7", "origin = 3"), "origin is not a table", ""),
        (("[origin]\nquestions = 7", "table = 3"), "table is neither a table nor a text", "write [table]"),
        (("[origin]\nquestions = 7", "[table]\nversion = 1"), "without kinds.shared", "cuecard tune"),
        (("[origin]\nquestions = 7", 'table = "none.json"'), "cannot read", "cuecard tune"),
        (("version", "[version"), "not valid TOML", ""),
    ],
)
def test_an_error_in_a_policy_file_names_the_file(tmp_path, change, message, hint):
    path = tmp_path / "policy.toml"
    path.write_text(TEXT.replace(*change))
    with pytest.raises(BadInput) as refused:
        read(path)
    assert message in str(refused.value)
    assert str(path) in str(refused.value)
    assert hint in refused.value.hint


def test_a_policy_file_that_cannot_be_read_or_written_is_an_error(tmp_path):
    with pytest.raises(BadInput, match="cannot read"):
        read(tmp_path / "none.toml")
    with pytest.raises(BadInput, match="cannot write"):
        write(tmp_path / "no" / "where.toml", TUNED)


def test_options_of_ask_override_its_policy_file(tmp_path, board):
    write(tmp_path / "policy.toml", PolicyFile("transfer", {"schedule": "thrifty"}))
    found = asked(board, "--policy", tmp_path / "policy.toml")
    assert (found["strategy"], found["schedule"]) == ("transfer", "thrifty")
    found = asked(board, "--policy", tmp_path / "policy.toml", "--strategy", "short:large")
    assert (found["strategy"], found["schedule"]) == ("short:large", "thrifty")


def asked(board, *options):
    done = program.run("ask", "How many red digits are there?", "--image", board, "--json", *options)
    return json.loads(done.stdout)


def test_settings_of_the_gateway_override_its_policy_file(tmp_path):
    config = pytest.importorskip("cuecard.gateway.config")
    write(tmp_path / "policy.toml", TUNED)
    models = '[small]\nmodel = "demo-small"\n[large]\nmodel = "demo-large"\n'
    own = tmp_path / "cuecard.toml"
    own.write_text(f'version = 1\n[pair]\npolicy = "policy.toml"\nschedule = "overlap"\n{models}')
    found = config.read(own)
    assert found.pairs["cuecard"].strategy == "mutual"
    expected = replace(TUNED, options={**TUNED.options, "schedule": "overlap"}).policy()
    assert replace(found.pairs["cuecard"].policy_of(Policy()), deadline_s=None) == expected
    own.write_text(f'version = 1\n[pair]\npolicy = "none.toml"\n{models}')
    with pytest.raises(BadInput, match=r"cannot read .*none\.toml"):
        config.read(own)


def test_a_calibrated_rule_is_asked_with_a_policy_files_table_and_refused_without_one(tmp_path, board):
    # this table gives every answer a probability of 0.99
    lenient = replace(
        TABLE, log_large=0.0, log_not_large=0.0, logit_small=0.0, kinds=((SHARED, KindWeights(5, 0, 900)),)
    )
    write(tmp_path / "policy.toml", replace(CALIBRATED, options={}, table=lenient))
    found = asked(board, "--policy", tmp_path / "policy.toml")
    assert (found["route"], "0.993 by the table (at least 0.98 wanted)" in found["reason"]) == ("agreed", True)
    write(tmp_path / "policy.toml", replace(CALIBRATED, table=None))
    bare = tmp_path / "demo-large"  # the same weights without their own table
    shutil.copytree(Embedded("demo-large").folder, bare, ignore=shutil.ignore_patterns("acceptance.json"))
    refused = program.run("ask", "How many?", "--image", board, "--large", bare, "--policy", tmp_path / "policy.toml")
    assert refused.returncode == 2
    assert "needs an acceptance table for demo-small and demo-large" in refused.stderr
    assert "cuecard tune" in refused.stderr


def test_the_gateway_takes_the_table_of_its_policy_file(tmp_path):
    config = pytest.importorskip("cuecard.gateway.config")
    write(tmp_path / "policy.toml", CALIBRATED)
    models = '[small]\nmodel = "demo-small"\n[large]\nmodel = "demo-large"\n'
    own = tmp_path / "cuecard.toml"
    own.write_text(f'version = 1\n[pair]\npolicy = "policy.toml"\n{models}')
    pair = config.read(own).pairs["cuecard"]
    assert (pair.policy_of(Policy()).table, pair.policy_of(Policy()).accept) == (TABLE, Calibrated(0.97))
    # another table makes another pair, so a reload applies it
    write(tmp_path / "policy.toml", replace(CALIBRATED, table=replace(TABLE, log_large=0.3)))
    assert config.read(own).pairs["cuecard"] != pair
    own.write_text(f'version = 1\n[pair]\naccept = "calibrated(0.9)"\n{models}[pair.table]\nversion = 1\n')
    with pytest.raises(BadInput, match="comes with a policy file"):
        config.read(own)
