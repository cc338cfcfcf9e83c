"""Round trips with the other tools themselves, where they are installed."""

from __future__ import annotations

import pytest
from test_interop_files import NOW, run

from cuecard.evals.interop import exports, inspect
from cuecard.evals.study import folder


@pytest.mark.parametrize("form", ["json", "eval"])
def test_inspect_ai_reads_an_exported_log_and_writes_it_again(tmp_path, form):
    log = pytest.importorskip("inspect_ai.log", reason="inspect_ai is not installed")
    where = run(tmp_path)
    (answers,) = exports.of_run(where, "reason:small")
    _, store = folder.opened(where)
    path = inspect.write(answers, tmp_path / "out", NOW, form, store.image)
    store.close()
    told = log.read_eval_log(str(path))
    assert (told.status, told.eval.model, len(told.samples)) == ("success", "cuecard/reason:small", 6)
    assert told.results.scores[0].metrics["accuracy"].value == pytest.approx(4 / 6)
    log.write_eval_log(told, str(tmp_path / f"again.{form}"))
    again = log.read_eval_log(str(tmp_path / f"again.{form}"))
    assert [each.output.completion for each in again.samples] == [each.output.completion for each in told.samples]
    assert [each.metadata["route"] for each in again.samples] == ["direct"] * 6
