"""Import predictions as a run: its calls come from the files, its answers are composed from these calls.

A call that no file contains is not invented. If a strategy needs one (the large model reads the small one's reasoning),
a given model makes it; without a model, the question stays unresolved for that arm, which the run records.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from cuecard.domain.call import Call, FinishReason, Mode
from cuecard.domain.errors import BadInput, ModelError
from cuecard.domain.outcome import LatencyKind
from cuecard.evals.arm import Arm, parse_all
from cuecard.evals.database import AnswerRow, CallRow, ItemRow, Record, Row, Store
from cuecard.evals.interop import LocatedItems, Source
from cuecard.evals.item import Item, Task
from cuecard.evals.requests import CallRequest, Seat, StoredCalls, model_revision, untimed
from cuecard.evals.runner import item_record
from cuecard.evals.runner.compose import Composition, TaskItem, answer_record
from cuecard.evals.runner.scheduler import PooledWorker, Scheduler, WorkerPool, for_each
from cuecard.evals.runner.worker import TimedCall, call_record
from cuecard.evals.study import run_config
from cuecard.models import prompt as layouts
from cuecard.models.base import Abilities, Model
from cuecard.models.prompt import TAGS, CardFormat, Prompt
from cuecard.strategies.policy import Acceptance, Policy

SAYS = Abilities(
    images=True, logprobs=False, scoring=False, prefix_sessions=False, card_formats=tuple(CardFormat), style=TAGS
)
"""Abilities of a model that is known only from files: no probabilities, no prefix caching."""
POLICY = Policy(accept=Acceptance(agreement=True, confidence=None))
"""Files contain no probabilities, so acceptance is by agreement of the short answers alone, as in the paper."""
_UNTOLD: Record = {"warm": False, "cold": None, "at_once": None, "failures": [], "made_at": None}
_NEEDS = {
    "short:small": {("small", Mode.SHORT)},
    "short:large": {("large", Mode.SHORT)},
    "reason:small": {("small", Mode.REASON)},
    "reason:large": {("large", Mode.REASON)},
    "mutual": {("small", Mode.SHORT), ("large", Mode.SHORT), ("small", Mode.REASON)},
}


@dataclass(frozen=True)
class CardReader:
    """A model for READ calls, which no file contains. `spec`: its specification as given."""

    model: Model
    spec: str
    at_once: int = 1


@dataclass(frozen=True)
class Import:
    """Files of one or two models about one task, in one format; one role's replies in one mode may be in several."""

    form: str
    task: Task
    known: LocatedItems
    sources: Sequence[Source]
    names: Mapping[str, str]
    """The models' names, by role."""
    reader: CardReader | None = None

    def __post_init__(self) -> None:
        seen, answered = dict[str, Source](), dict[tuple[str, Mode, str], Source]()
        for each in self.sources:
            if seen.setdefault(each.sha256, each) is not each:
                raise BadInput(f"{each.path} is given for two things", "give each file once")
            for item in each.replies:
                if (other := answered.setdefault((each.role, each.mode, item), each)) is not each:
                    what = f"question {item[:80]!r} is answered in {other.path} and in {each.path}"
                    raise BadInput(what, "give one file for each question: of a run and its retry, the retry")
        if len(set(self.names.values())) < len(self.names):
            raise BadInput(f"both models are called {self.names['small']!r}", "give --small-name or --large-name")
        if self.reader is not None and ("small", Mode.REASON) not in self.have:
            raise BadInput("there is nothing to read without the small model's reasoning", "give --small-reason")

    @property
    def have(self) -> set[tuple[str, Mode]]:
        return {(each.role, each.mode) for each in self.sources}

    @cached_property
    def files(self) -> dict[str, Source]:
        """Files by name: small-short, small-short-2, …, numbered in the order of their hashes."""
        counts, named = Counter[str](), dict[str, Source]()
        for each in sorted(self.sources, key=lambda each: each.sha256):
            name = f"{each.role}-{each.mode}"
            counts[name] += 1
            named[name if counts[name] == 1 else f"{name}-{counts[name]}"] = each
        return named

    @cached_property
    def arms(self) -> tuple[Arm, ...]:
        """The arms that can be composed from the files, at least for some questions."""
        names = [name for name, needs in _NEEDS.items() if needs <= self.have]
        return parse_all(names + (["transfer"] if self.reader is not None else []), POLICY)

    @cached_property
    def seats(self) -> dict[str, Seat]:
        """The models' seats, by role. Revisions are hashes of the files, so calls of different files are different."""
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
        """The configuration that determines the run's rows."""
        reader = self.reader
        imported = {
            "format": self.form,
            "files": {name: each.sha256 for name, each in self.files.items()},
            "read_by": reader and {"name": reader.model.name, "revision": model_revision(reader.spec)},
        }
        return {**run_config(self.seats, [self.task], self.arms, POLICY), "imported": imported}


@dataclass
class ImportResult:
    """The result of an import. `unresolved`: by arm, the questions without an answer, each with what is missing."""

    questions: int = 0
    left_out: int = 0
    """Number of the task's questions that no file answers; they are not part of the run."""
    calls_made: int = 0
    unresolved: dict[str, dict[str, str]] = field(default_factory=lambda: defaultdict(dict))


async def fill(made: Import, store: Store) -> ImportResult:
    """Store calls and answers; existing rows are kept. Raises CannotStore, BadInput, ModelError (reader is lost)."""
    filled, name = ImportResult(), made.task.name
    wanted = {item for each in made.sources for item in each.replies}
    filled.left_out = len(made.known) - len(wanted)
    items = ((made.known[item.id].at, TaskItem(name, item, None)) for item in made.task.items() if item.id in wanted)

    async def keep(row: CallRow) -> None:
        await asyncio.to_thread(store.put, [row])

    at_once = made.reader.at_once if made.reader else 1
    models = {"large": made.reader.model} if made.reader else {}
    scheduler, pool = Scheduler(keep), WorkerPool.of(models, at_once, asyncio.get_running_loop().time)

    async def work(item: tuple[int, TaskItem]) -> None:
        async with pool.worker() as worker:
            await _fill_one(made, store, scheduler, worker, *item, filled)

    await for_each(items, at_once, work)
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
        lacks = {_lacking(made, item.id, request) for request in waiting.values()}
        filled.unresolved[arm][item.id] = ", ".join(sorted(lacks))


def _lacking(made: Import, item: str, request: CallRequest) -> str:
    role, mode = request.seat.role, request.mode
    if mode is Mode.READ:
        return "no model reads the card"
    if any((each.role, each.mode) == (role, mode) and item in each.replies for each in made.sources):
        return f"the {mode} reply of the {role} model was cut off, and none to a stricter prompt is there"
    return f"no {mode} reply of the {role} model"


# --- calls ------------------------------------------------------------------------------------------------------------


def _call(made: Import, source: Source, item: Item) -> tuple[CallRequest, Record]:
    """The request, as strategies make it, and the record of a file's reply; values that no file contains are None."""
    seat, reply = made.seats[source.role], source.replies[item.id]
    layout: Callable[..., Prompt] = layouts.short if source.mode is Mode.SHORT else layouts.reason
    request = CallRequest(seat, layout(item.question, seat.abilities.style), POLICY.limits)
    failed = ModelError(reply.error, "the file holds no more") if reply.error else None
    ended = FinishReason.ERROR if failed else FinishReason.LENGTH if reply.unclosed else reply.finish_reason
    # the reasoning: the text between tags, or the whole reply if it has no tags
    card = reply.reasoning or (reply.answer or None if source.mode is Mode.REASON else None)
    call = Call(
        seat.role, seat.name, source.mode, 0.0, None, 0.0, reply.usage, FinishReason.LENGTH, card, reply.answer or None
    )
    timeless = call_record(request, TimedCall(call, [], None, None, failed), None, **_UNTOLD)
    # the prompt is the other tool's, kept if the file contains it
    turns = [] if reply.prompt is None else [{"role": "user", "text": reply.prompt, "images": []}]
    imported = {"format": made.form, "file": source.path.name, "sha256": source.sha256, "where": reply.where}
    return request, {
        **timeless,
        "prompt": {"turns": turns, "opening": None, "answer": None},
        "limits": None,
        "end_s": None,
        "finish_reason": ended,
        "imported": imported,
    }
