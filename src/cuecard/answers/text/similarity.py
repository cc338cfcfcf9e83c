"""When two pieces of text count as the same words, and how near they are if not."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

from rapidfuzz.distance import Levenshtein

from cuecard.answers.text.markup import nfkc

MOST_COMPARED = 20_000
"""Characters of the longest text whose distance to another one is computed, which takes the product of both lengths."""
_ARTICLES = {"a", "an", "the"}
_NO_WORD = re.compile(r"[^\w\s]|_")
"""Every punctuation mark, and some that are none."""
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_KEPT = set("%#&@+")


def folded(text: str) -> str:
    """NFKC, no case, single spaces; zero-width characters gone."""
    text = nfkc(nfkc(text).casefold())
    return " ".join("".join(c for c in text if unicodedata.category(c) != "Cf").split())


def normalise(text: str) -> str:
    """The words that count: no case, no punctuation, no English articles, single spaces (as VQA evaluation does).

    Punctuation inside numbers stays (3.5, 3/4, 12:30, -7), and so do % # & @ +, which tell C# from C. A text of
    nothing but articles or punctuation is kept as it is, so that the option "A" does not vanish.
    """
    plain = _THOUSANDS.sub("", folded(text))
    kept = _NO_WORD.sub(lambda found: _kept(plain, found.start()), plain)
    words = [word for word in kept.split() if word not in _ARTICLES]
    return " ".join(words) or " ".join(kept.split()) or plain


def _kept(text: str, index: int) -> str:
    char = text[index]
    if not unicodedata.category(char).startswith("P") or char in _KEPT:
        return char
    before, after = text[index - 1 : index], text[index + 1 : index + 2]
    if after.isdigit() and ((char in "./:" and before.isdigit()) or (char == "-" and not before.isalnum())):
        return char
    return "" if char in "'’" else " "


def similarity(one: str, other: str) -> float:
    """1 - Levenshtein distance / length of the longer; 1 for two empty texts.

    Texts of more than MOST_COMPARED characters are the same (1) or not (0).
    """
    if max(len(one), len(other)) > MOST_COMPARED:
        return float(one == other)
    return 1.0 - Levenshtein.normalized_distance(one, other)


def anls(prediction: str, truths: Sequence[str], threshold: float = 0.5) -> float:
    """Normalised Levenshtein similarity to the nearest truth, 0 once the distance reaches the threshold.

    ANLS of Biten et al., "Scene Text Visual Question Answering", ICCV 2019: 1 - NL if NL < threshold, else 0; case and
    surrounding or repeated spaces do not count, everything else does.
    """
    nearest = max((similarity(folded(prediction), folded(truth)) for truth in truths), default=0.0)
    return nearest if 1.0 - nearest < threshold else 0.0
