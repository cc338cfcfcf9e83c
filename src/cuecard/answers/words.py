"""Answers in words: yes or no, short texts, whole texts."""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

from cuecard.answers.text.claims import HEDGED, claimed, presence, spoken
from cuecard.answers.text.markup import (
    LANGUAGES,
    any_of,
    asserted,
    before_reasons,
    normalise,
    pattern,
    plain,
    sentences,
    unquoted,
    without_s,
    word_count,
)
from cuecard.answers.text.statements import answerable, not_given, one_of, refuses
from cuecard.domain.question import UNPARSED, Answer, Blank, Question, Reading

_BEFORE, _AFTER = r"(?:^|[\s,;:/—–\"“(])", r"(?=\s*(?:$|[.,;:!?/)\"”—–]|(?:and|or|but)\b))"
_ALONE = {
    True: pattern(rf"\byes\b|{_BEFORE}(?:yeah|sí|oui|ja|sim){_AFTER}"),
    False: pattern(rf"{_BEFORE}(?:no|nope|nein|non|nee|não){_AFTER}"),
}
_EITHER = r"(?:yes|no|true|false)"
_BOTH = pattern(
    rf"\b{_EITHER}\s?(?:and|or|/|&)\s?{_EITHER}\b|\bneither\s+{_EITHER}\b",
    r"\b(?:ja (?:und|oder) nein|sí [yo] no|oui (?:et|ou) non)\b|是也不是|是的?或者?(?:不是|否)|(?:不是|否)或者?是",
    r"はい[^。]{0,8}いいえ|いいえ[^。]{0,8}はい(?![まなた])",
)
_DENIED = pattern(r"(?:\bnot|n't)\s+(?:(?:an?|simply|exactly)\s+)?[\"'“]?(?:yes|no)\b")
_ENDS = pattern(
    r"(?:\b(?:is|be|say|answer|so|think|with|thus|hence|therefore|it's|that's)|[,:;—–>])\s*(?:an?\s+)?"
    rf"(?:(?:definite|clear)\s+)?[\"'“(]?(?P<word>{_EITHER})[\"'”).!]*$"
)
_AUXILIARY = "is are was were am be do does did can could has have had will would should must may might"
_AUXILIARIES = {*_AUXILIARY.split(), "ist", "sind", "est", "está", "es"}
_MOST_SENTENCES = 200


def read_yes_no(text: str, question: Question) -> Reading:
    """Yes or no, at the beginning or end of a text; UNCLEAR if both occur, or if it refuses. "Not yes" is not no."""
    reply = plain(text)
    parts = asserted(sentences(reply))
    if not parts:
        return Blank.NOTHING
    if _BOTH.search(reply) or _DENIED.search(reply):
        return Blank.UNCLEAR
    first = polarity(reply)
    if first is not None:
        doubtful = (not first and refuses(parts[0])) or _ALONE[not first].search(reply)
        return Blank.UNCLEAR if doubtful else _yes_or_no(parts[0], first)
    if len(parts) > _MOST_SENTENCES:
        return Blank.UNCLEAR
    said = one_of([_sentence(part, question) for part in parts])
    if said is Blank.NOTHING and refuses(reply):
        left = answerable(reply)
        return read_yes_no(left, question) if left.strip() and not refuses(left) else Blank.UNCLEAR
    return said


def _sentence(sentence: str, question: Question) -> Reading:
    """One sentence that is not the first: a yes or no alone, at its end or ending a clause, or a statement."""
    if len(sentence.split()) <= 2 and (alone := polarity(sentence)) is not None:
        return _yes_or_no(sentence, alone)
    ending = _ENDS.search(sentence)
    if ending is not None:
        return _yes_or_no(ending["word"], ending["word"].lower() in ("yes", "true"))
    word, rest = _word(_start(sentence))
    opened = _CLEAR[word] if word in _CLEAR and _stops(rest) else _spaceless(_start(sentence))
    if opened is not None:
        return _yes_or_no(sentence, opened)
    stated = presence(sentence, question.text)
    if stated is None and not refuses(sentence):
        stated = _echo(sentence, question)
    return Blank.NOTHING if stated is None else _yes_or_no(sentence, stated)


def _echo(sentence: str, question: Question) -> bool | None:
    """Whether a statement affirms or denies the question in its own words and order: "The digit is (not) red."

    The auxiliary may move and the subject may be a pronoun, nothing else: "B is larger than A" does not answer "Is A
    larger than B?". Text after a comma is ignored: "The car is not red, it is blue".
    """
    asked = _asked(question.text)
    if not asked or asked[0] not in _AUXILIARIES or len(asked) < 3 or HEDGED.search(sentence):
        return None
    clause = _IT_IS.sub(r"\1 is", _NOT.sub(" not", _CLAUSES.split(sentence)[0]))
    stated = normalise(clause).split()
    negations = sum(word in _NEGATIONS for word in stated)
    rest = [without_s(word) for word in stated if word not in _NEGATIONS and word not in _HELPERS]
    wanted = [without_s(word) for word in asked[1:] if word not in _HELPERS]
    same = rest == wanted
    if rest[:1] and rest[0] in _PRONOUNS and len(rest) > 1:
        same = same or any(rest[1:] == wanted[at:] for at in range(1, min(4, len(wanted))))
    return not negations if same and negations <= 1 else None


_CLAUSES = pattern(r",|;|\b(?:but|sondern|mais|sino)\b")
_NOT, _IT_IS = re.compile(r"n't\b|(?<=can)not\b"), pattern(r"\b(it|that|he|she|there)'s\b")
_NEGATIONS = {"not", "no", "nicht", "kein", "keine", "pas", "ne", "n"}
_HELPERS = {*_AUXILIARIES, "two", "both", "ist", "sind", "est", "sont", "es", "son", "está", "están"}
_PRONOUNS = {"it", "they", "he", "she", "that", "this", "these", "those", "es", "sie", "er", "il", "elle", "ils"}


@lru_cache(maxsize=64)
def _asked(text: str) -> tuple[str, ...]:
    """The words of a question's last sentence, cached for the next sentence of a reply."""
    return tuple(normalise((sentences(plain(text)) or [""])[-1]).split())


def _yes_or_no(text: str, value: bool) -> Answer:
    return Answer(text.strip().rstrip(".").strip(), "yes" if value else "no")


# --- yes and no in many languages -------------------------------------------------------------------------------------


# "Da der Ball rot ist …", 네 개 (four): words with other meanings count only alone, or before punctuation.
_CLEAR, _ALONE_OR_STOPPED = (
    {word: yes for key, yes in ((f"yes{kind}", True), (f"no{kind}", False)) for word in LANGUAGES[key].split()}
    for kind in ("", "_alone")
)
_SPACELESS = re.compile(r"[\u3040-\u30ff\u4e00-\u9fff\u0e00-\u0e7f]")
# 没有 as no is ambiguous; 不是很 (not very); 是的话 (if so)
_UNSAID = re.compile(r"[没沒]有(?:办法|辦法|足够|足夠|提供|图|圖)|不是很|是的话|ใช่ไหม")
# "no idea", "no doubt", "no image": neither yes nor no
_WHAT = any_of(
    """idea clue answer comment information image picture data doubt problems? worries matter wonder way need
    response"""
)
_NO_WHAT = pattern(rf"\s+{_WHAT}\b")
_DONT_KNOW = pattern(r"\s*(?:sé|so\b|sei|lo sé|أعرف|أدري|أستطيع|يمكن|יודע)")
_SURELY = any_of("certainly definitely absolutely of_course clearly obviously probably most_likely likely surely")
_TRUE = r"(?:true|correct|right|the case|so)\b"
_SURELY_NOT = pattern(
    rf"(?:{_SURELY}|i guess|maybe) not\b|not that i (?:can|could) "
    rf"|not (?:really|at all|quite|{_TRUE}(?! that\b))|i (?:don't|do not) think so\b",
    r"(?:i (?:don't|do not|can't|cannot) (?:see|find|spot) (?:one|any)\b|ich sehe keine[nrs]?\b)(?=\W*$)",
    rf"(?:that|it|this|which)(?:'s| is| was) (?:not {_TRUE}|(?:false|incorrect|wrong|untrue)\b)(?!\s(?:that|to)\b)",
    rf"(?:that|it|this) (?:isn't|wasn't) {_TRUE}(?! that\b)",
)
_SO = pattern(rf"i (?:think|believe|guess) so\b|(?:that|it|this)(?:'s| is) {_TRUE}")
_SUBJECT = any_of("it this that there they he she these those you we i")
_POLAR_VERB = any_of("is are was were does do did has have had can could will would should")
_BARE = pattern(rf"(?:{_SUBJECT} {_POLAR_VERB}(?P<not> not|n't|not| none)?|of course|for sure|very much so)\W*$")
_LEAD = pattern(
    rf"(?:well|so|hmm|oh|ok|okay|जी|{_SURELY}"
    r"|(?:i|i'd|i would|we)\s?(?:think|believe|would say|guess|say|'d say)(?: that)?(?: the answer is)?"
    r"|(?:it|that|this|the answer)(?:'s| is| would be| must be| should be)(?: an?| definitely| clearly| certainly)*"
    r"|(?:sure|great question|thanks?|good question)[!.](?=.*\w))\s*[,:;!—–-]*\s+"
)


def polarity(text: str) -> bool | None:
    """True or False if a text begins with a yes or a no, else None."""
    opening = _start(text)
    for _ in range(3):
        found = _first(opening)
        if found is not None:
            return found
        lead = _LEAD.match(opening)
        if lead is None:
            return None
        opening = _start(opening[lead.end() :])
    return None


def _start(text: str) -> str:
    """The text in lower case, without the characters before the first word."""
    text = unicodedata.normalize("NFKC", text[:400]).replace("’", "'").casefold()
    return re.sub(r"^[^\w]+", "", text)


def _first(opening: str) -> bool | None:
    bare = _BARE.match(opening)
    if bare is not None:
        return bare["not"] is None
    if _SURELY_NOT.match(opening):
        return False
    if _SO.match(opening):
        return True
    word, rest = _word(opening)
    if word in _CLEAR:
        empty = not _CLEAR[word] and (_NO_WHAT.match(rest) or _DONT_KNOW.match(rest))
        return None if empty or rest.startswith("-") else _CLEAR[word]
    return _ALONE_OR_STOPPED[word] if word in _ALONE_OR_STOPPED and _stops(rest) else _spaceless(opening)


def _spaceless(opening: str) -> bool | None:
    """Chinese, Japanese and Thai have no spaces: 是的 and 不是 count as beginnings, 是 and 不 only alone."""
    if not _SPACELESS.match(opening):
        return None
    for word in sorted(_CLEAR, key=len, reverse=True):
        if _SPACELESS.match(word) and opening.startswith(word):
            return None if _UNSAID.match(opening) else _CLEAR[word]
    return True if re.match(r"是(?![否不])", opening) else None


def _word(opening: str) -> tuple[str, str]:
    others = (i for i, char in enumerate(opening) if unicodedata.category(char)[0] not in "LM" and char != "\u200d")
    end = next(others, len(opening))
    return opening[:end], opening[end:]


def _stops(rest: str) -> bool:
    """Whether a word ends the text, or one of its clauses."""
    return re.match(r"\s*(?:$|[.,;:!?)\"\]/、。，！؛،।…—–]|-\s|\n|but\b|and\b)", rest) is not None


# --- short texts and whole texts --------------------------------------------------------------------------------------


MOST_WORDS = 15
_MOST_BARE_WORDS = 3  # of a first sentence that is a complete answer, with others after it
MOST_NORMALISED_CHARS = 20_000
"""Maximum length of a whole text that is compared without case and punctuation."""
_PLEASANTRY = pattern(
    r"(?:(?:sure|certainly|of course|okay|ok|great question|yes)(?: thing)?[!,.:]\s+"
    r"|i(?:'d| would)? (?:think|believe|guess|say)(?: that)?,?\s+|in my opinion,?\s+|it seems(?: that)?\s+)+"
)
_IN_COLOUR = pattern(r"(?<!\s)\s++in colou?r$")
_QUOTED = re.compile(r"[\"“«「„](?P<text>[^\"“”«»「」„]{1,200})[\"”»」“]")
_SAYING = any_of("says? said reads? written word text title name called is displays? shows? answer")
_QUOTES_IT = pattern(rf"\b{_SAYING}\b\W*$")
_ASKS_KIND = pattern(
    r"\b(?:what|which) (?:colou?r|brand|kind|type|make|size|shape|material|breed)"
    r" (?:is|of) (?:the|this|that) (?P<noun>\w+)"
)
_DENIES_WORDS = pattern(
    r"^(?:it|this|that|the \w+(?: \w+)?) (?:does not|doesn't|do not|did not|didn't) (?:say|read|show|display)\b"
)
_BUT_SAYS = pattern(r"[,;]\s(?:but\s)?(?P<says>it\s(?:says|reads|shows|displays)\s.+)")
_LABEL = re.compile(r"(?:the )?(\w+)\s?:\s+(?=\S)", re.IGNORECASE)
_SAYS = pattern(r"\b(?:says?|reads?|written|printed|displays?|text|words?)\b")
_ASKS_WORDS = pattern(r"\b(?:say|says|read|reads|written|printed|word|text|title|sign|label)\b")
# Beginnings of a reply that looks before it answers.
_LOOKING = any_of(
    """let let's first looking based according okay alright step given starting start i i'm i'll we to read
    check compare identify find locate observe examine sehen schauen zunächst zuerst regardons d'abord lire
    miremos primero leer"""
)
_ON_THE_WAY = pattern(
    rf"(?:{_LOOKING}|das bild|here(?:'s| is)|\w+(?:emos|amos|ons)|\w+en wir)\b",
    r"(?:先|首先|下面|让我们|我们|我先|阅读|观察|仔细|まず|それでは|画像をよく|細部|質問を)",
)
_SENTENCE = pattern(
    r"(?:i|i'\w+|we|you|unfortunately|sorry|please|there|this|nothing|leider|ich|wir|je|j'\w+|on (?:ne|peut|voit)"
    r"|nous|malheureusement|désolé"
    r"|pardon|yo|lamentablemente|perdón|dazu|il manque|aucune|la imagen|l'image"
    r"|the (?:question|image|picture|photo|text|resolution|relevant))\b",
    r"(?:从图|图片|我|请|画像|写真|残念|很遗憾|抱歉)",
)
"""Beginnings of sentences that are no short answer, unless they state what something is."""
_FINITE = pattern(
    r"\b(?:is|are|was|were|has|have|had|can|could|will|would|does|did|sees?|shows|appears|seems|looks|ist|sind|war|hat|kann"
    r"|wird|zeigt|sieht|liegt|steht|est|sont|peut|montre|voit|está|hay|tiene|puede|muestra)\b"
)
_SET_OFF = re.compile(
    r"\s*(?:\*\*[^*\n]{1,80}\*\*|`[^`\n]{1,80}`|\([^()\n]{1,80}\)|\"[^\"\n]{1,80}\")(?=\s+[A-ZÀ-Þ\u3040-\u9fff])"
)
"""An answer separated without a full stop from the sentence after it."""
_IT_IS_SAID = pattern(
    r"(?:it|this|that|he|she|they|es|c|c'est|ce|er|sie)\b|(?:是|这是|これは|それは)|[^はがを、]{1,12}です\W*$"
)
_GERMAN_ARTICLE = re.compile(r"^(?:der|die|das|den|dem)\s+(?=[A-ZÄÖÜ])")
_SAID_LAST = pattern(
    r"\s(?:sagen|tippen|meinen|nehmen|zu sehen)\W*$|,?\s(?:i|je|ich|creo) ?(?:think|believe|guess|crois|pense|glaube"
    r"|que)?\W*$|(?:だと思います|と思います|になります|です|でした|である)\W*$"
)
_OFFERS_TWO = pattern(
    r"\b(?:either|or|entweder|oder|ou|soit|both possible)\b|^o .+ o |\S o \S|\b(?:vielleicht|peut-être|quizás|maybe"
    r"|perhaps)\b"
    r"|[\u30a0-\u9fff]か[\u30a0-\u9fff]|或|也许|または|かもしれ|\b(?:are|sind|sont|son) (?:both|beide|tout\w+"
    r"|posibles)\b|都有可能|両方|どちらか"
)


def read_short_text(text: str, question: Question) -> Reading:
    """The few words of a text's answer; UNCLEAR if the text is longer than that, offers two, or refuses."""
    set_off = _SET_OFF.match(text)
    phrase = plain(set_off[0] if set_off else text)
    polite = _PLEASANTRY.match(phrase)
    phrase = phrase[polite.end() if polite else 0 :]
    phrase = answerable(phrase) if normalise(phrase) else phrase
    parts = [before_reasons(part) for part in asserted(sentences(phrase))]
    if parts and all(_DENIES_WORDS.search(part) for part in parts):
        contrast = _BUT_SAYS.search(parts[0]) if len(parts) == 1 else None
        if contrast is None:
            return Blank.UNCLEAR
        parts = [contrast["says"]]
    parts = [part for part in parts if not _DENIES_WORDS.search(part)] or parts
    if not parts or not_given(_QUOTED.sub("", phrase)):
        return Blank.UNCLEAR
    if _ASKS_WORDS.search(question.text) and len(set(_QUOTED.findall(phrase))) == 1:
        return _answer(_QUOTED.findall(phrase)[0], question)
    if _ASKS_WORDS.search(question.text):
        parts = [part for part in parts if _SAYS.search(part)] or parts
    if len(parts) == 1:
        return _claim(parts[0], question)
    bare = word_count(parts[0]) <= 2 and not _ON_THE_WAY.match(parts[0])
    named = {} if bare else {claim: part for part in parts if (claim := claimed(part, question.text, strict=True))}
    if len(named) == 1:
        return _claim(next(iter(named.values())), question)
    if named:
        return Blank.UNCLEAR
    if word_count(parts[0]) <= _MOST_BARE_WORDS and not _ON_THE_WAY.match(parts[0]):
        return _claim(parts[0], question)
    said = [part for part in parts if _IT_IS_SAID.match(part) and claimed(part, question.text) != unquoted(part)]
    return _claim(said[0], question) if len(said) == 1 else Blank.UNCLEAR


def _claim(sentence: str, question: Question) -> Reading:
    quoted = _QUOTED.findall(sentence)
    if len(quoted) == 1:
        before = sentence[: sentence.index(quoted[0]) - 1]
        if _QUOTES_IT.search(before) or _ASKS_WORDS.search(question.text):
            return _answer(quoted[0], question)
    labelled = _LABEL.match(sentence)
    if labelled and labelled[1].lower() in spoken(question.text):
        sentence = sentence[labelled.end() :]
    claim = claimed(sentence, question.text)
    if claim == unquoted(sentence) and word_count(claim) > 2:
        said = _FINITE.search(claim) and not _ASKS_WORDS.search(question.text)
        if said or _SENTENCE.match(claim):
            return Blank.UNCLEAR
    return _answer(claim, question)


def _answer(text: str, question: Question) -> Reading:
    phrase = _GERMAN_ARTICLE.sub("", unquoted(_SAID_LAST.sub("", _IN_COLOUR.sub("", unquoted(text)))))
    words = phrase.split()
    kind = _ASKS_KIND.search(question.text)
    if len(words) > 1 and kind and words[-1].lower() == kind["noun"].lower():
        words = words[:-1]
        phrase = " ".join(words)
    if not words or not normalise(phrase):
        return Blank.NOTHING
    if len(words) > MOST_WORDS or _offers_two(phrase, question):
        return Blank.UNCLEAR
    return Answer(phrase, normalise(phrase))


def _offers_two(phrase: str, question: Question) -> bool:
    """Whether the text leaves it open: "red or blue", but no title ("Trick or Treat") or phrase of the question."""
    if not _OFFERS_TWO.search(phrase) or phrase.lower() in question.text.lower():
        return False
    first, *rest = phrase.split()
    written = len(rest) == 2 and first[0].isupper() and rest[-1][0].isupper() and first.lower() not in ("either", "o")
    return not (written and _ASKS_WORDS.search(question.text))


def read_free_text(shown: str, question: Question) -> Answer:
    """The whole reply; a very long one is compared unchanged, a short refusal is unparseable."""
    if len(shown) > MOST_NORMALISED_CHARS:
        return Answer(shown, shown)
    value = normalise(shown)
    refusal = len(shown.split()) <= 40 and refuses(sentences(shown)[0])
    return Answer(shown, value) if value and not refusal else UNPARSED
