"""Whether a sentence affirms that something is present: "A dog is visible." for "Is there a dog?"."""

from __future__ import annotations

import re
from functools import lru_cache

from cuecard.answers.text.language import CJK
from cuecard.answers.text.markup import any_of, pattern, plain, sentences

_SOME = r"(?:(?:an?|any|some|the|one|ein\w*|une?|des|un[ao]s?|algún|alguna?|ningún|ninguna?)\s)?"
_MEDIA = any_of("image picture photo photograph figure chart scene bild foto imagen l'image la_photo la_foto")
_IN_IT = rf"(?:(?:in|on|from|auf|sur|dans|en) )?(?:this|that|the|dem|der|l'|la|le)?\s?{_MEDIA}"
_ASKS = pattern(
    rf"^(?:is|are) there {_SOME}(?P<is>.+)",
    rf"^(?:can|do) (?:you|we|i) (?:see|spot|find) {_SOME}(?P<see>.+)",
    rf"^(?:does|do) (?:the|this|that) {_MEDIA} (?:show|contain|have|include|depict|feature) {_SOME}(?P<shows>.+)",
    rf"^(?:is|are) {_SOME}(?P<visible>.+?) (?:visible|shown|present|depicted)\b",
    rf"^(?:gibt es|ist|sind|sieht man|siehst du|sehen sie)\s(?:{_IN_IT}\s)?{_SOME}(?P<de>.+?)(?: zu sehen| sichtbar)?$",
    rf"^(?:y a-t-il|est-ce qu'il y a|voit-on|voyez-vous|vois-tu)\s{_SOME}(?P<fr>.+)",
    rf"^¿?(?:hay|se ven?|ves)\s{_SOME}(?P<es>.+)",
    r"(?:有没有|有沒有)(?P<zh>.+?)[呢?？]?$",
    r"有(?:一?[个只条辆张位匹棵])?(?P<yu>.+?)(?:吗|嗎|么)[?？]?$",
    rf"(?:^|[にのはで、])(?P<ja>(?:(?![にのはで、])[{CJK}])+?)[はが](?:いますか|ありますか|見えますか|写っていますか)",
)
_GERMAN_SEEN = re.compile(r"^(?:ist|sind)\b(?!.*(?:zu sehen|sichtbar|abgebildet)\W*$)", re.IGNORECASE)
_WORD = re.compile(rf"[{CJK}]|[^\W\d_]+(?:'[^\W\d_]+)?")
_NO_NOUNS = """a an any some the one of in on at to from this that these those image picture photo photograph scene
figure     visible shown present auf dem der die das den ein eine einen im bild foto zu sehen sur
dans l'image la le les un une     des photo en el los las imagen foto"""
_LITTLE = frozenset(_NO_NOUNS.split())
_CLAUSES = re.compile(
    r"[,;:、，；。—–]|\b(?:but|though|while|aber|sondern|mais|pero|sino)\b|(?:而|但|只)", re.IGNORECASE
)
_NO_LATIN = pattern(
    r"\b(?:no|not|nothing|nowhere|cannot|none|never|neither|nor|without|absen(?:t|ce)|missing|lacks?|fails? to"
    r"|kein\w*|nicht|weder|ohne|ne|pas|ni|aucune?"
    r"|sans|ningun\w*|ningún|sin)\b|n't\b|\bn'(?=y|est|a)"
)
_NO_CJK = re.compile("[没沒不无無]|いません|ありません|ない|見えません")
_SURE = pattern(
    r"\b(?:(?:there(?:'s| is) )?no|without(?: a| any)?|beyond(?: a| any)?) (?:doubt|question)\b|\bno reason to doubt\b"
    r"|\bohne (?:jeden )?zweifel\b|\bsans (?:aucun )?doute\b|\bsin (?:ninguna |lugar a )?dudas?\b|\bnot only\b"
)
"""Denials that affirm what they stand in."""
_OTHER_THAN = pattern(
    r"\b(?:every|any)(?:thing|one|body) (?:but|except)\b|\b(?:instead of|rather than|all but|except|other than)\b"
)
_DENIES_A_DENIAL = pattern(r"\b(?:not (?:true|the case|correct)|false|wrong|untrue) (?:that|to say)\b")
HEDGED = pattern(
    r"\b(?:hardly|barely|scarcely|doubt|doubtful|used to"
    r"|might|may|maybe|perhaps|possibly|could|whether|if|unclear|unsure|should|would|vielleicht|könnte|ob|peut-être"
    r"|quizás|podría|si)\b|可能|也许|是否|かもしれ|\bcannot (?:tell|say|determine|be)|\b(?:hard|impossible|unable) to"
)


def presence(sentence: str, question: str) -> bool | None:
    """Whether a sentence affirms or denies the presence that the question asks about; None if it does neither.

    It affirms with the words of the question in their order, and denies with the first of them, its noun.
    """
    sought = _sought(question)
    sentence = _SURE.sub(" ", sentence)
    if not sought or HEDGED.search(sentence) or _OTHER_THAN.search(sentence):
        return None
    if (outer := _DENIES_A_DENIAL.search(sentence)) and _NO_LATIN.search(sentence, outer.end()):
        return None
    verdicts = set[bool]()
    for clause in _CLAUSES.split(sentence):
        words = [_stem(word) for word in _WORD.findall(clause.lower())]
        noun = _find(words, sought[0])
        if noun is None:
            continue
        denied = (_NO_CJK if re.match(f"[{CJK}]", "".join(sought[0])) else _NO_LATIN).search(clause)
        if denied:
            verdicts.add(False)
        elif _in_order(words[noun:], [word for part in sought for word in part]):
            verdicts.add(True)
    return verdicts.pop() if len(verdicts) == 1 else None


@lru_cache(maxsize=64)
def _sought(question: str) -> tuple[tuple[str, ...], ...]:
    """The noun that a question asks for, with its attributes, and the further words that the sentence must contain."""
    asked = (sentences(plain(question)) or [""])[-1].rstrip("?？ ").strip("¿ ")
    found = _ASKS.search(asked)
    if found is None or _GERMAN_SEEN.match(asked):
        return ()
    words = next(group for group in found.groups() if group is not None)
    if re.match(f"[{CJK}]", words):
        return (tuple(words),)
    head, *rest = re.split(
        r"\s(?:in|on|at|to|near|next|behind|under|with|of|auf|im|in|neben|sur|dans|à|en|sobre|junto)\s", words
    )
    noun = tuple(_stem(word) for word in _WORD.findall(head.lower()) if word not in _LITTLE)
    others = tuple(_stem(word) for part in rest for word in _WORD.findall(part.lower()) if word not in _LITTLE)
    return (noun, others) if noun else ()


def _find(words: list[str], sought: tuple[str, ...]) -> int | None:
    size = len(sought)
    return next((at for at in range(len(words) - size + 1) if tuple(words[at : at + size]) == sought), None)


def _in_order(words: list[str], sought: list[str]) -> bool:
    rest = iter(words)
    return all(word in rest for word in sought)


def _stem(word: str) -> str:
    return word.removesuffix("s") if len(word) > 3 else word
