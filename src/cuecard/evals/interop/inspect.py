"""inspect_ai's logs, version 2: `.json` as documented, `.eval` by inspect_ai's own log API if it is installed.

One sample per question: the pair is one model, the arm's answer is its output, and the metadata contain the route, the
calls and the seconds. A score of 1 is `C`, 0 is `I`, as in inspect_ai's scorers; other scores are numbers.

Reading logs does not need inspect_ai, but `.eval`, a zip of the same JSON with a file per sample, is compressed with
zstd, which zipfile supports from Python 3.14 or with the package zipfile-zstd.
"""

from __future__ import annotations

import hashlib
import json
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import cuecard
from cuecard.answers import normalise
from cuecard.disk import CannotStore
from cuecard.domain.call import FinishReason, Usage
from cuecard.domain.errors import BadInput, required
from cuecard.domain.question import AnswerKind, Image
from cuecard.evals import interop
from cuecard.evals.database import Record
from cuecard.evals.interop import ArmExport, ExportedAnswer, LocatedItems, RecordedReply
from cuecard.evals.item import Item
from cuecard.stats import mean, standard_error

Form = Literal["json", "eval"]
SCORER = "cuecard"


def write(answers: ArmExport, out: Path, now: datetime, form: Form, picture: Callable[[str], Image | None]) -> Path:
    """Write a log. `picture`: returns an image by its digest, or None to omit it. Raises MissingExtra, CannotStore."""
    log = log_of(answers, now, picture)
    stamp = now.strftime("%Y-%m-%dT%H-%M-%S%z")
    stamp = f"{stamp[:-2]}-{stamp[-2:]}"  # +00-00, as inspect_ai writes the zone in file names
    name = interop.named(f"{interop.dataset_of(answers.task)}-{answers.arm}").replace("_", "-")
    path = interop.into(out) / f"{stamp}_{name}_{log['eval']['task_id']}.{form}"
    if form == "json":
        return interop.written(path, json.dumps(log, indent=2, ensure_ascii=False))
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
            "task": interop.dataset_of(answers.task),
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
    question, hint = interop.question_of(item["text"])
    text = f"Hint: {hint}\n{question}" if hint else question
    shown = [image for digest in item["images"] if (image := picture(digest)) is not None]
    images = [{"type": "image", "image": image.data_url} for image in shown]
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
    prompt, completion = (interop.tokens(answer, kind) for kind in ("prompt", "completion"))
    if prompt is None or completion is None:
        return None
    cached = interop.tokens(answer, "cached")
    return {
        "input_tokens": prompt - (cached or 0),
        "output_tokens": completion,
        "total_tokens": prompt + completion,
        "input_tokens_cache_read": cached,
        "reasoning_tokens": interop.tokens(answer, "reasoning"),
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


# --- import -----------------------------------------------------------------------------------------------------------

_WHICH = "give a log that inspect_ai wrote: .eval or .json"
_HEADERS = ("header.json", "_journal/start.json", "start.json")
"""Files with the model's name: in a complete log, in an interrupted log, in a log of 2024."""
_SAMPLE = re.compile(r"samples/.+_epoch_\d+(/sample)?\.json", re.DOTALL)
"""File name of a sample, also if its messages are in separate files."""
_FINISH = {
    "stop": FinishReason.STOP,
    "max_tokens": FinishReason.LENGTH,
    "model_length": FinishReason.LENGTH,
    "length": FinishReason.LENGTH,
}


def read(path: Path, known: LocatedItems) -> Iterator[RecordedReply]:
    """The replies of all samples of a log. Raises BadInput."""
    for where, sample in _samples(path):
        yield _recorded(path, where, sample, known)


def model(path: Path, task: str) -> str:
    """The model's name in a log."""
    if path.suffix.lower() != ".eval":
        return str(_whole(path)["eval"].get("model") or path.stem)
    with _unzipped(path) as log:
        header = _header(path, log)
    return str(_object(header.get("eval")).get("model") or path.stem)


def _recorded(path: Path, where: str, sample: Record, known: LocatedItems) -> RecordedReply:
    if not isinstance(sample.get("id"), str | int):
        raise BadInput(f"{path}, {where} has no `id`", _WHICH)
    hint = "give inspect_ai's samples the ids of the task's questions"
    item = interop.item_at(f"{path}, {where}, `id`", str(sample["id"]), known, hint)
    interop.check_question(f"{path}, {where}, `input`", _asked(sample.get("input")), item)
    _check_options(path, where, sample, item)
    target = sample.get("target")
    if isinstance(target, list):
        target = ", ".join(map(str, target)) if item.question.kind is AnswerKind.CHOICE else str(target)
    output = _object(sample.get("output"))
    choices = _objects(output.get("choices"))
    later = "the sample is of a later epoch" if sample.get("epoch", 1) != 1 else None
    more: Any = {
        "usage": _tokens(path, where, sample, output),
        "gold": target if isinstance(target, str) else None,
        "gold_column": "target",
        "prompt": interop.kept_prompt(_asked(sample.get("messages") or sample.get("input"))),
        "unused": "the sample was invalidated" if sample.get("invalidation") else later,
    }
    if (failure := _failure(sample, output)) is not None:
        return RecordedReply(item.id, where, "", error=interop.one_line(failure), **more)
    if len(choices) > 1:
        what = f"{path}, {where}, `output` holds {len(choices)} replies"
        raise BadInput(what, "give a run with one reply a question (num_choices 1)")
    content = _object(choices[0].get("message")).get("content")
    if not isinstance(content, str | list):
        raise BadInput(f"{path}, {where}, `output`: the message has no `content`", _WHICH)
    ended = _FINISH.get(str(choices[0].get("stop_reason")))
    return RecordedReply(
        item.id, where, *interop.parted(_text(content), _joined(content, "reasoning")), finish_reason=ended, **more
    )


def _check_options(path: Path, where: str, sample: Record, item: Item) -> None:
    """Raises BadInput if a sample's choices are not the question's options in the same order (letters would differ)."""
    given = sample.get("choices")
    if not isinstance(given, list) or not given or item.question.kind is not AnswerKind.CHOICE:
        return
    if [normalise(str(each)) for each in given] != [normalise(each) for each in item.question.options]:
        what = f"{path}, {where}, `choices` are not the options of question {item.id[:80]!r}, in their order"
        raise BadInput(what, interop.OTHER_DATA)


def _failure(sample: Record, output: Record) -> str | None:
    """The reason why there is no reply; None if there is one."""
    error, limit, choices = sample.get("error"), _object(sample.get("limit")), _objects(output.get("choices"))
    if error or output.get("error"):
        return str(_object(error).get("message") or error or output["error"])
    if not choices:
        return f"stopped by its limit ({limit['type']})" if limit.get("type") else "the sample has no output"
    filtered = choices[0].get("stop_reason") == "content_filter"
    return "the content filter stopped the answer" if filtered else None


def _tokens(path: Path, where: str, sample: Record, output: Record) -> Usage:
    """Tokens of the call; not counted if a sample made several: the log has only the last call's. Raises BadInput."""
    usage = _object(output.get("usage"))
    calls = sum(each.get("source") == "generate" for each in _objects(sample.get("messages")))
    if calls > 1 or not usage.get("total_tokens"):
        return interop.NOT_COUNTED
    cached = interop.counted(usage.get("input_tokens_cache_read"))
    others = (interop.counted(usage.get(name)) for name in ("input_tokens", "input_tokens_cache_write"))
    prompt = sum(count or 0 for count in (cached, *others))
    place = f"{path}, {where}, `usage`"
    return interop.usage_of(place, prompt, cached, usage.get("output_tokens"), usage.get("reasoning_tokens"))


def _asked(given: Any) -> str:
    """The text of an input: a string, or the user's last message; empty if there is none."""
    if isinstance(given, str):
        return given
    asked = [each for each in _objects(given) if each.get("role") == "user"]
    return _text(asked[-1].get("content")) if asked else ""


def _text(content: Any) -> str:
    """The text of a message, without reasoning and images."""
    return content if isinstance(content, str) else _joined(content, "text")


def _joined(content: Any, kind: str) -> str:
    """The readable parts of this kind, `text` or `reasoning`; of redacted reasoning the summary."""
    parts = [each for each in _objects(content) if each.get("type") == kind]
    texts = [part.get("summary") if part.get("redacted") else part.get(kind) for part in parts]
    return "\n".join(text for text in texts if isinstance(text, str))


def _object(value: Any) -> Record:
    return value if isinstance(value, dict) else {}


def _objects(value: Any) -> list[Record]:
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


# --- files of logs ----------------------------------------------------------------------------------------------------


def _samples(path: Path) -> Iterator[tuple[str, Record]]:
    """(place in the file, sample) of every sample. Raises BadInput."""
    if path.suffix.lower() == ".eval":
        with _unzipped(path) as log:
            _check_version(path, _header(path, log))
            for name in dict.fromkeys(log.namelist()):  # of two entries with one name, zipfile reads the later one
                if _SAMPLE.fullmatch(name):
                    yield name, _entry(path, log, name)
        return
    for number, sample in enumerate(_whole(path).get("samples") or (), 1):
        if not isinstance(sample, dict):
            raise BadInput(f"{path}, sample {number} is not an object", _WHICH)
        yield f"sample {number}", sample


def _whole(path: Path) -> Record:
    """A log in a single JSON file. Raises BadInput."""
    try:
        log = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{path} is not JSON: {error}", _WHICH) from error
    if not isinstance(log, dict) or not isinstance(log.get("eval"), dict):
        raise BadInput(f"{path} is not a log of inspect_ai: it has no `eval`", _WHICH)
    _check_version(path, log)
    return log


def _check_version(path: Path, log: Record) -> None:
    """Raises BadInput for a log of a version that may be laid out in another way; logs of 2024 have none, or 1."""
    if log.get("version", 1) not in (1, 2):
        what = f"{path} is a log of version {str(log['version'])[:20]}, and versions 1 and 2 can be read"
        raise BadInput(what, "write the log with inspect_ai 0.3")


@contextmanager
def _unzipped(path: Path) -> Iterator[zipfile.ZipFile]:
    with suppress(ImportError):
        import_module("zipfile_zstd")  # of the extra `evals`: adds zstd to zipfile before Python 3.14
    try:
        log = zipfile.ZipFile(path)
    except zipfile.BadZipFile as error:
        raise BadInput(f"{path} is not a zip: {error}", "is the file whole?") from error
    with log:
        yield log


def _header(path: Path, log: zipfile.ZipFile) -> Record:
    """The object with the log's version and the model's name; empty if there is none."""
    names = [name for name in _HEADERS if name in log.namelist()]
    return _entry(path, log, names[0]) if names else {}


def _entry(path: Path, log: zipfile.ZipFile, name: str) -> Record:
    """The JSON object in a file of a zip. Raises BadInput."""
    try:
        value = json.loads(log.read(name))
    except NotImplementedError as error:
        what = f"{path}, {name} is compressed in a way that this Python cannot unpack (zstd)"
        hint = "pip install zipfile-zstd, use Python 3.14, or `inspect log convert FILE --to json --output-dir DIR`"
        raise BadInput(what, hint) from error
    except Exception as error:  # decompressors raise various errors for broken data
        raise BadInput(f"{path}, {name} cannot be read: {error}", "is the file whole?") from error
    if not isinstance(value, dict):
        raise BadInput(f"{path}, {name} is not an object", _WHICH)
    return value
