"""Single questions of a run: every arm's answer, the card, and whether it helped or misled; and one full request."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cuecard.domain.call import Call, FinishReason, Mode, Usage
from cuecard.domain.outcome import LatencyKind, Outcome, Route
from cuecard.domain.question import AnswerKind, Question, letter
from cuecard.evals.analysis.comparisons import NO_CARD
from cuecard.evals.analysis.results import RunResults, TaskResults
from cuecard.evals.analysis.scores import counted, generated, scored_tasks, spent, timed
from cuecard.evals.database import Record, Store
from cuecard.evals.scorers import EXTRACTORS


@dataclass(frozen=True)
class Example:
    """One question. `card`: the small model's reasoning; None if no arm of the run requested it."""

    task: str
    id: str
    question: Question
    """Without its images."""
    images: tuple[str, ...]
    """Digests of the images."""
    golds: tuple[str, ...]
    category: str | None
    card: str | None
    answers: Mapping[str, Record]
    """Stored answers by arm."""

    @property
    def gold(self) -> str:
        """The right answers as text; an option with its words; `not known` if there are none."""
        options = self.question.options
        letters = [letter(place) for place in range(len(options))]
        words = [f"{each}. {options[letters.index(each)]}" if each in letters else each for each in self.golds]
        return " or ".join(words) or "not known"

    def wrong(self, arm: str) -> bool | None:
        """Whether an arm's answer scores less than 1; None if it has no answer or no score."""
        answer = self.answers.get(arm)
        return None if answer is None or answer["score"] is None else answer["score"] < 1


@dataclass(frozen=True)
class Gallery:
    """Questions that a card decided: the large model's short answer compared with `arm`, which reads the card."""

    task: str
    arm: str
    helped: tuple[Example, ...]
    """Wrong without the card, right with it."""
    misled: tuple[Example, ...]
    """Right without the card, wrong with it."""


@dataclass(frozen=True)
class Request:
    """One question of a task, with the calls of several arms."""

    example: Example
    outcomes: Mapping[str, Outcome]
    about: str
    """How the question was chosen."""


def all_examples(config: Mapping[str, Any], store: Store) -> dict[str, list[Example]]:
    """All questions by task, in order. For a long run this takes as much memory as its answers."""
    answers: dict[tuple[str, str], list[Record]] = defaultdict(list)
    tasks = scored_tasks(config, store)
    for answer in (answer for task in tasks for answer in task.all_answers):
        answers[answer["task"], answer["id"]].append(answer)
    return {
        task.name: [
            Example(
                item["task"],
                id,
                Question(item["text"], (), tuple(item["options"]), AnswerKind(item["kind"])),
                tuple(item["images"]),
                tuple(item["golds"]),
                item["category"],
                _card(own := answers[task.name, id], store),
                {answer["arm"]: answer for answer in own},
            )
            for id, item in task.items.items()
        ]
        for task in tasks
    }


def _card(answers: Iterable[Record], store: Store) -> str | None:
    """The longest card of the question's arms: a card with a smaller budget is its beginning."""
    keys = {
        call["key"]
        for answer in answers
        for call in answer["calls"]
        if call["role"] == "small" and call["mode"] == Mode.REASON and call["key"] is not None
    }
    written = [call["reasoning"] for key in sorted(keys) if (call := store.call(key)) and call["reasoning"]]
    return max(written, key=len, default=None)


# --- selections -------------------------------------------------------------------------------------------------------


def galleries(found: RunResults, known: Mapping[str, Sequence[Example]]) -> list[Gallery]:
    """A gallery for each task that has `NO_CARD` and a suitable arm: the first `transfer` arm, else the leading arm."""
    result = []
    for task in found.tasks:
        always = [arm.arm for arm in task.composed if arm.family == "paper" and arm.arm.startswith("transfer")]
        arm = always[0] if always else task.leading
        if arm is not None and NO_CARD in task.arms:
            of = known[task.task]
            helped = tuple(each for each in of if each.wrong(NO_CARD) is True and each.wrong(arm) is False)
            misled = tuple(each for each in of if each.wrong(NO_CARD) is False and each.wrong(arm) is True)
            result.append(Gallery(task.task, arm, helped, misled))
    return result


def most_telling(known: Sequence[Example], arms: Sequence[str], most: int) -> list[Example]:
    """At most `most` examples; those with different scores between the arms come first, otherwise the order stays."""

    def differs(example: Example) -> bool:
        return len({example.answers[arm]["score"] for arm in arms if arm in example.answers}) > 1

    return [*filter(differs, known), *(example for example in known if not differs(example))][:most]


def request(task: TaskResults, baseline: str | None, known: Sequence[Example]) -> Request | None:
    """The question of median latency, among those that all strategies of the paper transferred if any, else among all.

    None if no question has an answer with a known latency.
    """
    first = task.leading or next(iter(task.arms), None)
    if first is None:
        return None
    answered = [each for each in known if first in each.answers and timed([each.answers[first]])]
    if not answered:
        return None
    handed = [
        example
        for example in answered
        if task.paper
        and all(arm in example.answers and example.answers[arm]["route"] == Route.TRANSFERRED for arm in task.paper)
    ]
    pool = sorted(handed or answered, key=lambda example: float(example.answers[first]["latency"]["total_s"]))
    example = pool[(len(pool) - 1) // 2]
    wanted = {name for name in (NO_CARD, baseline, first, *task.paper) if name in example.answers}
    records = {name: example.answers[name] for name in task.arms if name in wanted}
    outcomes = {name: outcome_of(name, record) for name, record in records.items() if record["route"]}
    which = f"that {' and '.join(task.paper)} transferred" if handed else f"that {first} answered"
    return Request(example, outcomes, f"of the questions {which}, the one of median latency") if outcomes else None


def outcome_of(arm: str, record: Record) -> Outcome:
    """The outcome of a stored answer, without the texts of its calls, which are stored with the calls."""
    calls = tuple(_call(call) for call in record["calls"])
    return Outcome(
        record["answer"] or "",
        Route(record["route"]),
        arm,
        calls,
        record["latency"]["total_s"],
        record["reason"],
        confidence=record["confidence"],
        latency_kind=LatencyKind(record["latency"]["kind"]),
        truncated=record["truncated"],
    )


def _call(call: Record) -> Call:
    counts = (call[f"{name}_tokens"] for name in ("prompt", "cached", "completion", "reasoning"))
    return Call(
        call["role"],
        call["model"],
        Mode(call["mode"]),
        call["start_s"],
        call["first_token_s"],
        call["end_s"],
        Usage(*counts),
        FinishReason(call["finish_reason"]),
        error=call["error"] if isinstance(call["error"], str) else None,
        reasoning_end_s=call.get("reasoning_end_s"),
    )


# --- all answers as table rows ----------------------------------------------------------------------------------------


def rows(store: Store) -> list[dict[str, Any]]:
    """One flat row per answer, for a table."""
    items, result = {(item["task"], item["id"]): item for item in store.items()}, []
    for answer in store.answers():
        item, known = items[answer["task"], answer["id"]], counted([answer])
        row = {
            "task": answer["task"],
            "id": answer["id"],
            "arm": answer["arm"],
            "question": item["text"],
            "gold": " | ".join(item["golds"]),
            "category": item["category"],
            **{name: answer[name] for name in ("status", "route", "answer", "reply", "score")},
            **{f"score_{name}": answer["scores"].get(name) for name in EXTRACTORS},
            **{name: answer[name] for name in ("parsed", "truncated", "confidence")},
            "total_s": answer["latency"]["total_s"],
            "handoff_s": answer["latency"]["handoff_s"],
            "latency": answer["latency"]["kind"],
            "generated_tokens": generated(answer) if known else None,
            "all_tokens": spent(answer) if known else None,
            "calls": len(answer["calls"]),
            "reason": answer["reason"],
        }
        result.append(row)
    return result
