"""Prompt layouts: the longest possible prefix of one question is shared by all of its calls.

    [system][user: images, question, options]      shared by short, reason and read
    [card of another model][instruction][opening]   what the mode adds

A `Prompt` is what every engine understands: turns, and the *opening* that the assistant's turn begins with. Texts of
users and of other models are data: control tokens in them are broken before they enter a prompt.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from cuecard.answers import extract, shape_of
from cuecard.answers.kinds import KINDS
from cuecard.domain.call import Mode
from cuecard.domain.question import AnswerKind, Calling, Image, Question, letter


class CardFormat(StrEnum):
    """How another model's reasoning is put before its reader."""

    THINKING = "thinking"
    NOTES = "notes"
    TURN = "turn"


@dataclass(frozen=True)
class Turn:
    """One message of the conversation. Layouts put no control token into a turn, so none is left in its text."""

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
"""What a reply that may call tools consists of."""
Form = AnswerKind | Calling
"""What instructions differ by: the kind of answer, or how tools are offered."""


@dataclass(frozen=True)
class Wording:
    """The instructions that a model is prompted with, by form of answer, and the templates of the card formats."""

    short: Callable[[Form], str]
    """To answer at once."""
    reason: Callable[[Form], str]
    """To reason, then answer."""
    read: Callable[[Form], str]
    """To answer with a card in view."""
    notes: str
    """The user's turn of `notes`, with {question}, {card} and {instruction}."""
    follow_up: str
    """The user's turn behind the card in `turn`, with {instruction}."""


_FIRST: Mapping[Form, str] = {
    Calling.AUTO: "If a tool is needed first, call it, but make no call above twice; otherwise answer the user. ",
    Calling.REQUIRED: "Call the tool that is next: no call above is made twice. ",
}
_TO_SETTLE: Mapping[Calling, str] = {
    Calling.AUTO: "is the answer known already; if not, which tool is needed, and with which arguments",
    Calling.REQUIRED: "what is known already, which tool is next, and with which arguments",
}
"""What to think about before a call."""


def _consists_of(form: Form) -> str:
    """What a reply has to consist of; empty: anything."""
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
"""Characters of a request that is put a second time, behind the card."""

_LONGEST_REPAIRED = 8_000
"""Characters of an answer that is to be repaired."""

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
"""For models that reason only where they are asked to."""
TRAINED = Wording(
    short=_plain,
    reason=_plain,
    read=_plain,
    notes="{question}\n{instruction}\n\nNotes of another model, which may be wrong:\n{card}",
    follow_up="What is the final answer? {instruction}",
)
"""What the embedded pair was trained on."""
WORDINGS: Mapping[str, Wording] = {"general": GENERAL, "stepwise": STEPWISE, "trained": TRAINED}


@dataclass(frozen=True)
class Style:
    """How a model is prompted: what opens and closes its reasoning, what stands for none, and the instructions.

    `cue`: how the assistant's turn of a brief answer is opened, for engines that continue it. `constrained`: brief
    answers are decoded under a grammar of their kind, by engines that can.
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
        """Reasoning is not marked by tags."""
        return not self.opening


CUE = "The answer is"
TAGS = Style("<think>\n", "\n</think>\n\n", "<think>\n\n</think>\n\n")
PROSE = Style("", "\n\nAnswer:", "", "stepwise")
EMBEDDED = replace(TAGS, wording="trained")


@dataclass(frozen=True)
class Prompt:
    """Turns, the beginning of the assistant's turn, and the style that tells reasoning from answer in what follows."""

    turns: tuple[Turn, ...]
    opening: str
    style: Style
    mode: Mode
    card: str | None = None
    unfinished: bool = False
    """The last turn, or the opening, ends inside the card, which is still being written; nothing follows it yet."""
    question: Question | None = None

    @property
    def images(self) -> tuple[Image, ...]:
        return tuple(image for turn in self.turns for image in turn.images)

    @property
    def schema(self) -> str | None:
        """The JSON Schema that what follows has to fit, for engines that can see to it."""
        return None if self.question is None or self.mode is Mode.REASON else self.question.schema

    @property
    def is_brief(self) -> bool:
        """The whole answer is a few tokens."""
        return self.question is None or KINDS[self.question.kind].brief

    def answered_by(self, text: str) -> bool:
        """Whether a text holds an answer of the kind that the question asks for."""
        return bool(text) if self.question is None else extract(text, shape_of(self.question)).parsed

    @property
    def constrained(self) -> bool:
        """What follows is decoded under the grammar of the question's kind."""
        brief = self.question is not None and KINDS[self.question.kind].grammar is not None
        return brief and self.style.constrained and self.mode is not Mode.REASON

    def closed_after(self, reasoning: str) -> Prompt:
        """The second stage: this prompt's reasoning so far, closed, so that only the answer is left to say."""
        return replace(
            self,
            opening=self.opening + neutral(reasoning).rstrip() + self.style.closing,
            mode=Mode.READ,
            card=reasoning,
        )


def short(question: Question, style: Style, *, strict: bool = False) -> Prompt:
    """Answer at once: the reasoning is closed before it begins. `strict`: a system prompt forbids all else."""
    asked = replace(question, system=_strict(question)) if strict else question
    opening = style.none + _cue(question, style)
    return Prompt(_turns(asked, style.words.short), opening, style, Mode.SHORT, question=question)


def reason(question: Question, style: Style) -> Prompt:
    """Think, then answer."""
    return Prompt(_turns(question, style.words.reason), style.opening, style, Mode.REASON, question=question)


def resume(question: Question, written: str, style: Style, *, continues: bool) -> Prompt:
    """Think on, from where a reasoning stands. `continues`: the engine goes on with the assistant's turn."""
    whole = reason(question, style)
    if continues:
        return replace(whole, opening=style.opening + neutral(written).rstrip(), card=written)
    return replace(whole, turns=(*whole.turns, Turn("assistant", written.strip()), Turn("user", _GO_ON)), card=written)


def grade(question: Question, written: str, step: str, style: Style) -> Prompt:
    """How right the next step of a reasoning is, as one digit; after SpecReason (arXiv 2504.07891), section 4.1."""
    *before, user = _turns(question, None)
    text = _GRADE.format(question=user.text, written=written.strip() or "(nothing yet)", step=step.strip())
    graded = replace(question, options=(), kind=AnswerKind.NUMBER, schema=None, calling=None)
    opening = style.none + _cue(graded, style)
    return Prompt((*before, replace(user, text=text)), opening, style, Mode.GRADE, step, question=graded)


def read(question: Question, card: str, form: CardFormat, style: Style, *, strict: bool = False) -> Prompt:
    """Answer at once, another model's reasoning in view. What the reader has to do stands behind the card."""
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
    """As `read`, of a card that is still being written."""
    return replace(read(question, card, form, style), mode=Mode.PROBE)


def repair(question: Question, answer: str, why: str, style: Style) -> Prompt:
    """Answer once more: the answer so far is in view, and why it does not do."""
    given = answer.strip()[:_LONGEST_REPAIRED] or "(nothing)"
    instruction = _instruction(question, style.words.short)
    asked = f"That answer cannot be used: {why}. Write the whole answer again. {instruction}"
    turns = (*_turns(question, style.words.short), Turn("assistant", given), Turn("user", asked))
    return Prompt(turns, style.none, style, Mode.REPAIR, question=question)


def growing(question: Question, card: str, form: CardFormat, style: Style) -> Prompt:
    """The beginning of `read` as far as the card is written, for engines that compute it ahead."""
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

    Prose that is continued after "Answer:" ends in a word or two, so a whole text is not asked for in this way. Nor is
    JSON under a schema, which servers match from the beginning of the assistant's turn on.
    """
    apart = question.schema is not None or (style.in_prose and not KINDS[question.kind].brief)
    return next((form for form in formats if not (apart and form is CardFormat.THINKING)), formats[0])


def _turns(question: Question, instructions: Callable[[Form], str] | None) -> tuple[Turn, ...]:
    """System, conversation and user turn: what every mode shares first, the mode's instruction last."""
    lines = [question.text.strip()]
    lines += [f"{letter(index)}. {option}" for index, option in enumerate(question.options)]
    instruction = "" if instructions is None else _instruction(question, instructions)
    text = "\n".join([*lines, instruction] if instruction else lines)
    system = (Turn("system", question.system),) if question.system else ()
    before = (Turn(message.role, message.text, message.images) for message in question.history)
    return (*system, *before, Turn("user", text, question.images))


def _instruction(question: Question, instructions: Callable[[Form], str]) -> str:
    if question.calling is not None:  # what a call consists of stands in the system's text, tool by tool
        return instructions(question.calling)
    plain = instructions(question.kind)
    if "{request}" in plain:  # a short one is put once more, as small models take a card for all there is
        text = question.text.strip()
        plain = plain.replace("{request}", text if len(text) <= _LONGEST_REPEATED else "the one before the draft.")
    return f"{plain} It has to fit this JSON Schema: {question.schema}" if question.schema else plain


def _with_instruction(template: str, instruction: str) -> str:
    """A template with the instruction in its place, or, where there is none, without that line."""
    if not instruction:
        return template.replace("\n{instruction}", "").replace(" {instruction}", "")
    return template.replace("{instruction}", instruction.replace("{", "{{").replace("}", "}}"))


def _cue(question: Question, style: Style) -> str:
    rules = KINDS[question.kind]
    return style.cue if rules.brief and not (style.constrained and rules.grammar is not None) else ""


def _strict(question: Question) -> str:
    """The question's system prompt, and behind it that nothing but the answer may be written."""
    only = f"Your whole reply is {_consists_of(question.kind)}: no explanation, no working, no other words."
    return f"{question.system}\n\n{only}" if question.system else only


def conversation(prompt: Prompt) -> bytes:
    """The identity of a conversation: its system prompt and first user turn, which all of its calls begin with."""
    digest = hashlib.blake2b(digest_size=16)
    for turn in prompt.turns:
        digest.update(f"{turn.role}\0".encode())
        for image in turn.images:
            digest.update(image.digest.encode())
        if turn.role == "user":
            digest.update(turn.text.partition("\n")[0].encode())  # what a mode adds comes in lines of its own
            break
        digest.update(turn.text.encode())
    return digest.digest()


# What opens or closes turns, think blocks and images in the templates of Qwen, Llama, Gemma, DeepSeek, Mistral, Phi,
# LLaVA, InternVL, Idefics and their kin. The first character of a match is kept and a space put behind it, so nothing
# is removed and no new token can come together.
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
# The end of a text that may become a control token when more is written: longer than any of the above.
_UNSETTLED = re.compile(r"(?:<{1,2}|\[|◁)[^<>\[\]◁▷]{0,80}\Z")
_LONGEST_UNSETTLED = 82


def neutral(text: str) -> str:
    """The text with every control token broken, readable as before."""
    return _CONTROL.sub(lambda match: match.group() + " ", text)


def _settled(text: str) -> str:
    """The text that is still being written, less an end that `neutral` cannot judge yet."""
    found = _UNSETTLED.search(text, max(0, len(text) - _LONGEST_UNSETTLED))
    return text if found is None else text[: found.start()]
