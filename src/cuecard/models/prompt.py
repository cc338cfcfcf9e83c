"""Prompt layouts: the longest possible prefix of one question is shared by all of its calls.

    [system][user: images, question, options]      shared by short, reason and read
    [instruction][card of another model][opening]   what the mode adds

A `Prompt` is what every engine understands: turns, and the *opening* that the assistant's turn begins with. Texts of
users and of other models are data: control tokens in them are broken before they enter a prompt.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from enum import StrEnum

from cuecard.domain.call import Mode
from cuecard.domain.question import AnswerKind, Image, Question, letter


class CardFormat(StrEnum):
    """How another model's reasoning is put before its reader."""

    THINKING = "thinking"
    NOTES = "notes"
    TURN = "turn"


@dataclass(frozen=True)
class Turn:
    """One message of the conversation."""

    role: str
    text: str
    images: tuple[Image, ...] = ()


@dataclass(frozen=True)
class Style:
    """How a model family marks reasoning: what opens it, what closes it, and what stands for none."""

    opening: str
    closing: str
    none: str
    ask_to_reason: str = ""


TAGS = Style("<think>\n", "\n</think>\n\n", "<think>\n\n</think>\n\n")
PROSE = Style("", "\n\nAnswer:", "", 'Think step by step. Then write "Answer:" and the final answer. ')

INSTRUCTIONS = {
    AnswerKind.CHOICE: "Answer with the letter of the option only.",
    AnswerKind.YES_NO: "Answer with yes or no only.",
    AnswerKind.NUMBER: "Answer with the number only.",
    AnswerKind.SHORT_TEXT: "Answer with a word or a short phrase only.",
    AnswerKind.MATHS: "Answer with the final expression only.",
    AnswerKind.FREE_TEXT: "",
    AnswerKind.JSON: "Answer with JSON only.",
}
NOTES = "Notes of another model, which may be wrong:"
FOLLOW_UP = "What is the final answer?"


@dataclass(frozen=True)
class Prompt:
    """Turns, the beginning of the assistant's turn, and the style that tells reasoning from answer in what follows."""

    turns: tuple[Turn, ...]
    opening: str
    style: Style
    mode: Mode
    card: str | None = None
    unfinished: bool = False
    """The text ends inside the card, which is still being written; nothing follows it yet."""
    schema: str | None = None
    """The JSON Schema that what follows has to fit, for engines that can see to it."""

    @property
    def images(self) -> tuple[Image, ...]:
        return tuple(image for turn in self.turns for image in turn.images)

    def closed_after(self, reasoning: str) -> Prompt:
        """The second stage: this prompt's reasoning so far, closed, so that only the answer is left to say."""
        return replace(
            self,
            opening=self.opening + neutral(reasoning).rstrip() + self.style.closing,
            mode=Mode.READ,
            card=reasoning,
        )


def short(question: Question, style: Style) -> Prompt:
    """Answer at once: the reasoning is closed before it begins."""
    return Prompt(_asked(question, ""), style.none, style, Mode.SHORT, schema=question.schema)


def reason(question: Question, style: Style) -> Prompt:
    """Think, then answer."""
    return Prompt(_asked(question, style.ask_to_reason), style.opening, style, Mode.REASON)


def read(question: Question, card: str, form: CardFormat, style: Style) -> Prompt:
    """Answer at once, another model's reasoning in view."""
    card_text, opening = neutral(card).strip(), style.none
    match form:
        case CardFormat.THINKING:
            turns = _asked(question, style.ask_to_reason)
            opening = style.opening + card_text + style.closing
        case CardFormat.NOTES:
            *before, user = _asked(question, "")
            turns = (*before, replace(user, text=f"{user.text}\n\n{NOTES}\n{card_text}"))
        case CardFormat.TURN:
            follow_up = Turn("user", f"{FOLLOW_UP} {_instruction(question)}".strip())
            turns = (*_asked(question, style.ask_to_reason), Turn("assistant", card_text), follow_up)
    return Prompt(turns, opening, style, Mode.READ, card, schema=question.schema)


def probe(question: Question, card: str, form: CardFormat, style: Style) -> Prompt:
    """As `read`, of a card that is still being written."""
    return replace(read(question, card, form, style), mode=Mode.PROBE)


def growing(question: Question, card: str, form: CardFormat, style: Style) -> Prompt:
    """The beginning of `read` as far as the card is written, for engines that compute it ahead."""
    whole = read(question, _settled(card), form, style)
    opening = style.opening + neutral(_settled(card)).strip() if form is CardFormat.THINKING else whole.opening
    return replace(whole, opening=opening, unfinished=True)


def _asked(question: Question, lead: str) -> tuple[Turn, ...]:
    """System, conversation and user turn: what every mode shares first, the mode's instruction last."""
    lines = [neutral(question.text).strip()]
    lines += [f"{letter(index)}. {neutral(option)}" for index, option in enumerate(question.options)]
    instruction = (lead + _instruction(question)).strip()
    text = "\n".join([*lines, instruction] if instruction else lines)
    system = (Turn("system", neutral(question.system)),) if question.system else ()
    before = (Turn(said.role, neutral(said.text), said.images) for said in question.history)
    return (*system, *before, Turn("user", text, question.images))


def _instruction(question: Question) -> str:
    plain = INSTRUCTIONS[question.kind]
    return f"{plain} It has to fit this JSON Schema: {neutral(question.schema)}" if question.schema else plain


# What opens or closes turns, think blocks and images in the templates of Qwen, Llama, Gemma, DeepSeek, Mistral, Phi,
# LLaVA, InternVL, Idefics and their kin. The first character of a match is kept and a space put behind it, so nothing
# is removed and no new token can come together.
_CONTROL = re.compile(
    r"<(?=[|｜])"  # <|im_end|>, <|eot_id|>, <｜User｜>, <|image_pad|>, <|turn> …
    r"|<(?=/?\w{1,32}[|｜]>)"  # <turn|>, <image|> …
    r"|<(?=/?[^\W_]{1,32}_\w{0,32}>)"  # <start_of_turn>, <im_start>, <row_1_col_2>, <IMG_CONTEXT>, <extra_id_0> …
    r"|<(?=/?(?:think|thinking|thought|reasoning|answer|s|bos|eos|pad|unk|sep|cls|mask|sop|eop|eoa|eoh|image|img|video|"
    r"audio|ref|box|quad|point|slice|unit|global-img|seed:\w{1,32}|mask:\d{1,4}|(?:unused|loc|seg)\d{1,4})\s{0,8}/?>)"
    r"|\[(?=/?(?:INST|IMG|IMG_BREAK|IMG_END|AUDIO|BEGIN_AUDIO|THINK|SYSTEM_PROMPT|TOOL_CALLS|AVAILABLE_TOOLS|TOOL_RESULTS|"
    r"TOOL_CONTENT|ARGS|CALL_ID|PREFIX|MIDDLE|SUFFIX|MODEL_SETTINGS|BOS|EOS|EOT|PAD|UNK|CLS|SEP|[gs]?MASK|control_\d{1,4}|"
    r"UNUSED_TOKEN_\d{1,4}|\|\w{1,32}\|)\])"
    r"|<(?=<\s{0,8}/?SYS\s{0,8}>>)"
    r"|◁(?=/?\w{1,32}▷)",
    re.IGNORECASE,
)
# The end of a text that may become a control token when more is written: longer than any of the above.
_UNSETTLED = re.compile(r"(?:<{1,2}|\[|◁)[^<>\[\]◁▷]{0,80}\Z")


def neutral(text: str) -> str:
    """The text with every control token broken, readable as before."""
    return _CONTROL.sub(lambda match: match.group() + " ", text)


def _settled(text: str) -> str:
    """The text that is still being written, less an end that `neutral` cannot judge yet."""
    return _UNSETTLED.sub("", text)
