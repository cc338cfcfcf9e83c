"""Qwen3-VL in NumPy: the embedded pair without PyTorch, because importing PyTorch takes longer than an answer.

For small checkpoints in float32 on a CPU, where a token costs as much as its operations: weights with the same input
are one matrix, and the norms' weights are folded into the matrices after them. The architecture is that of
Transformers' `Qwen3VLForConditionalGeneration` (interleaved M-RoPE, DeepStack); logits differ only by the order of
sums.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
from jinja2.sandbox import ImmutableSandboxedEnvironment
from PIL import Image as PilImage
from tokenizers import Tokenizer

from cuecard.domain.errors import BadInput
from cuecard.domain.question import Image
from cuecard.models.base import Limits
from cuecard.models.images.images import opened
from cuecard.models.local.embedded_layers import (
    Floats,
    NumpyCache,
    TextDecoder,
    VisionTower,
    Weights,
    log_softmax,
    mrope_positions,
)
from cuecard.models.local.network import (
    LEAST_TEMPERATURE,
    Inputs,
    KeptImages,
    Room,
    Watch,
    render,
    tokenized,
    with_places,
)
from cuecard.models.prompt import Prompt

if TYPE_CHECKING:
    from cuecard.models.local.attention_hook import Rows

CLOSE = 1e-4
"""Fraction of the largest logit: two best tokens closer than this are computed again alone, as sums may swap them."""


class NumpyNetwork:
    """A `Network` of a small Qwen3-VL checkpoint in the Hugging Face layout."""

    place = "cpu"
    sees_images = shares_prefixes = True

    def __init__(self, folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        weights, text = Weights(folder / "model.safetensors"), config["text_config"]
        self._text, self._vision = TextDecoder(text, weights), VisionTower(config["vision_config"], weights)
        self._merge = config["vision_config"]["spatial_merge_size"]
        self.image_token: int = config["image_token_id"]
        self.most_tokens: int = text["max_position_embeddings"]
        self.ends = frozenset([text["eos_token_id"]])
        self.is_trained_pair = config.get("cuecard_wording") == "trained"
        # find shapes that do not fit now
        values = weights["model.visual.patch_embed.proj.weight"][0].size
        self._vision.see(np.zeros((self._merge**2, values), np.float32), (self._merge, self._merge))
        self.append([0], [1], [self.cache()])

    def cache(self, rooms: Sequence[Room] = (), length: int = 0) -> NumpyCache:
        return NumpyCache(len(self._text.layers), rooms, length)

    def read(self, inputs: Inputs, cache: NumpyCache, most: int, watch: Watch | None = None) -> tuple[Floats, int]:
        ids = np.array(inputs.ids[: max(inputs.images_end, most)])
        hidden, places = self._text.embedding[ids], np.flatnonzero(ids == self.image_token)
        seen = [self._vision.see(*picture) for picture in inputs.pictures]
        if seen:
            hidden[places] = np.concatenate([tokens for tokens, _ in seen])
        if watch is not None:
            watch([tokens for tokens, _ in seen])
        deep = [np.concatenate(parts) for parts in zip(*(parts for _, parts in seen), strict=True)]
        grids = [(rows // self._merge, columns // self._merge) for _, (rows, columns) in inputs.pictures]
        positions = mrope_positions(ids == self.image_token, grids)
        logits = self._text.read(hidden, positions, cache, 1, deep, places)
        return logits, int(positions.max()) + 1 - len(ids)

    def extend(self, ids: Sequence[int], position: int, cache: NumpyCache, keep: int) -> Floats:
        positions = np.broadcast_to(np.arange(position, position + len(ids)), (3, len(ids)))
        return self._text.read(self._text.embedding[list(ids)], positions, cache, keep)

    def append(self, tokens: Sequence[int], positions: Sequence[int], caches: Sequence[NumpyCache]) -> list[Floats]:
        logits = self._text.step(tokens, positions, caches)
        if len(tokens) == 1:
            return [logits]
        best = np.partition(logits, -2, -1)[:, -2:]
        near = best[:, 1] - best[:, 0] <= CLOSE * np.abs(logits).max(-1)
        for row in np.flatnonzero(near).tolist():
            caches[row].drop_last()
            logits[row] = self._text.step([tokens[row]], [positions[row]], [caches[row]])
        return list(logits[:, None])

    def joined(self, parts: Sequence[Floats]) -> Floats:
        return np.concatenate(list(parts))

    def logprobs(self, logits: Floats, ids: Sequence[int]) -> list[float]:
        each: list[float] = log_softmax(logits)[np.arange(len(ids)), list(ids)].tolist()
        return each

    def chance(self, limits: Limits) -> np.random.Generator:
        # 64 bits as unsigned, as NumPy takes no negative seed
        return np.random.default_rng(None if limits.seed is None else limits.seed % 2**64)

    def choose(self, logits: Floats, limits: Limits, chance: np.random.Generator) -> tuple[int, float]:
        row = logits[-1]
        token = int(row.argmax()) if limits.temperature == 0 else _drawn(row, limits, chance)
        return token, float(log_softmax(row)[token])

    def attend(
        self, ids: Sequence[int], position: int, cache: NumpyCache, reduce: Callable[[Rows], Any], hidden: Sequence[int]
    ) -> tuple[list[Any], Floats]:
        import torch

        from cuecard.models.local.attention_hook import Rows

        reduced = []

        def look(layer: int, *arrays: Floats) -> None:
            weights, values, outputs = map(torch.from_numpy, arrays)
            reduced.append(reduce(Rows(layer, weights, None, None, values, outputs)))

        positions = np.broadcast_to(np.arange(position, position + len(ids)), (3, len(ids)))
        logits = self._text.read(self._text.embedding[list(ids)], positions, cache, 0, watch=look, unseen=hidden)
        return reduced, logits


def _drawn(row: Floats, limits: Limits, chance: np.random.Generator) -> int:
    """Sample from the tokens inside `top_k`, `min_p` (relative to the likeliest token) and the nucleus `top_p`."""
    order = np.argsort(-row, kind="stable")
    scaled = (row[order] - row.max()).astype(float) / max(limits.temperature, LEAST_TEMPERATURE)
    chances = np.exp(scaled)
    chances /= chances.sum()
    if wanted := dict(limits.extras.sampling):
        chances[int(wanted.get("top_k", len(chances))) :] = 0
        chances[chances < wanted.get("min_p", 0.0) * chances[0]] = 0
        chances /= chances.sum()
    beyond = chances.cumsum() - chances >= limits.top_p
    chances[1:][beyond[1:]] = 0
    return int(order[chance.choice(len(order), p=chances / chances.sum())])


def is_embedded(folder: Path) -> bool:
    """Whether a folder holds a checkpoint with the embedded pair's architecture and wordings."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(config, dict) and config.get("cuecard_wording") == "trained"


# --- inputs, without Transformers -------------------------------------------------------------------------------------


class PlainTokenizer:
    """A `tokenizer.json` and a chat template, without Transformers."""

    def __init__(self, folder: Path) -> None:
        settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.chat_template = (folder / "chat_template.jinja").read_text(encoding="utf-8")
        self._template = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True).from_string(
            self.chat_template
        )
        self.eos_token_id = self._tokenizer.token_to_id(settings["eos_token"])

    def __call__(self, text: str, add_special_tokens: bool = False) -> Any:
        encoded = self._tokenizer.encode(text, add_special_tokens=add_special_tokens)
        return SimpleNamespace(input_ids=encoded.ids)

    def decode(self, ids: int | Sequence[int], **_: object) -> str:
        """The text of a token or of several, special tokens included."""
        each = list(ids) if isinstance(ids, Sequence) else np.ravel(ids).tolist()
        text: str = self._tokenizer.decode(each, skip_special_tokens=False)
        return text

    def convert_ids_to_tokens(self, token: int) -> str:
        """How the vocabulary spells a token."""
        return str(self._tokenizer.id_to_token(token))

    def apply_chat_template(self, turns: list[dict[str, Any]], **settings: Any) -> str:
        """The turns rendered by the chat template."""
        settings.pop("tokenize", None)
        return self._template.render(messages=turns, **settings)


class PlainReader:
    """Qwen's prompt layout, without Transformers; each image is processed once."""

    def __init__(self, folder: Path, image_token: int) -> None:
        self.tokenizer = PlainTokenizer(folder)
        self._image_token = image_token
        self._placeholder = self.tokenizer.convert_ids_to_tokens(image_token)
        settings = json.loads((folder / "preprocessor_config.json").read_text(encoding="utf-8"))
        self._patch, self._merge = settings["patch_size"], settings["merge_size"]
        self._repeated = settings["temporal_patch_size"]
        self._least, self._most = settings["size"]["shortest_edge"], settings["size"]["longest_edge"]
        self._mean, self._std = (np.array(settings[f"image_{name}"], np.float32) for name in ("mean", "std"))
        self._pixels = KeptImages()

    def inputs(self, prompt: Prompt) -> Inputs:
        pictures = [self._pixels.of(image, self._pixels_of) for image in prompt.images]
        text = with_places(
            render(self.tokenizer, prompt),
            self._placeholder,
            [grid[0] * grid[1] // self._merge**2 for _, grid in pictures],
        )
        ids = tokenized(self.tokenizer, text)
        end = len(ids) - ids[::-1].index(self._image_token) if pictures else 0
        return Inputs(ids, tuple(image.digest for image in prompt.images), end, {}, tuple(pictures))

    def forget(self) -> None:
        """Drop the processed images."""
        self._pixels.clear()

    def _pixels_of(self, image: Image) -> tuple[Any, tuple[int, int]]:
        """(patches, values) and the grid (rows, columns) of patches of one image."""
        picture, patch, merge = opened(image), self._patch, self._merge
        width, height = smart_size(*picture.size, patch * merge, self._least, self._most)
        resized = picture.convert("RGB").resize((width, height), PilImage.Resampling.BICUBIC)
        values = (np.asarray(resized, np.float32) / np.float32(255) - self._mean) / self._std
        rows, columns = height // patch, width // patch
        values = values.transpose(2, 0, 1).reshape(3, rows // merge, merge, patch, columns // merge, merge, patch)
        values = values.transpose(1, 4, 2, 5, 0, 3, 6)[..., None, :, :]
        repeated = np.broadcast_to(values, (*values.shape[:5], self._repeated, *values.shape[6:]))
        return np.ascontiguousarray(repeated).reshape(rows * columns, -1), (rows, columns)


def smart_size(width: int, height: int, factor: int, least: int, most: int) -> tuple[int, int]:
    """Width and height in multiples of `factor`, with `least` to `most` pixels, at a similar aspect ratio (Qwen2-VL).

    Raises BadInput if one side is more than 200 times the other.
    """
    if max(width, height) > 200 * min(width, height):
        raise BadInput(f"an image of {width}x{height} is too narrow", "its sides differ by more than 200 times")
    sides = [round(side / factor) * factor for side in (width, height)]
    if sides[0] * sides[1] > most:
        by = math.sqrt(width * height / most)
        sides = [max(factor, math.floor(side / by / factor) * factor) for side in (width, height)]
    elif sides[0] * sides[1] < least:
        by = math.sqrt(width * height / least)
        sides = [math.ceil(side / by / factor) * factor for side in (width, height)]
    return sides[0], sides[1]
