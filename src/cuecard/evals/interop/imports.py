"""Predictions become a run: its calls are what the files tell, its answers what strategies make of these calls.

A call that no file holds is not made up. Where a strategy needs one (the large model reads the small one's reasoning),
a model that is given makes it; without one the question stays unresolved for that arm, and the run says so.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from cuecard.domain.call import FinishReason, Mode
from cuecard.domain.errors import BadInput, ModelError
from cuecard.domain.outcome import LatencyKind
from cuecard.evals import model_identity
from cuecard.evals.arm import Arm, parse_all
from cuecard.evals.interop.predictions import LocatedItems, RecordedReply, Source, asks
from cuecard.evals.item import Item, Task
from cuecard.evals.runner.compose import Composition, TaskItem, answer_record
from cuecard.evals.runner.run import item_record
from cuecard.evals.runner.scheduler import Scheduler, together
from cuecard.evals.runner.workers import PooledWorker, WorkerPool
from cuecard.evals.storage.database import AnswerRow, CallRow, ItemRow, Record, Row, Store
from cuecard.evals.storage.requests import TOKENS, CallRequest, Seat, StoredCalls, error_record, untimed
from cuecard.evals.study.study import run_config
from cuecard.models import prompt as layouts
from cuecard.models.base import Abilities, Model
from cuecard.models.prompt import TAGS, CardFormat, Prompt
from cuecard.strategies.policy import Acceptance, Policy

SAYS = Abilities(
    images=True, logprobs=False, scoring=False, prefix_sessions=False, card_formats=tuple(CardFormat), style=TAGS
)
"""A model of whom there are only files: no probabilities, nothing kept between calls."""
POLICY = Policy(accept=Acceptance(agreement=True, confidence=None))
"""Files tell no probabilities, so the short answers' agreement alone decides, as in the paper."""
_NEEDS = {
    "short:small": {("small", Mode.SHORT)},
    "short:large": {("large", Mode.SHORT)},
    "reason:small": {("small", Mode.REASON)},
    "reason:large": {("large", Mode.REASON)},
    "mutual": {("small", Mode.SHORT), ("large", Mode.SHORT), ("small", Mode.REASON)},
}


@dataclass(frozen=True)
class CardReader:
    """A model that reads cards, as it was named: what no file can tell."""

    model: Model
    spec: str
    at_once: int = 1


@dataclass(frozen=True)
class Import:
    """Files of two models about one task, in one format."""

    form: str
    task: Task
    known: LocatedItems
    sources: Sequence[Source]
    names: Mapping[str, str]
    """Of the models, by role."""
    reader: CardReader | None = None

    def __post_init__(self) -> None:
        hashes = [each.sha256 for each in self.sources]
        if len(set(hashes)) < len(hashes):
            twice = next(each for each in self.sources if hashes.count(each.sha256) > 1)
            raise BadInput(f"{twice.path} is given for two things", "give each file once")
        if {each.role for each in self.sources} != {"small", "large"}:
            raise BadInput("files of both models are needed", "give --small-… and --large-…")
        if self.names["small"] == self.names["large"]:
            raise BadInput(f"both models are called {self.names['small']!r}", "give --small-name or --large-name")
        if self.reader is not None and ("small", Mode.REASON) not in self.have:
            raise BadInput("there is nothing to read without the small model's reasoning", "give --small-reason")

    @property
    def have(self) -> set[tuple[str, Mode]]:
        return {(each.role, each.mode) for each in self.sources}

    @cached_property
    def arms(self) -> tuple[Arm, ...]:
        """What the files can answer, in part at least."""
        names = [name for name, needs in _NEEDS.items() if needs <= self.have]
        return parse_all(names + (["transfer"] if self.reader is not None else []), POLICY)

    @cached_property
    def seats(self) -> dict[str, Seat]:
        """The models, known by their files: calls of other files are other calls."""
        seats = {}
        for role, name in self.names.items():
            hashes = sorted(f"{each.mode} {each.sha256}" for each in self.sources if each.role == role)
            revision = hashlib.sha256("\n".join(hashes).encode()).hexdigest()[:16]
            seats[role] = Seat(role, name, f"{self.form} {revision}", SAYS)
        if self.reader is not None:
            able = replace(self.reader.model.abilities, scoring=False, prefix_sessions=False)
            seats["large"] = replace(seats["large"], abilities=able)
        return seats

    @property
    def config(self) -> dict[str, Any]:
        """All that decides a row of the run."""
        reader = self.reader
        imported = {
            "format": self.form,
            "files": {each.name: each.sha256 for each in self.sources},
            "read_by": reader and {"name": reader.model.name, "revision": model_identity.revision(reader.spec)},
        }
        return {**run_config(self.seats, [self.task], self.arms, POLICY), "imported": imported}


@dataclass
class ImportResult:
    """What became of an import. `unresolved`: by arm, the questions without an answer and what is missing for them."""

    questions: int = 0
    left_out: int = 0
    """Questions of the task that no file answers: they are no part of the run."""
    calls_made: int = 0
    unresolved: dict[str, dict[str, str]] = field(default_factory=lambda: defaultdict(dict))


async def fill(made: Import, store: Store) -> ImportResult:
    """Store calls and answers; what is there already stays. Raises CannotStore, BadInput, ModelError (lost reader)."""
    filled, items = ImportResult(), _task_items(made)
    filled.left_out = len(made.known) - len(asks(made.sources))

    async def keep(row: CallRow) -> None:
        await asyncio.to_thread(store.put, [row])

    at_once = made.reader.at_once if made.reader else 1
    models = {"large": made.reader.model} if made.reader else {}
    scheduler, pool = Scheduler(keep), WorkerPool.of(models, at_once, asyncio.get_running_loop().time)
    turn = asyncio.Lock()

    async def work() -> None:
        while True:
            async with turn:
                item = await asyncio.to_thread(next, items, None)
            if item is None:
                return
            async with pool.worker() as worker:
                await _fill_one(made, store, scheduler, worker, *item, filled)

    await together(*(work() for _ in range(at_once)))
    filled.calls_made = scheduler.calls
    for arm in made.arms:
        store.note(f"unresolved {made.task.name} {arm.name}", filled.unresolved[arm.name])
    store.note(f"complete {made.task.name}", not any(filled.unresolved.values()))
    return filled


async def _fill_one(
    made: Import, store: Store, scheduler: Scheduler, worker: PooledWorker, ord: int, at: TaskItem, filled: ImportResult
) -> None:
    item = at.item
    rows: list[Row] = [ItemRow(at.task, item.id, ord, item_record(item), item.question.images)]
    rows += [
        CallRow(request.key, record)
        for request, record in (_call(made, each, item) for each in made.sources if item.id in each.replies)
    ]
    await asyncio.to_thread(store.put, rows)
    calls = StoredCalls(store.call)
    with closing(Composition(at, made.arms, made.seats, calls)) as composition:
        requests = await asyncio.to_thread(composition.advance)
        reads = {key: each for key, each in requests.items() if each.mode is Mode.READ}
        if made.reader is not None and reads:
            await scheduler.make(reads, at, calls, worker)
            await asyncio.to_thread(composition.advance)
    records = [
        untimed(answer_record(at, each, LatencyKind.COMPOSED), store.call) for each in composition.outcomes.values()
    ]
    await asyncio.to_thread(store.put, [AnswerRow(at.task, item.id, each["arm"], each) for each in records])
    filled.questions += 1
    for arm, waiting in composition.waiting.items():
        lacking = sorted({"nobody read the card" if each.mode is Mode.READ else f"no {each.mode} reply of the "
                          f"{each.seat.role} model" for each in waiting.values()})  # fmt: skip
        filled.unresolved[arm][item.id] = ", ".join(lacking)


def _task_items(made: Import) -> Iterator[tuple[int, TaskItem]]:
    """Every question that some file answers, with its images."""
    wanted = asks(made.sources)
    for item in made.task.items():
        if item.id in wanted:
            yield made.known[item.id].at, TaskItem(made.task.name, item, None)


# --- calls ------------------------------------------------------------------------------------------------------------


def _call(made: Import, source: Source, item: Item) -> tuple[CallRequest, Record]:
    """The call as the store keeps it, under the key by which strategies ask for it."""
    seat, reply = made.seats[source.role], source.replies[item.id]
    layout: Callable[..., Prompt] = layouts.short if source.mode is Mode.SHORT else layouts.reason
    request = CallRequest(seat, layout(item.question, seat.abilities.style), POLICY.limits)
    failed = ModelError(reply.error, "the file tells no more") if reply.error else None
    record: Record = {
        "model": seat.name,
        "mode": source.mode,
        # what was asked in which words is the other tool's affair; it is here where the file tells it
        "prompt": {"turns": _turns(reply), "opening": None, "answer": None},
        "limits": None,
        "status": "ok" if failed is None else "error",
        "error": None if failed is None else error_record(failed),
        **dict.fromkeys(("first_token_s", "end_s", "hot_first_token_s", "hot_end_s")),
        "pieces": [],
        "reasoning": _card(reply, source.mode),
        "answer": reply.answer or None,
        "answer_logprob": None,
        "score": None,
        **{name: getattr(reply.usage, name) for name in TOKENS},
        "finish_reason": FinishReason.ERROR if failed else FinishReason.LENGTH if reply.unclosed else None,
        "warm": False,
        "cold": None,
        "at_once": None,
        "failures": [],
        "made_at": None,
        "imported": {"format": made.form, "file": source.path.name, "sha256": source.sha256, "where": reply.where},
    }
    return request, record


def _turns(reply: RecordedReply) -> list[Record]:
    return [] if reply.prompt is None else [{"role": "user", "text": reply.prompt, "images": []}]


def _card(reply: RecordedReply, mode: Mode) -> str | None:
    """The reasoning: what stands between marks, or the whole of a reply that reasons without any."""
    return reply.reasoning or (reply.answer or None if mode is Mode.REASON else None)


def unresolved(filled: ImportResult) -> dict[str, dict[str, int]]:
    """By arm: how many questions lack what."""
    return {arm: dict(Counter(each.values())) for arm, each in filled.unresolved.items() if each}
