"""Figures of one layer for known rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cuecard.attention.measure import SLACK, Measure, agreement, bounded, sparsity, with_last
from cuecard.attention.results import band, onto, other_text, same_text
from cuecard.attention.store import BINS, BOUND, CLASSES, READINGS, SPANS, TOP, TokenClass, classes, conclusion
from cuecard.domain.errors import CuecardError
from cuecard.models.local.attention_hook import Rows
from cuecard.models.local.network import Span, Spans

PIECES = ("Cell", " 4", " shows", " a", " blue", " 6", ",", " so", " the", " answer", " is", " 6", ".")


def rows(
    weights: torch.Tensor, values: torch.Tensor | None = None, sink: torch.Tensor | None = None, window: Any = None
) -> Rows:
    values = torch.randn(1, weights.shape[-1], 8) if values is None else values
    return Rows(0, weights, sink, window, values, torch.zeros(*weights.shape[:2], 8))


def spans(before: int, reasoning: int, after: int) -> Spans:
    names = [Span.SINK, *[Span.QUESTION] * (before - 1), *[Span.REASONING] * reasoning, *[Span.CUE] * after]
    pieces = ["?"] * before + [PIECES[place % len(PIECES)] for place in range(reasoning)] + ["."] * after
    return Spans(tuple(names), tuple(pieces))


def uneven(heads: int, queries: int, keys: int, seed: int) -> torch.Tensor:
    chance = torch.Generator().manual_seed(seed)
    return torch.softmax(4 * torch.randn(heads, queries, keys, generator=chance), -1)


def test_mass_goes_to_the_span_of_each_key_and_sums_to_one() -> None:
    weights = uneven(3, 2, 20, 0)
    made = Measure(0.8, "6", "Which digit?")(rows(weights), spans(4, 13, 3))
    np.testing.assert_allclose(made["mass"].sum(-1), 1, atol=1e-6)
    expected = weights[:, 0, 4:17].sum(-1)
    np.testing.assert_allclose(made["mass"][0, :, SPANS.index(Span.REASONING)], expected, atol=1e-6)
    np.testing.assert_allclose(made["mass"][1, :, SPANS.index(Span.SINK)], weights[..., 0].mean(1), atol=1e-6)


def test_classes_and_positions_share_out_the_mass_on_the_reasoning() -> None:
    measure = Measure(0.8, "6", "Which digit?")
    made = measure(rows(uneven(3, 2, 20, 1)), spans(4, 13, 3))
    total = made["mass"][..., SPANS.index(Span.REASONING)]
    np.testing.assert_allclose(made["classes"].sum(-1), total, atol=1e-6)
    np.testing.assert_allclose(made["bins"].sum(-1), total.mean(1), atol=1e-6)
    assert made["bins"].shape == (2, BINS)
    assert made["classes"].shape == (2, 3, len(CLASSES))
    assert measure.class_counts[CLASSES.index(TokenClass.ANSWER)] == 2
    assert measure.class_counts[-1] == len(PIECES)


def test_sparsity_is_the_smallest_share_that_carries_delta() -> None:
    card = torch.tensor([[0.5, 0.3, 0.1, 0.1], [0.25, 0.25, 0.25, 0.25], [1.0, 0, 0, 0], [0, 0, 0, 0]])
    found = sparsity(card, 0.8)
    assert found[:3].tolist() == [0.5, 1.0, 0.25]
    assert found[3].isnan()
    assert sparsity(card[:1] / 10, 0.8).tolist() == [0.5]
    assert sparsity(torch.zeros(2, 0), 0.8).isnan().all()


def test_agreement_is_one_for_equal_heads_and_zero_for_disjoint_ones() -> None:
    alike = torch.tensor([[[0.9, 0.1, 0, 0, 0]] * 3])
    apart = torch.tensor([[[0.9, 0.1, 0, 0, 0], [0, 0, 0, 0.1, 0.9]]])
    assert agreement(alike, TOP).item() == pytest.approx(1)
    assert agreement(apart, TOP).item() == pytest.approx(0)
    assert with_last(alike, TOP).item() == 0
    assert with_last(apart, TOP).item() == pytest.approx(0.5)


def test_without_reasoning_there_are_no_figures_of_it() -> None:
    made = Measure(0.8, "6", "Which digit?")(rows(uneven(2, 2, 7, 2)), spans(4, 0, 3))
    assert made["mass"][..., SPANS.index(Span.REASONING)].max() == 0
    assert all(np.isnan(made[name]).all() for name in ("sparsity", "agree", "last", "bound", "worst"))


def test_a_sliding_window_leaves_only_its_own_tokens() -> None:
    weights = uneven(2, 2, 20, 3)
    weights[..., :10] = 0
    weights /= weights.sum(-1, keepdim=True)
    made = Measure(0.8, "6", "Which digit?")(rows(weights, torch.randn(1, 10, 8), window=10), spans(4, 13, 3))
    assert made["window"] == 10
    assert made["visible"] == pytest.approx(7 / 13)
    assert made["worst"].max() < 1 + SLACK


# --- the corollary ----------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=60)
@given(
    st.integers(0, 10_000),
    st.sampled_from((1, 3)),
    st.integers(1, 40),
    st.sampled_from((0.1, 0.5, 0.8, 0.95)),
    st.booleans(),
)
def test_the_bound_holds_for_any_rows_and_values(seed: int, groups: int, reasoning: int, delta: float, with_sink: bool):
    weights = uneven(2 * groups, 2, reasoning + 5, seed)
    sink = torch.full(weights.shape[:2], 0.3) if with_sink else None
    weights = weights * 0.7 if with_sink else weights
    values = 3 * torch.randn(groups, reasoning + 5, 8, generator=torch.Generator().manual_seed(seed))
    made = bounded(rows(weights, values, sink), list(range(3, 3 + reasoning)), delta)
    assert made["worst"].max() < 1 + SLACK
    kept = made["bound"][READINGS.index("card"), :, BOUND.index("kept")]
    assert kept.min() >= delta - 1e-4


def test_the_bound_is_reached_by_values_that_point_apart() -> None:
    weights = torch.tensor([[[0.5, 0.5]]])
    values = torch.tensor([[[1.0, 0.0], [-1.0, 0.0]]])
    made = bounded(rows(weights, values), [0, 1], 0.4)
    figures = dict(zip(BOUND, made["bound"][0, 0].tolist(), strict=True))
    assert figures["kept"] == pytest.approx(0.5)
    assert figures["tight"] == pytest.approx(1)
    assert figures["tight_plain"] == pytest.approx(1)


def test_a_bound_that_does_not_hold_is_a_defect() -> None:
    negative = torch.tensor([[[1.5, -0.5, 0.0]]])  # not attention: a weight below 0
    with pytest.raises(CuecardError, match="bound does not hold"):
        bounded(rows(negative, torch.tensor([[[1.0, 0.0], [-1.0, 0.0], [0.0, 0.1]]])), [0, 1, 2], 0.5)


# --- words ------------------------------------------------------------------------------------------------------------


def test_tokens_are_classed_by_the_word_they_are_a_part_of() -> None:
    found = classes(PIECES, "6", "Where does Anna start?")
    assert [str(kind) for kind in found] == [
        "position",
        "position",
        "other word",
        "function word",
        "name",
        "answer",
        "punctuation",
        "connective",
        "function word",
        "other word",
        "function word",
        "answer",
        "punctuation",
    ]
    parts = classes(("An", "na", " moved", " b", "ack", " 12", ".5", " %"), "7", "Where does Anna start?")
    assert [str(kind) for kind in parts] == [
        "name",
        "name",
        "other word",
        "position",
        "position",
        "number",
        "number",
        "punctuation",
    ]


def test_the_conclusion_is_the_last_sentence() -> None:
    pieces = ("It", " is", " 2.5", ".", " So", " it", " is", " 3", ".", "\n")
    assert [place for place, last in enumerate(conclusion(pieces)) if last] == [4, 5, 6, 7, 8, 9]
    assert all(conclusion(("No", " stop")))


# --- readers, and intervals -------------------------------------------------------------------------------------------


def test_mass_is_carried_from_one_tokenizer_to_another_by_characters() -> None:
    mass = np.array([0.4, 0.6])
    np.testing.assert_allclose(onto(("ab", "cd"), mass, ("a", "bc", "d")), [0.2, 0.5, 0.3])
    assert onto(("ab", "cd"), mass, ("ab", "cd")) is mass


def test_readers_of_one_text_share_all_or_nothing() -> None:
    first, last = np.linspace(1, 0, 10), np.linspace(0, 1, 10)
    assert same_text(first, first).tolist() == [1, 0.2, 0]
    assert same_text(first, last).tolist() == [0, 0.2, 1]


def test_readers_of_two_texts_share_words() -> None:
    words = [f"w{place}" for place in range(10)]
    mass = np.linspace(0, 1, 10)
    shared, by_chance, by_position = other_text(mass, words, mass, words, 0)
    assert (shared, by_position) == (1, 1)
    assert 0.1 < by_chance < 0.35
    assert other_text(1 - mass, words, mass, words, 0)[[0, 2]].tolist() == [0, 1]


def test_intervals_leave_out_nan_and_draw_whole_clusters() -> None:
    values = np.array([[1.0, np.nan], [3.0, 2.0], [5.0, np.nan], [7.0, 4.0]])
    found = band(values, ["a", "a", "b", "b"])
    assert found.mean.tolist() == [4, 3]
    assert (found.low[0], found.high[0]) == (2, 6)
    assert np.isnan(band(np.full((3, 2), np.nan), ["a", "b", "c"]).mean).all()
    ratio = band(np.array([1.0, 1.0]), ["a", "b"], np.array([1.0, 3.0]))
    assert ratio.mean == 0.5
    assert ratio.text() == "50.0 (33.3–100.0)"
