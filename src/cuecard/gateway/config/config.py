"""`cuecard.toml` as a whole: which servers are the pairs, who may use them, and how they are served."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, Field, StrictBool, create_model, field_validator, model_validator

from cuecard.domain.call import Mode
from cuecard.domain.errors import BadInput, UnknownModel
from cuecard.domain.suggestions import did_you_mean
from cuecard.gateway.admission.keys import Gate
from cuecard.gateway.admission.origin_check import is_loopback
from cuecard.gateway.config.settings import (
    AuditSettings,
    GatewaySettings,
    ImageSettings,
    JournalSettings,
    KeyEntry,
    StrictTable,
    known_strategy,
)
from cuecard.models import spec
from cuecard.models.openai.families import named
from cuecard.models.openai.request_body import Dialect
from cuecard.models.prompt import CardFormat
from cuecard.strategies.policy import Option, Policy, Schedule, Surface, options_at, policy_with
from cuecard.strategies.run import STRATEGIES

PAIR = "cuecard"
SCHEDULED = ("mutual", "transfer")
"""Strategies whose name can be followed by a schedule: in the others it changes little."""
EFFORTS: Mapping[str, int] = {"minimal": 256, "low": 512, "medium": 2048, "high": 8192, "xhigh": 16384}
"""Reasoning tokens for OpenAI's `reasoning_effort`; `none` is a short answer of the large model."""
ROLES = ("small", "large", "third")
MOST_ALIAS = 200
"""Characters."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
"""Of a pair; a slash would begin the name of a strategy."""


class Prices(StrictTable):
    """Per million tokens, in any one currency."""

    prompt: float = Field(0.0, ge=0)
    cached: float | None = Field(None, ge=0)
    """Of prompt tokens that were cached; as `prompt` if not given."""
    completion: float = Field(0.0, ge=0)


class Upstream(StrictTable):
    """One server of a model, or a model in this process: what `models/spec.py` loads, and how much it takes."""

    model: str
    weight: float = Field(1.0, gt=0)
    most_at_once: int | None = Field(None, ge=1)
    prices: Prices | None = None
    """None: not known."""
    device: str | None = None
    dtype: str | None = None
    revision: str | None = None
    api_key: str | None = None
    family: str | None = None
    prefill: StrictBool | None = None
    prefix_cache: StrictBool | None = None
    scoring: StrictBool | None = None
    images: StrictBool | None = None
    logprobs: StrictBool | None = None
    constraint: Dialect | None = None
    cards: list[CardFormat] | None = Field(None, min_length=1)
    """The formats that it reads well, the best first."""
    prefix_cache_mib: float | None = Field(None, gt=0)
    reasoning_tags: list[str] | None = Field(None, min_length=2, max_length=2)
    """What opens and what closes its reasoning, beside the tags that are known."""
    timeout_s: float | None = Field(None, gt=0)
    extra_body: dict[str, Any] | None = None

    @field_validator("model")
    @classmethod
    def _means_something(cls, text: str) -> str:
        try:
            spec.parse(text)
        except BadInput as error:
            raise ValueError(str(error)) from error
        return text

    @field_validator("family")
    @classmethod
    def _is_a_family(cls, name: str | None) -> str | None:
        if name not in (None, "auto"):
            try:
                named(str(name))
            except BadInput as error:
                raise ValueError(str(error)) from error
        return name

    def table(self) -> dict[str, Any]:
        """What `spec.load` takes: only what was given."""
        return self.model_dump(mode="json", exclude={"weight", "most_at_once", "prices"}, exclude_none=True)


def _policy_fields() -> dict[str, Any]:
    """A field an option of a policy: its type and its default."""
    defaults = {"timeout_s": 120.0, "deadline_s": 300.0, "strict": False}

    def checked(option: Option) -> AfterValidator:
        def check(given: Any) -> Any:
            try:
                if given is not None:
                    policy_with(Policy(), **{option.name: given})
            except BadInput as error:
                raise ValueError(str(error)) from error
            return given

        return AfterValidator(check)

    return {
        name: (
            Annotated[(StrictBool if option.kind is bool else option.kind) | None, checked(option)],
            defaults.get(name),
        )
        for name, option in options_at(Surface.PAIR_TABLE).items()
    }


if TYPE_CHECKING:
    PolicySettings = StrictTable
else:
    PolicySettings = create_model("PolicySettings", __base__=StrictTable, **_policy_fields())


class PairSettings(PolicySettings):
    """Settings of a pair, which hold where a request has none of its own: a policy's options, and the gateway's."""

    policy: Path | None = None
    """A policy file, as `cuecard tune` writes it; beside this file, if relative. Settings of this table override it."""
    strategy: str = "mutual"
    free_form: Literal["transfer", "short"] = "transfer"
    rescue: Literal["short", "reason"] = "short"
    """How the large model answers alone when the small one has failed, and the third when both have."""
    pass_to: Literal["small", "large"] | None = None
    """The model that answers alone what a pair cannot do; None: refused."""
    efforts: dict[str, int] = Field(default_factory=lambda: dict(EFFORTS))
    """`reasoning_effort` to reasoning tokens: what is given here, beside the defaults."""
    max_cost: float | None = Field(None, gt=0, allow_inf_nan=False)
    """What a request may cost at most, in the currency of the prices."""
    aliases: list[str] = Field(default_factory=list)
    """Other names of the pair."""
    unknown_parameters: Literal["ignore", "refuse", "pass"] = "ignore"
    """What happens with parameters of requests that are not known; `pass`: they go into the bodies of all calls."""

    @field_validator("strategy")
    @classmethod
    def _is_known(cls, name: str) -> str:
        return known_strategy(name)

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
        return policy_with(replace(base, rescue=Mode(self.rescue)), **options)


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
                # a call is known by its role, not by the server that took it
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
        """Of the roles that have any."""
        return {
            role: upstreams[0].prices for role, upstreams in self.roles.items() if upstreams and upstreams[0].prices
        }

    @property
    def unpriced(self) -> list[str]:
        """Roles without prices."""
        return [role for role in self.roles if role not in self.prices]


class Config(StrictTable):
    """The whole file."""

    version: Literal[1]
    server: GatewaySettings = GatewaySettings()
    images: ImageSettings = ImageSettings()
    audit: AuditSettings = AuditSettings()
    journal: JournalSettings = JournalSettings()
    keys: list[KeyEntry] = Field(default_factory=list)
    pairs: dict[str, PairTable]
    """By name. `[pair]`, `[small]`, `[large]` and `[third]` at the top are the pair `cuecard`, the first."""

    @model_validator(mode="before")
    @classmethod
    def _pair_at_the_top(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        there, named = [key for key in ("pair", *ROLES) if key in given], given.get("pairs", {})
        if ("pairs" in given and not there) or not isinstance(named, dict):
            return given
        if PAIR in named:
            raise ValueError(f"the pair {PAIR} is given twice: by [pairs.{PAIR}], and by [{there[0]}]")
        settings = given.get("pair", {})
        if isinstance(settings, PairSettings):
            settings = settings.model_dump()
        if not isinstance(settings, dict):
            raise ValueError("pair is not a table")
        default = settings | {role: given[role] for role in ROLES if role in given}
        return {key: value for key, value in given.items() if key not in there} | {"pairs": {PAIR: default, **named}}

    @model_validator(mode="after")
    def _can_be_served(self) -> Config:
        if not (self.keys or self.server.open or is_loopback(self.server.host)):
            raise ValueError(
                f"server.host {self.server.host} is open to others: add [[keys]] (`cuecard key`), or open = true"
            )
        if "*" in self.server.origins and not (self.keys or self.server.open):
            raise ValueError("server.origins lets pages of all sites ask: add [[keys]] (`cuecard key`), or open = true")
        return self

    @model_validator(mode="after")
    def _have_distinct_names(self) -> Config:
        if not self.pairs:
            raise ValueError("no pair is served: write [small] and [large]")
        taken: dict[str, str] = {}
        for name, pair in self.pairs.items():
            if not NAME.fullmatch(name):
                raise ValueError(f"{name!r} is no name for a pair: letters, digits, '.', '_' and '-'")
            for alias in pair.aliases:
                if not alias or len(alias) > MOST_ALIAS or alias.split("/")[0] in self.pairs:
                    why = "it is empty, too long, or begins with a pair's name"
                    raise ValueError(f"{alias[:80]!r} cannot be an alias of {name}: {why}")
                if alias in taken:
                    raise ValueError(f"{alias!r} is an alias of {taken[alias]} and of {name}")
                taken[alias] = name
        return self

    @model_validator(mode="after")
    def _keys_can_be_kept(self) -> Config:
        for key in self.keys:
            if wrong := sorted(set(key.pairs or ()) - set(self.pairs)):
                raise ValueError(f"the key {key.name} is for the pair {wrong[0]!r}; there are: {', '.join(self.pairs)}")
            costs = [each for each in key.budgets if each.is_cost]
            unpriced = [f"{role} of {name}" for name in key.pairs or self.pairs for role in self.pairs[name].unpriced]
            if costs and unpriced:
                raise ValueError(f"{costs[0]} of the key {key.name} needs prices for {unpriced[0]}")
            if key.budgets and self.state is None:
                hint = "write state = a file's path under [server], or a path under [journal]"
                raise ValueError(f"{key.budgets[0]} of the key {key.name} must survive a restart: {hint}")
        if len({key.sha256 for key in self.keys}) < len(self.keys):
            raise ValueError("two [[keys]] have the same sha256")
        return self

    @property
    def state(self) -> Path | None:
        """The file for what keys have used of their budgets: its own, else one beside the journal."""
        journal = self.journal.path
        return self.server.state or (None if journal is None else journal.with_name(f"{journal.name}.state"))

    @property
    def ledger_path(self) -> Path | None:
        """The file of the ledger; None: no key has a budget."""
        return self.state if any(key.budgets for key in self.keys) else None

    def hosts(self, host: str) -> list[str] | None:
        """The host names that the gateway accepts where it listens on `host`; None: any."""
        hosts = self.server.hosts
        return None if hosts is None and self.keys else [host, *(hosts or ())]

    def gate(self, clock: Callable[[], float], **more: Any) -> Gate:
        """The gate for the keys; `more`: as in `Gate`."""
        return Gate([entry.key() for entry in self.keys], clock, **more)


def _name(model: str) -> str:
    match spec.parse(model):
        case spec.Served(_, name):
            return name
        case _:
            return model


# --- virtual models: what `model` in a request names ------------------------------------------------------------------


def virtual_models(pair: str) -> dict[str, tuple[str | None, Schedule | None]]:
    """Every virtual model of a pair: name -> strategy and schedule, None where the configuration's own holds."""
    names: dict[str, tuple[str | None, Schedule | None]] = {pair: (None, None)}
    for strategy in (name for name in STRATEGIES if ":" not in name):
        names[f"{pair}/{strategy}"] = strategy, None
        if strategy in SCHEDULED:
            names |= {f"{pair}/{strategy}-{schedule}": (strategy, schedule) for schedule in Schedule}
    return names


def unknown_model(model: str, served: Sequence[str]) -> UnknownModel:
    """The error for a model that is not served; names a near one, or the first that is served."""
    listed = f"GET /v1/models lists what is served, as {served[0]}; aliases in the configuration add names to a pair"
    hint = did_you_mean(model, served, listed)
    return UnknownModel(f"the model {model[:200]!r} is not served here", hint, param="model")
