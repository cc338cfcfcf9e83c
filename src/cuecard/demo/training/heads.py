"""Auxiliary losses on intermediate layers during training of the embedded pair; not part of the saved models."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers.models.qwen3_vl.modeling_qwen3_vl import rotate_half


class Heads(nn.Module):
    """Linear classifiers on hidden states: at visual tokens digit, colour, cell and the cell that a jump leads to; for
    images shape and hue; at the position that predicts a short answer the cell reached and its content, or shape,
    hue and whether the image shows what the question names; at an option its letter."""

    def __init__(self, width: int) -> None:
        super().__init__()
        sizes = {"digit": 10, "colour": 3, "cell": 16, "landing": 16, "shape": 3, "hue": 8, "station": 16} | {
            "shown digit": 10,
            "shown colour": 3,
            "label": 4,
            "there": 2,
        }
        self.of = nn.ModuleDict({name: nn.Linear(width, size) for name, size in sizes.items()})


def first_head(
    attention: Any,
    hidden: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    row: torch.Tensor,
    at: torch.Tensor,
) -> torch.Tensor:
    """(k, n): scores of the first head before the softmax, from k positions (row, at) to the n tokens of their row.

    Later tokens get -inf. hidden: (b, n, width), cos and sin: (b, n, d).
    """
    size, length = attention.head_dim, hidden.shape[1]
    query = attention.q_norm(F.linear(hidden[row, at], attention.q_proj.weight[:size]))
    key = attention.k_norm(F.linear(hidden, attention.k_proj.weight[:size]))
    turns = [each.expand(len(hidden), -1, -1) for each in (cos, sin)]
    query = query * turns[0][row, at] + rotate_half(query) * turns[1][row, at]
    key = key * turns[0] + rotate_half(key) * turns[1]
    scores = (key[row] @ query[..., None])[..., 0] * attention.scaling
    return scores.masked_fill(torch.arange(length) > at[:, None], -math.inf)
