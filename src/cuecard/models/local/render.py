"""A prompt as the text that a checkpoint's own chat template makes of it."""

from __future__ import annotations

import re
from typing import Any

from transformers import PreTrainedTokenizerBase

from cuecard.models.prompt import Prompt, Turn, neutral

_THINK_CUE = re.compile(r"<think>\s*(?:</think>\s*)?$")


def messages(turns: tuple[Turn, ...]) -> list[dict[str, Any]]:
    """Turns in the form that chat templates take: images first, then the text."""
    return [
        {"role": turn.role, "content": [*({"type": "image"} for _ in turn.images), {"type": "text", "text": turn.text}]}
        for turn in turns
    ]


def render(renderer: PreTrainedTokenizerBase, prompt: Prompt) -> str:
    """The prompt's text up to the point where the model goes on, one placeholder an image.

    What a template itself puts behind the assistant's cue (an open or empty think block) gives way to the prompt's own
    opening.
    """
    text = renderer.apply_chat_template(messages(prompt.turns), tokenize=False, add_generation_prompt=True)
    text = _THINK_CUE.sub("", text) + prompt.opening
    if prompt.unfinished and prompt.card is not None:
        card = neutral(prompt.card).strip()
        text = text[: text.rfind(card) + len(card)]
    return text
