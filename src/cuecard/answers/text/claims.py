"""Claims, mentions and denials of a sentence, in the languages of `language_of`."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Sequence
from functools import cache, lru_cache

from cuecard.answers.text.markup import (
    CJK,
    LANGUAGES,
    any_of,
    language_of,
    normalise,
    pattern,
    plain,
    sentences,
    unquoted,
    without_s,
)


@cache
def _copula(language: str) -> re.Pattern[str]:
    """A pattern of a subject, a copula, and a predicate."""
    copulas = " ".join(LANGUAGES[code]["copulas"] for code in dict.fromkeys(("en", language)))
    return re.compile(
        rf"(?P<subject>.{{0,160}}?)(?:(?:^|\s)(?P<verb>{any_of(copulas)}):?\s|(?<=\bit)'s\s|(?<=\bthat)'s\s"
        r"|(?<=\bthere)'s\s|(?<=\bhe)'s\s|(?<=\bthey)'re\s|(?<=\bc)'est\s)(?P<rest>.+)",
        re.IGNORECASE | re.DOTALL,
    )


_CJK_COPULA = re.compile(
    rf"(?P<subject>[{CJK}\w]{{0,80}}?)(?:叫做|叫作|叫|(?<!不)是|为|為|は(?!っきり|い|じめ)|(?<=[のる])名前は)(?P<rest>.+)",
    re.DOTALL,
)
_CJK_PLAIN = re.compile(r"(?:它|这|这个|那|他|她|应该|我认为|我觉得|我想|可能|これ|それ|こちら|彼|彼女)?")
_CJK_ENDS = re.compile(
    r"\W*(?:といいます|と言います|と呼ばれています|という名前です|だと思います|と思います|になります|となります|です|でした|である|の?よう(?:です|だ))?\W*$"
)
_THUS = pattern(
    r"^(?:(?:so|thus|therefore|hence|also|daher|somit|folglich|donc|ainsi|entonces|así que|por lo tanto"
    r"|por tanto)\b,?\s+"
    r"|(?:つまり|よって|したがって|因此|所以)[、,]?|(?:the )?(?:name|nom|nombre|名字|名前)\s?[:：]\s?"
    r"|es handelt sich um\s|il s'agit d(?:e\s|')|se trata de\s)+"
)
_PLAIN_SUBJECT = pattern(
    any_of("the this that these those it its they there he she his her their a an my your our") + r"\b",
    any_of("der die das dies diese dieser dieses es er sie le la les ce c il elle cela el los las esto eso") + r"\b",
)
_RELATIVE = re.compile(r"\b(?:who|which|that|what|where)$", re.IGNORECASE)
_FILLER = re.compile(
    r"(?:(?:called|named|known as|probably|likely|most likely|about|clearly|definitely|simply|just|that|approximately"
    r"|(?:painted|written|made|created|directed|composed|drawn|designed|invented) by"
    r"|(?:the )?(?:colou?r|digit)(?: of| is|:)?|the (?:number|year|letter)(?= \d| .\b)"
    r"|(?:the )?(?:word|answer|name|text|title|shape|number)(?: is|:))\s)+(?=\S)",
    re.IGNORECASE,
)
_UNSURE = pattern(
    r"(?:probably|likely|most likely|clearly|definitely|the (?:colou?r|word|answer|name|shape|number)(?: is|:)?)"
    r"\s(?=\S)"
)
_QUOTES = pattern(r"says?|said|reads?|displays?|dice|pone|dit|steht")
_ASKS_WHO = pattern(
    r"\b(?:who|(?:which|what)(?: \w+){0,2}?)\s+(?P<verb>is|are|was|were|has|have|had|does|did|\w+ed|wrote|made|drew)"
    r"\s+(?P<of>[^,?]{1,100})"
)
_ASKS_WHOM = pattern(r"^(?:who|wer|qui|quién)\b")
_NAMES_HIM = re.compile(
    r"(?P<subject>[A-ZÀ-Þ].{0,60}?)\s(?:(?:did|does|do)\W*$|(?:is|was|ist|war|est|es)\s(?:the|der|die|la|le|el)\s\w)"
)
_IMAGERY = {"image", "picture", "photo", "photograph", "figure", "chart", "diagram", "graph", "shown", "answer"}
_SMALL = set(LANGUAGES["little"].split())
_NOT_BUT = re.compile(
    r"^(?:not|nicht|pas|no)\s++.{1,60}?,?(?<!\s)\s++(?:but|sondern|mais|sino)\s++(?:rather\s++)?(?P<rest>.++)$",
    re.IGNORECASE,
)
_BUT_NOT = re.compile(
    r"^(?P<rest>.+?)(?<!\s),?\s++(?:(?:and|but)\s++)?(?:not|nicht|pas|rather than|instead of)\s++.{1,60}$",
    re.IGNORECASE,
)
_BE = {"is", "are", "was", "were", "would", "cannot", "does", "do", "can", "ist", "sind", "est", "es"}
_DENIED = {"isnt", "arent", "wasnt", "wrong", "incorrect", "cannot", "doesnt", "impossible", "falsch", "absent"}
_DENIES = {
    *("not", "isnt", "arent", "wasnt", "doesnt", "neither", "nor", "cannot", "dont", "cant", "without", "no", "never"),
    *("nicht", "kein", "keine", "keinen", "weder", "pas", "aucun", "aucune", "ni", "sans", "nest", "ningún", "ninguna"),
}
_NEVER_CJK = re.compile(r"(?:不是|没有|沒有|并非|並非|而非|非|不|没|無|无)$")
_NOT_CJK = re.compile(
    r"(?:の|が|は)?(?:ではな|ではあ|じゃな|でな|ではいけ|はな|がな|はありませ|はいませ|がいませ|不对|不正确|不正確|是错|は見えませ)"
)


def claimed(sentence: str, question: str, strict: bool = False) -> str:
    """The predicate of a sentence ("The digit is red." -> "red"); the whole sentence if it has another form.

    `strict` requires a subject that the question names, and returns "" otherwise.
    """
    claim = _THUS.sub("", sentence.strip())
    asked_for = _subject_asked_for(claim, question)
    if asked_for:
        return unquoted(asked_for)
    language = language_of(f"{claim} {question}")
    if language in ("zh", "ja"):
        return _claimed_cjk(claim, question, strict)
    copula = _copula(language)
    found = copula.match(claim)
    while found is not None and _RELATIVE.search(found["subject"].strip()):
        at = found.start("rest")
        found = copula.match(claim, at - 1) if claim.find(" ", at) >= 0 else None
    subject = "" if found is None else claim[: found.start("rest")].strip()
    named = _content(subject) & _content(question) or (not strict and _PLAIN_SUBJECT.match(subject))
    if found is None or not named:
        unsure = _UNSURE.match(claim)
        return "" if strict else unquoted(_positive(claim[unsure.end() if unsure else 0 :]))
    rest = found["rest"].strip()
    filler = None if _QUOTES.fullmatch(found["verb"] or "") else _FILLER.match(rest)
    return unquoted(_positive(rest[filler.end() :] if filler else rest))


def _claimed_cjk(claim: str, question: str, strict: bool) -> str:
    found = _CJK_COPULA.match(claim)
    shared = found and _content(found["subject"]) & _content(question)
    if (
        found is None
        or _NOT_CJK.search(found["rest"])
        or not (shared or (not strict and _CJK_PLAIN.fullmatch(found["subject"])))
    ):
        return "" if strict else unquoted(_CJK_ENDS.sub("", claim))
    return unquoted(_CJK_ENDS.sub("", found["rest"]))


def _subject_asked_for(claim: str, question: str) -> str:
    """B, from "B is the tallest." for "Who is the tallest, A or B?"; "" if a sentence has another form."""
    named = _NAMES_HIM.match(claim) if _ASKS_WHOM.search(question) else None
    if named is not None and not _PLAIN_SUBJECT.match(named["subject"]):
        return named["subject"].strip()
    asked = _ASKS_WHO.search(question)
    if asked is None:
        return ""
    found = re.match(rf"(?P<subject>.{{1,80}}?)\s{asked['verb']}\s(?P<rest>.+)", claim, re.IGNORECASE)
    rest = set(normalise(found["rest"]).split()) if found else set()
    if found is None or not (rest <= set(normalise(asked["of"]).split()) or rest <= {"it", "this", "that"}):
        return ""
    return found["subject"].strip()


def is_about(sentence: str, question: str) -> bool:
    """Whether a sentence contains words of the question: two of them, or all if it has fewer."""
    asked = _content(question)
    return len(asked & _content(sentence)) >= min(2, len(asked)) > 0


def _content(text: str) -> set[str]:
    """The content words of a text; of Japanese, no Hiragana."""
    return {
        without_s(word) for word in spoken(text) if word not in _SMALL | _IMAGERY and not "\u3040" <= word <= "\u309f"
    }


def _positive(claim: str) -> str:
    """The claim without its denied part: "blue" from "not red but blue" and from "blue, not red"."""
    found = _NOT_BUT.match(claim) or _BUT_NOT.match(claim)
    return found["rest"] if found else claim


def mentioned(text: str, options: Sequence[str]) -> set[int]:
    """Indices of the options that a text mentions and does not deny; of overlapping ones the longest."""
    words = _words(text)
    found = [(*span, i) for i, option in enumerate(options) for span in _spans(words, spoken(option))]
    ends, kept = sorted(end for _, end, _ in found), set[int]()
    longest = (-1, 0)  # the span that ends last, of those that begin here or before
    for start, end, index in sorted(found, key=lambda span: (span[0], -span[1])):
        inside = longest[1] >= end and longest != (start, end)
        longest = longest if longest[1] >= end else (start, end)
        before = bisect_right(ends, start)
        since = max(start - 3, 0, ends[before - 1] if before else 0)
        if not inside and not _denied(words, since, start, end):
            kept.add(index)
    return kept


_TOKEN = re.compile(rf"[{CJK}]|[^\s{CJK}]+")


def _words(text: str) -> tuple[str, ...]:
    """The words of a text; characters for Chinese and Japanese."""
    return tuple(_TOKEN.findall(normalise(plain(text))))


@lru_cache(maxsize=256)
def spoken(text: str) -> tuple[str, ...]:
    """The words of a question, an option or a sentence, cached for the next reply."""
    return _words(text)


def _spans(words: Sequence[str], sought: Sequence[str]) -> list[tuple[int, int]]:
    """Spans of the sought words, without an article that varies with the case: "ein Hund", "einen Hund"."""
    if len(sought) > 1 and _ARTICLE.fullmatch(sought[0]):
        sought = sought[1:]
    size = len(sought)
    return [(i, i + size) for i in range(len(words) - size + 1) if words[i : i + size] == sought] if size else []


_ARTICLE = re.compile(r"(?:d(?:er|ie|as|en|em)|eine?[nmrs]?|une?|l[ae]s?|el|una|los|las)")


_NEAR = 8
_KANJI, _KANA = re.compile(r"[\u3400-\u9fff]"), re.compile(r"[\u3040-\u309f]")


def _within_word(words: Sequence[str], start: int, end: int) -> bool:
    """Whether a single Chinese character is part of a longer Japanese word: the 白 of 面白い."""
    if end - start != 1 or not start or not (_KANJI.fullmatch(words[start]) and _KANJI.fullmatch(words[start - 1])):
        return False
    return any(map(_KANA.fullmatch, words[max(0, start - _NEAR) : end + _NEAR]))


def _denied(words: Sequence[str], since: int, start: int, end: int) -> bool:
    before, after = list(words[since:start]), list(words[end : end + 2])
    if "but" in before:
        before = before[before.index("but") + 1 :]
    if before[-2:] in (["rather", "than"], ["instead", "of"], ["no", "es"], ["no", "hay"]) or before[-1:] in (
        ["no"],
        ["unlike"],
        ["statt"],
    ):
        return True
    if before[-1:] == ["noch"] and "weder" in words[:start]:
        return True
    if _within_word(words, start, end):
        return True
    if _NEVER_CJK.search("".join(before)) or _NOT_CJK.match("".join(words[end : end + 7])):
        return True
    if _DENIES & set(before) - {"no"} or (after[:1] and after[0] in _DENIED):
        return True
    return len(after) == 2 and after[0] in _BE and after[1] in {"not", "nicht", "pas", *_DENIED}


# --- whether a sentence affirms that something is present: "A dog is visible." for "Is there a dog?"  -----------------


_SOME = r"(?:(?:an?|any|some|the|one|ein\w*|une?|des|un[ao]s?|algún|alguna?|ningún|ninguna?)\s)?"
_MEDIA = any_of("image picture photo photograph figure chart scene bild foto imagen l'image la_photo la_foto")
_IN_IT = rf"(?:(?:in|on|from|auf|sur|dans|en) )?(?:this|that|the|dem|der|l'|la|le)?\s?{_MEDIA}"
_ASKS_PRESENCE = pattern(
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
_WORD_OR_CHARACTER = re.compile(rf"[{CJK}]|[^\W\d_]+(?:'[^\W\d_]+)?")
_NO_NOUNS = """a an any some the one of in on at to from this that these those image picture photo photograph scene
figure     visible shown present auf dem der die das den ein eine einen im bild foto zu sehen sur
dans l'image la le les un une     des photo en el los las imagen foto"""
_NO_NOUN = frozenset(_NO_NOUNS.split())
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
        words = [without_s(word) for word in _WORD_OR_CHARACTER.findall(clause.lower())]
        size = len(sought[0])
        noun = next((at for at in range(len(words) - size + 1) if tuple(words[at : at + size]) == sought[0]), None)
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
    found = _ASKS_PRESENCE.search(asked)
    if found is None or _GERMAN_SEEN.match(asked):
        return ()
    words = next(group for group in found.groups() if group is not None)
    if re.match(f"[{CJK}]", words):
        return (tuple(words),)
    head, *rest = re.split(
        r"\s(?:in|on|at|to|near|next|behind|under|with|of|auf|im|in|neben|sur|dans|à|en|sobre|junto)\s", words
    )
    noun = _content_in_order(head)
    others = tuple(word for part in rest for word in _content_in_order(part))
    return (noun, others) if noun else ()


def _content_in_order(text: str) -> tuple[str, ...]:
    words = _WORD_OR_CHARACTER.findall(text.lower())
    return tuple(without_s(word) for word in words if word not in _NO_NOUN)


def _in_order(words: list[str], sought: list[str]) -> bool:
    rest = iter(words)
    return all(word in rest for word in sought)
