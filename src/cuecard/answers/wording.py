"""The kind and form of answer that a question asks for, from its wording, and the options listed in its text.

A question that is not certainly for a number, yes or no, or a short text is for free text: too long an answer can still
be read, one that is reduced to the first number is wrong. Maths is never guessed: comparing expressions needs an
extra, so the caller has to request it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product

from cuecard.answers.kinds import KINDS
from cuecard.answers.text.markup import any_of, pattern, sentences
from cuecard.domain.question import MOST_OPTIONS, AnswerKind

_LAST_CHARS = 4_000  # the question closes a long text
_LAST_SENTENCES = 3  # several of them may be questions

# --- instructions for the answer --------------------------------------------------------------------------------------

_ANSWER = any_of("answer reply respond say output")
_YES_OR_NO = r"(?:yes|true)[\s'\"]{0,2}(?:/|or)[\s'\"]{0,2}(?:no|false)\b"
_TOLD_YES_NO = pattern(
    rf"\b{_ANSWER}\b[^.?!\n]{{0,40}}\b{_YES_OR_NO}",
    rf"(?:^|\n|[(\[,]\s?)(?:is (?:it|this|that) )?{_YES_OR_NO}",
    rf"\b{_YES_OR_NO}[\s)\]'\"]{{0,3}}[?.!]?\s*$",
    r"\b(?:ja oder nein|oui ou non|sí o no|sì o no|sim ou não|да или нет)\b|是或否|是还是否",
)
_DIGITS = r"(?:single )?(?:number|integer|digit|numeral)s?"
_TOLD_NUMBER = pattern(
    rf"\b(?:{_ANSWER}|write)\b[^.?!\n]{{0,30}}\b(?:an?|the|one|single)\s{_DIGITS}\b",
    r"\b(?:answer|give|express|state|reply|respond)\b[^.?!\n]{0,40}\bas an? (?:number|integer|percentage|decimal)\b",
    r"\b(?:number|digits?) only\b",
)
_TOLD_SHORT = pattern(
    r"\b(?:in|with|using)\s(?:just |only )?(?:an?|one|two|three|few|a few)\s(?:single |short )?(?:words?|phrase)\b"
    r"(?! (?:limit|count|cloud|document|file|processor)\b)",
    r"\b(?:single|one) word\b|\bshort (?:phrase|answer)\b|\b(?:word|name) only\b",
)
_TOLD_JSON = pattern(
    rf"\b(?:{_ANSWER}|return|produce|provide|give|write|generate|format(?:ted)?)\b[^.?!\n]{{0,40}}\bjson\b",
    r"\b(?:in|as|only|just|valid) (?:an? |the )?(?:valid |correct |single )?json\b(?! (?:files?|documents?)\b)",
    r"\bjson schema to follow\b|```json\b",
)
_LONG_VERBS = any_of(
    """describe explain why write summari[sz]e discuss elaborate justify compare contrast tell_me_about caption
    translate compose draft generate create list transcribe analy[sz]e comment interpret outline suggest prove show_that
    briefly refactor rewrite rephrase improve fix debug implement
    what_do_you_(?:think|see) give_(?:me_)?(?:a|an|your|reasons?|three|some) provide_(?:a|an|your)"""
)
_TOLD_AT_LENGTH = pattern(
    rf"^{_LONG_VERBS}\b",
    rf"^how {any_of('does do did can could would should is are was were come to')}\b",
    r"\bexplain (?:your|why|how|the|in|it|briefly)\b|\bjustify your\b|\bin detail\b|\bshow (?:your|all) (?:work|steps)",
    r"\bwrite an? (?:story|poem|essay|caption|code|function|program|script)\b",
    r"\b(?:and|,) (?:then )?(?:explain|describe|summari[sz]e|fix|tell me) ",
    r"^if (?:so|not|yes|no)\b",
)
_WRITES = pattern(rf"^{any_of('write generate create compose draft implement')}\b")
_AND_MORE = pattern(
    r"\band (?:for |in |by )?(?:how|why|what|which|who|where|when)\b",
    r"\band (?:please |then |also )?(?:name|list|explain|describe|justify|show|give|tell)"
    r" (?:them|it|its|each|why|how|your|the|all|me|us|one|some|an?)\b",
    r", in (?:german|french|spanish|italian|portuguese|dutch|russian|chinese|japanese|korean|arabic|hindi|latin)\W*$",
)
"""A second question in the same sentence, or a language for its answer."""

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
_GERMAN = (
    r"(?:ist|sind|war|kostet|bedeutet|soll|muss|kann|hat"
    r"|\w+(?:t|st|en) (?:auf|in|im|am|an|du|er|sie|es|ich|wir|man|d[aei][smnr]|die|hier))"
)
"""Words after the German "was" (what), which is not the "was" of "Was it …?"."""
_AUXILIARY = (
    rf"(?:was(?! {_GERMAN}\b)|"
    + any_of(
        """is are were am_i do does did can could has have had will would should must may might can't won't
    (?:is|are|was|were|do|does|did|has|have|had|would|should|could)n't"""
    )
    + ")"
)
_SUGGESTED = any_of(
    "ways? tips? tricks? methods? alternatives? tools? library libraries recommendations? examples? advice"
)
_ADVICE = pattern(
    r"^(?:can|could|would|will|do|did|have) (?:you|we)\b(?! (?:see|spot|hear|notice)\b)",
    r"^(?:should|shall|may) (?:i|we|you|one)\b",
    rf"^(?:is|are) there (?:(?:an?|any|some|other) )?(?:\w+ )?{_SUGGESTED}\b",
    r"\b(?:better|best|worth|prefer|recommend|advisable)\b",
    r"^est-ce que (?:tu peux|vous pouvez)\b",
)
"""Worded like a yes/no question, but not answered by yes."""
_WHETHER = pattern(
    rf"^{_AUXILIARY}\b(?! a look\b)",
    r"^(?:tell me (?:if|whether)|whether)\b",
    r"^(?:ist|sind|hat|haben|kann|gibt es|est-ce|y a-t-il|está|hay|tiene|есть ли)\b(?=.*\?)",
    r"^¿(?:es|está|hay|tiene)\b",
)
_WHETHER_LATE = pattern(
    rf",\s+(?:then\s+)?{_AUXILIARY}\s(?=[^,]*\?$)", r"吗\s?[?？]?$", r"(?:ですか|ますか)\s?[?？。]?$"
)
_ANY_WH = pattern(rf"\b{_WH}\b")
_ASKS_ELSE = pattern(r"^(?:what|why|which|who|where|when|how)\b.*\bhow\b")
_ELSE = any_of("not no more less fewer greater higher lower so above below equal older younger later earlier")
_OR = pattern(rf"\bor\b(?!\s{_ELSE}\b)")
_SUBJECTS = any_of("the this that these those they you we he she it all both any there")
_IMPERATIVE = pattern(rf"(?:do|have|can|will|may|might|must)\s(?!{_SUBJECTS}\b)")

# --- numbers ----------------------------------------------------------------------------------------------------------

_DEGREE = any_of(
    """average mean median total overall combined net gross final highest lowest largest smallest longest shortest
    maximum minimum max min exact approximate estimated current annual monthly daily legal atomic surface
    last first second third tens ones greatest least whole"""
)
_THE = r"(?:the|this|that|these|those|each|all|both|its|their)"
_ENDS = r"(?=\W*$)"
_DRAWN = r"(?:\w+ )?" + any_of(
    """bars? lines? points? slices? columns? rows? cells? digits? expressions? variables? functions? coins? numbers?
    fractions? integrals? angles? equations? resistors? houses? stocks?"""
)
_MEASURE = any_of(
    """height width length distance depth perimeter circumference radius diameter angle speed velocity weight mass
    temperature population altitude elevation"""
)
_SPACE = any_of("area volume")
_GIVEN, _WHICH = r"(?=.{0,200}\d)", r".{0,200}\b(?:that|where|which|who|in which)\b"
_PLACED = any_of("between from in on at to outside limit")
_EXTREME = any_of("highest lowest largest smallest maximum minimum max min greatest least oldest youngest tallest")
_QUANTITIES = any_of("number count total sum percentage percent remainder quotient probability population")
_AVERAGED = any_of(
    """age height weight length speed temperature lifespan salary income rent price cost score grade rainfall rate
    distance life_expectancy duration number amount value of_(?:the|these|those|all|\\d)"""
)
_RATES = any_of(
    "interest exchange unemployment tax growth inflation birth death heart error conversion success mortality literacy"
)
_OF_NUMBERS = rf"of (?:{_THE} (?:\w+ )?(?:numbers?|values?|digits?|bars?|data)\b|[-(]?\d)"
_COUNTED = "|".join(
    (
        rf"{_QUANTITIES}\b(?! (?:plate|one\b|1\b))",
        rf"sum of\b|(?:mean|median|mode|product|range|average) {_OF_NUMBERS}|(?:average|mean|median) {_AVERAGED}",
        rf"(?:maximum|minimum|max|min)\.? (?:{_MEASURE}|{_AVERAGED}|value)",
        r"difference between (?:[-(]?\d|two and|the (?:two )?numbers)",
        rf"difference between the (?:number|sum|total|value|price|height|age|{_EXTREME})\b",
        rf"difference in (?:number|price|height|age|value|years|{_MEASURE})\b",
        rf"value of (?:(?:pi|π|[a-z])\b(?! \w+ing)|{_THE} {_DRAWN}\b|[-(√]?\d|sin|cos|tan|log)",
        rf"(?:price|cost) of (?:{_THE}|an?|one|\d)\b",
        r"amount (?:of|due|paid)\b",
        r"age (?:of (?!reason|enlightenment|discovery|exploration|empires?|aquarius)|limit)",
        r"year (?:of|shown|written|printed|on|in which|when)\b(?! the \w+\W*$)",
        rf"{_MEASURE}(?:{_ENDS}| of (?:{_THE}|an?|one|light|sound|gravity|(?-i:[A-Z])\w*)\b| {_PLACED}\b)",
        rf"{_SPACE}(?:{_ENDS}| (?:of|under) {_THE} (?!{_WHICH})| of an? {_GIVEN})",
        r"(?:boiling|melting|freezing) point of\b",
        rf"digit\b|square root of\b|cube root of\b|(?:share|fraction|rate) of\b|{_RATES} rate\b",
    )
)
_QUANTITY = any_of(
    "number digit percentage percent year age fraction integer amount numeral value(?=_(?:is|has|does|of)\\b)"
)
_EXPRESSION = (
    r"[-(√]*\d[\d.,]*\)?\s?(?:[-+*/×÷^%=]|plus\b|minus\b|times\b|divided\b|squared\b|cubed\b|percent of\b|mod\b)"
)
_MASS_NOUN = any_of("money time water milk sugar flour oil petrol gas energy power salt fat protein weight space")
_COSTS = any_of("cost costs weigh weighs earn earns pay pays spend spent measure charge charges sell_for")
_NUMBER = pattern(
    r"\bhow many\b",
    rf"\bhow much (?:is|are|was|were|(?:more|less|{_MASS_NOUN})\b|(?:do|does|did|will|would)\b.{{0,200}}\b{_COSTS}\b)",
    r"\bhow old\b(?![- ]fashioned)",
    r"\bhow (?:tall|high|heavy|wide|deep|far|long)(?: away)? (?:is|are|was|were) (?!your|my|too|it (?!from|to))",
    rf"\b(?:what|which) {_QUANTITY}\b(?! (?:plate|sequence))",
    rf"\bwhat(?:'?s| (?:is|was|are|were|will be|would be)) (?:the|its|his|her|their) "
    rf"(?:{_DEGREE} ){{0,2}}(?:{_COUNTED})",
    rf"\b(?:what|which)(?:'?s| (?:is|was)) (?!9/11|24/7){_EXPRESSION}|\bwhat(?:'?s| is) √",
    rf"^(?:calculate|compute|evaluate|solve)[: ]\s*{_EXPRESSION}",
    rf"^(?:calculate|compute|find|determine|estimate|work out) the (?:{_DEGREE} ){{0,2}}(?:{_COUNTED})",
    r"^count (?:the|all|every|how many)\b",
    r"^(?:add \d\S* (?:and|to|plus)|subtract \d\S* from|multiply \d\S* (?:by|and|with)|divide \d\S* by) [-\d]",
    r"\b(?:wie ?viele?(?! (?:zeit|uhr))|combien(?! de temps)|cuánt[oa]s?|quant[ieo]s?|quant[ae]s?|hoeveel|сколько)\b",
    r"多少|几个|幾個|几[只条张位本辆]|いくつ|何個|몇",
)
_NUMBERED = any_of(
    """phone telephone plate licen[cs]e serial flight model invoice registration account order tracking room bus jersey
    fax id page track gate"""
)
_NAMED_NUMBER = pattern(rf"\b{_NUMBERED} (?:plate )?number\b")

# --- short texts ------------------------------------------------------------------------------------------------------

_NO_NOUN = any_of(
    """is are was were do does did can could should would will has have had if happens? happened makes? steps reasons?
    about an? the"""
)
_NAMED = any_of(
    """colou?rs? name title shape type kind brand word letter text make material day date time month country city
    capital language animal author number breed logo sport season weather genre species label heading headline object"""
)
_NAMED_ELSE = any_of(
    """game instrument food fruit vegetable company team river mountain planet element pattern mood gender street shop
    store station bird plant tree flower vehicle car room position direction side part item person symbol"""
)
_ABROAD = any_of("wer wo wann qui où quand quién dónde cuándo chi dove quando quem onde wie_is")
_BE = any_of("ist war liegt steht est était se_trouve está è era fue")
_SHORT = pattern(
    rf"^(?:what|which) (?:\w+ )?(?:{_NAMED}|{_NAMED_ELSE})\b(?! of (?:problem|thing|issue|advantage|question)s\b)",
    rf"^(?:what|which) (?:kind|type|sort|breed|brand|make) of \w+ (?:is|are|was|were) {_SUBJECTS}\b",
    rf"^which (?!{_NO_NOUN}\b)(?!\w+[^su\W]s\b)\w+|^which (?:is|was) the \w+est\b",
    rf"^(?:who|whose|whom)(?:'s)? (?!is\b|was\b|are\b|were\b)\w+|^who(?:'s| (?:is|was|are|were)) {_SUBJECTS}\b",
    r"^who (?:is|was|are|were) \w+ing\b",
    rf"^(?:where|when)(?:'s| {_AUXILIARY})\b(?! it (?:better|best|ok|okay|safe|worth|useful|appropriate|used)\b)",
    rf"^name (?:the|this|that) \w+{_ENDS}",
    rf"^(?:identify|read) (?:the|this|that) (?:{_NAMED}|{_NAMED_ELSE}|sign|clock|dial)\b",
    r"\b(?:of|in|on|at|to|from|for|by|with) (?:what|which) (?!(?:ways?|sense|respects?|extent|cases?|contexts?)\b)\w+",
    rf"\bwhat(?:'s| is| are| was| were) the (?:[\w-]+ ){{0,2}}?{_NAMED}\b"
    rf"(?:{_ENDS}| (?:of|in|on|at|for|that|which|shown|you)\b)",
    rf"\bwhat (?:does|do|did) (?:the|this|that|these) .{{1,60}}\b(?:say|read){_ENDS}",
    r"\bwhat(?:'s| is) (?:written|printed|shown on)\b",
    rf"^{_ABROAD} {_BE}\b(?! der unterschied)",
    r"什么颜色|哪个|谁",
)
_OUR_CHOICE = pattern(
    r"\b(?:should|would|could|can|do|did) (?:i|we|you|one)\b(?! (?:see|reach|get|read|find|notice|spot)\b)",
    r"^(?:where|when) (?:do|can|could|should|would) (?:i|we|you|one)\b",
)
"""Questions for advice: a word is not enough."""


def guess_kind(text: str, options: Sequence[str] = ()) -> AnswerKind:
    """The requested kind of answer: a choice if options are given, else by wording; free text if in doubt."""
    if len(options) >= 2:
        return AnswerKind.CHOICE
    text = text[-_LAST_CHARS:].replace("’", "'")
    if asks_for_json(text):
        return AnswerKind.FREE_TEXT
    for kind, rules in KINDS.items():
        if rules.wordings is not None and rules.wordings.search(text):
            return kind
    parts = [_POLITE.sub("", part.strip("\"'“”*_ ")) for part in sentences(text)]
    questions = [part for part in parts[-_LAST_SENTENCES:] if _asks(part)]
    asking = next((part for part in reversed(parts) if _asks(part)), parts[-1] if parts else "")
    instructions = [part for part in parts if part is asking or not _asks(part)]
    at_length = any(_TOLD_AT_LENGTH.search(part) for part in instructions) and not _TOLD_SHORT.search(text)
    if _TOLD_YES_NO.search(text) and not (at_length and any(_WRITES.search(part) for part in instructions)):
        return AnswerKind.YES_NO
    if at_length:
        return AnswerKind.FREE_TEXT
    wanted = _wanted(asking)
    if any(_wanted(question) is not wanted for question in questions) or _AND_MORE.search(asking):
        wanted = AnswerKind.FREE_TEXT  # two questions at once
    if wanted in (AnswerKind.FREE_TEXT, AnswerKind.SHORT_TEXT) and _TOLD_NUMBER.search(text):
        return AnswerKind.NUMBER
    return AnswerKind.SHORT_TEXT if wanted is AnswerKind.FREE_TEXT and _TOLD_SHORT.search(text) else wanted


def asks_for_json(text: str) -> bool:
    """Whether the end of a text requests an answer in JSON, so that a bare number or word does not fit."""
    return _TOLD_JSON.search(text[-_LAST_CHARS:]) is not None


def _asks(sentence: str) -> bool:
    """Whether a sentence is the question itself, not its context or an instruction for the answer."""
    return sentence.endswith(("?", "？"))


def _wanted(question: str) -> AnswerKind:
    late = _WHETHER_LATE.search(question)
    whether = _WHETHER.search(question) and (_asks(question) or not _IMPERATIVE.match(question))
    if whether or (late and not _ANY_WH.search(question[: late.start()])):
        if _ADVICE.search(question):
            return AnswerKind.FREE_TEXT
        return AnswerKind.SHORT_TEXT if _OR.search(question) else AnswerKind.YES_NO
    if _NAMED_NUMBER.search(question):
        return AnswerKind.SHORT_TEXT
    if _NUMBER.search(question):
        return AnswerKind.FREE_TEXT if _ASKS_ELSE.search(question) else AnswerKind.NUMBER
    asked = _SETTING.sub("", question)
    short = _SHORT.search(asked) and not _OUR_CHOICE.search(asked)
    return AnswerKind.SHORT_TEXT if short else AnswerKind.FREE_TEXT


# "answer", then a placeholder of the answer: `$LETTER`; in quotes also `[letter]`, `<letter>`, `{letter}` and `(X)`.
_PLACE = r"\$[A-Za-z]{1,30}"
_BRACKETED = r"<[\w ]{1,30}>|\[[\w ]{1,30}\]|\{[\w ]{1,30}\}"
_BEFORE = r"(?:[A-Za-z]{1,20} ){0,3}answer(?: is)?[ \t]?:?[ \t]?"
_FORM = re.compile(
    rf"""['"`“‘](?P<quoted>{_BEFORE})(?:{_PLACE}|{_BRACKETED}|(?P<round>\([\w ]{{1,30}}\)))\.?['"`”’]"""
    rf"""|(?<!\w)(?P<plain>answer:[ \t]?){_PLACE}\b"""
    r"|(?P<boxed>\\boxed)\{[^{}\n]{0,30}\}",
    re.IGNORECASE,
)


def asked_form(text: str) -> tuple[str, str] | None:
    """(before, after): the text that a question's last instruction requests around the answer; None without one."""
    if not (forms := list(_FORM.finditer(text))):
        return None
    found = forms[-1]
    if found["boxed"]:
        return "\\boxed{", "}"
    before = found["quoted"] or found["plain"]
    return (f"{before}(", ")") if found["round"] else (before, "")


# --- options listed in a text: "… A. red B. green C. blue", or numbered, on one line or several  ----------------------


_LISTED_CHARS = 8_000  # options are at the end of a question, even after a long document
_STEM_CHARS, _HEADING_CHARS = 4_000, 100
_LETTERS = tuple(tuple(chr(ord(first) + index) for index in range(MOST_OPTIONS)) for first in "Aa")
_NUMBERS = tuple(str(index + 1) for index in range(MOST_OPTIONS))
_STYLES = (r"\({0}\)", r"\[{0}\]", r"{0}\)", r"{0}\.", r"{0}:", r"{0}、")
# The options begin on a line of their own, or after the end of the question.
_OPENS = r"(?:^|\n)[ \t]*+(?:[-*•]\s++)?\**+|(?<=[?:.!？：。])\s*+\**+"
_OPENS_INLINE = rf"{_OPENS}|(?<=\w )"
"""Numbers with a bracket may also follow a question without its mark: "Which is the largest 1) Mars 2) Venus"."""
_NEXT = r"(?<=[\s,;、。])(?:[-*•]\s++)?\**+"
_HEADING = re.compile(
    r"(?:(?:answer )?(?:options|choices)|select one|choose one|pick one|选项)\**+\s*+[:：]?\**+\s*$", re.IGNORECASE
)
_TOLD = any_of(
    """answer please choose select pick respond reply explain give think which what write output only note do_not
    your_answer the_answer"""
)
_AFTERWARDS = pattern(rf"(?:(?<!\s)(?=[^\S\n]*+\n)|(?<=[.?!;]))\s++(?={_TOLD}\b)")


# A numbered list usually has steps, facts or files: it has to follow a question that it can answer.
_NUMBERED_STYLES = (r"\({0}\)", r"\[{0}\]", r"{0}\)", r"{0}\.(?=\s)", r"{0}:(?=\s)", r"{0}、")
_MOST_NUMBERED_CHARS = 200
_CHOOSES = pattern(r"\b(?:which|choose|select|pick)\b")
_QUIZ = pattern(r"^(?:who|whose|what|where|when|why)\b")
_OF_A_TEXT = pattern(
    r"\b(?:this|these|those|it|they|them|my|i|you|think|differences?|differ|mean|wrong|order|steps?|facts?|following)\b"
)


@dataclass(frozen=True)
class Listed:
    """A question without the options listed in it, the options, and their numbers if they are numbered."""

    text: str
    options: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()


def options_in(text: str) -> tuple[str, tuple[str, ...]]:
    """Same as `listed_in`, without the labels."""
    found = listed_in(text)
    return found.text, found.options


def listed_in(text: str) -> Listed:
    """The question without the options listed in it, and the options; the unchanged text and () without options.

    They must be lettered from A on, or numbered from 1 on, without a gap, in one style: "A. red B. green", "(a) red (b)
    green", "1) red 2) green". Text after them ("Answer with the letter only.") stays with the question. Numbered ones
    must be at the end of the text, and answer the question directly before them.
    """
    for style, signs in (*product(_STYLES, _LETTERS), *product(_NUMBERED_STYLES, (_NUMBERS,))):
        marks = _marks(text, style, signs)
        split = _split(text, marks) if marks else None
        if split is None or (signs is _NUMBERS and (_asks_on(text, marks[0][0]) or not _answers(*split))):
            continue
        stem, after, options = split
        labels = signs[: len(options)] if signs is _NUMBERS else ()
        return Listed(f"{stem}\n{after}" if after else stem, options, labels)
    return Listed(text)


def _asks_on(text: str, at: int) -> bool:
    """Whether the list that begins at an index is one of questions."""
    listed = text[at:].rstrip()
    return "?" in (listed if "?" in text[: -len(listed) or None] else listed[:-1])


def _answers(stem: str, after: str, options: tuple[str, ...]) -> bool:
    """Whether numbered options are answers to the question before them, not steps or facts in its context."""
    asked = (sentences(stem[-_STEM_CHARS:]) or [""])[-1]
    if not asked.endswith(("?", "？")) and not _CHOOSES.search(asked):
        return False
    if after and not _AFTERWARDS.match(f"\n{after}"):
        return False
    if any(len(option) > _MOST_NUMBERED_CHARS for option in options):
        return False
    if _CHOOSES.search(asked):
        return True
    match guess_kind(asked):
        case AnswerKind.NUMBER | AnswerKind.SHORT_TEXT:
            return not _OF_A_TEXT.search(asked)
        case AnswerKind.YES_NO:
            return {option.lower() for option in options} == {"yes", "no"}
    return bool(_QUIZ.search(asked)) and not _OF_A_TEXT.search(asked)


def _marks(text: str, style: str, signs: tuple[str, ...]) -> list[tuple[int, int]]:
    """(start, end) of the marks A, B, C … of the last list in one style; [] without a list of at least two."""
    since = max(0, len(text) - _LISTED_CHARS)
    seconds = [found.start() for found in _mark(style, signs[1], _NEXT).finditer(text, since)]
    if not seconds:
        return []
    opening = None
    opens = _OPENS_INLINE if style == r"{0}\)" and signs[0] == "1" else _OPENS
    for found in _mark(style, signs[0], opens).finditer(text, since, seconds[-1]):
        opening = found
    if opening is None:
        return []
    marks = [(opening.start("mark"), opening.end())]
    for sign in signs[1:]:
        following = _mark(style, sign, _NEXT).search(text, marks[-1][1])
        if following is None:
            break
        marks.append((following.start("mark"), following.end()))
    return marks


@cache
def _mark(style: str, sign: str, place: str) -> re.Pattern[str]:
    return re.compile(rf"(?:{place})(?P<mark>{style.format(sign)})\**(?=\s|\S)")


def _split(text: str, marks: list[tuple[int, int]]) -> tuple[str, str, tuple[str, ...]] | None:
    """The text before the options, the text after them, and the options; None if they are not options."""
    ends = [start for start, _ in marks[1:]]
    pieces = [text[end:stop] for (_, end), stop in zip(marks, ends, strict=False)]
    last = text[marks[-1][1] :]
    cut = _AFTERWARDS.search(last)
    if cut is None:
        cut = re.search(r"\n", last.rstrip()) if "\n" in last.strip() else None
    pieces.append(last if cut is None else last[: cut.start()])
    after = "" if cut is None else last[cut.start() :].strip()
    options = tuple(_trimmed(piece) for piece in pieces)
    stem = text[: marks[0][0]].rstrip(" \t\n-*•")
    heading = _HEADING.search(stem, max(0, len(stem) - _HEADING_CHARS))
    stem = (stem if heading is None else stem[: heading.start()].rstrip("*")).strip()
    if not stem or not all(options) or any(len(option) > 400 for option in options):
        return None
    return stem, after, options


def _trimmed(option: str) -> str:
    """An option's words, without punctuation or words that join it to the next one or close the list."""
    option = re.sub(r"(?: ?[,;、] ?(?:and|or)?| (?:and|or)) ?$", "", " ".join(option.split()))
    option = option.rstrip("*-• ")
    return re.sub(r"(?<=\w)[.?;]$", "", option) if not re.search(r"\.\w+\.$", option) else option
