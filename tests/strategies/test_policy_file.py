"""A policy file says what was chosen and why; what is wrong with one is said in one line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cuecard.domain.errors import BadInput
from cuecard.models.prompt import CardFormat
from cuecard.strategies.policy import Acceptance, Policy, Schedule, policy_with
from cuecard.strategies.policy_file import Origin, PolicyFile, read, write

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
TEXT = 'version = 1\nstrategy = "mutual"\nschedule = "eager"\naccept = "agree"\nbudget = 5\n[origin]\nquestions = 7\n'


def test_what_is_written_is_read_again(tmp_path):
    write(tmp_path / "policy.toml", TUNED)
    assert read(tmp_path / "policy.toml") == TUNED
    assert tomllib.loads((tmp_path / "policy.toml").read_text())["version"] == 1
    assert "samples" not in (tmp_path / "policy.toml").read_text()


@given(st.text(st.characters(exclude_categories=["Cs"])), st.floats(0, 1), st.integers(0, 10**9))
def test_any_text_and_number_of_an_origin_survives(tmp_path_factory, text, p, questions):
    path = tmp_path_factory.mktemp("policy") / "policy.toml"
    kept = PolicyFile("transfer", origin=Origin(guarantee=text, p=p, questions=questions))
    write(path, kept)
    assert read(path) == kept


def test_it_becomes_a_policy_and_leaves_alone_what_it_does_not_say():
    base = Policy(strict=True, samples=9)
    policy = TUNED.policy(base)
    assert (policy.schedule, policy.card, policy.limits.reasoning_tokens) == (Schedule.EAGER, CardFormat.NOTES, 128)
    assert policy.limits.answer_tokens == 32
    assert policy.accept == Acceptance(True, 0.85)
    assert (policy.strict, policy.samples) == (True, 9)
    assert policy == policy_with(base, **TUNED.options)


@pytest.mark.parametrize(
    ("change", "said", "hint"),
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
        (("version", "[version"), "not valid TOML", ""),
    ],
)
def test_what_is_wrong_with_a_file_is_said_with_its_name(tmp_path, change, said, hint):
    path = tmp_path / "policy.toml"
    path.write_text(TEXT.replace(*change))
    with pytest.raises(BadInput) as refused:
        read(path)
    assert said in str(refused.value)
    assert str(path) in str(refused.value)
    assert hint in refused.value.hint


def test_a_file_that_is_not_there_or_cannot_be_written_is_told(tmp_path):
    with pytest.raises(BadInput, match="cannot read"):
        read(tmp_path / "none.toml")
    with pytest.raises(BadInput, match="cannot write"):
        write(tmp_path / "no" / "where.toml", TUNED)


def test_ask_goes_by_a_policy_file_and_by_its_own_options_before_it(tmp_path, board):
    write(tmp_path / "policy.toml", PolicyFile("transfer", {"schedule": "thrifty"}))
    told = asked(board, "--policy", tmp_path / "policy.toml")
    assert (told["strategy"], told["schedule"]) == ("transfer", "thrifty")
    told = asked(board, "--policy", tmp_path / "policy.toml", "--strategy", "short:large")
    assert (told["strategy"], told["schedule"]) == ("short:large", "thrifty")


def asked(board, *options):
    command = [
        sys.executable,
        "-m",
        "cuecard",
        "ask",
        "How many red digits are there?",
        "--image",
        str(board),
        "--json",
    ]
    settings = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, *map(str, options)], capture_output=True, timeout=90, env=settings, check=True)
    return json.loads(done.stdout)


def test_the_gateway_goes_by_the_policy_file_beside_its_own_and_by_its_own_settings_before_it(tmp_path):
    config = pytest.importorskip("cuecard.gateway.config.config_file")
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
