"""Reading `cuecard.toml`: whole, or refused whole with one line that says what is wrong and where."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from cuecard import settings
from cuecard.domain.errors import BadInput
from cuecard.gateway.config.config import PAIR, ROLES, Config, PairSettings, PairTable, Prices, Upstream
from cuecard.gateway.config.settings import (
    AuditSettings,
    GatewaySettings,
    ImageSettings,
    JournalSettings,
    KeyEntry,
    StrictTable,
    nearest,
)
from cuecard.models import spec
from cuecard.strategies import policy_file


def read(path: Path) -> Config:
    """The configuration in a file. Raises BadInput: one line that says what is wrong and where."""
    tables = settings.read(path)
    try:
        return Config.model_validate(_with_policy(_filled(tables), path.parent))
    except ValidationError as errors:
        found, more = errors.errors(), errors.error_count() - 1
        first = next((each for each in found if each["type"] == "extra_forbidden"), found[0])  # as the cause of others
        also = f" (and {more} more)" if more else ""
        raise BadInput(f"{path}: {_told(first)}{also}", _advice(first)) from errors


def _with_policy(tables: Any, beside: Path) -> Any:
    """The tables with the settings of their policy files, which the pairs' own settings override."""
    named = tables.get("pairs")
    return (
        tables
        | ({"pair": _with_its_policy(tables["pair"], beside)} if "pair" in tables else {})
        | (
            {"pairs": {name: _with_its_policy(pair, beside) for name, pair in named.items()}}
            if isinstance(named, dict)
            else {}
        )
    )


def _with_its_policy(pair: Any, beside: Path) -> Any:
    if not (isinstance(pair, dict) and isinstance(pair.get("policy"), str)):
        return pair
    policy = policy_file.read(beside / pair["policy"])
    return {"strategy": policy.strategy, **policy.options, **pair}


def _filled(value: Any) -> Any:
    """The value with `${NAME}` taken from the environment; keys of servers are looked up when they are needed."""
    match value:
        case str():
            return spec.secret(value)
        case dict():
            return {key: each if key == "api_key" else _filled(each) for key, each in value.items()}
        case list():
            return [_filled(each) for each in value]
        case _:
            return value


def _place(error: Mapping[str, Any]) -> tuple[str | int, ...]:
    """Where in the file: the pair at its top is not under `pairs` there."""
    loc: tuple[str | int, ...] = error["loc"]
    if loc[:2] != ("pairs", PAIR):
        return loc
    if loc[2:] and loc[2] in ROLES:
        return loc[2:]
    return ("pair", *loc[2:]) if loc[2:] else ()


def _told(error: Mapping[str, Any]) -> str:
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


TABLES: Mapping[str, type[StrictTable]] = {
    "server": GatewaySettings,
    "images": ImageSettings,
    "audit": AuditSettings,
    "journal": JournalSettings,
    "keys": KeyEntry,
    "pair": PairSettings,
    "small": Upstream,
    "large": Upstream,
    "third": Upstream,
    "prices": Prices,
}


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
    if error["type"] != "extra_forbidden":
        return None
    *tables, key = [part for part in place if isinstance(part, str)]
    if not tables:
        known = [*(name for name in Config.model_fields if name != "pairs"), "pair", *ROLES, "pairs"]
    else:
        known = list(TABLES.get(tables[-1], PairTable).model_fields)  # other tables are pairs
    return nearest(key, known).strip(", ") or f"there are: {', '.join(known)}"
