"""Predictions become a run: its calls are those of the files, its answers what strategies make of these calls.

A call that no file holds is not made up. Where a strategy needs one (the large model reads the small one's reasoning),
a model that is given makes it; without one the question stays unresolved for that arm, and the run says so.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from cuecard.answers import normalise
from cuecard.answers.reasoning_parser import parse
from cuecard.domain.call import Call, FinishReason, Mode, Usage
from cuecard.domain.errors import BadInput, ModelError
from cuecard.domain.outcome import LatencyKind
from cuecard.domain.question import AnswerKind
from cuecard.evals.arm import Arm, parse_all
from cuecard.evals.database import AnswerRow, CallRow, ItemRow, Record, Row, Store
from cuecard.evals.item import Item, Task
from cuecard.evals.requests import CallRequest, Seat, StoredCalls, model_revision, untimed
from cuecard.evals.runner.compose import Composition, TaskItem, answer_record
from cuecard.evals.runner.run import item_record
from cuecard.evals.runner.scheduler import PooledWorker, Scheduler, WorkerPool, for_each
from cuecard.evals.runner.worker import TimedCall, call_record
from cuecard.evals.scorers import option_meant
from cuecard.evals.study import run_config
from cuecard.evals.tasks.rows import RowsTask, listed, reading
from cuecard.models import prompt as layouts
from cuecard.models.base import Abilities, Model
from cuecard.models.prompt import TAGS, CardFormat, Prompt
from cuecard.strategies.acceptance_rules import Acceptance
from cuecard.strategies.policy import Policy

_STRICT = (AnswerKind.CHOICE, AnswerKind.YES_NO)
NOT_COUNTED = Usage()
SAYS = Abilities(
    images=True, logprobs=False, scoring=False, prefix_sessions=False, card_formats=tuple(CardFormat), style=TAGS
)
"""A model of which there are only files: no probabilities, nothing kept between calls."""
POLICY = Policy(accept=Acceptance(agreement=True, confidence=None))
"""Files hold no probabilities, so the short answers' agreement alone decides, as in the paper."""
_UNTOLD: Record = {"warm": False, "cold": None, "at_once": None, "failures": [], "made_at": None}
_NEEDS = {
    "short:small": {("small", Mode.SHORT)},
    "short:large": {("large", Mode.SHORT)},
    "reason:small": {("small", Mode.REASON)},
    "reason:large": {("large", Mode.REASON)},
    "mutual": {("small", Mode.SHORT), ("large", Mode.SHORT), ("small", Mode.REASON)},
}


# --- replies in files -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LocatedItem:
    """A question without its images, and at which row of its data it stands, counted from 0."""

    item: Item
    at: int


LocatedItems = Mapping[str, LocatedItem]
"""By the item's id, in the order of the data."""


@dataclass(frozen=True)
class RecordedReply:
    """One call as a file has it."""

    item: str
    where: str
    """Its place in the file: `row 3`."""
    answer: str
    """The reply, less closed thinking."""
    reasoning: str | None = None
    unclosed: bool = False
    """Its thinking was never closed, so it was cut off."""
    error: str | None = None
    prompt: str | None = None
    usage: Usage = NOT_COUNTED
    gold: str | None = None
    """What the file has for the right answer."""
    gold_column: str = "answer"
    cut: bool = False
    """It fills its cell, which was too small for it, so that it cannot be used."""


@dataclass(frozen=True)
class Source:
    """A file of one model's replies in one mode. `cut`: rows that are unusable because a cell was too small."""

    role: str
    mode: Mode
    path: Path
    sha256: str
    replies: Mapping[str, RecordedReply]
    cut: int = 0

    @property
    def name(self) -> str:
        return f"{self.role}-{self.mode}"


FileReader = Callable[[Path, LocatedItems], Iterator[RecordedReply]]
"""Gives every reply of a file, in its order. Raises BadInput."""


def places(task: Task) -> dict[str, LocatedItem]:
    """Every question of a task by its id; rows that are none are counted too. Raises BadInput."""
    located: dict[str, LocatedItem] = {}
    for at, each in enumerate(task.read() if isinstance(task, RowsTask) else task.items()):
        if isinstance(each, Item):
            lean = replace(each, question=replace(each.question, images=()))
            located[each.id] = LocatedItem(lean, at)
        elif each.stops:
            raise BadInput(f"{task.name}, row {each.row}: {each.what}", each.hint)
    if not located:
        raise BadInput(f"{task.name} has no questions", "`cuecard tasks TASK --check` shows why")
    return located


def source(role: str, mode: Mode, path: Path, read: FileReader, known: LocatedItems) -> Source:
    """A file of predictions, read whole. Raises BadInput that names the file, the row and what to do."""
    with reading(path):
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
    replies, cut, compared, differing = dict[str, RecordedReply](), 0, 0, list[str]()
    for reply in read(path, known):
        same = _same_gold(path, reply, known[reply.item].item)
        compared += same is not None
        differing += [reply.where] if same is False else []
        cut += reply.cut
        if reply.cut:
            continue
        if (other := replies.get(reply.item)) is not None:
            what = f"{path}, {reply.where}: question {reply.item[:80]!r} is answered in {other.where} too"
            raise BadInput(what, "keep one row for each question")
        replies[reply.item] = reply
    if 2 * len(differing) > compared:  # most words can be written in many ways, so most of them must differ
        what = f"{path}: {len(differing)} of {compared} right answers are not the task's, the first in {differing[0]}"
        raise BadInput(what, "is this the task that the file is about?")
    if not replies:
        raise BadInput(f"{path} holds no usable replies", "was the run finished?")
    return Source(role, mode, path, digest, replies, cut)


def parted(text: str) -> tuple[str, str | None, bool]:
    """(answer, the thinking before it, whether that was never closed) of a reply."""
    parsed = parse(text)
    return parsed.answer, parsed.reasoning if parsed.unclosed else parsed.reasoning or None, parsed.unclosed


def _same_gold(path: Path, reply: RecordedReply, item: Item) -> bool | None:
    """Whether the right answer of a file is the task's; None where the two cannot be compared.

    Raises BadInput for another choice, or another of yes and no: the file is about other data.
    """
    same = None if reply.gold is None else _same(reply.gold, item)
    if same is False and item.question.kind in _STRICT:
        gold, ours = str(reply.gold)[:40], " or ".join(item.golds)[:40]
        what = f"{gold!r} is right there, but {ours!r} for question {item.id[:80]!r}"
        where = f"{path}, {reply.where}, column `{reply.gold_column}`"
        raise BadInput(f"{where}: {what}", "is this the task that the file is about?")
    return same


def _same(gold: str, item: Item) -> bool | None:
    """None where the two cannot be compared."""
    kind, text = item.question.kind, gold.strip()
    if not item.golds or not text or text.lower() in ("nan", "none"):
        return None
    if kind is AnswerKind.CHOICE:
        meant = option_meant(text, item.question)
        return None if meant is None else meant in item.golds
    if kind is AnswerKind.YES_NO:
        return text.lower() in item.golds if text.lower() in ("yes", "no") else None
    golds = {normalise(gold) for gold in item.golds}
    return any(normalise(each) in golds for each in listed(text) or [text])


def counted(value: object) -> int | None:
    """A number of tokens in a file; None where it is no count."""
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value or value < 0:
        return None
    return int(value) if value < 2**53 else None


def asks(sources: Iterable[Source]) -> set[str]:
    """Every question that some file answers."""
    return {item for each in sources for item in each.replies}


# --- a run of them ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class CardReader:
    """A model that reads cards, as it was named: what no file can hold."""

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
            "read_by": reader and {"name": reader.model.name, "revision": model_revision(reader.spec)},
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
    filled, wanted, name = ImportResult(), asks(made.sources), made.task.name
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
        filled.unresolved[arm][item.id] = ", ".join(sorted(set(map(_lacking, waiting.values()))))


def _lacking(request: CallRequest) -> str:
    if request.mode is Mode.READ:
        return "no model reads the card"
    return f"no {request.mode} reply of the {request.seat.role} model"


# --- calls ------------------------------------------------------------------------------------------------------------


def _call(made: Import, source: Source, item: Item) -> tuple[CallRequest, Record]:
    """The call as the store keeps it, under the key by which strategies ask for it; what no file holds is None."""
    seat, reply = made.seats[source.role], source.replies[item.id]
    layout: Callable[..., Prompt] = layouts.short if source.mode is Mode.SHORT else layouts.reason
    request = CallRequest(seat, layout(item.question, seat.abilities.style), POLICY.limits)
    failed = ModelError(reply.error, "the file holds no more") if reply.error else None
    # the reasoning: what stands between marks, or the whole of a reply that reasons without any
    card = reply.reasoning or (reply.answer or None if source.mode is Mode.REASON else None)
    call = Call(
        seat.role, seat.name, source.mode, 0.0, None, 0.0, reply.usage, FinishReason.LENGTH, card, reply.answer or None
    )
    timeless = call_record(request, TimedCall(call, [], None, None, failed), None, **_UNTOLD)
    # the words of a prompt are the other tool's; they are kept where the file holds them
    turns = [] if reply.prompt is None else [{"role": "user", "text": reply.prompt, "images": []}]
    imported = {"format": made.form, "file": source.path.name, "sha256": source.sha256, "where": reply.where}
    return request, {
        **timeless,
        "prompt": {"turns": turns, "opening": None, "answer": None},
        "limits": None,
        "end_s": None,
        "finish_reason": FinishReason.ERROR if failed else FinishReason.LENGTH if reply.unclosed else None,
        "imported": imported,
    }


def unresolved(filled: ImportResult) -> dict[str, dict[str, int]]:
    """By arm: how many questions lack what."""
    return {arm: dict(Counter(each.values())) for arm, each in filled.unresolved.items() if each}
