"""One page that holds a whole showcase: no network, no scripts, everything that models or users wrote escaped."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Sequence
from html import escape
from importlib.resources import files

from cuecard.domain.call import Mode
from cuecard.domain.outcome import Outcome, Route
from cuecard.domain.question import Image, Question, letter
from cuecard.report.page import formatting
from cuecard.report.page.html import NO_OTHERS
from cuecard.report.page.lanes import handoff
from cuecard.report.page.records import Exhibit, Row, Sample, Showcase, roles_of
from cuecard.report.showcase import figures

TITLE = "Cuecard: a small model reasons, a large one answers"
IMAGE_TYPES = ("image/png", "image/jpeg", "image/webp", "image/gif")


def page(shown: Showcase) -> str:
    """The whole report as one HTML document."""
    choosing = [row for row in shown.rows if set(row.routes) != {Route.DIRECT}]
    sections = [
        _results(shown),
        _figure(
            "Accuracy against tokens",
            figures.accuracy_against_tokens(shown.rows),
            f"Each point is one strategy on the same {shown.questions} questions, with the 95% interval (Wilson) of its"
            " accuracy. Tokens are counted, those of cancelled calls included.",
        ),
        _figure(
            "Latency",
            figures.latency_bars(shown.rows),
            f"Mean latency of a question, {_how(shown.rows)}; split by which model worked meanwhile. The factor is the"
            " speed-up over the large model's own reasoning in the same run.",
        ),
        _figure(
            "Routes",
            figures.routes({row.name: row.routes for row in choosing}),
            f"How each answer came about, counted. Every question ends in exactly one route: each bar sums to"
            f" {shown.questions}.",
        )
        if choosing
        else "",
        _time_lines(shown.sample) if shown.sample else "",
        _gallery(shown.gallery),
        _foot(shown.about),
    ]
    css = (files("cuecard.report.page") / "page.css").read_text(encoding="utf-8")
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{NO_OTHERS}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{TITLE}</title>\n<style>\n{css}</style>\n</head>\n<body>\n<main>\n"
        f'<h1>{TITLE}</h1>\n<p class="lead">{_lead(shown)}</p>\n'
        + "\n".join(sections)
        + "\n</main>\n</body>\n</html>\n"
    )


def _lead(shown: Showcase) -> str:
    """The result in one sentence."""
    ours, alone = shown.row(shown.headline), shown.row("reason:large")
    return (
        f"On {shown.questions} held-out questions, mutual verification ({escape(str(ours.schedule))}) was right"
        f" {ours.right} times ({formatting.percent(ours.accuracy)}) in {formatting.duration(ours.mean_s)} a question;"
        f" the large model with its own reasoning {alone.right} times ({formatting.percent(alone.accuracy)}) in"
        f" {formatting.duration(alone.mean_s)}: {ours.speed_up:.2f} times the speed."
    )


# --- the results ------------------------------------------------------------------------------------------


def _results(shown: Showcase) -> str:
    roles = roles_of(shown.rows)
    heads = ["right", "95% interval", *(f"tokens, {role}" for role in roles), "latency", "speed-up"]
    cells = "".join(f'<th scope="col">{escape(head)}</th>' for head in heads)
    body = "\n".join(_result(row, roles, row.name == shown.headline) for row in shown.rows)
    caption = (
        f"The same {shown.questions} questions for every strategy, in an order that rotates from question to question,"
        f" each from cold. Tokens: generated a question, mean. Latency: mean, {_how(shown.rows)}."
    )
    table = (
        f'<table>\n<thead><tr><th scope="col">strategy</th>{cells}'
        f'<th scope="col" class="routes">routes</th></tr></thead>\n'
        f"<tbody>\n{body}\n</tbody>\n</table>"
    )
    return f"<h2>Results</h2>\n{_drawn(table, caption)}"


def _result(row: Row, roles: Sequence[str], headline: bool) -> str:
    between = f"{formatting.percent(row.low)}–{formatting.percent(row.high)}"
    spent = [formatting.tokens(row.tokens.get(role, 0.0)) for role in roles]
    right = f"{row.right} ({formatting.percent(row.accuracy)})"
    numbers = (right, between, *spent, formatting.duration(row.mean_s), f"{row.speed_up:.2f}×")
    cells = "".join(f"<td>{number}</td>" for number in numbers)
    marked = ' class="headline"' if headline else ""
    routes = re.sub(r"(\d) ", r"\1&nbsp;", formatting.counted(row.routes))
    return f'<tr{marked}><th scope="row">{escape(row.name)}</th>{cells}<td class="routes">{routes}</td></tr>'


def _how(rows: Iterable[Row]) -> str:
    kinds = dict.fromkeys(row.latency for row in rows)
    return "; ".join(f"<strong>{kind}</strong> ({formatting.HOW[kind]})" for kind in kinds)


# --- figures ------------------------------------------------------------------------------------------


def _figure(title: str, svg: str, caption: str) -> str:
    """`title` and `caption` are ours, and HTML already."""
    return f"<h2>{title}</h2>\n{_drawn(svg, caption)}"


def _drawn(drawing: str, caption: str) -> str:
    """What may be wider than a narrow screen scrolls by itself; the caption does not."""
    return f'<figure><div class="wide" tabindex="0">{drawing}</div><figcaption>{caption}</figcaption></figure>'


def _time_lines(sample: Sample) -> str:
    until_s = max(max(o.total_s, *(c.end_s for c in o.calls)) for o in sample.outcomes.values())
    drawn = [_drawn(figures.timeline(o, until_s), _told(name, o, sample.truth)) for name, o in sample.outcomes.items()]
    kinds = dict.fromkeys(outcome.latency_kind for outcome in sample.outcomes.values())
    how = "; ".join(f"<strong>{kind}</strong> ({formatting.HOW[kind]})" for kind in kinds)
    return (
        "<h2>One request, call by call</h2>\n"
        f"<p>{_asked(sample.question)} Right is <strong>{escape(sample.truth)}</strong>.</p>\n"
        "<p>The same question under several strategies, on one scale: of the transferred questions, the one of median"
        f" latency. Every time is {how}. A bar is pale until the call's first token; the grey band is the hand-off,"
        " from the small model's last reasoning token to the large model's first answer token.</p>\n" + "".join(drawn)
    )


def _told(name: str, outcome: Outcome, truth: str) -> str:
    found = handoff(outcome)
    handed = f" Hand-off {formatting.duration(found[1] - found[0])}." if found else ""
    return (
        f"<strong>{escape(name)}</strong>: {formatting.duration(outcome.total_s)}, answer “{escape(outcome.answer)}”."
        f" {escape(str(outcome.route).capitalize())}: {escape(outcome.reason)}.{handed}"
    )


# --- the gallery ------------------------------------------------------------------------------------------


def _gallery(exhibits: Sequence[Exhibit]) -> str:
    cards = "\n".join(map(_card, exhibits))
    lead = (
        "Each route, both sources, right and wrong answers, as far as the run has them; in the order asked within each."
    )
    return f'<h2>Some of the questions</h2>\n<p class="soft">{lead}</p>\n<div class="gallery">\n{cards}\n</div>'


def _card(exhibit: Exhibit) -> str:
    outcome, reasoned = exhibit.outcome, exhibit.call("small", Mode.REASON)
    pictures = "".join(map(_picture, exhibit.question.images))
    verdict = '<span class="good">right</span>' if exhibit.right else '<span class="bad">wrong</span>'
    facts = [
        ("short answers", f"small “{_short(exhibit, 'small')}”, large “{_short(exhibit, 'large')}”"),
        ("reasoning", _reasoning(reasoned.reasoning if reasoned else None, bool(reasoned and reasoned.cancelled))),
        ("final answer", f"<strong>{escape(outcome.answer)}</strong>, {verdict}"),
        ("truth", escape(exhibit.truth)),
        ("route", f"<strong>{outcome.route}</strong>: {escape(outcome.reason)}"),
        (
            "latency",
            f"{formatting.duration(outcome.total_s)} {outcome.latency_kind}; the large model's own reasoning:"
            f" {formatting.duration(exhibit.large_reasoning_s)}",
        ),
    ]
    told = "".join(f"<dt>{name}</dt><dd>{value}</dd>" for name, value in facts)
    return (
        f'<article><header>{pictures}<div><p class="soft">{escape(exhibit.source)}</p>'
        f"<h3>{_asked(exhibit.question)}</h3>{_options(exhibit.question)}</div></header><dl>{told}</dl></article>"
    )


def _short(exhibit: Exhibit, role: str) -> str:
    call = exhibit.call(role, Mode.SHORT)
    return escape((call.answer or "").strip() if call else "") or "—"


def _reasoning(text: str | None, cancelled: bool) -> str:
    if not text:
        return '<span class="soft">none</span>'
    return f"<blockquote>{escape(text.strip())}{' … (cancelled)' if cancelled else ''}</blockquote>"


def _asked(question: Question) -> str:
    return escape(question.text)


def _options(question: Question) -> str:
    shown = "".join(f"<div>{letter(i)}. {escape(option)}</div>" for i, option in enumerate(question.options))
    return f'<div class="soft">{shown}</div>' if shown else ""


def _picture(image: Image) -> str:
    if image.media_type not in IMAGE_TYPES:
        return f'<span class="soft">an image ({escape(image.media_type)})</span>'
    data = base64.b64encode(image.data).decode()
    return f'<img src="data:{image.media_type};base64,{data}" alt="the image that the question is about">'


def _foot(about: Sequence[tuple[str, str]]) -> str:
    facts = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in about)
    return f"<h2>About this run</h2>\n<dl>{facts}</dl>" if facts else ""
