"""What the wires that are translated to chat completions share: their parameters, and named server-sent events."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Collection, Mapping
from dataclasses import replace

from cuecard.domain.errors import BadInput
from cuecard.gateway.wire import chat
from cuecard.gateway.wire.chat import Fetch, ParsedRequest
from cuecard.gateway.wire.usage import Json


def split(body: object, own: Collection[str], example: str) -> tuple[Json, Json]:
    """A request's `own` parameters, and the others, which chat completions read alike or refuse. Raises BadInput."""
    if not isinstance(body, dict):
        raise BadInput("the body is not a JSON object", f"send {example}")
    given = {key: value for key, value in body.items() if value is not None}
    return {key: given[key] for key in own if key in given}, {key: given[key] for key in given if key not in own}


def parse(translated: Json, fetch: Fetch, prefix: str, names: Mapping[str, str] | None = None) -> ParsedRequest:
    """The request that chat completions make of these parameters; its id begins with `prefix`.

    Raises BadInput. `names`: the wire's own names of parameters, by their names in chat completions.
    """
    try:
        parsed = chat.parse({key: value for key, value in translated.items() if value is not None}, fetch)
    except BadInput as error:
        if error.param is not None and names is not None:
            error.param = names.get(re.split(r"[.\[]", error.param)[0], error.param)
        raise
    return replace(parsed, id=f"{prefix}_{uuid.uuid4().hex}")


def event(kind: str, data: Json) -> bytes:
    """One named server-sent event, whose data begin with its type."""
    text = json.dumps({"type": kind, **data}, ensure_ascii=False, separators=(",", ":"))
    return f"event: {kind}\ndata: {text}\n\n".encode()
