"""A Transformers checkpoint as a Network: its own layers for prefill, the fused decoder for single tokens.

`load` takes a directory, a GGUF file or a repository of the hub, and also makes the reader of its prompts.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import HfApi, try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError
from torch.nn import functional
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
    DynamicCache,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.cache_utils import DynamicLayer
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING
from transformers.utils import logging

from cuecard.domain.errors import BadInput, MissingExtra, Unsupported, one_line
from cuecard.domain.question import Image
from cuecard.models.base import Limits
from cuecard.models.images.images import opened
from cuecard.models.local import fused_decoder
from cuecard.models.local.attention_hook import Rows, listening
from cuecard.models.local.engine import lacking, refusing
from cuecard.models.local.fused_decoder import StaticDecoder, applies
from cuecard.models.local.network import (
    LEAST_TEMPERATURE,
    Inputs,
    KeptImages,
    PromptReader,
    Room,
    Watch,
    render,
    tokenized,
    with_places,
    with_room,
)
from cuecard.models.prompt import Prompt

SAME = 1e-4
"""Maximum difference between the fused decoder and Transformers' layers, as a fraction of the largest logit."""


class GrowingLayer(DynamicLayer):
    """The first `length` tokens of a room of (1, heads, capacity, head_dim) keys and values."""

    def __init__(self, room: Room | None = None, length: int = 0) -> None:
        super().__init__()
        self.room = room
        if room is not None:
            self._look(length)

    def _look(self, length: int) -> None:
        assert self.room is not None
        self.keys, self.values = self.room.keys[:, :, :length], self.room.values[:, :, :length]
        self.dtype, self.device, self.is_initialized = self.keys.dtype, self.keys.device, True

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *_: object, **__: object) -> Any:
        """Append tokens; -> keys and values of all."""
        length = self.get_seq_length()
        end = length + key_states.shape[2]
        self.room = with_room(self.room, key_states, length, end)
        self.room.keys[:, :, length:end], self.room.values[:, :, length:end] = key_states, value_states
        self._look(end)
        return self.keys, self.values

    def attend(self, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        """As `Held.attend`: the new token is appended."""
        return functional.scaled_dot_product_attention(query, *self.update(keys[:, :, None], values[:, :, None]))


class GrowingCache(DynamicCache):
    """A cache of layers that grow without copies."""

    @property
    def rooms(self) -> tuple[Room, ...]:
        return tuple(layer.room for layer in self.layers)

    def drop_last(self) -> None:
        """Drop the last token."""
        self.crop(-1)


def growing(config: Any, rooms: Sequence[Room] = (), length: int = 0) -> GrowingCache:
    """A cache of a checkpoint that holds the first `length` tokens of these rooms."""
    cache = GrowingCache(config=config)
    cache.layers = [GrowingLayer(room, length) for room in rooms] or [GrowingLayer() for _ in cache.layers]
    return cache


def shareable(cache: DynamicCache) -> bool:
    """Whether every layer keeps all tokens (no sliding window, no recurrent state), so that prefixes can be reused."""
    return bool(cache.layers) and all(type(layer) is DynamicLayer for layer in cache.layers)


class TransformersNetwork:
    """A `Network` of any checkpoint that Transformers loads."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model, config = model, model.config
        self.place = str(model.device)
        self.sees_images = hasattr(config, "vision_config")
        token: int | None = getattr(config, "image_token_id", None) or getattr(config, "image_token_index", None)
        self.image_token = token
        self.most_tokens: int = getattr(config.get_text_config(), "max_position_embeddings", None) or sys.maxsize
        ends = model.generation_config.eos_token_id if model.generation_config is not None else None
        self.ends = frozenset(i for i in (ends if isinstance(ends, list) else [ends]) if i is not None)
        self.is_trained_pair = getattr(config, "cuecard_wording", None) == "trained"
        self.shares_prefixes = shareable(DynamicCache(config=config))
        self._has_rope_delta = hasattr(getattr(model, "model", None), "rope_deltas")
        self._keeps_some_logits = "logits_to_keep" in inspect.signature(model.forward).parameters
        # in half precision, another order of sums sometimes changes the answer
        self.may_fuse = self.shares_prefixes and model.dtype == torch.float32 and applies(model)
        self.fused: StaticDecoder | None = None
        if self.may_fuse:  # so that no request waits for the fused decoder to be built and compared
            cache = self.cache()
            self.extend([0, 1], 0, cache, 1)
            self.append([0], [2], [cache])

    def cache(self, rooms: Sequence[Room] = (), length: int = 0) -> Any:
        if not self.shares_prefixes:
            return DynamicCache(config=self.model.config)
        return growing(self.model.config, rooms, length)

    @torch.inference_mode()
    def read(self, inputs: Inputs, cache: Any, most: int, watch: Watch | None = None) -> tuple[torch.Tensor, int]:
        device, first = self.model.device, max(inputs.images_end, most)
        tensors = {
            name: (part[:, :first] if part.shape[:2] == (1, len(inputs.ids)) else part).to(
                device, self.model.dtype if part.is_floating_point() else None
            )
            for name, part in inputs.tensors.items()
        }
        with self._watching(inputs, watch):
            logits = self._forward(torch.tensor([inputs.ids[:first]], device=device), cache, 1, tensors)
        delta = int(self.model.model.rope_deltas[0, 0]) if self._has_rope_delta and inputs.images else 0
        return logits, delta

    @torch.inference_mode()
    def extend(self, ids: Sequence[int], position: int, cache: Any, keep: int) -> torch.Tensor:
        extra = {}
        if self._has_rope_delta:
            places = torch.arange(position, position + len(ids), device=self.model.device)
            extra["position_ids"] = places.expand(3, 1, -1)
        return self._forward(torch.tensor([list(ids)], device=self.model.device), cache, keep, extra)

    @torch.inference_mode()
    def append(self, tokens: Sequence[int], positions: Sequence[int], caches: Sequence[Any]) -> list[torch.Tensor]:
        if self.fused is None or len(tokens) == 1:
            return [self._one(*each) for each in zip(tokens, positions, caches, strict=True)]
        together = torch.tensor(tokens, device=self.model.device)
        found = fused_decoder.batched_logits(self.fused, together, positions, caches)
        logits = []
        for row, near, *each in zip(found, fused_decoder.are_close(found), tokens, positions, caches, strict=True):
            if near:
                each[2].drop_last()
            logits.append(self._one(*each) if near else row[None])
        return logits

    def joined(self, parts: Sequence[torch.Tensor]) -> torch.Tensor:
        return torch.cat(list(parts))

    def attend(
        self, ids: Sequence[int], position: int, cache: Any, reduce: Callable[[Rows], Any], hidden: Sequence[int]
    ) -> tuple[list[Any], torch.Tensor]:
        with listening(self.model, reduce, cache.get_seq_length() + len(ids), hidden) as reduced:
            return reduced, self.extend(ids, position, cache, 0)

    def logprobs(self, logits: torch.Tensor, ids: Sequence[int]) -> list[float]:
        wanted = torch.tensor(list(ids), device=logits.device)[:, None]
        each: list[float] = torch.log_softmax(logits.float(), -1).gather(-1, wanted)[:, 0].tolist()
        return each

    def chance(self, limits: Limits) -> torch.Generator:
        generator = torch.Generator(self.model.device)
        if limits.seed is not None:
            generator.manual_seed(limits.seed)
        else:
            generator.seed()
        return generator

    @staticmethod
    def choose(logits: torch.Tensor, limits: Limits, chance: torch.Generator) -> tuple[int, float]:
        """As `Network.choose`: greedy, or from the tokens inside `top_k`, `min_p` and the nucleus `top_p`.

        `min_p` is relative to the likeliest token, which is always kept, however small `top_p` is.
        """
        row = logits[-1].float()
        if limits.temperature == 0:
            token = int(row.argmax())
        else:
            scaled = (row - row.max()) / max(limits.temperature, LEAST_TEMPERATURE)
            chances, order = torch.softmax(scaled, -1).sort(descending=True)
            if wanted := dict(limits.extras.sampling):
                chances[int(wanted.get("top_k", len(chances))) :] = 0
                chances[chances < wanted.get("min_p", 0.0) * chances[0]] = 0
                chances /= chances.sum()
            beyond = chances.cumsum(0) - chances >= limits.top_p
            chances[1:][beyond[1:]] = 0
            token = int(order[torch.multinomial(chances, 1, generator=chance)])
        return token, float(torch.log_softmax(row, -1)[token])

    @contextmanager
    def _watching(self, inputs: Inputs, watch: Watch | None) -> Iterator[None]:
        """During prefill, pass the visual tokens to `watch`; nothing unless the vision tower is one of Qwen-VL's."""
        tower, grids = getattr(getattr(self.model, "model", None), "visual", None), inputs.tensors.get("image_grid_thw")
        if watch is None or tower is None or grids is None:
            yield
            return
        counts = (grids.prod(-1) // tower.spatial_merge_size**2).tolist()

        def take(_: Any, __: Any, output: Any) -> None:
            if (tokens := getattr(output, "pooler_output", None)) is not None and len(tokens) == sum(counts):
                watch([each.float().cpu().numpy() for each in tokens.split(counts)])

        hook = tower.register_forward_hook(take)
        try:
            yield
        finally:
            hook.remove()

    def _one(self, token: int, position: int, cache: Any) -> torch.Tensor:
        """Append a token; -> (1, vocabulary) logits. Uses the fused decoder if it agrees with the layers."""
        if not self.may_fuse:
            return self.extend([token], position, cache, 1)
        tokens = torch.tensor([token], device=self.model.device)
        if self.fused is not None:
            return self.fused.logits(tokens, position, cache.layers)
        decoder = StaticDecoder(self.model)
        found = decoder.logits(tokens, position, cache.layers)
        cache.drop_last()
        wanted = self.extend([token], position, cache, 1)
        self.may_fuse = bool((found - wanted).abs().max() <= SAME * wanted.abs().max())
        self.fused = decoder if self.may_fuse else None
        return wanted

    def _forward(self, ids: torch.Tensor, cache: Any, keep: int, more: dict[str, Any]) -> torch.Tensor:
        """(1, tokens) ids after the cached tokens -> (kept, vocabulary) logits of the last; keep=0: of all."""
        trimmed = {"logits_to_keep": keep} if self._keeps_some_logits else {}
        out = self.model(input_ids=ids, past_key_values=cache, use_cache=True, **trimmed, **more)
        logits: torch.Tensor = out.logits[0, -keep:]
        return logits


# --- loading, and the readers of prompts ------------------------------------------------------------------------------

DTYPES = ("float32", "bfloat16", "float16")
GGUF_PACKAGES = ("gguf", "accelerate")
HUB_S = 10
QWEN = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe")


def load(
    source: str, device: str | None, dtype: str | None, revision: str | None
) -> tuple[PreTrainedModel, PromptReader]:
    """The model, and the reader of its prompts.

    Raises BadInput without a checkpoint, ModelRefused if it is broken, MissingExtra if no package reads a GGUF file.
    """
    if dtype is not None and dtype not in DTYPES:
        raise BadInput(f"unknown dtype {dtype!r}", f"there are: {', '.join(DTYPES)}")
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    device = device or best_device()
    place, file = source, {}
    if source.endswith(".gguf"):
        _find_gguf(source)
        place, file = str(Path(source).parent), {"gguf_file": Path(source).name}
    elif not Path(source).is_dir():
        find_hub(source, revision)
    try:
        config = AutoConfig.from_pretrained(place, revision=revision, **file)
    except Exception as error:  # a broken configuration fails in many ways
        if file:
            raise BadInput(
                f"{source} cannot be read: {one_line(error)}",
                "Transformers reads GGUF files of some architectures; llama.cpp's server reads all: http://HOST:PORT/v1#NAME",
            ) from error
        raise BadInput(
            f"no checkpoint at {source!r}: {one_line(error)}",
            "give a directory in the Hugging Face layout, or hf:ORG/NAME",
        ) from error
    auto = AutoModelForImageTextToText if hasattr(config, "vision_config") else AutoModelForCausalLM
    # a CPU computes fastest in float32; an accelerator in the type that the checkpoint was saved in
    chosen = getattr(torch, dtype) if dtype else torch.float32 if device == "cpu" else "auto"
    with refusing(source):
        model, found = auto.from_pretrained(place, revision=revision, dtype=chosen, output_loading_info=True, **file)
        if missing := list(found["missing_keys"]):  # they would be random
            raise lacking(source, missing)
        return model.to(device).eval(), prompt_reader(place, config, revision, **file)


def _find_gguf(source: str) -> None:
    """Raises BadInput without the file, MissingExtra without the packages that Transformers needs to read it."""
    if not Path(source).is_file():
        raise BadInput(f"there is no file {source}", "give a GGUF file, a directory, or hf:ORG/NAME")
    if missing := [name for name in GGUF_PACKAGES if find_spec(name) is None]:
        raise MissingExtra(
            f"{Path(source).name} is a GGUF file, which needs {' and '.join(missing)}",
            "pip install '.[local]' in a checkout",
        )


def find_hub(source: str, revision: str | None) -> None:
    """Raises BadInput if nothing is cached and the hub does not answer: Transformers would retry for half a minute."""
    if isinstance(try_to_load_from_cache(source, "config.json", revision=revision), str):
        return
    try:
        HfApi().model_info(source, revision=revision, timeout=HUB_S)
    except HfHubHTTPError:
        return  # the hub answers; Transformers has a better error for a wrong name
    except Exception as error:
        raise BadInput(
            f"cannot ask the Hugging Face hub for {source}: {one_line(error)}",
            "is there a network? A directory needs none",
        ) from error


def best_device() -> str:
    return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"


class TextReader:
    """For language models: text only."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, name: str) -> None:
        self.tokenizer, self._name = tokenizer, name

    def inputs(self, prompt: Prompt) -> Inputs:
        if prompt.images:
            raise Unsupported(f"{self._name} is a language model and cannot see images")
        return Inputs(tokenized(self.tokenizer, render(self.tokenizer, prompt, parts=False)), (), 0, {})

    def forget(self) -> None:
        """Nothing is kept."""


class QwenReader:
    """For Qwen's vision models: each image is processed once, and its placeholder repeated once per merged patch.

    Needs no torchvision, unlike AutoProcessor (for videos).
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, image_processor: Any, config: PretrainedConfig) -> None:
        self.tokenizer, self._processor, self._token = tokenizer, image_processor, config.image_token_id
        self._placeholder = tokenizer.convert_ids_to_tokens(self._token)
        self._pixels = KeptImages()

    def inputs(self, prompt: Prompt) -> Inputs:
        pictures = [self._pixels.of(image, self._pixels_of) for image in prompt.images]
        merged = self._processor.merge_size**2
        text = with_places(
            render(self.tokenizer, prompt), self._placeholder, [int(grid.prod()) // merged for _, grid in pictures]
        )
        ids = tokenized(self.tokenizer, text)
        if not pictures:
            return Inputs(ids, (), 0, {})
        end = len(ids) - ids[::-1].index(self._token)
        tensors = {
            "pixel_values": torch.cat([pixels for pixels, _ in pictures]),
            "image_grid_thw": torch.cat([grid for _, grid in pictures]),
            "mm_token_type_ids": (torch.tensor([ids]) == self._token).int(),
        }
        return Inputs(ids, tuple(image.digest for image in prompt.images), end, tensors)

    def forget(self) -> None:
        """Drop the processed images."""
        self._pixels.clear()

    def _pixels_of(self, image: Image) -> tuple[torch.Tensor, torch.Tensor]:
        """(patches, values) and grid (1, 3) of one image, processed once for all calls about it."""
        made = self._processor(images=[opened(image)], return_tensors="pt")
        return made["pixel_values"], made["image_grid_thw"]


class ProcessorReader:
    """For every other vision model: its own processor lays out text and images."""

    def __init__(self, processor: Any, config: PretrainedConfig) -> None:
        self.processor, self.tokenizer = processor, processor.tokenizer
        self.tokenizer.chat_template = processor.chat_template or self.tokenizer.chat_template
        self._token = getattr(config, "image_token_id", None) or getattr(config, "image_token_index", None)

    def inputs(self, prompt: Prompt) -> Inputs:
        text = render(self.tokenizer, prompt)
        pictures = [opened(image) for image in prompt.images]
        # the rendered text already begins with the special tokens that the template wants
        begins = self.tokenizer.bos_token is not None and text.startswith(self.tokenizer.bos_token)
        made = self.processor(
            text=[text], images=[pictures] if pictures else None, add_special_tokens=not begins, return_tensors="pt"
        )
        ids = made.pop("input_ids")[0].tolist()
        made.pop("attention_mask", None)
        end = 0 if not pictures else len(ids) - (ids[::-1].index(self._token) if self._token in ids else 0)
        return Inputs(ids, tuple(image.digest for image in prompt.images), end, dict(made))

    def forget(self) -> None:
        """Nothing is kept."""


def prompt_reader(source: str, config: PretrainedConfig, revision: str | None, **file: str) -> PromptReader:
    """The prompt reader of a checkpoint; `file`: `gguf_file`, if the tokenizer is in such a file."""
    if not hasattr(config, "vision_config"):
        return TextReader(AutoTokenizer.from_pretrained(source, revision=revision, **file), source)
    if config.model_type in QWEN:
        tokenizer = AutoTokenizer.from_pretrained(source, revision=revision)
        return QwenReader(
            tokenizer, AutoImageProcessor.from_pretrained(source, revision=revision, backend="pil"), config
        )
    try:
        processor = AutoProcessor.from_pretrained(source, revision=revision)
    except ImportError:
        if type(config) not in PROCESSOR_MAPPING:
            raise
        processor = for_stills(PROCESSOR_MAPPING[type(config)]).from_pretrained(source, revision=revision)
    return ProcessorReader(processor, config)


def for_stills(kind: Any) -> Any:
    """A processor class without its part for videos, which needs torchvision."""

    class Stills(kind):
        @classmethod
        def get_attributes(cls) -> list[str]:
            return [name for name in kind.get_attributes() if name != "video_processor"]

        @classmethod
        def _get_arguments_from_pretrained(cls, *args: Any, **settings: Any) -> list[Any]:
            return [*super()._get_arguments_from_pretrained(*args, **settings), None]

    return Stills
