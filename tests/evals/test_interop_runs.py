"""Predictions of other tools become a run: routes follow from them, no value is invented, unknown ones are reported."""

from __future__ import annotations

from pathlib import Path

import pytest
from predictions import (
    FILES,
    LARGE_SHORT,
    RESOLVED,
    SMALL_REASON,
    SMALL_SHORT,
    imported,
    only,
    pets,
    rows,
    samples,
    table,
    unresolved,
    written,
)

from cuecard.domain.call import Mode
from cuecard.domain.errors import BadInput, ModelUnreachable
from cuecard.evals import run_folder
from cuecard.evals.analysis.summary import bounds
from cuecard.evals.interop import parted
from cuecard.evals.interop.imports import CardReader
from cuecard.models.prompt import Prompt
from cuecard.models.replay import Says, ScriptedModel

FORMS = [
    ("vlmevalkit", ".xlsx"),
    ("vlmevalkit", ".tsv"),
    ("vlmevalkit", ".json"),
    ("lmms-eval", ".jsonl"),
    ("lm-eval", ".jsonl"),
    ("inspect", ".json"),
    ("inspect", ".eval"),
]


def answers(run: Path, arm: str):
    _, store = run_folder.opened(run)
    try:
        return {each["id"]: each for each in store.answers(arm)}
    finally:
        store.close()


def calls(run: Path):
    _, store = run_folder.opened(run)
    try:
        return [call for _, call in store.calls()]
    finally:
        store.close()


@pytest.mark.parametrize(("form", "suffix"), FORMS)
def test_the_routes_of_mutual_follow_from_the_files_and_the_rest_is_left_unresolved(tmp_path, form, suffix):
    pets(tmp_path)
    filled, summary = imported(tmp_path, written(tmp_path, form, suffix), form)
    found = answers(tmp_path / "run", "mutual")
    assert {id: each["route"] for id, each in found.items()} == RESOLVED
    assert all(each["score"] == 1 for each in found.values())
    assert unresolved(filled) == {"mutual": {"no model reads the card": 3}}
    arm = only(summary)["mutual"]
    assert (arm["accuracy"], arm["unresolved"]) == (None, 3)
    assert (arm["bounds"]["low"], arm["bounds"]["high"]) == (0.5, 1.0)
    assert arm["bounds"]["interval"]["low"] < 0.5
    assert arm["resolved"] == arm["resolved"] | {"n": 3, "accuracy": 1.0}
    assert [only(summary)[name]["accuracy"] for name in ("short:small", "short:large", "reason:small")] == [
        pytest.approx(value) for value in (3 / 6, 4 / 6, 4 / 6)
    ]


@pytest.mark.parametrize(("form", "suffix"), [FORMS[1], *FORMS[3:6]])
def test_seconds_and_tokens_that_no_file_holds_are_none_and_never_zero(tmp_path, form, suffix):
    pets(tmp_path)
    _, summary = imported(tmp_path, written(tmp_path, form, suffix), form)
    for call in calls(tmp_path / "run"):
        assert {call[name] for name in ("first_token_s", "end_s", "prompt_tokens", "completion_tokens")} == {None}
    for each in answers(tmp_path / "run", "mutual").values():
        assert set(each["latency"].values()) == {None}
        assert all(call[name] is None for call in each["calls"] for name in ("start_s", "end_s", "prompt_tokens"))
        assert {call["finish_reason"] for call in each["calls"]} == {None}
    for arm in only(summary).values():
        assert set(arm["latency"].values()) == {None}
        assert arm["truncated"] is None
        assert all(role["completion"] is None and role["calls"] for role in arm["tokens"].values())
    assert all(row["seconds"] is None and row["prompt_tokens"] is None for row in summary["calls"])


def test_tokens_that_a_file_holds_are_kept(tmp_path):
    pets(tmp_path)
    files = written(tmp_path, "lmms-eval")
    result = [{"input_tokens": 900, "output_tokens": 40, "reasoning_tokens": 30}]
    samples(files["small", Mode.REASON], SMALL_REASON, token_counts=result)
    _, summary = imported(tmp_path, files, "lmms-eval")
    assert only(summary)["reason:small"]["tokens"]["small"] == {
        "prompt": 5400, "cached": None, "completion": 240, "reasoning": 180, "wasted": None, "calls": 6,
    }  # fmt: skip
    assert only(summary)["mutual"]["tokens"]["small"]["completion"] is None  # the short calls have no token counts
    assert calls(tmp_path / "run")[-1]["imported"]["where"].startswith("line ")


def test_a_given_model_reads_the_cards_that_no_file_answers(tmp_path):
    pets(tmp_path)
    seen: list[str] = []

    def read(prompt: Prompt) -> Says:
        seen.append(prompt.card or "")
        return Says("C", first_token_s=0.01)

    reader = CardReader(ScriptedModel("big", read), "demo-large", at_once=2)
    filled, summary = imported(tmp_path, written(tmp_path), reader=reader)
    found = answers(tmp_path / "run", "mutual")
    assert {id: each["route"] for id, each in found.items()} == RESOLVED | dict.fromkeys("235", "transferred")
    assert filled.calls_made == len(seen) == 6  # one card for each question: mutual and transfer share them
    assert {"fur", "it barks", "it moos", "hm", "it is", "B"} == set(seen)
    assert only(summary)["mutual"]["accuracy"] == pytest.approx(5 / 6)
    assert "bounds" not in only(summary)["mutual"]
    reads = [call for call in calls(tmp_path / "run") if call["mode"] == "read"]
    assert all(call["end_s"] >= 0.01 for call in reads)
    assert found["2"]["latency"]["total_s"] is None  # the answer's other calls have no times
    again, _ = imported(tmp_path, written(tmp_path), reader=CardReader(ScriptedModel("big", []), "demo-large"))
    assert again.calls_made == 0


def test_a_lost_reader_ends_the_import_and_the_same_command_resumes_it(tmp_path):
    pets(tmp_path)
    lost = ScriptedModel("big", lambda prompt: Says(error=ModelUnreachable("no route")))
    with pytest.raises(ModelUnreachable, match="lost"):
        imported(tmp_path, written(tmp_path), reader=CardReader(lost, "demo-large"))
    reads = ScriptedModel("big", lambda prompt: Says("C"))
    filled, _ = imported(tmp_path, written(tmp_path), reader=CardReader(reads, "demo-large"))
    assert not unresolved(filled)


def test_a_reply_that_one_file_lacks_leaves_the_question_unresolved_where_it_is_needed(tmp_path):
    pets(tmp_path)
    files = written(tmp_path)
    table(files["large", Mode.SHORT], rows([None, *LARGE_SHORT[1:5], None]))
    table(files["small", Mode.SHORT], rows([*SMALL_SHORT[:5], None]))
    table(files["small", Mode.REASON], rows([*SMALL_REASON[:5], None]))
    filled, summary = imported(tmp_path, files)
    assert (filled.questions, filled.left_out) == (5, 1)
    assert unresolved(filled)["short:large"] == {"no short reply of the large model": 1}
    assert only(summary)["short:large"]["bounds"]["unresolved"] == 1
    assert only(summary)["short:small"]["unresolved"] == 0


@pytest.mark.parametrize(
    ("form", "message"),
    [
        ("vlmevalkit", "Failed to obtain answer via API."),
        ("lmms-eval", "[LMMS_EVAL_REQUEST_FAILED after 3 retries] timeout"),
    ],
)
def test_a_call_that_failed_there_is_a_failure_here_and_no_wrong_answer(tmp_path, form, message):
    pets(tmp_path)
    files = written(tmp_path, form)
    failing = [message, *LARGE_SHORT[1:]]
    path = files["large", Mode.SHORT]
    table(path, rows(failing)) if form == "vlmevalkit" else samples(path, failing)
    imported(tmp_path, files, form)
    first = answers(tmp_path / "run", "mutual")["0"]
    assert (first["status"], first["route"], first["score"]) == ("error", None, None)
    assert message in first["reason"]


def test_thinking_that_was_never_closed_is_no_answer_and_counts_as_cut(tmp_path):
    pets(tmp_path)
    imported(tmp_path, written(tmp_path))
    last = answers(tmp_path / "run", "reason:small")["5"]
    assert (last["parsed"], last["score"], last["truncated"]) == (False, 0.0, True)
    assert parted("<think>it is") == ("", "it is", True)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("B", ("B", None, False)),
        ("<think>\na dog\n</think>\n\nB", ("B", "a dog", False)),
        ("a dog</think>B", ("B", "a dog", False)),
        ("[THINK]a dog[/THINK]B.", ("B.", "a dog", False)),
        ("<think></think>B", ("B", None, False)),
        ("", ("", None, False)),
    ],
)
def test_thinking_is_split_from_the_answer(text, expected):
    assert parted(text) == expected


def test_a_reply_that_reasons_without_marks_is_its_own_card(tmp_path):
    pets(tmp_path)
    files = written(tmp_path)
    table(files["small", Mode.REASON], rows(["It moos, so the answer is C."] * 6))
    cards: list[str] = []

    def read(prompt: Prompt) -> Says:
        cards.append(prompt.card or "")
        return Says("C")

    imported(tmp_path, files, reader=CardReader(ScriptedModel("big", read), "demo-large"))
    assert set(cards) == {"It moos, so the answer is C."}


def test_questions_of_one_group_are_bounded_as_a_whole(tmp_path):
    pets(tmp_path)
    rotated = [row | {"index": row["index"] % 3 + (row["index"] // 3) * 1_000_000} for row in rows(SMALL_SHORT)]
    source = (tmp_path / "Pets.tsv").read_text().split("\n")
    for number in (4, 5, 6):
        source[number] = f"{1_000_000 + number - 4}" + source[number][1:].replace(f"number {number - 1}", "number")
    (tmp_path / "Pets.tsv").write_text("\n".join(source))
    for row in rotated:
        row.pop("question")
    files = {}
    for kind, message in FILES.items():
        given = [row | {"prediction": text} for row, text in zip(rotated, message, strict=True)]
        files[kind] = table(tmp_path / f"{'-'.join(kind)}.json", given)
    _, summary = imported(tmp_path, files)
    arm = only(summary)["mutual"]
    # groups {0, 3}, {1, 4}, {2, 5}: only the second is completely resolved, and right
    assert arm["circular"]["bounds"] == {"low": pytest.approx(1 / 3), "high": 1.0}


def test_bounds_hold_the_accuracy_whatever_the_unresolved_answers_are():
    items = {str(number): {"golds": ["A"], "cluster": str(number)} for number in range(4)}
    resolved = [{"id": "0", "score": 1.0}, {"id": "1", "score": 0.0}]
    result = bounds(resolved, items, {"2": "", "3": ""})
    assert (result["low"], result["high"]) == (0.25, 0.75)
    items["3"]["golds"] = []  # without a gold answer, it counts in no accuracy
    result = bounds(resolved, items, {"2": "", "3": ""})
    assert (result["low"], result["high"]) == (pytest.approx(1 / 3), pytest.approx(2 / 3))


def test_agreement_is_reported_with_its_false_accepts(tmp_path):
    pets(tmp_path)
    files = written(tmp_path)
    table(files["small", Mode.SHORT], rows(["A", "A", "B", "B", "B", "B"]))
    _, summary = imported(tmp_path, files)
    (task,) = summary["tasks"].values()
    assert (task["acceptance"]["accepted"], task["acceptance"]["wrong"]) == (4, 2)


def test_other_files_are_another_run(tmp_path):
    pets(tmp_path)
    files = written(tmp_path)
    imported(tmp_path, files)
    table(files["small", Mode.SHORT], rows(["C"] * 6))
    with pytest.raises(BadInput, match="another run"):
        imported(tmp_path, files)


def test_one_file_cannot_be_two_things(tmp_path):
    pets(tmp_path)
    files = written(tmp_path)
    with pytest.raises(BadInput, match="given for two things"):
        imported(tmp_path, files | {("large", Mode.SHORT): files["small", Mode.SHORT]})


@pytest.mark.parametrize(("kind", "arm"), [(kind, f"{kind[1]}:{kind[0]}") for kind in FILES])
def test_the_files_of_one_model_are_a_run_of_what_that_model_answers(tmp_path, kind, arm):
    pets(tmp_path)
    filled, summary = imported(tmp_path, {kind: written(tmp_path)[kind]})
    assert list(only(summary)) == [arm]
    assert list(summary["config"]["models"]) == [kind[0]]
    assert (only(summary)[arm]["answered"], unresolved(filled)) == (6, {})
    assert only(summary)[arm]["accuracy"] == pytest.approx((3 if kind == ("small", Mode.SHORT) else 4) / 6)


def test_a_given_model_reads_the_reasoning_of_one_whose_files_are_all_that_there_is(tmp_path):
    pets(tmp_path)
    reader = CardReader(ScriptedModel("big", lambda prompt: Says("C")), "demo-large")
    kind = ("small", Mode.REASON)
    filled, summary = imported(tmp_path, {kind: written(tmp_path)[kind]}, reader=reader)
    assert (filled.calls_made, list(only(summary))) == (6, ["reason:small", "transfer"])
    assert only(summary)["transfer"]["accuracy"] == pytest.approx(2 / 6)
