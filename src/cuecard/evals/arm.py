"""Arms: the strategies to compare. `strategy[:role][/schedule][/card][/budget=N][/accept=RULE][/placebo=NAME]
[/samples=N][/keep=SHARE][/select=SELECTOR][/ending=WORD][/early-stop=TIMES:WORDS:CONFIDENCE]`.

Examples: `mutual/eager`, `transfer/notes/budget=128`, `transfer/placebo=shuffled`, `vote/equal=reason:large` (as many
samples as generate no more tokens than that arm on the same question), `policy:FILE` (as `cuecard tune` writes it). The
name of a policy file's arm has the digest of the file's content, `policy:FILE@DIGEST`, and a run stores the content:
two files with the same name are two arms.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, cast

from cuecard.domain.errors import BadInput, did_you_mean
from cuecard.evals.placebo import change_of
from cuecard.models.acceptance_table import AcceptanceTable
from cuecard.models.base import Limits
from cuecard.settings import KINDS
from cuecard.strategies import policy_file
from cuecard.strategies.acceptance_rules import Acceptance
from cuecard.strategies.policy import Option, Policy, Surface, options_at, policy_with
from cuecard.strategies.policy_file import PolicyFile
from cuecard.strategies.run import known

FILE = "policy:"
"""Prefix of an arm that is defined by a policy file."""
LIVE = "@live"
"""Suffix of the name of an arm that was run end to end instead of composed from stored calls."""
OWN = ("placebo", "equal")
"""Options of an arm that are not part of its policy."""
ALIASES = {"short": "short:large", "reason": "reason:large"}
_WITH_DIGEST = re.compile(r"(?P<path>.+)@(?P<digest>[0-9a-f]{12})")


@dataclass(frozen=True)
class Arm:
    """A strategy with a policy, optionally with placebo cards instead of those that the small model wrote."""

    name: str
    """As given, so that its meaning depends only on the run's settings; for a policy file, with its digest."""
    strategy: str
    policy: Policy
    placebo: str | None = None
    equal: str | None = None
    """The arm that bounds this arm's generated tokens, per question; this arm takes as many samples as fit."""
    file: PolicyFile | None = None
    """The content of its policy file, if it has one."""

    @property
    def live(self) -> str:
        return self.name + LIVE


def parse(text: str, base: Policy | None = None, policies: Mapping[str, PolicyFile] | None = None) -> Arm:
    """Parse an arm; settings that it does not name are those of `base`. Raises BadInput with the nearest known word.

    `policies`: contents of policy files, by arm name; other policy files are read from disk.
    """
    if (name := text.strip()).startswith(FILE):
        path, digest = _path_of(name)
        said = (policies or {}).get(name) or _read(path, digest)
        return Arm(f"{FILE}{path}@{said.digest}", said.strategy, said.policy(base), file=said)
    strategy, *parts = text.strip().split("/")
    strategy = ALIASES.get(strategy, strategy)
    known(strategy)
    policy, placebo, equal = base or Policy(), None, None
    for part in parts:
        option, given, value = part.partition("=")
        if not given:
            policy = _with_word(policy, option, text)
        elif option == "placebo":
            change_of(value)
            placebo = value
        elif option == "equal":
            equal = value
        else:
            policy = _with_option(policy, option, value, text)
    if equal is not None and strategy != "vote":
        raise BadInput(f"{text}: only vote takes as many samples as fit", "write vote/equal=ARM")
    return Arm(text.strip(), strategy, policy, placebo, equal)


def _path_of(name: str) -> tuple[str, str | None]:
    """The path of an arm's policy file, and the digest of its content if the name has one."""
    file = name.removeprefix(FILE)
    found = _WITH_DIGEST.fullmatch(file)
    return (found["path"], found["digest"]) if found else (file, None)


def _read(path: str, digest: str | None) -> PolicyFile:
    """Read a policy file. Raises BadInput if its digest is not the given one."""
    read = policy_file.read(Path(path))
    if digest not in (None, read.digest):
        hint = f"name it {FILE}{path}: as it is now it is another arm"
        raise BadInput(f"{path} has changed: its digest is {read.digest}, not {digest}", hint)
    return read


def base_of(config: Mapping[str, Any]) -> Policy:
    """The base policy of a run's arms, from the configuration in `run.json`."""
    policy = config.get("policy", {})
    accept = Acceptance.parse(policy["accept"]) if "accept" in policy else None
    table = AcceptanceTable.of_object(policy["table"]) if "table" in policy else None
    return Policy(accept=accept, table=table, limits=Limits(**policy.get("limits", {})))


def policies_of(config: Mapping[str, Any]) -> dict[str, PolicyFile]:
    """The contents of a run's policy files, by arm name, from the configuration in `run.json`."""
    return {name: PolicyFile.of_object(said) for name, said in config.get("policies", {}).items()}


def parse_all(
    texts: Iterable[str], base: Policy | None = None, policies: Mapping[str, PolicyFile] | None = None
) -> tuple[Arm, ...]:
    """Parse arms; those with `equal` come last, otherwise the order stays. `policies`: as `parse`. Raises BadInput."""
    arms = {arm.name: arm for arm in (parse(text, base, policies) for text in texts if text.strip())}
    if not arms:
        raise BadInput("there is no arm to run", "name at least one strategy")
    for arm in arms.values():
        if arm.equal is not None and (arm.equal not in arms or arms[arm.equal].equal):
            raise BadInput(f"{arm.name} is measured by {arm.equal!r}, which is not run", f"add {arm.equal} to the arms")
    return tuple(sorted(arms.values(), key=lambda arm: arm.equal is not None))


def budgets(arms: Sequence[Arm]) -> tuple[int, ...]:
    """All reasoning budgets of the arms, in tokens, the largest first."""
    return tuple(sorted({arm.policy.limits.reasoning_tokens for arm in arms}, reverse=True))


def _with_word(policy: Policy, word: str, text: str) -> Policy:
    """The policy with a bare word set: the option is the one that has this value. Raises BadInput."""
    words = {str(value): name for name, option in _bare().items() for value in cast(type[StrEnum], option.parse)}
    if word not in words:
        known = (*words, *(f"{option}=" for option in (*OWN, *_named())))
        raise BadInput(f"{text}: unknown word {word!r}", did_you_mean(word, known))
    return policy_with(policy, **{words[word]: word})


def _with_option(policy: Policy, name: str, value: str, text: str) -> Policy:
    named = _named()
    if name not in named:
        raise BadInput(f"{text}: unknown option {name!r}", did_you_mean(name, (*OWN, *named)))
    option = named[name]
    try:
        given = {"true": True, "false": False}[value] if option.kind is bool else option.kind(value)
    except (ValueError, KeyError):
        raise BadInput(f"{text}: {value!r} is not {KINDS[option.kind][0]}", f"write {name}=N") from None
    return policy_with(policy, **{option.name: given})


def _bare() -> dict[str, Option]:
    """Options that are given by their value alone."""
    return {name: option for name, option in options_at(Surface.ARM).items() if not option.arm_name}


def _named() -> dict[str, Option]:
    """Options that are given as NAME=VALUE, by that name."""
    return {option.arm_name: option for option in options_at(Surface.ARM).values() if option.arm_name}
