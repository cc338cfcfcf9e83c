"""Inputs of timed models: images of a given size, prompts of an exact number of tokens, a tokenizer for output."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import torch
from PIL import Image as PilImage
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from cuecard.domain.errors import BadInput
from cuecard.domain.question import Image, Question
from cuecard.models.images.images import opened
from cuecard.models.local.inputs import PromptReader
from cuecard.models.local.loading import ProcessorReader, QwenReader
from cuecard.models.prompt import TAGS, Prompt, short

Tensors = dict[str, torch.Tensor]
IMAGE_MARKS = (
    "image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id", "image_token_index"
)  # fmt: skip


@dataclass(frozen=True)
class PromptIds:
    """One prompt: its ids, those of the image first, and the encoded picture."""

    ids: tuple[int, ...]
    visual: int
    head: int
    """Tokens up to the image's end, its marks included."""
    image: Image | None
    kinds: tuple[str, ...] = ()
    """Names of the tensors with one value per token."""


class Feed:
    """Makes prompts and the tensors of their images; this class is for language models."""

    def __init__(self, tokenizer: Any, config: Any) -> None:
        self.tokenizer, self._config = tokenizer, config
        self._marks = {mark for name in IMAGE_MARKS if (mark := getattr(config, name, None)) is not None}

    def prompt(self, image_px: int | None, text_tokens: int) -> PromptIds:
        """An image of `image_px` pixels a side, or none, and `text_tokens` tokens after it, the same ones each time."""
        special = {*self._marks, *getattr(self.tokenizer, "all_special_ids", ())}
        vocabulary, chance, filling = self._config.get_text_config().vocab_size, Random(text_tokens), list[int]()
        while len(filling) < text_tokens:
            drawn = chance.randrange(vocabulary)
            if drawn not in special:
                filling.append(drawn)
        return PromptIds(tuple(filling), 0, 0, None) if image_px is None else self._seeing(picture(image_px), filling)

    def tensors(self, prompt: PromptIds) -> Tensors:
        """From the encoded picture to the model's inputs: timed as `preprocess`."""
        return {} if prompt.image is None else self._pixels(prompt, prompt.image)

    def _seeing(self, image: Image, filling: Sequence[int]) -> PromptIds:
        raise BadInput("a language model has no images", "give --image-size 0")

    def _pixels(self, prompt: PromptIds, image: Image) -> Tensors:
        raise NotImplementedError


class QwenFeed(Feed):
    """For Qwen's vision models: images keep the requested size, rounded to whole visual tokens."""

    def __init__(self, tokenizer: Any, config: Any, processor: Any) -> None:
        super().__init__(tokenizer, config)
        self._processor = processor

    def _seeing(self, image: Image, filling: Sequence[int]) -> PromptIds:
        config = self._config
        visual = int(self._processed(image)["image_grid_thw"].prod()) // self._processor.merge_size**2
        head = (config.vision_start_token_id, *[config.image_token_id] * visual, config.vision_end_token_id)
        return PromptIds((*head, *filling), visual, len(head), image, ("mm_token_type_ids",))

    def _pixels(self, prompt: PromptIds, image: Image) -> Tensors:
        kinds = (torch.tensor([prompt.ids]) == self._config.image_token_id).int()
        return {**self._processed(image), "mm_token_type_ids": kinds}

    def _processed(self, image: Image) -> Tensors:
        opened_image = opened(image)
        pixels = opened_image.width * opened_image.height
        # the default of a checkpoint's processor may resize all images to one size, as in the embedded pair
        self._processor.size = {"shortest_edge": pixels, "longest_edge": pixels}
        return dict(self._processor(images=[opened_image], return_tensors="pt"))


class ReaderFeed(Feed):
    """For other vision models: their own processor makes the start of the prompt, and may resize the image."""

    def __init__(self, reader: PromptReader, config: Any) -> None:
        super().__init__(reader.tokenizer, config)
        self._reader = reader

    def _seeing(self, image: Image, filling: Sequence[int]) -> PromptIds:
        head = self._reader.inputs(_question(image))
        kinds = tuple(name for name, part in head.tensors.items() if part.shape[:2] == (1, len(head.ids)))
        visual = sum(each in self._marks for each in head.ids)
        return PromptIds((*head.ids, *filling), visual, len(head.ids), image, kinds)

    def _pixels(self, prompt: PromptIds, image: Image) -> Tensors:
        self._reader.forget()
        missing = len(prompt.ids) - prompt.head
        return {
            name: torch.nn.functional.pad(part, (0, missing)) if name in prompt.kinds else part
            for name, part in self._reader.inputs(_question(image)).tensors.items()
        }


def _question(image: Image) -> Prompt:
    return short(Question("What is this?", (image,)), TAGS)


def of_reader(reader: PromptReader, config: Any) -> Feed:
    """The feed of a checkpoint."""
    match reader:
        case QwenReader():
            return QwenFeed(reader.tokenizer, config, reader._processor)
        case ProcessorReader():
            return ReaderFeed(reader, config)
        case _:
            return Feed(reader.tokenizer, config)


def made_up(config: Any) -> Feed:
    """The feed of random weights: Qwen's image processor, and a tokenizer with a synthetic vocabulary of full size."""
    words = Tokenizer(
        models.WordLevel({f" w{id}": id for id in range(config.get_text_config().vocab_size)}, unk_token=" w0")
    )
    words.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words)
    if not hasattr(config, "vision_config"):
        return Feed(tokenizer, config)
    if "qwen" not in config.model_type:
        raise BadInput(f"random weights are made for Qwen's vision models, not for {config.model_type}")
    vision = config.vision_config
    processor = Qwen2VLImageProcessorPil(
        patch_size=vision.patch_size,
        merge_size=vision.spatial_merge_size,
        temporal_patch_size=vision.temporal_patch_size,
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    )
    return QwenFeed(tokenizer, config, processor)


def picture(px: int) -> Image:
    """A square PNG: a gradient with patches, as expensive to decode as a diagram."""
    base = PilImage.linear_gradient("L").resize((px, px))
    made = PilImage.merge("RGB", (base, base.rotate(90), base.rotate(180)))
    chance = Random(px)
    for _ in range(40):
        left, top = chance.randrange(px), chance.randrange(px)
        colour = tuple(chance.randrange(256) for _ in range(3))
        made.paste(colour, (left, top, min(px, left + px // 8 + 1), min(px, top + px // 8 + 1)))
    out = io.BytesIO()
    made.save(out, "PNG")
    return Image(out.getvalue())
