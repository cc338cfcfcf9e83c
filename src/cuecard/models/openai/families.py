"""Model families and their servers: how thinking is switched, and brief answers are constrained, as data; and settings.

    llama.cpp   grammar              GBNF
    vLLM        structured_outputs   a regular expression
    SGLang      regex                a regular expression
    OpenAI      response_format      a JSON Schema: {"answer": …}

A constraint bounds the length and the form of a brief answer, but allows every value: every letter of the question's
options, both yes and no, every number with its sign, separators, currency and unit.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any
from urllib.parse import urlsplit

from cuecard.answers.kinds import KINDS
from cuecard.domain.errors import BadInput, did_you_mean
from cuecard.domain.question import Question
from cuecard.models.prompt import EMBEDDED, PROSE, TAGS, CardFormat, Style

Switch = Mapping[str, Any]
"""Fields that are added to a request's body."""

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
    """The chat template opens the reasoning, so that without a parser in the server only the closing tag is sent."""
    stops: bool = True
    """Thinking can be switched off."""


def _template(*switches: str, on: bool) -> Switch:
    return {"chat_template_kwargs": dict.fromkeys(switches, on)}


def _switched(name: str, models: str, style: Style, switch: str) -> Family:
    """A family whose chat template has a switch for thinking."""
    return Family(name, models, style, _template(switch, on=True), _template(switch, on=False))


# The first row that matches is taken. Within Qwen3 a suffix decides: -Thinking always thinks, -Instruct never does.
FAMILIES: list[Family] = [
    Family(
        "always", r"qwen-?3.*thinking|qwq|qvq|deepseek-?r1|r1-distill|kimi.*thinking", TAGS, opens=True, stops=False
    ),
    Family("gpt-oss", r"gpt-?oss", PROSE, {"reasoning_effort": "low"}, {"reasoning_effort": "low"}, stops=False),
    _switched("thinking", r"granite-?3\.[2-9]|deepseek-?v3\.[1-9]|holo2|kimi-?k2\.5", TAGS, "thinking"),
    Family(
        "plain",
        r"instruct|llava|llama|internvl|gemma-?[123]\b|phi-?[34]|pixtral|mistral|ministral|gpt-[34]|minicpm-?v|molmo"
        r"|moondream|smolvlm|qwen-?(?:1|2)",
        PROSE,
    ),
    _switched(
        "enable_thinking", r"qwen-?3|glm-?4\.[5-9]|glm-?5|smollm3|nemotron|hunyuan|intern-?s1", TAGS, "enable_thinking"
    ),
    # the pair that ships with Cuecard, behind a server, with the prompts of its training
    _switched("embedded", r"^demo-(?:small|large)$", EMBEDDED, "enable_thinking"),
    # OpenAI's reasoning models hide their reasoning: a card for a reader has to be written as prose in the answer.
    Family("hidden", r"^(?:o[1-9]\b|gpt-5)", PROSE, off={"reasoning_effort": "none"}),
    Family("effort", r"(?!)", TAGS, off={"reasoning_effort": "none"}),
]
# Unknown models: thinking is switched off in both dialects, and reasoning, if wanted, is requested as prose.
_OFF = _template("enable_thinking", "thinking", on=False)
UNKNOWN = Family("unknown", "", PROSE, _OFF, _OFF)


def register(family: Family) -> None:
    """Add a family before all others; it replaces one of the same name."""
    FAMILIES[:] = [family, *(row for row in FAMILIES if row.name != family.name)]


def family_of(model: str, base_url: str) -> Family:
    """The family of a model, from its name and its server's address."""
    url = urlsplit(base_url)
    family = next((row for row in FAMILIES if re.search(row.models, model, re.IGNORECASE)), UNKNOWN)
    if url.hostname == OPENAI_HOST:
        return family if family.name == "hidden" else named("plain")
    if url.port == OLLAMA_PORT and family.off:  # Ollama ignores chat_template_kwargs; thinking is on by default
        return replace(family, on={}, off={"reasoning_effort": "none"})
    return family


def named(name: str) -> Family:
    """The family of this name. Raises BadInput with the nearest name."""
    rows = {row.name: row for row in (*FAMILIES, UNKNOWN)}
    if name not in rows:
        near = did_you_mean(name, rows, "", form="{!r}")
        raise BadInput(f"no model family {name!r}{near and f'; {near}'}", hint=f"one of: auto, {', '.join(rows)}")
    return rows[name]


# --- constrained decoding ---------------------------------------------------------------------------------------------

FIELD = "answer"


class Dialect(StrEnum):
    """The body field that requests constrained decoding."""

    GRAMMAR = "grammar"
    STRUCTURED_OUTPUTS = "structured_outputs"
    REGEX = "regex"
    JSON_SCHEMA = "json_schema"


def constraint_fields(question: Question, dialect: Dialect) -> Mapping[str, Any]:
    """The body fields that constrain an answer to the grammar of its kind; empty if the kind has none."""
    rules = KINDS[question.kind]
    if rules.grammar is None:
        return {}
    grammar = rules.grammar(question)
    match dialect:
        case Dialect.GRAMMAR:
            return {"grammar": grammar.gbnf}
        case Dialect.STRUCTURED_OUTPUTS:
            return {"structured_outputs": {"regex": grammar.regex}}
        case Dialect.REGEX:
            return {"regex": grammar.regex}
        case Dialect.JSON_SCHEMA:
            schema = {
                "type": "object",
                "properties": {FIELD: grammar.schema},
                "required": [FIELD],
                "additionalProperties": False,
            }
            return {"response_format": {"type": "json_schema", "json_schema": {"name": FIELD, "schema": schema}}}


def unwrapped(text: str) -> str:
    """The answer in a reply under `json_schema`; the reply unchanged if it is no such object."""
    try:
        found = json.loads(text)[FIELD]
    except (ValueError, TypeError, KeyError):
        return text
    return found if isinstance(found, str) else json.dumps(found)


# --- settings ---------------------------------------------------------------------------------------------------------

TAGS_HINT = 'write the tag that opens reasoning and the one that closes it: reasoning_tags = ["<my>", "</my>"]'


@dataclass(frozen=True)
class ServerSettings:
    """Settings of a model and its server; None: unknown, and not used. Raises BadInput."""

    name: str | None = None
    """The model's name in Cuecard; None: its name on the server."""
    api_key: str | None = field(default=None, repr=False)
    family: str | Family | None = None
    """A row of `FAMILIES`, or its name; None or "auto": by the model's name and the server's address."""
    timeout_s: float | None = 120.0
    """Maximum seconds without a byte from the server; `Limits.timeout_s` bounds a whole call."""
    extra_body: Mapping[str, Any] | None = field(default=None, repr=False)
    prefill: bool | None = None
    """The server continues a final assistant message (`continue_final_message`), and its template keeps the text of
    that message, which only the rendered prompt can show."""
    prefix_cache: bool | None = None
    """The server has prefix caching, so that `warm` pays."""
    scoring: bool = False
    """The server returns `prompt_logprobs` (vLLM)."""
    images: bool | None = None
    logprobs: bool | None = None
    reasoning_tags: tuple[str, str] | None = None
    """The tags that open and close its reasoning, in addition to the known ones."""
    constraint: str | None = None
    """How the server decodes under a grammar: a value of `families.Dialect`."""
    cards: Sequence[str] | None = None
    """The card formats that the model reads well, best first."""

    def __post_init__(self) -> None:
        if self.constraint is not None and self.constraint not in tuple(Dialect):
            raise BadInput(f"unknown constraint {self.constraint!r}", f"there are: {', '.join(Dialect)}")
        if any(card not in tuple(CardFormat) for card in self.cards or ()):
            raise BadInput(f"unknown card formats {list(self.cards or ())!r}", f"there are: {', '.join(CardFormat)}")
        if self.reasoning_tags is not None:
            object.__setattr__(self, "reasoning_tags", tag_pair(self.reasoning_tags))

    @property
    def dialect(self) -> Dialect | None:
        return None if self.constraint is None else Dialect(self.constraint)

    @property
    def card_formats(self) -> tuple[CardFormat, ...]:
        """The usable card formats, best first; `thinking` needs prefill."""
        formats = tuple(CardFormat(name) for name in self.cards or CardFormat)
        return tuple(form for form in formats if self.prefill or form is not CardFormat.THINKING) or (CardFormat.NOTES,)

    def family_of(self, model: str, base_url: str) -> Family:
        """The model's family. Raises BadInput for an unknown name."""
        if self.family is None or self.family == "auto":
            return family_of(model, base_url)
        return named(self.family) if isinstance(self.family, str) else self.family


def tag_pair(tags: Sequence[str]) -> tuple[str, str]:
    """The two tags of a setting `reasoning_tags`. Raises BadInput."""
    pair = tuple(tag.strip() for tag in tags if isinstance(tag, str))
    if len(pair) != 2 or len(tags) != 2 or not all(pair) or pair[0] == pair[1]:
        raise BadInput(f"reasoning_tags are not two tags: {list(tags)!r}"[:200], TAGS_HINT)
    return pair[0], pair[1]
