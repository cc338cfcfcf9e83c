"""Files of VLMEvalKit, lmms-eval and inspect_ai: values read from them, refused files, and written files."""

from __future__ import annotations

import csv
import json
from datetime import UTC, datetime

import openpyxl
import pytest
from files import b64, tsv
from laboratory import Laboratory, MadeUp
from predictions import GOLDS, LARGE_SHORT, RESOLVED, SMALL_SHORT, imported, pets, rows, samples, table, written

from cuecard import disk
from cuecard.domain.call import Mode
from cuecard.domain.errors import BadInput
from cuecard.domain.question import Image
from cuecard.evals import run_folder
from cuecard.evals.interop import inspect, lmms, of_run, places, source, vlmevalkit
from cuecard.evals.tasks.registry import open_task

NOW = datetime(2026, 11, 25, 10, 10, 10, tzinfo=UTC)


def known(folder_, **changes):
    return places(open_task(f"tsv:{pets(folder_, **changes)}"))


def refusal(read, path, places_) -> str:
    """The error with which a reader refuses a file: one line, and a hint."""
    with pytest.raises(BadInput) as refused:
        source("small", Mode.SHORT, path, read, places_)
    assert refused.value.hint
    assert "\n" not in str(refused.value)
    return f"{refused.value} ({refused.value.hint})"


# --- reading ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([], "no usable replies"),
        ([{"index": 0, "answer": "A"}], "row 1: there is no column `prediction`"),
        ([{"question": "?", "prediction": "A"}], "row 1: there is no column `index`"),
        (rows(["A"], index=17), "row 1, column `index`: the task has no question '17' (its first: 0, 1, 2)"),
        (rows(["A"]) * 2, "row 2: question '0' is answered in row 1 too"),
        (rows(["A", "B"], answer="C"), "row 1, column `answer`: 'C' is right there, but 'A' for question '0'"),
        (rows(["A"], question="Who is it?"), "row 1, column `question`: 'Who is it?' is not what question '0' asks"),
    ],
)
@pytest.mark.parametrize("suffix", [".xlsx", ".tsv", ".json"])
def test_a_prediction_file_that_does_not_fit_is_refused_with_row_and_column(tmp_path, suffix, given, expected):
    path = table(tmp_path / f"T_Pets{suffix}", given)
    assert expected in refusal(vlmevalkit.read, path, known(tmp_path))


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("a.pkl", b"\x80\x04", "a pickle may run code"),
        ("a.csv", b"index,prediction", "is not .xlsx, .tsv or .json"),
        ("a.xlsx", b"PK not really", "is not an Excel file"),
        ("a.json", b"{", "is not JSON"),
        ("a.json", b"[" * 100_000, "is not JSON"),
        ("a.json", b"{}", "is not a list of rows"),
        ("a.json", b"[1]", "row 1 is not an object"),
        ("a.tsv", b"index\tprediction\n0\tA\tB\n", "row 1: 3 cells for 2 columns"),
        ("a.tsv", b'index\tprediction\n0\t"A\n', "row 1: a quote that begins here is never closed"),
        ("a.tsv", b"index\tprediction\n0\t\xff\n", "the text is not UTF-8"),
    ],
)
def test_a_broken_prediction_file_is_refused_in_one_line(tmp_path, name, text, expected):
    (tmp_path / name).write_bytes(text)
    assert expected in refusal(vlmevalkit.read, tmp_path / name, known(tmp_path))


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("{", "line 1 is not JSON"),
        ("[" * 100_000, "line 1 is not JSON"),
        ("[]", "line 1 is not an object"),
        ('{"filtered_resps": "A"}', "line 1: `doc_id` is missing"),
        ('{"doc_id": 6, "filtered_resps": "A"}', "line 1, `doc_id`: the task has no question at row 6"),
        ('{"doc_id": 0}', "line 1, `filtered_resps` is missing"),
        ('{"doc_id": 0, "resps": [["A", "B"]]}', "line 1, `resps` holds 2 replies"),
        ('{"doc_id": 0, "target": "B", "resps": "A"}', "line 1, column `target`: 'B' is right there, but 'A'"),
        (
            '{"doc_id": 0, "resps": "A", "token_counts": [{"output_tokens": 1, "reasoning_tokens": 2}]}',
            "line 1, `token_counts`: 2 tokens are reasoning of 1",
        ),
        ("", "no usable replies"),
    ],
)
def test_a_sample_log_that_does_not_fit_is_refused_with_its_line(tmp_path, line, expected):
    (tmp_path / "a.jsonl").write_text(line + "\n", encoding="utf-8")
    assert expected in refusal(lmms.read, tmp_path / "a.jsonl", known(tmp_path))


def test_a_missing_file_is_refused(tmp_path):
    for read in (vlmevalkit.read, lmms.read):
        assert "cannot read" in refusal(read, tmp_path / "nowhere.tsv", known(tmp_path))


@pytest.mark.parametrize("nested", [[["A"]], ["A"], "A"])
def test_older_sample_logs_nest_their_replies(tmp_path, nested):
    (tmp_path / "a.jsonl").write_text(json.dumps({"doc_id": 0, "resps": nested, "filtered_resps": ["A"]}))
    assert [reply.answer for reply in lmms.read(tmp_path / "a.jsonl", known(tmp_path))] == ["A"]


def test_free_answers_may_be_written_otherwise_but_not_most_of_them(tmp_path):
    data = [{"index": i, "question": f"What is {i}?", "answer": f"pet {i}", "image": b64()} for i in range(4)]
    there = places(open_task(f"tsv:{tsv(tmp_path / 'Words.tsv', data)}"))
    path = table(
        tmp_path / "T_Words.tsv", [{"index": i, "prediction": "x", "answer": f"Pet {i % 3}"} for i in range(4)]
    )
    assert len(list(vlmevalkit.read(path, there))) == 4
    path = table(path, [{"index": i, "prediction": "x", "answer": "cats"} for i in range(4)])
    assert "4 of 4 right answers are not the task's, the first in row 1" in refusal(vlmevalkit.read, path, there)


def test_a_prediction_that_fills_a_cell_of_excel_was_cut_and_is_not_used(tmp_path):
    path = table(tmp_path / "T_Pets.xlsx", rows(["A" * 32_767, "B"]))
    read = source("small", Mode.SHORT, path, vlmevalkit.read, known(tmp_path))
    assert (list(read.unused.values()), list(read.replies)) == ([1], ["1"])


def test_thinking_in_its_own_column_is_the_card(tmp_path):
    path = table(tmp_path / "T_Pets.tsv", rows(["A"], thinking="It purrs."))
    assert next(vlmevalkit.read(path, known(tmp_path))).reasoning == "It purrs."


def test_an_index_may_be_written_as_pandas_writes_it_beside_gaps(tmp_path):
    path = table(tmp_path / "T_Pets.tsv", [row | {"index": f"{row['index']}.0"} for row in rows(SMALL_SHORT)])
    assert [reply.item for reply in vlmevalkit.read(path, known(tmp_path))] == list("012345")


def test_letters_close_up_where_a_row_leaves_one_out(tmp_path):
    data = [{"index": 0, "question": "Which?", "A": "a cat", "B": "", "C": "a cow", "answer": "C", "image": b64()}]
    there = places(open_task(f"tsv:{tsv(tmp_path / 'Gap.tsv', data)}"))
    expected = [{**data[0], "prediction": "The answer is C."}]
    path = table(tmp_path / "T_Gap.tsv", expected)
    assert there["0"].item.golds == ("B",)
    assert next(vlmevalkit.read(path, there)).answer == "B"


# --- writing ----------------------------------------------------------------------------------------------------------


def run(folder_):
    """A run imported from three files, with three questions of `mutual` unresolved."""
    pets(folder_)
    imported(folder_, written(folder_))
    return folder_ / "run"


@pytest.mark.parametrize("form", ["xlsx", "tsv", "json"])
@pytest.mark.parametrize("with_data", [True, False])
def test_what_is_exported_for_vlmevalkit_is_read_as_it_was(tmp_path, form, with_data):
    where = run(tmp_path)
    (answers,) = of_run(where, "reason:small")
    path = vlmevalkit.write(answers, tmp_path / "out", form, tmp_path / "Pets.tsv" if with_data else None)
    assert path.name == f"cuecard-reason-small_Pets.{form}"
    (_, first), *_ = vlmevalkit.table_rows(path)
    assert list(first) == ["index", "question", "A", "B", "C", "answer", "category", "prediction", "thinking"]
    assert (first["question"], first["answer"], first["thinking"]) == ("Which pet is number 0?", "A", "fur")
    there = places(open_task(f"tsv:{tmp_path / 'Pets.tsv'}"))
    again = list(vlmevalkit.read(path, there))
    assert [reply.answer for reply in again] == ["A", "B", "C", "C", "B", ""]
    assert [reply.reasoning for reply in again][:4] == ["fur", "it barks", "it moos", "hm"]


def test_a_text_that_begins_like_a_formula_stays_a_text_in_excel(tmp_path):
    path = vlmevalkit.write_table(
        tmp_path / "a.xlsx", ["index", "prediction"], [{"index": 0, "prediction": "=1+1"}], "xlsx"
    )
    cell = openpyxl.load_workbook(path).active["B2"]
    assert (cell.value, cell.data_type) == ("=1+1", "s")


@pytest.mark.parametrize("text", ["a" * 32_768, "bell \x07"])
def test_what_excel_cannot_hold_is_refused_and_fits_into_the_other_formats(tmp_path, text):
    given = [{"index": 0, "prediction": text}]
    with pytest.raises(BadInput, match="row 1, column `prediction`"):
        vlmevalkit.write_table(tmp_path / "a.xlsx", ["index", "prediction"], given, "xlsx")
    for form in ("tsv", "json"):
        path = vlmevalkit.write_table(tmp_path / f"a.{form}", ["index", "prediction"], given, form)
        assert next(vlmevalkit.table_rows(path))[1]["prediction"] == text


def test_a_letter_that_had_closed_up_is_written_as_the_data_have_it(tmp_path):
    data = [
        {"index": i, "question": f"Which is {i}?", "A": "a cat", "B": "", "C": "a cow", "answer": "C", "image": b64()}
        for i in range(2)
    ]
    tsv(tmp_path / "Pets.tsv", data)
    files = {
        (role, Mode.SHORT): table(tmp_path / f"{role}.tsv", [{**row, "prediction": expected} for row in data])
        for role, expected in (("small", "C"), ("large", "It is C."))
    }
    imported(tmp_path, files)
    (answers,) = of_run(tmp_path / "run", "short:large")
    path = vlmevalkit.write(answers, tmp_path / "out", "tsv", tmp_path / "Pets.tsv")
    assert [(row["answer"], row["prediction"]) for _, row in vlmevalkit.table_rows(path)] == [("C", "C")] * 2


def test_the_data_for_an_export_have_to_hold_its_questions(tmp_path):
    where = run(tmp_path)
    (answers,) = of_run(where, "mutual")
    other = tsv(tmp_path / "Other.tsv", [{"index": 99, "question": "?"}])
    with pytest.raises(BadInput, match="no row of the index '0'"):
        vlmevalkit.write(answers, tmp_path, "tsv", other)


def test_what_is_exported_for_lmms_eval_is_read_as_it_was(tmp_path):
    (answers,) = of_run(run(tmp_path), "reason:small")
    log, results = lmms.write(answers, tmp_path / "out", NOW)
    assert log.relative_to(tmp_path / "out").as_posix() == "cuecard-reason-small/20261125_101010_samples_Pets.jsonl"
    first = json.loads(log.read_text().split("\n")[0])
    assert first["resps"] == ["<think>\nfur\n</think>\n\nA"]
    assert (first["filtered_resps"], first["doc_id"], first["target"], first["score"]) == ("A", 0, "A", 1.0)
    assert first["token_counts"] == [None]  # a sum without the unknown counts would be too small
    again = lmms.read(log, places(open_task(f"tsv:{tmp_path / 'Pets.tsv'}")))
    assert [reply.answer for reply in again] == ["A", "B", "C", "C", "B", ""]
    result = json.loads(results.read_text())
    assert result["results"]["Pets"]["score,none"] == pytest.approx(4 / 6)
    assert result["n-samples"]["Pets"] == {"original": 6, "effective": 6}


def test_tokens_of_a_run_are_exported_call_by_call(tmp_path):
    laboratory = Laboratory(tmp_path / "run", MadeUp(2))
    laboratory.run()
    disk.save(laboratory.folder / "run.json", {"version": 1, "config": laboratory.config})
    (answers,) = of_run(laboratory.folder, "mutual")
    log, _ = lmms.write(answers, tmp_path / "out", NOW)
    sample = json.loads(log.read_text().split("\n")[0])
    assert len(sample["token_counts"]) == len(answers.rows[0].answer["calls"])
    assert sample["token_counts"][0] == sample["token_counts"][0] | {"output_tokens": 1}
    assert sample["cuecard"]["latency"]["kind"] == "composed"


def test_questions_without_an_answer_of_the_arm_are_left_out_and_counted(tmp_path):
    (answers,) = of_run(run(tmp_path), "mutual")
    assert ([row.item["id"] for row in answers.rows], answers.unanswered) == (["0", "1", "4"], 3)
    log, results = lmms.write(answers, tmp_path / "out", NOW)
    assert json.loads(results.read_text())["n-samples"]["Pets"] == {"original": 6, "effective": 3}
    thoughts = {row.item["id"]: row.thinking for row in answers.rows}
    assert thoughts == {"0": None, "1": "it barks", "4": None}  # None: agreed without reasoning
    assert [json.loads(line)["cuecard"]["route"] for line in log.read_text().splitlines()] == [
        RESOLVED[id] for id in ("0", "1", "4")
    ]


def test_an_inspect_log_has_a_sample_a_question_with_route_and_score(tmp_path):
    where = run(tmp_path)
    (answers,) = of_run(where, "reason:small")
    _, store = run_folder.opened(where)
    path = inspect.write(answers, tmp_path / "out", NOW, "json", store.image)
    store.close()
    assert path.name.startswith("2026-11-25T10-10-10+00-00_Pets-reason-small_")
    log = json.loads(path.read_text())
    assert (log["version"], log["status"], log["eval"]["model"]) == (2, "success", "cuecard/reason:small")
    first, last = log["samples"][0], log["samples"][5]
    assert first["output"]["choices"][0]["message"]["content"] == [
        {"type": "reasoning", "reasoning": "fur"}, {"type": "text", "text": "A"},
    ]  # fmt: skip
    assert first["input"][0]["content"][1]["image"].startswith("data:image/png;base64,")
    assert (first["scores"]["cuecard"]["value"], last["scores"]["cuecard"]["value"]) == ("C", "I")
    assert (first["output"]["choices"][0]["stop_reason"], last["output"]["choices"][0]["stop_reason"]) == (
        "unknown", "max_tokens",
    )  # fmt: skip
    assert (first["output"]["usage"], first["total_time"], first["metadata"]["route"]) == (None, None, "direct")
    assert log["results"]["scores"][0]["metrics"]["accuracy"]["value"] == pytest.approx(4 / 6)


def test_an_inspect_log_counts_tokens_without_the_cached_ones(tmp_path):
    laboratory = Laboratory(tmp_path / "run", MadeUp(2))
    laboratory.run()
    disk.save(laboratory.folder / "run.json", {"version": 1, "config": laboratory.config})
    (answers,) = of_run(laboratory.folder, "mutual")
    log = inspect.log_of(answers, NOW, lambda digest: Image(b"x"))
    usage = log["samples"][0]["output"]["usage"]
    assert usage["total_tokens"] == usage["input_tokens"] + usage["input_tokens_cache_read"] + usage["output_tokens"]
    assert log["stats"]["model_usage"]["cuecard/mutual"]["output_tokens"] == 2 * usage["output_tokens"]


def test_an_arm_or_task_that_the_run_does_not_have_is_refused_with_the_nearest(tmp_path):
    where = run(tmp_path)
    with pytest.raises(BadInput, match="no arm 'mutal'") as refused:
        of_run(where, "mutal")
    assert refused.value.hint == "did you mean mutual?"
    with pytest.raises(BadInput, match="no task"):
        of_run(where, "mutual", "mmstar")
    with pytest.raises(BadInput, match="no answers of mutual@live"):
        of_run(where, "mutual@live")


def test_golds_and_files_of_these_tests_fit_together(tmp_path):
    path = samples(tmp_path / "x" / "a.jsonl", LARGE_SHORT)
    assert [json.loads(line)["target"] for line in path.read_text().splitlines()] == list(GOLDS)
    with table(tmp_path / "a.tsv", rows(LARGE_SHORT)).open(newline="") as file:
        assert len(list(csv.reader(file, delimiter="\t"))) == 7
