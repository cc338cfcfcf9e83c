"""Identities of models, requests for calls and their cache keys, and stored calls with or without times.

A call without times comes from an imported file, or was decoded by a local model in a batch. The time of a batched call
is no request's latency, so it is stored under a separate name.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from cuecard.domain import errors
from cuecard.domain.call import FinishReason, Mode
from cuecard.domain.errors import CuecardError, ModelError
from cuecard.domain.question import Question
from cuecard.evals.database import Record
from cuecard.models import prompt as layouts
from cuecard.models import replay, spec
from cuecard.models.acceptance_table import FILE as ACCEPTANCE
from cuecard.models.base import Abilities, Limits, Model, Weighing
from cuecard.models.prompt import Prompt
from cuecard.models.scope import FILES as SCOPES

TOKENS = ("prompt_tokens", "cached_tokens", "completion_tokens", "reasoning_tokens")
BATCHED = "batched"
"""Key in a run's configuration and in a call's record that marks calls decoded in a batch."""
_ENDS = 2**20
LOCAL = (spec.Embedded, spec.Checkpoint, spec.GgufFile)
TIMES = ("first_token_s", "end_s", "hot_first_token_s", "hot_end_s", "reasoning_end_s")


@dataclass(frozen=True)
class Seat:
    """A model of the run, by role. `name` and `revision` are part of the cache key of every call."""

    role: str
    name: str
    revision: str
    abilities: Abilities


@dataclass(frozen=True)
class CallRequest:
    """A call that an arm needs: taken from the store, else made by the model.

    `answer`: the text to score; if `by` is set, the text by which a card is weighed, and `by` is its kind.
    """

    seat: Seat
    prompt: Prompt
    limits: Limits
    answer: str | None = None
    by: Weighing | None = None
    about: str | None = None
    """The item of the call, if it is not the current one."""

    @property
    def mode(self) -> Mode:
        if self.by is not None:
            return Mode.WEIGH
        return self.prompt.mode if self.answer is None else Mode.SCORE

    @cached_property
    def key(self) -> str:
        """Cache key: SHA-256 of everything that determines the reply and nothing else, so that arms share calls."""
        limits = replace(
            self.limits,
            reasoning_tokens=self.limits.reasoning_tokens if self.mode is Mode.REASON else 0,
            seed=self.limits.seed if self.limits.temperature else None,
        )
        extra = json.dumps([self.answer, self.prompt.schema, *([self.by] if self.by else [])])
        return replay.key(f"{self.seat.name}@{self.seat.revision}", self.prompt, limits, extra)


class StoredCalls:
    """Look-up of the stored calls about one item.

    `pace`: speed of each of two concurrent calls, relative to a call that runs alone; None if they do not slow each
    other down, or it was not measured. `budgets`: the run's reasoning budgets in tokens, the largest first.
    """

    def __init__(
        self, look: Callable[[str], Record | None], budgets: Sequence[int] = (), pace: float | None = None
    ) -> None:
        self._look, self._budgets, self.pace = look, budgets, pace
        self._known: dict[str, Record] = {}

    def add(self, key: str, record: Record) -> None:
        self._known[key] = replayable(record)

    def call(self, key: str) -> Record | None:
        """The replayable record of the call with this key."""
        if key not in self._known and (stored := self._look(key)) is not None:
            self.add(key, stored)
        return self._known.get(key)

    def get(self, request: CallRequest) -> tuple[str, Record] | None:
        """Key and record of the call, or of a greedy reasoning with a larger budget that fits into this budget."""
        if (own := self.call(request.key)) is not None:
            return request.key, own
        if request.mode is Mode.REASON and not request.limits.temperature:
            budget = request.limits.reasoning_tokens
            for larger in (each for each in self._budgets if each > budget):
                other = replace(request, limits=replace(request.limits, reasoning_tokens=larger))
                record = self.call(other.key)
                if record and record["finish_reason"] in (FinishReason.STOP, FinishReason.REPETITION):
                    counts = [record[name] for name in ("reasoning_tokens", "completion_tokens")]
                    if next((count for count in counts if count is not None), budget) < budget:
                        return other.key, record
        return None

    def short(self, seat: Seat, question: Question, limits: Limits) -> tuple[Prompt, Record] | None:
        """The model's short call about the question, if it is stored."""
        prompt = layouts.short(question, seat.abilities.style)
        stored = self.get(CallRequest(seat, prompt, limits))
        return None if stored is None else (prompt, stored[1])


# --- the identity of a model ------------------------------------------------------------------------------------------


def is_local(given: str | Mapping[str, Any]) -> bool:
    """Whether the model runs in this process (there, calls are timed one at a time). Raises BadInput."""
    return isinstance(spec.parse(_named(given)), LOCAL)


def seat_of(role: str, given: str | Mapping[str, Any], model: Model) -> Seat:
    """The identity under which the model's calls are stored. Raises BadInput."""
    return Seat(role, model.name, model_revision(given), model.abilities)


def model_revision(given: str | Mapping[str, Any]) -> str:
    """Hash of a model's weights or settings, 16 hex digits; for a server, of its settings only."""
    settings = dict(given) if isinstance(given, Mapping) else {"model": given}
    settings.pop("api_key", None)
    match spec.parse(_named(given)):
        case spec.Embedded() as embedded:
            settings["model"] = _files(embedded.folder)
        case spec.Checkpoint(source) if Path(source).is_dir():
            settings["model"] = _files(Path(source))
        case spec.VllmCheckpoint(source, own):
            settings = {**own, **settings, "model": f"vllm:{_files(Path(source)) if Path(source).is_dir() else source}"}
            settings.pop("gpu_memory", None)  # it changes no answer
        case spec.GgufFile(path):
            settings["model"] = _files(path.parent, [path])
        case spec.Recording(path):
            settings["model"] = hashlib.sha256(path.read_bytes()).hexdigest()
        case spec.Served(_, name):  # the address is not part of the identity
            settings["model"] = name
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


def models_config(seats: Mapping[str, Seat]) -> dict[str, Any]:
    """The properties of models that determine calls besides the prompt, by role, as plain data."""
    return {
        role: {
            "name": seat.name,
            "revision": seat.revision,
            "card_formats": list(seat.abilities.card_formats),
            "scoring": seat.abilities.scoring,
            "prefix_sessions": seat.abilities.prefix_sessions,
        }
        for role, seat in seats.items()
    }


def _named(given: str | Mapping[str, Any]) -> str:
    return str(given["model"]) if isinstance(given, Mapping) else given


def _files(folder: Path, some: Iterable[Path] | None = None) -> str:
    """SHA-256 of each file's path, size and content; for large files, of the first and last MiB only.

    Scope files and acceptance tables are left out, because they do not change the model's answers.
    """
    digest, paths = hashlib.sha256(), folder.rglob("*") if some is None else some
    for path in sorted(each for each in paths if each.is_file() and each.name not in (*SCOPES, ACCEPTANCE)):
        size = path.stat().st_size
        digest.update(f"{path.relative_to(folder)} {size}\n".encode())
        with path.open("rb") as file:
            digest.update(file.read(_ENDS))
            if size > _ENDS:
                file.seek(max(_ENDS, size - _ENDS))
                digest.update(file.read())
    return digest.hexdigest()


# --- errors as records ------------------------------------------------------------------------------------------------


def error_record(error: CuecardError) -> Record:
    """An error as plain data."""
    return {
        "class": type(error).__name__,
        "message": error.message,
        "hint": error.hint,
        "retryable": error.retryable,
        "retry_after_s": error.retry_after_s,
    }


def error_of(record: Record) -> CuecardError:
    """The error that an `error_record` describes."""
    kind = getattr(errors, record["class"], ModelError)
    error: CuecardError = kind(record["message"], record["hint"])
    error.retryable = record["retryable"]
    return error


# --- calls without times ----------------------------------------------------------------------------------------------


def is_timed(config: Mapping[str, Any]) -> bool:
    """Whether a run's answers have latencies."""
    return "imported" not in config and not config.get(BATCHED)


def batched(record: Record) -> Record:
    """The call's record without its times, which are moved to `BATCHED`."""
    own = {name: record[name] for name in TIMES[:2]}
    return {**record, **dict.fromkeys(TIMES), "pieces": [], "cold": None, BATCHED: own}


def replayable(record: Record) -> Record:
    """The call's record for replay: a call of unknown duration takes 0 s; `untimed` removes the times afterwards."""
    if record["end_s"] is not None:
        return record
    return {**record, "end_s": 0.0, "finish_reason": record["finish_reason"] or FinishReason.STOP}


def untimed(answer: Record, look: Callable[[str], Record | None]) -> Record:
    """The answer's record without times, and with the stored finish reason of each call."""
    none = dict.fromkeys(("start_s", "first_token_s", "reasoning_end_s", "end_s"))
    calls = []
    for call in answer["calls"]:
        stored = look(call["key"]) or call
        known = call["finish_reason"] if call["cancelled"] or call["error"] else stored["finish_reason"]
        calls.append({**call, **none, "finish_reason": known})
    return {**answer, "calls": calls, "latency": {"total_s": None, "handoff_s": None, "kind": None}}
