"""Judge models: they read or grade replies that scorers cannot score; the results are separate from a run's scores.

Two types: replies in which no answer was found (also listed for manual review), in which a judge reads the answer
(`judged.json` in the run's directory); and replies to open questions, which a judge grades (`graded.json`). No score,
interval or test of the run includes these results: only the figures of this module, which are marked as such.

To read a reply, the judge gets the question, the options and the reply, never the right answer or an image. The answer
that it reads is scored by the task's scorer. To grade an open reply, it also gets the right answer.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from cuecard import disk
from cuecard.answers.kinds import KINDS
from cuecard.domain.errors import BadInput, InvalidAnswer, ModelError
from cuecard.domain.question import AnswerKind, Question, letter
from cuecard.evals import scorers
from cuecard.evals.analysis.scores import by_arm, succeeded
from cuecard.evals.arm import LIVE
from cuecard.evals.database import Record, Store
from cuecard.evals.item import Item
from cuecard.evals.runner.scheduler import for_each
from cuecard.evals.scorers import scorable
from cuecard.models.base import Model
from cuecard.stats import Interval, share_interval
from cuecard.strategies.policy import Policy
from cuecard.strategies.run import answer as ask

READ, GRADED, VERSION = "judged.json", "graded.json", 1


@dataclass(frozen=True)
class Judged:
    """A judge's result. `answer`: the answer that it reads in a reply, None if there is none; for a grade, its text."""

    judge: str
    """The judge model's name."""
    revision: str
    """Hash of its weights or settings."""
    answer: str | None
    score: float
    """0 to 1."""


@dataclass(frozen=True)
class ListedReply:
    """A reply and the arms that gave it. `golds`: empty if unknown."""

    task: str
    id: str
    arms: tuple[str, ...]
    reply: str
    truncated: bool
    golds: tuple[str, ...]
    judged: Judged | None = None

    @property
    def judgement(self) -> str:
        """The judge's result in words."""
        if self.judged is None:
            return "not judged"
        return "no answer" if self.judged.answer is None else f"{self.judged.answer} ({self.judged.score:g})"

    @property
    def key(self) -> str:
        """Key of the reply's judgement, 16 hex digits."""
        return hashlib.sha256("\n".join((self.task, self.id, self.reply)).encode()).hexdigest()[:16]


def unparsed(store: Store, judged: Mapping[str, Judged], *, task: str | None = None) -> list[ListedReply]:
    """Replies in which no answer was found. `judged`: from `read`."""
    return _listed(store, judged, task, lambda answer, item: not answer["parsed"])


def gradable(store: Store, graded: Mapping[str, Judged], *, task: str | None = None) -> list[ListedReply]:
    """Replies to questions that only a judge can score; if a task is named, all its replies, whatever the scorer.

    Questions without a known right answer are left out. `graded`: from `read`.
    """

    def open_question(answer: Record, item: Record) -> bool:
        return bool(item["golds"]) and (task is not None or not scorable(item["golds"], item["scorer"]))

    return _listed(store, graded, task, open_question)


def _listed(
    store: Store, judged: Mapping[str, Judged], task: str | None, is_wanted: Callable[[Record, Record], bool]
) -> list[ListedReply]:
    """Distinct replies in the order of tasks and questions; failed answers have no reply."""
    items = {(item["task"], item["id"]): item for item in store.items(task)}
    arms: dict[tuple[str, str, str], list[Record]] = {}
    for answer in succeeded(store.answers()):
        item = items.get((answer["task"], answer["id"]))
        if item is not None and answer["reply"] is not None and is_wanted(answer, item):
            arms.setdefault((answer["task"], answer["id"], answer["reply"]), []).append(answer)
    found = []
    for (name, id, reply), own in arms.items():
        of_arms, cut = tuple(answer["arm"] for answer in own), any(each["truncated"] for each in own)
        listed = ListedReply(name, id, of_arms, reply, cut, tuple(items[name, id]["golds"]))
        found.append(replace(listed, judged=judged.get(listed.key)))
    return found


def judges(replies: Iterable[ListedReply]) -> str:
    """The names of the judges of these replies, separated by commas; "" if none is judged."""
    return ", ".join(dict.fromkeys(each.judged.judge for each in replies if each.judged))


# --- the files --------------------------------------------------------------------------------------------------------


def read(run: Path, file: str) -> dict[str, Judged]:
    """The stored results of judges, by reply key. `file`: READ or GRADED. Raises BadInput."""
    path = run / file
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if data["version"] != VERSION:
            raise BadInput(f"{path} is of version {data['version']}, this cuecard reads {VERSION}", "judge again")
        return {key: Judged(**each) for key, each in data["replies"].items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{path} cannot be read: {error}", "delete it, and judge again") from error


def write(run: Path, file: str, judged: Mapping[str, Judged]) -> None:
    """Store results of judges, by reply key. Raises CannotStore."""
    replies: dict[str, Any] = {key: asdict(each) for key, each in judged.items()}
    disk.save(run / file, {"version": VERSION, "replies": replies})


# --- results by arm ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class JudgedArm:
    """One arm on one task. `read`: its mean score without the judge, in which unparsed replies are wrong."""

    arm: str
    scored: int
    unparsed: int
    judged: int
    """Number of unparsed replies that the judge has read."""
    gained: float
    """Sum of the scores of the judged replies."""
    read: float

    @property
    def with_judge(self) -> float:
        """Mean score including the answers that the judge has read in unparsed replies."""
        return self.read + self.gained / self.scored


def judged_arms(answers: Iterable[Record], replies: Sequence[ListedReply], task: str) -> list[JudgedArm]:
    """Arms with unparsed replies. `replies`: from `replies.unparsed`."""
    result = []
    for arm, answered in _by_arm(answers, task).items():
        own = [answer for answer in answered if answer["score"] is not None]
        listed = [each for each in replies if each.task == task and arm in each.arms and each.golds]
        known = [each.judged for each in listed if each.judged is not None]
        if listed and own:
            read, gained = sum(answer["score"] for answer in own) / len(own), sum(each.score for each in known)
            result.append(JudgedArm(arm, len(own), len(listed), len(known), gained, read))
    return result


@dataclass(frozen=True)
class GradedArm:
    """The grades of one arm's replies to the open questions of a task, 0 to 1."""

    arm: str
    answered: int
    failed: int
    """Failed answers: they have no grade, and `answered` does not count them."""
    graded: int
    mean: Interval
    """Mean grade over questions."""
    by_category: Mapping[str, float]
    """Mean grade by category. A question with several (`ocr,math`) counts in each, as MM-Vet's capabilities."""


def graded_arms(
    answers: Iterable[Record], items: Mapping[str, Record], replies: Sequence[ListedReply], task: str
) -> list[GradedArm]:
    """Arms of a task with graded replies. `items`: the task's, by id; `replies`: from `replies.gradable`."""
    listed = {(each.id, each.reply): each for each in replies if each.task == task}
    result = []
    for arm, own in _by_arm(answers, task).items():
        failed = sum(answer["status"] == "error" for answer in own)
        wanted = [each for answer in own if (each := listed.get((answer["id"], answer["reply"]))) is not None]
        grades = [(each.id, each.judged.score) for each in wanted if each.judged is not None]
        if not grades:
            continue
        mean = share_interval([grade for _, grade in grades], [items[id]["cluster"] for id, _ in grades])
        categories: dict[str, list[float]] = {}
        for id, grade in grades:
            for name in filter(None, (part.strip() for part in (items[id].get("category") or "").split(","))):
                categories.setdefault(name, []).append(grade)
        means = {name: sum(of) / len(of) for name, of in sorted(categories.items())}
        result.append(GradedArm(arm, len(wanted), failed, len(grades), mean, means))
    return result


@dataclass(frozen=True)
class JudgedRun:
    """Replies of a run for a judge, and its arms by task with the judge's results."""

    unparsed: Sequence[ListedReply] = ()
    judged: Mapping[str, Sequence[JudgedArm]] = field(default_factory=dict)
    grades: Sequence[ListedReply] = ()
    """Only graded replies."""
    graded: Mapping[str, Sequence[GradedArm]] = field(default_factory=dict)


def judged_run(store: Store, tasks: Sequence[str], run: Path | None) -> JudgedRun:
    """Everything that judges have found in these tasks of a run, by the files in its directory. Raises BadInput."""
    judged, graded = ({}, {}) if run is None else (read(run, READ), read(run, GRADED))
    answers, listed = list(store.answers()), unparsed(store, judged)
    all_replies = (each for task in tasks if graded for each in gradable(store, graded, task=task))
    grades = [each for each in all_replies if each.judged is not None]
    items = {task: {item["id"]: item for item in store.items(task)} for task in tasks}
    return JudgedRun(
        listed,
        {task: judged_arms(answers, listed, task) for task in tasks},
        grades,
        {task: graded_arms(answers, items[task], grades, task) for task in tasks},
    )


def _by_arm(answers: Iterable[Record], task: str) -> dict[str, list[Record]]:
    return {arm: own for arm, own in by_arm(answers, task).items() if not arm.endswith(LIVE)}


# --- the judge model --------------------------------------------------------------------------------------------------

NONE = "none"
MOST_CHARACTERS = 8000
"""Longer replies are cut at the front, because answers are at the end."""

Keep = Callable[[str, Judged], None]
Items = Mapping[tuple[str, str], Item]


@dataclass(frozen=True)
class Judge:
    """A judge model and its revision. `at_once`: maximum concurrent calls."""

    model: Model
    revision: str
    at_once: int = 1

    async def read(self, replies: Iterable[ListedReply], items: Items, keep: Keep) -> list[ModelError]:
        """Read every reply with a known right answer, and pass each result to `keep`. Returns the calls' failures."""
        return await self._each(replies, items, keep, self._read)

    async def grade(self, replies: Iterable[ListedReply], items: Items, keep: Keep) -> list[ModelError]:
        """Grade every reply with a known right answer, and pass each grade to `keep`. Returns the calls' failures, and
        an `InvalidAnswer` for each grade that is not a number from 0 to 1."""
        return await self._each(replies, items, keep, self._graded)

    async def _each(
        self,
        replies: Iterable[ListedReply],
        items: Items,
        keep: Keep,
        judged: Callable[[ListedReply, Item], Awaitable[Judged]],
    ) -> list[ModelError]:
        failures = list[ModelError]()

        async def one(reply: ListedReply) -> None:
            try:
                keep(reply.key, await judged(reply, items[reply.task, reply.id]))
            except ModelError as failure:
                failures.append(failure)

        await for_each(iter([each for each in replies if each.golds]), self.at_once, one)
        return failures

    async def _read(self, reply: ListedReply, item: Item) -> Judged:
        read = await self._answer(asked(item.question, reply.reply), AnswerKind.SHORT_TEXT)
        if read.strip(" .!\"'*").lower() == NONE:
            return Judged(self.model.name, self.revision, None, 0.0)
        found = scorers.ours(read, item.question)
        return Judged(self.model.name, self.revision, found, scorers.score(found, item) or 0.0)

    async def _graded(self, reply: ListedReply, item: Item) -> Judged:
        given = await self._answer(asked_to_grade(item.question, item.golds, reply.reply), AnswerKind.NUMBER)
        try:
            grade = float(given)
        except ValueError:
            grade = -1.0
        if not 0 <= grade <= 1:
            raise InvalidAnswer(
                f"{self.model.name} grades with {given!r}", "a grade is a number from 0 to 1: use a larger judge"
            )
        return Judged(self.model.name, self.revision, given, grade)

    async def _answer(self, text: str, kind: AnswerKind) -> str:
        outcome = await ask(Question(text, kind=kind), {"large": self.model}, "short:large", Policy(strict=True))
        return outcome.answer.strip()


def asked(question: Question, reply: str) -> str:
    """The prompt for reading the answer in a reply to this question."""
    return (
        "A model was asked the question below and gave the reply below. Which final answer does the reply give? Do not"
        f" answer the question yourself. Write {KINDS[question.kind].asks}; where the reply gives no final answer, or"
        f" several, write {NONE}.\n\nQUESTION\n{_with_options(question)}\n\nREPLY\n{_end(reply)}"
    )


def asked_to_grade(question: Question, golds: Iterable[str], reply: str) -> str:
    """The prompt for grading a reply: MM-Vet's rule (Yu et al. 2024, 3.3), in our own words."""
    return (
        "Grade a model's reply to a question about an image, which you do not see, by the right answer below. <AND>"
        " joins elements that a right reply has all of: a reply with some of them gets their share. <OR> joins"
        " elements of which any one makes the reply right. Other wording and further details do not matter, but a"
        " contradiction of the right answer does. Write one number from 0.0 (wrong) to 1.0 (right), in steps of 0.1,"
        f" and nothing else.\n\nQUESTION\n{_with_options(question)}\n\nRIGHT ANSWER\n{' <OR> '.join(golds)}"
        f"\n\nREPLY\n{_end(reply)}"
    )


def _with_options(question: Question) -> str:
    return question.text + "".join(f"\n{letter(place)}. {option}" for place, option in enumerate(question.options))


def _end(reply: str) -> str:
    return reply if len(reply) <= MOST_CHARACTERS else f"…{reply[-MOST_CHARACTERS:]}"
