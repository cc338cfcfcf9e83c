"""Weights of a checkpoint, and the functions that its layers share."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cuecard.models.local.engine import lacking

Floats = NDArray[Any]
"""Arrays in single precision."""
WEIGHT_TYPES: dict[str, Any] = {"F16": np.float16, "F32": np.float32}
IGNORING_OVERFLOW = np.errstate(over="ignore")
"""x / (1 + exp(-x)) is correct even if the exponential overflows to infinity."""


class Weights(dict[str, Floats]):
    """The tensors of a safetensors file (https://huggingface.co/docs/safetensors) by name, as float32.

    A missing tensor raises ModelRefused.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._folder = path.parent
        data = np.memmap(path, np.uint8, "r")
        start = 8 + int(data[:8].view(np.uint64)[0])
        header: dict[str, Any] = json.loads(data[8:start].tobytes())
        header.pop("__metadata__", None)
        for name, entry in header.items():
            begin, end = entry["data_offsets"]
            values = data[start + begin : start + end].view(WEIGHT_TYPES[entry["dtype"]])
            self[name] = values.reshape(entry["shape"]).astype(np.float32)

    def __missing__(self, name: str) -> Floats:
        raise lacking(str(self._folder), [name])

    def shaped(self, name: str, *shape: int) -> Floats:
        """The tensor of this name. Raises ValueError if its shape is not that of the configuration."""
        if self[name].shape != shape:
            raise ValueError(f"{name} has shape {self[name].shape}, not {shape}")
        return self[name]


def matrix(weight: Floats) -> Floats:
    """(out, in), as in checkpoints -> (in, out)."""
    return np.ascontiguousarray(weight.T)


def softmax(scores: Floats) -> Floats:
    """Softmax over the last axis, in place."""
    scores -= scores.max(-1, keepdims=True)
    np.exp(scores, out=scores)
    scores /= scores.sum(-1, keepdims=True)
    return scores


def log_softmax(logits: Floats) -> Floats:
    """Log softmax over the last axis."""
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
