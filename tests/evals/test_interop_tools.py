"""Round trips with the other tools themselves, if they are installed (tests/servers/test_exchange_tools.py)."""

from __future__ import annotations

import json

import pytest
from predictions import GOLDS, SMALL_REASON, SMALL_SHORT, imported, only, pets
from test_interop_files import NOW, known, run

from cuecard.domain.call import Mode
from cuecard.evals import run_folder
from cuecard.evals.interop import inspect, lmms, of_run, source, vlmevalkit

pytestmark = pytest.mark.filterwarnings("ignore")  # the tools' own warnings
QUESTIONS = [
    {"question": f"Which pet is number {number}?", "choices": ["a cat", "a dog", "a cow"], "answer": gold}
    for number, gold in enumerate(GOLDS)
]
REASONED = ["A", "B", "C", "C", "B", ""]
"""The answers in `SMALL_REASON`."""


def tool(module):
    return pytest.importorskip(module, reason=f"{module} is not installed")


def exported(tmp_path):
    (answers,) = of_run(run(tmp_path), "reason:small")
    return answers


@pytest.mark.parametrize("form", ["json", "eval"])
def test_inspect_ai_reads_an_exported_log_and_what_it_writes_again_is_imported(tmp_path, form):
    log, where = tool("inspect_ai.log"), run(tmp_path)
    (answers,) = of_run(where, "reason:small")
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
    read = source("small", Mode.REASON, tmp_path / f"again.{form}", inspect.read, known(tmp_path))
    assert [reply.answer for reply in read.replies.values()] == REASONED
    assert [reply.reasoning for reply in read.replies.values()][:4] == ["fur", "it barks", "it moos", "hm"]
    assert inspect.model(read.path, "pets") == "cuecard/reason:small"


@pytest.mark.parametrize("form", ["json", "eval"])
def test_a_log_that_inspect_ai_has_made_itself_is_imported(tmp_path, form):
    ai, dataset, model = tool("inspect_ai"), tool("inspect_ai.dataset"), tool("inspect_ai.model")
    scorer, solver = tool("inspect_ai.scorer"), tool("inspect_ai.solver")
    pets(tmp_path)

    @solver.solver
    def fails():
        async def solve(state, generate):
            if state.sample_id == 5:
                raise RuntimeError("the picture is lost")
            return state

        return solve

    outputs = [model.ModelOutput.from_content("mockllm/model", f"ANSWER: {text[-1]}") for text in SMALL_SHORT[:5]] * 2
    outputs[1].choices[0].message.content = [
        model.ContentReasoning(reasoning="it barks"),
        model.ContentText(text="ANSWER: A"),
    ]
    for output in outputs:
        output.usage = model.ModelUsage(input_tokens=20, output_tokens=5, total_tokens=25)
    samples = [
        dataset.Sample(id=number, input=row["question"], choices=row["choices"], target=row["answer"])
        for number, row in enumerate(QUESTIONS)
    ]
    task = ai.Task(samples, solver=[fails(), solver.multiple_choice()], scorer=scorer.choice(), name="pets", epochs=2)
    (log,) = ai.eval(
        task,
        model=model.get_model("mockllm/model", custom_outputs=outputs),
        log_format=form,
        log_dir=str(tmp_path / "logs"),
        max_samples=1,
        fail_on_error=False,
        display="none",
    )
    path = next((tmp_path / "logs").glob(f"*.{form}"))
    read = source("small", Mode.SHORT, path, inspect.read, known(tmp_path))
    assert (len(read.replies), dict(read.unused)) == (6, {"the sample is of a later epoch": 6})
    assert (read.replies["1"].reasoning, read.replies["1"].usage.prompt_tokens) == ("it barks", 20)
    assert "the picture is lost" in str(read.replies["5"].error)
    assert inspect.model(path, "pets") == "mockllm/model"
    assert log.status == "success"


def test_sample_logs_that_lm_eval_has_made_itself_are_imported(tmp_path):
    evaluation, api, tracking = tool("lm_eval"), tool("lm_eval.api.model"), tool("lm_eval.loggers")
    pets(tmp_path)
    lines = "".join(json.dumps(row) + "\n" for row in QUESTIONS)
    (tmp_path / "pets.jsonl").write_text(lines, encoding="utf-8")

    class Fixed(api.LM):
        def generate_until(self, requests, disable_tqdm=False):
            return [SMALL_REASON[request.doc_id] for request in requests]

        def loglikelihood(self, requests, disable_tqdm=False):
            return [(-1.5, True) for _ in requests]

        def loglikelihood_rolling(self, requests, disable_tqdm=False):
            return [-120.5 for _ in requests]

    both = {
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(tmp_path / "pets.jsonl")}},
        "test_split": "test",
        "doc_to_text": "{{question}}",
        "doc_to_target": "{{answer}}",
    }
    letter = [{"function": "regex", "regex_pattern": "([ABC])"}, {"function": "take_first"}]
    filters = [{"name": name, "filter": letter} for name in ("strict", "flexible")]
    free = {"task": "pets", "output_type": "generate_until", "filter_list": filters}
    ranked = {"task": "ranked", "output_type": "multiple_choice", "doc_to_choice": "{{choices}}", "doc_to_target": 0}
    tracker = tracking.EvaluationTracker(output_path=str(tmp_path / "logs"))
    result = evaluation.simple_evaluate(
        Fixed(), tasks=[both | free, both | ranked], evaluation_tracker=tracker, bootstrap_iters=0
    )
    samples = result.pop("samples")
    tracker.save_results_aggregated(results=result, samples=samples)
    for name, each in samples.items():
        tracker.save_results_samples(task_name=name, samples=each)
    path, scores = (next((tmp_path / "logs").rglob(f"samples_{name}_*.jsonl")) for name in ("pets", "ranked"))
    read = source("small", Mode.REASON, path, lmms.read_lm_eval, known(tmp_path))
    assert [reply.answer for reply in read.replies.values()] == REASONED
    assert read.replies["0"].prompt == "Which pet is number 0?"
    with pytest.raises(Exception, match="`resps` holds log-likelihoods"):
        source("small", Mode.SHORT, scores, lmms.read_lm_eval, known(tmp_path))
    _, summary = imported(tmp_path, {("small", Mode.REASON): path}, "lm-eval")
    assert only(summary)["reason:small"]["accuracy"] == pytest.approx(4 / 6)


def test_lmms_eval_takes_an_exported_sample_log_for_a_baseline(tmp_path):
    loader = tool("lmms_eval.baselines.loader")
    log, _ = lmms.write(exported(tmp_path), tmp_path / "out", NOW)
    scores, results = loader.load_baseline(str(log), "Pets")
    assert scores == {0: 1.0, 1: 1.0, 2: 1.0, 3: 0.0, 4: 1.0, 5: 0.0}
    assert results["results"]["Pets"]["score,none"] == pytest.approx(4 / 6)


@pytest.mark.parametrize("form", ["xlsx", "tsv"])  # it loads .json as a list, which its scorer does not accept
def test_vlmevalkit_scores_an_exported_file_as_we_do(tmp_path, form, monkeypatch):
    monkeypatch.setenv("LMUData", str(tmp_path))
    monkeypatch.setenv("PRED_FORMAT", form)
    build_dataset = tool("vlmeval.dataset").build_dataset
    path = vlmevalkit.write(exported(tmp_path), tmp_path / "out", form, tmp_path / "Pets.tsv")
    found = build_dataset("Pets").evaluate(str(path), model="exact_matching", nproc=1)
    assert float(found["Overall"].iloc[0]) == pytest.approx(4 / 6)
