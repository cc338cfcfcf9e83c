"""Replays the requests of a journal with another policy or pair; calls that the journal holds are not made again.

A stored call replaces a new call of the same model, mode and question: a `read` call only if the card is the same, and
a reasoning only if it fits the budget. Other calls are made to the given models; without models, the result of such a
request is unknown.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cuecard.answers import agree, extract
from cuecard.answers.json_replies import union
from cuecard.domain.call import REASONING_CUT, FinishReason, Mode, Usage
from cuecard.domain.errors import BadInput, ModelError, NoAnswer, Unsupported
from cuecard.domain.outcome import Outcome, Route
from cuecard.domain.question import AnswerKind, Calling, Image, Message, Question
from cuecard.gateway.records import pictures
from cuecard.gateway.wire.chat import usage
from cuecard.models.base import (
    Abilities,
    AnswerDelta,
    Event,
    Finished,
    Limits,
    Model,
    Progress,
    ReasoningDelta,
    ReasoningEnded,
    Started,
)
from cuecard.models.images import images
from cuecard.models.prompt import TAGS, CardFormat, Prompt
from cuecard.models.replay import ReplayedModel, StoredCall
from cuecard.strategies.policy import Policy
from cuecard.strategies.run import answer

DIGEST = re.compile(r"[0-9a-f]{64}")
"""The digest of an image, which names its file; it can never be a path to another place."""
log = logging.getLogger("cuecard.gateway")
USABLE = (FinishReason.STOP, FinishReason.LENGTH, *REASONING_CUT)


@dataclass(frozen=True)
class JournalEntry:
    """One request of a journal."""

    id: str
    question: Question
    route: Route
    answer: str
    total_s: float
    tokens: int
    calls: Sequence[Mapping[str, Any]]
    has_images: bool
    """All of its images were kept, so that new calls can be made."""
    at: float = 0.0
    """Unix time of its end."""


@dataclass(frozen=True)
class ReplayedRequest:
    """One request, as recorded and as replayed."""

    before: JournalEntry
    after: Outcome | None
    """None: unknown, as calls are missing."""
    asked: int
    """Number of calls that were made."""
    missing: tuple[str, ...]
    """Calls that are neither in the journal nor made: `role mode`."""

    @property
    def same_answer(self) -> bool:
        """Whether the new answer equals the old one."""
        if self.after is None:
            return False
        question = self.before.question
        return agree(extract(self.before.answer, question), extract(self.after.answer, question), question)


def entries(*paths: Path) -> list[JournalEntry]:
    """The requests of journals with content, each once, in the order in which they ended. Raises BadInput."""
    found = {(entry.id, entry.at): entry for path in paths for entry in _entries(path)}
    return sorted(found.values(), key=lambda entry: entry.at)


def _entries(path: Path) -> Iterator[JournalEntry]:
    try:
        lines = path.read_bytes().split(b"\n")  # texts may contain other line breaks
    except OSError as error:
        raise BadInput(f"cannot read the journal {path}: {error}") from error
    torn = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            torn.append(number)  # the process was killed, or the disk full, while it was written
            continue
        if not isinstance(record, dict) or "content" not in record:
            raise BadInput(f"line {number} of {path} is no line of a journal")
        if record["content"] is False:
            raise BadInput(
                f"line {number} of {path} holds hashes instead of texts",
                "only a journal with content = true can be replayed",
            )
        if record.get("route") is None or record.get("question") is None:
            continue  # not answered, or passed on unchanged
        try:
            yield _entry(record, pictures(path))
        except (KeyError, TypeError, ValueError) as error:
            raise BadInput(f"line {number} of {path} is no line of a journal: {error}") from error
    if torn:
        also = f" and {len(torn) - 1} more" if torn[1:] else ""
        log.warning("line %d%s of %s cannot be read, and is left out", torn[0], also, path)


def _entry(record: Mapping[str, Any], folder: Path) -> JournalEntry:
    shown, lost = record["question"], []

    def image(digest: str) -> Image:
        if not DIGEST.fullmatch(digest):
            raise ValueError("an image has no digest")
        if (folder / digest).exists():
            return images.load(folder / digest)
        lost.append(digest)
        return Image(digest.encode())

    if (calling := shown.get("calling")) is not None:
        union(shown["schema"])  # raises if it is not the schema of a reply with calls
    question = Question(
        shown["text"],
        tuple(map(image, shown["images"])),
        tuple(shown["options"]),
        AnswerKind(shown["kind"]),
        shown["system"],
        tuple(Message(role, text, tuple(map(image, images))) for role, text, images in shown["history"]),
        shown["schema"],
        calling=None if calling is None else Calling(calling),
    )
    return JournalEntry(
        record["id"],
        question,
        Route(record["route"]),
        record["answer"],
        record["latency"]["total_s"],
        record["usage"]["total_tokens"],
        record["calls"],
        not lost,
        float(record.get("at", 0.0)),
    )


class JournalModel(ReplayedModel):
    """A model that replays the journal's calls about one question, and makes the others with the live model."""

    def __init__(self, role: str, entry: JournalEntry, live: Model | None) -> None:
        """The recorded calls count unless another model has taken the role."""
        name = live.name if live else next((call["model"] for call in entry.calls if call["role"] == role), role)
        able = live.abilities if live else Abilities(True, True, False, False, tuple(CardFormat), TAGS)
        # the recorded times include what warm prompts have saved; no journal holds weights of cards
        super().__init__(name, replace(able, prefix_sessions=False, weighing=False))
        self._role, self._live = role, live
        self._calls = [call for call in entry.calls if call["role"] == role and call["model"] == name]
        reasoned = (call["reasoning"] for call in entry.calls if call["mode"] == Mode.REASON)
        self._cards = [reasoning.strip() for reasoning in reasoned if reasoning]
        """The reasonings of the request, which its readers have read."""
        self.asked = 0
        self.missing: list[str] = []

    async def fetch(self, prompt: Prompt, limits: Limits, answer: str | None = None) -> StoredCall:
        if answer is None and (call := self._stored(prompt, limits)) is not None:
            return StoredCall(_events(call))
        self.missing.append(f"{self._role} {prompt.mode if answer is None else Mode.SCORE}")
        if answer is not None:
            raise Unsupported(f"the journal holds no scores of {self.name}")
        raise ModelError(f"the journal holds no {prompt.mode} call of {self.name} for this question")

    async def stream(self, prompt: Prompt, limits: Limits) -> AsyncGenerator[Event]:
        live = self._live if self._stored(prompt, limits) is None else None
        self.asked += live is not None
        async with aclosing(super().stream(prompt, limits) if live is None else live.stream(prompt, limits)) as events:
            async for event in events:
                yield event

    async def score(self, prompt: Prompt, answer: str) -> float:
        self.asked += self._live is not None
        return await (super().score if self._live is None else self._live.score)(prompt, answer)

    def _stored(self, prompt: Prompt, limits: Limits) -> Mapping[str, Any] | None:
        return next((call for call in self._calls if _stands_for(call, prompt, limits, self._cards)), None)


def _stands_for(call: Mapping[str, Any], prompt: Prompt, limits: Limits, cards: Sequence[str]) -> bool:
    if call["mode"] != prompt.mode or call["finish_reason"] not in USABLE or prompt.mode in (Mode.PROBE, Mode.GRADE):
        return False  # no journal holds what a probe had read so far, or which step was graded
    if prompt.mode is Mode.REASON:
        if prompt.card is not None:
            return False  # nor the text that a reasoning resumed
        thought = call["reasoning_tokens"] or 0
        return thought == limits.reasoning_tokens or (
            thought < limits.reasoning_tokens and call["finish_reason"] != FinishReason.BUDGET
        )
    return prompt.mode is not Mode.READ or (prompt.card or "").strip() in cards


def _events(call: Mapping[str, Any]) -> Iterator[tuple[float, Event]]:
    """The recorded call as (seconds, event): its text at the time of the first token, the rest at the end."""
    end_s = call["end_s"] - call["start_s"]
    now_s = end_s if call["first_token_s"] is None else call["first_token_s"] - call["start_s"]
    yield 0.0, Started()
    if call["reasoning"]:
        yield now_s, ReasoningDelta(call["reasoning"])
        now_s = end_s
    if call["mode"] == Mode.REASON:
        yield now_s if call["answer"] else end_s, ReasoningEnded()
    if call["answer"]:
        yield now_s, AnswerDelta(call["answer"])
    usage = Usage(*(call[f"{what}_tokens"] for what in ("prompt", "cached", "completion", "reasoning")))
    yield end_s, Progress(usage)
    yield end_s, Finished(usage, FinishReason(call["finish_reason"]), call["answer_logprob"])


async def again(entry: JournalEntry, strategy: str, policy: Policy, live: Mapping[str, Model]) -> ReplayedRequest:
    """Replay one request with another strategy or policy, or with another pair."""
    shown = live if entry.has_images else {}
    models = {role: JournalModel(role, entry, shown.get(role)) for role in ("small", "large")}
    strict = replace(policy, strict=True)  # a missing call must not look like a failed model
    try:
        after = await answer(entry.question, models, strategy, strict)
    except (ModelError, NoAnswer):
        after = None
    missing = tuple(call for model in models.values() for call in model.missing)
    return ReplayedRequest(entry, None if missing else after, sum(model.asked for model in models.values()), missing)


def summary(replayed: Sequence[ReplayedRequest]) -> dict[str, Any]:
    """The changes over all requests with a known result: routes, answers, seconds and tokens."""
    known = [(each.before, each.after) for each in replayed if each.after is not None]
    before, after = [one for one, _ in known], [other for _, other in known]
    seconds, tokens = ([each.total_s for each in side] for side in (before, after)), [usage(each) for each in after]
    mean_s = [sum(side) / len(side) if side else None for side in seconds]
    missing = Counter(call for each in replayed for call in each.missing)
    return {
        "requests": len(replayed),
        "told": len(known),
        "missing": dict(missing.most_common()),
        "calls_asked": sum(each.asked for each in replayed),
        "answers_changed": sum(each.after is not None and not each.same_answer for each in replayed),
        "routes": {
            "before": dict(Counter(each.route for each in before)),
            "after": dict(Counter(each.route for each in after)),
        },
        "mean_s": {"before": mean_s[0], "after": mean_s[1]},
        "tokens": {
            "before": sum(each.tokens for each in before),
            "after": sum(each["total_tokens"] for each in tokens),
        },
    }


async def replay(
    entries: Sequence[JournalEntry], strategy: str, policy: Policy, live: Mapping[str, Model], at_once: int = 8
) -> AsyncIterator[ReplayedRequest]:
    """All requests, in order; `at_once` of them at a time."""
    for start in range(0, len(entries), at_once):
        part = entries[start : start + at_once]
        for replayed in await asyncio.gather(*(again(entry, strategy, policy, live) for entry in part)):
            yield replayed
