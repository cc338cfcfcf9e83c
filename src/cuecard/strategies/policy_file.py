"""A policy in a file: which strategy under which settings, and what is known of it, as `cuecard tune` writes it.

TOML, for people to read and change. Settings that the file does not name stay as they are where it is loaded.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields, replace
from pathlib import Path
from typing import Any

from cuecard.disk import toml_of
from cuecard.domain.errors import BadInput
from cuecard.domain.suggestions import did_you_mean
from cuecard.models.prompt import CardFormat
from cuecard.strategies.card_selection import cut_with
from cuecard.strategies.policy import Acceptance, EarlyStop, Policy, Schedule
from cuecard.strategies.run import known

VERSION = 1
_KINDS: Mapping[str, type | tuple[type, ...]] = {"str": str, "int": int, "float": (int, float), "bool": bool}


@dataclass(frozen=True)
class Origin:
    """Where a policy comes from, and what was shown of it there; None is not told."""

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
    guarantee: str | None = None
    """In words; none of the file's settings may be changed for it to hold."""


@dataclass(frozen=True)
class PolicyFile:
    """What the file says; None is what it does not say. Raises BadInput when it is made of what nobody knows."""

    strategy: str
    schedule: str | None = None
    accept: str | None = None
    card: str | None = None
    card_keep: float | None = None
    card_select: str | None = None
    card_ending: str | None = None
    early_stop: str | None = None
    budget: int | None = None
    answer_tokens: int | None = None
    samples: int | None = None
    origin: Origin | None = None

    def __post_init__(self) -> None:
        known(self.strategy)
        self.policy()

    def settings(self) -> dict[str, Any]:
        """What the file says besides the strategy, under the names that `policy_with` takes."""
        named = (field.name for field in fields(self) if field.name not in ("strategy", "origin"))
        return {name: value for name in named if (value := getattr(self, name)) is not None}

    def policy(self, base: Policy | None = None) -> Policy:
        """The policy, with what the file does not say as in `base`."""
        made = base or Policy()
        if self.schedule is not None:
            made = replace(made, schedule=_member("schedule", Schedule, self.schedule))
        if self.accept is not None:
            made = replace(made, accept=Acceptance.parse(self.accept))
        if self.card is not None:
            made = replace(made, card=_member("card format", CardFormat, self.card))
        made = replace(made, cut=cut_with(made.cut, self.card_keep, self.card_select, self.card_ending))
        if self.early_stop is not None:
            made = replace(made, early_stop=EarlyStop.parse(self.early_stop))
        if self.budget is not None:
            made = replace(made, limits=replace(made.limits, reasoning_tokens=self.budget))
        if self.answer_tokens is not None:
            made = replace(made, limits=replace(made.limits, answer_tokens=self.answer_tokens))
        return made if self.samples is None else replace(made, samples=self.samples)


def read(path: Path) -> PolicyFile:
    """The policy in a file. Raises BadInput: one line that says what is wrong, and where."""
    table = toml_of(path)
    version = table.pop("version", None)
    if version != VERSION or isinstance(version, bool):
        told = "says no version" if version is None else f"is of version {version!r}"
        raise BadInput(f"{path} {told}; this cuecard reads version {VERSION}", f"write version = {VERSION} at its top")
    origin = table.pop("origin", None)
    if not (origin is None or isinstance(origin, dict)):
        raise BadInput(f"{path}: origin is not a table", "write [origin]")
    try:
        found = None if origin is None else Origin(**_checked(origin, Origin, "origin."))
        return PolicyFile(**_checked(table, PolicyFile, ""), origin=found)
    except BadInput as error:
        raise BadInput(f"{path}: {error.message}", error.hint) from error


def write(path: Path, policy: PolicyFile) -> None:
    """Write the file; what it does not say is left out. Raises BadInput when the path cannot be written."""
    lines = [
        "# Made by `cuecard tune`, for `cuecard ask --policy`, `[pair] policy` of a cuecard.toml, and evaluations."
    ]
    lines += [f"version = {VERSION}", *_lines(policy)]
    if policy.origin is not None:
        lines += ["", "[origin]", *_lines(policy.origin)]
    try:
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    except OSError as error:
        raise BadInput(f"cannot write {path}: {error.strerror}", "give another --out") from error


def _lines(said: PolicyFile | Origin) -> list[str]:
    named = [(field.name, getattr(said, field.name)) for field in fields(said) if field.name != "origin"]
    # strings of JSON are strings of TOML, but for the one control character that JSON leaves as it is
    return [
        f"{name} = {json.dumps(value, ensure_ascii=False)}".replace("\x7f", "\\u007f")
        for name, value in named
        if value is not None
    ]


def _checked(table: dict[str, Any], kind: type[PolicyFile] | type[Origin], where: str) -> dict[str, Any]:
    """The table, if all its keys are known, there and of the right type. Raises BadInput."""
    known_keys = {field.name: str(field.type).split(" ")[0] for field in fields(kind) if field.name != "origin"}
    for key, value in table.items():
        if key not in known_keys:
            raise BadInput(f"unknown key {where}{key}", did_you_mean(key, known_keys))
        wanted = _KINDS[known_keys[key]]
        if not isinstance(value, wanted) or (isinstance(value, bool) and wanted is not bool):
            raise BadInput(f"{where}{key} is {value!r}, which is no {known_keys[key]}", "see docs/reference/policy.md")
    if lacking := [f.name for f in fields(kind) if f.default is MISSING and f.name not in table]:
        raise BadInput(f"{where}{lacking[0]} is missing", f"write {lacking[0]} = …")
    return table


def _member(what: str, kind: Any, name: str) -> Any:
    try:
        return kind(name)
    except ValueError:
        raise BadInput(f"unknown {what} {name!r}", f"there are: {', '.join(kind)}") from None
