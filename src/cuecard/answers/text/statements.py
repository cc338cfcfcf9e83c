r"""What a reply states about its answer: "The answer is …", \boxed{…}, a refusal, or that it takes one back.

A marked answer takes precedence over other mentions. Several marked ones must agree, unless one is marked as final
("so the answer is", "final answer", "but … the answer is"): then earlier ones do not count.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from itertools import islice, pairwise

from cuecard.answers.text.markup import END, any_of, boxes, pattern, sentences, size
from cuecard.domain.question import Answer, Blank, Reading

# --- refused and withdrawn answers  -----------------------------------------------------------------------------------


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


# --- marked answers  --------------------------------------------------------------------------------------------------


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


def one_of(readings: Sequence[Reading]) -> Reading:
    """The answer common to all readings; UNCLEAR if they differ, NOTHING without answers."""
    stated = [reading for reading in readings if reading is not Blank.NOTHING]
    answers = [reading for reading in stated if isinstance(reading, Answer)]
    if len(answers) < len(stated) or len({answer.value for answer in answers}) > 1:
        return Blank.UNCLEAR
    return answers[0] if answers else Blank.NOTHING


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
    found = next(_conclusions(lines), None)
    if found is None or len(found) > _MOST_CHARS or _NONE.match(found) or refuses(found):
        return None
    return found


def _conclusions(lines: list[str]) -> Iterator[str]:
    """What a text may end with, the most certain first."""
    last = lines[-_LAST_LINES:]
    for statement in reversed(stated("\n".join(last)) or []):
        if statement.weight is not Weight.HEDGED and (phrase := _bare(statement.text)):
            yield phrase
    for heading, line in reversed(list(pairwise(lines[-_LAST_LINES - 1 :]))):
        if _HEADING.match(heading) and (phrase := _bare(line)):
            yield phrase
    for line in reversed(last[-2:]):
        closing = (sentences(line) or [""])[-1]
        if _BEGINS_WITH_SO.match(closing):
            yield closing


def _bare(phrase: str) -> str:
    """The phrase without surrounding bold face, formula marks and full stop."""
    phrase = phrase.strip().strip("*").strip()
    phrase = re.sub(r"^(?:\\[(\[]|\${1,2})\s*(.*?)\s*(?:\\[)\]]|\${1,2})?\.?$", r"\1", phrase)
    phrase = phrase.strip("*").removesuffix(".").strip("* ")
    text = _TEXT.match(phrase)
    return text[1].strip() if text else phrase
