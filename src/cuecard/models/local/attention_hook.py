"""Attention rows of a pass's last queries: softmax(QKᵀ), layer by layer, through Transformers' AttentionInterface.

A pass contains only the queries of interest (all earlier keys are in the KV cache), so one layer's rows take
heads x queries x keys numbers; the listener reduces them before the next layer is computed.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import sdpa_mask

from cuecard.domain.errors import ModelError, Unsupported

NAME = "cuecard-rows"
BLOCK = 4096
"""Keys that are converted to fp32 at once."""
STRANGE = ("position_bias", "indices", "block_indices", "sinks")
"""Arguments that change the scores in a way that is not supported here."""

T = TypeVar("T")


@dataclass(frozen=True)
class Rows:
    """One layer: weights (heads, queries, keys) in fp32. A row and its `sink` sum to 1."""

    layer: int
    weights: torch.Tensor
    sink: torch.Tensor | None
    """(heads, queries): the share of a learned sink, which is no token; None if the layer has none."""
    window: int | None
    """Maximum number of keys that a query attends to, itself included; None: all."""
    values: torch.Tensor
    """(groups, the last keys, head_dim): of all keys, or of those that a sliding cache still holds."""
    outputs: torch.Tensor
    """(heads, queries, head_dim) in fp32: the weighted sums of the values, before the output projection."""

    @property
    def without_sink(self) -> torch.Tensor:
        """Weights (heads, queries, keys) normalised over tokens, without the sink: rows sum to 1."""
        return self.weights if self.sink is None else self.weights / (1 - self.sink)[..., None]


@dataclass(frozen=True)
class Attended(Generic[T]):
    """One pass over an answer: the reduced rows of each layer, and the (queries, vocabulary) logits.

    The queries are the prompt's last token, which predicts the answer's first, and the answer's tokens.
    """

    layers: tuple[T, ...]
    logits: torch.Tensor
    ids: tuple[int, ...]
    """Token ids of prompt and answer, one per key."""
    queries: int
    reused: int
    """Tokens that an earlier call had computed; at most the number of tokens before the queries, minus one."""


@dataclass
class _Listener:
    reduce: Callable[[Rows], Any]
    keys: int
    hidden: tuple[int, ...]
    reduced: list[Any] = field(default_factory=list)


_listener: ContextVar[_Listener | None] = ContextVar("listener", default=None)


@contextmanager
def listening(
    model: PreTrainedModel, reduce: Callable[[Rows], T], keys: int, hidden: Sequence[int] = ()
) -> Generator[list[T]]:
    """Within the context, each layer's rows over `keys` keys are passed to `reduce`; its results are in the list.

    No query attends to `hidden` keys. Raises Unsupported for a model without a hook, ModelError if memory is too small.
    """
    config = model.config.get_text_config(decoder=True)
    usual, listener = config._attn_implementation, _Listener(reduce, keys, tuple(hidden))
    token = _listener.set(listener)
    config._attn_implementation = NAME
    try:
        yield listener.reduced
    except RuntimeError as error:  # each device's allocator has its own message
        if "memory" not in str(error):
            raise
        raise _too_small(keys) from error
    finally:
        config._attn_implementation = usual
        _listener.reset(token)
    if not listener.reduced:
        raise Unsupported(
            f"{type(model).__name__} has no hook for its attention",
            "models of Transformers that go through its AttentionInterface have one",
        )


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    **more: Any,
) -> tuple[torch.Tensor, None]:
    """Transformers' attention function: (1, heads, queries, head_dim) and (1, groups, keys, head_dim) -> outputs."""
    if strange := [name for name in STRANGE if more.get(name) is not None]:
        raise Unsupported(f"{type(module).__name__} computes attention with {strange[0]}, which is not understood here")
    listener = _listener.get()
    assert listener is not None, "this attention function only works inside `listening`"
    heads, queries, size = query.shape[1:]
    groups, seen = key.shape[1:3]
    if query.shape[0] != 1 or seen > listener.keys:
        raise Unsupported(f"{type(module).__name__} does not attend to the tokens of one sequence alone")
    _make_sure_of_room(4 * heads * queries * listener.keys, listener.keys, query.device)
    weights = torch.zeros(heads, queries, listener.keys, device=query.device)
    scores = weights[..., listener.keys - seen :]
    # heads of a group are adjacent: their queries are one matrix, so that its keys and values are not repeated
    grouped = weights.view(groups, -1, listener.keys)[..., listener.keys - seen :]
    wide = query[0].float().reshape(groups, -1, size)
    for at in range(0, seen, BLOCK):
        torch.bmm(wide, key[0, :, at : at + BLOCK].float().mT, out=grouped[..., at : at + BLOCK])
    scores *= size**-0.5 if scaling is None else scaling
    if softcap is not None:
        scores.div_(softcap).tanh_().mul_(softcap)
    causal = more.get("is_causal")
    _mask(scores, attention_mask, getattr(module, "is_causal", True) if causal is None else causal)
    if hidden := [position - listener.keys + seen for position in listener.hidden]:
        scores[..., [position for position in hidden if position >= 0]] = -torch.inf
    sink = _softmax(scores, s_aux)
    outputs = sums(grouped, value[0]).view(heads, queries, -1)
    window = more.get("sliding_window") or getattr(module, "sliding_window", None)
    layer = getattr(module, "layer_idx", None)
    index = len(listener.reduced) if layer is None else layer
    listener.reduced.append(listener.reduce(Rows(index, weights, sink, window, value[0], outputs)))
    return outputs.transpose(0, 1)[None].to(query.dtype), None


def _mask(scores: torch.Tensor, mask: torch.Tensor | None, causal: bool) -> None:
    """Set the scores of masked keys to minus infinity; without a mask, the queries are the last tokens."""
    queries, seen = scores.shape[1:]
    if mask is None:
        if causal and queries > 1:
            later = torch.ones(queries, seen, dtype=torch.bool, device=scores.device).triu(seen - queries + 1)
            scores.masked_fill_(later, -torch.inf)
    elif mask.dtype == torch.bool:
        scores.masked_fill_(~mask[0, :, :, :seen], -torch.inf)
    else:
        scores += mask[0, :, :, :seen]


def _softmax(scores: torch.Tensor, sink: torch.Tensor | None) -> torch.Tensor | None:
    """Softmax of the scores in place; -> (heads, queries) share of a learned sink's logit, None without one."""
    peak = scores.amax(-1)
    if sink is not None:
        peak = peak.maximum(sink.float()[:, None])
    scores.sub_(peak[..., None]).exp_()
    total = scores.sum(-1)
    taken = None if sink is None else (sink.float()[:, None] - peak).exp()
    total = total if taken is None else total + taken
    scores.div_(total[..., None])
    return None if taken is None else taken / total


def sums(weights: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """(groups, rows, keys) weights, (groups, keys, head_dim) values -> (groups, rows, head_dim) weighted sums."""
    total = weights.new_zeros(*weights.shape[:2], values.shape[-1])
    for at in range(0, values.shape[1], BLOCK):
        total.baddbmm_(weights[..., at : at + BLOCK], values[:, at : at + BLOCK].float())
    return total


def _make_sure_of_room(wanted: int, keys: int, device: torch.device) -> None:
    """Raises ModelError if memory is too small: a system that overcommits memory would end the process instead."""
    free = free_bytes(device)
    if free is not None and wanted > free:
        raise _too_small(keys)


def _too_small(keys: int) -> ModelError:
    return ModelError(
        f"not enough memory for one layer's attention to {keys} tokens", "use a shorter context, or a shorter answer"
    )


def free_bytes(device: torch.device) -> int | None:
    """Available memory on a device, in bytes; None if the system does not report it."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    table = Path("/proc/meminfo")
    if device.type != "cpu" or not table.exists():
        return None
    found = [line.split()[1] for line in table.read_text().splitlines() if line.startswith("MemAvailable:")]
    return int(found[0]) * 1024 if found else None


AttentionInterface.register(NAME, attend)
AttentionMaskInterface.register(NAME, sdpa_mask)
