"""Choices: the option that a reply picks, by its letter or in its words.

A letter counts if the reply opens or closes with it or marks it as decided; two that count are no answer. Without
letters, the option's words count.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice

from cuecard.answers import number, words
from cuecard.answers.text.claims import claimed, is_about, mentioned
from cuecard.answers.text.markup import any_of, asserted, before_reasons, normalise, pattern, plain, sentences, unquoted
from cuecard.answers.text.statements import answerable, one_of, refuses
from cuecard.domain.question import Answer, Blank, Question, Reading, letter

_ON_THE_WAY = re.compile(r"(?:let|let's|first|step|i'll|i will|i need|we need|start|looking)\b", re.IGNORECASE)
_MOST_POLAR_CHARS, _MOST_SAME_CHARS = 200, 400  # of an option that is yes or no; of a text that is an option
_MOST_MENTIONING_CHARS = 400  # of a text that is searched for an option's words
_SHOWN = pattern(
    r"^(?:it|(?:the|this) (?:image|picture|photo|chart|figure)) (?:is|shows|contains|depicts|does not show"
    r"|doesn't show)\b"
)
SHORT_WORDS, MOST_WORDS = 8, 10  # of a text in which a letter, or an option's words, count in any position

# Results from options are cached for the other marked answers of a reply, and for other replies.
_refuses = lru_cache(maxsize=256)(refuses)
_value = lru_cache(maxsize=256)(number.whole)


@lru_cache(maxsize=256)
def _option_core(option: str) -> str:
    return _core(plain(option))


def read(text: str, question: Question) -> Reading:
    """The option that a text picks; UNCLEAR if it picks several, contradicts itself, or refuses.

    If the question wants all that apply, the value is the letters of all, in order: "AC".
    """
    reply = _with_letters(plain(text), question)
    if refuses(reply) and not any(map(_refuses, question.options)):
        reply = answerable(reply)
        if not reply.strip():
            return Blank.UNCLEAR
    if wants_several(question):
        return _several(reply, question)
    if _ALL_BUT.search(reply) or _is_unclear_place(reply, question):
        return Blank.UNCLEAR
    by_number = _by_label(reply, question)
    if by_number is not None:
        return by_number
    if all(_ROMAN.fullmatch(option) for option in question.options):
        return _by_roman(reply, question)
    claim = before_reasons(reply)
    readings = [_by_letter(part, question) for part in dict.fromkeys((claim, reply))]
    by_letter = next((each for each in readings if isinstance(each, Answer)), readings[-1])
    if by_letter is Blank.NOTHING:
        return _by_words(reply, question)
    return by_letter


_WANTS_SEVERAL = pattern(
    r"\b(?:select|choose|pick|mark|check|tick|name) (?:all|every|any that|each)\b|\ball (?:that|which) apply\b"
    r"|\ball correct\b",
    r"\b(?:select|choose|pick) (?:two|three|several|\d)\b|\bone or more\b|\bmore than one (?:answer|option)\b|多选"
    r"|多項|複数",
)
_ALL_BUT = pattern(
    r"\b(?:all|(?:every|any)(?:thing|one|body)?)(?: of them| options?)?,? (?:but|except|apart from|besides)\b"
)
_ALL = pattern(
    r"(?:(?:the answer is|they are|i (?:choose|pick|select)) )?(?:all|every one)(?: of (?:them|these|the above))?\W*"
)
_UNSURE_OF_ONE = pattern(r"\b(?:possibly|perhaps|maybe|might be|could be)\s+(?:also\s+)?[(\[]?[A-Z]\b")
_RUN = re.compile(r"\W*([A-Z]{2,26})\W*")


def wants_several(question: Question) -> bool:
    """Whether a question asks for all options that apply, not for one."""
    return _WANTS_SEVERAL.search(question.text) is not None


def _several(reply: str, question: Question) -> Reading:
    """All letters that a text picks; without letters, all options that it names."""
    last = letter(len(question.options) - 1)
    run = _RUN.fullmatch(reply)
    if run is not None and max(run[1]) <= last and len(set(run[1])) == len(run[1]):
        return Answer(run[1], "".join(sorted(run[1])))
    every = {letter(index) for index in range(len(question.options))}
    if _ALL.fullmatch(reply) and not any(map(_ALL.search, question.options)):
        return Answer(unquoted(reply), "".join(sorted(every)))
    but = _ALL_BUT.search(reply)
    found = mentions(reply[but.end() :] if but else reply, last)
    if found is None or _UNSURE_OF_ONE.search(reply):
        return Blank.UNCLEAR
    if but is not None:
        left_out = {one for mention in found for one in mention.letters}
        left_out = left_out or {letter(index) for index in mentioned(reply[but.end() :], question.options)}
        return Answer(unquoted(reply), "".join(sorted(every - left_out))) if left_out else Blank.UNCLEAR
    picked = {one for mention in found if not mention.described for one in mention.letters}
    picked = picked or {letter(index) for index in mentioned(reply, question.options)}
    return Answer(unquoted(reply), "".join(sorted(picked))) if picked else Blank.NOTHING


# --- ordinals and Roman numerals --------------------------------------------------------------------------------------

_ORDINALS = (
    "first second third fourth fifth sixth seventh eighth",
    "1st 2nd 3rd 4th 5th",
    "erste zweite dritte vierte",
    "première deuxième troisième quatrième",
    "primera segunda tercera cuarta",
)
_PLACES = {word: at for words_in_order in _ORDINALS for at, word in enumerate(words_in_order.split())}
_PLACES |= dict.fromkeys(("last", "letzte", "dernière", "última"), -1)
_CHINESE_PLACES = "一二三四五六七八"
_NTH = pattern(
    rf"\b(?:the |die |la )?(?P<place>{'|'.join(_PLACES)}) (?:option|choice|answer|one\b|antwort|möglichkeit|réponse"
    rf"|opción|respuesta)",
    r"第(?P<nth>[一二三四五六七八1-8])(?:个|個|つ目の?|番目の?)(?:选项|選項|答案|選択肢)?"
    r"|(?P<ja>[一二三四五六七八1-8])(?:番目の?(?:選択肢)?|つ目の(?:選択肢)?)",
    r"\b(?:the )?(?:option|choice|answer) (?:no\.? ?|number |#)?(?P<number>[1-8])(?![\d.,]*\d)(?=\W|$)",
)


_BARE_PLACE = re.compile(rf"(?:the )?(?P<place>{'|'.join(_PLACES)})(?: one)?\W*", re.IGNORECASE)
_NUMBERED = re.compile(r"\W*(?:option|choice)\s(?:no\.? ?|number |#)?(?P<number>[1-8])\W*", re.IGNORECASE)


def _is_unclear_place(reply: str, question: Question) -> bool:
    """Whether a reply is "option 2" and the options are numbers in another order: the second, or the option 2."""
    found = None if question.labels else _NUMBERED.fullmatch(reply)
    if found is None:
        return False
    at, values = int(found["number"]), [_value(option) for option in question.options]
    return at in values and (at > len(values) or values[at - 1] != at)


def _with_letters(reply: str, question: Question) -> str:
    """The text with "option B" for "the second option", unless options are numbers or contain "first" or the like."""
    bare = _BARE_PLACE.fullmatch(reply)
    if bare is not None and not any(map(_BARE_PLACE.search, question.options)):
        at = _PLACES[bare["place"].lower()] % len(question.options)
        return f"option {letter(at)}" if _PLACES[bare["place"].lower()] < len(question.options) else reply
    if len(reply) > _MOST_ORDINAL_CHARS or not _NTH.search(reply) or any(map(_NTH.search, question.options)):
        return reply
    numbered = question.labels or any(_value(option) is not None for option in question.options)

    def lettered(found: re.Match[str]) -> str:
        if found["number"] and numbered:
            return found.group()
        if place := found["place"]:
            at = _PLACES[place.lower()]
        else:
            sign = found["nth"] or found["ja"] or found["number"]
            at = _CHINESE_PLACES.find(sign) if sign in _CHINESE_PLACES else int(sign) - 1
        at = len(question.options) - 1 if at < 0 else at
        return f"option {letter(at)}" if at < len(question.options) else found.group()

    return _NTH.sub(lettered, reply)


_MOST_ORDINAL_CHARS = 2_000
_ROMAN = re.compile(r"\W*(?:I{1,3}|IV|VI{0,3}|IX|X)\W*")
_ROMAN_WORD = re.compile(r"(?<![\w'])(?:I{1,3}|IV|VI{0,3}|IX|X|(?<=\()(?:i{1,3}|iv|vi{0,3})(?=\)))(?![\w'])")
_SAYS_I = pattern(r"\s+(?!is\b|or\b|and\b|holds\b|fits\b|,)[a-z]")


def _by_roman(reply: str, question: Question) -> Reading:
    """For options that are Roman numerals: the only one that a text names, or the option of its only letter."""
    names = [option.strip("().").strip() for option in question.options]
    found = [
        one.group().upper()
        for one in _ROMAN_WORD.finditer(before_reasons(reply))
        if not (one.group() == "I" and _SAYS_I.match(reply, one.end()))
    ]
    named = {names.index(one) for one in found if one in names}
    if len(named) == 1:
        at = named.pop()
        return Answer(names[at], letter(at))
    return Blank.UNCLEAR if named else _by_letter(reply, question)


# --- numbers of numbered options --------------------------------------------------------------------------------------

_LABELLED = re.compile(
    r"\W*+(?:(?:the )?(?:correct |final )?(?:option|answer|choice|number)\s*+(?:(?:is|:)\s*+)?[(\[]?)?"
    r"(?P<label>\d{1,2})\b[)\].:]?"
    r"(?:\s++is (?:correct|right|the answer))?(?P<rest>(?:(?:[\s\-–—:]{2,}+|[\s\-–—:]\D).*+)?)\W*+",
    re.IGNORECASE,
)


def _by_label(reply: str, question: Question) -> Answer | None:
    """The option whose number is the whole short reply, unless that number is the text of an option."""
    found = _LABELLED.fullmatch(reply) if question.labels else None
    if found is None or found["label"] not in question.labels or len(reply.split()) > MOST_WORDS:
        return None
    index = question.labels.index(found["label"])
    if any(_value(option) == int(found["label"]) for option in question.options):
        return None
    named = mentioned(found["rest"], question.options) if found["rest"].strip() else {index}
    return Answer(reply.strip().rstrip(".").strip(), letter(index)) if named == {index} else None


# --- letters ----------------------------------------------------------------------------------------------------------


def _by_letter(reply: str, question: Question) -> Reading:
    found = mentions(reply, letter(len(question.options) - 1))
    if found is None:
        return Blank.UNCLEAR
    claim = len(before_reasons(reply)) if len(before_reasons(reply).split()) <= SHORT_WORDS else 0
    # in a few words a letter counts even if it is not marked as decided: it has no other purpose
    decided = [one for one in found if one.decided] or [one for one in found if _named(reply, one, question)]
    decided = decided or [one for one in found if one.end <= claim and not one.described]
    picked = {one for mention in decided for one in mention.letters}
    if len(picked) != 1:
        return Blank.UNCLEAR if picked or any(one.described for one in found) else Blank.NOTHING
    chosen = decided[0]
    listed = {one for mention in found if mention.listed and mention is not chosen for one in mention.letters}
    enumerated = chosen.listed and listed - picked and not picked & listed
    doubted = any(_OR.search(reply[: one.start]) for one in found)
    if enumerated or doubted or _contradicts(reply, chosen, question):
        return Blank.UNCLEAR
    return Answer(_as_written(reply, chosen), picked.pop())


def _named(reply: str, mention: Mention, question: Question) -> bool:
    """Whether the letter's own option follows it: "(D) a dog"."""
    if len(mention.letters) != 1:
        return False
    option = _option_core(question.options[ord(min(mention.letters)) - ord("A")])
    return _core(reply[mention.end : mention.end + 2 * len(option) + 20]).startswith(option)


def _contradicts(reply: str, mention: Mention, question: Question) -> bool:
    """Whether the words beside the letter are those of another option: "B. red" if red is A."""
    before, after = reply[: mention.start].rsplit("\n", 1)[-1], reply[mention.end :].split("\n", 1)[0]
    beside = before_reasons(f"{before} {after}")
    meant = mentioned(beside, question.options) if len(beside.split()) <= SHORT_WORDS else set()
    return len(meant) == 1 and not {letter(index) for index in meant} & mention.letters


def _as_written(reply: str, mention: Mention) -> str:
    """The letter, with its option's words if they follow it on the same line."""
    line = reply[mention.start :].split("\n", 1)[0]
    followed = len(line.split()) <= 12 and re.match(r".{1,3}?[.):]\s*\S", line)
    if not followed or reply[: mention.start].endswith(("(", "[")):
        return reply[mention.start : mention.end]
    return line.strip().rstrip(".").strip()


# --- words ------------------------------------------------------------------------------------------------------------


def _by_words(reply: str, question: Question) -> Reading:
    """The option that is the whole text, its claim, its number, or a mention; the latter in a short text only."""
    options = [_option_core(option) for option in question.options]
    parts = sentences(before_reasons(reply)) or [reply]
    claim = claimed(parts[0], question.text) if len(parts) == 1 else parts[0]
    longest = max(_MOST_SAME_CHARS, *(2 * len(option) for option in question.options))
    for candidate in (reply, before_reasons(reply), parts[0], claim):
        if len(candidate) > longest:
            continue
        core = _core(unquoted(candidate))
        same = [i for i, option in enumerate(options) if core == option]
        if len(same) == 1:
            return Answer(unquoted(candidate), letter(same[0]))
    polar = _by_polarity(reply, question)
    if polar is not Blank.NOTHING:
        return polar
    values = [_value(option) for option in question.options]
    if None in values:
        return _by_mention(reply, question)
    reading = number.read(reply, question)
    if not isinstance(reading, Answer):
        return reading
    return one_of([Answer(reading.text, letter(i)) for i, value in enumerate(values) if value == reading.value])


def _by_mention(reply: str, question: Question) -> Reading:
    """The only option that the sentences name and do not deny; sentences that look before they answer do not count."""
    readings = list[Reading]()
    for sentence in asserted(sentences(reply)):
        claim = before_reasons(sentence)
        short = len(sentence.split()) <= MOST_WORDS and not _ON_THE_WAY.match(sentence)
        if not (short or _SHOWN.search(claim) or (len(claim) <= _MOST_SAME_CHARS and is_about(claim, question.text))):
            continue
        named = mentioned(claim, question.options)
        if len(named) > 1:
            return Blank.UNCLEAR
        readings += [Answer(unquoted(claim), letter(index)) for index in named]
    values = {reading.value for reading in readings if isinstance(reading, Answer)}
    if len(values) > 1 or len(reply) > _MOST_MENTIONING_CHARS:
        return Blank.UNCLEAR
    return readings[-1] if readings else Blank.NOTHING


def _core(text: str) -> str:
    """The words of an option for comparison: without a leading "because"."""
    return normalise(text).removeprefix("because ")


def _by_polarity(reply: str, question: Question) -> Reading:
    """If the options are yes and no only: the one that the text states."""
    if len(question.options) != 2 or any(len(option) > _MOST_POLAR_CHARS for option in question.options):
        return Blank.NOTHING
    readings = [words.read_yes_no(option, question) for option in question.options]
    values = [reading.value for reading in readings if isinstance(reading, Answer)]
    if sorted(map(str, values)) != ["no", "yes"]:
        return Blank.NOTHING
    reading = words.read_yes_no(reply, question)
    return Answer(reading.text, letter(values.index(reading.value))) if isinstance(reading, Answer) else reading


# --- letters in prose -------------------------------------------------------------------------------------------------


_AND = any_of("and or und oder et ou y o e en of и или أو و")
_OR = pattern(
    r"(?:\b(?:or|oder|ou|o)|或者?|または|か)\s?(?:(?:maybe|perhaps|possibly|peut-être|quizás?|vielleicht) )?[(\[]?$"
)
_MAYBE = r"(?:(?:maybe|perhaps|even|also)\s+)?(?:option\s+)?"
_JOIN = rf"\s*(?:,\s*(?:and|or)\b|[,、/&+]|\b{_AND}\b|或者?|[和与與と]|还是|または|와|과)\s*{_MAYBE}"
_NAMED = pattern(r"(?:options?|choices?|answer|letter|opción|antwort|réponse|respuesta)\s+$")

# After a bare A these words show that it is the letter, not the article.
_VERBS = any_of(
    """is was are and or because since as would seems looks matches but not must should can cannot does has es est ist
    sont stimmt passt"""
)
_AFTER_A = re.compile(rf"\s+(?![a-z])(?![A-Z][a-z])|\s+{_VERBS}\b|\S|$")

# "vitamin C", "point A": the letter belongs to the noun.
_NOUNS = any_of(
    """vitamin hepatitis plan point type figure fig\\.? line angle group class grade team player part section row column
    cell node block panel person car box room gate platform labell?ed label marked object circle region area
    image picture"""
)
_OWNED = pattern(rf"\b{_NOUNS}\s+$")

# Words before or after the letter that a reply decides on.
_CHOOSING = any_of(
    """is be was it's that's choose chose pick picked select selected say guess think believe go_with going_with go_for
    favou?r prefer match matches indicates? means corresponds?_to points?_to leans?_towards? leaning_towards? therefore
    thus hence so but rather probably likely definitely clearly certainly namely maybe perhaps leaves leaving
    picked: selected: chosen: final: correct: ist wähle nehme richtig_ist also sondern est choisis pencherais_pour
    c'est mais donc es elijo escojo quedo_con sino así_que"""
)
_NOUN_OF_IT = r"(?:(?:the|my|la|l'|die)\s*)?(?:(?:letter|option|choice|answer|antwort|opción|respuesta|réponse)\s+)?"
_DECIDING = pattern(rf"(?:\b{_CHOOSING}|->|→|=>|选择?|選擇?|是|为|為|は|而是)[\s,:*\"'“(]*{_NOUN_OF_IT}$")
_SEEMS = any_of("is would_be must_be should_be seems looks appears")
_VERY = any_of("to_be the my clearly most more also probably likely indeed")
_FITS = any_of("correct right true best better accurate answer it")
_DECIDED = pattern(
    rf"[\s,:)\]*.\"'”]{{0,3}}\s?{_SEEMS}\s+(?:{_VERY}\s+){{0,3}}{_FITS}\b",
    r"[\s,:)\]*.\"'”]{0,3}(?:\s?(?:fits|matches)\b(?: best)?|\s(?:ist (?:die )?(?:richtig|korrekt)|stimmt\b|passt\b)"
    r"|\s(?:est (?:la )?(?:bonne|correcte|juste)|es (?:la )?(?:correcta|respuesta correcta))|才?(?:是)?(?:正确|正確"
    r"|对的?|對)"
    r"|が(?:正し|正解)|を選|项|項|\s?[-:–]?\s?(?:✓|✔|✅|yes\b|right\b|correct\b)|\?\s(?:yes|ja|oui|sí)\b)",
)

# Words before or after the letters that a reply rules out.
_NO_CHOICE = r"not|n't|\bcannot|\bnever|\bneither|\bnor"
_AGAINST = any_of(
    """rather_than instead_of except excluding eliminat(?:e|es|ed|ing) rul(?:e|ed|es|ing)_out unlike reject(?:s|ed|ing)?
    than against discard(?:s|ed|ing)? exclu(?:de|des|ded) incorrect: wrong: descartar éliminer"""
)
_DENYING = pattern(
    r"(?:不是|並非|并非|排除)\s?$",
    r"(?:\bnicht|\bkein|\bpas|\bniet|\bне|^no|[.,;:\n]\s?no|\bno es)\s$",
    rf"(?:{_NO_CHOICE}|\b{_AGAINST}):?\s+(?:(?!(?:but|only|sure)\b)[\w']+\s+){{0,4}}$",
)
_IS = any_of("is are was were can could would should must does do did seems? looks? appears?")
_WRONG = any_of("wrong incorrect false eliminated ruled_out excluded discarded rejected impossible invalid")
_DENIED = pattern(
    rf"[\s:)\]*\"'”]{{0,3}}\s?(?:(?:{_IS}\s+(?:\w+\s+){{0,2}})?{_WRONG}\b"
    rf"|{_IS}(?:n't|\s+(?:(?:clearly|both|also|definitely)\s+)?not)\b|cannot\b|can't\b|is out\b|would break\b)",
    r"[\s:)\]*\"'”]{0,3}(?:can (?:be|all be) (?:excluded|eliminated|ruled out)|ist falsch|scheidet aus|passt nicht"
    r"|est fausse|est incorrecte"
    r"|ne convient pas|es (?:incorrecta|falsa)|no encaja|(?:都)?(?:不对|不對|错|錯|不正确|是错|被排除)|では(?:な"
    r"|あり)|は(?:間違|誤|違)"
    r"|\s?[-:–]\s?(?:no|wrong|incorrect|false)\b|\s?[✗✘❌×]|\?\sno\b)",
)
_SHOWS = any_of(
    """shows? depicts? displays? contains? describes? represents? refers? mentions? states? says? has have
    corresponds?"""
)
_DESCRIBED = pattern(rf"[\s)\]]{{1,2}}{_SHOWS}\b")

_ONE = re.compile(r"[A-Z](?![A-Za-z])|(?<=[(\[])\s?[a-z](?=\s?[)\]])")
_OPENS = pattern(r"[\W_]*+(?:(?:the )?(?:correct |final )?(?:option|choice|answer|letter)\s?)?[\W_]*+")
_OPENING_CHARS = 80
MOST_MENTIONS = 200
_STOPS = pattern(r"[\s*\"'”]*(?:$|[.,:;)\]\n–—-]|because\b|since\b|as\b|\(|[^\x00-\x7f])")
_CLOSES = re.compile(r"[\s*.!]*(?:$|\n)|[.!]\s")
_LISTS = re.compile(r"\s?[.:)]\s*\S")


@dataclass(frozen=True)
class Mention:
    """One or several joined letters at [start, end), and their role in the reply.

    `decided`: picked. `listed`: formatted like the head of an enumeration ("A. red"). `described`: the reply only
    describes their content.
    """

    start: int
    end: int
    letters: frozenset[str]
    decided: bool = False
    listed: bool = False
    described: bool = False


def mentions(reply: str, last: str) -> list[Mention] | None:
    """The letters from A to `last` that a text mentions and does not rule out; None if there are too many."""
    either = f"A-{last}a-{last.lower()}"
    alone = re.fullmatch(rf"\W*(?:(?:option|choice|answer|letter)\b[\s:]*)?[(\[]?([{either}])\W*", reply, re.IGNORECASE)
    if alone is not None:
        return [Mention(*alone.span(1), frozenset(alone[1].upper()), decided=True)]
    one, named = rf"(?:[(\[]\s?[{either}]\s?[)\]]|[A-{last}])", r"(?:(?<=[Oo]ption )|(?<=[Cc]hoice ))"
    free = r"(?![A-Za-zÀ-ÿ0-9_])"
    group = re.compile(rf"(?<![A-Za-zÀ-ÿ0-9_'\\])(?:{one}(?:{_JOIN}{one}{free})*|{named}[{either}]){free}(?!'[a-z])")
    found = list(islice(group.finditer(reply), MOST_MENTIONS + 1))
    if len(found) > MOST_MENTIONS:
        return None
    return [_mention(reply, one) for one in found if _is_letter(reply, one) and not _is_denied(reply, one)]


def _is_letter(reply: str, found: re.Match[str]) -> bool:
    """Whether a bare letter is an option's letter, and no article, pronoun or name."""
    if found.group()[0] in "([":
        return True
    before = reply[max(0, found.start() - 40) : found.start()]
    named = _NAMED.search(before) is not None
    if found.group() == "A" and not _AFTER_A.match(reply, found.end()):
        return named and not reply[found.end() : found.end() + 2].strip().islower()
    return found.group() != "I" and (named or not _OWNED.search(before))


def _is_denied(reply: str, found: re.Match[str]) -> bool:
    before = _NAMED.sub("", reply[max(0, found.start() - 40) : found.start()])
    before = re.sub(r"[(\[\"'“]+$", "", re.sub(r"\b(?:the|both|either)\s+$", "", before))
    return bool(_DENYING.search(before) or _DENIED.match(reply, found.end()))


def _mention(reply: str, found: re.Match[str]) -> Mention:
    (start, end), bare = found.span(), found.group()[0] not in "(["
    sure = bool(_DECIDING.search(reply[max(0, start - 40) : start]) or _DECIDED.match(reply, end))
    line = reply.rfind("\n", max(0, start - _OPENING_CHARS - 1), start) + 1
    near = line > 0 or start <= _OPENING_CHARS
    stops = _STOPS.match(reply, end) or (not bare and reply[end : end + 2].strip().isupper())
    opens = near and _OPENS.fullmatch(reply, line, start) and stops
    closes = not bare and _CLOSES.match(reply, end)
    heads = _LISTS.match(reply, end) or not (bare or closes)
    return Mention(
        *found.span(),
        letters=frozenset(one.strip().upper() for one in _ONE.findall(found.group()))
        or frozenset(found.group().upper()),
        decided=sure or bool(opens or closes),
        listed=bool(heads) and not sure,
        described=_DESCRIBED.match(reply, end) is not None,
    )
