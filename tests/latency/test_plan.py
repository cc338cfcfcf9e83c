"""A plan without measurement: every number follows from fits or from public figures with a source."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from made_up import profiled
from typer.testing import CliRunner

from cuecard.cli import app
from cuecard.domain.errors import BadInput
from cuecard.latency import fit, latency_model
from cuecard.latency.simulation import Line, plans
from cuecard.strategies.policy import Schedule

FILE = """
questions = 1000

[workload]
visual_tokens = 196
text_tokens = 44
reasoning_tokens = 100
large_reasoning_tokens = 60
agree = 0.5

[models.tiny-2b]
fit = "run"
price_per_hour = 3.6

[models.hosted]
first_token_s = 0.4
decode_tokens_per_s = 100
source = "https://example.org/speeds, 2026-11-01"
prompt_price = 1.0
cached_price = 0.1
completion_price = 10.0

[[pairs]]
small = "tiny-2b"
large = "hosted"
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    profiled(tmp_path / "run")
    latency_model.write(fit.fits(tmp_path / "run", draws=0), tmp_path / "run" / latency_model.FOLDER)
    (tmp_path / "plan.toml").write_text(FILE)
    return tmp_path / "plan.toml"


def lines(file: Path) -> dict[tuple[str, Schedule | None], Line]:
    _, (found,) = plans(file)
    return {(line.strategy, line.schedule): line for line in found.lines}


def test_public_figures_give_latency_and_cost(file: Path) -> None:
    by = lines(file)
    alone = by["reason:large", None]
    assert alone.mean_s == pytest.approx(0.4 + (60 + 4 - 1) / 100)
    assert alone.completion_tokens == {"small": 0, "large": 64}
    assert alone.cost == pytest.approx((alone.prompt_tokens["large"] * 1.0 + 64 * 10.0) / 1e6)


def test_a_fit_gives_its_own_latency_and_its_devices_time_as_cost(file: Path) -> None:
    short = lines(file)["short:small", None]
    known = latency_model.plainest(latency_model.read_all(file.parent / "run"), "tiny-2b").profile.call_s(196, 240, 4)
    assert short.mean_s == pytest.approx(known)
    assert short.cost == pytest.approx(known * 3.6 / 3600)


def test_cached_tokens_of_a_strategy_cost_their_own_price(file: Path) -> None:
    transfer = lines(file)["transfer", Schedule.OVERLAP]
    fresh = transfer.prompt_tokens["large"] - transfer.cached_tokens["large"]
    assert transfer.cached_tokens["large"] > 0
    hosted = (fresh * 1.0 + transfer.cached_tokens["large"] * 0.1 + 4 * 10.0) / 1e6
    assert transfer.cost == pytest.approx(hosted + transfer.busy_s["small"] * 3.6 / 3600)


def test_agreement_makes_mutual_verification_cheaper_and_faster(file: Path) -> None:
    before = lines(file)["mutual", Schedule.THRIFTY]
    file.write_text(FILE.replace('large = "hosted"\n', 'large = "hosted"\nagree = 0.9\n'))
    after = lines(file)["mutual", Schedule.THRIFTY]
    assert after.mean_s < before.mean_s
    assert (after.cost or 0) < (before.cost or 0)


@pytest.mark.slow
def test_a_plan_says_where_it_lies_beyond_what_was_measured(file: Path) -> None:
    _, (found,) = plans(file)
    assert not found.extrapolated
    file.write_text(file.read_text().replace("\nreasoning_tokens = 100", "\nreasoning_tokens = 6000"))
    _, (far,) = plans(file)
    assert far.extrapolated
    assert all(line.startswith("tiny-2b: 6,00") for line in far.extrapolated)


def test_a_plan_names_the_origin_of_its_figures(file: Path) -> None:
    result = CliRunner().invoke(app, ["plan", str(file)])
    assert result.exit_code == 0, result.output
    printed = " ".join(result.output.split())
    assert "estimated" in printed
    assert "public figures: https://example.org/speeds, 2026-11-01" in printed
    assert "measured on made up, 2026-11-25" in printed
    as_json = json.loads(CliRunner().invoke(app, ["plan", str(file), "--json"]).output)
    assert as_json["label"] == "estimated"
    assert len(as_json["pairs"][0]["lines"]) == 9


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("agree = 0.5", "agreee = 0.5", "unknown key workload.agreee"),
        ("agree = 0.5", "agree = 1.5", "between 0 and 1"),
        ('source = "https://example.org/speeds, 2026-11-01"', "", "where its figures come from"),
        ("decode_tokens_per_s = 100", "decode_tokens_per_s = 0", "is 0"),
        ('fit = "run"', "", "needs a fit or decode_tokens_per_s"),
        ('large = "hosted"', 'large = "missing"', "'missing', has no table"),
        ("reasoning_tokens = 100\n", "", "workload.reasoning_tokens is missing"),
        ("text_tokens = 44", 'text_tokens = "44"', "not a whole number"),
        ('[[pairs]]\nsmall = "tiny-2b"\nlarge = "hosted"', "", "no pairs"),
        ("questions = 1000", "questions = 0", "whole number"),
        ("[workload]", "[workload", "not valid TOML"),
    ],
)
def test_an_invalid_file_is_refused_with_the_reason(file: Path, old: str, new: str, message: str) -> None:
    assert old in FILE
    file.write_text(FILE.replace(old, new, 1))
    with pytest.raises(BadInput, match=message):
        plans(file)
