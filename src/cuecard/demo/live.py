"""The run of `cuecard demo`: every arm answers each question live with cold caches, in a rotating order.

Answers are scored, counted and reported as in `cuecard eval`. All latencies are measured on whole requests.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from cuecard.demo.tasks import BoardsTask, EasyVqaTask
from cuecard.domain.call import Mode
from cuecard.domain.outcome import Outcome, Route
from cuecard.evals.analysis.comparisons import BASELINE
from cuecard.evals.analysis.examples import Example, Request, all_examples
from cuecard.evals.database import AnswerRow, ItemRow, Record, Row, Store
from cuecard.evals.item import Task
from cuecard.evals.runner import Plan, item_record, task_items
from cuecard.evals.runner.compose import TaskItem, answer_record, live
from cuecard.models.base import Model
from cuecard.report.arm_table import Figures
from cuecard.stats import mean

HEADLINE = "mutual/overlap"
ARMS = (
    "short:small",
    "short:large",
    "reason:small",
    BASELINE,
    "transfer/thrifty",
    "transfer/overlap",
    "mutual/thrifty",
    HEADLINE,
    "mutual/eager",
    "cascade",
    "route",
)
SAMPLED = (BASELINE, "mutual/thrifty", HEADLINE, "mutual/eager")
"""Arms with time lines in the report."""


def regimes(shapes: int, boards: int, seed: int) -> list[Task]:
    """A task for each regime, deterministic for a seed; a regime without questions is left out.

    shapes: easy-VQA's test split, where short answers are mostly right. boards: held-out boards, which need reasoning.
    """
    tasks: list[Task] = []
    if shapes:  # 0 would be all of them
        tasks.append(EasyVqaTask("shapes", "test", shapes, seed))
    if boards:
        tasks.append(BoardsTask("boards", seed, boards, "test", "examined"))
    return tasks


@dataclass(frozen=True)
class LiveRun:
    """The rows of a run, as an evaluation stores them, and the outcomes behind them."""

    rows: Sequence[Row]
    outcomes: Mapping[tuple[str, str, str], Outcome]
    """By task, item and arm."""

    @contextmanager
    def store(self) -> Iterator[Store]:
        """The rows in a temporary file, which is deleted at the end."""
        with TemporaryDirectory() as folder, closing(Store(Path(folder) / "run.sqlite")) as store:
            store.put(self.rows)
            yield store

    def examples(self, config: Mapping[str, Any], store: Store) -> dict[str, list[Example]]:
        """Every question by task, with the longest reasoning of the small model as its card."""
        cards: dict[tuple[str, str], str] = {}
        for (task, id, _), outcome in self.outcomes.items():
            for call in outcome.calls:
                if (call.role, call.mode) == ("small", Mode.REASON):
                    cards[task, id] = max(cards.get((task, id), ""), call.reasoning or "", key=len)
        return {
            task: [replace(each, card=cards.get((task, each.id))) for each in known]
            for task, known in all_examples(config, store).items()
        }

    def samples(self, known: Mapping[str, Sequence[Example]]) -> list[Request]:
        """For each task the question of median latency among those that `HEADLINE` transferred, under several arms."""
        samples = []
        for task, examples in known.items():
            transferred = sorted(
                (outcome.total_s, id)
                for (of, id, arm), outcome in self.outcomes.items()
                if (of, arm) == (task, HEADLINE) and outcome.route is Route.TRANSFERRED
            )
            if transferred:
                _, chosen = transferred[len(transferred) // 2]
                example = next(each for each in examples if each.id == chosen)
                outcomes = {arm: self.outcomes[task, chosen, arm] for arm in SAMPLED}
                why = f"of the questions that {HEADLINE} transferred, of median latency"
                samples.append(Request(example, outcomes, why))
        return samples


async def examine(plan: Plan, models: Mapping[str, Model], listen: Callable[[Record], None]) -> LiveRun:
    """Run every arm on every item; `listen` gets each answer's record. Raises CuecardError at the first failure."""
    rows, outcomes = list[Row](), dict[tuple[str, str, str], Outcome]()
    for place, at in interleaved(plan):
        rows.append(ItemRow(at.task, at.item.id, place, item_record(at.item), at.item.question.images))
        turn = place % len(plan.arms)  # rotate the order, so that drift of the machine affects all arms alike
        for arm in (*plan.arms[turn:], *plan.arms[:turn]):
            for model in models.values():
                model.forget()
            done = replace(await live(at, arm, models, None), arm=arm.name)
            if done.error is not None:
                raise done.error
            assert done.outcome is not None
            record = answer_record(at, done, done.outcome.latency_kind)
            rows.append(AnswerRow(at.task, at.item.id, arm.name, record))
            outcomes[at.task, at.item.id, arm.name] = done.outcome
            listen(record)
    return LiveRun(rows, outcomes)


def interleaved(plan: Plan) -> Iterator[tuple[int, TaskItem]]:
    """Every item with its index in its task; tasks are merged so that all progress at the same rate."""
    counts = {task.name: task.count or 1 for task in plan.tasks}
    each = [task_items(replace(plan, tasks=[task])) for task in plan.tasks]
    return heapq.merge(*each, key=lambda placed: (placed[0] + 0.5) / counts[placed[1].task])


class Tally:
    """Figures of a run in progress: means over the questions that an arm has answered so far."""

    def __init__(self) -> None:
        self._answers: dict[tuple[str, str], dict[str, Record]] = {}

    def add(self, record: Record) -> None:
        self._answers.setdefault((record["task"], record["arm"]), {})[record["id"]] = record

    def figures(self, task: str, arms: Iterable[str]) -> dict[str, Figures]:
        """By arm. Speed-ups are over the questions that both the arm and the baseline have answered."""
        alone, figures = self._answers.get((task, BASELINE), {}), {}
        for arm in arms:
            own = self._answers.get((task, arm), {})
            both = [(own[id], alone[id]) for id in own if id in alone]
            took, slow = (sum(each[side]["latency"]["total_s"] for each in both) for side in (0, 1))
            figures[arm] = Figures(
                mean(record["score"] for record in own.values()),
                mean(record["latency"]["total_s"] for record in own.values()),
                slow / took if took else None,
            )
        return figures
