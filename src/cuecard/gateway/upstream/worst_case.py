"""The most tokens that a call can use: its estimated prompt, and every token that its limits allow.

A prompt is estimated at one token for every three bytes of its texts (in UTF-8), 16 for each message, and one for every
28 by 28 pixels of an image, 256 at least. If a server counts more than that in a call of the request, later estimates
are scaled up accordingly.
"""

from __future__ import annotations

import math

from cuecard.domain.call import Mode, Usage
from cuecard.domain.question import Image
from cuecard.gateway.wire.usage import TOKENS_PER_IMAGE
from cuecard.models.base import Limits
from cuecard.models.images import image_headers
from cuecard.models.prompt import Prompt

BYTES_PER_TOKEN, TOKENS_PER_MESSAGE, PIXELS_PER_TOKEN, MOST_PIXELS = 3, 16, 28 * 28, 2**24


def tokens_of_text(text: str) -> int:
    return math.ceil(len(text.encode(errors="replace")) / BYTES_PER_TOKEN)


def tokens_of_image(image: Image) -> int:
    header = image_headers.read(image.data)
    return max(TOKENS_PER_IMAGE, math.ceil((header.pixels if header else MOST_PIXELS) / PIXELS_PER_TOKEN))


class WorstCase:
    """Estimates the worst cases of one request's calls."""

    def __init__(self) -> None:
        self._longer: dict[str, float] = {}
        """Role -> the ratio of prompt tokens that its server has counted to the estimate, at least 1."""
        self._images: dict[str, int] = {}

    def prompt_tokens(self, role: str, prompt: Prompt, more: str = "") -> int:
        """The estimated tokens of a prompt, and of a text after it."""
        texts = sum(tokens_of_text(turn.text) for turn in prompt.turns) + tokens_of_text(prompt.opening)
        images = sum(self._of_image(image) for image in prompt.images)
        plain = texts + images + TOKENS_PER_MESSAGE * (len(prompt.turns) + 1)
        return math.ceil(plain * self._longer.get(role, 1.0)) + tokens_of_text(more)

    def tokens(self, prompt_tokens: int, prompt: Prompt, limits: Limits | None) -> tuple[int, int]:
        """The most tokens that a call reads and generates; `limits`: None if it decodes nothing.

        A cut reasoning is sent again, closed, for its answer.
        """
        if limits is None:
            return prompt_tokens, 1
        most = limits.of(prompt)
        if prompt.mode is Mode.REASON:
            return 2 * prompt_tokens + most.reasoning_tokens, 2 * most.answer_tokens + most.reasoning_tokens
        return prompt_tokens, most.answer_tokens

    def learn(self, role: str, estimated: int, usage: Usage) -> None:
        """Compare the estimate of a prompt with what its server has counted."""
        counted = usage.prompt_tokens
        if counted and estimated and usage.completion_tokens is not None:
            longer = self._longer.get(role, 1.0) * counted / estimated
            self._longer[role] = max(self._longer.get(role, 1.0), longer)

    def _of_image(self, image: Image) -> int:
        if image.digest not in self._images:
            self._images[image.digest] = tokens_of_image(image)
        return self._images[image.digest]
