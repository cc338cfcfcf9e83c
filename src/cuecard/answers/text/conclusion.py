r"""What the end of a reasoning concludes: `Answer: 6`, "The answer is 6.", `\boxed{6}`, "Therefore, … 6 …"."""

from __future__ import annotations

import re
from itertools import pairwise

from cuecard.answers.text.marked_answers import Weight, stated
from cuecard.answers.text.markup import any_of, pattern, sentences
from cuecard.answers.text.refusals import after_taking_back, refuses

_REACH, _MOST_CHARS, _LAST_LINES = 1200, 400, 3
_HEADING = re.compile(
    r"^(?:#{1,6}[ \t]*\**|\*{2,3}|__)[ \t]*(?:final[ \t]+)?(?:answer|conclusion)[ \t]*[:：]?(?:\**|_*)$",
    re.IGNORECASE,
)
_DELIMITERS = re.compile(r"^[\s$\\\[\]()*_`.-]*$")
_SO = any_of("therefore thus hence consequently in_conclusion in_summary to_conclude")
_CONCLUDES = pattern(rf"^\W{{0,3}}{_SO}\b")
_NONE = re.compile(r"^(?:not\b|un(?:clear|known)|impossible)", re.IGNORECASE)
_TEXT = re.compile(r"^\\(?:text|textbf|mathrm|mathbf)\s*\{([^{}]*)\}$")


def conclusion(text: str) -> str | None:
    r"""The answer that a finished text ends in, as text of at most a line; None if it ends in none.

    Only the last lines count, and only what follows the last "wait, …". In this order: what the last marked answer
    there says (`\boxed{}`, `Answer:`, "the answer is", `####`), the line under a heading "Final answer", the last
    sentence of one of the last two lines if it begins with "therefore" or its like. Which kind of answer was asked for
    is not looked at: whether the line holds such an answer is for `extract` to say. Not covered: an answer of several
    lines, and one that is followed by more than two lines of remarks.
    """
    tail = text[-_REACH:].rstrip()
    later = after_taking_back(tail)
    tail = tail if later is None else later
    lines = [line.strip() for line in tail.splitlines() if not _DELIMITERS.match(line)]
    if not lines:
        return None
    last = lines[-_LAST_LINES:]
    ends = (_last_sentence(line) for line in reversed(last[-2:]))
    for found in (_marked("\n".join(last)), _under_heading(lines[-_LAST_LINES - 1 :]), *ends):
        if found is not None:
            return found if len(found) <= _MOST_CHARS and not _NONE.match(found) and not refuses(found) else None
    return None


def _marked(tail: str) -> str | None:
    for statement in reversed(stated(tail) or []):
        phrase = _bare(statement.text)
        if statement.weight is not Weight.HEDGED and phrase:
            return phrase
    return None


def _under_heading(lines: list[str]) -> str | None:
    """The first line under the last heading."""
    for heading, line in reversed(list(pairwise(lines))):
        if _HEADING.match(heading):
            return _bare(line) or None
    return None


def _last_sentence(line: str) -> str | None:
    phrase = sentences(line)
    return phrase[-1] if phrase and _CONCLUDES.match(phrase[-1]) else None


def _bare(phrase: str) -> str:
    """Without bold face, formula marks and the full stop around it."""
    phrase = phrase.strip().strip("*").strip()
    phrase = re.sub(r"^(?:\\[(\[]|\${1,2})\s*(.*?)\s*(?:\\[)\]]|\${1,2})?\.?$", r"\1", phrase)
    phrase = phrase.strip("*").removesuffix(".").strip("* ")
    text = _TEXT.match(phrase)
    return text[1].strip() if text else phrase
