"""Prompt layouts: all calls about one question share the longest possible prefix.

    [system][user: images, question, options]      shared by short, reason and read
    [card of another model][instruction][opening]   what the mode adds

A `Prompt`, the input of every engine, consists of turns and an *opening*, the beginning of the assistant's turn. Texts
of users and of other models are data: control tokens in them are broken before they enter a prompt.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from cuecard.answers import extract, shape_of
from cuecard.answers.kinds import KINDS
from cuecard.domain.call import Mode
from cuecard.domain.question import AnswerKind, Calling, Image, Message, Question, letter


class CardFormat(StrEnum):
    """How another model's reasoning is given to its reader."""

    THINKING = "thinking"
    NOTES = "notes"
    TURN = "turn"


@dataclass(frozen=True)
class Turn:
    """One message of the conversation. Layouts add no control tokens, and `neutral` breaks those in its text."""

    role: str
    text: str
    images: tuple[Image, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "text", neutral(self.text))


_CALLS = '{"tool_calls": [{"name": "…", "arguments": {…}}]}'
_WHAT: Mapping[Calling, str] = {
    Calling.AUTO: f'JSON only: {_CALLS} to call tools, or {{"answer": "…"}} to answer',
    Calling.REQUIRED: f"JSON only: {_CALLS} to call tools",
}
"""The form of a reply that may call tools."""
Form = AnswerKind | Calling
"""The form of answer, which instructions depend on: the kind of answer, or how tools are offered."""


@dataclass(frozen=True)
class Wording:
    """Instructions for a model, by form of answer, and the templates of the card formats."""

    short: Callable[[Form], str]
    """To answer at once."""
    reason: Callable[[Form], str]
    """To reason, then answer."""
    read: Callable[[Form], str]
    """To answer with a card in the prompt."""
    notes: str
    """The user turn of the format `notes`, with {question}, {card} and {instruction}."""
    follow_up: str
    """The user turn after the card in the format `turn`, with {instruction}."""


_FIRST: Mapping[Form, str] = {
    Calling.AUTO: "If a tool is needed first, call it, but make no call above twice; otherwise answer the user. ",
    Calling.REQUIRED: "Call the tool that is next: no call above is made twice. ",
}
_TO_SETTLE: Mapping[Calling, str] = {
    Calling.AUTO: "is the answer known already; if not, which tool is needed, and with which arguments",
    Calling.REQUIRED: "what is known already, which tool is next, and with which arguments",
}
"""What to reason about before a tool call."""


def _consists_of(form: Form) -> str:
    """The required form of a reply, in words; empty: any form."""
    return _WHAT[form] if isinstance(form, Calling) else KINDS[form].asks


def _is_brief(form: Form) -> bool:
    return isinstance(form, AnswerKind) and KINDS[form].brief


def _plain(form: Form) -> str:
    what = _consists_of(form)
    return f"{_FIRST.get(form, '')}Answer with {what}." if what else ""


def _brief(form: Form) -> str:
    return _plain(form) + (" Do not explain." if _is_brief(form) else "")


def _brief_or_whole(form: Form) -> str:
    return _brief(form) or _WHOLE


def _step_by_step(form: Form) -> str:
    what = _consists_of(form) or "the complete answer"
    if _is_brief(form):
        return f'Think step by step. Then write a last line that begins with "Answer:" and gives {what}.'
    think = "think step by step"
    if isinstance(form, Calling):
        think += f" in plain words, not in JSON: {_TO_SETTLE[form]}"
    return f'First {think}. Then write a line "Answer:" and, below it, {what}.'


_WHOLE = (
    "Use what is right in it, and answer the request as if there were no draft: in full, with all the text and code "
    "that it asks for. The request: {request}"
)
_GO_ON = "That is your reasoning as far as it goes. Go on where it stops, and do not repeat what stands there."
_GRADE = (
    "{question}\n\nA reasoning about this question, as far as it goes:\n{written}\n\nIts next step:\n{step}\n\n"
    "Is what this step says true, and does it follow from what stands before it? Do not judge its style or how useful "
    "it is. Answer with one digit, from 0 (certainly wrong) to 9 (certainly right)."
)
_LONGEST_REPEATED = 600
"""Maximum characters of a request that is repeated after the card."""

_LONGEST_REPAIRED = 8_000
"""Maximum characters of the previous answer in a repair prompt."""

GENERAL = Wording(
    short=_brief,
    reason=_brief,
    read=_brief_or_whole,
    notes=(
        "{question}\n\nAnother model has written this draft. It may be wrong, and the user has not seen it:\n"
        "{card}\n\nEnd of the draft. {instruction}"
    ),
    follow_up=(
        "That was a draft, which may be wrong and which the user has not seen. "
        "What is the final answer to the question? {instruction}"
    ),
)
STEPWISE = replace(GENERAL, reason=_step_by_step)
"""For models that reason only if the prompt asks for it."""
TRAINED = Wording(
    short=_plain,
    reason=_plain,
    read=_plain,
    notes="{question}\n{instruction}\n\nNotes of another model, which may be wrong:\n{card}",
    follow_up="What is the final answer? {instruction}",
)
"""The wording of the embedded pair's training."""
WORDINGS: Mapping[str, Wording] = {"general": GENERAL, "stepwise": STEPWISE, "trained": TRAINED}


@dataclass(frozen=True)
class Style:
    """How a model is prompted: texts that open and close its reasoning, `none` for empty reasoning, and the wording.

    `cue`: the beginning of the assistant's turn of a brief answer, for engines that continue it. `constrained`: brief
    answers are decoded under the grammar of their kind, by engines that support it.
    """

    opening: str
    closing: str
    none: str
    wording: str = "general"
    """A key of WORDINGS."""
    cue: str = ""
    constrained: bool = False

    @property
    def words(self) -> Wording:
        return WORDINGS[self.wording]

    @property
    def in_prose(self) -> bool:
        """Whether reasoning is plain prose, without tags."""
        return not self.opening


CUE = "The answer is"
TAGS = Style("<think>\n", "\n</think>\n\n", "<think>\n\n</think>\n\n")
PROSE = Style("", "\n\nAnswer:", "", "stepwise")
EMBEDDED = replace(TAGS, wording="trained")


def style_of(tokenizer: Any, *, trained: bool) -> Style:
    """The style of a checkpoint, from think tags in its chat template. `trained`: it is of the embedded pair."""
    if trained:
        return EMBEDDED
    # a vocabulary may have the tags of a related thinking model; the template has only those of this model
    return TAGS if "</think>" in str(tokenizer.chat_template) else replace(PROSE, cue=CUE)


@dataclass(frozen=True)
class Prompt:
    """Turns, the beginning of the assistant's turn, and the style, which separates reasoning from answer."""

    turns: tuple[Turn, ...]
    opening: str
    style: Style
    mode: Mode
    card: str | None = None
    unfinished: bool = False
    """The prompt (its last turn or its opening) ends inside a card that is still being written."""
    question: Question | None = None

    @property
    def images(self) -> tuple[Image, ...]:
        return tuple(image for turn in self.turns for image in turn.images)

    @property
    def schema(self) -> str | None:
        """The JSON Schema that the answer has to fit, for engines that can enforce it; None in REASON mode."""
        return None if self.question is None or self.mode is Mode.REASON else self.question.schema

    @property
    def is_brief(self) -> bool:
        """Whether the whole answer is a few tokens."""
        return self.question is None or KINDS[self.question.kind].brief

    def answered_by(self, text: str) -> bool:
        """Whether a text holds an answer of the question's kind."""
        return bool(text) if self.question is None else extract(text, shape_of(self.question)).parsed

    @property
    def constrained(self) -> bool:
        """Whether the answer is decoded under the grammar of the question's kind."""
        brief = self.question is not None and KINDS[self.question.kind].grammar is not None
        return brief and self.style.constrained and self.mode is not Mode.REASON

    def closed_after(self, reasoning: str) -> Prompt:
        """The prompt of the second stage: this prompt with its reasoning so far, closed, so that the answer follows."""
        return replace(
            self,
            opening=self.opening + neutral(reasoning).rstrip() + self.style.closing,
            mode=Mode.READ,
            card=reasoning,
        )


def short(question: Question, style: Style, *, strict: bool = False) -> Prompt:
    """The prompt to answer at once, with empty reasoning. `strict`: the system prompt forbids all but the answer."""
    asked = replace(question, system=_strict(question)) if strict else question
    opening = style.none + _cue(question, style)
    return Prompt(_turns(asked, style.words.short), opening, style, Mode.SHORT, question=question)


def reason(question: Question, style: Style) -> Prompt:
    """The prompt to reason, then answer."""
    return Prompt(_turns(question, style.words.reason), style.opening, style, Mode.REASON, question=question)


def resume(question: Question, written: str, style: Style, *, continues: bool) -> Prompt:
    """The prompt to resume an unfinished reasoning. `continues`: the engine can continue the assistant's turn."""
    whole = reason(question, style)
    if continues:
        return replace(whole, opening=style.opening + neutral(written).rstrip(), card=written)
    return replace(whole, turns=(*whole.turns, Turn("assistant", written.strip()), Turn("user", _GO_ON)), card=written)


def grade(question: Question, written: str, step: str, style: Style) -> Prompt:
    """The prompt to grade the next step of a reasoning by a digit; after SpecReason (arXiv 2504.07891), section 4.1."""
    *before, user = _turns(question, None)
    text = _GRADE.format(question=user.text, written=written.strip() or "(nothing yet)", step=step.strip())
    graded = replace(question, options=(), kind=AnswerKind.NUMBER, schema=None, calling=None)
    opening = style.none + _cue(graded, style)
    return Prompt((*before, replace(user, text=text)), opening, style, Mode.GRADE, step, question=graded)


def read(question: Question, card: str, form: CardFormat, style: Style, *, strict: bool = False) -> Prompt:
    """The prompt to answer at once with another model's reasoning as a card.

    The instruction comes after the card in `turn`, and in `notes` unless the wording is that of the training.
    """
    words, card_text = style.words, card.strip()
    asked = replace(question, system=_strict(question)) if strict else question
    instruction, opening = _instruction(question, words.read), style.none + _cue(question, style)
    match form:
        case CardFormat.THINKING:
            turns = _turns(asked, words.reason)
            opening = style.opening + neutral(card_text) + style.closing
        case CardFormat.NOTES:
            *before, user = _turns(asked, None)
            text = _with_instruction(words.notes, instruction).format(question=user.text, card=card_text)
            turns = (*before, replace(user, text=text))
        case CardFormat.TURN:
            follow_up = _with_instruction(words.follow_up, instruction).format()
            turns = (*_turns(asked, words.reason), Turn("assistant", card_text), Turn("user", follow_up))
    return Prompt(turns, opening, style, Mode.READ, card, question=question)


def probe(question: Question, card: str, form: CardFormat, style: Style) -> Prompt:
    """As `read`, for a card that is still being written."""
    return replace(read(question, card, form, style), mode=Mode.PROBE)


def repair(question: Question, answer: str, why: str, style: Style) -> Prompt:
    """The prompt to answer again, with the previous answer and the reason why it cannot be used."""
    given = answer.strip()[:_LONGEST_REPAIRED] or "(nothing)"
    instruction = _instruction(question, style.words.short)
    asked = f"That answer cannot be used: {why}. Write the whole answer again. {instruction}"
    turns = (*_turns(question, style.words.short), Turn("assistant", given), Turn("user", asked))
    return Prompt(turns, style.none, style, Mode.REPAIR, question=question)


def growing(question: Question, card: str, form: CardFormat, style: Style) -> Prompt:
    """The beginning of `read` up to the end of an unfinished card, for engines that prefill it ahead."""
    settled = _settled(card)
    whole, card_text = read(question, settled, form, style), settled.strip()
    if form is CardFormat.THINKING:
        return replace(whole, opening=style.opening + neutral(card_text), unfinished=True)
    *before, last = whole.turns[: -1 if form is CardFormat.TURN else None]
    if form is CardFormat.NOTES:
        notes = _with_instruction(style.words.notes, _instruction(question, style.words.read))
        ahead, _, _ = notes.partition("{card}")
        last = replace(last, text=ahead.format(question=_turns(question, None)[-1].text) + card_text)
    return replace(whole, turns=(*before, last), opening=style.none, unfinished=True)


def suited(question: Question, formats: Sequence[CardFormat], style: Style) -> CardFormat:
    """The first of a model's card formats that suits a question.

    THINKING does not suit a long answer in prose style, because a model that continues after "Answer:" ends within a
    word or two. Nor does it suit JSON under a schema, which servers match from the beginning of the assistant's turn.
    """
    apart = question.schema is not None or (style.in_prose and not KINDS[question.kind].brief)
    return next((form for form in formats if not (apart and form is CardFormat.THINKING)), formats[0])


def _turns(question: Question, instructions: Callable[[Form], str] | None) -> tuple[Turn, ...]:
    """System, conversation and user turns: the part that all modes share first, the mode's instruction last."""
    lines = [question.text.strip()]
    lines += [f"{letter(index)}. {option}" for index, option in enumerate(question.options)]
    instruction = "" if instructions is None else _instruction(question, instructions)
    text = "\n".join([*lines, instruction] if instruction else lines)
    system = (Turn("system", question.system),) if question.system else ()
    before = (Turn(message.role, message.text, message.images) for message in question.history)
    return (*system, *before, Turn("user", text, question.images))


def _instruction(question: Question, instructions: Callable[[Form], str]) -> str:
    if question.calling is not None:  # the system text describes the form of a call, tool by tool
        return instructions(question.calling)
    plain = instructions(question.kind)
    if "{request}" in plain:  # a short request is repeated, as small models take the card for the whole of it
        text = question.text.strip()
        plain = plain.replace("{request}", text if len(text) <= _LONGEST_REPEATED else "the one before the draft.")
    return f"{plain} It has to fit this JSON Schema: {question.schema}" if question.schema else plain


def _with_instruction(template: str, instruction: str) -> str:
    """The template with the instruction filled in; without that line if the instruction is empty."""
    if not instruction:
        return template.replace("\n{instruction}", "").replace(" {instruction}", "")
    return template.replace("{instruction}", instruction.replace("{", "{{").replace("}", "}}"))


def _cue(question: Question, style: Style) -> str:
    rules = KINDS[question.kind]
    return style.cue if rules.brief and not (style.constrained and rules.grammar is not None) else ""


def _strict(question: Question) -> str:
    """The question's system prompt, followed by the rule that the whole reply is the answer."""
    only = f"Your whole reply is {_consists_of(question.kind)}: no explanation, no working, no other words."
    return f"{question.system}\n\n{only}" if question.system else only


def conversation(prompt: Prompt) -> bytes:
    """The identity of a conversation: a digest of the system prompt and the turns up to the user's first.

    The parts of the first turn that depend on the call are left out: options, instruction, card.
    """
    digest, question = hashlib.blake2b(digest_size=16), prompt.question
    turns: Iterable[Turn | Message] = prompt.turns
    if question is not None:
        system, asked = Message("system", question.system or ""), Message("user", question.text, question.images)
        turns = (system, *question.history, asked)
    for turn in turns:
        digest.update(f"{turn.role}\0{turn.text.strip()}\0".encode(errors="replace"))
        for image in turn.images:
            digest.update(image.digest.encode())
        if turn.role == "user":
            break
    return digest.digest()


# Tokens that open or close turns, think blocks and images in the chat templates of Qwen, Llama, Gemma, DeepSeek,
# Mistral, Phi, LLaVA, InternVL, Idefics and related models. A space is inserted after the first character of a match,
# so nothing is removed and no new token can form.
_CONTROL = re.compile(
    r"<(?=[|｜]"  # <|im_end|>, <|eot_id|>, <｜User｜>, <|image_pad|>, <|turn> …
    r"|<\s{0,8}/?SYS\s{0,8}>>"
    r"|/?(?=\w)(?:\w{1,32}[|｜]>"  # <turn|>, <image|> …
    r"|[^\W_]{1,32}_\w{0,32}>"  # <start_of_turn>, <im_start>, <row_1_col_2>, <IMG_CONTEXT>, <extra_id_0> …
    r"|(?:think|thinking|thought|reasoning|answer|s|bos|eos|pad|unk|sep|cls|mask|sop|eop|eoa|eoh|image|img|video|"
    r"audio|ref|box|quad|point|slice|unit|global-img|seed:\w{1,32}|mask:\d{1,4}|(?:unused|loc|seg)\d{1,4})\s{0,8}/?>))"
    r"|\[(?=/?(?=[\w|])(?:INST|IMG|IMG_BREAK|IMG_END|AUDIO|BEGIN_AUDIO|THINK|SYSTEM_PROMPT|TOOL_CALLS|AVAILABLE_TOOLS|"
    r"TOOL_RESULTS|TOOL_CONTENT|ARGS|CALL_ID|PREFIX|MIDDLE|SUFFIX|MODEL_SETTINGS|BOS|EOS|EOT|PAD|UNK|CLS|SEP|[gs]?MASK|control_\d{1,4}|"
    r"UNUSED_TOKEN_\d{1,4}|\|\w{1,32}\|)\])"
    r"|◁(?=/?\w{1,32}▷)",
    re.IGNORECASE,
)
# The end of a text that may become a control token when more text follows; longer than any token above.
_UNSETTLED = re.compile(r"(?:<{1,2}|\[|◁)[^<>\[\]◁▷]{0,80}\Z")
_LONGEST_UNSETTLED = 82


def neutral(text: str) -> str:
    """The text with every control token broken by a space, still readable."""
    return _CONTROL.sub(lambda match: match.group() + " ", text)


def _settled(text: str) -> str:
    """An unfinished text, without an end that may still become a control token."""
    found = _UNSETTLED.search(text, max(0, len(text) - _LONGEST_UNSETTLED))
    return text if found is None else text[: found.start()]
