"""Settings of an engine, and the check that the engines of one device fit into its memory. Needs no vLLM."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any
from urllib.parse import parse_qsl

from cuecard.domain.errors import BadInput, did_you_mean

USUAL_SHARE, MOST_SHARE = 0.45, 0.95
"""The share of a device's memory that an engine reserves by default, and the most that all of them may reserve."""

OWNED = {
    "model": "model",
    "gpu_memory_utilization": "gpu_memory",
    "max_model_len": "max_len",
    "dtype": "dtype",
    "revision": "revision",
    "enforce_eager": "eager",
}
"""Engine arguments that have a setting of their own, by which memory is added up and models are identified."""


@dataclass(frozen=True)
class EngineSettings:
    """How vLLM loads a model."""

    gpu_memory: float = USUAL_SHARE
    """Share of the device's memory for weights and KV cache, above 0, at most `MOST_SHARE`."""
    max_len: int | None = None
    """Maximum tokens of a prompt and its answer; None: the model's own."""
    dtype: str | None = None
    revision: str | None = None
    eager: bool = False
    """Skip compilation and CUDA graphs: starts faster, answers slower."""
    constraint: str | None = None
    """`structured_outputs`: brief answers are decoded under the grammar of their kind."""
    engine_args: Mapping[str, Any] = field(default_factory=dict)
    """Further fields of vLLM's AsyncEngineArgs."""

    def __post_init__(self) -> None:
        if not 0 < self.gpu_memory <= MOST_SHARE:
            raise BadInput(f"gpu_memory is {self.gpu_memory:g}", f"give a share above 0, at most {MOST_SHARE:g}")
        if self.max_len is not None and self.max_len < 1:
            raise BadInput(f"max_len is {self.max_len}", "give a number of tokens above 0")
        if self.constraint not in (None, "structured_outputs"):
            raise BadInput(f"unknown constraint {self.constraint!r} for vLLM", "write structured_outputs")

    def arguments(self, source: str) -> dict[str, Any]:
        """Keyword arguments for AsyncEngineArgs, with vLLM installed. Raises BadInput for an unknown one."""
        from vllm.engine.arg_utils import AsyncEngineArgs

        known = {each.name for each in fields(AsyncEngineArgs)}
        if unknown := set(self.engine_args) - known:
            raise BadInput(f"vLLM has no engine argument {min(unknown)!r}", did_you_mean(min(unknown), known, ""))
        if owned := sorted(set(self.engine_args) & set(OWNED)):
            raise BadInput(f"{owned[0]} is set by {OWNED[owned[0]]}, not in engine_args", f"write {OWNED[owned[0]]}=…")
        given = {"max_model_len": self.max_len, "dtype": self.dtype, "revision": self.revision}
        return {
            "model": source,
            "gpu_memory_utilization": self.gpu_memory,
            "enforce_eager": self.eager,
            "disable_log_stats": True,
            **{name: value for name, value in given.items() if value is not None},
            **self.engine_args,
        }


KEYS: Mapping[str, type] = {
    "gpu_memory": float,
    "max_len": int,
    "dtype": str,
    "revision": str,
    "eager": bool,
    "constraint": str,
    "engine_args": dict,
}
"""Keys of a model's table, and the settings in a specification, with their types."""


def parsed(query: str, where: str) -> dict[str, Any]:
    """The settings after `?` in a specification: `gpu_memory=0.4&max_len=8192`. Raises BadInput."""
    found: dict[str, Any] = {}
    for name, text in parse_qsl(query, keep_blank_values=True):
        if name not in KEYS:
            raise BadInput(f"unknown setting {name[:40]!r} in {where}", did_you_mean(name, KEYS))
        found[name] = _value(name, text, where)
    return found


def _value(name: str, text: str, where: str) -> Any:
    kind = KINDS[KEYS[name]]
    try:
        value = text if KEYS[name] is str else json.loads(text)
    except ValueError:
        value = None
    fits = isinstance(value, KEYS[name]) or (KEYS[name] is float and isinstance(value, int))
    if not fits or (KEYS[name] is not bool and isinstance(value, bool)):
        raise BadInput(f"{name} in {where} is not {kind}", f"write {name}= with {kind}")
    return value


KINDS: Mapping[type, str] = {
    float: "a number",
    int: "a whole number",
    str: "a text",
    bool: "true or false",
    dict: "a JSON object",
}


def check_memory(engines: Iterable[tuple[str, float]]) -> None:
    """Raises BadInput if engines (name, memory share), all on one device, reserve more than `MOST_SHARE` together."""
    shares = list(engines)
    total = sum(share for _, share in shares)
    if len(shares) > 1 and total > MOST_SHARE + 1e-9:
        each = " and ".join(f"{name} ({share:g})" for name, share in shares)
        raise BadInput(
            f"{each} reserve {total:.2f} of the device's memory together; at most {MOST_SHARE:g} fits",
            f"lower gpu_memory, for example {shares[-1][0]}?gpu_memory={_rest(shares):g}",
        )


def _rest(shares: list[tuple[str, float]]) -> float:
    """What is left for the last engine; an equal part if nothing useful is."""
    left = MOST_SHARE - sum(share for _, share in shares[:-1])
    return round(left if left >= 0.1 else MOST_SHARE / len(shares), 2)
