"""Tasks by name: `mmstar`, `tsv:FILE`, `gym:NAME,seed=1`. Other packages register openers of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from cuecard.domain.errors import BadInput
from cuecard.domain.question import AnswerKind
from cuecard.domain.suggestions import did_you_mean
from cuecard.evals.item import Item, Task
from cuecard.evals.scoring.scorers import SCORERS
from cuecard.evals.tasks.gym import GymTask
from cuecard.evals.tasks.hub import FileTask, HubTask
from cuecard.evals.tasks.jsonl import JsonlTask
from cuecard.evals.tasks.presets import PRESETS, Preset
from cuecard.evals.tasks.rows import Fault, Flaw, RowsTask
from cuecard.evals.tasks.tsv import TsvTask

Options = Mapping[str, str]


@dataclass(frozen=True)
class Opener:
    """What opens the tasks of one name: from options, each checked, to a task."""

    open: Callable[[str, Options], Task]
    """(the whole specification, its options) -> the task. Raises BadInput."""
    about: str
    kinds: str
    scorer: str
    options: Mapping[str, str] = field(default_factory=dict)
    """What each option takes, in words."""
    first: str | None = None
    """The option that a value without a name is: FILE in `tsv:FILE`."""
    argument: str = "FILE"
    """What that option is called in `name:FILE`."""
    needed: bool = False
    """Whether it has to be there."""


_OPENERS: dict[str, Opener] = {}


def register(name: str, opener: Opener) -> None:
    """Offer tasks under a name; a later opener takes the place of an earlier one."""
    _OPENERS[name] = opener


def offered() -> Mapping[str, Opener]:
    """Every opener by its name."""
    return dict(_OPENERS)


def open_task(spec: str) -> Task:
    """The task of a specification, `name`, `name:FILE` or `name:key=value,key=value`.

    Raises BadInput with the nearest name or option that there is. Files are opened when items are read.
    """
    name, _, rest = spec.partition(":")
    opener = _OPENERS.get(name)
    if opener is None:
        raise BadInput(f"unknown task {name[:100]!r}", did_you_mean(name, _OPENERS))
    options = dict(_options(name, rest, opener))
    if opener.needed and opener.first not in options:
        raise BadInput(f"{name} needs {opener.options[opener.first or '']}", f"write {name}:{opener.argument}")
    return opener.open(spec, options)


def _options(name: str, rest: str, opener: Opener) -> Iterator[tuple[str, str]]:
    """Every option with its value. A path may hold commas and equals signs where a file of that name is there."""
    if opener.first and rest and _is_file(rest):
        yield opener.first, rest
        return
    for place, part in enumerate(filter(None, (part.strip() for part in rest.split(",")))):
        key, equals, value = part.partition("=")
        if not equals and place == 0 and opener.first:
            yield opener.first, part
        elif equals and key in opener.options and value:
            yield key, value
        elif equals and key in opener.options:
            raise BadInput(f"{name}: {key} has no value", f"it takes {opener.options[key]}")
        else:
            options = f"it takes: {', '.join(opener.options) or 'no options'}"
            raise BadInput(f"{name} has no option {key[:100]!r}", did_you_mean(key, opener.options, options))


def _is_file(text: str) -> bool:
    try:
        return Path(text).is_file()
    except (OSError, ValueError):
        return False


def whole_number(options: Options, key: str, default: int, least: int = 0) -> int:
    """An option that is a whole number. Raises BadInput."""
    text = options.get(key)
    if text is None:
        return default
    if not text.isdecimal() or len(text) > 18 or int(text) < least:
        raise BadInput(f"{key}={text[:40]} is not a whole number from {least} on", f"write {key}={max(least, default)}")
    return int(text)


def one_of(options: Options, key: str, names: Mapping[str, object] | tuple[str, ...]) -> str | None:
    """An option that is one of these names; None where it is not given. Raises BadInput with the nearest."""
    text = options.get(key)
    if text is None or text in names:
        return text
    raise BadInput(f"{key}={text[:40]} is not known", did_you_mean(text, names, f"it is one of: {', '.join(names)}"))


# --- the tasks of this room -------------------------------------------------------------------------------------------

KINDS = tuple(kind.value for kind in AnswerKind if kind not in (AnswerKind.JSON, AnswerKind.CHOICE))
_FILE, _FOLDER, _SPLIT = "a file", "the folder that images' paths start from", "rows of this split only"


def _kind(options: Options) -> AnswerKind | None:
    kind = one_of(options, "kind", KINDS)
    return None if kind is None else AnswerKind(kind)


def _path(options: Options, key: str) -> Path | None:
    return Path(options[key]).expanduser() if key in options else None


def _tsv(spec: str, options: Options) -> Task:
    switch = one_of(options, "circular", ("yes", "no"))
    return TsvTask(
        spec,
        Path(options["path"]).expanduser(),
        kind=_kind(options),
        scorer=one_of(options, "scorer", SCORERS),
        split=options.get("split"),
        images=_path(options, "images"),
        circular=None if switch is None else switch == "yes",
    )


def _jsonl(spec: str, options: Options) -> Task:
    return JsonlTask(
        spec, Path(options["path"]).expanduser(), images=_path(options, "images"), split=options.get("split")
    )


def _gym(spec: str, options: Options) -> Task:
    return GymTask(
        spec,
        options["puzzle"],
        seed=whole_number(options, "seed", 0),
        count=whole_number(options, "count", 100, least=1),
        kind=_kind(options),
    )


def _preset(preset: Preset, spec: str, options: Options) -> Task:
    path = _path(options, "path")
    elsewhere = sorted(set(options) - {"path"})
    if path and elsewhere and not (path.suffix == ".tsv" and elsewhere == ["split"]):
        raise BadInput(f"{spec}: {elsewhere[0]} is for the hub, and path for a file", "give one of the two")
    if path and path.suffix == ".tsv":
        circular = preset.aggregate == "circular"
        return TsvTask(spec, path, scorer=preset.scorer, split=options.get("split"), circular=circular)
    if path:
        return FileTask(spec, preset, path)
    return HubTask(spec, preset, **{key: options.get(key) for key in ("dataset", "config", "split", "revision")})


register(
    "tsv",
    Opener(
        _tsv,
        "a TSV file of VLMEvalKit",
        "choice, or by the question",
        "by the set's name",
        {
            "path": _FILE,
            "split": _SPLIT,
            "images": _FOLDER,
            "kind": f"the kind of questions without options: {', '.join(KINDS)}",
            "scorer": f"one of {', '.join(SCORERS)}",
            "circular": "yes or no: whether rotations of a question count as one",
        },
        first="path",
        needed=True,
    ),
)
register(
    "jsonl",
    Opener(
        _jsonl,
        "one JSON object a line, with paths of images",
        "as each line says",
        "as each line says",
        {"path": _FILE, "images": _FOLDER, "split": _SPLIT},
        first="path",
        needed=True,
    ),
)
register(
    "gym",
    Opener(
        _gym,
        "puzzles in text of reasoning-gym",
        "by the answers",
        "gym",
        {
            "puzzle": "the name of a generator (chain_sum, …)",
            "seed": "a whole number",
            "count": "how many",
            "kind": f"one of {', '.join(KINDS)}",
        },
        first="puzzle",
        argument="NAME",
        needed=True,
    ),
)
_FROM_HUB = {
    "path": "a local .parquet, .arrow, .jsonl or .tsv of the same shape",
    "dataset": "another repository of the hub, or a folder, of the same shape",
    "config": "its configuration",
    "split": "its split",
    "revision": "its commit",
}


def register_preset(name: str, preset: Preset) -> None:
    """Offer a benchmark as a data set of the hub holds it, or a file of the same shape."""
    score = preset.scorer if preset.aggregate == "mean" else f"{preset.scorer}, {preset.aggregate}"
    register(name, Opener(partial(_preset, preset), preset.about, preset.kinds, score, _FROM_HUB, first="path"))


for _name, _each in PRESETS.items():
    register_preset(_name, _each)


# --- reading a whole task ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TaskCheck:
    """The content of a task, all of it read."""

    items: int
    unscored: int
    """Items whose right answer is not known."""
    kinds: Mapping[str, int]
    scorers: Mapping[str, int]
    categories: Mapping[str, int]
    splits: Mapping[str, int]
    groups: int
    images: int
    without_image: int
    clusters: int
    repeated: int
    """Items that ask what an earlier one asks: the same words, options and images."""
    faults: Mapping[Fault, int]
    flaws: tuple[Flaw, ...]
    """The first of them."""

    @property
    def usable(self) -> bool:
        """Whether a run may begin: there are items, and nothing is wrong but rows that are left out."""
        return self.items > 0 and all(fault is Fault.DROPPED for fault in self.faults)


def check(task: Task, shown: int = 20) -> TaskCheck:
    """Read all of a task and count; flaws of its rows are counted too, and the first `shown` kept. Raises BadInput."""
    counts: dict[str, dict[str, int]] = {name: {} for name in ("kinds", "scorers", "categories", "splits", "faults")}

    def count(what: str, name: str | None) -> None:
        if name is not None:
            counts[what][name] = counts[what].get(name, 0) + 1

    items = unscored = images = without = 0
    groups, clusters, asked, flaws = set[str](), set[str](), set[int](), list[Flaw]()
    for found in task.read() if isinstance(task, RowsTask) else task.items():
        if isinstance(found, Item):
            items += 1
            unscored += not found.golds
            images += len(found.question.images)
            without += not found.question.images
            clusters.add(found.cluster)
            shown_images = tuple(image.digest for image in found.question.images)
            asked.add(hash((found.question.text, found.question.options, shown_images)))
            groups.update([found.group] if found.group else [])
            count("kinds", found.question.kind)
            count("scorers", found.scorer)
            count("categories", found.category)
            count("splits", found.split)
        else:
            count("faults", found.fault)
            if found.stops and len(flaws) < shown:
                flaws.append(found)
    return TaskCheck(
        items=items,
        unscored=unscored,
        kinds=counts["kinds"],
        scorers=counts["scorers"],
        categories=counts["categories"],
        splits=counts["splits"],
        groups=len(groups),
        images=images,
        without_image=without,
        clusters=len(clusters),
        repeated=items - len(asked),
        faults={Fault(name): number for name, number in counts["faults"].items()},
        flaws=tuple(flaws),
    )
