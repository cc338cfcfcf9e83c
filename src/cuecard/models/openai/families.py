"""How thinking is switched on and off in each model family, as data: one row a family."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import urlsplit

from cuecard.domain.errors import BadInput
from cuecard.domain.suggestions import did_you_mean
from cuecard.models.prompt import EMBEDDED, PROSE, TAGS, Style

Switch = Mapping[str, Any]
"""What is added to a request's body."""

OPENAI_HOST = "api.openai.com"
OLLAMA_PORT = 11434


@dataclass(frozen=True)
class Family:
    """Models whose thinking is marked and switched in the same way."""

    name: str
    models: str
    """Regular expression over model names, any case."""
    style: Style
    on: Switch = field(default_factory=dict)
    off: Switch = field(default_factory=dict)
    opens: bool = False
    """The template opens the reasoning itself, so that without a parser in the server only its end is seen."""
    stops: bool = True
    """Thinking can be switched off."""


def _template(**kwargs: bool) -> Switch:
    return {"chat_template_kwargs": kwargs}


# The first row that matches is taken. Within Qwen3 a suffix decides: -Thinking always thinks, -Instruct never does.
FAMILIES: list[Family] = [
    Family(
        "always",
        r"qwen-?3.*thinking|qwq|qvq|deepseek-?r1|r1-distill|kimi.*thinking",
        TAGS,
        opens=True,
        stops=False,
    ),
    Family("gpt-oss", r"gpt-?oss", PROSE, {"reasoning_effort": "low"}, {"reasoning_effort": "low"}, stops=False),
    Family(
        "thinking",
        r"granite-?3\.[2-9]|deepseek-?v3\.[1-9]|holo2|kimi-?k2\.5",
        TAGS,
        _template(thinking=True),
        _template(thinking=False),
    ),
    Family(
        "plain",
        r"instruct|llava|llama|internvl|gemma-?[123]\b|phi-?[34]|pixtral|mistral|ministral|gpt-[34]|minicpm-?v|molmo"
        r"|moondream|smolvlm|qwen-?(?:1|2)",
        PROSE,
    ),
    Family(
        "enable_thinking",
        r"qwen-?3|glm-?4\.[5-9]|glm-?5|smollm3|nemotron|hunyuan|intern-?s1",
        TAGS,
        _template(enable_thinking=True),
        _template(enable_thinking=False),
    ),
    Family(
        "embedded",  # the pair that ships with Cuecard, behind a server: its prompts are those of its training
        r"^demo-(?:small|large)$",
        EMBEDDED,
        _template(enable_thinking=True),
        _template(enable_thinking=False),
    ),
    # OpenAI's own thinkers show no reasoning: what a reader is to get has to be written in the open, as prose.
    Family("hidden", r"^(?:o[1-9]\b|gpt-5)", PROSE, off={"reasoning_effort": "none"}),
    Family("effort", r"(?!)", TAGS, off={"reasoning_effort": "none"}),
]
# Nothing is known: thinking is switched off in both dialects, and reasoning, where it is wanted, asked for as prose.
_OFF = _template(enable_thinking=False, thinking=False)
UNKNOWN = Family("unknown", "", PROSE, _OFF, _OFF)


def register(family: Family) -> None:
    """Offer a family before all others; one of the same name is replaced."""
    FAMILIES[:] = [family, *(row for row in FAMILIES if row.name != family.name)]


def family_of(model: str, base_url: str) -> Family:
    """The family that a model's name and its server's address tell of."""
    url = urlsplit(base_url)
    family = next((row for row in FAMILIES if re.search(row.models, model, re.IGNORECASE)), UNKNOWN)
    if url.hostname == OPENAI_HOST:
        return family if family.name == "hidden" else named("plain")
    if url.port == OLLAMA_PORT and family.off:  # it leaves chat_template_kwargs unread; thinking is on by default
        return replace(family, on={}, off={"reasoning_effort": "none"})
    return family


def named(name: str) -> Family:
    """The family of this name; a name that is none is refused with the nearest one."""
    rows = {row.name: row for row in (*FAMILIES, UNKNOWN)}
    if name not in rows:
        near = did_you_mean(name, rows, "", form="{!r}")
        raise BadInput(f"no model family {name!r}{near and f'; {near}'}", hint=f"one of: auto, {', '.join(rows)}")
    return rows[name]
