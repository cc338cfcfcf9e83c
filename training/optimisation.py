"""Auxiliary losses on intermediate layers and the optimiser, for training the embedded pair; not in saved models."""

from __future__ import annotations

import math
from collections.abc import Iterable
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


# --- the optimiser ----------------------------------------------------------------------------------------------------

# Coefficients of the quintic Newton-Schulz iteration: Jordan et al., https://kellerjordan.github.io/posts/muon/
COEFFICIENTS = (3.4445, -4.775, 2.0315)
ITERATIONS = 5


class Muon(torch.optim.Optimizer):
    """Nesterov momentum with orthogonalised updates, as `torch.optim.Muon`.

    That one iterates in bfloat16, which a CPU without native support multiplies a hundred times slower than float32,
    and one matrix at a time; this one batches all matrices of a shape.
    """

    def __init__(
        self, matrices: Iterable[torch.nn.Parameter], lr: float, momentum: float = 0.95, weight_decay: float = 0.05
    ) -> None:
        super().__init__(matrices, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            alike: dict[torch.Size, list[torch.nn.Parameter]] = {}
            for matrix in group["params"]:
                if matrix.grad is not None:
                    alike.setdefault(matrix.shape, []).append(matrix)
            for (rows, columns), matrices in alike.items():
                updates = orthogonal(torch.stack([self._momentum(matrix, group["momentum"]) for matrix in matrices]))
                rate = group["lr"] * max(1.0, rows / columns) ** 0.5
                for matrix, update in zip(matrices, updates, strict=True):
                    matrix.mul_(1 - group["lr"] * group["weight_decay"]).add_(update, alpha=-rate)

    def _momentum(self, matrix: torch.nn.Parameter, momentum: float) -> torch.Tensor:
        assert matrix.grad is not None
        state = self.state[matrix]
        if "mean" not in state:
            state["mean"] = torch.zeros_like(matrix)
        state["mean"].lerp_(matrix.grad, 1 - momentum)
        return matrix.grad.lerp(state["mean"], momentum)


def orthogonal(matrices: torch.Tensor) -> torch.Tensor:
    """(n, rows, columns): each matrix with its singular values near 1."""
    wide = matrices.shape[1] <= matrices.shape[2]
    x = matrices if wide else matrices.mT
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    a, b, c = COEFFICIENTS
    for _ in range(ITERATIONS):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    return x if wide else x.mT
