"""A judge's results by arm of a task, without the arms that were run end to end."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from cuecard.evals.arm import LIVE
from cuecard.evals.database import Record, Store
from cuecard.evals.judging.replies import Judgements, ListedReply, gradable, unparsed
from cuecard.stats.bootstrap import Interval, mean_interval


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
        mean = mean_interval([grade for _, grade in grades], [items[id]["cluster"] for id, _ in grades])
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


def judged_run(store: Store, tasks: Sequence[str], found: Judgements) -> JudgedRun:
    """Everything that judges have found in these tasks of a run."""
    answers, listed = list(store.answers()), unparsed(store, found.read)
    all_replies = (each for task in tasks if found.graded for each in gradable(store, found.graded, task=task))
    grades = [each for each in all_replies if each.judged is not None]
    items = {task: {item["id"]: item for item in store.items(task)} for task in tasks}
    return JudgedRun(
        listed,
        {task: judged_arms(answers, listed, task) for task in tasks},
        grades,
        {task: graded_arms(answers, items[task], grades, task) for task in tasks},
    )


def _by_arm(answers: Iterable[Record], task: str) -> dict[str, list[Record]]:
    own: dict[str, list[Record]] = {}
    for answer in answers:
        if answer["task"] == task and not answer["arm"].endswith(LIVE):
            own.setdefault(answer["arm"], []).append(answer)
    return own
