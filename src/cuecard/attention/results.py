"""Results of a run: means over questions with intervals, comparisons of readers, and tightness of the bound."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cuecard.attention import store
from cuecard.attention.store import (
    BOUND,
    LARGE_CARD,
    LARGE_OWN,
    QUERIES,
    READINGS,
    SMALL_OWN,
    SPANS,
    TOP,
    Array,
    Record,
)
from cuecard.domain.errors import BadInput
from cuecard.models.local.network import Span
from cuecard.stats import wilson_bounds

REASONING = SPANS.index(Span.REASONING)
DRAWS = 50
FIGURES = ("key tokens", "by chance", "by position")


@dataclass(frozen=True)
class Band:
    """Figures (…), each with a 95% interval, from `count` questions. NaN where no question has the figure."""

    mean: Array
    low: Array
    high: Array
    count: int

    def at(self, *place: Any) -> Band:
        """A part of the figures."""
        return Band(self.mean[place], self.low[place], self.high[place], self.count)

    def text(self, scale: float = 100, digits: int = 1) -> str:
        """One figure as text: `43.1 (40.2–46.0)`."""
        if not math.isfinite(self.mean):
            return "–"
        shown = [f"{scale * float(each):.{digits}f}" for each in (self.mean, self.low, self.high)]
        return f"{shown[0]} ({shown[1]}–{shown[2]})"


def band(
    values: Array, clusters: Sequence[Hashable], of: Array | None = None, draws: int = 2000, seed: int = 0
) -> Band:
    """(questions, …) -> mean of the finite values, or with `of` the ratio of sums; percentile cluster bootstrap."""
    values = np.asarray(values, dtype=np.float64)
    weights = np.isfinite(values).astype(np.float64) if of is None else np.where(np.isfinite(values), of, 0.0)
    shape, flat = values.shape[1:], np.nan_to_num(values).reshape(len(values), -1)
    names = {cluster: place for place, cluster in enumerate(dict.fromkeys(clusters))}
    member = np.zeros((len(names), len(values)))
    member[[names[cluster] for cluster in clusters], np.arange(len(values))] = 1
    tops, bottoms = member @ flat, member @ np.broadcast_to(weights, values.shape).reshape(len(values), -1)
    chance = np.random.default_rng(seed)
    drawn = chance.multinomial(len(names), np.full(len(names), 1 / len(names)), size=draws).astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean, many = tops.sum(0) / bottoms.sum(0), (drawn @ tops) / (drawn @ bottoms)
    if not flat.size or np.isnan(mean).all():
        empty = np.full(shape, np.nan)
        return Band(empty, empty, empty, len(values))
    low, high = _quantiles(many)
    return Band(mean.reshape(shape), low.reshape(shape), high.reshape(shape), len(values))


def _quantiles(many: Array) -> Any:
    """(draws, figures) -> (2, figures): the 2.5% and 97.5% quantiles; draws without a value are left out."""
    if not np.isnan(many).any():
        return np.quantile(many, (0.025, 0.975), axis=0)
    columns = (column[np.isfinite(column)] for column in many.T)
    sides = [np.quantile(column, (0.025, 0.975)) if len(column) else (np.nan, np.nan) for column in columns]
    return np.asarray(sides).T


@dataclass(frozen=True)
class Kind:
    """One kind of answer: mass on the reasoning and sparsity, each (sets), mean over layers and heads."""

    questions: int
    mass: Band
    sparsity: Band


@dataclass(frozen=True)
class Bounded:
    """One reading of the corollary over all heads and questions."""

    quantiles: Array
    """(BOUND, 3): the 5%, 50% and 95% quantiles."""
    by_layer: Array
    """(layers, BOUND): medians."""
    empty: float
    """Share of heads and questions whose bound is at least the norm of the output, so that it excludes nothing."""
    worst: float
    """Maximum of error / bound over all heads and questions; above 1 only by rounding."""


@dataclass(frozen=True)
class ConditionResults:
    """One condition. Mass is a share of the whole row; classes and positions are shares of the reasoning's mass."""

    name: str
    answers: int
    skipped: Mapping[str, int]
    right: Band | None
    as_decoded: int
    tokens: Band
    """Number of reasoning tokens."""
    windows: tuple[int | None, ...]
    """Sliding window of each layer; None: full attention."""
    spans: Band
    """(sets, spans), mean over layers and heads."""
    spans_full: Band | None
    """The same over layers without a sliding window; None if no layer, or every layer, has one."""
    learned: Band | None
    """(sets): mass on learned sinks; None without learned sinks."""
    without_learned: Band | None
    """(sets): mass on the reasoning as a share of the mass on all tokens, without the sinks; None without sinks."""
    layer_mass: Band
    """(layers, sets): mass on the reasoning, mean over heads."""
    layer_sparsity: Band
    """(layers, sets): mean over heads."""
    layer_sparsity_of_mean: Band
    """(layers, sets): sparsity of the row averaged over heads."""
    head_mass: Band
    """(layers, sets, heads)."""
    head_sparsity: Band
    sparsity: Band
    """(sets): mean over layers and heads."""
    classes: Band
    """(sets, classes + 1): share of the reasoning's mass on each class, and on its last sentence."""
    class_tokens: Band
    """(classes + 1): share of the reasoning's tokens in each class, and in its last sentence."""
    positions: Band
    """(sets, bins): share of the reasoning's mass in each twentieth of its length."""
    kinds: Mapping[str, Kind]
    agree: Band
    """(layers, sets): share of a head's top tokens that another head of the layer has too."""
    last: Band
    """(layers, sets): share of a head's top tokens that are among the last tokens."""
    bound: Mapping[str, Bounded]


@dataclass(frozen=True)
class Findings:
    """Results of a whole run."""

    config: Mapping[str, Any]
    questions: int
    conditions: Mapping[str, ConditionResults]
    same_text: Band | None
    """(sets, FIGURES): the small model, which wrote the card, against the large one, which reads it."""
    other_text: Band | None
    """(sets, FIGURES): each model behind its own reasoning."""
    alike: float | None
    """Share of questions with the same reasoning of both models, token for token."""

    def as_object(self) -> dict[str, Any]:
        """Plain data for JSON; lists follow `axes`."""
        data: dict[str, Any] = _object(self)
        return data


def findings(path: Path) -> Findings:
    """Compute the results of a run from its directory. Raises BadInput."""
    about = store.about(path)
    stored = [record for _, record in store.records(path)]
    if not stored:
        raise BadInput(f"{path} has no questions yet", "let it run first")
    names = list(dict.fromkeys(name for record in stored for name in record.conditions))
    conditions = {name: condition for name in names if (condition := _condition(name, stored)) is not None}
    return Findings(
        about["config"],
        len(stored),
        conditions,
        _compared(stored, SMALL_OWN, LARGE_CARD, lambda one, own, other, cut, _: same_text(onto(own, one, cut), other)),
        _compared(stored, SMALL_OWN, LARGE_OWN, other_text),
        _alike(_both(stored, SMALL_OWN, LARGE_OWN)),
    )


class _Values:
    """Arrays of one condition over the questions that have it."""

    def __init__(self, name: str, records: Sequence[Record]) -> None:
        self.name, self.records = name, records
        self.clusters = [record.meta["cluster"] for record in records]

    def stack(self, what: str) -> Array:
        """One array of all questions, (questions, …)."""
        return np.stack([record.array(self.name, what) for record in self.records]).astype(np.float64)

    def facts(self, what: str) -> list[Any]:
        return [record.conditions[self.name][what] for record in self.records]

    def band(self, values: Any, of: Array | None = None) -> Band:
        return band(np.asarray(values, dtype=np.float64), self.clusters, of)


def _condition(name: str, stored: Sequence[Record]) -> ConditionResults | None:
    """Results of one condition; None if no question has it."""
    asked = [record for record in stored if name in record.conditions]
    skipped = Counter(facts["skipped"] for record in asked if "skipped" in (facts := record.conditions[name]))
    of = _Values(name, [record for record in asked if "skipped" not in record.conditions[name]])
    if not of.records:
        return None
    mass, learned = of.stack("mass"), of.stack("learned")  # (questions, layers, sets, heads[, spans])
    sparsity, classes = of.stack("sparsity"), of.stack("classes")
    on_reasoning = mass[..., REASONING]
    windows = tuple(None if np.isnan(each) else int(each) for each in of.records[0].array(name, "window"))
    full = [place for place, window in enumerate(windows) if window is None]
    some = 0 < len(full) < len(windows)
    sorts = np.concatenate((classes, of.stack("conclusion")[..., None]), -1).mean((1, 3))
    counts = np.array(of.facts("classes"), dtype=np.float64)
    tokens = np.array([len(each) for each in of.facts("pieces")])
    total = on_reasoning.mean((1, 3))
    return ConditionResults(
        name=name,
        answers=len(of.records),
        skipped=skipped,
        right=_right(of),
        as_decoded=sum(of.facts("as_decoded")),
        tokens=of.band(tokens),
        windows=windows,
        spans=of.band(mass.mean((1, 3))),
        spans_full=of.band(mass[:, full].mean((1, 3))) if some else None,
        learned=of.band(learned.mean((1, 3))) if learned.any() else None,
        without_learned=of.band((on_reasoning / (1 - learned)).mean((1, 3))) if learned.any() else None,
        layer_mass=of.band(on_reasoning.mean(3)),
        layer_sparsity=of.band(_mean(sparsity, 3)),
        layer_sparsity_of_mean=of.band(of.stack("sparsity_of_mean")),
        head_mass=of.band(on_reasoning),
        head_sparsity=of.band(sparsity),
        sparsity=of.band(_mean(sparsity, (1, 3))),
        classes=of.band(sorts, total[..., None]),
        class_tokens=of.band(counts, tokens[:, None]),
        positions=of.band(of.stack("bins").mean(1), total[..., None]),
        kinds={
            kind: _kind(of, kind, total, sparsity) for kind in sorted({record.meta["kind"] for record in of.records})
        },
        agree=of.band(of.stack("agree")),
        last=of.band(of.stack("last")),
        bound={reading: _bounded(of, place) for place, reading in enumerate(READINGS)} if tokens.any() else {},
    )


def _right(of: _Values) -> Band | None:
    """Accuracy with its interval; None without scores.

    Wilson's interval for scores of 0 and 1, as the bootstrap has no spread if all are equal; else the bootstrap's.
    """
    known = [(score, each) for score, each in zip(of.facts("right"), of.clusters, strict=True) if score is not None]
    if not known:
        return None
    scores, clusters = zip(*known, strict=True)
    if set(scores) <= {0, 1} and len(set(clusters)) == len(scores):
        low, high = wilson_bounds(int(sum(scores)), len(scores))
        return Band(np.array(np.mean(scores)), np.array(low), np.array(high), len(scores))
    return band(np.array(scores), clusters)


def _mean(values: Array, axis: int | tuple[int, ...]) -> Array:
    """Mean of the finite values; NaN if there are none."""
    here = np.isfinite(values)
    with np.errstate(invalid="ignore"):
        mean: Array = np.where(here, values, 0).sum(axis) / here.sum(axis)
    return mean


def _kind(of: _Values, kind: str, total: Array, sparsity: Array) -> Kind:
    chosen = [place for place, record in enumerate(of.records) if record.meta["kind"] == kind]
    clusters = [of.clusters[place] for place in chosen]
    return Kind(len(chosen), band(total[chosen], clusters), band(_mean(sparsity[chosen], (1, 3)), clusters))


def _bounded(of: _Values, place: int) -> Bounded:
    figures = of.stack("bound")[:, :, place]  # (questions, layers, heads, BOUND)
    flat = figures.reshape(-1, len(BOUND))
    bounds = flat[:, BOUND.index("bound")]
    return Bounded(
        quantiles=np.nanquantile(flat, (0.05, 0.5, 0.95), axis=0).T,
        by_layer=np.nanmedian(figures, axis=(0, 2)),
        empty=float((bounds[np.isfinite(bounds)] >= 1).mean()),
        worst=float(of.stack("worst")[:, :, place].max()),
    )


# --- two readers ------------------------------------------------------------------------------------------------------


def _compared(
    stored: Sequence[Record],
    one: str,
    other: str,
    compare: Callable[[Array, Sequence[str], Array, Sequence[str], int], Array],
) -> Band | None:
    """(sets, FIGURES), mean over questions with both conditions; None without such questions."""
    both = _both(stored, one, other)
    if not both:
        return None
    values = [
        [compare(*_keys(record, one, sort), *_keys(record, other, sort), place) for sort in range(len(QUERIES))]
        for place, record in enumerate(both)
    ]
    return band(np.array(values), [record.meta["cluster"] for record in both])


def _both(stored: Sequence[Record], one: str, other: str) -> list[Record]:
    """Records of the questions that were measured in both conditions."""
    return [r for r in stored if all("pieces" in r.conditions.get(name, {}) for name in (one, other))]


def _alike(both: Sequence[Record]) -> float | None:
    same = [r.conditions[SMALL_OWN]["pieces"] == r.conditions[LARGE_OWN]["pieces"] for r in both]
    return sum(same) / len(same) if same else None


def _keys(record: Record, condition: str, queries: int) -> tuple[Array, Sequence[str]]:
    return record.array(condition, "keys_mean")[queries], record.conditions[condition]["pieces"]


def key_tokens(mass: Array) -> Array:
    """(tokens,) mass -> indices of the top `TOP` share of tokens by mass, at least one."""
    return np.argsort(-mass, kind="stable")[: _kept(len(mass))]


def onto(pieces: Sequence[str], mass: Array, others: Sequence[str]) -> Array:
    """Map mass per token to the tokens of another tokenizer on the same text.

    A token's mass is spread evenly over its characters.
    """
    if list(pieces) == list(others):
        return mass
    lengths = np.array([len(piece) for piece in pieces])
    spread = np.repeat(mass / np.maximum(lengths, 1), lengths)
    ends = np.cumsum([len(piece) for piece in others])
    carried = np.concatenate(([0.0], np.cumsum(spread)))[np.minimum(ends, len(spread))]
    return np.diff(carried, prepend=0.0)


def same_text(one: Array, other: Array) -> Array:
    """Two readers of one text, (tokens,) mass each -> FIGURES: share of key tokens that both have."""
    kept = _kept(len(one))
    of_other = set(key_tokens(other).tolist())
    last = set(range(len(other) - kept, len(other)))
    shared = len(of_other & set(key_tokens(one).tolist())) / kept
    return np.array([shared, kept / len(one), len(of_other & last) / kept])


def other_text(one: Array, pieces: Sequence[str], other: Array, others: Sequence[str], seed: int) -> Array:
    """Two readers of different texts -> FIGURES: overlap of the words among their key tokens (Dice)."""
    chance, keys, kept = np.random.default_rng(seed), key_tokens(other), _kept(len(one))
    drawn = [_dice(chance.choice(len(one), kept, False), pieces, keys, others) for _ in range(DRAWS)]
    last = np.arange(len(one) - kept, len(one))
    shared = _dice(key_tokens(one), pieces, keys, others)
    return np.array([shared, float(np.mean(drawn)), _dice(last, pieces, keys, others)])


def _dice(places: Array, pieces: Sequence[str], others_places: Array, others: Sequence[str]) -> float:
    ones = Counter(pieces[place].strip().casefold() for place in places)
    two = Counter(others[place].strip().casefold() for place in others_places)
    return 2 * (ones & two).total() / (ones.total() + two.total())


def _kept(count: int) -> int:
    return max(1, round(TOP * count))


def _object(value: Any) -> Any:
    match value:
        case np.ndarray() | np.generic():  # numbers with six significant digits; None if not finite
            if value.ndim:
                return [_object(each) for each in np.asarray(value)]
            return float(f"{float(value):.6g}") if np.isfinite(value) else None
        case Mapping():
            return {str(key): _object(each) for key, each in value.items()}
        case tuple() | list():
            return [_object(each) for each in value]
    if is_dataclass(value):
        return {each.name: _object(getattr(value, each.name)) for each in fields(value)}
    return value
