"""Policy options are declared once; all public interfaces are generated from the declaration."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cuecard.domain.errors import BadInput
from cuecard.models.prompt import CardFormat
from cuecard.strategies import policy_file as declared
from cuecard.strategies.policy import Policy, Schedule
from cuecard.strategies.policy_file import OPTIONS, policy_with

NEW_OPTION = """
    follow: Annotated[int | None, Option("follow_chars", "Characters between two warm-ups of the reader.")]
"""
ASKED_EVERYWHERE = """
import inspect, sys
from importlib.util import spec_from_file_location
from pathlib import Path


class Declared:
    @staticmethod
    def find_spec(name, path=None, target=None):
        return spec_from_file_location(name, sys.argv[1]) if name == "cuecard.strategies.policy_file" else None


sys.meta_path.insert(0, Declared)
folder = Path(sys.argv[2])

import cuecard
from cuecard.strategies import policy_file
from cuecard.strategies.policy import Policy

base = Policy()
(folder / "policy.toml").write_text('version = 1\\nstrategy = "mutual"\\nfollow = 7\\n')
assert policy_file.read(folder / "policy.toml").policy().follow_chars == 7, "a policy file"

assert "follow" in inspect.signature(cuecard.Pair.ask).parameters, "Python"
asked = cuecard.Pair("demo-small", "demo-large", probe=False)._prepare("How many?", None, {"follow": 7})
assert asked[2].follow_chars == 7, "Python"

from cuecard.evals.arm import parse
from cuecard.evals import study

assert parse("mutual/follow=7", base).policy.follow_chars == 7, "an arm"
(folder / "study.toml").write_text(
    'tasks = ["boards"]\\nfollow = 7\\n[small]\\nmodel = "demo-small"\\n[large]\\nmodel = "demo-large"\\n'
)
assert study.read(folder / "study.toml").base.follow_chars == 7, "a study"

from typer.testing import CliRunner
from cuecard.cli import app

for command in ("ask", "replay", "eval"):
    shown = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "200", "TERM": "dumb"}).output
    assert "--follow" in shown and "Characters between two" in shown, command

try:
    from cuecard.gateway import config as config_file
    from cuecard.gateway.wire import request as chat
except ImportError:
    sys.exit()
(folder / "cuecard.toml").write_text(
    'version = 1\\n[pair]\\nfollow = 7\\n[small]\\nmodel = "demo-small"\\n[large]\\nmodel = "demo-large"\\n'
)
assert config_file.read(folder / "cuecard.toml").pairs["cuecard"].policy_of(base).follow_chars == 7, "the gateway"
messages = [{"role": "user", "content": "How many?"}]
body = {"model": "cuecard", "messages": messages, "cuecard": {"follow": 7}}
assert chat.parse(body, None).settings["follow"] == 7, "a request"
"""


def test_an_option_that_is_declared_in_one_line_can_be_set_everywhere(tmp_path: Path):
    source = Path(declared.__file__).read_text(encoding="utf-8")
    head, begin, rest = source.partition("    schedule: Annotated[\n")
    (tmp_path / "policy.py").write_text(f"{head}{NEW_OPTION}\n{begin}{rest}", encoding="utf-8")
    command = [sys.executable, "-c", ASKED_EVERYWHERE, str(tmp_path / "policy.py"), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", OPTIONS)
def test_an_option_reads_the_value_that_it_sets(name: str):
    texts = {"schedule": "eager", "accept": "confidence(0.5)", "card": "turn", "card_select": "last"}
    texts |= {"card_ending": "kept", "early_stop": "2:16:0.9"}
    value = texts[name] if OPTIONS[name].kind is str else {int: 3, float: 0.25, bool: True}[OPTIONS[name].kind]
    assert OPTIONS[name].of(policy_with(Policy(), **{name: value})) == value
    assert policy_with(Policy(), **{name: None}) == Policy()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"budget": "3"}, "budget is not a whole number"),
        ({"budget": True}, "budget is not a whole number"),
        ({"temperature": "hot"}, "temperature is not a number"),
        ({"strict": 1}, "strict is not true or false"),
        ({"schedule": 3}, "schedule is not a text"),
        ({"schedule": "egaer"}, "unknown schedule 'egaer'"),
        ({"card_ending": "gone"}, "unknown ending 'gone'"),
        ({"card_keep": 0.5, "early_stop": "2"}, "cannot be read while it is written"),
    ],
)
def test_a_wrong_option_is_refused(options: dict[str, object], message: str):
    with pytest.raises(BadInput, match=message):
        policy_with(Policy(), **options)


@given(st.sampled_from(Schedule), st.sampled_from(CardFormat), st.integers(1, 99), st.floats(0.01, 1), st.booleans())
def test_a_policy_is_rebuilt_from_its_options(schedule, card, budget, keep, strict):
    policy = policy_with(
        Policy(), schedule=schedule, card=card, budget=budget, card_keep=keep, card_ending="kept", strict=strict
    )
    assert policy_with(Policy(), **{name: option.of(policy) for name, option in OPTIONS.items()}) == policy
