"""The report of an attention run: figures 3 to 5 of the paper, its tables, and a view of single questions.

The page holds the shades of every token; its script selects which are shown. Without scripts it shows the first
question with means over layers and heads.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from cuecard.attention import store
from cuecard.attention.results import REASONING, Band, ConditionResults, Findings, findings
from cuecard.attention.store import (
    LARGE_CARD,
    LARGE_OWN,
    QUERIES,
    SMALL_OWN,
    Array,
    ShadedQuestion,
    Shades,
    shaded_questions,
)
from cuecard.domain.question import letter
from cuecard.report import attention_tables as tables
from cuecard.report import html
from cuecard.report.canvas import INK, WIDTH, Drawing, canvas, drawing, key, styled, write
from cuecard.report.formatting import run_facts
from cuecard.report.html import KeyResult, Report, save_files, thumbnail

COLOURS = {LARGE_OWN: "#008060", LARGE_CARD: "#c14e00", SMALL_OWN: "#0072b2"}
DASHES: dict[str, tuple[float, Sequence[float]]] = {
    LARGE_OWN: (0, (1, 0)),
    LARGE_CARD: (0, (4, 2)),
    SMALL_OWN: (0, (1, 0)),
}
FIRST, ALL = map(QUERIES.index, ("first", "all"))
TALL = 490
"""Height of figure 3 in pixels."""
NUMBERED = 16
"""Maximum number of layers of a heat map with numbers in its cells."""
SCRIPT = "attention.js"
MOST_BYTES = 12 * 2**20
"""Maximum size of the page; limits the number of questions."""


@dataclass(frozen=True)
class Shown:
    """The content of the page."""

    name: str
    results: Findings
    questions: Sequence[ShadedQuestion]
    about: Sequence[tuple[str, str]]


def opened(run: Path, questions: int) -> Shown:
    """Load the content of the page from a run's directory, with at most `questions` questions. Raises BadInput."""
    results = findings(run)
    shaded = shaded_questions(run, results.config["delta"], questions)
    return Shown(run.resolve().name, results, shaded, _facts(store.about(run)))


def _facts(about: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Facts about a run, for the footer of the page."""
    config = about["config"]
    facts = [(role, f"{name}, revision {config['revisions'][role]}") for role, name in config["models"].items()]
    facts += [("task", f"{config['task']}, revision {config['data']}"), ("delta", str(config["delta"]))]
    return run_facts(about, facts)


def save(shown: Shown, path: Path) -> list[Path]:
    """Write the page, and figures and tables beside it; return the page and the tables. Raises BadInput."""
    drawn = figures(shown.results)
    return Report(page(shown, drawn), drawn, tables.tables(shown.results)).save(path)


def save_parts(results: Findings, drawn: Sequence[Drawing], folder: Path) -> list[Path]:
    """Write `figures/` and `tables/`; return the SVG files, then the tables. Raises BadInput."""
    return save_files(drawn, tables.tables(results), folder)


def page(shown: Shown, drawn: Sequence[Drawing]) -> str:
    """The whole report as one HTML document."""
    conditions = list(shown.results.conditions.values())
    packed = _fitting(shown.questions)
    return html.page(
        "attention.html",
        html.Heading(f"Attention: {shown.name}", lead(shown.results), _verdicts(shown.results), shown.about),
        script=SCRIPT,
        results=shown.results,
        delta=f"{100 * shown.results.config['delta']:g}%",
        conditions=conditions,
        reasoned=[each for each in conditions if each.bound],
        drawings=drawn,
        tables=tables,
        ALL=ALL,
        packed=packed,
        first=_first(shown.questions[0]) if packed else None,
    )


def _speaking(results: Findings) -> ConditionResults | None:
    """The condition of the lead: the large model behind the card, else behind its own reasoning."""
    return next((results.conditions[name] for name in (LARGE_CARD, LARGE_OWN) if name in results.conditions), None)


def lead(results: Findings) -> str:
    """The two figures of the paper in one sentence."""
    of = _speaking(results)
    if of is None:
        return f"{results.questions} questions; no answer of the large model had reasoning to look at."
    return (
        f"On {of.answers} questions, {of.name}: {of.spans.at(ALL, REASONING).text()}% of the answer's attention is on"
        f" the reasoning (mean over layers and heads), and {of.sparsity.at(ALL).text()}% of its tokens carry"
        f" {100 * results.config['delta']:g}% of that; even attention would need {100 * results.config['delta']:g}%."
    )


def _verdicts(results: Findings) -> list[KeyResult]:
    of, delta = _speaking(results), f"{100 * results.config['delta']:g}%"
    if of is None:
        return []
    sure = f"95% intervals over {of.answers} questions."
    verdicts = [
        KeyResult(
            "How much of the answer's attention is on the reasoning?",
            f"{100 * float(of.spans.mean[ALL, REASONING]):.1f}%",
            f"{of.name}: {of.spans.at(ALL, REASONING).text()}%, mean over layers and heads.",
            sure,
        ),
        KeyResult(
            f"How few of its tokens carry {delta} of that?",
            f"{100 * float(of.sparsity.mean[ALL]):.1f}%",
            f"{of.name}: {of.sparsity.at(ALL).text()}% of the tokens; even attention would need {delta}.",
            sure,
        ),
    ]
    rights = [f"{each.name} {each.right.text()}%" for each in results.conditions.values() if each.right is not None]
    if of.right is not None:
        answer = f"{100 * float(of.right.mean):.1f}%"
        verdicts.append(KeyResult("How many answers are right?", answer, f"{'; '.join(rights)}.", sure))
    return verdicts


def whole_table(shown: Sequence[ConditionResults]) -> html.Rows:
    """The first table, over all queries."""
    return tables.whole_table(shown, ALL)


# --- questions one by one ---------------------------------------------------------------------------------------------


def _fitting(shown: Sequence[ShadedQuestion]) -> list[Markup]:
    """The data of the page's script: as many questions as fit into the page, as JSON without `<`."""
    packed: list[Markup] = []
    size = 0
    for look in shown:
        text = json.dumps(_packed(look), ensure_ascii=False).replace("<", "\\u003c")
        size += len(text)
        if packed and size > MOST_BYTES:
            break
        packed.append(Markup(text))
    return packed


def _first(look: ShadedQuestion) -> Mapping[str, Any]:
    """The view without scripts: the first condition, mean over layers and heads."""
    name, shades = next(iter(look.shades.items()))
    row = shades.rows[ALL, 0, 0]
    most = float(row.max()) or 1.0
    tokens = [
        (f"{share / most:.2f}", f"{100 * share:.2f}%", piece) for share, piece in zip(row, shades.pieces, strict=True)
    ]
    return {"images": look.images, "asked": _asked(look), "answered": _answered(look, name, shades), "tokens": tokens}


def _asked(look: ShadedQuestion) -> str:
    options = "".join(f"\n{letter(n)}. {option}" for n, option in enumerate(look.meta["options"]))
    return f"{look.meta['text']}{options}"


def _answered(look: ShadedQuestion, name: str, shades: Shades) -> str:
    wrong = f", wrong (right: {look.meta['gold']})"
    verdict = "" if shades.right is None else ", right" if shades.right >= 1 else wrong
    return f"{name}: “{shades.answer.strip()}”{verdict}"


def _packed(look: ShadedQuestion) -> dict[str, Any]:
    return {
        "name": f"{look.meta['id']}: {look.meta['category'] or look.meta['kind']}",
        "asked": _asked(look),
        "images": [asdict(thumbnail(image)) for image in look.images[:4]],
        "shades": {name: _shades(look, name, each) for name, each in look.shades.items()},
    }


def _shades(look: ShadedQuestion, name: str, shades: Shades) -> dict[str, Any]:
    """Rows as bytes, 255 for the maximum of a row, with the maximum and the row's sum."""
    most, total = shades.rows.max(-1), shades.rows.sum(-1)
    scaled = np.rint(255 * shades.rows / np.maximum(most, 1e-12)[..., None]).astype(np.uint8)
    return {
        "answered": _answered(look, name, shades),
        "pieces": list(shades.pieces),
        "shape": shades.rows.shape[:3],
        "rows": base64.b64encode(scaled.tobytes()).decode(),
        "most": [float(f"{value:.4g}") for value in most.ravel()],
        "mass": [float(f"{value:.4g}") for value in total.ravel()],
        "carrying": shades.carrying.ravel().tolist(),
    }


# --- figures 3, 4 and 5 of the paper: by layer, and head by head ------------------------------------------------------


def figures(results: Findings, wanted: Sequence[int] = (3, 4, 5)) -> list[Drawing]:
    """The wanted figures, for the conditions with reasoning."""
    shown = [each for each in results.conditions.values() if each.name in COLOURS]
    draw: dict[int, Callable[[], Drawing]] = {
        3: lambda: by_layer(results, shown),
        4: lambda: by_head(results, shown, 4, "attention to the reasoning", [each.head_mass for each in shown]),
        5: lambda: by_head(results, shown, 5, _sparsity(results), [each.head_sparsity for each in shown]),
    }
    return [draw[number]() for number in wanted]


def _sparsity(results: Findings) -> str:
    return f"reasoning tokens that carry {100 * results.config['delta']:g}% of it"


def by_layer(results: Findings, shown: Sequence[ConditionResults]) -> Drawing:
    """Figure 3: total mass on the reasoning, and sparsity, by layer, mean over heads."""
    figure, top = canvas(height=TALL, left=60, top=28, bottom=290)
    low = styled(figure.add_axes((60 / WIDTH, 76 / TALL, (WIDTH - 76) / WIDTH, 172 / TALL)))
    write(top, 0, 1.05, "attention to the reasoning, % of a row", transform=top.transAxes)
    write(low, 0, 1.05, f"{_sparsity(results)}, %", transform=low.transAxes)
    delta = 100 * results.config["delta"]
    low.axhline(delta, color=INK, alpha=0.5, linewidth=1, linestyle=(0, (1, 2)))
    for each in shown:
        _line(top, each, each.layer_mass)
        _line(low, each, each.layer_sparsity)
    for axes in (top, low):
        axes.set_ylim(0, 100)
        axes.grid()
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    low.set_xlabel("layer")
    key(figure, [Line2D([], [], color=COLOURS[e.name], linestyle=DASHES[e.name], label=e.name) for e in shown], most=3)
    caption = (
        f"{_what(results)}, as figure 3 of the paper: by layer, averaged over heads, mean over questions with 95%"
        " intervals (cluster bootstrap). Lines: all of the answer's queries; dots: the one that predicts its first"
        f" token. Even attention would need {delta:g}% of the tokens (dotted). Measured."
    )
    return drawing("attention-3", figure, _label(shown), caption)


def _line(axes: Axes, of: ConditionResults, band: Band) -> None:
    """Draw (layers, sets) as a line with its interval, and dots for the first query."""
    layers, colour = range(len(of.windows)), COLOURS[of.name]
    mean, low, high = (100 * side[:, ALL] for side in (band.mean, band.low, band.high))
    axes.plot(layers, mean, color=colour, linestyle=DASHES[of.name], linewidth=2)
    axes.fill_between(layers, low, high, color=colour, alpha=0.2, linewidth=0)
    axes.plot(layers, 100 * band.mean[:, FIRST], "o", color=colour, alpha=0.7, markersize=3.5)


def by_head(
    results: Findings, shown: Sequence[ConditionResults], number: int, what: str, bands: Sequence[Band]
) -> Drawing:
    """Figures 4 and 5: a heat map per condition, heads on the y axis, layers on the x axis, 0 to 100%."""
    values = [100 * band.mean[:, ALL].T for band in bands]  # (heads, layers)
    cell = [26 if len(each) <= 8 else 16 if len(each) <= 16 else 9 for each in values]
    heights = [size * len(each) for size, each in zip(cell, values, strict=True)]
    height = sum(heights) + 62 * len(shown) + 44
    figure = Figure(figsize=(WIDTH / 72, height / 72), dpi=72)
    above = 26
    for each, shares, tall in zip(shown, values, heights, strict=True):
        box = (56 / WIDTH, 1 - (above + tall) / height, (WIDTH - 76) / WIDTH, tall / height)
        _heat(styled(figure.add_axes(box)), each, shares)
        above += tall + 62
    _scale(figure, height)
    caption = (
        f"{_what(results)}, as figure {number} of the paper: {what}, head by head and layer by layer, in %, mean over"
        " the questions and the answer's queries. Measured; the intervals are in the table."
    )
    return drawing(f"attention-{number}", figure, _label(shown), caption)


def _heat(axes: Axes, of: ConditionResults, shares: Array) -> None:
    heads, layers = shares.shape
    axes.pcolormesh(shares, cmap="viridis", vmin=0, vmax=100, linewidth=0, rasterized=False)
    axes.set_xlim(0, layers)
    axes.set_ylim(heads, 0)
    step = 1 if layers <= NUMBERED else 4
    axes.set_xticks([layer + 0.5 for layer in range(0, layers, step)], [str(layer) for layer in range(0, layers, step)])
    rows = range(0, heads, 1 if heads <= 8 else 4 if heads <= 16 else 8)
    axes.set_yticks([head + 0.5 for head in rows], [str(head) for head in rows])
    axes.set_ylabel("head")
    axes.set_xlabel("layer", labelpad=1)
    write(axes, 0, 1, f"{of.name}, {of.answers} answers", transform=axes.transAxes, va="bottom")
    if layers <= NUMBERED and heads <= 8:
        for head in range(heads):
            for layer in range(layers):
                if (share := shares[head, layer]) == share:
                    colour = "#ffffff" if share < 60 else "#101418"
                    write(axes, layer + 0.5, head + 0.52, f"{share:.0f}", color=colour, ha="center", va="center")


def _scale(figure: Figure, height: int) -> None:
    """Draw the colour scale from 0 to 100% at the foot."""
    axes = styled(figure.add_axes((56 / WIDTH, 26 / height, 220 / WIDTH, 10 / height)))
    axes.pcolormesh([[step / 60 for step in range(61)]], cmap="viridis", edgecolors="face")
    axes.set_yticks([])
    axes.set_xticks([0, 30.5, 61], ["0", "50", "100%"])


def _what(results: Findings) -> str:
    models = ", ".join(f"{role} {name}" for role, name in results.config["models"].items())
    return f"{results.config['task']}, {results.questions} questions, {models}"


def _label(shown: Sequence[ConditionResults]) -> str:
    """The alternative text."""
    return "; ".join(
        f"{each.name}: {each.spans.at(ALL, REASONING).text()}% of attention on the reasoning, sparsity"
        f" {each.sparsity.at(ALL).text()}%"
        for each in shown
    )


__all__ = ["Shown", "figures", "lead", "opened", "page", "save", "save_parts", "whole_table"]
