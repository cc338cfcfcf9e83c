"""What a reply says once its thinking is over. Thinking that was never closed was cut off: then it says nothing."""

from __future__ import annotations

import re

# Tags of Qwen, DeepSeek, GLM and their kin; Mistral's; Kimi's; the channels of gpt-oss.
_NAMES = "think|thinking|thought|thoughts|reasoning|reflection"
_MARK = re.compile(
    rf"(?P<opens><\s?(?:{_NAMES})\s?>|\[THINK\]|◁think▷|<\|channel\|>analysis<\|message\|>)"
    rf"|</\s?(?:{_NAMES})\s?>|\[/THINK\]|◁/think▷|<\|channel\|>final<\|message\|>",
    re.IGNORECASE,
)
_LEFTOVER = re.compile(r"<\|[a-z_]{1,30}\|>|</s>|<(?:eos|end_of_turn)>", re.IGNORECASE)


def visible(text: str) -> str | None:
    """The text without its closed thinking; None if some thinking is still open at the end.

    Some chat templates write the opening tag into the prompt, so that only the closing one arrives: what stands before
    it is thinking too.
    """
    shown: list[str] = []
    at, thinking = 0, False
    for mark in _MARK.finditer(text):
        closes = mark["opens"] is None
        if closes and not thinking:
            shown.clear()
        elif not thinking:
            shown.append(text[at : mark.start()])
        at, thinking = mark.end(), not closes
    return None if thinking else _LEFTOVER.sub("", "".join([*shown, text[at:]])).strip()
