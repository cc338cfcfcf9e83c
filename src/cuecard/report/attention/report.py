"""The report of an attention run: figures 3 to 5 of the paper, its tables, and questions to look at one by one.

The shades of every token are in the page; a script of its own changes which are shown. Without scripts the first
question is there, in the mean over layers and heads.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from cuecard.attention import store
from cuecard.attention.examples import ShadedQuestion, Shades, shaded_questions
from cuecard.attention.results import REASONING, ConditionResults, Findings, findings
from cuecard.attention.store import LARGE_CARD, LARGE_OWN, QUERIES
from cuecard.domain.question import letter
from cuecard.report.attention import tables
from cuecard.report.attention.figures import figures
from cuecard.report.page import html
from cuecard.report.page.canvas import Drawing
from cuecard.report.page.html import KeyResult, thumbnail
from cuecard.report.page.report_files import Report, save_files

ALL = QUERIES.index("all")
SCRIPT = "attention.js"
MOST_BYTES = 12 * 2**20
"""Of the page: as many questions as fit are in it."""


@dataclass(frozen=True)
class Shown:
    """The content of the page."""

    name: str
    results: Findings
    questions: Sequence[ShadedQuestion]
    about: Sequence[tuple[str, str]]


def opened(run: Path, questions: int) -> Shown:
    """Of a run's directory, with at most so many questions to look at. Raises BadInput."""
    results = findings(run)
    shaded = shaded_questions(run, results.config["delta"], questions)
    return Shown(run.resolve().name, results, shaded, _facts(store.about(run)))


def _facts(about: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What is known of a run, for the foot of the page."""
    config, known = about["config"], about.get("machine") or {}
    facts = [("command", " ".join(["cuecard", *about["argv"]]))] if about.get("argv") else []
    facts += [(role, f"{name}, revision {config['revisions'][role]}") for role, name in config["models"].items()]
    facts += [("task", f"{config['task']}, revision {config['data']}"), ("delta", str(config["delta"]))]
    return facts + [(name.replace("_", " "), str(value)) for name, value in known.items() if value is not None]


def save(shown: Shown, path: Path) -> list[Path]:
    """Write the page, and figures and tables beside it: the page and the tables. Raises BadInput."""
    drawn = figures(shown.results)
    return Report(page(shown, drawn), drawn, tables.tables(shown.results)).save(path)


def save_parts(results: Findings, drawn: Sequence[Drawing], folder: Path) -> list[Path]:
    """Write `figures/` and `tables/`: the SVG files, then the tables. Raises BadInput."""
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
    """The condition of the lead: the large model behind the card, or behind its own reasoning."""
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


def whole_sheet(shown: Sequence[ConditionResults]) -> tuple[list[str], list[list[str]]]:
    """The table that comes first, of all queries."""
    return tables.whole_sheet(shown, ALL)


# --- questions one by one ---------------------------------------------------------------------------------------------


def _fitting(shown: Sequence[ShadedQuestion]) -> list[Markup]:
    """The data of the browser's script: as many questions as fit into the page, as JSON without `<`."""
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
    """What is shown without scripts: the first condition, the mean over layers and heads."""
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
    """Rows as bytes, 255 for a row's largest, with that and the row's sum beside them."""
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


__all__ = ["Shown", "figures", "lead", "opened", "page", "save", "save_parts", "whole_sheet"]
