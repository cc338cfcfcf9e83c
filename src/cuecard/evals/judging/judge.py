"""A judge model: reads the answer in replies in which no extractor found one, and grades replies to open questions.

To read a reply, the judge gets the question, the options and the reply, never the right answer or an image. The answer
that it reads is scored by the task's scorer. To grade an open reply, it also gets the right answer.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass

from cuecard.answers.kinds import KINDS
from cuecard.domain.errors import InvalidAnswer, ModelError
from cuecard.domain.question import AnswerKind, Question, letter
from cuecard.evals import scorers
from cuecard.evals.item import Item
from cuecard.evals.judging.replies import Judged, ListedReply
from cuecard.evals.runner.scheduler import for_each
from cuecard.models.base import Model
from cuecard.strategies.policy import Policy
from cuecard.strategies.run import answer

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
        outcome = await answer(Question(text, kind=kind), {"large": self.model}, "short:large", Policy(strict=True))
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
