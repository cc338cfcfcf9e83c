"""A judge model: which answer does a reply give in which no extractor found one?

The judge is given the question, the options and the reply, never the right answer or an image, and is to say what the
reply says. Its answer is scored by the task's rule, as any other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from cuecard.answers.kinds import KINDS
from cuecard.domain.errors import ModelError
from cuecard.domain.question import AnswerKind, Question, letter
from cuecard.evals import scorers
from cuecard.evals.analysis.unparsed import Judged, UnparsedReply
from cuecard.evals.item import Item
from cuecard.evals.runner.scheduler import for_each
from cuecard.models.base import Model
from cuecard.strategies.policy import Policy
from cuecard.strategies.run import answer

NONE = "none"
MOST_CHARACTERS = 8000
"""Of a reply, its last ones: that is where answers stand."""


@dataclass(frozen=True)
class Judge:
    """A model that judges, and its identity. `at_once`: most calls at the same time."""

    model: Model
    revision: str
    at_once: int = 1

    async def judge(
        self,
        replies: Iterable[UnparsedReply],
        items: Mapping[tuple[str, str], Item],
        keep: Callable[[str, Judged], None],
    ) -> list[ModelError]:
        """Judges every reply whose right answer is known, and hands each judgement over. Gives the calls' failures."""
        failures = list[ModelError]()

        async def one(reply: UnparsedReply) -> None:
            try:
                keep(reply.key, await self._judged(reply, items[reply.task, reply.id]))
            except ModelError as failure:
                failures.append(failure)

        known: Iterator[UnparsedReply] = iter([each for each in replies if each.golds])
        await for_each(known, self.at_once, one)
        return failures

    async def _judged(self, reply: UnparsedReply, item: Item) -> Judged:
        question = Question(asked(item.question, reply.reply), kind=AnswerKind.SHORT_TEXT)
        outcome = await answer(question, {"large": self.model}, "short:large", Policy(strict=True))
        said = outcome.answer.strip()
        if said.strip(" .!\"'*").lower() == NONE:
            return Judged(self.model.name, self.revision, None, 0.0)
        found = scorers.ours(said, item.question)
        return Judged(self.model.name, self.revision, found, scorers.score(found, item) or 0.0)


def asked(question: Question, reply: str) -> str:
    """What a judge is asked about a reply to this question."""
    options = "".join(f"\n{letter(place)}. {option}" for place, option in enumerate(question.options))
    cut = reply if len(reply) <= MOST_CHARACTERS else f"…{reply[-MOST_CHARACTERS:]}"
    return (
        "A model was asked the question below and gave the reply below. Which final answer does the reply give? Do not"
        f" answer the question yourself. Write {KINDS[question.kind].asks}; where the reply gives no final answer, or"
        f" several, write {NONE}.\n\nQUESTION\n{question.text}{options}\n\nREPLY\n{cut}"
    )
