"""A prompt as the text that a checkpoint's own chat template makes of it."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

from transformers import PreTrainedTokenizerBase

from cuecard.models.prompt import Prompt, Turn

_THINK_CUE = re.compile(r"<think>\s*(?:</think>\s*)?$")
_CUT = "\ue000cut\ue000"


def messages(turns: tuple[Turn, ...], parts: bool) -> list[dict[str, Any]]:
    """Turns in the form that chat templates take: images first, then the text; or text alone, as language models do."""
    if not parts:
        return [{"role": turn.role, "content": turn.text} for turn in turns]
    return [
        {"role": turn.role, "content": [*({"type": "image"} for _ in turn.images), {"type": "text", "text": turn.text}]}
        for turn in turns
    ]


def render(tokenizer: PreTrainedTokenizerBase, prompt: Prompt, parts: bool = True) -> str:
    """The prompt's text up to the point where the model goes on, one placeholder an image.

    What a template itself puts behind the assistant's cue (an open or empty think block) gives way to the prompt's own
    opening. Of a prompt whose card is still being written, the text ends with the card.
    """
    ends_in_turns = prompt.unfinished and prompt.opening == prompt.style.none
    *before, last = prompt.turns
    turns = (*before, replace(last, text=last.text + _CUT)) if ends_in_turns else prompt.turns
    text = tokenizer.apply_chat_template(messages(turns, parts), tokenize=False, add_generation_prompt=True)
    return text.partition(_CUT)[0] if ends_in_turns else _THINK_CUE.sub("", text) + prompt.opening
