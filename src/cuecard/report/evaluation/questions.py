"""Single questions on the page: a gallery of cards that decided, and a list to look through. No script is needed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from cuecard.domain.question import letter
from cuecard.evals.analysis.examples import Case, Gallery, Said
from cuecard.evals.analysis.results import TaskFound
from cuecard.evals.arm import LIVE
from cuecard.report.evaluation.inputs import Picture
from cuecard.report.page import formatting
from cuecard.report.page.html import file_name, table, thumbnail

MOST = 6
"""Cards shown of each sort."""


def gallery(shown: Gallery, said: str, picture: Picture) -> list[str]:
    """Cards that helped, cards that misled, each in the order asked."""
    parts = [f"<p>{escape(said)}</p>"]
    for title, some in (("Helped", shown.helped), ("Misled", shown.misled)):
        if some:
            count = f"{title}: {min(MOST, len(some))} of {len(some)}, in the order asked"
            cards = "".join(_card(case, shown.arm, picture) for case in some[:MOST])
            parts.append(f'<h4>{escape(count)}</h4><div class="cards">{cards}</div>')
    return parts


def _card(case: Case, arm: str, picture: Picture) -> str:
    facts = [
        ("right", escape(case.gold)),
        *((f"short, {role}", _answer(case.told.get(f"short:{role}"))) for role in ("small", "large")),
        ("card", _reasoning(case.card)),
        (arm, _answer(case.told.get(arm))),
    ]
    told = "".join(f"<dt>{escape(name)}</dt><dd>{value}</dd>" for name, value in facts)
    head = f'<div class="case">{_pictures(case, picture)}<div>{_asked(case)}</div></div>'
    return f"<article>{head}<dl>{told}</dl></article>"


def drill_down(task: TaskFound, cases: Sequence[Case], picture: Picture) -> str:
    """The questions, folded; which are shown can be narrowed without a script."""
    arms = [name for name, arm in task.arms.items() if not name.endswith(LIVE)]
    main = [name for name in arms if task.arms[name].family != "placebo"]
    name = f"filter-{file_name(task.task)}"
    choices = (("all", "all"), ("differs", "on which arms differ"), ("wrong", "that some arm got wrong"))
    radios = "".join(
        f'<label><input type="radio" name="{name}" value="{value}"{" checked" * (value == "all")}> {said}</label>'
        for value, said in choices
    )
    body = "".join(_folded(case, arms, main, picture) for case in cases)
    said = (
        f"{len(cases):,} of {task.items:,} questions, those on which arms differ first; all are in tables/answers.csv."
    )
    return f'<div class="questions"><p class="soft">{said}</p><div class="filter">{radios}</div>{body}</div>'


def _folded(case: Case, arms: Sequence[str], main: Sequence[str], picture: Picture) -> str:
    scores = {case.told[arm].score for arm in main if arm in case.told}
    kinds = ["differs"] * (len(scores) > 1) + ["wrong"] * any(case.wrong(arm) for arm in main)
    rows = [_row(case.told[arm]) for arm in arms if arm in case.told]
    heads = ["arm", "answer", "score", "route", "latency", "tokens"]
    inner = (
        f'<div class="case">{_pictures(case, picture)}<div>{_options(case)}'
        f"<p>Right: <strong>{escape(case.gold)}</strong>.</p>{_reasoning(case.card)}</div></div>"
        f'<div class="wide" tabindex="0">{table(heads, rows, texts=(1, 3))}</div>'
    )
    summary = f"{_verdicts(case, main)} {escape(_clipped(case.question.text, 140))}"
    return f'<details class="{" ".join(kinds)}"><summary>{summary}</summary><div>{inner}</div></details>'


def _row(said: Said) -> list[str]:
    tokens = ", ".join(f"{role} {count}" for role, count in said.tokens.items())
    score = "–" if said.score is None else f"{said.score:g}"
    took = "–" if said.total_s is None else f"{formatting.duration(said.total_s)} {said.kind}"
    answer = "–" if said.answer is None else _clipped(said.answer, 80)
    return [said.arm, answer, score, said.route or "error", took, tokens]


def _verdicts(case: Case, arms: Iterable[str]) -> str:
    judged = [case.wrong(arm) for arm in arms]
    right, wrong = judged.count(False), judged.count(True)
    return f'<span class="{"bad" if wrong else "good"}">{right} right, {wrong} wrong:</span>' if right + wrong else ""


def _answer(said: Said | None) -> str:
    if said is None:
        return '<span class="soft">not run</span>'
    if said.answer is None:
        return f'<span class="bad">failed</span>: {escape(_clipped(said.reason, 200))}'
    verdict = ""
    if said.score is not None:
        verdict = ', <span class="good">right</span>' if said.score >= 1 else ', <span class="bad">wrong</span>'
    return f"<strong>{escape(_clipped(said.answer, 300))}</strong>{verdict}"


def _reasoning(card: str | None) -> str:
    return f"<blockquote>{escape(_clipped(card.strip(), 1500))}</blockquote>" if card else '<p class="soft">no card</p>'


def _asked(case: Case) -> str:
    about = " · ".join(filter(None, (f"question {case.id}", case.category)))
    said = escape(_clipped(case.question.text, 600))
    return f'<p class="soft">{escape(about)}</p><h4>{said}</h4>{_options(case)}'


def _options(case: Case) -> str:
    shown = "".join(f"<div>{letter(i)}. {escape(option)}</div>" for i, option in enumerate(case.question.options))
    return f'<div class="soft">{shown}</div>' if shown else ""


def _pictures(case: Case, picture: Picture) -> str:
    shown = "".join(thumbnail(picture(digest)) for digest in case.images[:4])
    return f"<div>{shown or '<span class=soft>no image</span>'}</div>"


def _clipped(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
