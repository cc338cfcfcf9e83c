"""Tasks by name: `mmstar`, `tsv:FILE`, `gym:NAME,seed=1`. Other packages can register their own openers."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

from cuecard.answers.number import whole
from cuecard.domain.errors import BadInput, did_you_mean
from cuecard.domain.question import AnswerKind, Question
from cuecard.evals.item import Aggregate, Item, Task
from cuecard.evals.scorers import SCORERS, puzzles
from cuecard.evals.tasks.files import FileTask, HubTask, JsonlTask
from cuecard.evals.tasks.mapping import mapped
from cuecard.evals.tasks.presets import PRESETS, Preset
from cuecard.evals.tasks.tsv import TsvTask

Options = Mapping[str, str]


@dataclass(frozen=True)
class Opener:
    """Opens the tasks with one name, from checked options."""

    open: Callable[[str, Options], Task]
    """(full specification, its options) -> task. Raises BadInput."""
    about: str
    kinds: str
    scorer: str
    options: Mapping[str, str] = field(default_factory=dict)
    """Description of each option's value."""
    first: str | None = None
    """The option that takes a value without a name: FILE in `tsv:FILE`."""
    argument: str = "FILE"
    """Placeholder of that option in `name:FILE`."""
    needed: bool = False
    """Whether that option is required."""


_OPENERS: dict[str, Opener] = {}


def register(name: str, opener: Opener) -> None:
    """Register an opener under a name; it replaces an earlier one."""
    _OPENERS[name] = opener


def offered() -> Mapping[str, Opener]:
    """All openers by name."""
    return dict(_OPENERS)


def open_task(spec: str) -> Task:
    """Open the task of a specification: `name`, `name:FILE` or `name:key=value,key=value`.

    Raises BadInput with the nearest known name or option. Files are opened when items are read.
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
    """All options with their values. A path may contain commas and equals signs if the file exists. Raises BadInput."""
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
    """The value of an option that is a whole number. Raises BadInput."""
    text = options.get(key)
    if text is None:
        return default
    if not text.isdecimal() or len(text) > 18 or int(text) < least:
        raise BadInput(f"{key}={text[:40]} is not a whole number from {least} on", f"write {key}={max(least, default)}")
    return int(text)


def one_of(options: Options, key: str, names: Mapping[str, object] | tuple[str, ...]) -> str | None:
    """The value of an option that is one of these names; None if not given. Raises BadInput with the nearest name."""
    text = options.get(key)
    if text is None or text in names:
        return text
    raise BadInput(f"{key}={text[:40]} is not known", did_you_mean(text, names, f"it is one of: {', '.join(names)}"))


# --- puzzles ----------------------------------------------------------------------------------------------------------

LOOKED_AT, SHORT_WORDS = 20, 4
ANY = "(any that the verifier takes)"


class GymTask:
    """`count` puzzles of one of reasoning-gym's generators; deterministic for a seed and version."""

    aggregate: Aggregate = "mean"

    def __init__(
        self, name: str, puzzle: str, *, seed: int = 0, count: int = 100, kind: AnswerKind | None = None
    ) -> None:
        self.name, self.puzzle, self.seed, self._count, self._kind = name, puzzle, seed, count, kind

    @property
    def count(self) -> int | None:
        return self._count

    @property
    def revision(self) -> str:
        return f"reasoning-gym {version('reasoning-gym')} {self.puzzle} seed={self.seed} count={self._count}"

    def items(self) -> Iterator[Item]:
        """All puzzles. Raises BadInput for an unknown generator, MissingExtra."""
        for index in range(self._count):
            entry = self._puzzles[index]
            answer = entry.get("answer")
            yield Item(
                id=str(index),
                question=Question(entry["question"], kind=self.kind),
                golds=(ANY if answer is None else str(answer),),
                scorer="gym",
                cluster=str(index),
                category=self.puzzle,
                extra=json.dumps({"name": self.puzzle, "seed": self.seed, "count": self._count, "index": index}),
            )

    @cached_property
    def kind(self) -> AnswerKind:
        """The kind of all answers, guessed from the first twenty: numbers, yes or no, a few words, or free text."""
        if self._kind is not None:
            return self._kind
        answers = [str(entry.get("answer")) for entry in islice(self._puzzles, min(LOOKED_AT, self._count))]
        if all(whole(answer) is not None for answer in answers):
            return AnswerKind.NUMBER
        if {answer.lower() for answer in answers} == {"yes", "no"}:
            return AnswerKind.YES_NO
        short = all("\n" not in answer and len(answer.split()) <= SHORT_WORDS for answer in answers)
        return AnswerKind.SHORT_TEXT if short else AnswerKind.FREE_TEXT

    @cached_property
    def _puzzles(self) -> Any:
        try:
            return puzzles(self.puzzle, self.seed, self._count)
        except (ValueError, AssertionError) as error:
            from reasoning_gym.factory import DATASETS

            every = f"there are {len(DATASETS)}: gym:{', '.join(DATASETS)}"
            hint = did_you_mean(self.puzzle, DATASETS, every, form="gym:{}")
            raise BadInput(f"reasoning-gym has no {self.puzzle!r}, or not so ({error})", hint[:2000]) from error


# --- built-in tasks ---------------------------------------------------------------------------------------------------

_FILE, _FOLDER, _SPLIT = "a file", "the folder that images' paths start from", "rows of this split only"


_KINDS = tuple(kind.value for kind in AnswerKind if kind not in (AnswerKind.JSON, AnswerKind.CHOICE))


def _kind(options: Options) -> AnswerKind | None:
    kind = one_of(options, "kind", _KINDS)
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
    path, scorer = _path(options, "path"), one_of(options, "scorer", SCORERS)
    elsewhere = sorted(set(options) - {"path", "scorer"})
    if path and elsewhere and not (path.suffix == ".tsv" and elsewhere == ["split"]):
        raise BadInput(f"{spec}: {elsewhere[0]} is for the hub, and path for a file", "give one of the two")
    if path and path.suffix == ".tsv":
        circular, name = preset.aggregate == "circular", preset.vlmevalkit
        return TsvTask(spec, path, scorer=scorer, split=options.get("split"), circular=circular, known_as=name)
    if scorer:
        read = preset.read
        preset = replace(preset, read=lambda row, number: replace(read(row, number), scorer=scorer))
    if path:
        return FileTask(spec, preset, path)
    return HubTask(spec, preset, **{key: options.get(key) for key in ("dataset", "config", "split", "revision")})


def _hf(spec: str, options: Options) -> Task:
    if "map" not in options:
        raise BadInput("hf needs a file that says what the columns are", "write hf:ORG/NAME,map=FILE.toml")
    dataset, path = options["dataset"], Path(options["dataset"]).expanduser()
    preset = mapped(dataset, Path(options["map"]).expanduser())
    elsewhere = {key: options.get(key) for key in ("config", "split", "revision")}
    if path.is_file():
        return _preset(preset, spec, {"path": str(path), **{key: each for key, each in elsewhere.items() if each}})
    return HubTask(spec, preset, **elsewhere)


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
            "kind": f"the kind of questions without options: {', '.join(_KINDS)}",
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
    "hf",
    Opener(
        _hf,
        "any data set of the hub, its columns mapped",
        "as mapped",
        "as mapped",
        {
            "dataset": "a repository of the hub, a folder, or a .parquet, .arrow or .jsonl file",
            "map": "a TOML file that says which column is what",
            "config": "its configuration",
            "split": "its split",
            "revision": "its commit",
        },
        first="dataset",
        argument="NAME",
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
            "kind": f"one of {', '.join(_KINDS)}",
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
    "scorer": f"another way to score: {', '.join(SCORERS)}",
}


def register_preset(name: str, preset: Preset) -> None:
    """Register a benchmark from its data set on the hub, or from a file with the same columns."""
    names = [*preset.scorer.split(", "), *([] if preset.aggregate == "mean" else [preset.aggregate])]
    score = ", ".join(dict.fromkeys(names))
    register(name, Opener(partial(_preset, preset), preset.about, preset.kinds, score, _FROM_HUB, first="path"))


for _name, _each in PRESETS.items():
    register_preset(_name, _each)
