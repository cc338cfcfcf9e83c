"""Tables of an attention run: as files, with one figure per row, and as the page shows them, texts by column heads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any

import numpy as np

from cuecard.attention.results import FIGURES, REASONING, Band, ConditionResults, Findings
from cuecard.attention.store import BINS, BOUND, CLASSES, QUERIES, SPANS
from cuecard.report.html import Rows

SORTS = (*(str(kind) for kind in CLASSES), "last sentence")


def tables(results: Findings) -> dict[str, list[dict[str, Any]]]:
    """File name -> rows; shares from 0 to 1."""
    shown = [each for each in results.conditions.values() if each.tokens.mean > 0]
    return {
        "whole": [row for each in results.conditions.values() for row in _whole(each)],
        "figure-3": [row for each in shown for row in _figure_3(each)],
        "figure-4": [row for each in shown for row in _by_layer(each, "mass", each.head_mass)],
        "figure-5": [row for each in shown for row in _by_layer(each, "sparsity", each.head_sparsity)],
        "spans": [row for each in results.conditions.values() for row in _by_span(each)],
        "classes": [row for each in shown for row in _by_class(each)],
        "positions": [row for each in shown for row in _by_position(each)],
        "kinds": [row for each in shown for row in _by_kind(each)],
        "heads": [row for each in shown for row in _of_heads(each)],
        "overlap": list(_overlap(results)),
        "bound": [row for each in shown for row in _bound(each)],
    }


def _sides(band: Band, *place: int) -> dict[str, Any]:
    sides = {"mean": band.mean[place], "low": band.low[place], "high": band.high[place]}
    return {name: f"{float(side):.6g}" if np.isfinite(side) else "" for name, side in sides.items()}


def _whole(of: ConditionResults) -> Iterator[dict[str, Any]]:
    where = {"answer from": of.name, "answers": of.answers, "skipped": sum(of.skipped.values()), "queries": "all"}
    if of.right is not None:
        yield {**where, "figure": "right", **_sides(of.right)}
    yield {**where, "figure": "reasoning tokens", **_sides(of.tokens)}
    yield {**where, "figure": "as decoded", "mean": of.as_decoded / of.answers}
    for place, queries in enumerate(QUERIES):
        yield {**where, "queries": queries, "figure": "mass", **_sides(of.spans, place, REASONING)}
        yield {**where, "queries": queries, "figure": "sparsity", **_sides(of.sparsity, place)}


def _figure_3(of: ConditionResults) -> Iterator[dict[str, Any]]:
    yield from _by_layer(of, "mass", of.layer_mass, with_window=True)
    yield from _by_layer(of, "sparsity", of.layer_sparsity, with_window=True)
    yield from _by_layer(of, "sparsity of the mean over heads", of.layer_sparsity_of_mean, with_window=True)


def _by_layer(of: ConditionResults, figure: str, band: Band, with_window: bool = False) -> Iterator[dict[str, Any]]:
    """A row per layer, set of queries, and head if the band has heads."""
    for place in np.ndindex(band.mean.shape):
        layer, queries, *head = place
        yield {
            "answer from": of.name,
            "queries": QUERIES[queries],
            "layer": layer,
            **({"window": of.windows[layer]} if with_window else {}),
            **({"head": head[0]} if head else {}),
            "figure": figure,
            **_sides(band, *place),
        }


def _by_span(of: ConditionResults) -> Iterator[dict[str, Any]]:
    for place, queries in enumerate(QUERIES):
        where = {"answer from": of.name, "queries": queries}
        for number, span in enumerate(SPANS):
            yield {**where, "layers": "all", "span": str(span), **_sides(of.spans, place, number)}
            if of.spans_full is not None:
                yield {**where, "layers": "without window", "span": str(span), **_sides(of.spans_full, place, number)}
        if of.learned is not None and of.without_learned is not None:
            yield {**where, "layers": "all", "span": "learned sink", **_sides(of.learned, place)}
            bounds = _sides(of.without_learned, place)
            yield {**where, "layers": "all", "span": "reasoning, without the learned sink", **bounds}


def _by_class(of: ConditionResults) -> Iterator[dict[str, Any]]:
    for number, sort in enumerate(SORTS):
        yield {"answer from": of.name, "class": sort, "part": "of tokens", **_sides(of.class_tokens, number)}
        for place, queries in enumerate(QUERIES):
            part = f"of the mass, {queries}"
            yield {"answer from": of.name, "class": sort, "part": part, **_sides(of.classes, place, number)}


def _by_position(of: ConditionResults) -> Iterator[dict[str, Any]]:
    for (place, queries), number in product(enumerate(QUERIES), range(BINS)):
        where = {"answer from": of.name, "queries": queries, "from": number / BINS, "to": (number + 1) / BINS}
        yield {**where, **_sides(of.positions, place, number)}


def _by_kind(of: ConditionResults) -> Iterator[dict[str, Any]]:
    for (kind, each), (place, queries) in product(of.kinds.items(), enumerate(QUERIES)):
        where = {"answer from": of.name, "kind": kind, "questions": each.questions, "queries": queries}
        yield {**where, "figure": "mass", **_sides(each.mass, place)}
        yield {**where, "figure": "sparsity", **_sides(each.sparsity, place)}


def _of_heads(of: ConditionResults) -> Iterator[dict[str, Any]]:
    for layer, (place, queries) in product(range(len(of.windows)), enumerate(QUERIES)):
        where = {"answer from": of.name, "layer": layer, "queries": queries}
        yield {**where, "figure": "shared with another head", **_sides(of.agree, layer, place)}
        yield {**where, "figure": "among the last tokens", **_sides(of.last, layer, place)}


def _overlap(results: Findings) -> Iterator[dict[str, Any]]:
    readers = {
        "the card, by its writer and its reader": results.same_text,
        "each its own reasoning": results.other_text,
    }
    for name, band in readers.items():
        if band is not None:
            for (place, queries), (number, figure) in product(enumerate(QUERIES), enumerate(FIGURES)):
                yield {"texts": name, "queries": queries, "figure": figure, **_sides(band, place, number)}
    if results.alike is not None:
        yield {"texts": "each its own reasoning", "figure": "the same text", "mean": results.alike}


def _bound(of: ConditionResults) -> Iterator[dict[str, Any]]:
    for reading, each in of.bound.items():
        for number, figure in enumerate(BOUND):
            where = {"answer from": of.name, "reading": reading, "figure": figure}
            low, half, high = (f"{value:.6g}" for value in each.quantiles[number])
            yield {**where, "layer": "all", "5%": low, "50%": half, "95%": high}
            for layer, medians in enumerate(each.by_layer):
                yield {**where, "layer": layer, "50%": f"{medians[number]:.6g}"}
        yield {
            "answer from": of.name,
            "reading": reading,
            "figure": "bound at least as long as the output",
            "layer": "all",
            "50%": f"{each.empty:.6g}",
        }
        yield {
            "answer from": of.name,
            "reading": reading,
            "figure": "most of a bound used",
            "layer": "all",
            "50%": f"{each.worst:.6g}",
        }


# --- on the page ------------------------------------------------------------------------------------------------------


def spans_table(shown: Sequence[ConditionResults], place: int) -> Rows:
    """Mass by span, % of a row."""
    present = [n for n in range(len(SPANS)) if any(each.spans.mean[place, n] > 0 for each in shown)]
    learned = any(each.learned is not None for each in shown)
    return [
        {
            "answer from": each.name,
            **{str(SPANS[n]): each.spans.at(place, n).text() for n in present},
            **({"learned sink": "–" if each.learned is None else each.learned.at(place).text()} if learned else {}),
        }
        for each in shown
    ]


def whole_table(shown: Sequence[ConditionResults], place: int) -> Rows:
    """Number of answers, and the two figures of the paper as one number each."""
    return [
        {
            "answer from": each.name,
            "answers": str(each.answers),
            "right": "–" if each.right is None else each.right.text(),
            "reasoning tokens": each.tokens.text(1),
            "attention to it": each.spans.at(place, REASONING).text(),
            "sparsity": each.sparsity.at(place).text(),
            "as decoded": str(each.as_decoded),
            "skipped": str(sum(each.skipped.values())),
        }
        for each in shown
    ]


def classes_table(shown: Sequence[ConditionResults], place: int) -> Rows:
    """For each class of tokens: its share of the tokens, and of the mass."""
    return [
        {
            "class": sort,
            **{
                f"{what}, {each.name}": part.text()
                for each in shown
                for what, part in (("tokens", each.class_tokens.at(n)), ("mass", each.classes.at(place, n)))
            },
        }
        for n, sort in enumerate(SORTS)
        if shown
    ]


def kinds_table(shown: Sequence[ConditionResults], place: int) -> Rows:
    return [
        {
            "answer from": each.name,
            "kind of answer": kind,
            "questions": str(of.questions),
            "attention to the reasoning": of.mass.at(place).text(),
            "sparsity": of.sparsity.at(place).text(),
        }
        for each in shown
        for kind, of in each.kinds.items()
    ]


def positions_table(shown: Sequence[ConditionResults], place: int) -> Rows:
    """Mass by fifth of the reasoning's length."""
    wide = BINS // 5
    fifths = [f"{20 * n}–{20 * n + 20}%" for n in range(5)]
    sums = [each.positions.mean[place].reshape(5, wide).sum(-1) for each in shown]
    return [
        {"answer from": each.name, **{head: f"{100 * part:.1f}" for head, part in zip(fifths, some, strict=True)}}
        for each, some in zip(shown, sums, strict=True)
    ]


def overlap_table(results: Findings) -> Rows:
    readers = {"card: writer, reader": results.same_text, "own reasonings: small, large": results.other_text}
    return [
        {
            "texts and readers": name,
            "queries": queries,
            **{figure: band.at(place, n).text() for n, figure in enumerate(FIGURES)},
        }
        for name, band in readers.items()
        if band is not None
        for place, queries in enumerate(QUERIES)
    ]


def heads_table(shown: Sequence[ConditionResults], place: int) -> Rows:
    """Overlap of the heads of a layer, mean over layers."""
    return [
        {
            "answer from": each.name,
            "shared with another head": f"{100 * np.nanmean(each.agree.mean[:, place]):.1f}",
            "among the last tokens": f"{100 * np.nanmean(each.last.mean[:, place]):.1f}",
        }
        for each in shown
    ]


def bound_table(shown: Sequence[ConditionResults]) -> Rows:
    heads = ("mass kept", "of 2(1−m)c", "of (1−m)c", "bound / output", "moved / output")
    return [
        {
            "answer from": each.name,
            "weights": reading,
            **{
                head: f"{half:.2f} ({low:.2f}–{high:.2f})"
                for head, (low, half, high) in zip(heads, of.quantiles, strict=True)
            },
            "bound ≥ output": f"{100 * of.empty:.0f}%",
            "most used": f"{of.worst:.2f}",
        }
        for each in shown
        for reading, of in each.bound.items()
    ]
