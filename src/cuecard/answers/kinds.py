"""The kind of answer that a question asks for, from its wording.

Maths is never guessed: comparing expressions needs an extra, so a caller asks for it.
"""

from __future__ import annotations

from collections.abc import Sequence

from cuecard.answers.patterns import any_of, pattern
from cuecard.answers.wording import sentences
from cuecard.domain.question import AnswerKind

_LAST_CHARS = 4_000  # the question closes a long text

# --- told how to answer -----------------------------------------------------------------------------------------------

_ANSWER = any_of("answer reply respond say output write")
_TOLD_YES_NO = pattern(
    rf"\b{_ANSWER}\b[^.?!\n]{{0,40}}\b(?:yes|true)[\s'\"]{{0,2}}(?:/|or)[\s'\"]{{0,2}}(?:no|false)\b",
    r"\b(?:yes|true)\s?(?:/|or)\s?(?:no|false)\b",
    r"\b(?:ja oder nein|oui ou non|sí o no|sì o no|sim ou não|да или нет)\b|是或否|是还是否",
)
_TOLD_NUMBER = pattern(
    rf"\b{_ANSWER}\b[^.?!\n]{{0,30}}\b(?:an?|the|one|single)\s(?:single )?(?:number|integer|digit|numeral)s?\b",
    r"\bas an? (?:number|integer|percentage|decimal)\b|\b(?:number|digits?) only\b",
)
_TOLD_SHORT = pattern(
    r"\b(?:in|with|using)\s(?:just |only )?(?:an?|one|two|three|few|a few)\s(?:single |short )?(?:words?|phrase)\b",
    r"\b(?:single|one) word\b|\bshort (?:phrase|answer)\b|\bbriefly\b|\b(?:word|name) only\b",
)
_LONG_VERBS = any_of(
    """describe explain why write summari[sz]e discuss elaborate justify compare contrast tell_me_about caption
    translate compose draft generate create list transcribe analy[sz]e comment interpret outline suggest
    what_do_you_(?:think|see) give_(?:me_)?(?:a|an|your|reasons?|three|some) provide_(?:a|an|your)"""
)
_TOLD_AT_LENGTH = pattern(
    rf"^{_LONG_VERBS}\b",
    rf"^how {any_of('does do did can could would should is are was were come to')}\b",
    r"\bexplain (?:your|why|how|the|in)\b|\bjustify your\b|\band why\b|\bin detail\b",
    r"\bwrite an? (?:story|poem|essay|caption|code|function)\b",
)

# --- how the question begins ------------------------------------------------------------------------------------------

_WH = any_of("what which who whose whom where when why how")
_DO = any_of(
    """tell describe explain write list name give show summari count identify read find compute calculate help provide
    translate compare"""
)
_POLITE = pattern(
    r"^(?:(?:please|kindly|now|then|and|so|ok|okay|hi|hello|question:|q:|hint:)[,.!]?\s+"
    rf"|(?:can|could|would|will) you (?:please |kindly )?(?={_DO})"
    rf"|(?:do|can|could) you (?:know|tell|see)(?: me)?\s+(?={_WH}\b)|tell me (?={_WH}\b))+"
)
_SETTING = pattern(
    rf"^{any_of('in on at from according_to based_on looking_at given for of if when suppose assuming')}"
    r"\s(?!what\b|which\b)[^,?]{1,80},\s+"
)
_AUXILIARY = any_of(
    """is are was were am do does did can could has have had will would should must may might can't won't
    (?:is|are|was|were|do|does|did|has|have|had|would|should|could)n't"""
)
_WHETHER = pattern(
    rf"^{_AUXILIARY}\b(?! a look\b)",
    r"^(?:tell me (?:if|whether)|whether)\b",
    r"^(?:ist|sind|hat|haben|kann|gibt es|est-ce|y a-t-il|¿?(?:es|está|hay|tiene)|есть ли)\b",
)
_WHETHER_LATE = pattern(
    rf",\s+(?:then\s+)?{_AUXILIARY}\s(?=[^,]*\?$)", r"吗\s?[?？]?$", r"(?:ですか|ますか)\s?[?？。]?$"
)
_ANY_WH = pattern(rf"\b{_WH}\b")
_ELSE = any_of("not no more less fewer greater higher lower so above below equal older younger later earlier")
_OR = pattern(rf"\bor\b(?!\s{_ELSE}\b)")
_SUBJECTS = any_of("the this that these those they you we he she it all both any there")
_IMPERATIVE = pattern(rf"(?:do|have|can|will|may|might|must)\s(?!{_SUBJECTS}\b)")

_COUNTED = any_of(
    """total sum number count difference(?!_between_an?_) product average mean median mode maximum minimum max min
    percentage percent value age year digit price cost amount height width length distance area volume perimeter radius
    diameter angle speed weight mass temperature score quotient remainder population probability square_root fraction
    share rate"""
)
_QUANTITY = any_of("number digit percentage percent year age fraction integer value amount numeral score")
_NUMBER = pattern(
    r"\bhow (?:many|much(?! (?:of a|like))|old|tall|far|heavy|wide|deep|fast|long)\b",
    rf"\b(?:what|which) {_QUANTITY}\b(?! (?:plate|sequence))",
    rf"\bwhat(?:'s| (?:is|was|are|were|will be|would be)) the (?:(?!name|colou?r)[\w-]+ ){{0,2}}?{_COUNTED}s?\b"
    r"(?! (?:plate|of the (?:person|man|woman))\b)",
    r"\bwhat(?:'s| is)\s+[-(]?[\d√]",
    rf"^(?:calculate|compute|count|add|subtract|multiply|divide|estimate|evaluate|sum|find the (?:\w+ )?{_COUNTED})\b",
    r"\b(?:wie ?viele?|combien|cuánt[oa]s?|quant[ieo]s?|quant[ae]s?|hoeveel|сколько)\b",
    r"多少|几个|幾個|いくつ|何個|몇",
)
_NUMBERED = any_of(
    """phone telephone plate licen[cs]e serial flight model invoice registration account order tracking room bus jersey
    fax id page track gate"""
)
_NAMED_NUMBER = pattern(rf"\b{_NUMBERED} (?:plate )?number\b")
_NO_NOUN = any_of(
    """is are was were do does did can could should would will has have had if happens? happened makes? steps reasons?
    about"""
)
_NAMED = any_of(
    """colou?rs? name title shape type kind brand word letter text make material day date time month country city
    capital language animal author number breed logo sport season weather genre species label heading headline object"""
)
_ABROAD = any_of(
    """welche[rsn]? wer wo wann quelle?s? qui où quand cuál quién dónde cuándo quale chi dove quando qual quem onde
    welke? wie_is"""
)
_SHORT = pattern(
    rf"^(?:what|which) (?!{_NO_NOUN}\b)\w+|^which\b|^(?:who|whose|whom|where|when)\b",
    r"^(?:name|identify|read) (?:the|this|that)\b",
    r"\b(?:of|in|on|at|to|from|for|by|with) (?:what|which) \w+",
    rf"\bwhat(?:'s| is| are| was| were) the (?:[\w-]+ ){{0,2}}?{_NAMED}\b",
    r"\bwhat (?:does|do|did) (?:the|this|that|these) .{1,60}\b(?:say|read)\b",
    r"\bwhat(?:'s| is) (?:written|printed|shown on)\b",
    rf"^{_ABROAD}\b|什么颜色|哪个|谁",
)


def guess_kind(text: str, options: Sequence[str] = ()) -> AnswerKind:
    """The kind of answer wanted: a choice where options are given, else as it is put; free text if in doubt."""
    if len(options) >= 2:
        return AnswerKind.CHOICE
    text = text[-_LAST_CHARS:].replace("’", "'")
    parts = [_POLITE.sub("", part.strip("\"'“”*_ ")) for part in sentences(text)]
    asking = next((part for part in reversed(parts) if _asks(part)), parts[-1] if parts else "")
    told = [part for part in parts if part is asking or not _asks(part)]
    if _TOLD_YES_NO.search(text):
        return AnswerKind.YES_NO
    if any(_TOLD_AT_LENGTH.search(part) for part in told) and not _TOLD_SHORT.search(text):
        return AnswerKind.FREE_TEXT
    wanted = _wanted(asking)
    if wanted in (AnswerKind.FREE_TEXT, AnswerKind.SHORT_TEXT) and _TOLD_NUMBER.search(text):
        return AnswerKind.NUMBER
    return AnswerKind.SHORT_TEXT if wanted is AnswerKind.FREE_TEXT and _TOLD_SHORT.search(text) else wanted


def _asks(sentence: str) -> bool:
    """Whether a sentence is the question itself, not its setting nor how to answer it."""
    return sentence.endswith(("?", "？"))


def _wanted(question: str) -> AnswerKind:
    late = _WHETHER_LATE.search(question)
    whether = _WHETHER.search(question) and (_asks(question) or not _IMPERATIVE.match(question))
    if whether or (late and not _ANY_WH.search(question[: late.start()])):
        return AnswerKind.SHORT_TEXT if _OR.search(question) else AnswerKind.YES_NO
    if _NAMED_NUMBER.search(question):
        return AnswerKind.SHORT_TEXT
    if _NUMBER.search(question):
        return AnswerKind.NUMBER
    return AnswerKind.SHORT_TEXT if _SHORT.search(_SETTING.sub("", question)) else AnswerKind.FREE_TEXT
