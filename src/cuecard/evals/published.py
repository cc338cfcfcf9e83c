"""The rules of benchmarks' own scripts for reading and comparing replies, reimplemented from their descriptions."""

from __future__ import annotations

import re
from collections.abc import Sequence

# --- readings: what a reply answers -----------------------------------------------------------------------------------


def pope_reading(reply: str) -> str:
    """Yes or no as POPE's `evaluate.py` reads it (Li et al., 2023): no if the first sentence has such a word, else yes.

    The words are `No`, `no` and `not`, with spaces around them; commas are removed first.
    """
    words = reply.partition(".")[0].replace(",", "").split(" ")
    return "no" if {"No", "no", "not"} & set(words) else "yes"


def mme_reading(reply: str) -> str | None:
    """Yes or no as MME's `calculation.py` reads it (Fu et al., 2023): by the first four characters; None if neither."""
    start = reply.strip().lower()[:4]
    return "yes" if "yes" in start else "no" if "no" in start else None


def mmmu_letter(reply: str, options: Sequence[str]) -> str | None:
    """The letter of the option that a reply chooses, by MMMU's `parse_multi_choice_response` (Yue et al., 2024).

    The last `(B)`, else the last ` B `, else, in replies of more than five words, the option with the last occurrence
    of its text. If none of these is found, the script draws a random option; this function returns None.
    """
    for mark in ",.!?;:'":
        reply = reply.strip(mark)
    text, letters = f" {reply} ", [chr(ord("A") + place) for place in range(len(options))]
    for form in ("({})", " {} "):
        found = {each: text.rfind(form.format(each)) for each in letters if form.format(each) in text}
        if found:
            return max(found, key=lambda each: found[each])
    if len(text.split()) <= 5:
        return None
    low = text.lower()
    held = {
        each: low.rfind(words.lower()) for each, words in zip(letters, options, strict=True) if words.lower() in low
    }
    return max(held, key=lambda each: held[each]) if held else None


# --- comparisons ------------------------------------------------------------------------------------------------------

_INDICATORS = ("could be ", "so ", "is ", "thus ", "therefore ", "final ", "answer ", "result ")
_NUMBER_FORMS = (
    re.compile(r"-?\b\d{1,3}(?:,\d{3})+\b"),
    re.compile(r"-?\d+(?:\.\d+)?[eE][+-]?\d+"),
    re.compile(r"-?(?:\d+\.\d+|\.\d+|\d+\b)(?![eE][+-]?\d+)(?![,\d])"),
)


def mmmu_open(reply: str, golds: Sequence[str]) -> bool:
    """Whether a reply to an open question is right by MMMU's `eval_open` (Yue et al., 2024).

    The rule takes, from each line, the shortest text after a word such as "is" or "answer" (in the last line also after
    "="), and the numbers in these texts; if there are none, the whole reply. A right answer in words must be contained
    in one of them; a number must equal one of them after rounding both to two places.
    """
    ends = _ends(reply)
    parts = ends + [number for end in ends for form in _NUMBER_FORMS for number in form.findall(end)]
    given = [form for part in parts for form in _comparable(part)]
    right = [form for gold in golds for form in _comparable(gold)]
    words = [gold for gold in right if isinstance(gold, str)]
    return any(any(gold in each for gold in words) if isinstance(each, str) else each in right for each in given)


def _ends(reply: str) -> list[str]:
    lines, found = reply.strip().strip(".").lower().split("\n"), list[str]()
    for place, line in enumerate(lines):
        indicators = (*_INDICATORS, "=") if place == len(lines) - 1 else _INDICATORS
        shortest = ""
        for indicator in indicators:
            if indicator in line:
                end = line.split(indicator)[-1].strip()
                shortest = end if not shortest or len(end) < len(shortest) else shortest
        if shortest and shortest not in list(":,.!?;'"):
            found.append(shortest)
    return found or ["\n".join(lines)]


def _comparable(text: str) -> tuple[str | float, ...]:
    """A number rounded to two places, else the text in lower case; a single character with a space before or after."""
    text = text.strip()
    try:
        return (round(float(text.replace(",", "")), 2),)
    except ValueError:
        low = text.lower()
        return (f" {low}", f"{low} ") if len(low) == 1 else (low,)


def contained(reply: str, golds: Sequence[str], without_spaces: bool = False) -> bool:
    """Whether a reply contains a right answer, by OCRBench's script (Liu et al., 2024).

    Compared in lower case, with line breaks as spaces; for handwritten mathematics (HME100k, `without_spaces`) in the
    original case, with spaces removed.
    """

    def plain(text: str) -> str:
        text = text.strip().replace("\n", " ")
        return text.replace(" ", "") if without_spaces else text.lower()

    return any(plain(gold) in plain(reply) for gold in golds)


def vqa_accuracy(answer: str, golds: Sequence[str]) -> float:
    """The VQA accuracy of Antol et al., 2015, as TextVQA's evaluation (Singh et al., 2019) computes it.

    The mean, over all ways to leave out one of the ten annotators' answers, of min(1, matches among the others / 3),
    all answers normalised. A single right answer is compared for equality.
    """
    given, right = vqa_normalised(answer), [vqa_normalised(gold) for gold in golds]
    if len(right) == 1:
        return float(given == right[0])
    matches = right.count(given)
    return sum(min(1.0, (matches - (gold == given)) / 3) for gold in right) / len(right)


_SYMBOLS = ';/[]"{}()=+\\_-><@`,?!'
_PERIOD = re.compile(r"\.(?!\d)")
_NUMBERS = "zero one two three four five six seven eight nine ten"
_COUNTED = {"none": "0"} | {word: str(number) for number, word in enumerate(_NUMBERS.split())}
_CONTRACTED = """
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've
    he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've needn't not've
    o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd somebody'd've somebody'll
    somebody's someone'd someone'd've someone'll someone's something'd something'd've something'll that's there'd
    there'd've there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll
    what're what's what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't
    would've wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've
"""
_WITHOUT_ONE = {
    word[:at] + word[at + 1 :]: word for word in _CONTRACTED.split() for at, sign in enumerate(word) if sign == "'"
}
"""A contraction without one of its apostrophes -> the full contraction."""


def vqa_normalised(text: str) -> str:
    """A text as the VQA evaluation server compares it ("EvalAI answer processor").

    Lower case; commas and question marks removed; `'s` separated; every other symbol removed if it occurs beside a
    space somewhere in the text, else replaced by a space; periods kept before digits only; number words up to ten as
    digits; articles removed; contractions with their apostrophe.
    """
    text = text.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()
    text = plain = text.replace("\n", " ").replace("\t", " ").strip()
    for symbol in _SYMBOLS:
        beside_space = f"{symbol} " in plain or f" {symbol}" in plain
        text = text.replace(symbol, "" if beside_space else " ")
    words = (_COUNTED.get(word, word) for word in _PERIOD.sub("", text).split())
    return " ".join(_WITHOUT_ONE.get(word, word) for word in words if word not in ("a", "an", "the"))


_YEAR = re.compile(r"(?:1\d|2[01])\d\d")
_ASKS_YEAR = re.compile(r"\byears?\b(?!\s+\d)|\bwhen\b", re.IGNORECASE)
_ASKS_AMOUNT = re.compile(r"\bhow (?:many|much)\b", re.IGNORECASE)


def asks_for_year(question: str, gold: str) -> bool:
    """Whether a question asks for a year and this right answer is a year: four digits, 1000 to 2199.

    ChartQA does not mark these questions. They contain "year", unless a number follows ("in the year 2010"), or "when",
    and neither "how many" nor "how much".
    """
    return bool(_YEAR.fullmatch(gold.strip()) and _ASKS_YEAR.search(question) and not _ASKS_AMOUNT.search(question))
