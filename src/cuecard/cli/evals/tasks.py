"""`cuecard tasks`: lists tasks, shows samples of one, and checks a whole file."""

from __future__ import annotations

import io
import json
from collections import Counter
from dataclasses import asdict, dataclass, field
from itertools import islice
from typing import Annotated, Any

import typer
from PIL import Image as PilImage
from rich.table import Table
from rich.text import Text

from cuecard.cli import make_console
from cuecard.cli.models import block
from cuecard.demo.tasks import offer
from cuecard.domain.question import Image
from cuecard.evals.item import Item, Task
from cuecard.evals.runner import chosen
from cuecard.evals.tasks.files import PresetTask
from cuecard.evals.tasks.registry import offered, open_task
from cuecard.evals.tasks.rows import Fault, Flaw, RowsTask
from cuecard.models.prompt import TAGS, short

MOST_NAMES = 12


def tasks(
    spec: Annotated[
        str | None,
        typer.Argument(
            help="A task: boards:seed=3,count=200, mmstar, tsv:FILE, jsonl:FILE, gym:NAME. Default: list all.",
            show_default=False,
        ),
    ] = None,
    samples: Annotated[int, typer.Option(min=0, help="How many samples to show.")] = 3,
    whole: Annotated[bool, typer.Option("--check", help="Read the whole task and report problems.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """List tasks; show the exact prompts of one; check a whole file."""
    if spec is None:
        _list(as_json)
        return
    task = open_named(spec)
    if whole:
        checked = check(task)
        _report(task, checked, as_json)
        if not checked.usable:
            raise typer.Exit(2)
        return
    shown = list(islice(chosen(task, None, None), samples))
    if as_json:
        typer.echo(json.dumps({**_about(task), "samples": [_sample(item) for item in shown]}, ensure_ascii=False))
        return
    console = make_console()
    console.print(block(task.name, _about(task)))
    for item in shown:
        sample = _sample(item)
        console.print()
        lists = {name: "; ".join(sample[name]) or "none" for name in ("golds", "images")}
        console.print(block(sample["id"], {"kind": sample["kind"], "scorer": sample["scorer"], **lists}))
        for turn in sample["turns"]:
            console.print(f"  [dim]{turn['role']}[/]")
            # no line breaks but those of the prompt
            console.print(Text("\n".join(f"  │ {line}" for line in turn["text"].split("\n"))), soft_wrap=True)


def open_named(spec: str) -> Task:
    """The task of a specification, with boards and easy-VQA registered. Raises BadInput."""
    offer()
    return open_task(spec)


def note_of(task: Task) -> str | None:
    """A note to read before scoring the task's answers; None for most tasks."""
    return task.preset.note if isinstance(task, PresetTask) else None


def _list(as_json: bool) -> None:
    offer()
    if as_json:
        rows = {
            name: {"about": each.about, "kinds": each.kinds, "scorer": each.scorer, "options": dict(each.options)}
            for name, each in offered().items()
        }
        typer.echo(json.dumps(rows, ensure_ascii=False))
        return
    console = make_console()
    table = Table("task", "kinds", "scorer", "about", box=None, pad_edge=False)
    for name, each in offered().items():
        table.add_row(Text(f"{name}:{each.argument}" if each.needed else name), each.kinds, each.scorer, each.about)
    console.print(table)
    console.print("[dim]cuecard tasks TASK shows samples, --check reads all of it[/]")


def _about(task: Task) -> dict[str, str]:
    facts = {"revision": task.revision, "score": task.aggregate}
    if (note := note_of(task)) is not None:
        facts["note"] = note
    return facts if task.count is None else {**facts, "questions": f"{task.count:,}"}


def _sample(item: Item) -> dict[str, Any]:
    """An item in a short-answer prompt: every turn, the right answer, the sizes of its images."""
    return {
        "id": item.id,
        "kind": str(item.question.kind),
        "scorer": item.scorer,
        "golds": list(item.golds),
        "images": [_size(image) for image in item.question.images],
        "category": item.category,
        "group": item.group,
        "turns": [{"role": turn.role, "text": turn.text} for turn in short(item.question, TAGS).turns],
    }


def _size(image: Image) -> str:
    with PilImage.open(io.BytesIO(image.data)) as picture:
        wide, high = picture.size
    return f"{wide}x{high} {image.media_type.removeprefix('image/')}, {len(image.data) / 1024:.1f} KiB"


# --- reading a whole task ---------------------------------------------------------------------------------------------


@dataclass
class TaskCheck:
    """The result of reading a whole task."""

    items: int = 0
    unscored: int = 0
    """Items without a known right answer."""
    kinds: Counter[str] = field(default_factory=Counter)
    scorers: Counter[str] = field(default_factory=Counter)
    categories: Counter[str] = field(default_factory=Counter)
    splits: Counter[str] = field(default_factory=Counter)
    groups: int = 0
    images: int = 0
    without_image: int = 0
    clusters: int = 0
    repeated: int = 0
    """Items with the same words, options and images as an earlier one."""
    faults: Counter[Fault] = field(default_factory=Counter)
    flaws: tuple[Flaw, ...] = ()
    """The first flaws."""

    @property
    def usable(self) -> bool:
        """Whether a run may begin: there are items, and no flaw but rows that are left out."""
        return self.items > 0 and all(fault is Fault.DROPPED for fault in self.faults)


def check(task: Task, shown: int = 20) -> TaskCheck:
    """Read a whole task and count; also count flaws of its rows, and keep the first `shown`. Raises BadInput."""
    result, groups, clusters, asked = TaskCheck(), set[str](), set[str](), set[int]()
    for each in task.read() if isinstance(task, RowsTask) else task.items():
        if not isinstance(each, Item):
            result.faults[each.fault] += 1
            if each.stops and len(result.flaws) < shown:
                result.flaws += (each,)
            continue
        question = each.question
        result.items += 1
        result.unscored += not each.golds
        result.kinds[question.kind] += 1
        result.scorers[each.scorer] += 1
        result.categories.update([each.category] if each.category is not None else [])
        result.splits.update([each.split] if each.split is not None else [])
        result.images += len(question.images)
        result.without_image += not question.images
        groups.update([each.group] if each.group else [])
        clusters.add(each.cluster)
        asked.add(hash((question.text, question.options, tuple(image.digest for image in question.images))))
    result.groups, result.clusters, result.repeated = len(groups), len(clusters), result.items - len(asked)
    return result


def _report(task: Task, checked: TaskCheck, as_json: bool) -> None:
    if as_json:
        flaws = [asdict(flaw) for flaw in checked.flaws]
        typer.echo(
            json.dumps({**_about(task), **vars(checked), "flaws": flaws, "usable": checked.usable}, ensure_ascii=False)
        )
        return
    console = make_console()
    facts = {
        **_about(task),
        "questions": f"{checked.items:,}" + (f", in {checked.groups:,} groups" if checked.groups else ""),
        "right answer not known": f"{checked.unscored:,}",
        "kinds": _counts(checked.kinds),
        "scorers": _counts(checked.scorers),
        "images": f"{checked.images:,}, questions without one {checked.without_image:,}",
        "clusters": f"{checked.clusters:,}",
        "asked again": f"{checked.repeated:,}",
        "splits": _counts(checked.splits),
        "categories": _counts(checked.categories),
        "problems": _counts(checked.faults) if checked.faults else "none",
    }
    console.print(block(task.name, facts))
    for flaw in checked.flaws:
        console.print(Text(f"  row {flaw.row}: {flaw.what}" + (f" ({flaw.hint})" if flaw.hint else "")))
    left_out = sum(checked.faults.values()) - len(checked.flaws)
    if checked.flaws and left_out > 0:
        console.print(f"  [dim]and {left_out:,} more rows[/]")


def _counts(counts: Counter[Any]) -> str:
    most = counts.most_common()
    rest = f", and {len(most) - MOST_NAMES} more" if len(most) > MOST_NAMES else ""
    return ", ".join(f"{name} {number:,}" for name, number in most[:MOST_NAMES]) + rest or "none"
