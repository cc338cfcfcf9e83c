"""`cuecard import` and `cuecard export` on the command line."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest
from test_ask import cuecard, refused

sys.path.append(str(Path(__file__).parents[1] / "evals"))
from predictions import SMALL_SHORT, inspect_log, log_samples, pets, rows, table, written


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run imported from three prediction files."""
    folder = tmp_path_factory.mktemp("exchange")
    pets(folder)
    done = cuecard("import", "vlmevalkit", *given(folder, ".xlsx"), "--out", folder / "run")
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


def given(folder, suffix=".tsv", form="vlmevalkit"):
    files = written(folder, form, suffix)
    flags = [part for (role, mode), path in files.items() for part in (f"--{role}-{mode}", path)]
    return ["--task", f"tsv:{folder / 'Pets.tsv'}", *flags]


def test_an_import_reports_what_is_resolved_and_the_bounds_of_the_rest(run):
    folder, message = run
    assert "0.500 to 1.000" in message
    assert re.search(r"mutual +2 +1\b", message)  # agreed and confirmed
    assert "mutual: 3 × no model reads the card" in message
    assert "seconds are not known" in message
    summary = json.loads((folder / "run" / "summary.json").read_text())
    assert summary["config"]["models"]["small"]["name"] == "small-short"
    assert set(summary["config"]["imported"]["files"]) == {"small-short", "large-short", "small-reason"}


def test_the_same_import_again_changes_nothing(tmp_path):
    pets(tmp_path)
    command = ("import", "vlmevalkit", *given(tmp_path), "--out", tmp_path / "run", "--json")
    first, again = cuecard(*command), cuecard(*command)
    assert (first.returncode, again.returncode) == (0, 0)
    assert json.loads(first.stdout) == json.loads(again.stdout)


def test_sample_logs_are_imported_under_the_names_of_their_directories(tmp_path):
    pets(tmp_path)
    done = cuecard("import", "lmms-eval", *given(tmp_path, form="lmms-eval"), "--out", tmp_path / "run", "--json")
    result = json.loads(done.stdout)
    assert [result["config"]["models"][role]["name"] for role in ("small", "large")] == ["small-short", "large-short"]


def test_one_model_in_two_logs_is_a_run_and_what_is_not_used_is_counted(tmp_path):
    pets(tmp_path)
    given = log_samples(SMALL_SHORT)
    inspect_log(tmp_path / "one.json", given[:3] + log_samples(["B"], epoch=2))
    inspect_log(tmp_path / "two.eval", given[3:])
    files = ["--large-short", tmp_path / "one.json", "--large-short", tmp_path / "two.eval"]
    where = ["--task", f"tsv:{tmp_path / 'Pets.tsv'}", "--out", tmp_path / "run"]
    done = cuecard("import", "inspect", *where, *files)
    assert done.returncode == 0, done.stderr
    assert re.search(r"short:large +0\.500", done.stdout)
    assert "one.json: 1 not used: the sample is of a later epoch" in done.stdout
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert {role: model["name"] for role, model in summary["config"]["models"].items()} == {"large": "mockllm/model"}
    exported = cuecard("export", "inspect", tmp_path / "run", "--arm", "short:large", "--out", tmp_path)
    again = cuecard("import", "inspect", *where[:-1], tmp_path / "again", "--small-short", exported.stdout.strip())
    assert re.search(r"short:small +0\.500", again.stdout), again.stderr
    for command in ("report", "unparsed"):
        assert cuecard(command, tmp_path / "run").returncode == 0


def test_a_large_model_reads_cards_that_no_file_answers(tmp_path):
    pets(tmp_path)
    done = cuecard(
        "import", "vlmevalkit", *given(tmp_path), "--large", "demo-large", "--out", tmp_path / "run", "--json"
    )
    (task,) = json.loads(done.stdout)["tasks"].values()
    assert task["arms"]["mutual"]["routes"] == {"agreed": 2, "confirmed": 1, "transferred": 3}
    assert task["arms"]["transfer"]["answered"] == 6


@pytest.mark.parametrize(
    ("words", "file"),
    [
        (["vlmevalkit"], "cuecard-mutual_Pets.xlsx"),
        (["vlmevalkit", "--format", "tsv", "--dataset", "MMStar"], "cuecard-mutual_MMStar.tsv"),
        (["lmms-eval", "--name", "pets"], "_samples_pets.jsonl"),
        (["inspect", "--images"], ".json"),
    ],
)
def test_an_export_prints_the_files_that_it_wrote_and_how_many_questions_are_left_out(run, tmp_path, words, file):
    done = cuecard("export", words[0], run[0] / "run", "--arm", "mutual", "--out", tmp_path, *words[1:])
    paths = [Path(line) for line in done.stdout.splitlines()]
    assert all(path.is_file() for path in paths)
    assert paths[0].name.endswith(file)
    assert "3 of 6 questions have no answer of mutual" in done.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["export", "vlmevalkit", "--arm", "mutal"], "did you mean mutual?"),
        (["export", "vlmevalkit", "--arm", "mutual", "--format", "pkl"], "'pkl' is not one of 'xlsx', 'tsv', 'json'"),
        (["export", "vlmevalkit", "--arm", "mutual", "--data", "nowhere.tsv"], "cannot read nowhere.tsv"),
        (["export", "inspect", "--arm", "mutual", "--format", "html"], "'html' is not one of 'json', 'eval'"),
        (["export", "lmms-eval", "--arm", "mutual@live"], "has no answers"),
        (["export", "lmms-eval"], "Missing option '--arm'"),
    ],
)
def test_a_wrong_export_is_refused_in_one_line(run, tmp_path, words, message):
    assert message in refused(*words[:2], run[0] / "run", "--out", tmp_path, *words[2:])


def test_a_wrong_import_is_refused_in_one_line(tmp_path):
    pets(tmp_path)
    task, out = ["--task", f"tsv:{tmp_path / 'Pets.tsv'}"], ["--out", tmp_path / "run"]
    wrong = table(tmp_path / "wrong.tsv", rows(["A"], index=9))
    assert "no file of predictions" in refused("import", "vlmevalkit", *task, *out)
    assert "row 1, column `index`" in refused("import", "vlmevalkit", *task, *out, "--small-short", wrong)
    assert "line 1 is not JSON" in refused("import", "lmms-eval", *task, *out, "--small-short", wrong)
    assert "did you mean tsv?" in refused("import", "vlmevalkit", "--task", "tvs:x", *out, "--small-short", wrong)
    assert "--task" in refused("import", "vlmevalkit", *out)
    right = table(tmp_path / "right.tsv", rows(["A"]))
    other = table(tmp_path / "other.tsv", rows(["B"]))
    alone = ["import", "vlmevalkit", *task, *out, "--small-short", right]
    assert "--large-name names a model of which there is no file" in refused(*alone, "--large-name", "big")
    assert "are by several models: right, other" in refused(*alone, "--small-short", other)
    short = ["--small-short", right, "--large-short", other]
    assert "both models are called 'same'" in refused(
        "import", "vlmevalkit", *task, *out, *short, "--small-name", "same", "--large-name", "same"
    )
    assert "nothing to read" in refused("import", "vlmevalkit", *task, *out, *short, "--large", "demo-large")
    assert not (tmp_path / "run").exists()
