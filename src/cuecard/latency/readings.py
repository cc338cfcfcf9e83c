"""A profile's readings: `profile.json` holds its configuration and machine, `readings.jsonl` one reading per line.

Readings are appended and never changed; fits and figures are derived from them, with slices of a model as one estimated
reading of all its layers, and without warm-up and failed requests. One writer at a time.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from statistics import median
from typing import Any, Literal

from cuecard import disk
from cuecard.disk import CannotStore
from cuecard.domain.errors import BadInput

VERSION = 1
ABOUT, LINES = "profile.json", "readings.jsonl"
IN_PROCESS_PARTS = ("preprocess", "vision", "projector", "prefill", "decode", "detokenise", "gap")
SERVER_PARTS = ("queue", "ttft", "decode", "tail")
"""Seconds until sending, at the client; to the first token; to the last token; to the end of the stream."""

SETTING = ("batch", "dtype", "attention", "compiled", "layers_timed", "layers_total", "concurrency", "rate")
"""Factors that a fit does not vary: each combination is analysed separately."""

_SLACK = 1e-6  # seconds by which the parts may exceed the total, for rounding


@dataclass(frozen=True)
class Point:
    """One combination of factors. None: not chosen, not observed, or not applicable.

    Tokens and sizes are per request, not per batch. `prompt_tokens` counts the whole prompt with its visual and cached
    tokens; `context_tokens` counts the cached tokens at the start of decoding.
    """

    batch: int | None = None
    image_px: int | None = None
    """Side of a square image; None without an image."""
    visual_tokens: int | None = None
    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    output_tokens: int | None = None
    context_tokens: int | None = None
    dtype: str | None = None
    attention: str | None = None
    compiled: bool | None = None
    layers_timed: int | None = None
    layers_total: int | None = None
    concurrency: int | None = None
    rate: float | None = None
    """Requests per second of an open loop."""
    ignore_eos: bool | None = None


@dataclass(frozen=True)
class Reading:
    """One timed request (or batch). Times are seconds of a monotonic clock; parts do not exceed the total."""

    model: str
    source: Literal["in-process", "server"]
    round: int
    position: int
    """Index in the order of measurement over the whole run."""
    warmup: bool
    point: Point
    """As requested: the key for resuming a run."""
    parts_s: Mapping[str, float]
    total_s: float
    observed: Mapping[str, int] = field(default_factory=dict)
    """Observed values of the point's fields: prompt_tokens, cached_tokens, output_tokens, …"""
    token_times_s: tuple[float, ...] | None = None
    """Times of the output tokens, since the start of the request. For servers see `events`."""
    sent_s: float | None = None
    """For servers: time of sending, since the start of the round's load. Times below are since sending."""
    head_s: float | None = None
    """Time of the response head."""
    events: tuple[tuple[float, str, int | None], ...] | None = None
    """Every event of the stream: time, kind (`server.metrics`), and number of tokens, if reported."""
    first_answer_s: float | None = None
    """Time of the first answer token, after the reasoning."""
    error: str | None = None
    """Why the request failed; its times then end at the failure."""

    def __post_init__(self) -> None:
        if sum(self.parts_s.values()) > self.total_s + _SLACK or min(self.parts_s.values(), default=0.0) < 0:
            raise ValueError(f"parts {dict(self.parts_s)} are negative or exceed the total, {self.total_s} s")

    @property
    def seen(self) -> Point:
        """The point as measured: observed values override requested ones."""
        return replace(self.point, **self.observed)  # type: ignore[arg-type]

    @property
    def latency_s(self) -> float:
        """The total without the wait at the client."""
        return self.total_s - self.parts_s.get("queue", 0.0)


@dataclass(frozen=True)
class ProfileConfig:
    """The configuration of a profile. `config` determines the readings: a profile is resumed only with the same one.

    `config` holds `source`, `models` (by name) and `grid`; `facts` the device, its probe, versions, date, command line.
    """

    config: Mapping[str, Any]
    facts: Mapping[str, Any] = field(default_factory=dict)


class Readings:
    """A profile locked for writing by this process. Raises BadInput (locked, another profile), CannotStore."""

    def __init__(self, path: Path, asked: ProfileConfig) -> None:
        self.path = path
        self.notes: list[str] = []
        """Repairs made on opening."""
        self._lock = disk.locked(path, ABOUT)
        try:
            self.resumed = (path / ABOUT).exists()
            if self.resumed:
                disk.same(about(path)["config"], asked.config, path)
            else:
                disk.save(path / ABOUT, {"version": VERSION, "config": asked.config, **asked.facts})
            lines = path / LINES
            if lines.exists() and (torn := _torn(lines)):  # by a kill
                os.truncate(lines, lines.stat().st_size - torn)
                self.notes.append(f"the last reading was cut off ({torn} bytes): dropped, to be made again")
            self._count = Counter(map(_key, read(path)))
            self._file = lines.open("a", encoding="utf-8")
        except OSError as error:
            self._lock.close()
            raise CannotStore(f"cannot write into {path}: {error.strerror}") from error
        except BaseException:
            self._lock.close()
            raise

    def append(self, reading: Reading) -> None:
        """Write one reading, which then survives a kill. Raises CannotStore."""
        line = json.dumps(_plain(reading), ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        try:
            self._file.write(line + "\n")
            self._file.flush()
        except OSError as error:
            raise CannotStore(f"cannot write into {self.path}: {error.strerror}") from error
        self._count[_key(reading)] += 1

    def done(self, model: str, point: Point, round: int, of: int = 1) -> bool:
        """Whether this round has `of` readings of the point as requested; warm-up does not count."""
        return self._count[(model, point, round, False)] >= of

    def count(self) -> int:
        """Number of readings so far, warm-up included: the position of the next one."""
        return self._count.total()

    def close(self) -> None:
        """Close the file; a full disk is reported by the write, not here."""
        try:
            self._file.close()
        finally:
            self._lock.close()

    def __enter__(self) -> Readings:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def is_profile(path: Path) -> bool:
    """Whether a directory holds a profile. Raises BadInput if it cannot be read."""
    return disk.is_there(path / ABOUT)


def about(path: Path) -> dict[str, Any]:
    """The content of `profile.json`, without its version. Raises BadInput."""
    if not is_profile(path):
        raise BadInput(f"{path} is not the directory of a profile", f"it has no {ABOUT}")
    hint = "start in another directory"
    return disk.load(path / ABOUT, VERSION, "a profile's file", hint, lambda data: {**data, "config": data["config"]})


def read(path: Path) -> Iterator[Reading]:
    """The readings in order, warm-up included, without a truncated last line. Raises BadInput."""
    lines = path / LINES
    if not lines.exists():
        return
    whole = lines.stat().st_size - _torn(lines)
    with lines.open("rb") as file:
        for number, line in enumerate(file, 1):
            if file.tell() > whole:
                return
            yield _parsed(line, f"{lines}, line {number}")


def by_point(made: Iterable[Reading]) -> list[list[Reading]]:
    """The readings of each point of each model, in the order of their first measurement."""
    groups: dict[tuple[str, Point], list[Reading]] = {}
    for reading in made:
        groups.setdefault((reading.model, reading.point), []).append(reading)
    return list(groups.values())


def _torn(lines: Path) -> int:
    """Bytes after the last line end."""
    data = lines.read_bytes()
    return len(data) - (data.rfind(b"\n") + 1)


def _key(reading: Reading) -> tuple[str, Point, int, bool]:
    return reading.model, reading.point, reading.round, reading.warmup


def _plain(reading: Reading) -> dict[str, Any]:
    """A reading as plain data, without None values."""
    data = {key: value for key, value in asdict(reading).items() if value is not None}
    return {**data, "point": {key: value for key, value in data["point"].items() if value is not None}}


def _parsed(line: bytes, where: str) -> Reading:
    try:
        data = json.loads(line)
        unknown = {*data} - {each.name for each in fields(Reading)} | {*data["point"]} - {
            each.name for each in fields(Point)
        }
        if unknown:
            raise BadInput(f"{where} holds {', '.join(sorted(unknown))}", "it was written by a newer cuecard")
        data["point"] = Point(**data["point"])
        if "token_times_s" in data:
            data["token_times_s"] = tuple(data["token_times_s"])
        if "events" in data:
            data["events"] = tuple(map(tuple, data["events"]))
        return Reading(**data)
    except (ValueError, TypeError, KeyError) as error:
        raise BadInput(f"{where} is no reading: {error}", "delete the line, its point is measured again") from error


# --- slices of a model ------------------------------------------------------------------------------------------------


def whole(made: Iterable[Reading], vision_layers: Mapping[str, int]) -> list[Reading]:
    """Readings of whole models; readings of two slices of a model become one estimated reading of all its layers.

    The estimate is linear in the layers: times at half and at the full slice give the cost per layer and the rest.
    `vision_layers` counts the layers of each model's whole encoder. An estimated reading keeps its `layers_timed`.
    """
    found, slices = [], dict[tuple[Any, ...], dict[int, Reading]]()
    for reading in made:
        timed = reading.point.layers_timed
        if timed is None:
            found.append(reading)
            continue
        key = (reading.model, replace(reading.point, layers_timed=None), reading.round, reading.warmup)
        slices.setdefault(key, {})[timed] = reading
    found += [_grown(pair, vision_layers) for pair in slices.values() if len(pair) == 2]
    return sorted(found, key=lambda each: each.position)


def _grown(pair: Mapping[int, Reading], vision_layers: Mapping[str, int]) -> Reading:
    thin, thick = sorted(pair)
    less, more = pair[thin], pair[thick]
    total = more.point.layers_total or thick
    seeing = vision_layers.get(more.model, thick)
    depths = {"prefill": (thin, thick, total), "decode": (thin, thick, total)}
    depths["vision"] = (min(thin, seeing), min(thick, seeing), seeing)
    parts = dict(more.parts_s)
    for name, (few, many, all_) in depths.items():
        if name in parts and many > few:
            each = (more.parts_s[name] - less.parts_s.get(name, 0.0)) / (many - few)
            parts[name] = max(parts[name], parts[name] + each * (all_ - many))
    return replace(more, parts_s=parts, total_s=sum(parts.values()), token_times_s=None)


# --- points -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Found:
    """The readings of one point: medians, minimum and maximum. `parts_s` are medians of each part."""

    model: str
    source: str
    setting: Mapping[str, Any]
    visual: int
    prompt: int
    cached: int
    output: int
    readings: int
    parts_s: Mapping[str, float]
    total_s: float
    least_s: float
    most_s: float
    kind: Literal["measured", "estimated"]
    """Estimated: from slices of the layers."""


def usable(path: Path) -> list[Reading]:
    """Valid readings of whole models. Raises BadInput if there are none."""
    sizes = {name: data.get("dimensions") or {} for name, data in (about(path)["config"].get("models") or {}).items()}
    seeing = {name: each["vision"]["layers"] for name, each in sizes.items() if each.get("vision")}
    found = [each for each in whole(read(path), seeing) if not each.warmup and each.error is None]
    if not found:
        raise BadInput(f"{path} holds no readings but warm-up", "let the profile run first")
    return found


def setting_of(point: Point) -> dict[str, Any]:
    """The known factors of a point that a fit does not vary."""
    return {name: value for name in SETTING if (value := getattr(point, name)) is not None}


def points(path: Path) -> list[Found]:
    """Every point of every model, in the order of their first measurement. Raises BadInput."""
    return [_found(group) for group in by_point(usable(path)) if group[0].seen.prompt_tokens is not None]


def _found(group: Sequence[Reading]) -> Found:
    first, names = group[0], dict.fromkeys(name for reading in group for name in reading.parts_s)
    totals = sorted(reading.latency_s for reading in group)
    return Found(
        model=first.model,
        source=first.source,
        setting=setting_of(first.seen),
        visual=round(median(reading.seen.visual_tokens or 0 for reading in group)),
        prompt=round(median(reading.seen.prompt_tokens or 0 for reading in group)),
        cached=round(median(reading.seen.cached_tokens or 0 for reading in group)),
        output=round(median(reading.seen.output_tokens or 0 for reading in group)),
        readings=len(group),
        parts_s={name: median(reading.parts_s.get(name, 0.0) for reading in group) for name in names},
        total_s=median(totals),
        least_s=totals[0],
        most_s=totals[-1],
        kind="measured" if first.point.layers_timed is None else "estimated",
    )
