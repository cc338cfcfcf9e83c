"""`cuecard.toml`: which servers are the pair, and how it is served. Read whole, refused whole."""

from __future__ import annotations

import ipaddress
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from cuecard.domain.call import Mode
from cuecard.domain.errors import BadInput
from cuecard.gateway.keys import Gate, Key
from cuecard.models import spec
from cuecard.models.openai.constraints import Dialect
from cuecard.models.openai.families import named
from cuecard.models.prompt import CardFormat
from cuecard.pair import policy_with
from cuecard.strategies import policy_file
from cuecard.strategies.cuts import Ending, cut_with
from cuecard.strategies.policy import Acceptance, EarlyStop, Policy, Schedule
from cuecard.strategies.run import STRATEGIES

ORIGIN = re.compile(r"\*|null|[a-z][a-z0-9+.-]*://[^/?#@\s]+")


class Strict(BaseModel):
    """A table whose unknown keys are an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Prices(Strict):
    """Per million tokens, in any one currency."""

    prompt: float = Field(0.0, ge=0)
    cached: float | None = Field(None, ge=0)
    """Of prompt tokens that were cached; as `prompt` if not given."""
    completion: float = Field(0.0, ge=0)


class Upstream(Strict):
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
    prefill: bool | None = None
    prefix_cache: bool | None = None
    scoring: bool | None = None
    images: bool | None = None
    logprobs: bool | None = None
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


class PairSettings(Strict):
    """What holds where a request does not say."""

    policy: Path | None = None
    """A policy file, as `cuecard tune` writes it; beside this file, if relative. What is said here goes before it."""
    strategy: str = "mutual"
    free_form: Literal["transfer", "short"] = "transfer"
    schedule: Schedule | None = None
    """None: by where the models run."""
    accept: str | None = None
    card: CardFormat | None = None
    card_keep: float | None = None
    card_select: str | None = None
    card_ending: Ending | None = None
    early_stop: str | None = None
    budget: int | None = Field(None, ge=1)
    answer_tokens: int | None = Field(None, ge=1)
    samples: int | None = Field(None, ge=1)
    timeout_s: float = Field(120.0, gt=0)
    """Of one call."""
    deadline_s: float = Field(300.0, gt=0)
    """Of a request, shared by its calls: the best answer at hand is given then, or an error if there is none."""
    rescue: Literal["short", "reason"] = "short"
    """How the large model answers alone when the small one has failed."""
    strict: bool = False
    pass_to: Literal["small", "large"] | None = None
    """Who answers alone what a pair cannot do; None: it is refused."""
    unknown_parameters: Literal["ignore", "refuse", "pass"] = "ignore"
    """What happens with parameters of requests that are not known; `pass`: they go into the bodies of all calls."""

    @field_validator("strategy")
    @classmethod
    def _is_known(cls, name: str) -> str:
        return known_strategy(name)

    @model_validator(mode="after")
    def _can_be_cut(self) -> PairSettings:
        try:
            cut = cut_with(None, self.card_keep, self.card_select, self.card_ending)
            Policy(cut=cut, early_stop=None if self.early_stop is None else EarlyStop.parse(self.early_stop))
        except BadInput as error:
            raise ValueError(str(error)) from error
        return self

    @field_validator("accept")
    @classmethod
    def _is_a_rule(cls, rule: str | None) -> str | None:
        if rule is not None:
            try:
                Acceptance.parse(rule)
            except BadInput as error:
                raise ValueError(str(error)) from error
        return rule


class KeyEntry(Strict):
    """A client's API key: `cuecard key` makes one and shows its hash, which is all that is kept."""

    name: str = Field(min_length=1)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    requests_per_minute: int | None = Field(None, ge=1)
    tokens_per_minute: int | None = Field(None, ge=1)


class Server(Strict):
    """Where the gateway listens, and how much it takes."""

    host: str = "127.0.0.1"
    open: bool = False
    """Whether it may listen on other addresses than this machine's own without keys."""
    port: int = Field(8400, ge=0, le=65535)
    hosts: list[str] | None = None
    """Names that it goes by besides this machine's own and `host`; None: any where there are keys, else no others."""
    origins: list[str] = []
    """Sites whose pages may ask from a browser (CORS), as https://app.example.org; `*`: all."""
    most_body_mib: int = Field(48, ge=1)
    most_text: int = Field(400_000, ge=1)
    """Characters of all texts of a request."""
    ping_s: float = Field(10.0, gt=0)
    drain_s: int = Field(30, ge=0)
    """How long requests under way may go on when the server is told to stop."""

    @field_validator("origins")
    @classmethod
    def _are_origins(cls, given: list[str]) -> list[str]:
        for origin in given:
            if not ORIGIN.fullmatch(origin):
                raise ValueError(f"{origin!r} is no origin, write it like https://app.example.org")
        return given


class Images(Strict):
    """What of images is taken."""

    urls: bool = False
    """Fetch images that are given as web addresses."""
    hosts: list[str] = []
    """From these hosts only, and what is under them; from all if empty."""
    most: int = Field(16, ge=0)
    """Images of one request."""
    most_megapixels: float = Field(50.0, gt=0, le=178)
    """Of one image."""
    request_megapixels: float = Field(200.0, gt=0)
    """Of all images of one request."""
    decode_mib: int = Field(768, ge=64)
    """Memory for decoding one image."""
    decode_s: float = Field(10.0, gt=0)
    """Time for decoding one image."""

    @field_validator("hosts")
    @classmethod
    def _are_names(cls, hosts: list[str]) -> list[str]:
        for host in hosts:
            host.encode("idna")  # raises a ValueError that says what is wrong
        return hosts


class AuditSettings(Strict):
    """How answers that were accepted without reasoning are looked at again."""

    share: float = Field(0.0, ge=0, le=1)
    """Of the agreed requests."""
    strategy: str = "reason:large"
    warn_above: float = Field(0.1, ge=0, le=1)
    """Warn when false accepts are surely more than this share."""
    tokens_per_hour: int | None = Field(None, ge=1)
    """No second look begins in an hour in which those before it have used so many."""

    @field_validator("strategy")
    @classmethod
    def _is_known(cls, name: str) -> str:
        return known_strategy(name)


class JournalSettings(Strict):
    """The decision log; none if there is no path."""

    path: Path | None = None
    content: bool = False
    """Keep what was said, instead of hashes of it."""
    most_mib: float = Field(64.0, gt=0)
    keep: int = Field(3, ge=1)
    """Files that were full before."""


class Config(Strict):
    """The whole file."""

    version: Literal[1]
    server: Server = Server()
    pair: PairSettings = PairSettings()
    images: Images = Images()
    audit: AuditSettings = AuditSettings()
    journal: JournalSettings = JournalSettings()
    keys: list[KeyEntry] = []
    small: list[Upstream]
    large: list[Upstream]

    @model_validator(mode="before")
    @classmethod
    def _one_or_several(cls, given: Any) -> Any:
        """`[small]` is one server, `[[small]]` are several."""
        if not isinstance(given, dict):
            return given
        return given | {role: [given[role]] for role in ("small", "large") if isinstance(given.get(role), dict)}

    @model_validator(mode="after")
    def _are_alike(self) -> Config:
        for role, upstreams in self.roles.items():
            if not upstreams:
                raise ValueError(f"{role} names no server")
            names = {_name(upstream.model) for upstream in upstreams}
            if len(names) > 1:
                raise ValueError(f"the servers of {role} are of different models: {', '.join(sorted(names))}")
            if any(upstream.prices != upstreams[0].prices for upstream in upstreams):
                # a call is known by its role, not by the server that took it
                raise ValueError(f"the servers of {role} have different prices: give each the same")
        if not (self.keys or self.server.open or is_loopback(self.server.host)):
            raise ValueError(f"server.host {self.server.host} is open to others, and there are no [[keys]]")
        if "*" in self.server.origins and not (self.keys or self.server.open):
            raise ValueError("server.origins lets pages of all sites ask, and there are no [[keys]]")
        return self

    @property
    def roles(self) -> Mapping[str, Sequence[Upstream]]:
        return {"small": self.small, "large": self.large}

    @property
    def prices(self) -> Mapping[str, Prices]:
        """Of the roles that have any."""
        return {role: upstreams[0].prices for role, upstreams in self.roles.items() if upstreams[0].prices}

    def hosts(self, host: str) -> list[str] | None:
        """The names that the gateway goes by where it listens on `host`; None: any."""
        hosts = self.server.hosts
        return None if hosts is None and self.keys else [host, *(hosts or ())]

    def gate(self, clock: Callable[[], float]) -> Gate:
        """Who may ask."""
        return Gate([Key(**entry.model_dump()) for entry in self.keys], clock)

    def policy(self, base: Policy) -> Policy:
        """The policy of requests that say nothing else."""
        pair = self.pair
        return policy_with(
            replace(base, rescue=Mode(pair.rescue)),
            schedule=pair.schedule,
            accept=pair.accept,
            card=pair.card,
            card_keep=pair.card_keep,
            card_select=pair.card_select,
            card_ending=pair.card_ending,
            early_stop=pair.early_stop,
            budget=pair.budget,
            answer_tokens=pair.answer_tokens,
            samples=pair.samples,
            timeout_s=pair.timeout_s,
            deadline_s=pair.deadline_s,
            strict=pair.strict,
        )


def known_strategy(name: str) -> str:
    """The name, if there is such a strategy. Raises ValueError."""
    if name not in STRATEGIES:
        raise ValueError(f"unknown strategy {name!r}{_nearest(name, list(STRATEGIES))}")
    return name


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def read(path: Path) -> Config:
    """The configuration in a file. Raises BadInput: one line that says what is wrong and where."""
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadInput(f"cannot read {path}: {error.strerror}", "is the path right?") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadInput(f"{path} is not valid TOML: {error}") from error
    try:
        return Config.model_validate(_with_policy(_filled(tables), path.parent))
    except ValidationError as errors:
        first, more = errors.errors()[0], errors.error_count() - 1
        also = f" (and {more} more)" if more else ""
        raise BadInput(f"{path}: {_told(first)}{also}", _advice(first)) from errors


def _with_policy(tables: Any, beside: Path) -> Any:
    """With what the policy file of `[pair]` says, where `[pair]` itself does not."""
    pair = tables.get("pair")
    if not (isinstance(pair, dict) and isinstance(pair.get("policy"), str)):
        return tables
    told = policy_file.read(beside / pair["policy"])
    return tables | {"pair": {"strategy": told.strategy, **told.settings(), **pair}}


def _filled(value: Any) -> Any:
    """With `${NAME}` taken from the environment, but for keys of servers: those are looked up when they are needed."""
    match value:
        case str():
            return spec.secret(value)
        case dict():
            return {key: each if key == "api_key" else _filled(each) for key, each in value.items()}
        case list():
            return [_filled(each) for each in value]
        case _:
            return value


def _told(error: Mapping[str, Any]) -> str:
    where = ".".join(str(part) for part in error["loc"] if not isinstance(part, int)) or "the file"
    match error["type"]:
        case "extra_forbidden":
            return f"unknown key {where}"
        case "missing":
            return f"{where} is missing"
        case "value_error":
            return f"{where}: {error['ctx']['error']}" if error["loc"] else str(error["ctx"]["error"])
        case _:
            return f"{where}: {error['msg'][0].lower()}{error['msg'][1:]}, not {error['input']!r}"


TABLES: Mapping[str, type[Strict]] = {
    "server": Server,
    "images": Images,
    "audit": AuditSettings,
    "journal": JournalSettings,
    "keys": KeyEntry,
    "pair": PairSettings,
    "small": Upstream,
    "large": Upstream,
    "prices": Prices,
}


def _advice(error: Mapping[str, Any]) -> str | None:
    if error["type"] == "missing" and error["loc"] == ("version",):
        return "write version = 1 on its first line"
    if error["type"] == "missing" and error["loc"][0] in ("small", "large"):
        return f"write [{error['loc'][0]}] and, under it, model = …"
    if error["type"] != "extra_forbidden":
        return None
    *tables, key = [part for part in error["loc"] if isinstance(part, str)]
    known = (TABLES[tables[-1]] if tables else Config).model_fields
    return _nearest(key, list(known)).strip(", ") or f"there are: {', '.join(known)}"


def _nearest(name: str, known: Sequence[str]) -> str:
    near = get_close_matches(name, known, 1)
    return f", did you mean {near[0]}?" if near else ""


def _name(model: str) -> str:
    match spec.parse(model):
        case spec.Served(_, name):
            return name
        case _:
            return model
