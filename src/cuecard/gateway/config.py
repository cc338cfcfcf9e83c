"""`cuecard.toml`: accepted as a whole, or refused with one line that has the error and its place."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, StrictBool, ValidationError, field_validator, model_validator

from cuecard import disk
from cuecard.domain.errors import BadInput, UnknownModel, did_you_mean
from cuecard.gateway.admission.connections import is_loopback
from cuecard.gateway.tables import ROLES, Key, PairSettings, PairTable, Prices, Strategy, StrictTable, Upstream
from cuecard.models import spec
from cuecard.strategies.policy import Schedule
from cuecard.strategies.run import STRATEGIES

PAIR = "cuecard"
SCHEDULED = ("mutual", "transfer")
"""Strategies whose name may be followed by a schedule: it changes little in the others."""
MOST_ALIAS = 200
"""Characters."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
"""The name of a pair; a slash would begin the name of a strategy."""
SCHEMES = ("redis://", "rediss://", "unix://")
ORIGIN = re.compile(r"\*|null|[a-z][a-z0-9+.-]*://[^/?#@\s]+")


class GatewaySettings(StrictTable):
    """Where the gateway listens, and its limits."""

    host: str = "127.0.0.1"
    open: StrictBool = False
    """Whether it may listen on addresses other than loopback without keys."""
    port: int = Field(8400, ge=0, le=65535)
    hosts: list[str] | None = None
    """Host names that it accepts besides this machine's own and `host`; None: any if there are keys, else none."""
    origins: list[str] = Field(default_factory=list)
    """Sites whose pages may send requests from a browser (CORS), such as https://app.example.org; `*`: all."""
    most_body_mib: int = Field(48, ge=1)
    most_text: int = Field(400_000, ge=1)
    """Maximum characters of all texts of a request."""
    ping_s: float = Field(10.0, gt=0)
    drain_s: int = Field(30, ge=0)
    """Seconds that running requests may continue when the server stops."""
    state: Path | None = None
    """The file with the budget usage of keys; None: beside the journal."""

    @field_validator("origins")
    @classmethod
    def _are_origins(cls, given: list[str]) -> list[str]:
        for origin in given:
            if not ORIGIN.fullmatch(origin):
                raise ValueError(f"{origin!r} is no origin, write it like https://app.example.org")
        return given


class ImageSettings(StrictTable):
    """Limits of images in requests."""

    urls: StrictBool = False
    """Fetch images that are given as web URLs."""
    hosts: list[str] = Field(default_factory=list)
    """Fetch only from these hosts and their subdomains; empty: from all."""
    most: int = Field(16, ge=0)
    """Maximum images of one request."""
    most_megapixels: float = Field(50.0, gt=0, le=178)
    """Maximum size of one image."""
    request_megapixels: float = Field(200.0, gt=0)
    """Maximum size of all images of one request."""
    decode_mib: int = Field(768, ge=64)
    """Maximum memory for decoding one image."""
    decode_s: float = Field(10.0, gt=0)
    """Maximum time for decoding one image."""

    @field_validator("hosts")
    @classmethod
    def _are_names(cls, hosts: list[str]) -> list[str]:
        for host in hosts:
            host.encode("idna")  # raises a ValueError with the reason
        return hosts


class AuditSettings(StrictTable):
    """The audit: how answers that were accepted without reasoning are checked."""

    share: float = Field(0.0, ge=0, le=1)
    """The share of the agreed requests that are checked."""
    strategy: Strategy = "reason:large"
    warn_above: float = Field(0.1, ge=0, le=1)
    """Warn if the share of false accepts is above this with 97.5% confidence."""
    tokens_per_hour: int | None = Field(None, ge=1)
    """No check begins while the checks of the last hour have used this many."""


class JournalSettings(StrictTable):
    """The decision log; none if there is no path."""

    path: Path | None = None
    content: StrictBool = False
    """Keep texts and images instead of hashes."""
    most_mib: float = Field(64.0, gt=0)
    keep: int = Field(3, ge=1)
    """Number of older, full files that are kept."""


class StateSettings(StrictTable):
    """Where the limits of keys are counted; without a URL in this process alone."""

    url: str | None = None
    """A Redis or Valkey server that several gateways share: redis://HOST:PORT/DB, rediss:// or unix://."""
    on_failure: Literal["refuse", "allow"] = "refuse"
    """What happens with requests while the server cannot be reached; `allow`: they are admitted without limits."""
    timeout_s: float = Field(0.5, gt=0, le=30)
    """The longest that a request waits for the server."""
    lease_s: float = Field(30.0, ge=1)
    """How long a reservation outlives its process."""
    prefix: str = Field("cuecard", pattern=r"^[A-Za-z0-9._:-]{1,64}$")
    """The beginning of all names on the server."""

    @field_validator("url")
    @classmethod
    def _is_redis(cls, given: str | None) -> str | None:
        if given is not None and not given.startswith(SCHEMES):
            raise ValueError("it begins with none of redis://, rediss://, unix://")
        return given


class Config(StrictTable):
    """The whole file."""

    version: Literal[1]
    server: GatewaySettings = GatewaySettings()
    images: ImageSettings = ImageSettings()
    audit: AuditSettings = AuditSettings()
    journal: JournalSettings = JournalSettings()
    state: StateSettings = StateSettings()
    keys: list[Key] = Field(default_factory=list)
    pairs: dict[str, PairTable]
    """By name. `[pair]`, `[small]`, `[large]` and `[third]` at the top level are the first pair, `cuecard`."""

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
            if key.budgets and self.state.url is None and self.state_file is None:
                hint = "write state = a file's path under [server], a path under [journal], or url under [state]"
                raise ValueError(f"{next(iter(key.budgets))} of the key {key.name} must survive a restart: {hint}")
        if len({key.sha256 for key in self.keys}) < len(self.keys):
            raise ValueError("two [[keys]] have the same sha256")
        return self

    @property
    def state_file(self) -> Path | None:
        """The file with the budget usage of keys: `server.state`, else one beside the journal, else None."""
        journal = self.journal.path
        return self.server.state or (None if journal is None else journal.with_name(f"{journal.name}.state"))

    @property
    def ledger_path(self) -> Path | None:
        """The file with the use of budgets; None: no key has a budget, or usage is kept in a shared state."""
        return self.state_file if self.state.url is None and any(key.budgets for key in self.keys) else None

    def hosts(self, host: str) -> list[str] | None:
        """The host names that the gateway accepts if it listens on `host`; None: any."""
        hosts = self.server.hosts
        return None if hosts is None and self.keys else [host, *(hosts or ())]


def virtual_models(pair: str) -> dict[str, tuple[str | None, Schedule | None]]:
    """Every virtual model of a pair: name -> strategy and schedule; None: as configured."""
    names: dict[str, tuple[str | None, Schedule | None]] = {pair: (None, None)}
    for strategy in (name for name in STRATEGIES if ":" not in name):
        names[f"{pair}/{strategy}"] = strategy, None
        if strategy in SCHEDULED:
            names |= {f"{pair}/{strategy}-{schedule}": (strategy, schedule) for schedule in Schedule}
    return names


def unknown_model(model: str, served: Sequence[str]) -> UnknownModel:
    """The error for a model that is not served; suggests a similar name, or the first one that is served."""
    listed = f"GET /v1/models lists what is served, as {served[0]}; aliases in the configuration add names to a pair"
    hint = did_you_mean(model, served, listed)
    return UnknownModel(f"the model {model[:200]!r} is not served here", hint, param="model")


def read(given: Path | Mapping[str, Any]) -> Config:
    """The configuration in a file, or in its tables. Raises BadInput: one line with the error and its place."""
    path, tables = (given, disk.read_toml(given)) if isinstance(given, Path) else (Path(), given)
    try:
        return Config.model_validate(_filled(dict(tables)), context={"beside": path.parent})
    except ValidationError as errors:
        found, more = errors.errors(), errors.error_count() - 1
        first = next((each for each in found if each["type"] == "extra_forbidden"), found[0])  # it causes the others
        also = f" (and {more} more)" if more else ""
        place = f"{path}: " if path is given else ""
        raise BadInput(f"{place}{_description(first)}{also}", _advice(first)) from errors


def chosen(given: Path | Mapping[str, Any] | None, small: str | None, large: str | None) -> Config:
    """The configuration in a file or its tables, by default the embedded pair; `small`, `large`: models instead.

    Raises BadInput.
    """
    base = read(given or {"version": 1, "small": {"model": "demo-small"}, "large": {"model": "demo-large"}})
    models = {role: name for role, name in {"small": small, "large": large}.items() if name}
    if not models:
        return base
    for name in models.values():
        spec.parse(name)
    if PAIR not in base.pairs:
        raise BadInput(f"{given} has no pair {PAIR} whose models small and large would be", "leave them out")
    pair = base.pairs[PAIR].model_copy(update={role: [Upstream(model=name)] for role, name in models.items()})
    return base.model_copy(update={"pairs": {**base.pairs, PAIR: pair}})


def _filled(value: Any, kind: type = str) -> Any:
    """The value with `${NAME}` replaced from the environment, except in `api_key`, which is resolved when needed.

    `kind`: the type of a model's key; what the environment has for a number is read as one.
    """
    match value:
        case str():
            filled = spec.secret(value)
            if filled != value and kind in (int, float):
                with suppress(ValueError):  # it is refused as a text
                    return kind(filled)
            return filled
        case dict():
            kinds = {} if kind is dict else spec.KEYS  # keys of other programs, in extra_body for example
            return {
                key: each if key == "api_key" else _filled(each, kinds.get(key, kind)) for key, each in value.items()
            }
        case list():
            return [_filled(each, kind) for each in value]
        case _:
            return value


def _place(error: Mapping[str, Any]) -> tuple[str | int, ...]:
    """The place of an error in the file, where the pair at the top level is not under `pairs`."""
    loc: tuple[str | int, ...] = error["loc"]
    if loc[:2] != ("pairs", PAIR):
        return loc
    if loc[2:] and loc[2] in ROLES:
        return loc[2:]
    return ("pair", *loc[2:]) if loc[2:] else ()


def _description(error: Mapping[str, Any]) -> str:
    where = ".".join(str(part) for part in _place(error) if not isinstance(part, int)) or "the file"
    match error["type"]:
        case "extra_forbidden":
            return f"unknown key {where}"
        case "missing":
            return f"{where} is missing"
        case "value_error":
            return f"{where}: {error['ctx']['error']}" if _place(error) else str(error["ctx"]["error"])
        case _:
            wanted = error["msg"].partition(",")[0] if error["type"].endswith("_parsing") else error["msg"]
            return f"{where}: {wanted[0].lower()}{wanted[1:]}, not {error['input']!r}"


TABLES: Mapping[str, type[StrictTable | Key]] = {
    "server": GatewaySettings,
    "images": ImageSettings,
    "audit": AuditSettings,
    "journal": JournalSettings,
    "state": StateSettings,
    "keys": Key,
    "pair": PairSettings,
    **dict.fromkeys(ROLES, Upstream),
    "prices": Prices,
}


def _is_number(text: object) -> bool:
    return isinstance(text, str) and text.removeprefix("-").replace(".", "", 1).isdecimal()


def _advice(error: Mapping[str, Any]) -> str | None:
    place = _place(error)
    if error["type"] == "missing" and place == ("version",):
        return "write version = 1 on its first line"
    if error["type"] == "missing" and place[-1] in ROLES:
        return f"write [{'.'.join(map(str, place))}] and, under it, model = …"
    if place[-1:] == ("sha256",):
        return "`cuecard key` makes a key and shows its hash"
    if error["type"] == "bool_type":
        return "write true or false, without quotes"
    if error["type"] in ("float_type", "int_type") and _is_number(error["input"]):
        return "write the number without quotes"
    if error["type"] != "extra_forbidden":
        return None
    *tables, key = [part for part in place if isinstance(part, str)]
    if not tables:
        known = [*(name for name in Config.model_fields if name != "pairs"), "pair", *ROLES, "pairs"]
    else:
        known = list(TABLES.get(tables[-1], PairTable).model_fields)  # other tables are pairs
    return did_you_mean(key, known)
