"""The kind of answer that a question asks for, from its wording.

Maths is never guessed: comparing expressions needs an extra, so a caller asks for it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from cuecard.answers.wording import sentences
from cuecard.domain.question import AnswerKind


def _ignoring_case(*parts: str) -> re.Pattern[str]:
    return re.compile("|".join(parts), re.IGNORECASE)


# --- told how to answer -----------------------------------------------------------------------------------------------

_TOLD_YES_NO = _ignoring_case(
    r"\b(?:answer|reply|respond|say|output|write)\b[^.?!\n]{0,40}\b(?:yes|true)[\s'\"]{0,2}(?:/|or)[\s'\"]{0,2}(?:no|false)\b",
    r"\b(?:yes|true)\s?(?:/|or)\s?(?:no|false)\b\s?[?)\]:]?",
    r"\b(?:ja oder nein|oui ou non|sí o no|sì o no|sim ou não|да или нет)\b|是或否|是还是否",
)
_TOLD_NUMBER = _ignoring_case(
    r"\b(?:answer|reply|respond|output)\b[^.?!\n]{0,30}\b(?:an?|the|one|single)\s(?:single )?(?:number|integer|digit|numeral)s?\b",
    r"\bas an? (?:number|integer|percentage|decimal)\b|\b(?:number|digits?) only\b",
)
_TOLD_SHORT = _ignoring_case(
    r"\b(?:in|with|using)\s(?:just |only )?(?:an?|one|two|three|few|a few)\s(?:single |short )?(?:words?|phrase)\b",
    r"\b(?:single|one) word\b|\bshort (?:phrase|answer)\b|\bbriefly\b|\b(?:word|name) only\b",
)
_TOLD_AT_LENGTH = _ignoring_case(
    r"^(?:describe|explain|why|write|summari[sz]e|discuss|elaborate|justify|compare|contrast|tell me about|caption|translate|compose"
    r"|draft|generate|create|list|transcribe|analy[sz]e|comment|interpret|outline|suggest|give (?:me )?(?:a|an|your|reasons?|three|some)\b"
    r"|provide (?:a|an|your)\b|what do you (?:think|see)|how (?:does|do|did|can|could|would|should|is|are|was|were|come|to)\b"
    r"|think step by step and explain)",
    r"\bexplain (?:your|why|how|the|in)\b|\bjustify your\b|\band why\b|\bin detail\b|\bwrite an? (?:story|poem|essay|caption|code|function)\b",
)

# --- how the question begins ------------------------------------------------------------------------------------------

_POLITE = _ignoring_case(
    r"^(?:(?:please|kindly|now|then|and|so|ok|okay|hi|hello|question:|q:|hint:)[,.!]?\s+"
    r"|(?:can|could|would|will) you (?:please |kindly )?(?=(?:tell|describe|explain|write|list|name|give|show|summari|count|identify|read|find"
    r"|compute|calculate|help|provide|translate|compare)\b)|(?:do|can|could) you (?:know|tell|see)(?: me)?\s+(?=what|which|how|who|where|when|why)"
    r"|tell me (?=what|which|how|who|where|when|why))+"
)
_AUXILIARY = (
    r"(?:is|are|was|were|am|do|does|did|can|could|has|have|had|will|would|should|must|may|might"
    r"|(?:is|are|was|were|do|does|did|has|have|had|would|should|could)n't|can't|won't)"
)
_WHETHER = _ignoring_case(
    rf"^{_AUXILIARY}\b(?! a look\b)",
    r"^(?:tell me (?:if|whether)|whether)\b",
    r"^(?:ist|sind|hat|haben|kann|gibt es|est-ce|y a-t-il|¿?(?:es|está|hay|tiene)|есть ли)\b",
)
_WHETHER_LATE = _ignoring_case(rf",\s+(?:then\s+)?{_AUXILIARY}\s(?=[^,]*\?$)", r"吗\s?[?？]?$", r"(?:ですか|ますか)\s?[?？。]?$")
_WH = _ignoring_case(r"\b(?:what|which|who|whose|whom|where|when|why|how)\b")
_OR = _ignoring_case(r"\bor\b(?!\s(?:not|no|more|less|fewer|greater|higher|lower|so|above|below|equal|older|younger|later|earlier)\b)")

_COUNTED = (
    r"(?:total|sum|number|count|difference(?! between an? )|product|average|mean|median|mode|maximum|minimum|max|min|percentage|percent|value|age|year|digit|price"
    r"|cost|amount|height|width|length|distance|area|volume|perimeter|radius|diameter|angle|speed|weight|mass|temperature|score|quotient|remainder"
    r"|population|probability|square root|fraction|share|rate|highest value|lowest value)"
)
_NUMBER = _ignoring_case(
    r"\bhow (?:many|much(?! (?:of a|like))|old|tall|far|heavy|wide|deep|fast|long)\b",
    r"\b(?:what|which) (?:number|digit|percentage|percent|year|age|fraction|integer|value|amount|numeral|score)\b(?! (?:plate|sequence))",
    rf"\bwhat(?:'s| is| was| are| were| will be| would be) the (?:(?!name|colou?r)[\w-]+ ){{0,2}}?{_COUNTED}s?\b"
    r"(?! (?:plate|of the (?:person|man|woman))\b)",
    r"\bwhat(?:'s| is)\s+[-(]?[\d√]",
    r"^(?:calculate|compute|count|add|subtract|multiply|divide|estimate|evaluate|sum|find the (?:\w+ )?" + _COUNTED + r")\b",
    r"\b(?:wie ?viele?|combien|cuánt[oa]s?|quant[ieo]s?|quant[ae]s?|hoeveel|сколько)\b|多少|几个|幾個|いくつ|何個|몇",
)
_NAMED_NUMBER = _ignoring_case(
    r"\b(?:phone|telephone|plate|licen[cs]e|serial|flight|model|invoice|registration|account|order|tracking|room|bus|jersey|fax|id|page|track|gate)"
    r" (?:plate )?number\b"
)
_SHORT = _ignoring_case(
    r"^(?:what|which) (?!is\b|are\b|was\b|were\b|do\b|does\b|did\b|can\b|could\b|should\b|would\b|will\b|has\b|have\b|had\b|if\b|happen|makes?\b"
    r"|steps\b|reasons?\b|about\b|'s\b)\w+",
    r"^which\b|^(?:who|whose|whom|where|when)\b",
    r"\b(?:of|in|on|at|to|from|for|by|with) (?:what|which) \w+",
    r"\bwhat(?:'s| is| are| was| were) the (?:[\w-]+ ){0,2}?(?:colou?rs?|name|title|shape|type|kind|brand|word|letter|text|make|material|day|date|time|month"
    r"|country|city|capital|language|animal|author|number|breed|logo|sport|season|weather|genre|species|label|heading|headline|object)\b",
    r"\bwhat (?:does|do|did) (?:the|this|that|these) .{1,60}\b(?:say|read)\b|\bwhat(?:'s| is) (?:written|printed|shown on)\b",
    r"^(?:name|identify|read) (?:the|this|that)\b",
    r"^(?:welche[rsn]?|wer|wo|wann|quelle?s?|qui|où|quand|cuál|quién|dónde|cuándo|quale|chi|dove|quando|qual|quem|onde|welke?|wie is)\b|什么颜色|哪个|谁",
)


_IMPERATIVE = _ignoring_case(
    r"(?:do|have|can|will|may|might|must)\s(?!(?:the|this|that|these|those|they|you|we|he|she|it|all|both|any|there)\b)"
)


def guess_kind(text: str, options: Sequence[str] = ()) -> AnswerKind:
    """The kind of answer wanted: a choice where options are given, else from how the question is put; free text if in doubt."""
    if len(options) >= 2:
        return AnswerKind.CHOICE
    parts = [_POLITE.sub("", part.strip("\"'“”*_ ")) for part in sentences(text.replace("’", "'"))]
    asking = next((part for part in reversed(parts) if _asks(part)), parts[-1] if parts else "")
    if _TOLD_YES_NO.search(text):
        return AnswerKind.YES_NO
    wanted = _wanted(asking)
    if any(_TOLD_AT_LENGTH.search(part) for part in parts if part is asking or not _asks(part)) and not _TOLD_SHORT.search(text):
        return AnswerKind.FREE_TEXT
    if wanted in (AnswerKind.FREE_TEXT, AnswerKind.SHORT_TEXT) and _TOLD_NUMBER.search(text):
        return AnswerKind.NUMBER
    return AnswerKind.SHORT_TEXT if wanted is AnswerKind.FREE_TEXT and _TOLD_SHORT.search(text) else wanted


def _asks(sentence: str) -> bool:
    """Whether a sentence is the question itself, not its setting nor how to answer it."""
    return sentence.endswith(("?", "？"))


def _wanted(question: str) -> AnswerKind:
    late = _WHETHER_LATE.search(question)
    if _WHETHER.search(question) and _is_question(question) or late and not _WH.search(question[: late.start()]):
        return AnswerKind.SHORT_TEXT if _OR.search(question) else AnswerKind.YES_NO
    if _NAMED_NUMBER.search(question):
        return AnswerKind.SHORT_TEXT
    if _NUMBER.search(question):
        return AnswerKind.NUMBER
    start = question if late is None else question[late.end() :]
    leading = re.sub(r"^(?:in|on|at|from|according to|based on|looking at|given|for|of|if|when|suppose|assuming)\s(?!what\b|which\b)[^,?]{1,80},\s+", "", start, flags=re.IGNORECASE)
    return AnswerKind.SHORT_TEXT if _SHORT.search(leading) else AnswerKind.FREE_TEXT


def _is_question(sentence: str) -> bool:
    """Whether "Is …" or "Do …" asks: "Do not guess." and "Have fun!" do not."""
    return _asks(sentence) or _IMPERATIVE.match(sentence) is None
