"""Round trips with the other tools themselves, where they are installed."""

from __future__ import annotations

import pytest
from test_interop_files import NOW, run

from cuecard.evals import run_folder
from cuecard.evals.interop import exports, inspect


@pytest.mark.parametrize("form", ["json", "eval"])
def test_inspect_ai_reads_an_exported_log_and_writes_it_again(tmp_path, form):
    log = pytest.importorskip("inspect_ai.log", reason="inspect_ai is not installed")
    where = run(tmp_path)
    (answers,) = exports.of_run(where, "reason:small")
    _, store = run_folder.opened(where)
    path = inspect.write(answers, tmp_path / "out", NOW, form, store.image)
    store.close()
    result = log.read_eval_log(str(path))
    assert (result.status, result.eval.model, len(result.samples)) == ("success", "cuecard/reason:small", 6)
    assert result.results.scores[0].metrics["accuracy"].value == pytest.approx(4 / 6)
    log.write_eval_log(result, str(tmp_path / f"again.{form}"))
    again = log.read_eval_log(str(tmp_path / f"again.{form}"))
    assert [each.output.completion for each in again.samples] == [each.output.completion for each in result.samples]
    assert [each.metadata["route"] for each in again.samples] == ["direct"] * 6
