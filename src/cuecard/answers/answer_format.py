r"""The form in which a question wants its answer: "ANSWER: $LETTER", "The answer is (X)", \boxed{}."""

from __future__ import annotations

import re

# "answer", then the place of the answer: `$LETTER`; in quotes also `[letter]`, `<letter>`, `{letter}` and `(X)`.
_NAMED = r"\$[A-Za-z]{1,30}"
_BRACKETED = r"<[\w ]{1,30}>|\[[\w ]{1,30}\]|\{[\w ]{1,30}\}"
_BEFORE = r"(?:[A-Za-z]{1,20} ){0,3}answer(?: is)?[ \t]?:?[ \t]?"
_FORM = re.compile(
    rf"""['"`“‘](?P<quoted>{_BEFORE})(?:{_NAMED}|{_BRACKETED}|(?P<round>\([\w ]{{1,30}}\)))\.?['"`”’]"""
    rf"""|(?<!\w)(?P<plain>answer:[ \t]?){_NAMED}\b"""
    r"|(?P<boxed>\\boxed)\{[^{}\n]{0,30}\}",
    re.IGNORECASE,
)


def asked_form(text: str) -> tuple[str, str] | None:
    """What a question's text wants before and behind the answer, where it says so last; None where it does not."""
    if not (forms := list(_FORM.finditer(text))):
        return None
    found = forms[-1]
    if found["boxed"]:
        return "\\boxed{", "}"
    before = found["quoted"] or found["plain"]
    return (f"{before}(", ")") if found["round"] else (before, "")
