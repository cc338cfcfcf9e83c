"""A policy in a file: which strategy under which options, and what is known of it, as `cuecard tune` writes it.

TOML, for people to read and change. Options that the file does not name stay as they are where it is loaded.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from cuecard import settings
from cuecard.domain.errors import BadInput
from cuecard.strategies.policy import Policy, Surface, options_at, policy_with
from cuecard.strategies.run import known

VERSION = 1


@dataclass(frozen=True)
class Origin:
    """Where a policy comes from, and what was shown of it there; None is not known."""

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
    """In words; none of the file's options may be changed for it to hold."""


@dataclass(frozen=True)
class PolicyFile:
    """A strategy and its options; those that are not set are not in the file. Raises BadInput where one is wrong."""

    strategy: str
    options: Mapping[str, Any] = field(default_factory=dict)
    """Some of `PolicyOptions`."""
    origin: Origin | None = None

    def __post_init__(self) -> None:
        known(self.strategy)
        self.policy()

    def policy(self, base: Policy | None = None) -> Policy:
        """The policy, with the options that the file does not set as in `base`."""
        return policy_with(base or Policy(), **self.options)


def read(path: Path) -> PolicyFile:
    """The policy in a file. Raises BadInput: one line that says what is wrong, and where."""
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
        options = {name: option.kind for name, option in options_at(Surface.POLICY_FILE).items()}
        settings.check(table, {"strategy": str, **options})
        if "strategy" not in table:
            raise BadInput("strategy is missing", "write strategy = …")
        return PolicyFile(table.pop("strategy"), table, shown)


def write(path: Path, policy: PolicyFile) -> None:
    """Write the file; options that are not set are left out. Raises BadInput when the path cannot be written."""
    lines = [
        "# Made by `cuecard tune`, for `cuecard ask --policy`, `[pair] policy` of a cuecard.toml, and evaluations.",
        f"version = {VERSION}",
        *_lines({"strategy": policy.strategy, **policy.options}),
    ]
    if policy.origin is not None:
        lines += ["", "[origin]", *_lines(asdict(policy.origin))]
    try:
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    except OSError as error:
        raise BadInput(f"cannot write {path}: {error.strerror}", "give another --out") from error


def _lines(table: Mapping[str, Any]) -> list[str]:
    # strings of JSON are strings of TOML, but for the one control character that JSON leaves as it is
    return [
        f"{name} = {json.dumps(value, ensure_ascii=False)}".replace("\x7f", "\\u007f")
        for name, value in table.items()
        if value is not None
    ]
