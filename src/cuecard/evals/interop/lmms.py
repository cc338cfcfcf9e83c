"""Sample logs of lmms-eval (`DATETIME_samples_TASK.jsonl`, with `DATETIME_results.json`) and lm-evaluation-harness.

As `loggers/evaluation_tracker.py` and `evaluator.py` of 0.7.3 write them: `doc_id` is the row in the data set, from 0;
`resps` is the raw reply, omitted if equal to `filtered_resps`; `token_counts` has the engine's token counts.

The harness writes `samples_TASK_DATETIME.jsonl` (`evaluator.py` and `loggers/evaluation_tracker.py` of 0.4), with one
line for each of a task's filters: `resps` lists the replies to each request. Every value in it is a string, also the
scores of a loglikelihood task.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import cuecard
from cuecard.domain.call import Usage
from cuecard.domain.errors import BadInput
from cuecard.domain.question import AnswerKind
from cuecard.evals import interop
from cuecard.evals.database import Record
from cuecard.evals.interop import ArmExport, ExportedAnswer, LocatedItems, RecordedReply
from cuecard.evals.item import Item
from cuecard.evals.tasks.rows import json_lines
from cuecard.stats import standard_error

FAILED = "[LMMS_EVAL_REQUEST_FAILED"
"""Prefix of the text that replaces the reply of a failed request."""
_WHICH = "give a *_samples_*.jsonl that lmms-eval wrote with --log_samples; less its last line if it was broken off"
_ASKED = ("doc", "arguments", "input")
"""Keys of a sample that hold the question: the row of the data set, and the prompt."""
Sample = dict[str, Any]


def read(path: Path, known: LocatedItems) -> Iterator[RecordedReply]:
    """All replies of a sample log. Raises BadInput."""
    for where, item, sample in samples(path, known, _WHICH):
        reply = reply_of(path, where, sample, "resps" if "resps" in sample else "filtered_resps")
        target = sample.get("target")
        more: Any = {
            "usage": _usage(path, where, sample),
            "gold": target if isinstance(target, str) else None,
            "gold_column": "target",
            "same_question": interop.has_question([sample.get(name) for name in _ASKED], item),
        }
        if reply.startswith(FAILED):
            yield RecordedReply(item.id, where, "", error=interop.one_line(reply), **more)
            continue
        yield RecordedReply(
            item.id, where, *interop.parted(reply), prompt=interop.kept_prompt(sample.get("input")), **more
        )


def model(path: Path, task: str) -> str:
    """The model's name, from the name of the sample log's directory."""
    return path.resolve().parent.name or path.stem


def samples(path: Path, known: LocatedItems, hint: str) -> Iterator[tuple[str, Item, Sample]]:
    """(line, item, sample) of every sample; `doc_id` is a row of the task. Raises BadInput."""
    at = {place.at: place.item for place in known.values()}
    for number, sample in json_lines(path, hint):
        where, doc = f"line {number}", sample.get("doc_id")
        if not isinstance(doc, int) or isinstance(doc, bool):
            raise BadInput(f"{path}, {where}: `doc_id` is {_shown(doc)}, not a whole number", hint)
        if doc not in at:
            what = f"{path}, {where}, `doc_id`: the task has no question at row {doc} (it has {len(at)} questions)"
            raise BadInput(what, "is this the task that the file is about, and the same split?")
        yield where, at[doc], sample


def reply_of(path: Path, where: str, sample: Sample, column: str) -> str:
    """The single text in a column, which may be nested in lists. Raises BadInput."""
    value = sample.get(column)
    while isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, list):
        what = f"{path}, {where}, `{column}` holds {len(value)} replies"
        raise BadInput(what, "give a run with one reply a question (generate_until, repeats 1)")
    if not isinstance(value, str):
        raise BadInput(f"{path}, {where}, `{column}` is {_shown(value)}, not a reply", "run it with --log_samples")
    return value


def _usage(path: Path, where: str, sample: Sample) -> Usage:
    """The token counts of a sample; `NOT_COUNTED` if missing. Raises BadInput."""
    entries = sample.get("token_counts")
    if not isinstance(entries, list) or len(entries) != 1 or not isinstance(entries[0], dict):
        return interop.NOT_COUNTED
    prompt, completion, reasoning = (entries[0].get(f"{name}_tokens") for name in ("input", "output", "reasoning"))
    return interop.usage_of(f"{path}, {where}, `token_counts`", prompt, None, completion, reasoning)


def _shown(value: Any) -> str:
    return "missing" if value is None else repr(value)[:40]


# --- writing ----------------------------------------------------------------------------------------------------------


def write(answers: ArmExport, out: Path, now: datetime, task: str | None = None) -> tuple[Path, Path]:
    """Write the sample log and the results into a directory with the model's name. Raises CannotStore."""
    task = task or interop.dataset_of(answers.task)
    where, stamp = interop.into(out / answers.model), now.strftime("%Y%m%d_%H%M%S")
    samples = [_written(row) for row in answers.rows]
    lines = "".join(json.dumps(sample, ensure_ascii=False) + "\n" for sample in samples)
    log = interop.written(where / f"{stamp}_samples_{task}.jsonl", lines)
    whole = json.dumps(_results(answers, task, samples, stamp), indent=2, ensure_ascii=False)
    return log, interop.written(where / f"{stamp}_results.json", whole)


def _written(row: ExportedAnswer) -> Sample:
    item, answer = row.item, row.answer
    reply = f"{FAILED} {answer['reason']}]" if answer["status"] == "error" else answer["reply"] or ""
    raw = f"<think>\n{row.thinking}\n</think>\n\n{reply}" if row.thinking else reply
    golds = item["golds"]
    return {
        "doc_id": item["ord"],
        "target": golds[0] if len(golds) == 1 else str(golds),
        **({"resps": [raw]} if raw != reply else {}),
        "filtered_resps": reply,
        "token_counts": _counts(answer["calls"]),
        "doc_hash": _hash({name: item[name] for name in ("id", "text", "options", "golds", "images")}),
        "input": item["text"],
        **({} if answer["score"] is None else {"score": answer["score"]}),
        "cuecard": {
            "id": item["id"],
            "route": answer["route"],
            "status": answer["status"],
            "parsed": answer["parsed"],
            "latency": answer["latency"],
        },
    }


def _counts(calls: list[Record]) -> list[Sample | None]:
    """Token counts, one entry per call; [None] if a call was not counted, because lmms-eval sums the entries."""
    if any(call["prompt_tokens"] is None or call["completion_tokens"] is None for call in calls):
        return [None]
    names = {"input": "prompt", "output": "completion", "reasoning": "reasoning"}
    counts = [{f"{there}_tokens": call[f"{here}_tokens"] for there, here in names.items()} for call in calls]
    return [{name: count for name, count in each.items() if count is not None} for each in counts]


def _results(answers: ArmExport, task: str, samples: list[Sample], stamp: str) -> Sample:
    scores = [float(sample["score"]) for sample in samples if "score" in sample]
    result: Sample = {"alias": task, "samples": len(samples)}
    if scores:
        mean = sum(scores) / len(scores)
        result |= {"score,none": mean, "score_stderr,none": None}
        if len(scores) > 1:
            result["score_stderr,none"] = standard_error(scores)
    return {
        "results": {task: result},
        "group_subtasks": {task: []},
        "configs": {task: {"task": task, "dataset_path": answers.task["name"], "score_key": "score"}},
        "versions": {task: answers.task["revision"]},
        "n-shot": {task: 0},
        "higher_is_better": {task: {"score": True}},
        "n-samples": {task: {"original": len(samples) + answers.unanswered, "effective": len(samples)}},
        "config": {"model": "cuecard", "model_args": f"model={answers.model}", "arm": answers.arm, "limit": None},
        "cuecard_version": cuecard.__version__,
        "date": stamp,
        "task_hashes": {task: _hash([sample["doc_hash"] for sample in samples])},
        "model_source": "cuecard",
        "model_name": answers.model,
        "model_name_sanitized": answers.model,
        "total_evaluation_time_seconds": None,
    }


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


# --- lm-evaluation-harness --------------------------------------------------------------------------------------------

_WHICH_LM_EVAL = (
    "give a samples_TASK_*.jsonl that lm_eval wrote with --log_samples; less its last line if it was broken off"
)
_GSM8K = "#### "
"""Text before the final answer in a right answer of GSM8K."""


def read_lm_eval(path: Path, known: LocatedItems) -> Iterator[RecordedReply]:
    """All replies of a sample log. Raises BadInput, also if it contains log-likelihoods instead of replies."""
    seen = dict[str, Any]()
    for where, item, sample in samples(path, known, _WHICH_LM_EVAL):
        resps = sample.get("resps")
        if item.id in seen and seen[item.id] == resps:  # the same reply, for another filter
            continue
        seen[item.id] = resps
        requests, first = _members(sample.get("arguments")), _members(resps)[:1]
        request = _members(requests[0]) if requests else []
        # (score, is greedy) pairs, or scores of texts without generation settings
        if len(request) == 1 or any(isinstance(each, list) and each and isinstance(each[0], list) for each in first):
            what = f"{path}, {where}, `resps` holds log-likelihoods of given texts, and no reply"
            raise BadInput(what, "give the samples of a task whose output_type is generate_until")
        yield RecordedReply(
            item.id,
            where,
            *interop.parted(reply_of(path, where, sample, "resps")),
            prompt=interop.kept_prompt(request[0] if request else None),
            gold=_gold(sample.get("target"), item),
            gold_column="target",
            same_question=interop.has_question([sample.get(name) for name in _ASKED], item),
        )


def _members(value: Any) -> list[Any]:
    """The members of a list, or of an object with numbered keys (`gen_args_0`, `arg_0`); [] for other values."""
    return list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []


def _gold(target: Any, item: Item) -> str | None:
    """The right answer in a comparable form; None for a number in a choice: it may be an option's index or its text."""
    if not isinstance(target, str) or (item.question.kind is AnswerKind.CHOICE and target.strip().isdecimal()):
        return None
    return target.rpartition(_GSM8K)[2]
