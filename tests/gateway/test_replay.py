"""Replay of a journal with another policy or pair."""

from __future__ import annotations

import asyncio
import io
import json
from pathlib import Path

import pytest
from gateways import COUNT, THOUGHT, disagreeing, model
from PIL import Image as PilImage
from typer.testing import CliRunner

from cuecard import virtual_time
from cuecard.cli import app
from cuecard.domain.call import Mode
from cuecard.domain.errors import BadInput
from cuecard.domain.outcome import Outcome, Route
from cuecard.domain.question import AnswerKind, Image, Question
from cuecard.gateway.records import Journal
from cuecard.gateway.replay import ReplayedRequest, entries, replay, summary
from cuecard.gateway.wire.request import ParsedRequest, RequestEnd, RequestInfo, Unanswered
from cuecard.models.base import Model
from cuecard.strategies.policy import Policy
from cuecard.strategies.policy_file import policy_with
from cuecard.strategies.run import answer

SLOW = {"first_token_s": 0.1, "token_s": 0.01}


def picture() -> Image:
    data = io.BytesIO()
    PilImage.new("RGB", (32, 32), (200, 10, 10)).save(data, "PNG")
    return Image(data.getvalue())


ASKED = ParsedRequest(model="cuecard", question=Question(COUNT, (picture(),), kind=AnswerKind.NUMBER))


def written(path: Path, strategy: str = "mutual", content: bool = True) -> Outcome:
    """Write a journal of one request, answered by the scripted pair in virtual time; returns the outcome."""
    outcome = virtual_time.run(answer(ASKED.question, disagreeing(**SLOW), strategy))
    journal = Journal(path, content=content)
    journal.write(ASKED, outcome)
    journal.close()
    return outcome


def replayed(path: Path, strategy: str, living: dict[str, Model] | None = None, **settings) -> ReplayedRequest:
    async def first() -> ReplayedRequest:
        return await anext(replay(entries(path), strategy, policy_with(Policy(), **settings), living or {}))

    return virtual_time.run(first())


def test_the_same_policy_tells_the_same_again(tmp_path):
    before = written(tmp_path / "log")
    result = replayed(tmp_path / "log", "mutual")
    assert result.after is not None
    assert result.same_answer
    assert (result.after.route, result.after.answer) == (before.route, before.answer)
    assert result.after.total_s == pytest.approx(before.total_s, abs=0.03)


@pytest.mark.parametrize(
    ("strategy", "answered"), [("short:small", "2"), ("short:large", "5"), ("reason:small", "4"), ("transfer", "3")]
)
def test_another_strategy_is_replayed_from_the_calls_that_were_made(strategy, answered, tmp_path):
    written(tmp_path / "log")
    result = replayed(tmp_path / "log", strategy)
    assert result.after is not None
    assert (result.after.answer, result.asked) == (answered, 0)


def test_calls_that_were_not_made_are_listed_as_missing(tmp_path):
    written(tmp_path / "log", "short:small")
    result = replayed(tmp_path / "log", "transfer")
    assert result.after is None
    assert result.missing == ("small reason",)
    assert summary([result])["told"] == 0


def test_a_living_model_is_asked_for_what_is_missing_and_for_nothing_else(tmp_path):
    written(tmp_path / "log", "reason:small")
    large = model("huge", "5", "3")
    result = replayed(tmp_path / "log", "transfer", {"large": large})
    assert result.after is not None
    assert (result.after.answer, result.asked) == ("3", 1)
    assert [prompt.mode for prompt in large.prompts] == [Mode.READ]
    assert THOUGHT in (large.prompts[0].card or "")
    assert large.prompts[0].images == (picture(),)


def test_calls_of_a_model_that_was_replaced_do_not_count(tmp_path):
    written(tmp_path / "log")
    other = model("other", "9")
    result = replayed(tmp_path / "log", "short:large", {"large": other})
    assert result.after is not None
    assert (result.after.answer, result.asked, result.same_answer) == ("9", 1, False)


def test_reasoning_that_does_not_fit_a_smaller_budget_is_not_taken(tmp_path):
    written(tmp_path / "log")
    assert replayed(tmp_path / "log", "reason:small", budget=3).missing == ("small reason",)


def test_a_journal_of_hashes_cannot_be_replayed(tmp_path):
    written(tmp_path / "log", content=False)
    with pytest.raises(BadInput, match="holds hashes"):
        entries(tmp_path / "log")


@pytest.mark.parametrize("cut", [1, 100, -2])
def test_torn_lines_are_left_out_with_a_warning(cut, tmp_path, caplog):
    written(tmp_path / "log")
    whole = (tmp_path / "log").read_bytes()
    for result, number in (
        (whole + whole[:cut], 2),
        (whole[:cut] + b"\n" + whole, 1),
        (whole[:cut] + b"\xe2\n" + whole, 1),
    ):
        (tmp_path / "log").write_bytes(result)
        caplog.clear()
        assert len(entries(tmp_path / "log")) == 1
        assert f"line {number} of" in caplog.text
        assert COUNT not in caplog.text


def test_a_line_that_is_of_something_else_is_an_error(tmp_path):
    (tmp_path / "log").write_text("[1]\n")
    with pytest.raises(BadInput, match="line 1 of"):
        entries(tmp_path / "log")


def test_a_line_that_was_torn_by_a_kill_costs_no_other(tmp_path):
    written(tmp_path / "log")
    whole = (tmp_path / "log").read_bytes()
    (tmp_path / "log").write_bytes(whole + whole[:100])  # the gateway restarts
    written(tmp_path / "log")
    assert len(entries(tmp_path / "log")) == 2


def test_journals_of_several_gateways_are_merged_by_time_and_each_request_counts_once(tmp_path):
    """Lines alternate between two journals, one line is in both, and each ends in half a line."""
    written(tmp_path / "log")
    record = json.loads((tmp_path / "log").read_text())
    lines = [json.dumps(record | {"at": float(at), "id": f"request-{at}"}) for at in range(6)]
    half = lines[0][: len(lines[0]) // 2]
    (tmp_path / "one").write_text("\n".join([lines[4], lines[0], lines[2], half]))
    (tmp_path / "other").write_text("\n".join([lines[1], lines[3], lines[2], lines[5], half]))
    merged = entries(tmp_path / "other", tmp_path / "one", tmp_path / "one")
    assert [entry.id for entry in merged] == [f"request-{at}" for at in range(6)]
    result = CliRunner().invoke(app, ["replay", str(tmp_path / "one"), str(tmp_path / "other"), "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["requests"] == 6


def test_a_journal_that_cannot_be_read_is_named_among_several(tmp_path):
    written(tmp_path / "log")
    with pytest.raises(BadInput, match="other"):
        entries(tmp_path / "log", tmp_path / "other")


@pytest.mark.parametrize("odd", ["\u2028", "\u2029", "\x85", "\x0b", "\x1c", "\r", "\n", "\ud83d"])
def test_line_breaks_and_half_characters_in_texts_end_no_line(odd, tmp_path):
    asked = ParsedRequest(model="cuecard", question=Question(f"How{odd}many?", kind=AnswerKind.NUMBER))
    journal = Journal(tmp_path / "log", content=True)
    for _ in range(2):
        journal.write(asked, Outcome(f"3{odd}", Route.DIRECT, "short:large", (), 1.0, "it agreed"))
    journal.close()
    assert [entry.question.text for entry in entries(tmp_path / "log")] == [f"How{odd}many?"] * 2


def test_a_journal_names_no_file_outside_its_folder(tmp_path):
    written(tmp_path / "log")
    outside = tmp_path / "secret.png"
    outside.write_bytes(picture().data)
    for path in ("../secret.png", str(outside), "..", ""):
        line = json.loads((tmp_path / "log").read_text())
        line["question"]["images"] = [path]
        (tmp_path / "other").write_text(json.dumps(line) + "\n")
        (tmp_path / "other.images").mkdir(exist_ok=True)
        with pytest.raises(BadInput, match="no line of a journal"):
            entries(tmp_path / "other")


def test_requests_that_were_not_answered_are_not_replayed(tmp_path):
    written(tmp_path / "log")
    journal = Journal(tmp_path / "log", content=True)
    journal.write(ASKED, Unanswered(RequestEnd.LEFT, "mutual", (), 0.1))
    journal.write(RequestInfo(model="cuecard"), Outcome("", Route.DIRECT, "passed", (), 0.1, ""))
    journal.close()
    assert len(entries(tmp_path / "log")) == 1


def test_the_command_tells_what_would_change(tmp_path):
    written(tmp_path / "log")
    result = CliRunner().invoke(app, ["replay", str(tmp_path / "log"), "--strategy", "short:large", "--json"])
    found = json.loads(result.stdout)
    assert (found["told"], found["answers_changed"], found["calls_asked"]) == (1, 1, 0)
    assert found["routes"] == {"before": {"transferred": 1}, "after": {"direct": 1}}
    for_people = CliRunner().invoke(app, ["replay", str(tmp_path / "log"), "--strategy", "transfer"])
    assert "1 of 1 requests can be replayed by transfer; 0 answers change" in for_people.stdout


async def test_images_of_a_conversation_are_kept_once(tmp_path):
    journal = Journal(tmp_path / "log", content=True)
    outcome = await answer(ASKED.question, disagreeing())
    journal.write(ASKED, outcome)
    journal.write(ASKED, outcome)
    await asyncio.to_thread(journal.close)
    assert [file.name for file in (tmp_path / "log.images").iterdir()] == [picture().digest]
