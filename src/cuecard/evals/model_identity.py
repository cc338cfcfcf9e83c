"""The identity of a model: part of its calls' cache keys, so that calls of other weights are not taken for its own."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from cuecard.evals.storage.requests import Seat
from cuecard.models import spec
from cuecard.models.base import Model
from cuecard.models.scope import FILE as SCOPE

_ENDS = 2**20
LOCAL = (spec.Embedded, spec.Checkpoint, spec.GgufFile)


def is_local(given: str | Mapping[str, Any]) -> bool:
    """Whether it runs in this process, where one call at a time is measured undisturbed. Raises BadInput."""
    return isinstance(spec.parse(_named(given)), LOCAL)


def seat(role: str, given: str | Mapping[str, Any], model: Model) -> Seat:
    """The model as its calls are stored. Raises BadInput."""
    return Seat(role, model.name, revision(given), model.abilities)


def revision(given: str | Mapping[str, Any]) -> str:
    """The identity of a model's weights or settings, 16 hex digits; of a server, only its settings."""
    settings = dict(given) if isinstance(given, Mapping) else {"model": given}
    settings.pop("api_key", None)
    match spec.parse(_named(given)):
        case spec.Embedded() as embedded:
            settings["model"] = _files(embedded.folder)
        case spec.Checkpoint(source) if Path(source).is_dir():
            settings["model"] = _files(Path(source))
        case spec.GgufFile(path):
            settings["model"] = _files(path.parent, [path])
        case spec.Recording(path):
            settings["model"] = hashlib.sha256(path.read_bytes()).hexdigest()
        case spec.Served(_, name):  # the same model may be served from another address tomorrow
            settings["model"] = name
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


def configuration(seats: Mapping[str, Seat]) -> dict[str, Any]:
    """What decides a call besides the prompt, by role, as plain data."""
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
    """Each file's path and size, and its content: of large ones the two ends, which tell weights apart.

    What a model says of its scope changes none of its answers.
    """
    digest, paths = hashlib.sha256(), folder.rglob("*") if some is None else some
    for path in sorted(each for each in paths if each.is_file() and each.name != SCOPE):
        size = path.stat().st_size
        digest.update(f"{path.relative_to(folder)} {size}\n".encode())
        with path.open("rb") as file:
            digest.update(file.read(_ENDS))
            if size > _ENDS:
                file.seek(max(_ENDS, size - _ENDS))
                digest.update(file.read())
    return digest.hexdigest()
