"""Policy files: a strategy, its options, and the evidence for them, as written by `cuecard tune`.

TOML, for people to read and change. Options that the file does not set keep the loader's values. An acceptance table
for `calibrated(p)` is under `[table]`, or in a JSON file that `table = "FILE"` names.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from cuecard import settings
from cuecard.domain.errors import BadInput
from cuecard.models.acceptance_table import AcceptanceTable
from cuecard.strategies.policy import Policy, Surface, options_at, policy_with
from cuecard.strategies.run import known

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
    table = settings.read(path)
    version = table.pop("version", None)
    if version != VERSION or isinstance(version, bool):
        wrong = "says no version" if version is None else f"is of version {version!r}"
        raise BadInput(f"{path} {wrong}; this cuecard reads version {VERSION}", f"write version = {VERSION} at its top")
    with settings.in_file(path):
        origin = table.pop("origin", None)
        if not (origin is None or isinstance(origin, dict)):
            raise BadInput("origin is not a table", "write [origin]")
        shown = None if origin is None else settings.build(Origin, origin, "origin.")
        accepting = _table(table.pop("table", None), path.parent)
        options = {name: option.kind for name, option in options_at(Surface.POLICY_FILE).items()}
        settings.check(table, {"strategy": str, **options})
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
    lines = [
        "# Made by `cuecard tune`, for `cuecard ask --policy`, `[pair] policy` of a cuecard.toml, and evaluations.",
        f"version = {VERSION}",
        *_lines({"strategy": policy.strategy, **policy.options}),
    ]
    if policy.origin is not None:
        lines += ["", "[origin]", *_lines(asdict(policy.origin))]
    if policy.table is not None:
        values = policy.table.as_object()
        kinds, evidence = values.pop("kinds"), values.pop("evidence", None)
        lines += ["", "[table]", *_lines(values)]
        lines += ["", "[table.evidence]", *_lines(evidence)] if evidence else []
        for kind, weights in kinds.items():
            lines += ["", f"[table.kinds.{json.dumps(kind)}]", *_lines(weights)]
    try:
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    except OSError as error:
        raise BadInput(f"cannot write {path}: {error.strerror}", "give another --out") from error


def _lines(table: Mapping[str, Any]) -> list[str]:
    # JSON strings are TOML strings, except for the one control character that JSON does not escape
    return [
        f"{name} = {json.dumps(value, ensure_ascii=False)}".replace("\x7f", "\\u007f")
        for name, value in table.items()
        if value is not None
    ]
