"""Policies as they are written: their options, with names and types, and files of a strategy and its options.

`PolicyOptions` is the only declaration of a policy's options. Policy files, the gateway's `[pair]` table and the
`cuecard` object of its requests, arms, studies, the command line and Python's keywords are all derived from it.

Policy files are TOML, for people to read and change, as written by `cuecard tune`, with the evidence for the policy.
Options that a file does not set keep the loader's values. An acceptance table for `calibrated(p)` is under `[table]`,
or in a JSON file that `table = "FILE"` names.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from enum import EnumType, Flag, auto
from pathlib import Path
from typing import Annotated, Any, TypedDict, get_args, get_type_hints

from cuecard import disk
from cuecard.domain.errors import BadInput
from cuecard.models.acceptance_table import AcceptanceTable
from cuecard.models.prompt import CardFormat
from cuecard.strategies.card_selection import CardCut, Ending
from cuecard.strategies.policy import Acceptance, EarlyStop, Policy, Schedule
from cuecard.strategies.run import known


class Surface(Flag):
    """A public interface to set options, besides Python's keywords, which accept every option."""

    POLICY_FILE = auto()
    PAIR_TABLE = auto()
    """`[pair]` in a cuecard.toml."""
    REQUEST = auto()
    """The `cuecard` object of a request to the gateway."""
    ARM = auto()
    STUDY = auto()
    """A study's file, and `cuecard eval`."""
    ASK = auto()
    """`cuecard ask`."""
    REPLAY = auto()
    """`cuecard replay`."""


EVERYWHERE = ~Surface(0)
_NO_STUDY = EVERYWHERE & ~Surface.STUDY
_SINGLE = _NO_STUDY & ~Surface.REPLAY
_BASELINE = _SINGLE & ~Surface.REQUEST
"""Not for clients of the gateway: some of these options multiply the cost of a request."""


@dataclass(frozen=True)
class Option:
    """One option of a policy. `name` and `kind` (str, int, float or bool) come from its line in `PolicyOptions`."""

    field: str
    """The field of a Policy, or of a part of one: `samples`, `limits.seed`, `cut.keep`."""
    help: str
    surfaces: Surface = EVERYWHERE
    parse: Callable[[str], Any] | None = None
    """Converts text to the field's value, with `str` as its inverse; None: the field takes the value unchanged."""
    in_arms: str | None = None
    """Its name in arms, "" if its values are written there without a name; None: `name` with hyphens."""
    name: str = ""
    kind: type = str

    @property
    def arm_name(self) -> str:
        return self.name.replace("_", "-") if self.in_arms is None else self.in_arms

    @property
    def flag(self) -> str:
        """Its name on the command line, without the unit."""
        return f"--{self.name.removesuffix('_s').replace('_', '-')}"

    def value(self, given: Any) -> Any:
        """The field's value. Raises BadInput if `given` is not of type `kind`, or cannot be parsed."""
        disk.check_kind(self.name, given, self.kind)
        if self.parse is None:
            return given
        try:
            return self.parse(given)
        except ValueError:
            if not isinstance(self.parse, EnumType):
                raise
            what = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", self.parse.__name__).lower()
            hint = f"there are: {', '.join(self.parse)}"
            raise BadInput(f"unknown {what} {given!r}", hint) from None

    def of(self, policy: Policy) -> Any:
        """The option's value in a policy, in the form that `value` takes; None if the policy does not set it."""
        found: Any = policy
        for part in self.field.split("."):
            found = None if found is None else getattr(found, part)
        return found if found is None or self.parse is None else str(found)


class PolicyOptions(TypedDict, total=False):
    """Every option of a policy; None means not given. New options are added only here."""

    schedule: Annotated[
        str | None,
        Option(
            "schedule", "thrifty, overlap or eager; default: by where the models run.", _NO_STUDY, Schedule, in_arms=""
        ),
    ]
    accept: Annotated[
        str | None,
        Option(
            "accept",
            "When short answers need no reasoning: agree, confidence(t), agree+confidence(t), calibrated(p), A|B.",
            parse=Acceptance.parse,
        ),
    ]
    card: Annotated[
        str | None,
        Option(
            "card", "How the reader is given the reasoning: thinking, notes or turn.", _SINGLE, CardFormat, in_arms=""
        ),
    ]
    card_keep: Annotated[
        float | None,
        Option("cut.keep", "The share of the reasoning's words that the reader gets.", _SINGLE, in_arms="keep"),
    ]
    card_select: Annotated[
        str | None,
        Option(
            "cut.select",
            "Which words: attention, reader, surprise, first, last, content, sentences, random; or …-passage.",
            _SINGLE,
            in_arms="select",
        ),
    ]
    card_ending: Annotated[
        str | None,
        Option(
            "cut.ending", "The reasoning's last sentence: free, kept or removed.", _SINGLE, Ending, in_arms="ending"
        ),
    ]
    early_stop: Annotated[
        str | None,
        Option(
            "early_stop",
            "TIMES[:WORDS[:CONFIDENCE]]: the reasoning ends when the reader, asked every WORDS, gives the same answer.",
            _SINGLE,
            EarlyStop.parse,
        ),
    ]
    budget: Annotated[int | None, Option("limits.reasoning_tokens", "Most tokens of reasoning.")]
    answer_tokens: Annotated[
        int | None,
        Option(
            "limits.answer_tokens",
            "Most tokens of the answer; default: by the kind of answer, 1,024 for free text.",
            Surface.POLICY_FILE | Surface.PAIR_TABLE | Surface.STUDY | Surface.ASK,
        ),
    ]
    temperature: Annotated[float | None, Option("limits.temperature", "0 is greedy.", Surface.ASK)]
    top_p: Annotated[float | None, Option("limits.top_p", "Nucleus of sampling.", Surface(0))]
    seed: Annotated[int | None, Option("limits.seed", "Seed of sampling.", Surface.ASK)]
    timeout_s: Annotated[
        float | None,
        Option("limits.timeout_s", "Most seconds a call may take.", Surface.PAIR_TABLE | Surface.STUDY | Surface.ASK),
    ]
    deadline_s: Annotated[
        float | None,
        Option("deadline_s", "After this many seconds the best answer at hand is given.", Surface.PAIR_TABLE),
    ]
    strict: Annotated[
        bool | None,
        Option(
            "strict",
            "Fail when a model fails, instead of giving the other one's answer.",
            Surface.PAIR_TABLE | Surface.REQUEST | Surface.ASK,
        ),
    ]
    samples: Annotated[
        int | None,
        Option("samples", "Samples of vote, of each model in panel, and of verdict with a single drafter.", _BASELINE),
    ]
    vote_window: Annotated[
        int | None,
        Option("vote_window", "vote ends when this many samples in a row agree.", _BASELINE, in_arms="window"),
    ]
    cascade_confidence: Annotated[
        float | None,
        Option(
            "cascade_confidence",
            "From which probability on cascade and ladder let an answer stand.",
            _BASELINE,
            in_arms="confidence",
        ),
    ]
    route_difficulty: Annotated[
        float | None,
        Option(
            "route_difficulty",
            "From which difficulty on route lets the large model reason.",
            _BASELINE,
            in_arms="difficulty",
        ),
    ]
    step_score: Annotated[
        float | None,
        Option("step_score", "From which grade on, 0 to 1, steps accepts a step.", _BASELINE, in_arms="score"),
    ]
    waits: Annotated[
        int | None,
        Option("waits", "How often force goes on with a reasoning that ends before its budget.", _BASELINE),
    ]


OPTIONS: Mapping[str, Option] = {
    name: replace(option, name=name, kind=get_args(kind)[0])
    for name, hint in get_type_hints(PolicyOptions, include_extras=True).items()
    for kind, option in (get_args(hint),)
}
"""By name, in the order of `PolicyOptions`."""


def options_at(surface: Surface) -> dict[str, Option]:
    """The options that may be set at this surface, by name."""
    return {name: option for name, option in OPTIONS.items() if surface in option.surfaces}


def policy_with(policy: Policy, **options: Any) -> Policy:
    """The policy with some of `PolicyOptions` set; None leaves an option unchanged. Raises BadInput."""
    changes: defaultdict[str, dict[str, Any]] = defaultdict(dict)
    for name, given in options.items():
        if given is not None:
            option = OPTIONS[name]
            part, _, attribute = option.field.rpartition(".")
            changes[part][attribute] = option.value(given)
    own = changes.pop("", {})
    for part, changed in changes.items():
        own[part] = replace(getattr(policy, part) or CardCut(), **changed)
    return replace(policy, **own) if own else policy


# --- files ------------------------------------------------------------------------------------------------------------

VERSION = 1


@dataclass(frozen=True)
class Origin:
    """The run that a policy was chosen from, and the evidence for it; None if unknown."""

    run: str | None = None
    arm: str | None = None
    baseline: str | None = None
    questions: int | None = None
    clusters: int | None = None
    keep: float | None = None
    margin: float | None = None
    confidence: float | None = None
    p: float | None = None
    method: str | None = None
    chosen_for: str | None = None
    data: str | None = None
    """The digest of the answers that it was chosen and tested on, 16 hex digits."""
    guarantee: str | None = None
    """In words; it holds only if none of the file's options is changed."""


@dataclass(frozen=True)
class PolicyFile:
    """A strategy and its options; options that are not set are not in the file. Raises BadInput if one is wrong."""

    strategy: str
    options: Mapping[str, Any] = field(default_factory=dict)
    """Some of `PolicyOptions`."""
    origin: Origin | None = None
    table: AcceptanceTable | None = None

    def __post_init__(self) -> None:
        known(self.strategy)
        self.policy()

    def policy(self, base: Policy | None = None) -> Policy:
        """The policy: `base` with the file's options and table."""
        base = base or Policy()
        return policy_with(replace(base, table=self.table or base.table), **self.options)

    @property
    def digest(self) -> str:
        """The hash of the strategy, the options and the table, 12 hex digits; the origin is not part of it."""
        return hashlib.sha256(json.dumps(self.as_object(), sort_keys=True).encode()).hexdigest()[:12]

    def as_object(self) -> dict[str, Any]:
        """The strategy, the options and the table, as plain data."""
        table = {} if self.table is None else {"table": self.table.as_object()}
        return {"strategy": self.strategy, "options": dict(self.options), **table}

    @classmethod
    def of_object(cls, given: Mapping[str, Any]) -> PolicyFile:
        """From plain data. Raises BadInput."""
        table = AcceptanceTable.of_object(given["table"]) if "table" in given else None
        return cls(given["strategy"], given["options"], table=table)


def read(path: Path) -> PolicyFile:
    """The policy in a file. Raises BadInput: one line with the error and its place."""
    table = disk.read_toml(path)
    version = table.pop("version", None)
    if version != VERSION or isinstance(version, bool):
        wrong = "says no version" if version is None else f"is of version {version!r}"
        raise BadInput(f"{path} {wrong}; this cuecard reads version {VERSION}", f"write version = {VERSION} at its top")
    with disk.in_file(path):
        origin = table.pop("origin", None)
        if not (origin is None or isinstance(origin, dict)):
            raise BadInput("origin is not a table", "write [origin]")
        shown = None if origin is None else disk.build(Origin, origin, "origin.")
        accepting = _table(table.pop("table", None), path.parent)
        options = {name: option.kind for name, option in options_at(Surface.POLICY_FILE).items()}
        disk.check_table(table, {"strategy": str, **options})
        if "strategy" not in table:
            raise BadInput("strategy is missing", "write strategy = …")
        return PolicyFile(table.pop("strategy"), table, shown, accepting)


def _table(given: Any, beside: Path) -> AcceptanceTable | None:
    """The acceptance table in a policy file, or in the file that it names. Raises BadInput."""
    match given:
        case None:
            return None
        case str():
            return AcceptanceTable.read(beside / given)
        case dict():
            return AcceptanceTable.of_object(given)
        case _:
            raise BadInput("table is neither a table nor a text", "write [table], or table = a JSON file's path")


def write(path: Path, policy: PolicyFile) -> None:
    """Write the file; options that are not set are left out. Raises BadInput when the path cannot be written."""
    about = "# Made by `cuecard tune`, for `cuecard ask --policy`, `[pair] policy` of a cuecard.toml, and evaluations."
    origin = None if policy.origin is None else asdict(policy.origin)
    table = None if policy.table is None else policy.table.as_object()
    whole = {"version": VERSION, "strategy": policy.strategy, **policy.options, "origin": origin, "table": table}
    try:
        path.write_text("\n".join((about, *_lines(whole), "")), encoding="utf-8")
    except OSError as error:
        raise BadInput(f"cannot write {path}: {error.strerror}", "give another --out") from error


def _lines(table: Mapping[str, Any], name: str = "") -> Iterator[str]:
    """A table in TOML, without values of None: first its own values, then the tables in it."""
    for key, value in table.items():
        if value is not None and not isinstance(value, Mapping):
            # JSON strings are TOML strings, except for the one control character that JSON does not escape
            yield f"{key} = {json.dumps(value, ensure_ascii=False)}".replace("\x7f", "\\u007f")
    for key, value in table.items():
        if isinstance(value, Mapping):
            inner = name + (key if key.isidentifier() and key.isascii() else json.dumps(key))
            yield from ("", f"[{inner}]", *_lines(value, f"{inner}."))
