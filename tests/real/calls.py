"""The calls that are recorded for each question: prompts, settings of the models, and the stored form."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cuecard.answers.kinds import KINDS
from cuecard.domain.question import AnswerKind, Question
from cuecard.models import prompt as layouts
from cuecard.models.base import Limits
from cuecard.models.openai import OpenAIModel
from cuecard.models.openai.families import Dialect, constraint_fields
from cuecard.models.prompt import CardFormat, Prompt, Style

HERE = Path(__file__).parent
QUESTIONS, REPLIES = HERE / "questions.jsonl", HERE / "replies.jsonl"
QWEN, SMOLLM = "qwen2.5-coder-1.5b-instruct", "smollm2-135m-instruct"
CARD_WRITER = QWEN
"""The model whose reasoning is the card in every `read` call."""
READS = tuple(f"read/{form}" for form in CardFormat)
CALLS = ("reason", *READS, "short", "short/grammar", "short/plain")
STRICT = "/strict"
"""The end of the name of a call that repeats a cut one with a strict prompt."""
LIMITS = Limits(reasoning_tokens=400, timeout_s=None)
LONG_LIMITS = Limits(reasoning_tokens=400, answer_tokens=256, timeout_s=None)


def settings(call: str) -> Mapping[str, Any]:
    """Settings of the client: `prefill`, because llama.cpp continues an assistant's turn; none for a `plain` call."""
    if "plain" in call:
        return {}
    return {"prefill": True, **({"constraint": "grammar"} if "grammar" in call else {})}


def client(url: str, model: str, call: str) -> OpenAIModel:
    return OpenAIModel(url, model, **settings(call))


def applies(call: str, question: Question) -> bool:
    """Whether a call is recorded for a question: not if it would equal another call."""
    if "grammar" in call:
        return KINDS[question.kind].grammar is not None
    return KINDS[question.kind].brief or "plain" not in call


def limits(question: Question) -> Limits:
    return LIMITS if KINDS[question.kind].brief else LONG_LIMITS


def prompt(call: str, question: Question, card: str, style: Style) -> Prompt:
    """The prompt of a call. `card`: the reasoning that a `read` call is given."""
    mode, *how = call.split("/")
    strict = "strict" in how
    match mode:
        case "short":
            return layouts.short(question, style, strict=strict)
        case "reason":
            return layouts.reason(question, style)
        case _:
            return layouts.read(question, card, CardFormat(how[0]), style, strict=strict)


def digest(call: str, question: Question, model: str) -> str:
    """A digest of what determines a reply: the prompt, the grammar, and for `read` the prompt that wrote the card."""
    server = client("http://127.0.0.1:1/v1", model, call)
    made = prompt(call, question, "CARD", server.abilities.style)
    text = [[turn.role, turn.text] for turn in made.turns], made.opening, made.schema
    grammar = constraint_fields(question, Dialect.GRAMMAR) if made.constrained else None
    card = digest("reason", question, CARD_WRITER) if call.startswith("read") else None
    return hashlib.sha256(json.dumps([text, grammar, card]).encode()).hexdigest()[:12]


# --- what is stored ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Raw:
    """One reply as the server sent it."""

    content: str
    reasoning: str
    finish_reason: str | None
    """None: the client closed the connection because the reasoning budget was spent."""
    prompt_tokens: int | None
    completion_tokens: int | None


@dataclass(frozen=True)
class Row:
    """One call of one model: its requests, and the answer that a person reads in the last reply."""

    question: str
    model: str
    call: str
    prompt: str
    """The `digest` at the time of the recording."""
    requests: tuple[Raw, ...]
    judged: Any
    """The answer that the last reply gives, right or not: an option's letter, yes or no, a number, words, a JSON value;
    for free text whether it answers at all. None: it gives none, or several, or is cut."""

    @property
    def key(self) -> tuple[str, str, str]:
        return self.question, self.model, self.call

    @property
    def completion_tokens(self) -> int | None:
        counts = [each.completion_tokens for each in self.requests]
        return None if None in counts else sum(counts)


UNJUDGED = "?"
"""The judgement of a reply that no person has read yet."""


def load_questions() -> dict[str, tuple[Question, Any]]:
    """The questions and their right answers (None for free text), by name."""
    found = {}
    for line in QUESTIONS.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        schema = json.dumps(row["schema"]) if "schema" in row else None
        kind = AnswerKind(row["kind"])
        asked = Question(row["question"], options=tuple(row.get("options", ())), kind=kind, schema=schema)
        found[row["id"]] = asked, row.get("answer")
    return found


def load_rows() -> list[Row]:
    if not REPLIES.exists():
        return []
    stored = map(json.loads, REPLIES.read_text(encoding="utf-8").splitlines())
    return [Row(**{**row, "requests": tuple(Raw(**raw) for raw in row["requests"])}) for row in stored]


def save_rows(rows: Iterable[Row]) -> None:
    """Store rows, sorted by question, model and call."""
    questions = list(load_questions())
    ordered = sorted(rows, key=lambda row: (questions.index(row.question), row.model, row.call))
    text = "".join(json.dumps(asdict(row), ensure_ascii=False) + "\n" for row in ordered)
    REPLIES.write_text(text, encoding="utf-8")
