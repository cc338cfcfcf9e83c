"""The report of an attention run: figures 3 to 5 of the paper, its tables, and questions to look at one by one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

from cuecard.attention import store
from cuecard.attention.analysis.examples import Look, looks
from cuecard.attention.analysis.results import REASONING, Findings, Found, findings
from cuecard.attention.axes import LARGE_CARD, LARGE_OWN, QUERIES
from cuecard.domain.errors import BadInput
from cuecard.report.attention import tables as sheets
from cuecard.report.attention.browser import browser, policy
from cuecard.report.attention.figures import figures
from cuecard.report.evaluation.csv_tables import write_csv
from cuecard.report.page.html import Drawing, figure, section, table, wide

STYLES = ("page/page.css", "page/evaluation.css", "attention/attention.css")
ALL = QUERIES.index("all")
SPANS_SAID = (
    "Every key is in exactly one column, so a row sums to 100. Sink: the first token. Cue: the marks between question"
    " or card and the answer."
)


@dataclass(frozen=True)
class Shown:
    """What the page is made from."""

    name: str
    found: Findings
    looks: Sequence[Look]
    about: Sequence[tuple[str, str]]


def opened(run: Path, questions: int) -> Shown:
    """Of a run's directory, with at most so many questions to look at. Raises BadInput."""
    found = findings(run)
    return Shown(run.resolve().name, found, looks(run, found.config["delta"], questions), _facts(store.about(run)))


def _facts(about: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What is known of a run, for its foot."""
    config, known = about["config"], about.get("machine") or {}
    told = [("command", " ".join(["cuecard", *about["argv"]]))] if about.get("argv") else []
    told += [(role, f"{name}, revision {config['revisions'][role]}") for role, name in config["models"].items()]
    told += [("task", f"{config['task']}, revision {config['data']}"), ("delta", str(config["delta"]))]
    return told + [(name.replace("_", " "), str(value)) for name, value in known.items() if value is not None]


def page(shown: Shown, drawn: Sequence[Drawing]) -> str:
    """The whole report as one HTML document."""
    sections = [
        section("Attention to reasoning", _wide(whole_sheet(_all(shown)), _how(shown)), *map(figure, drawn)),
        section("Question by question", _browser(shown), soft=_looking(shown)),
        section("What else is looked at", _wide(sheets.spans_sheet(_all(shown), ALL), SPANS_SAID)),
        section("Which tokens of the reasoning", *_tokens(shown)),
        section("Whose key tokens agree", *_overlaps(shown)),
        section("The corollary on real values", _wide(sheets.bound_sheet(_reasoned(shown)), _bound(shown))),
        section("About this run", "<dl>" + "".join(_fact(*each) for each in shown.about) + "</dl>"),
    ]
    css = "".join((files("cuecard.report") / name).read_text(encoding="utf-8") for name in STYLES)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy()}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>Attention: {escape(shown.name)}</title>\n<style>\n{css}</style>\n</head>\n<body>\n<main>\n"
        f'<h1>Attention: {escape(shown.name)}</h1>\n<p class="lead">{escape(lead(shown.found))}</p>\n'
        + "\n".join(filter(None, sections))
        + "\n</main>\n</body>\n</html>\n"
    )


def save(shown: Shown, path: Path) -> list[Path]:
    """The page, and figures and tables beside it: what was written. Raises BadInput."""
    drawn = figures(shown.found)
    written = save_parts(shown.found, drawn, path.parent)
    try:
        path.write_text(page(shown, drawn), encoding="utf-8")
    except OSError as error:
        raise BadInput(f"cannot write {path}: {error.strerror}", "give another --out") from error
    return [path, *written]


def save_parts(found: Findings, drawn: Sequence[Drawing], folder: Path) -> list[Path]:
    """`figures/` (SVG and PNG) and `tables/` (CSV) in a folder. Raises BadInput."""
    written = []
    try:
        for name in ("figures", "tables"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        for each in drawn:
            at = folder / "figures" / each.name
            at.with_suffix(".svg").write_text(each.svg, encoding="utf-8")
            at.with_suffix(".png").write_bytes(each.png)
            written.append(at.with_suffix(".svg"))
        captions = "\n\n".join(f"{each.name}: {each.caption}" for each in drawn)
        (folder / "figures" / "captions.txt").write_text(captions + "\n", encoding="utf-8")
        for name, rows in sheets.tables(found).items():
            write_csv(at := folder / "tables" / f"{name}.csv", rows)
            written.append(at)
    except OSError as error:
        raise BadInput(f"cannot write {error.filename or folder}: {error.strerror}", "give another --out") from error
    return written


def lead(found: Findings) -> str:
    """The two figures of the paper in one sentence."""
    of = next((found.conditions[name] for name in (LARGE_CARD, LARGE_OWN) if name in found.conditions), None)
    if of is None:
        return f"{found.questions} questions; no answer of the large model had reasoning to look at."
    return (
        f"On {of.answers} questions, {of.name}: {of.spans.at(ALL, REASONING).text()}% of the answer's attention is on"
        f" the reasoning (mean over layers and heads), and {of.sparsity.at(ALL).text()}% of its tokens carry"
        f" {100 * found.config['delta']:g}% of that; even attention would need {100 * found.config['delta']:g}%."
    )


def whole_sheet(shown: Sequence[Found]) -> tuple[list[str], list[list[str]]]:
    """The table that comes first, of all queries."""
    return sheets.whole_sheet(shown, ALL)


def _all(shown: Shown) -> list[Found]:
    return list(shown.found.conditions.values())


def _reasoned(shown: Shown) -> list[Found]:
    return [each for each in _all(shown) if each.bound]


def _wide(sheet: tuple[list[str], list[list[str]]], caption: str) -> str:
    heads, rows = sheet
    return wide(table(heads, rows), caption) if rows else ""


def _how(shown: Shown) -> str:
    return (
        "Percent, with 95% intervals over questions (cluster bootstrap). Sparsity: the smallest share of the"
        f" reasoning's tokens that carries {100 * shown.found.config['delta']:g}% of its mass, mean over layers and"
        " heads. As decoded: the reasoning that was looked at is, token for token, the one that was generated."
    )


def _looking(shown: Shown) -> str:
    return (
        f"The first {len(shown.looks)} questions. A token is shaded by the attention that it gets, on a scale of each"
        " layer and head. Arrow keys on the text go from question to question."
    )


def _browser(shown: Shown) -> str:
    delta = f"{100 * shown.found.config['delta']:g}%"
    return browser(shown.looks).replace('id="browser"', f'id="browser" data-delta="{delta}"', 1)


def _tokens(shown: Shown) -> list[str]:
    some = _reasoned(shown)
    return [
        _wide(
            sheets.classes_sheet(some, ALL),
            "Of the reasoning's tokens, and of the attention to it, %. Classes are by English word lists; answer: says"
            " what the answer says. The last sentence is not a class of its own: its tokens are in the others too.",
        ),
        _wide(sheets.positions_sheet(some, ALL), "Of the attention to the reasoning, by fifths of its length, %."),
        _wide(sheets.kinds_sheet(some, ALL), "By the kind of answer, %."),
    ]


def _overlaps(shown: Shown) -> list[str]:
    return [
        _wide(
            sheets.overlap_sheet(shown.found),
            "Of the fifth of tokens with most attention, % that both have. Of one text by place, of two texts by words"
            f" (Dice); {_alike(shown)}. By chance and by position: the large model's key tokens against as many of the"
            " small one's text drawn at random, and against its last ones.",
        ),
        _wide(
            sheets.heads_sheet(_reasoned(shown), ALL),
            "Heads of one layer, mean over layers: of a head's fifth with most attention, % that another head has too,"
            " and % that are the last fifth of the text; by chance both are 20.",
        ),
    ]


def _alike(shown: Shown) -> str:
    alike = shown.found.alike
    return "" if alike is None else f"on {100 * alike:.0f}% of the questions both models wrote the same reasoning"


def _bound(shown: Shown) -> str:
    return (
        "Half of heads and questions (5–95%). All but the key tokens left out, m is the mass that is kept and c the"
        " longest value; with weights of the card alone, as in the paper, or of the whole row, of which the card's"
        " other tokens are left out. Of 2(1−m)c: ‖o − o_S‖ as a part of its bound; of (1−m)c: the same without"
        " renormalising. Bound / output: 2(1−m)c as a part of ‖o‖; where it is 1 or more (bound ≥ output), the bound"
        " does not exclude that the output is lost. Most used: the largest part of a bound that was reached; above 1"
        " would be a defect."
    )


def _fact(name: str, value: str) -> str:
    return f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>"


__all__ = ["Shown", "figures", "lead", "opened", "page", "save", "save_parts", "whole_sheet"]
