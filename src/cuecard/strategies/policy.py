"""The settings of a request: schedule, acceptance rule, card format, budgets. Validated at construction.

`PolicyOptions` is the only declaration of a policy's options. Policy files, the gateway's `[pair]` table and the
`cuecard` object of its requests, arms, studies, the command line and Python's keywords are all derived from it.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import EnumType, Flag, StrEnum, auto
from typing import Annotated, Any, TypedDict, get_args, get_type_hints

from cuecard import settings
from cuecard.domain.call import Mode
from cuecard.domain.errors import BadInput, suggests_keywords
from cuecard.models.acceptance_table import AcceptanceTable
from cuecard.models.base import Limits
from cuecard.models.prompt import CardFormat
from cuecard.strategies.acceptance_rules import Acceptance, AcceptanceRule, Placed, rule_for, table_for
from cuecard.strategies.card_selection import CardCut, Ending

_HOW_TO_STOP = "write TIMES, TIMES:WORDS or TIMES:WORDS:CONFIDENCE, such as 2:16:0.9; at least 2 times"


class Schedule(StrEnum):
    """Which calls run concurrently; with greedy decoding, the answer does not depend on it."""

    THRIFTY = "thrifty"
    """One call at a time, none of them speculative."""
    OVERLAP = "overlap"
    """Independent calls run concurrently; the reader prefills the card while it is written."""
    EAGER = "eager"
    """As overlap; the small model also reasons from the start, and is cancelled if the short answers are accepted."""


@dataclass(frozen=True)
class EarlyStop:
    """Stops a reasoning when the reader's answer, probed every `every` words, is the same `times` times in a row."""

    times: int = 2
    every: int = 16
    confidence: float | None = None
    """Minimum probability of each of these answers; ignored if the engine gives no probabilities."""

    def __post_init__(self) -> None:
        if self.times < 2 or self.every < 1 or not 0 <= (self.confidence or 0) <= 1:
            raise BadInput(f"early stop {self} makes no sense", _HOW_TO_STOP)

    def __str__(self) -> str:
        return f"{self.times}:{self.every}" + ("" if self.confidence is None else f":{self.confidence:g}")

    @classmethod
    def parse(cls, text: str) -> EarlyStop:
        """`2` (times), `2:16` (times, words between probes) or `2:16:0.9` (and confidence). Raises BadInput."""
        found = re.fullmatch(r"(\d{1,6})(?::(\d{1,6})(?::(\d(?:\.\d{1,9})?))?)?", text.strip())
        if not found:
            raise BadInput(f"early stop {text!r} makes no sense", _HOW_TO_STOP)
        times, every, confidence = found.groups()
        return cls(int(times), int(every) if every else cls.every, float(confidence) if confidence else None)


@suggests_keywords
@dataclass(frozen=True)
class Policy:
    """The settings of one request."""

    schedule: Schedule | None = None
    """None: thrifty if the models share a device or a process's cores, else overlap."""
    accept: AcceptanceRule | None = None
    """None: `calibrated` if there is a table for the models, else a rule that needs none."""
    table: AcceptanceTable | None = None
    """For `calibrated(p)`; None: the one in the large model's checkpoint, if there is one."""
    card: CardFormat | None = None
    """None: the best format that the reader supports."""
    cut: CardCut | None = None
    """How cards are cut before they are read; None: they are read whole."""
    early_stop: EarlyStop | None = None
    """When a reasoning is stopped because the reader's answer is stable; None: it runs to its end."""
    limits: Limits = field(default_factory=Limits)
    strict: bool = False
    """If a model fails, the request fails, instead of giving the other model's answer."""
    rescue: Mode = Mode.SHORT
    """How the large model answers alone if the small one has failed: directly, or after reasoning."""
    deadline_s: float | None = None
    """After this many seconds the best answer so far is given, as `degraded`."""
    follow_chars: int = 96
    """The reader prefills the growing card each time this many characters are new."""
    cascade_confidence: float = 0.8
    route_difficulty: float = 0.5
    samples: int = 5
    sample_temperature: float = 0.7
    vote_window: int | None = None
    """`vote` ends early if a window of this many samples is unanimous; None: it draws all samples."""
    step_score: float = 0.7
    """`steps` accepts a step if the large model's grade is at least this, 0 to 1."""
    waits: int = 1
    """How many times `force` resumes a reasoning that ends before its budget."""

    def __post_init__(self) -> None:
        limits = self.limits
        if limits.reasoning_tokens < 1 or (limits.answer_tokens is not None and limits.answer_tokens < 1):
            raise BadInput("a budget must be at least 1 token", "leave the budget out for the default")
        if not 0 <= limits.temperature <= 2:
            raise BadInput(f"temperature {limits.temperature:g} is not between 0 and 2")
        if not 0 < limits.top_p <= 1:
            raise BadInput(f"top_p {limits.top_p:g} is not above 0 and at most 1")
        for what, seconds in (("time-out", limits.timeout_s), ("deadline", self.deadline_s)):
            if seconds is not None and not seconds > 0:  # true for nan, too
                raise BadInput(f"a {what} must be more than 0 seconds", "leave it out for the default")
        if limits.seed is not None and abs(limits.seed) >= 2**63:
            raise BadInput("a seed is a whole number of 64 bits", "take a smaller one")
        if self.rescue not in (Mode.SHORT, Mode.REASON):
            raise BadInput(f"a model that answers alone cannot {self.rescue}", "there are: short, reason")
        if self.cut is not None and self.early_stop is not None:
            raise BadInput("a card that is cut when it is whole cannot be read while it is written", "leave one out")
        if self.samples < 1 or (self.vote_window is not None and self.vote_window < 2):
            raise BadInput("vote, verdict and panel need at least 1 sample, and a window at least 2")
        if self.waits < 0:
            raise BadInput("a reasoning cannot be prolonged fewer than 0 times")
        for name in ("cascade_confidence", "route_difficulty", "step_score"):
            if not 0 <= getattr(self, name) <= 1:
                raise BadInput(f"{name} {getattr(self, name):g} is not between 0 and 1")

    def schedule_of(self, models: Mapping[str, Placed]) -> Schedule:
        """The schedule for these models."""
        if self.schedule is not None:
            return self.schedule
        places = [model.abilities.place for role, model in models.items() if role in ("small", "large")]
        shared = len(places) == 2 and places[0] is not None and places[0] == places[1]
        return Schedule.THRIFTY if shared else Schedule.OVERLAP

    def accept_of(self, models: Mapping[str, Placed]) -> AcceptanceRule:
        """The acceptance rule for these models. Raises BadInput for `calibrated(p)` without a table for them."""
        return rule_for(models, self.accept, self.table)

    def table_of(self, models: Mapping[str, Placed]) -> AcceptanceTable | None:
        """The acceptance table for these models."""
        return table_for(models, self.table)

    def sampled(self, index: int) -> Limits:
        """The limits of the index-th sample: each has its own seed, so that samples differ and are reproducible."""
        temperature = self.limits.temperature or self.sample_temperature
        return replace(self.limits, temperature=temperature, seed=(self.limits.seed or 0) + index)


# --- options ----------------------------------------------------------------------------------------------------------


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
_ONE_REQUEST = EVERYWHERE & ~Surface.STUDY & ~Surface.REPLAY
_BASELINE = _ONE_REQUEST & ~Surface.REQUEST
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
    on_command_line: str | None = None
    """Its name on the command line; None: `name` with hyphens."""
    name: str = ""
    kind: type = str

    @property
    def arm_name(self) -> str:
        return self.name.replace("_", "-") if self.in_arms is None else self.in_arms

    @property
    def flag(self) -> str:
        return f"--{self.on_command_line or self.name.replace('_', '-')}"

    def value(self, given: Any) -> Any:
        """The field's value. Raises BadInput if `given` is not of type `kind`, or cannot be parsed."""
        settings.check_kind(self.name, given, self.kind)
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
            "schedule",
            "thrifty, overlap or eager; default: by where the models run.",
            EVERYWHERE & ~Surface.STUDY,
            Schedule,
            in_arms="",
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
            "card",
            "How the reader is given the reasoning: thinking, notes or turn.",
            _ONE_REQUEST,
            CardFormat,
            in_arms="",
        ),
    ]
    card_keep: Annotated[
        float | None,
        Option("cut.keep", "The share of the reasoning's words that the reader gets.", _ONE_REQUEST, in_arms="keep"),
    ]
    card_select: Annotated[
        str | None,
        Option(
            "cut.select",
            "Which words: attention, reader, surprise, first, last, content, sentences, random; or …-passage.",
            _ONE_REQUEST,
            in_arms="select",
        ),
    ]
    card_ending: Annotated[
        str | None,
        Option(
            "cut.ending",
            "The reasoning's last sentence: free, kept or removed.",
            _ONE_REQUEST,
            Ending,
            in_arms="ending",
        ),
    ]
    early_stop: Annotated[
        str | None,
        Option(
            "early_stop",
            "TIMES[:WORDS[:CONFIDENCE]]: the reasoning ends when the reader, asked every WORDS, gives the same answer.",
            _ONE_REQUEST,
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
        Option(
            "limits.timeout_s",
            "Most seconds a call may take.",
            Surface.PAIR_TABLE | Surface.STUDY | Surface.ASK,
            on_command_line="timeout",
        ),
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


def _declared() -> dict[str, Option]:
    options = {}
    for name, hint in get_type_hints(PolicyOptions, include_extras=True).items():
        kind, option = get_args(hint)
        options[name] = replace(option, name=name, kind=get_args(kind)[0])
    return options


OPTIONS: Mapping[str, Option] = _declared()
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
