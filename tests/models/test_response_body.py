"""Fields in which servers send reasoning and content."""

import pytest

from cuecard.models.openai.response_body import chunk

TEXT_PART = {"type": "text", "text": "6"}


@pytest.mark.parametrize(
    ("delta", "reasoning", "content"),
    [
        ({"reasoning": "hm"}, "hm", ""),
        ({"reasoning_content": "hm", "content": None}, "hm", ""),
        ({"reasoning": "hm", "reasoning_details": [{"type": "reasoning.text", "text": "hm"}]}, "hm", ""),
        ({"reasoning_details": [{"type": "reasoning.text", "text": "h"}, {"summary": "m"}, {"data": "x"}]}, "hm", ""),
        ({"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}, TEXT_PART]}, "hm", "6"),
        ({"content": [{"type": "thinking", "thinking": "hm"}]}, "hm", ""),
        ({"content": [TEXT_PART, TEXT_PART]}, "", "66"),
        ({"content": [None, 3, {"thinking": 3}]}, "", ""),
    ],
)
def test_reasoning_and_content_are_found_in_any_dialect(delta: object, reasoning: str, content: str) -> None:
    found = chunk({"choices": [{"delta": delta}]})
    assert (found.reasoning, found.content) == (reasoning, content)
