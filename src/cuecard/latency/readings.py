"""A profile's readings: `profile.json` holds its configuration and machine, `readings.jsonl` a reading a line.

Readings are appended and never changed; fits and figures are derived from them. One writer at a time.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

from cuecard import disk
from cuecard.disk import CannotStore
from cuecard.domain.errors import BadInput

VERSION = 1
ABOUT, LINES = "profile.json", "readings.jsonl"
IN_PROCESS_PARTS = ("preprocess", "vision", "projector", "prefill", "decode", "detokenise", "gap")
SERVER_PARTS = ("queue", "ttft", "decode", "tail")
"""Waiting at the client for a slot or its hour; to the first token; to the last one; to the stream's end."""

_SLACK = 1e-6  # seconds by which rounding may let the parts exceed the total


@dataclass(frozen=True)
class Point:
    """One combination of factors. None: not chosen, not observed, or the factor does not exist there.

    Tokens and sizes are of one request, not of the batch. `prompt_tokens` counts the whole prompt, visual tokens and
    cached ones among them; `context_tokens` is what lies in the cache when decoding begins.
    """

    batch: int | None = None
    image_px: int | None = None
    """Side of a square image; None where there is no image."""
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
    """Requests a second, of an open loop."""
    ignore_eos: bool | None = None


@dataclass(frozen=True)
class Reading:
    """One request (or batch) that was timed. Times are seconds of a monotonic clock; parts do not exceed the total."""

    model: str
    source: Literal["in-process", "server"]
    round: int
    position: int
    """Place in the order in which the points were measured, counted through the whole run."""
    warmup: bool
    point: Point
    """As requested: the key by which a run is resumed."""
    parts_s: Mapping[str, float]
    total_s: float
    observed: Mapping[str, int] = field(default_factory=dict)
    """What was counted of the point's fields: prompt_tokens, cached_tokens, output_tokens, …"""
    token_times_s: tuple[float, ...] | None = None
    """When output tokens came, from the request's start on. Of a server see `events`."""
    sent_s: float | None = None
    """Of a server: when the request was sent, from the start of its round's load on. Below, seconds from then on."""
    head_s: float | None = None
    """When the head of the answer came."""
    events: tuple[tuple[float, str, int | None], ...] | None = None
    """Every event of the stream: its time, what it brought (`server.events`), and how many tokens, where reported."""
    first_answer_s: float | None = None
    """When the first token of the answer came, after the reasoning."""
    error: str | None = None
    """Why the request failed; its times then are those until it failed."""

    def __post_init__(self) -> None:
        if sum(self.parts_s.values()) > self.total_s + _SLACK or min(self.parts_s.values(), default=0.0) < 0:
            raise ValueError(f"parts {dict(self.parts_s)} are negative or exceed the total, {self.total_s} s")

    @property
    def seen(self) -> Point:
        """The point as measured: observed values take precedence over requested ones."""
        return replace(self.point, **self.observed)  # type: ignore[arg-type]

    @property
    def latency_s(self) -> float:
        """The total without the wait at this client."""
        return self.total_s - self.parts_s.get("queue", 0.0)


@dataclass(frozen=True)
class ProfileConfig:
    """The configuration of a profile. `config` decides every reading: a profile is resumed only under the same one.

    `config` holds `source`, `models` (by name) and `grid`; `facts` the device, its probe, versions, date, command line.
    """

    config: Mapping[str, Any]
    facts: Mapping[str, Any] = field(default_factory=dict)


class Readings:
    """A profile opened for writing by this process alone. Raises BadInput (held, another profile), CannotStore."""

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
            self._mend()
            self._count = Counter(map(_key, read(path)))
            self._file = (path / LINES).open("a", encoding="utf-8")
        except OSError as error:
            self._lock.close()
            raise CannotStore(f"cannot write into {path}: {error.strerror}") from error
        except BaseException:
            self._lock.close()
            raise

    def _mend(self) -> None:
        """Drop a last line that a kill has cut off."""
        lines = self.path / LINES
        if lines.exists() and (torn := _torn(lines)):
            os.truncate(lines, lines.stat().st_size - torn)
            self.notes.append(f"the last reading was cut off ({torn} bytes): dropped, to be made again")

    def append(self, reading: Reading) -> None:
        """Write one reading; it survives a kill from then on. Raises CannotStore."""
        line = json.dumps(_plain(reading), ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        try:
            self._file.write(line + "\n")
            self._file.flush()
        except OSError as error:
            raise CannotStore(f"cannot write into {self.path}: {error.strerror}") from error
        self._count[_key(reading)] += 1

    def done(self, model: str, point: Point, round: int, of: int = 1) -> bool:
        """Whether this round has its readings of the point as asked, `of` in number; warm-up does not count."""
        return self._count[(model, point, round, False)] >= of

    def count(self) -> int:
        """Readings so far, warm-up included: the next one's position."""
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
    """Whether a directory holds a profile."""
    return (path / ABOUT).is_file()


def about(path: Path) -> dict[str, Any]:
    """What `profile.json` says. Raises BadInput."""
    try:
        data = json.loads((path / ABOUT).read_text(encoding="utf-8"))
        version, _ = data["version"], data["config"]
    except FileNotFoundError:
        raise BadInput(f"{path} is not the directory of a profile", f"it has no {ABOUT}") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{path / ABOUT} cannot be read: {error}", "start in another directory") from error
    if version != VERSION:
        raise BadInput(f"{path} is a profile of version {version}, this cuecard reads {VERSION}", "use the other one")
    found: dict[str, Any] = data
    return found


def read(path: Path) -> Iterator[Reading]:
    """The readings in their order, warm-up included; a last line that is cut off is left out. Raises BadInput."""
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
    """The readings of each point of each model, in the order in which they were measured first."""
    groups: dict[tuple[str, Point], list[Reading]] = {}
    for reading in made:
        groups.setdefault((reading.model, reading.point), []).append(reading)
    return list(groups.values())


def _torn(lines: Path) -> int:
    """Bytes after the last end of a line."""
    data = lines.read_bytes()
    return len(data) - (data.rfind(b"\n") + 1)


def _key(reading: Reading) -> tuple[str, Point, int, bool]:
    return reading.model, reading.point, reading.round, reading.warmup


def _plain(reading: Reading) -> dict[str, Any]:
    """A reading as plain data; what is None is left out."""
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
