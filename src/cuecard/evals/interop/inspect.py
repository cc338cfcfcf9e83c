"""inspect_ai's logs, version 2: `.json` as documented, `.eval` by inspect_ai's own log API if it is installed.

One sample per question: the pair is one model, the arm's answer is its output, and the metadata contain the route, the
calls and the seconds. A score of 1 is `C`, 0 is `I`, as in inspect_ai's scorers; other scores are numbers.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import cuecard
from cuecard.disk import CannotStore
from cuecard.domain.errors import required
from cuecard.domain.question import Image
from cuecard.evals.database import Record
from cuecard.evals.interop import exports
from cuecard.evals.interop.exports import ArmExport, ExportedAnswer
from cuecard.stats.inference import mean, standard_error

Form = Literal["json", "eval"]
SCORER = "cuecard"


def write(answers: ArmExport, out: Path, now: datetime, form: Form, picture: Callable[[str], Image | None]) -> Path:
    """Write a log. `picture`: returns an image by its digest, or None to omit it. Raises MissingExtra, CannotStore."""
    log = log_of(answers, now, picture)
    stamp = now.strftime("%Y-%m-%dT%H-%M-%S%z")
    stamp = f"{stamp[:-2]}-{stamp[-2:]}"  # +00-00, as inspect_ai writes the zone in file names
    name = exports.named(f"{exports.dataset_of(answers.task)}-{answers.arm}").replace("_", "-")
    path = exports.into(out) / f"{stamp}_{name}_{log['eval']['task_id']}.{form}"
    if form == "json":
        return exports.written(path, json.dumps(log, indent=2, ensure_ascii=False))
    logs = required("inspect_ai.log", ".eval", "pip install inspect-ai, or give --format json")
    try:
        logs.write_eval_log(logs.EvalLog.model_validate(log), str(path), "eval")
    except OSError as error:
        raise CannotStore(f"cannot write {path}: {error.strerror}") from error
    return path


def log_of(answers: ArmExport, now: datetime, picture: Callable[[str], Image | None]) -> Record:
    """The log as plain data."""
    samples = [_sample(row, answers, picture) for row in answers.rows]
    scored = [float(row.answer["score"]) for row in answers.rows if row.answer["score"] is not None]
    whole = [row for row in answers.rows if row.answer["status"] != "error"]
    config, when = answers.config, now.isoformat(timespec="seconds")
    metrics = {
        "accuracy": mean(scored),
        "stderr": standard_error(scored) if len(scored) > 1 else 0.0,
    }
    score = {
        "name": SCORER,
        "scorer": SCORER,
        "scored_samples": len(scored),
        "unscored_samples": len(samples) - len(scored),
        "metrics": {name: {"name": name, "value": value} for name, value in metrics.items()},
    }
    return {
        "version": 2,
        "status": "success",
        "eval": {
            "eval_id": _id("eval", answers, when),
            "run_id": _id("run", answers, when),
            "created": when,
            "task": exports.dataset_of(answers.task),
            "task_id": _id("task", answers, answers.task["revision"]),
            "task_args": {},
            "model": f"cuecard/{answers.arm}",
            "model_args": {role: model["name"] for role, model in config["models"].items()},
            "dataset": {
                "name": answers.task["name"],
                "samples": len(samples),
                "sample_ids": [sample["id"] for sample in samples],
                "shuffled": answers.drawn,
            },
            "config": {"epochs": 1},
            "packages": {"cuecard": cuecard.__version__},
            "metadata": {
                "revision": answers.task["revision"],
                "policy": config.get("policy"),
                "imported": config.get("imported"),
                "unanswered": answers.unanswered,
            },
        },
        "plan": {"name": "plan", "steps": [{"solver": "cuecard", "params": {"arm": answers.arm}}], "config": {}},
        "results": {
            "total_samples": len(samples) + answers.unanswered,
            "completed_samples": len(whole),
            "scores": [score] if scored else [],
        },
        "stats": {"started_at": when, "completed_at": when, "model_usage": _sum(samples), "role_usage": {}},
        "samples": samples,
    }


def _sample(row: ExportedAnswer, answers: ArmExport, picture: Callable[[str], Image | None]) -> Record:
    item, answer = row.item, row.answer
    question, hint = exports.question_of(item["text"])
    text = f"Hint: {hint}\n{question}" if hint else question
    shown = [image for digest in item["images"] if (image := picture(digest)) is not None]
    urls = [f"data:{image.media_type};base64,{base64.b64encode(image.data).decode()}" for image in shown]
    images = [{"type": "image", "image": url} for url in urls]
    content: Any = [{"type": "text", "text": text}, *images] if images else text
    reply, failed = answer["reply"] or "", answer["status"] == "error"
    thought = [{"type": "reasoning", "reasoning": row.thinking}, {"type": "text", "text": reply}]
    message = {"role": "assistant", "content": reply if row.thinking is None else thought, "source": "generate"}
    ended = any(call["finish_reason"] == "stop" for call in answer["calls"])
    score = {
        "value": {1.0: "C", 0.0: "I"}.get(answer["score"], answer["score"]),
        "answer": answer["answer"],
        "metadata": {"scorer": item["scorer"], "scores": answer["scores"], "parsed": answer["parsed"]},
    }
    usage = _usage(answer)
    metadata = {name: answer[name] for name in ("route", "reason", "confidence", "latency", "calls", "attempts")}
    return {
        "id": item["id"],
        "epoch": 1,
        "input": [{"role": "user", "content": content}],
        "choices": list(item["options"]) or None,
        "target": list(item["golds"]) if len(item["golds"]) != 1 else item["golds"][0],
        "messages": [{"role": "user", "content": content}, message],
        "output": {
            "model": f"cuecard/{answers.arm}",
            "choices": [
                {
                    "message": message,
                    "stop_reason": "max_tokens" if answer["truncated"] else "stop" if ended else "unknown",
                }
            ],
            "completion": reply,
            "usage": usage,
            "time": answer["latency"]["total_s"],
            "error": answer["reason"] if failed else None,
        },
        "scores": None if answer["score"] is None else {SCORER: score},
        "metadata": {**metadata, "images": item["images"], "category": item["category"], "split": item["split"]},
        "model_usage": {f"cuecard/{answers.arm}": usage} if usage else {},
        "total_time": answer["latency"]["total_s"],
        "error": {"message": answer["reason"], "traceback": "", "traceback_ansi": ""} if failed else None,
    }


def _usage(answer: Record) -> Record | None:
    """Tokens of all calls, as inspect_ai counts them: cached tokens are not part of the input; None if unknown."""
    prompt, completion = (exports.tokens(answer, kind) for kind in ("prompt", "completion"))
    if prompt is None or completion is None:
        return None
    cached = exports.tokens(answer, "cached")
    return {
        "input_tokens": prompt - (cached or 0),
        "output_tokens": completion,
        "total_tokens": prompt + completion,
        "input_tokens_cache_read": cached,
        "reasoning_tokens": exports.tokens(answer, "reasoning"),
    }


def _sum(samples: list[Record]) -> Record:
    """Sum of the samples' usage by model; empty if the usage of a sample is unknown."""
    usages = [usage for sample in samples for usage in sample["model_usage"].items()]
    if not usages or len(usages) < len(samples):
        return {}
    names: Mapping[str, Any] = usages[0][1]
    known = {name: [usage[name] for _, usage in usages] for name in names}
    return {usages[0][0]: {name: None if None in each else sum(each) for name, each in known.items()}}


def _id(what: str, answers: ArmExport, more: str) -> str:
    """An id of 22 hex digits, the same for the same log."""
    return hashlib.sha256(f"{what} {answers.task['name']} {answers.arm} {more}".encode()).hexdigest()[:22]
