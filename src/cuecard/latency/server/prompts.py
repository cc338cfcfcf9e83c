"""What is sent to a server: prompts of a size, fresh or the same again, with images that are drawn for them."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterable
from random import Random
from typing import Any

from PIL import Image as PilImage

_WORDS = """
time year people way day man thing woman life child world school state family student group country problem hand part
place case week company system program question work government number night point home water room mother area money
story fact month lot right study book eye job word business issue side kind head house service friend father power
hour game line end member law car city name team minute idea body back parent face level office door
"""
WORDS = tuple(_WORDS.split())
"""Common words, a token each to most tokenizers."""
AHEAD = 8
"""So many words stand before the image: where they are drawn anew, nothing behind them is cached."""
_CELLS = 16


def body(
    model: str, image_px: int | None, words: int, output_tokens: int, chance: Random, *, ignore_eos: bool
) -> dict[str, Any]:
    """A streamed request: words, a square image of so many pixels a side, and the rest of the words."""
    drawn = chance.choices(WORDS, k=words)
    content: list[dict[str, Any]] = [{"type": "text", "text": " ".join(drawn[:AHEAD])}]
    if image_px is not None:
        content.append({"type": "image_url", "image_url": {"url": picture(image_px, chance)}})
    if drawn[AHEAD:]:
        content.append({"type": "text", "text": " ".join(drawn[AHEAD:])})
    text_only = image_px is None  # not every server takes parts
    message = {"role": "user", "content": " ".join(drawn) if text_only else content}
    asked = {
        "model": model,
        "messages": [message],
        "stream": True,
        "stream_options": {"include_usage": True, "continuous_usage_stats": True},
        "max_tokens": output_tokens,
        "temperature": 0.0,
    }
    return {**asked, "ignore_eos": True, "min_tokens": output_tokens} if ignore_eos else asked


def without(asked: dict[str, Any], refused: Iterable[str]) -> dict[str, Any]:
    """The request less what the server refuses; `max_tokens` is then sent by its newer name."""
    left = {key: value for key, value in asked.items() if key not in refused}
    if "continuous_usage_stats" in refused and "stream_options" in left:
        left["stream_options"] = {"include_usage": True}
    if "max_tokens" in refused:
        left["max_completion_tokens"] = asked["max_tokens"]
    return left


def encoded(asked: dict[str, Any]) -> bytes:
    """As it goes over the wire, made before the clock runs."""
    return json.dumps(asked).encode()


def picture(side: int, chance: Random) -> str:
    """A data URL: coloured cells, another picture each time, few bytes at any size."""
    cells = PilImage.frombytes("RGB", (_CELLS, _CELLS), chance.randbytes(3 * _CELLS * _CELLS))
    file = io.BytesIO()
    cells.resize((side, side), PilImage.Resampling.NEAREST).save(file, "PNG", compress_level=1)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
