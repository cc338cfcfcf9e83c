"""Tables of `cuecard.toml`: the servers of a pair and their prices, the settings of requests, and keys."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    Strict,
    StrictBool,
    ValidationInfo,
    create_model,
    field_validator,
    model_validator,
)

from cuecard.domain.call import Call, Mode, Usage
from cuecard.domain.errors import BadInput
from cuecard.models import spec
from cuecard.models.acceptance_table import AcceptanceTable
from cuecard.models.openai.families import Dialect, named
from cuecard.models.prompt import CardFormat
from cuecard.models.vllm.loading import MOST_SHARE
from cuecard.strategies import policy_file
from cuecard.strategies.policy import Policy
from cuecard.strategies.policy_file import Option, Surface, options_at, policy_with
from cuecard.strategies.run import known

EFFORTS: Mapping[str, int] = {"minimal": 256, "low": 512, "medium": 2048, "high": 8192, "xhigh": 16384}
"""Reasoning tokens for OpenAI's `reasoning_effort`; `none` is a short answer of the large model."""
ROLES = ("small", "large", "third")
MILLION = 1e6


class StrictTable(BaseModel):
    """A table in which unknown keys are an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def checked(check: Callable[[Any], object]) -> AfterValidator:
    """A validator from a function that raises BadInput; None is not checked."""

    def validated(given: Any) -> Any:
        try:
            if given is not None:
                check(given)
        except BadInput as error:
            raise ValueError(str(error)) from error
        return given

    return AfterValidator(validated)


Strategy = Annotated[str, checked(known)]


class Prices(StrictTable):
    """Prices per million tokens, in any one currency."""

    prompt: float = Field(0.0, ge=0)
    cached: float | None = Field(None, ge=0)
    """Of cached prompt tokens; None: as `prompt`."""
    completion: float = Field(0.0, ge=0)


def cost(used: Usage, prices: Prices) -> float:
    """The price of these tokens; tokens that are not counted cost nothing."""
    cached = used.cached_tokens or 0
    fresh = max(0, (used.prompt_tokens or 0) - cached)
    a_cached = prices.prompt if prices.cached is None else prices.cached
    return (fresh * prices.prompt + cached * a_cached + (used.completion_tokens or 0) * prices.completion) / MILLION


def costs(calls: Sequence[Call], prices: Mapping[str, Prices]) -> dict[str, float]:
    """The price of a request's calls by role, of the roles that have prices."""
    total = dict.fromkeys(prices, 0.0)
    for call in calls:
        if call.role in prices:
            total[call.role] += cost(call.usage, prices[call.role])
    return total


KEY_CHECKS: Mapping[str, Any] = {
    "model": Annotated[str, checked(spec.parse)],
    "family": Annotated[str | None, checked(lambda name: name == "auto" or named(name))],
    "constraint": Dialect | None,
    "cards": Annotated[list[CardFormat] | None, Field(min_length=1)],
    "prefix_cache_mib": Annotated[float | None, Field(gt=0, strict=True)],
    "reasoning_tags": Annotated[list[str] | None, Field(min_length=2, max_length=2)],
    "timeout_s": Annotated[float | None, Field(gt=0, strict=True)],
    "extra_body": dict[str, Any] | None,
    "gpu_memory": Annotated[float | None, Field(gt=0, le=MOST_SHARE, strict=True)],
    "max_len": Annotated[int | None, Field(ge=1, strict=True)],
    "engine_args": dict[str, Any] | None,
}
"""The types of keys of a model's table that are more than a text, a number or a boolean."""


def _model_fields() -> dict[str, Any]:
    """One field per key of a model's table: its type, and None unless it is required."""
    types = {key: KEY_CHECKS.get(key, Annotated[kind | None, Strict()]) for key, kind in spec.KEYS.items()}
    return {key: (kind, ... if key == "model" else None) for key, kind in types.items()}


if TYPE_CHECKING:

    class ModelTable(StrictTable):
        model: str
else:
    ModelTable = create_model("ModelTable", __base__=StrictTable, **_model_fields())


class Upstream(ModelTable):
    """One server of a model, or a model in this process: the keys of `models/spec.py`, and its load limits."""

    weight: float = Field(1.0, gt=0)
    most_at_once: int | None = Field(None, ge=1)
    prices: Prices | None = None
    """None: unknown."""

    def table(self) -> dict[str, Any]:
        """The table for `spec.load`: only the keys that were given."""
        return self.model_dump(mode="json", exclude={"weight", "most_at_once", "prices"}, exclude_none=True)


def _policy_fields() -> dict[str, Any]:
    """One field per policy option: its type and its default."""
    defaults = {"timeout_s": 120.0, "deadline_s": 300.0, "strict": False}

    def is_valid(option: Option) -> AfterValidator:
        return checked(lambda given: policy_with(Policy(), **{option.name: given}))

    return {
        name: (
            Annotated[(StrictBool if option.kind is bool else option.kind) | None, is_valid(option)],
            defaults.get(name),
        )
        for name, option in options_at(Surface.PAIR_TABLE).items()
    }


if TYPE_CHECKING:
    PolicySettings = StrictTable
else:
    PolicySettings = create_model("PolicySettings", __base__=StrictTable, **_policy_fields())


def _is_read(table: Any) -> None:
    if not isinstance(table, AcceptanceTable):
        raise BadInput("an acceptance table comes with a policy file: write policy = its path")


class PairSettings(PolicySettings):
    """Settings of a pair, the defaults of its requests: policy options, and the gateway's own."""

    policy: Path | None = None
    """A policy file of `cuecard tune`; if relative, beside this file. Settings of this table override it."""
    table: Annotated[Any, checked(_is_read), PlainSerializer(lambda table: table)] = None
    """The AcceptanceTable of the policy file."""
    strategy: Strategy = "mutual"
    free_form: Literal["transfer", "short"] = "transfer"
    rescue: Literal["short", "reason"] = "short"
    """How the large model answers alone when the small one has failed, and the third when both have."""
    pass_to: Literal["small", "large"] | None = None
    """The model that gets requests that a pair cannot answer; None: they are refused."""
    efforts: dict[str, int] = Field(default_factory=lambda: dict(EFFORTS))
    """`reasoning_effort` -> reasoning tokens; given entries are added to the defaults."""
    max_cost: float | None = Field(None, gt=0, allow_inf_nan=False)
    """Maximum cost of a request, in the currency of the prices."""
    aliases: list[str] = Field(default_factory=list)
    """Other names of the pair."""
    unknown_parameters: Literal["ignore", "refuse", "pass"] = "ignore"
    """What happens with unknown parameters of requests; `pass`: they are added to the bodies of all calls."""

    @model_validator(mode="before")
    @classmethod
    def _with_policy(cls, given: Any, info: ValidationInfo) -> Any:
        """Take settings that the pair does not have from the policy file."""
        if not (isinstance(given, dict) and isinstance(given.get("policy"), str)):
            return given
        policy = policy_file.read((info.context or {}).get("beside", Path()) / given["policy"])
        return {"strategy": policy.strategy, **policy.options, "table": policy.table, **given}

    @field_validator("efforts")
    @classmethod
    def _are_budgets(cls, given: dict[str, int]) -> dict[str, int]:
        for name, tokens in given.items():
            if name == "none" or not 1 <= tokens < 2**31:
                raise ValueError(f"{name} = {tokens} is no budget: names other than none, and at least 1 token each")
        return {**EFFORTS, **given}

    @model_validator(mode="after")
    def _fit_together(self) -> PairSettings:
        try:
            self.policy_of(Policy())
        except BadInput as error:
            raise ValueError(str(error)) from error
        return self

    def policy_of(self, base: Policy) -> Policy:
        """The policy of requests that set no option themselves."""
        options = {name: getattr(self, name) for name in options_at(Surface.PAIR_TABLE)}
        return policy_with(replace(base, rescue=Mode(self.rescue), table=self.table), **options)


class PairTable(PairSettings):
    """A pair: its settings, and its models."""

    small: list[Upstream]
    large: list[Upstream]
    third: list[Upstream] | None = None
    """Answers alone when both others have failed."""

    @model_validator(mode="before")
    @classmethod
    def _one_or_several(cls, given: Any) -> Any:
        """`[small]` is one server, `[[small]]` are several."""
        if not isinstance(given, dict):
            return given
        return given | {role: [given[role]] for role in ROLES if isinstance(given.get(role), dict | Upstream)}

    @model_validator(mode="after")
    def _are_alike(self) -> PairTable:
        for role, upstreams in self.roles.items():
            if not upstreams:
                raise ValueError(f"{role} names no server")
            names = {_name(upstream.model) for upstream in upstreams}
            if len(names) > 1:
                raise ValueError(f"the servers of {role} are of different models: {', '.join(sorted(names))}")
            if any(upstream.prices != upstreams[0].prices for upstream in upstreams):
                # a call records its role, not its server
                raise ValueError(f"the servers of {role} have different prices: give each the same")
        if self.max_cost is not None and self.unpriced:
            raise ValueError(f"max_cost needs prices for {' and '.join(self.unpriced)}")
        return self

    @property
    def roles(self) -> Mapping[str, Sequence[Upstream]]:
        there = {"small": self.small, "large": self.large}
        return there if self.third is None else there | {"third": self.third}

    @property
    def prices(self) -> Mapping[str, Prices]:
        """By role, for the roles that have prices."""
        return {
            role: upstreams[0].prices for role, upstreams in self.roles.items() if upstreams and upstreams[0].prices
        }

    @property
    def unpriced(self) -> list[str]:
        """Roles without prices."""
        return [role for role in self.roles if role not in self.prices]


def check_memory(pairs: Mapping[str, PairTable]) -> None:
    """Raises BadInput if the pairs' models in vLLM do not fit into one device; equal tables share one model."""
    every = [one.table() for pair in pairs.values() for role in pair.roles.values() for one in role]
    spec.check_memory({json.dumps(one, sort_keys=True): one for one in every}.values())


def _name(model: str) -> str:
    match spec.parse(model):
        case spec.Served(_, name):
            return name
        case spec.VllmCheckpoint() as checkpoint:
            return checkpoint.name
        case _:
            return model


# --- keys -------------------------------------------------------------------------------------------------------------

PREFIX = "cue-"


class Key(StrictTable):
    """A client's key: its name, the SHA-256 of its secret (the secret is not stored), and what it may do."""

    name: str = Field(min_length=1)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    requests_per_minute: int | None = Field(None, ge=1)
    tokens_per_minute: int | None = Field(None, ge=1)
    tokens_per_day: int | None = Field(None, ge=1)
    tokens_per_month: int | None = Field(None, ge=1)
    cost_per_day: float | None = Field(None, gt=0, allow_inf_nan=False)
    cost_per_month: float | None = Field(None, gt=0, allow_inf_nan=False)
    """In the currency of the prices."""
    expires: AwareDatetime | None = None
    """The time from which the key is refused; a key with a date is valid until the end of that day, in UTC."""
    pairs: list[str] | None = Field(None, min_length=1)
    """The only pairs that it may use; None: all."""

    @field_validator("expires", mode="before")
    @classmethod
    def _is_a_time(cls, given: Any) -> Any:
        how = "write a date, or a time with its zone, such as 2026-12-31T18:00:00Z"
        if isinstance(given, str):
            try:
                given = date.fromisoformat(given) if len(given) == len("2026-12-31") else datetime.fromisoformat(given)
            except ValueError:
                raise ValueError(f"{given[:40]!r} is no time: {how}") from None
        if isinstance(given, datetime) and given.tzinfo is None:
            raise ValueError(f"{given} has no zone: {how}")
        if isinstance(given, date) and not isinstance(given, datetime):
            try:
                return datetime.combine(given + timedelta(days=1), datetime.min.time(), UTC)
            except OverflowError:
                raise ValueError(f"{given} is too late: leave it out") from None
        return given

    @cached_property
    def budgets(self) -> Mapping[Budget, float]:
        return {each: most for each in Budget if (most := getattr(self, each)) is not None}

    def may_use(self, pair: str) -> bool:
        return self.pairs is None or pair in self.pairs


def make() -> tuple[str, str]:
    """A new secret of 256 random bits, and its SHA-256. With so many bits, a hash without salt cannot be searched."""
    secret = PREFIX + secrets.token_urlsafe(32)
    return secret, digest(secret)


def digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


class Budget(StrEnum):
    """The budgets that a key may have."""

    TOKENS_PER_DAY = "tokens_per_day"
    TOKENS_PER_MONTH = "tokens_per_month"
    COST_PER_DAY = "cost_per_day"
    COST_PER_MONTH = "cost_per_month"

    @property
    def is_cost(self) -> bool:
        return self.startswith("cost")

    @property
    def is_daily(self) -> bool:
        return self.endswith("day")

    def period(self, now: float) -> str:
        """The day or month of a Unix time, in UTC."""
        return datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%d" if self.is_daily else "%Y-%m")

    def resets_at(self, now: float) -> datetime:
        """The end of the day or month: midnight in UTC."""
        today = datetime.fromtimestamp(now, UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        if self.is_daily:
            return today + timedelta(days=1)
        return (today.replace(day=1) + timedelta(days=32)).replace(day=1)
