r"""Marked answers of a reply: "The answer is …", "Answer: …", \boxed{…}, <answer>…</answer>, #### …

A marked answer takes precedence over other mentions. Several marked ones must agree, unless one is marked as final
("so the answer is", "final answer", "but … the answer is"): then earlier ones do not count.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from itertools import islice, pairwise

from cuecard.answers.answer import Blank, Reading, one_of
from cuecard.answers.text.markup import any_of, boxes, pattern, sentences, size
from cuecard.answers.text.refusals import after_taking_back, refuses

MOST_MARKS, MOST_READ = 100, 5_000
"""Maximum number of marks of each form in a text, and of characters in which a brief answer is searched."""


class Weight(IntEnum):
    """How firmly an answer is marked."""

    HEDGED = 0
    PLAIN = 1
    FINAL = 2


@dataclass(frozen=True)
class Statement:
    """A marked answer: the text after the mark, up to the end of its line."""

    at: int
    weight: Weight
    text: str


_QUALITY = any_of("final correct right best only short most_likely likely likeliest closest possible")
_NOUN = r"(?:(?:answer|result)(?:\s+(?:choice|option))?|ans|option|choice|solution|conclusion)"
_OF_IT = r"(?:\s+(?:here|in this case|(?:to|for|of) (?:the|this|your) \w{1,20}))?"
_VERB = any_of(
    """is was would_be will_be should_be must_be has_to_be comes?_out_(?:to|as|at) appears?_to_be seems?_to_be might_be
    may_be could_be can_be"""
)
_ADVERB = any_of(
    """clearly therefore thus indeed definitely certainly actually probably most_likely likely simply just obviously
    either_way still"""
)
_MARK = pattern(
    rf"\b(?P<quality>(?:{_QUALITY}\s+){{0,3}}){_NOUN}{_OF_IT}"
    rf"(?:[\"'*]{{0,3}}\s?[:：=→]|\s->|\s[–—-]\s|\s+(?P<verb>{_VERB})\b)"
    rf"(?:[\s:]{{1,3}}{_ADVERB}\b,?){{0,2}}[\s:：*\"']{{0,6}}"
)
# The same in other languages, in which the noun is enough, alone or with its verb.
_FOREIGN = pattern(
    r"\b(?:antwort|lösung|ergebnis|fazit|resultat)(?:\s+(?:ist|lautet|wäre)\b|\s?:)",
    r"\b(?:ist|lautet|wäre)\s+(?:die|das)\s+(?:\w+\s+)?(?:antwort|lösung|ergebnis)\b(?!\s*[:.]|\s+(?:ist|lautet|wäre))",
    r"\b(?:réponse|résultat|conclusion|solution)(?:\s\w+){0,2}?(?:\s+(?:est|serait)\b(?:\s(?:donc|alors)\b)?|\s?:)",
    r"\b(?:respuesta|resultado|conclusión|solución)(?:\s\w+){0,2}?(?:\s+(?:es|sería)\b|\s?:)",
    r"\b(?:risposta(?:\s\w+)?(?:\s+è|\s?:))",
    r"\b(?:resposta(?:\s\w+)?(?:\s+é|\s?:)|antwoord\s?(?:is\b|:)|ответ(?:\s?[—–:-]|\s+это\b))",
    r"(?:答案|选项|選項|正解|答え|回答|结果|結果|结论|結論|解答)\s?(?:应该是|应为|就是|是|为|為|は)?\s?[:：]?",
    r"(?:정답|답변|답)\s?(?:은|는|[:：])",
    r"(?:الإجابة|الجواب)(?:\s(?:الصحيحة|الصحيح|النهائية|هي|هو)){0,3}\s?:?",
    r"(?:उत्तर|जवाब)(?:\s(?:है|होगा))?\s?:?",
)
# "I would say …", and conclusions from earlier sentences.
_WOULD_SAY = pattern(
    r"\b(?:i would say|i'd say|i(?:'ll| will| would|'d)? (?:go|stick) with|ich würde|ich tippe auf|je dirais|yo diría"
    r"|diría que)\s"
    r"(?!that\b|dass\b|que\b)",
    r"(?:^|[。\n])\s?(?:よって|したがって|ゆえに|つまり|だから|因此|所以|综上)[、，,]\s?(?!答|正|结|選|选|最)",
)
# "B is the right answer", "Folglich ist B die richtige Antwort"
_ANSWER_LAST = pattern(
    r"(?:^|[.!?,\n]\s?)(?P<answer>[^.!?,\n]{1,80}?)\s(?:is|est|es)\s(?:the|la)\s(?:\w+\s)?(?:answer|réponse|respuesta)\b",
    r"\bist\s(?P<late>[^.!?\n]{1,80}?)\s(?:die|das)\s(?:richtige|korrekte)\s(?:antwort|lösung|ergebnis)\b",
)
_TAG = re.compile(r"<answer>((?:(?!<answer>).){0,400}?)(?:</answer>|$)", re.IGNORECASE | re.DOTALL)
_HASHES = re.compile(r"^####\s+(?=\S)", re.MULTILINE)
_ON_ITS_OWN_LINE = re.compile(
    r"^[ \t]*+[#*_]{0,6}+[ \t]*+(?:final |my |the )?(?:answer|antwort|réponse|respuesta|答案"
    r"|答え)[ \t]*+[*_]{0,3}+[ \t]*+\n++"
    r"(?=\s*+\S)",
    re.MULTILINE | re.IGNORECASE,
)

_UNSURE = any_of(
    """thought believed assumed guessed suspected if whether suppose supposing assuming unless what why how until before
    first initially doubt unsure find determine give provide choose not dachte pensais pensaba"""
)
_NOT_CLAIMED = pattern(rf"(?:\b{_UNSURE}|n't)\b\W+(?:\w+\W+){{0,2}}$")
_SO = any_of(
    """so thus therefore hence consequently finally ultimately overall actually but however conclusion conclude summary
    means corrected correction"""
)
_CONCLUDES = pattern(rf"\b{_SO}\b")
_FINAL_ABROAD = pattern(
    any_of("richtig korrekt endgültig final bonne correct corr?eta corretta 正确 正しい 最终 最后 最終 正解 정답"),
    any_of("also daher somit folglich deshalb donc ainsi par_conséquent por_lo_tanto por_tanto así_que entonces"),
    any_of("所以 因此 综上 由此 したがって よって ゆえに つまり"),
)
_THEN = any_of(
    """so thus therefore hence overall consequently in_conclusion in_total in_summary daher deshalb somit folglich donc
    ainsi par_conséquent por_lo_tanto por_tanto así_que"""
)
_CONCLUSION = pattern(rf"(?:^|[.,;:!\n]\s{{0,3}}|\band ){_THEN}\b,?\s")


def stated(text: str) -> list[Statement] | None:
    """All marked answers in the order of the text; None if there are too many to decide which one is meant."""
    patterns = (_MARK, _FOREIGN, _WOULD_SAY, _TAG, _HASHES, _ON_ITS_OWN_LINE, _ANSWER_LAST)
    forms = [list(islice(form.finditer(text), MOST_MARKS + 1)) for form in patterns]
    boxed = _boxed(text)
    if max(len(boxed), *(len(form) for form in forms)) > MOST_MARKS:
        return None
    english, foreign, would_say, tags, hashes, headings, last = forms
    starts = [mark.start() for mark in english]
    marks = sorted([*english, *foreign, *would_say], key=lambda mark: mark.start())
    ends = [0, *(mark.end() for mark in marks)]
    found = [_worded(text, mark, previous, starts) for mark, previous in zip(marks, ends, strict=False)]
    found += [Statement(tag.start(), Weight.FINAL, tag[1].strip()) for tag in tags]
    found += [Statement(at.start(), Weight.FINAL, _rest(text, at.end(), starts)) for at in (*hashes, *headings)]
    found += [Statement(at.start(), Weight.PLAIN, at["answer"] or at["late"]) for at in last]
    found += boxed
    return sorted((one for one in found if one is not None), key=lambda statement: statement.at)


def _worded(text: str, mark: re.Match[str], previous: int, starts: list[int]) -> Statement | None:
    start = max(previous, mark.start() - 80)
    lead = re.split(r"[.!?\n]", text[start : mark.start()])[-1]
    if _NOT_CLAIMED.search(re.sub(r"\b(?:the|my|that|a)\s+$", "", lead, flags=re.IGNORECASE)):
        return None
    groups = mark.groupdict()
    quality, verb = groups.get("quality") or "", groups.get("verb") or ""
    abroad = not groups and _FINAL_ABROAD.search(text[max(0, mark.start() - 20) : mark.end()])
    if re.search(r"final|correct|right", quality, re.IGNORECASE) or _CONCLUDES.search(lead) or abroad:
        weight = Weight.FINAL
    else:
        hedged = re.search(r"possible", quality, re.IGNORECASE) or re.match(r"might|may|could|can", verb, re.IGNORECASE)
        weight = Weight.HEDGED if hedged else Weight.PLAIN
    return Statement(mark.start(), weight, _rest(text, mark.end(), starts))


def _boxed(text: str) -> list[Statement]:
    """Boxes; those joined only by "or", "and" or a comma are one statement."""
    joined: list[tuple[int, int, str]] = []
    for start, end, inner in boxes(text):
        between = text[joined[-1][1] : start] if joined else None
        if between is not None and re.fullmatch(r"[\s$]*(?:,|and|or|,\s?(?:and|or))[\s$]*", between):
            joined[-1] = (joined[-1][0], end, f"{joined[-1][2]}{between.replace('$', '')}{inner}")
        else:
            joined.append((start, end, inner))
    return [Statement(start, Weight.FINAL, inner) for start, _, inner in joined]


def _rest(text: str, start: int, starts: list[int]) -> str:
    """The rest of the line, or the next line with text; it ends before the next mark."""
    after = text[start : start + 600]
    line = after.lstrip().split("\n", 1)[0]
    begin = start + len(after) - len(after.lstrip())
    following = bisect_left(starts, begin)
    return line[: starts[following] - begin] if following < len(starts) else line


def closing_clause(text: str) -> str | None:
    """The text after the last "so", "thus", "therefore" of the last line; None without one."""
    line = text.rstrip().rsplit("\n", 1)[-1][-600:]
    ends = [found.end() for found in _CONCLUSION.finditer(line)]
    return line[ends[-1] :] if ends else None


def settle(statements: Sequence[Statement], read: Callable[[str], Reading]) -> Reading:
    """Combine the marked answers: from the last final one on they must agree; hedged ones count only alone.

    UNCLEAR if they are too long to read.
    """
    if sum(size(statement.text) for statement in statements) > MOST_READ:
        return Blank.UNCLEAR
    read_out = [(statement.weight, read(statement.text)) for statement in statements]
    readable = [(weight, reading) for weight, reading in read_out if reading is not Blank.NOTHING]
    firm = [(weight, reading) for weight, reading in readable if weight is not Weight.HEDGED] or readable
    finals = [index for index, (weight, _) in enumerate(firm) if weight is Weight.FINAL]
    return one_of([reading for _, reading in firm[finals[-1] if finals else 0 :]])


# --- the end of a reasoning -------------------------------------------------------------------------------------------


_REACH, _MOST_CHARS, _LAST_LINES = 1200, 400, 3
_HEADING = re.compile(
    r"^(?:#{1,6}[ \t]*\**|\*{2,3}|__)[ \t]*(?:final[ \t]+)?(?:answer|conclusion)[ \t]*[:：]?(?:\**|_*)$",
    re.IGNORECASE,
)
_DELIMITERS = re.compile(r"^[\s$\\\[\]()*_`.-]*$")
_SO_AT_THE_START = any_of("therefore thus hence consequently in_conclusion in_summary to_conclude")
_BEGINS_WITH_SO = pattern(rf"^\W{{0,3}}{_SO_AT_THE_START}\b")
_NONE = re.compile(r"^(?:not\b|un(?:clear|known)|impossible)", re.IGNORECASE)
_TEXT = re.compile(r"^\\(?:text|textbf|mathrm|mathbf)\s*\{([^{}]*)\}$")


def conclusion(text: str) -> str | None:
    r"""The answer that a finished text ends with, as text of at most a line; None without one.

    Only the last lines count, and only the text after the last "wait, …". Tried in this order: the last marked answer
    there (`\boxed{}`, `Answer:`, "the answer is", `####`), the line under a heading "Final answer", the last sentence
    of one of the last two lines if it begins with "therefore" or the like. The kind of answer is not considered:
    `extract` decides whether the line holds one. Not covered: an answer of several lines, and one followed by more than
    two lines of remarks.
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
    return phrase[-1] if phrase and _BEGINS_WITH_SO.match(phrase[-1]) else None


def _bare(phrase: str) -> str:
    """The phrase without surrounding bold face, formula marks and full stop."""
    phrase = phrase.strip().strip("*").strip()
    phrase = re.sub(r"^(?:\\[(\[]|\${1,2})\s*(.*?)\s*(?:\\[)\]]|\${1,2})?\.?$", r"\1", phrase)
    phrase = phrase.strip("*").removesuffix(".").strip("* ")
    text = _TEXT.match(phrase)
    return text[1].strip() if text else phrase
