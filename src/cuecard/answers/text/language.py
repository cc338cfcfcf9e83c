"""The language of a text, as far as answers depend on it: number words, separators, verbs."""

from __future__ import annotations

import re
from functools import lru_cache

from cuecard.answers.text.markup import nfkc

CJK = "\u3040-\u30ff\u3400-\u9fff"
"""Chinese and Japanese characters, for a character class of a pattern."""
_MOST_CHARS = 2_000
_COMMON = {
    "en": "the is are was a of and in to that this it there not how what which many answer so i image picture",
    "de": """der die das ist sind ein eine einen und nicht es ich im auf den dem zu mit wie viele welche was antwort
    also kein keine bild sehen insgesamt beträgt kostet heißt lautet""",
    "fr": """le la les est sont un une et pas des du il elle sur dans ce c'est que combien quel quelle réponse donc je
    y au l'image voit comment s'appelle""",
    "es": """el la los las es son un una y no de en que hay del por se cuántos cuántas cuál qué respuesta imagen lo su
    está al cómo llama se""",
}
_LANGUAGES = {code: frozenset(words.split()) for code, words in _COMMON.items()}
_WORD = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)?")


_TOKEN = re.compile(rf"[{CJK}]|[^\W{CJK}]+(?:['-]\w+)*")


def word_count(text: str) -> int:
    """Number of words; of characters for Chinese and Japanese."""
    return len(_TOKEN.findall(text))


@lru_cache(maxsize=256)
def language_of(text: str) -> str:
    """`zh` or `ja` by script, else `de`, `fr`, `es` or `en` by the most frequent words; `en` if undecided."""
    text = nfkc(text[:_MOST_CHARS]).replace("’", "'").lower()
    if re.search(r"[\u3040-\u30ff]", text):
        return "ja"
    if re.search(r"[\u3400-\u9fff]", text):
        return "zh"
    words = _WORD.findall(text)
    return max(_LANGUAGES, key=lambda code: (sum(word in _LANGUAGES[code] for word in words), code == "en"))
