"""lm-evaluation-harness's sample logs: `samples_TASK_DATETIME.jsonl`, written with --log_samples.

As `evaluator.py` and `loggers/evaluation_tracker.py` of 0.4 write them: `doc_id` is the row in the split, from 0, and
`resps` lists the replies to each request. Every value in it is a string, also the scores of a loglikelihood task. A
question has one line for each of its task's filters, with the same reply.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cuecard.domain.errors import BadInput
from cuecard.domain.question import AnswerKind
from cuecard.evals.interop.lmms import Sample, reply_of, samples
from cuecard.evals.interop.replies import LocatedItems, RecordedReply, kept_prompt, parted
from cuecard.evals.item import Item

_WHICH = "give a samples_TASK_*.jsonl that lm_eval wrote with --log_samples; less its last line if it was broken off"
_GSM8K = "#### "
"""Text before the final answer in a right answer of GSM8K."""


def read(path: Path, known: LocatedItems) -> Iterator[RecordedReply]:
    """All replies of a sample log. Raises BadInput, also if it contains log-likelihoods instead of replies."""
    seen = dict[str, Any]()
    for where, item, sample in samples(path, known, _WHICH):
        resps = sample.get("resps")
        if item.id in seen and seen[item.id] == resps:  # the same reply, for another filter
            continue
        seen[item.id] = resps
        request = _first_request(sample)
        if _are_scores(resps, request):
            what = f"{path}, {where}, `resps` holds log-likelihoods of given texts, and no reply"
            raise BadInput(what, "give the samples of a task whose output_type is generate_until")
        yield RecordedReply(
            item.id,
            where,
            *parted(reply_of(path, where, sample, "resps")),
            prompt=kept_prompt(request[0] if request else None),
            gold=_gold(sample.get("target"), item),
            gold_column="target",
        )


def _first_request(sample: Sample) -> list[Any]:
    """The arguments of a sample's first request: the prompt and generation settings; [] if missing."""
    requests = _members(sample.get("arguments"))
    return _members(requests[0]) if requests else []


def _members(value: Any) -> list[Any]:
    """The members of a list, or of an object with numbered keys (`gen_args_0`, `arg_0`); [] for other values."""
    return list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []


def _are_scores(resps: Any, request: list[Any]) -> bool:
    """Whether `resps` contains log-likelihoods: (score, is greedy) pairs, or scores of texts without settings."""
    first = resps[0] if isinstance(resps, list) and resps else None
    return len(request) == 1 or (isinstance(first, list) and bool(first) and isinstance(first[0], list))


def _gold(target: Any, item: Item) -> str | None:
    """The right answer in a comparable form; None for a number in a choice: it may be an option's index or its text."""
    if not isinstance(target, str) or (item.question.kind is AnswerKind.CHOICE and target.strip().isdecimal()):
        return None
    return target.rpartition(_GSM8K)[2]
