"""Replies that refuse to answer, and replies that withdraw an answer."""

from __future__ import annotations

import re

from cuecard.answers.text.markup import END, any_of, pattern

_CHECK = any_of("re-?\\w+ double[-_]check check verify look think see")
_WAIT = any_of(
    """wait hold_on hang_on moment momentan? halt stopp attendez attends un_instant espera un_momento korrektur
    correction corrección pardon perdón"""
)
_TAKEN_BACK = pattern(
    r"(?:(?<=[.!?…,;:—–-])\s*+|(?<!\s)(?=[^\S\n]*+\n)\s++|\bbut,?\s*+)(?:no,?\s++)?(?:"
    rf"{_WAIT}\b(?=\s*+(?:[,.!?…:—–-]|$|(?:no|i|ich|je|let|maybe|actually)\b))"
    r"|(?:on second thoughts?|scratch that|actually,? (?:no|wait)|i (?:made|misread|miscounted))\b"
    rf"|(?:let me|let's) {_CHECK}\b"
    r"|ich habe mich (?:geirrt|verlesen|verzählt|vertan)\b|(?:non, )?je me suis tromp|(?:no, )?me (?:he )?equivo[cq]"
    r"|(?<=no, )that(?:'s| is) (?:wrong|not right|incorrect)(?=\s*[.!,;]))",
    r"(?<=[。！!，,\n])\s?(?:等等|等一下|不对[,，。]|不對[,，。]|我?看错了|いや[、,]|待って|間違えました)",
)
_TOOK_BACK = pattern(
    r"^(?:(?:das stimmt nicht|that(?:'s| is) (?:wrong|not right|incorrect)|c'est faux|eso está mal|es falso"
    r"|i misread it|不对|不對|違います|我?看错了)\W*|[,.:!…—–-]\s*)+"
)

_UNABLE = any_of(
    """cannot can't can_not could_not couldn't unable_to not_able_to impossible_to not_possible_to hard_to difficult_to
    no_way_of no_way_to"""
)
_KNOW = any_of(
    """determin tell say answer identif know make(?:_\\w+)?_out help assist provid infer conclud access confirm comment
    decid solv read recogni[sz] discern decipher count simplif choos judg"""
)
_LOOK = (
    r"(?:see|view|read|find|open)(?: (?:the|this|that|an?|any|your))? "
    r"(?:images?|pictures?|photos?|chart|attach|file|text|axis|details|it\b|what\b)"
)
_DO_NOT = any_of("don't do_not doesn't does_not")
_REFUSED = pattern(
    rf"\b{_UNABLE} (?:\w+ly )?(?:be )?(?:\w+ly )?(?:{_KNOW}|{_LOOK})\w*",
    rf"\b{_DO_NOT} (?:know\b|have (?:enough|access|the ability|(?:that|this|any) information))",
    rf"\b{_DO_NOT} (?:provide|contain|show|give) enough\b",
    rf"\b(?:{_DO_NOT}|can't|cannot) see (?:an?|any|the|your) (?:image|picture|photo)",
    r"\b(?:not|isn't|no) (?:enough|sufficient) (?:information|context|detail|data)|\bas an ai\b",
    r"\binsufficient (?:information|context|detail|data)|\bno (?:idea|clue|image (?:was|is|has))\b",
    r"\bnot (?:sure|certain)\b|\bi'?m (?:unsure|uncertain|sorry)\b|\bi apologi[sz]e\b|^sorry\b",
    # German
    r"\bich weiß (?:es |das )?nicht\b|\bweiß ich nicht\b|^weiß nicht|\blässt sich\b.{0,20}\bnicht\b|\bnicht möglich\b",
    r"\bnicht (?:zu )?(?:bestimmen|erkennen|erkennbar|beantworten|sagen|lesen|lesbar)\b|\btut mir leid\b",
    r"\bgeht\b.{1,40}\bnicht hervor|\bkein(?:en zugriff| bild)\b|\bbild nicht sehen\b|\bkeine (?:ahnung|angabe)",
    r"\bfehlen\b.{0,20}\binformation",
    # French
    r"\bne (?:sais|peux|permet|parviens) pas|\bpeut pas le savoir|\bimpossible (?:à|de) \w+|\bdésolé|\baucune idée\b",
    r"\bmanque des? information|\bn'ai pas accès|\bpas (?:précisé|clair)|\bne vois (?:pas d'image|aucune image|rien)",
    # Spanish
    r"\bno (?:lo )?(?:sé|puedo|permite)\b|\bno (?:se sabe|está claro|veo nada)\b|\bno tengo acceso|\bes imposible\b",
    r"\bno se puede (?:saber|determinar|leer|decir)|\bno veo (?:la|ninguna) imagen|\blo siento\b|\bni idea\b",
    r"\bfalta (?:la )?información",
    # Chinese and Japanese
    r"(?<!但)(?:无法|無法)|不知道|不确定|不確定|不能(?:确定|判断)|不清楚|看不(?:清|出来)|看不到(?:图|圖|照片)|对不起|抱歉",
    r"(?:信息|資訊)不足|没有(?:足够|提供|看到图)|难以|帮不了",
    r"[分わ]か(?:りません|らない)|判断できません|読(?:み取)?れません|読めません|答え(?:られま|できま)せん|かねます",
    r"申し訳|すみません|足りません|情報がありません|難しいです|画像[がは](?:見え(?:ません|ない)|見当たり|ありませ)|^不明です",
    # others
    r"\bnon (?:lo )?(?:so|posso)\b|\bweet (?:het |ik )?niet\b|\bnão (?:sei|posso|consigo)\b|не знаю|не могу",
    r"모르겠|알 수 없|لا أعرف|لا يمكن|नहीं पता",
)
_SEEN = any_of(
    "visible shown specified mentioned provided available given legible readable clear known answerable displayed"
)
_NOT_GIVEN = pattern(
    rf"\b(?:(?:is|are|was) not|isn't|aren't|not) (?:(?:clearly|fully) )?{_SEEN}\b|^\W*n/?a\W*$|\bnot applicable\b",
    r"\b(?:unclear|unknown|unanswerable|unreadable|illegible|indistinct|blurry|hidden|obscured|covered|cut off)\b",
    r"\btoo (?:blurry|small|dark|blurred)\b|\bnothing in the\b|\b(?:resolution|guess|rather not|zoom in|not enough)\b",
    r"\bno (?:information|data|indication|way|hint)\b|\b(?:doesn't|does not) (?:show|say) (?:that|this|it)\b",
    r"\bno (?:\w+ )?(?:is |are )?(?:visible|shown)\b|^there (?:is|are) no\b|^there's no\b",
    r"\bneed more\b|\b(?:please|could you|can you) (?:provide|share|upload|send|attach)\b",
    r"\b(?:unklar|unbekannt|unleserlich|verdeckt)\b|\bbitte\b.{1,30}\bhoch\b",
    r"\b(?:inconnu|illisible|desconocido|ilegible)\b",
    r"\bveuillez (?:fournir|envoyer|joindre)|\bpor favor, (?:env|sub|adj)",
    r"不明|不详|模糊|未知|看不到|请上传|見えません|送ってください",
)
_HEDGE = any_of(
    """maybe perhaps possibly probably vielleicht peut-être quizás? tal_vez might_be could_be podría_ser soit 也许 可能
    或许"""
)
_LEAVES_OPEN = pattern(
    rf"(?P<hedge>{_HEDGE}).{{1,120}}?(?:{_HEDGE})|かもしれ.{{1,60}}かもしれ",
    r"\b(?:hesitate|torn|choose|choice|decide|hin und hergerissen|hésite|dudo) (?:between|zwischen|entre)\b",
    r"\bboth\b.{1,80}\b(?:fit|possible|plausible|work|apply|correct|right)\b|\b(?:are|sind|sont"
    r"|son) (?:\w+ ){0,2}(?:possible|plausible|möglich|posible)",
    r"\bsowohl\b.{1,80}\bals auch\b|\btanto\b.{1,80}\bcomo\b|\bconviennent tou\w+|\b(?:or|oder|ou|o) (?:possibly"
    r"|perhaps|maybe|else|vielleicht|peut-être|quizás?)\b",
    r"不是.{1,40}就是|都(?:可以|有可能|可能)|或者?可能|も.{1,40}も当てはま|両方|どちらか|あるいは",
)
_STILL = re.compile(r"\b(?:but|however|though|still|nevertheless|aber|mais|pero)\b,?\s*|但是?|しかし", re.IGNORECASE)


_MOST_BUTS = 3


def after_taking_back(text: str) -> str | None:
    """The text after the last "wait, …" or "let me check"; None if nothing was withdrawn."""
    ends = [found.end() for found in _TAKEN_BACK.finditer(text)]
    return text[ends[-1] :] if ends else None


def instead(later: str) -> str:
    """The text after a withdrawn answer, without the words that withdraw it."""
    return _TOOK_BACK.sub("", later.strip()).strip()


def refuses(text: str) -> bool:
    """Whether the text states that it has no answer."""
    return _REFUSED.search(text) is not None


def leaves_open(text: str) -> bool:
    """Whether the text offers several answers and picks none: "maybe A, maybe B", "both are possible"."""
    return _LEAVES_OPEN.search(text) is not None


def not_given(text: str) -> bool:
    """Whether the text states that the answer cannot be read from the image: "too blurry", "not shown", "N/A"."""
    return _NOT_GIVEN.search(text) is not None


def answerable(text: str) -> str:
    """The part that may hold an answer: before the sentence that refuses, or after its "but"."""
    for _ in range(_MOST_BUTS):
        refused = _REFUSED.search(text)
        if refused is None:
            return text
        still = _STILL.search(text, refused.end())
        if still is None or re.search(r"[.!?]\s", text[refused.end() : still.start()]):
            break
        text = text[still.end() :]
    else:
        return ""
    ends = [end.end() for end in END.finditer(text, 0, refused.start())]
    return text[: ends[-1]] if ends else ""
