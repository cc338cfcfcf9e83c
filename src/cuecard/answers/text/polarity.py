"""Yes and no, true and false, in the languages that models answer in."""

from __future__ import annotations

import re
import unicodedata

from cuecard.answers.text.markup import any_of, pattern

# What a reply may begin with to say yes or no, whatever follows.
_YES = """yes yeah yep yup yea sim sí oui ouais ja jawohl evet igen ναι kyllä joo áno да так
はい ええ うん 是的 对的 對的 没错 沒錯 正确 正確 맞습니다 맞아요 نعم بله हाँ हां ہاں হ্যাঁ ஆம் ใช่ כן vâng"""
_NO = """no nope nah nein non não nao nee нет нету ні hayır όχι nej nei
いいえ いえ 不是 不对 不對 没有 沒有 错误 錯誤 아니요 아니오 아뇨 아니에요 아닙니다 لا خیر नहीं নাহ্ نہیں না இல்லை ไม่ใช่"""
# Words that mean other things too ("Da der Ball rot ist …", 네 개: four): only alone, or before punctuation.
_YES_ALONE = """true correct right indeed affirmative absolutely definitely certainly exactly precisely sure
t y si sì jo da ya tak ano 是 对 對 有 会 能 可以 真 네 예 wahr richtig stimmt vrai verdadero cierto vero certo
verdadeiro waar juist верно правда صحيح सही đúng có doğru"""
_NO_ALONE = """false incorrect wrong negative never untrue
f n ne nie nem nu ei tidak bukan không לא ไม่ 不 没 無 无 否 假 不会 不能 不可以
falsch faux falso falsa onwaar onjuist неверно ложь 거짓 خطأ خاطئ गलत sai yanlış"""

_CLEAR = {**dict.fromkeys(_YES.split(), True), **dict.fromkeys(_NO.split(), False)}
_ALONE = {**dict.fromkeys(_YES_ALONE.split(), True), **dict.fromkeys(_NO_ALONE.split(), False)}
_SPACELESS = re.compile(r"[\u3040-\u30ff\u4e00-\u9fff\u0e00-\u0e7f]")
# 没有 with no means or too little to tell; 不是很 (not very); 是的话 (if so)
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
_NOT = pattern(
    rf"(?:{_SURELY}|i guess|maybe) not\b|not (?:really|at all|quite|{_TRUE})|i (?:don't|do not) think so\b",
    rf"(?:that|it|this|which)(?:'s| is| was) (?:not {_TRUE}|(?:false|incorrect|wrong|untrue)\b)",
    rf"(?:that|it|this) (?:isn't|wasn't) {_TRUE}",
)
_SO = pattern(rf"i (?:think|believe|guess) so\b|(?:that|it|this)(?:'s| is) {_TRUE}")
_SUBJECT = any_of("it this that there they he she these those you we i")
_VERB = any_of("is are was were does do did has have had can could will would should")
_BARE = pattern(rf"(?:{_SUBJECT} {_VERB}(?P<not> not|n't|not| none)?|of course|for sure|very much so)\W*$")
_LEAD = pattern(
    rf"(?:well|so|hmm|oh|ok|okay|जी|{_SURELY}"
    r"|(?:i|i'd|i would|we)\s?(?:think|believe|would say|guess|say|'d say)(?: that)?(?: the answer is)?"
    r"|(?:it|that|this|the answer)(?:'s| is| would be| must be| should be)(?: an?| definitely| clearly| certainly)*"
    r"|(?:sure|great question|thanks?|good question)[!.](?=.*\w))\s*[,:;!—–-]*\s+"
)


def polarity(text: str) -> bool | None:
    """True or False where a text begins with a yes or a no, None where it begins with neither."""
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
    """Case and what stands before the first word gone."""
    text = unicodedata.normalize("NFKC", text[:400]).replace("’", "'").casefold()
    return re.sub(r"^[^\w]+", "", text)


def _first(opening: str) -> bool | None:
    bare = _BARE.match(opening)
    if bare is not None:
        return bare["not"] is None
    if _NOT.match(opening):
        return False
    if _SO.match(opening):
        return True
    word, rest = _word(opening)
    if word in _CLEAR:
        empty = not _CLEAR[word] and (_NO_WHAT.match(rest) or _DONT_KNOW.match(rest))
        return None if empty or rest.startswith("-") else _CLEAR[word]
    return _ALONE[word] if word in _ALONE and _stops(rest) else _spaceless(opening)


def _spaceless(opening: str) -> bool | None:
    """Chinese, Japanese and Thai write no spaces: 是的 and 不是 count as beginnings, 是 and 不 only alone."""
    if not _SPACELESS.match(opening):
        return None
    for word in sorted(_CLEAR, key=len, reverse=True):
        if _SPACELESS.match(word) and opening.startswith(word):
            return None if _UNSAID.match(opening) else _CLEAR[word]
    return True if re.match(r"是(?![否不])", opening) else None


def _word(opening: str) -> tuple[str, str]:
    end = next((i for i, char in enumerate(opening) if not _is_letter(char)), len(opening))
    return opening[:end], opening[end:]


def _is_letter(char: str) -> bool:
    return unicodedata.category(char)[0] in "LM" or char == "\u200d"


def _stops(rest: str) -> bool:
    """Whether a word ends the text, or a clause of it."""
    return re.match(r"\s*(?:$|[.,;:!?)\"\]/、。，！؛،।…—–]|-\s|\n|but\b|and\b)", rest) is not None
